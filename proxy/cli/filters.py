"""A filter as it is typed, read before anything is asked.

Rule: a faulty filter is shown with a mark under the place, and ends the verb with 2.
Source: `core.search` for the language.
"""

from __future__ import annotations

from proxy.cli import show
from proxy.cli.exits import Exit, Stop

HELP = (
    "FILTER is what the page's search takes, as 'suite:examplersid page:Checkout* has:finding"
    " is:waiting newer:10m'; put all of it in quotes."
)


def read(words: tuple[str, ...]) -> str:
    """The filter, as one text."""
    from proxy.core import search  # noqa: PLC0415 - tables that `--help` need not pay for

    text = " ".join(words)
    try:
        search.parse(text)
    except search.Fault as fault:
        # A fault behind a long filter is shown without what stands before it.
        start = max(0, fault.column - 60)
        shown = show.plain(text[start : start + 78])
        mark = " " * (fault.column - 1 - start)
        raise Stop(Exit.USAGE, f"{shown}\n{mark}^ {fault.message}") from fault
    return text
