"""Claims about a long life among faults.  Hours of it: `python -m bench.reliability soak`."""

from __future__ import annotations

from pathlib import Path

import soak

SECONDS = 15.0
# One phase behind a server that pushed back may use up that time by itself.
PHASES = 4


async def test_through_everything_the_equation_stays_exact(tmp_path: Path) -> None:
    """After each phase all is accounted for, nothing grows beyond its bound or is wedged."""
    found = await soak.soak(tmp_path, seed=1, seconds=SECONDS, least=PHASES)

    assert not found.wrong, found
