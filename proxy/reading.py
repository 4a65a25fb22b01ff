"""What a person reads of the hits: the reader's answers, with what only the daemon knows.

Rule: nothing here looks into a hit, or waits for the disk, on the event loop; bodies pass
from the reader to the client as they are.
Non-rule: no HTTP, and what a question means is `browse`'s.
Source: docs/design/0011.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from proxy.core.hit import Suites
from proxy.core.search import Fault
from proxy.drain import Drain
from proxy.errors import QueueUnavailable
from proxy.shell.browse import Told
from proxy.shell.queue import Queue
from proxy.shell.reader import Reader, Reply

MOST_TRIES = 1_000


class Reading:
    """The hits of a running daemon."""

    def __init__(
        self,
        queue: Queue,
        drain: Drain | None,
        suites: Callable[[], Suites],
        server: str | None = None,
    ) -> None:
        self._queue, self._drain, self._suites = queue, drain, suites
        self._base_url = Told().base_url if server is None else server
        self._reader = Reader(queue.path, self._told)

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
        """What there is of each report suite, as JSON."""
        return (await self._ask("suites")).body

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

    async def requeue(self, ids: Sequence[int]) -> int:
        """These dead letters wait again; how many."""
        return await self._queue.requeue(ids)

    async def discard(self, ids: Sequence[int]) -> int:
        """Give these dead letters up; how many."""
        return await self._queue.discard(ids)

    def moment(self) -> object:
        """Something that is different once anything has changed."""
        return self._queue.ledger, self._queue.last_id, self._drain and self._drain.flying

    async def examine(self, after: int) -> dict[str, Any]:
        """What is wrong with the newest hits behind this id, by rule."""
        found: dict[str, Any] = json.loads((await self._ask("examine", after=after)).body)
        return found

    async def rows(self, ids: Sequence[int]) -> bytes:
        """These hits as a list shows them, as JSON, but for those that are gone."""
        return (await self._ask("rows", ids=list(ids))).body

    async def _ask(self, what: str, **how: object) -> Reply:
        reply = await self._reader.ask(what, **how)
        if "faulty" in reply.head:
            raise Fault(reply.head["column"], reply.head["faulty"])
        if "error" in reply.head:
            raise QueueUnavailable(reply.head["error"])
        if "fault" in reply.head:
            raise RuntimeError(f"the reader failed: {reply.head['fault']}")
        return reply

    def _told(self) -> Told:
        drain = self._drain
        return Told(
            self._suites(),
            self._base_url,
            frozenset() if drain is None else drain.flying,
            {} if drain is None else drain.tries(MOST_TRIES),
        )
