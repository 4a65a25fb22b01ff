"""SQLite without threads: what aiosqlite does in a thread of its own happens in the loop, in turn.

    with Disk().mounted():
        queue = await Queue.open(...)

Rule: each call of a connection takes two moments of the loop's time, one before it is done and
one before its caller knows, now shorter and now longer; calls of one connection follow each
other, and one whose caller is gone is done all the same.  So everything that may come between
two awaits of the product still can, and a run is the same each time.
Non-rule: a function that runs in the thread is one step here: nothing comes between its lines.
Source: aiosqlite's `Connection`, as far as the queue uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from functools import partial
from itertools import cycle
from typing import Any, TypeVar, TypeVarTuple

import aiosqlite
import simulated

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FULL, NO_BOUND = 1, 2**31 - 2  # pages: no more than there are; SQLite's own bound

# How long it takes until a call is done, and then until its caller knows, in turn.
UNTIL_DONE_S = (0.001, 0.0005, 0.002)
UNTIL_KNOWN_S = (0.001, 0.003, 0.0005, 0.001, 0.002)


class Loop(simulated.Loop):
    """Simulated time; what would go to a thread is done at once."""

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - of which there is none
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - its caller's, as from a thread
            future.set_exception(error)
        return future


class Disk:
    """What the connections of one process share: whether it is full, and the process's death."""

    def __init__(self) -> None:
        self.is_full = False
        self.is_dead = False  # the process is: what it asked for does not happen any more
        self.open: list[Connection] = []

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Who connects meanwhile, or wants room kept back, comes to this one."""
        real = aiosqlite.connect, os.posix_fallocate
        aiosqlite.connect = self._connect  # type: ignore[assignment]
        os.posix_fallocate = self._keep_back
        try:
            yield
        finally:
            aiosqlite.connect, os.posix_fallocate = real

    def fills(self, full: bool) -> None:
        """No file grows any more; or again."""
        self.is_full = full
        for connection in self.open:
            connection.bound()

    def is_idle(self, now: float) -> bool:
        """Whether all that was asked for is done and known."""
        return all(connection.busy_until < now for connection in self.open)

    def dies(self) -> None:
        """As with `kill -9`: nothing more happens, and every connection is gone."""
        self.is_dead = True
        for connection in self.open:
            connection.ends()
        self.open.clear()

    def _keep_back(self, _file: int, _offset: int, _length: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left on this disk")

    def _connect(self, database: str, **how: Any) -> Connection:
        return Connection(self, database, how)


class Connection:
    """An `aiosqlite.Connection` whose thread is the loop."""

    def __init__(self, disk: Disk, database: str, how: dict[str, Any]) -> None:
        self.busy_until = 0.0
        self._until_done_s, self._until_known_s = cycle(UNTIL_DONE_S), cycle(UNTIL_KNOWN_S)
        self._disk = disk
        self._conn = sqlite3.connect(database, **how)
        disk.open.append(self)
        self.bound()

    def bound(self) -> None:
        pages = FULL if self._disk.is_full else NO_BOUND
        self._conn.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def ends(self) -> None:
        self._conn.close()

    def __await__(self) -> Generator[Any, None, Connection]:
        yield from asyncio.sleep(0).__await__()
        return self

    async def _execute(self, do: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        at = max(loop.time(), self.busy_until) + next(self._until_done_s)
        self.busy_until = at + next(self._until_known_s)
        loop.call_at(at, self._step, done, self.busy_until, partial(do, *args, **kwargs))
        return await done

    def _step(self, done: asyncio.Future[T], known_at: float, do: Callable[[], T]) -> None:
        if self._disk.is_dead:
            return
        loop = asyncio.get_running_loop()
        try:
            result = do()
        except Exception as error:  # noqa: BLE001 - its caller's, as from a thread
            loop.call_at(known_at, _fails, done, error)
        else:
            loop.call_at(known_at, _is, done, result)

    async def execute_fetchall(self, sql: str) -> list[Any]:
        return await self._execute(lambda: self._conn.execute(sql).fetchall())

    async def close(self) -> None:
        if self in self._disk.open:
            await self._execute(self.ends)
            self._disk.open.remove(self)


def _is(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fails(done: asyncio.Future[T], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
