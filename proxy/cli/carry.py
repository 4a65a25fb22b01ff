"""`export` and `import`: hits out of the queue into a file, and in again.

Rule: an export is whole or an error: a file appears under its name when all of it is there.
What is imported waits like any other hit, and what that will cost at Adobe is said first.
Source: RFC 4180, HAR 1.2; Adobe's page "terms" for what a server call is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from proxy.cli import ask, filters, kept, progress
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb, note
from proxy.core.words import size

if TYPE_CHECKING:
    from proxy.cli.files_of_hits import Contents
    from proxy.core.hit import Request

# What tells hits apart in each, well enough for a bar; only lines of JSON are certain.
MARKS = {"ndjson": b"\n", "csv": b"\r\n", "har": b'"startedDateTime"'}
FORMATS = tuple(MARKS)
BATCH = 100


@click.command(cls=Verb, epilog=filters.HELP)
@click.argument("filter_", metavar="[FILTER]", nargs=-1)
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    help="Else by the name of the file, or ndjson, which alone can be imported whole.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="A file; else output.")
@click.option("--unredacted", is_flag=True, help="With cookies, which tell who somebody is.")
@click.pass_obj
def export(
    options: Options,
    filter_: tuple[str, ...],
    kind: str | None,
    output: Path | None,
    unredacted: bool,
) -> None:
    """Hits into a file: NDJSON, CSV or HAR.

    Without --unredacted the Cookie and Authorization headers are left out.
    """
    q = filters.read(filter_)
    kind = kind or _by_name(output)
    if kind == "csv" and output is None and sys.stdout.isatty():
        raise click.UsageError("CSV holds what strangers wrote as it stands: give --output")
    with kept.source(options) as source, _opened(output) as file:
        done = written = 0
        # To count what a filter means is as much work as to export it.
        total = None if q else source.count("")
        with progress.counting(options, "exported", total) as advance:
            try:
                for chunk in source.export(kind, q, unredacted=unredacted):
                    file.write(chunk)
                    some = chunk.count(MARKS[kind])
                    done += some
                    written += len(chunk)
                    advance(some)
            except ask.Unreachable as why:
                raise Stop(Exit.UNREACHABLE, f"the export broke off: {why.message}") from why
    counted = f"{done:,} hits, " if kind == "ndjson" else ""
    note(options, f"{counted}{size(written)} exported")
    if kind == "ndjson" and not unredacted:
        note(options, "Cookies are left out; with --unredacted an import is the same hits.")


def _by_name(output: Path | None) -> str:
    ending = output.suffix.removeprefix(".") if output else ""
    return ending if ending in FORMATS else "ndjson"


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Where to write to; a plain file gets its name when all of it is written."""
    if output is None or str(output) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if output.exists() and not output.is_file():
        with output.open("wb") as device:
            yield device
        return
    part = output.with_name(f".{output.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except OSError as error:
        raise Stop(Exit.FAULT, f"{output}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


@click.command("import", cls=Verb)
@click.argument("file", metavar="FILE|-")
@click.option("--dry-run", is_flag=True, help="Read the file and say what is in it; store nothing.")
@click.pass_obj
def import_(options: Options, file: str, dry_run: bool) -> None:
    """Hits of a file into the queue.

    The file is an export or a HAR file. Each hit gets its own time, where its report suite takes
    timestamps, and waits like any other; events of the Edge Network go where [edge] says.
    """
    from proxy.cli import files_of_hits  # noqa: PLC0415 - the core that `--help` need not load

    with files_of_hits.opened(file) as found:
        _import(options, found, dry_run)


def _import(options: Options, found: Contents, dry_run: bool) -> None:
    for fault in found.faults:
        note(options, f"not taken: {fault}")
    if found.others > len(found.faults):
        note(options, f"not taken: {found.others - len(found.faults):,} more")
    if found.delivered:
        note(options, f"{found.delivered:,} were delivered before: sent again, they count twice")
    said = {"hits": len(found.places), "server_calls": found.calls, "not_taken": found.others}
    if dry_run:
        _say(options, said, found.suites)
        return
    daemon = ask.daemon(options)
    status = daemon.get("/api/v1/status")
    roads = {False: status.get("upstream"), True: (status.get("edge") or {}).get("upstream")}
    servers = filter(None, (roads[one] for one in sorted({p.is_event for p in found.places})))
    if server := " and ".join(servers):
        what = f"{found.calls:,} server calls, which Adobe bills"
        note(options, f"They will be sent to {server}: {what}.")
    imported = refused = 0
    with progress.counting(options, "imported", len(found.places)) as advance:
        for at in range(0, len(found.places), BATCH):
            batch = found.places[at : at + BATCH]
            try:
                lines = (_line(found.request(place), place.at_ms) for place in batch)
                answer = daemon.give("/api/v1/hits/import", lines)
            except (ask.Unreachable, ask.Refused) as stop:
                code = Exit.UNREACHABLE if isinstance(stop, ask.Unreachable) else Exit.FAULT
                where = f"{imported:,} imported; from {batch[0].where} on"
                raise Stop(code, f"{where}: {stop.message}") from stop
            imported += answer["imported"]
            refused += answer["refused"]
            for fault in answer["faults"]:
                note(options, f"refused: {batch[fault['line'] - 1].where}: {fault['detail']}")
            advance(len(batch))
    _say(options, {**said, "imported": imported, "refused": refused})
    if refused or not found.places:
        raise Stop(Exit.FAULT)


def _line(request: Request, at_ms: float | None) -> bytes:
    from proxy.core import render  # noqa: PLC0415 - as above

    row = render.request_json(request, unredacted=True)
    if at_ms is not None:
        row["received_ms"] = at_ms
    return json.dumps(row).encode() + b"\n"


def _say(options: Options, said: dict[str, int], suites: list[str] | None = None) -> None:
    if options.json:
        click.echo(json.dumps(said if suites is None else {**said, "suites": suites}))
        return
    words = {"hits": "in the file", "not_taken": "not taken", "server_calls": "server calls"}
    always = ("hits", "imported")
    parts = [
        f"{count:,} {words.get(name, name)}"
        for name, count in said.items()
        if count or name in always
    ]
    end = f"; report suites: {', '.join(suites)}" if suites else ""
    click.echo(", ".join(parts) + end)
