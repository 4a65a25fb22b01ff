"""How fast a backlog leaves, and when it will be gone.

Rule: measured over the last minute, of what left the queue and what came in; an end is told
only while more leaves than comes, and only of what may leave at all.
Non-rule: knows no clock and no limit; a guess for people, on which nothing is decided.
Source: the rate and the remaining time of every tool that copies.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from proxy.core.hit import Ledger

OVER_S = 60.0
EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Hits a second that were delivered; `empty_in_s` is None where there is no telling."""

    delivered_per_s: float
    empty_in_s: float | None


class Speedometer:
    """The ledger now and then, for a minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Ledger]] = deque()

    def note(self, now: float, ledger: Ledger) -> None:
        if self._seen and now - self._seen[-1][0] < EVERY_S:
            return
        self._seen.append((now, ledger))
        # The one that is just too old stays: it is the beginning of the minute.
        while len(self._seen) > 2 and now - self._seen[1][0] >= OVER_S:
            self._seen.popleft()

    def read(self, now: float, ledger: Ledger) -> Speed:
        if not self._seen or now - self._seen[0][0] < EVERY_S:
            return Speed(0.0, None)
        at, then = self._seen[0]
        passed_s = now - at
        fewer = (then.waiting - then.held) - (ledger.waiting - ledger.held)
        left = ledger.waiting - ledger.held
        delivered = max(0, ledger.delivered - then.delivered)
        goes = delivered > 0 and fewer > 0 and left > 0
        return Speed(delivered / passed_s, left * passed_s / fewer if goes else None)
