"""The main job with a process of its own: an outage, a kill -9, and everything arrives."""

from __future__ import annotations

import asyncio
import itertools
import time

import aiohttp
from daemon import Launch, Process, Status, hit
from yarl import URL

from proxy.fake import FakeCollector, latency, ok

SUITE = {"suites.known.examplersid.timestamps": "required"}
HITS, VISITORS = 1_000, 50
EACH = HITS // VISITORS


class Visitor:
    """Sends its hits one after the other, and each until it got its 200, as trackOffline does."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seconds: dict[int, range] = {}  # when each hit that got its 200 was received

    async def send(self, daemon: Process, hits: range) -> None:
        async with aiohttp.ClientSession() as session:
            for number in hits:
                target = hit(self.number * EACH + number, visitor=self.number)
                url = URL(f"http://{daemon.beacons}{target}", encoded=True)
                # The first try counts: a hit whose answer got lost keeps the time of its storing.
                before = int(time.time())
                while not await self._is_taken(session, url):  # noqa: ASYNC110 - it is HTTP
                    await asyncio.sleep(0.05)
                self.seconds[self.number * EACH + number] = range(before, int(time.time()) + 1)

    async def _is_taken(self, session: aiohttp.ClientSession, url: URL) -> bool:
        try:
            async with session.get(url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


def judge(adobe: FakeCollector, visitors: list[Visitor], status: Status) -> None:
    """Each promised hit arrived once, in its visitor's order, with its own second."""
    arrived: dict[int, list[int]] = {visitor.number: [] for visitor in visitors}
    for received in adobe.received:
        number = int((received.param(b"pageName") or b"p0")[1:])
        arrived[number // EACH].append(number)
        assert int(received.param(b"ts") or 0) in visitors[number // EACH].seconds[number]
    for visitor in visitors:
        assert arrived[visitor.number] == list(visitor.seconds), "lost, doubled or out of order"
    assert status["accepted"] == status["delivered"] == len(adobe.received)
    assert status["balanced"]


async def test_a_thousand_hits_survive_an_outage_and_a_kill(
    process: Launch, adobe: FakeCollector
) -> None:
    """Fifty visitors, the collection server away, SIGKILL in the middle, then the link back."""
    await adobe.cut()
    daemon = process(adobe, SUITE)
    await daemon.start()
    visitors = [Visitor(number) for number in range(VISITORS)]
    sending = asyncio.gather(*(visitor.send(daemon, range(EACH)) for visitor in visitors))
    await daemon.until(lambda status: status["accepted"] >= HITS // 3)
    await daemon.restart()
    await sending
    status = await daemon.status()
    assert status["waiting"] == status["accepted"] == HITS
    await adobe.restore()
    status = await daemon.until(lambda status: status["delivered"] >= HITS, timeout_s=30)

    judge(adobe, visitors, status)


async def test_a_kill_while_draining_may_double_what_was_in_flight_and_nothing_else(
    process: Launch, adobe: FakeCollector
) -> None:
    """A hit sent whose answer nobody lived to read is sent again, right behind itself."""
    await adobe.cut()
    daemon = process(adobe, SUITE)
    await daemon.start()
    visitors = [Visitor(number) for number in range(VISITORS)]
    await asyncio.gather(*(visitor.send(daemon, range(EACH)) for visitor in visitors))
    adobe.always(latency(0.02) | ok())
    await adobe.restore()
    await daemon.until(lambda status: status["delivered"] >= HITS // 4)
    await daemon.kill()
    assert adobe.counts.requests < HITS, "it was not killed while draining"
    await daemon.start()
    status = await daemon.until(lambda status: status["waiting"] == 0)

    arrived: dict[int, list[int]] = {visitor.number: [] for visitor in visitors}
    for received in adobe.received:
        number = int((received.param(b"pageName") or b"p0")[1:])
        arrived[number // EACH].append(number)
    for visitor in visitors:
        once = [number for number, _ in itertools.groupby(arrived[visitor.number])]
        assert once == list(visitor.seconds), "lost or out of order"
        assert len(arrived[visitor.number]) <= EACH + 1, "more than the one in flight came twice"
    assert status["accepted"] == status["delivered"] == HITS
    assert status["balanced"]


async def test_told_to_stop_under_load_it_answers_and_ends(
    process: Launch, adobe: FakeCollector
) -> None:
    """Exit 0; every hit with a 200 is delivered by the next run, none of them twice."""
    daemon = process(adobe, SUITE)
    await daemon.start()
    visitors = [Visitor(number) for number in range(10)]
    sending = asyncio.gather(*(visitor.send(daemon, range(EACH)) for visitor in visitors))
    await daemon.until(lambda status: status["accepted"] >= 50)
    assert await daemon.terminate() == 0
    await daemon.start()
    await sending
    status = await daemon.until(lambda status: status["waiting"] == 0)

    judge(adobe, visitors, status)


async def test_a_hold_survives_a_kill(process: Launch, adobe: FakeCollector) -> None:
    """Held is held until a person says otherwise; then everything goes, in order."""
    daemon = process(adobe, SUITE)
    await daemon.start()
    await daemon.tell("/api/v1/forwarding/offline")
    visitor = Visitor(0)
    await visitor.send(daemon, range(EACH))
    await daemon.restart()
    status = await daemon.status()
    assert (status["state"], status["waiting"]) == ("held", EACH)
    assert not adobe.received
    await daemon.tell("/api/v1/forwarding/online")
    status = await daemon.until(lambda status: status["waiting"] == 0)

    judge(adobe, [visitor], status)
