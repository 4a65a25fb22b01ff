"""Claims about a hit's own time: what Adobe gets is what the client sent, and no hit is lost."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.beacon import Beacon, read
from proxy.core.hit import Headers, ReportSuite, Request, Suites, Timestamps, WhenLate
from proxy.core.stamp import LATE_AFTER_S, Bury, Hold, Send, decide, render, rows, unstamped

NOW = 1770000000
HOUR = 3600.0
SUITES = Suites(
    {
        "opt": ReportSuite(Timestamps.OPTIONAL),
        "req": ReportSuite(Timestamps.REQUIRED),
        "non": ReportSuite(Timestamps.NOT_ALLOWED),
        "nonsend": ReportSuite(Timestamps.NOT_ALLOWED, WhenLate.SEND),
        "unksend": ReportSuite(Timestamps.UNKNOWN, WhenLate.SEND),
    }
)
LIBRARY = b"/JS-2.27.0/s84882983483599"
XML_HEAD = b"<request><pageName>p</pageName><visitorID>v</visitorID><reportSuiteID>"


def get(query: bytes, suites: bytes = b"opt", headers: Headers = ()) -> Request:
    return Request("GET", b"/b/ss/" + suites + b"/1" + LIBRARY + b"?" + query, headers)


def post(body: bytes, target: bytes = b"/b/ss/opt/0/ANDN030002030300/s12345") -> Request:
    return Request("POST", target, (), body)


def drained(request: Request, age_s: float = 0.0) -> list[Request | Bury | Hold]:
    """What becomes of a request that waited: what Adobe gets, or why it gets nothing."""
    said = read(request)
    outcome: list[Request | Bury | Hold] = []
    for part in rows(said.suites, SUITES):
        decision = decide(said, part, SUITES, age_s)
        if isinstance(decision, Send):
            outcome.append(render(request, NOW if decision.stamped else None, part))
        else:
            outcome.append(decision)
    return outcome


def query_of(request: Request) -> bytes:
    return request.target.partition(b"?")[2]


# The published examples, request in and request out

VIEW = (
    b"AQB=1&ndh=1&pf=1&t=2%2F1%2F2026%202%3A40%3A0%201%200&fid=21351AB889F10DEA-19850987357B32B7"
    b"&ce=UTF-8&pageName=p1&g=http%3A%2F%2Fsite.example%2Fp&AQE=1"
)
MOBILE = (
    b"ndh=1&c.&a.&AppID=App%201.0&.a&action=buy&.c&ce=UTF-8&cp=foreground"
    b"&mid=12345678901234567890123456789012345678&pageName=App&pe=lnk_o"
    b"&pev2=AMACTION%3Abuy&t=00%2F00%2F0000%2000%3A00%3A00%200%20-60"
)


def test_vector_1_a_page_view_is_stamped_behind_its_leading_marker() -> None:
    sent = ((b"User-Agent", b"UA1"), (b"Accept-Language", b"de"), (b"Referer", b"http://x/p"))
    request = get(VIEW, headers=sent)
    stamped = VIEW.replace(b"AQB=1&", b"AQB=1&ts=1770000000&")
    assert drained(request) == [get(stamped, headers=sent)]


def test_vector_2_a_hit_with_a_timestamp_is_untouched() -> None:
    request = get(VIEW.replace(b"&fid", b"&ts=1769990000&fid"))
    for age_s in (0.0, HOUR):
        assert drained(request, age_s) == [request]


def test_vector_3_an_exit_link_beacon_is_stamped_in_its_address() -> None:
    query = b"AQB=1&ndh=1&pe=lnk_e&pev1=https%3A%2F%2Fex.example%2Fa%20b&pev2=Exit%201&AQE=1"
    target = b"/b/ss/opt/1/JS-2.27.0/s857?"
    request = Request("POST", target + query, ((b"Content-Length", b"0"),))
    stamped = target + query.replace(b"AQB=1&", b"AQB=1&ts=1770000000&")
    assert drained(request) == [request._replace(target=stamped)]


def test_vector_4_a_long_hit_is_stamped_in_its_body() -> None:
    body = b"AQB=1&ndh=1&pf=1&mid=12345678901234567890123456789012345678&v1=" + b"y" * 2100
    request = post(body + b"&AQE=1", b"/b/ss/opt/1/JS-2.27.0/s863")
    stamped = body.replace(b"AQB=1&", b"AQB=1&ts=1770000000&") + b"&AQE=1"
    assert drained(request) == [request._replace(body=stamped)]


def test_vector_6_a_mobile_hit_is_stamped_behind_ndh() -> None:
    request = post(MOBILE)
    [sent] = drained(request)
    assert isinstance(sent, Request)
    assert sent == request._replace(body=b"ndh=1&ts=1770000000&c." + MOBILE[len(b"ndh=1&c.") :])


def test_vector_7_a_mobile_hit_with_a_timestamp_at_its_end_is_untouched() -> None:
    request = post(MOBILE + b"&ts=1769999000")
    assert drained(request) == [request]


def test_vector_8_context_data_named_ts_is_no_timestamp() -> None:
    query = b"AQB=1&ndh=1&c.&ts=yesterday&x.&ts=1&.x&.c&pageName=p&AQE=1"
    assert drained(get(query)) == [get(query.replace(b"AQB=1&", b"AQB=1&ts=1770000000&"))]


@pytest.mark.parametrize("age_s", [0.0, HOUR])
def test_vector_9_a_suite_that_requires_timestamps_gets_one_at_once_too(age_s: float) -> None:
    stamped = VIEW.replace(b"AQB=1&", b"AQB=1&ts=1770000000&")
    assert drained(get(VIEW, b"req"), age_s) == [get(stamped, b"req")]


def test_vector_10_a_suite_without_timestamps_gets_fresh_hits_only() -> None:
    assert drained(get(VIEW, b"non")) == [get(VIEW, b"non")]
    [late] = drained(get(VIEW, b"non"), HOUR)
    assert isinstance(late, Bury)
    assert drained(get(VIEW, b"nonsend"), HOUR) == [get(VIEW, b"nonsend")]
    [own] = drained(get(b"ts=1769990000&" + VIEW, b"non"))
    assert isinstance(own, Bury)


def test_vector_11_suites_of_different_modes_never_share_a_request() -> None:
    stamped = VIEW.replace(b"AQB=1&", b"AQB=1&ts=1770000000&")
    assert drained(get(VIEW, b"opt,non")) == [get(stamped, b"opt"), get(VIEW, b"non")]
    first, second = drained(get(VIEW, b"opt,non"), HOUR)
    assert first == get(stamped, b"opt")
    assert isinstance(second, Bury)
    assert drained(get(VIEW, b"opt,req"), HOUR) == [get(stamped, b"opt,req")]


def test_vector_12_a_hit_with_a_visitor_id_is_stamped() -> None:
    query = b"AQB=1&ndh=1&vid=customer42&AQE=1"
    assert drained(get(query)) == [get(b"AQB=1&ts=1770000000&ndh=1&vid=customer42&AQE=1")]


def test_vector_14_a_hardcoded_request_without_markers_is_stamped_in_front() -> None:
    target = b"/b/ss/opt/1/H.25.2--NS/0?"
    request = Request("GET", target + b"pageName=legacy", ((b"X-Forwarded-For", b"203.0.113.7"),))
    stamped = request._replace(target=target + b"ts=1770000000&pageName=legacy")
    assert drained(request) == [stamped]


def test_vector_16_foreign_bytes_stay_as_they_are() -> None:
    rest = b"&ce=ISO-8859-1&pageName=caf%E9\xe9&v1=a%2Bb+c&&v1=dup&v2=%zz&AQE=1"
    assert drained(get(b"AQB=1" + rest)) == [get(b"AQB=1&ts=1770000000" + rest)]


# Where the stamp goes


@pytest.mark.parametrize(
    "before, after",
    [
        (b"AQB=1&a=b", b"AQB=1&ts=1770000000&a=b"),
        (b"AQB=1", b"AQB=1&ts=1770000000"),
        (b"ndh=1&AQE=1", b"ndh=1&ts=1770000000&AQE=1"),
        (b"AQE=1", b"ts=1770000000&AQE=1"),
        (b"AQB=11&a=b", b"ts=1770000000&AQB=11&a=b"),
        (b"AQB=1\n", b"ts=1770000000&AQB=1\n"),
        (b"pageName=p&AQB=1", b"ts=1770000000&pageName=p&AQB=1"),
        (b"&&a=b", b"ts=1770000000&&&a=b"),
        (b"c.&a=b", b"ts=1770000000&c.&a=b"),
        (b"c.&ts=&.c", b"ts=1770000000&c.&ts=&.c"),
        (b"ts&a=b", b"ts=1770000000&ts&a=b"),
        # An empty one is the client's place for it.
        (b"ts=", b"ts=1770000000"),
        (b"AQB=1&t=x&ts=&AQE=1", b"AQB=1&t=x&ts=1770000000&AQE=1"),
        (b"c.&ts=&.c&ts=&AQE=1", b"c.&ts=&.c&ts=1770000000&AQE=1"),
        (b"ts=&a=b&ts=", b"ts=1770000000&a=b&ts=1770000000"),
        # The client's own.
        (b"ts=5", b"ts=5"),
        (b"ts=garbage", b"ts=garbage"),
        (b"ts=&ts=5", b"ts=&ts=5"),
    ],
)
def test_the_stamp_stands_at_depth_0_and_never_behind_the_end(before: bytes, after: bytes) -> None:
    assert render(get(before), NOW) == get(after)
    assert render(post(before), NOW) == post(after)


@pytest.mark.parametrize(
    "query, body, stamped_query, stamped_body",
    [
        (b"", b"a=b", b"", b"ts=1770000000&a=b"),
        (b"x=1", b"AQB=1&a=b", b"x=1", b"AQB=1&ts=1770000000&a=b"),
        (b"x=1", b"a=b", b"x=1", b"ts=1770000000&a=b"),
        (b"AQB=1&x=1", b"a=b", b"AQB=1&ts=1770000000&x=1", b"a=b"),
        (b"AQB=1&x=1", b"AQB=1&a=b", b"AQB=1&x=1", b"AQB=1&ts=1770000000&a=b"),
        (b"ts=", b"AQB=1&a=b", b"ts=1770000000", b"AQB=1&a=b"),
        (b"AQB=1", b"a=b&ts=", b"AQB=1", b"a=b&ts=1770000000"),
        (b"ts=5", b"AQB=1&a=b", b"ts=5", b"AQB=1&a=b"),
        (b"ts=5", b"ts=", b"ts=5", b"ts="),
        (b"AQB=1", b"ts=5", b"AQB=1", b"ts=5"),
    ],
)
def test_a_post_is_stamped_where_its_parameters_are(
    query: bytes, body: bytes, stamped_query: bytes, stamped_body: bytes
) -> None:
    target = b"/b/ss/opt/1/v/s123?"
    got = render(post(body, target + query), NOW)
    assert got == post(stamped_body, target + stamped_query)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "query, body, stamped_query, stamped_body",
    [
        (b"vid=1", b"a=b", b"ts=1770000000&vid=1", b"a=b"),
        (b"", b"AQB=1&a=b", b"ts=1770000000", b"AQB=1&a=b"),
        (b"AQB=1&a=b", b"ts=", b"AQB=1&ts=1770000000&a=b", b"ts=1770000000"),
        (b"ts=&a=b", b"c=d", b"ts=1770000000&a=b", b"c=d"),
        (b"a=b", b"ts=5", b"a=b", b"ts=5"),
    ],
)
def test_a_get_is_stamped_in_its_query_whatever_its_body_says(
    method: str, query: bytes, body: bytes, stamped_query: bytes, stamped_body: bytes
) -> None:
    """A body of a GET has no meaning of its own: RFC 9110, 9.3.1."""
    target = b"/b/ss/opt/1/v/s123?"
    got = render(Request(method, target + query, (), body), NOW)
    assert got == Request(method, target + stamped_query, (), stamped_body)
    assert render(got, NOW + 1) == got


@pytest.mark.parametrize(
    "hostile",
    [b"c.&" + b"ts=&" * 60_000 + b".c&ts=", b"ts=&" * 64_000, b"ts.&" * 32_000 + b".ts&" * 20_000],
)
def test_no_body_of_256_kib_keeps_the_stamping_busy(hostile: bytes) -> None:
    """Any page may send one; a walk for each empty `ts=` took a quarter of an hour."""
    began = time.process_time()
    render(post(hostile), NOW)
    assert time.process_time() - began < 1


def test_a_request_without_a_query_gets_one() -> None:
    assert render(Request("GET", b"/b/ss/opt/1"), NOW).target == b"/b/ss/opt/1?ts=1770000000"
    assert render(Request("GET", b"/b/ss/opt/1?"), NOW).target == b"/b/ss/opt/1?ts=1770000000"


def test_what_is_no_beacon_is_left_alone() -> None:
    request = Request("GET", b"/id?x=1")
    assert render(request, NOW, ("opt",)) == request


# A part of the suites


@pytest.mark.parametrize(
    "path, part, narrowed",
    [
        (b"/b/ss/opt,non/1/v/s1", ("opt",), b"/b/ss/opt/1/v/s1"),
        (b"/b/ss/a,b,c/1", ("a", "c"), b"/b/ss/a,c/1"),
        (b"/b/ss/a%2Cb%2cc/1/", ("a", "c"), b"/b/ss/a,c/1/"),
        (b"/b/ss/a%2Cb/1", ("a", "b"), b"/b/ss/a%2Cb/1"),
        (b"/b/ss/a%2Cb/1", (), b"/b/ss/a%2Cb/1"),
        (b"/b/ss/opt/1//opt", ("opt",), b"/b/ss/opt/1//opt"),
    ],
)
def test_a_part_narrows_the_path_and_nothing_else(
    path: bytes, part: tuple[str, ...], narrowed: bytes
) -> None:
    query = b"?pageName=a,b&c.&ts=%2C&.c"
    got = render(Request("GET", path + query), None, part)
    assert got == Request("GET", narrowed + query)


def test_an_xml_hit_is_narrowed_and_stamped_in_its_body() -> None:
    tail = b"</reportSuiteID></request>"
    request = post(XML_HEAD + b"opt,non" + tail, b"/b/ss//6")
    stamp = b"<request><timestamp>1770000000</timestamp>"
    first, second = drained(request)
    stamped = XML_HEAD.replace(b"<request>", stamp)
    assert first == request._replace(body=stamped + b"opt" + tail)
    assert second == request._replace(body=XML_HEAD + b"non" + tail)


@pytest.mark.parametrize(
    "said, parts",
    [
        (["opt"], [()]),
        (["stranger"], [()]),
        (["opt", "req"], [()]),
        (["non", "non"], [()]),
        (["stranger", "stranger"], [()]),
        (["opt", "non"], [("opt",), ("non",)]),
        (["non", "opt", "req"], [("non",), ("opt", "req")]),
        (["opt", "non", "req"], [("opt", "req"), ("non",)]),
        (["non", "nonsend"], [("non",), ("nonsend",)]),
        (["stranger", "other"], [("stranger",), ("other",)]),
        (["stranger", "opt"], [("stranger",), ("opt",)]),
    ],
)
def test_suites_that_cannot_share_a_request_get_rows_of_their_own(
    said: list[str], parts: list[tuple[str, ...]]
) -> None:
    assert rows(tuple(said), SUITES) == parts


NAMES = st.sampled_from([*SUITES.known, "stranger", "other"])


@given(st.lists(NAMES, min_size=1, max_size=6))
def test_rows_name_every_suite_once_and_in_order(said: list[str]) -> None:
    parts = rows(tuple(said), SUITES)
    assert sorted(rsid for part in parts for rsid in part or said) == sorted(said)
    for part in parts:
        in_order = iter(said)
        assert all(rsid in in_order for rsid in part)


# The decision

FRESH, EDGE, LATE = 0.0, LATE_AFTER_S, LATE_AFTER_S + 0.001
SEND_STAMPED, SEND_BARE = Send(stamped=True), Send(stamped=False)
REQUIRED, OPTIONAL = Timestamps.REQUIRED, Timestamps.OPTIONAL
NOT_ALLOWED, UNKNOWN = Timestamps.NOT_ALLOWED, Timestamps.UNKNOWN

TABLE = [
    # mode, the client's ts, when_late, outcome when fresh, at the edge of late, when late
    (REQUIRED, None, WhenLate.HOLD, SEND_STAMPED, SEND_STAMPED, SEND_STAMPED),
    (REQUIRED, None, WhenLate.SEND, SEND_STAMPED, SEND_STAMPED, SEND_STAMPED),
    (REQUIRED, b"5", WhenLate.HOLD, SEND_BARE, SEND_BARE, SEND_BARE),
    (REQUIRED, b"5", WhenLate.SEND, SEND_BARE, SEND_BARE, SEND_BARE),
    (OPTIONAL, None, WhenLate.HOLD, SEND_STAMPED, SEND_STAMPED, SEND_STAMPED),
    (OPTIONAL, None, WhenLate.SEND, SEND_STAMPED, SEND_STAMPED, SEND_STAMPED),
    (OPTIONAL, b"5", WhenLate.HOLD, SEND_BARE, SEND_BARE, SEND_BARE),
    (OPTIONAL, b"5", WhenLate.SEND, SEND_BARE, SEND_BARE, SEND_BARE),
    (NOT_ALLOWED, None, WhenLate.HOLD, SEND_BARE, SEND_BARE, Bury),
    (NOT_ALLOWED, None, WhenLate.SEND, SEND_BARE, SEND_BARE, SEND_BARE),
    (NOT_ALLOWED, b"5", WhenLate.HOLD, Bury, Bury, Bury),
    (NOT_ALLOWED, b"5", WhenLate.SEND, Bury, Bury, Bury),
    (UNKNOWN, None, WhenLate.HOLD, SEND_BARE, SEND_BARE, Hold),
    (UNKNOWN, None, WhenLate.SEND, SEND_BARE, SEND_BARE, SEND_BARE),
    (UNKNOWN, b"5", WhenLate.HOLD, SEND_BARE, SEND_BARE, SEND_BARE),
    (UNKNOWN, b"5", WhenLate.SEND, SEND_BARE, SEND_BARE, SEND_BARE),
]


@pytest.mark.parametrize("mode, ts, when_late, fresh, edge, late", TABLE)
@pytest.mark.parametrize("listed", [True, False])
def test_the_mode_the_age_and_the_clients_timestamp_decide(
    mode: Timestamps,
    ts: bytes | None,
    when_late: WhenLate,
    fresh: Send | type,
    edge: Send | type,
    late: Send | type,
    listed: bool,
) -> None:
    suite = ReportSuite(mode, when_late)
    suites = Suites({"rs": suite}) if listed else Suites({}, unlisted=suite)
    hit = Beacon("1", ("rs",), b"fid:F", ts)
    for age_s, expected in ((FRESH, fresh), (EDGE, edge), (LATE, late), (90 * 86_400.0, late)):
        got = decide(hit, (), suites, age_s)
        assert (got if isinstance(expected, Send) else type(got)) == expected


def test_the_table_leaves_nothing_out() -> None:
    assert {row[:3] for row in TABLE} == {
        (mode, ts, when) for mode in Timestamps for ts in (None, b"5") for when in WhenLate
    }


def test_a_held_hit_names_the_setting_that_releases_it() -> None:
    got = decide(Beacon("1", ("stranger",), b"fid:F", None), (), SUITES, HOUR)
    assert isinstance(got, Hold)
    assert "[suites.known.stranger] timestamps" in got.reason


def test_a_part_is_judged_by_its_own_suites() -> None:
    hit = Beacon("1", ("opt", "non"), b"fid:F", None)
    assert decide(hit, ("opt",), SUITES, HOUR) == SEND_STAMPED
    assert isinstance(decide(hit, ("non",), SUITES, HOUR), Bury)


def test_suites_that_no_longer_agree_hold_their_hit() -> None:
    """Someone changed a mode while the hit waited: one request can no longer be right."""
    got = decide(Beacon("1", ("opt", "non"), b"fid:F", None), (), SUITES, FRESH)
    assert isinstance(got, Hold)
    assert "opt,non" in got.reason


def test_late_by_consent_needs_the_consent_of_every_suite() -> None:
    for said in (("non", "nonsend"), ("nonsend", "non")):
        hit = Beacon("1", said, b"fid:F", None)
        assert isinstance(decide(hit, (), SUITES, HOUR), Bury)


# What holds for every request

MODES = st.builds(ReportSuite, st.sampled_from(Timestamps), st.sampled_from(WhenLate))
CONFIGURED = st.builds(
    Suites,
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), MODES, max_size=4),
    unlisted=MODES,
)
PIECES = st.sampled_from(
    [
        b"",
        b"pageName=caf%E9",
        b"v1=\xe9+%zz",
        b"ts=",
        b"ts=5",
        b"ts",
        b"c.",
        b".c",
        b"x.",
        b".x",
        b"c.ts=1",
        b"vid=v",
        b"AQB=1",
        b"ndh=1",
        b"AQE=1",
        b"ts.",
        b".ts",
        b"ts.=",
    ]
)
QUERY = st.builds(
    lambda marker, pieces, end: b"&".join([*marker, *pieces, *end]),
    st.sampled_from([[], [b"AQB=1"], [b"ndh=1"], [b"AQB=1", b"ndh=1"]]),
    st.lists(PIECES, max_size=8),
    st.sampled_from([[], [b"AQE=1"]]),
)
SAID = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True)
IMAGES = st.builds(
    lambda said, comma, query, body: Request(
        "POST" if body else "GET",
        b"/b/ss/" + comma.join(name.encode() for name in said) + b"/1/v/s123" + query,
        ((b"User-Agent", b"UA1"),),
        body,
    ),
    SAID,
    st.sampled_from([b",", b"%2C"]),
    st.just(b"") | QUERY.map(lambda query: b"?" + query),
    st.just(b"") | QUERY,
)
INSERTIONS = st.builds(
    lambda said, tag: Request(
        "POST",
        b"/b/ss//6",
        (),
        XML_HEAD + ",".join(said).encode() + b"</reportSuiteID>" + tag + b"</request>",
    ),
    SAID,
    st.sampled_from(
        [
            b"",
            b"<timestamp>5</timestamp>",
            b"<Timestamp/>",
            b"<timestamp> </timestamp>",
            b"<contextData><timestamp>5</timestamp></contextData>",
        ]
    ),
)
REQUESTS = IMAGES | INSERTIONS
AGES = st.sampled_from([FRESH, EDGE, LATE, HOUR, 90 * 86_400.0])


@settings(max_examples=1000)
@given(REQUESTS, CONFIGURED, AGES)
def test_a_request_adobe_would_drop_is_never_sent(
    request: Request, suites: Suites, age_s: float
) -> None:
    """Whatever the modes, the age and the bytes; what is sent is read anew to see it."""
    said = read(request)
    for part in rows(said.suites, suites):
        decision = decide(said, part, suites, age_s)
        if not isinstance(decision, Send):
            continue
        sent = read(render(request, NOW if decision.stamped else None, part))
        assert sent.suites == (part or said.suites)
        for rsid in sent.suites:
            match suites.of(rsid).timestamps:
                case Timestamps.REQUIRED:
                    assert sent.ts is not None
                case Timestamps.NOT_ALLOWED:
                    assert sent.ts is None
                case Timestamps.UNKNOWN:
                    assert not decision.stamped
                    assert sent.ts == said.ts
                case Timestamps.OPTIONAL:
                    assert sent.ts is not None


@settings(max_examples=1000)
@given(REQUESTS, CONFIGURED, AGES)
def test_the_modes_of_today_decide_also_about_rows_of_yesterday(
    request: Request, suites: Suites, age_s: float
) -> None:
    """The rows were cut under another configuration: here, not at all."""
    said = read(request)
    decision = decide(said, (), suites, age_s)
    modes = {suites.of(rsid).timestamps for rsid in said.suites}
    if isinstance(decision, Send):
        with_ts = decision.stamped or said.ts is not None
        assert not (with_ts and NOT_ALLOWED in modes)
        assert with_ts or REQUIRED not in modes
        assert not (decision.stamped and UNKNOWN in modes)


def without_stamp(request: Request) -> set[tuple[bytes, bytes]]:
    """Every target and body that differ from these by one stamp less, or by emptied ones."""
    whole = request.target + b"\0" + request.body
    shapes = [whole.replace(b"ts=1770000000", b"ts=")]
    for pattern in (
        rb"&ts=1770000000(?=&|\Z|\0)",
        rb"(?<=[?\0])ts=1770000000(?:&|(?=\0|\Z))",
        rb"\?ts=1770000000(?=\0)",
        rb"<timestamp>1770000000</timestamp>",
    ):
        shapes += [
            whole[: stamp.start()] + whole[stamp.end() :] for stamp in re.finditer(pattern, whole)
        ]
    pairs = [shape.partition(b"\0") for shape in shapes]
    return {(target, body) for target, _, body in pairs}


@settings(max_examples=1000)
@given(IMAGES)
def test_every_byte_but_the_stamp_is_the_clients(request: Request) -> None:
    got = render(request, NOW)
    if read(request).ts is None:
        assert read(got).ts == b"1770000000"
        assert (request.target, request.body) in without_stamp(got)
    else:
        assert got == request
    assert (got.method, got.headers) == (request.method, request.headers)
    for before, after in ((query_of(request), query_of(got)), (request.body, got.body)):
        if before.endswith(b"&AQE=1"):
            assert after.endswith(b"&AQE=1")


@given(REQUESTS)
def test_a_request_that_needs_neither_stamp_nor_narrowing_is_untouched(request: Request) -> None:
    assert render(request, None) == request
    assert render(request, None, read(request).suites) == request


@settings(max_examples=500)
@given(REQUESTS, st.data())
def test_rendering_twice_is_rendering_once(request: Request, data: st.DataObject) -> None:
    part = tuple(rsid for rsid in read(request).suites if data.draw(st.booleans()))
    once = render(request, NOW, part)
    assert render(once, NOW + 9, part) == once


@pytest.mark.parametrize(
    "before, after",
    [
        (b"AQB=1&ts=7&v1=ts&AQE=1", b"AQB=1&ts=1770000000&v1=ts&AQE=1"),
        (b"ts=7&c.&ts=8&.c&ts=2026-01-01T00%3A00Z", b"ts=1770000000&c.&ts=8&.c&ts=1770000000"),
        (b"AQB=1&v1=x", b"AQB=1&ts=1770000000&v1=x"),
    ],
)
def test_an_old_hit_that_a_person_sends_anew_gets_a_time_of_now(
    before: bytes, after: bytes
) -> None:
    """Each `ts` at depth 0 is another one, wherever it stands; nothing else changes."""
    assert query_of(render(unstamped(get(before)), NOW)) == after
    assert render(unstamped(post(before)), NOW).body == after


def test_an_xml_hit_sent_anew_gets_a_time_of_now() -> None:
    tail = b"rs</reportSuiteID></request>"
    body = XML_HEAD.replace(b"<pageName>", b"<TimeStamp>2026-01-01T00:00Z</TimeStamp><pageName>")
    again = render(unstamped(post(body + tail, b"/b/ss//6")), NOW)
    assert again.body == body.replace(b"2026-01-01T00:00Z", b"1770000000") + tail


@given(REQUESTS)
def test_sent_anew_nothing_but_the_time_is_another(request: Request) -> None:
    anew = render(unstamped(request), NOW)
    assert read(anew).ts == b"1770000000"
    assert anew._replace(target=b"", body=b"") == request._replace(target=b"", body=b"")
    assert unstamped(anew) == unstamped(render(request, NOW))
