"""A status in words: what an operator reads first, at night.

Rule: the first line says whether hits are safe and where they go; a fault comes with the
setting or the verb that mends it; it is always said whether the daemon or its file spoke.
What others wrote (a server's answer, a suite's name) is shown without control characters.
Non-rule: asks nobody; values in, lines out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from proxy.core.advice import next_step
from proxy.core.words import size, span

LABEL = 11


def clock(ms: float) -> str:
    """Unix milliseconds as local time."""
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def status_lines(found: dict[str, Any], source: str) -> list[str]:
    """The status, one line a fact; `source` says who was asked."""
    up = f"  up {span(found['uptime_seconds'])}" if "uptime_seconds" in found else ""
    label = f"  {found['label']}" if found.get("label") else ""
    lines = [f"trackoffline {found.get('version', '')}{label}{up}  ({source})", state_line(found)]
    hits = "hit" if found["waiting"] == 1 else "hits"
    waiting = f"{found['waiting']:,} {hits} ({size(found['waiting_bytes'])})"
    if found["waiting"] and found.get("oldest_waiting_seconds"):
        waiting += f"; oldest {span(found['oldest_waiting_seconds'])}"
    if found.get("empty_in_seconds") is not None:
        waiting += f"; all gone in {span(found['empty_in_seconds'])}"
    lines.append(_line("Waiting", waiting))
    forwarding = _road(found)
    delivered = f"{found['delivered']:,}"
    if forwarding.get("last_delivery_ms"):
        delivered += f"; last {clock(forwarding['last_delivery_ms'])}"
    if found.get("delivered_per_second"):
        delivered += f"; {found['delivered_per_second']:,.1f} a second"
    lines.append(_line("Delivered", delivered))
    if found.get("edge") and found.get("forwarding"):
        lines.append(_line("Edge", _link(found["edge"])))
    dead = f"{found['dead']:,}" + ("  (see: trackoffline dead)" if found["dead"] else "")
    lines.append(_line("Dead", dead))
    gone = [f"{found[name]:,} {name}" for name in ("expired", "discarded") if found[name]]
    if gone:
        lines.append(_line("Gone", ", ".join(gone)))
    lines += _machine(found)
    health = list(_health(found))
    if health:
        lines.append("Health:")
        lines += [f"  - {line}" for line in health]
    return [plain(line) for line in lines]


def _machine(found: dict[str, Any]) -> list[str]:
    """What the daemon stands on."""
    lines = []
    if "free_disk_bytes" in found:
        disk = f"{size(found['free_disk_bytes'])} free"
        if found.get("queue_file_bytes"):
            disk += f"; the queue file has {size(found['queue_file_bytes'])}"
        lines.append(_line("Disk", disk))
    if found.get("clock_skew_seconds") is not None:
        skew = f"{found['clock_skew_seconds']:+.1f} s against the collection server"
        lines.append(_line("Clock", skew))
    return lines


def state_line(found: dict[str, Any]) -> str:
    """The one line that says whether hits are safe and where they go."""
    return plain(_line(*_state(found)))


def needs_a_person(found: dict[str, Any]) -> bool:
    """Whether something is not as it should be, and does not mend itself unseen."""
    return bool(
        found["state"] not in ("online", "capture")
        or (found.get("edge") or {}).get("link") == "offline"
        or found["dead"]
        or found["held"]
        or found.get("unserved")
        or not found.get("balanced", True)
    )


def plain(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def _road(found: dict[str, Any]) -> dict[str, Any]:
    """The road the state speaks of: that of Analytics, unless only the other one was used."""
    forwarding, edge = found.get("forwarding"), found.get("edge")
    tried = forwarding and (forwarding.get("link") != "suspect" or forwarding.get("last_failure"))
    if forwarding and (not edge or tried):
        return {"upstream": found.get("upstream"), **forwarding}
    return edge or forwarding or {}


def watch_line(found: dict[str, Any]) -> str:
    """The line of `state_line`, and in a word how the other road is."""
    edge = found.get("edge") if found.get("forwarding") else None
    return state_line(found) + ("" if edge is None else f"; Edge {edge['link']}")


def _link(road: dict[str, Any]) -> str:
    if road["link"] != "offline" and road.get("next_try_seconds") is not None:
        return f"{road['upstream']}: has to be left alone{_why(road)}"
    if road["link"] != "offline":
        last = road.get("last_delivery_ms")
        return f"{road['upstream']}: {road['link']}" + (f"; last {clock(last)}" if last else "")
    return f"{road['upstream']}: offline {_since(road)}"


def _since(road: dict[str, Any]) -> str:
    text = f"since {clock(road['since_ms'])}" if "since_ms" in road else "since the start"
    return text + _why(road)


def _why(road: dict[str, Any]) -> str:
    text = ""
    if road.get("last_failure"):
        text += f": {road['last_failure']}"
    if road.get("next_try_seconds") is not None:
        text += f"; next try in {span(road['next_try_seconds'])}"
    return text


def _state(found: dict[str, Any]) -> tuple[str, str]:
    forwarding = _road(found)
    match found.get("state"):
        case "capture":
            return "Capture", "hits are kept, nothing is sent: there is no [upstream]"
        case "refusing":
            return "Refusing", f"new hits get 503: {found.get('refusing')}"
        case "held":
            until = forwarding.get("held_until_ms")
            end = f"until {clock(until)}" if until else "until `trackoffline online`"
            return "Held", f"by a person, {end}"
        case "offline" if forwarding.get("link") == "suspect" and not forwarding.get(
            "last_failure"
        ):
            return "Ready", f"nothing has been sent to {found.get('upstream')} yet"
        case "offline":
            return "Offline", _since(forwarding)
        case "online" if forwarding.get("next_try_seconds") is not None:
            return "Online", f"{forwarding.get('upstream')} has to be left alone{_why(forwarding)}"
        case "online":
            return "Online", f"{forwarding.get('upstream')} takes hits"
        case _:
            return "Stopped", "no daemon was asked; what waits is kept"


def _health(found: dict[str, Any]) -> list[str]:
    lines = []
    for suites, held in found.get("held_suites", {}).items():
        lines.append(f"{held['hits']:,} hits of {suites} are held: {held['reason']}")
    if found.get("unserved"):
        missing = "[edge]" if found.get("forwarding") else "[upstream]"
        lines.append(
            f"{found['unserved']:,} hits wait, and nothing sends them: {missing} is not configured"
        )
    if found["ambiguous"]:
        lines.append(
            f"{found['ambiguous']:,} sends were cut before an answer; their hits may count twice"
        )
    if found.get("lost"):
        lines.append(f"{found['lost']:,} hits were lost with a damaged queue file, kept aside")
    for reason, count in found.get("refused_by_reason", {}).items():
        lines.append(f"{count:,} requests refused: {reason}")
    if not found.get("balanced", True):
        lines.append("the account does not balance: please report this")
    return lines


def by_reason(letters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Dead letters counted by reason and suite, the most numerous first."""
    groups: dict[tuple[str, str, int | None], list[int]] = {}
    for letter in letters:
        of = (letter["reason"], letter["suites"], letter.get("status"))
        groups.setdefault(of, []).append(letter["received_ms"])
    return sorted(
        (
            {
                "reason": reason,
                "suites": suites,
                "status": status,
                "hits": len(times),
                "first_received_ms": min(times),
                "last_received_ms": max(times),
                "next_step": next_step(reason, status),
            }
            for (reason, suites, status), times in groups.items()
        ),
        key=lambda group: -int(group["hits"]),
    )


def group_lines(groups: list[dict[str, Any]]) -> list[str]:
    """A table of groups, each with what to do about it; empty when there are none."""
    lines = table(
        ("HITS", "SUITE", "FIRST", "LAST", "REASON"),
        [
            (
                f"{group['hits']:,}",
                group["suites"],
                clock(group["first_received_ms"]),
                clock(group["last_received_ms"]),
                group["reason"],
            )
            for group in groups
        ],
    )
    steps = [f"      -> {group['next_step']}" for group in groups]
    # Each below its row; of those that share one, below the last.
    for at in range(len(groups) - 1, -1, -1):
        if at + 1 == len(groups) or steps[at] != steps[at + 1]:
            lines.insert(at + 2, steps[at])
    return lines


def letter_lines(letters: list[dict[str, Any]]) -> list[str]:
    """A table of letters; empty when there are none."""
    return table(
        ("ID", "SUITE", "RECEIVED", "TRIES", "REASON"),
        [
            (
                str(letter["id"]),
                letter["suites"],
                clock(letter["received_ms"]),
                str(letter["tries"]),
                letter["reason"],
            )
            for letter in letters
        ],
    )


def table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as they must be; no line at all without a body."""
    if not body:
        return []
    rows = [head, *(tuple(plain(cell) for cell in row) for row in body)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return [
        "  ".join([*(cell.ljust(wide) for cell, wide in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
