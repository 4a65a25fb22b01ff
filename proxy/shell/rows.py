"""What the queue file says: its rows, and the values that they are.

Rule: nothing is written here, and a damaged row is a hit that no reader takes for one.
Non-rule: knows neither the queue nor who asks; every function is given a connection or a path.
Source: docs/design/0003 (no lane index), 0004 (the file), 0015 (what a row holds).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from proxy.core import wire
from proxy.core.hit import Hit, Ledger, Received, Request
from proxy.core.moment import Boots
from proxy.core.rescue import row_sum
from proxy.errors import QueueUnavailable
from proxy.shell import migrate

T = TypeVar("T")

AMBIGUOUS, REQUEUED = 1, 2
PAGE_HITS = 1_000
# So much of dead letters is looked at in one step, which every hit that comes waits for.
LETTERS_BYTES = 512 * 1024
# A start reads the newest hits before it is ready: so many bytes of them at most.
NEWEST_BYTES = 64 * 1024**2
COLUMNS = "h.id, h.lane, h.boot, h.received_ms, h.flags, h.suites, h.content, h.sum"
UNSETTLED = "NOT EXISTS (SELECT 1 FROM delivered d WHERE d.id = h.id)"
PAGE = f"""
    SELECT h.id, h.lane FROM hits h
    WHERE h.id > ? AND {UNSETTLED} AND NOT EXISTS (SELECT 1 FROM held k WHERE k.id = h.id)
    ORDER BY h.id LIMIT {PAGE_HITS}"""  # noqa: S608 - constants of this module
THESE = f"SELECT {COLUMNS} FROM hits h WHERE h.id IN (SELECT value FROM json_each(?))"  # noqa: S608
OLDEST = f"""
    SELECT h.id, length(h.content), h.boot, h.received_ms FROM hits h
    WHERE h.id >= ? AND {UNSETTLED} ORDER BY h.id"""  # noqa: S608
NEWEST = "SELECT content FROM hits ORDER BY id DESC LIMIT ?"
DEAD = """
    SELECT id, lane, boot, received_ms, flags, suites, content, sum,
           reason, status, tries, died_ms
    FROM dead WHERE id > ? ORDER BY id LIMIT ?"""
STAMPS_AFTER = """
    SELECT h.lane, max(d.ts) FROM delivered d JOIN hits h ON h.id = d.id
    WHERE d.ts > ? GROUP BY h.lane"""
SERIES = "SELECT at_s, oldest_s, waiting, accepted, delivered, dead FROM series ORDER BY at_s"
COUNTS = tuple(field.name for field in fields(Ledger))
READ_LEDGER = f"SELECT last_id, {', '.join(COUNTS)} FROM ledger"  # noqa: S608


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A hit Adobe refused for good, or that was buried; `died_ms` is Unix time."""

    hit: Hit
    reason: str
    status: int | None
    tries: int
    died_ms: int


def to_hit(row: tuple[Any, ...]) -> Hit:
    """The hit in a row of `COLUMNS`."""
    id_, lane, boot, received_ms, flags, suites, content, total = row
    whole = total == row_sum(lane, boot, received_ms, content)
    return Hit(
        id=id_,
        lane=lane,
        received=Received(boot, received_ms),
        request=_request(content) if whole else Request("", b"", body=content),
        size=len(content),
        suites=tuple(suites.split(",")) if suites else (),
        ambiguous=bool(flags & AMBIGUOUS),
        requeued=bool(flags & REQUEUED),
    )


def _request(content: bytes) -> Request:
    """The stored request; of a damaged one its bytes, which no reader takes for a hit."""
    try:
        return wire.unpack(content)
    except ValueError:
        return Request("", b"", body=content)


def to_letter(row: tuple[Any, ...]) -> DeadLetter:
    reason, status, tries, died_ms = row[8:]
    return DeadLetter(to_hit(row[:8]), reason, status, tries, died_ms)


def fetch(db: sqlite3.Connection, ids: list[int]) -> list[Hit]:
    found = {row[0]: to_hit(row) for row in every(db, THESE, json.dumps(ids))}
    return [found[id_] for id_ in ids if id_ in found]


def newest(db: sqlite3.Connection, count: int, say: Callable[[bytes], T]) -> list[T]:
    said: list[T] = []
    size = 0
    with contextlib.closing(db.execute(NEWEST, (count,))) as rows:
        for (content,) in rows:
            with contextlib.suppress(ValueError):
                size += wire.size(content)
            if size > NEWEST_BYTES:
                break
            said.append(say(content))
    return said


def letters(db: sqlite3.Connection, after: int, limit: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    size = 0
    with contextlib.closing(db.execute(DEAD, (after, limit))) as rows:
        for row in rows:
            found.append(to_letter(row))
            size += len(wire.message(found[-1].hit.request))
            if size >= LETTERS_BYTES:
                break
    return found


def one_or_none(db: sqlite3.Connection, sql: str, *values: object) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute(sql, values).fetchone()
    return row


def one(db: sqlite3.Connection, sql: str, *values: object) -> tuple[Any, ...]:
    row: tuple[Any, ...] = db.execute(sql, values).fetchone()
    return row


def every(db: sqlite3.Connection, sql: str, *values: object) -> list[tuple[Any, ...]]:
    return db.execute(sql, values).fetchall()


def peek(path: Path) -> tuple[Ledger, dict[str, int]]:
    """The counts in a queue file nobody has open, or that another process owns.

    QueueUnavailable when it cannot be read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            row = db.execute(READ_LEDGER).fetchone()
            tallies = dict(db.execute("SELECT name, count FROM tallies").fetchall())
    except sqlite3.Error as error:
        raise QueueUnavailable(f"cannot read {path}: {error}") from error
    return Ledger(*row[1:]), tallies


def peek_dead(path: Path, after: int, limit: int) -> tuple[list[DeadLetter], Boots]:
    """A page of dead letters in a queue file nobody has open, and what their times mean.

    QueueTooNew, QueueUnavailable when it cannot be read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            migrate.known_version(db)
            found = letters(db, after, limit)
            offsets = dict(db.execute("SELECT boot, offset_ms FROM boots").fetchall())
    except sqlite3.Error as error:
        raise QueueUnavailable(f"cannot read {path}: {error}") from error
    return found, Boots(max(offsets, default=0), offsets)
