"""The drain: what waits goes to the collection server, and leaves when Adobe took it.

Rule: the one place where the core meets queue and upstream.  Each hit runs the same way:
taken from its lane, read, looked at once there is room (send, hold, bury), sent, judged,
recorded; its lane goes on only when the outcome is on disk, so order survives a crash.  A hit that
finds a connection at rest and is taken needs no task: road and queue tell by a call.  What has to
wait for more is a task.
Non-rule: decides nothing itself (`schedule` says which, `link` and `pace` how many and
when, `stamp` whether, `verdict` what came of it), and a shutdown is no outcome of a hit.
Source: nullmailer's send loop for the shape; docs/design/0003, 0008, 0020.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import structlog

from proxy.core import advice, backoff, headers, stamp, verdict
from proxy.core.company import Company, most_in_hand
from proxy.core.hit import Failure, Fault, Hit, Reply, Request
from proxy.core.link import Flight, Link, State
from proxy.core.measure import OTHER, BySuite, Durations
from proxy.core.moment import TOLD, Boots
from proxy.core.pace import Pace
from proxy.core.protocols import Opened
from proxy.core.protocols import Protocol as Spoken
from proxy.core.schedule import Schedule
from proxy.core.unread import Unread
from proxy.core.verdict import Delivered, Follow, LinkDown, Refused, Retry
from proxy.core.yielding import Yielding
from proxy.errors import NotABeacon, QueueError
from proxy.points import Point, reached
from proxy.shell.clock import Clock

T = TypeVar("T")

log = structlog.get_logger()

# How far the cursor runs ahead past lanes that cannot send: 8 bytes a hit in memory.
MOST_KNOWN = 2_000_000
# So many known hits are enough for a while: those that come later are left for the cursor,
# or an outage would put every lane of its backlog in memory.
MOST_AHEAD = 10_000
# Between launches it reads so many pages at most; sending must not wait for reading.
PAGES_AT_ONCE = 2
# Fresh hits that may overtake the backlog of other visitors at one time.
MOST_EARLY = 10_000
LAST_TS = 100_000
COMPARE_S = 60.0
# A client waits for the reply to its hit while no more than so many of its lane go before, and
# the pace has no longer pause than this.
FEW = 8
SOON_S = 0.5
# So many clients wait at one time: those behind a dead server must not use up the connections
# that all clients share.
MOST_WATCHED = 256
# With so many on their way, the next ones wait a moment for company.
CROWD = 16
AGAIN_S = 1.0  # what the disk refused, and what a limit dropped, is looked at so often


class Feed(Protocol):
    """Where the queue tells one drain that something happened, and of every new hit."""

    news: asyncio.Event
    arrivals: deque[tuple[int, int]] | None


class Hits(Feed, Protocol):
    """What the drain asks of the queue, which is itself the feed of a drain that is alone."""

    clock: Clock

    @property
    def boots(self) -> Boots: ...
    @property
    def gone(self) -> tuple[int, frozenset[int]]: ...
    @property
    def last_id(self) -> int: ...
    async def page(self, after: int) -> list[tuple[int, int]]: ...
    async def fetch(self, ids: Sequence[int]) -> list[Hit]: ...
    async def held_lanes(self) -> set[int]: ...
    async def stamps_after(self, second: int) -> dict[int, int]: ...
    async def note_clock(self) -> None: ...
    def begin(self, *hits: int) -> set[int]: ...
    def deferred(self, hit: int) -> None: ...
    def settle(
        self, hit: Hit, status: int, ts: int | None, tell: Callable[[QueueError | None], None]
    ) -> None: ...
    async def bury(self, hit: Hit, reason: str, status: int | None, tries: int) -> None: ...
    async def hold(self, hit: Hit, suites: Sequence[str], reason: str) -> None: ...
    async def doubt(self, hit: Hit) -> None: ...


class Road(Protocol):
    """What the drain asks of the upstream; `ask` tells later, or is False, and nothing was sent."""

    def ask(self, request: Request, tell: Callable[[Reply | Failure], None]) -> bool: ...
    async def send(self, request: Request) -> Reply | Failure: ...
    async def probe(self) -> Failure | None: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What a failed send costs, and how fast a backlog leaves; seconds and hits a second."""

    first_s: float = 1.0
    most_s: float = 15.0
    attempts: int = 5
    rate: float = 0.0
    concurrency: int = 64
    grace_s: float = 3.0


@dataclass(slots=True)
class _Trial:
    """What a hit has been through in this process."""

    charged: int = 0
    failures: int = 0
    failed_at: float | None = None
    reason: str = ""
    again_at: float | None = None  # None while it is the link that is waited for


class _Sent(NamedTuple):
    """A hit on its way: since when, and with which time of its own."""

    hit: Hit
    opened: Opened
    began: float
    at_ms: int | None


class Drain:
    """One upstream's drain, of the hits of one protocol: others share the queue, nothing else.

    `run` goes until `stop`; verbs may be called at any time.
    """

    _held_meanwhile: set[int] | None = None  # lanes, while it is looked which hold any

    def __init__(
        self,
        hits: Hits,
        road: Road,
        protocol: Spoken,
        policy: Policy,
        jitter: Callable[[], float],
        feed: Feed | None = None,
        worked_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`worked_s`: how long the loop has had something to do so far; hits that come go first."""
        self.protocol = protocol
        self.policy = policy
        self.link = Link(first=policy.first_s, most=policy.most_s, concurrency=policy.concurrency)
        self.pace = Pace(policy.rate)
        self.results: Counter[str] = Counter()  # sends by what came of them
        self.delivered_by = BySuite()
        self.dead_by: Counter[tuple[str, str]] = Counter()  # by report suite and cause
        self.durations = Durations()
        self.skew_s: float | None = None  # our clock less the collection server's
        self._skew_at = -inf
        self.last_failure: str | None = None
        self.last_delivery_ms: int | None = None  # Unix time
        self.since_ms = hits.clock.wall_ms()  # when the link last changed between up and down
        self._hits, self._road = hits, road
        self._feed = feed if feed is not None else hits
        self._jitter = jitter
        self._worked_s, self._went, self._company = worked_s, 0, Company()
        self._now = asyncio.get_running_loop().time
        self._yielding = Yielding(self._now(), worked_s(), hits.last_id, 0)
        self._schedule = Schedule()
        self._cursor = 0  # hits up to this id are known to the schedule, or left the queue
        self._early: set[int] = set()  # and so are these, behind it, until they leave
        self._left: set[int] | None = None  # of these, those that left while a page is read
        self._heard = hits.last_id  # the last hit anybody told of
        self._unread = Unread(0, hits.last_id)
        self._arrivals: deque[tuple[int, int]] = deque()
        self._feed.arrivals = self._arrivals
        self._gone = (0, frozenset[int]())
        self._gone_at = -inf
        self._flying: dict[int, float] = {}  # when the sends in flight began, by hit
        self._asking: dict[int, float] = {}  # those of them that have no answer yet
        self._tasks = asyncio.TaskGroup()
        self._sends: set[asyncio.Task[None]] = set()
        self._probes: set[asyncio.Task[None]] = set()
        # Read, and the next to fly; and whether more of them are being read.
        self._hand, self._is_reading = deque[Hit](), False
        self._recalls = 0  # how often what was about to fly was called back
        self._trials: dict[int, _Trial] = {}
        self._last_ms: OrderedDict[int, int] = OrderedDict()  # the last stamp of a lane
        self._watched: dict[int, asyncio.Future[Reply | None]] = {}  # whose clients wait
        self._silent = False  # nobody is to wait for a reply any more
        self._held_lanes: set[int] = set()
        self._saw_others = False  # hits that another road takes
        self._paused = False
        self._afresh = True
        self._ending = asyncio.Event()
        self._over = False  # what comes now is nobody's: a crash would leave it so, too
        self._held_may_be_gone = False
        self._moved_at = 0.0  # when the drain last tried something, or could not
        self._told: bool | None = None  # whether the log last said online

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def flying(self) -> frozenset[int]:
        """The hits in flight."""
        return frozenset(self._flying)

    def tries(self, most: int) -> dict[int, int]:
        """How often hits that still wait have failed in this process, of so many at most."""
        return {hit: trial.failures for hit, trial in islice(self._trials.items(), most)}

    def waits(self, most: int) -> dict[int, tuple[str, float | None]]:
        """Of as many, why the last try failed, and in how many seconds the next one is due."""
        now = self._now()
        return {
            hit: (trial.reason, None if trial.again_at is None else max(0.0, trial.again_at - now))
            for hit, trial in islice(self._trials.items(), most)
        }

    @property
    def all_known(self) -> int | None:
        """How many of its hits wait, held ones left out, if others do and it has read them all."""
        if not self._saw_others or self._afresh or self._cursor < self._hits.last_id:
            return None
        return len(self._schedule)

    # -- clients that wait for the reply to their hit --------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the collection server may be asked now, and is not known to be out of reach."""
        return not self._paused and self.link.state is not State.OFFLINE

    @property
    def _goes_on(self) -> bool:
        """Whether sends begin now, and go on beginning."""
        now = self._now()
        return (
            self.is_open
            and not (self._silent or self._ending.is_set())
            and self.pace.next_at(now) <= now + SOON_S
        )

    def goes_soon(self, lane: int) -> bool:
        """Whether a hit of this lane that is stored now may be sent in a moment."""
        return (
            self._goes_on
            and len(self._watched) < MOST_WATCHED
            and self._schedule.behind(lane) < FEW
            and not self._unread.may_hold(lane)
        )

    async def reply(self, hit: int, within_s: float) -> Reply | None:
        """What the collection server answers to a hit just stored; None when that takes longer.

        So it does as soon as the hit has to wait: it is stored, and its client need not.
        """
        if self._silent or (not self._goes_on and hit not in self._flying):
            return None
        watch = self._watched[hit] = asyncio.get_running_loop().create_future()
        await asyncio.wait([watch], timeout=within_s)
        if not watch.done() and hit not in self._flying:
            self._watched.pop(hit, None)
        return watch.result() if watch.done() else None

    def _answered(self, hit: int, reply: Reply | None) -> None:
        """Its client waits no longer."""
        watch = self._watched.pop(hit, None)
        if watch is not None and not watch.done():
            watch.set_result(reply)

    def answer_no_more(self) -> None:
        """The daemon stops: who waits is told that the hit is stored, and goes."""
        self._silent = True
        for hit in list(self._watched):
            self._answered(hit, None)

    def _dismiss(self) -> None:
        """Nobody waits for a hit that is not on its way."""
        for hit in [hit for hit in self._watched if hit not in self._flying]:
            self._answered(hit, None)

    # -- verbs -------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """A person wants nothing sent (or sent again); what is in flight goes on."""
        self._paused = paused
        self._recall()
        self._feed.news.set()

    def retry(self, lanes: Collection[int] | None = None) -> int:
        """Try at once: probe the link, and let every lane go that waits out a failure; how many.

        With `lanes`, these only; then a pause that the server asked for is not cut short.
        """
        now = self._now()
        self.link.retry_now(now)
        if lanes is None:
            self.pace.retry_now(now)
        released = self._schedule.release_all(lanes)
        self._feed.news.set()
        return released

    def change_policy(self, policy: Policy) -> None:
        """What failures cost from now on, and how fast a backlog leaves."""
        self.policy = policy
        self.link.change_back_off(policy.first_s, policy.most_s)
        self.pace.configure(policy.rate, self._now())
        self._feed.news.set()

    def idle_s(self, now: float) -> float:
        """For how long nothing was tried although hits may be sent; 0 when there is a reason."""
        return 0.0 if self._waits(now) else now - self._moved_at

    def _waits(self, now: float) -> bool:
        return bool(
            self._paused
            or not (self._schedule.sendable or self._hand or self._is_reading)
            or self.link.state is State.OFFLINE
            or self.pace.next_at(now) > now
        )

    def start_over(self) -> None:
        """Read the queue from its beginning again, as after held hits were released."""
        self._afresh = True
        self._recall()
        self._feed.news.set()

    def stop(self) -> None:
        """Send nothing new; `run` ends when what flies has landed, or after the grace."""
        self._ending.set()
        self._recall()
        self._feed.news.set()

    # -- the loop ----------------------------------------------------------------------

    async def run(self) -> None:
        self._tasks = asyncio.TaskGroup()
        try:
            async with self._tasks:
                while not self._ending.is_set():
                    await self._round()
                for probe in self._probes:
                    probe.cancel()
                await self._until_landed()
                # Whose answer is there has a turn to take it, and what that begins another one:
                # a task that is ended before its first step leaves no outcome.
                await asyncio.sleep(0)
                self._over = True
                await asyncio.sleep(0)
                for send in self._sends:
                    send.cancel()
        finally:
            self._over = True
            for hit in list(self._watched):
                self._answered(hit, None)

    async def _round(self) -> None:
        """Look what there is to do, do it, and wait for more."""
        self._feed.news.clear()
        try:
            # Now, for the next restart may come before the next send.
            await self._hits.note_clock()
            if self._afresh and not self._flying:
                await self._begin()
            self._notice()
            if self._held_may_be_gone:
                await self._look_at_held()
            if len(self._asking) >= CROWD and self._hand and (wait_s := self._company.wait_s):
                await asyncio.sleep(wait_s)
            await self._read_ahead()
            await self._launch()
        except QueueError as error:
            log.warning("the queue could not be read, trying again", reason=str(error))
            await _wait(self._ending, self._now() + AGAIN_S)
        else:
            await _wait(self._feed.news, self._next_at())

    async def _until_landed(self) -> None:
        """What flies may land, for as long as the grace lasts."""
        until = self._now() + self.policy.grace_s
        while self._flying and self._now() < until:
            self._feed.news.clear()
            await _wait(self._feed.news, until)

    async def _begin(self) -> None:
        """Forget where the hits are, and read the queue from its beginning."""
        self._afresh = False  # first, for someone may want it again meanwhile
        try:
            self._held_lanes = await self._hits.held_lanes()
            # Lanes that were stamped by a clock ahead of today's must not go back either.
            ahead = await self._hits.stamps_after(self._hits.clock.wall_ms() // 1000)
        except QueueError:
            self._afresh = True
            raise
        for lane, ts in ahead.items():
            self._last_ms[lane] = max(ts * 1000, self._last_ms.get(lane, 0))
        self._schedule, self._cursor = Schedule(), 0
        self._early.clear()
        self._arrivals.clear()
        self._heard = self._hits.last_id
        self._unread = Unread(0, self._heard)

    def _notice(self) -> None:
        """What happened in the queue meanwhile."""
        now = self._now()
        if self._waits(now):
            self._moved_at = now
        if now >= self._yielding.next_at:
            self._yielding.look(now, self._worked_s(), self._hits.last_id, self._went)
        if any(self.protocol.takes(lane) for _, lane in self._arrivals):
            self.link.woken(now)  # what comes for another road says nothing of this one
        while self._arrivals:
            self._arrived(*self._arrivals.popleft())
        if self._hits.gone != self._gone and now >= self._gone_at + AGAIN_S:
            self._gone_at = now
            self._forget()
            self._held_may_be_gone = bool(self._held_lanes)
        self._schedule.release(now)

    async def _look_at_held(self) -> None:
        """Limits took hits away: behind which held ones nobody need wait any more."""
        self._held_may_be_gone = False
        known, self._held_meanwhile = set(self._held_lanes), set()
        try:
            left = await self._hits.held_lanes()
            # What was seen is old: a hit that was held since then is not among it.
            self._held_lanes -= known - left - self._held_meanwhile
        except QueueError:
            self._held_may_be_gone = True
            raise
        finally:
            self._held_meanwhile = None

    def _forget(self) -> None:
        """Drop what limits took away: only now and then, for `begin` sees the rest."""
        self._gone = through, spared = self._hits.gone
        kept = spared | self._flying.keys()
        self._schedule.dropped(through, kept)
        for hit in [hit for hit in self._trials if hit <= through and hit not in kept]:
            del self._trials[hit]
            self.link.left(hit)
        self._early = {hit for hit in self._early if hit > through or hit in kept}

    def _arrived(self, hit: int, lane: int) -> None:
        """A new hit: behind its lane if all of that is known, else the cursor will find it."""
        gap, self._heard = hit > self._heard + 1, max(hit, self._heard)
        if hit <= self._cursor:
            return
        ours = self.protocol.takes(lane)
        self._saw_others |= not ours
        if self._cursor == hit - 1 and (not ours or len(self._schedule) < MOST_AHEAD):
            if ours:
                self._schedule.offer(hit, lane, fresh=self._schedule.sendable_backlog > 0)
            self._cursor = hit
            return
        if gap:
            self._unread.missed(hit - 1)
        if not ours:
            return
        if len(self._early) < MOST_EARLY and not self._unread.may_hold(lane):
            self._schedule.offer(hit, lane, fresh=True)
            self._early.add(hit)
        else:
            self._unread.add(hit, lane)

    async def _read_ahead(self) -> None:
        """Know enough lanes that could send to fill what may fly."""
        # One lane may hold nothing but poison, so the canary needs more than one to choose from.
        wanted = 1 if self.link.state is State.OFFLINE else 2 * self.policy.concurrency
        for _ in range(PAGES_AT_ONCE):
            if (
                self._schedule.sendable_backlog >= wanted
                or self._cursor >= self._hits.last_id
                or len(self._schedule) >= MOST_KNOWN
                or self._afresh
            ):
                break
            await self._read_page()
        else:
            self._feed.news.set()
        if self._unread.to_survey and self.link.state is State.ONLINE:
            last = self._hits.last_id
            rows = await self._hits.page(self._unread.surveyed)
            ours = [row for row in rows if self.protocol.takes(row[1])]
            self._unread.survey(ours, rows[-1][0] if rows else last)
            self._feed.news.set()

    async def _read_page(self) -> None:
        last = self._hits.last_id
        self._left = set()
        try:
            page = await self._hits.page(self._cursor)
            takes = self.protocol.takes
            for hit, lane in page:
                if not takes(lane):
                    self._saw_others = True
                elif hit not in self._early and hit not in self._left:
                    self._schedule.offer(hit, lane)
        finally:
            self._left = None
        self._cursor = page[-1][0] if page else max(self._cursor, last)
        self._early = {hit for hit in self._early if hit > self._cursor}
        self._unread.read(self._cursor)

    async def _launch(self) -> None:
        """Start what may fly now."""
        now = self._now()
        if not self._may_send:
            return
        if self.link.probe_due(now):
            self.link.probe_began(now)
            self._start(self._probe(), self._probes)
        self._fill_hand(now)
        if self._hand:
            # From here to the last of the sends nothing is awaited: a clock that is set meanwhile,
            # or a reload, would be too late for them.
            await self._hits.note_clock()
            self._send(self._draw(now))

    def _fill_hand(self, now: float) -> None:
        """Have the next hits read; some of them before there is room for them."""
        room = min(self._room(), self._yielding.room)
        is_proven = self.link.state is State.ONLINE
        ahead = self._company.ahead(self.link.window) if is_proven else 0
        lacks = min(room + ahead, most_in_hand(self.pace.limit(now))) - len(self._hand)
        # Half of them at least: each read costs as much as sending a hit.
        if self._is_reading or lacks <= len(self._hand):
            return
        turn = self.link.turn if self.link.state is State.SUSPECT else None
        taken: list[tuple[int, int]] = []
        while len(taken) < lacks and (chosen := self._schedule.take(turn)) is not None:
            taken.append(chosen)
        if taken:
            self._moved_at, self._is_reading = now, True
            self._start(self._fetch(taken, self._schedule, self._recalls))

    async def _fetch(
        self, taken: Sequence[tuple[int, int]], schedule: Schedule, recalls: int
    ) -> None:
        """The next hits come to hand, unless they were called back meanwhile."""
        try:
            found = {hit.id: hit for hit in await self._hits.fetch([hit for hit, _ in taken])}
            called_back = recalls != self._recalls
        except QueueError as error:
            log.warning("the queue could not be read, trying again", reason=str(error))
            await asyncio.sleep(AGAIN_S)
            found, called_back = {}, True
        now = self._now()
        for id_, lane in taken:
            if called_back:
                schedule.deferred(lane, now)
            elif id_ in found:
                self._hand.append(found[id_])
            else:
                self._leave(id_, lane)
        self._is_reading = False
        self._feed.news.set()

    def _draw(self, now: float) -> list[_Sent]:
        """As many of what is in hand as window and pace allow."""
        going: list[_Sent] = []
        room = min(self._room(), self._yielding.room)
        through, spared = self._hits.gone
        drawn = 0
        while self._hand and drawn < room and self.pace.next_at(now) <= now:
            hit = self._hand.popleft()
            if hit.id <= through and hit.id not in spared:
                self._leave(hit.id, hit.lane)
                continue
            drawn += 1
            self._flying[hit.id] = self._asking[hit.id] = now
            sent = self._look_at(hit, now)
            if sent is not None:
                self.pace.sent(now)
                going.append(sent)
        if drawn:
            self._moved_at = now
            self._went += drawn
            self._yielding.sent(drawn)
        return going

    def _send(self, going: Sequence[_Sent]) -> None:
        """All are marked as in flight, in one step, before the first one leaves."""
        self._hits.begin(*[sent.hit.id for sent in going])
        for sent in going:
            reached(Point.SEND_MARKED)
            self._depart(sent)

    @property
    def _may_send(self) -> bool:
        return not (self._paused or self._afresh)

    def _room(self) -> int:
        """What the window allows: requests without an answer yet.

        What has its answer and is not on disk yet takes no place on the way, but there are no
        more of both than twice the window: a crash leaves them in doubt.
        """
        return min(
            self.link.room(self._asking.values()),
            self.policy.concurrency - len(self._asking),
            2 * self.policy.concurrency - len(self._flying),
        )

    def _recall(self) -> None:
        """What was taken and is not on its way yet stays: the reason to send it is gone."""
        self._recalls += 1
        now = self._now()
        while self._hand:
            self._schedule.deferred(self._hand.popleft().lane, now)
        self._dismiss()

    def _start(
        self, work: Coroutine[None, None, None], among: set[asyncio.Task[None]] | None = None
    ) -> None:
        try:
            task = self._tasks.create_task(work)
        except RuntimeError:
            # The drain is being ended: the hit stays marked as in flight, for the next start.
            work.close()
            return
        among = self._sends if among is None else among
        among.add(task)
        task.add_done_callback(among.discard)

    def _next_at(self) -> float | None:
        """When there is something to do again, if nothing happens before."""
        now = self._now()
        times = [self._schedule.next_at()]
        if self._may_send:
            times.append(self.link.next_wake(now))
            waits = self._hand or (self._schedule.sendable and not self._is_reading)
            if waits and self._room() > 0:
                at = self.pace.next_at(now)
                times.append(at if self._yielding.room > 0 else max(at, self._yielding.next_at))
        return min((at for at in times if at is not None), default=None)

    async def _probe(self) -> None:
        try:
            failure = await self._road.probe()
        except Exception as error:  # noqa: BLE001 - its kind and place are logged
            log.error("a probe failed in a way nobody foresaw", **_where(error))  # noqa: TRY400
            failure = Failure(Fault.CONNECT, type(error).__name__)
        now = self._now()
        if failure is None:
            self.link.probe_succeeded(now)
        else:
            self.last_failure = f"{failure.fault}: {failure.detail}"
            self.link.probe_failed(now, jitter=self._jitter())
            self._dismiss()
        self._feed.news.set()

    # -- one hit -----------------------------------------------------------------------

    def _look_at(self, hit: Hit, began: float) -> _Sent | None:
        """What is to be sent; None where something else is to be done, and has been begun."""
        try:
            opened = self.protocol.open(hit)
        except NotABeacon as error:
            self._see_to(hit, partial(self._bury, hit, f"its stored form is no hit: {error}", None))
            return None
        boots, now_ms = self._hits.boots, self._hits.clock.ms()
        decision = opened.decide(boots.age_ms(hit.received, now_ms) / 1000)
        match decision:
            case stamp.Hold(reason):
                self._see_to(hit, partial(self._hold, hit, opened.addressees, reason))
            case stamp.Bury(reason):
                self._see_to(hit, partial(self._bury, hit, reason, None))
            case stamp.Send() if hit.lane in self._held_lanes:
                self._see_to(hit, partial(self._wait_in_line, hit, opened))
            case stamp.Send(stamped):
                reached(Point.SEND_BEFORE)
                at_ms = self._instant(hit, boots) if stamped else None
                return _Sent(hit, opened, began, at_ms)
        return None

    def _see_to(self, hit: Hit, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """What has to wait for the disk, and lands the hit."""
        self._start(self._landing(hit.id, work))

    async def _landing(self, hit: int, work: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await work()
        finally:
            self._land(hit)

    def _land(self, hit: int) -> None:
        """The hit is not on its way any more."""
        self._flying.pop(hit, None)
        self._asking.pop(hit, None)
        self._answered(hit, None)
        self._moved_at = self._now()
        self._feed.news.set()

    async def _wait_in_line(self, hit: Hit, opened: Opened) -> None:
        """An earlier hit of its visitor is held, and so is this one.

        Unless its suites are described by now: then the earlier ones are about to be
        released, or left in some other way, and to hold this one would come too late for that.
        """
        if self._hits.gone != self._gone or self._held_may_be_gone:
            # A limit took hits a moment ago; the held one may be among them.
            self._schedule.deferred(hit.lane, self._now() + AGAIN_S)
            return
        lack = opened.lack
        if lack is not None:
            reason = f"{lack}: an earlier hit of the same visitor is held"
            await self._hold(hit, opened.addressees, reason)
            return
        # Only then may its lane go on: the disk may refuse for longer than it waits.
        left = await self._insist(self._hits.held_lanes)
        self._schedule.deferred(hit.lane, self._now() + AGAIN_S)
        if hit.lane not in left:
            self.start_over()

    def _instant(self, hit: Hit, boots: Boots) -> int:
        """The hit's own time; within a lane it goes back for what a person brought back alone."""
        is_brought = hit.requeued or hit.received.boot == TOLD
        floor = 0 if is_brought else self._last_ms.get(hit.lane, 0)
        return max(boots.wall_ms(hit.received), floor)

    def _may_have(self, lane: int, at_ms: int | None) -> None:
        """Adobe may have seen this time: nothing of the lane goes back behind it."""
        if at_ms is not None:
            self._last_ms[lane] = max(at_ms, self._last_ms.get(lane, 0))
            self._last_ms.move_to_end(lane)
            if len(self._last_ms) > LAST_TS:
                self._last_ms.popitem(last=False)

    def _depart(self, sent: _Sent) -> None:
        try:
            request = sent.opened.render(sent.at_ms)
            if not self._road.ask(request, partial(self._came, sent, request)):
                self._start(self._exchange(sent, request))
        except Exception as error:  # noqa: BLE001 - its kind and place are logged
            self._stumbled(sent, error)

    async def _exchange(self, sent: _Sent, request: Request, *, followed: bool = False) -> None:
        """A request for which a connection may have to be opened first."""
        try:
            reply = await self._road.send(request)
        except Exception as error:  # noqa: BLE001 - its kind and place are logged
            self._stumbled(sent, error)
        else:
            self._came(sent, request, reply, followed=followed)

    def _came(
        self, sent: _Sent, request: Request, reply: Reply | Failure, *, followed: bool = False
    ) -> None:
        """What a request brought: its verdict, or one more when the server checks for cookies."""
        if self._over:
            return
        try:
            self._compare_clocks(reply)
            reached(Point.SEND_ANSWERED)
            judged = sent.opened.judge(reply, followed=followed, wall_now=self._wall_now())
            again = following(request, judged) if isinstance(judged, Follow) else None
        except Exception as error:  # noqa: BLE001 - its kind and place are logged
            self._stumbled(sent, error)
            return
        if again is not None:
            self._start(self._exchange(sent, again, followed=True))
        else:
            self._judged(sent, judged, reply if isinstance(reply, Reply) else None)

    def _stumbled(self, sent: _Sent, error: Exception) -> None:
        """One strange hit or answer must not end the process, and again at each start.

        As a failure it has its attempts, and if it is ours and not the hit's, the link goes down
        and keeps the others.
        """
        if self._over:
            return
        log.error("a send failed in a way nobody foresaw", hit=sent.hit.id, **_where(error))
        self._judged(sent, Retry(type(error).__name__, ambiguous=True), None)

    def _compare_clocks(self, reply: Reply | Failure) -> None:
        """Now and then: a clock that is wrong stamps hits wrong, and nobody sees it."""
        now = self._now()
        if now >= self._skew_at and isinstance(reply, Reply):
            skew_s = verdict.skew_s(reply.header(b"date"), self._wall_now())
            if skew_s is not None:
                self.skew_s, self._skew_at = skew_s, now + COMPARE_S

    def _wall_now(self) -> float:
        return self._hits.clock.wall_ms() / 1000

    def _judged(self, sent: _Sent, judged: verdict.Verdict, reply: Reply | None) -> None:
        """An outcome; called by the road, so that a fault of ours is the drain's to tell."""
        try:
            hit, now = sent.hit, self._now()
            trial = self._trials.get(hit.id)
            flight = Flight(hit.id, hit.lane, sent.began, trial.failed_at if trial else None)
            self.results[type(judged).__name__.lower()] += 1
            self.durations.add(now - sent.began)
            self._company.answered(now - sent.began)
            reached(Point.VERDICT)
            if isinstance(judged, Delivered):
                self._taken(sent, judged, reply, flight, now)
            else:
                self._see_to(hit, partial(self._failed, sent, judged, reply, flight, now))
        except Exception as error:  # noqa: BLE001 - raised where it ends the drain
            self._start(_raise(error))

    def _taken(
        self, sent: _Sent, judged: Delivered, reply: Reply | None, flight: Flight, now: float
    ) -> None:
        hit = sent.hit
        self.link.delivered(now, flight)
        self.pace.delivered(now)
        self.last_delivery_ms = self._hits.clock.wall_ms()
        self._note_link()
        self._may_have(hit.lane, sent.at_ms)
        self._answered(hit.id, reply)
        # Another one may go while this one gets to the disk; of its own lane none.
        self._asking.pop(hit.id, None)
        self._feed.news.set()
        self._record(sent, judged.status)

    def _record(self, sent: _Sent, status: int) -> None:
        ts = None if sent.at_ms is None else sent.at_ms // 1000
        self._hits.settle(sent.hit, status, ts, partial(self._recorded, sent, status))

    def _recorded(self, sent: _Sent, status: int, error: QueueError | None) -> None:
        """It is on disk, or has to be tried again: its lane waits."""
        if self._over:
            return
        try:
            if error is not None:
                self._start(self._record_again(sent, status, error))
                return
            self.delivered_by.add(sent.opened.addressees, self.protocol.known)
            reached(Point.RECORDED)
            self._leave(sent.hit.id, sent.hit.lane)
            self._land(sent.hit.id)
        except Exception as fault:  # noqa: BLE001 - raised where it ends the drain
            self._start(_raise(fault))

    async def _record_again(self, sent: _Sent, status: int, error: QueueError) -> None:
        log.warning("the queue refused, trying again", reason=str(error))
        await asyncio.sleep(AGAIN_S)
        self._record(sent, status)

    async def _failed(
        self,
        sent: _Sent,
        judged: Refused | LinkDown | Retry | Follow,
        reply: Reply | None,
        flight: Flight,
        now: float,
    ) -> None:
        """It was not taken, this time or for good."""
        hit, status = sent.hit, None if reply is None else reply.status
        trial = self._trials.get(hit.id) or _Trial()
        match judged:
            case Refused(reason):
                self._answered(hit.id, reply)
                await self._refused(hit, trial, now, reason, status)
            case LinkDown(reason, answered):
                counts = self.link.lost(
                    now,
                    flight,
                    lanes=self._schedule.lanes,
                    jitter=self._jitter(),
                    answered=answered,
                )
                self._note_link(reason)
                await self._come_back(hit, trial, now, reason, status, counts=counts)
            case Retry(reason, after_s, charge, ambiguous):
                counts = False
                if charge:
                    counts = self.link.failed(
                        now, flight, lanes=self._schedule.lanes, jitter=self._jitter()
                    )
                else:
                    self.link.pushed_back(now, flight)
                    self.pace.pushed_back(now, after_s, sent.began)
                    self._recall()
                self._note_link(reason)
                if ambiguous:
                    self._may_have(hit.lane, sent.at_ms)
                    await self._insist(lambda: self._hits.doubt(hit))
                    if hit.id in self._watched:
                        await self._never_again(hit, trial, reason, status)
                        return
                await self._come_back(
                    hit, trial, now, reason, status, counts=counts, after_s=after_s or 0.0
                )
            case Follow():  # pragma: no cover - `judge` follows once at most
                raise AssertionError("a second redirect was followed")

    async def _refused(
        self, hit: Hit, trial: _Trial, now: float, reason: str, status: int | None
    ) -> None:
        """It will never be taken; nor will the others, it seems, when all of them are refused."""
        trial.failures += 1
        self._trials[hit.id] = trial
        braked = self.pace.brakes
        self.pace.refused(now)
        if self.pace.brakes and not braked:
            self._recall()
            log.warning("every hit is refused: now one at a time", reason=reason)
        if self.pace.brakes:
            self.last_failure = f"every hit is refused: {reason}"
        await self._bury(hit, reason, status)

    async def _come_back(
        self,
        hit: Hit,
        trial: _Trial,
        now: float,
        reason: str,
        status: int | None,
        *,
        counts: bool,
        after_s: float = 0.0,
    ) -> None:
        """The hit stays the head of its lane, or has had its attempts and is buried."""
        trial.charged += counts
        trial.failures += 1
        trial.failed_at, trial.reason, trial.again_at = now, reason, None
        self._trials[hit.id] = trial
        if self.link.state is State.OFFLINE:
            self._dismiss()
        if trial.charged >= self.policy.attempts and self.link.may_bury():
            self.link.buried()
            await self._bury(hit, f"{trial.charged} attempts: {reason}", status)
            return
        self._hits.deferred(hit.id)
        # While the link is down it is the probe that waits, not the hit.
        wait_s = after_s
        if self.link.state is not State.OFFLINE:
            policy = self.policy
            wait_s = max(
                wait_s,
                backoff.delay(
                    trial.failures,
                    first=policy.first_s,
                    most=policy.most_s,
                    jitter=self._jitter(),
                ),
            )
            trial.again_at = now + wait_s
        self._schedule.deferred(hit.lane, now + wait_s)

    async def _never_again(self, hit: Hit, trial: _Trial, reason: str, status: int | None) -> None:
        """The reply its client waited for is lost: a person says whether it is sent once more.

        docs/design/0013 has the reasons.
        """
        trial.failures += 1
        self._trials[hit.id] = trial
        await self._bury(hit, f"it may have been taken: {reason}", status)

    async def _bury(self, hit: Hit, reason: str, status: int | None) -> None:
        trial = self._trials.get(hit.id) or _Trial()
        log.warning("hit is a dead letter", hit=hit.id, reason=reason)
        await self._insist(lambda: self._hits.bury(hit, reason, status, trial.failures))
        for name in self.protocol.named(hit):
            suite = name if name in self.protocol.known else OTHER
            self.dead_by[suite, advice.cause(reason)] += 1
        self._leave(hit.id, hit.lane)

    async def _hold(self, hit: Hit, suites: Sequence[str], reason: str) -> None:
        if hit.lane not in self._held_lanes:
            log.warning("hit is held", hit=hit.id, suites=",".join(suites), reason=reason)
            self._held_lanes.add(hit.lane)
        await self._insist(lambda: self._hits.hold(hit, suites, reason))
        # Once more: who looked meanwhile which lanes hold any did not find this one.
        self._held_lanes.add(hit.lane)
        if self._held_meanwhile is not None:
            self._held_meanwhile.add(hit.lane)
        self._leave(hit.id, hit.lane)

    def _leave(self, hit: int, lane: int) -> None:
        """The hit is no longer the drain's; its lane goes on."""
        self._trials.pop(hit, None)
        self._answered(hit, None)
        self.link.left(hit)
        if hit in self._early:
            self._early.discard(hit)
            if self._left is not None:
                self._left.add(hit)
        self._schedule.settled(lane)

    async def _insist(self, do: Callable[[], Awaitable[T]]) -> T:
        """An outcome is recorded however long the disk refuses; its lane waits."""
        while True:
            try:
                return await do()
            except QueueError as error:
                log.warning("the queue refused, trying again", reason=str(error))
                await asyncio.sleep(AGAIN_S)

    def _note_link(self, reason: str | None = None) -> None:
        """One log line when the link goes up or down."""
        if reason is not None:
            self.last_failure = reason
        if self.link.state is State.SUSPECT:
            return
        is_up = self.link.state is State.ONLINE
        if is_up == self._told:
            return
        if not is_up:
            self._recall()
        self._told = is_up
        self.since_ms = self._hits.clock.wall_ms()
        if is_up:
            log.info("online: the collection server takes hits", road=self.protocol.name)
        else:
            log.warning(
                "offline: hits are kept until it answers",
                road=self.protocol.name,
                reason=self.last_failure,
            )


async def _raise(error: Exception) -> None:
    raise error


def _where(error: Exception) -> dict[str, str]:
    """What arose where, and none of its words: they may quote a hit."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-6:])
    at = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return {"error": type(error).__name__, "at": at}


async def _wait(event: asyncio.Event, until: float | None) -> None:
    """Until the event is set, or the loop's time has come."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            await event.wait()


def following(request: Request, follow: Follow) -> Request:
    """The request the server asked for: same host, same headers, its new cookies too."""
    ours = headers.first(request.headers, b"cookie")
    cookies = b"; ".join([*([ours] if ours else []), *follow.cookies])
    kept = tuple(header for header in request.headers if header[0].lower() != b"cookie")
    if cookies:
        kept += ((b"Cookie", cookies),)
    return request._replace(target=follow.target, headers=kept)
