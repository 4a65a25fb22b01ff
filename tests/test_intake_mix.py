"""Clients of every kind at once, by a seed: each answer belongs to its request, and is true.

Rule: each request has a name that its answer repeats, and that its hit is stored with.  Answers
come in the order of the requests; a 200 is on disk exactly once, however often it was sent; what
got another answer is not.  Nobody waits for ever.
Non-rule: what each request means, and the bytes of its answer, are `test_intake`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from clock import FakeClock
from raw import Raw, connected, get, post

from proxy.core import wire
from proxy.core.analytics import Analytics
from proxy.core.edge import Edge
from proxy.core.hit import Received, Reply, ReportSuite, Request, Suites, Timestamps
from proxy.core.limits import Limits
from proxy.roads import Roads
from proxy.shell.intake import Intake, Listening
from proxy.shell.queue import Queue

SUITES = Suites({"opt": ReportSuite(Timestamps.OPTIONAL)})
OFFER = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")
NAME = re.compile(rb"\b90[0-9]{6}\b")
EVENT = b'{"events":[{"xdm":{"identityMap":{"ECID":[{"id":"7"}]},"x":"%s"}}]}'
ANY = Limits(min_free_disk=0)
NO_BOUND = 2**31 - 2
NONE = Limits(min_free_disk=0, max_hits=0)


@dataclass(frozen=True, slots=True)
class Asking:
    """One request; `ends`: nothing on the connection is answered after it."""

    name: bytes
    data: bytes
    statuses: frozenset[int]
    is_hit: bool = True
    to_head: bool = False
    says_name: bool = True
    ends: bool = False


HIT = frozenset({200, 503})
FAULT = frozenset({400})


def _hit(name: bytes) -> bytes:
    return b"/b/ss/opt/10/v/s%s?AQB=1&callback=%s&AQE=1" % (name, name)


def a_get(name: bytes) -> Asking:
    return Asking(name, get(_hit(name)), HIT)


def a_head(name: bytes) -> Asking:
    return Asking(name, get(_hit(name), method=b"HEAD"), HIT, to_head=True, says_name=False)


def an_old_one(name: bytes) -> Asking:
    data = b"GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % _hit(name)
    return Asking(name, data, HIT)


def an_old_last(name: bytes) -> Asking:
    return Asking(name, b"GET %s HTTP/1.0\r\n\r\n" % _hit(name), HIT, ends=True)


def a_last(name: bytes) -> Asking:
    return Asking(name, get(_hit(name), b"Connection: close"), HIT, ends=True)


def an_offer(name: bytes) -> Asking:
    return Asking(name, get(_hit(name), *OFFER), HIT)


def an_offer_with_a_body(name: bytes) -> Asking:
    return Asking(name, post(_hit(name), b"a=b", *OFFER), HIT)


def a_post(name: bytes) -> Asking:
    return Asking(name, post(_hit(name), b"v1=upgrade"), HIT)


def a_chunked_post(name: bytes) -> Asking:
    head = get(_hit(name), b"Transfer-Encoding: chunked", method=b"POST")
    return Asking(name, head + b"3\r\na=b\r\n2\r\n&c\r\n0\r\n\r\n", HIT)


def an_event(name: bytes) -> Asking:
    target = b"/ee/v1/interact?configId=abc&requestId=%s-0000-4000-8000-000000000000" % name
    return Asking(name, post(target, EVENT % name, b"Content-Type: application/json"), HIT)


def an_id(name: bytes) -> Asking:
    return Asking(name, get(b"/id?mid=" + name), frozenset({200}), is_hit=False)


def a_stranger(name: bytes) -> Asking:
    got = frozenset({404})
    return Asking(name, get(b"/none?" + name), got, is_hit=False, says_name=False)


def a_preflight(name: bytes) -> Asking:
    data = get(_hit(name), b"Origin: https://s.example", method=b"OPTIONS")
    return Asking(name, data, frozenset({204}), is_hit=False, says_name=False)


def a_fault(name: bytes) -> Asking:
    data = get(_hit(name), b"X : 1")
    return Asking(name, data, FAULT, is_hit=False, says_name=False, ends=True)


KINDS = (
    *(a_get,) * 12,
    *(a_head, an_old_one, a_stranger, an_id, an_offer, a_post, an_event) * 2,
    *(an_old_last, a_last, an_offer_with_a_body, a_chunked_post, a_preflight, a_fault),
)


class Servers(Roads):
    """Collection servers that sometimes speak, and sometimes take their time."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def _speak(self, name: bytes) -> Reply | None:
        await asyncio.sleep(self._chance.choice((0, 0, 0.001, 0.003)))
        kinds = ((b"content-type", b"application/json"), (b"x-adobe-edge", b"VA6;7"))
        return self._chance.choice((None, Reply(200, kinds, b'{"requestId":"%s"}' % name)))

    async def ask(self, protocol: str, request: Request, within_s: float) -> Reply | None:  # noqa: ARG002
        found = NAME.search(request.target)
        assert found is not None
        return await self._speak(found[0])

    def goes_soon(self, protocol: str, lane: int) -> bool:  # noqa: ARG002
        return self._chance.random() < 0.5

    async def reply(self, protocol: str, hit: int) -> Reply | None:  # noqa: ARG002
        await self._speak(b"")
        return None


@dataclass(slots=True)
class Mix:
    """What was asked, and what was answered: `None` where no answer was seen."""

    chance: random.Random
    address: str
    is_ending: bool = False
    asked: list[Asking] = field(default_factory=list)
    answers: list[tuple[Asking, int | None]] = field(default_factory=list)

    def _next(self) -> Asking:
        again = [one for one in self.asked[-30:] if one.is_hit]
        if again and self.chance.random() < 0.2:
            return self.chance.choice(again)  # a copy, on whatever connection
        one = self.chance.choice(KINDS)(b"90%06d" % len(self.asked))
        self.asked.append(one)
        return one

    async def client(self) -> None:
        todo: list[Asking] = []
        for _ in range(self.chance.choice((1, 3, 10, 80, 160))):
            one = self._next()
            # The library forgets what stands in one piece with a fault: that comes alone.
            if not todo or one.statuses != FAULT:
                todo.append(one)
            if one.ends:
                break
        leaves = self.chance.random() < 0.15
        seen = 0
        try:
            async with connected(self.address) as raw:
                saying = asyncio.create_task(self._say(raw, b"".join(o.data for o in todo), leaves))
                try:
                    for one in todo:
                        got = await raw.answer(to_head=one.to_head)
                        self._check(one, got.status, got.body)
                        seen += 1
                        self.answers.append((one, got.status))
                    if todo[-1].ends:
                        assert await raw.rest() == b"", todo[-1]
                finally:
                    saying.cancel()
                    await asyncio.wait([saying])
        except AssertionError as error:
            raise AssertionError(b"".join(o.data for o in todo).decode() + f"{seen}") from error
        except (ConnectionError, asyncio.IncompleteReadError):
            assert leaves or self.is_ending, todo[seen]
        self.answers += [(one, None) for one in todo[seen:]]

    async def _say(self, raw: Raw, data: bytes, leaves: bool) -> None:
        if leaves:
            data = data[: self.chance.randrange(len(data))]
        with contextlib.suppress(ConnectionError):
            while data:
                cut = self.chance.choice((1, 7, 100, 1000, len(data)))
                raw.say(data[:cut])
                data = data[cut:]
                await raw.writer.drain()
                if self.chance.random() < 0.3:
                    await asyncio.sleep(self.chance.choice((0, 0, 0.001)))
        if leaves:
            if self.chance.random() < 0.5:
                raw.hang_up()
            else:
                raw.writer.close()

    def _check(self, one: Asking, status: int, body: bytes) -> None:
        assert status in one.statuses, (one, status, body)
        if one.says_name and (status == 200 or one.data.find(b"/ee/") >= 0):
            # Nothing but its own name; the identity service's empty object has none.
            names = set(NAME.findall(body))
            assert names == {one.name} or (not one.is_hit and body == b"{}"), (one, body)


async def trouble(queue: Queue, chance: random.Random) -> None:
    """A queue that is full now and then, a disk too, and a file that another program has locked."""
    with contextlib.closing(sqlite3.connect(queue.path, isolation_level=None, timeout=0)) as other:
        while True:
            await asyncio.sleep(chance.choice((0.001, 0.01)))
            with contextlib.suppress(sqlite3.OperationalError):
                other.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(chance.choice((0, 0.004)))
                other.execute("ROLLBACK")
            queue.limits = chance.choice((ANY, ANY, NONE))
            pages = chance.choice((1, NO_BOUND))
            await queue._writer.execute_fetchall(f"PRAGMA max_page_count = {pages}")


@asynccontextmanager
async def opened(path: Path, chance: random.Random) -> AsyncIterator[tuple[Queue, Intake, str]]:
    queue = await Queue.open(path, ANY, FakeClock())
    running = asyncio.create_task(queue.run())
    spoken = (Edge(), Analytics(SUITES))
    intake = Intake(
        queue, spoken, lambda: Received(queue.boots.current, queue.clock.ms()), Servers(chance)
    )
    host, port = await intake.start(Listening("127.0.0.1", 0, linger_s=0.5))
    try:
        yield queue, intake, f"{host}:{port}"
    finally:
        await intake.close(0)
        await queue.close()
        await running


async def run(path: Path, seed: int, clients: int = 30) -> Mix:
    """All clients of a seed, to the end; a stop comes in the midst of some."""
    chance = random.Random(seed)
    async with opened(path, chance) as (queue, intake, address):
        mix = Mix(chance, address)
        troubling = asyncio.create_task(trouble(queue, chance))
        async with asyncio.timeout(20), asyncio.TaskGroup() as all_:
            for _ in range(clients):
                all_.create_task(mix.client())
                await asyncio.sleep(chance.choice((0, 0, 0.002)))
            if chance.random() < 0.5:
                mix.is_ending = True
                await intake.close(5.0)
        troubling.cancel()
        await asyncio.wait([troubling])
    assert intake._copies.asked == {}
    return mix


def judge(mix: Mix, path: Path) -> None:
    """Each answer against what the file holds now."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        contents = [content for (content,) in db.execute("SELECT content FROM hits")]
    on_disk = Counter(_name(wire.unpack(content)) for content in contents)
    said: defaultdict[bytes, set[int | None]] = defaultdict(set)
    for one, status in mix.answers:
        said[one.name].add(status if one.is_hit else 0)
    for name, statuses in said.items():
        assert on_disk[name] <= 1, (name, statuses)
        assert on_disk[name] or 200 not in statuses, (name, statuses)
        assert not on_disk[name] or statuses & {200, None}, (name, statuses)
    assert set(on_disk) <= set(said)


def _name(request: Request) -> bytes:
    found = NAME.search(request.target)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("seed", range(6))
async def test_each_answer_is_of_its_request_and_true(tmp_path: Path, seed: int) -> None:
    """Whatever clients come together, however their bytes are cut, and whoever leaves."""
    mix = await run(tmp_path / "hits.db", seed)
    judge(mix, tmp_path / "hits.db")
    assert any(status is not None for _, status in mix.answers)
