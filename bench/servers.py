"""What our daemon is compared with or talks to: `python -m bench.servers KIND PORT ...`.

nothing PORT        an aiohttp application with one route that answers the GIF and stores nothing
naive PORT FILE     what one would write in an afternoon: aiohttp, aiosqlite, a commit a hit
adobe PORT SECONDS  a collection server that answers the GIF after so long, as cheaply as asyncio
                    can: its cost is not the drain's
"""

from __future__ import annotations

import asyncio
import sys

import aiosqlite
from aiohttp import web

from proxy.core.answer import GIF

ADOBES = (
    b"HTTP/1.1 200 OK\r\nContent-Type: image/gif;charset=utf-8\r\nServer: jag\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(GIF), GIF)
)


async def nothing(_: web.Request) -> web.Response:
    return web.Response(body=GIF, content_type="image/gif")


async def _open(app: web.Application) -> None:
    db = app[DB] = await aiosqlite.connect(app[FILE])
    await db.execute("PRAGMA journal_mode = WAL")
    await db.execute("PRAGMA synchronous = FULL")
    await db.execute("CREATE TABLE IF NOT EXISTS hits (id INTEGER PRIMARY KEY, target TEXT)")
    await db.commit()


async def naive(request: web.Request) -> web.Response:
    await request.app[DB].execute("INSERT INTO hits (target) VALUES (?)", (request.raw_path,))
    await request.app[DB].commit()
    return web.Response(body=GIF, content_type="image/gif")


DB = web.AppKey("db", aiosqlite.Connection)
FILE = web.AppKey("file", str)


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


def main() -> None:
    kind, port, *more = sys.argv[1:]
    if kind == "adobe":
        asyncio.run(adobe(int(port), float(more[0])))
        return
    app = web.Application()
    if kind == "naive":
        app[FILE] = more[0]
        app.on_startup.append(_open)
    app.router.add_get("/b/ss/{rest:.*}", nothing if kind == "nothing" else naive)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
