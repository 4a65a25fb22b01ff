"""Claims about the grammar of `/b/ss/`: what a request says, and what is no beacon at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.core.beacon import (
    MOST_SUITES,
    Beacon,
    Gist,
    copy_key,
    empty_timestamps,
    gist,
    lane,
    read,
    suites_of,
    top_level,
)
from proxy.core.hit import Headers, Request
from proxy.core.insertion import InsertionRefused
from proxy.errors import NotABeacon

ACTED_ON = (b"ts", b"vid", b"aid", b"mid", b"fid", b"callback")
AID = b"2B2AF1AA05079532-40000110400027BD"
S_VI = b"s_vi=[CS]v1|" + AID + b"[CE]"
MID = b"12345678901234567890123456789012345678"
XML = (
    b"<request><pageName>p</pageName><visitorID>v</visitorID>"
    b"<reportSuiteID>%s</reportSuiteID></request>"
)


def get(target: bytes, headers: Headers = ()) -> Request:
    return Request("GET", target, headers)


def said(query: bytes, headers: Headers = (), body: bytes = b"", peer: str = "") -> Beacon:
    method = "POST" if body else "GET"
    return read(Request(method, b"/b/ss/opt/1/JS-2.27.0/s123?" + query, headers, body), peer)


def refusal(target: bytes, method: str = "GET", body: bytes = b"") -> int:
    with pytest.raises(NotABeacon) as caught:
        read(Request(method, target, (), body))
    return caught.value.status


# The walk along context data


def naive(data: bytes) -> tuple[dict[bytes, bytes], int]:
    """The same walk, written plainly; and how many `ts` without a value stand at depth 0.

    Split at every `&`, each piece at its first `=`.  A name without a value that ends in a
    dot opens a level, one that begins with a dot closes up to the level it names.
    """
    found: dict[bytes, bytes] = {}
    empty = 0
    stack: list[bytes] = []
    for piece in data.split(b"&"):
        name, equals, value = piece.partition(b"=")
        if name.startswith(b".") and not value:
            if name[1:] in stack:
                while stack.pop() != name[1:]:
                    pass
        elif name.endswith(b".") and not value:
            stack.append(name[:-1])
        elif equals and not stack and name in ACTED_ON:
            found[name] = found.get(name) or value
            empty += name == b"ts" and not value
    return found, empty


PIECES = st.sampled_from(
    [
        b"",
        b"pageName=p",
        b"c=24",
        b"c1=x",
        b"ts=1",
        b"ts=2",
        b"ts=",
        b"ts",
        b"ts.",
        b".ts",
        b"ts\n=1",
        b"xts=1",
        b"x=1;ts=1",
        b"c.ts=1",
        b"c.a.=3",
        b"vid=a=b",
        b"aid=1",
        b"mid=",
        b"mid=2",
        b"fid=%26",
        b"callback=f",
        b"c.",
        b".c",
        b"c.=",
        b".c=",
        b"a.",
        b".a",
        b"a.b.",
        b".a.b",
        b".",
        b"..",
        b".c.",
        b"c..",
        b"=",
        b"=ts=1",
        b"c.==",
        b"c.\n",
        b".c\n",
        b"\n",
    ]
)
NESTED = st.recursive(
    st.lists(PIECES, max_size=3),
    lambda inner: st.builds(
        lambda name, within, after: [name + b".", *within, b"." + name, *after],
        st.sampled_from([b"c", b"a", b"x", b"cid", b"h"]),
        inner,
        inner,
    ),
    max_leaves=8,
)
QUERY = (
    NESTED.map(b"&".join)
    | st.lists(PIECES, max_size=12).map(b"&".join)
    | st.text("ts=&.c\n", max_size=20).map(str.encode)
    | st.binary(max_size=60)
)


@settings(max_examples=1000)
@given(QUERY)
@example(b"c.&a.&.c&ts=1")
@example(b"c.&c.&.c&ts=1&.c&ts=2")
@example(b".c&ts=1")
@example(b"c.&.c\n")
def test_the_walk_agrees_with_a_plain_one(data: bytes) -> None:
    found, empty = naive(data)
    assert top_level(data) == found
    ends = empty_timestamps(data)
    assert len(ends) == empty
    assert all(data[:end].endswith(b"ts=") for end in ends)
    assert all(data[end : end + 1] in (b"", b"&") for end in ends)


@pytest.mark.parametrize(
    "query, found",
    [
        (b"c.&ts=yesterday&x.&ts=1&.x&.c&pageName=p", {}),
        (b"c.&a.&ts=1&.a&ts=2&.c&ts=3", {b"ts": b"3"}),
        (b"c.&a.&ts=1&.c&ts=3", {b"ts": b"3"}),
        (b"c.=&ts=1&.c=&ts=3", {b"ts": b"3"}),
        (b"c.&ts=1", {}),
        (b"c.&.x&ts=1", {}),
        (b"c=24&ts=3", {b"ts": b"3"}),
        (b"c.ts=1&ts=3", {b"ts": b"3"}),
        (b"c.a.=1&ts=3", {b"ts": b"3"}),
        (b"&&ts=3&&", {b"ts": b"3"}),
        (b"TS=1&Ts=2", {}),
        (b"a=b;ts=1", {}),
        (b"ts=1&ts=2", {b"ts": b"1"}),
        (b"ts=&ts=2", {b"ts": b"2"}),
        (b"ts=", {b"ts": b""}),
    ],
)
def test_only_what_stands_at_depth_0_is_a_parameter(
    query: bytes, found: dict[bytes, bytes]
) -> None:
    assert top_level(query) == found


@pytest.mark.parametrize(
    "hostile",
    [
        b"a.&" * 40_000 + b".b&" * 40_000,
        b"".join(b"%d.&" % n for n in range(20_000)) + b".x&" * 20_000,
        b"." * 256_000,
        b".a" * 128_000 + b"=5",
        b"a." * 128_000 + b"=5",
        b"&" * 256_000,
        b"c.&" + b"ts=&" * 60_000,
    ],
)
def test_no_query_of_256_kib_keeps_the_walk_busy(hostile: bytes) -> None:
    """Any page may send one; looking at every open level for each closer took seconds."""
    began = time.process_time()
    top_level(hostile)
    empty_timestamps(hostile)
    assert time.process_time() - began < 1


# The path


@pytest.mark.parametrize(
    "target, kind, suites",
    [
        (b"/b/ss/opt/1/JS-2.27.0/s84882983483599?AQB=1", "1", ("opt",)),
        (b"/b/ss/opt,req/1/JS-2.27.0/s1", "1", ("opt", "req")),
        (b"/b/ss/req%2Copt/5.10/JS-2.27.0/s1", "5.10", ("req", "opt")),
        (b"/b/ss/req%2copt/10", "10", ("req", "opt")),
        (b"/b/ss/opt/0/ANDN030002030300/s12345", "0", ("opt",)),
        (b"/b/ss/opt/1/H.25.2--NS/0?pageName=legacy", "1", ("opt",)),
        (b"/b/ss/opt/1/G.6--NS", "1", ("opt",)),
        (b"/b/ss/opt/1?vid=x", "1", ("opt",)),
        (b"/b/ss/opt/1/?vid=x", "1", ("opt",)),
        (b"/b/ss/my.suite-1_x/5.5/", "5.5", ("my.suite-1_x",)),
    ],
)
def test_every_form_of_the_path_is_read(target: bytes, kind: str, suites: tuple[str, ...]) -> None:
    beacon = read(get(target))
    assert (beacon.kind, beacon.suites) == (kind, suites)


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"",
        b"*",
        b"/b/ss",
        b"/b/ss/",
        b"/b/ss/opt",
        b"/b/ss/opt/",
        b"/b/ss//1/x/y",
        b"/B/SS/opt/1",
        b"/x/b/ss/opt/1",
        b"/b/ss/opt/1/a/b/c",
        b"/b/ss/opt/one/a",
        b"/b/ss/opt/01/a",
        b"/b/ss/opt/100/a",
        b"/b/ss/opt/1.100/a",
        b"/b/ss/opt/-1/a",
        b"/b/ss/..%2f..%2fetc/passwd/1/",
        b"/b/ss/..%2f..%2fetc%2fpasswd/1/",
        b"/b/ss/../1/",
        b"/b/ss/a..b/1/",
        b"/b/ss/.a/1/",
        b"/b/ss/opt,/1/",
        b"/b/ss/,opt/1/",
        b"/b/ss/opt,%20non/1/",
        b"/b/ss/opt%00/1/",
        b"/b/ss/opt%0d%0aX:1/1/",
        b"/b/ss/%zz/1/",
        b"/b/ss/" + b"x" * 101 + b"/1/",
        b"/favicon.ico",
        b"/?/b/ss/opt/1/",
    ],
)
def test_what_is_no_beacon_is_404(target: bytes) -> None:
    assert refusal(target) == 404


@pytest.mark.parametrize("kind", [b"4", b"04", b"4.1", b"4.10"])
def test_a_tracked_redirect_is_404(kind: bytes) -> None:
    """Served, it would send anyone anywhere from this host."""
    target = b"/b/ss/opt/" + kind + b"/REDIR/?url=https%3A%2F%2Fevil.example%2F&pe=lnk_d&pev2=x"
    assert refusal(target) == 404


def test_more_suites_than_anyone_has_are_400() -> None:
    """One hit becomes one row for each suite nobody described."""
    most = b",".join(b"s%d" % n for n in range(MOST_SUITES))
    assert len(suites_of(most)) == MOST_SUITES
    assert refusal(b"/b/ss/" + most + b",x/1/") == 400
    assert len(read(Request("POST", b"/b/ss//6", (), XML % most)).suites) == MOST_SUITES
    assert refusal(b"/b/ss//6", "POST", XML % (most + b",x")) == 400


# XML Data Insertion


def test_an_xml_hit_is_read_from_its_body() -> None:
    request = Request("POST", b"/b/ss//6?ts=5&vid=x", ((b"Cookie", S_VI),), XML % b"opt,req")
    assert read(request) == Beacon("6", ("opt", "req"), b"vid:v", None)


def test_an_xml_hit_is_a_post() -> None:
    assert refusal(b"/b/ss//6") == 405


def test_an_xml_hit_names_no_suites_in_its_path() -> None:
    """They would pass by the list of suites, which looks at the body's."""
    assert refusal(b"/b/ss/competitor/6", "POST", XML % b"opt") == 404
    assert refusal(b"/b/ss/..%2f..%2f/6", "POST", XML % b"opt") == 404


def test_an_xml_hit_adobe_would_refuse_is_refused_with_its_reason() -> None:
    with pytest.raises(InsertionRefused):
        read(Request("POST", b"/b/ss//6", (), b"<request/>"))


# Whatever comes


@given(
    st.sampled_from(["GET", "POST", "HEAD"]),
    st.binary(max_size=60)
    | QUERY.map(lambda query: b"/b/ss/opt/1/v/s123?" + query)
    # The path alone, of the characters its grammar speaks about.
    | st.text("/bs?.%,46so-\n", max_size=20).map(lambda rest: b"/b/ss/" + rest.encode()),
    st.lists(st.tuples(st.sampled_from([b"Cookie", b"User-Agent"]), st.binary()), max_size=2),
    QUERY,
)
def test_arbitrary_bytes_are_a_beacon_or_one_of_two_refusals(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    request = Request(method, target, tuple(headers), body)
    with suppress(NotABeacon, InsertionRefused):
        beacon = read(request)
        assert beacon.visitor
        assert beacon.suites
        assert beacon.ts != b""
        assert 0 <= lane(b"analytics", beacon.suites, beacon.visitor) < 2**63
    copy_key(request)


@given(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([b"/b/ss/a,b/5.10/v", b"/b/ss//6", b"/b/ss/6", b"/b/ss/opt/4", b"/b/s"]),
    QUERY,
    QUERY | st.just(XML % b"opt") | st.just(XML % b"a b"),
)
def test_the_gist_of_a_hit_is_what_reading_it_says(
    method: str, path: bytes, query: bytes, body: bytes
) -> None:
    """Of what the drain acts on, and in why it is no hit."""

    def tried(do: Callable[[Request], Beacon | Gist]) -> tuple[object, ...]:
        try:
            found = do(Request(method, path + b"?" + query, (), body))
        except (NotABeacon, InsertionRefused) as error:
            return type(error), str(error)
        return found.kind, found.suites, found.ts

    assert tried(gist) == tried(read)


# The client's timestamp and callback


def test_a_timestamp_is_found_in_the_query_and_in_the_body() -> None:
    assert said(b"AQB=1&ts=5&AQE=1").ts == b"5"
    assert said(b"", body=b"ndh=1&ts=5").ts == b"5"
    assert said(b"ts=4", body=b"ts=5").ts == b"5"


def test_an_empty_one_hides_no_other() -> None:
    """Else a hit with a timestamp would go to a suite that drops those, or be stamped twice."""
    assert said(b"ts=").ts is None
    assert said(b"ts=5", body=b"ts=").ts == b"5"
    assert said(b"ts=", body=b"ts=5").ts == b"5"
    assert said(b"ts=&ts=5").ts == b"5"


def test_the_callback_is_told_raw() -> None:
    assert said(b"callback=s_c_il%5B0%5D.f&et=1").callback == b"s_c_il%5B0%5D.f"
    assert said(b"callback=").callback == b""
    assert said(b"c.&callback=f&.c").callback is None


# The visitor

EVERY_ID = (b"vid=V", b"aid=A", b"mid=1", b"fid=F")
EVERY_COOKIE = S_VI + b"; s_ecid=MCMID|2; AMCV_X%40AdobeOrg=MCMID|3"
AGENT = ((b"User-Agent", b"UA1"), (b"X-Forwarded-For", b"203.0.113.7"))


@pytest.mark.parametrize(
    "ids, cookies, visitor",
    [
        (EVERY_ID, EVERY_COOKIE, b"vid:V"),
        (EVERY_ID[1:], EVERY_COOKIE, b"aid:A"),
        (EVERY_ID[2:], EVERY_COOKIE, b"aid:" + AID),
        (EVERY_ID[2:], b"s_ecid=MCMID|2", b"mid:1"),
        (EVERY_ID[3:], b"s_ecid=MCMID|2", b"mid:2"),
        (EVERY_ID[3:], b"AMCV_X%40AdobeOrg=-1712354808%7CMCIDTS%7C19%7CMCMID%7C3%7CX", b"mid:3"),
        (EVERY_ID[3:], b"AMCVS_X%40AdobeOrg=1", b"fid:F"),
        (EVERY_ID[3:], b"s_ecid=damaged; xs_vi=1", b"fid:F"),
        ((), b"s_fid=F", b"ip:203.0.113.7 UA1"),
        ((b"vid=", b"fid=F"), b"", b"fid:F"),
        ((b"vid=", b"aid=", b"mid=", b"fid="), b"", b"ip:203.0.113.7 UA1"),
        ((b"c.", b"vid=V", b".c", b"fid=F"), b"", b"fid:F"),
    ],
)
def test_the_first_id_in_adobes_order_tells_the_visitor(
    ids: tuple[bytes, ...], cookies: bytes, visitor: bytes
) -> None:
    """Source: Adobe's page "identity overview"."""
    for query in (b"&".join(ids), b"&".join(reversed(ids)) if b"c." not in ids else b"&".join(ids)):
        assert said(query, ((b"Cookie", cookies), *AGENT)).visitor == visitor
    assert said(b"", ((b"Cookie", cookies), *AGENT), body=b"&".join(ids)).visitor == visitor


@pytest.mark.parametrize(
    "cookie",
    [
        S_VI,
        b"a=1; " + S_VI,
        b"a=1;" + S_VI,
        b"s_vi=%5BCS%5Dv1%7C" + AID + b"%5BCE%5D",
    ],
)
def test_the_cookie_and_the_parameter_are_the_same_visitor(cookie: bytes) -> None:
    """Two lanes for one visitor would let the hits of a session overtake each other."""
    assert said(b"", ((b"Cookie", cookie),)).visitor == said(b"aid=" + AID).visitor


def test_the_ecid_cookie_and_the_parameter_are_the_same_visitor() -> None:
    for cookie in (b"s_ecid=MCMID|" + MID, b"s_ecid=MCMID%7C" + MID, b"s_ecid=MCMID%7c" + MID):
        assert said(b"", ((b"Cookie", cookie),)).visitor == said(b"mid=" + MID).visitor


def test_an_s_vi_of_another_form_is_still_an_id() -> None:
    assert said(b"fid=F", ((b"Cookie", b"s_vi=other"),)).visitor == b"aid:other"


def test_without_any_id_address_and_agent_tell_visitors_apart() -> None:
    agent = ((b"User-Agent", b"UA1"),)
    assert said(b"", agent, peer="127.0.0.1").visitor == b"ip:127.0.0.1 UA1"
    assert said(b"", AGENT, peer="127.0.0.1").visitor == b"ip:203.0.113.7 UA1"
    assert said(b"", peer="10.0.0.7").visitor == b"ip:10.0.0.7 "


def test_vector_12_a_visitor_id_is_the_order_key() -> None:
    query = b"AQB=1&ndh=1&vid=customer42&fid=21351AB889F10DEA-19850987357B32B7&AQE=1"
    assert said(query).visitor == b"vid:customer42"


# Lanes


def test_a_lane_is_the_same_in_every_process() -> None:
    """Its number is on disk, so it must outlive this process and its hash seed."""
    assert lane(b"analytics", ("opt",), b"fid:F") == 4633341469271213584


@given(
    st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([("x",), ("x", "y")]), st.binary()),
    st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([("x",), ("x", "y")]), st.binary()),
)
def test_another_upstream_suite_or_visitor_is_another_lane(
    one: tuple[bytes, tuple[str, ...], bytes], other: tuple[bytes, tuple[str, ...], bytes]
) -> None:
    assert (lane(*one) == lane(*other)) == (one == other)


# Copies


def test_a_resent_copy_is_known_by_its_random_segment() -> None:
    target = b"/b/ss/opt/1/JS-2.27.0/s84882983483599?AQB=1&ts=5&AQE=1"
    agent = ((b"User-Agent", b"UA1"),)
    key = copy_key(get(target, agent))
    assert key is not None
    assert key == copy_key(get(target, (*agent, (b"Referer", b"elsewhere"))))
    others = [
        get(target.replace(b"s848", b"s849"), agent),
        get(target.replace(b"ts=5", b"ts=6"), agent),
        get(target, ((b"User-Agent", b"UA2"),)),
        get(target, ((b"User-Agent", b""),)),
        get(target, ()),
        get(target, (*agent, (b"Cookie", b"s_vi=one"))),
        get(target, (*agent, (b"Cookie", b"s_vi=two"))),
        get(target, (*agent, (b"X-Forwarded-For", b"198.51.100.7"))),
        Request("POST", target, agent),
        Request("GET", target, agent, b"x"),
    ]
    keys = {copy_key(other) for other in others}
    assert len(keys) == len(others)
    assert keys.isdisjoint({key, None})
    assert copy_key(get(target, agent), "192.168.1.7") not in {*keys, key}


@pytest.mark.parametrize(
    "target",
    [
        b"/b/ss/opt/1/H.25.2--NS/0?pageName=legacy",
        b"/b/ss/opt/1/H.25.2--NS/123456?pageName=legacy",
        b"/b/ss/opt/1/H.25.2--NS?pageName=legacy",
        b"/b/ss/opt/1/s84882983483599",
        b"/b/ss/opt/1?vid=x",
        b"/b/ss/opt/1/v/s1",
        b"/b/ss/opt/1/v/s123x",
        b"/b/ss/opt/1/v/sss",
        b"/b/ss//6",
        b"/id?s123",
    ],
)
def test_a_hit_without_a_random_segment_is_a_new_one_each_time(target: bytes) -> None:
    """A hardcoded image is loaded again and again, and each time is a hit."""
    assert copy_key(get(target)) is None
