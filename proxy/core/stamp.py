"""A hit's own time: may it be sent, with `ts` or without, or would Adobe lose it?

Rule: a request Adobe would silently drop is never sent.  `ts` is the second of receipt;
a client's own is kept.  A late hit of a suite that takes no timestamps becomes a dead
letter, one of a suite nobody described is held until a person says its mode.
Non-rule: knows no clock (age and second are arguments) and nothing of retries.
Source: Adobe's page "timestamp configuration" (a hit of the wrong kind is dropped for
ever); late after 60 s is the AEP mobile SDK's own threshold; docs/design/0006.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.core import beacon, insertion
from proxy.core.beacon import Beacon, Gist
from proxy.core.hit import Request, Suites, Timestamps, WhenLate

LATE_AFTER_S = 60.0
STAMPED = frozenset({Timestamps.REQUIRED, Timestamps.OPTIONAL})

# `AQE=1` must stay last, and right behind a leading `AQB=1` is where Adobe's own redirect
# puts its additions: depth 0 is certain there.
LEADING_MARKER = re.compile(rb"(?:AQB=1|ndh=1)(?=&|\Z)")


@dataclass(frozen=True, slots=True)
class Send:
    """It may go; `stamped` says whether it needs our `ts`."""

    stamped: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """It waits for a person: `reason` names the setting that releases it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Bury:
    """It becomes a dead letter: Adobe would lose it, or count it at the wrong time."""

    reason: str


def rows(said: tuple[str, ...], suites: Suites) -> list[tuple[str, ...]]:
    """One queue row for each set of report suites that can share a request.

    Suites that take timestamps share one; those that take none share one for each way of
    being late; a suite nobody described stands alone, for its mode may be told tomorrow.
    An empty tuple means "all suites of the request", by far the usual case.
    """
    if len(said) == 1:
        return [()]
    groups: dict[tuple[str, ...], list[str]] = {}
    for rsid in said:
        suite = suites.of(rsid)
        match suite.timestamps:
            case Timestamps.REQUIRED | Timestamps.OPTIONAL:
                key: tuple[str, ...] = ("stamped",)
            case Timestamps.NOT_ALLOWED:
                key = ("bare", suite.when_late)
            case Timestamps.UNKNOWN:
                key = ("alone", rsid)
        groups.setdefault(key, []).append(rsid)
    if len(groups) == 1:
        return [()]
    return [tuple(group) for group in groups.values()]


def decide(
    hit: Beacon | Gist, part: tuple[str, ...], suites: Suites, age_s: float
) -> Send | Hold | Bury:
    """What may become of a hit that is `age_s` seconds old; `part` as in `Hit.suites`."""
    said = part or hit.suites
    modes = {suites.of(rsid).timestamps for rsid in said}
    if modes <= STAMPED:
        return Send(stamped=hit.ts is None)
    if len(modes) > 1:
        # Only when the configuration changed while the hit waited.
        return Hold(str(lack(said, suites)))
    late = age_s > LATE_AFTER_S
    sends_late = all(suites.of(rsid).when_late is WhenLate.SEND for rsid in said)
    if modes == {Timestamps.NOT_ALLOWED}:
        if hit.ts is not None:
            return Bury("it carries ts, and its suite does not accept timestamps")
        if late and not sends_late:
            return Bury("its suite does not accept timestamps, and the hit is too old")
        return Send(stamped=False)
    if hit.ts is None and late and not sends_late:
        return Hold(f"{lack(said, suites)}: a late hit needs to know the mode")
    return Send(stamped=False)


def lack(said: tuple[str, ...], suites: Suites) -> str | None:
    """What a person must say of these report suites before every hit of theirs may be sent."""
    modes = {suites.of(rsid).timestamps for rsid in said}
    if len(modes) > 1 and not modes <= STAMPED:
        return f"the report suites {','.join(said)} no longer agree about timestamps"
    return f"set [suites.known.{said[0]}] timestamps" if Timestamps.UNKNOWN in modes else None


def second(received_ms: int, offset_ms: int, floor: int = 0) -> int:
    """The Unix second of receipt, never before `floor` (the last one of its lane)."""
    return max((received_ms + offset_ms) // 1000, floor)


def render(request: Request, ts: int | None, part: tuple[str, ...] = ()) -> Request:
    """The request as the collection server gets it: `ts` put in, suites narrowed to `part`.

    Every other byte is as the client sent it, and a request that has a timestamp keeps
    it, so rendering twice is rendering once.
    """
    path, mark, query = request.target.partition(b"?")
    match = beacon.PATH.fullmatch(path)
    if match is None:
        return request
    if match["kind"] == beacon.INSERTION.encode():
        return request._replace(body=insertion.render(request.body, ts, part))
    if part and beacon.suites_of(match["suites"]) != part:
        path = b"/b/ss/" + ",".join(part).encode() + path[match.end("suites") :]
    body = request.body
    named = ts is not None and (beacon.names_ts(query) or beacon.names_ts(body))
    if ts is not None and not (named and (_stamped(query) or _stamped(body))):
        filled, filled_body = (_filled(query, ts), _filled(body, ts)) if named else (query, body)
        # A server need not look at a body of these, so none is relied on for our `ts`.
        in_body = request.method not in ("GET", "HEAD")
        if filled != query or (in_body and filled_body != body):
            query, body = filled, filled_body
        elif not in_body:
            query, mark, body = _insert(query, ts), b"?", filled_body
        elif body and not (LEADING_MARKER.match(query) and not LEADING_MARKER.match(body)):
            body = _insert(body, ts)
        else:
            query, mark = _insert(query, ts), b"?"
    return Request(request.method, path + mark + query, request.headers, body)


def unstamped(request: Request) -> Request:
    """The request with every `ts` of its client emptied, for `render` to write another.

    For a person who sends old hits anew, as of now; the drain never does.
    """
    path, mark, query = request.target.partition(b"?")
    match = beacon.PATH.fullmatch(path)
    if match is not None and match["kind"] == beacon.INSERTION.encode():
        return request._replace(body=insertion.unstamped(request.body))
    return request._replace(target=path + mark + _emptied(query), body=_emptied(request.body))


def _emptied(data: bytes) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for start, end in beacon.timestamps(data):
        pieces.append(data[at:start])
        at = end
    return b"".join((*pieces, data[at:]))


def _stamped(data: bytes) -> bool:
    return beacon.names_ts(data) and bool(beacon.top_level(data).get(b"ts"))


def _insert(data: bytes, ts: int) -> bytes:
    parameter = b"ts=%d" % ts
    marker = LEADING_MARKER.match(data)
    if marker is not None:
        return data[: marker.end()] + b"&" + parameter + data[marker.end() :]
    return parameter + b"&" + data if data else parameter


def _filled(data: bytes, ts: int) -> bytes:
    """An empty `ts=` of the client's with our second in it.

    A second `ts` would leave it to Adobe which of the two counts; of several empty ones
    each is filled, for the same reason.
    """
    if not beacon.names_ts(data):
        return data
    pieces: list[bytes] = []
    at = 0
    for end in beacon.empty_timestamps(data):
        pieces += (data[at:end], b"%d" % ts)
        at = end
    return b"".join((*pieces, data[at:]))
