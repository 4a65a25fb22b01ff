"""What it costs intake and drain that somebody looks: against nobody looking, in the same run.

    python -m bench.page [--hits 100000] [--rounds 5] [--seconds 3] [--under DIRECTORY]

Four situations in turn, on a file with so many kept hits: nobody; one listener of the event
stream; a person, who has the page open, searches every second and a half, and turns pages; a
client that searches without pause, as a script or a forgotten tab might.  Intake at full load,
where load generator, daemon and reader share the machine's processors, and at half of the peak
rate; then the drain, to a collection server that answers at once.  And how long a search takes
with nobody else there: to the first answer, and to the end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from bench import measure, stock
from bench.drain import VISITORS, adobe, until
from bench.measure import ratios, spread

SEARCHES = {
    "everything": "",
    "one page's name": "page:checkout",
    "a text that nothing has": "nothingofthesort",
    "a rule, so that each hit is decoded": "rule:L4",
    "dead letters": "is:dead",
}
# What a person looks for, and how often; each answer's second page is looked at, too.
TYPED = ("page:checkout", "has:finding", "is:waiting evar12:boots", "", "rule:W4", "visitor:4821")
TYPES_S = 1.5


WHO: tuple[str, ...] = ("nobody", "listens", "a person", "searches")


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


class Look:
    """Somebody who looks, in threads of this process; `firsts` is how long each waited."""

    def __init__(self, port: int, how: str) -> None:
        does: dict[str, list[Callable[[], None]]] = {
            "listens": [self.listens],
            "a person": [self.listens, self.types],
            "searches": [self.searches],
        }
        self.port, self.firsts = port, list[float]()
        self.listener: socket.socket | None = None
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=one) for one in does.get(how, [])]

    def searches(self) -> None:
        while not self.stop.is_set():
            search(self.port, "rule:L4", self.stop)

    def listens(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as self.listener:
            self.listener.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            while self.listener.recv(65_536):
                pass

    def types(self) -> None:
        turn = 0
        while not self.stop.wait(TYPES_S):
            began = time.perf_counter()
            path = f"/api/v1/hits?limit=100&q={quote(TYPED[turn % len(TYPED)])}"
            page = asked(self.port, path)
            self.firsts.append(time.perf_counter() - began)
            if page["cursor"]:
                asked(self.port, f"{path}&cursor={page['cursor']}")
            turn += 1


@contextlib.contextmanager
def looking(port: int, how: str, settled_s: float) -> Iterator[Look]:
    """Somebody looks, and has done so for a while."""
    look = Look(port, how)
    for thread in look.threads:
        thread.start()
    try:
        time.sleep(settled_s if look.threads else 0.0)
        look.firsts.clear()
        yield look
    finally:
        look.stop.set()
        if look.listener is not None:
            look.listener.shutdown(socket.SHUT_RDWR)
        for thread in look.threads:
            thread.join()


def reader_s(pid: int) -> float:
    """Processor seconds of the process that reads for people, if there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return sum(measure.cpu_s(int(child)) for child in children)


class Table:
    """What was measured, by who looked, each beside the nobody of the same round."""

    def __init__(self, who: Sequence[str], settled_s: float) -> None:
        self.who, self.settled_s = list(who), settled_s
        self.rows: dict[str, list[dict[str, float]]] = {one: [] for one in who}
        self.firsts: dict[str, list[float]] = {one: [] for one in who}

    def turns(self, rounds: int) -> Iterator[str]:
        """Everybody in each round, each of them first once."""
        for turn in range(rounds):
            first = turn % len(self.who)
            yield from self.who[first:] + self.who[:first]

    def measure(self, who: str, pid: int, admin: int, run: Callable[[], dict[str, float]]) -> None:
        """One stretch, with somebody looking."""
        with looking(admin, who, self.settled_s) as look:
            spent, began = reader_s(pid), time.perf_counter()
            found = run()
            found["reader"] = (reader_s(pid) - spent) / (time.perf_counter() - began) * 100
            self.rows[who].append(found)
            self.firsts[who] += look.firsts

    def show(self, what: str) -> float:
        """The table; the median rate with nobody looking."""
        print(what)
        measure.table(
            "who looks",
            "hits/s",
            "of nobody's",
            "p99 ms",
            "daemon's CPU µs a hit",
            "reader, % of a core",
            "a search's first answer, ms",
        )
        alone = [row["rate"] for row in self.rows["nobody"]]
        for who, found in self.rows.items():
            firsts = [first * 1e3 for first in self.firsts[who]]
            measure.row(
                who,
                spread([row["rate"] for row in found], 0),
                spread(ratios([row["rate"] for row in found], alone)),
                spread([row["p99_ms"] for row in found], 1) if "p99_ms" in found[0] else "–",
                spread([row["cpu_us"] for row in found], 0),
                spread([row["reader"] for row in found], 1),
                spread(firsts, 0) if firsts else "–",
            )
        print()
        return statistics.median(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hits", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--settled", type=float, default=2.0, help="seconds looked beforehand")
    parser.add_argument("--under", type=Path, help="a directory on the disk to be measured")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    who = WHO
    if args.smoke:
        who = ("nobody", "a person")
        args.hits, args.rounds, args.seconds, args.settled = 3_000, 1, 0.2, 0.1
    with measure.folder(args.under) as folder:
        full = folder / "full.db"
        stock.fill(full, args.hits, lambda hit: hit % VISITORS)
        shutil.copyfile(full, folder / "hits.db")
        port = measure.free_port()
        with measure.daemon(port, folder) as daemon:
            latency(port + 1)
            peak = intake(Table(who, args.settled), daemon.pid, port, args, 0)
            if not args.smoke:
                intake(Table(who, args.settled), daemon.pid, port, args, peak / 2)
        drain(Table(who, args.settled), full, args)


def latency(port: int) -> None:
    measure.table("search", "first answer ms", "whole s", "answers")
    search(port, "")  # the reader starts
    for name, q in SEARCHES.items():
        first, whole, answers = search(port, q)
        measure.row(name, f"{first * 1e3:.0f}", f"{whole:.2f}", answers)
    print()


def intake(table: Table, pid: int, port: int, args: argparse.Namespace, rate: float) -> float:
    """The median rate with nobody looking."""

    def run() -> dict[str, float]:
        # What questions may take at once while there is little to do is over after the first.
        measure.load(pid, port, 64, min(1.0, args.seconds), rate)
        return measure.load(pid, port, 64, args.seconds, rate)

    for who in table.turns(args.rounds):
        table.measure(who, pid, port + 1, run)
    return table.show(f"intake at {rate:.0f} hits/s" if rate else "intake at full load")


def drain(table: Table, full: Path, args: argparse.Namespace) -> None:
    """A copy of the file leaves, each time anew."""
    with adobe(0) as server:
        for who in table.turns(args.rounds):
            with measure.folder(full.parent) as folder:
                shutil.copyfile(full, folder / "hits.db")
                own = measure.free_port()
                with measure.daemon(own, folder, server=f"http://127.0.0.1:{server}") as child:
                    until(own + 1, 100)
                    run = partial(left, child.pid, own, args.seconds)
                    table.measure(who, child.pid, own + 1, run)
    table.show("drain of a backlog")


def left(pid: int, port: int, seconds: float) -> dict[str, float]:
    """What leaves in so many seconds."""
    cpu, began = measure.cpu_s(pid), time.perf_counter()
    first = measure.status(port + 1)["delivered"]
    time.sleep(seconds)
    found = measure.status(port + 1)
    # (a smoke of a moment may well empty it, and is not for reading)
    if not found["waiting"] and seconds >= 1:
        raise RuntimeError("the backlog was too small: ask for more --hits or fewer --seconds")
    count = max(found["delivered"] - first, 1)  # a smoke may be too short for more
    taken_s = time.perf_counter() - began
    return {"rate": count / taken_s, "cpu_us": (measure.cpu_s(pid) - cpu) / count * 1e6}


if __name__ == "__main__":
    main()
