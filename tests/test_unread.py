"""Which lanes may have hits the drain has not read: a no is a promise, a yes is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import unread
from proxy.core.unread import Unread

lanes = st.one_of(st.integers(0, 20), st.integers(0, 2**63 - 1))


@dataclass
class Model:
    """The truth beside the filters: every hit's lane, and how far the drain has come."""

    old: list[int]
    hits: dict[int, int] = field(init=False)
    known: Unread = field(init=False)
    cursor: int = 0
    heard: int = 0

    def __post_init__(self) -> None:
        self.hits = dict(enumerate(self.old, 1))
        self.heard = len(self.hits)
        self.known = Unread(0, self.heard)

    def arrive(self, lane: int) -> None:
        self.hits[len(self.hits) + 1] = lane
        if self.heard < len(self.hits) - 1:
            self.known.missed(len(self.hits) - 1)
        self.heard = len(self.hits)
        self.known.add(self.heard, lane)

    def arrive_unheard(self, lane: int) -> None:
        self.hits[len(self.hits) + 1] = lane

    def read(self, number: int) -> None:
        self.cursor = max(self.cursor, min(number % 60, len(self.hits)))
        self.known.read(self.cursor)

    def survey(self, number: int) -> None:
        if self.known.to_survey:
            rows = [row for row in self.hits.items() if row[0] > self.known.surveyed]
            rows = rows[: 1 + number % 10]
            self.known.survey(rows, rows[-1][0] if rows else len(self.hits))

    def unread(self) -> set[int]:
        """Lanes with a hit behind the cursor.

        One nobody told of is out of reach until the next arrival shows the gap.
        """
        return {lane for hit, lane in self.hits.items() if self.cursor < hit <= self.heard}


@given(
    old=st.lists(lanes, max_size=30),
    steps=st.lists(
        st.tuples(
            st.sampled_from([Model.arrive, Model.arrive_unheard, Model.read, Model.survey]), lanes
        ),
        max_size=60,
    ),
)
def test_a_lane_with_an_unread_hit_is_never_denied(
    old: list[int], steps: list[tuple[Callable[[Model, int], None], int]]
) -> None:
    """However arrivals, hits nobody told of, surveys and the cursor follow each other."""
    model = Model(old)
    for step, number in steps:
        step(model, number)
        assert all(model.known.may_hold(lane) for lane in model.unread())


def test_until_the_survey_is_done_nobody_overtakes() -> None:
    known = Unread(0, 3)
    assert known.may_hold(99)
    known.survey([(1, 7), (2, 8)], 2)
    assert known.may_hold(99)
    known.survey([(3, 9)], 3)
    assert not known.may_hold(99)
    assert known.may_hold(8)


def test_what_was_read_is_no_longer_in_the_way() -> None:
    """A lane may overtake again once the cursor has passed its hits, filter by filter."""
    known = Unread(0, 0)
    for hit in range(1, unread.FILTER_HITS + 2):
        known.add(hit, 7 if hit == 1 else hit << 20)
    assert known.may_hold(7)
    known.read(unread.FILTER_HITS)
    assert not known.may_hold(7)


def test_a_filter_leaves_although_an_older_one_stays() -> None:
    """An arrival may share its filter with old hits; the ones behind it must not pile up."""
    known = Unread(0, unread.FILTER_HITS)
    known.add(10 * unread.FILTER_HITS, 1)
    known.survey([(hit, hit << 20) for hit in range(1, unread.FILTER_HITS + 1)], unread.FILTER_HITS)
    assert len(known._filters) == 2
    known.read(unread.FILTER_HITS)
    assert len(known._filters) == 1


@pytest.mark.parametrize("many", [200_000])
def test_two_bytes_a_hit_and_few_false_alarms(many: int) -> None:
    """The filters cost what they promise, and stop few visitors who have nothing waiting."""
    drawn = random.Random(1)
    known = Unread(0, 0)
    for hit in range(1, many + 1):
        known.add(hit, drawn.getrandbits(63))
    size = sum(len(each.bits) for each in known._filters)
    assert size <= 2 * (many + unread.FILTER_HITS)
    strangers = [drawn.getrandbits(63) for _ in range(5_000)]
    alarms = sum(known.may_hold(lane) for lane in strangers)
    # 0.24 % a full filter, and there are three and a bit.
    assert alarms < len(strangers) * 0.0024 * 4 * 1.5
