"""The routes by which hits are looked at, one by one and in pages, and dead letters decided on.

Rule: what is asked is checked here; what is answered comes ready from the reader.
Non-rule: no hit is decoded in this process.
Source: docs/design/0011.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web

from proxy.core import render
from proxy.shell import asked
from proxy.shell.asked import Problem

log = logging.getLogger(__name__)

PAGE = 500
USUAL = 100
# A transaction of so many letters is over before a client would notice.
PART = 100
MOST_WAIT_S = 300.0
MOST_WAITING = 16
LOOK_AGAIN_S = 0.1


class Reading(Protocol):
    """What these routes ask for; bytes are JSON, ready to be sent."""

    async def hits(self, q: str, cursor: int | None, limit: int) -> bytes: ...
    async def hit(self, id_: int, *, unredacted: bool) -> bytes | None: ...
    async def raw(self, id_: int, *, unredacted: bool) -> bytes | None: ...
    async def curl(self, id_: int, *, unredacted: bool) -> bytes | None: ...
    async def compare(self, id_: int, other: int | None) -> bytes | None: ...
    async def export(
        self, kind: str, q: str, cursor: int | None, *, unredacted: bool
    ) -> tuple[bytes, int | None]: ...
    async def counts(self, q: str, cursor: int | None) -> bytes: ...
    async def suites(self) -> bytes: ...
    async def groups(self) -> bytes: ...
    async def dead(self, q: str) -> list[int]: ...
    async def requeue(self, ids: Sequence[int]) -> int: ...
    async def discard(self, ids: Sequence[int]) -> int: ...
    def moment(self) -> object: ...


class Hits:
    """The routes of the hits."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._waiting = 0
        self._ending = False

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/hits", self._hits),
            web.get("/api/v1/hits/{id:[0-9]{1,18}}", self._hit),
            web.get("/api/v1/hits/{id:[0-9]{1,18}}/raw", self._raw),
            web.get("/api/v1/hits/{id:[0-9]{1,18}}/curl", self._curl),
            web.get("/api/v1/hits/{id:[0-9]{1,18}}/compare", self._compare),
            web.get("/api/v1/hits.ndjson", self._ndjson),
            web.get("/api/v1/hits.csv", self._csv),
            web.get("/api/v1/hits.har", self._har),
            web.get("/api/v1/hits/wait", self._wait),
            web.get("/api/v1/counts", self._counts),
            web.get("/api/v1/suites", self._suites),
            web.get("/api/v1/dead/groups", self._groups),
            web.post("/api/v1/hits/requeue", self._requeue),
            web.post("/api/v1/hits/discard", self._discard),
        ]

    def end(self) -> None:
        """Nobody waits for hits any longer: the daemon stops."""
        self._ending = True

    # -- looking ---------------------------------------------------------------------------

    async def _hits(self, request: web.Request) -> web.Response:
        limit = asked.number(request, "limit", USUAL, 1)
        return _json(await self._reading.hits(_q(request), _cursor(request), min(limit, PAGE)))

    async def _hit(self, request: web.Request) -> web.Response:
        found = await self._reading.hit(
            int(request.match_info["id"]), unredacted=_unredacted(request)
        )
        return _json(_there(found))

    async def _raw(self, request: web.Request) -> web.Response:
        found = await self._reading.raw(
            int(request.match_info["id"]), unredacted=_unredacted(request)
        )
        return _text(_there(found))

    async def _curl(self, request: web.Request) -> web.Response:
        found = await self._reading.curl(
            int(request.match_info["id"]), unredacted=_unredacted(request)
        )
        return _text(_there(found))

    async def _compare(self, request: web.Request) -> web.Response:
        other = asked.number(request, "with", 0, 0) if "with" in request.query else None
        found = await self._reading.compare(int(request.match_info["id"]), other)
        return _json(_there(found))

    async def _counts(self, request: web.Request) -> web.Response:
        return _json(await self._reading.counts(_q(request), _cursor(request)))

    async def _suites(self, _: web.Request) -> web.Response:
        return _json(await self._reading.suites())

    async def _groups(self, _: web.Request) -> web.Response:
        return _json(await self._reading.groups())

    async def _wait(self, request: web.Request) -> web.Response:
        """The hits, as soon as there are so many; fewer of them when the time is up."""
        count = min(asked.number(request, "count", 1, 1), PAGE)
        timeout_s = _seconds(request, "timeout", 10.0)
        if self._waiting >= MOST_WAITING:
            raise Problem(503, f"{MOST_WAITING} are waiting for hits already")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            until = loop.time() + timeout_s
            while True:
                moment = self._reading.moment()
                hits = await self._newest(_q(request), count)
                # (A question on its way is not cut short: it is over soon.)
                if len(hits) >= count or loop.time() >= until or self._ending:
                    return web.json_response({"hits": hits, "met": len(hits) >= count})
                # Counters, which are looked at for nothing; an event would cost each hit.
                while (  # noqa: ASYNC110 - as said
                    self._reading.moment() == moment and loop.time() < until and not self._ending
                ):
                    await asyncio.sleep(LOOK_AGAIN_S)
        finally:
            self._waiting -= 1

    async def _newest(self, q: str, count: int) -> list[Any]:
        """The newest of these hits, so many at most."""
        hits: list[Any] = []
        cursor: int | None = None
        while len(hits) < count:
            page = json.loads(await self._reading.hits(q, cursor, count - len(hits)))
            hits += page["hits"]
            if page["cursor"] is None:
                break
            cursor = int(page["cursor"])
        return hits

    # -- taking along -------------------------------------------------------------------------

    async def _ndjson(self, request: web.Request) -> web.StreamResponse:
        return await self._export(request, "ndjson", "application/x-ndjson")

    async def _csv(self, request: web.Request) -> web.StreamResponse:
        kind = "text/csv; charset=utf-8; header=present"
        return await self._export(request, "csv", kind, render.CSV_HEADER)

    async def _har(self, request: web.Request) -> web.StreamResponse:
        kind = "application/json"
        return await self._export(request, "har", kind, render.HAR_START, ",", render.HAR_END)

    async def _export(
        self,
        request: web.Request,
        kind: str,
        content_type: str,
        start: str = "",
        between: str = "",
        end: str = "",
    ) -> web.StreamResponse:
        """All that the filter means, piece by piece; broken off, it does not look whole."""
        how = {"unredacted": _unredacted(request)}
        # The first piece before the status, so that a bad filter is an answer of its own.
        piece, cursor = await self._reading.export(kind, _q(request), None, **how)
        response = web.StreamResponse(
            headers={
                **asked.HEADERS,
                "Content-Type": content_type,
                "Content-Disposition": f'attachment; filename="hits.{kind}"',
            }
        )
        await response.prepare(request)
        try:
            await response.write(start.encode() + piece)
            is_first = not piece
            while cursor is not None:
                piece, cursor = await self._reading.export(kind, _q(request), cursor, **how)
                if piece:
                    await response.write((b"" if is_first else between.encode()) + piece)
                    is_first = False
            await response.write(end.encode())
        except Exception:
            # It ends without its last chunk, which every client notices.
            log.exception("an export broke off")
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    # -- deciding --------------------------------------------------------------------------

    async def _requeue(self, request: web.Request) -> web.Response:
        ids, _ = await self._chosen(await asked.body(request, "ids", "q", "all"))
        # A visitor's in their order, however they were found or named.
        done = [await self._reading.requeue(part) for part in _parts(sorted(ids))]
        return web.json_response({"requeued": sum(done)})

    async def _discard(self, request: web.Request) -> web.Response:
        said = await asked.body(request, "ids", "q", "all", "expect_count")
        expected = asked.expected(said)
        ids, named = await self._chosen(said)
        if not named and expected != len(ids):
            raise Problem(409, f"expect_count must be the number of dead letters: {len(ids)}")
        parts = [ids[at : at + PART] for at in range(0, len(ids), PART)]
        return web.json_response(
            {"discarded": sum([await self._reading.discard(p) for p in parts])}
        )

    async def _chosen(self, said: dict[str, Any]) -> tuple[list[int], bool]:
        """The dead letters that are meant, all found before any is changed; whether by id."""
        if "q" not in said:
            ids = asked.chosen(said)
            return (await self._reading.dead(""), False) if ids is None else (ids, True)
        if len(said) > 1 or not isinstance(said["q"], str):
            raise Problem(400, 'say which: {"ids": [1, 2]}, {"q": "suite:x"} or {"all": true}')
        return await self._reading.dead(said["q"]), False


def _parts(ids: list[int]) -> list[list[int]]:
    return [ids[at : at + PART] for at in range(0, len(ids), PART)]


def _q(request: web.Request) -> str:
    return request.query.get("q", "")


def _cursor(request: web.Request) -> int | None:
    return asked.number(request, "cursor", 0, 0) or None


def _seconds(request: web.Request, name: str, default: float) -> float:
    text = request.query.get(name, str(default)).removesuffix("s")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MOST_WAIT_S:
        raise Problem(400, f"{name} must be a number of seconds up to {MOST_WAIT_S:.0f}")
    return seconds


def _unredacted(request: web.Request) -> bool:
    said = request.query.get("unredacted")
    if said not in (None, "1"):
        raise asked.Problem(400, "unredacted must be 1, or left out")
    return said == "1"


def _there(found: bytes | None) -> bytes:
    if found is None:
        raise Problem(404, "no hit of this id is kept")
    return found


def _text(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="text/plain", charset="utf-8")


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
