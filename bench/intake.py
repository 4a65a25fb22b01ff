"""Durable intake against the same aiohttp application that stores nothing.

    python -m bench.intake [--rounds 5] [--seconds 4] [--connections 64] [--naive] [--uvloop]

Three tables: at full load; at half of its own peak rate; one connection, one hit at a time
(beside it, what an fsync costs on this disk).  `--under DIRECTORY` chooses the disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from bench import measure
from bench.measure import ratios, spread


def fsync_ms(folder: Path, count: int) -> list[float]:
    """What it takes to put 8 KiB on the disk behind a file, as a commit does."""
    found = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(8192))
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - began) * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--naive", action="store_true", help="also the naive script")
    parser.add_argument("--heads", action="store_true", help="new headers with each hit")
    parser.add_argument("--uvloop", action="store_true", help="also ours on uvloop, if it is there")
    parser.add_argument("--under", type=Path, help="a directory on the disk to be measured")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds, args.connections = 1, 0.2, 8
    with ExitStack() as stack:
        folder = stack.enter_context(measure.folder(args.under))
        servers: dict[str, tuple[int, int]] = {}

        def serve(name: str, kind: str, *more: str) -> None:
            port = measure.free_port()
            child = stack.enter_context(
                measure.process("-m", "bench.servers", kind, str(port), *more)
            )
            servers[name] = child.pid, port

        serve("stores nothing", "nothing")
        port = measure.free_port()
        servers["trackoffline"] = stack.enter_context(measure.daemon(port, folder)).pid, port
        if args.uvloop and find_spec("uvloop") is None:
            print("uvloop is not in this environment")
        elif args.uvloop:
            (folder / "uvloop").mkdir()
            begin = folder / "uvloop" / "sitecustomize.py"
            begin.write_text("import uvloop\n\nuvloop.install()\n", encoding="ascii")
            env = {"PYTHONPATH": f"{begin.parent}:{measure.ROOT}"}
            port = measure.free_port()
            child = stack.enter_context(measure.daemon(port, begin.parent, env=env))
            servers["trackoffline, uvloop"] = child.pid, port
        if args.naive:
            serve("naive", "naive", str(folder / "naive.db"))
        for _, port in servers.values():
            url = f"http://127.0.0.1:{port}/b/ss/opt/1/x/0?a=b"
            measure.wait_for(partial(measure.answers, url))
        peak = compare(servers, args.rounds, args.seconds, args.connections, heads=args.heads)
        half = [
            measure.load(*servers["trackoffline"], args.connections, args.seconds, rate)["p99_ms"]
            for rate in [peak / 2] * args.rounds
        ]
        print(f"\np99 at half of that rate ({peak / 2:.0f} hits/s): {spread(half, 1)} ms\n")
        alone(servers, folder, args.rounds, args.seconds)


def compare(
    servers: dict[str, tuple[int, int]],
    rounds: int,
    seconds: float,
    connections: int,
    *,
    heads: bool,
) -> float:
    """Full load; our median rate."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for turn in range(rounds):
        names = list(servers)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rows[name].append(measure.load(*servers[name], connections, seconds, heads=heads))
    base = rows["stores nothing"]
    print(f"{connections} connections, {rounds} rounds of {seconds} s")
    measure.table("server", "hits/s", "of the base", "CPU µs a hit", "of the base", "p50", "p99 ms")
    for name, found in rows.items():
        rate, cpu = [row["rate"] for row in found], [row["cpu_us"] for row in found]
        measure.row(
            name,
            spread(rate, 0),
            spread(ratios(rate, [row["rate"] for row in base])),
            spread(cpu, 1),
            spread(ratios(cpu, [row["cpu_us"] for row in base])),
            spread([row["p50_ms"] for row in found], 1),
            spread([row["p99_ms"] for row in found], 1),
        )
    return statistics.median(row["rate"] for row in rows["trackoffline"])


def alone(servers: dict[str, tuple[int, int]], folder: Path, rounds: int, seconds: float) -> None:
    """One connection: what storing adds to an answer, in fsyncs."""
    measure.table("one connection", "added ms (p50)", "an fsync ms", "added / fsync")
    added, syncs = [], []
    for _ in range(rounds):
        ours, base = (
            measure.load(*servers[name], 1, seconds)["p50_ms"]
            for name in ("trackoffline", "stores nothing")
        )
        added.append(ours - base)
        syncs.append(statistics.median(fsync_ms(folder, 200)))
    measure.row("", spread(added), spread(syncs), spread(ratios(added, syncs)))


if __name__ == "__main__":
    main()
