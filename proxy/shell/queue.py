"""The queue: one SQLite file, one writing connection, one transaction for many hits.

Rule: what `add` returned for is on disk (WAL, synchronous=FULL), and a hit leaves only by
an outcome; the ledger changes in the transaction that changes the hits.
Non-rule: decides nothing about hits (limits, verdicts and time are values of the core)
and knows no HTTP.
Source: sqlite.org on WAL and synchronous; docs/design/0001 (answer after commit), 0003
(no lane index), 0004 (the file).

Group commit: whatever gathered while the last commit ran shares the next one; there is
no timer.  A transaction runs whole in aiosqlite's thread, so no await lies inside it and
a cancelled caller leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiosqlite

from proxy.core import limits, wire
from proxy.core.hit import Hit, Ledger, NewHit, Received
from proxy.core.limits import Limits
from proxy.core.moment import Boots
from proxy.errors import QueueFull, QueueInUse, QueueUnavailable
from proxy.shell import migrate
from proxy.shell.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")

AMBIGUOUS, REQUEUED = 1, 2

# The writer checkpoints early and often: 250 pages kept the p99 of an answer at half of
# what SQLite's default of 1,000 gave, at the same rate (docs/performance.md).
PRAGMAS = (
    "PRAGMA journal_mode = WAL",  # readers never wait for the writer
    "PRAGMA synchronous = FULL",  # NORMAL may lose the last commits on power loss
    "PRAGMA wal_autocheckpoint = 250",
    "PRAGMA journal_size_limit = 16777216",  # a burst must not leave a huge WAL behind
    "PRAGMA secure_delete = FAST",  # delivered hits hold personal data
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -8000",
)
FIRST_PRAGMAS = (
    "PRAGMA page_size = 8192",
    "PRAGMA auto_vacuum = INCREMENTAL",  # space goes back to the disk after a drain
)

PAGE_HITS = 1_000
PURGE_HITS = 500
MOST_DELIVERED = 100_000

ADD = "INSERT INTO hits (id, lane, boot, received_ms, suites, content) VALUES (?, ?, ?, ?, ?, ?)"
COLUMNS = "h.id, h.lane, h.boot, h.received_ms, h.flags, h.suites, h.content"
UNSETTLED = "NOT EXISTS (SELECT 1 FROM delivered d WHERE d.id = h.id)"
PAGE = f"""
    SELECT h.id, h.lane FROM hits h
    WHERE h.id > ? AND {UNSETTLED} AND NOT EXISTS (SELECT 1 FROM held k WHERE k.id = h.id)
    ORDER BY h.id LIMIT {PAGE_HITS}"""  # noqa: S608 - constants of this module
ONE = f"SELECT {COLUMNS} FROM hits h WHERE h.id = ?"  # noqa: S608
OLDEST = f"""
    SELECT h.id, length(h.content), h.boot, h.received_ms FROM hits h
    WHERE h.id >= ? AND {UNSETTLED} ORDER BY h.id"""  # noqa: S608
NEWEST = "SELECT content FROM hits ORDER BY id DESC LIMIT ?"
DELIVER = "INSERT INTO delivered (id, at_ms, status, ts) SELECT id, ?, ?, ? FROM hits WHERE id = ?"
REMOVE = "DELETE FROM hits WHERE id = ?"
BURY = """
    INSERT INTO dead SELECT id, lane, boot, received_ms, flags, suites, content, ?, ?, ?, ?
    FROM hits WHERE id = ?"""
HOLD = "INSERT INTO held (id, lane, suites, reason) SELECT id, lane, ?, ? FROM hits WHERE id = ?"
DOUBT = f"UPDATE hits AS h SET flags = flags | 1 WHERE id = ? AND {UNSETTLED}"  # noqa: S608
TALLY = "INSERT INTO tallies VALUES (?, ?) ON CONFLICT DO UPDATE SET count = excluded.count"
REQUEUE = """
    INSERT INTO hits (id, lane, boot, received_ms, flags, suites, content)
    SELECT ?, lane, boot, received_ms, flags | 2, suites, content FROM dead WHERE id = ?"""
DEAD = """
    SELECT id, lane, boot, received_ms, flags, suites, content, reason, status, tries, died_ms
    FROM dead WHERE id > ? ORDER BY id LIMIT ?"""
OLD_DELIVERED = "SELECT id FROM delivered WHERE at_ms < ? ORDER BY id LIMIT ?"
FIRST_DELIVERED = "SELECT id FROM delivered ORDER BY id LIMIT ?"

_LEDGER = tuple(field.name for field in fields(Ledger))
READ_LEDGER = f"SELECT last_id, {', '.join(_LEDGER)} FROM ledger"  # noqa: S608
WRITE_LEDGER = f"UPDATE ledger SET last_id = ?, {', '.join(f'{name} = ?' for name in _LEDGER)}"  # noqa: S608


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A hit Adobe refused for good, or that was buried; `died_ms` is Unix time."""

    hit: Hit
    reason: str
    status: int | None
    tries: int
    died_ms: int


@dataclass(slots=True)
class _Book:
    """What a transaction changes beside rows; it becomes ours only with the commit.

    `oldest`: no waiting hit has a smaller id.  Waiting hits up to `gone_through` were
    dropped by a limit, but for the `spared` ones, which were in flight.
    """

    ledger: Ledger
    last_id: int
    boots: Boots
    delivered_rows: int = 0
    oldest: int = 0
    gone_through: int = 0
    spared: frozenset[int] = frozenset()


Change = Callable[[sqlite3.Connection, _Book, bool], object]


class Queue:
    """An open queue file.  Open with `Queue.open`, keep `run` going, end with `close`."""

    def __init__(
        self,
        path: Path,
        limits_: Limits,
        clock: Clock,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        lock: int,
        sending: _Sending,
        book: _Book,
    ) -> None:
        self.path = path
        self.limits = limits_
        self.clock = clock
        self.news = asyncio.Event()  # something happened since the drain last cleared it
        self.arrivals: deque[tuple[int, int]] | None = None  # id and lane, once someone reads
        self._writer, self._reader = writer, reader
        self._lock, self._sending = lock, sending
        self._book = book
        self._adds: list[tuple[Sequence[NewHit], asyncio.Future[list[int]]]] = []
        self._adding_hits = self._adding_bytes = 0
        self._changes: list[tuple[Change, asyncio.Future[Any]]] = []
        self._tallies: dict[str, int] = {}
        self._untold = False  # tallies the file does not know yet
        self._work = asyncio.Event()
        self._closing = self._closed = False
        self._ended: asyncio.Event | None = None
        self._free: tuple[float, int] = (-1.0, 0)
        self.last_error: str | None = None

    # -- opening and closing ---------------------------------------------------------

    @classmethod
    async def open(cls, path: Path, limits_: Limits, clock: Clock, slots: int = 64) -> Queue:
        """Take the file for this process, bring it to our version, know its counts.

        `slots`: how many hits may be in flight at once.
        QueueInUse, QueueTooNew, QueueUnavailable say what an operator must do.
        """
        lock = _own(path)
        try:
            boots = await asyncio.to_thread(_prepare, path, clock)
            sending = _Sending(path.with_name(path.name + "-sending"), slots)
            writer = await _connect(f"{path.as_uri()}", PRAGMAS)
            reader = await _connect(f"{path.as_uri()}?mode=ro", ("PRAGMA query_only = 1",))
        except sqlite3.Error as error:
            os.close(lock)
            raise QueueUnavailable(f"cannot open {path}: {error}") from error
        except BaseException:
            os.close(lock)
            raise
        queue = cls(path, limits_, clock, writer, reader, lock, sending, _Book(Ledger(), 0, boots))
        await queue._take_stock()
        return queue

    async def _take_stock(self) -> None:
        """What an earlier process left: counts, history, and hits that were in flight."""
        last_id, *counts = await _run(self._reader, _one, READ_LEDGER)
        (rows,) = await _run(self._reader, _one, "SELECT count(*) FROM delivered")
        self._book = replace(
            self._book, ledger=Ledger(*counts), last_id=last_id, delivered_rows=rows
        )
        self._tallies = dict(await _run(self._reader, _rows, "SELECT name, count FROM tallies"))
        left = self._sending.left()
        if left:
            await _run(self._writer, self._transaction, [], [partial(_doubt_all, left)], [], False)
        self._sending.clear()

    async def close(self) -> None:
        """Commit what was asked for, then close; the caller has ended its adds."""
        if self._closed:
            return
        self._closed = self._closing = True
        self._work.set()
        if self._ended is not None:
            await self._ended.wait()
        await self._writer.close()
        await self._reader.close()
        self._sending.close()
        os.close(self._lock)

    # -- hits come in ----------------------------------------------------------------

    async def add(self, hits: Sequence[NewHit]) -> list[int]:
        """Their ids, once all of them are on disk.

        QueueFull at a stated limit, QueueUnavailable when the disk refuses: then none of
        them is stored.
        """
        size = sum(len(hit.content) for hit in hits)
        reason = limits.reached(
            self._book.ledger,
            self._adding_hits + len(hits),
            self._adding_bytes + size,
            self.free_disk(),
            self.limits,
        )
        if reason is not None:
            raise QueueFull(reason)
        if self._closing:
            raise QueueUnavailable("the queue is closing")
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._adds.append((hits, done))
        self._adding_hits += len(hits)
        self._adding_bytes += size
        self._work.set()
        return await done

    def tally(self, name: str) -> None:
        """Count something that is no hit of ours, e.g. `refused.max_hits` or `repeated`.

        On disk with the next commit, at the latest with the next `tidy` or `close`.
        """
        self._tallies[name] = self._tallies.get(name, 0) + 1
        self._untold = True

    # -- hits go out -----------------------------------------------------------------

    async def page(self, after: int) -> list[tuple[int, int]]:
        """Id and lane of the next waiting hits behind id `after`; held ones left out."""
        return await _run(self._reader, _rows, PAGE, after)

    async def fetch(self, ids: Iterable[int]) -> list[Hit]:
        """These hits, but for those that are gone."""
        return await _run(self._reader, _fetch, list(ids))

    async def newest(self, count: int) -> list[bytes]:
        """The contents of the hits stored last."""
        return [row[0] for row in await _run(self._reader, _rows, NEWEST, count)]

    def begin(self, hit: int) -> bool:
        """Mark a hit as in flight; False when a limit has dropped it meanwhile.

        The mark survives a crash of this process: a hit that was in flight then is
        counted as ambiguous at the next start.
        """
        book = self._book
        if hit <= book.gone_through and hit not in book.spared:
            return False
        self._sending.mark(hit)
        return True

    def deferred(self, hit: int) -> None:
        """A hit in flight stays, and is known not to have reached Adobe."""
        self._sending.unmark(hit)

    async def delivered(self, hit: Hit, status: int, ts: int | None) -> None:
        """Adobe took it."""
        at_ms = self.clock.wall_ms()
        await self._change(partial(self._deliver, hit, status, ts, at_ms))
        self._sending.unmark(hit.id)

    async def bury(self, hit: Hit, reason: str, status: int | None, tries: int) -> None:
        """Refused for good: a dead letter, kept until a person decides."""
        await self._change(partial(_bury, hit, reason, status, tries, self.clock.wall_ms()))
        self._sending.unmark(hit.id)

    async def hold(self, hit: Hit, suites: Sequence[str], reason: str) -> None:
        """It waits for a person; part of `waiting`, and out of the drain's pages."""
        await self._change(partial(_hold, hit, ",".join(suites), reason))
        self._sending.unmark(hit.id)

    async def doubt(self, hit: Hit) -> None:
        """It may have reached Adobe though no answer came: counted and marked, and it stays."""
        await self._change(partial(_doubt_all, [hit.id]))
        self._sending.unmark(hit.id)

    # -- people look and decide --------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        return self._book.ledger

    @property
    def boots(self) -> Boots:
        return self._book.boots

    @property
    def last_id(self) -> int:
        """The id of the hit accepted last."""
        return self._book.last_id

    @property
    def gone(self) -> tuple[int, frozenset[int]]:
        """Limits dropped the hits up to this id, but for these."""
        return self._book.gone_through, self._book.spared

    @property
    def tallies(self) -> dict[str, int]:
        """Everything `tally` counted, by name."""
        return dict(self._tallies)

    async def oldest_waiting(self) -> Received | None:
        """When the oldest waiting hit was received; None when nothing waits."""
        if not self._book.ledger.waiting:
            return None
        row = await _run(self._reader, _row, OLDEST + " LIMIT 1", self._book.oldest)
        if row is None:
            return None
        self._book.oldest = max(self._book.oldest, row[0])
        return Received(row[2], row[3])

    async def held_suites(self) -> dict[str, tuple[int, str]]:
        """How many hits are held for which report suites, and why."""
        sql = "SELECT suites, count(*), min(reason) FROM held GROUP BY suites"
        return {row[0]: (row[1], row[2]) for row in await _run(self._reader, _rows, sql)}

    async def held_lanes(self) -> set[int]:
        """Lanes with a held hit: what comes after it in the lane is held too."""
        rows = await _run(self._reader, _rows, "SELECT DISTINCT lane FROM held")
        return {row[0] for row in rows}

    async def release(self, suites: str) -> int:
        """Let the held hits of these report suites wait for the drain again; how many."""
        released: int = await self._change(partial(_release, suites))
        return released

    async def dead_letters(self, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Dead letters in order of id behind `after`."""
        return [_dead(row) for row in await _run(self._reader, _rows, DEAD, after, limit)]

    async def requeue(self, ids: Sequence[int]) -> int:
        """Dead letters wait again, at the end of their lanes; how many there were."""
        requeued: list[tuple[int, int]] = await self._change(partial(_requeue, list(ids)))
        if self.arrivals is not None:
            self.arrivals.extend(requeued)
        self.news.set()
        return len(requeued)

    async def discard(self, ids: Sequence[int]) -> int:
        """A person gives dead letters up; how many there were."""
        discarded: int = await self._change(partial(_discard, list(ids)))
        return discarded

    async def setting(self, name: str) -> str | None:
        """What a person asked for, as it was last written."""
        row = await _run(self._reader, _row, "SELECT value FROM settings WHERE name = ?", name)
        return row[0] if row else None

    async def set(self, name: str, value: str | None) -> None:
        """Remember across restarts; None forgets."""
        await self._change(partial(_set, name, value))

    # -- keeping house ------------------------------------------------------------------

    async def tidy(self) -> None:
        """Expire, purge what was kept for people, note a stepped clock; call now and then."""
        if self.boots.stepped(self._offset()):
            await self._change(self._correct)
        while self.limits.max_age_s and await self._change(self._expire):
            pass
        while await self._change(self._purge):
            pass

    async def run(self) -> None:
        """The writer: commit what gathered, tell who waits, until closed."""
        self._ended = asyncio.Event()
        try:
            while not self._closing:
                await self._work.wait()
                self._work.clear()
                while self._adds or self._changes:
                    await self._commit()
            if self._untold:
                await self._commit()
        finally:
            self._ended.set()

    async def _commit(self) -> None:
        adds, self._adds = self._adds, []
        changes, self._changes = self._changes, []
        self._adding_hits = self._adding_bytes = 0
        tallies = list(self._tallies.items()) if self._untold else []
        self._untold = False
        todo = [change for change, _ in changes]
        try:
            ids, results = await _run(
                self._writer, self._transaction, [hits for hits, _ in adds], todo, tallies, False
            )
        except sqlite3.OperationalError as error:
            self.last_error = str(error)
            self._untold = bool(tallies)
            _fail(adds, error)
            if changes:
                await self._commit_lean(changes)
            return
        self.last_error = None
        _tell(adds, ids)
        _tell(changes, results)
        if adds:
            self._arrived(adds, ids)

    def _arrived(
        self, adds: list[tuple[Sequence[NewHit], asyncio.Future[list[int]]]], ids: list[list[int]]
    ) -> None:
        """Tell the drain what came, so that it need not read it from the disk again."""
        if self.arrivals is not None:
            for (hits, _), numbers in zip(adds, ids, strict=True):
                self.arrivals.extend(
                    (id_, hit.lane) for id_, hit in zip(numbers, hits, strict=True)
                )
        self.news.set()

    async def _commit_lean(self, changes: list[tuple[Change, asyncio.Future[Any]]]) -> None:
        """Outcomes alone, deleting rather than keeping: the drain goes on with a full disk."""
        todo = [change for change, _ in changes]
        try:
            _, results = await _run(self._writer, self._transaction, [], todo, [], True)
        except sqlite3.OperationalError as error:
            _fail(changes, error)
        else:
            _tell(changes, results)

    def _transaction(
        self,
        db: sqlite3.Connection,
        adds: list[Sequence[NewHit]],
        changes: list[Change],
        tallies: list[tuple[str, int]],
        lean: bool,
    ) -> tuple[list[list[int]], list[object]]:
        """All of it or nothing; runs in the writer's thread."""
        book = replace(self._book)
        db.execute("BEGIN IMMEDIATE")
        try:
            results = [change(db, book, lean) for change in changes]
            ids = [self._insert(db, book, hits) for hits in adds]
            if tallies:
                db.executemany(TALLY, tallies)
            counts = (getattr(book.ledger, name) for name in _LEDGER)
            db.execute(WRITE_LEDGER, (book.last_id, *counts))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._book = book
        return ids, results

    def _insert(self, db: sqlite3.Connection, book: _Book, hits: Sequence[NewHit]) -> list[int]:
        size = sum(len(hit.content) for hit in hits)
        if self.limits.drop_oldest:
            over = limits.over(book.ledger, len(hits), size, self.limits)
            if any(over):
                self._drop(db, book, *over)
        first = book.last_id + 1
        ids = list(range(first, first + len(hits)))
        db.executemany(
            ADD,
            [
                (
                    id_,
                    hit.lane,
                    hit.received.boot,
                    hit.received.ms,
                    ",".join(hit.suites) or None,
                    hit.content,
                )
                for id_, hit in zip(ids, hits, strict=True)
            ],
        )
        book.last_id = first + len(hits) - 1
        book.ledger = replace(
            book.ledger,
            accepted=book.ledger.accepted + len(hits),
            waiting=book.ledger.waiting + len(hits),
            waiting_bytes=book.ledger.waiting_bytes + size,
        )
        return ids

    def _deliver(
        self,
        hit: Hit,
        status: int,
        ts: int | None,
        at_ms: int,
        db: sqlite3.Connection,
        book: _Book,
        lean: bool,
    ) -> None:
        if lean or not self.limits.keep_delivered_s:
            left = db.execute(REMOVE, (hit.id,)).rowcount
        else:
            left = db.execute(DELIVER, (at_ms, status, ts, hit.id)).rowcount
            book.delivered_rows += left
        _leave(book, left, hit.size, "delivered")

    def _drop(self, db: sqlite3.Connection, book: _Book, hits: int, size: int) -> None:
        """Make room for this many hits and bytes by dropping the oldest not in flight."""
        flying = self._sending.marked()
        chosen: list[tuple[int, int]] = []
        for id_, length, _, _ in db.execute(OLDEST, (book.oldest,)):
            if hits <= 0 and size <= 0:
                break
            if id_ not in flying:
                chosen.append((id_, length))
                hits, size = hits - 1, size - length
        _take_away(db, book, chosen, flying, "discarded")

    def _expire(self, db: sqlite3.Connection, book: _Book, _lean: bool) -> int:
        """Some hits older than max_age leave, oldest first; how many."""
        flying = self._sending.marked()
        now_ms, most_ms = self.clock.ms(), self.limits.max_age_s * 1000
        chosen: list[tuple[int, int]] = []
        for id_, length, boot, received_ms in db.execute(OLDEST, (book.oldest,)):
            age_ms = book.boots.age_ms(Received(boot, received_ms), now_ms)
            if age_ms <= most_ms or len(chosen) == PURGE_HITS:
                break
            if id_ not in flying:
                chosen.append((id_, length))
        _take_away(db, book, chosen, flying, "expired")
        return len(chosen)

    def _purge(self, db: sqlite3.Connection, book: _Book, _lean: bool) -> int:
        """Delete a few delivered hits that were kept long enough; how many."""
        before_ms = self.clock.wall_ms() - int(self.limits.keep_delivered_s * 1000)
        old = db.execute(OLD_DELIVERED, (before_ms, PURGE_HITS)).fetchall()
        excess = book.delivered_rows - MOST_DELIVERED
        if not old and excess > 0:
            old = db.execute(FIRST_DELIVERED, (min(excess, PURGE_HITS),)).fetchall()
        db.executemany(REMOVE, old)
        db.executemany("DELETE FROM delivered WHERE id = ?", old)
        book.delivered_rows -= len(old)
        return len(old)

    def _correct(self, db: sqlite3.Connection, book: _Book, _lean: bool) -> None:
        book.boots = book.boots.corrected(self._offset())
        current = book.boots.current
        db.execute(
            "UPDATE boots SET offset_ms = ? WHERE boot = ?", (book.boots.offsets[current], current)
        )

    def _offset(self) -> int:
        return self.clock.wall_ms() - self.clock.ms()

    def free_disk(self) -> int:
        """Bytes free where the file lies, measured at most twice a second."""
        now = asyncio.get_running_loop().time()
        if now - self._free[0] > 0.5:
            stat = os.statvfs(self.path.parent)
            self._free = (now, stat.f_bavail * stat.f_frsize)
        return self._free[1]

    async def _change(self, change: Change) -> Any:
        """The result of a change, once it is on disk; QueueUnavailable when it is not."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._changes.append((change, done))
        self._work.set()
        return await done


# -- changes that need nothing of the queue but its file -----------------------------------


def _leave(book: _Book, hits: int, size: int, counted: str) -> None:
    """Waiting hits became something else; none when a limit had dropped them meanwhile."""
    if hits:
        ledger = book.ledger
        book.ledger = replace(
            ledger,
            waiting=ledger.waiting - hits,
            waiting_bytes=ledger.waiting_bytes - size,
            **{counted: getattr(ledger, counted) + hits},
        )


def _take_away(
    db: sqlite3.Connection,
    book: _Book,
    chosen: list[tuple[int, int]],
    flying: frozenset[int],
    counted: str,
) -> None:
    """A limit drops these (id, bytes), which are the oldest but for those in flight."""
    if not chosen:
        return
    ids = [(id_,) for id_, _ in chosen]
    db.executemany(REMOVE, ids)
    held = db.executemany("DELETE FROM held WHERE id = ?", ids).rowcount
    book.ledger = replace(book.ledger, held=book.ledger.held - held)
    _leave(book, len(chosen), sum(size for _, size in chosen), counted)
    through = max(chosen[-1][0], book.gone_through)
    book.spared = frozenset(id_ for id_ in flying | book.spared if id_ <= through)
    book.gone_through = through
    book.oldest = min([through, *book.spared])


def _bury(
    hit: Hit,
    reason: str,
    status: int | None,
    tries: int,
    died_ms: int,
    db: sqlite3.Connection,
    book: _Book,
    _lean: bool,
) -> None:
    left = db.execute(BURY, (reason, status, tries, died_ms, hit.id)).rowcount
    db.execute(REMOVE, (hit.id,))
    _leave(book, left, hit.size, "dead")


def _hold(
    hit: Hit, suites: str, reason: str, db: sqlite3.Connection, book: _Book, _lean: bool
) -> None:
    held = db.execute(HOLD, (suites, reason, hit.id)).rowcount
    book.ledger = replace(book.ledger, held=book.ledger.held + held)


def _release(suites: str, db: sqlite3.Connection, book: _Book, _lean: bool) -> int:
    count = db.execute("DELETE FROM held WHERE suites = ?", (suites,)).rowcount
    book.ledger = replace(book.ledger, held=book.ledger.held - count)
    return count


def _doubt_all(ids: list[int], db: sqlite3.Connection, book: _Book, _lean: bool) -> None:
    """Each cut counts; a hit that has left meanwhile does not."""
    for id_ in ids:
        doubted = db.execute(DOUBT, (id_,)).rowcount
        book.ledger = replace(book.ledger, ambiguous=book.ledger.ambiguous + doubted)


def _requeue(
    ids: list[int], db: sqlite3.Connection, book: _Book, _lean: bool
) -> list[tuple[int, int]]:
    """The new ids of these dead letters, and their lanes."""
    requeued: list[tuple[int, int]] = []
    for id_ in ids:
        row = db.execute("SELECT length(content), lane FROM dead WHERE id = ?", (id_,)).fetchone()
        if row is None:
            continue
        size, lane = row
        book.last_id += 1
        db.execute(REQUEUE, (book.last_id, id_))
        db.execute("DELETE FROM dead WHERE id = ?", (id_,))
        ledger = book.ledger
        book.ledger = replace(
            ledger,
            dead=ledger.dead - 1,
            waiting=ledger.waiting + 1,
            waiting_bytes=ledger.waiting_bytes + size,
        )
        requeued.append((book.last_id, lane))
    return requeued


def _discard(ids: list[int], db: sqlite3.Connection, book: _Book, _lean: bool) -> int:
    count = sum(db.execute("DELETE FROM dead WHERE id = ?", (id_,)).rowcount for id_ in ids)
    ledger = book.ledger
    book.ledger = replace(ledger, dead=ledger.dead - count, discarded=ledger.discarded + count)
    return count


def _set(name: str, value: str | None, db: sqlite3.Connection, _book: _Book, _lean: bool) -> None:
    if value is None:
        db.execute("DELETE FROM settings WHERE name = ?", (name,))
    else:
        db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))


# -- rows to values -------------------------------------------------------------------------


def _hit(row: tuple[Any, ...]) -> Hit:
    id_, lane, boot, received_ms, flags, suites, content = row
    return Hit(
        id=id_,
        lane=lane,
        received=Received(boot, received_ms),
        request=wire.unpack(content),
        size=len(content),
        suites=tuple(suites.split(",")) if suites else (),
        ambiguous=bool(flags & AMBIGUOUS),
        requeued=bool(flags & REQUEUED),
    )


def _dead(row: tuple[Any, ...]) -> DeadLetter:
    reason, status, tries, died_ms = row[7:]
    return DeadLetter(_hit(row[:7]), reason, status, tries, died_ms)


def _fetch(db: sqlite3.Connection, ids: list[int]) -> list[Hit]:
    rows = (db.execute(ONE, (id_,)).fetchone() for id_ in ids)
    return [_hit(row) for row in rows if row is not None]


def _row(db: sqlite3.Connection, sql: str, *values: object) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute(sql, values).fetchone()
    return row


def _one(db: sqlite3.Connection, sql: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] = db.execute(sql).fetchone()
    return row


def _rows(db: sqlite3.Connection, sql: str, *values: object) -> list[tuple[Any, ...]]:
    return db.execute(sql, values).fetchall()


# -- the file ---------------------------------------------------------------------------------


def peek(path: Path) -> tuple[Ledger, dict[str, int]]:
    """The counts in a queue file nobody has open, or that another process owns.

    QueueUnavailable when it cannot be read.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            row = db.execute(READ_LEDGER).fetchone()
            tallies = dict(db.execute("SELECT name, count FROM tallies").fetchall())
    except sqlite3.Error as error:
        raise QueueUnavailable(f"cannot read {path}: {error}") from error
    return Ledger(*row[1:]), tallies


def _own(path: Path) -> int:
    """The lock that makes this process the one owner of the file."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + "-lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise QueueUnavailable(f"cannot create {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise QueueInUse(f"{path} is in use by another process: stop that one first") from error
    return lock


def _prepare(path: Path, clock: Clock) -> Boots:
    """Create or migrate the file, and find the row of this boot."""
    new = not path.exists()
    if new:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in (*(FIRST_PRAGMAS if new else ()), *PRAGMAS):
            db.execute(pragma)
        migrate.migrate(db)
        offset = clock.wall_ms() - clock.ms()
        db.execute(
            "INSERT INTO boots (boot_id, offset_ms) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET offset_ms = excluded.offset_ms",
            (clock.boot_id, offset),
        )
        offsets = dict(db.execute("SELECT boot, offset_ms FROM boots").fetchall())
        (current,) = db.execute(
            "SELECT boot FROM boots WHERE boot_id = ?", (clock.boot_id,)
        ).fetchone()
    if new:
        # Without this a power loss can leave synced rows in a file that has no name.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return Boots(current, offsets)


class _Sending:
    """Which hits are in flight, beside the queue file, so that a crash cannot hide it.

    One slot of 8 bytes a hit, written without fsync: it must survive the process, not
    the power.
    """

    SLOT = struct.Struct("<q")

    def __init__(self, path: Path, slots: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._free = list(range(slots))
        self._slots: dict[int, int] = {}

    def left(self) -> list[int]:
        """The hits that were in flight when the last process ended."""
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        whole = len(data) - len(data) % self.SLOT.size
        return [hit for (hit,) in self.SLOT.iter_unpack(data[:whole]) if hit]

    def clear(self) -> None:
        os.ftruncate(self._file, 0)

    def mark(self, hit: int) -> None:
        slot = self._slots[hit] = self._free.pop()
        os.pwrite(self._file, self.SLOT.pack(hit), slot * self.SLOT.size)

    def unmark(self, hit: int) -> None:
        slot = self._slots.pop(hit, None)
        if slot is not None:
            os.pwrite(self._file, self.SLOT.pack(0), slot * self.SLOT.size)
            self._free.append(slot)

    def marked(self) -> frozenset[int]:
        # Called in the writer's thread; a copy of the keys is one step under the GIL.
        return frozenset(list(self._slots))

    def close(self) -> None:
        os.close(self._file)


async def _connect(uri: str, pragmas: Iterable[str]) -> aiosqlite.Connection:
    db = await aiosqlite.connect(uri, uri=True, isolation_level=None)
    try:
        for pragma in pragmas:
            await db.execute_fetchall(pragma)
    except BaseException:
        await db.close()
        raise
    return db


async def _run(
    db: aiosqlite.Connection,
    do: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a function in the connection's thread, in one hop.

    The one private name we use of aiosqlite, held by a test: its public methods hop to
    the thread once a statement, and a cancelled caller would leave a transaction open.
    """
    result: T = await db._execute(do, db._conn, *args, **kwargs)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return result


def _tell(waiting: list[tuple[Any, asyncio.Future[Any]]], results: Sequence[Any]) -> None:
    for (_, done), result in zip(waiting, results, strict=True):
        if not done.done():
            done.set_result(result)


def _fail(waiting: list[tuple[Any, asyncio.Future[Any]]], error: sqlite3.Error) -> None:
    for _, done in waiting:
        if not done.done():
            failure = QueueUnavailable(f"the disk refused: {error}")
            failure.__cause__ = error
            done.set_exception(failure)
