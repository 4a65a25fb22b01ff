"""The routes by which hits are looked at, one by one and in pages.

Rule: what is asked is checked here; what is answered comes ready from the reader.
Non-rule: no hit is decoded in this process.
Source: docs/design/0011.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from proxy.shell import asked
from proxy.shell.asked import Problem

PAGE = 500
USUAL = 100


class Reading(Protocol):
    """What these routes ask for; bytes are JSON, ready to be sent."""

    async def hits(self, q: str, cursor: int | None, limit: int) -> bytes: ...
    async def hit(self, id_: int) -> bytes | None: ...
    async def counts(self, q: str) -> bytes: ...


class Hits:
    """The routes of the hits."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/hits", self._hits),
            web.get("/api/v1/hits/{id:[0-9]{1,18}}", self._hit),
            web.get("/api/v1/counts", self._counts),
        ]

    async def _hits(self, request: web.Request) -> web.Response:
        cursor = asked.number(request, "cursor", 0, 0) or None
        limit = asked.number(request, "limit", USUAL, 1)
        q = request.query.get("q", "")
        return _json(await self._reading.hits(q, cursor, min(limit, PAGE)))

    async def _hit(self, request: web.Request) -> web.Response:
        found = await self._reading.hit(int(request.match_info["id"]))
        if found is None:
            raise Problem(404, "no hit of this id is kept")
        return _json(found)

    async def _counts(self, request: web.Request) -> web.Response:
        return _json(await self._reading.counts(request.query.get("q", "")))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
