"""What differs between two hits, key by key.

Rule: a key that stands several times is compared as often, in its order; what one of them does
not have is null there.  Every difference is told: which of them matters is for a person to see.
Non-rule: decodes nothing and judges nothing.
Source: Omnibug's and Assurance's users, who compare two requests side by side.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from proxy.core.decode import Decoded, Field


@dataclass(frozen=True, slots=True)
class Change:
    """One field of a group; `before` is None where it came, `after` where it went."""

    group: str
    field: Field  # as the later hit has it, or else the earlier one
    place: int  # its number among the fields of this key, from 0
    before: str | None
    after: str | None


def changes(before: Decoded, after: Decoded) -> tuple[Change, ...]:
    """From the earlier hit to the later one, in the order of the later one's fields."""
    old, new = _placed(before), _placed(after)
    found = [
        Change(at[0], field, at[2], old[at].value if at in old else None, field.value)
        for at, field in new.items()
        if at not in old or old[at].value != field.value
    ]
    found += [
        Change(at[0], field, at[2], field.value, None) for at, field in old.items() if at not in new
    ]
    return tuple(found)


def _placed(decoded: Decoded) -> dict[tuple[str, str, int], Field]:
    """Fields by group, name and number; a short key and a long one are the same variable."""
    seen: Counter[tuple[str, str]] = Counter()
    placed: dict[tuple[str, str, int], Field] = {}
    for group in decoded.groups:
        for field in group.fields:
            at = (group.id, field.name)
            placed[*at, seen[at]] = field
            seen[at] += 1
    return placed
