"""What is written to standard error: for people on a terminal, as JSON lines elsewhere.

Rule: constant words with `key=value`; hits by id, never by content, not even as a local
variable in a traceback.  Under journald each line begins with its priority, so that
`journalctl -p warning` works, and has no time of its own.
Non-rule: no files, no rotation; that is the supervisor's.
Source: sd-daemon(3) for the priorities; systemd.exec(5) for JOURNAL_STREAM.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
# Their messages may hold what a client sent.
SILENT = ("aiohttp.access", "aiohttp.server", "aiohttp.web", "aiohttp.client", "aiosqlite")


def set_up(level: str, form: str, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Log from now on: `level` as in the configuration, `form` auto, console or json.

    `stream` is standard error unless a test has another.
    """
    stream = stream or sys.stderr
    journal = _is_journal(stream, environ)
    tty = stream.isatty()
    console = form == "console" or (form == "auto" and tty)
    # The libraries' own tracebacks (rich's, `dict_tracebacks`) show local variables.
    last: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=tty and not journal and not environ.get("NO_COLOR"),
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    if journal:
        last.append(_with_priority)
    stamp = [] if journal else [structlog.processors.TimeStamper(fmt="iso", utc=not console)]
    shared: list[Any] = [structlog.stdlib.add_log_level, *stamp]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # A line that cannot be written is dropped: the full disk may be the log's own too.
    logging.raiseExceptions = False
    set_level(level)


def set_level(level: str) -> None:
    """Change how much is written while running."""
    logging.getLogger().setLevel(level.upper())


def _with_priority(_: object, method: str, line: str) -> str:
    # Each line, for the journal takes every one as a message of its own.
    mark = f"<{PRIORITIES.get(method, 6)}>"
    return "\n".join(mark + part for part in line.split("\n"))


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether what is written there goes to journald."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
