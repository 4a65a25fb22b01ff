"""A hit in words: one line in a list, or all that it says.

Rule: what stands in a hit was written by strangers; a terminal is shown it without control
characters, and a list shows it cut.
Non-rule: asks nobody; the JSON of the API in, lines out.
Source: Omnibug and the Adobe Experience Platform Debugger for the order of the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from proxy.cli.show import clock, plain, table

LABEL = 10
WIDEST = 40
KINDS = {
    "page": "page view",
    "link": "link",
    "exit": "exit link",
    "download": "download",
    "media": "media",
    "other": "other",
}
# Shown in a way of their own; the fields as sent are in the groups all the same.
APART = frozenset({"events", "ev", "products", "pl"})
# What a list shows, in this order, and what else it can.
COLUMNS = ("received", "kind", "title", "events", "suites", "visitor", "state", "findings", "id")
MORE_COLUMNS = ("delivered", "status", "tries", "bytes")
FOLDED = frozenset({"technical", "retired"})


def row_line(row: Mapping[str, Any], columns: Sequence[str] = COLUMNS) -> str:
    """One hit of a list."""
    return plain("  ".join(_cell(row, column) for column in columns).rstrip())


def _cell(row: Mapping[str, Any], column: str) -> str:
    match column:
        case "received":
            return _moment(row["received_ms"])
        case "delivered":
            return _moment(row["delivered_ms"])
        case "kind":
            return f"{KINDS.get(row['kind'], row['kind']):<9}"
        case "title":
            return f"{short(row['title']):<24}"
        case "visitor":
            visitor = row["visitor"]
            return f"{visitor['kind']} {_tail(visitor['value'])}" if visitor else "nobody"
        case "state":
            return str(row["state"]) + (f": {short(row['reason'])}" if row["reason"] else "")
        case "findings":
            return " ".join(dict.fromkeys(one["rule"] for one in row["findings"])) or "-"
        case "id":
            return f"#{row['id']}"
        case "events" | "suites":
            return short(",".join(row[column])) or "-"
        case _:
            return "-" if row[column] is None else str(row[column])


def _moment(ms: float | None) -> str:
    if ms is None:
        return f"{'-':<14}"
    return f"{datetime.fromtimestamp(ms / 1000).astimezone():%m-%d %H:%M:%S}"


def detail_lines(found: Mapping[str, Any]) -> list[str]:
    """All that the API tells of a hit, the parts that are there."""
    return [plain(line) for line in _detail(found)]


def compared_lines(found: Mapping[str, Any]) -> list[str]:
    """What one hit says otherwise than another: `-` as the other has it, `+` as this one."""
    other = found["other"]
    if other is None:
        return [
            "No hit of the same visitor is kept from before it."
            if found["complete"]
            else "None was found in the time there was: name one, `hit ID --compare OTHER`."
        ]
    lines = [f'against hit #{other["id"]} of {_moment(other["received_ms"])}, "{other["title"]}"']
    for one in found["changes"]:
        lines += [
            f"{mark} {_called(one)}  {one[side]}".rstrip()
            for mark, side in (("-", "before"), ("+", "after"))
            if one[side] is not None
        ]
    return [plain(line) for line in (lines if lines[1:] else [*lines, "Nothing is different."])]


def short(text: str, most: int = WIDEST) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _tail(text: str) -> str:
    return text if len(text) <= 12 else f"...{text[-8:]}"


def _detail(found: Mapping[str, Any]) -> Iterator[str]:
    said = found["decoded"]
    whom = "datastream" if said.get("protocol") == "edge" else "report suite"
    suites = ", ".join(found["suites"]) or f"no {whom}"
    yield f'{KINDS.get(said["kind"], said["kind"])} "{said["title"]}" for {suites}'
    for one in found["findings"]:
        parts = (f"{one['rule']} {one['severity']}", one["text"])
        yield _line("!", ": ".join(parts))
        yield _line("", one["doc"])
    if "state" in found:
        yield from _kept(found)
    if said["ts"] is not None:
        yield _line("Time", f"ts {said['ts']}, set by the client")
    ids = (_identity(one) for one in said["identities"])
    yield _line("Visitor", ", ".join(ids))
    if said["events"]:
        yield _line("Events", ", ".join(_event(one) for one in said["events"]))
    if said["products"]:
        yield from _products(said["products"])
    for group in said["groups"]:
        yield from _group(group)


def _kept(found: Mapping[str, Any]) -> Iterator[str]:
    reason = f": {found['reason']}" if found.get("reason") else ""
    yield _line("State", f"{found['state']}{reason}, hit #{found['id']}")
    for step in found.get("timeline", ()):
        when = "" if step["at_ms"] is None else f"{clock(step['at_ms'])}  "
        yield _line("", f"{when}{step['what']}")


def _identity(one: Mapping[str, Any]) -> str:
    value = one["value"].strip() or "unknown"
    return f"{one['kind']} {value}" + (" (used)" if one["used"] else " (not used)")


def _event(one: Mapping[str, Any]) -> str:
    value = f"={one['value']}" if one["value"] else ""
    serial = f":{one['serial']}" if one["serial"] else ""
    return f"{_called(one)}{value}{serial}"


def _called(one: Mapping[str, Any]) -> str:
    """A variable or an event by Adobe's name, and by the site's where it has one."""
    return f"{one['name']} {one['label']}" if one.get("label") else str(one["name"])


def _products(products: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [
        (
            one["category"] or "-",
            one["name"] or "-",
            one["quantity"] or "-",
            one["price"] or "-",
            ", ".join(_event(event) for event in one["events"]) or "-",
            ", ".join(f"{_called(evar)}={evar['value']}" for evar in one["evars"]) or "-",
        )
        for one in products
    ]
    head = ("CATEGORY", "PRODUCT", "QUANTITY", "PRICE", "EVENTS", "EVARS")
    for number, line in enumerate(table(head, rows)):
        yield _line("" if number else "Products", line)


def _group(group: Mapping[str, Any]) -> Iterator[str]:
    fields = [one for one in group["fields"] if one["key"] not in APART]
    if group["id"] in FOLDED and fields:
        yield _line(group["title"], " ".join(f"{one['key']}={one['value']}" for one in fields))
        return
    width = max((len(_called(one)) for one in fields), default=0)
    for number, one in enumerate(fields):
        label = "" if number else group["title"]
        yield _line(label, f"{_called(one):<{width}}  {one['value']}".rstrip())


def _line(label: str, text: str) -> str:
    # A label that is too long for its column still has a space behind it.
    return f"{label:<{LABEL}}{'' if len(label) < LABEL else ' '}{text}".rstrip()
