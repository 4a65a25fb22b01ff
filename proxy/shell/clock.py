"""The clocks of this machine, the only place that reads them.

Rule: `ms` only moves forward and counts suspend; `wall_ms` is what the machine believes;
`boot_id` names the boot that `ms` belongs to.
Non-rule: corrects nothing.
Source: clock_gettime(2); /proc/sys/kernel/random/boot_id in random(4); the kernel's "Scheduler
Statistics" for `schedstat`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SCHEDSTAT = Path("/proc/thread-self/schedstat")


class Clock(Protocol):
    """What the queue and the drain ask of time; tests pass one they can move."""

    @property
    def boot_id(self) -> str: ...

    def ms(self) -> int:
        """Milliseconds since the boot `boot_id`, suspend included."""

    def wall_ms(self) -> int:
        """Unix milliseconds."""


def _boot_id(path: Path = BOOT_ID) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        # Not Linux: each run counts as a boot of its own, which is only less exact.
        return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The real clocks."""

    boot_id: str = field(default_factory=_boot_id)

    def ms(self) -> int:
        return time.clock_gettime_ns(_FORWARD) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


def worked_s(path: Path = SCHEDSTAT) -> float:
    """How long this thread has run, or waited for a processor to run on."""
    try:
        ran, waited, _ = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # not Linux, or a sandbox
        return time.thread_time()
    return (int(ran) + int(waited)) / 1e9


_FORWARD = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
