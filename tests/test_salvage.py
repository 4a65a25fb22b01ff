"""A damaged queue file: started anyway, set aside, salvaged row by row, and never silently."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from clock import FakeClock
from daemon import Serve

from proxy.core import pages, wire
from proxy.core.hit import NewHit, Received, Request
from proxy.core.limits import Limits
from proxy.core.moment import TOLD
from proxy.core.rescue import row_sum
from proxy.errors import QueueUnavailable
from proxy.shell import salvage
from proxy.shell.queue import Queue

HITS = 300
PAGE = salvage.PAGE_SIZES[0]
LIMITS = Limits(min_free_disk=0)


def content(number: int) -> bytes:
    """A stored request that can be told from every other; some span overflow pages."""
    size = 20_000 if number % 50 == 0 else 300 + number % 700
    # (bytes that cannot be compressed)
    return wire.pack(
        Request("GET", b"/b/ss/opt/1/x/s%d" % number, body=random.Random(number).randbytes(size))
    )


@dataclass
class Filled:
    """A queue file as a crash left it, log included: what waits in it, by content."""

    path: Path
    waiting: dict[int, bytes]
    dead: int


@pytest.fixture
async def filled(tmp_path: Path) -> Filled:
    """Hits accepted, some delivered, one dead and one held, then killed before a checkpoint."""
    import shutil  # noqa: PLC0415

    origin = tmp_path / "origin"
    origin.mkdir()
    queue = await Queue.open(origin / "hits.db", LIMITS, FakeClock())
    waiting: dict[int, bytes] = {}
    async with asyncio.TaskGroup() as loops:
        loops.create_task(queue.run())
        for number in range(1, HITS + 1):
            at = Received(queue.boots.current, queue.clock.ms())
            # Lanes of both protocols: 63 bits, on either side of zero.
            lane = (number % 7 - 3) << 60
            (id_,) = await queue.add([NewHit(lane, at, content(number))])
            waiting[id_] = content(number)
        hits = await queue.fetch(range(1, HITS + 1))
        for hit in hits[:40]:
            await queue.delivered(hit, 200, 1)
            del waiting[hit.id]
        await queue.bury(hits[40], "refused", 404, 1)
        del waiting[hits[40].id]
        await queue.hold(hits[41], ["opt"], "its mode is not known")
        path = tmp_path / "hits.db"
        for suffix in ("", "-wal", "-sending"):
            shutil.copy(origin / f"hits.db{suffix}", f"{path}{suffix}")
        await queue.close()
    return Filled(path, waiting, 1)


async def start(filled: Filled) -> tuple[dict[int, bytes], Queue]:
    """Open the queue; the hits that wait in it now."""
    queue = await Queue.open(filled.path, LIMITS, FakeClock())
    ids = [id_ for id_, _ in await queue.page(0)]
    held = [hit for hit in filled.waiting if hit not in ids]
    hits = await queue.fetch([*ids, *held])
    found = {hit.id: wire.pack(hit.request) for hit in hits if hit.request.method}
    await queue.close()
    return found, queue


def recount(path: Path) -> None:
    """The account agrees with the rows, and SQLite with the file."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counts = db.execute(salvage.RECOUNT).fetchone()
    assert counts[::2] == counts[1::2]


def damaged(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.glob("hits.db.damaged-*"))


async def test_a_whole_file_is_opened_as_it_is(filled: Filled) -> None:
    """Nothing is set aside, and every hit is there."""
    found, queue = await start(filled)

    assert found == filled.waiting
    assert queue.salvaged == []
    assert damaged(filled.path) == []


def move_log(path: Path) -> None:
    """All that was committed lies in the file itself."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def leaves(path: Path, table: str) -> list[int]:
    """The pages with rows of a table."""
    data = path.read_bytes()
    image = pages.image(data, [], salvage.PAGE_SIZES)
    root = image.schema()[table]
    return [
        number
        for number in image.pages
        if image._tree_of(number) == root and data[(number - 1) * image.page_size] == pages.LEAF
    ]


def wipe(path: Path, numbers: list[int]) -> None:
    with path.open("r+b") as file:
        for number in numbers:
            file.seek((number - 1) * PAGE)
            file.write(bytes(PAGE))


async def doubted(filled: Filled) -> set[int]:
    """The waiting hits that are marked as maybe sent."""
    queue = await Queue.open(filled.path, LIMITS, FakeClock())
    hits = await queue.fetch(range(1, HITS + 1))
    await queue.close()
    return {hit.id for hit in hits if hit.ambiguous}


def flip(path: Path, dice: random.Random, count: int) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(count):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def bits_in_the_file(path: Path, dice: random.Random) -> None:
    flip(path, dice, 3)


def bits_in_the_log(path: Path, dice: random.Random) -> None:
    flip(log_of(path), dice, 3)


def a_page_of_zeros(path: Path, dice: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(PAGE * dice.randrange(path.stat().st_size // PAGE))
        file.write(bytes(PAGE))


def cut_short(path: Path, dice: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(dice.randrange(1, path.stat().st_size))


def no_bytes(path: Path, _dice: random.Random) -> None:
    path.write_bytes(b"")


def no_file(path: Path, _dice: random.Random) -> None:
    path.unlink()


def no_database(path: Path, dice: random.Random) -> None:
    path.write_bytes(dice.randbytes(100_000))


def no_log(path: Path, _dice: random.Random) -> None:
    log_of(path).unlink()


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    bits_in_the_file,
    bits_in_the_log,
    a_page_of_zeros,
    cut_short,
    no_bytes,
    no_file,
    no_database,
    no_log,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("seed", range(8))
async def test_a_damaged_file_is_started_with_and_nothing_altered_is_sent(
    filled: Filled, damage: Callable[[Path, random.Random], None], seed: int
) -> None:
    """What waits afterwards is byte for byte what was accepted; a second start is clean."""
    damage(filled.path, random.Random(seed))
    found, queue = await start(filled)

    for id_, stored in found.items():
        assert filled.waiting.get(id_, content(id_)) == stored
    assert queue.ledger.balanced
    recount(filled.path)
    if damaged(filled.path):
        assert queue.salvaged, "set aside without a word"
    again, queue = await start(filled)
    assert again == found
    assert queue.salvaged == []


@pytest.mark.parametrize("seed", range(20))
async def test_flipped_bits_cost_the_rows_they_hit_and_hardly_another(
    filled: Filled, seed: int
) -> None:
    """At most a hundredth of the rows that no flipped bit touched is lost."""
    with closing(sqlite3.connect(filled.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = filled.path.read_bytes()
    flip(filled.path, random.Random(seed), 4)
    broken = filled.path.read_bytes()
    touched = {
        id_
        for id_, stored in filled.waiting.items()
        if not all(piece in broken for piece in _pieces(stored, whole))
    }
    found, queue = await start(filled)
    untouched = filled.waiting.keys() - touched
    missing = untouched - found.keys()
    pages_hit = len({at // PAGE for at in range(len(whole)) if whole[at] != broken[at]})

    # A leaf whose own header is hit is lost as a whole: that is damage to all of its rows.
    rows_of_a_page = 20
    assert len(missing) <= 0.01 * len(untouched) + rows_of_a_page * pages_hit
    assert not missing or queue.salvaged or queue.ledger.dead


def _pieces(stored: bytes, whole: bytes) -> list[bytes]:
    """A content as it lies in the file: in one run, or what fits a page of it."""
    return [stored] if stored in whole else [stored[:400]]


async def test_the_report_counts_what_is_lost(filled: Filled) -> None:
    """Zeroing every leaf of the hits loses them all, and the account says how many."""
    move_log(filled.path)
    wipe(filled.path, leaves(filled.path, "hits"))
    found, queue = await start(filled)

    assert found == {}
    assert queue.tallies["lost.damaged"] == len(filled.waiting)
    assert f"lost {len(filled.waiting)}" in queue.salvaged[0]
    assert (queue.ledger.waiting, queue.ledger.dead, queue.ledger.delivered) == (0, 1, 40)
    assert queue.ledger.accepted == HITS
    recount(filled.path)


async def test_delivered_hits_whose_marks_are_lost_are_all_in_doubt(filled: Filled) -> None:
    """They wait again, fewer than there were hits lost: which ones, and how many, nobody knows."""
    move_log(filled.path)
    wipe(filled.path, [*leaves(filled.path, "delivered"), *leaves(filled.path, "hits")[-16:]])
    found, queue = await start(filled)
    delivered = set(range(1, 41))

    assert delivered <= found.keys()
    assert len(found) < len(filled.waiting), "the count alone gives nothing away"
    assert queue.ledger.ambiguous == len(found)
    assert await doubted(filled) == found.keys()
    assert f"lost at least {len(filled.waiting) - len(found)}, " in queue.salvaged[0]
    assert f"{len(found)} may be sent twice" in queue.salvaged[0]
    recount(filled.path)


@pytest.mark.parametrize("size", salvage.PAGE_SIZES)
@pytest.mark.parametrize("gone", [16, PAGE])
async def test_without_a_header_the_size_of_its_pages_is_found_out(
    filled: Filled, size: int, gone: int
) -> None:
    """Every hit is read back, whichever of the sizes that queue files have had it is."""
    move_log(filled.path)
    with closing(sqlite3.connect(filled.path, isolation_level=None)) as db:
        for line in ("PRAGMA journal_mode = DELETE", f"PRAGMA page_size = {size}", "VACUUM"):
            db.execute(line)
        assert db.execute("PRAGMA page_size").fetchone() == (size,)
    with filled.path.open("r+b") as file:
        file.write(bytes(gone))
    found, queue = await start(filled)

    assert {id_: found.get(id_) for id_ in filled.waiting} == filled.waiting
    assert queue.salvaged


async def test_whole_marks_leave_no_hit_in_doubt(filled: Filled) -> None:
    """Hits that are lost for themselves cost the others nothing, and their number is exact."""
    move_log(filled.path)
    wipe(filled.path, leaves(filled.path, "hits")[-16:])
    found, queue = await start(filled)

    assert found.keys() < filled.waiting.keys()
    assert await doubted(filled) == set()
    assert f"lost {len(filled.waiting) - len(found)}, 0 may be" in queue.salvaged[0]


async def test_hits_of_pages_that_may_have_been_free_are_in_doubt(filled: Filled) -> None:
    """Without the pointer map nobody can tell them from hits that left."""
    move_log(filled.path)
    wipe(filled.path, [2, *leaves(filled.path, "hits")[-16:]])
    found, queue = await start(filled)

    assert len(found) < len(filled.waiting)
    assert await doubted(filled) == found.keys()
    assert "lost at least " in queue.salvaged[0]


async def test_marks_that_the_log_may_have_lost_are_no_proof(filled: Filled) -> None:
    """A log that is damaged in its middle forgets what was delivered after it."""
    frames = pages.frames(log_of(filled.path).read_bytes())
    with log_of(filled.path).open("r+b") as log:
        log.seek(32 + (24 + PAGE) * (len(frames) - 20) + 24)
        log.write(bytes(PAGE))
    with filled.path.open("r+b") as file:
        file.write(bytes(16))
    found, queue = await start(filled)

    assert await doubted(filled) == found.keys()
    assert "lost at least " in queue.salvaged[0]


async def test_hits_whose_boot_is_lost_are_never_stamped_with_another_time(
    filled: Filled,
) -> None:
    """They are dead letters that say why, and the report names them."""
    move_log(filled.path)
    wipe(filled.path, leaves(filled.path, "boots"))
    clock = FakeClock(unix_ms=1_800_000_000_000)
    clock.reboots("second boot")
    queue = await Queue.open(filled.path, LIMITS, clock)
    letters = await queue.dead_letters(0, HITS)
    timeless = [letter for letter in letters if letter.reason == salvage.TIMELESS]
    await queue.close()

    assert {one.hit.id: wire.pack(one.hit.request) for one in timeless} == filled.waiting
    assert {queue.boots.wall_ms(letter.hit.received) for letter in letters} == {0}
    assert (queue.ledger.waiting, queue.ledger.dead) == (0, len(filled.waiting) + 1)
    assert queue.ledger.balanced
    said = f"{len(letters)} dead letters (of these {len(timeless)} hits whose time of receipt is"
    assert said in queue.salvaged[0]
    assert "lost 0, 0 may be sent twice" in queue.salvaged[0]
    recount(filled.path)


async def test_a_time_that_was_told_needs_no_boot(filled: Filled) -> None:
    """An imported hit keeps its own, though the times of all others are lost."""
    queue = await Queue.open(filled.path, LIMITS, FakeClock())
    async with asyncio.TaskGroup() as loops:
        loops.create_task(queue.run())
        (told,) = await queue.add([NewHit(1, Received(TOLD, 1_600_000_000_000), content(1))])
        await queue.close()
    move_log(filled.path)
    wipe(filled.path, leaves(filled.path, "boots"))
    clock = FakeClock()
    clock.reboots("second boot")
    queue = await Queue.open(filled.path, LIMITS, clock)
    found = await queue.fetch([told])
    await queue.close()

    assert [queue.boots.wall_ms(hit.received) for hit in found] == [1_600_000_000_000]
    assert queue.boots.current > 0
    assert queue.ledger.waiting == 1
    recount(filled.path)


async def test_the_boot_that_runs_on_is_known_again(filled: Filled) -> None:
    """The restart after damage is one of the same boot: its hits wait, at their own time."""
    move_log(filled.path)
    clock = FakeClock()
    whole = await Queue.open(filled.path, LIMITS, clock)
    at = whole.boots.wall_ms(Received(whole.boots.current, 7))
    await whole.close()
    wipe(filled.path, leaves(filled.path, "boots"))
    clock.passes(3600)
    found, queue = await start(filled)

    assert found == filled.waiting
    assert queue.boots.wall_ms(Received(whole.boots.current, 7)) == at
    assert "lost 0, 0 may be sent twice" in queue.salvaged[0]


async def test_a_lost_boot_gives_its_number_to_none(filled: Filled) -> None:
    """Repaired first and started then: no letter takes on the time of a boot that came later."""
    move_log(filled.path)
    wipe(filled.path, leaves(filled.path, "boots"))
    salvage.repair(filled.path, ("another boot", 0))
    clock = FakeClock()
    for name in ("second boot", "third boot"):
        clock.reboots(name)
        queue = await Queue.open(filled.path, LIMITS, clock)
        letters = await queue.dead_letters(0, HITS)
        await queue.close()
        assert {queue.boots.wall_ms(letter.hit.received) for letter in letters} == {0}


async def test_what_is_read_back_from_a_log_without_its_boot_is_a_letter(tmp_path: Path) -> None:
    """The row of the boot was in the part of the log that is damaged."""
    queue = await Queue.open(tmp_path / "hits.db", LIMITS, FakeClock())
    await queue.close()
    rows: list[tuple[int, pages.Row]] = [
        (id_, (None, 1, boot, 5, 0, None, content(id_), row_sum(1, boot, 5, content(id_))))
        for id_, boot in ((1, queue.boots.current), (2, 2))
    ]
    with closing(sqlite3.connect(queue.path, isolation_level=None)) as db:
        (said,) = salvage.put_back(db, rows)
    found = await Queue.open(queue.path, LIMITS, FakeClock())
    (letter,) = await found.dead_letters()
    await found.close()

    assert said.endswith(
        "2 hits were read back from it, 1 as dead letters: their time of receipt is lost"
    )
    assert (letter.hit.id, letter.reason, letter.hit.ambiguous) == (2, salvage.TIMELESS, True)
    assert (found.ledger.waiting, found.ledger.dead, found.ledger.balanced) == (1, 1, True)
    recount(queue.path)


async def test_a_requeued_hit_without_a_time_counts_as_received_then(filled: Filled) -> None:
    """A person decided; its row is whole, and it is stamped with that second."""
    move_log(filled.path)
    wipe(filled.path, leaves(filled.path, "boots"))
    clock = FakeClock()
    clock.reboots("second boot")
    clock.passes(60)
    queue = await Queue.open(filled.path, LIMITS, clock)
    async with asyncio.TaskGroup() as loops:
        loops.create_task(queue.run())
        letters = await queue.dead_letters(0, 3)
        await queue.requeue([letter.hit.id for letter in letters])
        hits = await queue.fetch(range(HITS + 1, HITS + 4))
        await queue.close()

    assert [hit.request for hit in hits] == [letter.hit.request for letter in letters]
    assert {queue.boots.wall_ms(hit.received) for hit in hits} == {clock.wall_ms()}
    assert queue.ledger.balanced


async def test_a_salvage_cut_short_at_its_end_is_finished(filled: Filled) -> None:
    """The old file has its new name, the new one not yet its own: nothing is lost."""
    no_database(filled.path, random.Random(1))
    filled.path.rename(filled.path.with_name("hits.db.damaged-then"))
    log_of(filled.path).unlink()
    whole = filled.path.with_name("hits.db-salvaged")
    with closing(sqlite3.connect(filled.path.parent / "origin" / "hits.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (filled.path.parent / "origin" / "hits.db").rename(whole)
    found, _ = await start(filled)

    assert found == filled.waiting


async def test_a_creation_cut_short_is_no_obstacle(tmp_path: Path) -> None:
    """The rollback journal of the very first transaction lies beside the file."""
    made, path = tmp_path / "made.db", tmp_path / "hits.db"
    with closing(sqlite3.connect(made, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.execute("CREATE TABLE half (done BLOB)")
        db.executemany("INSERT INTO half VALUES (?)", [(bytes(5_000),)] * 50)
        for suffix in ("", "-journal"):
            path.with_name(f"hits.db{suffix}").write_bytes(
                made.with_name(f"made.db{suffix}").read_bytes()
            )
    queue = await Queue.open(path, LIMITS, FakeClock())
    await queue.close()

    assert queue.salvaged == []
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (PAGE,)
    recount(path)


@pytest.mark.parametrize(
    "was, becomes",
    [
        (b"waiting_bytes INTEGER", b"waiting_bytec INTEGER"),  # a column nobody knows
        (b"content     BLOB", b"content     \xc2LOB"),  # a type that is no text
    ],
)
async def test_a_flipped_bit_in_the_schema_is_damage_and_no_end(
    filled: Filled, was: bytes, becomes: bytes
) -> None:
    """SQLite calls the first an error of ours, and Python chokes on its words for the second."""
    with closing(sqlite3.connect(filled.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = filled.path.read_bytes()
    assert was in data
    filled.path.write_bytes(data.replace(was, becomes))
    found, queue = await start(filled)

    assert found == filled.waiting
    assert damaged(filled.path)
    assert queue.salvaged
    recount(filled.path)


async def test_a_version_that_no_release_will_have_is_damage(filled: Filled) -> None:
    """A flipped bit in the header is not called a newer release."""
    with closing(sqlite3.connect(filled.path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute(f"PRAGMA user_version = {version + 2**29}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    found, queue = await start(filled)

    assert found == filled.waiting
    assert damaged(filled.path)
    assert "its version is" in queue.salvaged[0]


@pytest.mark.parametrize("whole", [True, False])
async def test_an_index_that_lost_its_row_is_damage(
    filled: Filled, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """SQLite's quick check passes over it; the row would be made a second time, and found by none.

    In a file too large to be read whole at each start, too.
    """
    move_log(filled.path)
    if not whole:
        monkeypatch.setattr(salvage, "CHECKED_BYTES", 0)
    name = FakeClock().boot_id.encode()
    data = bytearray(filled.path.read_bytes())
    of_indexes = [page for page in range(PAGE, len(data), PAGE) if data[page] == 0x0A]
    (at,) = {data.find(name, page, page + PAGE) for page in of_indexes} - {-1}
    data[at] ^= 1
    filled.path.write_bytes(data)

    found, queue = await start(filled)

    assert found == filled.waiting
    assert "missing from index" in queue.salvaged[0]
    assert damaged(filled.path)
    recount(filled.path)


async def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    """A wrong queue.path costs nobody their data."""
    path = tmp_path / "precious.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE photos (id INTEGER)")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(QueueUnavailable, match="never a queue file"):
        await Queue.open(path, LIMITS, FakeClock())

    assert path.read_bytes() == before


async def test_a_damaged_row_becomes_a_dead_letter_and_is_never_sent(
    serve: Serve, tmp_path: Path
) -> None:
    """It is kept as it is, and its visitor goes on."""
    from proxy.fake import FakeCollector  # noqa: PLC0415 - the one test that sends

    served = await serve(None)
    await served.hits(range(1, 4))
    await served.stop()
    with closing(sqlite3.connect(tmp_path / "hits.db")) as db:
        ((content,),) = db.execute("SELECT content FROM hits WHERE id = 2").fetchall()
        changed = content[:-1] + bytes([content[-1] ^ 1])
        db.execute("UPDATE hits SET content = ? WHERE id = 2", (changed,))
        db.commit()
    async with FakeCollector() as adobe:
        again = await serve(adobe, {"suites.known.examplersid.timestamps": "optional"})
        status = await again.until(lambda status: status["waiting"] == 0)
        await again.stop()

        assert [hit.param(b"pageName") for hit in adobe.received] == [b"p1", b"p3"]
        assert (status["delivered"], status["dead"]) == (2, 1)


async def test_damage_met_while_running_is_no_secret_and_the_next_start_salvages(
    serve: Serve, tmp_path: Path
) -> None:
    """Unhealthy and refusing at once; nothing that was whole is lost by the restart."""
    served = await serve(None)
    await served.hits(range(1, 200))
    path = tmp_path / "hits.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # The root of the hits: every way to them is gone, and every one of them is there.
    with path.open("r+b") as file:
        file.seek(PAGE * 4)
        file.write(b"\xff" * 100)
    answers = [(await served.send(f"/b/ss/opt/1/x/0?c1={number}")).status for number in range(60)]
    assert answers[-1] == 503
    assert (await served.status())["state"] == "refusing"
    assert (await served.ask("/healthz")).status == 503
    await served.stop()
    served = await serve(None)
    status = await served.status()

    assert status["state"] == "capture"
    assert status["waiting"] + status["lost"] == status["accepted"]
    assert status["waiting"] >= 199 - 10


async def test_an_operator_reads_what_happened(serve: Serve, tmp_path: Path) -> None:
    """In the status as a count, and the daemon is ready."""
    served = await serve(None)
    await served.hits(range(1, 20))
    await served.stop()
    path = tmp_path / "hits.db"
    data = bytearray(path.read_bytes())
    data[16:24] = b"\xff" * 8
    path.write_bytes(data)
    served = await serve(None)
    status = await served.status()

    assert status["balanced"]
    assert status["waiting"] + status["lost"] == 19
    assert (await served.ask("/readyz")).status == 200
