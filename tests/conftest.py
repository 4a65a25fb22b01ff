"""What several test modules share: a collection server, an open queue, a whole daemon."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from clock import FakeClock
from daemon import process, serve, served

from proxy.core.limits import Limits
from proxy.fake import FakeCollector
from proxy.shell.clock import Clock
from proxy.shell.queue import Queue

__all__ = ["process", "serve", "served"]  # fixtures that live in `daemon`

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def adobe() -> AsyncIterator[FakeCollector]:
    """A fake collection server, listening; gone with the test, whatever hangs."""
    async with FakeCollector() as collector:
        yield collector


class OpenQueue(Protocol):
    """Opens a queue in the test's folder, and keeps its writer running."""

    async def __call__(
        self, limits: Limits = ..., clock: Clock | None = ..., path: Path | None = ...
    ) -> Queue: ...


@pytest.fixture
async def open_queue(tmp_path: Path) -> AsyncIterator[OpenQueue]:
    """Opens queues that end with the test; without other word, of any size on any disk."""
    async with contextlib.AsyncExitStack() as opened:

        async def open_(
            limits: Limits = Limits(min_free_disk=0),  # noqa: B008 - a frozen value
            clock: Clock | None = None,
            path: Path | None = None,
        ) -> Queue:
            queue = await Queue.open(path or tmp_path / "hits.db", limits, clock or FakeClock())
            running = asyncio.create_task(queue.run())
            opened.push_async_callback(asyncio.wait, [running])
            opened.push_async_callback(queue.close)
            return queue

        yield open_


@pytest.fixture
async def queue(open_queue: OpenQueue) -> Queue:
    return await open_queue()
