"""The options every verb takes, before or after its name.

Rule: the one nearest to the end of the line wins, then the environment.
Source: the habit of writing `trackoffline --json status` as well as `status --json`.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(slots=True)
class Options:
    """What was said for all verbs; None where nothing was."""

    config: Path | None = None
    json: bool | None = None
    quiet: bool | None = None
    verbose: bool | None = None
    color: str | None = None
    admin: str | None = None


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    options = ctx.ensure_object(Options)
    if value is not None:
        setattr(options, str(param.name), value)
    if param.name == "color":
        ctx.color = _color(options.color)


def _color(said: str | None) -> bool | None:
    """What click wants to hear; None lets it look whether it writes to a terminal."""
    if said in ("always", "never"):
        return said == "always"
    return False if os.environ.get("NO_COLOR") else None


def _common(*, of_root: bool) -> list[click.Option]:
    """The options anew; the environment is the root's to read, or it would win over it."""

    def option(*names: str, **settings: Any) -> click.Option:
        name = f"TRACKOFFLINE_{names[0].removeprefix('--').upper()}"
        envvar = {"TRACKOFFLINE_ADMIN": "TRACKOFFLINE_ADMIN_URL"}.get(name, name)
        if of_root:
            settings |= {"envvar": envvar, "show_envvar": True}
        return click.Option(
            list(names), callback=_remember, expose_value=False, default=None, **settings
        )

    return [
        option(
            "--config",
            type=click.Path(path_type=Path),
            help="Configuration file, instead of the first one found.",
        ),
        option("--json", is_flag=True, help="Print JSON; unknown fields may appear."),
        option("--quiet", is_flag=True, help="Print results and faults only."),
        option(
            "--verbose",
            "-v",
            is_flag=True,
            help="Tell what is read and asked, and where a fault arose; of serve, each hit.",
        ),
        option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            help="Colours; auto is on a terminal, unless NO_COLOR is set.",
        ),
        option(
            "--admin",
            metavar="URL",
            help="Admin port to ask, not the configured one; TRACKOFFLINE_TOKEN is its token.",
        ),
    ]


class Verb(click.Command):
    """A command that takes the common options too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_common(of_root=False)]


class Verbs(click.Group):
    """Some verbs; a misspelt one is answered with the nearest."""

    command_class = Verb
    of_root = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_common(of_root=self.of_root)]

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)  # in the order in which they are wanted

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            guess = f' Did you mean "{close[0]}"?' if close else ""
            raise click.UsageError(f'there is no verb "{name}".{guess}', ctx)
        return super().resolve_command(ctx, args)


def note(options: Options, text: str) -> None:
    """Something beside the result, for a person."""
    if not options.quiet:
        click.echo(text, err=True)


def detail(options: Options, text: str) -> None:
    """How it is done, for who asked for that."""
    if options.verbose:
        click.echo(text, err=True)
