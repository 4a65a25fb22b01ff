"""Claims about what is wrong with an event of the Edge Network, by Adobe's own pages.

Each rule has an event that breaks it, and one that barely does not.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from test_edge import anything, cookie, entries, post

from proxy.core.edge.decode import decode
from proxy.core.edge.findings import findings
from proxy.core.findings import EDGE_API, HIT_TYPES, MOST, RULES, Finding
from proxy.core.hit import Request, Suites

NOW = 1_770_000_000_000.0  # 2026-02-02T02:40:00Z
TIME = "2026-02-02T02:40:00.000Z"
PAGE = {"timestamp": TIME, "web": {"webPageDetails": {"name": "Home"}}}
KNOWN: dict[str, Any] = {"meta": entries(cookie())}
COLLECT, INTERACT = "/ee/v1/collect", "/ee/v1/interact"


def found(request: Request, silence: frozenset[str] = frozenset()) -> list[Finding]:
    suites = Suites({}, silence_of_events=silence)
    return list(findings(decode(request), request, suites, received_ms=NOW, at_ms=NOW + 1))


def rules(request: Request) -> list[str]:
    return [one.rule for one in found(request)]


def of(*events: object, path: str = COLLECT, **body: object) -> Request:
    return post({**KNOWN, "events": list(events), **body}, path)


def xdm(*, path: str = COLLECT, **more: object) -> Request:
    return of({"xdm": {**PAGE, **more}}, path=path)


def data(**analytics: object) -> Request:
    return of({"xdm": {"timestamp": TIME}, "data": {"__adobe": {"analytics": analytics}}})


def sized(size: int) -> Request:
    body: dict[str, Any] = {**KNOWN, "events": [{"xdm": PAGE}], "x": ""}
    return post({**body, "x": "y" * (size - len(json.dumps(body)))}, COLLECT)


LINK = {"webInteraction": {"type": "other", "name": "Help"}}
DETAILS = {"decisioning": {"propositions": [{"id": "1"}]}}
CASES = [
    ("E1", post({**KNOWN, "events": [{"xdm": PAGE}]}, COLLECT, query="x=1"), xdm()),
    ("E1", post({**KNOWN, "events": []}, COLLECT), xdm()),
    ("E1", post(b'{"events":', COLLECT), xdm()),
    ("E1", sized(65_537), sized(65_536)),
    ("E2", of({"xdm": {"timestamp": TIME}}), xdm()),
    ("E2", data(eVar1="x"), data(g="https://shop.example/")),
    ("E2", data(eVar1="x", pageName=""), data(eVar1="x", pe="lnk_o", pev2="Help")),
    ("E2", of({"xdm": {"timestamp": TIME, "eventType": "own"}}), xdm(eventType="own")),
    (
        "E2",
        of({"xdm": {"timestamp": TIME, "web": {"webInteraction": {"name": "Help"}}}}),
        of({"xdm": {"timestamp": TIME, "web": LINK}}),
    ),
    (
        "E2",
        xdm(eventType="decisioning.propositionDisplay"),
        xdm(eventType="decisioning.propositionDisplay", _experience=DETAILS),
    ),
    (
        "E2",
        xdm(eventType="decisioning.propositionInteract"),
        xdm(eventType="decisioning.propositionInteract", web=LINK),
    ),
    (
        "E2",
        of({"xdm": {"timestamp": TIME, "eventType": "web.pageViews"}}),
        of({"xdm": {"timestamp": TIME, "eventType": "web.webpagedetails.pageViews"}}),
    ),
    (
        "E3",
        post({"events": [{"xdm": PAGE}]}, "/ee/v2/collect"),
        post(
            {"events": [{"xdm": {**PAGE, "identityMap": {"Email": [{"id": "a"}]}}}]},
            "/ee/v2/collect",
        ),
    ),
    ("E4", xdm(timestamp="2026-02-02T02:41:01Z"), xdm(timestamp="2026-02-02T02:41:00Z")),
    ("E4", xdm(timestamp=1_770_000_000), xdm(timestamp="2026-02-02t02:40:00z")),
    ("E4", xdm(timestamp="2026-02-02T02:40"), xdm(timestamp="2020-02-02T03:40:00.5+01:00")),
    ("E4", xdm(timestamp="2026-02-30T02:40:00Z"), xdm(timestamp="2026-02-01T02:40:00Z")),
    ("E5", post({"events": [{"xdm": PAGE}]}, COLLECT), xdm()),
    ("E6", of({"xdm": PAGE}, {"xdm": PAGE}, path=INTERACT), of({"xdm": PAGE}, path=INTERACT)),
    ("E7", data(pageName="p", eVar1="x", v1="y"), data(pageName="p", eVar1="x", v2="y")),
    ("E8", of({"xdm": {**PAGE, "timestamp": None}}), xdm()),
    ("E9", sized(64_001), sized(64_000)),
    ("E9", of({"xdm": PAGE}, {"xdm": PAGE}), of({"xdm": PAGE})),
    (
        "E9",
        of({"xdm": PAGE, "data": {"__adobe": {"analytics": {"pageName": "Other"}}}}),
        of({"xdm": PAGE, "data": {"__adobe": {"analytics": {"pageName": "Home"}}}}),
    ),
    ("E9", xdm(eventType="decisioning.propositionFetch"), xdm(eventType="web.pageViews")),
    ("W4", data(pageName="p", prop3="é" * 51), data(pageName="p", prop3="é" * 50)),
    ("W4", data(pageName="p", v9="x" * 256), data(pageName="p", v9="x" * 255)),
    ("W4", data(pageName="p", l1="a," + "x" * 256), data(pageName="p", l1="a," + "x" * 255)),
    ("W4", data(pageName="p", products=";" + "x" * 101), data(pageName="p", products=";x")),
    (
        "W7",
        xdm(web={"webPageDetails": {"name": "Home", "url": "https://shop.example/"}}),
        xdm(web={"webPageDetails": {"name": "Home", "URL": "https://shop.example/"}}),
    ),
]


@pytest.mark.parametrize("rule, wrong, right", CASES)
def test_a_rule_finds_what_breaks_it_and_nothing_that_barely_does_not(
    rule: str, wrong: Request, right: Request
) -> None:
    assert rules(wrong).count(rule) == 1
    assert rule not in rules(right)


def test_every_rule_for_events_has_a_case() -> None:
    assert {rule for rule, _, _ in CASES} == {"W4", "W7"} | {
        rule.id for rule in RULES if rule.id.startswith("E")
    }


def test_what_the_web_sdk_sends_has_no_findings() -> None:
    """A page view, a link, the session of a medium, and the first event of a new visitor."""
    for request in (
        xdm(),
        xdm(path=INTERACT),
        of({"xdm": {"timestamp": TIME, "web": LINK}}),
        of({"xdm": {"eventType": "media.downloaded"}}, path="/ee/va/v1/downloaded"),
        post({"events": [{"xdm": PAGE}]}, INTERACT),
    ):
        assert found(request) == []


def test_of_what_adobe_leaves_open_nothing_is_said() -> None:
    """The age of an event, the suites behind a datastream, how long it was queued."""
    old = xdm(timestamp="2019-01-01T00:00:00Z")
    queued = of({"xdm": PAGE}, meta={**KNOWN["meta"], "queueTimeMillis": 9**9})
    assert found(old) == found(queued) == []


def test_a_finding_names_the_field_and_the_page() -> None:
    first, second, third = found(of({"xdm": {"timestamp": 1}, "data": {"a": 1}}, {"xdm": PAGE}))
    assert (first.rule, first.doc) == ("E2", HIT_TYPES)
    assert (second.rule, second.key) == ("E4", "xdm.timestamp")
    assert (third.rule, third.doc) == ("E9", f"{EDGE_API}endpoints/collect")


def test_the_same_fault_of_many_events_is_told_once() -> None:
    """And of ever so many faults no more than a page can show."""
    assert rules(of(*[{"xdm": {"timestamp": 1}}] * 50)) == ["E2", "E4", "E9"]
    many = of(*[{"xdm": {**PAGE, "timestamp": f"no time {n}"}} for n in range(200)])
    assert len(found(many)) == MOST


def test_a_rule_is_silent_for_events() -> None:
    bare = of({"xdm": {"timestamp": TIME}})
    assert rules(bare) == ["E2"]
    assert found(bare, frozenset({"E2"})) == []


def test_a_beacon_has_a_beacons_findings() -> None:
    assert rules(Request("GET", b"/b/ss/rs/1/x/s1?AQB=1&mid=1&pageName=p")) == ["L1", "N2"]


@given(anything)
def test_no_event_is_too_strange_to_be_judged(body: object) -> None:
    for path in (COLLECT, INTERACT, "/ee/v2/collect", "/ee/v2/interact", "/ee/va/v1/downloaded"):
        for one in found(post(body, path)):
            json.dumps([one.text, one.key]).encode()
            one.text.encode()
