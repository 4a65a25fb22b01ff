"""The chart of a day: points of what stood at a time, and what came and went between them.

Rule: totals are kept, differences are shown, so that a point that was never written (the
daemon was off) is no gap in the account.
Non-rule: reads no clock and no file.
Source: the queue's table `series`; docs/design/0011.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

STEP_S = 300
KEPT_S = 25 * 3600  # a day, and what its first point is measured against


@dataclass(frozen=True, slots=True)
class Point:
    """What stood at Unix second `at_s`; `accepted` and `delivered` are totals of all time."""

    at_s: int
    oldest_s: int
    waiting: int
    accepted: int
    delivered: int
    dead: int


def due(now_s: int, noted_s: int) -> int | None:
    """The second a new point is to be noted under; None while the last one will do."""
    step = now_s - now_s % STEP_S
    return None if step == noted_s else step


def shown(points: Iterable[Point], since_s: int) -> list[dict[str, int]]:
    """The points from then on, each with what was received and delivered since the one before."""
    return [
        {
            "at_ms": point.at_s * 1000,
            "oldest_s": point.oldest_s,
            "waiting": point.waiting,
            "received": max(0, point.accepted - before.accepted),
            "delivered": max(0, point.delivered - before.delivered),
            "dead": point.dead,
        }
        for before, point in pairwise(points)
        if point.at_s >= since_s
    ]
