"""Claims about a daemon that is killed, or told to stop, under load.

More of each: `python -m bench.reliability kill` and `stop`.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import ends
import pytest

# The bar is 2 s; a shared machine of two cores may be slow, not endless.
READY_S = 5.0
ENDED_S = 5.0


async def test_killed_at_any_instant_it_keeps_what_it_acked(tmp_path: Path) -> None:
    """Nothing lost or reordered; doubled at most what was in flight, and that is marked."""
    found = await ends.kill(tmp_path, seed=1, runs=25)

    assert not found.problems, found
    assert found.verdict.acked > 500, found
    assert found.verdict.extra <= found.in_flight, found
    assert max(found.ready_s) <= READY_S, found


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
async def test_told_to_stop_it_ends_in_order(tmp_path: Path, online: bool) -> None:
    """Within 5 s, with 0; nothing lost, and online nothing doubled."""
    found = await ends.stop(tmp_path, seed=2, runs=10, online=online)

    assert not found.problems, found
    assert max(found.ended_s) <= ENDED_S, found


async def test_a_second_signal_hurries_and_loses_nothing(tmp_path: Path) -> None:
    """It still ends with 0; what was in flight may be doubled, and is marked."""
    found = await ends.stop(tmp_path, seed=3, runs=4, online=True, hasty=True)

    assert not found.problems, found
    assert max(found.ended_s) <= ENDED_S, found


async def test_no_number_of_signals_makes_a_clean_end_an_error(tmp_path: Path) -> None:
    """One that comes in the last milliseconds, or while closing, changes nothing."""
    async with ends.scene(tmp_path, seed=4) as here, here.traffic.running():
        for _ in range(4):
            await here.start()
            while here.daemon.popen is not None and here.daemon.popen.poll() is None:
                here.daemon.signal(signal.SIGTERM)
                await asyncio.sleep(0.001)
            assert await here.daemon.ended() == 0
        await here.start()
        verdict = await here.judge()

    assert verdict.ok, verdict
