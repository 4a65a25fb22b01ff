"""`dead`: the hits Adobe refused for good, kept until a person decides.

Rule: nothing is discarded unless the person knew how many; what is exported is everything
or an error.
Source: Syncthing's failed items and their full reasons; docs/design/0001 for what a dead
letter is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from proxy.cli import ask, filters, kept, settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verbs, note

PAGE = 500


@click.group(cls=Verbs, invoke_without_command=True)
@click.pass_context
def dead(ctx: click.Context) -> None:
    """Hits refused for good, and what to do."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@dead.command("list")
@click.option("--each", is_flag=True, help="A line for each letter, with its id.")
@click.option("--filter", "filter_", metavar="FILTER", help="Those of a filter, as in `hits`.")
@click.pass_obj
def list_(options: Options, each: bool = False, filter_: str | None = None) -> None:
    """Dead letters by reason; `dead` alone is the same."""
    from proxy.cli import show  # noqa: PLC0415 - needed by this verb alone

    found = _letters(options) if filter_ is None else _found(options, filters.read((filter_,)))
    if not each:
        groups = show.by_reason(found)
        if options.json:
            click.echo(json.dumps(groups, indent=2))
            return
        lines = show.group_lines(groups)
    elif options.json:
        for letter in found:
            click.echo(json.dumps(letter))
        return
    else:
        lines = show.letter_lines(found)
    for line in lines:
        click.echo(line)
    if not lines:
        note(options, "Nothing has failed.")


@dead.command()
@click.option(
    "--output", "-o", type=click.File("wb"), default="-", help="A file; else standard output."
)
@click.pass_obj
def export(options: Options, output: BinaryIO) -> None:
    """Every letter as a line of JSON.

    It has all that is needed to send the hit again.
    """
    count = 0
    for line in _export(options):
        output.write(line)
        count += 1
    output.flush()
    note(options, f"{count:,} dead letters exported")


@dead.command()
@click.argument("ids", type=click.IntRange(min=0), nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All there are.")
@click.option("--filter", "filter_", metavar="FILTER", help="Those of a filter, as in `hits`.")
@click.pass_obj
def requeue(options: Options, ids: tuple[int, ...], all_: bool, filter_: str | None) -> None:
    """Let these letters wait again.

    They keep their own time, whatever came after them.
    """
    chosen = _chosen(ids, all_, filter_)
    found = ask.daemon(options).post("/api/v1/hits/requeue", chosen, within_s=ask.SEARCH_S)
    _done(options, found, "requeued", ids)


@dead.command()
@click.argument("ids", type=click.IntRange(min=0), nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All there are.")
@click.option("--filter", "filter_", metavar="FILTER", help="Those of a filter, as in `hits`.")
@click.option("--yes", is_flag=True, help="Do not ask for the number.")
@click.pass_obj
def discard(
    options: Options, ids: tuple[int, ...], all_: bool, filter_: str | None, yes: bool
) -> None:
    """Give these letters up for good.

    The number of letters must be typed back.
    """
    chosen = _chosen(ids, all_, filter_)
    daemon = ask.daemon(options)
    count = len(set(ids)) or kept.Asked(daemon).count(f"is:dead {filter_ or ''}")
    if count and not yes:
        note(options, "They are gone for good; `trackoffline dead export` keeps a copy.")
        typed = click.prompt(f"Type the number of letters to discard ({count})", err=True)
        if typed.strip() != str(count):
            raise Stop(Exit.FAULT, "Another number: nothing was discarded.")
    if not ids:
        chosen["expect_count"] = count
    found = daemon.post("/api/v1/hits/discard", chosen, within_s=ask.SEARCH_S)
    _done(options, found, "discarded", ids)


def _chosen(ids: tuple[int, ...], all_: bool, filter_: str | None) -> dict[str, Any]:
    if bool(ids) + all_ + (filter_ is not None) != 1:
        raise click.UsageError("say which: ids (see `dead list --each`), --filter, or --all")
    if filter_ is not None:
        if not filter_.strip():
            raise click.UsageError("an empty filter means every letter: say --all")
        return {"q": filters.read((filter_,))}
    return {"all": True} if all_ else {"ids": list(ids)}


def _done(options: Options, found: dict[str, Any], done: str, ids: tuple[int, ...]) -> None:
    if options.json:
        click.echo(json.dumps(found))
    elif not options.quiet:
        click.echo(f"{found[done]:,} {done}")
    missing = len(set(ids)) - found[done]
    if missing > 0:
        raise Stop(Exit.FAULT, f"{missing:,} of the ids are no dead letters")


def _found(options: Options, q: str) -> list[dict[str, Any]]:
    """The letters of a filter, oldest first, as the others are told of."""
    with kept.source(options) as source:
        rows = kept.newest(source, f"is:dead {q}", sys.maxsize)
    names = ("id", "reason", "status", "tries", "received_ms", "ambiguous")
    return [
        {name: row[name] for name in names} | {"suites": ",".join(row["suites"])}
        for row in reversed(rows)
    ]


def _letters(options: Options) -> list[dict[str, Any]]:
    try:
        daemon = ask.daemon(options)
        letters: list[dict[str, Any]] = []
        while True:
            after = letters[-1]["id"] if letters else 0
            page = daemon.get(f"/api/v1/dead?after={after}&limit={PAGE}")["letters"]
            if not page:
                return letters
            letters += page
    except ask.Unreachable as why:
        return list(_from_file(options, why, contents=False))


def _export(options: Options) -> Iterator[bytes]:
    began = False
    try:
        for line in ask.daemon(options).lines("/api/v1/dead.ndjson"):
            began = True
            yield line
    except ask.Unreachable as why:
        if began:
            raise Stop(Exit.UNREACHABLE, f"the export broke off: {why.message}") from why
        for letter in _from_file(options, why, contents=True):
            yield json.dumps(letter).encode() + b"\n"


def _from_file(
    options: Options, why: ask.Unreachable, *, contents: bool
) -> Iterator[dict[str, Any]]:
    if options.admin is not None:
        raise why  # that daemon has another queue file than the one found here
    from proxy.cli import stored  # noqa: PLC0415 - only when no daemon answers

    path: Path = settings.read(options).queue_file
    note(options, f"from the file {path}; {why.message}")
    yield from stored.letters(path, why, contents=contents)
