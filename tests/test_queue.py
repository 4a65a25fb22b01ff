"""Claims about the queue file: real SQLite on a real disk, crashes and full disks included."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from clock import FakeClock
from conftest import OpenQueue

from proxy.core import wire
from proxy.core.hit import Hit, Ledger, NewHit, Received, Request
from proxy.core.limits import Limits
from proxy.errors import QueueError, QueueFull, QueueInUse, QueueTooNew, QueueUnavailable
from proxy.shell import beside, migrate, outcomes, rows
from proxy.shell import queue as queue_module
from proxy.shell.queue import Queue
from proxy.shell.rows import peek, peek_dead

ANY_SIZE = Limits(min_free_disk=0)
NEWEST = len(migrate.scripts())
NO_BOUND = 2**31 - 2  # SQLite's own bound of pages
CHECKOUT = Path(__file__).resolve().parent.parent


def new_hit(name: int = 0, *, lane: int = 1, size: int = 0, at_ms: int = 1_000_000) -> NewHit:
    # (a body that cannot be compressed)
    body = Random(name).randbytes(size)
    request = Request("GET", b"/b/ss/rsid/1/%d?AQB=1" % name, body=body)
    return NewHit(lane, Received(1, at_ms), wire.pack(request))


async def stored(
    queue: Queue, count: int = 1, *, size: int = 0, at_ms: int = 1_000_000
) -> list[Hit]:
    """So many hits of a lane, on disk, as the drain gets them."""
    ids = await queue.add([new_hit(n, size=size, at_ms=at_ms) for n in range(count)])
    return await queue.fetch(ids)


async def waiting_ids(queue: Queue) -> list[int]:
    return [id_ for id_, _ in await queue.page(0)]


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as any other program sees it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def recounted(path: Path) -> tuple[int, int, int, int]:
    """Waiting hits, their bytes, held hits and dead letters, counted row by row."""
    with raw(path) as db:
        waiting, size = db.execute(
            "SELECT count(*), coalesce(sum(length(content)), 0) FROM hits"
            " WHERE id NOT IN (SELECT id FROM delivered)"
        ).fetchone()
        (held,) = db.execute("SELECT count(*) FROM held JOIN hits USING (id)").fetchone()
        (orphans,) = db.execute(
            "SELECT count(*) FROM held WHERE id NOT IN (SELECT id FROM hits)"
        ).fetchone()
        (dead,) = db.execute("SELECT count(*) FROM dead").fetchone()
    assert orphans == 0
    return waiting, size, held, dead


def assert_exact(queue: Queue) -> None:
    """The promise's equation holds, in memory, on disk, and against the rows."""
    ledger = queue.ledger
    assert ledger.balanced
    assert peek(queue.path)[0] == ledger
    assert recounted(queue.path) == (
        ledger.waiting,
        ledger.waiting_bytes,
        ledger.held,
        ledger.dead,
    )


@contextlib.asynccontextmanager
async def full_file(queue: Queue) -> AsyncIterator[None]:
    """SQLite may not add a page to the file: what a full disk is to it."""

    def bound(db: sqlite3.Connection, pages: int) -> None:
        db.execute(f"PRAGMA max_page_count = {pages}")

    await queue_module._run(queue._writer, bound, 1)  # the present size is the least bound
    try:
        yield
    finally:
        await queue_module._run(queue._writer, bound, NO_BOUND)


@contextlib.asynccontextmanager
async def held_before_commit(
    queue: Queue, adds: int
) -> AsyncIterator[list[asyncio.Task[list[int]]]]:
    """The writer's thread stands still just before its next COMMIT, with so many adds in it."""
    reached, go = threading.Event(), threading.Event()

    def traced(statement: str) -> None:
        if statement == "COMMIT" and not go.is_set():
            reached.set()
            go.wait(10)

    await queue_module._run(queue._writer, lambda db: db.set_trace_callback(traced))
    asked = [asyncio.create_task(queue.add([new_hit()])) for _ in range(adds)]
    try:
        assert await asyncio.to_thread(reached.wait, 10)
        yield asked
    finally:
        go.set()
        await asyncio.wait(asked)


@contextlib.contextmanager
def writes_fail(queue: Queue) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond what the log has now: an I/O error."""
    log = queue.path.with_name(queue.path.name + "-wal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def as_after_a_crash(queue: Queue, folder: Path) -> Path:
    """The files as `kill -9` would leave them now, in another folder."""
    folder.mkdir()
    for suffix in ("", "-wal", "-sending"):
        source = queue.path.with_name(queue.path.name + suffix)
        if source.exists():
            shutil.copy(source, folder / source.name)
    return folder / queue.path.name


# -- what `add` returned for is on disk ----------------------------------------------------


async def test_the_writer_syncs_every_commit(queue: Queue) -> None:
    """WAL with synchronous=FULL: NORMAL could lose the last commits with the power."""

    def pragmas(db: sqlite3.Connection) -> list[object]:
        names = ["journal_mode", "synchronous", "auto_vacuum", "page_size", "wal_autocheckpoint"]
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await queue_module._run(queue._writer, pragmas) == ["wal", 2, 2, 4096, 512]


async def test_add_returns_after_the_commit(queue: Queue) -> None:
    """Another connection sees the hit in the moment `add` returns."""
    with raw(queue.path) as db:
        for n in range(20):
            (id_,) = await queue.add([new_hit(n)])
            row = db.execute("SELECT content FROM hits WHERE id = ?", (id_,)).fetchone()
            assert row == (new_hit(n).content,)


PRODUCER = """
import asyncio, sys
from pathlib import Path
from proxy.core.hit import NewHit, Received
from proxy.core.limits import Limits
from proxy.shell.clock import SystemClock
from proxy.shell.queue import Queue

async def main():
    queue = await Queue.open(Path(sys.argv[1]), Limits(min_free_disk=0), SystemClock())
    running = asyncio.create_task(queue.run())
    async def client(lane):
        while True:
            ids = await queue.add([NewHit(lane, Received(1, 0), b"GET /b/ss HTTP/1.1\\r\\n\\r\\n")])
            print(ids[0], flush=True)
    await asyncio.gather(*(client(lane) for lane in range(8)))

asyncio.run(main())
"""


async def test_what_add_returned_for_survives_kill_9(tmp_path: Path, open_queue: OpenQueue) -> None:
    """Every id that was told before SIGKILL is in the file afterwards."""
    path = tmp_path / "hits.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PRODUCER, str(path), stdout=subprocess.PIPE, cwd=CHECKOUT
    )
    assert process.stdout is not None
    told = [int(await process.stdout.readline()) for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    told += [
        int(line)
        for line in (await process.stdout.read()).splitlines(keepends=True)
        if b"\n" in line
    ]
    await process.wait()

    queue = await open_queue(path=path)

    with raw(path) as db:
        kept = {row[0] for row in db.execute("SELECT id FROM hits")}
    assert set(told) <= kept
    assert queue.ledger.accepted == len(kept)
    assert_exact(queue)


async def test_many_adds_share_one_commit(queue: Queue) -> None:
    """64 clients at once cost a few fsyncs, not 64."""
    statements: list[str] = []
    await queue_module._run(queue._writer, lambda db: db.set_trace_callback(statements.append))

    ids = await asyncio.gather(*(queue.add([new_hit(n)]) for n in range(64)))

    assert sorted(id_ for (id_,) in ids) == list(range(1, 65))
    assert 1 <= statements.count("COMMIT") <= 3


async def test_what_the_loop_brings_turn_by_turn_shares_a_commit(queue: Queue) -> None:
    """While a turn in three brings another hit, they are gathered; nobody waits for a stranger."""
    await asyncio.gather(*(queue.add([new_hit(n)]) for n in (100, 101)))
    statements: list[str] = []
    await queue_module._run(queue._writer, lambda db: db.set_trace_callback(statements.append))
    asked = []
    for n in range(40):
        asked.append(asyncio.create_task(queue.add([new_hit(n)])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    ids = await asyncio.gather(*asked)

    assert [id_ for (id_,) in ids] == list(range(3, 43))
    assert statements.count("COMMIT") == 1


async def test_on_a_slow_disk_who_was_just_told_may_come_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their next hits share the next commit, instead of waiting for it and for another one."""
    monkeypatch.setattr(queue_module, "GATHER_S", 0.5)
    await asyncio.gather(*(queue.add([new_hit(n)]) for n in (100, 101)))
    statements: list[str] = []
    await queue_module._run(queue._writer, lambda db: db.set_trace_callback(statements.append))
    queue._took = 5.0
    waits = asyncio.create_task(queue.add([new_hit(1)]))
    for _ in range(10 * queue_module.EMPTY_TURNS):
        await asyncio.sleep(0)
    comes = asyncio.create_task(queue.add([new_hit(2)]))

    assert (await waits, await comes) == ([3], [4])
    assert statements.count("COMMIT") == 1


async def test_beside_a_crowd_in_flight_a_commit_waits_for_its_part_only(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the last one took, and whoever else may come."""
    monkeypatch.setattr(queue_module, "CROWD", 0)
    monkeypatch.setattr(queue_module, "GATHER_S", 60.0)
    queue._took = 600.0
    async with asyncio.timeout(30):
        await asyncio.gather(*(queue.add([new_hit(n)]) for n in range(2)))


async def test_who_is_alone_waits_for_nobody(queue: Queue) -> None:
    """One client that asks again and again: each of its hits is begun with in the next turn."""
    for n in range(3):
        asked = asyncio.create_task(queue.add([new_hit(n)]))
        await asyncio.sleep(0)  # it is asked for
        assert len(queue._adds) == 1
        await asyncio.sleep(0)  # the writer wakes
        assert not queue._adds
        await asked


async def test_a_loop_that_brings_hits_without_end_keeps_none_waiting(queue: Queue) -> None:
    """Who came first is told while others still come: gathering has its time, and no more."""
    first = asyncio.create_task(queue.add([new_hit(0)]))
    others: list[asyncio.Task[list[int]]] = []
    while not first.done():
        others.append(asyncio.create_task(queue.add([new_hit(len(others) + 1)])))
        await asyncio.sleep(0)

    assert first.result() == [1]
    await asyncio.gather(*others)
    assert_exact(queue)


async def test_hits_of_one_add_are_stored_together(queue: Queue) -> None:
    """The rows of one request get consecutive ids, in its order."""
    ids = await queue.add([new_hit(1)._replace(suites=("a", "b")), new_hit(2)])
    first, second = await queue.fetch(ids)

    assert ids == [1, 2]
    assert (first.suites, second.suites) == (("a", "b"), ())
    assert wire.pack(first.request) == new_hit(1).content
    assert first.size == len(new_hit(1).content)


async def test_arrivals_are_told_in_order_of_id(queue: Queue) -> None:
    """Who reads arrivals learns of every new hit, a requeued one too, in order of id."""
    (hit,) = await stored(queue)
    await queue.bury(hit, "refused", 403, 1)
    queue.arrivals = deque()
    queue.news.clear()

    await asyncio.gather(
        queue.requeue([hit.id]), *(queue.add([new_hit(n, lane=n)]) for n in range(2, 5))
    )

    assert queue.news.is_set()
    assert list(queue.arrivals) == [(2, 1), (3, 2), (4, 3), (5, 4)]


# -- the ledger ------------------------------------------------------------------------------


async def test_the_ledger_follows_every_change(queue: Queue) -> None:
    """The equation accepted = waiting + delivered + dead + expired + discarded holds."""
    taken, refused, given_up, held, cut, _ = await stored(queue, 6)
    assert_exact(queue)
    await queue.delivered(taken, 200, 1_700_000_000)
    assert_exact(queue)
    await queue.bury(refused, "404", 404, 1)
    await queue.bury(given_up, "5 attempts", None, 5)
    assert_exact(queue)
    await queue.hold(held, ["rsid"], "unknown timestamps")
    assert_exact(queue)
    await queue.doubt(cut)
    assert_exact(queue)
    assert await queue.requeue([refused.id, refused.id, 99]) == 1
    assert_exact(queue)
    assert await queue.discard([given_up.id, given_up.id]) == 1
    assert_exact(queue)

    size = held.size
    assert queue.ledger == Ledger(
        accepted=6, waiting=4, delivered=1, discarded=1, held=1, ambiguous=1, waiting_bytes=4 * size
    )


async def test_an_outcome_counts_once(queue: Queue) -> None:
    """Told twice, or of a hit that is gone, it changes no count and no row."""
    hit, dead, held = await stored(queue, 3)
    await queue.delivered(hit, 200, None)
    await queue.bury(dead, "404", 404, 1)
    await queue.hold(held, ["rsid"], "unknown")
    before = queue.ledger

    for gone in (hit, dead):
        await queue.delivered(gone, 200, None)
        await queue.bury(gone, "404", 404, 1)
        await queue.hold(gone, ["rsid"], "unknown")
        await queue.doubt(gone)
    await queue.hold(held, ["rsid"], "unknown")

    assert queue.ledger == before
    assert_exact(queue)


async def test_an_outcome_of_a_held_hit_ends_the_hold(queue: Queue) -> None:
    taken, refused = await stored(queue, 2)
    await queue.hold(taken, ["rsid"], "unknown")
    await queue.hold(refused, ["rsid"], "unknown")

    await queue.delivered(taken, 200, None)
    await queue.bury(refused, "404", 404, 1)

    assert queue.ledger.held == 0
    assert_exact(queue)


async def test_counts_and_settings_survive_a_restart(tmp_path: Path, open_queue: OpenQueue) -> None:
    """The ledger, what `tally` counted and what a person asked for."""
    queue = await open_queue()
    await stored(queue, 2)
    await queue.set("offline-until", "inf")
    await queue.set("other", "x")
    await queue.set("other", None)
    queue.tally("refused.max_hits")
    queue.tally("refused.max_hits")
    before = queue.ledger
    await queue.close()

    again = await open_queue()

    assert (again.ledger, again.last_id) == (before, 2)
    assert again.tallies == {"refused.max_hits": 2}
    assert peek(again.path) == (before, {"refused.max_hits": 2})
    assert await again.setting("offline-until") == "inf"
    assert await again.setting("other") is None
    assert await again.newest(1, bytes) == [new_hit(1).content]


async def test_the_newest_hits_are_looked_at_one_at_a_time(queue: Queue) -> None:
    """However large they are, no two contents are in memory at once."""
    size = 500_000
    for _ in range(6):
        await stored(queue, 10, size=size)
    tracemalloc.start()
    try:
        said = await queue.newest(1_000, len)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(said) == 60
    assert min(said) > size
    assert peak < 4 * size


async def test_large_hits_do_not_delay_a_start(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more bytes are read than a start can wait for: those of the newest hits."""
    ids = [hit.id for hit in await stored(queue, 10, size=1_000)]
    monkeypatch.setattr("proxy.shell.rows.NEWEST_BYTES", 3_500)
    said = await queue.newest(1_000, wire.unpack)

    assert said == [hit.request for hit in reversed(await queue.fetch(ids[-3:]))]


async def test_tidy_writes_tallies_down(queue: Queue) -> None:
    queue.tally("repeated")
    await queue.tidy()

    assert peek(queue.path)[1] == {"repeated": 1}


# -- when the disk refuses -------------------------------------------------------------------


async def test_a_full_disk_refuses_hits_and_takes_outcomes(queue: Queue) -> None:
    """Nothing of a failed add stays, in memory or on disk; the drain goes on meanwhile."""
    hits = await stored(queue, 3, size=20_000)
    before = queue.ledger

    async with full_file(queue):
        queue.tally("refused.disk")
        with pytest.raises(QueueUnavailable, match="full"):
            await queue.add([new_hit(size=100_000)])
        assert queue.ledger == before
        assert queue.last_error is not None
        assert_exact(queue)

        outcomes = asyncio.gather(*(queue.delivered(hit, 200, None) for hit in hits))
        with pytest.raises(QueueUnavailable):
            await queue.add([new_hit(size=100_000)])
        await outcomes
        assert queue.ledger == Ledger(accepted=3, delivered=3)
        assert_exact(queue)

    assert await queue.add([new_hit(size=100_000)]) == [4]
    assert queue.last_error is None
    assert peek(queue.path)[1] == {"refused.disk": 1}
    assert_exact(queue)


async def test_with_a_full_disk_nobody_waits_for_the_log_to_move(queue: Queue) -> None:
    """Who was admitted is told first, and nobody else is while the reserve is spent on it."""
    with raw(queue.path) as db:
        # Who reads from before the last commit keeps the log from moving.
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM hits").fetchone()
        await stored(queue)
        async with full_file(queue):
            first = asyncio.create_task(queue.add([new_hit(size=100_000)]))
            for _ in range(3):  # it is in the commit, and another waits for the next one
                await asyncio.sleep(0)
            told = await asyncio.gather(
                first, queue.add([new_hit(size=100_000)]), return_exceptions=True
            )
            assert queue._spending
            assert all(isinstance(one, QueueUnavailable) for one in told)
            assert queue.free_disk() < 0
            with pytest.raises(QueueUnavailable, match="full"):
                await queue.add([new_hit()])
    await queue.set("the next", "commit")
    assert queue.free_disk() > 0
    assert await queue.add([new_hit()]) == [2]


async def test_an_outcome_that_fails_keeps_no_hit_from_the_disk(queue: Queue) -> None:
    """A dead letter that cannot be written fails alone; who shares its commit does not."""
    refused, taken, held = await stored(queue, 3)
    with raw(queue.path) as db:
        db.execute("ALTER TABLE dead RENAME TO gone")

    buried, delivered, hold = await asyncio.gather(
        queue.bury(refused, "404", 404, 1),
        queue.delivered(taken, 200, None),
        queue.hold(held, ["rsid"], "unknown"),
        return_exceptions=True,
    )
    added = await asyncio.gather(
        queue.bury(refused, "404", 404, 1), queue.add([new_hit()]), return_exceptions=True
    )
    # Taken for an I/O error, of which the whole batch is told: they ask again and succeed.
    assert all(isinstance(one, QueueUnavailable) for one in (buried, delivered, hold, *added))
    await queue.delivered(taken, 200, None)
    assert await queue.add([new_hit()]) == [4]

    with raw(queue.path) as db:
        db.execute("ALTER TABLE gone RENAME TO dead")
    await queue.bury(refused, "404", 404, 1)
    assert_exact(queue)


async def test_a_constraint_fails_only_whom_it_concerns(queue: Queue) -> None:
    """An outcome the file refuses fails alone; hits and outcomes beside it are stored."""
    refused, taken = await stored(queue, 2)
    with raw(queue.path) as db:
        db.execute("INSERT INTO dead SELECT *, 'x', 1, 1, 1 FROM hits WHERE id = ?", (refused.id,))

    buried, delivered, added = await asyncio.gather(
        queue.bury(refused, "404", 404, 1),
        queue.delivered(taken, 200, None),
        queue.add([new_hit()]),
        return_exceptions=True,
    )

    assert isinstance(buried, QueueUnavailable)
    assert (delivered, added) == (None, [3])
    assert queue.ledger == Ledger(
        accepted=3, waiting=2, delivered=1, waiting_bytes=2 * refused.size
    )
    assert peek(queue.path)[0] == queue.ledger


async def test_after_an_io_error_the_queue_goes_on_from_the_disk(
    tmp_path: Path, open_queue: OpenQueue
) -> None:
    """The failed hit is stored nowhere, a crash right then included; the next one is stored."""
    queue = await open_queue()
    hits = await stored(queue, 3)
    before, writer = queue.ledger, queue._writer

    with writes_fail(queue):
        with pytest.raises(QueueUnavailable, match="I/O"):
            await queue.add([new_hit(size=100_000)])
        assert queue.ledger == before
        with pytest.raises(QueueUnavailable):
            await queue.delivered(hits[0], 200, None)
    left = as_after_a_crash(queue, tmp_path / "crash")

    assert await queue.add([new_hit(4)]) == [4]
    assert queue._writer is not writer
    await queue.delivered(hits[0], 200, None)
    assert queue.ledger == replace(
        before, accepted=4, delivered=1, waiting_bytes=before.waiting_bytes
    )
    assert_exact(queue)
    again = await open_queue(path=left)
    assert again.ledger == before
    assert_exact(again)


async def test_a_commit_that_failed_and_is_there_all_the_same_is_counted(queue: Queue) -> None:
    """After an I/O error the counts are those of the disk, whatever we believed."""
    await stored(queue)
    with writes_fail(queue), pytest.raises(QueueUnavailable):
        await queue.add([new_hit(size=100_000)])
    with raw(queue.path) as db:
        db.execute("INSERT INTO hits VALUES (2, 1, 1, 1, 0, NULL, x'00', 0)")
        db.execute(
            "UPDATE ledger SET last_id = 2, accepted = 2, waiting = 2,"
            " waiting_bytes = waiting_bytes + 1"
        )

    assert await queue.add([new_hit()]) == [3]
    assert queue.ledger.accepted == 3
    assert_exact(queue)


async def test_a_damaged_page_hangs_nobody(queue: Queue) -> None:
    """What needs the page is refused, and new hits are; outcomes that can be written are."""
    first, second = await stored(queue, 2)
    with raw(queue.path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'dead'").fetchone()
    await queue_module._run(
        queue._writer, lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    )
    with queue.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)

    with pytest.raises(QueueUnavailable, match="malformed"):
        await queue.bury(first, "404", 404, 1)
    with pytest.raises(QueueUnavailable, match="malformed"):
        await queue.dead_letters()
    with pytest.raises(QueueUnavailable, match="damaged"):
        await queue.add([new_hit()])
    await queue.delivered(second, 200, None)

    assert queue.ledger == Ledger(accepted=2, waiting=1, delivered=1, waiting_bytes=first.size)
    assert peek(queue.path)[0] == queue.ledger


async def test_a_row_that_is_taken_refuses_the_hit(queue: Queue) -> None:
    """An id somebody else wrote is an error of that add, not of the writer."""
    with raw(queue.path) as db:
        db.execute("INSERT INTO hits VALUES (1, 1, 1, 1, 0, NULL, x'', 0)")
        with pytest.raises(QueueUnavailable, match="UNIQUE"):
            await queue.add([new_hit()])
        db.execute("DELETE FROM hits")

    assert await queue.add([new_hit()]) == [1]
    assert_exact(queue)


async def test_deliveries_of_one_commit_are_each_counted_once(open_queue: OpenQueue) -> None:
    """Whatever their status, given twice, or gone meanwhile; kept for people with their `ts`."""
    queue = await open_queue(replace(ANY_SIZE, keep_delivered_s=60))
    hits = await stored(queue, 6)
    await queue.bury(hits[5], "gone", None, 1)
    told: list[QueueError | None] = []
    for hit, status, ts in zip(
        hits, (200, 200, 204, 200, 200, 200), (7, None, 9, 7, 7, 7), strict=True
    ):
        queue.settle(hit, status, ts, told.append)
    queue.settle(hits[0], 200, 7, told.append)
    assert not told
    await queue.set("a commit", "later")

    assert told == [None] * 7
    assert (queue.ledger.delivered, queue.ledger.dead, queue.ledger.waiting) == (5, 1, 0)
    assert_exact(queue)
    with raw(queue.path) as db:
        kept = db.execute("SELECT id, status, ts FROM delivered ORDER BY id").fetchall()
    assert kept == [(1, 200, 7), (2, 200, None), (3, 204, 9), (4, 200, 7), (5, 200, 7)]


async def test_who_waits_for_a_delivery_is_told_why_it_is_not_on_disk(queue: Queue) -> None:
    """By an exception of its own, and also when the queue is closed; never while it asks."""
    hits = await stored(queue, 2)
    told: list[QueueError | None] = []
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: faults.append(context["exception"])
    )

    def broken(said: QueueError | None) -> None:
        told.append(said)
        raise RuntimeError("a bug of ours")

    with writes_fail(queue):
        queue.settle(hits[0], 200, None, broken)
        queue.settle(hits[1], 200, None, told.append)
        with pytest.raises(QueueUnavailable):
            await queue.set("a commit", "later")
    assert [type(each) for each in told] == [QueueUnavailable] * 2
    assert told[0] is not told[1]
    assert len(faults) == 1
    await queue.close()
    queue.settle(hits[0], 200, None, told.append)
    assert len(told) == 2
    await asyncio.sleep(0)
    assert isinstance(told[2], QueueUnavailable)


async def test_a_fault_of_one_who_is_told_concerns_no_other(queue: Queue) -> None:
    """Neither when hits are stored nor when they are not; each is told once."""
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: faults.append(str(context["exception"]))
    )
    said: list[object] = []

    def broken(_: object) -> None:
        said.append("broken")
        raise RuntimeError("a bug of ours")

    queue.put([new_hit()], broken)
    queue.put([new_hit()], said.append)
    await queue.add([new_hit()])
    assert said == ["broken", [2]]
    (pages,) = await queue._writer.execute_fetchall("PRAGMA page_count")
    await queue._writer.execute_fetchall(f"PRAGMA max_page_count = {pages[0]}")
    large = new_hit(size=100_000)
    queue.put([large], broken)
    queue.put([large], said.append)
    with pytest.raises(QueueUnavailable):
        await queue.add([large])
    assert isinstance(said.pop(), QueueUnavailable)
    assert said == ["broken", [2], "broken"]
    assert faults == ["a bug of ours"] * 2
    await queue._writer.execute_fetchall(f"PRAGMA max_page_count = {NO_BOUND}")
    assert await queue.add([new_hit()]) == [4]


async def test_a_writer_that_dies_leaves_nobody_waiting(tmp_path: Path) -> None:
    """A bug of ours ends `run` with its exception; who waits, and who comes later, is told."""
    queue = await Queue.open(tmp_path / "hits.db", ANY_SIZE, FakeClock())
    running = asyncio.create_task(queue.run())
    impossible = new_hit()._replace(lane=2**70)

    told = await asyncio.gather(
        queue.add([new_hit()]), queue.add([impossible]), queue.tidy(), return_exceptions=True
    )

    assert [type(one) for one in told] == [QueueUnavailable, QueueUnavailable, type(None)]
    with pytest.raises(OverflowError):
        await running
    with pytest.raises(QueueUnavailable):
        await queue.add([new_hit()])
    with pytest.raises(QueueUnavailable):
        await queue.discard([1])
    await queue.close()


async def test_a_deleted_queue_file_takes_no_more_hits(queue: Queue) -> None:
    """Hits in a file without a name would be gone with the process: none is accepted."""
    await stored(queue)
    away = queue.path.rename(queue.path.with_name("away.db"))
    queue._free = (-1.0, 0)
    with pytest.raises(QueueUnavailable, match="moved or deleted"):
        await queue.add([new_hit()])
    assert queue.last_error is not None

    away.rename(queue.path)
    queue._free = (-1.0, 0)
    assert await queue.add([new_hit()]) == [2]
    assert queue.last_error is None


ON_A_SMALL_DISK = """
import asyncio, os, sys
from pathlib import Path
from proxy.core.hit import NewHit, Received
from proxy.core.limits import Limits
from proxy.errors import QueueError
from proxy.shell.clock import SystemClock
from proxy.shell.queue import Queue

async def fill_and_drain(queue, folder):
    content = b"GET /b/ss HTTP/1.1\\r\\n\\r\\n" + bytes(1200)
    refused = 0
    while refused < 3:
        try:
            await queue.add([NewHit(n, Received(1, 0), content) for n in range(16)])
        except QueueError:
            refused += 1
    with open(folder / "other", "wb", 0) as other:
        try:
            while True:
                other.write(bytes(512))
        except OSError:
            pass
    assert os.statvfs(folder).f_bavail == 0
    after = 0
    while rows := await queue.page(after):
        for hit in await queue.fetch([id_ for id_, _ in rows]):
            assert queue.begin(hit.id)
            await queue.delivered(hit, 200, None)
        after = rows[-1][0]
    assert queue.ledger.waiting == 0 and queue.ledger.delivered > 1000, queue.ledger
    (folder / "other").unlink()
    await queue.tidy()
    queue._free = (-1.0, 0)
    await queue.add([NewHit(1, Received(1, 0), content)])

async def main(folder):
    queue = await Queue.open(folder / "hits.db", Limits(min_free_disk=0), SystemClock())
    try:
        async with asyncio.TaskGroup() as loops:
            loops.create_task(queue.run())
            await fill_and_drain(queue, folder)
            await queue.close()
    finally:
        await queue.close()
    print("drained")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_the_drain_goes_on_with_no_byte_free(tmp_path: Path) -> None:
    """On a disk without a free byte every waiting hit can be delivered, and then hits come in."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    in_own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=24m none '{tmp_path}'"
    if subprocess.run([*in_own_mounts, mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")

    done = subprocess.run(
        [
            *in_own_mounts,
            f'{mount} && exec "$0" -c "$1" "$2"',
            sys.executable,
            ON_A_SMALL_DISK,
            tmp_path,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        timeout=60,
    )

    assert (done.stdout, done.stderr) == ("drained\n", "")


WITH_FAILING_SYNCS = """
import asyncio, contextlib, shutil, sqlite3, sys
from pathlib import Path
from proxy.core.hit import NewHit, Received
from proxy.core.limits import Limits
from proxy.errors import QueueUnavailable
from proxy.shell.clock import SystemClock
from proxy.shell.queue import Queue

def assert_left_by_a_crash(folder, n, told):
    crashed = folder / f"crash {n}"
    crashed.mkdir()
    for name in ("hits.db", "hits.db-wal"):
        shutil.copy(folder / name, crashed / name)
    with contextlib.closing(sqlite3.connect(crashed / "hits.db")) as db:
        assert [row[0] for row in db.execute("SELECT id FROM hits ORDER BY id")] == told

async def main(folder):
    queue = await Queue.open(folder / "hits.db", Limits(min_free_disk=0), SystemClock())
    running = asyncio.create_task(queue.run())
    told, refused = [], 0
    try:
        for n in range(200):
            try:
                told += await queue.add([NewHit(n, Received(1, 0), b"GET / HTTP/1.1\\r\\n\\r\\n")])
            except QueueUnavailable:
                refused += 1
                assert_left_by_a_crash(folder, n, told)
    finally:
        await queue.close()
    await running
    assert queue.ledger.accepted == len(told) == 200 - refused, (queue.ledger, refused)
    print("refused", refused > 3)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_hit_whose_sync_failed_is_stored_nowhere(tmp_path: Path) -> None:
    """When a client is told no, not even a crash brings its hit back: it may send it again."""
    some_fail = "inject=fdatasync,fsync:error=EIO:when=25+9"
    tracing = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run([*tracing, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody trace")

    done = subprocess.run(
        [*tracing, "-e", some_fail, sys.executable, "-c", WITH_FAILING_SYNCS, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        timeout=60,
    )

    assert (done.stdout, done.stderr) == ("refused True\n", "")


# -- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits, reason",
    [
        (Limits(max_hits=2, min_free_disk=0), "max_hits"),
        (Limits(max_bytes=3 * len(new_hit().content) - 1, min_free_disk=0), "max_bytes"),
        (Limits(min_free_disk=2**62), "disk"),
        (Limits(max_hits=2, drop_oldest=True, min_free_disk=0), "too-large"),
    ],
)
async def test_a_stated_limit_refuses_under_its_name(
    open_queue: OpenQueue, limits: Limits, reason: str
) -> None:
    """All hits of the request are refused together, and none is stored."""
    queue = await open_queue(limits)

    with pytest.raises(QueueFull) as refused:
        await queue.add([new_hit(n) for n in range(3)])

    assert refused.value.reason == reason
    assert queue.ledger == Ledger()
    assert_exact(queue)


async def test_a_limit_holds_while_adds_are_under_way(open_queue: OpenQueue) -> None:
    """Hits that are just being committed count: a burst does not slip past the limit."""
    queue = await open_queue(Limits(max_hits=5, min_free_disk=0))

    async with held_before_commit(queue, adds=3):
        gathered = asyncio.create_task(queue.add([new_hit(), new_hit()]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await queue.add([new_hit()])

    assert queue.ledger.waiting == 3
    with pytest.raises(QueueFull):
        await queue.add([new_hit()])
    assert await gathered == [4, 5]
    (first,) = await queue.fetch([1])
    await queue.delivered(first, 200, None)
    assert await queue.add([new_hit()]) == [6]


async def test_drop_oldest_makes_room_and_counts(open_queue: OpenQueue) -> None:
    """The oldest leave, held ones too, but none in flight; each is counted as discarded."""
    queue = await open_queue(Limits(max_hits=4, drop_oldest=True, min_free_disk=0))
    flying, held, third, fourth = await stored(queue, 4)
    assert queue.begin(flying.id)
    await queue.hold(held, ["rsid"], "unknown")

    await queue.add([new_hit(5), new_hit(6)])

    assert await waiting_ids(queue) == [flying.id, fourth.id, 5, 6]
    assert queue.ledger.discarded == 2
    assert queue.ledger.held == 0
    assert queue.gone == (third.id, frozenset({flying.id}))
    assert queue.begin(held.id, third.id, fourth.id) == {fourth.id}
    assert_exact(queue)


async def test_below_a_lowered_limit_the_queue_gets_step_by_step(open_queue: OpenQueue) -> None:
    """No hit waits until all that is too much is dropped, and none makes it more."""
    queue = await open_queue(Limits(max_hits=4_000, drop_oldest=True, min_free_disk=0))
    await queue.add([new_hit(n) for n in range(3_000)])
    queue.limits = Limits(max_hits=10, drop_oldest=True, min_free_disk=0)
    waiting = queue.ledger.waiting
    while waiting > 10:
        adds = [queue.add([new_hit(n)]) for n in range(5)]
        await asyncio.gather(*adds)
        dropped = waiting + len(adds) - queue.ledger.waiting
        assert len(adds) <= dropped <= 500 + len(adds)
        waiting = queue.ledger.waiting

    assert (waiting, queue.ledger.balanced) == (10, True)


async def test_drop_oldest_frees_bytes(open_queue: OpenQueue) -> None:
    size = len(new_hit().content)
    queue = await open_queue(Limits(max_bytes=4 * size, drop_oldest=True, min_free_disk=0))
    await stored(queue, 4)

    await queue.add([new_hit(size=size // 2)])

    assert queue.ledger.discarded == 2
    assert await waiting_ids(queue) == [3, 4, 5]
    assert_exact(queue)


async def test_a_spared_hit_is_the_next_to_go(open_queue: OpenQueue) -> None:
    """Once it no longer flies, it is the oldest again; the others that were spared stay."""
    queue = await open_queue(Limits(max_hits=3, drop_oldest=True, min_free_disk=0))
    first, second, _ = await stored(queue, 3)
    assert queue.begin(first.id)
    assert queue.begin(second.id)
    await queue.add([new_hit()])
    queue.deferred(first.id)
    queue.deferred(second.id)
    assert queue.gone == (3, frozenset({1, 2}))

    await queue.add([new_hit()])

    assert await waiting_ids(queue) == [2, 4, 5]
    assert not queue.begin(first.id)
    assert queue.begin(second.id)
    await queue.delivered(second, 200, None)
    assert queue.gone == (3, frozenset())
    assert_exact(queue)


async def test_a_hit_dropped_just_as_it_was_sent_is_counted_by_its_outcome(
    open_queue: OpenQueue,
) -> None:
    """A send may begin while the commit that drops its hit is on its way to the disk."""
    queue = await open_queue(Limits(max_hits=3, drop_oldest=True, min_free_disk=0))
    taken, lost, _ = await stored(queue, 3)

    async with held_before_commit(queue, adds=2):
        assert queue.begin(taken.id)
        assert queue.begin(lost.id)

    assert queue.ledger.discarded == 2
    await queue.delivered(taken, 200, None)
    queue.deferred(lost.id)
    assert not queue.begin(lost.id)
    await queue.delivered(taken, 200, None)
    assert (queue.ledger.discarded, queue.ledger.delivered) == (1, 1)
    assert_exact(queue)


async def test_max_age_expires_what_is_not_in_flight(open_queue: OpenQueue) -> None:
    """Older than the limit leaves, counted as expired; a younger one stays."""
    clock = FakeClock()
    queue = await open_queue(replace(ANY_SIZE, max_age_s=60), clock)
    first, *_ = await stored(queue, 3, at_ms=clock.ms())
    assert queue.begin(first.id)
    clock.passes(60)
    await queue.tidy()
    assert queue.ledger.expired == 0
    await stored(queue, at_ms=clock.ms())
    clock.passes(0.001)

    await queue.tidy()

    assert queue.ledger.expired == 2
    assert await waiting_ids(queue) == [1, 4]
    assert_exact(queue)
    await queue.delivered(first, 200, None)
    assert (queue.ledger.delivered, queue.ledger.waiting) == (1, 1)


async def test_tidying_takes_so_long_and_goes_on_the_next_time(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a watchdog would end a daemon whose slow disk has a million hits to expire."""
    monkeypatch.setattr("proxy.shell.queue.TIDY_FOR_S", 0.0)
    clock = FakeClock()
    queue = await open_queue(Limits(max_age_s=60, min_free_disk=0), clock)
    await stored(queue, 2 * outcomes.PURGE_HITS, at_ms=clock.ms())
    clock.passes(61)

    for parts in (1, 2, 2):
        await queue.tidy()
        assert queue.ledger.expired == parts * outcomes.PURGE_HITS


async def test_many_expire_in_one_tidy(open_queue: OpenQueue) -> None:
    """However many are too old, one call sees to all of them, in small transactions."""
    clock = FakeClock()
    queue = await open_queue(replace(ANY_SIZE, max_age_s=60), clock)
    await stored(queue, 2 * outcomes.PURGE_HITS + 1, at_ms=clock.ms())
    clock.passes(61)

    await queue.tidy()

    assert (queue.ledger.expired, queue.ledger.waiting) == (2 * outcomes.PURGE_HITS + 1, 0)
    assert_exact(queue)


# -- in flight -------------------------------------------------------------------------------


async def test_hits_in_flight_at_a_crash_are_ambiguous(
    tmp_path: Path, open_queue: OpenQueue
) -> None:
    """What may have reached Adobe is counted and marked at the next start, once."""
    queue = await open_queue()
    cut, deferred, taken, doubted, idle = await stored(queue, 5)
    for hit in (cut, deferred, taken, doubted):
        assert queue.begin(hit.id)
    queue.deferred(deferred.id)
    await queue.delivered(taken, 200, None)
    await queue.doubt(doubted)

    again = await open_queue(path=as_after_a_crash(queue, tmp_path / "crash"))

    hits = await again.fetch([cut.id, deferred.id, doubted.id, idle.id])
    assert [hit.ambiguous for hit in hits] == [True, False, True, False]
    assert again.ledger.ambiguous == 2
    assert_exact(again)
    third = await open_queue(path=as_after_a_crash(again, tmp_path / "another crash"))
    assert third.ledger.ambiguous == 2


async def test_an_outcome_nobody_waits_for_lands_all_the_same(
    tmp_path: Path, open_queue: OpenQueue
) -> None:
    """A send that is cancelled while its outcome is committed leaves no mark behind."""
    queue = await open_queue()
    (hit,) = await stored(queue)
    assert queue.begin(hit.id)
    recording = asyncio.create_task(queue.doubt(hit))
    await asyncio.sleep(0)
    recording.cancel()
    await stored(queue)

    again = await open_queue(path=as_after_a_crash(queue, tmp_path / "crash"))

    assert queue.ledger.ambiguous == again.ledger.ambiguous == 1


async def test_more_may_fly_than_was_announced(tmp_path: Path) -> None:
    """Slots are room, not a limit: each hit gets one, and none gets two."""
    sending = beside.Sending(tmp_path / "hits.db", 2)
    sending.clear()
    for hits in ([1], [2, 3], [4, 3], []):
        sending.mark(hits)
    assert sending.left() == [2, 1, 3, 4]
    sending.unmark([2])
    sending.unmark([2])
    sending.mark([5, 6])

    assert sorted(sending.left()) == [1, 3, 4, 5, 6]
    assert sending.marked() == {1, 3, 4, 5, 6}
    sending.close()


# -- delivered hits --------------------------------------------------------------------------


async def test_delivered_hits_are_kept_a_while(open_queue: OpenQueue) -> None:
    """A delivered hit is out of the drain's sight at once, and off the disk after its time."""
    clock = FakeClock()
    queue = await open_queue(replace(ANY_SIZE, keep_delivered_s=60), clock)
    first, second = await stored(queue, 2)
    await queue.delivered(first, 200, 1)
    clock.passes(30)
    await queue.delivered(second, 200, 1)
    assert await waiting_ids(queue) == []
    assert len(await queue.fetch([1, 2])) == 2
    clock.passes(31)

    await queue.tidy()

    assert [hit.id for hit in await queue.fetch([1, 2])] == [second.id]
    with raw(queue.path) as db:
        assert db.execute("SELECT id, status, ts FROM delivered").fetchall() == [(2, 200, 1)]
    assert queue.ledger.delivered == 2
    assert_exact(queue)


async def test_kept_for_no_time_is_removed_at_once(open_queue: OpenQueue) -> None:
    queue = await open_queue(replace(ANY_SIZE, keep_delivered_s=0))
    (hit,) = await stored(queue)
    await queue.delivered(hit, 200, None)

    assert await queue.fetch([hit.id]) == []
    assert queue.ledger == Ledger(accepted=1, delivered=1)
    assert_exact(queue)


async def test_never_more_than_so_many_delivered_hits_are_kept(open_queue: OpenQueue) -> None:
    """The oldest leave first, whatever their age."""
    queue = await open_queue()
    (hit,) = await stored(queue)
    await queue.close()
    most = queue_module.MOST_DELIVERED
    with raw(queue.path) as db:
        db.execute("BEGIN")
        numbers = f"WITH RECURSIVE n (i) AS (VALUES (2) UNION ALL SELECT i + 1 FROM n LIMIT {most})"
        db.execute(f"INSERT INTO hits {numbers} SELECT i, 1, 1, 1, 0, NULL, x'00', 0 FROM n")
        db.execute(
            f"INSERT INTO delivered {numbers} SELECT i, {FakeClock().unix_ms}, 200, 1 FROM n"
        )
        db.execute(
            f"UPDATE ledger SET accepted = accepted + {most}, delivered = {most},"
            f" last_id = last_id + {most}"
        )
        db.execute("COMMIT")
    queue = await open_queue()
    await queue.tidy()
    assert len(await queue.fetch([2, 3])) == 2

    await queue.delivered(hit, 200, None)
    await queue.tidy()

    assert [kept.id for kept in await queue.fetch([1, 2])] == [2]
    with raw(queue.path) as db:
        assert db.execute("SELECT count(*) FROM delivered").fetchone() == (most,)
        assert db.execute("SELECT count(*) FROM hits").fetchone() == (most,)


async def test_space_goes_back_to_the_disk(open_queue: OpenQueue) -> None:
    """After a drain the file shrinks, but for a spare for the next burst."""
    queue = await open_queue(replace(ANY_SIZE, keep_delivered_s=0))
    hits = await stored(queue, 400, size=50_000)
    await asyncio.gather(*(queue.delivered(hit, 200, None) for hit in hits))

    await queue.tidy()

    with raw(queue.path) as db:
        assert db.execute("PRAGMA freelist_count").fetchone() == (outcomes.SPARE_PAGES,)
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    assert pages < outcomes.SPARE_PAGES + 100
    assert_exact(queue)


# -- what the drain and people read ----------------------------------------------------------


async def test_a_page_holds_what_waits_in_order(queue: Queue) -> None:
    """No held, no delivered, no dead hit; in order of id, behind the cursor."""
    _, held, taken, refused, _, _ = await stored(queue, 6)
    await queue.hold(held, ["rsid"], "unknown")
    await queue.delivered(taken, 200, None)
    await queue.bury(refused, "404", 404, 1)

    assert await queue.page(0) == [(1, 1), (5, 1), (6, 1)]
    assert await queue.page(1) == [(5, 1), (6, 1)]
    assert await queue.page(6) == []


async def test_a_long_queue_is_read_in_pages(queue: Queue) -> None:
    count = rows.PAGE_HITS + 1
    await stored(queue, count)

    first = await queue.page(0)
    rest = await queue.page(first[-1][0])

    assert [id_ for id_, _ in first + rest] == list(range(1, count + 1))


async def test_fetch_skips_what_is_gone(queue: Queue) -> None:
    _, refused, _ = await stored(queue, 3)
    await queue.bury(refused, "404", 404, 1)

    assert [hit.id for hit in await queue.fetch([3, 2, 1, 77])] == [3, 1]


async def test_a_damaged_row_is_handed_out_as_no_request(queue: Queue) -> None:
    """Bytes that are no request stop no page: they come without a method, and can be buried."""
    await stored(queue, 2)
    with raw(queue.path) as db:
        db.execute("UPDATE hits SET content = zeroblob(length(content)) WHERE id = 1")

    damaged, whole = await queue.fetch([1, 2])
    assert damaged.request == Request("", b"", body=bytes(damaged.size))
    assert whole.request.method == "GET"

    await queue.bury(damaged, "damaged", None, 0)
    (letter,) = await queue.dead_letters()
    assert letter.hit.request == damaged.request
    assert_exact(queue)


async def test_large_dead_letters_come_a_few_at_a_time(queue: Queue) -> None:
    """What is made of them is made in one step; hits that come meanwhile wait for it."""
    hits = await stored(queue, 12, size=200_000)
    for hit in hits:
        await queue.bury(hit, "404", 404, 1)
    pages = []
    after = 0
    while page := await queue.dead_letters(after, 100):
        pages.append(page)
        after = page[-1].hit.id

    assert [letter.hit for page in pages for letter in page] == hits
    assert max(len(page) for page in pages) == 3


async def test_hits_that_compress_to_nothing_count_by_what_they_say(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a client could have a start, and a look at the dead letters, take all of the memory."""
    dull = wire.pack(Request("POST", b"/b/ss/rsid/1", body=bytes(200_000)))
    assert len(dull) < 1_000
    ids = await queue.add([NewHit(1, Received(1, 0), dull)] * 12)
    monkeypatch.setattr("proxy.shell.rows.NEWEST_BYTES", 700_000)

    assert len(await queue.newest(1_000, len)) == 3
    for hit in await queue.fetch(ids):
        await queue.bury(hit, "404", 404, 1)
    assert len(await queue.dead_letters(0, 100)) == 3


async def test_a_requeued_hit_waits_at_the_end_of_its_lane(queue: Queue) -> None:
    """It gets a new id, its mark, and keeps its time and content."""
    first, _ = await stored(queue, 2)
    await queue.bury(first, "404", 404, 3)
    (letter,) = await queue.dead_letters()
    assert (letter.hit, letter.reason, letter.status, letter.tries) == (first, "404", 404, 3)

    assert await queue.requeue([first.id]) == 1

    assert await queue.page(0) == [(2, 1), (3, 1)]
    (again,) = await queue.fetch([3])
    assert again == replace(first, id=3, requeued=True)
    assert await queue.dead_letters() == []
    assert await queue.requeue([first.id]) == 0


async def test_dead_letters_come_in_pages(queue: Queue) -> None:
    for hit in await stored(queue, 5):
        await queue.bury(hit, "404", 404, 1)

    assert [letter.hit.id for letter in await queue.dead_letters(2, 2)] == [3, 4]


async def test_held_hits_are_released_by_their_suites(queue: Queue) -> None:
    """Released hits wait as before, in their old place."""
    first, second, third = await stored(queue, 3)
    await queue.hold(first, ["a", "b"], "unknown")
    await queue.hold(second, ["a", "b"], "unknown")
    await queue.hold(third, ["c"], "late")
    assert await queue.held_suites() == {"a,b": (2, "unknown"), "c": (1, "late")}
    assert await queue.held_lanes() == {1}

    assert await queue.release("a,b") == 2
    assert await queue.release("a,b") == 0

    assert await waiting_ids(queue) == [1, 2]
    assert queue.ledger.held == 1
    assert_exact(queue)


async def test_the_oldest_waiting_hit_is_known(queue: Queue) -> None:
    """By its time of receipt; held counts, delivered does not, and none is None."""
    assert await queue.oldest_waiting() is None
    (first,) = await stored(queue, at_ms=5)
    (second,) = await stored(queue, at_ms=7)
    await queue.hold(first, ["rsid"], "unknown")
    assert await queue.oldest_waiting() == Received(1, 5)

    await queue.bury(first, "404", 404, 1)
    assert await queue.oldest_waiting() == Received(1, 7)
    await queue.delivered(second, 200, None)
    assert await queue.oldest_waiting() is None
    await queue.requeue([first.id])
    assert await queue.oldest_waiting() == Received(1, 5)


async def test_stamps_ahead_of_the_clock_are_remembered(open_queue: OpenQueue) -> None:
    """The latest `ts` of each lane, if it lies behind the second asked for, from a file too."""
    queue = await open_queue()
    ids = await queue.add([new_hit(lane=lane) for lane in (1, 1, 2, 3)])
    for hit, ts in zip(await queue.fetch(ids), (70, 60, 50, None), strict=True):
        await queue.delivered(hit, 200, ts)
    await queue.close()

    queue = await open_queue()

    assert await queue.stamps_after(49) == {1: 70, 2: 50}
    assert await queue.stamps_after(50) == {1: 70}
    assert await queue.stamps_after(70) == {}


async def test_dead_letters_are_read_without_owning_the_file(queue: Queue) -> None:
    """By anyone who may read the file, whether somebody has it open or nobody."""
    hits = await stored(queue, 3)
    for hit in hits:
        await queue.bury(hit, "404", 404, 1)
    letters = await queue.dead_letters()
    for owned in (True, False):
        if not owned:
            await queue.close()
        found, boots = peek_dead(queue.path, 1, 1)
        assert found == letters[1:2]
        assert boots.wall_ms(hits[0].received) == queue.boots.wall_ms(hits[0].received)


# -- the file --------------------------------------------------------------------------------


async def test_one_process_owns_a_queue_file(queue: Queue, open_queue: OpenQueue) -> None:
    """A second owner is refused at once, the first one goes on, and its place is free after it."""
    with pytest.raises(QueueInUse, match=r"hits\.db is in use"):
        await open_queue()
    await stored(queue)
    await queue.close()

    assert (await open_queue()).ledger.accepted == 1


async def test_a_newer_file_is_refused(queue: Queue, open_queue: OpenQueue) -> None:
    """Both numbers are named, the file stays as it was, and nobody owns it afterwards."""
    await queue.close()
    with raw(queue.path) as db:
        db.execute("PRAGMA user_version = 7")

    for _ in range(2):
        with pytest.raises(QueueTooNew, match=rf"version 7.*up to {NEWEST}"):
            await open_queue()


async def test_what_is_no_queue_file_is_refused(tmp_path: Path, open_queue: OpenQueue) -> None:
    """A foreign file is left alone, a folder or a missing right is named."""
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"no database, and precious" * 1000)
    for path in (foreign, tmp_path, foreign / "below.db"):
        with pytest.raises(QueueUnavailable, match="cannot open"):
            await open_queue(path=path)
        with pytest.raises(QueueUnavailable, match="cannot read"):
            peek(path)
        with pytest.raises(QueueUnavailable, match="cannot read"):
            peek_dead(path, 0, 1)

    assert foreign.read_bytes() == b"no database, and precious" * 1000


async def test_nobody_else_may_read_the_files(tmp_path: Path, open_queue: OpenQueue) -> None:
    """Hits are personal data: 0600 whatever the umask, and a folder we make is 0700."""
    before = os.umask(0)
    try:
        queue = await open_queue(path=tmp_path / "state" / "hits.db")
        await stored(queue)
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in queue.path.parent.iterdir()
        }
    finally:
        os.umask(before)

    beside_it = ("", "-lock", "-reserve", "-sending", "-shm", "-wal")
    assert modes == {f"hits.db{suffix}": 0o600 for suffix in beside_it}
    assert stat.S_IMODE(queue.path.parent.stat().st_mode) == 0o700


async def test_a_clean_end_leaves_one_file_to_copy(queue: Queue) -> None:
    """After `close` the log is in the queue file, and the file alone is a backup."""
    await stored(queue)
    await queue.close()

    names = {path.name for path in queue.path.parent.iterdir()}
    assert names == {"hits.db", "hits.db-lock", "hits.db-reserve", "hits.db-sending"}
    assert peek(queue.path)[0].accepted == 1


async def test_a_start_cut_short_is_no_obstacle(tmp_path: Path, open_queue: OpenQueue) -> None:
    """A file of no bytes, left by a crash at the very first start, becomes a queue."""
    (tmp_path / "hits.db").touch()

    queue = await open_queue()

    assert await queue.add([new_hit()]) == [1]
    with raw(queue.path) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (4096,)


# -- time ------------------------------------------------------------------------------------


async def test_a_stepped_clock_is_noted_and_remembered(open_queue: OpenQueue) -> None:
    """Waiting hits get the corrected time, in this process and the next."""
    clock = FakeClock()
    queue = await open_queue(clock=clock)
    (before,) = await stored(queue, at_ms=clock.ms())
    wrong = queue.boots.wall_ms(before.received)
    clock.steps(0.4)
    await queue.tidy()
    assert queue.boots.wall_ms(before.received) == wrong
    clock.steps(3600)

    await queue.tidy()

    right = wrong + 3_600_400
    assert queue.boots.wall_ms(before.received) == right
    await queue.close()
    clock.reboots("second boot")
    clock.steps(-7200)
    queue = await open_queue(clock=clock)
    assert queue.boots.current == 2
    assert queue.boots.wall_ms(before.received) == right
    clock.steps(7200)
    await queue.tidy()
    assert queue.boots.wall_ms(before.received) == right
    assert queue.boots.wall_ms(Received(2, 0)) == clock.unix_ms


# -- ending ----------------------------------------------------------------------------------


async def test_close_commits_what_was_asked_for(open_queue: OpenQueue) -> None:
    """Adds and outcomes that wait when `close` is called are on disk when it returns."""
    queue = await open_queue()
    (hit,) = await stored(queue)
    adds = [asyncio.create_task(queue.add([new_hit(n)])) for n in range(5)]
    outcome = asyncio.create_task(queue.delivered(hit, 200, None))
    await asyncio.sleep(0)
    queue.tally("repeated")

    await queue.close()

    assert [await add for add in adds] == [[n] for n in range(2, 7)]
    await outcome
    ledger, tallies = peek(queue.path)
    assert (ledger.accepted, ledger.delivered, tallies) == (6, 1, {"repeated": 1})


async def test_after_close_nobody_waits(queue: Queue) -> None:
    """Whatever is asked of a closed queue is refused at once; closing again is no mistake."""
    (hit,) = await stored(queue)
    await queue.close()
    await queue.close()

    for asked in (
        queue.add([new_hit()]),
        queue.delivered(hit, 200, None),
        queue.page(0),
        queue.oldest_waiting(),
        queue.set("name", "value"),
    ):
        with pytest.raises(QueueUnavailable, match="clos"):
            await asked
    await queue.tidy()


async def test_a_queue_that_never_ran_fails_who_waits(tmp_path: Path) -> None:
    queue = await Queue.open(tmp_path / "hits.db", ANY_SIZE, FakeClock())
    add = asyncio.create_task(queue.add([new_hit()]))
    await asyncio.sleep(0)

    await queue.close()

    with pytest.raises(QueueUnavailable):
        await add
    await queue.run()
    assert peek(queue.path)[0] == Ledger()


async def test_a_cancelled_writer_leaves_nobody_waiting(tmp_path: Path) -> None:
    """In its commit one is told neither yes nor no; later ones are told no; the file is whole."""
    queue = await Queue.open(tmp_path / "hits.db", ANY_SIZE, FakeClock())
    running = asyncio.create_task(queue.run())
    async with held_before_commit(queue, adds=1) as (under_way,):
        late = asyncio.create_task(queue.add([new_hit()]))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])

    with pytest.raises(asyncio.CancelledError):
        await under_way  # a no would be a lie: its commit went on
    with pytest.raises(QueueUnavailable):
        await late
    await queue.close()
    left = await Queue.open(queue.path, ANY_SIZE, FakeClock())
    assert_exact(left)
    await left.close()


async def test_a_caller_that_gives_up_leaves_the_others_alone(queue: Queue) -> None:
    """Its hit is stored or not, whole; the hits of the others are stored."""
    adds = [asyncio.create_task(queue.add([new_hit(n), new_hit(n)])) for n in range(10)]
    await asyncio.sleep(0)
    adds[3].cancel()

    told = await asyncio.gather(*adds, return_exceptions=True)

    assert isinstance(told.pop(3), asyncio.CancelledError)
    assert all(isinstance(one, list) for one in told)
    assert queue.ledger.accepted == 20
    assert queue._adding_hits == queue._adding_bytes == 0
    assert_exact(queue)


@pytest.mark.parametrize("jitter_ms", [-1, 1, 500])
async def test_a_restart_moves_no_stamp_by_the_jitter_of_two_clocks(
    open_queue: OpenQueue, jitter_ms: int
) -> None:
    """A hit sent again after a crash has the `ts` it had before, and so keeps its order."""
    clock = FakeClock()
    first = await open_queue(clock=clock)
    await first.add([new_hit()])
    before = first.boots.wall_ms(Received(first.boots.current, clock.ms()))
    await first.close()

    clock.unix_ms += jitter_ms
    again = await open_queue(clock=clock)

    assert again.boots.wall_ms(Received(again.boots.current, clock.ms())) == before
