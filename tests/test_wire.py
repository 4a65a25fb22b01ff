"""Claims about the stored form of a request: it comes back byte for byte, or not at all."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.hit import Request
from proxy.core.wire import pack, unpack

# What an HTTP parser lets through: tokens, a target without spaces, values without CR or LF.
TOKEN = st.text(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~", min_size=1
)
NAME = TOKEN.map(str.encode)
VALUE = st.binary(max_size=40).filter(lambda value: not set(value) & set(b"\r\n\0"))
TARGET = st.binary(max_size=60).filter(lambda target: not set(target) & set(b" \r\n\0"))
REQUEST = st.builds(
    Request,
    method=TOKEN,
    target=TARGET.map(lambda rest: b"/" + rest),
    headers=st.lists(st.tuples(NAME, VALUE), max_size=6).map(tuple),
    body=st.binary(max_size=200),
)


@given(REQUEST)
@example(Request("GET", b"/"))
@example(Request("POST", b"/x", ((b"A", b""), (b"A", b": :")), b"\r\n\r\n HTTP/1.1\r\n\r\n"))
@example(Request("GET", b"/?a=\xe9&b=%zz", ((b"X", b" \xff padded "),), b"\0"))
def test_unpacking_what_was_packed_gives_the_same_request(request: Request) -> None:
    assert unpack(pack(request)) == request


def test_a_person_can_read_what_is_stored() -> None:
    request = Request("POST", b"/b/ss/opt/0", ((b"User-Agent", b"UA1"), (b"X", b"1")), b"ndh=1")
    assert pack(request) == b"POST /b/ss/opt/0 HTTP/1.1\r\nUser-Agent: UA1\r\nX: 1\r\n\r\nndh=1"


@given(st.binary() | st.tuples(st.binary(), st.binary()).map(b" HTTP/1.1\r\n\r\n".join))
@example(b"\xe9 / HTTP/1.1\r\n\r\n")
def test_garbage_is_a_value_error_or_a_request_that_packs_to_itself(content: bytes) -> None:
    with suppress(ValueError):
        assert pack(unpack(content)) == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nNoColon\r\n\r\n",
        b"GET / HTTP/1.1\r\n: \n\r\nName:value\r\n\r\n",
        b"\xe9 / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_damaged_row_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(content)


@given(REQUEST, st.data())
def test_a_head_cut_short_is_never_taken_for_a_request(
    request: Request, data: st.DataObject
) -> None:
    """Half a row on a damaged disk must not become a shorter hit."""
    whole = pack(Request(request.method, request.target, request.headers))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError):
        unpack(whole[:cut])
