"""A damaged queue file is set aside, what can be kept of it is kept, and the loss is said.

Rule: a start never fails for damage and never hides it: the damaged file stays beside the
new one under a name with the time, and a report says in numbers what was kept and lost.
Non-rule: which rows are whole is `core.rescue`'s; a file that is merely of a newer release
is no damage.
Source: docs/design/0010; sqlite.org, "How To Corrupt An SQLite Database File".
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

from proxy.core import pages, rescue
from proxy.core.hit import Ledger
from proxy.core.moment import LOST, TOLD
from proxy.core.pages import Frame, Image, Row
from proxy.core.rescue import Found
from proxy.shell import migrate

# A whole check reads every page: some 0.4 s for so many bytes, on the machine it was tried on.
CHECKED_BYTES = 256 * 1024**2
BATCH = 1_000
MOST_VERSIONS = 999  # no release will ever write a file of a later one: a bit has flipped
PAGE_SIZES = (4_096, 8_192)  # of new files, and of earlier ones
SUFFIXES = ("", "-wal", "-shm")
TABLES = {"boots", "hits", "delivered", "held", "dead", "ledger", "tallies", "settings", "series"}
# With indexes, and small: what a quick check leaves out costs nothing to look at.
INDEXED = ("boots", "settings", "tallies")

ADD_HIT = "INSERT OR IGNORE INTO hits VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
ADD_DEAD = "INSERT OR IGNORE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SCHEMA = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
RECOUNT = """
    SELECT (SELECT count(*) FROM hits) - (SELECT count(*) FROM delivered), waiting,
           (SELECT count(*) FROM held), held, (SELECT count(*) FROM dead), dead FROM ledger"""
NUMBER = "SELECT boot FROM boots INDEXED BY sqlite_autoindex_boots_1 WHERE boot_id = ?"
TIMELESS = "its time of receipt is lost with the damaged file; requeued, it counts as received then"
BURY_TIMELESS = """
    INSERT OR IGNORE INTO dead
    SELECT id, lane, boot, received_ms, flags, suites, content, sum, ?, NULL, 0, ? FROM hits
    WHERE id >= ? AND boot NOT IN (SELECT boot FROM boots)"""
REMOVE_TIMELESS = "DELETE FROM hits WHERE id >= ? AND boot NOT IN (SELECT boot FROM boots)"
# A boot yet to come may get the number of one whose row is lost: no letter may name that.
FORGET_BOOT = f"""
    UPDATE dead SET boot = {LOST}, sum = row_sum(lane, {LOST}, received_ms, content)
    WHERE id >= ? AND boot NOT IN (SELECT boot FROM boots)"""  # noqa: S608 - a number
# The boot that runs now: its id, and its offset to wall time.
Boot: TypeAlias = tuple[str, int]
TORN = "the log of the queue file was damaged"
_COUNTS = tuple(one.name for one in fields(Ledger))


@dataclass(frozen=True, slots=True)
class Report:
    """What happened: `lost` hits were accepted and are gone; `doubtful` ones may be sent twice.

    `timeless` of the dead letters were waiting hits, until their time of receipt was lost.
    `exact`: the loss is a count; otherwise more may be lost.
    """

    reason: str
    aside: str
    kept: int
    dead: int
    lost: int
    doubtful: int
    exact: bool
    timeless: int

    def __str__(self) -> str:
        return (
            f"the queue file was damaged ({self.reason}): it lies at {self.aside}; kept "
            f"{self.kept} waiting hits and {self._letters}, lost {self._loss}, "
            f"{self.doubtful} may be sent twice"
        )

    @property
    def plan(self) -> str:
        """The same before it is done."""
        return (
            f"the queue file is damaged ({self.reason}): it would lie at {self.aside}; would keep "
            f"{self.kept} waiting hits and {self._letters}, lose {self._loss}, "
            f"{self.doubtful} may be sent twice"
        )

    @property
    def _letters(self) -> str:
        letters = f"{self.dead} dead letters"
        if not self.timeless:
            return letters
        return f"{letters} (of these {self.timeless} hits whose time of receipt is lost)"

    @property
    def _loss(self) -> str:
        return f"{self.lost}" if self.exact else f"at least {self.lost}"


def suspect(path: Path) -> None:
    """A running daemon met damage: have the file checked whole at the next start."""
    with contextlib.suppress(OSError):
        os.close(os.open(_marker(path), os.O_CREAT | os.O_WRONLY, 0o600))


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file itself is not as it was written."""
    return _code(error) in _DAMAGE


def roll_back(path: Path) -> None:
    """Undo a creation that was cut short: only then has a queue file a rollback journal."""
    if _is_half_made(path):
        with (
            contextlib.suppress(sqlite3.DatabaseError),  # for `examine` to say
            contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db,
        ):
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def _is_half_made(path: Path) -> bool:
    return bool(_size(path) and _size(path, "-journal"))


def examine(path: Path, *, whole: bool = False) -> str | None:
    """What is wrong with a queue file, in a few words; None when it can be opened.

    `whole`: every page is read, however large the file is.
    """
    log = _size(path, "-wal")
    if not _size(path):
        # The mark of what is in flight is made after the file: it lived.
        if log > 32:
            return "it is empty or missing, and its log is not"
        return "it is empty or missing" if _beside(path, "-sending").exists() else None
    with path.open("rb") as file:
        if file.read(len(pages.MAGIC)) != pages.MAGIC:
            return _of_ours(path, "it is no SQLite file")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            return _look(db, path, whole=whole)
    except sqlite3.DatabaseError as error:
        if _code(error) == sqlite3.SQLITE_ERROR:
            return _of_ours(path, str(error))  # a name in the schema is no longer what it was
        if not is_damage(error):
            raise  # the disk, a lock, or another program's file: no damage
        return str(error)
    except UnicodeDecodeError:  # of SQLite's message, which quotes the schema
        return _of_ours(path, "the names of its tables are damaged")


def _look(db: sqlite3.Connection, path: Path, *, whole: bool) -> str | None:
    known = dict(db.execute(SCHEMA))
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > MOST_VERSIONS:
        return _of_ours(path, f"its version is {version}")
    if whole:
        migrate.known_version(db)
    if not version:
        return _of_ours(path, "tables are missing") if known else None
    if version != len(migrate.scripts()):
        return None  # older or newer: for the migrations to say
    if not known.keys() >= TABLES or db.execute("SELECT count(*) FROM ledger").fetchone() != (1,):
        return _of_ours(path, "tables are missing")
    if not known.items() >= _schema().items():
        return _of_ours(path, "its tables are not as they were made")
    checks = [f"integrity_check({table})" for table in INDEXED]
    every_page = whole or _size(path) <= CHECKED_BYTES or _marker(path).exists()
    if every_page:
        checks.append("quick_check(1)")
    for check in checks:
        (said,) = db.execute(f"PRAGMA {check}").fetchone()
        if said != "ok":
            return str(said).splitlines()[-1]
    return _unbalanced(db) if every_page else None


def _unbalanced(db: sqlite3.Connection) -> str | None:
    counts = db.execute(RECOUNT).fetchone()
    if counts[::2] != counts[1::2]:
        return "the account does not agree with the hits"
    return None


@functools.cache
def _schema() -> dict[str, str]:
    """The tables as our migrations make them, by name."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        migrate.migrate(new)
        return dict(new.execute(SCHEMA))


def _of_ours(path: Path, damage: str) -> str:
    """The damage, if this was a queue file once; another program's file is left alone."""
    if not _beside(path, "-sending").exists():
        raise sqlite3.DatabaseError(f"this was never a queue file: {damage}")
    return damage


def salvage(path: Path, reason: str, boot: Boot) -> Report:
    """Make a new file of what can be kept, then set the damaged one aside for it."""
    aside = _aside(path)
    partial = _beside(path, "-salvaging")
    for suffix in (*SUFFIXES, "-journal"):
        _beside(partial, suffix).unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_RDWR, 0o600))
    with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as new:
        report = _keep(new, path, reason, aside, boot)
    _sync(partial)
    # The new file is whole before it is called so, and before the old one loses its name:
    # whenever this is cut short, either the old one is still in its place, or `finish` puts
    # the new one there.
    partial.replace(_beside(path, "-salvaged"))
    _sync(path.parent)
    for suffix in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).replace(_beside(aside, suffix))
    finish(path)
    return report


def plan(path: Path, boot: Boot) -> list[str]:
    """What `repair` would say, a line each; it is tried in a file that SQLite forgets."""
    if _beside(path, "-salvaged").exists() and not path.exists():
        return ["a salvage was cut short at its end: the new file would get its name"]
    if _is_half_made(path):
        return ["the creation of the queue file was cut short: it would be undone"]
    damage = examine(path, whole=True)
    if damage is not None:
        with contextlib.closing(sqlite3.connect("", isolation_level=None)) as new:
            return [_keep(new, path, damage, _aside(path), boot).plan]
    lost = len(torn(path))
    return [f"{TORN}: {lost} hits would be read back from it"] if lost else []


def repair(path: Path, boot: Boot) -> list[str]:
    """What a start does to a damaged file, and every page read; a line each of what was done."""
    owner = _owner(path)
    said = []
    if _beside(path, "-salvaged").exists() and not path.exists():
        finish(path)
        said.append("a salvage that was cut short at its end is finished")
    if _is_half_made(path):
        roll_back(path)
        said.append("the creation of the queue file was cut short: it is undone")
    damage = examine(path, whole=True)
    if damage is not None:
        said.append(str(salvage(path, damage, boot)))
        if owner is not None and not os.geteuid():
            os.chown(path, *owner)  # or the daemon could not open what root has made
    rows = unread(path)
    if rows:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            migrate.migrate(db)
            said += put_back(db, rows)
    return said


def finish(path: Path) -> None:
    """Give a salvaged file its name, also after a salvage that was cut short at the end."""
    partial = _beside(path, "-salvaged")
    if partial.exists() and not path.exists():
        _beside(path, "-shm").unlink(missing_ok=True)
        partial.replace(path)
        _marker(path).unlink(missing_ok=True)
        _sync(path.parent)


def unread(path: Path) -> list[tuple[int, Row]]:
    """Hits in the part of the log that SQLite will forget when it opens the file.

    Read before it does; in order of id.
    """
    log = _read(_beside(path, "-wal"))
    frames = pages.frames(log)
    if all(frame.sound for frame in frames):
        return []
    with _mapped(path) as database:
        now = pages.image(database, [frame for frame in frames if frame.sound], PAGE_SIZES)
        return sorted(dict(rescue.forgotten(frames, now, 0)).items())


def torn(path: Path) -> set[int]:
    """The ids of the hits that a start would read back from a damaged log."""
    rows = unread(path)
    if not rows:
        return set()
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return {id_ for id_, *_ in _beyond(db, rows)}


def put_back(db: sqlite3.Connection, rows: list[tuple[int, Row]]) -> list[str]:
    """Store hits again that the log lost, marked as ambiguous; a line when there were any.

    Some may have been answered with 503, when a sync failed just before a crash: their
    clients send them again, and the copy is recognised.
    """
    lost = _beyond(db, rows)
    if not lost:
        return []
    first = lost[0][0]
    db.execute("BEGIN IMMEDIATE")
    db.executemany(ADD_HIT, lost)
    db.execute("UPDATE hits SET flags = flags | 1 WHERE id >= ?", (first,))
    timeless = _bury_timeless(db, first)
    (size,) = db.execute(
        "SELECT coalesce(sum(length(content)), 0) FROM hits WHERE id >= ?", (first,)
    ).fetchone()
    db.execute(
        "UPDATE ledger SET last_id = :last, accepted = accepted + :more,"
        " waiting = waiting + :more - :timeless, dead = dead + :timeless,"
        " ambiguous = ambiguous + :more, waiting_bytes = waiting_bytes + :size",
        {"last": lost[-1][0], "more": len(lost), "timeless": timeless, "size": size},
    )
    db.execute("COMMIT")
    letters = f", {timeless} as dead letters: their time of receipt is lost" if timeless else ""
    return [f"{TORN}: {len(lost)} hits were read back from it{letters}"]


def _bury_timeless(db: sqlite3.Connection, first: int) -> int:
    """Hits from this id on whose boot is lost become dead letters; how many.

    Any stamp they could be sent with would be made up.
    """
    db.create_function("row_sum", 4, rescue.row_sum, deterministic=True)
    died_ms = int(datetime.now(UTC).timestamp() * 1000)
    timeless = db.execute(BURY_TIMELESS, (TIMELESS, died_ms, first)).rowcount
    db.execute(REMOVE_TIMELESS, (first,))
    db.execute(FORGET_BOOT, (first,))
    return timeless


def _beyond(db: sqlite3.Connection, rows: list[tuple[int, Row]]) -> list[tuple[Any, ...]]:
    """The hits that the file knows nothing of."""
    (last_id,) = db.execute("SELECT last_id FROM ledger").fetchone()
    return [(id_, *row[1:]) for id_, row in rows if id_ > last_id]


def _keep(new: sqlite3.Connection, path: Path, reason: str, aside: Path, boot: Boot) -> Report:
    """Fill a new file with what can be kept."""
    frames = pages.frames(_read(_beside(path, "-wal")))
    committed = [frame for frame in frames if frame.sound]
    while committed and not committed[-1].commit:
        committed.pop()
    new.execute(f"PRAGMA page_size = {PAGE_SIZES[0]}")
    new.execute("PRAGMA auto_vacuum = INCREMENTAL")
    migrate.migrate(new)
    marks_whole = _marks_are_whole(path)
    with _mapped(path) as database:
        now = pages.image(database, committed, PAGE_SIZES)
        found = rescue.survey(now)
        number = _number(path, boot)
        if number is not None:
            found.boots.setdefault(number, (None, *boot))
        found.boots.setdefault(TOLD, (None, "told", 0))
        return _copy(new, now, found, frames, reason, aside, marks_whole=marks_whole)


def _number(path: Path, boot: Boot) -> int | None:
    """The number of this boot: where its row is lost, the index of their names may still say.

    The restart after damage is mostly one of the same boot, whose offset is known.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            row = db.execute(NUMBER, boot[:1]).fetchone()
    except (sqlite3.Error, UnicodeDecodeError):
        return None
    return row[0] if row and isinstance(row[0], int) else None


def _marks_are_whole(path: Path) -> bool:
    """Whether every mark of a delivered hit can be read: else one may look like waiting."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            said: list[tuple[str]] = db.execute("PRAGMA quick_check(delivered)").fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return False
    return said == [("ok",)]


def _copy(
    new: sqlite3.Connection,
    now: Image,
    found: Found,
    frames: list[Frame],
    reason: str,
    aside: Path,
    *,
    marks_whole: bool,
) -> Report:
    new.execute("BEGIN")
    _insert(new, ADD_HIT, rescue.waiting(now, found))
    _insert(new, ADD_DEAD, rescue.dead(now, found))
    _insert(new, ADD_HIT, rescue.forgotten(frames, now, found.last_id))
    new.executemany(
        "INSERT OR IGNORE INTO boots VALUES (?, ?, ?)",
        [(id_, *row[1:]) for id_, row in found.boots.items() if id_ != LOST],
    )
    (letters,) = new.execute("SELECT count(*) FROM dead").fetchone()
    timeless = _bury_timeless(new, 0)
    hits, size, newest = new.execute(
        "SELECT count(*), coalesce(sum(length(content)), 0), coalesce(max(id), 0) FROM hits"
    ).fetchone()
    (newest_dead,) = new.execute("SELECT coalesce(max(id), 0) FROM dead").fetchone()
    held = [(id_, *row[1:], id_) for id_, row in found.held.items()]
    new.executemany("INSERT INTO held SELECT ?, ?, ?, ? WHERE ? IN (SELECT id FROM hits)", held)
    (kept_held,) = new.execute("SELECT count(*) FROM held").fetchone()
    new.executemany("INSERT INTO settings VALUES (?, ?)", found.settings.items())
    ledger, lost = rescue.settle(found, hits, letters, size, timeless)
    # What SQLite forgets of the log may be marks too.
    certain = all(frame.sound for frame in frames) and rescue.is_certain(
        found, hits + timeless, marks_whole=marks_whole
    )
    doubtful = 0 if certain else hits + timeless
    if doubtful:
        new.execute("UPDATE hits SET flags = flags | 1")
        new.execute("UPDATE dead SET flags = flags | 1 WHERE reason = ?", (TIMELESS,))
    tallies = dict(found.tallies)
    tallies["lost.damaged"] = tallies.get("lost.damaged", 0) + lost
    new.executemany("INSERT INTO tallies VALUES (?, ?)", tallies.items())
    counts = {name: getattr(ledger, name) for name in _COUNTS}
    counts |= {"held": kept_held, "ambiguous": ledger.ambiguous + doubtful}
    new.execute(
        f"UPDATE ledger SET last_id = ?, {', '.join(f'{name} = ?' for name in counts)}",  # noqa: S608
        (max(found.last_id, newest, newest_dead, *found.settled, 0), *counts.values()),
    )
    new.execute("COMMIT")
    return Report(reason, str(aside), hits, letters + timeless, lost, doubtful, certain, timeless)


def _insert(db: sqlite3.Connection, sql: str, rows: Iterable[tuple[int, Row]]) -> None:
    # A table's key is not in its record: the first value is NULL there.
    values = ((id_, *row[1:]) for id_, row in rows)
    while batch := list(islice(values, BATCH)):
        db.executemany(sql, batch)


def _aside(path: Path) -> Path:
    """A name nobody has for the damaged file."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while aside.exists() or _beside(aside, "-wal").exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}.{number}")
    return aside


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[bytes]:
    """A file's bytes without reading them all; nothing when there is none."""
    if not _size(path):
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield cast("bytes", mapped)


def _owner(path: Path) -> tuple[int, int] | None:
    """Whose file it is, or whose log where there is no file."""
    for suffix in ("", "-wal", "-sending"):
        with contextlib.suppress(FileNotFoundError):
            found = _beside(path, suffix).stat()
            return found.st_uid, found.st_gid
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _size(path: Path, suffix: str = "") -> int:
    try:
        return _beside(path, suffix).stat().st_size
    except FileNotFoundError:
        return 0


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _marker(path: Path) -> Path:
    return _beside(path, "-damaged")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
