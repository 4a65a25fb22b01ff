"""How far a long verb has come, on standard error.

Rule: a bar on a terminal; a line now and then for whoever keeps a log; nothing at all when it
was asked to be quiet.  Results never share a stream with it.
Source: rich's progress display.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from proxy.cli.options import Options

LINE_S = 10.0


@contextlib.contextmanager
def counting(options: Options, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to be told how many more are done; `total` is None where nobody knows."""
    if options.quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar(options, what, total) as advance:
            yield advance
    else:
        yield _lines(what, total)


@contextlib.contextmanager
def _bar(options: Options, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console  # noqa: PLC0415 - rich costs 0.1 s
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        MofNCompleteColumn(),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(),
    )
    plain = True if options.color == "never" else None
    with Progress(*columns, console=Console(stderr=True, no_color=plain), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _lines(what: str, total: int | None) -> Callable[[int], None]:
    done, said = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= LINE_S:
            said = now
            click.echo(f"{what}: {done:,}" + (f" of {total:,}" if total else ""), err=True)

    return advance
