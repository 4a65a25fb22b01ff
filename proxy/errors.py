"""What can go wrong that a caller must know apart.

    TrackofflineError
    ├── ConfigError        every fault of a configuration at once        exit 78
    ├── NotABeacon         a request that is no hit; carries its answer  (no exit: HTTP)
    └── QueueError
        ├── QueueInUse     another process owns the file                 exit 75
        ├── QueueTooNew    written by a newer release                    exit 78
        ├── QueueFull      at a stated limit; nothing stored             (no exit: 503)
        └── QueueUnavailable  the disk said no; nothing stored           (no exit: 503; 73 at open)

Rule: what is expected is a value, what is not is an exception; foreign exceptions are
translated where they arise, `raise ... from`.
"""

from __future__ import annotations


class TrackofflineError(Exception):
    """The base: its message is one line an operator can act on."""


class ConfigError(TrackofflineError):
    """`problems` holds every fault found, each one line with file, line and column."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotABeacon(TrackofflineError):  # noqa: N818 - it is the field's own phrase
    """The request is no hit: `status` and `reason` are what the client gets."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class QueueError(TrackofflineError):
    """The queue could not do what was asked."""


class QueueInUse(QueueError):  # noqa: N818
    """Another process owns this queue file."""


class QueueTooNew(QueueError):  # noqa: N818
    """The file was written by a newer release."""


class QueueFull(QueueError):  # noqa: N818
    """A stated limit is reached: `reason` is its name in counters and logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the queue is full: {reason}")
        self.reason = reason


class QueueUnavailable(QueueError):  # noqa: N818
    """The disk refused; nothing of this call is stored."""
