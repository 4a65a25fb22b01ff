"""What leaves together waits for company, and is read before its turn, both within bounds."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.company import AHEAD, LEAST_S, MOST_S, WEIGHT, Company, most_in_hand


def waits_s(*answers_s: float) -> float:
    company = Company()
    for took_s in answers_s:
        company.answered(took_s)
    return company.wait_s


@pytest.mark.parametrize(
    "answer_s, wait_s", [(0.001, 0.0), (0.010, 0.0), (0.040, 0.001), (0.100, 0.002), (9, 0.002)]
)
def test_it_waits_for_a_fortieth_of_what_answers_take(answer_s: float, wait_s: float) -> None:
    assert waits_s(*[answer_s] * 200) == pytest.approx(wait_s, rel=0.01)


def test_before_the_first_answer_nothing_waits() -> None:
    assert waits_s() == 0


def test_one_slow_answer_among_many_says_little() -> None:
    assert waits_s(*[0.001] * 100, 0.1, *[0.001] * 10) == 0


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_it_never_waits_for_long_nor_for_what_no_timer_can(answers_s: list[float]) -> None:
    wait_s = waits_s(*answers_s)
    assert wait_s == 0 or LEAST_S <= wait_s <= MOST_S


def ahead(answer_s: float, window: int) -> float:
    company = Company()
    company.answered(answer_s / WEIGHT)
    return company.ahead(window)


@pytest.mark.parametrize(
    "answer_s, window, hits",
    [(0.02, 32, 64), (0.1, 32, 32), (0.1, 1, 1), (2.0, 64, 3.2), (0.001, 4, 8), (0.001, 256, 64)],
)
def test_no_more_is_read_ahead_than_leaves_in_a_tenth_of_a_second(
    answer_s: float, window: int, hits: float
) -> None:
    assert ahead(answer_s, window) == pytest.approx(hits)


def test_before_the_first_answer_a_window_or_two_is_read_ahead() -> None:
    assert Company().ahead(1) == 2


def test_with_a_rate_no_more_is_at_hand_than_it_allows_in_a_moment() -> None:
    assert [most_in_hand(rate) for rate in (None, 0.5, 10.0, 500.0)] == [inf, 1, 1, 50]


@given(st.floats(0, 1e6), st.integers(1, 10_000))
def test_what_is_read_ahead_is_bounded(answer_s: float, window: int) -> None:
    assert 0 < ahead(answer_s, window) <= min(AHEAD, 2 * window)
