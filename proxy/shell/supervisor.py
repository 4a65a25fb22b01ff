"""The supervisor's side: readiness, status line, watchdog, and sockets it opened for us.

Rule: without a supervisor every call does nothing; a supervisor that does not listen is no
fault of ours.
Non-rule: knows no state of the daemon; what to say is an argument.
Source: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_DESCRIPTOR = 3


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Where to tell, and how often a sign of life is wanted (None: never)."""

    address: str | None = None
    watchdog_s: float | None = None

    def tell(self, *assignments: str) -> None:
        """`READY=1`, `STATUS=...`, `WATCHDOG=1` and the like."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto("\n".join(assignments).encode(), address)

    def reloading(self) -> None:
        """A reload has begun, and ends with `READY=1`; `Type=notify-reload` wants the instant."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        self.tell("RELOADING=1", f"MONOTONIC_USEC={now_us}")


def supervisor(environ: Mapping[str, str], pid: int) -> Supervisor:
    """The supervisor of this process, as its environment names it."""
    watchdog_s = None
    for_us = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    if for_us and environ.get("WATCHDOG_USEC", "").isdigit():
        watchdog_s = int(environ["WATCHDOG_USEC"]) / 1e6 or None
    return Supervisor(environ.get("NOTIFY_SOCKET") or None, watchdog_s)


def inherited(environ: Mapping[str, str], pid: int) -> dict[str, list[socket.socket]]:
    """Listening sockets opened for this process, by name; unnamed ones are called `unknown`.

    One name may stand for several, such as two addresses of one socket unit.  Descriptors are
    taken over: they close with the sockets, and no child inherits them.
    """
    if environ.get("LISTEN_PID") != str(pid) or not environ.get("LISTEN_FDS", "").isdigit():
        return {}
    count = int(environ["LISTEN_FDS"])
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for index in range(count):
        descriptor = FIRST_DESCRIPTOR + index
        os.set_inheritable(descriptor, False)
        name = names[index] if index < len(names) and names[index] else "unknown"
        found.setdefault(name, []).append(socket.socket(fileno=descriptor))
    return found
