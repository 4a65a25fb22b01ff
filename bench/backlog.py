"""What millions of waiting hits cost: against a file with 10,000, in the same run.

    python -m bench.backlog [--hits 5000000] [--under DIRECTORY] [--shapes visitors10 ...]

Three shapes: 10 visitors; 500,000 visitors; one visitor who has every other hit and whose first
hit cannot be sent.  For each: a page of next hits and their contents, read at ten places of the
file; intake beside it (offline, 64 connections); memory; start to first ack.
About 1.6 GB of disk for a million hits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import measure, stock
from bench.measure import ratios, spread
from proxy.shell.clock import SystemClock
from proxy.shell.queue import Queue

SMALL = 10_000
HIT_BYTES = 2_000  # of disk, with room for what comes in meanwhile


def ten(hit: int) -> int:
    return hit % 10


def half_a_million(hit: int) -> int:
    return hit * 7919 % 500_000


def one_blocks(hit: int) -> int:
    return 7 if hit % 2 else 1_000 + hit % 5_000


SHAPES: dict[str, Callable[[int], int]] = {
    "10 visitors": ten,
    "500,000 visitors": half_a_million,
    "one who blocks": one_blocks,
}


async def _next_hits_us(path: Path, hits: int) -> float:
    """CPU and waiting for a page of ids and lanes and 64 contents, a hit, in the middle of ten."""
    queue = await Queue.open(path, stock.LIMITS, SystemClock())
    found = []
    try:
        for place in range(10):
            began = time.perf_counter()
            page = await queue.page(hits * place // 10)
            await queue.fetch([hit for hit, _ in page[:64]])
            found.append((time.perf_counter() - began) / len(page) * 1e6)
    finally:
        await queue.close()
    return statistics.median(found)


def first_ack_s(folder: Path) -> tuple[float, float]:
    """From starting the process to the first 200 for a hit, and the CPU seconds of it."""
    port = measure.free_port()
    request = b"GET /b/ss/opt/1/x/s1?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n"
    began = time.perf_counter()
    with measure.unready(port, folder) as child:
        while child.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as it:
                it.sendall(request)
                if it.recv(4096).startswith(b"HTTP/1.1 200"):
                    return time.perf_counter() - began, measure.cpu_s(child.pid)
            time.sleep(0.005)
    raise RuntimeError("it did not start")


def shape(name: str, hits: int, under: Path | None, rounds: int, seconds: float) -> None:
    with measure.folder(under) as small, measure.folder(under) as large:
        folders = {SMALL: small, hits: large}
        for count, folder in folders.items():
            stock.fill(folder / "hits.db", count, SHAPES[name])
        os.sync()
        pages: dict[int, list[float]] = {SMALL: [], hits: []}
        acks: dict[int, list[float]] = {SMALL: [], hits: []}
        cpu: dict[int, list[float]] = {SMALL: [], hits: []}
        for _ in range(rounds):
            for count, folder in folders.items():
                ack_s, cpu_s = first_ack_s(folder)
                acks[count].append(ack_s)
                cpu[count].append(cpu_s)
                found = asyncio.run(_next_hits_us(folder / "hits.db", count))
                pages[count].append(found)
        rates: dict[int, list[float]] = {SMALL: [], hits: []}
        p99: dict[int, list[float]] = {SMALL: [], hits: []}
        costs: dict[int, list[float]] = {SMALL: [], hits: []}
        with contextlib.ExitStack() as stack:
            # Nobody listens there: the drain is at work, and offline.
            nowhere = f"http://127.0.0.1:{measure.free_port()}"
            running = {}
            for count, folder in folders.items():
                port = measure.free_port()
                child = stack.enter_context(measure.daemon(port, folder, server=nowhere))
                running[count] = child.pid, port
            for _ in range(rounds):
                for count, (pid, port) in running.items():
                    load = measure.load(pid, port, 64, seconds)
                    rates[count].append(load["rate"])
                    p99[count].append(load["p99_ms"])
                    costs[count].append(load["cpu_us"])
            memory = measure.rss_mb(running[hits][0])
        measure.row(
            name,
            spread(pages[hits], 1),
            spread(ratios(pages[hits], pages[SMALL])),
            spread(ratios(rates[hits], rates[SMALL])),
            spread(ratios(costs[hits], costs[SMALL])),
            spread(ratios(p99[hits], p99[SMALL])),
            f"{memory:.0f}",
            spread(acks[hits]),
            spread(cpu[hits]),
            spread(acks[SMALL]),
            spread(cpu[SMALL]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hits", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--under", type=Path, help="a directory on the disk to be used")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.hits, args.rounds, args.seconds, args.shapes = 12_000, 1, 0.2, ["10 visitors"]
    free = shutil.disk_usage(args.under or tempfile.gettempdir()).free
    if free < args.hits * HIT_BYTES:
        sys.exit(f"{args.hits * HIT_BYTES >> 20:,} MiB of disk are needed, {free >> 20:,} are free")
    print(f"{args.hits:,} waiting, beside {SMALL:,} in the same run")
    measure.table(
        "shape",
        "next hit µs",
        "ratio",
        "intake rate ratio",
        "its CPU ratio",
        "ack p99 ratio",
        "RSS MB",
        "first ack s",
        "CPU s until then",
        "first ack of the small file",
        "its CPU s",
    )
    for name in args.shapes:
        shape(name, args.hits, args.under, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
