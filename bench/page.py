"""What it costs the intake that somebody looks: against nobody looking, in the same run.

    python -m bench.page [--hits 100000] [--rounds 5] [--seconds 3] [--under DIRECTORY]

Three situations in turn, in capture mode on a file with so many kept hits: nobody; one listener
of the event stream; one client that searches without pause.  At full load, where load generator,
daemon and reader share the machine's processors, and at half of the peak rate.  Then how long a
search takes with nobody else there: to the first answer, and to the end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from bench import measure, stock
from bench.measure import ratios, spread

SEARCHES = {
    "everything": "",
    "one page's name": "page:checkout",
    "a text that nothing has": "nothingofthesort",
    "a rule, so that each hit is decoded": "rule:L4",
    "dead letters": "is:dead",
}


def asked(port: int, path: str) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        found: dict[str, object] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def search(port: int, q: str, stop: threading.Event | None = None) -> tuple[float, float, int]:
    """Seconds to the first answer and to the last one, and how many answers that took."""
    began = time.perf_counter()
    first, cursor, answers = 0.0, "", 0
    while stop is None or not stop.is_set():
        more = f"&cursor={cursor}" if cursor else ""
        # Counted, not listed: what is listed ends at the page's length.
        page = asked(port, f"/api/v1/counts?q={quote(q or '!is:dead')}{more}")
        answers += 1
        first = first or time.perf_counter() - began
        if page["complete"]:
            break
        cursor = str(page["cursor"])
    return first, time.perf_counter() - began, answers


@contextlib.contextmanager
def looking(port: int, how: str) -> Iterator[None]:
    """Somebody looks, in a thread of this process."""
    stop = threading.Event()

    def searches() -> None:
        while not stop.is_set():
            search(port, "rule:L4", stop)

    def listens() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/api/v1/events")
        answer = connection.getresponse()
        while not stop.is_set() and answer.readline():
            pass
        connection.close()

    does = {"listens": listens, "searches": searches}.get(how)
    thread = threading.Thread(target=does or (lambda: None))
    thread.start()
    try:
        time.sleep(0.5 if does else 0.0)
        yield
    finally:
        stop.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hits", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--under", type=Path, help="a directory on the disk to be measured")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.hits, args.rounds, args.seconds = 300, 1, 0.2
    with measure.folder(args.under) as folder:
        stock.fill(folder / "hits.db", args.hits, lambda hit: hit % 1_000)
        port = measure.free_port()
        with measure.daemon(port, folder) as daemon:
            latency(port + 1)
            peak = compare(daemon.pid, port, args.rounds, args.seconds, 0)
            compare(daemon.pid, port, args.rounds, args.seconds, peak / 2)


def latency(port: int) -> None:
    measure.table("search", "first answer ms", "whole s", "answers")
    search(port, "")  # the reader starts
    for name, q in SEARCHES.items():
        first, whole, answers = search(port, q)
        measure.row(name, f"{first * 1e3:.0f}", f"{whole:.2f}", answers)
    print()


def compare(pid: int, port: int, rounds: int, seconds: float, rate: float) -> float:
    """One table; the median rate with nobody looking."""
    rows: dict[str, list[dict[str, float]]] = {"nobody": [], "listens": [], "searches": []}
    for turn in range(rounds):
        names = list(rows)
        for name in names[turn % 3 :] + names[: turn % 3]:
            with looking(port + 1, name):
                rows[name].append(measure.load(pid, port, 64, seconds, rate))
    print(f"at {rate:.0f} hits/s" if rate else "at full load")
    measure.table("who looks", "hits/s", "of nobody's", "p99 ms", "daemon's CPU µs a hit")
    alone = [row["rate"] for row in rows["nobody"]]
    for name, found in rows.items():
        measure.row(
            name,
            spread([row["rate"] for row in found], 0),
            spread(ratios([row["rate"] for row in found], alone)),
            spread([row["p99_ms"] for row in found], 1),
            spread([row["cpu_us"] for row in found], 0),
        )
    print()
    return statistics.median(alone)


if __name__ == "__main__":
    main()
