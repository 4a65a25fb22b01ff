"""An event's own time: `xdm.timestamp`, put in where it is missing, every other byte kept.

Rule: what the client says of the time stands; where it says nothing, or nothing but an empty
value, the instant of receipt is put in.  Events of `interact` and `collect` have such a time;
those of a downloaded media session have several, none of which could be ours.
Non-rule: knows no clock; never writes JSON anew: what is put in goes between bytes as they were.
Source: Adobe, "ExperienceEvent class" (the timestamp "must occur in the past"); the Web SDK and
the Edge mobile SDK, which write RFC 3339 with milliseconds; RFC 8259 for the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy.core.edge.read import DECODER, Call, Endpoint
from proxy.core.render import iso

WHITE = re.compile(r"[ \t\r\n]*")
EMPTY = frozenset({"null", '""'})
XDM, TIMESTAMP = '"xdm":{"timestamp":', '"timestamp":'
TIME_BYTES = len('"2026-02-02T02:40:00.000Z"')


def is_dated(body: bytes, where: Endpoint) -> bool:
    """Whether nothing is to be put in, as far as the body can be read."""
    try:
        return next(_gaps(body, where), None) is None
    except RecursionError:
        # Read once, when it came, and now from deeper within: it goes as it is.
        return True


def size(body: bytes, where: Endpoint, events: Sequence[Mapping[str, Any]]) -> int:
    """How many bytes the body has with all that is put in; `events` are those that it holds.

    Counted, not put in: a body may hold thousands, and its client waits.
    """
    if where.call not in (Call.INTERACT, Call.COLLECT):
        return len(body)
    return len(body) + sum(map(_put_in, events))


def _put_in(event: Mapping[str, Any]) -> int:
    xdm = event.get("xdm", event)
    if xdm is event:
        return len(XDM) + TIME_BYTES + 1 + bool(event)
    if not isinstance(xdm, dict):
        return 0
    if "timestamp" not in xdm:
        return len(TIMESTAMP) + TIME_BYTES + bool(xdm)
    said = xdm["timestamp"]
    return TIME_BYTES - len("null") if said is None else (said == "") * (TIME_BYTES - len('""'))


def dated(body: bytes, where: Endpoint, at_ms: int) -> bytes:
    """The body with the time of receipt in every event that has none."""
    text = body.decode("utf-8")
    pieces: list[str] = []
    at = 0
    for start, end, before, after in _gaps(body, where):
        pieces += (text[at:start], before, f'"{iso(at_ms)}"', after)
        at = end
    return "".join((*pieces, text[at:])).encode("utf-8")


def _gaps(body: bytes, where: Endpoint) -> Iterator[tuple[int, int, str, str]]:
    """What a time is put in the place of: from, to, and what is written before and after it."""
    if where.call not in (Call.INTERACT, Call.COLLECT):
        return
    text = body.decode("utf-8")
    top = _last(text, _skip(text, 0), "event" if where.has_one_event else "events")
    if top is None:
        return
    for event in [top] if where.has_one_event else _elements(text, top):
        if text[event] != "{":
            continue
        xdm = _last(text, event, "xdm")
        if xdm is None:
            yield event + 1, event + 1, XDM, "}" + _comma(text, event)
        elif text[xdm] == "{":
            time = _last(text, xdm, "timestamp")
            if time is None:
                yield xdm + 1, xdm + 1, TIMESTAMP, _comma(text, xdm)
            else:
                end = _end(text, time)
                if text[time:end] in EMPTY:
                    yield time, end, "", ""


def _comma(text: str, opened: int) -> str:
    """What parts a first member from those of the object that begins here."""
    return "" if text[_skip(text, opened + 1)] == "}" else ","


def _skip(text: str, at: int) -> int:
    match = WHITE.match(text, at)
    return at if match is None else match.end()


def _end(text: str, at: int) -> int:
    _, end = DECODER.raw_decode(text, at)
    return end


def _last(text: str, at: int, name: str) -> int | None:
    """Where the value of a member begins, in the object that begins at `at`; the last one's.

    Of two members of one name readers take the last.
    """
    found = None
    if text[at] != "{":
        return None
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, end = DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, end) + 1)
        if key == name:
            found = at
        at = _skip(text, _end(text, at))
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _elements(text: str, at: int) -> Iterator[int]:
    """Where each element begins of the array that begins at `at`."""
    if text[at] != "[":
        return
    at = _skip(text, at + 1)
    while text[at] != "]":
        yield at
        at = _skip(text, _end(text, at))
        if text[at] == ",":
            at = _skip(text, at + 1)
