"""The load: realistic beacons over keep-alive connections, one in flight each.

    python -m bench.load PORT CONNECTIONS SECONDS [--rate HITS_A_SECOND] [--visitors N]

prints one JSON line: hits, seconds, p50_ms, p99_ms.  Runs in a process of its own so that
its cost is not the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

PADDING = "".join(f"&v{number}=value{number}%20of%20the%20page" for number in range(1, 36))
HEADERS = (
    "Host: localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
    "Accept-Language: de-DE,de;q=0.9\r\nReferer: http://site.example/page\r\n\r\n"
)


def beacon(number: int, visitor: int) -> bytes:
    """A page view of about 1.2 KB, as AppMeasurement writes it."""
    return (
        f"GET /b/ss/opt/1/JS-2.27.0/s{visitor:05d}{number:09d}?AQB=1&ndh=1&pf=1"
        f"&t=2%2F1%2F2026%202%3A40%3A0%201%200&mid={visitor:038d}&ce=UTF-8"
        f"&pageName=page{number}&g=http%3A%2F%2Fsite.example%2Fpage{PADDING}"
        f"&AQE=1 HTTP/1.1\r\n{HEADERS}"
    ).encode()


class Client(asyncio.Protocol):
    """One connection: send, wait for the whole answer, note how long, send again."""

    def __init__(self, run: Run, visitor: int) -> None:
        self.run, self.visitor, self.number = run, visitor, 0
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
            self.began = due if self.run.interval else time.perf_counter()
            visitor = self.visitor + self.run.connections * (self.number % self.run.spread)
            self.transport.write(beacon(self.number, visitor))
            self.number += 1
        else:
            asyncio.get_running_loop().call_later(due - time.perf_counter(), self.write, due)

    def write(self, due: float) -> None:
        # An answer's latency counts from when its hit was due, or a stall would hide itself.
        self.began = due
        self.transport.write(beacon(self.number, self.visitor))
        self.number += 1

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

    def __init__(self, connections: int, seconds: float, rate: float, spread: int) -> None:
        self.connections = self.open = connections
        self.spread = spread
        self.start = time.perf_counter()
        self.end = self.start + seconds
        self.interval = 1 / rate if rate else 0.0
        self.sent = 0
        self.latencies: list[float] = []
        self.done = asyncio.Event()

    def due(self) -> float | None:
        """When the next hit is to be sent; None when the run is over."""
        now = time.perf_counter()
        at = max(self.start + self.sent * self.interval, 0.0) if self.interval else now
        self.sent += 1
        return None if max(at, now) >= self.end else at


async def drive(port: int, connections: int, seconds: float, rate: float, spread: int) -> Run:
    run = Run(connections, seconds, rate, spread)
    loop = asyncio.get_running_loop()
    for visitor in range(connections):
        await loop.create_connection(lambda v=visitor: Client(run, v), "127.0.0.1", port)  # type: ignore[misc]
    await run.done.wait()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--visitors", type=int, default=1, help="visitors a connection")
    args = parser.parse_args()
    began = time.perf_counter()
    run = asyncio.run(drive(args.port, args.connections, args.seconds, args.rate, args.visitors))
    taken = sorted(run.latencies)
    print(
        json.dumps(
            {
                "hits": len(taken),
                "seconds": time.perf_counter() - began,
                "p50_ms": taken[len(taken) // 2] * 1e3,
                "p99_ms": taken[int(len(taken) * 0.99)] * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
