"""What leaves together waits for company, and no longer than it costs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.company import LEAST_S, MOST_S, Company


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
