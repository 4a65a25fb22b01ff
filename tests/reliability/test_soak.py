"""Claims about a long life among faults.  Hours of it: `python -m bench.reliability soak`.

Three minutes, as the CI does: `TRACKOFFLINE_SOAK_S=180 pytest tests/reliability/test_soak.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import soak

SECONDS = float(os.environ.get("TRACKOFFLINE_SOAK_S", "15"))
# One phase behind a server that pushed back may use up that time by itself.
PHASES = 4


async def test_through_everything_the_equation_stays_exact(tmp_path: Path) -> None:
    """After each phase all is accounted for, nothing grows beyond its bound or is wedged."""
    found = await soak.soak(tmp_path, seed=1, seconds=SECONDS, least=PHASES)

    print(f"\n{found}")  # noqa: T201 - the figures
    assert not found.wrong, found
