"""Claims about `db check` and `db repair`: what they say, what they change, and how they end."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from daemon import Launch, Process
from test_backup import run
from test_upgrade import RELEASED

from proxy.shell import audit

SUITE = {"suites.known.examplersid.timestamps": "required"}


@pytest.fixture
async def left(process: Launch) -> Process:
    """What a daemon with thirty waiting hits left when it was killed."""
    daemon = process(None, SUITE)
    await daemon.start()
    await daemon.hits(range(30), visitors=3)
    await daemon.kill()
    return daemon


def break_header(path: Path) -> None:
    """No row is hit; no page size is right, and no log says better."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[16:24] = b"\xff" * 8
    path.write_bytes(data)


def break_row(path: Path) -> None:
    """One hit is not what was written, as one flipped bit makes it."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        (content,) = db.execute("SELECT content FROM hits WHERE id = 3").fetchone()
        flipped = content[:-1] + bytes((content[-1] ^ 4,))
        db.execute("UPDATE hits SET content = ? WHERE id = 3", (flipped,))
        db.commit()


def files(path: Path) -> dict[str, bytes]:
    """All that lies there, but for what SQLite keeps of the log in memory."""
    return {
        one.name: one.read_bytes()
        for one in path.parent.glob("hits.db*")
        if not one.name.endswith(("-shm", "-lock"))
    }


# -- check -----------------------------------------------------------------------------------


async def test_a_whole_file_is_called_whole_whether_a_daemon_runs_or_not(left: Process) -> None:
    """With 0, and nothing of it is changed."""
    before = files(left.queue_file)
    stopped = await run(left, "db", "check")
    assert files(left.queue_file) == before
    await left.start()
    running = await run(left, "db", "check")

    assert stopped.returncode == running.returncode == 0, stopped.stderr
    assert stopped.stdout == f"{left.queue_file}: whole, 30 rows, 30 waiting, 0 dead\n"
    assert running.stdout == stopped.stdout
    assert (await left.status())["waiting"] == 30


async def test_a_file_may_be_named(left: Process, tmp_path: Path) -> None:
    """As a backup; its name wins over the configured one."""
    await run(left, "db", "backup", str(tmp_path / "copy.db"))
    done = await run(left, "db", "check", str(tmp_path / "copy.db"), "--json")

    found = json.loads(done.stdout)
    assert (found["file"], found["whole"], found["rows"]) == (str(tmp_path / "copy.db"), True, 30)
    assert (found["damage"], found["broken"], found["waiting"]) == ([], [], 30)


async def test_damage_is_said_and_ends_with_3(left: Process) -> None:
    """On standard output what is wrong, on standard error what to do."""
    break_header(left.queue_file)
    done = await run(left, "db", "check")

    assert done.returncode == 3
    assert str(left.queue_file) in done.stdout
    assert "db repair" in done.stderr
    assert "Traceback" not in done.stderr


async def test_hits_in_a_part_of_the_log_that_is_forgotten_are_damage(left: Process) -> None:
    """The file is whole without them; a start, or a repair, would read them back."""
    log = left.queue_file.with_name("hits.db-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    done = await run(left, "db", "check")
    planned = await run(left, "db", "repair")

    assert done.returncode == planned.returncode == 3
    assert "hits would be read back from it" in done.stdout
    assert planned.stdout.strip() in done.stdout


async def test_a_row_that_is_not_what_was_written_is_named(left: Process) -> None:
    """Its pages are sound, and its sum is not."""
    break_row(left.queue_file)
    done = await run(left, "db", "check", "--json")

    assert done.returncode == 3
    assert json.loads(done.stdout)["broken"] == [3]
    assert json.loads(done.stdout)["damage"] == []


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.name)
def test_a_file_of_an_earlier_release_is_looked_at_row_by_row(
    tmp_path: Path, released: Path
) -> None:
    """Its hits are what the next start goes on with."""
    path = Path(shutil.copy(released, tmp_path / "hits.db"))
    whole = audit.audit(path)
    break_row(path)
    broken = audit.audit(path)

    assert whole.is_whole
    assert (whole.rows, whole.ledger and whole.ledger.waiting) == (14, 8)
    assert broken.broken == [3]


async def test_an_account_that_is_wrong_is_damage(left: Process) -> None:
    with contextlib.closing(sqlite3.connect(left.queue_file)) as db:
        db.execute("UPDATE ledger SET accepted = accepted + 1, waiting = waiting + 1")
        db.commit()
    done = await run(left, "db", "check")

    assert done.returncode == 3
    assert "the account does not agree with the hits" in done.stdout


@pytest.mark.parametrize("verb", ["check", "repair"])
async def test_what_is_not_there_or_not_ours_ends_with_73(
    process: Launch, tmp_path: Path, verb: str
) -> None:
    """One line, and another program's file is left alone."""
    daemon = process(None)
    with contextlib.closing(sqlite3.connect(tmp_path / "photos.db")) as db:
        db.execute("CREATE TABLE photos (id INTEGER)")
        db.commit()
    before = (tmp_path / "photos.db").read_bytes()
    missing = await run(daemon, "db", verb)
    theirs = await run(daemon, "db", verb, str(tmp_path / "photos.db"))

    assert (missing.returncode, theirs.returncode) == (73, 73)
    assert missing.stderr.count("\n") == theirs.stderr.count("\n") == 1
    assert "never a queue file" in theirs.stderr
    assert (tmp_path / "photos.db").read_bytes() == before


@pytest.mark.parametrize("verb", ["check", "repair"])
async def test_a_newer_file_is_refused_with_78(left: Process, verb: str) -> None:
    with contextlib.closing(sqlite3.connect(left.queue_file)) as db:
        db.execute("PRAGMA user_version = 99")
    done = await run(left, "db", verb)

    assert done.returncode == 78
    assert "Traceback" not in done.stderr


# -- repair ----------------------------------------------------------------------------------


async def test_without_apply_a_repair_is_a_plan(left: Process) -> None:
    """It says in numbers what would be kept, changes nothing, and ends with 3."""
    break_header(left.queue_file)
    before = files(left.queue_file)
    done = await run(left, "db", "repair")

    assert done.returncode == 3
    assert "would keep 30 waiting hits and 0 dead letters, lose 0" in done.stdout
    assert "--apply" in done.stderr
    assert files(left.queue_file) == before


async def test_applied_it_does_what_the_plan_said(left: Process) -> None:
    """The damaged file lies beside, the new one is whole, and the daemon starts without a word."""
    break_header(left.queue_file)
    broken = left.queue_file.read_bytes()
    done = await run(left, "db", "repair", "--apply", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["applied"]
    assert "kept 30 waiting hits and 0 dead letters, lost 0" in found["said"][0]
    (aside,) = left.queue_file.parent.glob("hits.db.damaged-*[0-9]")
    assert aside.read_bytes() == broken
    assert stat.S_IMODE(left.queue_file.stat().st_mode) == 0o600
    assert (await run(left, "db", "check")).returncode == 0
    await left.start()
    assert (await left.status())["waiting"] == 30
    assert "damaged" not in left.log


async def test_of_a_whole_file_there_is_nothing_to_repair(left: Process) -> None:
    """Also with --apply."""
    planned, applied = await run(left, "db", "repair"), await run(left, "db", "repair", "--apply")

    assert (planned.returncode, applied.returncode) == (0, 0)
    assert planned.stdout == applied.stdout == f"{left.queue_file}: nothing to repair\n"


@pytest.mark.parametrize("words", [(), ("--apply",)])
async def test_a_file_that_a_daemon_has_open_is_not_repaired(
    left: Process, words: tuple[str, ...]
) -> None:
    await left.start()
    done = await run(left, "db", "repair", *words)

    assert done.returncode == 75
    assert "in use" in done.stderr
    assert (await left.status())["waiting"] == 30


async def test_what_lies_in_a_torn_log_is_planned_and_read_back(left: Process) -> None:
    """SQLite would forget what comes after the first torn frame."""
    log = left.queue_file.with_name("hits.db-wal")
    data = bytearray(log.read_bytes())
    at = len(data) // 2
    data[at : at + 4] = b"\xff" * 4
    log.write_bytes(data)
    planned = await run(left, "db", "repair")
    applied = await run(left, "db", "repair", "--apply")

    assert (planned.returncode, applied.returncode) == (3, 0), planned.stdout + applied.stderr
    assert "would be read back from it" in planned.stdout
    assert "were read back from it" in applied.stdout
    assert planned.stdout.split()[8:10] == applied.stdout.split()[8:10]
    assert (await run(left, "db", "check")).returncode == 0
