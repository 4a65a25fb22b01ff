"""A request as one run of bytes, and back: what a row of the queue holds.

Rule: the stored form is an HTTP/1.1 message a person can read with `sqlite3`; unpacking
what was packed gives the same request, byte for byte.
Non-rule: no judgement about the request, no knowledge of Adobe.
Source: RFC 9112 section 2.1 for the shape; docs/design/0004 for why rows hold it.
"""

from __future__ import annotations

from proxy.core.hit import Request

VERSION = b" HTTP/1.1"
END_OF_HEAD = b"\r\n\r\n"


def pack(request: Request) -> bytes:
    """The request as an HTTP/1.1 message; no header may hold CR or LF (the parser refused them)."""
    parts = [request.method.encode(), b" ", request.target, VERSION]
    for name, value in request.headers:
        parts += (b"\r\n", name, b": ", value)
    parts += (END_OF_HEAD, request.body)
    return b"".join(parts)


def unpack(content: bytes) -> Request:
    """The request that `pack` was given; ValueError when the bytes are no such message."""
    head, end, body = content.partition(END_OF_HEAD)
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
