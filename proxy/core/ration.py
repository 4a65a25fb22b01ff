"""How much of a processor people's questions may take while the daemon itself has work.

Rule: whoever takes or sends hits comes first.  While the daemon is busy, whatever is asked takes
a small share of one core, in short pieces: the first answer of a question comes at once, what
follows is spaced, and nobody is kept waiting for ever.  While it has little to do, nothing is
held back.
Non-rule: keeps no clock and measures nothing; which question may go first is the caller's.
Source: docs/design/0011; the token bucket of RFC 2697.

Busy is told by how long the daemon's loop ran or waited for a processor, not by hits a second:
so it is the same on a small machine and a large one, for a flood of hits and for a backlog that
leaves, and where others keep the machine busy.
"""

from __future__ import annotations

# Of its time: what the daemon's loop works when it is no longer idle, and when it is busy.
IDLE, BUSY = 0.1, 0.25
# Of one core, for all questions together while it is busy.
LEAST = 0.04
# What may be spent at once, and how far a first answer may overdraw it.
BURST_S, OVERDRAFT_S = 0.1, 0.3
# How long one piece of a search may work, while there is time and while there is not.
PIECE_S, SHORT_PIECE_S = 0.15, 0.04
# Nobody waits longer, however many others ask.
MOST_WAIT_S = 5.0
# Shorter stretches say little of how busy somebody is.
STRETCH_S = 0.1


class Ration:
    """An account of processor seconds.

    `worked_s` is always how long the daemon's loop had something to do so far.
    """

    def __init__(self, now_s: float, worked_s: float) -> None:
        self._at_s, self._worked_s = now_s, worked_s
        self._share = 1.0
        self._left_s = BURST_S

    @property
    def piece_s(self) -> float:
        """How long the next piece may work."""
        return PIECE_S if self._share >= 1 else SHORT_PIECE_S

    def wait_s(self, now_s: float, worked_s: float, *, is_first: bool) -> float:
        """How long to wait before the next piece; then it is to be asked again.

        `is_first`: somebody has no answer to this question yet.
        """
        self._look(now_s, worked_s)
        lacking_s = -self._left_s - (OVERDRAFT_S if is_first else 0.0)
        # The shortest wait outlasts a stretch, or it would end as it began.
        return 0.0 if lacking_s < 0 else max(lacking_s / self._share, STRETCH_S)

    def spend(self, seconds: float) -> None:
        """Take these off; negative ones were too many."""
        self._left_s -= seconds

    def _look(self, now_s: float, worked_s: float) -> None:
        stretch_s = now_s - self._at_s
        if stretch_s < STRETCH_S:
            return
        self._share = share((worked_s - self._worked_s) / stretch_s)
        # (What many took at the same time is not held against the next one for long.)
        left_s = max(self._left_s, -OVERDRAFT_S - PIECE_S)
        self._left_s = min(BURST_S, left_s + stretch_s * self._share)
        self._at_s, self._worked_s = now_s, worked_s


def share(busy: float) -> float:
    """What questions may take of a core, when the daemon works for so much of its time."""
    idle = (BUSY - busy) / (BUSY - IDLE)
    return max(LEAST, min(1.0, idle))
