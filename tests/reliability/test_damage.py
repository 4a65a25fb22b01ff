"""Claims about damaged files: each starts, keeps what is whole, and says what is lost.

More: `python -m bench.reliability damage --runs 1000`.
"""

from __future__ import annotations

from pathlib import Path

import damage


async def test_two_hundred_damaged_files_start_and_keep_what_is_whole(tmp_path: Path) -> None:
    """Bits, blocks, cuts, lost and foreign logs, no file: nothing altered, nothing silent."""
    found = await damage.run(tmp_path, seed=1, files=200)

    assert not found.wrong, found
    assert found.set_aside > 50, found
    assert found.untouched > 10_000, found
    assert found.missing <= 0.01 * found.untouched, found
