"""How much may wait, and what happens at the limit.

Rule: a limit is a number a person wrote; reaching it is counted under its name.
Non-rule: measures nothing; the free disk and the counts are arguments.
Source: the configuration's [queue] section.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.hit import Ledger


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the queue; `max_age_s == 0` means hits never expire.

    `keep_delivered_s`: how long a delivered hit stays for people to look at.
    """

    max_hits: int = 1_000_000
    max_bytes: int = 2 * 1024**3
    max_age_s: float = 0.0
    min_free_disk: int = 200 * 1024**2
    drop_oldest: bool = False
    keep_delivered_s: float = 86_400.0


def over(ledger: Ledger, hits: int, size: int, limits: Limits) -> tuple[int, int]:
    """By how many hits and bytes the queue would be over its bounds with these added."""
    return (
        max(0, ledger.waiting + hits - limits.max_hits),
        max(0, ledger.waiting_bytes + size - limits.max_bytes),
    )


def reached(ledger: Ledger, hits: int, size: int, free_disk: int, limits: Limits) -> str | None:
    """The limit that forbids taking these hits, by the name it is counted under."""
    if free_disk < limits.min_free_disk:
        return "disk"
    if limits.drop_oldest:
        # Room is made by dropping, unless these alone are more than may ever wait.
        return "too-large" if hits > limits.max_hits or size > limits.max_bytes else None
    if ledger.waiting + hits > limits.max_hits:
        return "max_hits"
    return "max_bytes" if ledger.waiting_bytes + size > limits.max_bytes else None
