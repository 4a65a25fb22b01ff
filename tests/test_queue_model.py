"""The queue against a model of it that fits on a screen, through crashes and full disks.

Hypothesis finds the order of events; the model is a dict of waiting hits and seven counts.
By default this takes a few seconds.  For a long search, say how many steps each run has
(and eight times the runs are made):

    TRACKOFFLINE_MODEL_STEPS=200 pytest tests/test_queue_model.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from clock import FakeClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_queue import NO_BOUND, as_after_a_crash, new_hit, recounted

from proxy.core.hit import Hit, Ledger, NewHit, Received
from proxy.core.limits import Limits
from proxy.errors import QueueFull, QueueUnavailable
from proxy.shell import queue as queue_module
from proxy.shell import rows
from proxy.shell.queue import Queue
from proxy.shell.rows import peek

T = TypeVar("T")

STEPS = os.environ.get("TRACKOFFLINE_MODEL_STEPS")
MAX_AGE_S = 100
LANES = st.integers(1, 3)
PICK = st.integers(0, 1_000)
SIZES = st.sampled_from([0, 10, 9_000])


@dataclass(frozen=True, slots=True)
class Waits:
    """What the model knows of a hit that waits or is a dead letter."""

    lane: int
    received: Received
    size: int
    held: str | None = None
    ambiguous: bool = False


class QueueMachine(RuleBasedStateMachine):
    """Each rule does to the queue what the daemon may do, and to the model what is promised."""

    @initialize(
        drop_oldest=st.booleans(), keep_s=st.sampled_from([0.0, 50.0]), max_hits=st.integers(3, 8)
    )
    def opens(self, *, drop_oldest: bool, keep_s: float, max_hits: int) -> None:
        self.limits = Limits(
            max_hits=max_hits,
            max_age_s=MAX_AGE_S,
            min_free_disk=0,
            drop_oldest=drop_oldest,
            keep_delivered_s=keep_s,
        )
        self.clock = FakeClock()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.waiting: dict[int, Waits] = {}
        self.dead: dict[int, Waits] = {}
        self.flying: set[int] = set()
        self.counts = Ledger()
        self.last_id = self.crashes = 0
        self.is_full = False
        self.start(self.folder / "hits.db")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def start(self, path: Path) -> None:
        async def opened() -> tuple[Queue, asyncio.Task[None]]:
            queue = await Queue.open(path, self.limits, self.clock)
            return queue, asyncio.create_task(queue.run())

        self.queue, self.running = self.do(opened())
        self.steps = 0

    def end(self) -> None:
        async def closed() -> None:
            await self.queue.close()
            await self.running

        self.do(closed())

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.end()
            self.runner.close()
            shutil.rmtree(self.folder)

    # -- the model's side of things --------------------------------------------------------

    def count(self, **more: int) -> None:
        self.counts = replace(
            self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()}
        )

    def drop(self, counted: str, ids: list[int]) -> None:
        for id_ in ids:
            del self.waiting[id_]
        self.count(**{counted: len(ids)})

    def idle(self) -> list[int]:
        """Waiting hits that are not in flight, oldest first."""
        return [id_ for id_ in sorted(self.waiting) if id_ not in self.flying]

    def sendable(self) -> list[int]:
        return [id_ for id_ in self.idle() if self.waiting[id_].held is None]

    def hit(self, id_: int) -> Hit:
        (hit,) = self.do(self.queue.fetch([id_]))
        return hit

    def try_outcome(self, outcome: Coroutine[Any, Any, T]) -> T | None:
        """Only a full disk is an excuse, and then nothing has happened."""
        try:
            return self.do(outcome)
        except QueueUnavailable:
            assert self.is_full
            return None

    def mark_ambiguous(self, id_: int) -> None:
        self.waiting[id_] = replace(self.waiting[id_], ambiguous=True)
        self.count(ambiguous=1)

    # -- rules -----------------------------------------------------------------------------

    @rule(size=SIZES)
    def accept_two(self, size: int) -> None:
        self.accept([1, 2], size)

    @rule(lanes=st.lists(LANES, min_size=1, max_size=3), size=SIZES)
    def accept_some(self, lanes: list[int], size: int) -> None:
        self.accept(lanes, size)

    def accept(self, lanes: list[int], size: int) -> None:
        hits = [new_hit(lane=lane, size=size, at_ms=self.clock.ms()) for lane in lanes]
        over = len(self.waiting) + len(hits) - self.limits.max_hits
        try:
            ids = self.do(self.queue.add(hits))
        except QueueFull:
            assert not self.limits.drop_oldest
            assert over > 0
            return
        except QueueUnavailable:
            assert self.is_full
            return
        assert ids == list(range(self.last_id + 1, self.last_id + 1 + len(hits)))
        if self.limits.drop_oldest:
            self.drop("discarded", self.idle()[: max(0, over)])
        else:
            assert over <= 0
        self.accepted(dict(zip(ids, hits, strict=True)))

    def accepted(self, hits: dict[int, NewHit]) -> None:
        for id_, hit in hits.items():
            self.waiting[id_] = Waits(hit.lane, hit.received, len(hit.content))
        self.count(accepted=len(hits))
        self.last_id += len(hits)

    @rule(picks=st.lists(PICK, min_size=1, max_size=4))
    def begin(self, picks: list[int]) -> None:
        for pick in picks:
            if ids := self.sendable():
                self.fly(ids[pick % len(ids)])

    def fly(self, id_: int) -> None:
        if id_ not in self.flying:
            assert self.queue.begin(id_)
            self.flying.add(id_)

    @rule(pick=PICK)
    def begin_what_is_gone(self, pick: int) -> None:
        """A limit has dropped it: refused. (The drain forgets what it gave an outcome.)"""
        through, spared = self.queue.gone
        gone = [id_ for id_ in range(1, through + 1) if id_ not in spared]
        if gone:
            id_ = gone[pick % len(gone)]
            assert id_ not in self.waiting
            assert not self.queue.begin(id_)

    @rule(
        outcome=st.sampled_from(["deliver", "deliver_beside_a_hit", "defer", "doubt", "bury"]),
        pick=PICK,
    )
    def lands(self, outcome: str, pick: int) -> None:
        """A hit that flies, or flies now, gets its outcome."""
        ids = sorted({*self.flying, *self.sendable()})
        if ids:
            id_ = ids[pick % len(ids)]
            self.fly(id_)
            getattr(self, outcome)(id_)

    @rule(count=st.integers(1, 3))
    def drains(self, count: int) -> None:
        for id_ in self.sendable()[:count]:
            self.fly(id_)
            self.deliver(id_)

    def deliver(self, id_: int) -> None:
        """Also on a full disk."""
        self.do(self.queue.delivered(self.hit(id_), 200, None))
        self.flying.remove(id_)
        self.drop("delivered", [id_])

    def deliver_beside_a_hit(self, id_: int) -> None:
        """The outcome commits first, and a hit that fails does not take it along."""
        hit, big = self.hit(id_), new_hit(size=90_000, at_ms=self.clock.ms())

        async def both() -> tuple[BaseException | None, list[int] | BaseException]:
            delivered, added = self.queue.delivered(hit, 200, None), self.queue.add([big])
            return await asyncio.gather(delivered, added, return_exceptions=True)

        over = len(self.waiting) + 1 - self.limits.max_hits
        delivered, added = self.do(both())
        assert delivered is None
        self.flying.remove(id_)
        self.drop("delivered", [id_])
        if isinstance(added, QueueFull):
            assert not self.limits.drop_oldest
            assert over > 0
        elif isinstance(added, BaseException):
            assert isinstance(added, QueueUnavailable)
            assert self.is_full
        else:
            if self.limits.drop_oldest:
                self.drop("discarded", self.idle()[: max(0, over - 1)])
            self.accepted({self.last_id + 1: big})
            assert added == [self.last_id]

    def defer(self, id_: int) -> None:
        self.queue.deferred(id_)
        self.flying.remove(id_)

    def doubt(self, id_: int) -> None:
        self.do(self.queue.doubt(self.hit(id_)))
        self.flying.remove(id_)
        self.mark_ambiguous(id_)

    def bury(self, id_: int) -> None:
        with contextlib.suppress(QueueUnavailable):
            self.do(self.queue.bury(self.hit(id_), "refused", 404, 1))
            self.flying.discard(id_)
            self.dead[id_] = replace(self.waiting[id_], held=None)
            self.drop("dead", [id_])
            return
        assert self.is_full

    @rule(pick=PICK)
    def bury_what_is_held(self, pick: int) -> None:
        held = [id_ for id_, hit in self.waiting.items() if hit.held is not None]
        if held:
            self.bury(held[pick % len(held)])

    @rule(pick=PICK, suites=st.sampled_from(["a", "b"]))
    def hold(self, pick: int, suites: str) -> None:
        ids = self.sendable()
        if not ids:
            return
        id_ = ids[pick % len(ids)]
        with contextlib.suppress(QueueUnavailable):
            self.do(self.queue.hold(self.hit(id_), [suites], "unknown"))
            self.waiting[id_] = replace(self.waiting[id_], held=suites)
            return
        assert self.is_full

    @rule(
        decision=st.sampled_from(["requeue", "discard", "release"]),
        picks=st.lists(PICK, min_size=1, max_size=3),
    )
    def a_person_decides(self, decision: str, picks: list[int]) -> None:
        if decision == "release":
            self.release("ab"[picks[0] % 2])
        else:
            # Mostly dead letters, now and then twice, or one there is not.
            ids = [*self.dead, self.last_id + 1]
            getattr(self, decision)([ids[pick % len(ids)] for pick in picks])

    def release(self, suites: str) -> None:
        held = [id_ for id_, hit in self.waiting.items() if hit.held == suites]
        assert self.do(self.queue.release(suites)) == len(held)
        for id_ in held:
            self.waiting[id_] = replace(self.waiting[id_], held=None)

    def requeue(self, ids: list[int]) -> None:
        """In the order asked for; what is no dead letter is left out."""
        found = [id_ for id_ in dict.fromkeys(ids) if id_ in self.dead]
        done = self.try_outcome(self.queue.requeue(ids))
        if done is None:
            return
        assert done == len(found)
        for id_ in found:
            self.last_id += 1
            self.waiting[self.last_id] = self.dead.pop(id_)
        self.count(dead=-len(found))

    def discard(self, ids: list[int]) -> None:
        found = [id_ for id_ in dict.fromkeys(ids) if id_ in self.dead]
        assert self.do(self.queue.discard(ids)) == len(found)
        for id_ in found:
            del self.dead[id_]
        self.count(dead=-len(found), discarded=len(found))

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """Too old leaves from the front; what stands behind a younger hit stays for now."""
        self.clock.passes(seconds)
        self.do(self.queue.tidy())
        old = []
        for id_ in sorted(self.waiting):
            if self.clock.ms() - self.waiting[id_].received.ms <= MAX_AGE_S * 1000:
                break
            if id_ not in self.flying:
                old.append(id_)
        self.drop("expired", old)

    @precondition(lambda self: self.steps > 5)
    @rule(clean=st.booleans())
    def end_and_start(self, *, clean: bool) -> None:
        """What flew may have reached Adobe, however the end came; all else is as it was."""
        left = self.queue.path
        if not clean:
            self.crashes += 1
            left = as_after_a_crash(self.queue, self.folder / f"crash {self.crashes}")
        self.end()
        self.is_full = False
        for id_ in self.flying:
            self.mark_ambiguous(id_)
        self.flying.clear()
        self.start(left)

    @rule()
    def the_disk_fills_up_or_is_freed(self) -> None:
        self.is_full = not self.is_full
        pages = 1 if self.is_full else NO_BOUND
        bound = f"PRAGMA max_page_count = {pages}"
        self.do(queue_module._run(self.queue._writer, rows.every, bound))

    # -- what always holds -----------------------------------------------------------------

    @invariant()
    def the_ledger_is_exact(self) -> None:
        self.steps += 1
        expected = replace(
            self.counts,
            waiting=len(self.waiting),
            held=sum(hit.held is not None for hit in self.waiting.values()),
            waiting_bytes=sum(hit.size for hit in self.waiting.values()),
        )
        assert self.queue.ledger == expected
        assert expected.balanced
        assert peek(self.queue.path)[0] == expected
        assert recounted(self.queue.path) == (
            expected.waiting,
            expected.waiting_bytes,
            expected.held,
            expected.dead,
        )

    @invariant()
    def what_waits_is_read_in_order(self) -> None:
        expected = [
            (id_, hit.lane) for id_, hit in sorted(self.waiting.items()) if hit.held is None
        ]
        assert self.do(self.queue.page(0)) == expected
        hits = self.do(self.queue.fetch(sorted(self.waiting)))
        assert [(hit.id, hit.received, hit.size, hit.ambiguous) for hit in hits] == [
            (id_, hit.received, hit.size, hit.ambiguous)
            for id_, hit in sorted(self.waiting.items())
        ]

    @invariant()
    def what_was_spared_is_what_waits_before_what_is_gone(self) -> None:
        through, spared = self.queue.gone
        assert spared == {id_ for id_ in self.waiting if id_ <= through}

    @invariant()
    def the_oldest_is_known(self) -> None:
        oldest = self.waiting[min(self.waiting)].received if self.waiting else None
        assert self.do(self.queue.oldest_waiting()) == oldest


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=500 if STEPS else 60,
    stateful_step_count=int(STEPS or 40),
    deadline=None,
    derandomize=not STEPS,
    suppress_health_check=[HealthCheck.too_slow],
)
