"""What a person can ask of a running daemon, and tell it: the words behind every verb.

Rule: one place for the page, the API and the command line; each answer is plain data whose
field names are a contract (unknown fields may appear, known ones stay).
Non-rule: no HTTP and no terminal; who may ask is the admin listener's business.
Source: the design's list of status fields; Tailscale's and Syncthing's status for "held by
you" being something else than "broken".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog

from proxy import __version__
from proxy.core import contract, edge, health, limits, series
from proxy.core.hit import Hit, Suites
from proxy.core.link import State
from proxy.core.moment import Boots
from proxy.core.speed import Speedometer
from proxy.drain import Drain
from proxy.errors import QueueError
from proxy.points import Point, reached
from proxy.roads import Road
from proxy.shell.queue import Queue
from proxy.shell.rows import DeadLetter

log = structlog.get_logger()

OFFLINE = "offline_until"  # the setting that survives restarts: Unix ms, or FOR_EVER
FOR_EVER = "for-ever"
MOST_LETTERS = 10_000
ALIVE_S = 10.0
# No send, no probe, no answer for this long with hits that may be sent: something is wrong.
STUCK_S = 180.0


async def none(_q: str | None, _ids: Sequence[int] | None) -> AsyncIterator[list[int]]:
    """Of hits that nobody can look at, none is found."""
    return
    yield []


@dataclass(slots=True)
class Desk:
    """The daemon as a person sees it.  `drain` is that of Analytics, None in capture mode."""

    queue: Queue
    drain: Drain | None
    server: str | None
    started: float
    loop_time: Callable[[], float]
    offline_until_ms: float | None = None  # None: not held; inf: until told otherwise
    timeout_s: float = 0.0  # how long one send may take
    noted_s: int = -1  # the second of the chart's last point
    suites: Callable[[], Suites] = lambda: Suites({})
    settings: Callable[[], dict[str, Any]] = dict
    roads: Iterable[Road] = ()
    label: str = ""  # admin.label, if it is set; the name of the host stands in for it
    host: str = ""
    speed: Speedometer = field(default_factory=Speedometer)
    lanes: Callable[[str | None, Sequence[int] | None], AsyncIterator[list[int]]] = none

    # -- looking -------------------------------------------------------------------------

    def state(self) -> str:
        """`capture | online | offline | held | refusing`, the most pressing one."""
        if self.refusing() is not None:
            return "refusing"
        drains = self.drains
        if not drains:
            return "capture"
        if self.offline_until_ms is not None:
            return "held"
        # The road of Analytics speaks for itself, if anything was ever sent there; each of the
        # others has its own part in the status.  A road that is tried anew after a failure was.
        tried = [
            d.link.state for d in drains if d.link.state is not State.SUSPECT or d.last_failure
        ]
        return "online" if tried[:1] == [State.ONLINE] else "offline"

    @property
    def drains(self) -> list[Drain]:
        """Every road's; the one of Analytics first."""
        others = [road.drain for road in self.roads if road.drain is not self.drain]
        return others if self.drain is None else [self.drain, *others]

    def refusing(self) -> str | None:
        """Why a new hit would be refused now; None when it would be stored."""
        queue = self.queue
        if queue.last_error is not None:
            return queue.last_error
        return limits.reached(queue.ledger, 1, 1, queue.free_disk(), queue.limits)

    async def status(self) -> dict[str, Any]:
        """Everything an operator looks at first; seconds, bytes and counts."""
        queue, drain = self.queue, self.drain
        oldest_s: float | None = None
        held: dict[str, tuple[int, str]] = {}
        # The counts are known without the file; what cannot be read is left out, since a
        # status is wanted most when something is broken.
        with contextlib.suppress(QueueError):
            oldest_s = await self.oldest_s()
            held = await queue.held_suites() if queue.ledger.held else {}
        tallies = queue.tallies
        refusals = {
            name.removeprefix("refused."): count
            for name, count in sorted(tallies.items())
            if name.startswith("refused.")
        }
        ledger = queue.ledger
        self.note_speed()
        speed = self.speed.read(self.loop_time(), ledger)
        skews_s = [drain.skew_s for drain in self.drains if drain.skew_s is not None]
        found: dict[str, Any] = {
            "state": self.state(),
            **asdict(ledger),
            "refused": sum(refusals.values()),
            "refused_by_reason": refusals,
            "lost": tallies.get("lost.damaged", 0),
            "repeated": tallies.get("repeated", 0),
            "oldest_waiting_seconds": oldest_s or 0.0,
            "delivered_per_second": round(speed.delivered_per_s, 3),
            "empty_in_seconds": speed.empty_in_s,
            "clock_skew_seconds": skews_s[0] if skews_s else None,
            "balanced": ledger.balanced,
            "unserved": self.unserved(),
            "refusing": self.refusing(),
            "held_suites": {
                suites: {"hits": count, "reason": reason}
                for suites, (count, reason) in held.items()
            },
            "version": __version__,
            "label": self.label or self.host,
            "pid": os.getpid(),
            "uptime_seconds": self.loop_time() - self.started,
            "queue_path": str(queue.path),
            "queue_file_bytes": _size(queue.path),
            "queue_log_bytes": _size(queue.path.with_name(f"{queue.path.name}-wal")),
            "free_disk_bytes": max(0, queue.free_disk()),
            "upstream": self.server,
            "forwarding": None,
            "edge": None,
        }
        if drain is not None:
            found["forwarding"] = self._forwarding(drain)
        for road in self.roads:
            if road.drain is not drain:
                server = road.upstream.where.server
                found[road.name] = {"upstream": server, **self._forwarding(road.drain)}
        return found

    def note_speed(self) -> None:
        """Now and then, so that it can be told how fast a backlog leaves."""
        self.speed.note(self.loop_time(), self.queue.ledger)

    def _forwarding(self, drain: Drain) -> dict[str, Any]:
        now = self.loop_time()
        next_try = drain.link.next_wake(now)
        if next_try is None and (pause := drain.pace.pause(now)):
            next_try = now + pause
        until = self.offline_until_ms
        return {
            "link": str(drain.link.state),
            "since_ms": drain.since_ms,
            "next_try_seconds": None if next_try is None else max(0.0, next_try - now),
            "last_failure": drain.last_failure,
            "last_delivery_ms": drain.last_delivery_ms,
            "in_flight": drain.in_flight,
            "window": drain.link.window,
            "hits_per_second_allowed": drain.pace.limit(now),
            "sends": dict(drain.results),
            "held_until_ms": until if until is not None and until != float("inf") else None,
        }

    def unserved(self) -> int:
        """How many hits wait for a road that is not there; 0 while that is not known.

        Its section was taken out of the configuration, and nobody else ever sends them.
        """
        drains = self.drains
        known = drains[0].all_known if len(drains) == 1 else None
        ledger = self.queue.ledger
        return 0 if known is None else max(0, ledger.waiting - ledger.held - known)

    async def oldest_s(self) -> float | None:
        """The age of the oldest waiting hit; None when nothing waits."""
        oldest = await self.queue.oldest_waiting()
        if oldest is None:
            return None
        return self.queue.boots.age_ms(oldest, self.queue.clock.ms()) / 1000

    async def is_alive(self) -> bool:
        """The writer answers, the file is whole, and the drain moves if it could."""
        if self.queue.is_damaged:
            return False
        try:
            async with asyncio.timeout(ALIVE_S):
                await self.queue.setting(OFFLINE)
                await self.queue.answers()
        except (TimeoutError, QueueError):
            return False
        return self.stuck_s() < max(STUCK_S, 2 * self.timeout_s)

    def stuck_s(self) -> float:
        """For how long hits that may be sent have been waiting without anything being tried."""
        now = self.loop_time()
        return max((drain.idle_s(now) for drain in self.drains), default=0.0)

    async def health(self) -> list[dict[str, Any]]:
        """What is well and what is not, a line each."""
        found = health.checks(await self.status(), self.suites())
        return [asdict(check) for check in found]

    def openapi(self) -> dict[str, Any]:
        """What can be asked, as a document."""
        return contract.document(__version__)

    # -- the chart -----------------------------------------------------------------------

    async def note_point(self) -> None:
        """A point for the chart, when the last one is old enough; survives restarts."""
        at_s = series.due(self.queue.clock.wall_ms() // 1000, self.noted_s)
        if at_s is not None:
            await self.queue.note_point(at_s, int(await self.oldest_s() or 0))
            self.noted_s = at_s

    async def series(self, window_s: int) -> dict[str, Any]:
        """The chart's points in so many seconds up to now; the last one is this moment."""
        now_s = self.queue.clock.wall_ms() // 1000
        ledger = self.queue.ledger
        points = [point for point in await self.queue.series() if point.at_s < now_s]
        points.append(
            series.Point(
                now_s,
                int(await self.oldest_s() or 0),
                ledger.waiting,
                ledger.accepted,
                ledger.delivered,
                ledger.dead,
            )
        )
        return {"step_s": series.STEP_S, "points": series.shown(points, now_s - window_s)}

    # -- telling -------------------------------------------------------------------------

    async def go_offline(self, for_s: float | None = None) -> None:
        """Send nothing until told otherwise, or for so many seconds; survives restarts."""
        until = float("inf") if for_s is None else self.queue.clock.wall_ms() + for_s * 1000
        value = FOR_EVER if for_s is None else str(int(until))
        await self.queue.set(OFFLINE, value)
        reached(Point.OFFLINE_STORED)
        self._held(until)
        log.warning("held offline by a person", seconds=for_s)

    async def go_online(self) -> None:
        await self.queue.set(OFFLINE, None)
        self._held(None)
        log.info("forwarding again")

    async def retry(self, q: str | None = None, ids: Sequence[int] | None = None) -> dict[str, Any]:
        """Try the collection server at once; what was said to wait for it, or only these hits.

        `visitors` are those who waited out a failure and go now: a hit waits behind its
        visitor's earlier ones.  `matched` are the waiting hits that were meant.
        """
        if q is None and ids is None:
            return {"visitors": sum(drain.retry() for drain in self.drains), "matched": None}
        visitors = matched = 0
        async for lanes in self.lanes(q, ids):
            matched += len(lanes)
            if lanes:
                visitors += sum(drain.retry(set(lanes)) for drain in self.drains)
        return {"visitors": visitors, "matched": matched}

    async def remember(self) -> None:
        """What a person asked for before the last restart."""
        value = await self.queue.setting(OFFLINE)
        if value is not None:
            self._held(float("inf") if value == FOR_EVER else float(value))
        with contextlib.suppress(QueueError):  # the chart is no reason not to start
            await self.note_point()

    async def end_of_hold(self) -> float | None:
        """Go online when the hold is over; else the seconds left, None when there is none."""
        if self.offline_until_ms is None or self.offline_until_ms == float("inf"):
            return None
        left_s = (self.offline_until_ms - self.queue.clock.wall_ms()) / 1000
        if left_s <= 0:
            self._held(None)
            log.info("forwarding again")
            try:
                await self.queue.set(OFFLINE, None)
            except QueueError as error:
                # What stays in the file is over at the next start, too.
                log.warning("the end of being held offline is not on disk", reason=str(error))
            return None
        return left_s

    def _held(self, until_ms: float | None) -> None:
        self.offline_until_ms = until_ms
        for drain in self.drains:
            drain.pause(until_ms is not None)

    # -- dead letters --------------------------------------------------------------------

    async def dead_letters(self, after: int, limit: int) -> list[dict[str, Any]]:
        """A page of dead letters, oldest first, without the hits' contents."""
        found: list[dict[str, Any]] = []
        left = min(limit, MOST_LETTERS)
        while left and (letters := await self.queue.dead_letters(after, left)):
            found += [summary(letter, self.queue.boots) for letter in letters]
            after, left = letters[-1].hit.id, left - len(letters)
        return found

    async def export(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Some dead letters with everything needed to send them again; none when there are no more.

        Bytes stand as Latin-1 text, one character a byte.
        """
        letters = await self.queue.dead_letters(after, min(limit, MOST_LETTERS))
        return [whole(letter, self.queue.boots) for letter in letters]

    def dead(self) -> int:
        """How many dead letters there are."""
        return self.queue.ledger.dead

    async def requeue(self, ids: list[int] | None) -> int:
        """These dead letters wait again, or all of them; how many."""
        return await self._each(ids, self.queue.requeue)

    async def discard(self, ids: list[int] | None) -> int:
        """Give these dead letters up, or all of them; how many."""
        return await self._each(ids, self.queue.discard)

    async def _each(self, ids: list[int] | None, do: Callable[[list[int]], Any]) -> int:
        if ids is not None:
            count: int = await do(ids)
            return count
        total, after = 0, 0
        while letters := await self.queue.dead_letters(after, 500):
            after = letters[-1].hit.id
            total += await do([letter.hit.id for letter in letters])
        return total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def summary(letter: DeadLetter, boots: Boots) -> dict[str, Any]:
    """A dead letter without the hit's contents."""
    suites = ",".join(letter.hit.suites) or _addressee(letter.hit)
    return {
        "id": letter.hit.id,
        "reason": letter.reason,
        "status": letter.status,
        "tries": letter.tries,
        "suites": suites,
        "received_ms": boots.wall_ms(letter.hit.received),
        "died_ms": letter.died_ms,
        "ambiguous": letter.hit.ambiguous,
    }


def _addressee(hit: Hit) -> str:
    """To whom it goes, as far as that can be told: it may be no hit at all."""
    if hit.lane < 0:
        return edge.datastream(hit.request.target)
    path = hit.request.target.partition(b"?")[0].split(b"/")
    return path[3].decode("latin-1") if len(path) > 3 else ""


def whole(letter: DeadLetter, boots: Boots) -> dict[str, Any]:
    """A dead letter with everything needed to send it again; a character stands for a byte."""
    request = letter.hit.request
    return summary(letter, boots) | {
        "method": request.method,
        "target": request.target.decode("latin-1"),
        "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in request.headers],
        "body": request.body.decode("latin-1"),
    }
