"""The small files beside the queue file: who owns it, what is in flight, a reserve of disk.

Rule: none of them holds a hit; each may be deleted while the queue is closed, and is made anew.
Non-rule: knows nothing of SQLite.
Source: flock(2), posix_fallocate(3).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from proxy.errors import QueueInUse

# The log in front of the queue file holds 2 MiB and the transaction that went over; all of
# it may be new to the file.
RESERVE_BYTES = 8 * 1024**2


def own(path: Path, *, like: Path | None = None) -> io.FileIO:
    """The lock that makes this process the one owner of the file; QueueInUse when taken.

    `like`: when root makes it, it belongs to whom this file belongs to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _open(path, "-lock")
    if like is not None and not os.geteuid():
        owner = (like if like.exists() else like.parent).stat()
        os.fchown(lock.fileno(), owner.st_uid, owner.st_gid)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise QueueInUse(f"{path} is in use by another process: stop that one first") from error
    except BaseException:
        lock.close()
        raise
    return lock


class Sending:
    """Which hits are in flight, on disk, so that a crash cannot hide it.

    One slot of 8 bytes a hit, written without fsync: it must survive the process, not
    the power.  What begins or lands together is written together.  A mark the disk refuses is no
    reason to stop sending, which is what frees the disk; the slots are there from the start
    so that this does not happen.
    """

    SLOT = struct.Struct("<q")

    def __init__(self, path: Path, slots: int) -> None:
        self._file = _open(path, "-sending")
        self._table = bytearray(slots * self.SLOT.size)
        self._free = list(range(slots))
        self._slots: dict[int, int] = {}

    def left(self) -> list[int]:
        """The hits that were in flight when the last process ended."""
        data = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0)
        whole = len(data) - len(data) % self.SLOT.size
        return [hit for (hit,) in self.SLOT.iter_unpack(data[:whole]) if hit]

    def clear(self) -> None:
        """Forget what was left, and take the room of the slots from the disk."""
        self._file.truncate(len(self._table))
        self._write(range(len(self._free)))

    def mark(self, hits: Iterable[int]) -> None:
        new = [hit for hit in hits if hit not in self._slots]
        for hit in new:
            if not self._free:  # more than was announced: a mistake, but no reason to fail
                self._free.append(len(self._table) // self.SLOT.size)
                self._table += bytes(self.SLOT.size)
            slot = self._slots[hit] = self._free.pop()
            self.SLOT.pack_into(self._table, slot * self.SLOT.size, hit)
        self._write([self._slots[hit] for hit in new])

    def unmark(self, hits: Sequence[int]) -> None:
        slots = [self._slots.pop(hit) for hit in hits if hit in self._slots]
        for slot in slots:
            self.SLOT.pack_into(self._table, slot * self.SLOT.size, 0)
        self._free += slots
        self._write(slots)

    @property
    def count(self) -> int:
        return len(self._slots)

    def marked(self) -> frozenset[int]:
        # Called in the writer's thread; a copy of the keys is one step under the GIL.
        return frozenset(list(self._slots))

    def close(self) -> None:
        self._file.close()

    def _write(self, slots: Sequence[int]) -> None:
        """These, and what lies between the first and the last of them: one call for all."""
        if slots:
            first, end = min(slots) * self.SLOT.size, (max(slots) + 1) * self.SLOT.size
            with contextlib.suppress(OSError):
                os.pwrite(self._file.fileno(), self._table[first:end], first)


class Reserve:
    """Disk space kept back, for the one moment when SQLite needs some to go on.

    With a full disk, what the log holds cannot move into the queue file, which would have
    to grow, and the log cannot grow either: not even a hit that was delivered could be
    deleted.  The reserve pays for that one move; from there the log is written over again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + "-reserve")
        self.taken = False

    def take(self) -> bool:
        """Whether the reserve is there (again)."""
        if not self.taken:
            try:
                with _open(self._path) as file:
                    os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    self.spend()
                    return False
                # A file system that cannot reserve: go on without.
            self.taken = True
        return self.taken

    def spend(self) -> bool:
        """Whether there was any."""
        self.taken = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


def _open(path: Path, suffix: str = "") -> io.FileIO:
    """For reading and writing, readable by its owner alone."""
    descriptor = os.open(path.with_name(path.name + suffix), os.O_RDWR | os.O_CREAT, 0o600)
    return io.FileIO(descriptor, "r+b")
