"""A copy of a queue file, made whether or not a daemon owns it.

Rule: the copy is one instant of the queue, whole on disk before it has its name, readable by
its owner alone; a file that is there already is never replaced.
Non-rule: no schedule, no rotation, no restore: that is a file put in place while stopped.
Source: SQLite's documentation of VACUUM INTO, which reads every row (damage does not go
unnoticed) within one read transaction; it checkpoints nothing, so the owner may go on writing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from proxy.errors import QueueUnavailable


def backup(path: Path, copy: Path) -> None:
    """Copy the queue file; FileExistsError, other OSError, QueueUnavailable."""
    part = copy.with_name(f"{copy.name}.part")
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))  # the name is ours from here on
    try:
        part.unlink(missing_ok=True)  # what an earlier attempt left
        os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600))
        _vacuum(path, part)
        _sync(part)
        part.replace(copy)
        _sync(copy.absolute().parent)
    except BaseException:
        part.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
        raise


def _vacuum(path: Path, into: Path) -> None:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
            db.execute("VACUUM INTO ?", (str(into),))
    except sqlite3.Error as error:
        raise QueueUnavailable(f"cannot copy {path} to {into}: {error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
