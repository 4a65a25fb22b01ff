"""Claims about giving way: hits that come go first, and a backlog still leaves."""

from __future__ import annotations

import asyncio
from math import inf

import pytest
import simulated
from hypothesis import given
from hypothesis import strategies as st
from simulated import Hits, Road

from proxy.core.analytics import Analytics
from proxy.core.hit import Request, Suites
from proxy.core.yielding import FULL, LEAST_RATE, OF_COMING, STRETCH_S, Yielding
from proxy.drain import Drain, Policy


class Machine:
    """A loop with a second a second; hits that come take theirs first when the drain lets them."""

    def __init__(self, in_us: float, out_us: float) -> None:
        self.in_s, self.out_s = in_us / 1e6, out_us / 1e6
        self.now = self.worked = 0.0
        self.came = self.went = 0
        self.yielding = Yielding(0.0, 0.0, 0, 0)

    def run(self, seconds: float, coming: float, leaving: float = inf) -> tuple[float, float]:
        """So many want to come a second, and so many to leave; the rates that became of it."""
        came, went, began = self.came, self.went, self.now
        while self.now < began + seconds:
            room = min(leaving * STRETCH_S, self.yielding.room)
            out = int(min(room, STRETCH_S / self.out_s))
            # Nobody says who of both is first: each gets what it wants, cut alike.
            wanted_s = coming * STRETCH_S * self.in_s + out * self.out_s
            cut = min(1.0, STRETCH_S / wanted_s) if wanted_s else 1.0
            self.came += int(coming * STRETCH_S * cut)
            self.went += int(out * cut)
            self.worked += min(wanted_s, STRETCH_S)
            self.now += STRETCH_S * 1.001
            self.yielding.look(self.now, self.worked, self.came, self.went)
        return (self.came - came) / seconds, (self.went - went) / seconds


def test_a_flood_of_hits_keeps_most_of_its_rate_while_a_backlog_leaves() -> None:
    """Clients that ask again as soon as they are answered: 15,000 a second, alone."""
    machine = Machine(65, 120)
    machine.run(2, 1e6)

    came, went = machine.run(5, 15_000)

    assert came >= 0.5 * 15_000
    assert went >= 0.6 * OF_COMING * came


@given(st.integers(1, 20), st.floats(0.05, 0.8))
def test_hits_that_leave_time_find_it(slowness: int, share: float) -> None:
    """On a fast machine and a slow one: none that comes waits, and the rest is the backlog's."""
    machine = Machine(65.0 * slowness, 120.0 * slowness)
    coming = share / machine.in_s
    machine.run(5, coming)

    came, went = machine.run(10, coming)

    left = (1 - share) / machine.out_s
    assert came >= 0.95 * coming - 1 / STRETCH_S or went <= 1.1 * max(LEAST_RATE, OF_COMING * came)
    assert went >= min(0.6 * left, 0.9 * LEAST_RATE)


def test_a_backlog_leaves_as_fast_as_it_can_while_nothing_comes() -> None:
    machine = Machine(65, 120)
    _, went = machine.run(5, 0)

    assert machine.yielding.room == inf
    assert went == pytest.approx(1 / machine.out_s, rel=0.02)


def test_once_the_flood_is_over_nothing_is_held_back() -> None:
    """Within a few seconds."""
    machine = Machine(65, 120)
    machine.run(5, 1e6)
    held = machine.yielding.room

    machine.run(3, 0)

    assert held < inf
    assert machine.yielding.room > 10 * held


def test_a_machine_that_others_keep_busy_does_not_stop_the_backlog() -> None:
    """The loop waits for a processor all the time, however little it does."""
    yielding = Yielding(0.0, 0.0, 0, 0)
    for look in range(1, 100):
        yielding.look(look * 0.1001, look * 0.1001, look, look * 10)

    assert yielding.room == pytest.approx(LEAST_RATE * STRETCH_S)


def test_what_is_looked_at_too_soon_changes_nothing() -> None:
    yielding = Yielding(0.0, 0.0, 0, 0)
    yielding.look(STRETCH_S / 2, 1.0, 10_000, 10_000)

    assert yielding.room == inf
    assert FULL < 1


# -- the drain ------------------------------------------------------------------------------


class Load:
    """A drain with a backlog, on a loop that is as full as a test says."""

    def __init__(self) -> None:
        self.hits, self.road = Hits(), Road(rtt_s=0.01)
        for number in range(6_000):
            self.hits.add(number, request(number), told=False)
        self.full = 1.0
        self.worked = self.at = 0.0
        self.drain = Drain(
            self.hits,
            self.road,
            Analytics(Suites({}), b"adobe.example"),
            Policy(),
            lambda: 0.5,
            worked_s=self.worked_s,
        )

    def worked_s(self) -> float:
        now = simulated.now()
        self.worked += (now - self.at) * self.full
        self.at = now
        return self.worked

    async def come(self, seconds: float, rate: float) -> int:
        """So many hits a second come; how many left meanwhile."""
        before, until = len(self.hits.taken), simulated.now() + seconds
        while simulated.now() < until:
            await asyncio.sleep(1 / rate)
            number = self.hits.last_id
            self.hits.add(number, request(number))
        return len(self.hits.taken) - before


def request(number: int) -> Request:
    return Request("GET", b"/b/ss/rsid/1/JS-2.27.0/s1?AQB=1&vid=v%d&AQE=1" % number)


def test_the_drain_gives_way_while_hits_come_to_a_full_loop() -> None:
    """And goes on as fast as it can once there is time."""

    async def scenario() -> tuple[int, int]:
        load = Load()
        draining = asyncio.create_task(load.drain.run())
        await load.come(1.0, 50.0)
        held_back = await load.come(2.0, 50.0)
        load.full = 0.5
        freely = await load.come(0.9, 50.0)
        load.drain.stop()
        await draining
        return held_back, freely

    held_back, freely = simulated.run(scenario())

    assert held_back == pytest.approx(2 * LEAST_RATE, rel=0.1)
    assert freely > 3 * 0.9 * LEAST_RATE
