"""The table of verdicts, row by row, and that it is total."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.hit import Failure, Fault, Reply
from proxy.core.verdict import (
    Delivered,
    Follow,
    LinkDown,
    Refused,
    Retry,
    Verdict,
    judge,
    retry_after,
)

NOW = 1_770_000_000.0
HOST = b"example.data.adobedc.net"
GIF = b"GIF89a\x02\x00\x02\x00\x80\x00\x00"
LOGIN = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Log in</body></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'


def of(
    kind: str,
    status: int,
    content_type: bytes | None = None,
    body: bytes = b"",
    *headers: tuple[bytes, bytes],
    followed: bool = False,
    host: bytes = HOST,
) -> Verdict:
    typed = ((b"content-type", content_type),) if content_type is not None else ()
    reply = Reply(status, typed + headers, body)
    return judge(kind, reply, upstream_host=host, followed=followed, wall_now=NOW)


@pytest.mark.parametrize(
    "kind,content_type,body",
    [
        ("1", b"image/gif", GIF),
        ("1", b"image/gif;charset=x", b""),  # as HEAD is answered
        ("1", None, GIF),
        ("5", b"image/vnd.wap.wbmp", b"\0\0\1\1\0"),
        ("5.1", b"IMAGE/GIF", GIF),
        ("5.5", b"image/vnd.wap.wbmp", b""),
        ("7", b"image/gif", GIF),
        ("10", b"application/javascript;charset=utf-8", b's_c_il[0].doPostbacks({"dests":[]})'),
        ("10", b"application/json", b'{"stuff":["<iframe></iframe>"]}'),
        ("10", b"image/gif", GIF),
        ("10", b"text/html", b'{"status":"SUCCESS"}'),
        ("5.10", b"application/x-javascript", b"if(s)s()"),
        ("6", b"text/xml", XML + b"<status>SUCCESS</status>"),
        ("6", b"text/html", XML + b"<STATUS> success </STATUS>" + b" " * 99),
        ("0", b"text/html", b" "),
        ("0", b"text/html", b""),
        ("0", b"text/html", b"&nbsp;"),
        ("0", None, b""),
        ("0", b"image/gif", GIF),
        ("id", b"application/json", b'{"d_mid":"1"}'),
    ],
)
def test_a_200_of_the_expected_kind_is_a_delivery(
    kind: str, content_type: bytes | None, body: bytes
) -> None:
    """Each response type has its own kind of yes."""
    assert of(kind, 200, content_type, body) == Delivered(200)


@pytest.mark.parametrize("kind", ["0", "1", "5", "5.1", "5.5", "5.10", "6", "10", "2", "id", "?"])
@pytest.mark.parametrize("content_type", [b"text/html; charset=utf-8", b"image/gif", None])
def test_a_login_page_is_never_a_delivery(kind: str, content_type: bytes | None) -> None:
    """A captive portal's 200 means offline, whatever it calls its page."""
    verdict = of(kind, 200, content_type, LOGIN)
    assert isinstance(verdict, LinkDown)
    assert verdict.answered
    assert "captive portal" in verdict.reason


@pytest.mark.parametrize(
    "kind,content_type,body",
    [
        ("1", b"application/json", b"{}"),
        ("1", b"text/plain", b"ok"),
        ("1", None, b""),
        ("1", b"text/html", b" "),
        ("6", b"text/xml", b"<ok/>"),
        ("6", b"text/xml", b""),
        ("10", b"text/plain", b"hello"),
        ("id", b"image/gif", GIF),
        ("0", b"text/html", b"<form action=/login>"),
        ("0", b"text/html", b"Please log in first. " * 4),
    ],
)
def test_a_200_of_another_kind_is_not_believed(
    kind: str, content_type: bytes | None, body: bytes
) -> None:
    """Something answered, but it was no collection server: the link is down."""
    verdict = of(kind, 200, content_type, body)
    assert isinstance(verdict, LinkDown)
    assert verdict.answered


@pytest.mark.parametrize(
    "body,reason",
    [
        (b"<status>FAILURE</status>\n<reason>NO account</reason>", "Adobe: NO account"),
        (b"<status>FAILURE</status>", "Adobe: FAILURE"),
        (b"<status>FAILURE</status><reason> Syntax\r\nError\0</reason>", "Adobe: Syntax Error"),
    ],
)
def test_an_xml_failure_is_refused_with_the_reason_of_adobe(body: bytes, reason: str) -> None:
    """Data Insertion says no with a 200."""
    assert of("6", 200, b"text/xml", XML + body) == Refused(reason)


@pytest.mark.parametrize("status", [201, 202, 204, 206, 299])
def test_another_2xx_is_retried_as_ambiguous(status: int) -> None:
    """Only 200 counts; what may be a success is neither believed nor dropped."""
    verdict = of("1", status, b"image/gif", GIF)
    assert isinstance(verdict, Retry)
    assert (verdict.charge, verdict.ambiguous) == (True, True)


@pytest.mark.parametrize(
    "status",
    [400, 401, 402, 403, 404, 405, 406, 409, 410, 411, 412, 413, 414, 415, 422, 431, 451, 499, 501],
)
def test_a_4xx_is_refused_for_good(status: int) -> None:
    """The reason says the number and who said it."""
    assert of("1", status) == Refused(f"{status} from the collection server")


@pytest.mark.parametrize("status", [408, 421, 425, 500, 502, 503, 504, 507, 520, 599, 100, 600, 0])
def test_trouble_of_the_server_is_retried_and_charged(status: int) -> None:
    """It may be the hit's fault, so it may count; it is not ambiguous."""
    verdict = of("1", status)
    assert isinstance(verdict, Retry)
    assert (verdict.charge, verdict.ambiguous, verdict.after_s) == (True, False, None)


def test_push_back_is_never_charged() -> None:
    """429, and 503 with Retry-After, say nothing against the hit."""
    assert of("1", 429) == Retry("429 from the collection server", None, charge=False)
    for status in (429, 503):
        verdict = of("1", status, None, b"", (b"retry-after", b"120"))
        assert verdict == Retry(f"{status} from the collection server", 120.0, charge=False)
    garbage = of("1", 503, None, b"", (b"retry-after", b"soon"))
    assert garbage == Retry("503 from the collection server")
    other = of("1", 502, None, b"", (b"retry-after", b"7"))
    assert other == Retry("502 from the collection server", 7.0)


@pytest.mark.parametrize("status", [407, 511])
def test_a_proxy_that_wants_a_login_means_offline(status: int) -> None:
    """It spoke in the collection server's place."""
    verdict = of("1", status)
    assert isinstance(verdict, LinkDown)
    assert verdict.answered


@pytest.mark.parametrize(
    "value,seconds",
    [
        (b"0", 0.0),
        (b" 120 ", 120.0),
        (b"1.5", 1.5),
        (b"86401", 86_400.0),
        (b"9" * 5000, 86_400.0),
        (formatdate(NOW + 30, usegmt=True).encode(), 30.0),
        (b"Monday, 02-Feb-26 02:41:00 GMT", 60.0),
        (b"Mon Feb  2 02:41:00 2026", None),
        (formatdate(NOW - 30, usegmt=True).encode(), 0.0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        (b"-5", None),
        (b"1e3", None),
        (b"\xd9\xa1", None),
        (b"", None),
        (b"soon", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: bytes, seconds: float | None) -> None:
    """Seconds or a date; never negative, at most a day, garbage ignored."""
    if value.startswith(b"Mon Feb"):  # the obsolete asctime form carries no zone: it is UTC
        seconds = 60.0
    assert retry_after(value, NOW) == seconds


LOCATION = b"/b/ss/opt/1/H.25.2--NS/0?AQB=1&pccr=true&vidn=27A7&&ts=1770000000"


@pytest.mark.parametrize(
    "location,host",
    [
        (LOCATION, HOST),
        (b"https://" + HOST + LOCATION, HOST),
        (b"//" + HOST + LOCATION, HOST),
        (b"http://" + HOST + LOCATION, HOST),
        (b"https://EXAMPLE.data.adobedc.net:443" + LOCATION + b"#x", HOST),
        (b"http://127.0.0.1:8080" + LOCATION, b"127.0.0.1:8080"),
        (b"http://[::1]" + LOCATION, b"[::1]:80"),
    ],
)
def test_the_pccr_redirect_is_followed_once_on_the_same_host(location: bytes, host: bytes) -> None:
    """The target in origin-form, byte for byte, with the cookies just received."""
    headers = (
        (b"location", location),
        (b"set-cookie", b"s_vi=[CS]v1|27A7[CE]; Expires=x; Path=/"),
        (b"set-cookie", b"nonsense"),
        (b"set-cookie", b"a=b"),
    )
    assert of("1", 302, None, b"", *headers, host=host) == Follow(
        LOCATION, (b"s_vi=[CS]v1|27A7[CE]", b"a=b")
    )
    again = of("1", 302, None, b"", *headers, host=host, followed=True)
    assert again == Retry("302 from the collection server: second redirect not followed")


@pytest.mark.parametrize(
    "location",
    [
        b"https://evil.example" + LOCATION,
        b"//evil.example" + LOCATION,
        b"https://" + HOST + b"@evil.example" + LOCATION,
        b"https://" + HOST + b":8443" + LOCATION,
        b"https://" + HOST + b".evil.example" + LOCATION,
        b"https://evil.example\\@" + HOST + LOCATION,
        b"///evil.example" + LOCATION,
        b"ftp://" + HOST + LOCATION,
        b"b/ss/opt/1?pccr=true",
        b"?pccr=true",
        b"/b/ss/opt/1?pccr=true HTTP/1.1\r\nX: y",
        b"/b/ss/opt/1?AQB=1",
        b"/b/ss/opt/1?xpccr=true",
        b"/b/ss/opt/1?pccr=truest",
        b"/b/ss/opt/1#?pccr=true",
        b"",
    ],
)
def test_every_other_redirect_is_kept_and_never_followed(location: bytes) -> None:
    """It counts against the hit, so it ends as a dead letter with a reason."""
    verdict = of("1", 302, None, b"", (b"location", location))
    assert isinstance(verdict, Retry)
    assert (verdict.charge, verdict.ambiguous) == (True, False)
    assert "redirect" in verdict.reason
    assert verdict.reason.isprintable()


@pytest.mark.parametrize("status", [300, 301, 303, 304, 307, 308])
def test_only_a_302_can_be_the_pccr_redirect(status: int) -> None:
    """Adobe documents no other."""
    assert isinstance(of("1", status, None, b"", (b"location", LOCATION)), Retry)


@pytest.mark.parametrize("fault", list(Fault))
def test_a_send_without_an_answer_is_the_links_fault_or_ambiguous(fault: Fault) -> None:
    """Nothing was sent: the link. Something was: it may have arrived."""
    verdict = judge("1", Failure(fault, "a\nb"), upstream_host=HOST, followed=False, wall_now=NOW)
    reason = f"{fault.value}: a b"
    if fault in (Fault.DNS, Fault.CONNECT, Fault.TLS, Fault.CONNECT_TIMEOUT):
        assert verdict == LinkDown(reason, answered=False)
    else:
        assert verdict == Retry(reason, None, charge=True, ambiguous=True)


kinds = st.sampled_from(["0", "1", "5", "5.1", "5.5", "5.10", "6", "10", "id"]) | st.text()
names = st.sampled_from([b"content-type", b"location", b"set-cookie", b"retry-after"])
values = st.binary() | st.sampled_from(
    [b"image/gif", b"text/html", b"9" * 6000, LOCATION, b"Mon, 99 Foo 10000 99:99:99 -9999"]
)
replies = st.builds(
    Reply,
    st.integers(-1, 1000) | st.sampled_from([200, 302, 429, 503]),
    st.lists(st.tuples(names, values), max_size=4).map(tuple),
    st.binary() | st.sampled_from([GIF, LOGIN, b"<status>FAILURE</status><reason>\xff"]),
)
failures = st.builds(Failure, st.sampled_from(Fault), st.text())


@given(kinds, replies | failures, st.binary(), st.booleans(), st.floats(-1e12, 1e12))
@example("1", Reply(503, ((b"retry-after", b"Mon, 01 Jan 0000 00:00:00 GMT"),)), b"", False, 0.0)
def test_the_table_is_total(
    kind: str, reply: Reply | Failure, host: bytes, followed: bool, wall_now: float
) -> None:
    """Nothing raises, only a 200 is a delivery, and what comes out is safe to use."""
    verdict = judge(kind, reply, upstream_host=host, followed=followed, wall_now=wall_now)
    if isinstance(verdict, Delivered):
        assert isinstance(reply, Reply)
        assert reply.status == verdict.status == 200
    elif isinstance(verdict, Follow):
        assert not followed
        assert verdict.target.startswith(b"/")
        assert not verdict.target.startswith(b"//")
        assert min(verdict.target) > 0x20
        assert all(min(cookie) >= 0x20 and b";" not in cookie for cookie in verdict.cookies)
    else:
        assert verdict.reason
        assert verdict.reason.isprintable()
        if isinstance(verdict, Retry) and verdict.after_s is not None:
            assert 0 <= verdict.after_s <= 86_400
