"""Hits for people: the queue file opened for reading only, and pages of what stands in it.

Rule: newest first, in one sequence of ids over everything that is kept (waiting, held,
delivered, dead).  A question gets so many milliseconds; what did not fit is asked for again
with the cursor of the answer.  Rows are fetched a few at a time and looked at after the
statement has ended, so that no reading keeps the log from being emptied.
Non-rule: changes nothing, and never runs on the daemon's event loop: `reader` gives it a
process of its own, the command line calls it when no daemon is there.
Source: sqlite.org, "Write-Ahead Logging" (readers and checkpoints).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

from proxy.core import advice, beacon, names, render, search, stamp, wire
from proxy.core.compare import Change, changes
from proxy.core.decode import Decoded
from proxy.core.edge import datastream, findings
from proxy.core.edge.decode import decode
from proxy.core.findings import Finding
from proxy.core.hit import Hit, Received, Request, Suites
from proxy.core.moment import Boots
from proxy.core.search import View
from proxy.errors import NotABeacon, QueueTooNew, QueueUnavailable
from proxy.shell import migrate
from proxy.shell.rows import to_hit

Json: TypeAlias = dict[str, Any]

WORK_S = 0.15
CHUNK = 128
MOST_ROWS = 500
NEWEST = 2**63 - 1
# What a table of report suites, and of reasons, may grow to: strangers choose both.
MOST_SUITES, MOST_GROUPS, OTHER = 200, 100, "other"
SAMPLE = 200
DAY_MS = 86_400_000
OURS = "http://127.0.0.1:8277"  # where nothing else is configured
HEAD = 6_000  # more than a path with as many report suites as a hit may have
PATH = re.compile(rb"[A-Z]+ /b/ss/([^/? ]+)/")
EVENT = re.compile(rb"POST (/(?!b/ss/)[^? ]+\?[^ ]*) ")

WAITING, SENDING, HELD, DELIVERED, DEAD = "waiting", "sending", "held", "delivered", "dead"
STATES = frozenset({WAITING, SENDING, HELD, DELIVERED, DEAD})

_KEPT = """
    SELECT h.id, h.lane, h.boot, h.received_ms, h.flags, h.suites, h.content, h.sum,
           0, d.at_ms, d.status, d.ts, k.reason, 0
    FROM {tables} WHERE h.id < :below"""
_DEAD = """
    SELECT id, lane, boot, received_ms, flags, suites, content, sum,
           1, died_ms, status, NULL, reason, tries
    FROM dead WHERE id < :below"""
_HITS = _KEPT.format(
    tables="hits h LEFT JOIN delivered d ON d.id = h.id LEFT JOIN held k ON k.id = h.id"
)
# Where few are wanted among many, the narrow table leads.
_LEADING = {
    frozenset({HELD}): _KEPT.format(
        tables="held k CROSS JOIN hits h ON h.id = k.id LEFT JOIN delivered d ON d.id = k.id"
    ).replace("h.id < :below", "k.id < :below"),
    frozenset({DELIVERED}): _KEPT.format(
        tables="delivered d CROSS JOIN hits h ON h.id = d.id LEFT JOIN held k ON k.id = d.id"
    ).replace("h.id < :below", "d.id < :below"),
}
_CAUSES = """
    SELECT id, reason, status, died_ms, suites, head(content) FROM dead
    WHERE id < :below ORDER BY id DESC LIMIT :most"""
_OF_SUITES = """
    SELECT h.id, h.boot, h.received_ms, h.suites, head(h.content), 0, d.at_ms
    FROM hits h LEFT JOIN delivered d ON d.id = h.id WHERE h.id < :below
    UNION ALL
    SELECT id, boot, received_ms, suites, head(content), 1, NULL FROM dead
    WHERE id < :below
    ORDER BY 1 DESC LIMIT :most"""
_LANES = """
    SELECT id, lane FROM hits WHERE id < :below UNION ALL
    SELECT id, lane FROM dead WHERE id < :below
    ORDER BY 1 DESC LIMIT :most"""
MOST_LANES = 5_000
# What `_rows` takes, in this order.  (Numbers with a sequence are on their way out of sqlite3.)
_NAMES = ("below", "most")
_ORDER = " ORDER BY 1 DESC LIMIT :most"


@dataclass(frozen=True, slots=True)
class Told:
    """What the file does not know: the configured suites, and what the daemon is doing.

    `base_url` is where hits go, `edge_url` where events do; `sending` are those in flight,
    `tries` the failed tries of those that wait for another; `names` are the site's own,
    `waits` the reasons of those tries with the seconds until the next one.
    """

    suites: Suites = field(default_factory=lambda: Suites({}))
    base_url: str = OURS
    sending: frozenset[int] = frozenset()
    tries: Mapping[int, int] = field(default_factory=dict)
    edge_url: str = OURS
    names: names.Names = field(default_factory=dict)
    waits: Mapping[int, tuple[str, float | None]] = field(default_factory=dict)

    def goes_to(self, hit: Hit) -> str:
        """The server of its protocol, as its lane tells."""
        return self.edge_url if hit.lane < 0 else self.base_url


@dataclass(frozen=True, slots=True)
class Kept:
    """A hit as it stands in the file; `at_ms` is when it was delivered or died."""

    hit: Hit
    state: str
    received_ms: int
    at_ms: int | None
    status: int | None
    ts: int | None
    reason: str | None
    tries: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A hit and what it says."""

    kept: Kept
    decoded: Decoded
    findings: tuple[Finding, ...]

    @property
    def suites(self) -> tuple[str, ...]:
        """Those this row stands for."""
        return self.kept.hit.suites or self.decoded.suites


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of an export, and the cursor of what follows."""

    text: str
    cursor: int | None


class _Looked:
    """How far a search has come, and when it has to end for now."""

    def __init__(self, cursor: int | None, work_s: float) -> None:
        self.at = NEWEST if cursor is None else cursor
        self.to_ms: int | None = None
        self.complete = False
        self._until = time.monotonic() + work_s

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._until


class Browser:
    """One queue file, opened for reading.  A context manager."""

    def __init__(self, path: Path, told: Told | None = None, work_s: float = WORK_S) -> None:
        self.told = told or Told()
        self._path = path
        self.work_s = work_s
        self._db: sqlite3.Connection | None = None
        self._boots = Boots(0, {0: 0})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    # -- what is asked ---------------------------------------------------------------------

    def hits(self, q: str = "", cursor: int | None = None, limit: int = 100) -> Json:
        """A page of hits; with `complete` false, `cursor` says where to go on."""
        looked = _Looked(cursor, self.work_s)
        rows = [
            self.row(seen)
            for seen in itertools.islice(self._seen(q, looked), min(limit, MOST_ROWS))
        ]
        complete = looked.complete or not self._any_below(looked.at)
        return {
            "hits": rows,
            "cursor": None if complete else str(looked.at),
            "complete": complete,
            "searched_to_ms": looked.to_ms,
        }

    def ids(self, q: str = "", cursor: int | None = None) -> Json:
        """The dead letters that are meant, by id."""
        looked = _Looked(cursor, self.work_s)
        found = [kept.hit.id for kept, _ in self._found(q, looked, frozenset({DEAD}))]
        return {"ids": found, "cursor": None if looked.complete else looked.at}

    def lanes(
        self, q: str = "", cursor: int | None = None, ids: Sequence[int] | None = None
    ) -> Json:
        """The lane of each waiting hit that is meant, by a filter or by id."""
        waiting = frozenset({WAITING, SENDING})
        if ids is not None:
            named = (self.find(id_) for id_ in ids)
            lanes = [kept.hit.lane for kept in named if kept and kept.state in waiting]
            return {"lanes": lanes, "cursor": None}
        looked = _Looked(cursor, self.work_s)
        lanes = [kept.hit.lane for kept, _ in self._found(q, looked, waiting)]
        return {"lanes": lanes, "cursor": None if looked.complete else looked.at}

    def hit(self, id_: int, *, unredacted: bool = False) -> Json | None:
        """Everything about one hit; None when it is not kept (any more).

        Headers that tell who somebody is are left out, unless they are asked for.
        """
        kept = self.find(id_)
        if kept is None:
            return None
        seen = self.see(kept)
        return self.row(seen) | {
            "decoded": names.as_json(seen.decoded, self.told.names),
            "findings": [render.finding_json(one) for one in seen.findings],
            "timeline": _timeline(kept, self.told.waits.get(kept.hit.id)),
            "request": render.request_json(kept.hit.request, unredacted=unredacted),
            "ts_sent": kept.ts,
        }

    def compare(self, id_: int, other: int | None = None) -> Json | None:
        """What a hit says otherwise than another one; None when one of them is not kept.

        The other one is that which came before it from the same visitor to the same suites,
        unless it is named; null when there is none, or none was found in the time there is.
        """
        kept = self.find(id_)
        if kept is None:
            return None
        complete = True
        if other is None:
            other, complete = self._before(kept.hit)
        before = None if other is None else self.find(other)
        if before is None:
            found: Json = {"id": id_, "other": None, "changes": [], "complete": complete}
            return found if other is None else None
        old, new = self.see(before), self.see(kept)
        return {
            "id": id_,
            "other": self.row(old),
            "changes": [self._change(one) for one in changes(old.decoded, new.decoded)],
            "complete": complete,
        }

    def _before(self, hit: Hit) -> tuple[int | None, bool]:
        """The hit before this one in its lane; whether all that are kept were looked at."""
        looked = _Looked(hit.id, self.work_s)
        while rows := self._rows(_LANES, looked.at, MOST_LANES):
            for id_, lane in rows:
                if lane == hit.lane:
                    return id_, True
            looked.at = rows[-1][0]
            if looked.is_over:
                return None, not self._any_below(looked.at)
        return None, True

    def _change(self, one: Change) -> Json:
        label = names.called(one.field, one.group, self.told.names)
        return {
            "group": one.group,
            "key": one.field.key,
            "name": one.field.name,
            "place": one.place,
            "before": one.before,
            "after": one.after,
        } | ({} if label is None else {"label": label})

    def raw(self, id_: int, *, unredacted: bool = False) -> str | None:
        """The request as it would be written on a connection, a character for a byte."""
        kept = self.find(id_)
        if kept is None:
            return None
        request = kept.hit.request
        headers = request.headers if unredacted else render.redacted(request.headers)
        return wire.message(request._replace(headers=headers)).decode("latin-1")

    def curl(self, id_: int, *, unredacted: bool = False) -> str | None:
        """A command that sends the hit to the collection server."""
        kept = self.find(id_)
        if kept is None:
            return None
        return (
            render.curl(_own(kept.hit), self.told.goes_to(kept.hit), unredacted=unredacted) + "\n"
        )

    def export(
        self, kind: str, q: str = "", cursor: int | None = None, *, unredacted: bool = False
    ) -> Piece:
        """A piece of an export, and where the next one begins: None behind the last."""
        looked = _Looked(cursor, self.work_s)
        text = _WRITERS[kind](self, self._seen(q, looked), unredacted)
        return Piece(text, None if looked.complete else looked.at)

    def find(self, id_: int) -> Kept | None:
        """One hit as it stands in the file."""
        row = next(self._below(id_ + 1, STATES, 1), None) if 0 <= id_ < NEWEST else None
        return None if row is None or row[0] != id_ else self._kept(row)

    def examine(self, after: int) -> Json:
        """How often each rule is broken in the newest hits behind this id, in so many at most."""
        looked = _Looked(None, self.work_s)
        found: Counter[str] = Counter()
        examined = 0
        for seen in itertools.islice(self._seen("", looked), SAMPLE):
            if seen.kept.hit.id <= after:
                break
            examined += 1
            found.update({finding.rule for finding in seen.findings})
        return {"examined": examined, "findings": found}

    def rows(self, ids: Sequence[int]) -> list[Json]:
        """These hits as a list shows them, newest first, but for those that are gone.

        As many as there is time for, and one at least: large ones take long to decode.
        """
        until = time.monotonic() + self.work_s
        said: list[Json] = []
        for id_ in sorted(ids, reverse=True):
            kept = self.find(id_)
            if kept is not None:
                said.append(self.row(self.see(kept)))
            if said and time.monotonic() >= until:
                break
        return said

    def counts(self, q: str = "", cursor: int | None = None) -> Json:
        """How many there are, by state; what is held or being sent is among the waiting.

        With `complete` false, the rest is counted from `cursor` on.
        """
        if not q.strip():
            return self._all_counts()
        looked = _Looked(cursor, self.work_s)
        by_state = Counter(kept.state for kept, _ in self._found(q, looked))
        waiting = by_state[WAITING] + by_state[SENDING] + by_state[HELD]
        return {
            "total": by_state.total(),
            "waiting": waiting,
            "sending": by_state[SENDING],
            "held": by_state[HELD],
            "delivered": by_state[DELIVERED],
            "dead": by_state[DEAD],
            "cursor": None if looked.complete else str(looked.at),
            "complete": looked.complete,
        }

    def _all_counts(self) -> Json:
        ((waiting, held, dead),) = self._rows("SELECT waiting, held, dead FROM ledger")
        ((delivered,),) = self._rows("SELECT count(*) FROM delivered")
        return {
            "total": waiting + delivered + dead,
            "waiting": waiting,
            "sending": len(self.told.sending),
            "held": held,
            "delivered": delivered,
            "dead": dead,
            "cursor": None,
            "complete": True,
        }

    def groups(self) -> Json:
        """Dead letters by what they died of, the most numerous first."""
        groups: dict[tuple[str, int | None], Json] = {}
        until = time.monotonic() + self.work_s
        at, complete = NEWEST, True
        while rows := self._rows(_CAUSES, at, MOST_ROWS):
            for id_, reason, status, died_ms, suites, head in rows:
                at = id_
                group = groups.setdefault(
                    (reason, status),
                    {
                        "reason": reason,
                        "status": status,
                        "hits": 0,
                        "suites": set(),
                        "first_ms": died_ms,
                        "last_ms": died_ms,
                        "next_step": advice.next_step(reason, status),
                    },
                )
                group["hits"] += 1
                group["first_ms"] = min(group["first_ms"], died_ms)
                group["last_ms"] = max(group["last_ms"], died_ms)
                if len(group["suites"]) < MOST_SUITES:
                    group["suites"].update(_suites(suites, head))
            if time.monotonic() >= until:
                complete = len(rows) < MOST_ROWS
                break
        found = sorted(groups.values(), key=lambda group: -group["hits"])[:MOST_GROUPS]
        for group in found:
            group["suites"] = sorted(group["suites"])
        return {"groups": found, "complete": complete}

    def suites(self, cursor: int | None = None) -> Json:
        """What there is of each report suite, as far as the time went; the rest from `cursor` on.

        Findings are those of a sample, and in the first answer: the newest hits, as many as
        there is time for.
        """
        looked = _Looked(cursor, self.work_s)
        found: dict[str, Json] = {rsid: self._suite(rsid) for rsid in self.told.suites.known}

        def of(rsid: str, protocol: str = "analytics") -> Json:
            if rsid not in found and len(found) >= MOST_SUITES:
                rsid = OTHER
            return found.setdefault(rsid, self._suite(rsid, protocol))

        if cursor is None:
            for row in itertools.islice(self._below(NEWEST, STATES, SAMPLE), SAMPLE):
                seen = self.see(self._kept(row))
                for rsid in seen.suites:
                    rules = of(rsid, seen.decoded.protocol)["findings"]
                    for rule in {finding.rule for finding in seen.findings}:
                        rules[rule] = rules.get(rule, 0) + 1
                if looked.is_over:
                    break  # strangers choose how long it takes to decode a hit
        self._count(looked, of)
        return {
            "suites": list(found.values()),
            "cursor": None if looked.complete else looked.at,
            "complete": looked.complete,
        }

    def _count(self, looked: _Looked, of: Callable[[str, str], Json]) -> None:
        """Count each hit with its suites, until the time is up."""
        day_ago_ms = time.time() * 1000 - DAY_MS
        boots = self._read_boots()
        while rows := self._rows(_OF_SUITES, looked.at, MOST_ROWS):
            for id_, boot, received_ms, suites, head, dead, delivered_ms in rows:
                looked.at = id_
                at_ms = boots.wall_ms(Received(boot, received_ms))
                is_new = at_ms >= day_ago_ms
                protocol = "edge" if EVENT.match(head) else "analytics"
                for suite in (of(name, protocol) for name in _suites(suites, head)):
                    suite["received_24h"] += is_new
                    if dead:
                        suite["dead"] += 1
                    elif delivered_ms is None:
                        suite["waiting"] += 1
                        suite["oldest_ms"] = min(at_ms, suite["oldest_ms"] or at_ms)
                    else:
                        suite["delivered_24h"] += delivered_ms >= day_ago_ms
            if len(rows) < MOST_ROWS:
                break
            if looked.is_over:
                return
        looked.complete = True

    def _suite(self, rsid: str, protocol: str = "analytics") -> Json:
        suites = self.told.suites
        return {
            "suite": rsid,
            "protocol": protocol,
            "timestamps": str(suites.of(rsid).timestamps),
            "listed": rsid in suites.known,
            "waiting": 0,
            "oldest_ms": None,
            "received_24h": 0,
            "delivered_24h": 0,
            "dead": 0,
            "findings": {},
        }

    # -- one row -----------------------------------------------------------------------------

    def see(self, kept: Kept) -> Seen:
        """The hit decoded, and what is wrong with it."""
        decoded = decode(kept.hit.request)
        found = findings.findings(
            decoded,
            kept.hit.request,
            self.told.suites,
            received_ms=kept.received_ms,
            at_ms=time.time() * 1000 if kept.at_ms is None else kept.at_ms,
        )
        return Seen(kept, decoded, found)

    def row(self, seen: Seen) -> Json:
        """A hit as a list shows it."""
        kept, said = seen.kept, seen.decoded
        visitor = next((one for one in said.identities if one.used), None)
        return {
            "id": kept.hit.id,
            "state": kept.state,
            "received_ms": kept.received_ms,
            "delivered_ms": kept.at_ms if kept.state == DELIVERED else None,
            "kind": str(said.kind),
            "title": said.title,
            "events": [event.name for event in said.events],
            "suites": list(seen.suites),
            "visitor": visitor and {"kind": visitor.kind, "value": visitor.value},
            "findings": [
                {"rule": one.rule, "severity": str(one.severity)} for one in seen.findings
            ],
            "reason": kept.reason,
            "status": kept.status,
            "tries": kept.tries,
            "ambiguous": kept.hit.ambiguous,
            "bytes": len(wire.message(kept.hit.request)),
        }

    # -- looking -----------------------------------------------------------------------------

    def _seen(self, q: str, looked: _Looked, among: frozenset[str] = STATES) -> Iterator[Seen]:
        """As `_found`, each of them decoded."""
        for kept, seen in self._found(q, looked, among):
            yield self.see(kept) if seen is None else seen

    def _found(
        self, q: str, looked: _Looked, among: frozenset[str] = STATES
    ) -> Iterator[tuple[Kept, Seen | None]]:
        """What the filter means, newest first, until the time is up; `looked` says how far.

        Decoded and judged only as far as the filter asks.  Fault when the filter cannot be read.
        """
        now_ms = time.time() * 1000
        query = search.parse(q)
        plan = search.plan(query, now_ms)
        states = among if plan.states is None else among & plan.states
        decodes, judges = search.needs_decoding(query), search.needs_findings(query)
        if not states:
            looked.complete = True
            return
        if plan.only is not None:
            looked.at = min(looked.at, plan.only + 1)
        for row in self._below(looked.at, states, CHUNK if plan.only is None else 1):
            if plan.only is not None and row[0] < plan.only:
                break
            kept = self._kept(row) if search.may_match(plan, _plain(row[6])) else None
            looked.at = row[0]
            if kept is not None and kept.state in states:
                looked.to_ms = kept.received_ms
            if kept is not None and kept.state in states and plan.covers(kept.received_ms):
                seen = self.see(kept) if judges else None
                decoded = seen.decoded if seen else None
                if decoded is None and decodes:
                    decoded = decode(kept.hit.request)
                view = _view(kept, now_ms, decoded, seen.findings if seen else ())
                if search.matches(query, view):
                    yield kept, seen
            if looked.is_over:
                return
        looked.complete = True

    # -- the file ----------------------------------------------------------------------------

    def _below(self, id_: int, states: frozenset[str], chunk: int) -> Iterator[tuple[Any, ...]]:
        """Rows with smaller ids, newest first; those of other states may be among them."""
        self._boots = self._read_boots()
        sql = _select(states)
        while True:
            rows = self._rows(sql, id_, chunk)
            yield from rows
            if len(rows) < chunk:
                return
            id_ = rows[-1][0]

    def _any_below(self, id_: int) -> bool:
        sql = (
            "SELECT EXISTS (SELECT 1 FROM hits WHERE id < :below)"
            " OR EXISTS (SELECT 1 FROM dead WHERE id < :below)"
        )
        return bool(self._rows(sql, id_)[0][0])

    def _kept(self, row: tuple[Any, ...]) -> Kept:
        dead, at_ms, status, ts, reason, tries = row[8:]
        hit = to_hit(row[:8])
        state = WAITING
        if dead:
            state = DEAD
        elif at_ms is not None:
            state, tries = DELIVERED, 1
        elif reason is not None:
            state = HELD
        elif hit.id in self.told.sending:
            state = SENDING
        if state in (WAITING, SENDING):
            tries = self.told.tries.get(hit.id, 0)
        return Kept(hit, state, self._boots.wall_ms(hit.received), at_ms, status, ts, reason, tries)

    def _read_boots(self) -> Boots:
        offsets = dict(self._rows("SELECT boot, offset_ms FROM boots"))
        return Boots(max(offsets, default=0), offsets or {0: 0})

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            if self._db is None:
                uri = f"{self._path.absolute().as_uri()}?mode=ro"
                self._db = sqlite3.connect(uri, uri=True, isolation_level=None)
                self._db.execute("PRAGMA query_only = 1")
                migrate.known_version(self._db)
                self._db.create_function("head", 1, _head, deterministic=True)
            return self._db.execute(sql, dict(zip(_NAMES, values, strict=False))).fetchall()
        except QueueTooNew:
            self.close()
            raise
        except sqlite3.Error as error:
            # The next question opens the file anew: it may be another one by then.
            with contextlib.suppress(sqlite3.Error):
                self.close()
            raise QueueUnavailable(f"cannot read {self._path}: {error}") from error


def _view(
    kept: Kept,
    now_ms: float,
    decoded: Decoded | None = None,
    findings: tuple[Finding, ...] = (),
) -> View:
    return View(
        state=kept.state,
        received_ms=kept.received_ms,
        now_ms=now_ms,
        decoded=decoded,
        findings=findings,
        delivered_ms=kept.at_ms if kept.state == DELIVERED else None,
        id=kept.hit.id,
        reason=kept.reason or "",
        ambiguous=kept.hit.ambiguous,
    )


# -- exports ---------------------------------------------------------------------------------


def _own(hit: Hit) -> Request:
    """The hit's own part of the request: what another row stands for is left to that one."""
    return stamp.render(hit.request, None, hit.suites) if hit.suites else hit.request


def _ndjson(browser: Browser, found: Iterable[Seen], unredacted: bool) -> str:
    lines = [
        browser.row(seen) | render.request_json(_own(seen.kept.hit), unredacted=unredacted)
        for seen in found
    ]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def _csv(_: Browser, found: Iterable[Seen], _unredacted: bool) -> str:
    now_ms = time.time() * 1000
    return "".join(
        render.csv_row(_view(seen.kept, now_ms, seen.decoded, seen.findings)) for seen in found
    )


def _har(browser: Browser, found: Iterable[Seen], unredacted: bool) -> str:
    entries = [
        render.har_entry(
            _own(seen.kept.hit),
            browser.told.goes_to(seen.kept.hit),
            received_ms=seen.kept.received_ms,
            status=seen.kept.status,
            unredacted=unredacted,
        )
        for seen in found
    ]
    return ",".join(json.dumps(entry, separators=(",", ":")) for entry in entries)


_WRITERS = {"ndjson": _ndjson, "csv": _csv, "har": _har}


# -- rows ------------------------------------------------------------------------------------


def _select(states: frozenset[str]) -> str:
    arms = [_LEADING.get(states - {DEAD}, _HITS)] if states - {DEAD} else []
    arms += [_DEAD] if DEAD in states else []
    return " UNION ALL ".join(arms) + _ORDER


def _plain(content: bytes, most: int = wire.MOST) -> bytes:
    """The message of a row, or its beginning; of a damaged one what there is."""
    try:
        return wire.plain(content, most)
    except ValueError:
        return content[:most]


def _head(content: bytes) -> bytes:
    return _plain(content, HEAD)


@functools.lru_cache(maxsize=4_096)
def _named(segment: bytes) -> tuple[str, ...]:
    try:
        return beacon.suites_of(segment)
    except NotABeacon:
        return ()


def _suites(part: str | None, head: bytes) -> tuple[str, ...]:
    """The report suites of a row, or its datastream, without decoding it; none of XML."""
    if part:
        return tuple(part.split(","))
    if event := EVENT.match(head):
        name = datastream(event[1])
        return (name,) if name else ()
    path = PATH.match(head)
    return () if path is None else _named(path[1])


def _timeline(kept: Kept, waits: tuple[str, float | None] | None = None) -> list[Json]:
    """What is known to have happened, in its order; a moment nobody noted is null."""
    why, again_s = waits if waits is not None and kept.state in (WAITING, SENDING) else ("", None)
    told: list[tuple[int | None, str]] = [(kept.received_ms, "received and stored")]
    if kept.hit.requeued:
        told.append((None, "requeued from the dead letters by a person"))
    if kept.tries and kept.state in (WAITING, SENDING, DEAD):
        tries = f"{kept.tries} failed {'try' if kept.tries == 1 else 'tries'}"
        told.append((None, f"{tries}: {why}" if why else tries))
    if why and kept.state == WAITING:
        told.append(
            (None, "next try as soon as the collection server answers")
            if again_s is None
            else (round(time.time() * 1000 + again_s * 1000), "next try")
        )
    if kept.hit.ambiguous:
        told.append((None, "may have reached Adobe: a send was cut before its answer"))
    match kept.state:
        case "sending":
            told.append((None, "being sent"))
        case "held":
            told.append((None, f"held: {kept.reason}"))
        case "delivered":
            told.append((kept.at_ms, f"delivered: answered {kept.status}"))
        case "dead":
            told.append((kept.at_ms, f"dead letter: {kept.reason}"))
    return [{"at_ms": at_ms, "what": what} for at_ms, what in told]
