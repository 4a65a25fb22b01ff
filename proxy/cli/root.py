"""`trackoffline`: the verbs, and what every fault becomes at the end.

Rule: an expected fault is one line and its exit code; anything else is a bug of ours and
ends with a traceback and 70.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from proxy.cli.about import completion, config, demo, version
from proxy.cli.carry import export, import_
from proxy.cli.check import check
from proxy.cli.db import db
from proxy.cli.decode import decode
from proxy.cli.exits import Exit, Stop
from proxy.cli.hits import hit, hits
from proxy.cli.install import install_service
from proxy.cli.letters import dead
from proxy.cli.look import status, wait_ready
from proxy.cli.options import Options, Verbs
from proxy.cli.replay import replay
from proxy.cli.send import send_test
from proxy.cli.serve import serve
from proxy.cli.steer import offline, online, retry
from proxy.errors import (
    ConfigError,
    QueueInUse,
    QueueTooNew,
    QueueUnavailable,
    TrackofflineError,
)

CODES: dict[type[TrackofflineError], Exit] = {
    ConfigError: Exit.CONFIG,
    QueueTooNew: Exit.CONFIG,
    QueueInUse: Exit.TEMPORARY,
    QueueUnavailable: Exit.STORAGE,
}


class Root(Verbs):
    """The group of all verbs."""

    of_root = True

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TrackofflineError as error:
            _trace(ctx, error)
            raise Stop(CODES.get(type(error), Exit.FAULT), explained(error)) from error
        except KeyboardInterrupt as interrupt:
            raise Stop(Exit.INTERRUPTED) from interrupt
        except Stop as stop:
            if stop.__cause__ is not None:
                _trace(ctx, stop.__cause__)
            raise
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception:  # noqa: BLE001 - the traceback is for a report
            traceback.print_exc(file=sys.stderr)
            raise Stop(Exit.BUG, "This is a fault of trackoffline, please report it.") from None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), code.meaning) for code in Exit])


def _trace(ctx: click.Context, error: BaseException) -> None:
    """Where an expected fault arose, for who asked for that."""
    if ctx.ensure_object(Options).verbose:
        traceback.print_exception(error, file=sys.stderr)


def explained(error: TrackofflineError) -> str:
    """The lines an operator reads."""
    if not isinstance(error, ConfigError):
        return str(error)
    count = len(error.problems)
    counted = "1 problem" if count == 1 else f"{count} problems"
    return f"{error}\n{counted}; nothing was started."


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def root() -> None:
    """Offline tracking for any Adobe Analytics client.

    Point your apps' tracking server at the address `serve` listens on: each hit is on disk
    before it is answered, and is sent when the collection server can be reached.
    """


for verb in (
    serve,
    check,
    status,
    hits,
    hit,
    dead,
    offline,
    online,
    retry,
    export,
    import_,
    replay,
    send_test,
    wait_ready,
    decode,
    config,
    db,
    install_service,
    demo,
    completion,
    version,
):
    root.add_command(verb)
