"""What changes while somebody looks: a sample now and then, one for all who listen.

Rule: nothing is done for a single hit, and nothing at all while nobody listens.  A listener's
own task takes the sample when the last one is old enough; the others find it there.
Non-rule: no HTTP; what is in a row is `browse`'s.
Source: docs/design/0011.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

import structlog

from proxy.core.feed import Event, Feed
from proxy.core.hit import Ledger
from proxy.desk import Desk
from proxy.errors import QueueError
from proxy.reading import Reading

log = structlog.get_logger()

# Two events each time, so four a second at most.
SAMPLE_S = 0.5
# So often a status is sent though nothing happened: ages grow, a next try comes closer.
STATUS_S = 5.0
MOST_CHANGED = 50


class Live:
    """The events of a running daemon."""

    def __init__(self, desk: Desk, reading: Reading, sample_s: float = SAMPLE_S) -> None:
        self.sample_s = sample_s
        self._desk, self._reading = desk, reading
        self._feed = Feed(f"{desk.queue.clock.wall_ms():x}")
        self._listeners = 0
        self._sampling = asyncio.Lock()
        self._sampled_at = self._told_at = -STATUS_S
        self._state: tuple[str, ...] = ()
        self._ledger = Ledger()
        self._last_id = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While somebody listens, the queue notes which hits changed last."""
        queue = self._desk.queue
        if not self._listeners:
            queue.landed = deque(maxlen=MOST_CHANGED)
            self._ledger, self._last_id = queue.ledger, queue.last_id
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                queue.landed = None

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self._feed.last

    def id(self, number: int) -> str:
        return self._feed.id(number)

    def heard(self, id_: str) -> int | None:
        """The number of the event a listener heard last; None when there is a gap behind it."""
        return self._feed.heard(id_)

    def after(self, number: int) -> list[Event] | None:
        """The events behind this one; None when there is a gap."""
        return self._feed.after(number)

    async def status(self) -> str:
        """The status as JSON."""
        return json.dumps(await self._desk.status())

    async def sample(self) -> None:
        """Publish what changed since the last sample, unless that was just now."""
        async with self._sampling:
            now = self._desk.loop_time()
            if now - self._sampled_at < self.sample_s:
                return
            self._sampled_at = now
            queue = self._desk.queue
            ledger, last_id = queue.ledger, queue.last_id
            # The state is one road's; each may come and go by itself.
            links = (drain.link.state for drain in self._desk.drains)
            state = self._desk.state(), *map(str, links)
            is_news = ledger != self._ledger or last_id != self._last_id
            if is_news:
                self._feed.publish("hits", await self._changed(last_id))
            if is_news or state != self._state or now - self._told_at >= STATUS_S:
                self._told_at = now
                self._feed.publish("status", await self.status())
            self._ledger, self._last_id, self._state = ledger, last_id, state

    async def note(self) -> None:
        """For ever: while the log takes such lines, each hit and what became of it is one.

        By its number, never with anything it says.
        """
        while True:
            if not logging.getLogger().isEnabledFor(logging.DEBUG):
                await asyncio.sleep(STATUS_S)
                continue
            with self.listening():
                told = self.last
                await asyncio.sleep(self.sample_s)
                try:
                    while logging.getLogger().isEnabledFor(logging.DEBUG):
                        await self.sample()
                        events = self.after(told)
                        told = self.last
                        for event in events or ():
                            if event.name == "hits":
                                _note(json.loads(event.data))
                        await asyncio.sleep(self.sample_s)
                except (QueueError, RuntimeError) as error:  # no reason for a daemon to end
                    log.debug("hits cannot be told of", reason=str(error))
                    await asyncio.sleep(STATUS_S)

    async def _changed(self, last_id: int) -> str:
        """How many hits came, and the newest of those that are not as they were."""
        new = last_id - self._last_id
        ids = set(range(max(self._last_id, last_id - MOST_CHANGED) + 1, last_id + 1))
        landed = self._desk.queue.landed
        if landed:
            ids.update(landed)
            landed.clear()
        rows = b"[]"
        with contextlib.suppress(QueueError):
            rows = await self._reading.rows(sorted(ids)[-MOST_CHANGED:])
        return f'{{"new":{max(0, new)},"changed":{rows.decode()}}}'


def _note(said: dict[str, Any]) -> None:
    rows = said["changed"]
    if said["new"] > len(rows):
        log.debug("more hits came than are told of one by one", hits=said["new"])
    for row in reversed(rows):
        rules = ",".join(dict.fromkeys(one["rule"] for one in row["findings"]))
        more = {name: row[name] for name in ("status", "reason") if row[name] is not None}
        log.debug(
            "hit",
            hit=row["id"],
            state=row["state"],
            kind=row["kind"],
            suites=",".join(row["suites"]),
            **({"findings": rules} if rules else {}),
            **more,
        )
