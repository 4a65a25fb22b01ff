"""How long to wait after so many failures in a row: doubling, jittered, bounded.

Rule: the wait lies between half the doubled step and the whole of it ("equal jitter"), so
a longer outage never waits less than a shorter one, and many installations that failed
together do not come back together.
Non-rule: knows neither clock nor randomness; `jitter` in [0, 1) comes from the caller.
Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
"""

from __future__ import annotations

# A configured zero must not become a busy loop.
LEAST = 0.05


def delay(tries: int, *, first: float, most: float, jitter: float) -> float:
    """Seconds to wait after the `tries`-th failure in a row (1 is the first)."""
    # 2.0**1000 is still a float; a larger exponent would raise, and `most` has long won.
    step = min(most, first * 2.0 ** min(max(tries - 1, 0), 1000))
    return min(most, max(LEAST, step * (0.5 + 0.5 * jitter)))
