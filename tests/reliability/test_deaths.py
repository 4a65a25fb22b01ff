"""Claims about a daemon that dies at a named point: nothing is lost, reordered or wedged.

More of each: `python -m bench.reliability points`.
"""

from __future__ import annotations

from pathlib import Path

import deaths
import pytest

from proxy.points import Point

MOST_DOUBLED = 13  # who may be in flight: eight visitors, and five hits left by another death


def test_every_point_has_a_way_to_it() -> None:
    assert set(deaths.WAYS) == set(Point)
    assert len(Point) >= 20


@pytest.mark.parametrize("point", Point)
async def test_dying_there_costs_nothing(tmp_path: Path, point: Point) -> None:
    """It died there by SIGKILL; then 0 lost, 0 reordered, the file whole, a fresh hit through."""
    found = await deaths.at(tmp_path, point, seed=1)

    assert not found.problems, found
    assert found.verdict.extra <= MOST_DOUBLED, found


async def test_dying_between_request_and_answer_costs_nothing(tmp_path: Path) -> None:
    found = await deaths.on_the_wire(tmp_path, seed=1)

    assert not found.problems, found
    assert found.verdict.extra <= MOST_DOUBLED, found
