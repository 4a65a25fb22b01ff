"""The oracle: what was promised to clients, held against what came of it.

Rule: every hit has a unique name in its bytes; an obligation is recorded the moment its 200
arrives.  When the faults are over, each one is found at the fake collection server byte for
byte (but for the stamp), or in the queue file, or in a count the daemon itself gives; and the
daemon's equation must agree with all of that exactly.
Non-rule: no fault, no load, no daemon; no hit that becomes several rows.  Nothing of the
product is asked but its answers, its file and its status.
Source: Vector's and Jepsen's way of judging a queue from outside.

    promises = Promises()
    promises.obligation(name, visitor, suites, request, before, after)   # at each 200
    promises.unknown(name, visitor, suites, request, before)             # at each lost answer
    verdict = promises.judge(adobe.received, rows(queue_file), await daemon.status())
    assert verdict.ok, verdict
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from proxy.core.hit import Headers, Request
from proxy.core.wire import plain
from proxy.fake import Received

# Run, visitor, number: wide enough for millions, and nothing else in a hit looks like it.
NAME = re.compile(rb"q[0-9a-f]{8}v[0-9]{5}n[0-9]{7}")
# What the stamp may have put in: one parameter of a query or a form, one tag of an XML hit.
STAMP = re.compile(
    rb"(?:(?<=[?&])|\A)ts=(?P<first>\d+)(?:&|\Z)"
    rb"|&ts=(?P<later>\d+)(?=&|\Z)"
    rb"|<timestamp>(?P<tag>\d+)</timestamp>"
)
# Headers of one connection, which every hop writes anew.
PER_HOP = frozenset({b"host", b"content-length", b"connection", b"accept-encoding", b"expect"})
AMBIGUOUS = 1  # in the queue file's `flags`
# A wall clock that is slewed below half a second is not corrected (docs/design/0005).
SLACK_S = 1


def named(run: int, visitor: int, number: int) -> str:
    """The name of a hit: of one run, one visitor, and its place there."""
    return f"q{run & 0xFFFFFFFF:08x}v{visitor:05}n{number:07}"


def name_in(*data: bytes) -> str | None:
    """The name that stands in these bytes."""
    for each in data:
        found = NAME.search(each)
        if found:
            return found[0].decode()
    return None


@dataclass(frozen=True, slots=True)
class Promise:
    """One hit as its client knows it.

    `before` and `after` are whole Unix seconds around its receipt; `after` is None while no
    answer came.  `place` orders the hits of one visitor, who sends one after the other.
    """

    name: str
    visitor: str
    suites: str
    request: Request
    before: int
    after: int | None
    place: int


@dataclass(frozen=True, slots=True)
class Rows:
    """The hits of a queue file by name: how many rows in each state, and which are marked.

    `here` are all names that have a row of any kind; `marked` those of which a row says that
    the hit may have reached the collection server before.
    """

    waiting: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    marked: frozenset[str] = frozenset()
    damaged: tuple[str, ...] = ()

    @property
    def here(self) -> set[str]:
        return {*self.waiting, *self.delivered, *self.dead}


def rows(queue_file: Path, run: int | None = None) -> Rows:
    """What stands in a queue file, whoever has it open; `damaged` is SQLite's own check.

    Of one run, if it is given.
    """
    found = Rows()
    begins = "" if run is None else named(run, 0, 0).partition("v")[0]
    marked = set()
    uri = f"{queue_file.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
        db.execute("BEGIN")  # one moment for all that follows
        for state, flags, content in db.execute(
            "SELECT d.id IS NOT NULL, h.flags, h.content"
            " FROM hits h LEFT JOIN delivered d USING (id)"
            " UNION ALL SELECT 2, flags, content FROM dead"
        ):
            name = name_in(plain(content))
            if name is None or not name.startswith(begins):
                continue
            (found.waiting, found.delivered, found.dead)[state][name] += 1
            if flags & AMBIGUOUS:
                marked.add(name)
        check = [row[0] for row in db.execute("PRAGMA integrity_check")]
    return replace(found, marked=frozenset(marked), damaged=() if check == ["ok"] else tuple(check))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the promises; everything but the first line of counts should be empty.

    `doubled`: taken more than once, and how often.  `unmarked`: doubled, and nothing in the
    file says so.  `reordered`: pairs that came in the wrong order.  `altered`: other bytes than
    were sent.  `wrong_ts`: stamped outside the seconds of receipt, or back within a visitor.
    `undead`: refused to the client, and stored all the same.  `equation`: what the daemon's
    counts say otherwise than the oracle's.  `damaged`: what SQLite's check says.
    """

    acked: int
    unknown: int
    taken: int
    waiting: int
    dead: int
    counted: int
    lost: list[str]
    doubled: dict[str, int]
    unmarked: list[str]
    reordered: list[tuple[str, str]]
    altered: list[str]
    wrong_ts: list[str]
    undead: list[str]
    equation: list[str]
    damaged: tuple[str, ...]

    @property
    def extra(self) -> int:
        """Takings beyond the first of each hit."""
        return sum(count - 1 for count in self.doubled.values())

    @property
    def ok(self) -> bool:
        """Nothing is wrong; a double that is marked is no wrong, but see `extra`."""
        return not any(
            (
                self.lost,
                self.unmarked,
                self.reordered,
                self.altered,
                self.wrong_ts,
                self.undead,
                self.equation,
                self.damaged,
            )
        )

    def __str__(self) -> str:
        counts = ("acked", "unknown", "taken", "waiting", "dead", "counted", "extra")
        lines = [", ".join(f"{name} {getattr(self, name)}" for name in counts)]
        for name in ("lost", "unmarked", "reordered", "altered", "wrong_ts", "undead"):
            found = getattr(self, name)
            if found:
                lines.append(f"{name} {len(found)}: {', '.join(map(str, found[:5]))}")
        return "\n".join([*lines, *self.equation, *self.damaged[:5]])


class Promises:
    """What clients were told, hit by hit."""

    def __init__(self) -> None:
        self.made: dict[str, Promise] = {}
        self.refused: set[str] = set()
        self._places = 0

    @property
    def acked(self) -> int:
        return sum(promise.after is not None for promise in self.made.values())

    @property
    def open(self) -> int:
        """Hits of which nobody knows whether they are stored."""
        return len(self.made) - self.acked

    def obligation(
        self, name: str, visitor: str, suites: str, request: Request, before: int, after: int
    ) -> None:
        """Its 200 arrived: from now on it must be somewhere."""
        self._make(name, visitor, suites, request, before, after)

    def unknown(self, name: str, visitor: str, suites: str, request: Request, before: int) -> None:
        """It was sent and no answer came: it may be stored, or not."""
        self._make(name, visitor, suites, request, before, None)

    def refusal(self, name: str) -> None:
        """A plain no: it must be nowhere, unless an earlier try of it is unanswered."""
        if name not in self.made:
            self.refused.add(name)

    def _make(
        self,
        name: str,
        visitor: str,
        suites: str,
        request: Request,
        before: int,
        after: int | None,
    ) -> None:
        self.refused.discard(name)
        made = self.made.get(name)
        if made is not None:
            # A try that got no answer may be the one that was stored.
            self.made[name] = replace(made, after=made.after if after is None else after)
            return
        self._places += 1
        self.made[name] = Promise(name, visitor, suites, request, before, after, self._places)

    def judge(
        self,
        received: Iterable[Received],
        found: Rows | Path,
        status: Mapping[str, Any],
        *,
        requeued: bool = False,
        lost: int = 0,
    ) -> Verdict:
        """The verdict, when nothing moves any more.

        `status` is the daemon's.  `requeued`: a person requeued dead letters, so order and
        never-back no longer hold.  `lost`: how many hits a report of damage gave up.
        """
        file = rows(found) if isinstance(found, Path) else found
        takings = _takings(received)
        counted = status["expired"] + status["discarded"] + lost
        missing = [
            promise.name
            for promise in self.made.values()
            if promise.after is not None
            and promise.name not in takings
            and not file.waiting[promise.name]
            and not file.dead[promise.name]
        ]
        doubled = {name: len(hits) for name, hits in takings.items() if len(hits) > 1}
        return Verdict(
            acked=self.acked,
            unknown=self.open,
            taken=len(takings),
            waiting=file.waiting.total(),
            dead=file.dead.total(),
            counted=counted,
            # A limit says how many it dropped, not which; more than it says are lost.
            lost=missing if len(missing) > counted else [],
            doubled=doubled,
            unmarked=[n for n in doubled if n in file.here and n not in file.marked],
            reordered=[] if requeued else list(self._reordered(takings)),
            altered=list(self._altered(takings)),
            wrong_ts=list(self._wrong_ts(takings, back=not requeued)),
            undead=sorted(self.refused & (file.here | takings.keys())),
            equation=list(self._equation(takings, file, status, counted)),
            damaged=file.damaged,
        )

    def _reordered(self, takings: Mapping[str, list[Received]]) -> Iterator[tuple[str, str]]:
        for lane in self._lanes(takings).values():
            yield from (
                (before.name, after.name)
                for before, after in pairwise(lane)
                if before.place > after.place
            )

    def _altered(self, takings: Mapping[str, list[Received]]) -> Iterator[str]:
        for name, hits in takings.items():
            promise = self.made.get(name)
            if promise is None:
                continue
            yield from (name for hit in hits if not _is_same(promise.request, hit))

    def _wrong_ts(self, takings: Mapping[str, list[Received]], *, back: bool) -> Iterator[str]:
        for lane in self._lanes(takings).values():
            last = 0
            for promise in lane:
                for hit in takings[promise.name]:
                    ts = _stamped(promise.request, hit)
                    if ts is None:
                        continue
                    late = promise.after is not None and ts > promise.after + SLACK_S
                    if ts < promise.before - SLACK_S or late or (back and ts < last):
                        yield f"{promise.name} ts={ts} of {promise.before}..{promise.after}"
                    last = max(last, ts)

    def _lanes(self, takings: Mapping[str, list[Received]]) -> dict[tuple[str, str], list[Promise]]:
        """The hits of each lane in the order in which they were first taken."""
        lanes: dict[tuple[str, str], list[Promise]] = defaultdict(list)
        for name in takings:
            promise = self.made.get(name)
            if promise is not None:
                lanes[promise.suites, promise.visitor].append(promise)
        return lanes

    def _equation(
        self,
        takings: Mapping[str, list[Received]],
        file: Rows,
        status: Mapping[str, Any],
        counted: int,
    ) -> Iterator[str]:
        acked = {name for name, promise in self.made.items() if promise.after is not None}
        # Two rows of one name are two accepted hits: a resent copy that was not recognised.
        twice = (file.waiting + file.delivered + file.dead).total() - len(file.here)
        known = acked | takings.keys() | file.here
        delivered = len(takings.keys() - file.waiting.keys() - file.dead.keys())
        # What a limit dropped has no row; of an unanswered hit nobody knows then if it was one.
        unsure = min(counted, len(self.made.keys() - known))
        claims = {
            "accepted": (len(known) + twice, len(known) + twice + unsure),
            "waiting": (file.waiting.total(),) * 2,
            "dead": (file.dead.total(),) * 2,
            # A limit may drop what was taken in that very moment.
            "delivered": (max(0, delivered - counted), delivered + twice),
        }
        for key, (least, most) in claims.items():
            if not least <= status[key] <= most:
                yield f"the daemon says {key} {status[key]}, the oracle {least}..{most}"
        if not status["balanced"]:
            yield "the daemon's own equation does not hold"
        extra = sum(len(hits) - 1 for hits in takings.values())
        if extra > status["ambiguous"] + twice:
            yield f"taken {extra} times too often, and only {status['ambiguous']} called ambiguous"
        if twice:
            yield f"{twice} copies were not recognised"


def was_taken(hit: Received) -> bool:
    """Whether a collection server would have counted this request.

    One that answers with a refusal, or is not there but a portal, has not; one that took the
    request and whose answer got lost has.  What `fake.by` chose is not known here: give a
    portal or garbage by `always`, `will` or `when`.
    """
    if hit.status is not None and hit.status != 200:
        return False
    return hit.fault is None or hit.fault.answer is None


def _takings(received: Iterable[Received]) -> dict[str, list[Received]]:
    found: dict[str, list[Received]] = {}
    for hit in received:
        name = name_in(hit.target, hit.body)
        if name is not None and was_taken(hit):
            found.setdefault(name, []).append(hit)
    return found


def _is_same(sent: Request, hit: Received) -> bool:
    return (
        sent.method == hit.method
        and _end_to_end(sent.headers) == _end_to_end(hit.headers)
        and _apart(sent, hit) is not None
    )


def _end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in PER_HOP]


def _apart(sent: Request, hit: Received) -> int | None:
    """The stamp that was put in, 0 when the bytes are the same; None when more differs."""
    if (sent.target, sent.body) == (hit.target, hit.body):
        return 0
    if sent.body == hit.body:
        return _stamp_between(sent.target, hit.target)
    return _stamp_between(sent.body, hit.body) if sent.target == hit.target else None


def _stamp_between(sent: bytes, got: bytes) -> int | None:
    for found in STAMP.finditer(got):
        if got[: found.start()] + got[found.end() :] == sent:
            return int(found["first"] or found["later"] or found["tag"])
    return None


def _stamped(sent: Request, hit: Received) -> int | None:
    """The second put in by the daemon; None when it put in none."""
    return _apart(sent, hit) or None
