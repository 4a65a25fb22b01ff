"""Bad weather, in simulated time: a link that flaps, a server that says "not now", poison.

The drain, link, pace and schedule are the real ones; queue and road are made of memory, so a
day passes in seconds and every run is the same for its seed.  The figures are printed:

    pytest -s tests/reliability/test_weather.py
    TRACKOFFLINE_CYCLES=100 pytest -s tests/reliability/test_weather.py -k flapping
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from functools import cache

import pytest
import simulated
from simulated import GIF, Hits, Road, now

from proxy.core.analytics import Analytics
from proxy.core.hit import Failure, Fault, Hit, Reply, ReportSuite, Request, Suites, Timestamps
from proxy.drain import Drain, Policy

SUITES = Suites({"stamped": ReportSuite(Timestamps.REQUIRED)})
CYCLES = int(os.environ.get("TRACKOFFLINE_CYCLES", "5"))
UP_S, DOWN_S = 30.0, 600.0
RTT_S = 0.05
CONCURRENCY = 8
SERVER_RATE = 50


class Memory(Hits):
    """The same queue, quick with a large backlog."""

    async def fetch(self, ids: Sequence[int]) -> list[Hit]:
        found = [self.waiting[hit] for hit in ids if hit in self.waiting]
        await asyncio.sleep(self.disk_s)
        return found


def request(visitor: int, number: int) -> Request:
    target = f"/b/ss/stamped/1/JS-2.22.0/s1?AQB=1&vid=v{visitor}&pageName=p{number}&AQE=1"
    return Request("GET", target.encode())


def share(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def drain_of(hits: Hits, road: Road, policy: Policy, seed: int = 1) -> Drain:
    jitter = random.Random(seed).random
    return Drain(hits, road, Analytics(SUITES, b"adobe.example"), policy, jitter)


# -- a flapping link -------------------------------------------------------------------------


def is_up() -> bool:
    return now() % (DOWN_S + UP_S) >= DOWN_S


class Flapping(Road):
    """Nothing is reached while the link is down, and what is under way then is cut."""

    async def send(self, request: Request) -> Reply | Failure:
        self.sent.append((now(), request))
        if not is_up():
            return Failure(Fault.CONNECT)
        await asyncio.sleep(self.rtt_s)
        return GIF if is_up() else Failure(Fault.CUT)

    async def probe(self) -> Failure | None:
        self.probed.append(now())
        await asyncio.sleep(self.rtt_s)
        return None if is_up() else Failure(Fault.CONNECT)


async def flap(every_s: float) -> tuple[Hits, Flapping]:
    """Several hundred visitors with a backlog, who go on at one hit each `every_s` together."""
    hits, road = Memory(), Flapping(rtt_s=RTT_S)
    for number in range(int(CYCLES * UP_S * CONCURRENCY / RTT_S)):
        hits.add(number % 300, request(number % 300, number), told=False)
    drain = drain_of(hits, road, Policy(concurrency=CONCURRENCY))
    running = asyncio.create_task(drain.run())
    number = 0
    while now() < CYCLES * (UP_S + DOWN_S):
        await asyncio.sleep(every_s)
        hits.add(number % 300, request(number % 300, number))
        number += 1
    drain.stop()
    await running
    return hits, road


def test_a_flapping_link_is_used_while_it_is_up() -> None:
    """Soon after it is up hits flow, most of the window is used, and no hit dies of it."""
    hits, road = simulated.run(flap(every_s=0.5))
    firsts, used = [], []
    # The most there can be: every slot busy for the road and the two writes of the queue.
    most = UP_S * CONCURRENCY / (RTT_S + 2 * hits.disk_s)
    at = [when for _, _, when in hits.taken]
    for cycle in range(CYCLES):
        up = cycle * (UP_S + DOWN_S) + DOWN_S
        taken = [when - up for when in at if up <= when < up + UP_S + 1]
        firsts.append(min(taken, default=UP_S))
        used.append(len(taken) / most)
    print(  # noqa: T201 - the figures
        f"\nflapping, {CYCLES} cycles: first delivery p95 {share(firsts, 0.95):.2f} s,"
        f" used min {min(used):.1%} mean {sum(used) / len(used):.1%}, probes {len(road.probed)}"
    )
    assert share(firsts, 0.95) <= 8
    assert min(used) >= 0.75
    assert not hits.dead
    gaps = [b - a for a, b in zip(road.probed, road.probed[1:], strict=False)]
    assert min(gaps) >= 0.99


def test_a_silent_queue_finds_the_link_as_soon() -> None:
    """With a hit in ten minutes nothing brings a probe forward: half a pause is enough."""
    hits, road = simulated.run(flap(every_s=629.0))
    at = [when for _, _, when in hits.taken]
    firsts = []
    for cycle in range(CYCLES):
        up = cycle * (UP_S + DOWN_S) + DOWN_S
        firsts.append(min((when - up for when in at if when >= up), default=UP_S))
    print(f"\nflapping and silent: first delivery p95 {share(firsts, 0.95):.2f} s")  # noqa: T201
    assert share(firsts, 0.95) <= 8
    assert max(firsts) <= Policy().most_s / 2 + 1
    assert not hits.dead
    assert road.probed


# -- a server that says "not now" ------------------------------------------------------------


class Limited(Road):
    """Takes `SERVER_RATE` in each second, and answers 429 to the rest."""

    def __init__(self, after_s: int) -> None:
        super().__init__(rtt_s=RTT_S)
        self.after_s = after_s
        self.second, self.count = -1, 0
        self.pauses: list[tuple[float, float]] = []

    async def send(self, request: Request) -> Reply | Failure:
        self.sent.append((now(), request))
        if int(now()) != self.second:
            self.second, self.count = int(now()), 0
        self.count += 1
        refused = self.count > SERVER_RATE
        await asyncio.sleep(self.rtt_s)
        if not refused:
            return GIF
        self.pauses.append((now(), now() + self.after_s))
        return Reply(429, ((b"retry-after", b"%d" % self.after_s),))


@pytest.mark.parametrize("after_s", [1, pytest.param(2, marks=pytest.mark.long), 5])
def test_a_backlog_leaves_at_the_pace_of_the_server(after_s: int) -> None:
    """At most a tenth above its limit, most of it used, Retry-After honoured, fresh hits too."""

    async def herd() -> tuple[Hits, Limited, dict[int, float], float]:
        hits, road = Memory(), Limited(after_s)
        for number in range(20_000):
            hits.add(number % 300, request(number % 300, number), told=False)
        drain = drain_of(hits, road, Policy())
        running = asyncio.create_task(drain.run())
        fresh: dict[int, float] = {}
        number = 0
        while len(hits.taken) - sum(hit.id in fresh for hit, _, _ in hits.taken) < 19_000:
            for _ in range(10):
                await asyncio.sleep(0.25)
                visitor = 1_000 + number
                fresh[hits.add(visitor, request(visitor, number))] = now()
                number += 1
        ended = now()
        drain.stop()
        await running
        return hits, road, fresh, ended

    hits, road, fresh, ended = simulated.run(herd())
    span = ended - 10
    sent = sum(10 <= at < ended for at, _ in road.sent) / (SERVER_RATE * span)
    used = sum(10 <= at < ended for _, _, at in hits.taken) / (SERVER_RATE * span)
    landed = {hit.id: at for hit, _, at in hits.taken}
    lags = [landed.get(hit, ended) - at for hit, at in fresh.items()]
    print(  # noqa: T201 - the figures
        f"\nherd, Retry-After {after_s}: sent {sent:.1%} of the limit, used {used:.1%},"
        f" fresh lag p95 {share(lags, 0.95):.2f} s, {len(road.pauses)} push-backs"
    )
    starts = [at for at, _ in road.sent]
    # What left before the answer came could not know of it.
    assert not [at for begin, end in road.pauses for at in starts if begin < at < end - 1e-6]
    assert sent <= 1.10
    assert used >= 0.85
    assert share(lags, 0.95) <= 60
    assert not hits.dead


# -- poison ----------------------------------------------------------------------------------

POISONS: dict[str, Reply | Failure] = {
    "clean": GIF,
    "400": Reply(400),
    "reset": Failure(Fault.CUT, "reset"),
    "endless": Failure(Fault.ENDLESS, "no end"),
}
POISONED = [f"pageName=p{number}&".encode() for number in (500, 1500, 2500, 3500, 4500)]


async def poisoned(kind: str) -> tuple[Hits, Road, dict[int, float]]:
    """5,000 hits of 200 visitors, 50 a second."""

    def says(request: Request) -> Reply | Failure:
        is_poison = any(name in request.target for name in POISONED)
        return POISONS[kind] if is_poison else GIF

    hits, road = Memory(), Road(says, rtt_s=RTT_S)
    drain = drain_of(hits, road, Policy())
    running = asyncio.create_task(drain.run())
    came: dict[int, float] = {}
    for number in range(5_000):
        visitor = number * 7 % 200
        came[hits.add(visitor, request(visitor, number))] = now()
        await asyncio.sleep(0.02)
    while hits.waiting:  # noqa: ASYNC110 - simulated time
        await asyncio.sleep(1)
    drain.stop()
    await running
    return hits, road, came


@cache
def unpoisoned() -> tuple[Hits, Road, dict[int, float]]:
    return simulated.run(poisoned("clean"))


@pytest.mark.parametrize("kind", ["400", "reset", "endless"])
def test_poison_delays_its_own_visitor_a_little_and_nobody_else(kind: str) -> None:
    """At most `attempts` tries, then a dead letter with its reason; the others see nothing."""
    clean, _, came_clean = unpoisoned()
    hits, road, came = simulated.run(poisoned(kind))
    tries = [sum(name in sent.target for _, sent in road.sent) for name in POISONED]
    lanes = {grave.hit.lane for grave in hits.dead}
    same = [at - came[hit.id] for hit, _, at in hits.taken if hit.lane in lanes]
    others = [at - came[hit.id] for hit, _, at in hits.taken if hit.lane not in lanes]
    before = [at - came_clean[hit.id] for hit, _, at in clean.taken]
    print(  # noqa: T201 - the figures
        f"\npoison {kind}: tries {tries}, same visitor {max(same):.2f} s at most, others"
        f" {max(others):.3f} s at most, {max(before):.3f} s without poison"
    )
    assert len(hits.dead) == len(POISONED)
    assert all(grave.reason for grave in hits.dead)
    assert max(tries) <= Policy().attempts
    assert max(same) <= 60
    assert share(others, 0.99) <= share(before, 0.99) + 0.1
