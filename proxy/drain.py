"""The drain: what waits goes to the collection server, and leaves when Adobe took it.

Rule: the one place where the core meets queue and upstream.  Each hit runs the same way:
taken from its lane, looked at (send, hold, bury), sent, judged, recorded; its lane goes on
only when the outcome is on disk, so order survives a crash.
Non-rule: decides nothing itself (`schedule` says which, `link` and `pace` how many and
when, `stamp` whether, `verdict` what came of it), and a shutdown is no outcome of a hit.
Source: nullmailer's send loop for the shape; docs/design/0003, 0008.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from proxy.core import backoff, beacon, headers, insertion, stamp, verdict
from proxy.core.hit import Failure, Hit, Reply, Request, Suites
from proxy.core.link import Flight, Link, State
from proxy.core.moment import Boots
from proxy.core.pace import Pace
from proxy.core.schedule import Schedule
from proxy.core.unread import Unread
from proxy.core.verdict import Delivered, Follow, LinkDown, Refused, Retry
from proxy.errors import NotABeacon, QueueError
from proxy.shell.clock import Clock

log = structlog.get_logger()

# How far the cursor runs ahead past lanes that cannot send: 8 bytes a hit in memory.
MOST_KNOWN = 2_000_000
# Between launches it reads so many pages at most; sending must not wait for reading.
PAGES_AT_ONCE = 2
# Fresh hits that may overtake the backlog of other visitors at one time.
MOST_EARLY = 10_000
LAST_TS = 100_000
RECORD_AGAIN_S = 1.0


class Hits(Protocol):
    """What the drain asks of the queue."""

    news: asyncio.Event
    arrivals: deque[tuple[int, int]] | None
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
    def begin(self, hit: int) -> bool: ...
    def deferred(self, hit: int) -> None: ...
    async def delivered(self, hit: Hit, status: int, ts: int | None) -> None: ...
    async def bury(self, hit: Hit, reason: str, status: int | None, tries: int) -> None: ...
    async def hold(self, hit: Hit, suites: Sequence[str], reason: str) -> None: ...
    async def doubt(self, hit: Hit) -> None: ...


class Road(Protocol):
    """What the drain asks of the upstream."""

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


class Drain:
    """One upstream's drain.  `run` goes until `stop`; verbs may be called at any time."""

    def __init__(
        self,
        hits: Hits,
        road: Road,
        authority: bytes,
        suites: Suites,
        policy: Policy,
        jitter: Callable[[], float],
    ) -> None:
        self.suites = suites
        self.policy = policy
        self.link = Link(first=policy.first_s, most=policy.most_s, concurrency=policy.concurrency)
        self.pace = Pace(policy.rate)
        self.results: Counter[str] = Counter()  # sends by what came of them
        self.last_failure: str | None = None
        self.last_delivery_ms: int | None = None  # Unix time
        self.since_ms = hits.clock.wall_ms()  # when the link last changed between up and down
        self._hits, self._road, self._authority = hits, road, authority
        self._jitter = jitter
        self._schedule = Schedule()
        self._cursor = 0  # hits up to this id are known to the schedule, or left the queue
        self._early: set[int] = set()  # and so are these, behind it
        self._unread = Unread(0, hits.last_id)
        self._arrivals: deque[tuple[int, int]] = deque()
        hits.arrivals = self._arrivals
        self._gone = (0, frozenset[int]())
        self._seen = hits.last_id
        self._flying: dict[int, float] = {}  # when the sends in flight began, by hit
        self._sends: set[asyncio.Task[None]] = set()
        self._trials: dict[int, _Trial] = {}
        self._last_ts: OrderedDict[int, int] = OrderedDict()
        self._held_lanes: set[int] = set()
        self._stopping = self._paused = self._afresh = False
        self._moved_at = 0.0  # when the drain last tried something, or could not
        self._told: bool | None = None  # whether the log last said online

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    # -- verbs -------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """A person wants nothing sent (or sent again); what is in flight goes on."""
        self._paused = paused
        self._hits.news.set()

    def retry(self) -> None:
        """Try at once: probe the link, and let every lane go that waits out a failure."""
        self.link.retry_now(asyncio.get_running_loop().time())
        self._schedule.release_all()
        self._hits.news.set()

    def change_policy(self, policy: Policy) -> None:
        """What failures cost from now on, and how fast a backlog leaves."""
        self.policy = policy
        self.link.change_back_off(policy.first_s, policy.most_s)
        self.pace.configure(policy.rate)
        self._hits.news.set()

    def idle_s(self, now: float) -> float:
        """For how long nothing was tried although hits may be sent; 0 when there is a reason."""
        return 0.0 if self._waits(now) else now - self._moved_at

    def _waits(self, now: float) -> bool:
        return bool(
            self._paused
            or not self._schedule.sendable
            or self.link.state is State.OFFLINE
            or self.pace.next_at(now) > now
        )

    def start_over(self) -> None:
        """Read the queue from its beginning again, as after held hits were released."""
        self._afresh = True
        self._hits.news.set()

    def stop(self) -> None:
        """Send nothing new; `run` ends when what flies has landed, or after the grace."""
        self._stopping = True
        self._hits.news.set()

    # -- the loop ----------------------------------------------------------------------

    async def run(self) -> None:
        self._held_lanes = await self._hits.held_lanes()
        # Lanes that were stamped by a clock ahead of today's must not go back either.
        self._last_ts.update(await self._hits.stamps_after(self._hits.clock.wall_ms() // 1000))
        async with asyncio.TaskGroup() as sends:
            while not self._stopping:
                self._hits.news.clear()
                self._notice()
                await self._read_ahead()
                await self._launch(sends)
                await self._until_something_happens()
            if self._sends:
                _, late = await asyncio.wait(self._sends, timeout=self.policy.grace_s)
                for send in late:
                    send.cancel()

    def _notice(self) -> None:
        """What happened in the queue meanwhile."""
        now = asyncio.get_running_loop().time()
        if self._waits(now):
            self._moved_at = now
        if self._hits.last_id != self._seen:
            self._seen = self._hits.last_id
            self.link.woken(now)
        if self._afresh and not self._flying:
            self._afresh = False
            self._schedule, self._cursor = Schedule(), 0
            self._early.clear()
            self._unread = Unread(0, self._hits.last_id)
            self._arrivals.clear()
        while self._arrivals:
            self._arrived(*self._arrivals.popleft())
        if self._hits.gone != self._gone:
            self._gone = through, spared = self._hits.gone
            self._schedule.dropped(through, spared | self._flying.keys())
        self._schedule.release(now)

    def _arrived(self, hit: int, lane: int) -> None:
        """A new hit: behind its lane if all of that is known, else the cursor will find it."""
        if hit <= self._cursor:
            return
        if self._cursor == hit - 1:
            self._schedule.offer(hit, lane)
            self._cursor = hit
        elif len(self._early) < MOST_EARLY and not self._unread.may_hold(lane):
            self._schedule.offer(hit, lane, fresh=True)
            self._early.add(hit)
        else:
            self._unread.add(hit, lane)

    async def _read_ahead(self) -> None:
        """Know enough lanes that could send to fill what may fly."""
        wanted = 1 if self.link.state is not State.ONLINE else 2 * self.policy.concurrency
        for _ in range(PAGES_AT_ONCE):
            if (
                self._schedule.sendable_backlog >= wanted
                or self._cursor >= self._hits.last_id
                or len(self._schedule) >= MOST_KNOWN
                or self._afresh
            ):
                break
            last = self._hits.last_id
            page = await self._hits.page(self._cursor)
            for hit, lane in page:
                if hit in self._early:
                    self._early.discard(hit)
                else:
                    self._schedule.offer(hit, lane)
            self._cursor = page[-1][0] if page else max(self._cursor, last)
            self._unread.read(self._cursor)
        else:
            self._hits.news.set()
        if self._unread.to_survey and self.link.state is State.ONLINE:
            rows = await self._hits.page(self._unread.surveyed)
            self._unread.survey(rows, rows[-1][0] if rows else self._hits.last_id)
            self._hits.news.set()

    async def _launch(self, sends: asyncio.TaskGroup) -> None:
        """Start what may fly now."""
        now = asyncio.get_running_loop().time()
        if self._paused or self._afresh:
            return
        if self.link.probe_due(now):
            self.link.probe_began(now)
            self._start(sends, self._probe())
        taken: list[tuple[int, int]] = []
        room = self.link.room(self._flying.values())
        while len(taken) < room and self.pace.next_at(now) <= now:
            turn = self.link.turn if self.link.state is State.SUSPECT else None
            chosen = self._schedule.take(turn)
            if chosen is None:
                break
            self.pace.sent(now)
            taken.append(chosen)
        if not taken:
            return
        self._moved_at = now
        rows = await self._hits.fetch([hit for hit, _ in taken])
        found = {hit.id: hit for hit in rows}
        for id_, lane in taken:
            hit = found.get(id_)
            if hit is None:
                self._schedule.settled(lane)
                self._hits.news.set()
            else:
                self._flying[id_] = now
                self._start(sends, self._fly(hit, now))

    def _start(self, sends: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        task = sends.create_task(work)
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _until_something_happens(self) -> None:
        now = asyncio.get_running_loop().time()
        times = [self._schedule.next_at()]
        if not self._paused:
            times.append(self.link.next_wake(now))
            if self._schedule.sendable and self.link.room(self._flying.values()):
                times.append(self.pace.next_at(now))
        soonest = min((at for at in times if at is not None), default=None)
        try:
            async with asyncio.timeout_at(soonest):
                await self._hits.news.wait()
        except TimeoutError:
            pass

    async def _probe(self) -> None:
        failure = await self._road.probe()
        now = asyncio.get_running_loop().time()
        if failure is None:
            self.link.probe_succeeded(now)
        else:
            self.last_failure = f"{failure.fault}: {failure.detail}"
            self.link.probe_failed(now, jitter=self._jitter())
        self._hits.news.set()

    # -- one hit -----------------------------------------------------------------------

    async def _fly(self, hit: Hit, began: float) -> None:
        try:
            await self._send(hit, began)
        finally:
            self._flying.pop(hit.id, None)
            self._moved_at = asyncio.get_running_loop().time()
            self._hits.news.set()

    async def _send(self, hit: Hit, began: float) -> None:
        try:
            said = beacon.read(hit.request)
        except (NotABeacon, insertion.InsertionRefused) as error:
            await self._bury(hit, f"its stored form is no hit: {error}", None)
            return
        await self._record(self._hits.note_clock)
        boots, now_ms = self._hits.boots, self._hits.clock.ms()
        age_s = boots.age_ms(hit.received, now_ms) / 1000
        match self._decide(hit, said, age_s):
            case stamp.Hold(reason):
                await self._hold(hit, hit.suites or said.suites, reason)
            case stamp.Bury(reason):
                await self._bury(hit, reason, None)
            case stamp.Send(stamped):
                ts = self._second(hit, boots) if stamped else None
                if not self._hits.begin(hit.id):
                    self._leave(hit)
                    return
                reply = await self._exchange(stamp.render(hit.request, ts, hit.suites), said.kind)
                await self._apply(hit, began, ts, *reply)

    def _decide(
        self, hit: Hit, said: beacon.Beacon, age_s: float
    ) -> stamp.Send | stamp.Hold | stamp.Bury:
        decision = stamp.decide(said, hit.suites, self.suites, age_s)
        if hit.lane in self._held_lanes and isinstance(decision, stamp.Send):
            return stamp.Hold("an earlier hit of the same visitor is held")
        return decision

    def _second(self, hit: Hit, boots: Boots) -> int:
        """The hit's `ts`; it never goes back within a lane, but for what a person requeued."""
        floor = 0 if hit.requeued else self._last_ts.get(hit.lane, 0)
        ts = max(boots.wall_ms(hit.received) // 1000, floor)
        self._last_ts[hit.lane] = max(ts, self._last_ts.get(hit.lane, 0))
        self._last_ts.move_to_end(hit.lane)
        if len(self._last_ts) > LAST_TS:
            self._last_ts.popitem(last=False)
        return ts

    async def _exchange(self, request: Request, kind: str) -> tuple[verdict.Verdict, int | None]:
        """One request, or two when the server checks for cookies; what came of it."""
        reply = await self._road.send(request)
        judged = self._judge(kind, reply, followed=False)
        if isinstance(judged, Follow):
            reply = await self._road.send(_following(request, judged))
            judged = self._judge(kind, reply, followed=True)
        return judged, reply.status if isinstance(reply, Reply) else None

    def _judge(self, kind: str, reply: Reply | Failure, *, followed: bool) -> verdict.Verdict:
        return verdict.judge(
            kind,
            reply,
            upstream_host=self._authority,
            followed=followed,
            wall_now=self._hits.clock.wall_ms() / 1000,
        )

    async def _apply(
        self,
        hit: Hit,
        began: float,
        ts: int | None,
        judged: verdict.Verdict,
        status: int | None,
    ) -> None:
        now = asyncio.get_running_loop().time()
        trial = self._trials.get(hit.id) or _Trial()
        flight = Flight(hit.id, hit.lane, began, trial.failed_at)
        self.results[type(judged).__name__.lower()] += 1
        match judged:
            case Delivered():
                self.link.delivered(now, flight)
                self.pace.delivered(now)
                self.last_delivery_ms = self._hits.clock.wall_ms()
                self._note_link()
                await self._record(lambda: self._hits.delivered(hit, judged.status, ts))
                self._leave(hit)
            case Refused(reason):
                self.link.left(hit.id)
                await self._bury(hit, reason, status)
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
                    self.pace.pushed_back(now, after_s, began)
                self._note_link(reason)
                if ambiguous:
                    await self._record(lambda: self._hits.doubt(hit))
                await self._come_back(
                    hit, trial, now, reason, status, counts=counts, after_s=after_s or 0.0
                )
            case Follow():  # pragma: no cover - `judge` follows once at most
                raise AssertionError("a second redirect was followed")

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
        trial.failed_at = now
        if trial.charged >= self.policy.attempts and self.link.may_bury():
            self.link.buried()
            self.link.left(hit.id)
            await self._bury(hit, f"{trial.charged} attempts: {reason}", status)
            return
        self._trials[hit.id] = trial
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
        self._schedule.deferred(hit.lane, now + wait_s)

    async def _bury(self, hit: Hit, reason: str, status: int | None) -> None:
        trial = self._trials.get(hit.id) or _Trial()
        log.warning("hit is a dead letter", hit=hit.id, reason=reason)
        await self._record(lambda: self._hits.bury(hit, reason, status, trial.failures))
        self._leave(hit)

    async def _hold(self, hit: Hit, suites: Sequence[str], reason: str) -> None:
        if hit.lane not in self._held_lanes:
            log.warning("hit is held", hit=hit.id, suites=",".join(suites), reason=reason)
            self._held_lanes.add(hit.lane)
        await self._record(lambda: self._hits.hold(hit, suites, reason))
        self._leave(hit)

    def _leave(self, hit: Hit) -> None:
        """The hit is no longer the drain's; its lane goes on."""
        self._trials.pop(hit.id, None)
        self._schedule.settled(hit.lane)

    async def _record(self, write: Callable[[], Awaitable[None]]) -> None:
        """An outcome is written down however long the disk refuses; its lane waits."""
        while True:
            try:
                await write()
            except QueueError as error:
                log.warning("an outcome could not be recorded, trying again", reason=str(error))
                await asyncio.sleep(RECORD_AGAIN_S)
            else:
                return

    def _note_link(self, reason: str | None = None) -> None:
        """One log line when the link goes up or down."""
        if reason is not None:
            self.last_failure = reason
        if self.link.state is State.SUSPECT:
            return
        is_up = self.link.state is State.ONLINE
        if is_up == self._told:
            return
        self._told = is_up
        self.since_ms = self._hits.clock.wall_ms()
        if is_up:
            log.info("online: the collection server takes hits")
        else:
            log.warning("offline: hits are kept until it answers", reason=self.last_failure)


def _following(request: Request, follow: Follow) -> Request:
    """The request the server asked for: same host, same headers, its new cookies too."""
    ours = headers.first(request.headers, b"cookie")
    cookies = b"; ".join([*([ours] if ours else []), *follow.cookies])
    kept = tuple(header for header in request.headers if header[0].lower() != b"cookie")
    if cookies:
        kept += ((b"Cookie", cookies),)
    return replace(request, target=follow.target, headers=kept)
