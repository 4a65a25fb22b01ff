"""Claims about `db backup`: one command, whatever the daemon does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import Launch, Process, hit

from proxy.errors import QueueUnavailable
from proxy.fake import FakeCollector
from proxy.shell import backup, rows

SUITE = {"suites.known.examplersid.timestamps": "required"}


async def run(daemon: Process, *words: str) -> subprocess.CompletedProcess[str]:
    """A verb with the configuration of a daemon."""
    command = [sys.executable, "-m", "proxy", *words, "--config", str(daemon.config_file)]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=30
    )


def copies(folder: Path) -> list[str]:
    """What an attempt left there, whole or not."""
    return [path.name for path in folder.glob("copy.db*")]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_backup_is_made_while_hits_come_in(process: Launch, tmp_path: Path) -> None:
    """The copy is one instant of the queue: whole, balanced, with every hit acked before."""
    daemon = process(None)
    await daemon.start()
    await daemon.hits(range(100))
    coming = asyncio.create_task(daemon.hits(range(100, 600)))
    done = await run(daemon, "db", "backup", str(tmp_path / "copy.db"))
    await coming

    assert done.returncode == 0, done.stderr
    ledger, _ = rows.peek(tmp_path / "copy.db")
    assert 100 <= ledger.waiting <= 600
    assert ledger.balanced
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM hits").fetchone() == (ledger.waiting,)
    assert mode(tmp_path / "copy.db") == 0o600
    assert (await daemon.status())["waiting"] == 600
    assert copies(tmp_path) == ["copy.db"]


@pytest.mark.parametrize("ending", ["terminate", "kill"])
async def test_a_backup_is_made_while_no_daemon_runs(
    process: Launch, tmp_path: Path, ending: str
) -> None:
    """Also of what a killed daemon left in the log; nothing about the queue's files changes."""
    daemon = process(None)
    await daemon.start()
    await daemon.hits(range(20))
    await (daemon.terminate() if ending == "terminate" else daemon.kill())

    done = await run(daemon, "db", "backup", str(tmp_path / "copy.db"))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/copy.db: 20 waiting, 0 dead letters, ")
    assert {mode(path) for path in daemon.queue_file.parent.glob("hits.db*")} == {0o600}
    await daemon.start()
    assert (await daemon.status())["waiting"] == 20


async def test_a_backup_put_in_place_drains(
    process: Launch, tmp_path: Path, adobe: FakeCollector
) -> None:
    """It is a queue file as any other."""
    before = process(None, SUITE, name="before")
    await before.start()
    await before.hits(range(30), visitors=3)
    await run(before, "db", "backup", str(tmp_path / "copy.db"))
    after = process(adobe, SUITE, name="after")
    shutil.copy(tmp_path / "copy.db", after.queue_file)
    await after.start()
    await after.until(lambda status: status["delivered"] == 30)

    assert len(adobe.received) == 30


async def test_a_file_that_exists_is_left_alone(process: Launch, tmp_path: Path) -> None:
    """The last good backup is not what a bad one is written over."""
    daemon = process(None)
    await daemon.start()
    (tmp_path / "copy.db").write_text("the last good one")

    done = await run(daemon, "db", "backup", str(tmp_path / "copy.db"))

    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert (tmp_path / "copy.db").read_text() == "the last good one"


async def test_what_cannot_be_copied_is_said_in_one_line(process: Launch, tmp_path: Path) -> None:
    """No queue file: 73. No place to write: 1. Nothing is left behind."""
    daemon = process(None)

    missing = await run(daemon, "db", "backup", str(tmp_path / "copy.db"))
    await daemon.start()
    nowhere = await run(daemon, "db", "backup", str(tmp_path / "no/copy.db"))

    assert (missing.returncode, nowhere.returncode) == (73, 1)
    assert "there is no queue file" in missing.stderr
    assert "no such file or directory" in nowhere.stderr
    assert missing.stderr.count("\n") == nowhere.stderr.count("\n") == 1
    assert copies(tmp_path) == []


async def test_a_copy_that_fails_leaves_nothing_behind(process: Launch, tmp_path: Path) -> None:
    """As when the disk of the backup is full: no half file has its name."""
    daemon = process(None)
    await daemon.start()
    await daemon.hits(range(50))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))
    try:
        with pytest.raises(QueueUnavailable, match="cannot copy"):
            backup.backup(daemon.queue_file, tmp_path / "copy.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert copies(tmp_path) == []


async def test_a_damaged_file_is_not_backed_up_as_if_it_were_whole(
    process: Launch, tmp_path: Path
) -> None:
    """Each page of a hit is read, so that damage is found now and not at the restore."""
    daemon = process(None)
    await daemon.start()
    for number in range(40):
        answer = await daemon.send(hit(number), "POST", body=b"x" * 20_000)
        assert answer.status == 200
    await daemon.terminate()
    pages = daemon.queue_file.stat().st_size // 4096
    with daemon.queue_file.open("r+b") as file:
        for page in range(pages // 4, pages // 2):
            file.seek(page * 4096)
            # A page number far beyond the file would be called a full disk by SQLite.
            file.write(bytes(4) + os.urandom(4092))

    done = await run(daemon, "db", "backup", str(tmp_path / "copy.db"))

    assert done.returncode == 73
    assert "malformed" in done.stderr
    assert copies(tmp_path) == []
