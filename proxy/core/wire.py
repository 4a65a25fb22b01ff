"""A request as one run of bytes, and back: what a row of the queue holds.

Rule: unpacking what was packed gives the same request, byte for byte.  The stored form is an
HTTP/1.1 message, compressed by itself with what requests have in common (`dictionary`); a
message that stands there as it is, or compressed without the tables, as earlier releases wrote
them, is read as well.
Non-rule: no judgement about the request, no knowledge of Adobe.
Source: RFC 9112 section 2.1 for the shape; RFC 8878 for zstd; docs/design/0015.
"""

from __future__ import annotations

import threading

import zstandard

from proxy.core import dictionary
from proxy.core.hit import Headers, Request

VERSION = b" HTTP/1.1"
END_OF_HEAD = b"\r\n\r\n"
# What is compressed begins so, and no message does: a method is a word of ASCII.
COMPRESSED = zstandard.FRAME_HEADER
# Higher levels take twice as long for a hundredth of the bytes.
LEVEL = 1
# What a frame says of its size may be damaged; `listen.max_request` allows no larger request.
MOST = 64 * 1024**2

_DICTIONARY = zstandard.ZstdCompressionDict(
    dictionary.TABLES + dictionary.BEACONS, dict_type=zstandard.DICT_TYPE_FULLDICT
)
_DICTIONARY.precompute_compress(level=LEVEL)


class _Tools(threading.local):
    """What compresses and what reads; a thread has its own, for each serves one call at a time."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=LEVEL, dict_data=_DICTIONARY).compress
        reads = zstandard.ZstdDecompressor(dict_data=_DICTIONARY)
        self.read, self.read_some = reads.decompress, reads.stream_reader


_TOOLS = _Tools()


def message(request: Request) -> bytes:
    """The request as an HTTP/1.1 message; no header may hold CR or LF (the parser refused them)."""
    return _message(request, lines(request.headers))


def lines(headers: Headers) -> bytes:
    """Headers as a message has them, each with the line end before it."""
    return b"".join([b"\r\n%b: %b" % header for header in headers])


def _message(request: Request, said: bytes) -> bytes:
    first = request.method.encode(), b" ", request.target, VERSION
    return b"".join((*first, said, END_OF_HEAD, request.body))


def pack(request: Request, said: bytes | None = None) -> bytes:
    """The request as a row holds it; `said`: the `lines` it is to have, where they are known."""
    if said is None:
        said = lines(request.headers)
    return _TOOLS.compress(_message(request, said))


def size(content: bytes) -> int:
    """How long the message in a row's content is, by what the row says: nothing is read for it.

    A client may send what compresses to a thousandth, so a row's own length bounds no work.
    ValueError when it cannot be known.
    """
    if not content.startswith(COMPRESSED):
        return len(content)
    try:
        said = zstandard.frame_content_size(content)
    except zstandard.ZstdError as error:
        raise ValueError(f"not a stored request: {error}") from error
    if not 0 <= said <= MOST:
        raise ValueError("not a stored request: larger than any")
    return said


def plain(content: bytes, most: int = MOST) -> bytes:
    """The message in a row's content, or its first `most` bytes; ValueError when it is none."""
    if not content.startswith(COMPRESSED):
        return content[:most]
    try:
        if size(content) <= most:
            return _TOOLS.read(content)
        return _TOOLS.read_some(content).read(most)
    except zstandard.ZstdError as error:
        raise ValueError(f"not a stored request: {error}") from error


def unpack(content: bytes) -> Request:
    """The request that `pack` was given; ValueError when the bytes are no such message."""
    head, end, body = plain(content).partition(END_OF_HEAD)
    first, *lines = head.split(b"\r\n")
    method, space, rest = first.partition(b" ")
    if not end or not space or not rest.endswith(VERSION):
        raise ValueError("not a stored request")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b": ")
        if not colon:
            raise ValueError("not a stored request: a header without a colon")
        headers.append((name, value))
    return Request(method.decode("ascii"), rest[: -len(VERSION)], tuple(headers), body)
