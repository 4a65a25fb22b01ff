"""A scriptable stand-in for a collection server: it answers as one does, or misbehaves on order.

    async with FakeCollector() as adobe:
        adobe.will(status(503, retry_after=120), reset_peer(), latency(0.2))
        adobe.when(b"pageName=poison", status(404))
        ...                                   # point something at adobe.url
        await adobe.wait_for(4)
        assert adobe.received[0].param(b"pageName") == b"home"

Rule: it keeps every request byte for byte and does with the answer exactly what the
faults say. It parses on its own, strictly, and shares no code with the proxy it judges.
Non-rule: no reporting. It never decides whether a hit would be recorded, neither by
timestamp mode nor otherwise; it only answers.
Source: the answers are the ones described on Adobe's pages "Data collection HTTP
headers", "Hard-coded image requests", "Data Insertion API" and "Edge Network endpoints",
and seen in a published capture of an image request. The faults are named after
toxiproxy's toxics where one exists.

`python -m proxy.fake --port 8299` runs it for anyone without an Adobe account.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import re
import signal
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import IntEnum
from functools import lru_cache
from http import HTTPStatus
from random import Random
from typing import Any, Self, TypeAlias
from urllib.parse import unquote_to_bytes
from xml.sax.saxutils import escape

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Condition: TypeAlias = Callable[[], bool]

# A real client sends a 70 KB request line; no hit comes near these.
MAX_HEAD = 1 << 20
MAX_BODY = 64 << 20
# What may wait unread behind a request under way before we stop reading the socket.
_READ_AHEAD = 256 << 10


# --- what was received -----------------------------------------------------------------

_BEACON = re.compile(rb"/b/ss/([^/?]*)/([^/?]+)")


@dataclass(slots=True, eq=False)
class Received:
    """One request as it came in; headers in their order, their case and their number.

    `number` counts requests from 1, `connection` counts connections from 1, `at` is the
    event loop's time. `status` is the answer's, once it has been handed to the network
    whole; whether the client saw it is another matter. `over`: answered, or never will be.
    """

    number: int
    connection: int
    at: float
    method: str
    target: bytes
    version: bytes
    headers: Headers
    body: bytes
    secure: bool = False
    fault: Fault | None = None
    status: int | None = None
    over: bool = False

    @property
    def answered(self) -> bool:
        return self.status is not None

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    @property
    def suites(self) -> tuple[bytes, ...]:
        """The report suites of the path; an XML hit names its own inside: `param`."""
        beacon = _BEACON.search(self.path)
        return tuple(beacon[1].split(b",")) if beacon and beacon[1] else ()

    @property
    def type(self) -> bytes:
        """The response type (`1`, `5.1`, `10`, `6`, ...), or nothing if it is no beacon."""
        beacon = _BEACON.search(self.path)
        return beacon[2] if beacon else b""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def all(self, name: bytes) -> tuple[bytes, ...]:
        """Every value of a header, whatever its case."""
        wanted = name.lower()
        return tuple(value for key, value in self.headers if key.lower() == wanted)

    def params(self) -> Iterator[tuple[bytes, bytes]]:
        """The parameters of query and body, raw, each under its full name (`c.ts`, not `ts`).

        `c.&a.&x=1&.a&.c` opens and closes levels; only what stands outside them is a
        variable, so context data called `ts` is not a timestamp.
        """
        for text in (self.query, b"" if self.body.lstrip()[:1] in b"<{" else self.body):
            levels: list[bytes] = []
            for piece in text.split(b"&"):
                name, given, value = piece.partition(b"=")
                if not given and name.endswith(b".") and name != b".":
                    levels.append(name)
                elif not given and name.startswith(b"."):
                    closed = name[1:] + b"."
                    if closed in levels:
                        del levels[len(levels) - 1 - levels[::-1].index(closed) :]
                elif name:
                    yield b"".join(levels) + name, value

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of an Edge request, of either version; none when it has none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return []
        if not isinstance(found, dict):
            return []
        return list(found.get("events") or ([found["event"]] if "event" in found else []))

    def param(self, name: bytes) -> bytes | None:
        """The first value of one variable, percent-decoded; of an XML hit, of that tag."""
        if self.type == b"6":
            tag = re.escape(name)
            found = re.search(
                rb"<%s\s*>(.*?)</%s\s*>" % (tag, tag), self.body, re.DOTALL | re.IGNORECASE
            )
            return found[1].strip() if found else None
        for key, value in self.params():
            if key == name:
                return unquote_to_bytes(value.replace(b"+", b" "))
        return None


@dataclass(slots=True)
class Counts:
    """What happened so far; `open` and `in_flight` are now. Nothing here grows with time.

    `malformed` are requests that were not HTTP as RFC 9112 wants it: answered 400, not
    received. `handshakes_failed` are connections lost before TLS stood.
    """

    requests: int = 0
    answered: int = 0
    in_flight: int = 0
    opened: int = 0
    open: int = 0
    malformed: int = 0
    handshakes_failed: int = 0


# --- what a collection server answers ------------------------------------------------------

# Transparent; Adobe's pages disagree on 1x1 or 2x2, all agree on these 43 bytes in length.
GIF = bytes.fromhex(
    "47494638396102000200800000ffffff00000021f90401000000002c00000000020002000002028451003b"
)
WBMP = bytes.fromhex("000002020000")
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'
_DAY = 86400
_PHRASES = {each.value: each.phrase for each in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes to answer with: `head` lacks its last blank line, where `Connection` goes.

    Without a status it is no HTTP and only `body` is sent. `endless` repeats `body`.
    """

    status: int | None
    head: bytes
    body: bytes = b""
    endless: bool = False


def http(code: int, headers: Headers = (), body: bytes = b"") -> Answer:
    """An answer of one's own, with its length counted."""
    phrase = _PHRASES.get(code, "Unknown")
    length: Headers = () if code in (204, 304) else ((b"Content-Length", b"%d" % len(body)),)
    lines = [b"HTTP/1.1 %d %s" % (code, phrase.encode())]
    lines += [b"%s: %s" % each for each in length + headers]
    return Answer(code, b"\r\n".join(lines) + b"\r\n", b"" if code in (204, 304) else body)


@lru_cache(maxsize=2)
def _dates(second: int) -> Headers:
    return tuple(
        (name, formatdate(second + shift, usegmt=True).encode())
        for name, shift in ((b"Date", 0), (b"Expires", -_DAY), (b"Last-Modified", _DAY))
    )


def _cors(hit: Received) -> Headers:
    """`*` as in the capture; a page's XHR sends credentials, for which `*` is not allowed."""
    origin = hit.header(b"origin")
    if origin is None:
        return ((b"Access-Control-Allow-Origin", b"*"), (b"Vary", b"*"))
    return (
        (b"Access-Control-Allow-Origin", origin),
        (b"Access-Control-Allow-Credentials", b"true"),
        (b"Vary", b"Origin"),
    )


def _visitor_id(number: int) -> bytes:
    return b"%016X-%016X" % (0x2B2AF1AA00000000 + number, 0x4000010000000000 + number)


def _cookie(hit: Received) -> tuple[bytes, bytes]:
    until = formatdate(int(time.time()) + 730 * _DAY, usegmt=True).encode()
    value = b"[CS]v1|%s[CE]" % _visitor_id(hit.number)
    return (b"Set-Cookie", b"s_vi=%s; Expires=%s; Path=/; SameSite=None" % (value, until))


def _is_known(hit: Received) -> bool:
    """Whether the hit names its visitor, or asks for no cookie (`cl=none`)."""
    named = {b"vid", b"aid", b"mid", b"fid"}
    return b"s_vi=" in (hit.header(b"cookie") or b"") or any(
        name in named or (name, value) == (b"cl", b"none") for name, value in hit.params()
    )


def _content(hit: Received) -> tuple[bytes, bytes]:
    kind = hit.type
    if kind == b"6":
        return b"text/xml", XML + b"<status>SUCCESS</status>"
    if kind in (b"10", b"5.10"):
        callback = hit.param(b"callback")
        return b"application/javascript", b"%s({})" % callback if callback else b"{}"
    return (b"image/vnd.wap.wbmp", WBMP) if kind == b"5.5" else (b"image/gif", GIF)


def as_adobe(hit: Received) -> Answer:
    """What the collection server answers to this request when all is well.

    Unrealistic: anything that is no `/b/ss`, `/id` or `/ee` is a bare 404; type 5 looks
    at no `Accept`; an XML hit always succeeds.
    """
    if hit.path == b"/id":
        return http(200, ((b"Content-Type", b"application/json"), *_cors(hit)), b"{}")
    if hit.path.startswith(b"/ee/"):
        return _as_edge(hit)
    if hit.method not in ("GET", "POST", "HEAD") or not hit.type:
        return http(404, ((b"Content-Type", b"text/html"),), b"Not Found")
    kind, body = _content(hit)
    number = hit.number
    headers: Headers = (
        (b"Content-Type", kind),
        (b"Server", b"Omniture DC/2.0.0"),
        (b"X-C", b"ms-6.8.1"),
        (b"Pragma", b"no-cache"),
        (b"ETag", b'"%d-%d"' % (3356698344146796544 + number, 5233166835360424028 + number)),
        (b"P3P", b'CP="This is not a P3P policy"'),
        (b"xserver", b"www1021"),
        (b"Cache-Control", b"no-cache, no-store, max-age=0, no-transform, private"),
        (b"X-XSS-Protection", b"1; mode=block"),
        (b"X-Content-Type-Options", b"nosniff"),
    )
    if kind != b"text/xml" and not _is_known(hit):
        headers += (_cookie(hit),)
    return http(200, _dates(int(time.time())) + headers + _cors(hit), body)


def _as_edge(hit: Received) -> Answer:
    given = next((value for name, value in hit.params() if name == b"requestId"), b"")
    ours = f"{given.decode('ascii', 'replace')}-{hit.number:016x}".lstrip("-")
    headers: Headers = (
        (b"Content-Type", b"application/json;charset=utf-8"),
        (b"Server", b"jag"),
        *_cors(hit),
    )
    if re.search(rb"/(?:interact|va/v1/[a-zA-Z]+|set-consent|acquire)\Z", hit.path):
        return http(200, headers, json.dumps({"requestId": ours, "handle": []}).encode())
    if hit.path.endswith(b"/v1/collect") or (b"silent", b"true") in hit.params():
        return http(204, headers)
    if hit.path.endswith(b"/v2/collect"):
        return http(202, headers, json.dumps({"requestId": ours}).encode())
    return http(404, ((b"Content-Type", b"application/problem+json"),), b"{}")


# --- faults ----------------------------------------------------------------------------


class Ending(IntEnum):
    """What becomes of the connection after the answer; of two, the greater one wins."""

    KEEP = 0
    CLOSE = 1
    HANG = 2
    RESET = 3
    DOWN = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """What to answer and how the answer travels; `a | b` is both at once.

    Delays add up, the later limit and the harsher ending win, and of two answers the
    right one is given. `Fault()` is no fault: the collection server's own answer.
    """

    name: str = "ok()"
    answer: Answer | None = None
    choose: Callable[[Received], Fault] | None = None
    wait: float = 0.0  # seconds before the first byte, give or take `jitter`
    jitter: float = 0.0
    piece: int = 0  # bytes written at once, 0 for all
    pause: float = 0.0  # seconds between two pieces
    rate: float = 0.0  # bytes a second, 0 for unlimited
    limit: int | None = None  # bytes of the answer that are ever sent
    ending: Ending = Ending.KEEP
    linger: float = 0.0  # seconds from the last byte to the ending
    announced: bool = True  # whether an ending says `Connection: close` beforehand

    def __or__(self, other: Fault) -> Fault:
        says = other if other.answer or other.choose else self
        limits = [limit for limit in (self.limit, other.limit) if limit is not None]
        return Fault(
            name=" | ".join(each.name for each in (self, other) if each != Fault()) or "ok()",
            answer=says.answer,
            choose=says.choose,
            wait=self.wait + other.wait,
            jitter=self.jitter + other.jitter,
            piece=other.piece or self.piece,
            pause=self.pause + other.pause,
            rate=other.rate or self.rate,
            limit=max(limits, default=None),
            ending=max(self.ending, other.ending),
            linger=self.linger + other.linger,
            announced=self.announced and other.announced,
        )

    @property
    def takes_time(self) -> bool:
        return bool(
            self.wait
            or self.jitter
            or self.pause
            or self.rate
            or self.linger
            or (self.answer and self.answer.endless)
        )


def ok() -> Fault:
    """The collection server's own answer."""
    return Fault()


def by(choose: Callable[[Received], Fault], name: str = "by(...)") -> Fault:
    """Decides anew at each request, from the request."""
    return Fault(name, choose=choose)


def latency(seconds: float, jitter: float = 0.0) -> Fault:
    """The answer starts this much later, give or take `jitter`.

    Unrealistic: the request itself arrives, and is recorded, without delay; and requests
    waiting at the server do not slow each other down.
    """
    return Fault(f"latency({seconds:g})", wait=seconds, jitter=jitter)


def timeout(seconds: float | None = None) -> Fault:
    """Reads the request and never answers; closes after `seconds`, or never.

    Unrealistic: packets are acknowledged; a dead link would let the kernel give up too.
    """
    if seconds is None:
        return Fault("timeout()", limit=0, ending=Ending.HANG)
    return Fault(f"timeout({seconds:g})", limit=0, ending=Ending.CLOSE, linger=seconds)


def reset_peer(seconds: float = 0.0) -> Fault:
    """Reads the request, then sends a TCP reset, after `seconds`.

    `limit_data(n) | reset_peer()` resets after n bytes of the answer. Unrealistic: the
    whole request has arrived before; a reset in the middle of it is not to be had.
    """
    return Fault("reset_peer()", limit=0, ending=Ending.RESET, linger=seconds)


def close_without_answer() -> Fault:
    """Reads the request, then closes in good order: what a crashing server looks like."""
    return Fault("close_without_answer()", limit=0, ending=Ending.CLOSE)


def slicer(size: int, delay: float = 0.0) -> Fault:
    """The answer comes in pieces of `size` bytes, `delay` seconds apart.

    Unrealistic: without a delay the kernel may join pieces again.
    """
    return Fault(f"slicer({size}, {delay:g})", piece=size, pause=delay)


def bandwidth(bytes_per_second: float) -> Fault:
    """The answer comes no faster than this.

    Unrealistic: the request comes in as fast as it can, and connections share nothing.
    """
    return Fault(f"bandwidth({bytes_per_second:g})", rate=bytes_per_second)


def limit_data(n: int) -> Fault:
    """The first `n` bytes of the answer, head included, then the connection closes."""
    return Fault(f"limit_data({n})", limit=n, ending=Ending.CLOSE)


def slow_close(delay: float, *, announced: bool = True) -> Fault:
    """The whole answer, then the connection closes `delay` seconds later.

    Not `announced`, it is the keep-alive connection that closes just when the next
    request is on its way: what arrives during the delay is not read and not recorded.
    Unrealistic: such a request meets a plain close, where some servers would reset.
    """
    return Fault(f"slow_close({delay:g})", ending=Ending.CLOSE, linger=delay, announced=announced)


def down() -> Fault:
    """At this request the link is cut, for all connections, until `restore()`.

    Unrealistic: connecting is refused at once; a real link that is gone says nothing.
    """
    return Fault("down()", limit=0, ending=Ending.DOWN)


def status(
    code: int,
    retry_after: int | str | None = None,
    body: bytes = b"",
    content_type: bytes | str = b"text/plain",
) -> Fault:
    """Any status; `retry_after` in seconds or as an HTTP date.

    Unrealistic: what `/b/ss` answers besides 200, 302 and 404 is documented nowhere.
    """
    kind = content_type.encode() if isinstance(content_type, str) else content_type
    headers: Headers = ((b"Content-Type", kind),) if body else ()
    if retry_after is not None:
        headers += ((b"Retry-After", str(retry_after).encode()),)
    return Fault(f"status({code})", answer=http(code, headers, body))


def redirect(location: bytes | str, code: int = 302) -> Fault:
    """Sends the client elsewhere."""
    where = location.encode() if isinstance(location, str) else location
    return Fault("redirect()", answer=http(code, ((b"Location", where),)))


def captive_portal() -> Fault:
    """The login page of a hotel's network in place of every answer.

    Unrealistic: real portals mostly redirect first, and cannot answer for https at all.
    """
    page = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Welcome</body></html>"
    headers: Headers = ((b"Content-Type", b"text/html; charset=utf-8"), (b"Server", b"portal"))
    return Fault("captive_portal()", answer=http(200, headers, page))


def xml_failure(reason: str = "NO account") -> Fault:
    """Data Insertion's FAILURE, with status 200 and two roots, as the samples show it."""
    body = f"<status>FAILURE</status>\n<reason>{escape(reason)}</reason>".encode()
    answer = http(200, ((b"Content-Type", b"text/xml"),), XML + body)
    return Fault(f"xml_failure({reason!r})", answer=answer)


def garbage(data: bytes = b"220 mail.example ESMTP\r\n") -> Fault:
    """Bytes that are no HTTP, then a close: some other service has this port."""
    return Fault("garbage()", answer=Answer(None, b"", data), ending=Ending.CLOSE)


def endless_body() -> Fault:
    """A GIF without end: 200, chunked, as fast as it is read.

    Unrealistic in its cause, not in its effect on a client that reads to the end.
    """
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nTransfer-Encoding: chunked\r\n"
        b"Server: Omniture DC/2.0.0\r\n"
    )
    chunk = b"1000\r\n" + (GIF + bytes(4096))[:4096] + b"\r\n"
    return Fault("endless_body()", answer=Answer(200, head, chunk, endless=True))


def pccr(*, loop: bool = False) -> Fault:
    """The cookie check: 302 to the same request with `pccr=true` and a `vidn`, and `s_vi`.

    A request that already has `pccr=true` gets its answer, unless `loop`. Unrealistic: it
    asks nobody whether the visitor is known; for a POST the behaviour is not documented.
    """
    return by(_Pccr(loop=loop), "pccr()")


@dataclass(frozen=True, slots=True)
class _Pccr:
    loop: bool

    def __call__(self, hit: Received) -> Fault:
        if not self.loop and (b"pccr", b"true") in hit.params():
            return ok()
        query = hit.query.removeprefix(b"AQB=1&")
        check = b"AQB=1&pccr=true&vidn=%s&" % _visitor_id(hit.number)
        location = b"%s://%s%s?%s&%s" % (
            b"https" if hit.secure else b"http",
            hit.header(b"host") or b"",
            hit.path,
            check,
            query,
        )
        return Fault("pccr()", answer=http(302, ((b"Location", location), _cookie(hit))))


def problem(code: str, title: str = "", retry_after: int | str | None = None) -> Fault:
    """An error of Edge's, by its number (`0112-413`), as problem details."""
    number = int(code.rpartition("-")[2])
    said = {"type": f"https://ns.adobe.com/aep/errors/EXEG-{code}", "status": number}
    body = json.dumps({**said, "title": title, "detail": title, "report": {}}).encode()
    return status(number, retry_after, body, "application/problem+json")


def identifies(org: str, ecid: str) -> Fault:
    """Edge gives this identity to whoever sends it an `interact` without one.

    Unrealistic: everybody gets the same one; an identity map is not looked at.
    """
    message = b"\x0a" + bytes([len(ecid)]) + ecid.encode()
    key = f"kndctr_{org.replace('@', '_')}_identity"
    value = base64.urlsafe_b64encode(message).decode()
    return by(_Identifies(key, value), "identifies()")


@dataclass(frozen=True, slots=True)
class _Identifies:
    key: str
    value: str

    def __call__(self, hit: Received) -> Fault:
        named = self.key.encode()
        is_known = named in hit.body or named in (hit.header(b"cookie") or b"")
        if is_known or not hit.path.endswith(b"/interact"):
            return ok()
        given = next((value for name, value in hit.params() if name == b"requestId"), b"")
        stored = {"key": self.key, "value": self.value, "maxAge": 34_128_000}
        body = {
            "requestId": f"{given.decode('ascii', 'replace')}-{hit.number:016x}",
            "handle": [{"type": "state:store", "payload": [stored]}],
        }
        headers: Headers = ((b"Content-Type", b"application/json;charset=utf-8"), *_cors(hit))
        return Fault("identifies()", answer=http(200, headers, json.dumps(body).encode()))


def rate_limit(per_second: float, retry_after: int | str | None = None) -> Fault:
    """429 to whatever comes faster; a second's worth may come at once.

    Keeps its count: make one and use that one. Unrealistic: no limit is documented for
    `/b/ss`, and a refused request costs nothing here.
    """
    return by(_Bucket(per_second, status(429, retry_after)), f"rate_limit({per_second:g})")


@dataclass(slots=True, eq=False)
class _Bucket:
    per_second: float
    refusal: Fault
    level: float = 0.0
    at: float = 0.0

    def __call__(self, hit: Received) -> Fault:
        self.level = max(0.0, self.level - (hit.at - self.at) * self.per_second)
        self.at = hit.at
        if self.level + 1 > max(1.0, self.per_second):
            return self.refusal
        self.level += 1
        return ok()


def slots(n: int, each: Fault | None = None, retry_after: int | str | None = None) -> Fault:
    """Serves `n` requests at a time, with `each`; answers 503 to all beyond.

    Keeps its count: make one and use that one. Unrealistic: real servers queue first.
    """
    return by(_Slots(n, each or ok(), status(503, retry_after)), f"slots({n})")


@dataclass(slots=True, eq=False)
class _Slots:
    n: int
    each: Fault
    refusal: Fault
    taken: list[Received] = field(default_factory=list)

    def __call__(self, hit: Received) -> Fault:
        self.taken = [other for other in self.taken if not other.over]
        if len(self.taken) >= self.n:
            return self.refusal
        self.taken.append(hit)
        return self.each


# --- the server --------------------------------------------------------------------------


class FakeCollector:
    """The server: an address, a script and a memory. See the module's own words.

    `keep` bounds `received` to the last so many (0: none), `tell` is called with each
    request as it arrives, `seed` makes jitter repeatable.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        keep: int | None = None,
        tell: Callable[[Received], None] | None = None,
        seed: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        self.received: list[Received] = []
        self.counts = Counts()
        self.script: deque[Fault] = deque()
        self._default = ok()
        self._rules: list[tuple[Callable[[Received], bool], Fault]] = []
        self._ssl = ssl_context
        self._keep = keep
        self._tell = tell
        self._random = Random(seed)  # noqa: S311 - jitter, not secrets
        self._socket: socket.socket | None = None
        self._listening = False
        self._accepting: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()
        self._waiting: list[tuple[Condition, asyncio.Future[None]]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<FakeCollector {self.url} {self.counts}>"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}"

    @property
    def answered(self) -> list[Received]:
        """The requests kept whose answer went out whole."""
        return [hit for hit in self.received if hit.answered]

    # What to answer.

    def will(self, *faults: Fault) -> None:
        """One fault for each of the next requests, after those already promised."""
        self.script.extend(faults)

    def always(self, fault: Fault) -> None:
        """From now on the answer whenever the script is empty."""
        self._default = fault

    def when(self, matches: bytes | Callable[[Received], bool], fault: Fault) -> None:
        """Before script and default, to each request that matches; the latest rule wins.

        Bytes match when they stand anywhere in the target or the body.
        """
        if isinstance(matches, bytes):
            part = matches
            self._rules.insert(0, (lambda hit: part in hit.target or part in hit.body, fault))
        else:
            self._rules.insert(0, (matches, fault))

    def heal(self) -> None:
        """Forgets script, rules and default: all is well from now on."""
        self.script.clear()
        self._rules.clear()
        self._default = ok()

    # The link.

    async def start(self, port: int | None = None) -> None:
        """Listens: on `port`, else on the port it had, else on a free one."""
        if port is not None:
            self.port = port
        self._bind()
        await self.restore()

    async def stop(self) -> None:
        """Ends at once, whatever hangs; what was received stays. It may start again."""
        self._go_down()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        await self._quiet()

    async def cut(self) -> None:
        """The link goes: connections break, new ones are refused. The port stays ours.

        Unrealistic: peers notice at once; a cable that is pulled says nothing to anyone.
        """
        self._go_down()
        await self._quiet()

    async def restore(self) -> None:
        """The link comes back, on the same port."""
        if self._socket is None:
            raise RuntimeError("the collector is not started")
        if not self._listening:
            self._socket.listen(1024)
            asyncio.get_running_loop().add_reader(self._socket, self._accept)
            self._listening = True

    # Waiting.

    async def wait_for(
        self,
        n: int,
        timeout: float = 10,  # noqa: ASYNC109 - the caller gets a message, not only an exception
        *,
        answered: bool = False,
    ) -> None:
        """Until `n` requests were received in all, or `answered`."""
        counts = self.counts
        await self.until(
            (lambda: counts.answered >= n) if answered else (lambda: counts.requests >= n),
            timeout,
            f"{n} requests {'answered' if answered else 'received'}",
        )

    async def until(
        self,
        condition: Condition,
        timeout: float = 10,  # noqa: ASYNC109 - as above
        what: str = "the condition",
    ) -> None:
        """Until `condition` holds; it is asked whenever a connection or a request moves."""
        if condition():
            return
        entry = (condition, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await entry[1]
        except TimeoutError:
            raise TimeoutError(f"not {what} within {timeout:g} s: {self!r}") from None
        finally:
            self._waiting.remove(entry)

    # The rest is between the server and its connections.

    def _bind(self) -> None:
        if self._socket is not None:
            raise RuntimeError("the collector is already started")
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setblocking(False)
            bound.bind((self.host, self.port))
        except BaseException:
            bound.close()
            raise
        self.port = bound.getsockname()[1]
        self._socket = bound

    def _accept(self) -> None:
        """Our own accept, so that going down is one step that nothing can get between."""
        loop = asyncio.get_running_loop()
        while self._socket is not None:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return  # none is waiting, or it has gone again
            accepted.setblocking(False)
            opening = loop.create_task(self._open(accepted))
            self._accepting.add(opening)

            def done(task: asyncio.Task[None], accepted: socket.socket = accepted) -> None:
                self._accepting.discard(task)
                if task.cancelled():
                    accepted.close()  # it may not have become a transport's yet

            opening.add_done_callback(done)
            self._changed()

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Connection(self), accepted, ssl=self._ssl
            )
        except OSError:  # no TLS, or not the TLS we wanted; the transport is closed
            self.counts.handshakes_failed += 1
            self._changed()

    def _go_down(self) -> None:
        """Refuses, breaks and forgets all connections. The port is bound anew, not listening:
        so nobody else gets it, and the kernel refuses whoever tries.
        """
        if not self._listening or self._socket is None:
            return
        self._listening = False
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        self._bind()
        for opening in self._accepting:
            opening.cancel()
        for connection in tuple(self._connections):
            connection.abort()

    async def _quiet(self) -> None:
        if self._accepting:
            await asyncio.wait(tuple(self._accepting))
        await self.until(lambda: not self._connections, what="quiet")

    def _opened(self, connection: _Connection) -> int:
        self._connections.add(connection)
        self.counts.opened += 1
        self.counts.open += 1
        self._changed()
        return self.counts.opened

    def _closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self.counts.open -= 1
        self._changed()

    def _receive(self, hit: Received) -> Fault:
        """Records a request and decides what it gets."""
        counts = self.counts
        counts.requests += 1
        counts.in_flight += 1
        hit.number = counts.requests
        rule = next((fault for matches, fault in self._rules if matches(hit)), None)
        fault = rule or (self.script.popleft() if self.script else self._default)
        hit.fault = fault
        if self._keep != 0:
            self.received.append(hit)
            if self._keep is not None and len(self.received) > self._keep:
                del self.received[0]
        if self._tell is not None:
            self._tell(hit)
        while fault.choose is not None:
            fault = replace(fault, choose=None) | fault.choose(hit)
        self._changed()
        return fault

    def _over(self, hit: Received) -> None:
        hit.over = True
        self.counts.in_flight -= 1
        self.counts.answered += hit.answered
        self._changed()

    def _delay(self, fault: Fault) -> float:
        if not fault.jitter:
            return fault.wait
        return max(0.0, fault.wait + self._random.uniform(-fault.jitter, fault.jitter))

    def _changed(self) -> None:
        for condition, waiter in self._waiting:
            if not waiter.done() and condition():
                waiter.set_result(None)


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """Not HTTP as RFC 9112 wants it."""


class _Connection(asyncio.Protocol):
    """One connection: one request at a time, in order, however many were sent ahead."""

    def __init__(self, collector: FakeCollector) -> None:
        self._collector = collector
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._searched = 0  # how far the buffer is known to hold no end of a head
        self._hit: Received | None = None  # the request under way
        self._answering: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport
        self._number = 0
        self._secure = False

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):  # pragma: no cover - asyncio's word
            raise TypeError(transport)
        self._transport = transport
        self._secure = transport.get_extra_info("sslcontext") is not None
        self._number = self._collector._opened(self)  # noqa: SLF001 - the two are one

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - any will do
        if self._answering is not None:
            self._answering.cancel()
        if self._hit is not None:
            self._collector._over(self._hit)  # noqa: SLF001
            self._hit = None
        self._collector._closed(self)  # noqa: SLF001

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._serve()

    def abort(self) -> None:
        self._transport.abort()

    # Requests.

    def _serve(self) -> None:
        """Answers what has come in; stops at one that takes its time."""
        try:
            while self._hit is None and self._writable.is_set() and self._is_open:
                hit = self._next()
                if hit is None:
                    break
                self._answer(hit)
        except _Malformed:
            self._collector.counts.malformed += 1
            bad = http(400)
            self._transport.write(bad.head + b"Connection: close\r\n\r\n")
            self._transport.close()
        if not self._is_open:
            self._buffer.clear()
        elif len(self._buffer) > _READ_AHEAD and (self._hit or not self._writable.is_set()):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    @property
    def _is_open(self) -> bool:
        return not self._transport.is_closing()

    def _next(self) -> Received | None:
        """The next whole request of the buffer, taken out of it."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", self._searched)
        if end < 0:
            self._searched = max(0, len(buffer) - 3)
            if len(buffer) > MAX_HEAD:
                raise _Malformed
            return None
        self._searched = end
        method, target, version, headers = _head(bytes(buffer[:end]))
        body, used = _body(buffer, end + 4, headers)
        if used < 0:
            return None
        del buffer[:used]
        self._searched = 0
        return Received(
            number=0,
            connection=self._number,
            at=self._loop.time(),
            method=method,
            target=target,
            version=version,
            headers=headers,
            body=body,
            secure=self._secure,
        )

    # Answers.

    def _answer(self, hit: Received) -> None:
        self._hit = hit
        fault = self._collector._receive(hit)  # noqa: SLF001
        answer = fault.answer or as_adobe(hit)
        if fault.ending is Ending.KEEP and _wants_close(hit):
            fault = replace(fault, ending=Ending.CLOSE)
        data = _rendered(hit, fault, answer)
        if fault.takes_time or answer.endless:
            self._answering = self._loop.create_task(self._travel(hit, fault, answer, data))
            return
        if fault.limit is None:
            self._transport.write(data)
        elif fault.limit:
            self._transport.write(data[: fault.limit])
        self._sent(hit, fault, answer, len(data))
        self._end(hit, fault)

    async def _travel(self, hit: Received, fault: Fault, answer: Answer, data: bytes) -> None:
        """The answer on a bad road; cancelled when the connection is lost."""
        await asyncio.sleep(self._collector._delay(fault))  # noqa: SLF001
        # In fifty steps a second a slow road looks smooth enough.
        size = fault.piece or (max(1, int(fault.rate / 50)) if fault.rate else 1 << 16)
        left = fault.limit
        endless = answer.endless and hit.method != "HEAD"
        for first, piece in _pieces(data, answer.body if endless else b"", size):
            part = piece if left is None else piece[:left]
            if not part:
                break
            wait = (0 if first else fault.pause) + (len(part) / fault.rate if fault.rate else 0)
            if wait or not first:
                await asyncio.sleep(wait)
            await self._writable.wait()
            self._transport.write(part)
            if left is not None:
                left -= len(part)
        self._sent(hit, fault, answer, len(data))
        if fault.linger:
            await asyncio.sleep(fault.linger)
        self._answering = None
        self._end(hit, fault)
        self._loop.call_soon(self._serve)

    def _sent(self, hit: Received, fault: Fault, answer: Answer, size: int) -> None:
        whole = fault.limit is None or fault.limit >= size
        if whole and self._is_open and not (answer.endless and hit.method != "HEAD"):
            hit.status = answer.status

    def _end(self, hit: Received, fault: Fault) -> None:
        if fault.ending is Ending.HANG:
            return  # under way until the connection is lost
        self._hit = None
        self._collector._over(hit)  # noqa: SLF001
        if fault.ending is Ending.CLOSE:
            self._transport.close()
        elif fault.ending is Ending.RESET:
            raw = self._transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif fault.ending is Ending.DOWN:
            self._collector._go_down()  # noqa: SLF001


def _head(head: bytes) -> tuple[str, bytes, bytes, Headers]:
    """Request line and headers; strict, for a fault of the proxy must not pass here."""
    if head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r") != head.count(b"\r\n"):
        raise _Malformed
    line, *fields = head.split(b"\r\n")
    try:
        method, target, version = line.split(b" ")
        headers = tuple(_field(each) for each in fields)
        hosts = sum(name.lower() == b"host" for name, _ in headers)
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or hosts > 1 or not target:
            raise _Malformed
        if version == b"HTTP/1.1" and not hosts:
            raise _Malformed
        return method.decode("ascii"), target, version, headers
    except ValueError:
        raise _Malformed from None


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name.strip() != name or b"\0" in value:
        raise _Malformed
    return name, value.strip(b" \t")


def _body(buffer: bytearray, start: int, headers: Headers) -> tuple[bytes, int]:
    """The body and where it ends in the buffer; -1 if it has not all come yet."""
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings:
        if lengths or [each.lower() for each in codings] != [b"chunked"]:
            raise _Malformed
        return _dechunked(buffer, start)
    if not lengths:
        return b"", start
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,10}", lengths[0]):
        raise _Malformed
    end = start + int(lengths[0])
    if end - start > MAX_BODY:
        raise _Malformed
    return (bytes(buffer[start:end]), end) if len(buffer) >= end else (b"", -1)


def _dechunked(buffer: bytearray, start: int) -> tuple[bytes, int]:
    body, at = bytearray(), start
    while True:
        eol = buffer.find(b"\r\n", at)
        if eol < 0:
            break
        size = re.fullmatch(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", buffer[at:eol])
        if size is None:
            raise _Malformed
        length, at = int(size[1], 16), eol + 2
        if len(body) + length > MAX_BODY:
            raise _Malformed
        if length == 0:
            end = at if buffer[at : at + 2] == b"\r\n" else buffer.find(b"\r\n\r\n", at) + 2
            return (bytes(body), end + 2) if end >= at and len(buffer) >= end + 2 else (b"", -1)
        if len(buffer) < at + length + 2:
            break
        if buffer[at + length : at + length + 2] != b"\r\n":
            raise _Malformed
        body += buffer[at : at + length]
        at += length + 2
    if len(buffer) - start > 2 * MAX_BODY:
        raise _Malformed
    return b"", -1


def _wants_close(hit: Received) -> bool:
    wish = (hit.header(b"connection") or b"").lower()
    return b"close" in wish or (hit.version == b"HTTP/1.0" and b"keep-alive" not in wish)


def _rendered(hit: Received, fault: Fault, answer: Answer) -> bytes:
    if answer.status is None:
        return answer.body
    # A close that comes before the answer's end is an accident, and says nothing.
    closes = fault.ending is Ending.CLOSE and fault.limit is None and fault.announced
    kept = b"Connection: close\r\n\r\n" if closes else b"Connection: keep-alive\r\n\r\n"
    return answer.head + kept + (b"" if hit.method == "HEAD" else answer.body)


def _pieces(data: bytes, again: bytes, size: int) -> Iterator[tuple[bool, bytes]]:
    """`data` in pieces, the first one marked; then `again` for ever, if there is any."""
    for at in range(0, len(data), size):
        yield at == 0, data[at : at + size]
    while again:
        for at in range(0, len(again), size):
            yield False, again[at : at + size]


# --- by hand ---------------------------------------------------------------------------


def line(hit: Received) -> str:
    """One line for a person: when, which, what, and the fault it meets."""

    def text(value: bytes | None) -> str:
        shown = (value or b"-").decode("utf-8", "replace")
        return "".join(each if each.isprintable() else "?" for each in shown)[:80]

    suites = b",".join(hit.suites) or hit.param(b"reportSuiteId") or hit.path
    at = hit.param(b"timestamp") if hit.type == b"6" else hit.param(b"ts")
    name = hit.param(b"pageName") or hit.param(b"pev2")
    size = len(hit.target) + len(hit.body)
    fault = "" if hit.fault is None or hit.fault == ok() else f"  {hit.fault.name}"
    return (
        f"{time.strftime('%H:%M:%S')} #{hit.number} c{hit.connection} {hit.method} "
        f"{text(suites)} type={text(hit.type)} ts={text(at)} {text(name)} {size} B{fault}"
    )


async def _run(arguments: argparse.Namespace) -> None:
    def say(words: str) -> None:
        sys.stdout.write(words + "\n")
        sys.stdout.flush()

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tell = None if arguments.quiet else lambda hit: say(line(hit))
    collector = FakeCollector(host=arguments.host, port=arguments.port, keep=0, tell=tell)
    if arguments.latency or arguments.jitter:
        collector.always(latency(arguments.latency, arguments.jitter))
    async with collector:
        say(collector.url)
        told = -1
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await stop.wait()
            if arguments.quiet and collector.counts.requests != told:
                told = collector.counts.requests
                say(_totals(collector.counts))
    say(_totals(collector.counts))


def _totals(counts: Counts) -> str:
    return (
        f"requests {counts.requests} answered {counts.answered} "
        f"connections {counts.opened} malformed {counts.malformed}"
    )


def main(argv: list[str] | None = None) -> None:
    """`python -m proxy.fake`: the address, then a line for each hit, or totals once a second."""
    parser = argparse.ArgumentParser(prog="python -m proxy.fake", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one (default)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--jitter", type=float, default=0.0, help="give or take so many seconds")
    parser.add_argument("--quiet", action="store_true", help="only count; memory stays flat")
    try:
        asyncio.run(_run(parser.parse_args(argv)))
    except OSError as error:
        sys.exit(f"cannot listen: {error}")


if __name__ == "__main__":
    main()
