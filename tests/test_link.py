"""The link: its states, its window, and whose fault a failure is; all in simulated time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core import backoff
from proxy.core.link import Flight, Link, State

ATTEMPTS = 5
LANE = 100_000  # hits of lane n are numbered from here times n


def a_link(concurrency: int = 64) -> Link:
    return Link(first=1.0, most=15.0, concurrency=concurrency)


def flight(began: float, lane: int = 1, hit: int = 1, failed_at: float | None = None) -> Flight:
    return Flight(hit, lane, began, failed_at)


def state(link: Link) -> State:
    return link.state


def online(concurrency: int = 64) -> Link:
    """A link that was proven at 0 s."""
    link = a_link(concurrency)
    link.delivered(0.0, flight(0.0))
    return link


def offline() -> Link:
    """A link that went down at 10 s, the first probe due at 10.75 s."""
    link = online()
    link.lost(10.0, flight(9.0), lanes=9, jitter=0.5)
    return link


# States


def test_an_unproven_link_lets_one_hit_fly() -> None:
    """At the start no probe is needed, but one hit has to come through first."""
    link = a_link()
    assert state(link) is State.SUSPECT
    assert (link.room([]), link.room([0.0])) == (1, 0)
    link.delivered(0.1, flight(0.0))
    assert state(link) is State.ONLINE
    assert link.room([]) == 2


def test_a_lost_connection_takes_the_link_down_at_once() -> None:
    """Nothing flies, and the next probe is due after the first delay."""
    link = online()
    assert link.lost(10.0, flight(9.0), lanes=9, jitter=0.5) is False
    assert state(link) is State.OFFLINE
    assert link.room([]) == 0
    assert link.next_wake(10.0) == 10.75
    assert not link.probe_due(10.74)
    assert link.probe_due(10.75)


def test_one_lost_connection_among_deliveries_is_no_outage() -> None:
    """What began before the last delivery proves nothing, unless it is not alone."""
    link = online()
    link.delivered(9.5, flight(9.4))
    link.lost(10.0, flight(9.0, lane=1), lanes=9, jitter=0.5)
    link.lost(10.0, flight(9.0, lane=2), lanes=9, jitter=0.5)
    assert state(link) is State.ONLINE
    link.lost(10.0, flight(9.0, lane=3), lanes=9, jitter=0.5)
    assert state(link) is State.OFFLINE


def test_three_lanes_failing_in_a_row_are_an_outage() -> None:
    """One lane failing thrice is not, nor are three with a delivery between."""
    link = online()
    for began in (1.0, 2.0, 3.0):
        link.failed(began + 0.1, flight(began, lane=1), lanes=9, jitter=0.5)
    link.failed(4.1, flight(4.0, lane=2), lanes=9, jitter=0.5)
    link.delivered(4.2, flight(4.1, lane=3))
    for lane in (4, 5):
        link.failed(5.1, flight(5.0, lane=lane), lanes=9, jitter=0.5)
    assert state(link) is State.ONLINE
    link.failed(6.1, flight(6.0, lane=6), lanes=9, jitter=0.5)
    assert state(link) is State.OFFLINE


@pytest.mark.parametrize("lanes", [0, 1, 2])
def test_all_lanes_failing_are_an_outage(lanes: int) -> None:
    """Fewer than three lanes cannot be waited for."""
    link = online()
    for lane in range(max(1, lanes)):
        assert state(link) is State.ONLINE
        link.failed(1.1, flight(1.0, lane=lane), lanes=lanes, jitter=0.5)
    assert state(link) is State.OFFLINE


def test_a_push_back_is_no_outage() -> None:
    """Who says "later" is there; but that is no delivery either."""
    link, fresh = online(), a_link()
    for lane in range(9):
        link.pushed_back(1.1, flight(1.0, lane=lane))
        fresh.pushed_back(1.1, flight(1.0, lane=lane))
    assert (link.state, fresh.state) == (State.ONLINE, State.SUSPECT)


def test_the_probes_back_off_to_their_cap() -> None:
    """1, 2, 4, 7.5, 7.5 ... seconds, less the jitter: half of the longest pause of a hit."""
    link = offline()
    now, waits = 10.0, []
    for _ in range(7):
        at = link.next_wake(now)
        assert at is not None
        waits.append(at - now)
        link.probe_began(at)
        now = at + 0.3
        assert not link.probe_due(now)
        link.probe_failed(now, jitter=0.5)
    assert waits == pytest.approx([0.75, 1.5, 3.0, 5.625, 5.625, 5.625, 5.625])


def test_a_new_hit_brings_the_probe_forward_but_once_a_second() -> None:
    """And the back-off goes on where it was."""
    link = offline()
    now = 10.0
    for _ in range(6):
        at = link.next_wake(now)
        assert at is not None
        link.probe_began(at)
        link.probe_failed(at, jitter=0.9)
        now = at
    probes = []
    while now < 100:
        if now < 90:
            link.woken(now)
        if link.probe_due(now):
            probes.append(now)
            link.probe_began(now)
            link.probe_failed(now + 0.05, jitter=0.9)
        now += 0.1
    assert min(b - a for a, b in pairwise(probes)) >= 1.0 - 1e-9
    assert sum(at < 90 for at in probes) > 30
    assert link.next_wake(now) == pytest.approx(probes[-1] + 0.05 + 0.95 * 7.5)


def test_retry_now_probes_at_once() -> None:
    """A person does not wait; a probe under way is enough."""
    link = offline()
    link.retry_now(10.1)
    assert link.probe_due(10.1)
    link.probe_began(10.1)
    link.retry_now(10.2)
    assert not link.probe_due(10.2)


def test_after_a_probe_one_canary_flies_and_decides() -> None:
    """A failing one takes the link down for longer, a delivered one proves it."""
    link = offline()
    link.probe_began(11.0)
    link.probe_succeeded(11.1)
    assert state(link) is State.SUSPECT
    assert (link.room([]), link.room([11.1])) == (1, 0)
    link.failed(12.0, flight(11.2), lanes=9, jitter=0.5)
    assert state(link) is State.OFFLINE
    assert link.next_wake(12.0) == 13.5
    link.probe_began(13.5)
    link.probe_succeeded(13.6)
    link.delivered(13.8, flight(13.7))
    assert state(link) is State.ONLINE
    link.lost(20.0, flight(19.0), lanes=9, jitter=0.5)
    assert link.next_wake(20.0) == 20.75


def test_sends_from_before_the_outage_do_not_touch_the_new_link() -> None:
    """They hang until their timeout: neither their failure nor their number counts."""
    link = offline()
    link.probe_began(11.0)
    link.probe_succeeded(11.1)
    hanging = [9.0] * 64
    assert link.room(hanging) == 1
    for lane in range(9):
        link.failed(12.0, flight(9.0, lane=lane), lanes=9, jitter=0.5)
        link.lost(12.0, flight(9.0, lane=lane), lanes=9, jitter=0.5)
    assert state(link) is State.SUSPECT
    link.delivered(12.1, flight(11.2))
    assert link.room([9.0] * 10) == 2
    assert link.room([9.0] * 63) == 1


def test_a_late_answer_proves_the_link_even_while_it_is_offline() -> None:
    """A delivery is a delivery; the probe under way then says nothing new."""
    link = offline()
    link.probe_began(11.0)
    link.delivered(11.5, flight(9.5))
    assert state(link) is State.ONLINE
    link.probe_failed(12.0, jitter=0.5)
    assert state(link) is State.ONLINE
    assert link.next_wake(12.0) is None


def test_canaries_take_turns_among_the_lanes() -> None:
    """The lane that failed longest ago, or never, is next."""
    link = offline()
    for lane in (1, 2, 3, 1):
        link.failed(11.0, flight(9.5, lane=lane), lanes=9, jitter=0.5)
        link.probe_succeeded(12.0)
        link.failed(13.0, flight(12.5, lane=lane), lanes=9, jitter=0.5)
    assert sorted([1, 2, 3, 4], key=link.turn) == [4, 2, 3, 1]


# The window


def test_slow_start_doubles_each_round_and_stops_at_the_concurrency() -> None:
    """One more for each delivery."""
    link = a_link(concurrency=20)
    seen = []
    for at in range(6):
        seen.append(link.window)
        for _ in range(link.window):
            link.delivered(at + 0.5, flight(at))
    assert seen == [1, 2, 4, 8, 16, 20]


def test_failures_in_numbers_halve_the_window_once_a_round_trip() -> None:
    """Those that began before the cut knew nothing of it; beyond it growth is slow."""
    link = online()
    for _ in range(63):
        link.delivered(1.0, flight(0.5))
    assert link.window == 64
    for lane in range(2):
        link.failed(3.0, flight(2.0, lane=lane, hit=lane), lanes=99, jitter=0.5)
    assert link.window == 32
    link.delivered(3.1, flight(2.0))
    link.failed(3.2, flight(2.5, lane=7, hit=7), lanes=99, jitter=0.5)
    assert link.window == 32
    for _ in range(34):
        link.delivered(3.5, flight(3.0))
    assert link.window == 33


def test_push_back_shrinks_the_window_by_a_tenth() -> None:
    """The pace does the rest."""
    link = online()
    for _ in range(63):
        link.delivered(1.0, flight(0.5))
    for _ in range(20):
        link.pushed_back(3.0, flight(2.0))
    assert link.window == 57


def test_a_poison_hit_does_not_shrink_the_window() -> None:
    """Its failures, however many, say nothing of the others."""
    link = online()
    failed_at = None
    for at in range(1, 20):
        for _ in range(30):
            link.delivered(at + 0.5, flight(at))
        link.failed(at + 0.9, flight(at + 0.6, 2, 2, failed_at), lanes=9, jitter=0.5)
        failed_at = at + 0.9
    assert link.window == 64


def test_the_last_good_window_outlives_an_outage() -> None:
    """Slow start up to it, then carefully."""
    link = online()
    for _ in range(63):
        link.delivered(1.0, flight(0.5))
    for lane in range(2):
        link.failed(3.0, flight(2.0, lane=lane, hit=lane), lanes=99, jitter=0.5)
    link.lost(4.0, flight(3.5), lanes=9, jitter=0.5)
    assert link.window == 1
    link.probe_succeeded(5.0)
    for _ in range(31):
        link.delivered(5.5, flight(5.1))
    assert link.window == 32
    link.delivered(5.5, flight(5.1))
    assert link.window == 32


# Whose fault


def test_while_nothing_is_delivered_one_hit_alone_stands_accused() -> None:
    """The first to fail; when it is buried or gone, or at a delivery, the next one may."""
    link = a_link()

    def counts(at: float, hit: int, failed_at: float | None = None) -> bool:
        send = Flight(hit, hit, at - 0.5, failed_at)
        return link.failed(at, send, lanes=9, jitter=0.5)

    assert [counts(1, hit=1), counts(2, hit=2), counts(3, hit=3)] == [True, False, False]
    assert [counts(4, hit=1, failed_at=1), counts(5, hit=2, failed_at=2)] == [True, False]
    link.left(1)
    assert [counts(6, hit=2, failed_at=5), counts(7, hit=3, failed_at=3)] == [True, False]
    assert link.may_bury()
    link.buried()
    link.left(2)
    assert not link.may_bury()
    assert [counts(8, hit=3, failed_at=7), counts(9, hit=4)] == [False, False]
    link.delivered(10, flight(9.5, lane=5, hit=5))
    assert link.may_bury()


def test_the_next_hit_of_the_accused_ones_lane_inherits_its_place() -> None:
    """The accused expired, say: nobody need tell the link."""
    link = a_link()
    assert link.failed(1, Flight(1, 7, 0.5), lanes=1, jitter=0.5)
    assert link.failed(2, Flight(2, 7, 1.5), lanes=1, jitter=0.5)


def test_each_failure_counts_when_something_was_delivered_since_the_last() -> None:
    """And a hit that fails every second time a hit is sent is still but one hit."""
    link = online()
    failed_at = None
    for at in range(1, 9):
        assert link.failed(at + 0.2, Flight(1, 1, at + 0.1, failed_at), lanes=9, jitter=0.5)
        failed_at = at + 0.2
        link.failed(at + 0.3, Flight(2, 2, at + 0.1, at - 0.1), lanes=9, jitter=0.5)
        link.delivered(at + 0.5, flight(at + 0.4, lane=3, hit=100 + at))
    assert link.window == 1 + 1 + 8


def test_no_failure_counts_while_hits_fail_in_numbers_but_the_accused_ones() -> None:
    """One charge a delivery: a server that fails most hits is an outage, not their fault."""
    link = online()
    for hit in range(20):
        link.failed(1.5, Flight(hit, hit, 1.0), lanes=99, jitter=0.5)
        link.delivered(1.5, flight(1.0, lane=hit, hit=hit, failed_at=1.2))
    charged = [
        link.failed(2.5, Flight(hit, hit, 2.0, 1.4), lanes=99, jitter=0.5) for hit in range(20, 25)
    ]
    assert charged == [True, False, False, False, False]


# A drain in simulated time

Server = Callable[[float, int], tuple[str, float]]


@dataclass
class Run:
    """A drain of `waiting` (hits by lane) in simulated time, and what came of it."""

    waiting: dict[int, list[int]]
    random: Random
    link: Link = field(default_factory=a_link)
    delivered: dict[int, float] = field(default_factory=dict)
    buried: dict[int, float] = field(default_factory=dict)
    between: list[int] = field(default_factory=lambda: [0])  # burials between two deliveries
    states: set[State] = field(default_factory=set)
    due: dict[int, float] = field(default_factory=dict)
    tries: Counter[int] = field(default_factory=Counter)
    failures: Counter[int] = field(default_factory=Counter)
    failed_at: dict[int, float] = field(default_factory=dict)

    def next_lanes(self, now: float, flying: list[Flight]) -> list[int]:
        """The lanes that send now: as canaries in turn, else as their back-off allows."""
        aloft = {send.lane for send in flying}
        ready = [lane for lane, hits in self.waiting.items() if hits and lane not in aloft]
        if self.link.state is State.ONLINE:
            ready = [lane for lane in ready if self.due.get(lane, 0.0) <= now]
        ready.sort(key=lambda lane: (self.link.turn(lane), lane))
        return ready[: self.link.room(send.began for send in flying)]

    def landed(self, now: float, what: str, send: Flight) -> None:
        hit, lane = send.hit, send.lane
        if what == "ok":
            self.link.delivered(now, send)
            self.delivered[hit] = now
            self.between.append(0)
            self.waiting[lane].pop(0)
            return
        alive, jitter = sum(map(bool, self.waiting.values())), self.random.random()
        if what == "error":
            counts = self.link.failed(now, send, lanes=alive, jitter=jitter)
        else:
            portal = what == "portal"
            counts = self.link.lost(now, send, lanes=alive, jitter=jitter, answered=portal)
        self.tries[hit] += counts
        self.failures[hit] += 1
        self.failed_at[hit] = now
        wait = backoff.delay(self.failures[hit], first=1.0, most=15.0, jitter=jitter)
        # While the link is down it is the probe that waits, not the hit.
        self.due[lane] = now if self.link.state is State.OFFLINE else now + wait
        if self.tries[hit] >= ATTEMPTS and self.link.may_bury():
            self.link.buried()
            self.link.left(hit)
            self.buried[hit] = now
            self.between[-1] += 1
            self.waiting[lane].pop(0)


def drain(lanes: dict[int, list[int]], server: Server, until: float, *, seed: int = 7) -> Run:
    """Drain `lanes` into `server`, which says what becomes of a hit and after how long."""
    run = Run({lane: list(hits) for lane, hits in lanes.items()}, Random(seed))
    flying: list[tuple[float, int, str, Flight]] = []
    number = count()
    now = 0.0
    while now < until and any(run.waiting.values()):
        if run.link.probe_due(now):
            run.link.probe_began(now)
            run.link.probe_succeeded(now)
        for lane in run.next_lanes(now, [send for *_, send in flying]):
            hit = run.waiting[lane][0]
            what, after_s = server(now, hit)
            send = Flight(hit, lane, now, run.failed_at.get(hit))
            heappush(flying, (now + after_s, next(number), what, send))
        run.states.add(run.link.state)
        wakes = [at for lane, at in run.due.items() if at > now and run.waiting[lane]]
        wakes += [flying[0][0]] if flying else []
        wakes += [at for at in (run.link.next_wake(now),) if at is not None]
        now = min(wakes)
        while flying and flying[0][0] <= now:
            _, _, what, send = heappop(flying)
            run.landed(now, what, send)
    return run


def many_lanes(lanes: int, hits: int) -> dict[int, list[int]]:
    return {lane: [lane * LANE + k for k in range(hits)] for lane in range(lanes)}


@pytest.mark.parametrize("what,after_s", [("error", 0.02), ("error", 30.0), ("lost", 10.0)])
@pytest.mark.parametrize("lanes", [1, 2, 5, 200])
def test_a_total_outage_costs_one_hit_at_most(what: str, after_s: float, lanes: int) -> None:
    """Hours of nothing but failures, then everything else arrives."""
    hours = 6 * 3600.0

    def server(now: float, _: int) -> tuple[str, float]:
        return (what, after_s) if 2 < now < hours else ("ok", 0.05)

    run = drain(many_lanes(lanes, 80), server, hours + 1000)
    assert len(run.buried) <= 1
    assert len(run.delivered) + len(run.buried) == lanes * 80
    assert State.OFFLINE in run.states


def test_a_captive_portal_costs_no_hit_at_all() -> None:
    """It answers, but not in Adobe's place: nobody stands accused."""

    def server(now: float, _: int) -> tuple[str, float]:
        return ("portal", 0.02) if 2 < now < 40_000 else ("ok", 0.05)

    run = drain(many_lanes(5, 80), server, 41_000)
    assert run.buried == {}
    assert len(run.delivered) == 400


def test_a_flapping_link_costs_no_hit() -> None:
    """A hundred times 30 s up and 10 min down; what flies when it goes down hangs."""

    def server(now: float, _: int) -> tuple[str, float]:
        if now % 630 < 29.7:
            return "ok", 0.3
        return ("error", 30.0) if now % 630 < 30 else ("lost", 0.1)

    run = drain(many_lanes(3, 10_000), server, 63_000)
    assert run.buried == {}
    # Three lanes deliver ten hits a second; a probe finds the link after 7.5 s at most.
    assert len(run.delivered) >= 100 * (30 - 16) * 10


def test_a_server_that_fails_nine_of_ten_buries_next_to_nothing() -> None:
    """An hour of that is an outage in all but name."""
    random = Random(1)

    def server(now: float, _: int) -> tuple[str, float]:
        return ("error" if now < 3600 and random.random() < 0.9 else "ok"), 0.05

    lanes = many_lanes(50, 100)
    run = drain(lanes, server, 8000)
    assert len(run.buried) <= 0.01 * 5000
    assert len(run.delivered) + len(run.buried) == 5000


@pytest.mark.parametrize("what", ["error", "portal"])
@pytest.mark.parametrize("lanes", [2, 3, 50])
def test_a_poison_hit_is_buried_within_a_minute_while_others_flow(what: str, lanes: int) -> None:
    """After its attempts, and its visitor goes on."""
    waiting = many_lanes(lanes, 3000)
    poison = waiting[1][1]

    def server(_: float, hit: int) -> tuple[str, float]:
        return (what if hit == poison else "ok"), 0.05

    run = drain(waiting, server, 60)
    assert list(run.buried) == [poison]
    assert run.buried[poison] < 60
    assert waiting[1][2] in run.delivered


def test_a_poison_hit_in_the_only_lane_is_buried_within_a_minute() -> None:
    """It stands accused alone; what waits behind it is delivered."""
    waiting = {1: list(range(20))}

    def server(_: float, hit: int) -> tuple[str, float]:
        return ("error" if hit == 5 else "ok"), 0.05

    run = drain(waiting, server, 100)
    assert list(run.buried) == [5]
    assert max(run.delivered.values()) < 60
    assert len(run.delivered) == 19


def test_poison_heads_in_every_other_lane_are_all_buried() -> None:
    """Much poison is slower to go, but it goes, and blocks nobody else."""
    waiting = many_lanes(20, 300)

    def server(_: float, hit: int) -> tuple[str, float]:
        return ("error" if hit % (2 * LANE) == 3 else "ok"), 0.05

    run = drain(waiting, server, 600)
    assert sorted(run.buried) == [lane * LANE + 3 for lane in range(0, 20, 2)]
    assert len(run.delivered) == 20 * 300 - 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1, 200), st.sampled_from(["ok", "error", "lost", "portal", "mixed"])),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_no_two_hits_are_buried_without_a_delivery_between(
    weather: list[tuple[float, str]], lanes: int, seed: int
) -> None:
    """In any weather; and when it clears, all is delivered."""
    random = Random(seed)
    ends: list[tuple[float, str]] = []
    for length, what in weather:
        ends.append(((ends[-1][0] if ends else 0.0) + length, what))

    def server(now: float, _: int) -> tuple[str, float]:
        what = next((what for end, what in ends if now < end), "ok")
        if what == "mixed":
            what = random.choice(["ok", "error", "lost", "portal"])
        return what, random.uniform(0.2, 2.0)

    run = drain(many_lanes(lanes, 30), server, ends[-1][0] + 500, seed=seed)
    assert max(run.between) <= 1
    assert len(run.delivered) + len(run.buried) == lanes * 30


# Whatever happens

EVENTS: dict[str, Callable[[Link, float, Flight, float], object]] = {
    "delivered": lambda link, now, send, _: link.delivered(now, send),
    "failed": lambda link, now, send, j: link.failed(now, send, lanes=send.lane, jitter=j),
    "lost": lambda link, now, send, j: link.lost(now, send, lanes=send.lane, jitter=j),
    "portal": lambda link, now, send, j: link.lost(
        now, send, lanes=send.lane, jitter=j, answered=True
    ),
    "pushed back": lambda link, now, send, _: link.pushed_back(now, send),
    "left": lambda link, _, send, __: link.left(send.hit),
    "buried": lambda link, _, __, ___: link.buried(),
    "probe began": lambda link, now, _, __: link.probe_began(now),
    "probe succeeded": lambda link, now, _, __: link.probe_succeeded(now),
    "probe failed": lambda link, now, _, j: link.probe_failed(now, jitter=j),
    "woken": lambda link, now, _, __: link.woken(now),
    "retry now": lambda link, now, _, __: link.retry_now(now),
}
steps = st.lists(
    st.tuples(
        st.sampled_from(list(EVENTS)),
        st.floats(0, 40),  # how long after the step before
        st.floats(0, 60),  # how long the send took
        st.integers(1, 5),  # lane
        st.booleans(),  # failed before
        st.floats(0, 1, exclude_max=True),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(steps, st.integers(1, 70))
def test_the_window_stays_in_its_bounds_and_the_link_is_never_stuck(
    script: list[tuple[str, float, float, int, bool, float]], concurrency: int
) -> None:
    """After any events, in any order, a reachable server gets the link online."""
    link = a_link(concurrency)
    now = 0.0
    for what, wait, took, lane, again, jitter in script:
        now += wait
        send = Flight(lane, lane, now - took, now - took - 1 if again else None)
        EVENTS[what](link, now, send, jitter)
        assert 1 <= link.window <= concurrency
        assert link.room([]) == (0 if link.state is State.OFFLINE else link.window)
        assert link.room([now] * concurrency) == 0
        wake = link.next_wake(now)
        assert (wake is None) is (link.state is not State.OFFLINE)
        assert wake is None or now <= wake <= now + 60
    wake = link.next_wake(now)
    if wake is not None:
        assert link.probe_due(wake)
        link.probe_began(wake)
        link.probe_succeeded(wake)
        assert link.room([now - 1e6] * concurrency) == 1
    link.delivered(now + 61, flight(now + 60.5))
    assert state(link) is State.ONLINE
    assert link.may_bury()
