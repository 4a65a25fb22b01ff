"""The drain against what it cannot beat: concurrency / RTT, and a bare aiohttp client.

    python -m bench.drain [--rounds 3] [--seconds 4] [--rtt 0 20 100] [--concurrency 32 64 256]

Three tables: a backlog of many visitors; the backlog of one; intake while a backlog drains.
A bare client that sends the same requests to the same server is measured beside each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from bench import measure, stock
from bench.measure import ratios, spread

VISITORS = 5_000
MORE = 5


@contextmanager
def adobe(rtt_s: float) -> Iterator[int]:
    """A collection server that takes so long for each answer; its port."""
    port = measure.free_port()
    with measure.process("-m", "bench.servers", "adobe", str(port), str(rtt_s)):
        measure.wait_for(partial(measure.answers, f"http://127.0.0.1:{port}/"))
        yield port


def bare(port: int, concurrency: int, seconds: float) -> tuple[float, float]:
    """Requests a second of the bare client, and CPU µs a request."""
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "bench.bare", str(port), str(concurrency), str(seconds)],
            check=True,
            capture_output=True,
            cwd=measure.ROOT,
        ).stdout
    )
    return found["hits"] / found["seconds"], found["cpu_us"]


def drained(
    port: int, hits: int, concurrency: int, seconds: float, lane: Callable[[int], int]
) -> tuple[float, float]:
    """Hits a second of a backlog of some `seconds`, from a fifth on for half of them, and CPU µs.

    Nobody asks the daemon how far it is meanwhile: an answer costs as much as ten hits.
    """
    with measure.folder() as folder:
        stock.fill(folder / "hits.db", hits, lane)
        own = measure.free_port()
        with measure.daemon(
            own, folder, server=f"http://127.0.0.1:{port}", concurrency=concurrency
        ) as child:
            first = until(own + 1, hits // 5)
            cpu, began = measure.cpu_s(child.pid), time.perf_counter()
            time.sleep(seconds / 2)
            took = measure.cpu_s(child.pid) - cpu
            last = until(own + 1, 0)
            count = max(last - first, 1)  # a smoke may be too short for more
            return count / (time.perf_counter() - began), took / count * 1e6


def until(admin: int, delivered: int) -> int:
    """How many are delivered, once so many are."""
    end = time.monotonic() + 120
    while (found := measure.status(admin)["delivered"]) < delivered:
        if time.monotonic() > end:
            raise RuntimeError(f"the drain stands at {found}")
        time.sleep(0.1)
    return found


def many(rtts: list[float], concurrencies: list[int], rounds: int, seconds: float) -> None:
    measure.table(
        "RTT ms", "concurrency", "hits/s", "of the bound", "CPU µs a hit", "of the bare client"
    )
    for rtt in rtts:
        with adobe(rtt / 1000) as port:
            for concurrency in concurrencies:
                bound = concurrency / rtt * 1000 if rtt else float("inf")
                rates, costs, bounds, bares = [], [], [], []
                for _ in range(rounds):
                    rate, cost = bare(port, concurrency, seconds)
                    bounds.append(min(bound, rate))
                    bares.append(cost)
                    rate, cost = drained(
                        port,
                        int(bounds[-1] * seconds),
                        concurrency,
                        seconds,
                        lambda hit: hit % VISITORS,
                    )
                    rates.append(rate)
                    costs.append(cost)
                measure.row(
                    f"{rtt:.0f}",
                    concurrency,
                    spread(rates, 0),
                    spread(ratios(rates, bounds)),
                    spread(costs, 0),
                    spread(ratios(costs, bares)),
                )


def one(rtts: list[float], rounds: int, seconds: float) -> None:
    print()
    measure.table("RTT ms", "one visitor, hits/s", "of 1 / RTT", "bare client, of 1 / RTT")
    for rtt in filter(None, rtts):
        with adobe(rtt / 1000) as port:
            rates, bares = [], []
            for _ in range(rounds):
                bares.append(bare(port, 1, seconds)[0] * rtt / 1000)
                # Few a second: of so many that one more or less says nothing.
                hits = max(20, int(seconds * MORE * 1000 / rtt))
                rates.append(drained(port, hits, 64, seconds * MORE, lambda _: 7)[0])
            measure.row(
                f"{rtt:.0f}",
                spread(rates, 1),
                spread([r * rtt / 1000 for r in rates]),
                spread(bares),
            )


def both(rounds: int, seconds: float, backlog: int) -> None:
    """Intake with an idle drain, and while a backlog leaves as fast as it can."""
    print()
    measure.table("intake", "alone hits/s", "while draining", "ratio", "p99 ms", "drained hits/s")
    alone, beside, p99, drains = [], [], [], []
    for _ in range(rounds):
        with measure.folder() as folder:
            own = measure.free_port()
            with measure.daemon(own, folder) as child:
                alone.append(measure.load(child.pid, own, 64, seconds)["rate"])
        with adobe(0) as port, measure.folder() as folder:
            stock.fill(folder / "hits.db", backlog, lambda hit: hit % VISITORS)
            own = measure.free_port()
            with measure.daemon(own, folder, server=f"http://127.0.0.1:{port}") as child:
                first, began = until(own + 1, 100), time.perf_counter()
                found = measure.load(child.pid, own, 64, seconds)
                last = measure.status(own + 1)["delivered"]
                drains.append((last - first) / (time.perf_counter() - began))
                beside.append(found["rate"])
                p99.append(found["p99_ms"])
    measure.row(
        "",
        spread(alone, 0),
        spread(beside, 0),
        spread(ratios(beside, alone)),
        spread(p99, 1),
        spread(drains, 0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rtt", type=float, nargs="+", default=[0.0, 20.0, 100.0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds, args.rtt, args.concurrency = 1, 0.3, [20.0], [32]
    many(args.rtt, args.concurrency, args.rounds, args.seconds)
    one(args.rtt, args.rounds, args.seconds)
    both(args.rounds, args.seconds, 1_000 if args.smoke else 100_000)


if __name__ == "__main__":
    main()
