"""Claims about the metrics: well formed, well named, bounded, and all that the alerts ask for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from daemon import Serve, Served, hit
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families
from test_admin import SECRET, bereaved, guarded, problem

from proxy.core import advice
from proxy.core.measure import BOUNDS_S, BySuite, Durations
from proxy.core.verdict import skew_s
from proxy.fake import FakeCollector
from proxy.shell.metrics import Now, text

__all__ = ["bereaved", "guarded"]  # fixtures that live in `test_admin`

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
NAME = re.compile(r"\btrackoffline_[a-z_]+")
# Prometheus, "Metric and label naming": base units, in the plural, at the end of the name.
UNITS = ("seconds", "bytes", "info", "hits", "state")
EVERYTHING = Now(
    label="store-17",
    version="1",
    state="online",
    queue={"waiting": 1},
    queue_bytes=1,
    oldest_s=1.0,
    disk_free=1,
    received={"a": 1},
    delivered={"a": 1},
    dead={("a", "refused"): 1},
    refused={"max_hits": 1},
    ledger={"accepted": 1},
    findings={"W1": 1},
    durations=(0,) * (len(BOUNDS_S) + 1),
    bounds_s=BOUNDS_S,
    last_delivery_s=1.0,
    skew_s=0.1,
    roads={"edge": True},
)


def families(body: bytes) -> dict[str, Metric]:
    """The metrics by name, as the library's own parser reads them."""
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


async def test_the_metrics_name_the_daemon(serve: Serve) -> None:
    named = await scraped(await serve(None, {"admin.label": "store-17"}))

    assert named["trackoffline_build_info"].samples[0].labels["label"] == "store-17"


async def scraped(served: Served) -> dict[str, Metric]:
    answer = await served.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return families(answer.body)


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    """The one sample with these labels."""
    (sample,) = [
        sample
        for family in found.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return sample.value


async def test_the_account_is_scraped(serve: Serve, adobe: FakeCollector) -> None:
    served = await serve(
        adobe, {"suites.known.examplersid.timestamps": "required", "suites.timestamps": "optional"}
    )
    await served.hits(range(3))
    await served.send(hit(3, "stranger").removesuffix("&AQE=1"))
    await served.send("/nowhere")
    await served.until(lambda status: status["delivered"] == 4)

    found = await scraped(served)

    for what in ("received", "delivered"):
        name = f"trackoffline_hits_{what}_total"
        assert value(found, name, suite="examplersid") == 3
        assert value(found, name, suite="other") == 1
    assert value(found, "trackoffline_delivery_attempts_total", result="delivered") == 4
    assert value(found, "trackoffline_delivery_duration_seconds_count") == 4
    assert value(found, "trackoffline_hits_refused_total", reason="not-a-beacon") == 1
    assert value(found, "trackoffline_ledger_hits_total", entry="accepted") == 4
    assert value(found, "trackoffline_forwarding_state", state="online") == 1
    assert value(found, "trackoffline_forwarding_state", state="offline") == 0
    assert abs(value(found, "trackoffline_clock_skew_seconds")) < 5
    assert time.time() - value(found, "trackoffline_last_delivery_timestamp_seconds") < 60
    assert value(found, "trackoffline_hits_examined_total") == 4
    assert value(found, "trackoffline_hit_findings_total", rule="L1") == 1


async def test_a_backlog_is_told_by_when_it_began(served: Served) -> None:
    """An instant, not an age: the monitor's own clock makes an age of it."""
    assert found_samples(await scraped(served), "trackoffline_queue_oldest_hit") == []
    await served.hits(range(2))

    found = await scraped(served)

    oldest = value(found, "trackoffline_queue_oldest_hit_timestamp_seconds")
    assert 0 <= time.time() - oldest < 60
    assert value(found, "trackoffline_queue_hits", state="waiting") == 2
    assert value(found, "trackoffline_queue_bytes") > 0


def found_samples(found: dict[str, Metric], prefix: str) -> list[object]:
    return [
        sample
        for name, family in found.items()
        if name.startswith(prefix)
        for sample in family.samples
    ]


async def test_dead_letters_are_told_by_their_cause(bereaved: Served) -> None:
    found = await scraped(bereaved)

    assert value(found, "trackoffline_hits_dead_total", suite="other", reason="refused") == 3
    assert value(found, "trackoffline_queue_hits", state="dead") == 3


async def test_strangers_cannot_make_labels(served: Served) -> None:
    """A label with a value of theirs would be a series for each, and fill the monitor."""
    for number in range(20):
        await served.send(hit(number, f"invented{number}"))

    found = await scraped(served)

    assert value(found, "trackoffline_hits_received_total", suite="other") == 20
    assert len(found["trackoffline_hits_received"].samples) == 1


async def test_the_metrics_are_for_those_who_may_ask(guarded: Served) -> None:
    problem(await guarded.ask("/metrics"), 401)
    problem(await guarded.ask("/metrics", headers={"Host": "attacker.example"}), 421)
    known = await guarded.ask("/metrics", headers={"Authorization": f"Bearer {SECRET}"})
    assert known.status == 200


def test_the_names_are_as_prometheus_wants_them() -> None:
    for name, family in families(text(EVERYTHING)).items():
        assert re.fullmatch(r"trackoffline_[a-z]+(_[a-z]+)*", name), name
        assert family.documentation.endswith("."), name
        assert family.samples, name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        else:
            assert name.endswith(UNITS), name
        for sample in family.samples:
            assert (
                not {"instance", "job", "le"} & sample.labels.keys() or family.type == "histogram"
            )


def test_nothing_is_in_the_registry_of_the_process() -> None:
    """Whoever embeds the library's own server would publish our numbers."""
    assert not [family for family in REGISTRY.collect() if family.name.startswith("trackoffline")]


def names(body: bytes) -> set[str]:
    return {sample.name for family in families(body).values() for sample in family.samples}


@pytest.mark.parametrize("file", ["grafana/trackoffline.json", "prometheus/alerts.yaml"])
def test_every_metric_that_is_asked_for_exists(file: str) -> None:
    asked = set(NAME.findall((DEPLOY / file).read_text()))

    assert len(asked) >= 4
    assert asked <= names(text(EVERYTHING))


def test_the_dashboard_is_one() -> None:
    """JSON, each panel with a title, a query and an id of its own, within the grid."""
    board = json.loads((DEPLOY / "grafana/trackoffline.json").read_text())

    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        assert panel["title"]
        assert at["x"] + at["w"] <= 24
        assert all("$instance" in target["expr"] for target in panel["targets"])
        assert all(balanced(target["expr"]) for target in panel["targets"])


def balanced(expression: str) -> bool:
    return all(expression.count(a) == expression.count(b) for a, b in ("()", "{}", "[]"))


def test_the_alerts_are_the_four() -> None:
    rules = (DEPLOY / "prometheus/alerts.yaml").read_text()

    assert re.findall(r"- alert: (\w+)", rules) == [
        "TrackofflineHitsWaitLong",
        "TrackofflineDeadLettersRise",
        "TrackofflineDiskLow",
        "TrackofflineClockSkew",
    ]
    assert rules.count("expr:") == rules.count("summary:") == rules.count("severity:") == 4


# -- the counts --------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100)))
def test_each_duration_is_counted_once_under_its_bound(seconds: Iterable[float]) -> None:
    took = Durations()
    seconds = list(seconds)
    for one in seconds:
        took.add(one)

    for index, bound in enumerate(BOUNDS_S):
        assert sum(took.counts[: index + 1]) == sum(one <= bound for one in seconds)
    assert sum(took.counts) == len(seconds)


def test_a_hit_of_several_suites_counts_under_each() -> None:
    counts = BySuite()

    counts.add(("a", "b", "x", "y"), {"a", "b"})

    assert counts.counts == {"a": 1, "b": 1, "other": 2}


@pytest.mark.parametrize(
    "reason, expected",
    [
        ("404 from the collection server", "refused"),
        ("5 attempts: 500 from the collection server", "attempts"),
        ("it carries ts, and its suite does not accept timestamps", "timestamps"),
        ("its suite does not accept timestamps, and the hit is too old", "timestamps"),
        ("its stored form is no hit: expected /b/ss", "unreadable"),
        ("Adobe: FAILURE", "refused"),
        ("it may have been taken: cut: ServerDisconnectedError", "ambiguous"),
        ("400 from the Edge Network: Invalid datastream ID", "refused"),
    ],
)
def test_every_reason_has_its_cause_and_its_next_step(reason: str, expected: str) -> None:
    assert advice.cause(reason) == expected
    assert advice.next_step(reason, None)


def test_what_died_of_its_attempts_may_be_tried_again() -> None:
    """And what was not found is not there the next time either."""
    assert "may have passed" in advice.next_step("5 attempts: 500 from the server", 500)
    assert "report suite id" in advice.next_step("404 from the collection server", 404)


def test_of_an_event_the_settings_of_its_own_road_are_named() -> None:
    """And of one whose reply was lost what it would cost to send it again."""
    assert "edge.server" in advice.next_step("404 from the Edge Network", 404)
    assert "edge.token_file" in advice.next_step("403 from the Edge Network", 403)
    assert "cause is known" in advice.next_step("500 from the Edge Network", 500)
    assert "counted twice" in advice.next_step("it may have been taken: cut: x", None)


@pytest.mark.parametrize(
    "date", [None, b"", b"yesterday", b"\xff", b"Mon, 99 Nov 2026 00:00:00 GMT"]
)
def test_a_date_that_is_none_says_nothing_of_the_clock(date: bytes | None) -> None:
    assert skew_s(date, 0.0) is None


def test_a_clock_ahead_of_the_server_s_is_a_positive_skew() -> None:
    assert skew_s(b"Thu, 01 Jan 1970 00:01:40 GMT", 190.5) == 90.0
