"""The back-off: it grows, it is capped, it never becomes a busy loop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.backoff import LEAST, delay

jitters = st.floats(0, 1, exclude_max=True)
tries = st.integers(-5, 10**9)
firsts = st.floats(0.01, 3600)
mosts = st.floats(0.01, 86_400)


@given(tries, firsts, mosts, jitters)
def test_a_delay_is_never_above_most_and_never_a_busy_loop(
    n: int, first: float, most: float, jitter: float
) -> None:
    """Whatever the numbers, the wait is usable."""
    seconds = delay(n, first=first, most=most, jitter=jitter)
    assert min(LEAST, most) <= seconds <= most


@given(tries, firsts, mosts, jitters)
def test_one_more_failure_never_shortens_the_delay(
    n: int, first: float, most: float, jitter: float
) -> None:
    """For the same jitter the delay only grows."""
    assert delay(n, first=first, most=most, jitter=jitter) <= delay(
        n + 1, first=first, most=most, jitter=jitter
    )


@given(st.integers(1, 20), jitters, jitters)
def test_below_the_cap_no_jitter_makes_a_later_delay_shorter(
    n: int, jitter: float, other: float
) -> None:
    """Each step's range begins where the one before ends."""
    assert delay(n, first=1, most=2**30, jitter=jitter) <= delay(
        n + 1, first=1, most=2**30, jitter=other
    )


@pytest.mark.parametrize(
    "n,expected", [(0, 1.0), (1, 1.0), (2, 2.0), (4, 8.0), (5, 15.0), (6, 15.0), (10**6, 15.0)]
)
def test_the_delay_doubles_up_to_its_cap(n: int, expected: float) -> None:
    """1, 2, 4, 8, 15, 15 ... seconds at the upper edge of the jitter, half of it at the lower."""
    nearly_one = 1 - 2**-53
    assert delay(n, first=1, most=15, jitter=nearly_one) == pytest.approx(expected)
    assert delay(n, first=1, most=15, jitter=0) == expected / 2
