"""The road to one collection server: whether it is up, and how much it bears.

    ONLINE    something was delivered; hits fly up to the window
    SUSPECT   unproven: at the start, and after a probe got through. One hit at a time flies
              as canary; its delivery proves the link
    OFFLINE   nothing flies but probes (a bare connect, made by the caller): the first after
              `first` seconds, doubling to half of `most`, jittered; a new hit brings the next one
              forward, at most one a second, and never shortens the back-off

    an event                         what it does
    delivered                        ONLINE from anywhere; the back-off starts anew
    lost (nothing answered, or a     OFFLINE at once, unless something was delivered since
      captive portal did)            that send began: then it is a failure like the next
    failed (5xx, cut, timeout ...)   OFFLINE when three lanes, or all lanes there are, failed
                                     with no delivery between; a failing canary: OFFLINE
    pushed back (429 ...)            the window shrinks; the state stays
    refused (4xx)                    nothing: a captive portal can say 403 as well

Rule: an outage belongs to the link, not to the hits. A failure counts against a hit only

  1. when the link is proven up: something was delivered since the hit's last failure (or
     the link is online and it is its first), and hits do not fail in numbers; or
  2. when it stands accused: of the hits that fail without (1), the first since the last
     delivery does, and alone. So a poison hit in the only lane cannot block it for ever.

and no two hits are buried for their failures without a delivery between (`may_bury`). So a
total outage, of whatever kind and length, costs one hit at most, and that one is a dead
letter. What only a captive portal answered to is never accused: see (1).

Rule: "in numbers" is measured on first tries only, because a poison hit that is tried again
and again says nothing of the others.
Rule: whatever began before the link came back is of the old days: it changes no state.
Non-rule: knows no lane's content, no hit's age, no pace (`pace.py`), and not which hit flies
next; `turn` only says which lane's canary has waited longest.
Source: RFC 5681 (slow start, additive increase, multiplicative decrease); Postfix
SCHEDULER_README (1/N feedback, a dead destination after failed pseudo-cohorts); Sentry
Relay's upstream "outage" state; docs/design/0008.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from math import inf
from typing import NamedTuple

from proxy.core.backoff import delay

LANES_FAILING = 3
WAKE_EVERY = 1.0
# A probe is a bare connect and costs little: half of the longest pause lies between two at
# most, so that a link that is up for 30 s is found in its first 8.
PROBE_SHARE = 0.5
# A probe never reported back (it should always be) is repeated after this.
LOST_PROBE = 60.0
# A failing first try moves the share of failures by an eighth: one alone (0.125) is taken
# for the hit's own matter, two in close succession (above 0.2) are not.
WEIGHT = 1 / 8
IN_NUMBERS = 0.2
ON_FAILURES = 0.5
ON_PUSH_BACK = 0.9
# So many lanes are remembered as having had their turn as canary.
LONGEST_TURNS = 1000


class State(StrEnum):
    """See the module's table."""

    ONLINE = "online"
    SUSPECT = "suspect"
    OFFLINE = "offline"


class Flight(NamedTuple):
    """One send: which hit of which lane, begun when; `failed_at` is the hit's last failure."""

    hit: int
    lane: int
    began: float
    failed_at: float | None = None


class Link:
    """One upstream's link. All instants are seconds of one monotonic clock."""

    def __init__(self, *, first: float, most: float, concurrency: int) -> None:
        self._first = first
        self._most = most
        self._concurrency = concurrency
        self.state = State.SUSPECT
        # the probes
        self._level = 0
        self._probe_at = inf
        self._probing = False
        self._probed_at = -inf
        # what was proven, and since when sends are of the present days
        self._delivered_at = -inf
        self._since = -inf
        self._turns: dict[int, int] = {}  # failing lanes since the last delivery, in order
        self._turn = 0
        # whose failure it is
        self._share = 0.0  # of failures among first tries
        self._accused: Flight | None = None
        self._buried = False
        # the window
        self._window = 1.0
        self._last_good = float(concurrency)
        self._cut_at = -inf

    def change_back_off(self, first: float, most: float) -> None:
        """The pauses from the next failure on."""
        self._first, self._most = first, most

    # How much may fly

    @property
    def window(self) -> int:
        return int(self._window)

    def room(self, began: Iterable[float]) -> int:
        """How many more hits may be sent, given when those in flight began.

        Sends that hang since before the outage fill no window, and never keep the canary
        at home; all together stay within the concurrency otherwise.
        """
        if self.state is State.OFFLINE:
            return 0
        instants = list(began)
        flying = fresh = len(instants)
        if instants and min(instants) < self._since:
            fresh = sum(instant >= self._since for instant in instants)
        spare = max(self._concurrency - flying, 1 - fresh)
        return max(0, min(self.window - fresh, spare))

    def turn(self, lane: int) -> int:
        """The lane with the lowest number is the next canary: the longest not to have failed."""
        return self._turns.get(lane, 0)

    # What became of a send

    def delivered(self, now: float, flight: Flight) -> None:
        """The collection server took it: proof of life."""
        if self.state is not State.ONLINE:
            if self.state is State.OFFLINE:
                self._since = max(self._since, flight.began)
            self.state = State.ONLINE
            self._probing = False
            self._probe_at = inf
        self._level = 0
        self._delivered_at = now
        self._turns.clear()
        self._accused = None
        self._buried = False
        if flight.failed_at is None:
            self._share -= self._share * WEIGHT
        step = 1.0 if self._window < self._last_good else 1 / self._window
        self._window = min(float(self._concurrency), self._window + step)

    def failed(self, now: float, flight: Flight, *, lanes: int, jitter: float) -> bool:
        """It was sent and failed; True when the failure counts against the hit.

        `lanes` is how many lanes have anything waiting or in flight.
        """
        counts = self._is_proven(flight, first=self.state is State.ONLINE) or self._accuse(flight)
        if flight.failed_at is None:
            self._share += (1 - self._share) * WEIGHT
        if self._share > IN_NUMBERS:
            self._cut(now, flight, ON_FAILURES)
        self._count_failure(now, flight, lanes, jitter)
        return counts

    def lost(
        self, now: float, flight: Flight, *, lanes: int, jitter: float, answered: bool = False
    ) -> bool:
        """The collection server was not reached; `answered`: something else spoke.

        True when the failure counts against the hit: only what answers others rightly and
        this one wrongly, again and again, may blame the hit.
        """
        counts = answered and self._is_proven(flight, first=False)
        if flight.began > self._delivered_at and flight.began >= self._since:
            self._took_turn(flight.lane)
            if self.state is not State.OFFLINE:
                self._go_offline(now, jitter)
        else:
            self._count_failure(now, flight, lanes, jitter)
        return counts

    def pushed_back(self, now: float, flight: Flight) -> None:
        """429, or 503 with Retry-After: too much, but alive."""
        self._cut(now, flight, ON_PUSH_BACK)

    def left(self, hit: int) -> None:
        """The hit left the queue some other way: refused, expired, discarded."""
        if self._accused is not None and self._accused.hit == hit:
            self._accused = None

    # Burials

    def may_bury(self) -> bool:
        """Whether a hit with no attempts left may become a dead letter now."""
        return not self._buried

    def buried(self) -> None:
        """A hit was buried for its failures: no other one before the next delivery."""
        self._buried = True

    # Probes

    def probe_due(self, now: float) -> bool:
        return self.state is State.OFFLINE and now >= self._probe_at

    def probe_began(self, now: float) -> None:
        self._probing = True
        self._probed_at = now
        self._probe_at = now + LOST_PROBE

    def probe_failed(self, now: float, *, jitter: float) -> None:
        if self.state is State.OFFLINE:
            self._back_off(now, jitter)

    def probe_succeeded(self, now: float) -> None:
        """Something listens: one canary may try."""
        if self.state is State.OFFLINE:
            self.state = State.SUSPECT
            self._probing = False
            self._probe_at = inf
            self._since = now

    def woken(self, now: float) -> None:
        """A new hit came: probe at once, yet at most once a second."""
        if self.state is State.OFFLINE and not self._probing:
            self._probe_at = min(self._probe_at, max(now, self._probed_at + WAKE_EVERY))

    def retry_now(self, now: float) -> None:
        """A person, or a change of the network: probe at once."""
        if self.state is State.OFFLINE and not self._probing:
            self._probe_at = now

    def next_wake(self, now: float) -> float | None:
        """When the link itself wants something; None unless it is offline."""
        return max(now, self._probe_at) if self.state is State.OFFLINE else None

    # Within

    def _is_proven(self, flight: Flight, *, first: bool) -> bool:
        if flight.failed_at is None:
            up = first or self._delivered_at > flight.began
        else:
            up = self._delivered_at > flight.failed_at
        return up and self._share <= IN_NUMBERS

    def _accuse(self, flight: Flight) -> bool:
        accused = self._accused
        # Another hit heads the accused's lane: the accused is gone, however it went.
        if accused is None or accused.lane == flight.lane:
            self._accused = flight
            return not self._buried
        return False

    def _count_failure(self, now: float, flight: Flight, lanes: int, jitter: float) -> None:
        if flight.began < self._since or self.state is State.OFFLINE:
            return
        self._took_turn(flight.lane)
        enough = min(LANES_FAILING, max(1, lanes))
        if self.state is State.SUSPECT or len(self._turns) >= enough:
            self._go_offline(now, jitter)

    def _took_turn(self, lane: int) -> None:
        self._turn += 1
        self._turns.pop(lane, None)
        self._turns[lane] = self._turn
        if len(self._turns) > LONGEST_TURNS:
            del self._turns[next(iter(self._turns))]

    def _go_offline(self, now: float, jitter: float) -> None:
        self.state = State.OFFLINE
        self._last_good = max(self._last_good, self._window)
        self._window = 1.0
        self._probed_at = now  # what failed just now was as good as a probe
        self._back_off(now, jitter)

    def _back_off(self, now: float, jitter: float) -> None:
        self._probing = False
        self._level += 1
        most = max(self._first, self._most * PROBE_SHARE)
        self._probe_at = now + delay(self._level, first=self._first, most=most, jitter=jitter)

    def _cut(self, now: float, flight: Flight, factor: float) -> None:
        """At most once a round trip: what began before the last cut knew nothing of it."""
        if self.state is State.ONLINE and flight.began > max(self._cut_at, self._since):
            self._window = max(1.0, self._window * factor)
            self._last_good = self._window
            self._cut_at = now
