"""Intake on a disk whose fsync takes 10 ms longer: `python -m bench.slowdisk [--ms 10]`.

The delay comes from a shim in front of libc (`fsync.c`, built with `cc`).  What group commit
keeps of the rate, beside the naive script's share on the same disk.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import measure
from bench.measure import ratios, spread


def shim(folder: Path) -> Path:
    built = folder / "fsync.so"
    source = Path(__file__).parent / "fsync.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--ms", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds, args.connections = 1, 0.2, 8
    if shutil.which("cc") is None:
        sys.exit("skipped: no C compiler (cc) to build the shim with")
    with ExitStack() as stack:
        folder = stack.enter_context(measure.folder())
        slow = {"LD_PRELOAD": str(shim(folder)), "FSYNC_MS": str(args.ms)}
        servers: dict[str, tuple[int, int]] = {}
        for name, env in {"fast": {}, "slow": slow}.items():
            (folder / name).mkdir()
            port = measure.free_port()
            child = stack.enter_context(measure.daemon(port, folder / name, env=env))
            servers[f"trackoffline, {name} disk"] = child.pid, port
            port = measure.free_port()
            child = stack.enter_context(
                measure.process(
                    *("-m", "bench.servers", "naive", str(port), str(folder / f"{name}.db")),
                    env=env,
                )
            )
            servers[f"naive, {name} disk"] = child.pid, port
        for _, port in servers.values():
            url = f"http://127.0.0.1:{port}/b/ss/opt/1/x/0?a=b"
            measure.wait_for(partial(measure.answers, url))
        rates: dict[str, list[float]] = {name: [] for name in servers}
        p99: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(args.rounds):
            for name, (pid, port) in servers.items():
                found = measure.load(pid, port, args.connections, args.seconds)
                rates[name].append(found["rate"])
                p99[name].append(found["p99_ms"])
        print(f"fsync slower by {args.ms} ms, {args.connections} connections")
        measure.table("server", "hits/s", "of the fast disk", "p99 ms")
        for name, rate in rates.items():
            fast = rates[name.replace("slow", "fast")]
            measure.row(name, spread(rate, 0), spread(ratios(rate, fast)), spread(p99[name], 1))


if __name__ == "__main__":
    main()
