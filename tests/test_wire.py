"""Claims about the stored form of a request: it comes back byte for byte, or not at all."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from zstandard import (
    DICT_TYPE_RAWCONTENT,
    ZstdCompressionDict,
    ZstdCompressor,
    get_frame_parameters,
)

from proxy.core import dictionary
from proxy.core.hit import Request
from proxy.core.wire import COMPRESSED, message, pack, plain, size, unpack

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


@given(REQUEST)
def test_what_earlier_releases_wrote_is_read_as_well(request: Request) -> None:
    """A row that holds the message as it is."""
    assert unpack(message(request)) == request
    assert plain(message(request)) == message(request)


@given(REQUEST, st.integers(0, 300))
def test_of_a_long_message_its_beginning_can_be_had(request: Request, most: int) -> None:
    """And its length, for neither of which all of it is read."""
    for content in (message(request), pack(request)):
        assert plain(content, most) == message(request)[:most]
        assert size(content) == len(message(request))


def test_a_person_can_read_what_was_stored() -> None:
    request = Request("POST", b"/b/ss/o/0", ((b"User-Agent", b"UA1"), (b"X", b"1")), b"ndh=1")
    assert plain(pack(request)) == (
        b"POST /b/ss/o/0 HTTP/1.1\r\nUser-Agent: UA1\r\nX: 1\r\n\r\nndh=1"
    )


@given(REQUEST)
def test_what_was_compressed_without_tables_is_read_as_well(request: Request) -> None:
    """As an earlier release did, whose frames name no dictionary."""
    text = ZstdCompressionDict(dictionary.BEACONS, dict_type=DICT_TYPE_RAWCONTENT)
    content = ZstdCompressor(level=1, dict_data=text).compress(message(request))
    assert get_frame_parameters(content).dict_id == 0
    assert unpack(content) == request
    assert plain(content, 7) == message(request)[:7]


def test_a_frame_names_the_dictionary_that_it_needs() -> None:
    assert get_frame_parameters(pack(Request("GET", b"/"))).dict_id == dictionary.NUMBER


def test_no_byte_of_the_dictionary_changes() -> None:
    """Every row of every queue in the field was compressed with this one."""
    assert hashlib.sha256(dictionary.TABLES).hexdigest() == (
        "c6aee8e4732ba58e67ec286162263f90eeb9527e5525184c165bda6e7b68191a"
    )
    assert hashlib.sha256(dictionary.BEACONS).hexdigest() == (
        "c851769d65acbf223738b164e95f2c611cff79efcf433cbbcb68fad30994a105"
    )


def test_threads_pack_and_unpack_at_once() -> None:
    """The loop stores hits while SQLite's threads read others."""
    requests = [Request("GET", b"/b/ss/opt/1/x/s%d?" % n + b"v=%d&" % n * 4000) for n in range(50)]

    def there_and_back(request: Request) -> bool:
        return all(unpack(pack(request)) == request for _ in range(20))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(there_and_back, requests))


@given(st.binary() | st.tuples(st.binary(), st.binary()).map(b" HTTP/1.1\r\n\r\n".join))
@example(b"\xe9 / HTTP/1.1\r\n\r\n")
def test_garbage_is_a_value_error_or_a_request_that_packs_to_itself(content: bytes) -> None:
    with suppress(ValueError):
        assert message(unpack(content)) == plain(content)


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
        COMPRESSED,
        COMPRESSED + b"GET / HTTP/1.1\r\n\r\n",
        COMPRESSED + b"\xe0" + b"\xff" * 8,  # says that it holds 2**64 bytes
    ],
)
def test_a_damaged_row_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(content)


@given(st.binary(max_size=40))
def test_a_damaged_frame_is_a_value_error(noise: bytes) -> None:
    """Whatever it says of its size; or else what stands there by itself."""
    with suppress(ValueError):
        assert plain(COMPRESSED + noise) is not None
    with suppress(ValueError):
        assert len(plain(COMPRESSED + noise, 5)) <= 5


@given(REQUEST, st.data())
def test_a_head_cut_short_is_never_taken_for_a_request(
    request: Request, data: st.DataObject
) -> None:
    """Half a row on a damaged disk must not become a shorter hit."""
    bare = Request(request.method, request.target, request.headers)
    for whole in (message(bare), pack(bare)):
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(ValueError):
            unpack(whole[:cut])
