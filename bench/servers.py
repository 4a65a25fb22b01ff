"""What our intake is compared with: `python -m bench.servers (nothing|naive) PORT [FILE]`.

nothing  an aiohttp application with one route that answers the GIF and stores nothing
naive    what one would write in an afternoon: aiohttp, aiosqlite, a commit a hit
"""

from __future__ import annotations

import sys

import aiosqlite
from aiohttp import web

from proxy.core.answer import GIF


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


def main() -> None:
    kind, port, *file = sys.argv[1:]
    app = web.Application()
    if kind == "naive":
        app[FILE] = file[0]
        app.on_startup.append(_open)
    app.router.add_get("/b/ss/{rest:.*}", nothing if kind == "nothing" else naive)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
