"""`check`: everything that would keep a daemon from starting or from sending.

Rule: it starts nothing and leaves nothing behind; each thing looked at is one line, with
the setting it belongs to.  The exit code is that of the first fault, as `serve` would end.
Non-rule: the faults within a configuration are `config.load`'s, all at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli import ask, ports, settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb
from proxy.cli.settings import Settings
from proxy.core.words import size
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.config import Edge, Upstream

# ruff: noqa: PLC0415 - aiohttp and pydantic are imported where they are needed


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `code` is OK or what it would end a start with."""

    text: str
    code: Exit = Exit.OK


@click.command(cls=Verb)
@click.option("--settings", "alone", is_flag=True, help="Look at the configuration alone.")
@click.option("--online", is_flag=True, help="Reach for the collection server too; sends no hit.")
@click.pass_obj
def check(options: Options, alone: bool, online: bool) -> None:
    """Say every fault before a start.

    Looks at the configuration, the disk, the queue file and the ports; starts nothing.
    """
    from proxy import config

    try:
        found = settings.read(options)
    except ConfigError as error:
        _config_faults(options, error)
        raise Stop(Exit.CONFIG) from error
    warnings = config.warnings(found.config)
    findings = [] if alone else list(surroundings(options, found, online=online))
    worst = next((one.code for one in findings if one.code is not Exit.OK), Exit.OK)
    if options.json:
        click.echo(json.dumps(_as_json(found, warnings, findings), indent=2))
    else:
        _print(found, warnings, findings)
    if worst is not Exit.OK:
        raise Stop(worst)


def surroundings(options: Options, found: Settings, *, online: bool) -> Iterator[Finding]:
    """The disk, the queue file, the ports, and (`online`) the collection server."""
    yield _storage(found)
    if found.queue_file.exists():
        yield _version(found.queue_file)
    yield from _ports(options, found)
    if online:
        for section in ("upstream", "edge"):
            remote = getattr(found.config, section)
            if remote is not None:
                yield asyncio.run(_reach(section, remote))


def _config_faults(options: Options, error: ConfigError) -> None:
    if options.json:
        click.echo(json.dumps({"ok": False, "problems": error.problems}, indent=2))
        return
    count = len(error.problems)
    click.echo(f"{error}\n{count} problem{'' if count == 1 else 's'}; nothing was started.")


def _as_json(found: Settings, warnings: list[str], findings: list[Finding]) -> dict[str, object]:
    return {
        "ok": all(one.code is Exit.OK for one in findings),
        "file": None if found.file is None else str(found.file),
        "warnings": warnings,
        "problems": [one.text for one in findings if one.code is not Exit.OK],
        "findings": [{"text": one.text, "exit_code": int(one.code)} for one in findings],
    }


def _print(found: Settings, warnings: list[str], findings: list[Finding]) -> None:
    upstream = found.config.upstream
    goal = "capture only" if upstream is None else f"forward to {upstream.server}"
    suites = len(found.config.suites.known)
    file = found.file or "no configuration file, the defaults"
    click.echo(f"{file}: ok, {suites} suite{'' if suites == 1 else 's'}, {goal}")
    for warning in warnings:
        click.echo(f"  {click.style('warning', fg='yellow')}  {warning}")
    for one in findings:
        mark = (
            click.style("ok", fg="green") if one.code is Exit.OK else click.style("FAULT", fg="red")
        )
        click.echo(f"  {mark}  {one.text}")


def _storage(found: Settings) -> Finding:
    folder = found.queue_file.parent
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        # Permission bits do not tell of read-only file systems and quotas; trying does.
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0")
            probe.flush()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Finding(f"queue.path: cannot write in {existing}: {reason}", Exit.STORAGE)
    stat = os.statvfs(existing)
    free, least = stat.f_bavail * stat.f_frsize, found.config.queue.min_free_disk
    if free < least:
        return Finding(
            f"queue.min_free_disk: {size(free)} free at {existing}, less than the "
            f"{size(least)} asked for: every hit would be refused",
            Exit.STORAGE,
        )
    return Finding(f"storage {folder} writable, {size(free)} free")


def _version(queue_file: Path) -> Finding:
    from proxy.shell import migrate

    known = len(migrate.scripts())
    try:
        with closing(sqlite3.connect(f"{queue_file.as_uri()}?mode=ro", uri=True)) as db:
            version: int = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        return Finding(f"queue.path: {queue_file} cannot be read: {error}", Exit.STORAGE)
    if version > known:
        return Finding(
            f"queue.path: {queue_file} has version {version}, this release knows up to {known}",
            Exit.CONFIG,
        )
    return Finding(f"queue file {queue_file}, version {version} of {known}")


def _ports(options: Options, found: Settings) -> Iterator[Finding]:
    running = _is_running(options, found)
    taken = list(ports.problems(found.config))
    for problem in taken:
        if problem.ours and running:
            yield Finding(f"{problem.setting}: this daemon is running there")
        else:
            yield Finding(problem.text, problem.code)
    blamed = {problem.setting for problem in taken}
    free = [str(at) for setting, at in ports.listeners(found.config) if setting not in blamed]
    if free:
        yield Finding(f"addresses free: {', '.join(free)}")


def _is_running(options: Options, found: Settings) -> bool:
    """Whether the daemon of this very configuration answers."""
    try:
        status = ask.daemon(options).get("/api/v1/status")
    except Stop:
        return False
    return bool(status.get("queue_path") == str(found.queue_file))


async def _reach(section: str, upstream: Upstream | Edge) -> Finding:
    from proxy.shell.upstream import Upstream as Road
    from proxy.shell.upstream import Where

    tls = None
    if upstream.tls_ca_file is not None:
        tls = ssl.create_default_context(cafile=str(upstream.tls_ca_file))
    road = Road(Where(str(upstream.server), upstream.timeout, tls))
    began = asyncio.get_running_loop().time()
    try:
        failure = await road.probe()
    finally:
        await road.close()
    if failure is not None:
        return Finding(
            f"{section}.server: {upstream.server} not reached: {failure.fault}: {failure.detail}",
            Exit.TEMPORARY,
        )
    took_ms = (asyncio.get_running_loop().time() - began) * 1000
    return Finding(f"{upstream.server} reached in {took_ms:.0f} ms")
