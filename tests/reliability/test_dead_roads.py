"""Roads on which nothing can be delivered, over real sockets: none is ever believed.

Black hole, answers that take too long, TLS nobody can trust, a name that does not resolve, a
captive portal: hits stay, few sockets are open, and all of them leave without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from clock import FakeClock
from conftest import OpenQueue

from proxy.core import beacon, wire
from proxy.core.analytics import Analytics
from proxy.core.hit import (
    Failure,
    NewHit,
    Received,
    Reply,
    ReportSuite,
    Request,
    Suites,
    Timestamps,
)
from proxy.core.link import State
from proxy.drain import Drain, Policy
from proxy.fake import FakeCollector, captive_portal, timeout
from proxy.shell.queue import Queue
from proxy.shell.upstream import Upstream, Where

SUITES = Suites({"stamped": ReportSuite(Timestamps.REQUIRED)})
POLICY = Policy(first_s=0.05, most_s=0.2, concurrency=8, grace_s=0.2)
HITS = 40
TIMEOUT_S = 0.4


async def accept(queue: Queue) -> None:
    hits = []
    for number in range(HITS):
        target = f"/b/ss/stamped/1/JS-2/s1?AQB=1&vid=v{number % 20}&pageName=p{number}&AQE=1"
        lane = beacon.lane(b"adobe", ("stamped",), b"vid:v%d" % (number % 20))
        received = Received(queue.boots.current, queue.clock.ms())
        hits.append(NewHit(lane, received, wire.pack(Request("GET", target.encode()))))
    await queue.add(hits)


class Road:
    """Real upstreams, one a server; where the road leads may change under the drain."""

    def __init__(self, server: str) -> None:
        self.server = server
        self._upstreams: dict[str, Upstream] = {}

    @property
    def upstream(self) -> Upstream:
        if self.server not in self._upstreams:
            self._upstreams[self.server] = Upstream(Where(self.server, TIMEOUT_S))
        return self._upstreams[self.server]

    def ask(self, request: Request, tell: Callable[[Reply | Failure], None]) -> bool:
        return self.upstream.ask(request, tell)

    async def send(self, request: Request) -> Reply | Failure:
        return await self.upstream.send(request)

    async def probe(self) -> Failure | None:
        return await self.upstream.probe()

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()


@contextlib.asynccontextmanager
async def draining(queue: Queue, server: str) -> AsyncIterator[tuple[Drain, Road]]:
    road = Road(server)
    drain = Drain(
        queue, road, Analytics(SUITES, road.upstream.where.authority), POLICY, lambda: 0.5
    )
    running = asyncio.create_task(drain.run())
    try:
        yield drain, road
    finally:
        drain.stop()
        await running
        await road.close()


async def until_failed_often(drain: Drain) -> int:
    """Until the link has been found down and probed again; the most that flew."""
    most = 0
    async with asyncio.timeout(10):
        while drain.link.state is not State.OFFLINE or sum(drain.results.values()) < 1:
            most = max(most, drain.in_flight)
            await asyncio.sleep(0.01)
        for _ in range(50):
            most = max(most, drain.in_flight)
            await asyncio.sleep(0.01)
    return most


async def until_empty(queue: Queue) -> None:
    async with asyncio.timeout(20):
        while queue.ledger.waiting:  # noqa: ASYNC110 - the queue has no event for it
            await asyncio.sleep(0.01)


@pytest.fixture
async def waiting(open_queue: OpenQueue) -> Queue:
    queue = await open_queue(clock=FakeClock())
    await accept(queue)
    return queue


@pytest.mark.parametrize("fault", [timeout(), captive_portal()], ids=["silence", "portal"])
async def test_what_is_no_answer_is_not_believed(
    waiting: Queue, adobe: FakeCollector, fault: object
) -> None:
    """Silence and a portal's page leave each hit where it is, and then all are taken."""
    adobe.always(fault)  # type: ignore[arg-type]
    async with draining(waiting, adobe.url) as (drain, _):
        most = 0
        async with asyncio.timeout(10):
            while sum(drain.results.values()) < 3:
                most = max(most, drain.in_flight)
                await asyncio.sleep(0.01)
        assert waiting.ledger.delivered == 0
        assert waiting.ledger.dead <= 1  # an accused hit, see docs/design/0008
        assert most <= POLICY.concurrency
        adobe.heal()
        await until_empty(waiting)
    assert waiting.ledger.delivered + waiting.ledger.dead == HITS


@pytest.mark.parametrize("road", ["black hole", "broken TLS", "no such name"])
async def test_a_road_that_does_not_exist_costs_no_hit(
    waiting: Queue, adobe: FakeCollector, road: str
) -> None:
    """Nothing is delivered or buried; over the next road all of them leave."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hole:
        server = {
            # What connects waits, first for somebody to read and then for a place in line.
            "black hole": f"http://127.0.0.1:{hole.getsockname()[1]}",
            "broken TLS": adobe.url.replace("http://", "https://"),
            "no such name": "http://nowhere.invalid",
        }[road]
        async with draining(waiting, server) as (drain, way):
            most = await until_failed_often(drain)
            assert most <= POLICY.concurrency
            assert drain.last_failure
            assert (waiting.ledger.delivered, waiting.ledger.dead) == (0, 0)
            way.server = adobe.url
            await until_empty(waiting)
    assert waiting.ledger.delivered == HITS
