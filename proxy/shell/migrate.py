"""Brings a queue file to the version this code knows, or refuses it.

Rule: numbered SQL files, `PRAGMA user_version` counts those applied, one transaction a
file; a failing script leaves schema and version untouched; a file newer than the code is
refused with both numbers.
Non-rule: knows nothing of hits.  Runs on a plain connection, before the queue opens it.
Source: SQLite's documentation of user_version; docs/design/0004.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from proxy.errors import QueueTooNew
from proxy.points import Point, reached


def scripts() -> list[str]:
    """The migrations in order: inside the package when installed, else beside it."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        files = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
        if files:
            return [file.read_text(encoding="utf-8") for file in files]
    raise FileNotFoundError("the migrations of the queue are missing from this installation")


def migrate(db: sqlite3.Connection, steps: list[str] | None = None) -> int:
    """Apply what is missing; the version reached.  `db` must be in autocommit mode."""
    steps = scripts() if steps is None else steps
    version = known_version(db, len(steps))
    for number, script in enumerate(steps[version:], start=version + 1):
        reached(Point.MIGRATE_BEFORE)
        try:
            db.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};")
            reached(Point.MIGRATE_INSIDE)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        reached(Point.MIGRATE_AFTER)
    return len(steps)


def known_version(db: sqlite3.Connection, newest: int | None = None) -> int:
    """The version of a file; QueueTooNew when this release does not know it."""
    newest = len(scripts()) if newest is None else newest
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > newest:
        raise QueueTooNew(
            f"the queue file has version {version}, this release knows up to {newest}: "
            "run the newer release, or start with another queue.path"
        )
    return version
