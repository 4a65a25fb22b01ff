"""Claims about bringing a queue file to our version."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import QueueTooNew
from proxy.shell.migrate import migrate, scripts

FIRST = "CREATE TABLE one (a INTEGER) STRICT; -- a comment; with a semicolon"
SECOND = "CREATE TABLE two (a INTEGER) STRICT;\nINSERT INTO one VALUES (1);"
BROKEN = "CREATE TABLE three (a INTEGER) STRICT;\nINSERT INTO nowhere VALUES (1);"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(tmp_path / "file.db", isolation_level=None)) as opened:
        yield opened


def version(db: sqlite3.Connection) -> int:
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


def tables(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def test_our_own_migrations_apply_to_an_empty_file(db: sqlite3.Connection) -> None:
    assert migrate(db) == len(scripts()) == version(db)
    assert {"hits", "delivered", "held", "dead", "ledger", "boots"} <= tables(db)


def test_what_is_applied_is_not_applied_again(db: sqlite3.Connection) -> None:
    """Each script runs once, in order, whichever version the file starts from."""
    assert migrate(db, [FIRST]) == 1
    assert migrate(db, [FIRST, SECOND]) == 2
    assert migrate(db, [FIRST, SECOND]) == 2

    assert db.execute("SELECT count(*) FROM one").fetchone() == (1,)


def test_a_failing_script_leaves_schema_and_version_untouched(db: sqlite3.Connection) -> None:
    """What came before it stays, and the corrected script applies afterwards."""
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(db, [FIRST, BROKEN])

    assert version(db) == 1
    assert tables(db) == {"one"}
    assert not db.in_transaction
    assert migrate(db, [FIRST, BROKEN.replace("nowhere", "three")]) == 2


def test_a_newer_file_is_refused_with_both_numbers(db: sqlite3.Connection) -> None:
    migrate(db, [FIRST, SECOND])

    with pytest.raises(QueueTooNew, match=r"version 2.*up to 1"):
        migrate(db, [FIRST])
    assert version(db) == 2


def test_the_ledger_cannot_be_written_wrong(db: sqlite3.Connection) -> None:
    """The promise's equation is a constraint of the file: a bug cannot be committed."""
    migrate(db)

    for wrong in ("accepted = 1", "waiting = -1, discarded = 1", "held = 1"):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            db.execute(f"UPDATE ledger SET {wrong}")
