"""The queue against a model of it that fits on a screen, through crashes and full disks.

Hypothesis finds the order of events; the model is a dict of waiting hits and seven counts.
By default this takes some ten seconds.  For a long search, say how many steps each run has
(and ten times the runs are made):

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
from proxy.shell.queue import Queue, peek

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

    @rule(lanes=st.lists(LANES, min_size=1, max_size=3), size=SIZES)
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

    @precondition(lambda self: self.sendable())
    @rule(pick=PICK)
    def begin(self, pick: int) -> None:
        id_ = self.sendable()[pick % len(self.sendable())]
        assert self.queue.begin(id_)
        self.flying.add(id_)

    @precondition(lambda self: self.last_id > len(self.waiting))
    @rule(pick=PICK)
    def begin_what_is_gone(self, pick: int) -> None:
        """A limit has dropped it: refused. (The drain forgets what it gave an outcome.)"""
        through, spared = self.queue.gone
        gone = [id_ for id_ in range(1, through + 1) if id_ not in spared]
        if gone:
            id_ = gone[pick % len(gone)]
            assert id_ not in self.waiting
            assert not self.queue.begin(id_)

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def deliver(self, pick: int) -> None:
        """Also on a full disk."""
        id_ = sorted(self.flying)[pick % len(self.flying)]
        self.do(self.queue.delivered(self.hit(id_), 200, None))
        self.flying.remove(id_)
        self.drop("delivered", [id_])

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def defer(self, pick: int) -> None:
        id_ = sorted(self.flying)[pick % len(self.flying)]
        self.queue.deferred(id_)
        self.flying.remove(id_)

    @precondition(lambda self: self.flying)
    @rule(pick=PICK)
    def doubt(self, pick: int) -> None:
        id_ = sorted(self.flying)[pick % len(self.flying)]
        self.do(self.queue.doubt(self.hit(id_)))
        self.flying.remove(id_)
        self.mark_ambiguous(id_)

    @precondition(lambda self: self.waiting)
    @rule(pick=PICK)
    def bury(self, pick: int) -> None:
        """Whether it flies, is held, or just waits."""
        id_ = sorted(self.waiting)[pick % len(self.waiting)]
        outcome = self.queue.bury(self.hit(id_), "refused", 404, 1)
        with contextlib.suppress(QueueUnavailable):
            self.do(outcome)
            self.flying.discard(id_)
            self.dead[id_] = replace(self.waiting[id_], held=None)
            self.drop("dead", [id_])
            return
        assert self.is_full

    @precondition(lambda self: self.sendable())
    @rule(pick=PICK, suites=st.sampled_from(["a", "b"]))
    def hold(self, pick: int, suites: str) -> None:
        id_ = self.sendable()[pick % len(self.sendable())]
        with contextlib.suppress(QueueUnavailable):
            self.do(self.queue.hold(self.hit(id_), [suites], "unknown"))
            self.waiting[id_] = replace(self.waiting[id_], held=suites)
            return
        assert self.is_full

    @rule(suites=st.sampled_from(["a", "b"]))
    def release(self, suites: str) -> None:
        held = [id_ for id_, hit in self.waiting.items() if hit.held == suites]
        assert self.do(self.queue.release(suites)) == len(held)
        for id_ in held:
            self.waiting[id_] = replace(self.waiting[id_], held=None)

    @rule(picks=st.lists(PICK, max_size=3))
    def requeue(self, picks: list[int]) -> None:
        """In the order asked for; what is no dead letter is left out."""
        ids = [pick % (self.last_id + 2) for pick in picks]
        found = [id_ for id_ in dict.fromkeys(ids) if id_ in self.dead]
        done = self.try_outcome(self.queue.requeue(ids))
        if done is None:
            return
        assert done == len(found)
        for id_ in found:
            self.last_id += 1
            self.waiting[self.last_id] = self.dead.pop(id_)
        self.count(dead=-len(found))

    @rule(picks=st.lists(PICK, max_size=3))
    def discard(self, picks: list[int]) -> None:
        ids = [pick % (self.last_id + 2) for pick in picks]
        found = [id_ for id_ in dict.fromkeys(ids) if id_ in self.dead]
        assert self.do(self.queue.discard(ids)) == len(found)
        for id_ in found:
            del self.dead[id_]
        self.count(dead=-len(found), discarded=len(found))

    @rule(seconds=st.sampled_from([1.0, 30.0, MAX_AGE_S + 0.001]))
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

    @rule()
    def crash(self) -> None:
        """What flew may have reached Adobe; all else is as it was."""
        self.crashes += 1
        left = as_after_a_crash(self.queue, self.folder / f"crash {self.crashes}")
        self.end()
        self.restarted(left)

    @rule()
    def restart(self) -> None:
        """A send that was cut by the end of the process is as ambiguous as after a crash."""
        self.end()
        self.restarted(self.queue.path)

    def restarted(self, path: Path) -> None:
        self.is_full = False
        for id_ in self.flying:
            self.mark_ambiguous(id_)
        self.flying.clear()
        self.start(path)

    @rule()
    def the_disk_fills_up_or_is_freed(self) -> None:
        self.is_full = not self.is_full
        pages = 1 if self.is_full else NO_BOUND
        bound = f"PRAGMA max_page_count = {pages}"
        self.do(queue_module._run(self.queue._writer, queue_module._rows, bound))

    # -- what always holds -----------------------------------------------------------------

    @invariant()
    def the_ledger_is_exact(self) -> None:
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
    def the_oldest_is_known(self) -> None:
        oldest = self.waiting[min(self.waiting)].received if self.waiting else None
        assert self.do(self.queue.oldest_waiting()) == oldest


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=300 if STEPS else 50,
    stateful_step_count=int(STEPS or 30),
    deadline=None,
    derandomize=not STEPS,
    suppress_health_check=[HealthCheck.too_slow],
)
