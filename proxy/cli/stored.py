"""What the queue file says when no daemon answers for it.

Rule: the file is opened for reading only, and whoever reads the answer is told that it
comes from the file.
Non-rule: what only a running daemon knows (the link, the oldest hit's age) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proxy import __version__, desk
from proxy.cli.ask import Unreachable
from proxy.errors import QueueError
from proxy.shell import rows

PAGE = 500


def status(path: Path, why: Unreachable) -> dict[str, Any]:
    """The counts; `why` is what to say when there is no file either."""
    _need(path, why)
    try:
        ledger, tallies = rows.peek(path)
    except QueueError as error:
        raise Unreachable(f"{why.message}; {error}") from error
    refusals = {
        name.removeprefix("refused."): count
        for name, count in sorted(tallies.items())
        if name.startswith("refused.")
    }
    return {
        "state": "stopped",
        **asdict(ledger),
        "refused": sum(refusals.values()),
        "refused_by_reason": refusals,
        "repeated": tallies.get("repeated", 0),
        "oldest_waiting_seconds": None,
        "balanced": ledger.balanced,
        "version": __version__,
        "queue_path": str(path),
    }


def letters(path: Path, why: Unreachable, *, contents: bool) -> Iterator[dict[str, Any]]:
    """Every dead letter in the file, oldest first."""
    _need(path, why)
    after = 0
    while True:
        try:
            page, boots = rows.peek_dead(path, after, PAGE)
        except QueueError as error:
            raise Unreachable(f"{why.message}; {error}") from error
        if not page:
            return
        after = page[-1].hit.id
        for letter in page:
            yield desk.whole(letter, boots) if contents else desk.summary(letter, boots)


def _need(path: Path, why: Unreachable) -> None:
    if not path.exists():
        raise Unreachable(f"{why.message}; and there is no queue file at {path}")
