"""How long what may leave waits for others to leave with it: alone it costs half as much again.

Rule: a fortieth of what answers take lately, and 2 ms at most.  So it costs the rate next to
nothing: behind a server that answers at once every wait is as long as the answer.
Non-rule: measures nothing, and does not know how many wait.
Source: docs/design/0014.
"""

from __future__ import annotations

OF_AN_ANSWER, MOST_S = 1 / 40, 0.002
# A loop's timers are no finer than 1 ms: what is shorter than half of one is one turn of the loop.
LEAST_S = 0.0005
# What one answer changes in what answers take.
WEIGHT = 1 / 16


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
