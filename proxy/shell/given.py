"""The routes by which a person gives hits: a test hit, an import; and gives all of them up.

Rule: a line at a time, a few lines a transaction, so that an import of any length neither
fills the memory nor keeps a hit waiting; what is refused is said with its line.
Non-rule: whether it is a hit, and what becomes of it, is the intake's decision.
Source: docs/design/0011.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from aiohttp import web

from proxy.errors import QueueFull, QueueUnavailable
from proxy.shell import asked
from proxy.shell.asked import Problem

LONGEST_LINE = 4 * 1024 * 1024
SILENCE_S = 30.0
MOST_FAULTS = 20


class Incoming(Protocol):
    """Takes what is given."""

    def usual_suite(self) -> str | None: ...
    async def test_hit(self, suite: str) -> list[int]: ...
    async def bring(self, row: Mapping[str, Any]) -> list[int]: ...
    async def reset(self) -> int | None: ...


class Rows(Protocol):
    """Shows what was given."""

    async def rows(self, ids: list[int]) -> bytes: ...


class Given:
    """The routes of what is given."""

    def __init__(self, incoming: Incoming, rows: Rows) -> None:
        self._incoming, self._rows = incoming, rows

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/v1/test-hit", self._test_hit),
            web.post("/api/v1/hits/import", self._import),
            web.post("/api/v1/reset", self._reset),
        ]

    async def _test_hit(self, request: web.Request) -> web.Response:
        said = await asked.body(request, "suite")
        suite = said.get("suite", self._incoming.usual_suite())
        if suite is None:
            raise Problem(400, 'say for which report suite: {"suite": "..."}')
        if not isinstance(suite, str):
            raise Problem(400, "suite must be a text")
        try:
            ids = await self._incoming.test_hit(suite)
        except ValueError as error:
            raise Problem(400, str(error)) from error
        (row, *_) = json.loads(await self._rows.rows(ids))
        return web.json_response(row)

    async def _import(self, request: web.Request) -> web.Response:
        if request.content_type not in ("application/x-ndjson", "application/json"):
            raise Problem(415, "the body must be application/x-ndjson, a hit a line")
        imported, refused, number = 0, 0, 0
        faults: list[dict[str, object]] = []
        try:
            async for line in _lines(request):
                number += 1
                if not line.strip():
                    continue
                try:
                    imported += bool(await self._incoming.bring(_row(line)))
                except ValueError as error:
                    refused += 1
                    if len(faults) < MOST_FAULTS:
                        faults.append({"line": number, "detail": str(error)})
        except (QueueFull, QueueUnavailable) as error:
            # The hits before are stored, and stay.
            detail = f"stopped before line {number}: {error}"
            raise Problem(503, detail, imported=imported, refused=refused, faults=faults) from error
        return web.json_response({"imported": imported, "refused": refused, "faults": faults})

    async def _reset(self, request: web.Request) -> web.Response:
        await asked.body(request)
        discarded = await self._incoming.reset()
        if discarded is None:
            raise Problem(409, "only in capture mode: here hits are on their way to Adobe")
        return web.json_response({"discarded": discarded})


def _row(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ValueError("no JSON object") from error
    if not isinstance(row, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - it is the line that is wrong
    return row


async def _lines(request: web.Request) -> AsyncIterator[bytes]:
    """The body's lines; the last one may lack its end."""
    left = b""
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                chunk = await request.content.readany()
        except TimeoutError as error:
            raise Problem(408, "the body did not go on in time") from error
        if not chunk:
            break
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(left) > LONGEST_LINE:
            raise Problem(413, "a line is longer than any hit")
    if left:
        yield left
