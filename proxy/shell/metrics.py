"""The metrics as Prometheus reads them.

Rule: read at the moment of the scrape from counts that are kept anyway; base units, `_total`
for what only grows, instants in place of ages; the label `suite` has the configured suites
and `other`.
Non-rule: counts nothing itself.  The library's global registry stays empty.
Source: Prometheus, "Metric and label naming", "Exposition formats".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

STATES = ("capture", "online", "offline", "held", "refusing")
RESULTS = ("delivered", "refused", "retry", "linkdown")


@dataclass(frozen=True, slots=True)
class Now:
    """What is so at the moment of a scrape; None where there is nothing to tell."""

    version: str
    label: str
    state: str
    queue: Mapping[str, int]
    queue_bytes: int
    oldest_s: float | None
    disk_free: int
    received: Mapping[str, int] = field(default_factory=dict)
    delivered: Mapping[str, int] = field(default_factory=dict)
    dead: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    ledger: Mapping[str, int] = field(default_factory=dict)
    examined: int = 0
    findings: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    bounds_s: tuple[float, ...] = ()
    durations: tuple[int, ...] = ()
    durations_s: float = 0.0
    last_delivery_s: float | None = None
    skew_s: float | None = None
    roads: Mapping[str, bool] = field(default_factory=dict)


def text(now: Now) -> bytes:
    """Everything, as a scrape gets it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(now))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, now: Now) -> None:
        self._now = now

    def collect(self) -> Iterator[Metric]:
        yield from _hits(self._now)
        yield from _queue(self._now)
        yield from _sending(self._now)
        build = InfoMetricFamily("trackoffline_build", "The release that runs.")
        build.add_metric([], {"version": self._now.version, "label": self._now.label})
        yield build


def _hits(now: Now) -> Iterator[Metric]:
    yield _counter(
        "hits_received", "Hits stored and answered with 200 since the start.", "suite", now.received
    )
    yield _counter(
        "hits_delivered", "Hits the collection server took since the start.", "suite", now.delivered
    )
    dead = CounterMetricFamily(
        "trackoffline_hits_dead",
        "Hits that became dead letters since the start.",
        labels=["suite", "reason"],
    )
    for (suite, reason), count in now.dead.items():
        dead.add_metric([suite, reason], count)
    yield dead
    yield _counter(
        "hits_refused", "Requests that were not stored, of all time.", "reason", now.refused
    )
    yield _counter(
        "ledger_hits",
        "The account of all time: accepted is waiting plus all the others.",
        "entry",
        now.ledger,
    )
    yield _counter("hit_findings", "Findings in the hits that were examined.", "rule", now.findings)
    examined = CounterMetricFamily(
        "trackoffline_hits_examined",
        "Hits looked at for findings: at each scrape the newest ones since the last.",
    )
    examined.add_metric([], now.examined)
    yield examined


def _queue(now: Now) -> Iterator[Metric]:
    hits = GaugeMetricFamily("trackoffline_queue_hits", "Hits in the queue.", labels=["state"])
    for state, count in now.queue.items():
        hits.add_metric([state], count)
    yield hits
    yield _gauge("queue_bytes", "Bytes of the hits that wait.", now.queue_bytes)
    yield _gauge(
        "queue_oldest_hit_timestamp_seconds",
        "When the oldest waiting hit was received; absent while none waits.",
        now.oldest_s,
    )
    yield _gauge("disk_free_bytes", "Bytes free where the queue lies.", now.disk_free)


def _sending(now: Now) -> Iterator[Metric]:
    yield _gauge(
        "last_delivery_timestamp_seconds",
        "When the collection server last took a hit; absent before the first.",
        now.last_delivery_s,
    )
    yield _counter(
        "delivery_attempts",
        "Sends since the start, by what came of them.",
        "result",
        {name: now.attempts.get(name, 0) for name in RESULTS},
    )
    took = HistogramMetricFamily(
        "trackoffline_delivery_duration_seconds", "From the beginning of a send to its verdict."
    )
    if now.durations:
        labels = [*(str(bound) for bound in now.bounds_s), "+Inf"]
        counts = accumulate(now.durations)
        took.add_metric([], list(zip(labels, counts, strict=True)), now.durations_s)
    yield took
    state = GaugeMetricFamily(
        "trackoffline_forwarding_state", "1 for the state that is, 0 for others.", labels=["state"]
    )
    for name in STATES:
        state.add_metric([name], name == now.state)
    yield state
    up = GaugeMetricFamily(
        "trackoffline_road_state",
        "1 of each configured server that is not known to be out of reach, else 0.",
        labels=["road"],
    )
    for name, is_up in now.roads.items():
        up.add_metric([name], is_up)
    yield up
    yield _gauge(
        "clock_skew_seconds",
        "Our clock less the collection server's; absent before its first answer.",
        now.skew_s,
    )


def _counter(name: str, meaning: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"trackoffline_{name}", meaning, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"trackoffline_{name}", meaning)
    if value is not None:
        family.add_metric([], value)
    return family
