"""Claims about the ration: hits come first, whoever asks and however much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.ration import (
    BURST_S,
    LEAST,
    MOST_WAIT_S,
    OVERDRAFT_S,
    PIECE_S,
    SHORT_PIECE_S,
    Ration,
    share,
)

LONG_S = 600.0


def spent_in(seconds: float, busy: float, *, is_first: bool) -> float:
    """What questions without pause get of a processor, while the daemon works so much."""
    now_s = spent_s = 0.0
    ration = Ration(now_s, 0.0)
    while now_s < seconds:
        wait_s = ration.wait_s(now_s, now_s * busy, is_first=is_first)
        if wait_s > 0:
            now_s += wait_s
            continue
        took_s = ration.piece_s
        ration.spend(took_s)
        spent_s += took_s
        now_s += took_s
    return spent_s


@given(busy=st.floats(0.25, 1.0), is_first=st.booleans())
def test_endless_questions_get_a_small_share_of_a_busy_machine(busy: float, is_first: bool) -> None:
    """Whether it is one long search, or ever new ones."""
    spent_s = spent_in(LONG_S, busy, is_first=is_first)

    assert spent_s <= LONG_S * LEAST + BURST_S + OVERDRAFT_S + PIECE_S


@given(busy=st.floats(0.0, 0.1))
def test_nothing_waits_while_the_daemon_has_little_to_do(busy: float) -> None:
    assert spent_in(30.0, busy, is_first=False) >= 30.0


def test_the_busier_the_daemon_the_less_is_left_for_questions() -> None:
    shares = [share(busy / 100) for busy in range(150)]

    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1.0, LEAST)


def test_a_person_who_searches_now_and_then_does_not_wait() -> None:
    """A first answer every second and a half, on a machine that is as busy as can be."""
    ration = Ration(0.0, 0.0)
    for turn in range(1, 400):
        now_s = turn * 1.5
        assert ration.wait_s(now_s, now_s, is_first=True) == 0
        ration.spend(ration.piece_s)


def test_a_first_answer_comes_before_what_follows_others() -> None:
    """An endless search has taken all there was; somebody who has just come is not kept."""
    ration = Ration(0.0, 0.0)
    now_s = 0.0
    while not ration.wait_s(now_s, now_s, is_first=False):
        ration.spend(ration.piece_s)
        now_s += ration.piece_s

    assert ration.wait_s(now_s, now_s, is_first=True) == 0


def test_pieces_are_short_while_the_daemon_is_busy() -> None:
    ration = Ration(0.0, 0.0)
    assert ration.piece_s == PIECE_S

    ration.wait_s(1.0, 1.0, is_first=True)
    assert ration.piece_s == SHORT_PIECE_S

    ration.wait_s(2.0, 1.0, is_first=True)
    assert ration.piece_s == PIECE_S


@pytest.mark.parametrize("asked", [1, 100])
def test_what_many_took_at_once_is_soon_forgiven(asked: int) -> None:
    """Within the longest wait, on a machine that is as busy as can be."""
    ration = Ration(0.0, 0.0)
    for _ in range(asked):
        ration.spend(PIECE_S)
    now_s = 1.0
    while wait_s := ration.wait_s(now_s, now_s, is_first=True):
        now_s += wait_s

    assert now_s <= 1.0 + MOST_WAIT_S
