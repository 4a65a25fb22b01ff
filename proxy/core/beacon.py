"""The grammar of `/b/ss/…`: from a request to what it says, without changing a byte.

Rule: this module alone knows how a beacon is written: path, response type, report suites,
the visitor, the client's own timestamp, what makes a resent copy.
Non-rule: it decides nothing about time, storage or answers, and never decodes what will
be sent on.
Source: Adobe's pages "hardcoded image requests", "query parameters", "identity overview"
and AppMeasurement 2.27 itself; XML requests are read by `insertion`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from proxy.core import headers, insertion
from proxy.core.hit import Headers, Request
from proxy.errors import NotABeacon

PATH = re.compile(
    rb"/b/ss/(?P<suites>[^/?]*)/(?P<kind>[^/?]+)(?:/(?P<version>[^/?]*))?(?:/(?P<random>[^/?]*))?/?"
)
# No leading zero: `04` must not pass for anything but 4.
KIND = re.compile(rb"(?:0|[1-9][0-9]?)(?:\.[0-9]{1,2})?")
# A report suite id; two dots in a row or a slash would be a path, not an id.
SUITE = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
MOST_SUITES = 50
TOO_MANY = f"more than {MOST_SUITES} report suites in one hit"
REDIRECT = b"4"
# Of the paths that are kept read; one app sends one, and the rest of it is the same.
MOST_KEPT = 500
FEW_SUITES = 5
INSERTION = "6"

# AppMeasurement writes `s` and up to 14 digits, the mobile SDK `s` and up to 8: only a
# client that draws a random segment can be recognised when it resends a hit.  A hardcoded
# image with a constant segment is a new hit each time.
RANDOM = re.compile(rb"(?:[^/?]*/){6}s[0-9]{3,20}(?=[/?]|\Z)")

# The headers that a resent copy has in common with the hit.
OF_A_COPY = frozenset({b"user-agent", b"cookie", b"x-forwarded-for"})

# What a walk along `a=1&c.&b=2&.c` must see: the few names we act on at depth 0, and the
# openers (`c.`) and closers (`.c`) that change the depth.  Values are skipped in C.
# The end is `\Z`: `$` would also match before a line feed, which is a byte like others here.
# A name is eaten whole, and only then looked at for its dot (`open` ends with it).
# It begins with a plain `&`, put before the data: a literal is what the engine can jump to,
# and four times as fast as looking at every byte.
STEP = re.compile(
    rb"&(?:(?P<name>ts|vid|aid|mid|fid|callback)=(?P<value>[^&]*)"
    rb"|(?P<open>[^&=.][^&=]*+)(?<=\.)=?(?=&|\Z)"
    rb"|\.(?P<close>[^&=]+)=?(?=&|\Z))"
)
# What may open a level: none does without a dot at its end.  Most hits have no context data, and
# then the names alone are looked for, in half the time.
OPENS = re.compile(rb"\.=?(?:&|\Z)")
FLAT = re.compile(rb"&(ts|vid|aid|mid|fid|callback)=([^&]*)")
VISITOR_COOKIE = re.compile(
    rb"(?:^|;[ \t]*)(?:s_vi=(?P<aid>[^;]+)|s_ecid=(?P<mid>[^;]+)|AMCV_[^=;]*=(?P<amcv>[^;]+))"
)
# The ids within the cookies, so that a visitor is the same one with `aid=` or `mid=` in the
# query: `[CS]v1|<aid>[CE]` and `MCMID|<mid>`, percent-encoded or not.
AID = re.compile(rb"(?:\||%7C)([0-9A-F]+-[0-9A-F]+)", re.IGNORECASE)
MID = re.compile(rb"MCMID(?:\||%7C)([0-9]+)", re.IGNORECASE)

NO_BEACON = "not a beacon: expected /b/ss/<report suites>/<type>/..."


class Beacon(NamedTuple):
    """What a request says.

    `kind` is the response type (`1`, `5.10`, `6`); `suites` the report suites in their
    order; `visitor` the key of Adobe's precedence; `ts` the client's own timestamp as
    sent, None when absent or empty; `callback` the raw value for type 10.
    """

    kind: str
    suites: tuple[str, ...]
    visitor: bytes
    ts: bytes | None
    callback: bytes | None = None


class Gist(NamedTuple):
    """Of a beacon what decides whether it may be sent; the fields are those of `Beacon`."""

    kind: str
    suites: tuple[str, ...]
    ts: bytes | None


def read(request: Request, peer: str = "", by_headers: Told | None = None) -> Beacon:
    """What the request says; NotABeacon (404, 405, 400) when it is none.

    `peer` is the address it came from, the last resort for telling visitors apart; `by_headers`
    is what `told` makes of it and the headers, where that is known.
    InsertionRefused when it is an XML request that Adobe would not take.
    """
    path, _, query = request.target.partition(b"?")
    kind, suites = _addressed(path)
    if kind == INSERTION:
        return _insertion(request)
    found = parameters(query, request.body)
    if by_headers is None:
        by_headers = told(request.headers, peer)
    visitor = b"%b:%b" % next(visitors(found, by_headers))
    return Beacon(kind, suites, visitor, found.get(b"ts") or None, found.get(b"callback"))


def gist(request: Request) -> Gist:
    """What `read` says of these; most hits have no `ts`, and then there is nothing to walk for."""
    path, _, query = request.target.partition(b"?")
    kind, suites = _addressed(path)
    if kind == INSERTION:
        said = _insertion(request)
        return Gist(kind, said.suites, said.ts)
    ts = None
    if names_ts(query) or names_ts(request.body):
        ts = parameters(query, request.body).get(b"ts") or None
    return Gist(kind, suites, ts)


def _addressed(path: bytes) -> tuple[str, tuple[str, ...]]:
    """The response type and the report suites that a path names."""
    match = PATH.fullmatch(path)
    if match is None:
        raise NotABeacon(404, NO_BEACON)
    segment, kind = match[1], match[2]
    # Strangers may send what they like: what is kept is few and short.
    if len(kind) + len(segment) > MOST_KEPT:
        return _read_path.__wrapped__(kind, segment)
    return _read_path(kind, segment)


@lru_cache(maxsize=256)
def _read_path(kind: bytes, segment: bytes) -> tuple[str, tuple[str, ...]]:
    if not KIND.fullmatch(kind):
        raise NotABeacon(404, NO_BEACON)
    if kind.partition(b".")[0] == REDIRECT:
        # Type 4 redirects to any address in its query: an open redirect on this host.
        raise NotABeacon(404, "tracked redirects (response type 4) are not served")
    if kind == INSERTION.encode():
        if segment:
            # The body names the suites; others in the path would pass by every list of them.
            raise NotABeacon(404, "XML data insertion names its report suites in its body")
        return INSERTION, ()
    return kind.decode(), suites_of(segment)


def _insertion(request: Request) -> Beacon:
    if request.method != "POST":
        raise NotABeacon(405, "XML data insertion (response type 6) is a POST")
    said = insertion.read(request.body)
    if len(said.suites) > MOST_SUITES:
        raise NotABeacon(400, TOO_MANY)
    if not all(_is_suite(name.encode()) for name in said.suites):
        raise insertion.InsertionRefused(insertion.Reason.NO_ACCOUNT)
    return Beacon(INSERTION, said.suites, said.visitor, said.timestamp)


def suites_of(segment: bytes) -> tuple[str, ...]:
    """The report suites of a path segment; sloppy clients write the comma as `%2C`."""
    names = unquote_to_bytes(segment).split(b",") if b"%" in segment else segment.split(b",")
    if len(names) > MOST_SUITES:
        raise NotABeacon(400, TOO_MANY)
    if not all(_is_suite(name) for name in names):
        raise NotABeacon(404, "no valid report suite id after /b/ss/")
    return tuple(name.decode() for name in names)


def named(request: Request) -> tuple[str, ...]:
    """The report suites a request names, whatever else it is; none when it cannot be read."""
    try:
        return read(request).suites
    except (NotABeacon, insertion.InsertionRefused):
        return ()


def _is_suite(name: bytes) -> bool:
    return SUITE.fullmatch(name) is not None and b".." not in name


def parameters(query: bytes, body: bytes) -> dict[bytes, bytes]:
    """The parameters we act on, of both places that may say them; the body's go first."""
    found = top_level(query)
    if body:
        said = top_level(body)
        found |= {name: value for name, value in said.items() if value or name not in found}
    return found


def names_ts(data: bytes) -> bool:
    """Whether a walk along the parameters could find any `ts`: most hits have none."""
    return b"&ts=" in data or data.startswith(b"ts=")


def top_level(data: bytes) -> dict[bytes, bytes]:
    """The parameters we act on that stand at depth 0; the first of each that says something."""
    found: dict[bytes, bytes] = {}
    if not OPENS.search(data):
        for name, value in FLAT.findall(b"&" + data):
            if not found.get(name):
                found[name] = value
        return found
    levels = _Levels()
    # Strings of all steps at once cost a third of what their matches one by one do.
    for name, value, opened, closed in STEP.findall(b"&" + data):
        if opened or closed:
            levels.step(opened, closed)
        elif not levels.depth and not found.get(name):
            found[name] = value
    return found


class _Levels:
    """Which levels of context data a walk is in.

    `c.&ts=x&.c` is context data named ts, not a timestamp.  Lenient as real traffic demands:
    `&&`, `c.=`, a missing closer, a closer that names an outer level (closes up to it) or none
    at all (ignored).  Whether a level is open costs no look at all of them: anyone may send 80,000.
    """

    __slots__ = ("_open", "depth")

    def __init__(self) -> None:
        self.depth: list[bytes] = []
        self._open: dict[bytes, int] = {}

    def step(self, opened: bytes | None, closed: bytes) -> None:
        if opened:
            level = opened[:-1]
            self.depth.append(level)
            self._open[level] = self._open.get(level, 0) + 1
        elif self._open.get(closed):
            level = self.depth.pop()
            while level != closed:
                self._open[level] -= 1
                level = self.depth.pop()
            self._open[level] -= 1


def empty_timestamps(data: bytes) -> list[int]:
    """Where each `ts=` without a value ends that stands at depth 0."""
    # One less: the walk has a `&` in front of the data.
    return [
        step.end() - 1 for step in _top_steps(data) if step["name"] == b"ts" and not step["value"]
    ]


def timestamps(data: bytes) -> list[tuple[int, int]]:
    """Where the value of each `ts` lies that stands at depth 0."""
    steps = (step for step in _top_steps(data) if step["name"] == b"ts")
    return [(step.start("value") - 1, step.end("value") - 1) for step in steps]


def _top_steps(data: bytes) -> Iterator[re.Match[bytes]]:
    """The parameters we act on that stand at depth 0."""
    levels = _Levels()
    for step in STEP.finditer(b"&" + data):
        opened, closed = step.group("open", "close")
        if opened or closed:
            levels.step(opened, closed)
        elif not levels.depth:
            yield step


class Told(NamedTuple):
    """What the headers of a request tell of its visitor.

    The ids in Adobe's cookies, in their order; `last` is the last resort: address and agent.
    """

    aids: tuple[bytes, ...]
    mids: tuple[bytes, ...]
    last: bytes


def told(by: Headers, peer: str) -> Told:
    """Of the headers of a request that came from the address `peer`."""
    cookie = headers.first(by, b"cookie")
    aids, mids = [], []
    for match in VISITOR_COOKIE.finditer(cookie) if cookie else ():
        if match["aid"]:
            inner = AID.search(match["aid"])
            aids.append(inner[1] if inner else match["aid"])
        elif digits := MID.search(match["mid"] or match["amcv"]):
            mids.append(digits[1])
    address = headers.first(by, b"x-forwarded-for") or peer.encode()
    agent = headers.first(by, b"user-agent") or b""
    return Told(tuple(aids), tuple(mids), address + b" " + agent)


def visitors(found: dict[bytes, bytes], told_: Told) -> Iterator[tuple[bytes, bytes]]:
    """Every way to tell the visitor, in Adobe's order; the first one is the one that counts.

    The order: vid, aid or the s_vi cookie, mid or its cookies, fid, address and agent.
    """
    for name in (b"vid", b"aid"):
        if found.get(name):
            yield name, found[name]
    for aid in told_.aids:
        yield b"aid", aid
    if found.get(b"mid"):
        yield b"mid", found[b"mid"]
    for mid in told_.mids:
        yield b"mid", mid
    if found.get(b"fid"):
        yield b"fid", found[b"fid"]
    yield b"ip", told_.last


def lane(upstream: bytes, suites: tuple[str, ...], visitor: bytes) -> int:
    """The order key of a hit: 63 bits, the same in every process.

    Two visitors that meet in one lane are merely sent one after the other.
    """
    # As for paths: most visitors come again soon, and what is kept is short.
    is_short = len(visitor) <= MOST_KEPT and len(suites) <= FEW_SUITES
    find = _lane if is_short else _lane.__wrapped__
    return find(upstream, suites, visitor)


@lru_cache(maxsize=2_048)
def _lane(upstream: bytes, suites: tuple[str, ...], visitor: bytes) -> int:
    name = b"\0".join((upstream, ",".join(suites).encode(), visitor))
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def copy_key(request: Request, peer: str = "", said: bytes | None = None) -> bytes | None:
    """What a resent copy of a hit has in common with it; None when no copy can be told.

    A client whose answer got lost sends the byte-identical request again, its random
    segment included.  `request` as it is stored, so that what was stored before a restart is
    known after it.  Some clients draw no random segment but have a constant one: whatever may
    tell their visitors apart counts too, the address `peer` last of all.  `said` is what
    `of_a_copy` makes of the request's headers, where that is known.
    """
    if not RANDOM.match(request.target):
        return None
    if said is None:
        said = of_a_copy(request.headers)
    parts = request.method.encode(), peer.encode(), request.target, request.body
    return hashlib.blake2b(b"\0".join(parts) + said, digest_size=16).digest()


def of_a_copy(of: Headers) -> bytes:
    """What a resent copy has in common with a hit of its headers, as they are stored."""
    return b"".join([b"\0" + value for name, value in of if name.lower() in OF_A_COPY])
