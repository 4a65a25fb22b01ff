"""Claims about when a hit was received, on a clock that may be wrong now and right later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.hit import Received
from proxy.core.moment import LOST, STEP_MS, Boots
from proxy.core.stamp import second

MS = st.integers(0, 10**10)
OFFSET = st.integers(-(10**12), 2 * 10**12)


@given(st.lists(MS, min_size=1), OFFSET, OFFSET)
def test_correcting_the_offset_moves_every_hit_of_that_boot_alike(
    instants: list[int], wrong: int, right: int
) -> None:
    boots = Boots(2, {1: 5, 2: wrong})
    corrected = boots.corrected(right)
    for ms in instants:
        assert corrected.wall_ms(Received(2, ms)) == right + ms
        assert corrected.wall_ms(Received(1, ms)) == boots.wall_ms(Received(1, ms)) == 5 + ms


@given(MS, OFFSET)
def test_a_corrected_offset_leaves_the_old_value_alone(ms: int, right: int) -> None:
    boots = Boots(1, {1: 0})
    boots.corrected(right)
    assert boots.wall_ms(Received(1, ms)) == ms


@given(MS, MS, OFFSET, OFFSET)
def test_an_age_within_a_boot_ignores_the_wall_clock(
    at: int, now: int, one: int, other: int
) -> None:
    ages = {Boots(1, {1: offset}).age_ms(Received(1, at), now) for offset in (one, other)}
    assert ages == {max(0, now - at)}


@given(MS, MS, OFFSET, OFFSET)
def test_an_age_across_boots_is_wall_time_and_never_negative(
    at: int, now: int, before: int, current: int
) -> None:
    boots = Boots(2, {1: before, 2: current})
    age = boots.age_ms(Received(1, at), now)
    assert age == max(0, (current + now) - (before + at))


@pytest.mark.parametrize("boot", [LOST, 7])
def test_an_instant_of_a_boot_nobody_noted_has_no_time(boot: int) -> None:
    """A damaged file may have lost the row: another boot's offset would make up a time."""
    boots = Boots(2, {2: 1000})
    assert boots.wall_ms(Received(boot, 5)) == 0
    assert boots.age_ms(Received(boot, 5), 9) == 0


def test_a_clock_that_was_set_is_noticed_and_jitter_is_not() -> None:
    boots = Boots(1, {1: 10_000})
    assert not boots.stepped(10_000 + STEP_MS)
    assert not boots.stepped(10_000 - STEP_MS)
    assert boots.stepped(10_000 + STEP_MS + 1)
    assert boots.stepped(10_000 - STEP_MS - 1)
    assert not boots.corrected(99_000).stepped(99_000)


@given(MS, OFFSET, st.integers(0, 2 * 10**9))
def test_the_second_of_a_hit_is_never_before_the_last_of_its_lane(
    ms: int, offset: int, floor: int
) -> None:
    got = second(ms, offset, floor)
    assert got >= floor
    assert got in (floor, (ms + offset) // 1000)


@given(st.lists(MS, min_size=2), OFFSET)
def test_hits_of_one_lane_are_stamped_in_the_order_they_leave(
    instants: list[int], offset: int
) -> None:
    """Also when the clock went back between them: Adobe has no use for out-of-order hits."""
    last = 0
    for ms in instants:
        stamped = second(ms, offset, last)
        assert stamped >= last
        last = stamped


def test_the_second_is_the_one_the_hit_was_received_in() -> None:
    assert second(999, 1_770_000_000_000) == 1_770_000_000
    assert second(1000, 1_770_000_000_000) == 1_770_000_001
