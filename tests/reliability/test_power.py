"""Claims about power loss: whatever of the unsynced writes got to the disk, nothing acked is lost.

More: `python -m bench.reliability power --runs 10000`.
"""

from __future__ import annotations

from pathlib import Path

import power


async def test_what_was_acked_before_a_power_loss_is_there_after_it(tmp_path: Path) -> None:
    """Unsynced writes dropped, torn and out of order; each image opens, and is no damage."""
    found = await power.run(tmp_path, seed=1, images=220, faults=False)

    assert not found.wrong, found
    assert found.hits > 20_000, found


async def test_power_loss_after_failed_syncs_costs_nothing_acked(tmp_path: Path) -> None:
    """The kernel may forget what it failed to write, and report the next sync as done."""
    found = await power.run(tmp_path, seed=2, images=220, faults=True)

    assert not found.wrong, found
    assert found.failed_syncs > 3, found


async def test_power_loss_while_salvaging_costs_nothing_that_could_be_salvaged(
    tmp_path: Path,
) -> None:
    """The damaged file or the new one is in its place, and never half of it."""
    found = await power.salvage_(tmp_path, seed=3, images=60)

    assert not found.wrong, found
