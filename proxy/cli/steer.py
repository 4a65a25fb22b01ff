"""`offline`, `online`, `retry`: what a person decides about forwarding.

Rule: each takes effect at once and says what is so now; a hold survives restarts.
Source: AppMeasurement's `forceOffline` and `forceOnline`.
"""

from __future__ import annotations

import json
from typing import Any

import click

from proxy.cli import ask, filters
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb, note


@click.command(cls=Verb)
@click.option("--for", "length", metavar="LENGTH", help='As "30m", "2h", "7d"; else until online.')
@click.pass_obj
def offline(options: Options, length: str | None) -> None:
    """Send nothing, keep everything; survives restarts."""
    body = {} if length is None else {"for_seconds": _seconds(length)}
    _tell(options, "offline", body)


@click.command(cls=Verb)
@click.pass_obj
def online(options: Options) -> None:
    """Send again."""
    _tell(options, "online", {})


@click.command(cls=Verb, epilog=filters.HELP)
@click.argument("filter_", metavar="[FILTER]", nargs=-1)
@click.pass_obj
def retry(options: Options, filter_: tuple[str, ...]) -> None:
    """Try the collection server at once.

    With a filter only the visitors of the waiting hits it finds go now, as with 'id:12'; their
    earlier hits go first. Dead letters go back with `dead requeue`.
    """
    q = filters.read(filter_)
    found = _tell(options, "retry", {"q": q} if q else {})
    if not q or options.json:
        return
    tried = found["tried"]
    if not tried["matched"]:
        raise Stop(Exit.FAULT, "No waiting hit matches.")
    hits = "1 hit waits" if tried["matched"] == 1 else f"{tried['matched']:,} hits wait"
    if not tried["visitors"] and found["state"] == "offline":
        note(options, f"{hits} for the collection server, which is asked at once")
        return
    if not tried["visitors"]:
        note(options, f"{hits}, and not for a next try")
        return
    who = "1 visitor goes" if tried["visitors"] == 1 else f"{tried['visitors']:,} visitors go"
    note(options, f"{hits}; {who} on at once")


def _seconds(length: str) -> float:
    from proxy.config import values  # noqa: PLC0415 - pydantic costs 0.1 s

    try:
        seconds = values.duration(length)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from error
    if seconds <= 0:
        raise click.BadParameter("it must be longer than nothing", param_hint="--for")
    return seconds


def _tell(options: Options, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    # (To find the hits of a filter may take long.)
    within_s = ask.SEARCH_S if "q" in body else ask.TIMEOUT_S
    found = ask.daemon(options).post(f"/api/v1/forwarding/{verb}", body, within_s=within_s)
    if options.json:
        click.echo(json.dumps(found, indent=2))
    elif not options.quiet:
        from proxy.cli import show  # noqa: PLC0415 - needed by this verb alone

        click.echo(show.state_line(found))
    return found
