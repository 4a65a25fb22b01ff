"""How a command ends: its exit code, and one line that says why.

Rule: each code means one thing for a script; a released code never changes its meaning.
Source: sysexits.h where it has a word for it; 130 is the shell's own for Ctrl-C.
"""

from __future__ import annotations

import contextlib
from enum import IntEnum

import click


class Exit(IntEnum):
    """The code and, in `meaning`, what it tells a script."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:  # noqa: PYI034 - an enum's own
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "done; healthy"
    FAULT = 1, "it could not be done"
    USAGE = 2, "the command line is wrong"
    NOT_SO = 3, "what was asked for is not so: degraded, or not within the time"
    UNREACHABLE = 69, "the daemon cannot be reached"
    BUG = 70, "a fault of trackoffline itself; the traceback belongs in a report"
    STORAGE = 73, "the queue file cannot be opened or created"
    TEMPORARY = 75, "not now: queue file or address in use, or the collection server is down"
    TOKEN = 77, "the token or a permission is missing"
    CONFIG = 78, "the configuration is wrong, or the queue file is of a newer release"
    INTERRUPTED = 130, "Ctrl-C"


class Stop(click.ClickException):
    """Ends the command: `message` goes to standard error, `code` to the shell."""

    def __init__(self, code: Exit, message: str = "") -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # as click's own do

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        # The code is for who cannot read the line: standard error may be a file on a full disk.
        with contextlib.suppress(OSError):
            if self.message:
                click.echo(self.message, err=True)
