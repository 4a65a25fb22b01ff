"""Is a queue file whole: its pages, its rows, its account.

Rule: it is opened for reading only, in one read transaction, so that a running daemon may go on
writing; what is found is a value.  A file of a newer release is refused, as at a start.
Non-rule: repairs nothing; what a start would make of damage is `salvage`'s.
Source: sqlite.org on `PRAGMA integrity_check`; docs/design/0010 for the sum of a row.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from proxy.core.hit import Ledger
from proxy.core.rescue import is_whole
from proxy.errors import QueueTooNew, QueueUnavailable
from proxy.shell import migrate, rows, salvage

ROWS = "SELECT id, lane, boot, received_ms, flags, suites, content, sum FROM "
TABLES = ("hits", "dead")


@dataclass(slots=True)
class Audit:
    """`damage`: why the next start would salvage, and all that SQLite's own check says.

    `broken`: the rows, by id, that are not what was written; none of them is ever sent.
    """

    damage: list[str] = field(default_factory=list)
    rows: int = 0
    broken: list[int] = field(default_factory=list)
    ledger: Ledger | None = None

    @property
    def is_whole(self) -> bool:
        return not self.damage and not self.broken


def audit(path: Path) -> Audit:
    """Look at everything; QueueTooNew, QueueUnavailable when it cannot be looked at."""
    found = Audit()
    try:
        damage = salvage.examine(path, whole=True)
        if damage is not None:
            found.damage.append(damage)
        elif lost := _torn(path):
            found.damage.append(f"{salvage.TORN}: {lost} hits would be read back from it")
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
            db.execute("BEGIN")
            _look(db, found)
    except QueueTooNew:
        if not found.damage:  # else the version is what is damaged
            raise
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        if found.damage:
            return found  # it cannot be looked at any closer
        if not (isinstance(error, sqlite3.Error) and salvage.is_damage(error)):
            raise QueueUnavailable(f"cannot read {path}: {error}") from error
        found.damage.append(str(error))
    return found


def _torn(path: Path) -> int:
    """How many hits stand in a part of the log that SQLite forgets.

    Looked at twice: the first time a running daemon's commit may be half on the disk.
    """
    lost = salvage.torn(path)
    if lost:
        time.sleep(0.2)
        lost &= salvage.torn(path)
    return len(lost)


def _look(db: sqlite3.Connection, found: Audit) -> None:
    version = migrate.known_version(db)
    said = [str(line) for (line,) in db.execute("PRAGMA integrity_check(10)")]
    found.damage += [line for line in said if line not in ("ok", *found.damage)]
    if not version:
        return  # without tables: the next start makes them
    for table in TABLES:
        for row in db.execute(ROWS + table):
            found.rows += 1
            if not is_whole(row):
                found.broken.append(row[0])
    found.ledger = Ledger(*db.execute(rows.READ_LEDGER).fetchone()[1:])
