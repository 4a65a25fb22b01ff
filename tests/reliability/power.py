"""Power loss: what a disk may hold when a queue was being written to, and what it opens to.

Rule: of each file what was synced is there; of what was written since then anything may be
there or not, in whole or in pieces of a sector, as if the disk had written it in any order.
Creating, renaming and deleting are kept in their order, and are certain only once the folder
was synced.  A sync that failed may have dropped what it should have written, for good, while
the process goes on seeing it in memory.  Each image is opened as a start would open it.
Non-rule: damage to what was synced is another scenario.
Source: fsync(2); "Files are hard" and the fsync errors of 2018 for failed syncs; ext4's
ordered journal for the order of names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from shim import Entry, Faults, Op, entries, environ
from writing import LIMITS, content

from proxy.shell import salvage
from proxy.shell.clock import SystemClock
from proxy.shell.queue import Queue

CHECKOUT = Path(__file__).resolve().parents[2]
WRITING = Path(__file__).with_name("writing.py")
MEMORY = "/dev/shm"
SECTOR = 512
STEPS = 300
BATCH = 250  # images of one run


@dataclass(slots=True)
class _File:
    """`synced` is on disk for certain; `since` was asked for later, in order."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[Entry] = field(default_factory=list)


def _apply(data: bytearray, entry: Entry, pieces: list[tuple[int, int]]) -> None:
    if entry.op is Op.TRUNCATE:
        if entry.offset < len(data):
            del data[entry.offset :]
        else:
            data.extend(bytes(entry.offset - len(data)))
        return
    for begin, end in pieces:
        at = entry.offset + begin
        if len(data) < at:
            data.extend(bytes(at - len(data)))
        data[at : at + end - begin] = entry.data[begin:end]


class Disk:
    """The files of a folder, as certain as they are."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.folder = folder
        self.random = random
        self._names: dict[str, _File] = {}  # for certain
        self._renamed: list[dict[str, _File]] = []  # what the names were after each change since
        self._open: dict[int, _File] = {}

    def put(self, name: str, data: bytes) -> None:
        """A file that was there before."""
        self._names[name] = _File(bytearray(data))

    def _now(self) -> dict[str, _File]:
        return self._renamed[-1] if self._renamed else self._names

    def _file(self, entry: Entry) -> _File:
        file = self._now().get(entry.path.name)
        if file is None:
            file = self._open.setdefault(entry.inode, _File())
        return file

    def happen(self, entry: Entry) -> None:
        """One doing of the process."""
        name = entry.path.name
        match entry.op:
            case Op.CREATE:
                self._renamed.append({**self._now(), name: _File()})
            case Op.UNLINK:
                left = dict(self._now())
                left.pop(name, None)
                self._renamed.append(left)
            case Op.RENAME:
                left = dict(self._now())
                left[Path(entry.data.decode()).name] = left.pop(name, _File())
                self._renamed.append(left)
            case Op.SYNC if entry.path == self.folder:
                if not entry.failed and self._renamed:
                    self._names, self._renamed = self._renamed[-1], []
            case Op.SYNC:
                self._sync(self._file(entry), failed=entry.failed)
            case Op.WRITE | Op.TRUNCATE if not entry.failed:
                self._file(entry).since.append(entry)

    def _sync(self, file: _File, *, failed: bool) -> None:
        if failed:
            # The kernel may call the pages clean, and forget them when it needs the memory.
            file.since = [each for each in file.since if self.random.random() < 0.5]
            return
        for entry in file.since:
            _apply(file.synced, entry, [(0, len(entry.data))])
        file.since = []

    def image(self, into: Path, chance: float) -> None:
        """What may be on the disk if the power fails now; `chance` that a piece got there."""
        into.mkdir()
        random = self.random
        states = [self._names, *self._renamed]
        names = states[-1] if chance == 1 else random.choice(states)
        for name, file in names.items():
            if name.endswith("-shm"):
                # Memory of the process, which nobody syncs.
                (into / name).write_bytes(random.choice((b"", bytes(32_768), file.synced)))
                continue
            data = bytearray(file.synced)
            for entry in file.since:
                _apply(data, entry, list(self._pieces(entry, chance)))
            (into / name).write_bytes(data)

    def _pieces(self, entry: Entry, chance: float) -> Iterator[tuple[int, int]]:
        random = self.random
        if entry.op is not Op.WRITE or random.random() < 0.7:
            if random.random() < chance:
                yield 0, len(entry.data)
            return
        begin = 0
        while begin < len(entry.data):
            end = min(len(entry.data), begin + SECTOR - (entry.offset + begin) % SECTOR)
            if random.random() < chance:
                yield begin, end
            begin = end


@dataclass(slots=True)
class Told:
    """What the process had been told, and what it had asked for, by id."""

    accepted: dict[int, int] = field(default_factory=dict)  # the numbers of hits, by id
    refused: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)  # an outcome was asked for
    settled: set[int] = field(default_factory=set)  # and told of
    damaged: bool = False

    def line(self, text: str) -> None:
        what, first, *more = text.split()
        number = int(first)
        match what:
            case "a":
                self.accepted[int(more[0])] = number
            case "r":
                self.refused.add(number)
            case "D" | "B":
                self.asked.add(number)
            case "d" | "b":
                self.settled.add(number)
            case "Q":
                self.asked.add(number)
                self.settled.discard(number)


@dataclass(slots=True)
class Outcome:
    """What the images of a run showed."""

    seed: int
    images: int = 0
    hits: int = 0  # hits that had their 200, over all images
    read_back: int = 0  # images of which a start read hits back from a torn log
    reborn: int = 0  # hits that were refused and are there all the same
    failed_syncs: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.images} images with {self.hits} acked hits, "
            f"{self.failed_syncs} failed syncs, {self.read_back} torn logs read back, "
            f"{self.reborn} refused hits reborn; "
            + ("\n".join(self.wrong[:10]) if self.wrong else "all well")
        )


def write(folder: Path, seed: int, *, faults: bool, last: str = "close") -> list[Entry]:
    """Have a process write in a watched folder; what it did.  `last`: see `writing`."""
    folder.mkdir(exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    fault = folder.parent / f"{folder.name}.fault"
    if faults:
        Faults(fault)
    subprocess.run(
        [sys.executable, str(WRITING), str(folder), str(seed), str(STEPS), last],
        env={
            **os.environ,
            **environ(folder, log=log, fault=fault if faults else None),
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path]),
        },
        check=True,
        timeout=120,
    )
    found = list(entries(log))
    log.unlink()
    return found


async def run(folder: Path, seed: int, images: int, *, faults: bool) -> Outcome:
    """One run of the process, and so many images of what was on its disk meanwhile."""
    random = Random(seed)
    written = folder / "written"
    doings = write(written, seed, faults=faults)
    disk = Disk(written, random)
    return await _look_at(folder, disk, doings, Told(), images, seed)


async def salvage_(folder: Path, seed: int, images: int) -> Outcome:
    """Power loss while a damaged file is salvaged: whatever is there, the next start goes on."""
    written = folder / "written"
    doings = write(written, seed, faults=False, last="kill")
    told = Told(damaged=True)
    for entry in doings:
        if entry.path.name == "told" and entry.op is Op.WRITE:
            told.line(entry.data.decode())
    data = bytearray((written / "hits.db").read_bytes())
    data[16:24] = b"\xff" * 8  # the header: no row is hit
    (written / "hits.db").write_bytes(data)
    random = Random(seed)
    disk = Disk(written, random)
    for file in written.iterdir():
        disk.put(file.name, file.read_bytes())
    doings = write(written, seed, faults=False, last="open")
    return await _look_at(folder, disk, doings, told, images, seed)


async def _look_at(
    folder: Path, disk: Disk, doings: list[Entry], told: Told, images: int, seed: int
) -> Outcome:
    random = disk.random
    found = Outcome(seed)
    found.failed_syncs = sum(entry.op is Op.SYNC and entry.failed for entry in doings)
    first = images // 5  # the file is made but once, and many things can be half done then
    chosen = Counter(random.choices(range(len(doings)), k=images - first))
    chosen.update(random.choices(range(min(150, len(doings))), k=first))
    # Nothing is gained by syncing an image to a real disk, but minutes are lost.
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as quick:
        for index, entry in enumerate(doings):
            if entry.path.name != "told":
                disk.happen(entry)
            elif entry.op is Op.WRITE:
                told.line(entry.data.decode())
            for _ in range(chosen[index]):
                image = Path(quick) / f"image-{found.images}"
                disk.image(image, random.choice((0, 0.1, 0.5, 0.5, 0.9, 1)))
                problems = await _judge(image, told, found)
                if problems:
                    where = f"seed {seed} {image.name} after doing {index}"
                    found.wrong += [f"{where}: {problem}" for problem in problems]
                    shutil.copytree(image, folder / image.name)
                shutil.rmtree(image)
    return found


async def _judge(image: Path, told: Told, found: Outcome) -> list[str]:
    found.images += 1
    found.hits += len(told.accepted)
    try:
        queue = await Queue.open(image / "hits.db", LIMITS, SystemClock())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return [f"it does not open: {error!r}"]
    await queue.close()
    if not queue.ledger.balanced:
        return ["the equation does not hold"]
    with contextlib.closing(sqlite3.connect(image / "hits.db")) as db:
        check = [row[0] for row in db.execute("PRAGMA integrity_check")]
        counts = db.execute(salvage.RECOUNT).fetchone()
        rows = dict(db.execute("SELECT id, content FROM hits"))
        delivered = {row[0] for row in db.execute("SELECT id FROM delivered")}
        dead = dict(db.execute("SELECT id, content FROM dead"))
    problems = []
    if check != ["ok"] or counts[::2] != counts[1::2]:
        problems.append(f"it is not sound: {check[0]}, {counts}")
    found.read_back += any("read back" in line for line in queue.salvaged)
    if not told.damaged and any("it lies at" in line for line in queue.salvaged):
        problems.append(f"taken for damage: {queue.salvaged}")
    waiting = rows.keys() - delivered
    for id_, number in told.accepted.items():
        there = rows.get(id_, dead.get(id_))
        if id_ not in told.asked and (id_ not in waiting or there != content(number)):
            problems.append(f"hit {number}, accepted as {id_}, is lost")
        if id_ in told.settled and id_ in waiting:
            problems.append(f"hit {number} had left, and waits again")
    kept = {*rows.values(), *dead.values()}
    reborn = [number for number in told.refused if content(number) in kept]
    found.reborn += len(reborn)
    return problems
