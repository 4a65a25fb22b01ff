"""A client that says exact bytes and sees exact bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

WITHIN_S = 5.0
HOST = b"localhost"


def get(target: bytes, *headers: bytes, method: bytes = b"GET", host: bytes = HOST) -> bytes:
    """A request without a body; `headers` are whole lines."""
    return b"\r\n".join(
        (method + b" " + target + b" HTTP/1.1", b"Host: " + host, *headers, b"", b"")
    )


def post(target: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    """A request with a body of a stated length."""
    return get(target, *headers, b"Content-Length: %d" % len(body), method=b"POST") + body


@dataclass(frozen=True, slots=True)
class Got:
    """One answer; names of headers in lower case."""

    version: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def __getitem__(self, name: bytes) -> bytes:
        """The value of a header that stands there exactly once."""
        (value,) = (value for key, value in self.headers if key == name)
        return value

    def __contains__(self, name: bytes) -> bool:
        return any(key == name for key, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Raw:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, to_head: bool = False) -> Got:
        """The next answer, by its Content-Length."""
        async with asyncio.timeout(WITHIN_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *lines = head[:-4].split(b"\r\n")
            version, status, _ = line.split(b" ", 2)
            pairs = (each.split(b": ", 1) for each in lines)
            headers = tuple((name.lower(), value) for name, value in pairs)
            got = Got(version, int(status), headers, b"")
            empty = to_head or status == b"204" or status.startswith(b"1")
            body = b"" if empty else await self.reader.readexactly(int(got[b"content-length"]))
        return Got(version, int(status), headers, body)

    async def ask(self, data: bytes) -> Got:
        self.say(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """What still comes until the other side closes."""
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.read()

    def hang_up(self) -> None:
        """At once, as when the client's process dies."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Raw]:
    """A connection to `host:port`."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


async def ask(address: str, data: bytes) -> Got:
    """One request on a connection of its own."""
    async with connected(address) as raw:
        return await raw.ask(data)


async def until(condition: Callable[[], bool]) -> None:
    """Until `condition` holds, whoever brings that about."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - it may have no event
            await asyncio.sleep(0.002)
