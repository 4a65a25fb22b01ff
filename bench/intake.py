"""Durable intake against the same aiohttp application that stores nothing.

python -m bench.intake [--rounds 5] [--seconds 4] [--connections 64] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import measure

PORT = 18_277


def load(
    pid: int, port: int, connections: int, seconds: float, rate: float = 0
) -> dict[str, float]:
    """One stretch of load against a server, and the server's CPU a hit in µs."""
    before = measure.cpu_s(pid)
    out = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.load",
            str(port),
            str(connections),
            str(seconds),
            f"--rate={rate}",
        ],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parent.parent,
    ).stdout
    found: dict[str, float] = json.loads(out)
    found["rate"] = found["hits"] / found["seconds"]
    found["cpu_us"] = (measure.cpu_s(pid) - before) / found["hits"] * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--naive", action="store_true", help="also the naive script")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds = 1, 0.5
    rows: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(measure.folder())
        servers = {}
        base = stack.enter_context(measure.process("-m", "bench.servers", "nothing", str(PORT)))
        servers["stores nothing"] = (base, PORT)
        ours = stack.enter_context(measure.daemon(PORT + 10, folder))
        servers["trackoffline"] = (ours, PORT + 10)
        if args.naive:
            naive = stack.enter_context(
                measure.process("-m", "bench.servers", "naive", str(PORT + 1), str(folder / "n.db"))
            )
            servers["naive"] = (naive, PORT + 1)
        for _, port in servers.values():
            url = f"http://127.0.0.1:{port}/b/ss/opt/1/x/0?a=b"
            measure.wait_for(partial(measure.answers, url))
        for _ in range(args.rounds):
            for name, (child, port) in servers.items():
                rows.setdefault(name, []).append(
                    load(child.pid, port, args.connections, args.seconds)
                )
        base_rows = rows["stores nothing"]
        print(f"{args.connections} connections, {args.rounds} rounds of {args.seconds} s")
        print("| server | hits/s | of the base | CPU µs a hit | of the base | p50 ms | p99 ms |")
        print("|---|---|---|---|---|---|---|")
        for name, found in rows.items():
            rate = [row["rate"] for row in found]
            cpu = [row["cpu_us"] for row in found]
            print(
                f"| {name} | {measure.spread(rate, 0)} "
                f"| {measure.spread(measure.ratios(rate, [row['rate'] for row in base_rows]))} "
                f"| {measure.spread(cpu, 1)} "
                f"| {measure.spread(measure.ratios(cpu, [row['cpu_us'] for row in base_rows]))} "
                f"| {measure.spread([row['p50_ms'] for row in found], 1)} "
                f"| {measure.spread([row['p99_ms'] for row in found], 1)} |"
            )


if __name__ == "__main__":
    main()
