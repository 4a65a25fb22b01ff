"""How fast a backlog may leave while hits come in: what comes goes first, for a client waits.

Rule: when hits come in and the daemon has no time left, the backlog leaves more and more slowly,
until there is time again or it has its least: one hit for four that come, and some hundreds a
second. With time to spare, or with nothing coming, nothing is held back.
Non-rule: keeps no clock and measures nothing; what the collection server and the configuration
allow is `pace`'s.
Source: docs/design/0016; busy is told as in `ration`, by how long the daemon's loop ran or waited
for a processor, so it holds on any machine.
"""

from __future__ import annotations

from math import inf

# So long is one look; shorter ones say little.
STRETCH_S = 0.1
# Of its time: what the loop works when hits that come have to wait for it.  Not all of it: while
# their commit is on its way to the disk, clients that wait for it leave the loop idle.
FULL = 0.7
# What a look at a full loop leaves of the rate, and one at a loop with time makes of it.
SLOWER, FASTER = 0.8, 1.25
# Of what comes, what leaves all the same.
OF_COMING = 0.25
LEAST_RATE = 500.0


class Yielding:
    """The rate at which a backlog may leave now; counters are totals, `worked_s` likewise."""

    def __init__(self, now_s: float, worked_s: float, came: int, went: int) -> None:
        self._at_s, self._worked_s, self._came, self._went = now_s, worked_s, came, went
        self._rate = inf
        self.room = inf  # how many hits may still be sent before the next look

    @property
    def next_at(self) -> float:
        """When the next look is due; then there is room again, if there is none."""
        return self._at_s + STRETCH_S

    def sent(self, hits: int) -> None:
        self.room -= hits

    def look(self, now_s: float, worked_s: float, came: int, went: int) -> None:
        """Take note of what happened since the last look; before the next is due, of nothing."""
        if now_s < self.next_at:
            return
        stretch_s = now_s - self._at_s
        coming = (came - self._came) / stretch_s
        leaving = (went - self._went) / stretch_s
        if coming and (worked_s - self._worked_s) / stretch_s > FULL:
            slower = min(self._rate, leaving) * SLOWER
            self._rate = max(slower, coming * OF_COMING, LEAST_RATE)
        elif self._rate < inf:
            # What is not used up holds nothing back, and need not be known any more.
            self._rate = inf if leaving < self._rate / 2 else self._rate * FASTER
        self.room = self._rate * STRETCH_S
        self._at_s, self._worked_s, self._came, self._went = now_s, worked_s, came, went
