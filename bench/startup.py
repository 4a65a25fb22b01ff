"""CPU of starting the command line: `python -m bench.startup [--rounds 20]`."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys

from bench import measure
from bench.measure import spread


def cpu_ms(*argv: str) -> float:
    """User and system milliseconds of a run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "proxy", *argv],
        cwd=measure.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    rounds = 1 if args.smoke else args.rounds
    with measure.folder() as folder:
        port = measure.free_port()
        with measure.daemon(port, folder):
            config = str(folder / "bench.toml")
            measure.table("command", "CPU ms")
            measure.row("--help", spread([cpu_ms("--help") for _ in range(rounds)], 0))
            ask = [cpu_ms("status", "--config", config) for _ in range(rounds)]
            measure.row("status", spread(ask, 0))


if __name__ == "__main__":
    main()
