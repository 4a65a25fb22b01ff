"""Counts for a monitor: by report suite, and how long something took.

Rule: a label has as many values as the configuration names, whatever strangers send; what is
done for a hit is an addition.
Non-rule: knows no format and no clock.
Source: Prometheus' "Metric and label naming" and "Histograms and summaries".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable

OTHER = "other"
BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class BySuite:
    """Hits by report suite; one of several suites counts under each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, suites: Iterable[str], known: Container[str]) -> None:
        for rsid in suites:
            self.counts[rsid if rsid in known else OTHER] += 1


class Durations:
    """How often something took so long: counts up to each of `BOUNDS_S`, and beyond."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds
