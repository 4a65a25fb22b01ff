"""`serve`: the daemon in the foreground, as a supervisor or a terminal runs it.

Rule: the first SIGTERM or SIGINT stops in order, the second does not wait; hits are on disk
either way.  SIGHUP reads the configuration again, and keeps the old one when that is faulty.
Non-rule: no forking, no pid file, no log file: supervisors do that better.  Everything that
runs is `daemon`'s.
Source: daemon(7), "new-style daemons"; docs/design/0001 for the order of stopping.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import ports, settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb, note
from proxy.cli.settings import Settings
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.daemon import Listeners
    from proxy.shell.supervisor import Supervisor

ENDS = (signal.SIGTERM, signal.SIGINT)

# aiohttp, pydantic and structlog cost 0.3 s that no other verb need pay: they are imported
# where they are used.
# ruff: noqa: PLC0415


@click.command(cls=Verb)
@click.option("--capture", is_flag=True, help="Keep and show hits, send nothing.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.pass_obj
def serve(options: Options, capture: bool, opens: bool) -> None:
    """Take hits, keep them, and send them.

    SIGTERM or ^C stops in order, a second one at once; SIGHUP reads the configuration again.
    With -v each hit is a line of the log, by its number and never with what it says.
    """
    found = _read(options, capture=capture)
    _log(found)
    signals: list[int] = []
    try:
        asyncio.run(_serve(found, options, signals, capture=capture, opens=opens))
    except asyncio.CancelledError:
        # The second signal.  Only of Ctrl-C a shell should hear.
        raise Stop(Exit.INTERRUPTED if signals[-1] == signal.SIGINT else Exit.OK) from None
    except (ExceptionGroup, OSError) as error:
        _fail(found, only(error))


def _read(options: Options, *, capture: bool) -> Settings:
    found = settings.read(options)
    if options.verbose:
        found = settings.loud(found)
    return settings.without_upstream(found) if capture else found


def _log(found: Settings) -> None:
    import structlog

    from proxy import config, logs

    logs.set_up(found.config.log.level, found.config.log.format, os.environ)
    log = structlog.get_logger()
    log.info("configuration", file=found.source)
    for warning in config.warnings(found.config):
        log.warning(warning)


async def _serve(
    found: Settings, options: Options, signals: list[int], *, capture: bool, opens: bool
) -> None:
    from proxy import daemon
    from proxy.shell.supervisor import inherited, supervisor

    # What is imported by now stays, and hits leave few cycles behind: looking through all of it
    # was a tenth of what a hit costs.  (How seldom it is begun is said in `__main__`.)
    gc.freeze()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reloads: asyncio.Queue[Config] = asyncio.Queue()
    told = [_told(found)]  # the configuration for those who ask for it; the last one counts
    running = asyncio.current_task()

    def end(number: int) -> None:
        signals.append(number)
        # A third must not cut short the closing that the second one began.
        if len(signals) == 2 and running is not None:
            running.cancel()
        stop.set()

    boss = supervisor(os.environ, os.getpid())
    # (This also has every signal wake the loop.)
    loop.add_signal_handler(signal.SIGHUP, _reload, options, capture, reloads, boss, told)
    # Not the loop's: at its end it gives its signals back to the system, and one that comes in
    # those last milliseconds would be our exit code.
    for number in ENDS:
        signal.signal(number, lambda number, _: loop.call_soon_threadsafe(end, number))
    try:
        await daemon.run(
            found.config,
            found.queue_file,
            stop,
            ready=lambda listeners: _greet(found, options, listeners, opens=opens),
            reloads=reloads,
            boss=boss,
            sockets=inherited(os.environ, os.getpid()),
            shown=lambda: told[-1],
        )
    finally:
        for number in ENDS:  # all is on disk
            signal.signal(number, signal.SIG_IGN)


def _told(found: Settings) -> dict[str, Any]:
    """The configuration in effect, with who set what."""
    from proxy import config

    settings = config.effective(found.file, os.environ)
    if found.config.upstream is None:
        settings = [one for one in settings if not one.key.startswith("upstream.")]
    if found.config.edge is None:
        settings = [one for one in settings if not one.key.startswith("edge.")]
    return config.as_json(settings, found.source)


def _reload(
    options: Options,
    capture: bool,
    reloads: asyncio.Queue[Config],
    boss: Supervisor,
    told: list[dict[str, Any]],
) -> None:
    import structlog

    boss.reloading()
    try:
        found = _read(options, capture=capture)
        told[:] = [_told(found)]
        reloads.put_nowait(found.config)
    except (ConfigError, OSError) as error:  # OSError: not even looked for could it be
        log = structlog.get_logger()
        for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
            log.warning("reload: the old configuration stays", problem=problem)
        # Without it `systemctl reload` would wait for ever.
        boss.tell("READY=1")


def _greet(found: Settings, options: Options, listeners: Listeners, *, opens: bool) -> None:
    """What someone at a terminal wants to know first."""
    if opens:
        _open(options, listeners.admin)
    if not sys.stderr.isatty():
        return
    upstream = found.config.upstream
    lines = [f"Beacons   http://{listeners.beacons}   (your tracking server)"]
    if listeners.tls is not None:
        lines.append(f"          https://{listeners.tls}")
    if listeners.admin is not None:
        lines.append(f"Page      {_page(listeners.admin)}")
    lines.append(f"Queue     {found.queue_file}")
    servers = [one.server for one in (upstream, found.config.edge) if one is not None]
    if not servers:
        lines.append("Capture   hits are kept, nothing is sent: add [upstream] to send")
    lines += [f"Sends to  {server}" for server in servers]
    note(options, "\n".join([*lines, "Ready (^C to quit)"]))


def _page(admin: str) -> str:
    """Where the page is seen from this machine."""
    host, _, port = admin.rpartition(":")
    return f"http://{ports.ANY.get(host.strip('[]'), host)}:{port}/"


def _open(options: Options, admin: str | None) -> None:
    from proxy.cli import browser

    if admin is None:
        note(options, 'The page cannot be opened: admin.address is ""')
        return
    url = _page(admin)
    lack = browser.lacking(os.environ, sys.platform)
    if lack is not None:
        note(options, f"The page is not opened: {lack}; it is at {url}")
        return
    browser.open_page(
        url, lambda: note(options, f"No browser could be started; the page is at {url}")
    )


def only(error: BaseException) -> BaseException:
    """The one fault inside groups of one, so that no reader has to unwrap it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _fail(found: Settings, error: BaseException) -> None:
    """A listener that cannot be had is one line; everything else goes on up."""
    if isinstance(error, OSError):
        for problem in ports.problems(found.config):
            raise Stop(problem.code, problem.text) from error
    raise error
