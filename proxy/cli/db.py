"""`db`: the queue file as a file.

Rule: it is opened for reading only, so that a running daemon is not disturbed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli import settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb, Verbs
from proxy.core.words import size


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
    from proxy.shell import backup, queue  # noqa: PLC0415 - aiosqlite, for this verb alone

    path = settings.read(options).queue_file
    if not path.exists():
        raise Stop(Exit.STORAGE, f"there is no queue file at {path}")
    try:
        backup.backup(path, file)
    except FileExistsError as error:
        raise Stop(Exit.FAULT, f"{file} exists already, and is left as it is") from error
    except OSError as error:
        raise Stop(Exit.FAULT, f"cannot write {file}: {(error.strerror or '').lower()}") from error
    ledger, _ = queue.peek(file)
    if options.json:
        found = {"file": str(file), "bytes": file.stat().st_size, **asdict(ledger)}
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(
        f"{file}: {ledger.waiting:,} waiting, {ledger.dead:,} dead letters, "
        f"{size(file.stat().st_size)}"
    )
