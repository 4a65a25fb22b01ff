"""What our daemon is compared with or talks to: `python -m bench.servers KIND PORT ...`.

nothing PORT           an aiohttp application of one route that answers the GIF, storing nothing
naive PORT FILE [URL]  what one would write in an afternoon: aiohttp, aiosqlite, a commit a hit;
                       sends to the URL, one by one, and deletes what was answered with 200
alone PORT FILE [URL]  the same, but each hit's commit is its own: a lock around insert and commit
adobe PORT SECONDS     a collection server that answers the GIF after so long, as cheaply as
                       asyncio can: its cost is not the drain's
count PORT FILE        takes hits as requests and as lines; the file gets the number of each, as
                       `bench.wires` numbered them, and the second it came

The naive script's one connection is shared by its requests, so that under load a commit takes
along the rows that others have inserted meanwhile, and theirs then finds nothing to do: a group
commit by accident, and as durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

import aiohttp
import aiosqlite
from aiohttp import web
from yarl import URL

from proxy.core.answer import GIF

ADOBES = (
    b"HTTP/1.1 200 OK\r\nContent-Type: image/gif;charset=utf-8\r\nServer: jag\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(GIF), GIF)
)


async def nothing(_: web.Request) -> web.Response:
    return web.Response(body=GIF, content_type="image/gif")


async def _kept(app: web.Application) -> AsyncIterator[None]:
    async with aiosqlite.connect(app[FILE]) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = FULL")
        await db.execute("CREATE TABLE IF NOT EXISTS hits (id INTEGER PRIMARY KEY, target TEXT)")
        await db.commit()
        app[DB] = db
        sending = asyncio.create_task(_send(db, app[UPSTREAM])) if app[UPSTREAM] else None
        yield
        if sending:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending


async def _send(db: aiosqlite.Connection, upstream: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with db.execute("SELECT id, target FROM hits ORDER BY id LIMIT 1") as rows:
                row = await rows.fetchone()
            try:
                if row is None:
                    raise LookupError  # noqa: TRY301 - it waits as for a server that is away
                async with session.get(URL(upstream + row[1], encoded=True)) as answer:
                    answer.raise_for_status()
                await db.execute("DELETE FROM hits WHERE id = ?", (row[0],))
                await db.commit()
            except (LookupError, aiohttp.ClientError):
                await asyncio.sleep(0.2)


async def naive(request: web.Request) -> web.Response:
    db = request.app[DB]
    async with request.app[LOCK] or contextlib.nullcontext():
        await db.execute("INSERT INTO hits (target) VALUES (?)", (request.raw_path,))
        await db.commit()
    return web.Response(body=GIF, content_type="image/gif")


DB = web.AppKey("db", aiosqlite.Connection)
LOCK = web.AppKey("lock", asyncio.Lock | None)  # type: ignore[arg-type]
FILE = web.AppKey("file", str)
UPSTREAM = web.AppKey("upstream", str)


class Adobe(asyncio.Protocol):
    """One connection; requests without a body, one at a time."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.got.endswith(b"\r\n\r\n"):
            self.got = b""
            if self.after_s:
                asyncio.get_running_loop().call_later(self.after_s, self.transport.write, ADOBES)
            else:
                self.transport.write(ADOBES)


async def adobe(port: int, after_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Adobe(after_s), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


class Counting(asyncio.Protocol):
    """One connection of whichever peer: requests, answered; or lines, which nobody answers."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        while end := self.whole():
            said, self.got = self.got[:end], self.got[end:]
            for found in NUMBER.findall(said):
                self.file.write(f"{found.decode()} {time.time():.3f}\n")
            self.file.flush()
            if said.startswith(METHODS):
                self.transport.write(ADOBES)

    def whole(self) -> int:
        """Where the first request ends, or the last line; 0 when none has come."""
        if not self.got.startswith(METHODS):
            return self.got.rfind(b"\n") + 1
        head = self.got.find(b"\r\n\r\n") + 4
        length = LENGTH.search(self.got, 0, max(head, 0))
        end = head + (int(length[1]) if length else 0)
        return end if head >= 4 and end <= len(self.got) else 0


METHODS = (b"GET ", b"POST ")
NUMBER = re.compile(rb"JS-2\.27\.0\\?/s(\d{14})")
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


async def count(port: int, file: TextIO) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Counting(file), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    kind, port, *more = sys.argv[1:]
    if kind == "adobe":
        asyncio.run(adobe(int(port), float(more[0])))
        return
    if kind == "count":
        with Path(more[0]).open("w", encoding="ascii") as file:
            asyncio.run(count(int(port), file))
        return
    app = web.Application()
    if kind != "nothing":
        app[FILE], app[UPSTREAM] = [*more, ""][:2]
        app[LOCK] = asyncio.Lock() if kind == "alone" else None
        app.cleanup_ctx.append(_kept)
    app.router.add_get("/b/ss/{rest:.*}", nothing if kind == "nothing" else naive)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
