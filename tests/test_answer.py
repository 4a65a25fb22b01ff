"""Claims about what a client is told, one for each kind of client and request."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.answer import (
    GIF,
    WBMP,
    Answer,
    accepted,
    callback_of,
    failure_xml,
    identity,
    preflight,
    refused,
    unstored,
)

SHOP = b"https://shop.example"
NAME = b"s_c_il[0].doPostbacks"


def stored(
    type_: str,
    method: str = "GET",
    origin: bytes | None = None,
    callback: bytes | None = None,
) -> Answer:
    return accepted(type_, method=method, origin=origin, callback=callback)


def header(answer: Answer, name: bytes) -> bytes | None:
    values = [value for key, value in answer.headers if key == name]
    assert len(values) <= 1, f"{name!r} stands twice"
    return values[0] if values else None


# Every answer there is, by origin.
EVERY: list[Callable[[bytes | None], Answer]] = [
    *(
        lambda origin, t=type_, m=method: stored(t, m, origin, NAME)
        for type_ in ("0", "1", "2", "5", "5.1", "5.5", "5.10", "6", "10", "")
        for method in ("GET", "HEAD", "POST")
    ),
    lambda origin: failure_xml("Syntax Error", origin=origin),
    lambda origin: unstored(5, origin=origin),
    lambda origin: refused(403, "no such suite", origin=origin),
    identity,
    lambda origin: preflight(origin, b"POST", b"content-type", True),
]


# A hit that is on disk


@pytest.mark.parametrize("type_", ["0", "1", "5", "5.1", "2", "3", "7", "8", "9", "99", ""])
def test_a_get_gets_an_image_that_decodes(type_: str) -> None:
    """An empty answer would fire `onerror`, and AppMeasurement would send the hit again."""
    answer = stored(type_)
    assert answer.status == 200
    assert header(answer, b"Content-Type") == b"image/gif"
    assert answer.body == GIF


def test_the_gif_is_the_43_bytes_of_a_transparent_2x2_image() -> None:
    assert len(GIF) == 43
    assert struct.unpack("<6sHH", GIF[:10]) == (b"GIF89a", 2, 2)
    assert b"\x21\xf9\x04\x01" in GIF  # the extension that makes colour 0 transparent
    assert GIF.endswith(b"\x3b")


def test_an_image_is_not_cached_may_be_embedded_anywhere_and_is_no_other_type() -> None:
    answer = stored("1")
    assert header(answer, b"Cache-Control") == (
        b"no-cache, no-store, max-age=0, no-transform, private"
    )
    assert header(answer, b"Pragma") == b"no-cache"
    assert header(answer, b"Expires") == b"Thu, 01 Jan 1970 00:00:00 GMT"
    assert header(answer, b"X-Content-Type-Options") == b"nosniff"
    assert header(answer, b"Cross-Origin-Resource-Policy") == b"cross-origin"
    assert header(answer, b"Access-Control-Allow-Origin") == b"*"
    assert header(answer, b"Access-Control-Allow-Credentials") is None


def test_type_5_5_gets_the_one_image_its_phones_know() -> None:
    answer = stored("5.5")
    assert header(answer, b"Content-Type") == b"image/vnd.wap.wbmp"
    assert answer.body == WBMP == bytes([0, 0, 2, 2, 0b11000000, 0b11000000])


@pytest.mark.parametrize("type_", ["10", "5.10"])
def test_a_script_gets_a_script_that_calls_back(type_: str) -> None:
    answer = stored(type_, callback=NAME)
    assert answer.status == 200
    assert header(answer, b"Content-Type") == b"application/javascript"
    assert answer.body == b"s_c_il[0].doPostbacks({})"


@pytest.mark.parametrize("callback", [None, b"alert(1)//", b"", b"a\n", b"a" * 101])
def test_type_10_without_a_plain_callback_is_json(callback: bytes | None) -> None:
    answer = stored("10", callback=callback)
    assert header(answer, b"Content-Type") == b"application/json"
    assert answer.body == b"{}"


def test_only_type_10_calls_back() -> None:
    assert stored("1", callback=NAME).body == GIF
    assert b"doPostbacks" not in stored("6", "POST", callback=NAME).body


@pytest.mark.parametrize("type_,body", [("1", GIF), ("10", b"{}")])
def test_an_xhr_post_gets_exactly_200_and_may_read_it_with_credentials(
    type_: str, body: bytes
) -> None:
    answer = stored(type_, "POST", SHOP)
    assert answer.status == 200
    assert answer.body == body
    assert header(answer, b"Access-Control-Allow-Origin") == SHOP
    assert header(answer, b"Access-Control-Allow-Credentials") == b"true"
    assert header(answer, b"Vary") == b"Origin"


def test_a_beacon_gets_200_as_any_post() -> None:
    assert stored("1", "POST", b"null").status == 200
    assert header(stored("1", "POST", b"null"), b"Access-Control-Allow-Origin") == b"null"


@pytest.mark.parametrize("type_,body", [("0", b""), ("10", b"{}")])
def test_the_mobile_sdk_gets_exactly_200(type_: str, body: bytes) -> None:
    """Any other status, 202 and 204 included, makes it drop or resend the hit."""
    answer = stored(type_, "POST")
    assert answer.status == 200
    assert answer.body == body


def test_an_xml_insertion_gets_adobes_success() -> None:
    answer = stored("6", "POST")
    assert answer.status == 200
    assert header(answer, b"Content-Type") == b"text/xml"
    assert answer.body == b'<?xml version="1.0" encoding="UTF-8"?>\n<status>SUCCESS</status>'


@pytest.mark.parametrize("type_", ["0", "1", "5.5", "10"])
def test_head_gets_the_headers_of_get(type_: str) -> None:
    assert stored(type_, "HEAD", SHOP, NAME) == stored(type_, "GET", SHOP, NAME)


# What is no hit, or could not be stored


def test_an_xml_insertion_that_is_no_hit_gets_200_and_the_reason_beside_the_status() -> None:
    answer = failure_xml("NO visitorid OR ipaddress")
    assert answer.status == 200
    assert header(answer, b"Content-Type") == b"text/xml"
    assert answer.body == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        b"<status>FAILURE</status>\n"
        b"<reason>NO visitorid OR ipaddress</reason>"
    )


def test_a_reason_cannot_become_markup() -> None:
    assert b"<reason>a&lt;b</reason>" in failure_xml("a<b").body


def test_a_hit_that_was_not_stored_gets_503_and_when_to_come_again() -> None:
    answer = unstored(30, origin=SHOP)
    assert answer.status == 503
    assert header(answer, b"Retry-After") == b"30"
    assert header(answer, b"Content-Type") == b"text/plain; charset=utf-8"
    assert header(answer, b"Access-Control-Allow-Origin") == SHOP
    assert header(answer, b"Access-Control-Expose-Headers") == b"Retry-After"
    assert header(unstored(-1), b"Retry-After") == b"0"
    assert header(unstored(-1), b"Access-Control-Allow-Origin") == b"*"


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 413, 414, 421])
def test_a_refusal_is_one_line_of_plain_text(status: int) -> None:
    answer = refused(status, "no beacon:\r\nnot here\x00")
    assert answer.status == status
    assert header(answer, b"Content-Type") == b"text/plain; charset=utf-8"
    assert answer.body == b"no beacon:  not here \n"
    assert header(answer, b"Access-Control-Allow-Origin") is None


def test_a_wrong_method_learns_the_right_ones() -> None:
    assert header(refused(405, "no such method"), b"Allow") == b"GET, POST, HEAD, OPTIONS"
    assert header(refused(404, "no beacon"), b"Allow") is None


def test_the_redirecting_type_is_told_nothing_but_404() -> None:
    answer = refused(404, "no beacon")
    assert header(answer, b"Location") is None


# The ID service


def test_the_id_service_gets_200_and_json_it_may_read_with_credentials() -> None:
    """Any other status, and the page never tracks again."""
    answer = identity(SHOP)
    assert answer.status == 200
    assert answer.body == b"{}"
    assert header(answer, b"Content-Type") == b"application/json"
    assert header(answer, b"Access-Control-Allow-Origin") == SHOP
    assert header(answer, b"Access-Control-Allow-Credentials") == b"true"


def test_the_collection_servers_identity_passes_through() -> None:
    assert identity(None, b'{"id":"2B2A"}').body == b'{"id":"2B2A"}'


# Preflights


def test_a_preflight_allows_the_methods_and_headers_it_asks_for() -> None:
    answer = preflight(SHOP, b"POST", b"content-type, X-Trace", False)
    assert answer.status == 204
    assert answer.body == b""
    assert header(answer, b"Access-Control-Allow-Origin") == SHOP
    assert header(answer, b"Access-Control-Allow-Credentials") == b"true"
    assert header(answer, b"Access-Control-Allow-Methods") == b"GET, POST, HEAD"
    assert header(answer, b"Access-Control-Allow-Headers") == b"content-type, X-Trace"
    assert header(answer, b"Access-Control-Allow-Private-Network") is None


def test_a_preflight_to_a_private_network_is_allowed_when_asked() -> None:
    answer = preflight(SHOP, b"GET", None, True)
    assert header(answer, b"Access-Control-Allow-Private-Network") == b"true"
    assert header(answer, b"Access-Control-Allow-Headers") is None


@pytest.mark.parametrize(
    "origin,method", [(None, b"GET"), (SHOP, None), (None, None), (b"a\r\nb", b"GET")]
)
def test_a_plain_options_request_learns_the_methods_only(
    origin: bytes | None, method: bytes | None
) -> None:
    answer = preflight(origin, method, b"x", True)
    assert answer.status == 204
    assert header(answer, b"Allow") == b"GET, POST, HEAD, OPTIONS"
    assert not [key for key, _ in answer.headers if key.startswith(b"Access-Control-")]


def test_only_header_names_are_allowed_and_not_without_end() -> None:
    def allowed(names: bytes) -> bytes | None:
        return header(preflight(SHOP, b"GET", names, False), b"Access-Control-Allow-Headers")

    assert allowed(b"a,b c,d\r\nSet-Cookie: x,,e\xff, *:, f") == b"a, f"
    assert allowed(b"a" * 65) is None
    assert len((allowed(b"a," * 10_000) or b"").split(b",")) == 32


# Callbacks


@pytest.mark.parametrize(
    "value,name",
    [
        (NAME, NAME),
        (b"s_c_il%5B0%5D.doPostbacks", NAME),
        (b"%61", b"a"),
        (b"a" * 100, b"a" * 100),
        (b"a" * 101, None),
        (b"", None),
        (b"alert(1)//", None),
        (b"alert%281%29", None),
        (b"a%0A", None),
        (b"a\n", None),
        (b"a+b", None),
        (b"a%", None),
        (b"%2561", None),  # decoded once
        (b"<script>", None),
    ],
)
def test_a_callback_is_a_plain_name_or_none(value: bytes, name: bytes | None) -> None:
    assert callback_of(value) == name


# Properties

ALPHABET = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.[]")


@given(st.binary() | st.text(st.sampled_from("aZ0_.[]%5B(")).map(str.encode))
def test_nothing_outside_the_callbacks_alphabet_is_ever_echoed(value: bytes) -> None:
    for callback in (value, callback_of(value)):
        body = stored("10", callback=callback).body
        assert body.endswith((b"{}", b"({})"))
        assert set(body.removesuffix(b"({})").removesuffix(b"{}")) <= ALPHABET


ORIGINS = st.none() | st.binary() | st.binary(max_size=8).map(lambda b: SHOP + b)


@given(ORIGINS, st.none() | st.binary(), st.none() | st.binary())
def test_no_header_can_be_broken_out_of(
    origin: bytes | None, method: bytes | None, names: bytes | None
) -> None:
    answers = [make(origin) for make in EVERY]
    for answer in (*answers, preflight(origin, method, names, True)):
        for name, value in answer.headers:
            assert name.replace(b"-", b"").isalpha()
            assert all(0x20 <= byte < 0x7F for byte in value)


@given(ORIGINS)
def test_no_answer_sets_a_cookie_or_invites_a_conditional_request(origin: bytes | None) -> None:
    unwanted = {b"set-cookie", b"etag", b"last-modified", b"location"}
    for make in EVERY:
        assert not unwanted & {name.lower() for name, _ in make(origin).headers}


@given(ORIGINS)
def test_credentials_are_never_allowed_to_everyone(origin: bytes | None) -> None:
    """`*` beside credentials is refused by every browser: the client would see a failure."""
    for make in EVERY:
        answer = make(origin)
        if header(answer, b"Access-Control-Allow-Credentials"):
            assert header(answer, b"Access-Control-Allow-Origin") == origin
            assert header(answer, b"Vary") == b"Origin"


@pytest.mark.parametrize("make", EVERY)
def test_no_answer_is_ever_cached(make: Callable[[bytes | None], Answer]) -> None:
    assert b"no-store" in (header(make(None), b"Cache-Control") or b"")
