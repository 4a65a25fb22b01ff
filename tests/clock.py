"""A clock that tests move: nothing passes on it by itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class FakeClock:
    """`proxy.shell.clock.Clock`, with its hands within reach."""

    forward_ms: int = 1_000_000
    unix_ms: int = 1_700_000_000_000
    boot_id: str = "first boot"

    def ms(self) -> int:
        return self.forward_ms

    def wall_ms(self) -> int:
        return self.unix_ms

    def passes(self, seconds: float) -> None:
        """Time goes by, on both clocks."""
        self.forward_ms += round(seconds * 1000)
        self.unix_ms += round(seconds * 1000)

    def steps(self, seconds: float) -> None:
        """Someone sets the wall clock."""
        self.unix_ms += round(seconds * 1000)

    def reboots(self, boot_id: str) -> None:
        """The machine starts anew, and its forward-only clock with it."""
        self.boot_id = boot_id
        self.forward_ms = 0
