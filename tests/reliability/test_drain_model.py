"""The drain over a real queue file, against a model that is three sets and a few lists.

Hypothesis finds the order of events: hits, outages, captive portals, resets, refusals, a full
disk, a person, a crash.  The model knows what was promised and what the collection server
took; after each event the equation must hold, and whenever things have settled each hit must
be found once, in order, or be marked as ambiguous.

    TRACKOFFLINE_DRAIN_RUNS=2000 pytest tests/reliability/test_drain_model.py
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from clock import FakeClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from test_queue import NO_BOUND, as_after_a_crash

from proxy.core import beacon, wire
from proxy.core.analytics import Analytics
from proxy.core.hit import (
    Failure,
    Fault,
    NewHit,
    Received,
    Reply,
    ReportSuite,
    Request,
    Suites,
    Timestamps,
)
from proxy.core.limits import Limits
from proxy.drain import Drain, Policy
from proxy.errors import QueueUnavailable
from proxy.shell import queue as queue_module
from proxy.shell.queue import Queue

pytestmark = pytest.mark.long

T = TypeVar("T")

RUNS = int(os.environ.get("TRACKOFFLINE_DRAIN_RUNS", "240"))
STEPS = 100
NAME = re.compile(rb"pageName=(\w+)&")
GIF = Reply(200, ((b"content-type", b"image/gif"),), b"GIF89a")
PORTAL = Reply(200, ((b"content-type", b"text/html"),), b"<html>Welcome")
MOODS = ["up", "up", "down", "portal", "cut before", "cut after", "busy", "refuses", "hangs"]
VISITORS = 4
# A crash of the process needs no disk; power loss is another test's.
MEMORY = Path("/dev/shm")


class Ahead(asyncio.SelectorEventLoop):
    """A loop whose time passes by hand, and a little by itself."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Server:
    """A collection server in a mood, and what reached it."""

    def __init__(self) -> None:
        self.mood = "up"
        self.taken: list[str] = []
        self.refused: set[str] = set()
        self.changed = asyncio.Event()

    async def send(self, request: Request) -> Reply | Failure:
        found = NAME.search(request.target)
        assert found is not None
        name = found[1].decode()
        if self.mood == "hangs":
            self.taken.append(name)
            await self.changed.wait()
            return GIF
        await asyncio.sleep(0)
        match self.mood:
            case "down":
                return Failure(Fault.CONNECT)
            case "portal":
                return PORTAL
            case "cut before":
                return Failure(Fault.CUT)
            case "busy":
                return Reply(429, ((b"retry-after", b"2"),))
            case "refuses" if int(name[1:]) % 3 == 0:
                self.refused.add(name)
                return Reply(400)
        self.taken.append(name)
        return Failure(Fault.CUT) if self.mood == "cut after" else GIF

    async def probe(self) -> Failure | None:
        return Failure(Fault.CONNECT) if self.mood == "down" else None

    def becomes(self, mood: str) -> None:
        self.mood = mood
        self.changed.set()
        self.changed = asyncio.Event()


class DrainMachine(RuleBasedStateMachine):
    """Each rule is something that happens to a daemon."""

    steps = 0

    @initialize()
    def opens(self) -> None:
        self.clock = FakeClock()
        self.runner = asyncio.Runner(loop_factory=Ahead)
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.server = Server()
        self.acked: dict[str, int] = {}
        self.count = self.crashes = 0
        self.is_full = self.is_paused = False
        self.known = False
        self.start(self.folder / "hits.db")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def start(self, path: Path) -> None:
        async def opened() -> None:
            limits = Limits(min_free_disk=0)
            self.queue = await Queue.open(path, limits, self.clock)
            self.writing = asyncio.create_task(self.queue.run())
            self.drain = Drain(
                self.queue, self.server, Analytics(self.suites(), b"adobe"), Policy(), lambda: 0.5
            )
            self.drain.pause(self.is_paused)
            self.draining = asyncio.create_task(self.drain.run())

        self.do(opened())

    def suites(self) -> Suites:
        stamped = ReportSuite(Timestamps.REQUIRED)
        unknown = stamped if self.known else ReportSuite()
        return Suites({"stamped": stamped, "unknown": unknown})

    def end(self) -> None:
        async def closed() -> None:
            self.draining.cancel()
            await asyncio.wait([self.draining])
            await self.queue.close()
            await self.writing

        self.do(closed())

    async def passes(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Ahead)
        loop.ahead_s += seconds
        self.clock.passes(seconds)
        self.queue.news.set()
        await asyncio.sleep(0.0005)

    def bound(self, pages: int) -> None:
        pragma = f"PRAGMA max_page_count = {pages}"
        self.do(queue_module._run(self.queue._writer, queue_module._rows, pragma))

    # -- rules -----------------------------------------------------------------------------

    @rule(
        visitor=st.integers(0, VISITORS - 1), suite=st.sampled_from(["stamped"] * 4 + ["unknown"])
    )
    def accepts(self, visitor: int, suite: str) -> None:
        self.count += 1
        name = f"p{self.count}"
        # A visitor of the suite nobody knows is another lane.
        visitor += VISITORS * (suite == "unknown")
        target = f"/b/ss/{suite}/1/JS-2/s1?AQB=1&vid=v{visitor}&pageName={name}&AQE=1".encode()
        lane = beacon.lane(b"adobe", (suite,), b"vid:v%d" % visitor)
        received = Received(self.queue.boots.current, self.clock.ms())
        hit = NewHit(lane, received, wire.pack(Request("GET", target)))
        try:
            self.do(self.queue.add([hit]))
        except QueueUnavailable:
            assert self.is_full
        else:
            self.acked[name] = lane

    @rule(mood=st.sampled_from(MOODS))
    def the_road_changes(self, mood: str) -> None:
        self.server.becomes(mood)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 20.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.passes(seconds))

    @rule(paused=st.booleans())
    def a_person_forces_it(self, *, paused: bool) -> None:
        self.is_paused = paused
        self.tell(lambda: self.drain.pause(paused))

    @rule()
    def a_person_wants_it_now(self) -> None:
        self.tell(self.drain.retry)

    def tell(self, verb: Callable[[], None]) -> None:
        async def told() -> None:
            verb()
            await asyncio.sleep(0)

        self.do(told())

    @rule()
    def a_person_describes_the_suite(self) -> None:
        async def released() -> None:
            self.known = True
            self.drain.protocol = Analytics(self.suites())
            try:
                await self.queue.release("unknown")
            except QueueUnavailable:
                assert self.is_full
            self.drain.start_over()

        self.do(released())

    @rule()
    def the_description_is_taken_back(self) -> None:
        self.known = False
        self.drain.protocol = Analytics(self.suites())

    @rule()
    def the_disk_fills_up_or_is_freed(self) -> None:
        self.is_full = not self.is_full
        self.bound(1 if self.is_full else NO_BOUND)

    @rule()
    def crashes_and_reopens(self) -> None:
        self.crashes += 1
        left = as_after_a_crash(self.queue, self.folder / f"crash {self.crashes}")
        ghost, self.server = self.server, Server()
        self.server.mood = ghost.mood
        self.server.taken, self.server.refused = ghost.taken, ghost.refused
        ghost.becomes("down")  # what the dead process would still do happens to nobody
        self.end()
        self.is_full = False
        self.start(left)

    # -- what always holds -----------------------------------------------------------------

    @invariant()
    def the_equation_holds(self) -> None:
        type(self).steps += 1
        ledger = self.queue.ledger
        assert ledger.balanced
        assert ledger.accepted == len(self.acked)
        assert ledger.expired == ledger.discarded == 0

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        if self.is_full:
            self.bound(NO_BOUND)
        try:
            self.do(self.settles())
            self.end()
            self.judge()
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    async def settles(self) -> None:
        """Everything is well again: the queue must run empty by itself."""
        self.server.becomes("up")
        self.known = True
        self.drain.protocol = Analytics(self.suites())
        await self.queue.release("unknown")
        self.drain.pause(False)
        self.drain.start_over()
        for _ in range(2_000):
            if not self.queue.ledger.waiting:
                return
            await self.passes(1.0)
            await asyncio.sleep(0.001)
        raise AssertionError(f"wedged: {self.queue.ledger}")

    def judge(self) -> None:
        with sqlite3.connect(self.queue.path) as db:
            dead = {name_in(row[0]) for row in db.execute("SELECT content FROM dead")}
            rows = [
                *db.execute("SELECT content, flags FROM hits"),
                *db.execute("SELECT content, flags FROM dead"),
            ]
        db.close()
        marked = {name_in(content) for content, flags in rows if flags & 1}
        times = Counter(self.server.taken)
        assert set(self.acked) == set(times) | dead, "lost"
        assert {name for name, count in times.items() if count > 1} <= marked, "sent twice"
        # Refused just as the process died: it is asked again, and may be taken then.
        assert self.server.refused - dead <= marked, "a refusal was forgotten"
        lanes: defaultdict[int, list[int]] = defaultdict(list)
        for name in dict.fromkeys(self.server.taken):
            lanes[self.acked[name]].append(int(name[1:]))
        for numbers in lanes.values():
            assert numbers == sorted(numbers), "out of order"


def name_in(content: bytes) -> str:
    found = NAME.search(content)
    assert found is not None
    return found[1].decode()


def test_the_drain_keeps_the_promise_in_any_order_of_events() -> None:
    """Twenty thousand events: nothing lost, nothing out of order, nothing twice unmarked."""
    DrainMachine.steps = 0
    run_state_machine_as_test(
        DrainMachine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"\n{DrainMachine.steps} events")  # noqa: T201 - the figure
    assert DrainMachine.steps > 85 * RUNS
