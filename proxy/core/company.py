"""What leaves together costs less: how long a hit waits for others, how many are read before.

Rule: to read, mark and send a hit alone costs half as much again. So it waits for others, a
fortieth of what answers take lately and 2 ms at most, which costs the rate next to nothing: behind
a server that answers at once it does not wait. And the next hits are read before there is room for
them, so that what leaves when an answer comes is at hand.
Rule: no more of them than leave in a tenth of a second, for they have their turn, whatever comes
meanwhile.
Non-rule: measures nothing, and knows neither the hits nor how many wait.
Source: docs/design/0020.
"""

from __future__ import annotations

from math import inf

OF_AN_ANSWER, MOST_S = 1 / 40, 0.002
# A loop's timers are no finer than 1 ms.
LEAST_S = 0.0005
# What one answer changes in what answers take.
WEIGHT = 1 / 16
# More than this in one read save nothing any more.
AHEAD, AHEAD_S = 64, 0.1


class Company:
    """Of one upstream."""

    def __init__(self) -> None:
        self._answer_s = 0.0

    def answered(self, took_s: float) -> None:
        self._answer_s += (took_s - self._answer_s) * WEIGHT

    @property
    def wait_s(self) -> float:
        wait_s = min(self._answer_s * OF_AN_ANSWER, MOST_S)
        return wait_s if wait_s >= LEAST_S else 0.0

    def ahead(self, window: int) -> float:
        """How many hits are read beyond those that may go now, `window` at a time."""
        rate = window / self._answer_s if self._answer_s else inf
        return min(AHEAD, 2 * window, rate * AHEAD_S)


def most_in_hand(rate: float | None) -> float:
    """How many hits may be read when so many a second may leave; None when no rate is set."""
    return inf if rate is None else max(1.0, rate * AHEAD_S)
