"""Claims about the speed of a backlog: it is that of the last minute, and no end is made up."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.hit import Ledger
from proxy.core.speed import OVER_S, Speed, Speedometer

FULL = Ledger(accepted=10_000, waiting=10_000)


def after(ledger: Ledger, delivered: int, came: int = 0) -> Ledger:
    return replace(
        ledger,
        accepted=ledger.accepted + came,
        waiting=ledger.waiting - delivered + came,
        delivered=ledger.delivered + delivered,
    )


def test_a_backlog_that_leaves_evenly_is_told_its_end() -> None:
    speed, ledger = Speedometer(), FULL
    for second in range(90):
        speed.note(float(second), ledger)
        ledger = after(ledger, 100)
    said = speed.read(90.0, ledger)

    assert said.delivered_per_s == 100
    assert said.empty_in_s == 1_000 / 100


def test_what_was_fast_an_hour_ago_is_old_news() -> None:
    speed = Speedometer()
    speed.note(0.0, FULL)
    speed.note(1.0, after(FULL, 5_000))
    for second in range(2, 200, 10):
        speed.note(float(second), after(FULL, 5_000))

    assert speed.read(200.0, after(FULL, 5_000)) == Speed(0.0, None)


def test_what_is_held_does_not_leave_and_is_not_counted() -> None:
    speed, held = Speedometer(), replace(FULL, held=9_000)
    speed.note(0.0, held)

    assert speed.read(10.0, after(held, 500)) == Speed(50.0, 10.0)


@given(st.integers(0, 100), st.integers(0, 100))
def test_while_more_comes_than_leaves_there_is_no_end(delivered: int, came: int) -> None:
    speed = Speedometer()
    speed.note(0.0, FULL)
    said = speed.read(OVER_S, after(FULL, delivered, came))

    assert (said.empty_in_s is None) == (came >= delivered)
