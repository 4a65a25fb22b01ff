"""What is well and what is not: one line each, and what a person can do about it.

Rule: read off the status alone, so that whoever has it (the page, a verb, a test) comes to
the same lines.  An outage is no illness of ours: it is said, and nothing is asked for.
Non-rule: measures nothing.
Source: Tailscale's "Health check" lines; Syncthing's "paused by user is not stopped by error".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.core.hit import Suites, Timestamps
from proxy.core.words import size, span

OK, WARN, BAD = "ok", "warn", "bad"
LOW_DISK_BYTES = 1024**3
# As late as the mobile SDK calls late; the alert says the same.
MOST_SKEW_S = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """`state` is ok, warn or bad; `action` is None when there is nothing to do."""

    name: str
    state: str
    text: str
    action: str | None = None


def checks(status: Mapping[str, Any], suites: Suites) -> tuple[Check, ...]:
    """Everything that was looked at, in an order that does not change."""
    return tuple(
        check
        for found in (_storage, _disk, _clock, _upstream, _edge, _unserved, _held, _dead, _lost)
        for check in found(status)
    ) + tuple(_modes(suites))


def _storage(status: Mapping[str, Any]) -> Iterator[Check]:
    refusing = status["refusing"]
    if refusing is not None:
        yield Check("storage", BAD, f"new hits are refused with 503: {refusing}", "make room")
    elif not status["balanced"]:
        yield Check("storage", BAD, "the account does not balance", "report this, with the log")
    else:
        file, log = (size(status.get(f"queue_{part}_bytes", 0)) for part in ("file", "log"))
        text = (
            f"{status['waiting']:,} hits wait in {status['queue_path']}, {file} and a log of {log}"
        )
        yield Check("storage", OK, text)


def _disk(status: Mapping[str, Any]) -> Iterator[Check]:
    free = status["free_disk_bytes"]
    text = f"{free / 1024**3:.1f} GiB are free where the queue lies"
    if free < LOW_DISK_BYTES:
        yield Check("disk", WARN, text, "make room before queue.min_free_disk is reached")
    else:
        yield Check("disk", OK, text)


def _clock(status: Mapping[str, Any]) -> Iterator[Check]:
    """Hits are stamped with our clock; a wrong one puts them in a wrong hour, for good."""
    skew_s = status.get("clock_skew_seconds")
    if skew_s is None:
        return
    text = f"{skew_s:+.1f} s against the collection server"
    if abs(skew_s) > MOST_SKEW_S:
        yield Check("clock", WARN, f"{text}: hits get wrong times", "set the clock; NTP keeps it")
    else:
        yield Check("clock", OK, text)


def _upstream(status: Mapping[str, Any]) -> Iterator[Check]:
    forwarding = status["forwarding"]
    if forwarding is None and status.get("edge"):
        return
    if forwarding is None:
        yield Check("upstream", OK, "capture only: nothing is sent", None)
        return
    server = status["upstream"]
    if status["state"] == "held":
        yield Check("upstream", WARN, "held offline by a person", "go online when it is time")
    elif forwarding["link"] != "offline":
        yield _reached("upstream", server, forwarding, "hits")
    else:
        why = forwarding["last_failure"] or "no answer yet"
        oldest = span(status["oldest_waiting_seconds"] or 0.0)
        text = f"{server} cannot be reached: {why}; the oldest hit waits for {oldest}"
        yield Check("upstream", WARN, text)


def _reached(name: str, server: str, road: Mapping[str, Any], what: str) -> Check:
    """A road that is not down; it may have been asked to wait, or not have been tried yet."""
    pause_s = road["next_try_seconds"]
    if pause_s is not None:
        why = road["last_failure"] or "no answer yet"
        return Check(name, WARN, f"{server} has to be left alone for {span(pause_s)}: {why}")
    if road["link"] == "suspect":
        return Check(
            name, OK, f"{server} has taken nothing yet since the start, or the last outage"
        )
    return Check(name, OK, f"{server} takes {what}")


def _edge(status: Mapping[str, Any]) -> Iterator[Check]:
    edge = status.get("edge")
    if not edge or (status["state"] == "held" and status["forwarding"] is not None):
        return
    if status["state"] == "held":
        yield Check("edge", WARN, "held offline by a person", "go online when it is time")
    elif edge["link"] != "offline":
        yield _reached("edge", edge["upstream"], edge, "events")
    else:
        why = edge["last_failure"] or "no answer yet"
        yield Check("edge", WARN, f"{edge['upstream']} cannot be reached: {why}")


def _unserved(status: Mapping[str, Any]) -> Iterator[Check]:
    count = status.get("unserved", 0)
    if count:
        missing = "[edge]" if status["forwarding"] else "[upstream]"
        yield Check(
            "unserved",
            WARN,
            f"{count:,} hits wait, and nothing sends them: {missing} is not configured",
            f"put {missing} back and restart, or let them expire",
        )


def _held(status: Mapping[str, Any]) -> Iterator[Check]:
    for suites, held in status["held_suites"].items():
        says_which = held["reason"].startswith("set ")
        yield Check(
            "held",
            WARN,
            f"{held['hits']:,} hits of {suites} are held: {held['reason']}",
            "write it into the configuration, and reload; the overview has the lines"
            if says_which
            else "give them modes that agree, as required and optional do, and reload",
        )


def _dead(status: Mapping[str, Any]) -> Iterator[Check]:
    if status["dead"]:
        yield Check(
            "dead letters",
            WARN,
            f"{status['dead']:,} dead letters wait for a decision",
            "requeue, export or discard them",
        )


def _lost(status: Mapping[str, Any]) -> Iterator[Check]:
    if status["lost"]:
        text = f"{status['lost']:,} hits were lost to a damaged file"
        yield Check("salvage", BAD, text, "read the report in the log of that start")


def _modes(suites: Suites) -> Iterator[Check]:
    for rsid, suite in suites.known.items():
        if suite.timestamps is Timestamps.UNKNOWN:
            yield Check(
                "timestamps",
                WARN,
                f"the timestamp mode of {rsid} is unknown: its hits cannot be checked",
                f"set [suites.known.{rsid}] timestamps",
            )
