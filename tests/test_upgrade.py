"""Claims about upgrades: what an earlier release left waiting is delivered by this one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemon import Launch, Serve

from proxy.errors import QueueTooNew
from proxy.fake import FakeCollector
from proxy.points import VARIABLE, Point
from proxy.shell import browse, migrate
from proxy.shell.rows import peek_dead

FIXTURES = Path(__file__).resolve().parent / "fixtures"
CHECKOUT = FIXTURES.parent.parent
RELEASED = sorted(FIXTURES.glob("queue-*.db"))
SUITE = {"suites.known.examplersid.timestamps": "required"}
NEWEST = len(migrate.scripts())

# A second migration as one might come: it changes every row, so that there is time to die in it.
SECOND = """
ALTER TABLE hits ADD COLUMN origin TEXT NOT NULL DEFAULT 'before';
CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT;
INSERT INTO numbers
    WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 150000)
    SELECT n FROM up;
UPDATE hits SET origin = 'migrated';
"""
MIGRATE = """
import pathlib, sqlite3, sys
from proxy.shell import migrate
db = sqlite3.connect(sys.argv[1], isolation_level=None)
print("open", flush=True)
migrate.migrate(db, [*migrate.scripts(), pathlib.Path(sys.argv[2]).read_text()])
"""


def by_name(path: Path) -> str:
    return path.name


@pytest.fixture
def queue_file(tmp_path: Path) -> Path:
    """A queue file of the newest schema that was released, hits waiting."""
    return Path(shutil.copy(RELEASED[-1], tmp_path / "hits.db"))


def test_the_schema_of_this_release_has_its_fixture() -> None:
    """`python tests/fixtures/make_queue.py` writes it; those of earlier releases stay."""
    numbers = [int(path.stem.removeprefix("queue-")) for path in RELEASED]

    assert numbers == list(range(1, NEWEST + 1))
    for number, path in zip(numbers, RELEASED, strict=True):
        assert stored_version(path) == number


@pytest.mark.parametrize("released", RELEASED, ids=by_name)
async def test_every_released_schema_opens_and_drains(
    tmp_path: Path, serve: Serve, adobe: FakeCollector, released: Path
) -> None:
    """Waiting and held hits arrive with their own seconds, once; the dead stay dead."""
    shutil.copy(released, tmp_path / "hits.db")

    daemon = await serve(adobe, SUITE)
    status = await daemon.until(lambda status: status["waiting"] == 0)

    arrived = {received.param(b"pageName"): received.param(b"ts") for received in adobe.received}
    assert arrived == {b"p%d" % n: b"%d" % (1_700_000_000 + 10 * n) for n in range(8)}
    assert len(adobe.received) == 8
    assert (status["accepted"], status["delivered"], status["dead"]) == (14, 12, 2)
    assert status["balanced"]
    listed = (await daemon.ask("/api/v1/dead")).json()
    assert [letter["reason"] for letter in listed["letters"]] == ["refused with 404"] * 2


@pytest.mark.parametrize("released", RELEASED, ids=by_name)
async def test_what_was_held_stays_held(tmp_path: Path, serve: Serve, released: Path) -> None:
    """An upgrade decides nothing that a person was to decide."""
    shutil.copy(released, tmp_path / "hits.db")

    status = await (await serve()).status()

    assert (status["waiting"], status["held"], status["dead"]) == (8, 3, 2)
    assert status["held_suites"]["examplersid"]["hits"] == 3


# -- kill -9 -----------------------------------------------------------------------------------


def migrating(
    queue_file: Path, second: Path, environ: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """A process that migrates the file to a second version."""
    return subprocess.Popen(
        [sys.executable, "-c", MIGRATE, str(queue_file), str(second)],
        cwd=CHECKOUT,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        text=True,
    )


def stored_version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as db:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        return version


def rows(path: Path) -> list[tuple[object, ...]]:
    """Everything that stands for a hit, without what the second migration adds."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [
            row
            for sql in (
                "SELECT id, lane, boot, received_ms, flags, suites, content, sum FROM hits",
                "SELECT * FROM held",
                "SELECT * FROM dead",
                "SELECT * FROM delivered",
                "SELECT * FROM ledger",
            )
            for row in db.execute(f"{sql} ORDER BY 1")
        ]


def assert_migrates(path: Path, second: Path, before: list[tuple[object, ...]]) -> None:
    """The file is of one version or the other, and the next start finishes the work."""
    assert stored_version(path) in (NEWEST, NEWEST + 1)
    assert rows(path) == before
    with migrating(path, second) as again:
        assert again.wait(30) == 0
    assert stored_version(path) == NEWEST + 1
    assert rows(path) == before
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT DISTINCT origin FROM hits").fetchall() == [("migrated",)]


@pytest.mark.parametrize("point", [Point.MIGRATE_BEFORE, Point.MIGRATE_INSIDE, Point.MIGRATE_AFTER])
def test_a_death_at_each_point_of_a_migration_costs_nothing(
    tmp_path: Path, queue_file: Path, point: Point
) -> None:
    """Before, with everything written but the commit, and after."""
    second = tmp_path / "0002_made_up.sql"
    second.write_text(SECOND)
    before = rows(queue_file)

    with migrating(queue_file, second, {VARIABLE: str(point)}) as dying:
        assert dying.wait(30) == -signal.SIGKILL

    assert_migrates(queue_file, second, before)


def test_a_death_at_any_instant_of_a_migration_costs_nothing(
    tmp_path: Path, queue_file: Path
) -> None:
    """Killed a random moment after it opened the file, again and again."""
    second = tmp_path / "0002_made_up.sql"
    second.write_text(SECOND)
    before = rows(queue_file)
    original = queue_file.read_bytes()
    with migrating(queue_file, second) as whole:
        assert whole.stdout is not None
        whole.stdout.readline()
        opened = time.monotonic()
        assert whole.wait(30) == 0
    took_s = time.monotonic() - opened
    deaths = 0
    for _ in range(8):
        queue_file.write_bytes(original)
        for suffix in ("-wal", "-shm", "-journal"):
            queue_file.with_name(queue_file.name + suffix).unlink(missing_ok=True)
        with migrating(queue_file, second) as dying:
            assert dying.stdout is not None
            dying.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                dying.wait(random.uniform(0, took_s))
            dying.kill()
            deaths += dying.wait() == -signal.SIGKILL

        assert_migrates(queue_file, second, before)

    assert deaths, "it was never killed in time"


# -- downgrade ---------------------------------------------------------------------------------


def test_a_newer_file_is_refused_with_both_numbers_and_left_alone(
    tmp_path: Path, queue_file: Path
) -> None:
    """What a release does not know it does not touch."""
    with contextlib.closing(sqlite3.connect(queue_file, isolation_level=None)) as db:
        migrate.migrate(db, [*migrate.scripts(), SECOND])
        before = queue_file.read_bytes()
        with pytest.raises(QueueTooNew, match=rf"version {NEWEST + 1}.*up to {NEWEST}"):
            migrate.migrate(db)

    assert queue_file.read_bytes() == before


async def test_a_daemon_ends_with_78_on_a_newer_file(process: Launch, queue_file: Path) -> None:
    """One line with both numbers, no traceback; a restart would not cure it."""
    with contextlib.closing(sqlite3.connect(queue_file, isolation_level=None)) as db:
        migrate.migrate(db, [*migrate.scripts(), SECOND])
    before = rows(queue_file)
    daemon = process(None, {"queue.path": str(queue_file)})
    daemon.launch()

    assert await daemon.ended() == 78
    assert f"version {NEWEST + 1}" in daemon.log
    assert f"up to {NEWEST}" in daemon.log
    assert "Traceback" not in daemon.log
    assert rows(queue_file) == before


def test_hits_of_a_newer_file_are_not_misread(queue_file: Path) -> None:
    """A release that knew no compressed hits would have shown each of them as damaged."""
    with contextlib.closing(sqlite3.connect(queue_file, isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version = {NEWEST + 1}")

    with browse.Browser(queue_file) as browser:
        for _ in range(2):
            with pytest.raises(QueueTooNew, match=rf"version {NEWEST + 1}.*up to {NEWEST}"):
                browser.hits()
    with pytest.raises(QueueTooNew):
        peek_dead(queue_file, 0, 1)
