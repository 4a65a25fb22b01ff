"""What is to be done with a request: claims about the one decision of the beacon port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import beacon, reception, wire
from proxy.core.hit import Headers, ReportSuite, Request, Suites, Timestamps
from proxy.core.reception import Pass, Refuse, Row, Take, receive

KNOWN = {
    "opt": ReportSuite(Timestamps.OPTIONAL),
    "req": ReportSuite(Timestamps.REQUIRED),
    "non": ReportSuite(Timestamps.NOT_ALLOWED),
}
SUITES = Suites(KNOWN)
CLOSED = Suites(KNOWN, refuse_unlisted=True)
HIT = b"/b/ss/opt/1/JS-2.27.0/s84882983483599?AQB=1&ndh=1&mid=7&pageName=home&AQE=1"


def xml(suites: bytes, extra: bytes = b"<visitorID>7</visitorID><pageName>p</pageName>") -> Request:
    body = b"<request><reportSuiteID>%s</reportSuiteID>%s</request>" % (suites, extra)
    return Request("POST", b"/b/ss//6", (), body)


def taken(request: Request, suites: Suites = SUITES, peer: str = "127.0.0.1") -> Take:
    todo = receive(request, peer, suites)
    assert isinstance(todo, Take)
    return todo


def refused(request: Request, suites: Suites = SUITES) -> tuple[int, str]:
    todo = receive(request, "127.0.0.1", suites)
    assert isinstance(todo, Refuse)
    return todo.answer.status, todo.tally


def test_a_hit_is_taken_with_its_answers_ready() -> None:
    """What it gets once stored, and what if not: nothing is left to go wrong after the commit."""
    todo = taken(Request("GET", HIT))
    assert (todo.answer.status, todo.otherwise.status) == (200, 503)
    assert (b"Retry-After", b"30") in todo.otherwise.headers


def test_what_is_stored_is_the_request_less_what_is_not_for_adobe() -> None:
    """The target and the body to the byte, in the stored form."""
    sent: Headers = ((b"User-Agent", b"UA1"), (b"Host", b"localhost"), (b"Cookie", b"jwt=x"))
    todo = taken(Request("POST", HIT, sent, b"a=%zz&&"))
    stored = Request("POST", HIT, ((b"User-Agent", b"UA1"),), b"a=%zz&&")
    assert wire.unpack(todo.content) == stored
    assert reception.stored(todo.content) == stored


def test_a_damaged_row_is_like_no_hit() -> None:
    """It must not keep a daemon from starting."""
    for content in (b"", b"\xff\x00", b"GET /b/ss/opt/1 HTTP/1.1\r\nno colon\r\n\r\n"):
        assert beacon.copy_key(reception.stored(content)) is None


@given(st.binary(max_size=200))
def test_no_content_of_a_row_is_too_odd(content: bytes) -> None:
    """Whatever a broken disk gives back."""
    assert isinstance(reception.stored(content), Request)


def test_a_public_peer_is_told_to_adobe_and_a_local_one_is_not() -> None:
    """127.0.0.1 would only mislead."""
    assert b"8.8.8.8" in wire.plain(taken(Request("GET", HIT), peer="8.8.8.8").content)
    assert b"Forwarded" not in wire.plain(taken(Request("GET", HIT)).content)


@pytest.mark.parametrize(
    "suites, parts",
    [
        (b"opt", [()]),
        (b"opt,req", [()]),
        (b"opt,non", [("opt",), ("non",)]),
        (b"non,opt,req", [("non",), ("opt", "req")]),
        (b"opt,unheard,of", [("opt",), ("unheard",), ("of",)]),
    ],
)
def test_suites_that_cannot_share_a_request_get_rows_of_their_own(
    suites: bytes, parts: list[tuple[str, ...]]
) -> None:
    """By path as by XML; a row for the whole request names none."""
    for request in (Request("GET", HIT.replace(b"opt", suites)), xml(suites)):
        assert [row.suites for row in taken(request).rows] == parts


def test_a_part_of_a_hit_waits_in_the_lane_of_its_suites() -> None:
    """Behind what the same visitor sent to the same suites alone, and before what follows."""
    (alone,) = taken(Request("GET", HIT)).rows
    first, second = taken(Request("GET", HIT.replace(b"opt", b"opt,non"))).rows
    assert first == Row(alone.lane, ("opt",))
    assert second.lane != alone.lane


def test_a_lane_is_a_visitor() -> None:
    """The same for GET, POST and XML; another for another visitor."""
    (get,) = taken(Request("GET", b"/b/ss/opt/1?vid=7")).rows
    (post,) = taken(Request("POST", b"/b/ss/opt/0/x/s1", (), b"vid=7")).rows
    (inserted,) = taken(xml(b"opt")).rows
    (other,) = taken(Request("GET", b"/b/ss/opt/1?vid=8")).rows
    assert get.lane == post.lane == inserted.lane != other.lane


@pytest.mark.parametrize(
    "query, peer",
    [
        ("mid=7", "192.168.1.7"),
        ("pageName=a", "127.0.0.1"),
        ("pageName=a", "::1"),
        ("pageName=a", "8.8.8.8"),
    ],
)
def test_a_copy_is_known_by_what_is_stored_of_the_hit(query: str, peer: str) -> None:
    """So it is after a restart, too, wherever its client is."""
    request = Request("GET", f"/b/ss/opt/1/JS-2.27.0/s1234567?AQB=1&{query}&AQE=1".encode())
    take = taken(request, peer=peer)

    assert take.copy is not None
    assert take.copy == beacon.copy_key(reception.stored(take.content))


def test_whom_an_address_alone_tells_apart_sends_no_copies_of_others() -> None:
    """Two devices of one network, without an id, with one constant random segment."""
    request = Request("GET", b"/b/ss/opt/1/JS-2.27.0/s1234567?AQB=1&pageName=a&AQE=1")
    one, other = (taken(request, peer=peer) for peer in ("192.168.1.7", "192.168.1.8"))

    assert one.copy != other.copy


def test_only_a_request_with_a_random_segment_has_copies() -> None:
    """A hardcoded image is a new hit each time."""
    assert taken(Request("GET", HIT)).copy is not None
    assert taken(Request("GET", b"/b/ss/opt/1/H.25.2--NS/0?pageName=x")).copy is None


@pytest.mark.parametrize(
    "request_, suites, expected",
    [
        (Request("GET", b"/"), SUITES, (404, "refused.not-a-beacon")),
        (Request("DELETE", b"/"), SUITES, (404, "refused.not-a-beacon")),
        (Request("OPTIONS", b"/"), SUITES, (404, "refused.not-a-beacon")),
        (Request("GET", b"/id/"), SUITES, (404, "refused.not-a-beacon")),
        (Request("GET", b"/b/ss/opt/4/REDIR/?url=x"), SUITES, (404, "refused.not-a-beacon")),
        (Request("DELETE", HIT), SUITES, (405, "refused.method")),
        (Request("PUT", b"/id"), SUITES, (405, "refused.method")),
        (Request("GET", b"/b/ss//6"), SUITES, (405, "refused.not-a-beacon")),
        (Request("GET", HIT + b"#x"), SUITES, (400, "refused.malformed")),
        (Request("GET", HIT.replace(b"opt", b"who")), SUITES, None),
        (Request("GET", HIT.replace(b"opt", b"who")), CLOSED, (403, "refused.unlisted")),
        (Request("GET", HIT.replace(b"opt", b"opt,who")), CLOSED, (403, "refused.unlisted")),
        (Request("GET", HIT.replace(b"opt", b"opt,req")), CLOSED, None),
        (xml(b"who"), SUITES, None),
        (xml(b"who"), CLOSED, (403, "refused.unlisted")),
        (xml(b"opt,who"), CLOSED, (403, "refused.unlisted")),
        (xml(b"opt,req"), CLOSED, None),
        (Request("GET", b"/b/ss/opt/10?callback=f()"), SUITES, (400, "refused.callback")),
        (Request("POST", b"/b/ss/opt/10", (), b"callback=f()"), SUITES, (400, "refused.callback")),
        (Request("GET", b"/b/ss/opt/1?callback=f()"), SUITES, None),
        (
            Request("POST", HIT, ((b"content-encoding", b"gzip"),), b"\x1f"),
            SUITES,
            (415, "refused.encoded"),
        ),
        (Request("POST", HIT, ((b"Content-Encoding", b" Identity"),), b"a"), SUITES, None),
        (Request("POST", HIT, ((b"Content-Encoding", b"gzip"),)), SUITES, None),
    ],
)
def test_what_is_no_hit_is_refused_and_counted(
    request_: Request, suites: Suites, expected: tuple[int, str] | None
) -> None:
    """Each by a status and a name of its own; what is one is taken."""
    if expected is None:
        taken(request_, suites)
    else:
        assert refused(request_, suites) == expected


@pytest.mark.parametrize(
    "suites",
    [b"../x", b"a/b", b"a..b", b"a b", b".opt", b"opt,", b"caf\xc3\xa9", b"x" * 101, b"o&#10;pt"],
)
def test_a_report_suite_of_an_xml_body_is_as_good_as_one_of_a_path(suites: bytes) -> None:
    """It becomes a part of an address when the request is split, and of a row always."""
    if suites == b"opt,":
        # An empty name is nothing between two commas.
        assert taken(xml(suites)).rows
        return
    todo = receive(xml(suites), "", SUITES)
    assert isinstance(todo, Refuse)
    assert (todo.tally, todo.answer.status) == ("refused.xml", 200)
    assert b"<reason>NO account</reason>" in todo.answer.body


def test_there_are_at_most_fifty_report_suites_in_a_hit() -> None:
    """By path as by XML: a request may become as many rows."""
    for count, status in ((beacon.MOST_SUITES, 200), (beacon.MOST_SUITES + 1, 400)):
        names = b",".join(b"s%d" % n for n in range(count))
        for request in (Request("GET", HIT.replace(b"opt", names)), xml(names)):
            todo = receive(request, "", SUITES)
            assert not isinstance(todo, Pass)
            assert todo.answer.status == status


@pytest.mark.parametrize("target", [HIT, b"/b/ss//6", b"/id?mcorgid=x"])
def test_a_preflight_is_answered_and_counts_as_nothing(target: bytes) -> None:
    """It is no hit and no refusal."""
    asks: Headers = (
        (b"ORIGIN", b"https://shop.example"),
        (b"Access-Control-Request-Method", b"POST"),
    )
    todo = receive(Request("OPTIONS", target, asks), "", SUITES)
    assert isinstance(todo, Refuse)
    assert (todo.tally, todo.answer.status) == ("", 204)
    assert (b"Access-Control-Allow-Origin", b"https://shop.example") in todo.answer.headers


def test_the_id_service_is_asked_with_adobes_cookies_alone() -> None:
    """And never stored."""
    sent: Headers = ((b"Cookie", b"jwt=x; s_vi=y"), (b"Origin", b"https://shop.example"))
    todo = receive(Request("GET", b"/id?mid=7", sent), "", CLOSED)
    assert isinstance(todo, Pass)
    assert todo.request == Request("GET", b"/id?mid=7", ((b"Cookie", b"s_vi=y"),))
    assert (todo.otherwise.status, todo.otherwise.body) == (200, b"{}")


PIECES = (
    *(b"/b/ss/", b"opt", b",", b"/", b"10", b"6", b"4", b"?", b"&", b"c.", b".c"),
    *(b"ts=", b"callback=", b"%", b"%2C", b"#", b"s1234", b"/id", b"..", b"\xe9"),
)
NAMES = (b"Cookie", b"Origin", b"X-Forwarded-For", b"Connection", b"Content-Encoding", b"X-A")


def one_line(data: bytes) -> bytes:
    """What the parser lets through."""
    return data.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")


@given(
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT"]),
    st.one_of(
        st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
        st.binary(max_size=60).map(lambda rest: b"/b/ss/opt/1?" + one_line(rest)),
        st.binary(max_size=60).map(one_line),
    ),
    st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=20).map(one_line)), max_size=4),
    st.binary(max_size=60),
)
def test_no_request_is_too_odd_to_be_judged(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Whatever comes is taken, refused or passed on; what is taken is stored to the byte."""
    todo = receive(Request(method, target, tuple(headers), body), "127.0.0.1", SUITES)
    if isinstance(todo, Take):
        stored = reception.stored(todo.content)
        assert (stored.method, stored.target, stored.body) == (method, target, body)
        assert todo.rows
    elif isinstance(todo, Refuse):
        assert todo.tally.startswith("refused.") or method == "OPTIONS"
