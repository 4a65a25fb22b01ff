"""What is written to standard error: for people on a terminal, as JSON lines elsewhere.

Rule: constant words with `key=value`; hits by id, never by content.  Under journald each
line begins with its priority, so that `journalctl -p warning` works, and has no time of
its own.
Non-rule: no files, no rotation; that is the supervisor's.
Source: sd-daemon(3) for the priorities; systemd.exec(5) for JOURNAL_STREAM.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import structlog

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
# Their messages may hold what a client sent.
SILENT = ("aiohttp.access", "aiohttp.server", "aiohttp.web", "aiohttp.client", "aiosqlite")


def set_up(level: str, form: str, environ: Mapping[str, str]) -> None:
    """Log from now on: `level` as in the configuration, `form` auto, console or json."""
    journal = _is_journal(environ)
    tty = sys.stderr.isatty()
    console = form == "console" or (form == "auto" and tty)
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=tty and "NO_COLOR" not in environ)]
        if console
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    set_level(level)


def set_level(level: str) -> None:
    """Change how much is written while running."""
    logging.getLogger().setLevel(level.upper())


def _with_priority(_: object, method: str, line: str) -> str:
    return f"<{PRIORITIES.get(method, 6)}>{line}"


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Whether standard error goes to journald."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
