"""Claims about a disk that is full, or fails, under a whole daemon.

More of each: `python -m bench.reliability disk-full`, `disk-errors`, `disk-no-sync`,
`disk-starts`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import disks
import pytest

# The bars are 50 ms, 5 s and 10 s; the first is of a machine that is not shared.
REFUSED_S, ALL_REFUSED_S = 0.05, 0.25
AGAIN_S = 5.0

Full = Callable[[Path, int, int], Awaitable[disks.Outcome]]


@pytest.mark.parametrize("fill", [disks.full, disks.as_if_full], ids=["small", "shim"])
async def test_a_full_disk_is_said_at_once_and_drains_to_empty(tmp_path: Path, fill: Full) -> None:
    """503 and counted; with no byte free all of it is delivered, also after a stop or a kill."""
    found = await fill(tmp_path, 1, 3)

    assert not found.problems, found
    assert found.refused > 60, found
    assert found.drained_full > 100, found
    assert found.within(0.95) <= REFUSED_S, found
    assert max(found.refused_s) <= ALL_REFUSED_S, found
    assert max(found.again_s) <= AGAIN_S, found


async def test_a_disk_that_fails_now_and_then_costs_no_acked_hit(tmp_path: Path) -> None:
    """EIO, half writes, failed syncs: nothing lost, and no refused hit comes to life."""
    found = await disks.failing(tmp_path, 1, 20)

    assert not found.problems, found
    assert found.failed > 20, found
    assert max(found.again_s) <= AGAIN_S, found


async def test_a_hit_that_cannot_be_synced_never_gets_its_200(tmp_path: Path) -> None:
    """Not one, and meanwhile it says of itself that it refuses; then all is well again."""
    found = await disks.no_sync(tmp_path, 1, 3)

    assert not found.problems, found
    assert max(found.again_s) <= AGAIN_S, found


async def test_a_disk_that_fails_at_the_start_is_one_line_and_73(tmp_path: Path) -> None:
    """Or it starts all the same; once the disk is well, so is it."""
    found = await disks.starting(tmp_path, 1, 8)

    assert not found.problems, found
    assert found.failed > 4, found
