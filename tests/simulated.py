"""Time that jumps, and a queue and a road made of nothing but memory: days pass in moments.

    simulated.run(scenario())

Rule: the loop's time stands still while anything can run, and jumps to the next timer when
nothing can; so a scenario is exact, and the same each time.
Non-rule: no threads and no sockets: the loop would not wait for them.
Source: the "virtual clock" of discrete event simulation.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from proxy.core.hit import Failure, Hit, Received, Reply, Request
from proxy.core.moment import Boots
from proxy.errors import QueueError, QueueUnavailable
from proxy.shell.clock import Clock
from proxy.shell.queue import Feed

T = TypeVar("T")

GIF = Reply(200, ((b"content-type", b"image/gif"),), b"GIF89a")
PAGE_HITS = 1_000


class Loop(asyncio.SelectorEventLoop):
    """An event loop in whose spare moments nothing is waited for."""

    _now = 0.0

    def __init__(self) -> None:
        super().__init__(_Jumper(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds


class _Jumper(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen again")
        if not ready and timeout:
            self._loop.jump(timeout)
        return ready


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """What the scenario returns, as soon as this machine can compute it."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(scenario)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class LoopClock:
    """The machine's clocks, driven by the loop's time; `ahead_s` sets the wall clock wrong."""

    ahead_s: float = 0.0
    boot_id: str = "simulated boot"

    def ms(self) -> int:
        return int(now() * 1000)

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.ms() + int(self.ahead_s * 1000)


@dataclass(frozen=True, slots=True)
class Grave:
    """A dead letter: when it died, and of what."""

    hit: Hit
    reason: str
    status: int | None
    tries: int
    at: float


class Hits:
    """What the drain asks of a queue, in memory; reading and writing take `disk_s` each.

    It is strict where the drain must be: only a waiting hit may be sent, once at a time, no
    two of a lane at once, and a hit leaves once.
    """

    def __init__(self, disk_s: float = 0.001, page_hits: int = PAGE_HITS) -> None:
        self.page_hits = page_hits
        self.news = asyncio.Event()
        self.arrivals: deque[tuple[int, int]] | None = None
        self.feeds: list[Feed] = []
        self.clock: Clock = LoopClock()
        self.disk_s = disk_s
        self.boots = Boots(1, {1: self.clock.wall_ms() - self.clock.ms()})
        self.last_id = 0
        self.gone: tuple[int, frozenset[int]] = (0, frozenset())
        self.waiting: dict[int, Hit] = {}
        self.held: dict[int, str] = {}
        self.dead: list[Grave] = []
        self.taken: list[tuple[Hit, int | None, float]] = []  # delivered: hit, ts and when
        self.doubts: Counter[int] = Counter()
        self.flying: dict[int, int] = {}  # lane by hit
        self.most_flying = 0
        self.settling: set[asyncio.Task[None]] = set()
        self.refusals = 0  # so many calls fail from now on, as on a full disk
        self.pages = 0

    # -- what a test does

    def add(self, lane: int, request: Request, *, told: bool = True, boot: int = 1) -> int:
        """A hit is accepted now; not `told` when nobody tells the drain."""
        self.last_id += 1
        received = Received(boot, self.clock.ms())
        self.waiting[self.last_id] = Hit(self.last_id, lane, received, request)
        if told:
            feeds: list[Feed | Hits] = [self, *self.feeds]
            for told_of in feeds:
                if told_of.arrivals is not None:
                    told_of.arrivals.append((self.last_id, lane))
                told_of.news.set()
        return self.last_id

    def feed(self) -> Feed:
        """For a drain beside the one that reads `news` and `arrivals`."""
        self.feeds.append(Feed())
        return self.feeds[-1]

    def drop(self, through: int) -> list[int]:
        """A limit takes the hits up to this id away, but for those in flight."""
        gone = [hit for hit in self.waiting if hit <= through and hit not in self.flying]
        for hit in gone:
            del self.waiting[hit]
            self.held.pop(hit, None)
        through = max(through, self.gone[0])
        self.gone = (through, frozenset(hit for hit in self.waiting if hit <= through))
        return gone

    def release(self, then: Callable[[], None] = lambda: None) -> None:
        """A person said what was missing."""
        self.held.clear()
        then()

    # -- what the drain does

    async def page(self, after: int) -> list[tuple[int, int]]:
        self._refuse()
        self.pages += 1
        found: list[tuple[int, int]] = []
        for hit in range(after + 1, self.last_id + 1):
            if hit in self.waiting and hit not in self.held:
                found.append((hit, self.waiting[hit].lane))
                if len(found) == self.page_hits:
                    break
        # A page is old when it arrives: what flew meanwhile may have landed and left.
        await asyncio.sleep(4 * self.disk_s)
        return found

    async def fetch(self, ids: Sequence[int]) -> list[Hit]:
        self._refuse()
        # As in the queue, what was delivered is kept a while: the drain must not ask for it.
        kept = {hit.id: hit for hit, _, _ in self.taken[-PAGE_HITS:]} | self.waiting
        found = [kept[hit] for hit in ids if hit in kept]
        await asyncio.sleep(self.disk_s)
        return found

    async def held_lanes(self) -> set[int]:
        self._refuse()
        found = {self.waiting[hit].lane for hit in self.held}
        await asyncio.sleep(4 * self.disk_s)  # likewise
        return found

    async def stamps_after(self, second: int) -> dict[int, int]:
        self._refuse()
        found: dict[int, int] = {}
        for hit, ts, _ in self.taken:
            if ts is not None and ts > second:
                found[hit.lane] = max(ts, found.get(hit.lane, 0))
        return found

    async def note_clock(self) -> None:
        offset = self.clock.wall_ms() - self.clock.ms()
        if self.boots.stepped(offset):
            self.boots = self.boots.corrected(offset)

    def begin(self, *hits: int) -> set[int]:
        return {hit for hit in hits if self._begin(hit)}

    def _begin(self, hit: int) -> bool:
        through, spared = self.gone
        if hit <= through and hit not in spared:
            return False
        assert hit in self.waiting, f"{hit} does not wait"
        assert hit not in self.held, f"{hit} is held"
        assert hit not in self.flying, f"{hit} flies already"
        lane = self.waiting[hit].lane
        assert lane not in self.flying.values(), f"two of lane {lane} at once"
        self.flying[hit] = lane
        self.most_flying = max(self.most_flying, len(self.flying))
        return True

    def deferred(self, hit: int) -> None:
        self.flying.pop(hit, None)

    def settle(
        self, hit: Hit, status: int, ts: int | None, tell: Callable[[QueueError | None], None]
    ) -> None:
        def done(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            assert error is None or isinstance(error, QueueError), error
            tell(error)

        task = asyncio.create_task(self._delivered(hit, status, ts))
        self.settling.add(task)
        task.add_done_callback(self.settling.discard)
        task.add_done_callback(done)

    async def _delivered(self, hit: Hit, status: int, ts: int | None) -> None:
        assert status in {200, 204}
        assert hit.id in self.flying
        await self._write()
        del self.waiting[hit.id]
        self.taken.append((hit, ts, now()))
        await self._written(hit)

    async def bury(self, hit: Hit, reason: str, status: int | None, tries: int) -> None:
        await self._write()
        if self.waiting.pop(hit.id, None) is not None:
            self.dead.append(Grave(hit, reason, status, tries, now()))
        await self._written(hit)

    async def hold(self, hit: Hit, suites: Sequence[str], reason: str) -> None:
        assert suites
        await self._write()
        if hit.id in self.waiting:
            self.held[hit.id] = reason
        await self._written(hit)

    async def doubt(self, hit: Hit) -> None:
        await self._write()
        if hit.id in self.waiting:
            self.doubts[hit.id] += 1
            self.waiting[hit.id] = replace(self.waiting[hit.id], ambiguous=True)
        await self._written(hit)

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise QueueUnavailable("no space left on device")

    async def _write(self) -> None:
        await asyncio.sleep(self.disk_s)
        self._refuse()

    async def _written(self, hit: Hit) -> None:
        self.flying.pop(hit.id, None)
        await asyncio.sleep(self.disk_s)


Outcome = Reply | Failure | float  # a number: so many seconds, and then a GIF


class HalfAtRest:
    """A road of which every other connection rests: what is asked of it needs no waiting."""

    turns = 0

    async def send(self, request: Request) -> Reply | Failure:
        raise NotImplementedError

    def ask(self, request: Request, tell: Callable[[Reply | Failure], None]) -> bool:
        self.turns += 1
        if self.turns % 2:
            return False
        task = asyncio.create_task(self.send(request))
        asking.add(task)
        task.add_done_callback(asking.discard)
        task.add_done_callback(lambda done: None if done.cancelled() else tell(done.result()))
        return True


asking: set[asyncio.Task[Reply | Failure]] = set()  # or nobody would hold them


class Road(HalfAtRest):
    """A road that answers what `says` says about each request, after `rtt_s` and up to `more_s`.

    `listens` says what a probe meets.  `sent` and `answered` have the instants.
    """

    def __init__(
        self,
        says: Callable[[Request], Outcome] = lambda _: GIF,
        listens: Callable[[], Failure | None] = lambda: None,
        rtt_s: float = 0.05,
        more_s: float = 0.0,
    ) -> None:
        self.says, self.listens, self.rtt_s, self.more_s = says, listens, rtt_s, more_s
        self.drawn = random.Random(1)
        self.sent: list[tuple[float, Request]] = []
        self.answered: list[tuple[float, Outcome]] = []
        self.probed: list[float] = []
        self.asked = self.most_asked = 0  # at one time

    async def send(self, request: Request) -> Reply | Failure:
        self.asked += 1
        self.most_asked = max(self.most_asked, self.asked)
        try:
            return await self._answer(request)
        finally:
            self.asked -= 1

    async def _answer(self, request: Request) -> Reply | Failure:
        self.sent.append((now(), request))
        said = self.says(request)
        if isinstance(said, float):
            await asyncio.sleep(said)
            return GIF
        await asyncio.sleep(self.rtt_s + self.drawn.uniform(0, self.more_s))
        self.answered.append((now(), said))
        return said

    async def probe(self) -> Failure | None:
        self.probed.append(now())
        said = self.listens()
        await asyncio.sleep(self.rtt_s)
        return said
