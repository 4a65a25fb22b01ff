"""Queue files with a backlog, written faster than any client could send it.

Rule: the schema is the product's own, the rows are what its intake would have written, and the
ledger's equation holds; only the way in is shorter.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from bench.traffic import Traffic
from proxy.core import headers, wire
from proxy.core.hit import Request
from proxy.core.limits import Limits
from proxy.core.rescue import row_sum
from proxy.shell.clock import SystemClock
from proxy.shell.outcomes import ADD
from proxy.shell.queue import Queue

AT_ONCE = 10_000
LIMITS = Limits(max_hits=10**9, max_bytes=10**15, min_free_disk=0)


def parsed(raw: bytes) -> Request:
    """A beacon as the intake sees it."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    pairs = (line.partition(b": ") for line in lines)
    return Request(method.decode(), target, tuple((name, value) for name, _, value in pairs), body)


def contents(count: int) -> list[bytes]:
    """Beacons as rows hold them."""
    traffic = Traffic(1)
    found = []
    for visitor in range(count):
        request = parsed(traffic.beacon(visitor))
        kept = headers.kept(request.headers, "127.0.0.1")
        found.append(wire.pack(Request(request.method, request.target, kept)))
    return found


async def _create(path: Path) -> int:
    queue = await Queue.open(path, LIMITS, SystemClock())
    await queue.close()
    return queue.boots.current


def fill(path: Path, hits: int, lane: Callable[[int], int]) -> int:
    """A new queue file with so many waiting hits; the bytes of their contents."""
    boot = asyncio.run(_create(path))
    now = SystemClock().ms()
    pool = contents(1_000)
    total = 0

    def rows(first: int, last: int) -> Iterator[tuple[object, ...]]:
        nonlocal total
        for hit in range(first, last):
            content, visitor = pool[hit % len(pool)], lane(hit)
            total += len(content)
            yield hit, visitor, boot, now, None, content, row_sum(visitor, boot, now, content)

    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -64000")
        for first in range(1, hits + 1, AT_ONCE):
            db.execute("BEGIN")
            db.executemany(ADD, rows(first, min(first + AT_ONCE, hits + 1)))
            db.execute("COMMIT")
        db.execute(
            "UPDATE ledger SET last_id = ?, accepted = ?, waiting = ?, waiting_bytes = ?",
            (hits, hits, hits, total),
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return total
