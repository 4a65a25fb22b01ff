"""Claims about the headers of a hit: what Adobe may read stays, what is not its business goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.headers import DROPPED, adobe_cookies, first, has_secrets, kept
from proxy.core.hit import Headers

S_VI = b"s_vi=[CS]v1|2B2AF1AA05079532-40000110400027BD[CE]"
PUBLIC = "93.184.216.34"

NAMES = st.sampled_from(
    [
        b"User-Agent",
        b"X-Trace",
        b"Referer",
        b"X-Forwarded-For",
        b"Cookie",
        b"Connection",
        b"Accept-Language",
        b"Sec-CH-UA",
        b"X-Up-Calling-Line-Id",
        b"X-Secret",
        *sorted(DROPPED),
    ]
)
VALUES = st.sampled_from(
    [b"", b"1", b"close, X-Trace", b"x-secret", S_VI, b"jwt=x; " + S_VI + b";s_fid=1-2", b"a; b=c"]
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=10).map(tuple)
PEERS = st.sampled_from(["", "127.0.0.1", "::1", "10.0.0.7", PUBLIC, "2606:2800:220:1::1"])


def names(headers: Headers) -> list[bytes]:
    return [name for name, _ in headers]


def test_vector_20_nothing_but_adobes_cookie_is_left_of_a_careless_client() -> None:
    sent = (
        (b"Host", b"localhost:8277"),
        (b"User-Agent", b"UA1"),
        (b"Cookie", b"sessionid=SECRET; " + S_VI + b"; jwt=x"),
        (b"Connection", b"close, X-Trace"),
        (b"X-Trace", b"1"),
        (b"Expect", b"100-continue"),
        (b"Referer", b"http://site.example/p"),
    )
    assert kept(sent, "127.0.0.1") == (
        (b"User-Agent", b"UA1"),
        (b"Cookie", S_VI),
        (b"Referer", b"http://site.example/p"),
    )


@given(HEADERS, PEERS)
def test_what_is_kept_keeps_its_order_and_its_bytes(headers: Headers, peer: str) -> None:
    """Only a Cookie and an X-Forwarded-For may have another value than the client's."""
    touched = (b"cookie", b"x-forwarded-for")
    rest = iter([header for header in headers if header[0].lower() not in touched])
    stored = [header for header in kept(headers, peer) if header[0].lower() not in touched]
    assert all(header in rest for header in stored)


@given(HEADERS, PEERS)
def test_what_is_dropped_is_dropped_whatever_stands_around_it(headers: Headers, peer: str) -> None:
    stored = kept(headers, peer)
    named = {
        part.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for part in value.split(b",")
    }
    ours = {b"x-forwarded-for"}
    assert not {name.lower() for name in names(stored)} & (DROPPED | (named - ours))
    assert b"jwt" not in b"".join(value for name, value in stored if name == b"Cookie")


@given(HEADERS)
def test_keeping_what_was_kept_changes_nothing(headers: Headers) -> None:
    once = kept(headers, "127.0.0.1")
    assert kept(once, "127.0.0.1") == once


@given(HEADERS, PEERS)
def test_no_header_is_invented(headers: Headers, peer: str) -> None:
    """Above all no library's User-Agent, which would make the hit a robot's."""
    invented = {name.lower() for name in names(kept(headers, peer))} - {
        name.lower() for name in names(headers)
    }
    assert invented <= {b"x-forwarded-for"}


def test_an_absent_user_agent_stays_absent() -> None:
    assert kept((), "127.0.0.1") == ()


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "10.1.2.3",
        "192.168.1.9",
        "172.16.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "no address",
    ],
)
def test_a_peer_that_means_nothing_outside_is_not_told(peer: str) -> None:
    """Without one Adobe takes the address we send from, which is the device's own."""
    assert kept(((b"X", b"1"),), peer) == ((b"X", b"1"),)


def test_a_public_peer_is_told() -> None:
    assert kept((), PUBLIC) == ((b"X-Forwarded-For", PUBLIC.encode()),)


def test_a_public_peer_goes_behind_what_the_client_forwarded() -> None:
    sent = ((b"x-forwarded-for", b"203.0.113.7"), (b"X", b"1"))
    assert kept(sent, PUBLIC) == ((b"x-forwarded-for", b"203.0.113.7, 93.184.216.34"), (b"X", b"1"))


def test_of_two_lists_the_last_gets_the_peer() -> None:
    sent = ((b"X-Forwarded-For", b"1.1.1.1"), (b"X-Forwarded-For", b"2.2.2.2"))
    assert kept(sent, PUBLIC) == (sent[0], (b"X-Forwarded-For", b"2.2.2.2, 93.184.216.34"))


def test_an_empty_list_gets_the_peer_alone() -> None:
    assert kept(((b"X-Forwarded-For", b""),), PUBLIC) == ((b"X-Forwarded-For", PUBLIC.encode()),)


def test_a_client_cannot_hide_its_address_by_naming_it_in_connection() -> None:
    sent = ((b"Connection", b"x-forwarded-for"), (b"X-Forwarded-For", b"203.0.113.7"))
    assert kept(sent, PUBLIC) == ((b"X-Forwarded-For", PUBLIC.encode()),)


@pytest.mark.parametrize(
    "cookie",
    [
        S_VI,
        b"s_ecid=MCMID|1",
        b"s_fid=A-B",
        b"demdex=1",
        b"omniture_optout=1",
        b"s_vi=",
        b"AMCV_9E1%40AdobeOrg=MCMID|1",
        b"AMCVS_9E1%40AdobeOrg=1",
        b"kndctr_9E1_identity=a==b",
    ],
)
def test_adobes_cookies_stay_as_they_stood(cookie: bytes) -> None:
    assert adobe_cookies(b"a=1; " + cookie + b";b=2") == cookie


@pytest.mark.parametrize(
    "cookie",
    [
        b"",
        b"sessionid=SECRET",
        b"my_s_vi=1",
        b"s_vi2=1",
        b"s_vi",
        b"S_VI=1",
        b"AMCV=1",
        b";;",
        b'x="s_vi=1',
        b"xs_vi=1; =s_vi=2",
        b"demdex_x=1",
    ],
)
def test_other_cookies_go(cookie: bytes) -> None:
    """Browsers do not separate cookies by port: these belong to other applications."""
    assert kept(((b"Cookie", cookie),), "") == ()


def test_the_first_value_of_a_header_is_found_in_any_case() -> None:
    headers = ((b"X", b"1"), (b"COOKIE", b"2"), (b"Cookie", b"3"))
    assert first(headers, b"cookie") == b"2"
    assert first(headers, b"absent") is None


@pytest.mark.parametrize(
    "name, value, is_secret",
    [
        (b"Cookie", b"s_vi=1; AMCV_x%40AdobeOrg=2;", False),
        (b"Cookie", b"", False),
        (b"cookie", b"s_vi=1; session=2", True),
        (b"Cookie", b"session", True),
        (b"AUTHORIZATION", b"", True),
        (b"Proxy-Authorization", b"x", True),
        (b"User-Agent", b"UA1; session=2", False),
    ],
)
def test_what_belongs_to_other_applications_is_told_apart(
    name: bytes, value: bytes, is_secret: bool
) -> None:
    assert has_secrets(((b"Host", b"localhost"), (name, value))) is is_secret
