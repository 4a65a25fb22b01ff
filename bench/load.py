"""The load: realistic beacons over keep-alive connections, one in flight each.

    python -m bench.load PORT CONNECTIONS SECONDS [--rate HITS_A_SECOND] [--visitors N] [--heads]

prints one JSON line: hits, seconds, p50_ms, p99_ms.  Runs in a process of its own so that
its cost is not the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from functools import partial

from bench.traffic import Traffic

# Each connection sends its visitors' beacons in turn, each with a random segment of its own: the
# same bytes twice would be a copy, which costs no commit.
TEMPLATES = 8


def templates(seed: int, visitors: range) -> list[tuple[bytes, bytes]]:
    """Beacons in two parts, before and behind the digits of the random segment."""
    traffic = Traffic(seed)
    found = []
    for visitor in visitors:
        before, mark, behind = traffic.beacon(visitor).partition(b"/JS-2.27.0/s")
        found.append((before + mark, behind[14:]))
    return found


class Client(asyncio.Protocol):
    """One connection: send, wait for the whole answer, note how long, send again."""

    def __init__(self, run: Run, first: int) -> None:
        self.run, self.number = run, 0
        self.beacons = templates(first, range(first, first + TEMPLATES * run.spread, run.spread))
        self.got = b""
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        due = self.run.due()
        if due is None:
            self.transport.close()
        elif due <= time.perf_counter():
            self.write(due if self.run.interval else time.perf_counter())
        else:
            asyncio.get_running_loop().call_later(due - time.perf_counter(), self.write, due)

    def write(self, began: float) -> None:
        # An answer's latency counts from when its hit was due, or a stall would hide itself.
        self.began = began
        before, behind = self.beacons[self.number % len(self.beacons)]
        self.number += 1
        drawn = next(self.run.random)
        if self.run.heads:
            behind = b"%bX-Page: %d\r\n\r\n" % (behind[:-2], drawn)
        self.transport.write(b"%b%014d%b" % (before, drawn, behind))

    def data_received(self, data: bytes) -> None:
        self.got += data
        head = self.got.find(b"\r\n\r\n")
        if head < 0 or len(self.got) < head + 4 + 43:
            return
        if not self.got.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self.got[:100])
        self.got = b""
        self.run.latencies.append(time.perf_counter() - self.began)
        self.send()

    def connection_lost(self, _: Exception | None) -> None:
        self.run.open -= 1
        if not self.run.open:
            self.run.done.set()


class Run:
    """One measured stretch."""

    def __init__(
        self, connections: int, seconds: float, rate: float, spread: int, heads: bool = False
    ) -> None:
        """`heads`: no two requests have the same headers, as they would of one page of one tab."""
        self.heads = heads
        self.connections = self.open = connections
        self.spread, self.seconds = spread, seconds
        self.interval = 1 / rate if rate else 0.0
        self.sent = 0
        self.random = itertools.count(time.time_ns() // 1000 % 10**13)
        self.latencies: list[float] = []
        self.done = asyncio.Event()

    def begin(self) -> None:
        self.start = time.perf_counter()
        self.end = self.start + self.seconds

    def due(self) -> float | None:
        """When the next hit is to be sent; None when the run is over."""
        now = time.perf_counter()
        at = max(self.start + self.sent * self.interval, 0.0) if self.interval else now
        self.sent += 1
        return None if max(at, now) >= self.end else at


async def drive(
    port: int, connections: int, seconds: float, rate: float, spread: int, heads: bool
) -> Run:
    run = Run(connections, seconds, rate, spread, heads)
    loop = asyncio.get_running_loop()
    clients = [Client(run, connection * TEMPLATES * spread) for connection in range(connections)]
    run.begin()
    for client in clients:
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
    await run.done.wait()
    return run


def _same(client: Client) -> Client:
    return client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--visitors", type=int, default=1, help="spread of their numbers")
    parser.add_argument("--heads", action="store_true", help="new headers with each hit")
    args = parser.parse_args()
    said = args.port, args.connections, args.seconds, args.rate, args.visitors, args.heads
    run = asyncio.run(drive(*said))
    taken = sorted(run.latencies)
    print(
        json.dumps(
            {
                "hits": len(taken),
                "seconds": args.seconds,
                "p50_ms": taken[len(taken) // 2] * 1e3,
                "p99_ms": taken[int(len(taken) * 0.99)] * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
