"""The queue: one SQLite file, one writing connection, one transaction for many hits.

Rule: what `add` returned for is on disk (WAL, synchronous=FULL), and a hit leaves only by
an outcome; the ledger changes in the transaction that changes the hits.
Non-rule: decides nothing about hits (limits, verdicts and time are values of the core)
and knows no HTTP.
Source: sqlite.org on WAL and synchronous; docs/design/0001 (answer after commit), 0003
(no lane index), 0004 (the file).

Group commit: whatever gathered while the last commit ran shares the next one, and what the
loop still brings, turn by turn (docs/design/0018).  A transaction runs whole in aiosqlite's
thread, so no await lies inside it and a cancelled caller leaves nothing half done.  What it
changed in memory is adopted by the event loop after the commit; nothing else is written by
two threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import aiosqlite

from proxy.core import limits, series
from proxy.core.hit import Hit, Ledger, NewHit, Received
from proxy.core.limits import Limits
from proxy.core.moment import STEP_MS, TOLD, Boots
from proxy.core.rescue import row_sum
from proxy.errors import QueueError, QueueFull, QueueUnavailable
from proxy.points import Point, reached
from proxy.shell import beside, migrate, outcomes, rows, salvage
from proxy.shell.clock import Clock
from proxy.shell.outcomes import PURGE_HITS, Book, Change, Delivery
from proxy.shell.rows import DeadLetter

P = ParamSpec("P")
T = TypeVar("T")

FULL = "the disk is full"
DAMAGED = "the queue file is damaged: restart, and what can be kept is salvaged"
LOST = "the queue file was moved or deleted: put it back, or start again"

# The writer checkpoints early and often: with a log of 2 MiB the p99 of an answer was half of
# what one of 8 MiB gave, at the same rate (docs/performance.md).
LOG_BYTES = 2 * 1024**2
PRAGMAS = (
    "PRAGMA journal_mode = WAL",  # readers never wait for the writer
    "PRAGMA synchronous = FULL",  # NORMAL may lose the last commits on power loss
    "PRAGMA journal_size_limit = 16777216",  # a burst must not leave a huge WAL behind
    "PRAGMA secure_delete = FAST",  # delivered hits hold personal data
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -8000",
)
FIRST_PRAGMAS = (
    # A commit writes whole pages, so small ones write less, a third for a hit that comes alone
    # (docs/performance.md); most hits fit on one.  A file of 8 KiB pages, once made, keeps them.
    f"PRAGMA page_size = {salvage.PAGE_SIZES[0]}",
    "PRAGMA auto_vacuum = INCREMENTAL",  # space goes back to the disk after a drain
)

TALLIES = "SELECT name, count FROM tallies"
MOST_DELIVERED = 100_000
# So long tidying takes at a time; a million hits that expire at once take minutes on a slow disk.
TIDY_FOR_S = 5.0

# With so many in flight an outcome waits a moment for company: each commit alone costs as much
# as sending a hit.  No client waits for it, and of its own lane the next hit alone.
CROWD, COMPANY_S = 16, 0.001
# While the loop brings hit after hit, a commit waits for them, for so long at most: a loop at work
# and the writer's thread take the interpreter from each other several times a hit, and one after
# the other they cost a quarter to a third less (docs/design/0018).  Three turns of the loop without
# another hit say that there is none: in the first the last commit's clients are told, in the
# second their next hits are seen, in the third they are here.  Who comes alone, as the last one
# did, waits for nobody.  Beside a crowd in flight the loop has more to do than to take hits.
EMPTY_TURNS, GATHER_S, CROWDED_S = 3, 0.02, 0.006
# Where a commit takes so long, whom the last one told has time to come again: for this part of it.
SLOW_S, RETURN = 0.004, 0.1

# With the reserve spent: how often the log is asked to move, while a reader may hold it up.
MOVES, MOVE_AGAIN_S = 8, 0.005

# After these the transaction is rolled back and the connection as good as before.  After
# any other (I/O error, damaged page) it may hold what the file does not.
HARMLESS = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT}


@dataclass(slots=True)
class Feed:
    """What a further drain is told: that something happened, and every new hit's id and lane."""

    news: asyncio.Event = field(default_factory=asyncio.Event)
    arrivals: deque[tuple[int, int]] | None = None


class _Call:
    """In place of a future: who waits for a commit is told by a call, and no task waits."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[QueueError | None], None]) -> None:
        self._tell: Callable[[QueueError | None], None] | None = tell

    def done(self) -> bool:
        return self._tell is None

    def cancel(self) -> None:
        """Nobody can know what came of it: the process ends just then."""
        self._tell = None

    def set_result(self, _: object) -> None:
        self._say(None)

    def set_exception(self, error: QueueError) -> None:
        self._say(error)

    def _say(self, error: QueueError | None) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            _say(tell, error)


@dataclass(frozen=True, slots=True)
class _Asked(Generic[T]):
    """Something to be committed, who waits for it, and the hit that lands with it."""

    what: T
    done: asyncio.Future[Any] | _Call
    lands: int | None = None


# What is said of hits that were given to the queue: their ids, why none of them is stored, or
# None when nobody can know, as the process ends just then.
Told = Callable[[list[int] | QueueError | None], None]


@dataclass(slots=True)
class _Adding:
    """Hits on their way to the disk, and who is to be told."""

    hits: Sequence[NewHit]
    size: int
    tell: Told
    is_told: bool = False

    def say(self, said: list[int] | QueueError | None) -> None:
        """Tell, once."""
        if self.is_told:
            return
        self.is_told = True
        _say(self.tell, said)


def _say(tell: Callable[[T], None], said: T) -> None:
    """A fault of who is told goes to the loop's handler: the writer has others to tell."""
    try:
        tell(said)
    except Exception as error:  # noqa: BLE001 - see above
        asyncio.get_running_loop().call_exception_handler(
            {"message": "who was told of a commit failed", "exception": error}
        )


class Queue:
    """An open queue file.  Open with `Queue.open`, keep `run` going, end with `close`."""

    def __init__(
        self,
        path: Path,
        limits_: Limits,
        clock: Clock,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        lock: io.FileIO,
        sending: beside.Sending,
        book: Book,
    ) -> None:
        self.path = path
        self.limits = limits_
        self.clock = clock
        self.is_damaged = False  # found while running; a start salvages
        self.salvaged: list[str] = []  # what was damaged at the start, a line each
        self.news = asyncio.Event()  # something happened since the drain last cleared it
        self.arrivals: deque[tuple[int, int]] | None = None  # id and lane, once someone reads
        self._feeds: list[Feed] = []  # the same for each further drain
        self.landed: deque[int] | None = None  # the last that were sent, while someone looks
        self._writer, self._reader = writer, reader
        self._lock, self._sending, self._reserve = lock, sending, beside.Reserve(path)
        self._book = book
        self._adds: list[_Adding] = []
        self._adding_hits = self._adding_bytes = 0  # asked for, not in the ledger yet
        self._changes: list[_Asked[Change]] = []
        self._overtaken: dict[int, str] = {}  # dropped just as they were sent: their count
        self._tallies: dict[str, int] = {}
        self._untold = False  # tallies the file does not know yet
        self._spending = False  # the reserve, just now
        self._suspect = False  # the writing connection saw an error it may not have survived
        self._work = asyncio.Event()
        self._shared = False  # the last commit, by several hits
        self._took = 0.0  # it, in seconds
        self._loop = asyncio.get_running_loop()
        self._running = self._closing = self._over = self._closed = False
        self._ended = asyncio.Event()
        self._inode = path.stat().st_ino
        self._lost = False
        self._free: tuple[float, int] = (-1.0, 0)
        self._error: str | None = None

    # -- opening and closing ---------------------------------------------------------

    @classmethod
    async def open(cls, path: Path, limits_: Limits, clock: Clock, slots: int = 64) -> Queue:
        """Take the file for this process, bring it to our version, know its counts.

        `slots`: how many hits may be in flight at once.
        QueueInUse, QueueTooNew, QueueUnavailable say what an operator must do.
        """
        path = path.absolute()  # noqa: ASYNC240 - asks no disk
        try:
            async with contextlib.AsyncExitStack() as opened:
                lock = opened.enter_context(beside.own(path))
                reached(Point.START_LOCKED)
                try:
                    boots, said = await asyncio.to_thread(_prepare, path, clock)
                except (sqlite3.Error, OSError):
                    # Without a free byte there is no log either: this is what the reserve is for.
                    if not beside.Reserve(path).spend():
                        raise
                    boots, said = await asyncio.to_thread(_prepare, path, clock)
                reached(Point.START_PREPARED)
                sending = opened.enter_context(
                    contextlib.closing(beside.Sending(path, slots)),
                )
                writer = await _connect(f"{path.as_uri()}?mode=rw", PRAGMAS)
                opened.push_async_callback(writer.close)
                reader = await _connect(f"{path.as_uri()}?mode=ro", ("PRAGMA query_only = 1",))
                opened.push_async_callback(reader.close)
                queue = cls(
                    path, limits_, clock, writer, reader, lock, sending, Book(Ledger(), 0, boots)
                )
                queue.salvaged = said
                await queue._take_stock()
                opened.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise QueueUnavailable(f"cannot open {path}: {error}") from error
        return queue

    async def _take_stock(self) -> None:
        """What an earlier process left: counts, history, and hits that were in flight."""
        self._reserve.take()
        self._book = await _run(self._writer, outcomes.read_book, self._book)
        self._tallies = dict(await _run(self._reader, rows.every, TALLIES))
        left = self._sending.left()
        if left:
            self._book, _, _ = await _run(
                self._writer, self._transaction, [], [partial(outcomes.doubt_all, left)], [], False
            )
        reached(Point.START_DOUBTED)
        self._sending.clear()
        reached(Point.START_CLEARED)

    async def close(self) -> None:
        """Commit what was asked for, then close; the caller has ended its adds.

        May be called again, as after a cancellation.
        """
        self._closing = True
        self._work.set()
        if self._running:
            await self._ended.wait()
        else:
            self._give_up()
        self._closed = True
        reached(Point.STOP_WRITER_ENDED)
        # The writer last, so that it can empty the log into the file, and delete it.  Not with a
        # full disk: others would take the log's room, and the next start could not make one.
        first, last = self._reader, self._writer
        if not self._reserve.taken:
            first, last = last, first
        try:
            await first.close()
            reached(Point.STOP_READER_CLOSED)
            await last.close()
        finally:
            self._sending.close()
            self._lock.close()

    # -- hits come in ----------------------------------------------------------------

    async def add(self, hits: Sequence[NewHit]) -> list[int]:
        """Their ids, once all of them are on disk.

        QueueFull at a stated limit, QueueUnavailable when the disk refuses: then none of
        them is stored.
        """
        done: asyncio.Future[list[int]] = self._loop.create_future()

        def tell(said: list[int] | QueueError | None) -> None:
            if done.done():
                return
            if isinstance(said, list):
                done.set_result(said)
            elif said is None:
                done.cancel()
            else:
                done.set_exception(said)

        self.put(hits, tell)
        return await done

    def put(self, hits: Sequence[NewHit], tell: Told) -> None:
        """As `add`, but who waits is told by a call, which must not fail, and no task waits.

        Never before this returns; what forbids to take them now is raised.
        """
        if self._closing or self._over:
            raise QueueUnavailable("the queue is closing")
        if self._spending:
            raise QueueUnavailable(FULL)
        size = _size(hits)
        reason = limits.reached(
            self._book.ledger,
            self._adding_hits + len(hits),
            self._adding_bytes + size,
            self.free_disk(),
            self.limits,
        )
        if self._lost or self.is_damaged:
            raise QueueUnavailable(self.last_error)
        if reason is not None:
            raise QueueFull(reason)
        self._adds.append(_Adding(hits, size, tell))
        self._adding_hits += len(hits)
        self._adding_bytes += size
        self._work.set()

    def tally(self, name: str) -> None:
        """Count something that is no hit of ours, e.g. `refused.max_hits` or `repeated`.

        On disk with the next commit, at the latest with the next `tidy` or `close`.
        """
        self._tallies[name] = self._tallies.get(name, 0) + 1
        self._untold = True

    # -- hits go out -----------------------------------------------------------------

    def feed(self) -> Feed:
        """For a drain beside the one that reads `news` and `arrivals`."""
        self._feeds.append(Feed())
        return self._feeds[-1]

    async def page(self, after: int) -> list[tuple[int, int]]:
        """Id and lane of the next waiting hits behind id `after`; held ones left out.

        QueueUnavailable when the file cannot be read, as from everything that reads.
        """
        return await self._read(rows.every, rows.PAGE, after)

    async def fetch(self, ids: Iterable[int]) -> list[Hit]:
        """These hits, but for those that are gone."""
        return await self._read(rows.fetch, list(ids))

    async def newest(self, count: int, say: Callable[[bytes], T]) -> list[T]:
        """What `say` makes of the contents of the hits stored last, newest first.

        Fewer when they are large.  `say` is called in the reader's thread, with one content
        at a time: no more of them than that is held in memory.
        """
        return await self._read(rows.newest, count, say)

    def begin(self, *hits: int) -> set[int]:
        """Mark hits as in flight; which, for a limit may have dropped some meanwhile.

        The mark survives a crash of this process: a hit that was in flight then is
        counted as ambiguous at the next start.
        """
        through, spared = self.gone
        begun = {hit for hit in hits if hit > through or hit in spared}
        self._sending.mark(begun)
        return begun

    def deferred(self, hit: int) -> None:
        """A hit in flight stays, and is known not to have reached Adobe."""
        self._landed([hit])

    async def delivered(self, hit: Hit, status: int, ts: int | None) -> None:
        """Adobe took it."""
        await self._change(Delivery(hit.id, hit.size, status, ts), hit.id)

    def settle(
        self, hit: Hit, status: int, ts: int | None, tell: Callable[[QueueError | None], None]
    ) -> None:
        """As `delivered`, but `tell` is called, never before this returns: None is success."""
        if self._over:
            closed = QueueUnavailable("the queue is closed")
            self._loop.call_soon(tell, closed)
            return
        delivery = Delivery(hit.id, hit.size, status, ts)
        self._changes.append(_Asked(delivery, _Call(tell), hit.id))
        self._work.set()

    async def bury(self, hit: Hit, reason: str, status: int | None, tries: int) -> None:
        """Refused for good: a dead letter, kept until a person decides."""
        died_ms = self.clock.wall_ms()
        await self._change(partial(outcomes.bury, hit, reason, status, tries, died_ms), hit.id)

    async def hold(self, hit: Hit, suites: Sequence[str], reason: str) -> None:
        """It waits for a person; part of `waiting`, and out of the drain's pages."""
        await self._change(partial(outcomes.hold, hit, ",".join(suites), reason), hit.id)

    async def doubt(self, hit: Hit) -> None:
        """It may have reached Adobe though no answer came: counted and marked, and it stays."""
        await self._change(partial(outcomes.doubt_all, [hit.id]), hit.id)

    # -- people look and decide --------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        return self._book.ledger

    @property
    def last_error(self) -> str | None:
        """Why hits cannot be stored; None when the last ones could."""
        if self.is_damaged:
            return DAMAGED
        return LOST if self._lost else self._error

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
        row = await self._read(rows.one_or_none, rows.OLDEST + " LIMIT 1", self._book.oldest)
        if row is None:
            return None
        self._book.oldest = max(self._book.oldest, row[0])
        return Received(row[2], row[3])

    async def held_suites(self) -> dict[str, tuple[int, str]]:
        """How many hits are held for which report suites, and why."""
        sql = "SELECT suites, count(*), min(reason) FROM held GROUP BY suites"
        return {row[0]: (row[1], row[2]) for row in await self._read(rows.every, sql)}

    async def held_lanes(self) -> set[int]:
        """Lanes with a held hit: what comes after it in the lane is held too."""
        held = await self._read(rows.every, "SELECT DISTINCT lane FROM held")
        return {row[0] for row in held}

    async def release(self, suites: str) -> int:
        """Let the held hits of these report suites wait for the drain again; how many."""
        released: int = await self._change(partial(outcomes.release, suites))
        return released

    async def dead_letters(self, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Dead letters in order of id behind `after`: so many at most, and fewer large ones.

        None only when there are no more.
        """
        return await self._read(rows.letters, after, limit)

    async def requeue(self, ids: Sequence[int]) -> int:
        """Dead letters wait again in order of id, behind their lanes; how many there were."""
        requeued: int = await self._change(partial(outcomes.requeue, sorted(ids), self.clock.ms()))
        return requeued

    async def discard(self, ids: Sequence[int]) -> int:
        """A person gives dead letters up; how many there were."""
        discarded: int = await self._change(partial(outcomes.discard, list(ids)))
        return discarded

    async def give_up(self, most: int) -> int:
        """A person gives some of what there is up, oldest first; how many, 0 when all is gone."""
        given_up: int = await self._change(partial(self._give_some_up, min(most, PURGE_HITS)))
        return given_up

    async def setting(self, name: str) -> str | None:
        """What a person asked for, as it was last written."""
        row = await self._read(rows.one_or_none, "SELECT value FROM settings WHERE name = ?", name)
        return row[0] if row else None

    async def set(self, name: str, value: str | None) -> None:
        """Remember across restarts; None forgets."""
        await self._change(partial(outcomes.remember, name, value))

    async def stamps_after(self, second: int) -> dict[int, int]:
        """The last `ts` of each lane that was sent one later than this Unix second.

        As far as delivered hits are kept: what a clock that was ahead has left behind.
        """
        return dict(await self._read(rows.every, rows.STAMPS_AFTER, second))

    async def series(self) -> list[series.Point]:
        """The points noted in the last day, oldest first."""
        return [series.Point(*row) for row in await self._read(rows.every, rows.SERIES)]

    async def note_point(self, at_s: int, oldest_s: int) -> None:
        """Note what stands now, for the chart; one row, every few minutes."""
        await self._change(partial(outcomes.note, at_s, oldest_s))

    # -- keeping house ------------------------------------------------------------------

    async def tidy(self) -> None:
        """Expire, purge what was kept for people, note a stepped clock; call now and then.

        What the disk refuses now (`last_error` says why), and what takes too long, is done the
        next time: whoever calls has signs of life to give.
        """
        until = self._loop.time() + TIDY_FOR_S
        with contextlib.suppress(QueueUnavailable):
            await self.note_clock()
            if self.limits.max_age_s:
                await self._in_parts(self._expire, until)
            await self._in_parts(self._purge, until)
            if await self._in_parts(outcomes.shrink, until):
                await self._checkpoint()

    async def _in_parts(self, part: Change, until: float) -> int:
        """One transaction after the other until one finds nothing, or time is up; how much."""
        done = 0
        while count := await self._change(part):
            done += count
            if self._loop.time() >= until:
                break
        return done

    async def note_clock(self) -> None:
        """Take over a wall clock that was set, so that nothing is stamped by the old one."""
        if self.boots.stepped(self._offset()):
            await self._change(self._correct)

    async def run(self) -> None:
        """The writer: commit what gathered, tell who waits, until closed.

        However it ends, nobody is left waiting, and nothing is taken afterwards.
        """
        if self._over:
            return
        self._running = True
        try:
            while True:
                while self._adds or self._changes:
                    await self._gather()
                    await self._commit()
                if self._closing:
                    break
                await self._work.wait()
                self._work.clear()
            if self._untold:
                await self._commit()
        finally:
            self._give_up()
            self._ended.set()

    async def _gather(self) -> None:
        """Let what is about to be asked for share the next commit."""
        is_crowded = self._sending.count >= CROWD
        if not self._adds:
            if is_crowded:
                await asyncio.sleep(COMPANY_S)
            return
        if len(self._adds) == 1 and not self._shared:
            return
        until = self._loop.time() + (CROWDED_S if is_crowded else GATHER_S)
        if self._took > SLOW_S:
            await asyncio.sleep(min(self._took * RETURN, until - self._loop.time()))
        came = empty = 0
        while empty < EMPTY_TURNS and self._loop.time() < until:
            empty = empty + 1 if came == len(self._adds) else 0
            came = len(self._adds)
            await asyncio.sleep(0)

    def _give_up(self) -> None:
        self._over = True
        error = QueueUnavailable("the queue is closed")
        self._fail_adds(self._adds, error)
        _fail(self._changes, error)
        self._adds, self._changes = [], []

    async def _commit(self) -> None:
        """What gathered."""
        adds, self._adds = self._adds, []
        changes, self._changes = self._changes, []
        self._shared = len(adds) > 1
        tallies = list(self._tallies.items()) if self._untold else []
        self._untold = False
        if adds and not self._reserve.taken:
            # Admitted while it was: what the reserve gave back is for the log alone.
            self._fail_adds(adds, QueueUnavailable(FULL))
            adds = []
        if not (adds or changes or tallies):
            return
        await self._commit_all(adds, changes, tallies)

    async def _commit_all(
        self,
        adds: list[_Adding],
        changes: list[_Asked[Change]],
        tallies: Sequence[tuple[str, int]],
    ) -> None:
        """In one transaction; when that fails, in parts.

        So hits do not keep outcomes from the disk, nor outcomes hits.
        """
        try:
            # Without its reserve the file must not grow by what is only nice to have.
            error = await self._attempt(adds, changes, tallies, lean=not self._reserve.taken)
            if error is None:
                return
            self._untold |= bool(tallies)
            # The hits once more, but only if surely nothing of them was stored.
            if changes and adds and self._reserve.taken and not self._suspect:
                error = await self._attempt(adds, [])
            if self._suspect:
                await self._settle(changes)
                changes = []
            if error is not None:
                self._fail_adds(adds, error)
            adds = []
            if changes:
                await self._settle(changes)
        except asyncio.CancelledError:
            # The transaction may yet end well in its thread: a no would be a lie as much as a yes.
            for add in adds:
                add.say(None)
            for change in changes:
                change.done.cancel()
            raise
        except BaseException as error:
            ended = QueueUnavailable(f"the writer ended: {error!r}")
            self._fail_adds(adds, ended)
            _fail(changes, ended)
            raise

    async def _settle(self, changes: list[_Asked[Change]]) -> None:
        """Outcomes alone, deleting rather than keeping: the drain goes on with a full disk.

        After an I/O error this is, even with no outcome, the commit that writes over what
        the failed one left in the log, before a crash could bring it back to life; only
        then is a client told that its hit is not stored.  It must change something, or
        SQLite writes nothing: the count of such errors.
        """
        tallies = list(self._tallies.items()) if self._suspect else []
        error = await self._attempt([], changes, tallies, lean=True)
        if error is None:
            return
        if self._suspect:
            _fail(changes, error)
            return
        for change in changes:
            error = await self._attempt([], [change], lean=True)
            if error is not None:
                _fail([change], error)

    async def _attempt(
        self,
        adds: list[_Adding],
        changes: list[_Asked[Change]],
        tallies: Sequence[tuple[str, int]] = (),
        *,
        lean: bool = False,
    ) -> sqlite3.Error | None:
        """One transaction.  Who waits is told once it is on disk, and not told of an error."""
        try:
            if self._suspect:
                await self._reopen()
            began = self._loop.time()
            book, ids, results = await _run(
                self._writer,
                self._transaction,
                [add.hits for add in adds],
                [change.what for change in changes],
                tallies,
                lean,
            )
        except sqlite3.Error as error:
            self._error = str(error)
            self._look_at(error)
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
            if code not in HARMLESS:
                self._suspect = True
                self.tally("disk_errors")
            if code == sqlite3.SQLITE_FULL:
                # Nothing of them is stored, and nothing will be soon: they are told before the
                # reserve is spent, which takes a while.
                self._fail_adds(adds, error)
                adds.clear()
                await self._spend_reserve()
            return error
        self._took = self._loop.time() - began
        self._adopt(book)
        reached(Point.COMMIT_ADOPTED)
        self._made_room(adds)
        if adds or not lean:
            self._error = None
        if self._adds or self._changes:
            # The next commit begins first: what is told now takes a while, and needs no disk.
            self._loop.call_soon(_tell_ids, adds, ids)
        else:
            _tell_ids(adds, ids)
        lands = [change.lands for change in changes if change.lands is not None]
        if lands:
            reached(Point.LANDED_BEFORE)
            self._landed(lands)
        _tell(changes, results)
        return None

    def _adopt(self, book: Book) -> None:
        """The commit succeeded: what it changed is ours."""
        self._book = book
        if book.arrived:
            feeds: list[Feed | Queue] = [self, *self._feeds]
            for feed in feeds:
                if feed.arrivals is not None:
                    feed.arrivals.extend(book.arrived)
                feed.news.set()
        if book.dropped:
            marked = self._sending.marked()
            self._overtaken |= {id_: n for id_, n in book.dropped.items() if id_ in marked}

    async def _reopen(self) -> None:
        """A connection that saw an I/O error is not believed: a new one, and what is on disk.

        The reader stays open.  It keeps alive what SQLite knows of the end of the log, so
        that the rest of a failed commit behind that end is not taken for a commit.
        """
        with contextlib.suppress(sqlite3.Error):
            await self._writer.close()
        self._writer = await _connect(f"{self.path.as_uri()}?mode=rw", PRAGMAS)
        self._book = await _run(self._writer, outcomes.read_book, self._book)
        self._suspect = False

    async def _spend_reserve(self) -> None:
        """Let the log move into the file, so that it can be written over from its start.

        Also when there is none: what an earlier process, or a reader, kept from moving may now.
        """
        tries = 1
        if self._reserve.taken:
            self._spending = True
            self._reserve.spend()
            # Who was admitted while it was there, and waits, is told at once.
            self._fail_adds(self._adds, QueueUnavailable(FULL))
            self._adds = []
            tries = MOVES  # before others take what it gave back
        try:
            for _ in range(tries):
                if await self._checkpoint():
                    return
                await asyncio.sleep(MOVE_AGAIN_S)
        finally:
            if self._spending:
                self._spending, self._free = False, (-1.0, 0)

    async def _checkpoint(self) -> bool:
        """Move what the log holds into the file, as far as nobody reads it; whether all went."""
        if self._over or self._suspect:
            return True
        reached(Point.CHECKPOINT_BEFORE)
        said: list[tuple[int, int, int]] = []
        with contextlib.suppress(sqlite3.Error):
            said = await _run(self._writer, rows.every, "PRAGMA wal_checkpoint")
        reached(Point.CHECKPOINT_AFTER)
        return any(logged == moved for _, logged, moved in said)

    def _landed(self, hits: Sequence[int]) -> None:
        self._sending.unmark(hits)
        for hit in hits:
            self._overtaken.pop(hit, None)
        if self.landed is not None:
            self.landed.extend(hits)

    def _made_room(self, adds: list[_Adding]) -> None:
        """These are no longer on their way."""
        self._adding_hits -= sum([len(add.hits) for add in adds])
        self._adding_bytes -= sum([add.size for add in adds])

    def _fail_adds(self, adds: list[_Adding], error: BaseException) -> None:
        self._made_room(adds)
        for add in adds:
            add.say(_not_stored(error))

    def _transaction(
        self,
        db: sqlite3.Connection,
        adds: list[Sequence[NewHit]],
        changes: list[Change],
        tallies: Sequence[tuple[str, int]],
        lean: bool,
    ) -> tuple[Book, list[list[int]], list[object]]:
        """All of it or nothing; runs in the writer's thread."""
        book = replace(self._book, dropped={}, arrived=[])
        db.execute("BEGIN IMMEDIATE")
        reached(Point.COMMIT_BEGUN)
        try:
            self._deliver(db, book, [one for one in changes if isinstance(one, Delivery)], lean)
            results = [
                None if isinstance(change, Delivery) else change(db, book, lean)
                for change in changes
            ]
            ids = self._insert(db, book, adds)
            if tallies:
                db.executemany(outcomes.TALLY, tallies)
            counts = (getattr(book.ledger, name) for name in rows.COUNTS)
            db.execute(outcomes.WRITE_LEDGER, (book.last_id, *counts))
            reached(Point.COMMIT_BEFORE)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        reached(Point.COMMIT_AFTER)
        return book, ids, results

    def _insert(
        self, db: sqlite3.Connection, book: Book, adds: Sequence[Sequence[NewHit]]
    ) -> list[list[int]]:
        """The ids of each; in one step, for a step of its own costs as much as its row."""
        together = [hit for hits in adds for hit in hits]
        if not together:
            return [[] for _ in adds]
        size = _size(together)
        if self.limits.drop_oldest:
            over = limits.over(book.ledger, len(together), size, self.limits)
            if any(over):
                if len(adds) > 1:  # the later ones may have to drop the earlier ones
                    return [self._insert(db, book, [hits])[0] for hits in adds]
                self._drop(db, book, over, (len(together), size))
        first = book.last_id + 1
        db.executemany(
            outcomes.ADD,
            [
                (
                    id_,
                    hit.lane,
                    hit.received.boot,
                    hit.received.ms,
                    ",".join(hit.suites) or None,
                    hit.content,
                    row_sum(hit.lane, hit.received.boot, hit.received.ms, hit.content),
                )
                for id_, hit in enumerate(together, first)
            ],
        )
        book.last_id += len(together)
        book.arrived += [(id_, hit.lane) for id_, hit in enumerate(together, first)]
        book.ledger = replace(
            book.ledger,
            accepted=book.ledger.accepted + len(together),
            waiting=book.ledger.waiting + len(together),
            waiting_bytes=book.ledger.waiting_bytes + size,
        )
        ids = iter(range(first, book.last_id + 1))
        return [list(islice(ids, len(hits))) for hits in adds]

    def _deliver(
        self, db: sqlite3.Connection, book: Book, deliveries: list[Delivery], lean: bool
    ) -> None:
        """Adobe took these: each leaves once, whatever else became of it meanwhile."""
        if not deliveries:
            return
        sizes = {one.hit: one.size for one in deliveries}
        (waiting,) = rows.one(db, outcomes.WAIT_YET, json.dumps(list(sizes)))
        left: list[int] = json.loads(waiting)
        if lean or not self.limits.keep_delivered_s:
            db.execute(outcomes.REMOVE_ALL, (waiting,))
        else:
            at_ms = self.clock.wall_ms()
            for status in {one.status for one in deliveries}:
                stamps = {one.hit: one.ts for one in deliveries if one.status == status}
                db.execute(outcomes.DELIVER, (at_ms, status, json.dumps(stamps)))
            book.delivered_rows += len(left)
        reached(Point.DELIVER_INSIDE)
        outcomes.leave(db, book, left, sum([sizes[hit] for hit in left]), "delivered")
        for hit in [hit for hit in sizes.keys() - set(left) if hit in self._overtaken]:
            # A limit dropped it in the moment it was sent; Adobe has it all the same.
            counted = self._overtaken[hit]
            book.ledger = replace(
                book.ledger,
                delivered=book.ledger.delivered + 1,
                **{counted: getattr(book.ledger, counted) - 1},
            )

    def _drop(
        self, db: sqlite3.Connection, book: Book, over: tuple[int, int], coming: tuple[int, int]
    ) -> None:
        """Make room for the hits and bytes over a limit by dropping the oldest not in flight.

        No less than what is coming, and no more than a purge takes at a time: below a limit
        that was lowered the queue gets step by step, and no hit waits for it for long.
        """
        dropped = len(book.dropped)
        self._take_oldest(
            db,
            book,
            "discarded",
            lambda n, freed, _: (
                (n < over[0] or freed < over[1])
                and (n + dropped < PURGE_HITS or n < coming[0] or freed < coming[1])
            ),
        )

    def _expire(self, db: sqlite3.Connection, book: Book, _lean: bool) -> int:
        """Some hits older than max_age leave, oldest first; how many."""
        now_ms, most_ms = self.clock.ms(), self.limits.max_age_s * 1000
        return self._take_oldest(
            db,
            book,
            "expired",
            lambda n, _, received: n < PURGE_HITS and book.boots.age_ms(received, now_ms) > most_ms,
        )

    def _give_some_up(self, most: int, db: sqlite3.Connection, book: Book, _lean: bool) -> int:
        """No more than a purge takes at a time, so that no hit waits for it for long."""
        taken = self._take_oldest(db, book, "discarded", lambda n, *_: n < most)
        if taken:
            return taken
        dead = db.execute("SELECT id FROM dead LIMIT ?", (most,)).fetchall()
        return outcomes.discard([id_ for (id_,) in dead], db, book, _lean) if dead else 0

    def _take_oldest(
        self,
        db: sqlite3.Connection,
        book: Book,
        counted: str,
        wanted: Callable[[int, int, Received], bool],
    ) -> int:
        """A limit drops the oldest hits not in flight; how many.

        `wanted`: whether it wants one more, by the hits and bytes chosen so far and when
        that one was received.
        """
        flying = self._sending.marked()
        chosen: list[int] = []
        size = 0
        spared: list[int] = []
        for id_, length, boot, received_ms in db.execute(rows.OLDEST, (book.oldest,)):
            if not wanted(len(chosen), size, Received(boot, received_ms)):
                break
            if id_ in flying:
                spared.append(id_)
            else:
                chosen.append(id_)
                size += length
        if not chosen:
            return 0
        db.executemany(outcomes.REMOVE, [(id_,) for id_ in chosen])
        reached(Point.DROP_INSIDE)
        outcomes.leave(db, book, chosen, size, counted)
        book.dropped.update(dict.fromkeys(chosen, counted))
        book.gone_through = max(book.gone_through, chosen[-1])
        book.spared |= {id_ for id_ in spared if id_ < book.gone_through}
        book.oldest = min([book.gone_through, *book.spared])
        return len(chosen)

    def _purge(self, db: sqlite3.Connection, book: Book, _lean: bool) -> int:
        """Delete a few delivered hits that were kept long enough; how many."""
        before_ms = self.clock.wall_ms() - int(self.limits.keep_delivered_s * 1000)
        old = db.execute(outcomes.OLD_DELIVERED, (before_ms, PURGE_HITS)).fetchall()
        excess = book.delivered_rows - MOST_DELIVERED
        if not old and excess > 0:
            old = db.execute(outcomes.FIRST_DELIVERED, (min(excess, PURGE_HITS),)).fetchall()
        db.executemany(outcomes.REMOVE, old)
        if old:
            reached(Point.PURGE_INSIDE)
        db.executemany("DELETE FROM delivered WHERE id = ?", old)
        book.delivered_rows -= len(old)
        return len(old)

    def _correct(self, db: sqlite3.Connection, book: Book, _lean: bool) -> None:
        book.boots = book.boots.corrected(self._offset())
        current = book.boots.current
        db.execute(
            "UPDATE boots SET offset_ms = ? WHERE boot = ?", (book.boots.offsets[current], current)
        )

    def _offset(self) -> int:
        return self.clock.wall_ms() - self.clock.ms()

    def free_disk(self) -> int:
        """Bytes free where the file lies, measured at most twice a second.

        Less than nothing while the reserve is spent: then no limit allows another hit.
        """
        if self._spending:
            return -1  # and it is not taken back while the log moves
        now = self._loop.time()
        if now - self._free[0] > 0.5:
            try:
                stat = os.statvfs(self.path.parent)
                free = stat.f_bavail * stat.f_frsize
                self._lost = self.path.stat().st_ino != self._inode
            except OSError:
                free, self._lost = 0, not self.path.exists()
            self._free = (now, free if self._reserve.take() else -1)
        return self._free[1]

    async def answers(self) -> None:
        """Once the writer has time for it; nothing is written."""
        if self._closed:
            raise QueueUnavailable("the queue is closed")
        with contextlib.suppress(ValueError):  # it is being opened anew, so it does something
            await _run(self._writer, bool)

    async def _read(
        self, do: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._closed:
            raise QueueUnavailable("the queue is closed")
        try:
            return await _run(self._reader, do, *args, **kwargs)
        except sqlite3.Error as error:
            self._look_at(error)
            raise QueueUnavailable(f"cannot read {self.path}: {error}") from error

    def _look_at(self, error: sqlite3.Error) -> None:
        """Damage met while running: take no more hits, and have the next start salvage."""
        if not self.is_damaged and salvage.is_damage(error):
            self.is_damaged = True
            salvage.suspect(self.path)

    async def _change(self, change: Change, lands: int | None = None) -> Any:
        """The result of a change, once it is on disk; QueueUnavailable when it is not.

        The hit that `lands` is in flight until then, even if nobody waits any more.
        """
        if self._over:
            raise QueueUnavailable("the queue is closed")
        done: asyncio.Future[Any] = self._loop.create_future()
        self._changes.append(_Asked(change, done, lands))
        self._work.set()
        return await done


# -- the file ---------------------------------------------------------------------------------


def _prepare(path: Path, clock: Clock) -> tuple[Boots, list[str]]:
    """Salvage, create or migrate the file, and find the row of this boot.

    The lines say what was damaged and what became of it.
    """
    said: list[str] = []
    offset = clock.wall_ms() - clock.ms()
    salvage.finish(path)
    salvage.roll_back(path)
    damage = salvage.examine(path)
    if damage is not None:
        said.append(str(salvage.salvage(path, damage, (clock.boot_id, offset))))
    unread = salvage.unread(path)
    # A file without a byte is what a crash right here left behind.
    new = not path.exists() or not path.stat().st_size
    if new:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in (*(FIRST_PRAGMAS if new else ()), *PRAGMAS):
            db.execute(pragma)
        migrate.migrate(db)
        if unread:
            said += salvage.put_back(db, unread)
        db.execute(
            # The jitter between two clock readings moves no stamp: a hit sent again after a
            # restart, and those of its visitor, keep the second that Adobe may know.
            # Behind `TOLD` alone SQLite by itself would go on with 0.
            "INSERT INTO boots (boot, boot_id, offset_ms)"
            " VALUES ((SELECT 1 + max(0, ifnull(max(boot), 0)) FROM boots), ?, ?)"
            " ON CONFLICT DO UPDATE SET offset_ms = excluded.offset_ms"
            " WHERE abs(excluded.offset_ms - boots.offset_ms) > ?",
            (clock.boot_id, offset, STEP_MS),
        )
        db.execute("INSERT OR IGNORE INTO boots VALUES (?, 'told', 0)", (TOLD,))
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
    return Boots(current, offsets), said


async def _connect(uri: str, pragmas: Iterable[str]) -> aiosqlite.Connection:
    db = await aiosqlite.connect(uri, uri=True, isolation_level=None)
    try:
        for pragma in pragmas:
            await db.execute_fetchall(pragma)
        ((page,),) = await db.execute_fetchall("PRAGMA page_size")
        await db.execute_fetchall(f"PRAGMA wal_autocheckpoint = {LOG_BYTES // page}")
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


def _size(hits: Sequence[NewHit]) -> int:
    return sum([len(hit.content) for hit in hits])


def _tell(asked: Sequence[_Asked[Any]], results: Sequence[Any]) -> None:
    for wish, result in zip(asked, results, strict=True):
        if not wish.done.done():
            wish.done.set_result(result)


def _tell_ids(adds: Sequence[_Adding], ids: Sequence[list[int]]) -> None:
    for add, its in zip(adds, ids, strict=True):
        add.say(its)


def _fail(asked: Sequence[_Asked[Any]], error: BaseException) -> None:
    """Tell who still waits, each with an exception of its own."""
    for wish in asked:
        if not wish.done.done():
            wish.done.set_exception(_not_stored(error))


def _not_stored(error: BaseException) -> QueueUnavailable:
    failure = QueueUnavailable(f"not stored: {error}")
    failure.__cause__ = error
    return failure
