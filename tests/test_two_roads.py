"""Claims about two drains on one queue, in simulated time: days of outages on either road.

The queue of `simulated` is strict: only a waiting hit may be sent, no two of a lane at once,
and a hit leaves once.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict

import pytest
from simulated import GIF, Hits, Outcome, Road, now, run
from test_drain import comes

from proxy.core.analytics import Analytics
from proxy.core.edge import Edge
from proxy.core.hit import Failure, Fault, Reply, ReportSuite, Request, Suites, Timestamps
from proxy.core.link import Flight, State
from proxy.drain import MOST_WATCHED, Drain, Policy

SUITES = Suites({"opt": ReportSuite(Timestamps.OPTIONAL)})
REFUSED = Failure(Fault.CONNECT, "connection refused")
CUT = Failure(Fault.CUT, "gone")
TAKEN = Reply(204)


def beacon(number: int) -> Request:
    return Request("GET", b"/b/ss/opt/1/x/s%d?AQB=1&vid=1&pageName=p%d&AQE=1" % (number, number))


def event(number: int) -> Request:
    body = json.dumps({"events": [{"xdm": {"_id": str(number)}}]}).encode()
    return Request("POST", b"/ee/v1/collect?configId=abc", (), body)


class Weather:
    """What a road meets: long outages of two kinds, push-backs, and lost answers."""

    def __init__(self, seed: int, good: Reply, ambiguous: float) -> None:
        self.drawn = random.Random(seed)
        self.good, self.ambiguous = good, ambiguous
        self.until, self.now = 0.0, "fair"
        self.fair = False

    def _look(self) -> str:
        if self.fair:
            return "fair"
        while now() >= self.until:
            self.now = self.drawn.choice(["fair", "fair", "refused", "black hole", "pushes back"])
            self.until += self.drawn.uniform(1, 600)
        return self.now

    def says(self, _: Request) -> Outcome:
        match self._look():
            case "refused":
                return REFUSED
            case "black hole":
                return CUT
            case "pushes back":
                return Reply(429, ((b"retry-after", b"3"),))
        return CUT if self.drawn.random() < self.ambiguous else self.good

    def listens(self) -> Failure | None:
        return REFUSED if self._look() == "refused" else None


def in_order(hits: Hits) -> bool:
    """Whether the hits of each lane were delivered in order, once each."""
    lanes: dict[int, list[int]] = defaultdict(list)
    for hit, _, _ in hits.taken:
        lanes[hit.lane].append(hit.id)
    return all(ids == sorted(set(ids)) for ids in lanes.values())


class Days:
    """A queue, two roads with their weather, and clients who send to either."""

    def __init__(self, seed: int) -> None:
        self.drawn = drawn = random.Random(seed)
        self.hits = hits = Hits(page_hits=drawn.choice([3, 50, 1000]))
        self.skies = Weather(seed, GIF, 0.02), Weather(seed + 1000, TAKEN, 0.02)
        self.roads = [Road(sky.says, sky.listens, more_s=0.2) for sky in self.skies]
        for _ in range(drawn.choice([0, 40, 400])):
            self.send(told=False)
        policy = Policy(first_s=1, most_s=15, attempts=10**6, concurrency=8)
        analytics, edge = Analytics(SUITES, b"adobe"), Edge()
        self.drains = [
            Drain(hits, self.roads[0], analytics, policy, drawn.random),
            Drain(hits, self.roads[1], edge, policy, drawn.random, hits.feed()),
        ]

    def send(self, *, told: bool = True) -> None:
        visitor, number = self.drawn.randrange(7), self.hits.last_id
        if self.drawn.random() < 0.5:
            self.hits.add(-1 - visitor, event(number), told=told)
        else:
            self.hits.add(visitor, beacon(number), told=told)

    def meddle(self) -> None:
        """What people and configurations do to a drain now and then."""
        drain = self.drawn.choice(self.drains)
        for what in (drain.start_over, lambda: drain.pause(True)):
            if self.drawn.random() < 0.02:
                what()
        if self.drawn.random() < 0.1:
            self.resume()

    def resume(self) -> None:
        for drain in self.drains:
            drain.pause(False)

    async def pass_by(self) -> None:
        async with asyncio.TaskGroup() as running:
            for drain in self.drains:
                running.create_task(drain.run())
            for _ in range(600):
                self.send(told=self.drawn.random() > 0.02)
                self.meddle()
                await asyncio.sleep(self.drawn.choice([0, 0, 0.01, 1, 30]))
            for sky in self.skies:
                sky.fair = True
            self.resume()
            self.hits.add(0, beacon(0))
            self.hits.add(-1, event(0))
            await comes(lambda: not self.hits.waiting)
            for drain in self.drains:
                drain.stop()


@pytest.mark.parametrize("seed", range(25))
def test_whatever_the_weather_each_road_delivers_its_own_once_and_in_order(seed: int) -> None:
    """Hits of both come all the while, some untold, with pauses and starts over in between."""

    async def scenario() -> Days:
        days = Days(seed)
        await days.pass_by()
        return days

    days = run(scenario())
    assert in_order(days.hits)
    assert len(days.hits.taken) == days.hits.last_id
    assert not days.hits.dead
    assert all(request.method == "GET" for _, request in days.roads[0].sent)
    assert all(request.method == "POST" for _, request in days.roads[1].sent)


def test_hits_of_one_road_bring_no_probe_of_the_other_forward() -> None:
    """A busy site must not ask a dead server of the other kind once a second."""

    async def scenario() -> list[float]:
        hits = Hits()
        dead = Road(lambda _: REFUSED, lambda: REFUSED)
        policy = Policy(first_s=1, most_s=15)
        drains = [
            Drain(hits, Road(), Analytics(SUITES, b"adobe"), policy, lambda: 0.5),
            Drain(hits, dead, Edge(), policy, lambda: 0.5, hits.feed()),
        ]
        running = [asyncio.create_task(drain.run()) for drain in drains]
        hits.add(-1, event(0))
        for number in range(1_000):
            hits.add(1, beacon(number))
            await asyncio.sleep(0.1)
        before = len(dead.probed)
        hits.add(-1, event(1))
        await comes(lambda: len(dead.probed) > before)
        assert now() < 101.5, "its own one does"
        for drain in drains:
            drain.stop()
        await asyncio.gather(*running)
        return dead.probed

    assert len(run(scenario())) < 25


def test_a_dead_road_costs_the_other_no_time() -> None:
    """A thousand hits behind it, and everything sent there hangs."""

    async def scenario(edge: Outcome) -> float:
        hits = Hits()
        for number in range(1_000):
            hits.add(-1 - number % 50, event(number), told=False)
        for number in range(1_000):
            hits.add(number % 50, beacon(number), told=False)
        policy = Policy(concurrency=16)
        road = Road()
        drains = [
            Drain(hits, road, Analytics(SUITES, b"adobe"), policy, lambda: 0.5),
            Drain(hits, Road(lambda _: edge), Edge(), policy, lambda: 0.5, hits.feed()),
        ]
        running = [asyncio.create_task(drain.run()) for drain in drains]
        await comes(lambda: sum(hit.lane >= 0 for hit, _, _ in hits.taken) == 1_000)
        took = now()
        assert drains[0].link.state is State.ONLINE
        for drain in drains:
            drain.stop()
        await asyncio.gather(*running)
        return took

    well = run(scenario(TAKEN))
    assert run(scenario(REFUSED)) <= well * 1.05
    assert run(scenario(900.0)) <= well * 1.05


@pytest.mark.parametrize("why", ["held", "offline", "stopping"])
def test_what_stops_a_road_while_an_event_is_stored_is_noticed(why: str) -> None:
    """Its client is told at once, and does not wait for a reply that nobody will ask for."""

    async def scenario() -> tuple[bool, Reply | None, float]:
        hits = Hits()
        drain = Drain(hits, Road(lambda _: 900.0), Edge(), Policy(), lambda: 0.5, hits.feed())
        running = asyncio.create_task(drain.run())
        soon = drain.goes_soon(-1)
        match why:
            case "held":
                drain.pause(True)
            case "offline":
                drain.link.lost(
                    now(), Flight(0, -9, now(), None), lanes=9, jitter=0.5, answered=True
                )
            case "stopping":
                drain.stop()
        began = now()
        reply = await drain.reply(1, 30)
        took = now() - began
        drain.stop()
        await running
        return soon, reply, took

    assert run(scenario()) == (True, None, 0)


def test_no_more_clients_wait_for_a_server_than_the_port_can_spare() -> None:
    """A server that says nothing would else hold all the connections that others need."""

    async def scenario() -> int:
        hits = Hits()
        road = Road(lambda _: 900.0)
        drain = Drain(hits, road, Edge(), Policy(), lambda: 0.5, hits.feed())
        running = asyncio.create_task(drain.run())
        await asyncio.sleep(1)
        waiting = []
        for visitor in range(300):
            if drain.goes_soon(-1 - visitor):
                hits.add(-1 - visitor, event(visitor))
                waiting.append(asyncio.create_task(drain.reply(hits.last_id, 30)))
                await asyncio.sleep(0.001)
        drain.stop()
        await asyncio.gather(running, *waiting)
        return len(waiting)

    assert run(scenario()) == MOST_WATCHED
