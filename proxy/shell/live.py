"""The route of the events: a stream for each listener, of what one sample found for all.

Rule: bounded in every way: so many streams, so many events a second, so long for a client
that does not read; it ends at once when the daemon stops.
Non-rule: what happened is the feed's.
Source: the WHATWG's HTML standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractContextManager
from typing import Protocol

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from proxy.core.feed import Event
from proxy.shell import asked
from proxy.shell.asked import Problem

MOST_STREAMS = 16
SEND_S = 10.0
RETRY_MS = 2_000


class Live(Protocol):
    """What the stream asks for."""

    sample_s: float

    @property
    def last(self) -> int: ...
    def listening(self) -> AbstractContextManager[None]: ...
    def id(self, number: int) -> str: ...
    def heard(self, id_: str) -> int | None: ...
    def after(self, number: int) -> list[Event] | None: ...
    async def status(self) -> str: ...
    async def sample(self) -> None: ...


class Events:
    """The route of the events."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._streams = 0
        self._ending = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/events", self._events)]

    def end(self) -> None:
        """End every stream: the daemon stops."""
        self._ending.set()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._streams >= MOST_STREAMS:
            raise Problem(503, f"{MOST_STREAMS} pages are being told already: close one")
        self._streams += 1
        try:
            with self._live.listening():
                return await self._tell(request)
        finally:
            self._streams -= 1

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        live = self._live
        stream = EventSourceResponse(headers=asked.HEADERS, send_timeout=SEND_S)
        await stream.prepare(request)
        async with stream:
            # Whoever cannot read any more is no fault of ours, and comes back if it wants to.
            with contextlib.suppress(ConnectionError, TimeoutError):
                told = await self._greet(stream, request.headers.get("Last-Event-ID"))
                while not self._ending.is_set() and stream.is_connected():
                    events = live.after(told)
                    if events is None:
                        events, told = [], live.last
                        await stream.send("{}", event="reset", id=live.id(told))
                    for event in events:
                        told = event.number
                        await stream.send(event.data, event=event.name, id=live.id(told))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(live.sample_s):
                            await self._ending.wait()
                    await live.sample()
        return stream

    async def _greet(self, stream: EventSourceResponse, heard: str | None) -> int:
        """Where this listener goes on: behind what it heard, or with a status and from now on."""
        live = self._live
        told = None if heard is None else live.heard(heard)
        if told is not None:
            return told
        told = live.last
        if heard is not None:
            await stream.send("{}", event="reset", id=live.id(told))
        await stream.send(await live.status(), event="status", id=live.id(told), retry=RETRY_MS)
        return told
