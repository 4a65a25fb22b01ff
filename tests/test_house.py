"""Claims about what a running daemon says of its losses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from clock import FakeClock
from conftest import OpenQueue
from structlog.testing import capture_logs
from test_drain import accept, draining, until

from proxy import house
from proxy.core import wire
from proxy.core.hit import NewHit, Received, Request
from proxy.core.limits import Limits
from proxy.core.link import State
from proxy.desk import Desk
from proxy.drain import Policy
from proxy.fake import FakeCollector
from proxy.shell.queue import Queue
from proxy.shell.supervisor import Supervisor


@contextlib.asynccontextmanager
async def kept(queue: Queue) -> AsyncIterator[None]:
    """The housekeeping of a daemon, without the daemon."""
    loop = asyncio.get_running_loop()
    desk = Desk(queue, None, None, loop.time(), loop.time)
    keeping = asyncio.create_task(house.keep(desk, Supervisor()))
    await asyncio.sleep(0)  # it counts what there is before it awaits anything
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def lines(said: list[Any], count: int) -> list[Any]:
    """What was said, once it is so many lines."""
    async with asyncio.timeout(10):
        while len(said) < count:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)
    return said


async def counted(said: list[Any], words: str, hits: int) -> None:
    """Until lines with these words have told of so many hits."""
    async with asyncio.timeout(10):
        while sum(line["hits"] for line in said if line["event"].startswith(words)) != hits:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "TIDY_S", 0.05)


async def test_each_kind_of_refusal_is_one_line_with_its_count(open_queue: OpenQueue) -> None:
    """Of what was counted since the last look: old counts are old news, and silence is peace."""
    queue = await open_queue()
    queue.tally("refused.max_hits")
    with capture_logs() as said:
        async with kept(queue):
            for _ in range(3):
                queue.tally("refused.max_hits")
                queue.tally("repeated")  # no loss
            queue.tally("refused.host")
            await lines(said, 2)
            queue.tally("refused.host")
            await lines(said, 3)

    assert [(line["log_level"], line["reason"], line["count"]) for line in said] == [
        ("warning", "max_hits", 3),
        ("warning", "host", 1),
        ("warning", "host", 1),
    ]


async def test_what_was_refused_last_is_said_as_the_daemon_stops(open_queue: OpenQueue) -> None:
    """Between the last look and the end: a loss of that moment is in the log too."""
    queue = await open_queue()
    with capture_logs() as said:
        async with kept(queue):
            queue.tally("refused.max_hits")

    assert [(line["reason"], line["count"]) for line in said] == [("max_hits", 1)]


async def test_that_it_refuses_and_takes_hits_again_is_a_line_each(open_queue: OpenQueue) -> None:
    """However long it lasts, and whether or not anybody asks meanwhile."""
    queue = await open_queue(Limits(min_free_disk=0, max_hits=1))
    content = wire.pack(Request("GET", b"/b/ss/examplersid/1/s1?AQB=1&AQE=1", ()))
    with capture_logs() as said:
        async with kept(queue):
            await queue.add([NewHit(1, Received(queue.boots.current, 0), content)])
            await lines(said, 1)
            await asyncio.sleep(4 * house.TIDY_S)  # looks that find nothing new
            queue.limits = Limits(min_free_disk=0)
            await lines(said, 2)

    assert [(line["log_level"], line["event"], line.get("reason")) for line in said] == [
        ("warning", "new hits are refused", "max_hits"),
        ("info", "new hits are taken again", None),
    ]


async def test_hits_that_expire_and_hits_that_are_dropped_are_said(open_queue: OpenQueue) -> None:
    """By limits a person has set, and still each such hit is in the log's account."""
    clock = FakeClock()
    bounds = Limits(min_free_disk=0, max_hits=2, drop_oldest=True, max_age_s=60)
    queue = await open_queue(bounds, clock)
    content = wire.pack(Request("GET", b"/b/ss/examplersid/1/s1?AQB=1&AQE=1", ()))
    with capture_logs() as said:
        async with kept(queue):
            for _ in range(5):
                at = Received(queue.boots.current, clock.ms())
                await queue.add([NewHit(1, at, content, ("examplersid",))])
            await counted(said, "hits were discarded", 3)
            clock.passes(61)
            await counted(said, "hits expired", 2)

    assert {line["log_level"] for line in said} == {"warning"}


async def test_the_sentence_names_the_daemon_and_how_long_it_has_been_offline(
    open_queue: OpenQueue, adobe: FakeCollector
) -> None:
    """Before anything was sent it is ready, and nobody is offline."""
    clock = FakeClock()
    queue = await open_queue(Limits(min_free_disk=0), clock)
    await adobe.cut()
    async with draining(queue, adobe, Policy(first_s=60, most_s=60)) as drain:
        desk = Desk(queue, drain, None, 0.0, asyncio.get_running_loop().time, label="store-17")
        assert await house.sentence(desk) == "store-17: Ready; 0 waiting"
        await accept(queue, "home")
        await until(queue, lambda: drain.link.state is State.OFFLINE)
        clock.passes(29 * 60 + 1)
        said = await house.sentence(desk)
    assert said.startswith("store-17: Offline 29m; 1 waiting, oldest 29m")
