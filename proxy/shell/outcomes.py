"""What becomes of hits, as a transaction writes it: each change with the account that it changes.

Rule: rows and ledger change together, and what was changed in memory is a book that becomes the
queue's only with the commit.  A hit leaves once: whoever comes second changes nothing.
Non-rule: opens no transaction and ends none, and decides nothing about hits.
Source: docs/design/0004; sqlite.org on RETURNING and on JSON for many values at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from proxy.core import series
from proxy.core.hit import Hit, Ledger, Received
from proxy.core.moment import Boots
from proxy.core.rescue import row_sum
from proxy.points import Point, reached
from proxy.shell import rows

PURGE_HITS = 500
# Empty pages the file keeps for the next burst, and how many go back to the disk at a time.
SPARE_PAGES, SHRINK_PAGES = 2_048, 128
ADD = (
    "INSERT INTO hits (id, lane, boot, received_ms, suites, content, sum)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
# What was delivered is settled by one statement for all of it: each step of a statement gives the
# other threads a turn, which costs several times what the row does.
WAIT_YET = f"""
    SELECT json_group_array(h.id) FROM hits h
    WHERE h.id IN (SELECT value FROM json_each(?)) AND {rows.UNSETTLED}"""  # noqa: S608
DELIVER = """
    INSERT INTO delivered (id, at_ms, status, ts)
    SELECT h.id, ?, ?, d.value FROM json_each(?) d JOIN hits h ON h.id = CAST(d.key AS INTEGER)
    WHERE true ON CONFLICT DO NOTHING"""
REMOVE = "DELETE FROM hits WHERE id = ?"
SETTLE = f"DELETE FROM hits AS h WHERE id = ? AND {rows.UNSETTLED}"  # noqa: S608
REMOVE_ALL = "DELETE FROM hits WHERE id IN (SELECT value FROM json_each(?))"
TAKE_OUT = SETTLE + " RETURNING id, lane, boot, received_ms, flags, suites, content, sum"
BURY = "INSERT INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
HOLD = f"""
    INSERT INTO held (id, lane, suites, reason)
    SELECT id, lane, ?, ? FROM hits h WHERE id = ? AND {rows.UNSETTLED}
    ON CONFLICT DO NOTHING"""  # noqa: S608
DOUBT = f"UPDATE hits AS h SET flags = flags | 1 WHERE id = ? AND {rows.UNSETTLED}"  # noqa: S608
TALLY = "INSERT INTO tallies VALUES (?, ?) ON CONFLICT DO UPDATE SET count = excluded.count"
REQUEUE = """
    INSERT INTO hits (id, lane, boot, received_ms, flags, suites, content, sum)
    SELECT ?, lane, boot, received_ms, flags | 2, suites, content, sum FROM dead WHERE id = ?"""
DATE = "UPDATE hits SET boot = ?, received_ms = ?, sum = ? WHERE id = ?"
OLD_DELIVERED = "SELECT id FROM delivered WHERE at_ms < ? ORDER BY id LIMIT ?"
NOTE = "INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?, ?, ?)"
FORGET = "DELETE FROM series WHERE at_s < ? OR at_s > ?"
FIRST_DELIVERED = "SELECT id FROM delivered ORDER BY id LIMIT ?"
WRITE_LEDGER = f"UPDATE ledger SET last_id = ?, {', '.join(f'{name} = ?' for name in rows.COUNTS)}"  # noqa: S608


@dataclass(slots=True)
class Book:
    """What a transaction changes beside rows; it becomes ours only with the commit.

    `oldest`: no waiting hit has a smaller id.  Waiting hits up to `gone_through` were
    dropped by a limit, but for the `spared` ones, which were in flight.  `dropped`: those
    of this transaction, and the count they are in now; `arrived`: its new hits and their
    lanes, in order of id.
    """

    ledger: Ledger
    last_id: int
    boots: Boots
    delivered_rows: int = 0
    oldest: int = 0
    gone_through: int = 0
    spared: frozenset[int] = frozenset()
    dropped: dict[int, str] = field(default_factory=dict)
    arrived: list[tuple[int, int]] = field(default_factory=list)


class Delivery(NamedTuple):
    """What Adobe took: a change like others, but all there are take one step."""

    hit: int
    size: int
    status: int
    ts: int | None


Change = Callable[[sqlite3.Connection, Book, bool], object] | Delivery


def leave(db: sqlite3.Connection, book: Book, hits: list[int], size: int, counted: str) -> None:
    """Waiting hits became something else."""
    held = 0
    if book.ledger.held:
        rows = [(id_,) for id_ in hits]
        held = db.executemany("DELETE FROM held WHERE id = ?", rows).rowcount
    book.spared = book.spared.difference(hits)
    ledger = book.ledger
    book.ledger = replace(
        ledger,
        waiting=ledger.waiting - len(hits),
        waiting_bytes=ledger.waiting_bytes - size,
        held=ledger.held - held,
        **{counted: getattr(ledger, counted) + len(hits)},
    )


def bury(
    hit: Hit,
    reason: str,
    status: int | None,
    tries: int,
    died_ms: int,
    db: sqlite3.Connection,
    book: Book,
    _lean: bool,
) -> None:
    # Taken out before it is put in: on a full disk it needs the room it had.
    rows = db.execute(TAKE_OUT, (hit.id,)).fetchall()
    if rows:
        reached(Point.BURY_INSIDE)
        db.execute(BURY, (*rows[0], reason, status, tries, died_ms))
        leave(db, book, [hit.id], hit.size, "dead")


def hold(
    hit: Hit, suites: str, reason: str, db: sqlite3.Connection, book: Book, _lean: bool
) -> None:
    held = db.execute(HOLD, (suites, reason, hit.id)).rowcount
    reached(Point.HOLD_INSIDE)
    book.ledger = replace(book.ledger, held=book.ledger.held + held)


def release(suites: str, db: sqlite3.Connection, book: Book, _lean: bool) -> int:
    count = db.execute("DELETE FROM held WHERE suites = ?", (suites,)).rowcount
    reached(Point.RELEASE_INSIDE)
    book.ledger = replace(book.ledger, held=book.ledger.held - count)
    return count


def doubt_all(ids: list[int], db: sqlite3.Connection, book: Book, _lean: bool) -> None:
    """Each cut counts; a hit that has left meanwhile does not."""
    for id_ in ids:
        doubted = db.execute(DOUBT, (id_,)).rowcount
        reached(Point.DOUBT_INSIDE)
        book.ledger = replace(book.ledger, ambiguous=book.ledger.ambiguous + doubted)


def requeue(ids: list[int], now_ms: int, db: sqlite3.Connection, book: Book, _lean: bool) -> int:
    count = 0
    for id_ in ids:
        row = db.execute(
            "SELECT length(content), lane, boot FROM dead WHERE id = ?", (id_,)
        ).fetchone()
        if row is None:
            continue
        size, lane, boot = row
        book.last_id += 1
        db.execute(REQUEUE, (book.last_id, id_))
        if boot not in book.boots.offsets:
            _date(db, book.last_id, Received(book.boots.current, now_ms))
        reached(Point.REQUEUE_INSIDE)
        db.execute("DELETE FROM dead WHERE id = ?", (id_,))
        ledger = book.ledger
        book.ledger = replace(
            ledger,
            dead=ledger.dead - 1,
            waiting=ledger.waiting + 1,
            waiting_bytes=ledger.waiting_bytes + size,
        )
        book.arrived.append((book.last_id, lane))
        count += 1
    return count


def _date(db: sqlite3.Connection, id_: int, at: Received) -> None:
    """A hit whose time of receipt is lost gets another; a damaged one stays recognisable."""
    lane, boot, received_ms, content, total = db.execute(
        "SELECT lane, boot, received_ms, content, sum FROM hits WHERE id = ?", (id_,)
    ).fetchone()
    if total == row_sum(lane, boot, received_ms, content):
        db.execute(DATE, (at.boot, at.ms, row_sum(lane, at.boot, at.ms, content), id_))


def discard(ids: list[int], db: sqlite3.Connection, book: Book, _lean: bool) -> int:
    count = sum(db.execute("DELETE FROM dead WHERE id = ?", (id_,)).rowcount for id_ in ids)
    reached(Point.DISCARD_INSIDE)
    ledger = book.ledger
    book.ledger = replace(ledger, dead=ledger.dead - count, discarded=ledger.discarded + count)
    return count


def shrink(db: sqlite3.Connection, _book: Book, _lean: bool) -> int:
    """Give some empty pages back to the disk; how many."""
    (empty,) = rows.one(db, "PRAGMA freelist_count")
    pages: int = min(max(0, empty - SPARE_PAGES), SHRINK_PAGES)
    for _ in range(pages):
        # One a call: the module steps a statement without rows only once.
        db.execute("PRAGMA incremental_vacuum(1)")
        reached(Point.SHRINK_INSIDE)
    return pages


def note(at_s: int, oldest_s: int, db: sqlite3.Connection, book: Book, lean: bool) -> None:
    """One row in, one or two out: no hit waits for it longer than for another hit."""
    if lean:
        return  # a chart is no reason to need room on a full disk
    now = book.ledger
    db.execute(NOTE, (at_s, oldest_s, now.waiting, now.accepted, now.delivered, now.dead))
    db.execute(FORGET, (at_s - series.KEPT_S, at_s))


def remember(
    name: str, value: str | None, db: sqlite3.Connection, _book: Book, _lean: bool
) -> None:
    if value is None:
        db.execute("DELETE FROM settings WHERE name = ?", (name,))
    else:
        db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))
    reached(Point.SETTING_INSIDE)


def read_book(db: sqlite3.Connection, book: Book) -> Book:
    """What the file says, on top of what only this process knows."""
    last_id, *counts = rows.one(db, rows.READ_LEDGER)
    (delivered,) = rows.one(db, "SELECT count(*) FROM delivered")
    return replace(book, ledger=Ledger(*counts), last_id=last_id, delivered_rows=delivered)
