"""When a hit was received, on a clock that may be wrong now and right later.

Rule: an instant is (boot, milliseconds of a clock that only moves forward and counts
suspend); each boot has one offset to wall time.  Correct the offset and every waiting
hit of that boot is right again.  Ages within a boot use the forward-only clock alone.
Non-rule: reads no clock.
Source: CLOCK_BOOTTIME in clock_gettime(2); docs/design/0005.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.core.hit import Received

# NTP slews small errors; half a second is below the one-second grain of `ts` and above
# the jitter between two clock readings.
STEP_MS = 500

# The boot of a hit whose own was lost with a damaged file; boots are counted from 1.
LOST = 0
# The boot of a hit that brought its time along: its clock is Unix time, and is never corrected.
TOLD = -1


@dataclass(frozen=True, slots=True)
class Boots:
    """The boot we run in, and the offset to wall time (Unix ms) of every boot with hits."""

    current: int
    offsets: dict[int, int]

    def wall_ms(self, at: Received) -> int:
        """Unix milliseconds of an instant, as well as we know them today; 0 when nobody can."""
        return at.ms + self.offsets[at.boot] if at.boot in self.offsets else 0

    def age_ms(self, at: Received, now_ms: int) -> int:
        """How long ago; `now_ms` is the forward-only clock of the current boot.

        What has no time has no age: no limit of age drops it.
        """
        if at.boot == self.current:
            return max(0, now_ms - at.ms)
        if at.boot not in self.offsets:
            return 0
        return max(0, now_ms + self.offsets[self.current] - self.wall_ms(at))

    def stepped(self, offset_ms: int) -> bool:
        """Whether the wall clock was set since the current boot's offset was noted."""
        return abs(offset_ms - self.offsets[self.current]) > STEP_MS

    def corrected(self, offset_ms: int) -> Boots:
        return replace(self, offsets={**self.offsets, self.current: offset_ms})
