"""Queue and drain, over a real queue file, against a model: a few sets and what a server saw.

Hypothesis finds the order of events: hits, outages, portals, resets, refusals, a full disk,
limits, a person, stops and crashes, each a moment or an hour after the last.  Time is simulated
and nothing runs in a thread (`threadless`), so that a failure is found again, made smaller, and
replayed from what hypothesis prints; a crash may come between any two awaits of the product.

What must hold is judged at three places.  *As a hit is sent*: it is the oldest of its lane in
the file, alone in flight, described, stamped with its own second, and marked as ambiguous if the
server has it.  *After each step*, by the file: each hit that was acked waits, is a dead letter,
or left as the ledger says; none that was refused is there.  *In the end*, when all is well again:
the queue runs empty by itself.

    TRACKOFFLINE_MODEL_RUNS=5000 pytest tests/reliability/test_drain_model.py     half a million

With TRACKOFFLINE_MODEL_SHRINKS=0 a failure is shown as it was found, at once.
Non-rule: SQLite's own threads, and what a disk does wrong; the daemon's tests have them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from simulated import GIF, HalfAtRest, LoopClock, asking, now
from structlog.testing import capture_logs
from test_queue import as_after_a_crash
from threadless import Disk, Loop

from proxy.core import beacon, stamp, wire
from proxy.core.analytics import Analytics
from proxy.core.hit import (
    Failure,
    Fault,
    Ledger,
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
from proxy.errors import QueueError, QueueFull
from proxy.shell.queue import Queue
from proxy.shell.rows import READ_LEDGER

T = TypeVar("T")

RUNS = int(os.environ.get("TRACKOFFLINE_MODEL_RUNS", "225"))
STEPS = 100
SHRINKS = os.environ.get("TRACKOFFLINE_MODEL_SHRINKS", "1") == "1"
ATTEMPTS = 3
RTT_S = 0.01
NAME = re.compile(rb"pageName=(\w+)&")
TS = re.compile(rb"[?&]ts=(\d+)&")
PORTAL = Reply(200, ((b"content-type", b"text/html"),), b"<html>Welcome")
BUSY = Reply(429, ((b"retry-after", b"2"),))
MOODS = [
    *("up", "up", "up", "up", "slow", "down", "portal", "cut before", "cut after"),
    *("busy", "refuses", "refuses", "poison", "hangs"),
]
# What must have happened in any run, each many times.
EVENTS = [
    *("accepted", "over a limit", "not stored", "delivered", "deferred", "refused", "buried"),
    *("doubted", "held", "released", "expired", "discarded", "killed", "reboots", "stops"),
]
# Four visitors of each report suite.
VISITORS, OF_UNKNOWN = st.integers(0, 7), 4
SIZES = st.sampled_from([0, 0, 9_000, 90_000])
# A death of the process needs no disk; power loss is another test's.
MEMORY = Path("/dev/shm")
MOMENTS = st.sampled_from([0.0, 0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.01, 0.1, 2.0])

LANE_HEAD = """
    SELECT h.content, h.flags, EXISTS (SELECT 1 FROM held k WHERE k.id = h.id) FROM hits h
    WHERE h.lane = ? AND NOT EXISTS (SELECT 1 FROM delivered d WHERE d.id = h.id)
    ORDER BY h.id LIMIT 1"""
WAITING = """
    SELECT h.content, h.flags, EXISTS (SELECT 1 FROM held k WHERE k.id = h.id) FROM hits h
    WHERE NOT EXISTS (SELECT 1 FROM delivered d WHERE d.id = h.id)"""
DEAD = "SELECT content, flags, status, id FROM dead"


@dataclass(frozen=True, slots=True)
class Asked:
    """A hit that a client sent: what the model knows of it from the start."""

    number: int
    lane: int
    suite: str
    second: int


@dataclass(frozen=True, slots=True)
class Found:
    """What the file says, of one moment."""

    ledger: Ledger
    waiting: set[str]
    dead: dict[str, int]  # and their ids
    held: int
    size: int


class Server(HalfAtRest):
    """A collection server in a mood, reached through no network, and what it did."""

    def __init__(self, departs: Callable[[str, Request], None]) -> None:
        self.departs = departs
        self.mood = "up"
        self.taken: list[str] = []
        self.refused: set[str] = set()  # ever answered so
        self.failed: Counter[str] = Counter()
        self.told: dict[str, int] = {}  # the last word, if the process that asked lives on
        self.lanes: set[bytes] = set()  # in flight

    async def send(self, request: Request) -> Reply | Failure:
        name = name_in(request.target)
        self.departs(name, request)
        reply = await self._answer(name)
        if isinstance(reply, Reply) and reply.status in {200, 400} and reply is not PORTAL:
            self.told[name] = reply.status
        else:
            self.failed[name] += 1
        return reply

    async def _answer(self, name: str) -> Reply | Failure:
        number, mood = int(name[1:]), self.mood
        await asyncio.sleep(RTT_S / 2)
        match mood:
            case "down":
                return Failure(Fault.CONNECT)
            case "portal":
                return PORTAL
            case "cut before":
                return Failure(Fault.CUT)
            case "poison" if number % 5 == 0:
                return Failure(Fault.CUT)
            case "busy":
                return BUSY
            case "refuses" if number % 3 == 0:
                self.refused.add(name)
                return Reply(400)
        self.taken.append(name)
        await asyncio.sleep({"slow": 3.0, "hangs": 20.0}.get(mood, RTT_S / 2))
        return Failure(Fault.CUT) if mood in {"cut after", "hangs"} else GIF

    async def probe(self) -> Failure | None:
        await asyncio.sleep(RTT_S)
        return Failure(Fault.CONNECT) if self.mood == "down" else None


class DrainMachine(RuleBasedStateMachine):
    """Each rule is something that happens to a daemon, and then a little time passes."""

    steps: ClassVar[int] = 0
    seen: ClassVar[Counter[str]] = Counter()  # what came of the events
    logs: ClassVar[list[Any]] = []

    @initialize(
        max_hits=st.sampled_from([10**6, 10**6, 5, 12]),
        drop_oldest=st.booleans(),
        max_age_s=st.sampled_from([0.0, 0.0, 90.0]),
        keep_s=st.sampled_from([0.0, 50.0]),
        concurrency=st.sampled_from([1, 4, 64]),
    )
    def opens(
        self, *, max_hits: int, drop_oldest: bool, max_age_s: float, keep_s: float, concurrency: int
    ) -> None:
        self.limits = Limits(
            max_hits=max_hits,
            max_age_s=max_age_s,
            min_free_disk=0,
            drop_oldest=drop_oldest,
            keep_delivered_s=keep_s,
        )
        self.policy = Policy(attempts=ATTEMPTS, concurrency=concurrency)
        self.runner = asyncio.Runner(loop_factory=Loop)
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.server = Server(self.departs)
        self.clock = LoopClock()
        self.asked: dict[str, Asked] = {}
        self.known: set[str] = set()  # acked, or found in the file or on the road
        self.denied: set[str] = set()
        self.buried: set[str] = set()  # ever
        self.requeued: set[str] = set()
        self.unsure: set[str] = set()  # it left as the process died: delivered, or dropped
        self.wrong: list[str] = []
        self.flying: dict[int, str] = {}  # by lane
        self.given_up = 0  # dead letters a person asked to discard
        self.processes = 0
        self.is_paused = self.is_described = False
        self.begins(self.folder / "hits.db")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # -- a process begins and ends ---------------------------------------------------------

    def begins(self, path: Path) -> None:
        self.processes += 1
        self.is_dead = False
        self.disk = Disk()
        self.tasks: set[asyncio.Task[None]] = set()

        async def opened() -> None:
            self.queue = await Queue.open(path, self.limits, self.clock)
            self.writing = asyncio.create_task(self.queue.run())
            self.drain = Drain(self.queue, self.server, self.protocol(), self.policy, lambda: 0.5)
            self.drain.pause(self.is_paused)
            self.draining = asyncio.create_task(self.drain.run())
            self.keeping = asyncio.create_task(self.keeps_house())

        self.mounted = contextlib.ExitStack()
        self.mounted.enter_context(self.disk.mounted())
        self.do(opened())
        self.eye = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)

    async def keeps_house(self) -> None:
        while True:
            await asyncio.sleep(20)
            await self.queue.tidy()

    def protocol(self) -> Analytics:
        stamped = ReportSuite(Timestamps.REQUIRED)
        suite = stamped if self.is_described else ReportSuite()
        return Analytics(Suites({"stamped": stamped, "unknown": suite}), b"adobe")

    def stops(self) -> Path:
        """As the daemon does: no new hits, the drain, the queue."""

        async def stopped() -> None:
            if self.tasks:
                await asyncio.wait(self.tasks)
            self.drain.stop()
            await self.draining
            self.keeping.cancel()
            await asyncio.wait([self.keeping])
            await self.queue.close()
            await self.writing

        self.do(stopped())
        self.mounted.close()
        self.eye.close()
        return self.queue.path

    def dies(self) -> Path:
        """As with `kill -9`, here and now; what was under way is gone."""
        left = as_after_a_crash(self.queue, self.folder / f"after {self.processes}")
        self.is_dead = True
        self.disk.dies()
        self.mounted.close()
        self.eye.close()

        async def gone() -> None:
            # The drain first: what the writer says as it ends is no news to a dead one.
            self.draining.cancel()
            await asyncio.wait([self.draining])
            others = {*self.tasks, *asking, self.keeping, self.writing}
            for task in others:
                task.cancel()
            await asyncio.wait(others)

        told = dict(self.server.told)
        self.do(gone())
        self.server.told = told
        self.queue._lock.close()
        self.queue._sending.close()
        if self.queue.path.parent == self.folder:
            for file in self.folder.glob("hits.db*"):
                file.unlink()
        else:
            shutil.rmtree(self.queue.path.parent)
        return left

    def starts_again(self, left: Path) -> None:
        """What the process had heard, and not recorded, it may ask once more."""
        flown, self.flying = set(self.flying.values()), {}
        self.begins(left)
        found = self.look()
        if self.limits.drop_oldest or self.limits.max_age_s:
            self.unsure |= flown & self.server.told.keys() - found.waiting - found.dead.keys()
        for name in found.waiting:
            self.server.told.pop(name, None)

    # -- rules -----------------------------------------------------------------------------

    def goes(self, work: Coroutine[Any, Any, None], then: float) -> None:
        """Someone began this, and nobody waits for it."""

        async def started() -> None:
            task = asyncio.create_task(work)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await asyncio.sleep(then)

        self.do(started())

    def passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule(visitors=st.lists(VISITORS, min_size=1, max_size=4), size=SIZES, then=MOMENTS)
    def accepts(self, visitors: list[int], size: int, then: float) -> None:
        for visitor in visitors:
            self.goes(self.one(visitor, size), 0)
        self.passes(then)

    @rule(visitors=st.lists(VISITORS, min_size=4, max_size=12), then=MOMENTS)
    def accepts_many(self, visitors: list[int], then: float) -> None:
        self.accepts(visitors, 0, then)

    async def one(self, visitor: int, size: int) -> None:
        name = f"p{len(self.asked) + 1}"
        # A visitor of the suite that nobody knows at first is another lane.
        suite = "unknown" if visitor >= OF_UNKNOWN else "stamped"
        target = f"/b/ss/{suite}/1/JS-2/s1?AQB=1&vid=v{visitor}&pageName={name}&AQE=1".encode()
        lane = beacon.lane(b"adobe", (suite,), b"vid:v%d" % visitor)
        received = Received(self.queue.boots.current, self.clock.ms())
        self.asked[name] = Asked(len(self.asked) + 1, lane, suite, self.clock.wall_ms() // 1000)
        # (a body that cannot be compressed)
        body = Random(len(self.asked)).randbytes(size)
        request = Request("GET", target, body=body)
        try:
            await self.queue.add([NewHit(lane, received, wire.pack(request))])
        except QueueFull:
            self.is_denied(name, "over a limit")
        except QueueError:
            self.is_denied(name, "not stored")
        else:
            self.known.add(name)
            self.seen["accepted"] += 1

    def is_denied(self, name: str, why: str) -> None:
        if not self.disk.is_dead:
            self.denied.add(name)
            self.seen[why] += 1

    @rule(seconds=st.sampled_from([0.0005, 0.001, 0.002, 0.003, 0.005, 0.02, 1.0, 5.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.passes(seconds)

    @rule(mood=st.sampled_from(MOODS), noticed=st.booleans(), then=MOMENTS)
    def the_road_changes(self, mood: str, *, noticed: bool, then: float) -> None:
        self.server.mood = mood
        if noticed:
            self.goes(self.retry(), 0)
        self.passes(then)

    @rule(
        visitors=st.lists(VISITORS, max_size=4),
        seconds=st.sampled_from([70.0, 100.0]),
        then=MOMENTS,
    )
    def an_outage_passes(self, visitors: list[int], seconds: float, then: float) -> None:
        """Longer than a hit may be late and nobody know its suite, or than `max_age`."""
        self.server.mood = "down"
        self.accepts(visitors, 0, seconds)
        self.the_road_changes("up", noticed=True, then=then)

    @rule(wish=st.sampled_from(["pause", "resume", "resume", "retry", "retry"]), then=MOMENTS)
    def a_person_wants(self, wish: str, then: float) -> None:
        self.goes(getattr(self, wish)(), then)

    @rule(wish=st.sampled_from(["describe", "describe", "undescribe"]), then=MOMENTS)
    def a_person_describes_the_suite(self, wish: str, then: float) -> None:
        self.goes(getattr(self, wish)(), then)

    async def pause(self) -> None:
        self.is_paused = True
        self.drain.pause(True)

    async def resume(self) -> None:
        self.is_paused = False
        self.drain.pause(False)

    async def retry(self) -> None:
        self.drain.retry()

    async def describe(self) -> None:
        self.is_described = True
        self.drain.protocol = self.protocol()
        with contextlib.suppress(QueueError):
            self.seen["released"] += await self.queue.release("unknown")
        self.drain.start_over()

    async def undescribe(self) -> None:
        self.is_described = False
        self.drain.protocol = self.protocol()

    @rule(picks=st.lists(st.integers(0, 100), max_size=3), again=st.booleans(), then=MOMENTS)
    def a_person_decides_about_dead_letters(
        self, picks: list[int], *, again: bool, then: float
    ) -> None:
        dead = sorted(self.look().dead.items())
        chosen = dict(dead[pick % len(dead)] for pick in picks if dead)
        if again:
            self.requeued |= chosen.keys()
            for name in chosen:
                self.server.told.pop(name, None)
            self.goes(self.decides(self.queue.requeue(list(chosen.values()))), then)
        else:
            self.given_up += len(chosen)
            self.goes(self.decides(self.queue.discard(list(chosen.values()))), then)

    async def decides(self, decision: Coroutine[Any, Any, int]) -> None:
        with contextlib.suppress(QueueError):
            await decision

    @rule(fills=st.sampled_from([True, False, False]), then=MOMENTS)
    def the_disk_fills_up_or_is_freed(self, *, fills: bool, then: float) -> None:
        self.disk.fills(fills)
        self.passes(then)

    @rule(how=st.sampled_from(["killed", "killed", "killed", "reboots", "stops"]), then=MOMENTS)
    def it_ends_and_starts(self, how: str, then: float) -> None:
        self.seen[how] += 1
        left = self.stops() if how == "stops" else self.dies()
        if how == "reboots":
            self.clock.boot_id = f"boot {self.processes}"
        self.starts_again(left)
        self.passes(then)

    # -- what always holds -----------------------------------------------------------------

    def departs(self, name: str, request: Request) -> None:
        """The moment in which a hit is sent."""
        if self.is_dead:
            raise asyncio.CancelledError  # the turn of the loop in which it died went on
        asked = self.asked[name]
        self.known.add(name)
        self.flying[asked.lane] = name
        if self.server.told.get(name):
            self.wrong.append(f"{name} is sent again after {self.server.told[name]}")
        ts = TS.search(request.target)
        if asked.suite == "unknown" and not self.is_described:
            # While it is fresh Adobe's own clock will do; later it has to wait for a person.
            age_s = self.clock.wall_ms() // 1000 - asked.second
            if ts is not None or age_s > stamp.LATE_AFTER_S + 1:
                self.wrong.append(f"{name} is sent after {age_s} s, and nobody knows its suite")
        elif ts is None or int(ts[1]) != asked.second:
            self.wrong.append(f"{name} of {asked.second} is stamped {ts}")
        head = self.eye.execute(LANE_HEAD, (asked.lane,)).fetchone()
        if head is None or name_in(head[0]) != name:
            # A limit may drop it in the moment it is sent, before anybody knows: or just after,
            # and then the queue knows of one that it is on its way all the same.
            gone, known = self.look(), self.queue.ledger
            lag = dropped(gone.ledger) - dropped(known) or self.queue._overtaken
            if name in gone.waiting or name in gone.dead or not lag:
                self.wrong.append(f"{name} is sent, and is not the first of its lane")
        elif head[2]:
            self.wrong.append(f"{name} is sent, and held")
        elif name in self.server.taken and not head[1] & 1:
            self.wrong.append(f"{name} is sent once more, and not marked")

    def look(self) -> Found:
        """What the file says now."""
        self.eye.execute("BEGIN")
        ledger = Ledger(*self.eye.execute(READ_LEDGER).fetchone()[1:])
        waiting = self.eye.execute(WAITING).fetchall()
        dead = {name_in(row[0]): row[3] for row in self.eye.execute(DEAD)}
        self.eye.execute("COMMIT")
        return Found(
            ledger,
            {name_in(row[0]) for row in waiting},
            dead,
            sum(row[2] for row in waiting),
            sum(len(row[0]) for row in waiting),
        )

    @invariant()
    def everything_is_somewhere(self) -> None:
        type(self).steps += 1
        assert not self.wrong, self.wrong
        found, server = self.look(), self.server
        ledger = found.ledger
        self.seen["held"] += found.held
        self.known |= found.waiting | found.dead.keys()
        assert not self.denied & self.known, "refused, and stored"
        assert ledger.balanced
        # One may drop another of its own commit: the file never had it, and nobody knows yet.
        untold = self.asked.keys() - self.known - self.denied if self.limits.drop_oldest else ()
        assert len(self.known) <= ledger.accepted <= len(self.known) + len(untold)
        assert ledger.waiting == len(found.waiting), "one is lost, or there twice"
        assert ledger.dead == len(found.dead)
        assert not found.waiting & found.dead.keys()
        assert (ledger.held, ledger.waiting_bytes) == (found.held, found.size)
        # What left was delivered, dropped by a limit, or given up.
        left = self.known - found.waiting - found.dead.keys()
        delivered = {name for name in left if server.told.get(name) == 200}
        least = len(delivered - self.unsure) - self.drain.in_flight
        assert least <= ledger.delivered <= len(delivered | (left & self.unsure))
        if not self.limits.drop_oldest:
            assert ledger.discarded <= self.given_up
        if not self.limits.max_age_s:
            assert ledger.expired == 0
        for name in found.dead.keys() - self.buried:
            assert name in server.refused or server.failed[name] >= ATTEMPTS, "buried for nothing"
        self.buried |= found.dead.keys()
        self.nothing_unforeseen()
        if self.disk.is_idle(self.runner.get_loop().time()):
            assert self.queue.ledger == ledger

    def nothing_unforeseen(self) -> None:
        assert not [line for line in self.logs if line["log_level"] == "error"]
        self.logs.clear()

    # -- the end ---------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "eye"):
            return
        try:
            if not self.wrong:
                self.do(self.settles())
                self.everything_is_somewhere()
                self.judge(self.look())
                self.stops()
        finally:
            self.disk.dies()
            self.mounted.close()
            self.eye.close()
            self.runner.close()
            shutil.rmtree(self.folder)

    async def settles(self) -> None:
        """Everything is well again: the queue must run empty by itself."""
        self.server.mood = "up"
        self.disk.fills(False)
        self.is_described = True
        self.drain.protocol = self.protocol()
        await self.queue.release("unknown")
        self.drain.start_over()
        self.drain.pause(False)
        began = now()
        while self.queue.ledger.waiting or self.tasks or self.drain.in_flight:
            assert now() - began < 600, f"wedged: {self.queue.ledger}"
            await asyncio.sleep(1)

    def judge(self, found: Found) -> None:
        server = self.server
        self.seen["delivered"] += len(server.taken)
        self.seen["refused"] += len(server.refused)
        self.seen["deferred"] += server.failed.total()
        self.seen["buried"] += len(self.buried)
        self.seen["expired"] += found.ledger.expired
        self.seen["discarded"] += found.ledger.discarded
        self.seen["doubted"] += found.ledger.ambiguous
        taken = list(dict.fromkeys(server.taken))
        lost = self.known - found.dead.keys() - set(taken)
        refused = {name for name, status in server.told.items() if status == 400}
        # (what a limit drops as it is refused is no dead letter any more)
        assert len(lost | (refused - self.buried)) <= dropped(found.ledger), "lost, or forgotten"
        lanes: defaultdict[int, list[int]] = defaultdict(list)
        for name in taken:
            if name not in self.requeued:
                lanes[self.asked[name].lane].append(self.asked[name].number)
        for numbers in lanes.values():
            assert numbers == sorted(numbers), "out of order"


def dropped(ledger: Ledger) -> int:
    return ledger.expired + ledger.discarded


def name_in(content: bytes) -> str:
    found = NAME.search(wire.plain(content))
    assert found is not None
    return found[1].decode()


def test_the_drain_keeps_the_promise_in_any_order_of_events() -> None:
    """Twenty thousand events: nothing lost, nothing out of order, nothing twice unmarked."""
    DrainMachine.steps = 0
    DrainMachine.seen.clear()
    with capture_logs() as DrainMachine.logs:
        run_state_machine_as_test(
            DrainMachine,
            settings=settings(
                max_examples=RUNS,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate, *([Phase.shrink] if SHRINKS else [])],
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"\n{DrainMachine.steps} events: {dict(DrainMachine.seen)}")  # noqa: T201 - the figures
    assert DrainMachine.steps >= 90 * RUNS
    assert not [event for event in EVENTS if not DrainMachine.seen[event]], "that never happened"
