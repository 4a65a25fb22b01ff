"""What a monitor scrapes: the counts of queue, intake and drain as they are now.

Rule: everything is read at the scrape, and an absent value is left out, never guessed.
Non-rule: knows no format.
Source: `metrics` says what each means.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict, replace

from proxy import __version__
from proxy.core.link import State
from proxy.core.measure import BOUNDS_S, BySuite
from proxy.desk import Desk
from proxy.errors import QueueError
from proxy.reading import Reading
from proxy.shell import metrics
from proxy.shell.metrics import Now

# What stands in the ledger and only grows.
GROWING = ("accepted", "delivered", "expired", "discarded", "ambiguous")


class Monitor:
    """The metrics of a running daemon."""

    def __init__(self, desk: Desk, reading: Reading, received: BySuite) -> None:
        self._desk, self._reading, self._received = desk, reading, received
        self._examined = 0
        self._examined_to = desk.queue.last_id
        self._findings: Counter[str] = Counter()

    async def scrape(self) -> bytes:
        """The metrics in the text format."""
        queue, drains, ledger = self._desk.queue, self._desk.drains, self._desk.queue.ledger
        oldest_s = None
        with contextlib.suppress(QueueError):
            await self._examine()
            age_s = await self._desk.oldest_s()
            oldest_s = None if age_s is None else queue.clock.wall_ms() / 1000 - age_s
        now = Now(
            version=__version__,
            label=self._desk.label or self._desk.host,
            state=self._desk.state(),
            queue={
                "waiting": ledger.waiting - ledger.held,
                "held": ledger.held,
                "dead": ledger.dead,
            },
            queue_bytes=ledger.waiting_bytes,
            oldest_s=oldest_s,
            disk_free=max(0, queue.free_disk()),
            received=self._received.counts,
            refused={
                name.removeprefix("refused."): count
                for name, count in sorted(queue.tallies.items())
                if name.startswith("refused.")
            },
            ledger={name: count for name, count in asdict(ledger).items() if name in GROWING},
            examined=self._examined,
            findings=self._findings,
        )
        if drains:
            last_ms = [d.last_delivery_ms for d in drains if d.last_delivery_ms is not None]
            skews_s = [d.skew_s for d in drains if d.skew_s is not None]
            now = replace(
                now,
                delivered=sum((d.delivered_by.counts for d in drains), Counter[str]()),
                dead=sum((d.dead_by for d in drains), Counter[tuple[str, str]]()),
                attempts=sum((d.results for d in drains), Counter[str]()),
                bounds_s=BOUNDS_S,
                durations=tuple(map(sum, zip(*(d.durations.counts for d in drains), strict=True))),
                durations_s=sum(d.durations.sum_s for d in drains),
                last_delivery_s=max(last_ms) / 1000 if last_ms else None,
                skew_s=skews_s[0] if skews_s else None,
                roads={d.protocol.name: d.link.state is not State.OFFLINE for d in drains},
            )
        return metrics.text(now)

    async def _examine(self) -> None:
        """Look at the newest hits since the last scrape: some of them, if there were many."""
        last_id = self._desk.queue.last_id
        if last_id == self._examined_to:
            return
        found = await self._reading.examine(self._examined_to)
        self._examined_to = last_id
        self._examined += found["examined"]
        self._findings.update(found["findings"])
