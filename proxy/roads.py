"""The roads to the collection servers: one a protocol, each with a link and a drain of its own.

Rule: what happens on one road is felt on no other; they share the queue, and nothing else.
Non-rule: decides nothing about hits, and speaks no protocol.
Source: docs/design/0013.
"""

from __future__ import annotations

import asyncio
from collections import Counter
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
        self._asked: Counter[str] = Counter()  # what is passed through now, by protocol

    def __iter__(self) -> Iterator[Road]:
        return iter(self._roads.values())

    async def ask(self, protocol: str, request: Request, within_s: float) -> Reply | None:
        """The reply to what is never stored; None when there is none in time."""
        road = self._roads.get(protocol)
        if road is None or not road.drain.is_open or self._asked[protocol] >= MOST_WATCHED:
            return None
        self._asked[protocol] += 1
        try:
            async with asyncio.timeout(min(within_s, road.upstream.where.timeout_s)):
                reply = await road.upstream.send(request)
        except TimeoutError:
            return None
        finally:
            self._asked[protocol] -= 1
        return reply if isinstance(reply, Reply) else None

    def goes_soon(self, protocol: str, lane: int) -> bool:
        """Whether a hit of this lane that is stored now may be sent in a moment."""
        road = self._roads.get(protocol)
        return road is not None and road.drain.goes_soon(lane)

    async def reply(self, protocol: str, hit: int) -> Reply | None:
        """What the collection server answers to a hit just stored; None when it has to wait."""
        road = self._roads[protocol]
        return await road.drain.reply(hit, road.upstream.where.timeout_s)
