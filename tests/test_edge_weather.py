"""Claims about the Edge road in bad weather: links that go, answers that are lost, and kills.

It takes some seconds: clients, a network and a daemon that dies do so in real time.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiohttp
import pytest
from daemon import Launch, Process
from test_edge_roads import TEXT, by_visitor, ecid, names, send, settings

from proxy.fake import FakeCollector, close_without_answer, latency, reset_peer, timeout

EVENTS = 250
CALLS = ("v1/interact", "v1/interact", "v1/collect", "v2/collect")
TOKEN = "A-TOKEN-OF-OURS"


class Storm:
    """Six visitors who send what they can, and all that may happen to it meanwhile."""

    def __init__(self, seed: int, daemon: Process, edge: FakeCollector) -> None:
        self.drawn = random.Random(seed)
        self.daemon, self.edge = daemon, edge
        self.sent = 0
        self.taken: set[int] = set()

    async def visit(self, visitor: int) -> None:
        while self.sent < EVENTS:
            self.sent += 1
            number, call = self.sent, self.drawn.choice(CALLS)
            dated = self.drawn.random() < 0.7
            try:
                got = await send(self.daemon, str(number), visitor, call, dated=dated)
            except aiohttp.ClientError:
                # It is being killed; whoever got no answer was promised nothing.
                await asyncio.sleep(0.02)
                continue
            if got.status in {200, 202, 204}:
                self.taken.add(number)
            await asyncio.sleep(self.drawn.choice([0, 0, 0.005, 0.02]))

    async def rage(self) -> None:
        edge = self.edge
        while self.sent < EVENTS:
            match self.drawn.choice(["cut", "slow", "lost", "hang", "kill", "fair"]):
                case "cut":
                    await edge.cut()
                    await asyncio.sleep(0.3)
                    await edge.restore()
                case "slow":
                    edge.always(latency(0.05))
                case "lost":
                    edge.will(close_without_answer(), reset_peer())
                case "hang":
                    edge.always(timeout())
                case "kill":
                    await self.daemon.kill()
                    await self.daemon.start()
            await asyncio.sleep(0.2)
            edge.heal()


@pytest.mark.parametrize("seed", [3, 11])
async def test_what_was_taken_arrives_in_order_or_waits_for_a_person(
    process: Launch, tmp_path: Path, seed: int
) -> None:
    """Twice only where that is counted; and nothing of it, nor the token, is in the log."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with FakeCollector() as edge:
        quick = {"retry.first": "50ms", "retry.max": "300ms", "retry.attempts": 1000}
        daemon = process(None, settings(edge, timeout="1s", token_file=str(token)) | quick)
        await daemon.start()
        storm = Storm(seed, daemon, edge)
        await asyncio.gather(*[storm.visit(visitor) for visitor in range(6)], storm.rage())
        await edge.restore()
        await daemon.tell("/api/v1/forwarding/retry")
        found = await daemon.until(lambda status: status["waiting"] == 0)
        arrived = [int(name) for name in names(edge)]
        in_order = by_visitor(edge)

    assert found["balanced"]
    assert len(storm.taken - set(arrived)) <= found["dead"]
    assert len(arrived) - len(set(arrived)) <= found["ambiguous"]
    for numbers in in_order.values():
        once = list(dict.fromkeys(numbers))
        assert once == sorted(once)
    for secret in (TOKEN, ecid(1), "_id", TEXT["Origin"], "Traceback"):
        assert secret not in daemon.log
    for file in daemon.queue_file.parent.glob("hits.db*"):
        assert TOKEN.encode() not in file.read_bytes()
