"""The roads to the collection servers: one a protocol, each with a link and a drain of its own.

Rule: what happens on one road is felt on no other; they share the queue, and nothing else.
Non-rule: decides nothing about hits, and speaks no protocol.
Source: docs/design/0013.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.core.hit import Reply, Request
from proxy.drain import MOST_WATCHED, Drain
from proxy.shell.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Road:
    """One collection server, and what is sent there."""

    upstream: Upstream
    drain: Drain

    @property
    def name(self) -> str:
        return self.drain.protocol.name


class Roads:
    """What the intake may ask of the collection servers while they can be reached."""

    def __init__(self, *roads: Road) -> None:
        self._roads = {road.name: road for road in roads}
        # When what is passed through now is given up, by protocol.
        self._asked: dict[str, set[asyncio.Timeout]] = {road: set() for road in self._roads}
        self._ending = False

    def __iter__(self) -> Iterator[Road]:
        return iter(self._roads.values())

    async def ask(self, protocol: str, request: Request, within_s: float) -> Reply | None:
        """The reply to what is never stored; None when there is none in time."""
        road = self._roads.get(protocol)
        if self._ending or road is None or not road.drain.is_open:
            return None
        asked = self._asked[protocol]
        if len(asked) >= MOST_WATCHED:
            return None
        until = asyncio.timeout(min(within_s, road.upstream.where.timeout_s))
        asked.add(until)
        try:
            async with until:
                reply = await road.upstream.send(request)
        except TimeoutError:
            return None
        finally:
            asked.discard(until)
        return reply if isinstance(reply, Reply) else None

    def answer_no_more(self) -> None:
        """The daemon stops: nobody is to wait for a collection server any more."""
        self._ending = True
        now = asyncio.get_running_loop().time()
        for until in (until for asked in self._asked.values() for until in asked):
            if not until.expired():
                until.reschedule(now)
        for road in self:
            road.drain.answer_no_more()

    def goes_soon(self, protocol: str, lane: int) -> bool:
        """Whether a hit of this lane that is stored now may be sent in a moment."""
        road = self._roads.get(protocol)
        return road is not None and road.drain.goes_soon(lane)

    async def reply(self, protocol: str, hit: int) -> Reply | None:
        """What the collection server answers to a hit just stored; None when it has to wait."""
        road = self._roads[protocol]
        return await road.drain.reply(hit, road.upstream.where.timeout_s)
