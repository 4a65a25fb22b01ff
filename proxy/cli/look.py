"""`status` and `wait-ready`: is it working?

Rule: the answer says whether the daemon or the file gave it.
Source: Tailscale's `status` for its "health" lines; systemctl for `--exit-code`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, NoReturn

import click

from proxy.cli import ask, settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb

COLORS = {"online": "green", "capture": "cyan", "held": "blue", "offline": "yellow"}
AGAIN_S = 0.1
WATCH_S = 1.0


@click.command(cls=Verb)
@click.option("--exit-code", is_flag=True, help="End with 3 when something needs a person.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.pass_obj
def status(options: Options, exit_code: bool, watch: bool) -> None:
    """State, counts, and what needs a person."""
    from proxy.cli import show  # noqa: PLC0415 - needed by this verb alone

    if watch and exit_code:
        raise click.UsageError("--watch never ends, and --exit-code does: choose one")
    if watch:
        _watch(options)
    found, source = _status(options)
    if options.json:
        click.echo(json.dumps(found | {"source": source}, indent=2))
    else:
        first, state, *rest = show.status_lines(found, source)
        click.echo(first)
        click.secho(state, fg=COLORS.get(found["state"], "red"))
        for line in rest:
            click.echo(line)
    if exit_code and show.needs_a_person(found):
        raise Stop(Exit.NOT_SO)


def _status(options: Options) -> tuple[dict[str, Any], str]:
    try:
        daemon = ask.daemon(options)
        return daemon.get("/api/v1/status"), f"from the daemon at {daemon.url}"
    except ask.Unreachable as why:
        if options.admin is not None:
            raise  # that daemon has another queue file than the one found here
        from proxy.cli import stored  # noqa: PLC0415 - only when no daemon answers

        path = settings.read(options).queue_file
        return stored.status(path, why), f"from the file {path}; {why.message}"


def _watch(options: Options) -> NoReturn:
    """The status as it is: in its place on a terminal, else a line whenever it is another."""
    from proxy.cli import show  # noqa: PLC0415 - as above

    if options.json or not sys.stdout.isatty():
        said = ""
        while True:
            found = _now(options)
            line = json.dumps(found) if options.json else show.watch_line(found)
            # Of JSON every look is another one, for the time in it.
            if line != said:
                click.echo(line)
                said = line
            time.sleep(WATCH_S)
    from rich.console import Console  # noqa: PLC0415 - rich costs 0.1 s
    from rich.live import Live  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    console = Console(no_color=True if options.color == "never" else None)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = _now(options)
            first, state, *rest = show.status_lines(found, found["source"])
            color = COLORS.get(found["state"], "red")
            lines = [(f"{first}\n", ""), (f"{state}\n", color), ("\n".join(rest), "")]
            live.update(Text.assemble(*lines), refresh=True)
            time.sleep(WATCH_S)


def _now(options: Options) -> dict[str, Any]:
    found, source = _status(options)
    return found | {"source": source}


@click.command("wait-ready", cls=Verb)
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds."
)
@click.pass_obj
def wait_ready(options: Options, timeout: float) -> None:
    """Return when a hit would be kept.

    Ends with 3 when that takes longer than TIMEOUT seconds.
    """
    daemon = ask.daemon(options)
    deadline = time.monotonic() + timeout
    while True:
        try:
            daemon.get("/readyz")
        except Stop as not_yet:
            if time.monotonic() >= deadline:
                raise Stop(Exit.NOT_SO, f"not ready: {not_yet.message}") from not_yet
            time.sleep(AGAIN_S)
        else:
            return
