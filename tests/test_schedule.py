"""Claims about which hit goes next: in order within a lane, one at a time, and nobody stuck."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.core.schedule import FRESH_TURN, Schedule

LANES = st.integers(0, 5)


@dataclass
class Lane:
    """One lane as the model knows it."""

    ids: list[int] = field(default_factory=list)
    state: str = "ready"
    until: float = 0.0
    fresh: bool = False


class AgainstAModel(RuleBasedStateMachine):
    """The schedule does what a dictionary of lists does, only without looking at all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule()
        self.lanes: dict[int, Lane] = {}
        self.last_id = 0
        self.turn = 0
        self.now = 0.0

    def of_state(self, state: str) -> list[int]:
        return [lane for lane, known in self.lanes.items() if known.state == state]

    def expected(self, turn: Callable[[int], int]) -> tuple[int, int] | None:
        self.turn += 1
        fresh_first = self.turn % FRESH_TURN == 0
        choices = [
            (turn(lane), self.lanes[lane].fresh != fresh_first, self.lanes[lane].ids[0], lane)
            for lane in self.of_state("ready")
        ]
        return min(choices)[2:] if choices else None

    def go_on(self, lane: int) -> None:
        if self.lanes[lane].ids:
            self.lanes[lane].state = "ready"
        else:
            del self.lanes[lane]

    @rule(lane=LANES, fresh=st.booleans(), gap=st.integers(1, 3))
    def offer(self, lane: int, fresh: bool, gap: int) -> None:
        self.last_id += gap
        self.schedule.offer(self.last_id, lane, fresh=fresh)
        self.lanes.setdefault(lane, Lane(fresh=fresh)).ids.append(self.last_id)

    @rule(lane=LANES, count=st.integers(2, 5))
    def offer_a_backlog(self, lane: int, count: int) -> None:
        for _ in range(count):
            self.offer(lane, fresh=False, gap=1)

    @rule(turns=st.none() | st.lists(st.integers(0, 2), min_size=6, max_size=6))
    def take(self, turns: list[int] | None) -> None:
        """The oldest head of those that may send, in its turn; never None while one may."""
        expected = self.expected(lambda lane: turns[lane] if turns else 0)
        got = self.schedule.take(turns.__getitem__ if turns else None)
        assert got == expected
        if got is not None:
            self.lanes[got[1]].state = "flying"

    @precondition(lambda self: self.of_state("flying"))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(self.of_state("flying")))
        self.schedule.settled(lane)
        self.lanes[lane].ids.pop(0)
        self.go_on(lane)

    @precondition(lambda self: self.of_state("flying"))
    @rule(data=st.data(), wait=st.sampled_from([0.0, 1.0, 2.0, 60.0]))
    def defer(self, data: st.DataObject, wait: float) -> None:
        lane = data.draw(st.sampled_from(self.of_state("flying")))
        self.schedule.deferred(lane, self.now + wait)
        self.lanes[lane].state = "later"
        self.lanes[lane].until = self.now + wait

    @precondition(lambda self: self.of_state("flying"))
    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(self.of_state("flying")))
        self.schedule.blocked(lane)
        self.lanes[lane].state = "blocked"

    @rule(passes=st.sampled_from([0.0, 0.5, 1.0, 59.0]))
    def release(self, passes: float) -> None:
        self.now += passes
        self.schedule.release(self.now)
        for lane in self.of_state("later"):
            if self.lanes[lane].until <= self.now:
                self.lanes[lane].state = "ready"

    @rule(among=st.none() | st.sets(st.integers(0, 7)))
    def release_all(self, among: set[int] | None) -> None:
        waiting = [lane for lane in self.of_state("later") if among is None or lane in among]
        assert self.schedule.release_all(among) == len(waiting)
        for lane in waiting:
            self.lanes[lane].state = "ready"

    @rule(back=st.integers(0, 10), spare=st.integers(0, 2**12), flying=st.booleans())
    def drop(self, back: int, spare: int, flying: bool) -> None:
        """Some ids are spared, the ones in flight by name or not: they fly all the same."""
        through = self.last_id - back
        heads = {self.lanes[lane].ids[0] for lane in self.of_state("flying")}
        spared = {self.last_id - n for n in range(12) if spare >> n & 1} - heads
        self.schedule.dropped(through, spared | heads if flying else spared)
        for lane, known in list(self.lanes.items()):
            head = known.ids[0]
            known.ids = [id_ for id_ in known.ids if id_ > through or id_ in spared | heads]
            if not known.ids or known.ids[0] != head:
                self.go_on(lane)

    @invariant()
    def counts_are_exact(self) -> None:
        ready = self.of_state("ready")
        assert len(self.schedule) == sum(len(known.ids) for known in self.lanes.values())
        assert self.schedule.flying == len(self.of_state("flying"))
        assert self.schedule.sendable == len(ready)
        assert self.schedule.sendable_backlog == sum(not self.lanes[lane].fresh for lane in ready)
        assert self.schedule.lanes == len(self.lanes)
        for lane in range(6):
            known = self.lanes.get(lane)
            assert self.schedule.behind(lane) == (len(known.ids) if known else 0)

    @invariant()
    def the_next_wait_ends_when_the_first_one_does(self) -> None:
        times = [self.lanes[lane].until for lane in self.of_state("later")]
        assert self.schedule.next_at() == min(times, default=None)

    def teardown(self) -> None:
        """Whatever happened before: every hit that is not blocked leaves, lane by lane in order."""
        for lane in self.of_state("flying"):
            self.schedule.deferred(lane, self.now)
            self.lanes[lane].state = "ready"
        self.schedule.release_all()
        left: dict[int, list[int]] = {}
        while chosen := self.schedule.take():
            hit, lane = chosen
            left.setdefault(lane, []).append(hit)
            self.schedule.settled(lane)
        blocked = self.of_state("blocked")
        assert left == {
            lane: known.ids for lane, known in self.lanes.items() if lane not in blocked
        }
        assert self.schedule.lanes == len(blocked)


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=150, stateful_step_count=50)


def test_an_empty_schedule_has_nothing_to_say() -> None:
    schedule = Schedule()
    assert schedule.take() is None
    assert schedule.next_at() is None
    assert (len(schedule), schedule.flying, schedule.sendable, schedule.lanes) == (0, 0, 0, 0)


def test_a_long_lane_leaves_in_order_and_lets_go_of_what_left() -> None:
    schedule = Schedule()
    for hit in range(2000):
        schedule.offer(hit, 7)
    for hit in range(2000):
        assert schedule.take() == (hit, 7)
        assert schedule.take() is None
        schedule.settled(7)
        if hit < 1999:
            assert len(schedule._lanes[7].ids) <= 2 * (1999 - hit) + 300
    assert schedule.lanes == 0


def test_every_fourth_turn_is_a_fresh_visitors() -> None:
    schedule = Schedule()
    for lane in range(20):
        schedule.offer(lane, lane, fresh=lane >= 10)
    taken = [schedule.take() for _ in range(20)]
    assert [chosen[1] >= 10 for chosen in taken if chosen][:12] == [False, False, False, True] * 3
    assert sorted(chosen for chosen in taken if chosen) == [(lane, lane) for lane in range(20)]


def test_a_hit_dropped_in_flight_takes_no_other_with_it() -> None:
    """When it lands, what leaves is this hit, and not the one behind it."""
    schedule = Schedule()
    schedule.offer(1, 7)
    schedule.offer(2, 7)
    assert schedule.take() == (1, 7)
    schedule.dropped(1)
    schedule.settled(7)
    assert schedule.take() == (2, 7)


def test_a_lane_does_not_wait_for_a_hit_that_is_gone() -> None:
    """Neither for its back-off nor for a person."""
    schedule = Schedule()
    for lane in (7, 8):
        schedule.offer(lane, lane)
        schedule.offer(lane + 10, lane)
        schedule.take()
    schedule.deferred(7, 1e9)
    schedule.blocked(8)
    schedule.dropped(8)
    assert schedule.next_at() is None
    assert [schedule.take(), schedule.take()] == [(17, 7), (18, 8)]


def test_hours_of_dropping_while_nothing_is_sent_need_no_memory() -> None:
    schedule = Schedule()
    for hit in range(5000):
        schedule.offer(hit, hit % 3, fresh=hit % 2 == 0)
        schedule.dropped(hit - 4)
    assert len(schedule) == 4
    assert len(schedule._ready) + len(schedule._fresh) <= schedule.lanes


@pytest.mark.parametrize("land", [Schedule.settled, Schedule.blocked])
def test_only_a_hit_in_flight_can_land(land: Callable[[Schedule, int], None]) -> None:
    schedule = Schedule()
    schedule.offer(1, 7)
    with pytest.raises(ValueError):
        land(schedule, 7)
    schedule.take()
    land(schedule, 7)
    with pytest.raises((ValueError, KeyError)):
        land(schedule, 7)
