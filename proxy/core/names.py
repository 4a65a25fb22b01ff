"""What a site calls Adobe's variables: its `eVar12` is the "Search term".

Rule: a name stands beside Adobe's own, never in its place: reports, filters and other people
know the variable by that.  Written in any case, as in a filter; context data as `ctx.cart.size`.
Non-rule: changes nothing that is sent, found or counted.
Source: the solution design reference that Adobe's implementation guides ask every site to keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from proxy.core.decode import CONTEXT, NAMES, Decoded, Field

# By the variable's name in lower case.
Names: TypeAlias = Mapping[str, str]

CONTEXT_DATA: Final = "ctx."
COMMERCE: Final = ("purchase", "prodView", "scOpen", "scAdd", "scRemove", "scView", "scCheckout")
_EVENT = re.compile(r"event(?:[1-9][0-9]{0,2}|1000)")
_SPELLED: Final = {
    name.lower(): name for name in (*(name for _, name in NAMES.values()), *COMMERCE)
}


def spelled(written: str) -> str | None:
    """The variable that is meant, as Adobe spells it; None when there is none of that name."""
    low = written.lower()
    if low in _SPELLED:
        return _SPELLED[low]
    if low.startswith(CONTEXT_DATA) and len(low) > len(CONTEXT_DATA):
        return CONTEXT_DATA + written[len(CONTEXT_DATA) :]
    return low if _EVENT.fullmatch(low) else None


def known() -> list[str]:
    """Every name there is but for events and context data, for who misspelt one."""
    return [*_SPELLED.values(), "event1"]


def called(field: Field, group: str, names: Names) -> str | None:
    """What the site calls a field of this group."""
    prefix = CONTEXT_DATA if group == CONTEXT else ""
    return names.get(f"{prefix}{field.name}".lower())


def as_json(decoded: Decoded, names: Names) -> dict[str, Any]:
    """What a hit says, as the API tells it; what has a name of the site's has a `label` too."""
    found = asdict(decoded)
    del found["suites"]
    if not names:
        return found
    for group, said in zip(decoded.groups, found["groups"], strict=True):
        for field, one in zip(group.fields, said["fields"], strict=True):
            _label(one, called(field, group.id, names))
    for one in _named(found):
        _label(one, names.get(one["name"].lower()))
    return found


def _named(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Events and variables outside the groups."""
    yield from found["events"]
    for product in found["products"]:
        yield from product["events"]
        yield from product["evars"]


def _label(one: dict[str, Any], name: str | None) -> None:
    if name is not None:
        one["label"] = name
