"""`db`: the queue file as a file.

Rule: it is opened for reading only, so that a running daemon is not disturbed; but for
`repair --apply`, which needs the file for itself.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli import settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb, Verbs
from proxy.core.words import size
from proxy.errors import QueueUnavailable


@click.group("db", cls=Verbs)
def db() -> None:
    """The queue file as a file."""


@db.command("backup", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def backup_(options: Options, file: Path) -> None:
    """Copy the queue to FILE, whether a daemon runs or not.

    The copy is one instant of the queue, readable by its owner alone; FILE must not exist yet.
    """
    from proxy.shell import backup, rows  # noqa: PLC0415 - aiosqlite, for this verb alone

    path = settings.read(options).queue_file
    if not path.exists():
        raise Stop(Exit.STORAGE, f"there is no queue file at {path}")
    try:
        backup.backup(path, file)
    except FileExistsError as error:
        raise Stop(Exit.FAULT, f"{file} exists already, and is left as it is") from error
    except OSError as error:
        raise Stop(Exit.FAULT, f"cannot write {file}: {(error.strerror or '').lower()}") from error
    ledger, _ = rows.peek(file)
    if options.json:
        found = {"file": str(file), "bytes": file.stat().st_size, **asdict(ledger)}
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(
        f"{file}: {ledger.waiting:,} waiting, {ledger.dead:,} dead letters, "
        f"{size(file.stat().st_size)}"
    )


@db.command("check", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.pass_obj
def check_(options: Options, file: Path | None) -> None:
    """Is the queue file whole: every page, every row, and the account.

    Reads FILE, or the configured queue file; a running daemon is not disturbed. Ends with 0 when
    it is whole, with 3 when it is not.
    """
    from proxy.shell import audit  # noqa: PLC0415 - as above

    path = _there(options, file)
    found = audit.audit(path)
    if options.json:
        ledger = asdict(found.ledger) if found.ledger else {}
        whole = {"file": str(path), "whole": found.is_whole, "damage": found.damage}
        click.echo(
            json.dumps({**whole, "rows": found.rows, "broken": found.broken, **ledger}, indent=2)
        )
    else:
        for line in found.damage:
            click.echo(f"{path}: {line}")
        if found.broken:
            ids = ", ".join(map(str, found.broken[:10]))
            click.echo(
                f"{path}: {len(found.broken):,} rows are not what was written, and are never sent: "
                f"{ids}{', ...' if len(found.broken) > 10 else ''}"
            )
        if found.is_whole:
            ledger_ = found.ledger
            counts = f", {ledger_.waiting:,} waiting, {ledger_.dead:,} dead" if ledger_ else ""
            click.echo(f"{path}: whole, {found.rows:,} rows{counts}")
    if not found.is_whole:
        raise Stop(Exit.NOT_SO, "" if options.json else "`trackoffline db repair` says what to do")


@db.command("repair", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--apply", "is_meant", is_flag=True, help="Do it; without, say what would be done.")
@click.pass_obj
def repair_(options: Options, file: Path | None, is_meant: bool) -> None:
    """Salvage a damaged queue file, as the next start of the daemon would.

    Of FILE, or the configured queue file, while no daemon has it open. Says what would be kept
    and lost; changes nothing without --apply. The damaged file is kept beside the new one.
    """
    from proxy.shell import beside, salvage  # noqa: PLC0415 - as above
    from proxy.shell.clock import SystemClock  # noqa: PLC0415

    path = _there(options, file)
    clock = SystemClock()
    boot = clock.boot_id, clock.wall_ms() - clock.ms()
    try:
        with beside.own(path, like=path):
            said = salvage.repair(path, boot) if is_meant else salvage.plan(path, boot)
    except (sqlite3.Error, OSError) as error:
        raise QueueUnavailable(f"cannot repair {path}: {error}") from error
    if options.json:
        click.echo(json.dumps({"file": str(path), "applied": is_meant, "said": said}, indent=2))
    else:
        click.echo("\n".join(said) or f"{path}: nothing to repair")
    if said and not is_meant:
        raise Stop(Exit.NOT_SO, "" if options.json else "nothing was changed: --apply does it")


def _there(options: Options, file: Path | None) -> Path:
    """The file that is meant; it, or at least one that lies beside it, is there."""
    path = settings.read(options).queue_file if file is None else file.absolute()
    if not path.exists() and not list(path.parent.glob(f"{path.name}-*")):
        raise Stop(Exit.STORAGE, f"there is no queue file at {path}")
    return path
