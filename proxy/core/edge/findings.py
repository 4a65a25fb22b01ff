"""What is wrong with an event of the Edge Network, as far as Adobe's documentation tells it.

Rule: as for beacons, whose `findings` have the table of all rules: what was seen, what Adobe
makes of it, and the page that says so.  Of what Adobe's pages leave open nothing is said: the
age of a timestamp, the report suites behind a datastream, `queueTimeMillis`.
Non-rule: nothing is decided here; what Edge would refuse outright the intake has refused.
Source: Adobe's pages "Edge Network event types in Adobe Analytics", "Data object variable
mapping to Adobe Analytics", "XDM ExperienceEvent class", "Collect endpoint", "Interact
endpoint", "Troubleshooting", "Performance guardrails", "Create and configure datastreams".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.core import findings as of_beacons
from proxy.core.decode import CONTEXT, LISTS, Decoded, Field
from proxy.core.edge import decode, read, stamp
from proxy.core.edge.read import Call, Endpoint
from proxy.core.findings import EDGE_API, HIT_TYPES, SLACK_MS, Finding, finding, short, unix_ms
from proxy.core.hit import Request, Suites
from proxy.core.words import span

# "64 KB" are so many bytes at least.
SURELY_TAKEN = 64_000
TIME = "xdm.timestamp"
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_UNIX = re.compile(r"[0-9]{9,13}", re.ASCII)
_PAGE = (
    "xdm.web.webPageDetails.name",
    "xdm.web.webPageDetails.URL",
    "data.__adobe.analytics.pageName",
    "data.__adobe.analytics.pageURL",
    "data.__adobe.analytics.g",
)
_LINK = (
    "xdm.web.webInteraction.type",
    "data.__adobe.analytics.linkType",
    "data.__adobe.analytics.pe",
)
_OF_PROPOSITIONS = "xdm._experience.decisioning."
_DISPLAYED = frozenset({"decisioning.propositionDisplay", "display"})
_CLICKED = frozenset({"decisioning.propositionInteract", "click"})
_FETCHED = frozenset({"decisioning.propositionFetch", "personalization.request"})
# Whether Analytics drops these the page does not say: others speak of what it makes of them.
_OF_THEIR_OWN = ("media.", "application.")
_RIGHT_CASE = {path.lower(): path for path in decode.NAMED if path.startswith("xdm.")}
_NOTHING = frozenset({"", "null"})


def findings(
    decoded: Decoded,
    request: Request,
    suites: Suites,
    *,
    received_ms: float,
    at_ms: float,
) -> tuple[Finding, ...]:
    """What is wrong with a hit of either protocol, the worst first; see `core.findings`."""
    if decoded.protocol != "edge":
        return of_beacons.findings(decoded, request, suites, received_ms=received_ms, at_ms=at_ms)
    where = read.stored_endpoint(request.target.partition(b"?")[0])
    if where is None:
        return ()
    found = [*_of_the_query(request), *_of_the_body(decoded, request, where, received_ms)]
    return of_beacons.worst_first(list(dict.fromkeys(found)), suites.silence_of_events)


# -- the request as a whole ------------------------------------------------------------------


def _of_the_query(request: Request) -> Iterator[Finding]:
    try:
        read.asked(request.target.partition(b"?")[2])
    except read.Problem as problem:
        yield _refused(problem, "configId")


def _of_the_body(
    decoded: Decoded, request: Request, where: Endpoint, received_ms: float
) -> Iterator[Finding]:
    if len(request.body) > read.MOST_BODY:
        yield finding("E1", f"{len(request.body):,} bytes; the Edge Network takes 64 KB")
        return
    try:
        found = read.document(request.body, read.AS_WRITTEN)
        events = read.events(found, where)
    except read.Problem as problem:
        yield _refused(problem)
        return
    size = stamp.size(request.body, where, events)
    if size > SURELY_TAKEN:
        text = f"{size:,} bytes; whether a KB of the 64 has 1,000 or 1,024 Adobe does not say"
        yield finding("E9", text, doc=f"{EDGE_API}getting-started/guardrails")
    if len(events) > 1 and where.call is Call.INTERACT:
        yield finding("E6", f"{len(events)} events; interact takes one")
    elif len(events) > 1:
        text = f"{len(events)} events in one request: one hit here, and each counted by Adobe"
        yield finding("E9", text, doc=f"{EDGE_API}endpoints/collect")
    for event in events[: of_beacons.MOST]:
        yield from _of_the_event(event, found, request, where, received_ms)
    for product in decoded.products:
        yield from of_beacons.of_the_product(product)


def _refused(problem: read.Problem, key: str = "") -> Finding:
    text = f"{problem.reason}: the Edge Network answers {problem.status}, {problem.title}"
    return finding("E1", text, key)


# -- each event ------------------------------------------------------------------------------


def _of_the_event(
    event: dict[str, Any],
    found: dict[str, Any],
    request: Request,
    where: Endpoint,
    received_ms: float,
) -> Iterator[Finding]:
    fields = list(decode.fields_of(event))
    said = {field.key: field.value for _, field in fields if field.value not in _NOTHING}
    if where.call in (Call.INTERACT, Call.COLLECT):
        yield from _of_its_kind(said)
        yield from _of_its_time(said, received_ms)
    if where.call is Call.COLLECT:
        yield from _of_its_visitor(found, event, request, where)
    yield from of_beacons.of_the_lengths(field for _, field in fields)
    yield from of_beacons.of_the_lists(field for group, field in fields if group == LISTS)
    yield from _of_its_names([field for group, field in fields if group != CONTEXT], said)


def _of_its_kind(said: Mapping[str, str]) -> Iterator[Finding]:
    type_ = said.get("xdm.eventType", "")
    links = any(path in said for path in _LINK)
    if type_ in _FETCHED:
        yield finding("E9", f"{type_} is dropped by Analytics", "xdm.eventType", HIT_TYPES)
        return
    if type_ in _DISPLAYED or (type_ in _CLICKED and not links):
        if not any(path.startswith(_OF_PROPOSITIONS) for path in said):
            text = f"{type_} without xdm._experience.decisioning: Analytics drops it"
            yield finding("E2", text, "xdm.eventType")
        return
    is_page = type_ == decode.PAGE_VIEW or any(path in said for path in _PAGE)
    if not links and not is_page and not type_.startswith(_OF_THEIR_OWN):
        yield finding("E2", "no page name, no page URL and no type of link: Analytics drops it")


def _of_its_time(said: Mapping[str, str], received_ms: float) -> Iterator[Finding]:
    time = said.get(TIME)
    if time is None:
        yield finding("E8", "no xdm.timestamp: it gets the time it was received", TIME)
        return
    at = unix_ms(time.upper().replace(" ", "T")) if _RFC_3339.fullmatch(time) else None
    if at is None:
        looks = ": it looks like Unix time" if _UNIX.fullmatch(time) else ""
        yield finding("E4", f'xdm.timestamp "{short(time)}" is no RFC 3339 time{looks}', TIME)
    elif at[0] > received_ms + SLACK_MS:
        ahead = span((at[0] - received_ms) / 1000)
        yield finding("E4", f"xdm.timestamp is {ahead} after the event was received", TIME)


def _of_its_visitor(
    found: dict[str, Any], event: dict[str, Any], request: Request, where: Endpoint
) -> Iterator[Finding]:
    alone = {**found, "event": None, "events": [event]}
    if not read.visitor(alone, request, "").key.startswith(b"ip:"):
        return
    if where.version == "v1":
        yield finding("E5", "neither an identity cookie nor an identity map", "xdm.identityMap")
    else:
        text = "no identity map: the endpoint wants a primary identity"
        yield finding("E3", text, "xdm.identityMap")


def _of_its_names(fields: list[Field], said: Mapping[str, str]) -> Iterator[Finding]:
    """Of names: two for one thing, and those that are nearly one."""
    by_name: dict[str, dict[str, str]] = {}
    for field in fields:
        by_name.setdefault(field.name, {})[field.key] = field.value
    for name, keys in by_name.items():
        of_data = [key for key in keys if key.startswith(decode.ANALYTICS)]
        if len(of_data) > 1:
            last = [key.rpartition(".")[2] for key in of_data]
            yield finding("E7", f"{name} is set as {' and as '.join(last)}", of_data[0])
        elif of_data and len(set(keys.values())) > 1:
            text = f"{name} differs in xdm and in data: that of data counts"
            yield finding("E9", text, of_data[0])
    for path in said:
        right = _RIGHT_CASE.get(path.lower(), path)
        if right != path:
            text = f"{short(path)} is no field that is mapped; is {right} meant?"
            yield finding("W7", text, path, HIT_TYPES)
