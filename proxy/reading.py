"""What a person reads of the hits: the reader's answers, with what only the daemon knows.

Rule: nothing here looks into a hit, or waits for the disk, on the event loop; bodies pass
from the reader to the client as they are.
Non-rule: no HTTP, and what a question means is `browse`'s.
Source: docs/design/0011.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.core.hit import Suites
from proxy.drain import Drain
from proxy.errors import QueueUnavailable
from proxy.shell.browse import Told
from proxy.shell.queue import Queue
from proxy.shell.reader import Reader, Reply

MOST_TRIES = 1_000


class Reading:
    """The hits of a running daemon."""

    def __init__(self, queue: Queue, drain: Drain | None, suites: Callable[[], Suites]) -> None:
        self._queue, self._drain, self._suites = queue, drain, suites
        self._reader = Reader(queue.path, self._told)

    async def close(self) -> None:
        await self._reader.close()

    async def hits(self, q: str, cursor: int | None, limit: int) -> bytes:
        """A page of hits as JSON, newest first."""
        return (await self._ask("hits", q=q, cursor=cursor, limit=limit)).body

    async def hit(self, id_: int) -> bytes | None:
        """One hit as JSON; None when there is none of that id."""
        reply = await self._ask("hit", id_=id_)
        return None if reply.body == b"null" else reply.body

    async def counts(self, q: str) -> bytes:
        """How many there are, by state, as JSON."""
        return (await self._ask("counts", q=q)).body

    async def rows(self, ids: Sequence[int]) -> bytes:
        """These hits as a list shows them, as JSON, but for those that are gone."""
        return (await self._ask("rows", ids=list(ids))).body

    async def _ask(self, what: str, **how: object) -> Reply:
        reply = await self._reader.ask(what, **how)
        if "error" in reply.head:
            raise QueueUnavailable(reply.head["error"])
        if "fault" in reply.head:
            raise RuntimeError(f"the reader failed: {reply.head['fault']}")
        return reply

    def _told(self) -> Told:
        drain = self._drain
        return Told(
            self._suites(),
            frozenset() if drain is None else drain.flying,
            {} if drain is None else drain.tries(MOST_TRIES),
        )
