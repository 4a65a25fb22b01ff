"""The admin port: what a person asks of the daemon, over HTTP.

Rule: its own listener and its own application; no route of it exists on the beacon port.
Non-rule: decides and knows nothing; every answer is the desk's.
Source: docs/design/0009 for who may ask.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

from aiohttp import web


class Desk(Protocol):
    """What the admin port asks for."""

    async def status(self) -> dict[str, Any]: ...
    async def can_store(self) -> bool: ...
    async def go_offline(self, for_s: float | None = None) -> None: ...
    async def go_online(self) -> None: ...
    def retry(self) -> None: ...
    async def dead_letters(self, after: int, limit: int) -> list[dict[str, Any]]: ...
    async def export(self, after: int, limit: int) -> list[str]: ...
    async def requeue(self, ids: list[int] | None) -> int: ...
    async def discard(self, ids: list[int] | None) -> int: ...


class Admin:
    """The admin listener."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._runner: web.AppRunner | None = None

    async def start(
        self,
        host: str,
        port: int,
        allowed_hosts: tuple[str, ...],
        token: str | None,
        opened: socket.socket | None = None,
    ) -> tuple[str, int]:
        """Listen; the address really bound.  `opened`: a listening socket to use instead."""
        app = web.Application()
        app.router.add_get("/api/v1/status", self._status)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site: web.BaseSite
        if opened is None:
            site = web.TCPSite(self._runner, host, port)
        else:
            site = web.SockSite(self._runner, opened)
        await site.start()
        address: tuple[str, int] = self._runner.addresses[0][:2]
        return address

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._desk.status())
