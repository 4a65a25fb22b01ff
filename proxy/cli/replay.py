"""`replay`: hits of a file to a collection server, without the queue.

Rule: nothing is sent before a person was told how many server calls that is, and agreed.
One hit after the other, oldest first, for Adobe wants a visitor's in their order; what does
not get through ends it, with the number to go on from.  A hit cut before its answer is tried
again and may count twice, which is said.
Non-rule: no account and no dead letters; for those there is `import`.
Source: Adobe's page "terms" for what a server call is.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import TYPE_CHECKING

import click

from proxy.cli import progress, settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb, note

if TYPE_CHECKING:
    from proxy.cli.files_of_hits import Contents
    from proxy.cli.sender import Account, Order

RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(?:/([smh]))?", re.ASCII)
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _as_rate(_: click.Context, _param: click.Parameter, value: str) -> float:
    match = RATE.fullmatch(value)
    if match is None or float(match[1]) <= 0:
        raise click.BadParameter(f"{value} is no rate: write 5/s or 100/m")
    return float(match[1]) / SECONDS[match[2] or "s"]


@click.command(cls=Verb)
@click.argument("file", metavar="FILE|-")
@click.option(
    "--to",
    metavar="URL|upstream",
    required=True,
    help='A server, as "https://example.data.adobedc.net"; upstream is the configured one.',
)
@click.option(
    "--rate",
    default="5/s",
    show_default=True,
    callback=_as_rate,
    help="Most hits a second, a minute (m) or an hour (h).",
)
@click.option(
    "--set-ts",
    type=click.Choice(["keep", "received", "now"]),
    default="keep",
    show_default=True,
    help="received: a hit without ts gets when it came; now: each gets when it is sent.",
)
@click.option("--skip", type=click.IntRange(min=0), default=0, help="Leave out the first so many.")
@click.option("--yes", is_flag=True, help="Do not ask; Adobe bills server calls all the same.")
@click.pass_obj
def replay(
    options: Options,
    file: str,
    to: str,
    rate: float,
    set_ts: str,
    skip: int,
    yes: bool,
) -> None:
    """Send hits of a file to a collection server.

    The file is an export or a HAR file; its hits do not pass through the queue. Ctrl-C ends it
    and says how far it came.
    """
    from proxy.cli import files_of_hits, sender  # noqa: PLC0415 - aiohttp and pydantic

    config = settings.read(options).config
    try:
        where = sender.where(config, to)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from error
    if where is None:
        raise Stop(Exit.CONFIG, "--to upstream: the configuration has no [upstream]")
    order = sender.Order(where, sender.suites(config), rate, set_ts)
    with files_of_hits.opened(file) as found:
        for fault in found.faults:
            note(options, f"left out: {fault}")
        events = sum(place.is_event for place in found.places)
        if events:
            what = f"{_many(events, 'event')} of the Edge Network: `trackoffline import` takes them"
            note(options, f"left out: {what}")
            found.places = [place for place in found.places if not place.is_event]
        del found.places[:skip]
        if not found.places:
            raise Stop(Exit.FAULT, f"no hit to send in {file}")
        _agree(found, order, yes)
        account = sender.Account()
        failure: str | None
        code = Exit.TEMPORARY
        try:
            with progress.counting(options, "sent", len(found.places)) as advance:
                failure = asyncio.run(sender.send(found, order, account, advance))
        except KeyboardInterrupt:
            failure, code = "interrupted", Exit.INTERRUPTED
        _say(options, account, len(found.places))
    if failure is not None:
        if account.in_flight:
            failure += "; the hit that was being sent may have arrived"
        raise Stop(code, f"{failure}; go on with --skip {skip + account.done}")
    if account.refused:
        raise Stop(Exit.FAULT)


def _agree(found: Contents, order: Order, yes: bool) -> None:
    """Say what will happen, and go on only if a person wants it."""
    hits, calls = (
        _many(*one) for one in ((len(found.places), "hit"), (found.calls, "server call"))
    )
    suites = ", ".join(found.suites)
    what = f"About to send {hits} to {order.where.server}: {calls}, report suites {suites}."
    warned = [f"{what} Adobe bills server calls."]
    if found.delivered:
        warned.append(f"{found.delivered:,} were delivered before: sent again, they count twice.")
    lost = sum(order.would_lose(place) for place in found.places)
    if lost:
        why = "their report suite does not take ts, or requires one"
        warned.append(f"{lost:,} Adobe would drop: {why} (see --set-ts).")
    for line in warned:
        # What it costs is no matter of --quiet.
        click.echo(line, err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise Stop(Exit.USAGE, "Nothing was sent: nobody can be asked here; --yes agrees.")
    if not click.confirm("Continue?", err=True):
        raise Stop(Exit.FAULT, "Nothing was sent.")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _say(options: Options, account: Account, total: int) -> None:
    for reason in account.reasons:
        note(options, reason)
    if options.json:
        said = {
            "hits": total,
            "sent": account.sent,
            "refused": account.refused,
            "ambiguous": account.ambiguous,
            "left": total - account.done,
        }
        click.echo(json.dumps(said))
        return
    parts = [f"{account.sent:,} of {total:,} sent"]
    if account.refused:
        parts.append(f"{account.refused:,} refused for good")
    if account.ambiguous:
        parts.append(f"{account.ambiguous:,} cut before an answer and tried again")
    click.echo(", ".join(parts))
