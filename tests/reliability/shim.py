"""What stands between a process and its disk: `disk.c`, compiled here, and how to speak to it.

Rule: a test without a C compiler is skipped, and says so; on the machine of the CI, where
TRACKOFFLINE_CI is set, it fails instead.
Non-rule: no scenario.
Source: ld.so(8) for LD_PRELOAD.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import pytest

HEAD = struct.Struct("<BBHIQQ")


class Op(IntFlag):
    """What a process asks of its disk; the numbers are those of `disk.c`."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4
    ALLOCATE = 8
    RENAME = 16
    UNLINK = 32
    CREATE = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One of its doings, in the order of their effect; of a rename `data` is the new name."""

    op: Op
    failed: bool
    inode: int
    path: Path
    offset: int
    data: bytes


@functools.cache
def library() -> Path:
    """The compiled shim."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        assert "TRACKOFFLINE_CI" not in os.environ, "the CI needs a C compiler"
        pytest.skip("there is no C compiler")
    made = Path(tempfile.mkdtemp(prefix="trackoffline-disk-")) / "disk.so"
    source = Path(__file__).with_name("disk.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"]
    subprocess.run([*command, "-lpthread"], check=True)
    return made


def environ(folder: Path, *, log: Path | None = None, fault: Path | None = None) -> dict[str, str]:
    """What a process needs in its environment for its files in a folder to be watched."""
    found = {"LD_PRELOAD": str(library()), "DISK_FOLDER": str(folder)}
    if log is not None:
        found["DISK_LOG"] = str(log)
    if fault is not None:
        found["DISK_FAULT"] = str(fault)
    return found


class _Fault(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("error", "ops", "skip", "count", "growing")),
        *((name, ctypes.c_int32) for name in ("halves", "seen", "failed")),
        ("free", ctypes.c_int64),
        ("suffix", ctypes.c_char * 32),
    ]


class Faults:
    """What shall fail, shared with the process; told and forgotten while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(ctypes.sizeof(_Fault)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(_Fault))
        self._at = _Fault.from_buffer(self._map)

    @property
    def failed(self) -> int:
        return int(self._at.failed)

    @property
    def seen(self) -> int:
        """How many doings of these kinds there were, since they were last told of."""
        return int(self._at.seen)

    def arm(
        self,
        ops: Op,
        error: int = errno.EIO,
        *,
        skip: int = 0,
        count: int = -1,
        growing: bool = False,
        halves: bool = False,
        suffix: str = "",
    ) -> None:
        """From now on, after `skip` of them, so many fail (-1: all until `heal`)."""
        at = self._at
        at.error = 0
        at.ops, at.skip, at.count = int(ops), skip, count
        at.growing, at.halves, at.suffix = int(growing), int(halves), suffix.encode()
        at.free = 0
        at.seen = at.failed = 0
        at.error = error  # last: from here on it holds

    def heal(self) -> None:
        self._at.error = 0

    @contextlib.contextmanager
    def full(self) -> Iterator[Callable[[], None]]:
        """No byte is free, but for those given back meanwhile, until what is yielded is called."""

        def refill() -> None:
            self.arm(Op.WRITE | Op.ALLOCATE | Op.TRUNCATE, errno.ENOSPC, growing=True)

        refill()
        try:
            yield refill
        finally:
            self.heal()


def entries(log: Path) -> Iterator[Entry]:
    """What the process did, in order."""
    data = log.read_bytes()
    at = 0
    while at + HEAD.size <= len(data):
        op, failed, path, size, inode, offset = HEAD.unpack_from(data, at)
        at += HEAD.size
        name = data[at : at + path].decode()
        at += path
        yield Entry(Op(op), bool(failed), inode, Path(name), offset, data[at : at + size])
        at += size
