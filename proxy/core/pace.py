"""When the next hit may go: the configured rate, and the one the server taught us.

Rule: a push-back (429, or 503 with Retry-After) stops every send until its Retry-After is
over; the longest one wins, and only a person shortens it. Then one hit goes alone, and only its
delivery opens the road again, at what was seen to be delivered, a little less, evenly
spaced. Without another push-back the rate grows:

    the limit is a guess     kept for 2 s, then doubling every 2 s: it was read off little
                             traffic and may be far too low
    the limit is confirmed   the push-back ended a burst, or came although we kept to a
                             rate and used it: slowly back to the limit, long beside it, then faster
                             and faster beyond
    beyond anything real     forgotten: unlimited again

The time spent near a confirmed limit is a multiple of the pause a push-back costs, so
that the pauses cost little whatever the server's Retry-After is.

Rule: so many hits refused for good with no delivery between are taken for a server that is
the wrong one: from then on one hit at a time is tried, ever more rarely, until one is taken. So a
misspelt address costs some dead letters, not the backlog.
Rule: push-backs answering sends from before the last one belong to it: they may prolong
the pause, they do not lower the rate again.
Non-rule: how many may be in flight is the link's window (`link.py`), not ours; which hit
goes is the drain's.
Source: RFC 9110 §10.2.3 (Retry-After), RFC 9438 (CUBIC: concave to the last limit, convex
beyond). The figures were tuned against the simulated servers of tests/test_pace.py.
"""

from __future__ import annotations

from collections import deque
from math import inf

# A push-back without Retry-After, and the longest pause we add of our own accord when a
# server pushes back again and again without taking anything.
PAUSE = 1.0
LONGEST_OWN_PAUSE = 15.0
# After a pause, the lone hit is given this long before another one follows it.
PATIENCE = 1.0
# A rate limiter lets about a second's worth through at once before it says no: that much of
# a burst was no rate. Of evenly spaced sends half of it is a fair guess, as limiters that
# count by the second allow none and token buckets do.
BURST_S = 1.0
SPACED_BURST_S = 0.5
# So many taken at once before the first push-back tell the limit well enough.
TELLING_BURST = 20
# So many refusals in a row are the hits' own matter; then a pause, doubling up to the longest.
REFUSALS = 20
# What a late wake-up of the event loop may catch up.
SLACK_S = 0.05
# What a send moves the share of those that used the rate, and what share is most of them.
WEIGHT = 1 / 8
MOSTLY = 0.5
# Beside a confirmed limit the rate is limit * (1 + a * x**3), x from -1 at the pause's end
# to 0 after one plateau: `a` is how far below it begins, and how fast it leaves above. The
# plateau is this many times the pause, so that a pause costs a twentieth or less.
BELOW = 0.05
ABOVE = 0.03
PLATEAU = 20.0
LONGEST_PLATEAU = 200.0
# A guess is tried for a moment, then doubled again and again.
GUESS_KEPT_S = 2.0
DOUBLING_S = 2.0
# Hits a second: never slower than the first, and what exceeds the second is no limit.
LEAST_RATE = 1.0
FORGOTTEN = 10_000.0
# Deliveries are counted by slots, and remembered for a minute.
SLOT_S = 0.1
MEMORY_S = 60.0


class Pace:
    """One upstream's pace; `rate` is the configured hits a second, 0 for unlimited."""

    def __init__(self, rate: float = 0.0) -> None:
        self._configured = rate if rate > 0 else inf
        self._due = -inf  # the rate allows the next send
        self._paused_until = -inf  # the server allows it
        self._limit = inf  # learned; inf: nothing learned
        self._confirmed = False
        self._used = 0.0  # share of the last sends that went as soon as the rate allowed
        self._plateau = PLATEAU
        self._cut_at = -inf
        self._rate_at_cut = inf
        self._refusals = 0  # in a row, with nothing delivered between
        self._braked_until = -inf
        self._futile = 0  # push-backs in a row with nothing delivered between
        self._alone = False  # the next hit goes alone, or is under way
        self._alone_sent = False
        self._slots: deque[list[float]] = deque()  # [start, deliveries] not yet learned from

    def configure(self, rate: float, now: float) -> None:
        """The configured rate from now on; what the server taught stays."""
        self._configured = rate if rate > 0 else inf
        if not self._alone:  # nor does the old rate's next turn stand
            self._due = min(self._due, now + 1 / self._rate(now))

    def next_at(self, now: float) -> float:
        """When the next hit may go; `now` or earlier means at once."""
        return max(self._due, self._paused_until, self._braked_until, now)

    def limit(self, now: float) -> float | None:
        """Hits a second allowed now, for a person; None when unlimited."""
        rate = self._rate(now)
        return None if rate == inf else rate

    def sent(self, now: float) -> None:
        if self.brakes:
            self._braked_until = now + PATIENCE  # one at a time
        if self._alone:
            if not self._alone_sent:
                self._learn()
            self._alone_sent = True
            self._due = now + PATIENCE
        else:
            self._used += ((now - self._due < SLACK_S) - self._used) * WEIGHT
            self._due = max(self._due, now - SLACK_S) + 1 / self._rate(now)

    @property
    def brakes(self) -> bool:
        """Whether all that was sent lately was refused for good."""
        return self._refusals > REFUSALS

    def refused(self, now: float) -> None:
        """The server will never take this hit."""
        self._refusals += 1
        if self.brakes:
            pause = min(LONGEST_OWN_PAUSE, 2.0 ** min(self._refusals - REFUSALS - 1, 10))
            self._braked_until = max(self._braked_until, now + pause)

    def retry_now(self, now: float) -> None:
        """A person does not wait, not even for what the server asked: one hit goes alone."""
        self._refusals, self._braked_until = 0, -inf
        if self._paused_until > now:
            self._paused_until = self._due = now
            self._alone, self._alone_sent = True, False

    def pause(self, now: float) -> float:
        """For how many seconds nothing may go because of what the server said."""
        return max(0.0, self._paused_until - now, self._braked_until - now)

    def delivered(self, now: float) -> None:
        self._refusals, self._braked_until = 0, -inf
        self._futile = 0
        if self._alone_sent:
            self._alone = self._alone_sent = False
            self._due = now
        if not self._slots or now - self._slots[-1][0] >= SLOT_S:
            self._slots.append([now, 0.0])
            while now - self._slots[0][0] > MEMORY_S:
                self._slots.popleft()
        self._slots[-1][1] += 1

    def pushed_back(self, now: float, after_s: float | None, began: float) -> None:
        """The server said "not now" to a send that `began` then."""
        own = min(LONGEST_OWN_PAUSE, 2.0 ** min(self._futile, 10) - 1)
        pause = max(PAUSE if after_s is None else after_s, own)
        self._paused_until = max(self._paused_until, now + pause)
        if began <= self._cut_at:
            return
        self._rate_at_cut = self._rate(now)
        self._futile += 1
        self._plateau = min(LONGEST_PLATEAU, PLATEAU * max(1.0, pause))
        self._cut_at = now
        self._alone, self._alone_sent = True, False
        self._due = self._paused_until

    def _learn(self) -> None:
        """Take what was delivered up to the last cut for the limit.

        Only when the pause is over: of one burst the refusals may well arrive first.
        """
        measured = self._measured()
        if self._limit < inf and measured > 0:
            # One unlucky moment must not undo what was learned: at most halve it.
            self._limit = max(LEAST_RATE, measured, self._rate_at_cut / 2)
            # Sends that did not use the rate say nothing of it: the limit stays a guess.
            self._confirmed = self._used > MOSTLY
        elif measured > 0:
            burst = sum(n for start, n in self._slots if self._cut_at - start <= 2 * SLOT_S)
            self._confirmed = burst >= TELLING_BURST and burst / (2 * SLOT_S) >= 2 * measured
            self._limit = max(LEAST_RATE, measured)
        self._slots.clear()

    def _measured(self) -> float:
        """The best rate kept up over any stretch before the cut, less a limiter's burst."""
        burst_s = BURST_S if self._limit == inf else SPACED_BURST_S
        best = count = 0.0
        for start, deliveries in reversed(self._slots):
            count += deliveries
            best = max(best, count / (max(0.0, self._cut_at - start) + burst_s))
        return best

    def _rate(self, now: float) -> float:
        if self._limit < inf:
            since = max(0.0, now - self._paused_until)
            if self._confirmed:
                x = since / self._plateau - 1
                learned = self._limit * (1 + (BELOW if x < 0 else ABOVE) * x**3)
            else:
                doublings = max(0.0, since - GUESS_KEPT_S) / DOUBLING_S
                learned = self._limit * (1 - BELOW) * 2.0 ** min(doublings, 64)
            if learned < FORGOTTEN:
                return min(self._configured, learned)
            self._limit = inf
        return self._configured
