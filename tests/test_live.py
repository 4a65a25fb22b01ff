"""Claims about the events: told soon, resumed without a gap, bounded, and over with the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from daemon import PATIENCE_S, Serve, Served
from test_admin import OPTIONAL, guarded, problem
from test_browse import new_hit

from proxy.core.hit import Suites
from proxy.desk import Desk
from proxy.fake import FakeCollector
from proxy.live import Live
from proxy.reading import Reading
from proxy.shell import live as live_module
from proxy.shell.queue import Queue

__all__ = ["guarded"]  # a fixture that lives in `test_admin`


@dataclass(frozen=True, slots=True)
class Told:
    id: str
    name: str
    data: Any


@contextlib.asynccontextmanager
async def listening(
    served: Served, heard: str | None = None, status: int = 200
) -> AsyncIterator[AsyncIterator[Told]]:
    """The events as a browser reads them."""
    headers = {} if heard is None else {"Last-Event-ID": heard}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session,
        session.get(f"http://{served.admin}/api/v1/events", headers=headers) as answer,
    ):
        assert answer.status == status, await answer.text()
        yield read(answer)


async def read(answer: aiohttp.ClientResponse) -> AsyncIterator[Told]:
    fields: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\r\n")
        if not line and "data" in fields:
            yield Told(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
        if not line:
            fields = {}
        name, colon, value = line.partition(": ")
        if name and colon:
            fields[name] = value


async def until(events: AsyncIterator[Told], name: str) -> Told:
    """The next event of that name."""
    async for event in events:
        if event.name == name:
            return event
    pytest.fail("the stream ended")


async def test_a_listener_gets_the_status_at_once(served: Served) -> None:
    async with listening(served) as events:
        assert (await anext(events)).data["state"] == "capture"


async def test_new_hits_are_told_with_their_rows(served: Served) -> None:
    async with listening(served) as events:
        await anext(events)
        await served.hits(range(3))
        told = await until(events, "hits")

    assert told.data["new"] == 3
    assert [row["id"] for row in told.data["changed"]] == [3, 2, 1]


async def test_a_delivery_is_told(serve: Serve, adobe: FakeCollector) -> None:
    await adobe.cut()
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(1))
    await served.until(lambda status: status["state"] == "offline")

    async with listening(served) as events:
        await anext(events)
        await adobe.restore()
        told = await until(events, "hits")

    assert [(row["id"], row["state"]) for row in told.data["changed"]] == [(1, "delivered")]


async def test_of_many_hits_a_few_are_told_and_all_are_counted(served: Served) -> None:
    async with listening(served) as events:
        await anext(events)
        await served.hits(range(120))
        count, most = 0, 0
        while count < 120:
            told = (await until(events, "hits")).data
            count, most = count + told["new"], max(most, len(told["changed"]))

    assert count == 120
    assert most <= 50


async def test_who_lost_the_line_goes_on_behind_what_it_heard(served: Served) -> None:
    async with listening(served) as events:
        await anext(events)
        await served.hits(range(1))
        heard = await until(events, "hits")
        await served.hits(range(1, 2))
        missed = await until(events, "hits")

    async with listening(served, heard.id) as events:
        again = await until(events, "hits")

    assert again == missed


@pytest.mark.parametrize("heard", ["", "nonsense", "0-0", "ffffffff-1"])
async def test_who_heard_something_unknown_is_told_to_begin_anew(
    served: Served, heard: str
) -> None:
    async with listening(served, heard) as events:
        assert (await anext(events)).name == "reset"
        assert (await anext(events)).name == "status"


async def test_there_are_so_many_streams_and_no_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one more is refused, until one of them has gone."""
    monkeypatch.setattr(live_module, "MOST_STREAMS", 2)
    async with listening(served) as first, listening(served) as second:
        await anext(first)
        await anext(second)
        problem(await served.ask("/api/v1/events"), 503)

    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    events = await stack.enter_async_context(listening(served))
                except AssertionError:  # the server has not noticed yet
                    await served.hits(range(1))
                    await asyncio.sleep(0.05)
                    continue
                await anext(events)
                return


async def test_the_streams_end_with_the_daemon(served: Served) -> None:
    """At once: a page that looks on must not keep a stop waiting."""
    async with listening(served) as events:
        await anext(events)
        began = asyncio.get_running_loop().time()
        await served.stop()
        left = [event async for event in events]
        took_s = asyncio.get_running_loop().time() - began

    assert all(event.name in ("status", "hits") for event in left)
    assert took_s < live_module.SEND_S / 5


async def test_events_are_for_those_who_may_ask(guarded: Served) -> None:
    problem(await guarded.ask("/api/v1/events"), 401)
    problem(await guarded.ask("/api/v1/events", headers={"Host": "attacker.example"}), 421)


async def test_nothing_is_noted_while_nobody_listens(queue: Queue) -> None:
    """The queue keeps a list of what changed for listeners only, and a short one."""
    desk = Desk(queue, None, None, 0.0, asyncio.get_running_loop().time)
    live = Live(desk, Reading(queue, [], lambda: Suites({})))
    assert queue.landed is None

    with live.listening(), live.listening():
        assert queue.landed is not None
        for id_ in await queue.add([new_hit(number) for number in range(60)]):
            queue.deferred(id_)
        assert len(queue.landed) == 50

    assert queue.landed is None
