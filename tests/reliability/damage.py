"""Damaged files: how a queue file and its log may come back from a bad card, and what a start does.

Rule: each file is damaged in one seeded way and opened as a start opens it.  It opens; what
waits then is byte for byte what was accepted; rows on pages that no damage touched are there;
the account agrees with the rows, a loss is said, the damaged file lies beside; and the next
start finds nothing to say.
Non-rule: a log that is gone takes its commits with it, and nothing that is left says so.
Source: docs/design/0010; sqlite.org, "How To Corrupt An SQLite Database File".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from clock import FakeClock

from proxy.core import wire
from proxy.core.hit import NewHit, Received, Request
from proxy.core.limits import Limits
from proxy.errors import QueueTooNew
from proxy.shell import audit, salvage
from proxy.shell.queue import Queue

HITS = 300
LIMITS = Limits(min_free_disk=0)
PAGE = salvage.PAGE_SIZES[0]
MEMORY = "/dev/shm"


def content(number: int, run: int = 0) -> bytes:
    """A stored request that can be told from every other; some span overflow pages."""
    size = 20_000 if number % 50 == 0 else 300 + number % 700
    # (bytes that cannot be compressed)
    body = Random(number).randbytes(size)
    return wire.pack(Request("POST", b"/b/ss/opt/1/x/s%d?c%d=" % (number, run), body=body))


@dataclass(frozen=True, slots=True)
class Filled:
    """A queue as a crash left it, its log included; all that was accepted, and what waits."""

    folder: Path
    waiting: dict[int, bytes]
    settled: dict[int, bytes]

    @property
    def path(self) -> Path:
        return self.folder / "hits.db"


async def fill(folder: Path, run: int = 0, *, moved: bool = False) -> Filled:
    """Some delivered, one dead, one held, killed; `moved`: the log is in the file already."""
    origin = folder / f"origin-{run}-{moved}"
    origin.mkdir()
    queue = await Queue.open(origin / "hits.db", LIMITS, FakeClock())
    waiting: dict[int, bytes] = {}
    async with asyncio.TaskGroup() as loops:
        loops.create_task(queue.run())
        at = Received(queue.boots.current, queue.clock.ms())
        for number in range(1, HITS + 1):
            (id_,) = await queue.add([NewHit(number % 7, at, content(number, run))])
            waiting[id_] = content(number, run)
        hits = await queue.fetch(range(1, HITS + 1))
        for hit in hits[:40]:
            await queue.delivered(hit, 200, 1)
        await queue.bury(hits[40], "refused", 404, 1)
        await queue.hold(hits[41], ["opt"], "its mode is not known")
        settled = {hit.id: waiting.pop(hit.id) for hit in hits[:41]}
        if moved:
            await queue._checkpoint()
        left = folder / f"left-{run}-{moved}"
        left.mkdir()
        for suffix in ("", "-wal", "-sending"):
            shutil.copy(origin / f"hits.db{suffix}", left / f"hits.db{suffix}")
        await queue.close()
    if moved:
        (left / "hits.db-wal").unlink()
    return Filled(left, waiting, settled)


# -- kinds of damage -------------------------------------------------------------------------


def _flip(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 3, 10, 40))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def bits(path: Path, random: Random, _other: Path) -> None:
    _flip(path, random)


def log_bits(path: Path, random: Random, _other: Path) -> None:
    _flip(_log(path), random)


def zeros(path: Path, random: Random, _other: Path) -> None:
    with path.open("r+b") as file:
        for _ in range(random.choice((1, 1, 3))):
            file.seek(PAGE * random.randrange(path.stat().st_size // PAGE))
            file.write(bytes(PAGE))


def noise(path: Path, random: Random, _other: Path) -> None:
    """A block of the card gives back what was in another."""
    with path.open("r+b") as file:
        file.seek(4096 * random.randrange(path.stat().st_size // 4096))
        file.write(random.randbytes(4096))


def cut(path: Path, random: Random, _other: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(random.randrange(1, path.stat().st_size))


def log_cut(path: Path, random: Random, _other: Path) -> None:
    cut(_log(path), random, path)


def no_log(path: Path, _random: Random, _other: Path) -> None:
    _log(path).unlink(missing_ok=True)


def another_log(path: Path, _random: Random, other: Path) -> None:
    shutil.copy(_log(other), _log(path))


def no_bytes(path: Path, _random: Random, _other: Path) -> None:
    path.write_bytes(b"")


def no_file(path: Path, _random: Random, _other: Path) -> None:
    path.unlink()


def no_database(path: Path, random: Random, _other: Path) -> None:
    path.write_bytes(random.randbytes(random.choice((1, 100, 100_000))))


Kind = Callable[[Path, Random, Path], None]
OF_THE_FILE: tuple[Kind, ...] = (bits, bits, zeros, noise, cut)
OF_THE_LOG: tuple[Kind, ...] = (log_bits, log_cut, no_log, another_log)
OF_ALL: tuple[Kind, ...] = (no_bytes, no_file, no_database)


# -- judging ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What so many damaged files showed."""

    seed: int
    files: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    set_aside: int = 0
    untouched: int = 0  # waiting rows on pages that no damage touched
    missing: int = 0  # of those
    lost: int = 0  # what the reports gave up
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kept = self.untouched - self.missing
        return (
            f"seed {self.seed}: {self.files} damaged files, {self.set_aside} set aside, "
            f"{kept} of {self.untouched} untouched rows kept, {self.lost} reported as lost; "
            + ("\n".join(self.wrong[:10]) if self.wrong else "all well")
        )


async def run(folder: Path, seed: int, files: int) -> Outcome:
    """So many files, each damaged in a way of its own."""
    random = Random(seed)
    found = Outcome(seed)
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else folder) as quick:
        logged, other = await fill(Path(quick)), await fill(Path(quick), 1)
        moved = await fill(Path(quick), moved=True)
        for number in range(files):
            kind = random.choice(OF_THE_FILE * 2 + OF_THE_LOG + OF_ALL)
            # Whose rows are to be counted page by page has all of them in the file.
            filled = moved if kind in OF_THE_FILE and random.random() < 0.7 else logged
            place = Path(quick) / f"file-{number}"
            shutil.copytree(filled.folder, place)
            path = place / "hits.db"
            kind(path, random, other.path)
            damaged = path.read_bytes() if path.exists() else b""
            problems = await _judge(filled, other, path, damaged, found, kind)
            found.files += 1
            found.kinds[kind.__name__] += 1
            found.wrong += [f"file {number}, {kind.__name__}: {each}" for each in problems]
            shutil.rmtree(place)
    return found


async def _judge(
    filled: Filled, other: Filled, path: Path, damaged: bytes, found: Outcome, kind: Kind
) -> list[str]:
    try:
        clock = FakeClock()
        boot = clock.boot_id, clock.wall_ms() - clock.ms()
        checked, planned = audit.audit(path), salvage.plan(path, boot)
        waiting, queue = await _start(path)
        again, second = await _start(path)
    except QueueTooNew:
        return []  # a bit of its version: who knows
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return [f"it does not start: {error!r}"]
    problems = _unsound(path, queue)
    if queue.salvaged and checked.is_whole:
        problems.append(f"checked and called whole, and then {queue.salvaged}")
    if _numbers(planned) != _numbers(queue.salvaged):
        problems.append(f"planned {planned}, done {queue.salvaged}")
    if again != waiting or second.salvaged:
        problems.append(f"the second start says {second.salvaged or 'otherwise'}")
    problems += _foreign(filled, other if kind is another_log else None, waiting)
    problems += _silent(path, damaged, queue, found)
    if kind in OF_THE_FILE and not (filled.folder / "hits.db-wal").exists():
        untouched = _untouched(filled, damaged)
        missing = untouched - waiting.keys() - _letters(path)
        found.untouched += len(untouched)
        found.missing += len(missing)
        if missing and not queue.tallies.get("lost.damaged"):
            problems.append(f"missing without a word: {sorted(missing)[:5]}")
    return problems


def _foreign(filled: Filled, other: Filled | None, waiting: dict[int, bytes]) -> list[str]:
    """Hits that nobody sent; of a damaged row the id may be wrong, for its sum leaves that out."""
    known = {*filled.waiting.values(), *filled.settled.values()}
    if other is not None:
        known |= {*other.waiting.values(), *other.settled.values()}
    altered = [id_ for id_, kept in waiting.items() if kept not in known]
    twice = len(waiting) - len(set(waiting.values()))
    return [f"altered {altered[:5]}, twice {twice}"] if altered or twice else []


def _silent(path: Path, damaged: bytes, queue: Queue, found: Outcome) -> list[str]:
    """What was set aside, and how the loss was told."""
    problems = []
    aside = list(path.parent.glob("hits.db.damaged-*"))
    if bool(aside) != any("it lies at" in line for line in queue.salvaged):
        problems.append(f"{len(aside)} set aside, and it says {queue.salvaged}")
    if damaged and aside and damaged not in [one.read_bytes() for one in aside]:
        problems.append("the damaged file is not what lies aside")
    ledger, lost = queue.ledger, queue.tallies.get("lost.damaged", 0)
    if ledger.accepted >= HITS and lost + ledger.waiting + ledger.dead + ledger.delivered < HITS:
        problems.append(f"{lost} reported lost of {ledger}")
    found.set_aside += bool(aside)
    found.lost += lost
    return problems


def _numbers(said: list[str]) -> list[list[str]]:
    """How many were kept, dead, lost, doubtful, or read back: not the name with its time."""
    return [re.findall(r"(?<= )\d+(?= |,)", line.partition("): ")[2] or line) for line in said]


async def _start(path: Path) -> tuple[dict[int, bytes], Queue]:
    """Open, look and close: the hits that wait and are whole, held ones too."""
    queue = await Queue.open(path, LIMITS, FakeClock())
    try:
        ids = {id_ for id_, _ in await queue.page(0)}
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            ids |= {id_ for (id_,) in db.execute("SELECT id FROM held")}
        hits = await queue.fetch(ids)
    finally:
        await queue.close()
    return {hit.id: wire.pack(hit.request) for hit in hits if hit.request.method}, queue


def _letters(path: Path) -> set[int]:
    """Kept as well: whose boot is lost has no time to be sent with."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {id_ for (id_,) in db.execute("SELECT id FROM dead")}


def _unsound(path: Path, queue: Queue) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        check = [row[0] for row in db.execute("PRAGMA integrity_check")]
        counts = db.execute(salvage.RECOUNT).fetchone()
    if check != ["ok"] or counts[::2] != counts[1::2] or not queue.ledger.balanced:
        return [f"it is not sound: {check[0]}, {counts}"]
    return []


def _untouched(filled: Filled, damaged: bytes) -> set[int]:
    """The waiting hits whose one page is as it was."""
    whole = filled.path.read_bytes()
    found = set()
    for id_, stored in filled.waiting.items():
        at = whole.find(stored)
        if at < 0:
            continue  # spread over overflow pages
        page = slice(at // PAGE * PAGE, at // PAGE * PAGE + PAGE)
        if damaged[page] == whole[page]:
            found.add(id_)
    return found
