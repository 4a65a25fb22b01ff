"""`version`, `config`, `completion`, `demo`: what needs no daemon.

Rule: the settings shown are those in effect, each with who set it.
Source: click's own shell completion.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import TextIO

import click
from click.shell_completion import get_completion_class

from proxy import __version__
from proxy.cli import settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.files import shipped
from proxy.cli.options import Options, Verb, Verbs


@click.command(cls=Verb)
@click.pass_obj
def version(options: Options) -> None:
    """The version of this program."""
    click.echo(json.dumps({"version": __version__}) if options.json else __version__)


@click.group("config", cls=Verbs)
def config() -> None:
    """The settings: in effect, or all there are."""


@config.command("show")
@click.pass_obj
def show_(options: Options) -> None:
    """Every setting in effect, and who set it."""
    from proxy.config import effective  # noqa: PLC0415 - pydantic costs 0.1 s

    file = settings.find(options)
    found = effective(file, os.environ)
    if options.json:
        click.echo(json.dumps([asdict(setting) for setting in found], indent=2))
        return
    click.echo(f"# {file or 'no configuration file'}")
    for setting in found:
        text = f"{setting.key} = {setting.value}"
        click.echo(f"{text:<56}  # {setting.origin}".rstrip())


@config.command("example")
@click.pass_obj
def example_(_: Options) -> None:
    """A commented configuration with every key, to start from."""
    click.echo(shipped("config.example.toml").read_text(encoding="utf-8"), nl=False)


@config.command("table")
@click.pass_obj
def table_(_: Options) -> None:
    """Every setting there is, in Markdown."""
    from proxy.config import table  # noqa: PLC0415 - as above

    click.echo(table())


@config.command("schema")
@click.pass_obj
def schema_(_: Options) -> None:
    """The settings as a JSON Schema, for an editor.

    In VS Code with Even Better TOML, the first line of the file then says
    "#:schema ./trackoffline.schema.json".
    """
    from proxy.config import schema  # noqa: PLC0415 - as above

    click.echo(json.dumps(schema(), indent=2))


@config.command("variables")
@click.argument("sheet", metavar="FILE|-", type=click.File("r", encoding="utf-8-sig"))
@click.pass_obj
def variables_(options: Options, sheet: TextIO) -> None:
    """A [variables] section out of a sheet.

    A solution design reference saved as CSV: of each line the first cell that names a variable
    or an event, and the next one that says something. It is printed, to be put into the
    configuration.
    """
    try:
        found = named(sheet)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Stop(Exit.FAULT, f"{sheet.name} is no CSV in UTF-8: {error}") from error
    if not found:
        raise Stop(Exit.FAULT, "no line has a variable such as eVar12 and a name behind it")
    if options.json:
        click.echo(json.dumps(dict(found)))
        return
    click.echo("[variables]")
    for variable, name in found:
        key = variable if variable.isalnum() else json.dumps(variable, ensure_ascii=False)
        click.echo(f"{key} = {json.dumps(name, ensure_ascii=False)}")


def named(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Variables and what a sheet calls them; of a variable that comes again, the first.

    Sheets have all kinds of columns, and headings in between.
    """
    from proxy.config.values import LONGEST_LABEL  # noqa: PLC0415 - as above
    from proxy.core.names import spelled  # noqa: PLC0415 - as above

    rows = list(lines)
    semicolons, commas = (sum(row.count(mark) for row in rows) for mark in ";,")
    found: dict[str, tuple[str, str]] = {}
    for row in csv.reader(rows, delimiter=";" if semicolons > commas else ","):
        cells = [" ".join(cell.split()) for cell in row]
        variable, *rest = [*itertools.dropwhile(lambda cell: not spelled(cell), cells), ""]
        name = next(filter(None, rest), "")
        if name and (variable + name).isprintable():
            variable = spelled(variable) or variable
            found.setdefault(variable.lower(), (variable, name[:LONGEST_LABEL]))
    return list(found.values())


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """A script that completes verbs and options.

    In bash and zsh: eval "$(trackoffline completion bash)"; in fish: trackoffline completion
    fish | source.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Stop(Exit.FAULT, f"nothing is known of {shell}")
    root = ctx.find_root().command
    script = kind(root, {}, "trackoffline", "_TRACKOFFLINE_COMPLETE")
    click.echo(script.source_template % script.source_vars())


@click.command(cls=Verb)
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Play an outage in half a minute.

    Nothing leaves this machine and nothing stays on it.
    """
    from proxy import demo as play  # noqa: PLC0415 - aiohttp and rich

    if play.main(color=ctx.color):
        raise Stop(Exit.FAULT, "A promise was not kept.")
