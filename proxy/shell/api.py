"""The routes behind what a person asks of the daemon as a whole, and of its dead letters.

Rule: what the desk is handed was checked here: a fault in the daemon's loops would end it.
Non-rule: decides and knows nothing about hits; every answer is the desk's.  Who may ask is
`admin`'s business.
Source: docs/design/0009.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from aiohttp import web

from proxy.core.findings import RULES
from proxy.shell import asked

log = logging.getLogger(__name__)

PAGE = 500
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_HOLD_S = 10 * 366 * 86_400.0
SPAN = re.compile(r"([0-9]{1,9})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Desk(Protocol):
    """What the admin port asks for."""

    async def status(self) -> dict[str, Any]: ...
    def refusing(self) -> str | None: ...
    async def is_alive(self) -> bool: ...
    async def go_offline(self, for_s: float | None = None) -> None: ...
    async def go_online(self) -> None: ...
    async def retry(
        self, q: str | None = None, ids: Sequence[int] | None = None
    ) -> dict[str, Any]: ...
    async def dead_letters(self, after: int, limit: int) -> list[dict[str, Any]]: ...
    async def export(self, after: int, limit: int) -> list[dict[str, Any]]: ...
    def dead(self) -> int: ...
    async def series(self, window_s: int) -> dict[str, Any]: ...
    async def health(self) -> list[dict[str, Any]]: ...
    def openapi(self) -> dict[str, Any]: ...
    @property
    def settings(self) -> Callable[[], dict[str, Any]]: ...
    async def requeue(self, ids: list[int] | None) -> int: ...
    async def discard(self, ids: list[int] | None) -> int: ...


class Monitor(Protocol):
    """What is scraped."""

    async def scrape(self) -> bytes: ...


class Metrics:
    """The route a monitor scrapes."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/metrics", self._metrics)]

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=await self._monitor.scrape(), headers={"Content-Type": METRICS_TYPE}
        )


class Api:
    """The routes of the daemon as a whole."""

    def __init__(self, desk: Desk, *, body_s: float = asked.BODY_S) -> None:
        self._desk = desk
        self._body_s = body_s

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/api/v1/status", self._status),
            web.get("/api/v1/health", self._health),
            web.get("/api/v1/config", self._config),
            web.get("/api/v1/openapi.json", self._openapi),
            web.get("/api/v1/rules", self._rules),
            web.get("/api/v1/series", self._series),
            web.post("/api/v1/forwarding/offline", self._offline),
            web.post("/api/v1/forwarding/online", self._online),
            web.post("/api/v1/forwarding/retry", self._retry),
            web.get("/api/v1/dead", self._dead),
            web.get("/api/v1/dead.ndjson", self._export),
            web.post("/api/v1/dead/requeue", self._requeue),
            web.post("/api/v1/dead/discard", self._discard),
        ]

    async def _healthz(self, _: web.Request) -> web.Response:
        """Live: the event loop and the queue's writer answer, and the drain is not stuck."""
        alive = await self._desk.is_alive()
        return web.json_response({"alive": alive}, status=200 if alive else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready: a hit that came now would be kept.  An offline upstream is still ready."""
        reason = self._desk.refusing()
        return web.json_response(
            {"ready": reason is None, "reason": reason}, status=200 if reason is None else 503
        )

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._desk.status())

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"checks": await self._desk.health()})

    async def _config(self, _: web.Request) -> web.Response:
        return web.json_response(self._desk.settings())

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.json_response(self._desk.openapi())

    async def _rules(self, _: web.Request) -> web.Response:
        return web.json_response({"rules": [asdict(rule) for rule in RULES]})

    async def _series(self, request: web.Request) -> web.Response:
        found = SPAN.fullmatch(request.query.get("window", "24h"))
        if found is None:
            raise asked.Problem(400, 'window must be a length such as "30m" or "24h"')
        window_s = int(found[1]) * SECONDS[found[2]]
        return web.json_response(await self._desk.series(window_s))

    async def _offline(self, request: web.Request) -> web.Response:
        for_s = _length(await self._body(request, "for_seconds", "for"))
        await self._desk.go_offline(for_s)
        return await self._status(request)

    async def _online(self, request: web.Request) -> web.Response:
        await self._body(request)
        await self._desk.go_online()
        return await self._status(request)

    async def _retry(self, request: web.Request) -> web.Response:
        said = await self._body(request, "q", "ids")
        if len(said) > 1 or not isinstance(said.get("q", ""), str):
            raise asked.Problem(400, 'say which: {"ids": [1, 2]}, {"q": "suite:x"}, or nothing')
        ids = asked.chosen(said) if "ids" in said else None
        tried = await self._desk.retry(said.get("q"), ids)
        return web.json_response(await self._desk.status() | {"tried": tried})

    async def _dead(self, request: web.Request) -> web.Response:
        after, limit = asked.number(request, "after", 0, 0), asked.number(request, "limit", 100, 1)
        letters = await self._desk.dead_letters(after, min(limit, PAGE))
        return web.json_response({"letters": letters, "total": self._desk.dead()})

    async def _export(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**asked.HEADERS, "Content-Type": "application/x-ndjson"}
        )
        await response.prepare(request)
        after = 0
        try:
            while letters := await self._desk.export(after, PAGE):
                after = letters[-1]["id"]
                await response.write("".join(json.dumps(one) + "\n" for one in letters).encode())
        except Exception:
            # Half an export must not look like a whole one: it ends without its last chunk.
            log.exception("an export broke off")
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _requeue(self, request: web.Request) -> web.Response:
        ids = asked.chosen(await self._body(request, "ids", "all"))
        if ids is None:
            ids = await self._dead_now()
        # A visitor's in their order, however they were named.
        return web.json_response({"requeued": await _in_parts(self._desk.requeue, sorted(ids))})

    async def _discard(self, request: web.Request) -> web.Response:
        said = await self._body(request, "ids", "all", "expect_count")
        expected = asked.expected(said)
        ids = asked.chosen(said)
        if ids is None:
            ids = await self._dead_now()
            if expected != len(ids):
                raise asked.Problem(
                    409, f"expect_count must be the number of dead letters: {len(ids)}"
                )
        return web.json_response({"discarded": await _in_parts(self._desk.discard, ids)})

    async def _dead_now(self) -> list[int]:
        """The dead letters there are; what dies from now on was not meant by "all"."""
        ids: list[int] = []
        while letters := await self._desk.dead_letters(ids[-1] if ids else 0, PAGE):
            ids += [letter["id"] for letter in letters]
        return ids

    async def _body(self, request: web.Request, *names: str) -> dict[str, Any]:
        return await asked.body(request, *names, within_s=self._body_s)


def _length(said: dict[str, Any]) -> float | None:
    """How long to hold, in seconds; None for until told otherwise."""
    if len(said) > 1:
        raise asked.Problem(400, "say for_seconds or for, not both")
    if not said:
        return None
    if "for" in said:
        found = SPAN.fullmatch(said["for"]) if isinstance(said["for"], str) else None
        if found is None:
            raise asked.Problem(400, 'for must be a length such as "30m", "2h" or "7d"')
        for_s: object = int(found[1]) * SECONDS[found[2]]
    else:
        for_s = said["for_seconds"]
    if isinstance(for_s, bool) or not isinstance(for_s, int | float):
        raise asked.Problem(400, "for_seconds must be a number")
    if not math.isfinite(for_s) or not 0 < for_s <= MOST_HOLD_S:
        raise asked.Problem(400, "a hold is longer than nothing and shorter than ten years")
    return for_s


async def _in_parts(do: Callable[[list[int] | None], Awaitable[int]], ids: list[int]) -> int:
    """No transaction so long that a hit would wait for it."""
    return sum([await do(ids[at : at + PAGE]) for at in range(0, len(ids), PAGE)])
