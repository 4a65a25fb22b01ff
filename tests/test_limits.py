"""Claims about how much may wait: a limit is named, and what it forbids is counted under it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.hit import Ledger
from proxy.core.limits import Limits, over, reached

LIMITS = Limits(max_hits=10, max_bytes=1000, min_free_disk=50)
DROPPING = Limits(max_hits=10, max_bytes=1000, min_free_disk=50, drop_oldest=True)
COUNTS = st.integers(0, 2000)


@pytest.mark.parametrize(
    "waiting, waiting_bytes, hits, size, free, refuses, drops",
    [
        (0, 0, 1, 100, 50, None, None),
        (9, 900, 1, 100, 50, None, None),
        (10, 900, 1, 100, 50, "max_hits", None),
        (9, 901, 1, 100, 50, "max_bytes", None),
        (10, 1000, 1, 100, 50, "max_hits", None),
        (10, 1000, 1, 100, 49, "disk", "disk"),
        (0, 0, 1, 100, 49, "disk", "disk"),
        (0, 0, 10, 1000, 50, None, None),
        (0, 0, 11, 100, 50, "max_hits", "too-large"),
        (0, 0, 1, 1001, 50, "max_bytes", "too-large"),
        # A person lowered the limits: nothing new, and nothing that waits is refused for it.
        (99, 9999, 0, 0, 50, "max_hits", None),
    ],
)
def test_the_limit_that_forbids_a_hit_is_named(
    waiting: int,
    waiting_bytes: int,
    hits: int,
    size: int,
    free: int,
    refuses: str | None,
    drops: str | None,
) -> None:
    ledger = Ledger(accepted=waiting, waiting=waiting, waiting_bytes=waiting_bytes)
    assert reached(ledger, hits, size, free, LIMITS) == refuses
    assert reached(ledger, hits, size, free, DROPPING) == drops


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_dropping_by_what_is_over_makes_exactly_enough_room(
    waiting: int, waiting_bytes: int, hits: int, size: int
) -> None:
    ledger = Ledger(waiting=waiting, waiting_bytes=waiting_bytes)
    more_hits, more_bytes = over(ledger, hits, size, LIMITS)
    assert more_hits >= 0
    assert more_bytes >= 0
    assert waiting - more_hits + hits <= LIMITS.max_hits
    assert waiting_bytes - more_bytes + size <= LIMITS.max_bytes
    assert more_hits == 0 or waiting - more_hits + hits == LIMITS.max_hits
    assert more_bytes == 0 or waiting_bytes - more_bytes + size == LIMITS.max_bytes


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_hit_is_refused_exactly_when_the_queue_would_be_over(
    waiting: int, waiting_bytes: int, hits: int, size: int
) -> None:
    ledger = Ledger(waiting=waiting, waiting_bytes=waiting_bytes)
    is_over = over(ledger, hits, size, LIMITS) != (0, 0)
    assert (reached(ledger, hits, size, 50, LIMITS) is not None) == is_over


def test_hits_do_not_expire_unless_a_person_says_so() -> None:
    assert Limits().max_age_s == 0
    assert not Limits().drop_oldest
