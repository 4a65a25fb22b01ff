"""`hits` and `hit`: what came in, in a list, one by one, and as a test's assertion.

Rule: the newest hit stands last, as in a log.  `--expect` ends with 3 when it is not so.
Source: Mailpit and Snowplow Micro for a test that asks what was sent; `tail -f`.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from proxy.cli import ask, filters, kept
from proxy.cli.exits import Exit, Stop
from proxy.cli.kept import Row
from proxy.cli.options import Options, Verb, note

AGAIN_S = 0.5
# Of what a wait can be asked for at a time: shorter than the answer to any question may take.
WAIT_S = 5.0
MOST_AT_ONCE = 500
BEFORE = "before"  # the hit before it, of the same visitor
EXPECTED = re.compile(r"(\d{1,9})(?:(\.\.)(\d{1,9})?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Expected:
    """`3`, `2..`, `2..5`: how many hits there must be; `most` is None without a limit."""

    least: int
    most: int | None

    def __str__(self) -> str:
        if self.most == self.least:
            return str(self.least)
        return f"{self.least}..{'' if self.most is None else self.most}"


def _as_expected(_: click.Context, _param: click.Parameter, value: str | None) -> Expected | None:
    if value is None:
        return None
    match = EXPECTED.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value} is no number of hits: write 3, 2.. or 2..5")
    least = int(match[1])
    if match[2] is None:
        return Expected(least, least)
    if not match[3]:
        return Expected(least, None)
    if int(match[3]) < least:
        raise click.BadParameter(f"{value}: {match[3]} is less than {least}")
    return Expected(least, int(match[3]))


def _as_columns(_: click.Context, _param: click.Parameter, value: str | None) -> list[str]:
    from proxy.cli import tell  # noqa: PLC0415 - not needed for JSON

    if value is None:
        return list(tell.COLUMNS)
    known = [*tell.COLUMNS, *tell.MORE_COLUMNS]
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f'. Did you mean "{close[0]}"?' if close else ""
            raise click.BadParameter(f'"{name}" is no column; there are {", ".join(known)}{guess}')
    return names


@click.command(cls=Verb, epilog=filters.HELP)
@click.argument("filter_", metavar="[FILTER]", nargs=-1)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes in, until Ctrl-C.")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="The newest so many.",
)
@click.option(
    "--columns",
    metavar="NAME,..",
    callback=_as_columns,
    help="What to show, as received,title,state; a wrong name lists them all.",
)
@click.option(
    "--expect",
    metavar="N|MIN..",
    callback=_as_expected,
    help='So many there must be: "3", "2.." or "0"; else end with 3.',
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds that --expect waits for them.",
)
@click.pass_obj
def hits(
    options: Options,
    filter_: tuple[str, ...],
    follow: bool,
    limit: int,
    columns: list[str],
    expect: Expected | None,
    timeout: float,
) -> None:
    """Hits that came in, the newest last.

    With --json each hit is one line. For a test: hits 'page:Home' --expect 1 --timeout 10
    """
    q = filters.read(filter_)
    if expect is not None and follow:
        raise click.UsageError("--follow never ends, and --expect does: choose one")
    if expect is not None:
        _say(options, _expected(ask.daemon(options), q, expect, timeout), columns)
        return
    if follow:
        _follow(options, q, limit, columns)
        return
    with kept.source(options) as source:
        rows = kept.newest(source, q, limit)
    _say(options, reversed(rows), columns)
    if not rows:
        note(options, "No hit matches." if q else "No hits yet.")


def _say(options: Options, rows: Iterable[Row], columns: Sequence[str]) -> None:
    if options.json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    from proxy.cli import tell  # noqa: PLC0415 - not needed for JSON

    for row in rows:
        click.echo(tell.row_line(row, columns))


def _follow(options: Options, q: str, limit: int, columns: Sequence[str]) -> None:
    source = kept.Asked(ask.daemon(options))
    last = _last(source)
    rows = [row for row in kept.newest(source, q, limit) if row["id"] <= last]
    _say(options, reversed(rows), columns)
    note(options, "Following; Ctrl-C ends it.")
    is_there = True
    while True:
        sys.stdout.flush()
        time.sleep(AGAIN_S)
        try:
            rows, last = since(source, q, last)
        except ask.Unreachable as why:
            # It may be restarted: whoever follows it wants to see what comes then.
            if is_there:
                note(options, f"{why.message}; waiting for it")
            is_there = False
        else:
            is_there = True
            _say(options, reversed(rows), columns)


def since(source: kept.Source, q: str, last: int) -> tuple[list[Row], int]:
    """The hits behind the last one that was seen, newest first, and which is the last one now."""
    newest = _last(source)
    # A look at the newest hit of all is cheap; a search is not, where little matches.
    if newest <= last:
        return [], last
    rows = kept.newest(source, q, sys.maxsize, above=last)
    return [row for row in rows if row["id"] <= newest], newest


def _last(source: kept.Source) -> int:
    rows = kept.newest(source, "", 1)
    return int(rows[0]["id"]) if rows else 0


def _expected(daemon: ask.Daemon, q: str, expect: Expected, timeout: float) -> list[Row]:
    """The hits, once there are as many as expected; `Stop` when that does not become so."""
    source = kept.Asked(daemon)
    until = time.monotonic() + timeout
    # Of none, one is too many, and it takes all the time to know.
    wanted = expect.least or (1 if expect.most == 0 else 0)
    while (found := source.count(q)) < wanted:
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        daemon.get(
            "/api/v1/hits/wait",
            q=q,
            count=min(wanted, MOST_AT_ONCE),
            timeout=f"{min(left_s, WAIT_S):.3f}",
        )
        if wanted > MOST_AT_ONCE:
            time.sleep(min(left_s, AGAIN_S))
    rows = list(reversed(kept.newest(source, q, max(found, MOST_AT_ONCE))))
    if found < expect.least or (expect.most is not None and found > expect.most):
        raise Stop(
            Exit.NOT_SO,
            f"expected {expect} of {q or 'any hit'!r}, there are {found} ({timeout:g} s)",
        )
    return rows


def _as_id(_: click.Context, _param: click.Parameter, value: str) -> int:
    text = value.removeprefix("#")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise click.BadParameter(f"{value} is no id of a hit: `trackoffline hits` lists them")
    return int(text)


def _as_other(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    return value if value in (None, BEFORE) else str(_as_id(ctx, param, value))


@click.command(cls=Verb)
@click.argument("id_", metavar="ID", callback=_as_id)
@click.option("--raw", is_flag=True, help="The request as it stands on the disk.")
@click.option("--curl", is_flag=True, help="A command that sends it again.")
@click.option(
    "--compare",
    metavar="[OTHER]",
    is_flag=False,
    flag_value=BEFORE,
    callback=_as_other,
    help="What it says otherwise than the hit before it of the same visitor, or than hit OTHER.",
)
@click.option("--unredacted", is_flag=True, help="With cookies, which tell who somebody is.")
@click.pass_obj
def hit(
    options: Options, id_: int, raw: bool, curl: bool, compare: str | None, unredacted: bool
) -> None:
    """All that is known of one hit."""
    if raw + curl + (bool(options.json) or compare is not None) > 1:
        raise click.UsageError("--raw, --curl, --json or --compare: choose one")
    if compare is not None:
        _compare(options, id_, compare)
        return
    with kept.source(options) as source:
        found: Row | str | None
        if raw:
            found = source.raw(id_, unredacted=unredacted)
        elif curl:
            found = source.curl(id_, unredacted=unredacted)
        else:
            found = source.hit(id_, unredacted=unredacted)
    if found is None:
        raise Stop(Exit.FAULT, f"no hit #{id_} is kept")
    if isinstance(found, str):
        _print(found)
    elif options.json:
        click.echo(json.dumps(found, indent=2))
    else:
        from proxy.cli import tell  # noqa: PLC0415 - needed here alone

        for line in tell.detail_lines(found):
            click.echo(line)


def _compare(options: Options, id_: int, with_: str) -> None:
    other = None if with_ == BEFORE else int(with_)
    with kept.source(options) as source:
        found = source.compare(id_, other)
    if found is None:
        raise Stop(Exit.FAULT, f"no hit #{id_} is kept" + (f", or no #{other}" if other else ""))
    if options.json:
        click.echo(json.dumps(found, indent=2))
        return
    from proxy.cli import tell  # noqa: PLC0415 - needed here alone

    for line in tell.compared_lines(found):
        click.echo(line)


def _print(text: str) -> None:
    """Bytes into a pipe, as they are; onto a terminal only what it cannot obey."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(text.encode("latin-1", "replace"))
        return
    from proxy.cli import show  # noqa: PLC0415 - needed here alone

    for line in text.splitlines():
        click.echo(show.plain(line))
