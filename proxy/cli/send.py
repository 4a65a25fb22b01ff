"""`send-test`: a real beacon, sent as an app would send it.

Rule: it goes to the beacon port like any other hit; with a collection server configured it
is a real server call there.
Non-rule: no way around the queue.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import click

from proxy import __version__
from proxy.cli import ask, ports, settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb

if TYPE_CHECKING:
    from proxy.config import Config

CAPTURED = "examplersid"
AGAIN_S = 0.1
TIMEOUT_S = 10.0
# Ages are in whole milliseconds, on another clock than ours.
SLACK_S = 0.01


@click.command("send-test", cls=Verb)
@click.option("--suite", help="Report suite; needed unless exactly one is configured.")
@click.option("--wait", is_flag=True, help="Until it has left the queue; else end with 3.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds."
)
@click.pass_obj
def send_test(options: Options, suite: str | None, wait: bool, timeout: float) -> None:
    """Send a test hit to the daemon.

    With a collection server configured it is a real server call there, and billed as one.
    """
    config = settings.read(options).config
    suite = suite or _only_suite(config)
    daemon = ask.daemon(options) if wait else None
    before = {} if daemon is None else daemon.get("/api/v1/status")
    # A visitor of its own, so that it waits behind nobody; in the form of Adobe's `fid`.
    visitor = f"{secrets.token_hex(8)}-{secrets.token_hex(8)}".upper()
    stored_s = _send(config, suite, visitor)
    said: dict[str, Any] = {"suite": suite, "stored_ms": round(stored_s * 1000, 1)}
    answered = time.monotonic()
    said["url"] = _seen_at(options, visitor)
    if not options.json:
        where = f": {said['url']}" if said["url"] else ""
        click.echo(f"Test hit for {suite} stored in {said['stored_ms']:.0f} ms{where}")
    if daemon is not None:
        said["fate"] = _fate(daemon, before, answered, timeout)
        if not options.json:
            click.echo(said["fate"])
    if options.json:
        click.echo(json.dumps(said))


def _only_suite(config: Config) -> str:
    known = list(config.suites.known)
    if len(known) == 1:
        return known[0]
    if config.upstream is None:
        return CAPTURED
    raise click.UsageError("say for which report suite: --suite")


def _seen_at(options: Options, visitor: str) -> str | None:
    """Its address on the page; None where the daemon has none to show, or the token lacks."""
    with contextlib.suppress(Stop):
        daemon = ask.daemon(options)
        for row in daemon.get("/api/v1/hits", q=f"fid:{visitor}", limit=1)["hits"]:
            return f"{daemon.url}/hits/{row['id']}"
    return None


def _send(config: Config, suite: str, visitor: str) -> float:
    """Seconds until it was on disk."""
    address = config.listen.address
    target = (
        f"/b/ss/{suite}/1/trackoffline-{__version__}/s{secrets.randbelow(10**13):013}"
        f"?AQB=1&ndh=1&fid={visitor}&ce=UTF-8&pageName=trackoffline%20test&AQE=1"
    )
    connection = http.client.HTTPConnection(*ports.reachable(address), timeout=TIMEOUT_S)
    began = time.monotonic()
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read(200)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ask.Unreachable(f"nobody takes beacons at {address}: {reason}") from error
    except ValueError as error:
        raise click.BadParameter(
            f"{suite!r} is no report suite id", param_hint="--suite"
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        text = body.decode("utf-8", "replace").strip()
        raise Stop(Exit.NOT_SO, f"refused with {answer.status}: {text}")
    return time.monotonic() - began


def _fate(daemon: ask.Daemon, before: dict[str, Any], answered: float, timeout: float) -> str:
    """What became of the hit stored at `answered`."""
    if before["state"] == "capture":
        return "Capture mode: not sent to Adobe. Add [upstream] to send."
    while True:
        asked = time.monotonic()
        now = daemon.get("/api/v1/status")
        if now["held"] > before["held"]:
            raise Stop(Exit.NOT_SO, "It is held: `trackoffline status` says what releases it.")
        if _has_left(now, asked - answered):
            if now["dead"] > before["dead"]:
                raise Stop(Exit.NOT_SO, "It is a dead letter: see `trackoffline dead`.")
            return "Delivered."
        if time.monotonic() - answered >= timeout:
            raise Stop(Exit.NOT_SO, "It still waits: `trackoffline status` says why.")
        time.sleep(AGAIN_S)


def _has_left(now: dict[str, Any], since_s: float) -> bool:
    """Whether all that waits came later: counts alone could be those of other hits."""
    return not now["waiting"] or now["oldest_waiting_seconds"] < since_s - SLACK_S
