"""The same hits over other wires, for peers that take no GET of Adobe's:

    python -m bench.wires WIRE PORT CONNECTIONS SECONDS TAKEN

get   the beacon itself, answered with 200 and the GIF
post  the beacon as a value in JSON, answered with 201 (Fluent Bit)
relp  the beacon as a line, answered by RELP's `200 OK` (rsyslog)
line  the beacon as a line; nothing is answered, so it counts as taken once the socket has it

prints `connected`, and at its end one JSON line: hits, seconds, bytes (of the beacons), p50_ms,
p99_ms; the file TAKEN gets the number of each hit that was taken.  A server that dies ends the
run, not with an error.
Source: https://github.com/rsyslog/librelp, doc/relp.html, for RELP's frames.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path

from bench.load import TEMPLATES, templates

BEFORE_LINE = b"<13>Jan  1 00:00:00 shop hit: "
OPEN = b"1 open 50 relp_version=0\nrelp_software=bench\ncommands=syslog\n"


class Client(asyncio.Protocol):
    """One connection: a hit, its answer, the next hit."""

    def __init__(self, run: Run, first: int) -> None:
        self.run, self.wire, self.number = run, run.wire, 0
        beacons = templates(first, range(first, first + TEMPLATES))
        self.beacons = [(len(a) + 14 + len(b), *self.framed(a, b)) for a, b in beacons]
        self.got = b""
        self.began = 0.0
        self.hit = self.size = 0
        self.paused = False

    def framed(self, before: bytes, behind: bytes) -> tuple[bytes, bytes]:
        """What stands before and behind the digits of the random segment."""
        if self.wire == "get":
            return before, behind
        before, behind = (part.replace(b"\r\n", b"\t") for part in (before, behind.rstrip()))
        if self.wire == "post":
            before, behind = (json.dumps(p.decode())[1:-1].encode() for p in (before, behind))
            before, behind = b'{"hit":"' + before, behind + b'"}'
            size = len(before) + 14 + len(behind)
            head = (
                b"POST /hits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % size
            )
            return head + before, behind
        before = BEFORE_LINE + before
        if self.wire == "relp":
            return b" syslog %d " % (len(before) + 14 + len(behind)) + before, behind + b"\n"
        return before, behind + b"\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.wire == "relp":
            self.transport.write(OPEN)
        else:
            self.send()

    def send(self) -> None:
        if self.transport.is_closing():
            return
        if time.perf_counter() >= self.run.end:
            self.transport.close()
            return
        self.size, before, behind = self.beacons[self.number % len(self.beacons)]
        self.number += 1
        self.hit = next(self.run.numbers)
        self.began = time.perf_counter()
        if self.wire == "relp":
            before = b"%d" % (self.number + 1) + before
        self.transport.write(b"%b%014d%b" % (before, self.hit, behind))
        if self.wire == "line":
            self.taken()
            if not self.paused:
                asyncio.get_running_loop().call_soon(self.send)

    def taken(self) -> None:
        self.run.taken.append(self.hit)
        self.run.size += self.size
        self.run.latencies.append(time.perf_counter() - self.began)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self.send)  # which may close, and not in here

    def data_received(self, data: bytes) -> None:
        self.got += data
        if not self.whole():
            return
        if self.began:
            self.taken()
        self.got = b""
        self.send()

    def whole(self) -> bool:
        """An answer has come; RuntimeError when it is a no."""
        if self.wire == "relp":
            ended, yes = self.got.endswith(b"\n"), b"200 OK" in self.got
        else:
            head = self.got.find(b"\r\n\r\n")
            ended = head >= 0 and len(self.got) >= head + 4 + (43 if self.wire == "get" else 0)
            yes = self.got.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201"))
        if ended and not yes:
            raise RuntimeError(self.got[:200])
        return ended

    def connection_lost(self, _: Exception | None) -> None:
        self.run.open -= 1
        if not self.run.open:
            self.run.done.set()


class Run:
    """One measured stretch."""

    def __init__(self, wire: str, connections: int, seconds: float) -> None:
        self.wire, self.open = wire, connections
        self.numbers = itertools.count(time.time_ns() // 1000 % 10**13)
        self.taken: list[int] = []
        self.latencies: list[float] = []
        self.size = 0
        self.done = asyncio.Event()
        self.seconds = seconds

    def begin(self) -> None:
        self.began = time.perf_counter()
        self.end = self.began + self.seconds


async def drive(wire: str, port: int, connections: int, seconds: float) -> Run:
    run = Run(wire, connections, seconds)
    loop = asyncio.get_running_loop()
    clients = [Client(run, connection * TEMPLATES) for connection in range(connections)]
    run.begin()
    for client in clients:
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
    print("connected", flush=True)
    await run.done.wait()
    return run


def _same(client: Client) -> Client:
    return client


def main() -> None:
    wire, port, connections, seconds, taken = sys.argv[1:]
    run = asyncio.run(drive(wire, int(port), int(connections), float(seconds)))
    Path(taken).write_text("".join(f"{hit}\n" for hit in run.taken), encoding="ascii")
    waited = sorted(run.latencies)
    print(
        json.dumps(
            {
                "hits": len(run.taken),
                "seconds": time.perf_counter() - run.began,
                "bytes": run.size,
                "p50_ms": waited[len(waited) // 2] * 1e3,
                "p99_ms": waited[int(len(waited) * 0.99)] * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
