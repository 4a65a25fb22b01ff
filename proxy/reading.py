"""What a person reads of the hits: the reader's answers, with what only the daemon knows.

Rule: nothing here looks into a hit, or waits for the disk, on the event loop; bodies pass
from the reader to the client as they are.
Non-rule: no HTTP, and what a question means is `browse`'s.
Source: docs/design/0011.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from math import inf
from typing import Any

from proxy.core.hit import Suites
from proxy.core.names import Names
from proxy.core.ration import MOST_WAIT_S, PIECE_S, Ration
from proxy.core.search import Fault
from proxy.drain import Drain
from proxy.errors import QueueUnavailable
from proxy.shell.browse import MOST_SUITES, OTHER, Told
from proxy.shell.clock import worked_s
from proxy.shell.queue import Queue
from proxy.shell.reader import Reader, Reply

MOST_TRIES = 1_000
# Of hits that are named, which a question without a limit of time reads.
MOST_AT_ONCE = 500
# A table of suites is kept so long, or so many times as long as it took; it has so many parts.
KEEP_S, KEEP_TIMES, MOST_PARTS = 1.0, 10.0, 40
# What a person decides waits for nothing, nor does what a monitor or a sample takes now and then.
AT_ONCE = frozenset({"ids", "lanes", "rows", "examine"})
# Of these there is one piece only.
WHOLE = frozenset({"groups"})
COUNTED = ("waiting", "received_24h", "delivered_24h", "dead")


class Reading:
    """The hits of a running daemon."""

    def __init__(
        self,
        queue: Queue,
        drains: Sequence[Drain],
        suites: Callable[[], Suites],
        server: str | None = None,
        edge: str | None = None,
        worked_s: Callable[[], float] = worked_s,
        names: Callable[[], Names] = dict,
    ) -> None:
        self._queue, self._drains, self._suites = queue, drains, suites
        self._names = names
        self._base_url = Told().base_url if server is None else server
        self._edge_url = Told().edge_url if edge is None else edge
        self._suites_said, self._suites_until = b"", -inf
        self._reader = Reader(queue.path, self._told)
        self._worked_s = worked_s
        self._ration = Ration(time.monotonic(), worked_s())

    async def close(self) -> None:
        await self._reader.close()

    async def hits(self, q: str, cursor: int | None, limit: int) -> bytes:
        """A page of hits as JSON, newest first."""
        return (await self._ask("hits", q=q, cursor=cursor, limit=limit)).body

    async def hit(self, id_: int, *, unredacted: bool) -> bytes | None:
        """One hit as JSON; None when there is none of that id."""
        return await self._one("hit", id_, unredacted)

    async def raw(self, id_: int, *, unredacted: bool) -> bytes | None:
        """One hit as a request's text."""
        return await self._one("raw", id_, unredacted)

    async def curl(self, id_: int, *, unredacted: bool) -> bytes | None:
        """One hit as a command."""
        return await self._one("curl", id_, unredacted)

    async def compare(self, id_: int, other: int | None) -> bytes | None:
        """What one hit says otherwise than another, or than the one before it, as JSON."""
        reply = await self._ask("compare", id_=id_, other=other)
        return None if reply.head.get("none") else reply.body

    async def _one(self, what: str, id_: int, unredacted: bool) -> bytes | None:
        reply = await self._ask(what, id_=id_, unredacted=unredacted)
        return None if reply.head.get("none") else reply.body

    async def export(
        self, kind: str, q: str, cursor: int | None, *, unredacted: bool
    ) -> tuple[bytes, int | None]:
        """A piece of an export as ndjson, csv or har, and where the next one begins."""
        reply = await self._ask("export", kind=kind, q=q, cursor=cursor, unredacted=unredacted)
        return reply.body, reply.head["cursor"]

    async def counts(self, q: str, cursor: int | None) -> bytes:
        """How many there are, by state, as JSON."""
        return (await self._ask("counts", q=q, cursor=cursor)).body

    async def suites(self) -> bytes:
        """What there is of each report suite, as JSON.

        Every hit is counted for it, a part at a time; so the answer is kept a while, the longer
        the more work it was, for every page that looks asks again and again.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._suites_until:
            self._suites_said = json.dumps(await self._count_suites()).encode()
            ended = asyncio.get_running_loop().time()
            self._suites_until = ended + max(KEEP_S, KEEP_TIMES * (ended - now))
        return self._suites_said

    async def _count_suites(self) -> dict[str, Any]:
        total: dict[str, Any] = {"suites": [], "complete": False}
        by_name: dict[str, dict[str, Any]] = {}
        cursor: int | None = None
        for _ in range(MOST_PARTS):
            part = json.loads((await self._ask("suites", cursor=cursor)).body)
            for suite in part["suites"]:
                if suite["suite"] not in by_name and len(by_name) >= MOST_SUITES:
                    suite["suite"] = OTHER
                known = by_name.setdefault(suite["suite"], suite)
                if known is not suite:
                    for name in COUNTED:
                        known[name] += suite[name]
                    oldest = [one["oldest_ms"] for one in (known, suite) if one["oldest_ms"]]
                    known["oldest_ms"] = min(oldest, default=None)
            cursor = part["cursor"]
            if part["complete"]:
                total["complete"] = True
                break
        total["suites"] = list(by_name.values())
        return total

    async def groups(self) -> bytes:
        """Dead letters by what they died of, as JSON."""
        return (await self._ask("groups")).body

    async def dead(self, q: str) -> list[int]:
        """The ids of the dead letters that the filter means, as they are now."""
        ids: list[int] = []
        cursor: int | None = None
        while True:
            page = json.loads((await self._ask("ids", q=q, cursor=cursor)).body)
            ids += page["ids"]
            cursor = page["cursor"]
            if cursor is None:
                return ids

    async def lanes(self, q: str | None, ids: Sequence[int] | None) -> AsyncIterator[list[int]]:
        """The lanes of the waiting hits that are meant, a hit each, piece by piece."""
        if q is None:
            # Each once: for every one of them its hit is read.
            once = list(dict.fromkeys(ids or ()))
            for at in range(0, len(once), MOST_AT_ONCE):
                part = once[at : at + MOST_AT_ONCE]
                yield json.loads((await self._ask("lanes", ids=part)).body)["lanes"]
            return
        cursor: int | None = None
        while True:
            page = json.loads((await self._ask("lanes", q=q, cursor=cursor)).body)
            yield page["lanes"]
            cursor = page["cursor"]
            if cursor is None:
                return

    async def requeue(self, ids: Sequence[int]) -> int:
        """These dead letters wait again; how many."""
        return await self._queue.requeue(ids)

    async def discard(self, ids: Sequence[int]) -> int:
        """Give these dead letters up; how many."""
        return await self._queue.discard(ids)

    def moment(self) -> object:
        """Something that is different once anything has changed."""
        return self._queue.ledger, self._queue.last_id, self._flying()

    async def examine(self, after: int) -> dict[str, Any]:
        """What is wrong with the newest hits behind this id, by rule."""
        found: dict[str, Any] = json.loads((await self._ask("examine", after=after)).body)
        return found

    async def rows(self, ids: Sequence[int]) -> bytes:
        """These hits as a list shows them, as JSON; the newest for which there is time."""
        return (await self._ask("rows", ids=list(ids))).body

    async def _ask(self, what: str, **how: object) -> Reply:
        if what not in AT_ONCE:
            await self._turn(is_first=how.get("cursor") is None)
        work_s = PIECE_S if what in WHOLE else self._ration.piece_s
        # Taken off beforehand, so that those who ask at the same time count.
        self._ration.spend(work_s)
        took_s = 0.0
        try:
            reply = await self._reader.ask(what, work_s=work_s, **how)
            took_s = reply.head["took_s"]
        finally:
            self._ration.spend(took_s - work_s)
        if "faulty" in reply.head:
            raise Fault(reply.head["column"], reply.head["faulty"])
        if "error" in reply.head:
            raise QueueUnavailable(reply.head["error"])
        if "fault" in reply.head:
            raise RuntimeError(f"the reader failed: {reply.head['fault']}")
        return reply

    async def _turn(self, *, is_first: bool) -> None:
        """Wait until it is one's turn: hits come first."""
        until_s = time.monotonic() + MOST_WAIT_S
        while True:
            now_s = time.monotonic()
            wait_s = self._ration.wait_s(now_s, self._worked_s(), is_first=is_first)
            if wait_s <= 0 or now_s >= until_s:
                return
            await asyncio.sleep(min(wait_s, until_s - now_s))

    def _told(self) -> Told:
        tries: dict[int, int] = {}
        waits: dict[int, tuple[str, float | None]] = {}
        for drain in self._drains:
            tries |= drain.tries(MOST_TRIES)
            waits |= drain.waits(MOST_TRIES)
        sending, names = self._flying(), self._names()
        return Told(self._suites(), self._base_url, sending, tries, self._edge_url, names, waits)

    def _flying(self) -> frozenset[int]:
        return frozenset[int]().union(*(drain.flying for drain in self._drains))
