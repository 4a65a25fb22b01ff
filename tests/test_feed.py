"""Claims about the feed: who lost the line goes on, or is told that there is a gap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.feed import Feed


@given(count=st.integers(0, 30), most=st.integers(1, 10), heard=st.integers(-2, 40))
def test_nobody_misses_an_event_unknowingly(count: int, most: int, heard: int) -> None:
    """What is behind the last one heard is given whole, or not at all."""
    feed = Feed("a", most)
    for number in range(1, count + 1):
        feed.publish("hits", str(number))

    found = feed.after(heard)

    behind = [str(number) for number in range(heard + 1, count + 1)]
    if found is None:
        assert heard < 0 or heard > count or len(behind) > most
    else:
        assert [event.data for event in found] == behind


def test_an_id_is_understood_again() -> None:
    feed = Feed("a-b")
    feed.publish("status", "{}")

    assert feed.heard(feed.id(1)) == 1
    assert feed.heard(feed.id(0)) == 0


@pytest.mark.parametrize("id_", ["", "1", "a", "a-", "a-x", "b-1", "a-2", "a-²", "a--1", "-1"])
def test_an_id_of_another_process_or_of_nothing_is_a_gap(id_: str) -> None:
    """After a restart the numbers begin anew, and mean something else."""
    feed = Feed("a")
    feed.publish("status", "{}")

    assert feed.heard(id_) is None
