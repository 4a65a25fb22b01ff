"""Which waiting hit may be sent next: lanes, their order, and what they wait for.

Rule: hits of one lane leave in order of id, one at a time; lanes do not wait for each
other; among lanes that may send, the one with the oldest head goes first, but for every
fourth turn, which belongs to visitors who have no backlog (`fresh`).
Non-rule: knows ids and lanes only; neither the hits' contents nor the link, the pace or
any clock (`now` is an argument, in seconds of a clock that only moves forward).
Source: Adobe wants the hits of one visitor in order, visitors may interleave ("visitor
groups" of its bulk API); docs/design/0003.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto

# The share of fresh hits while a backlog drains: small enough not to prolong it much, large
# enough that someone who looks at live data sees it.
FRESH_TURN = 4


class _State(Enum):
    READY = auto()
    FLYING = auto()
    LATER = auto()
    BLOCKED = auto()


@dataclass(slots=True)
class _Lane:
    ids: array[int]
    first: int = 0  # index of the head; popping from the front of an array is not free
    state: _State = _State.READY
    until: float = 0.0
    fresh: bool = False

    @property
    def head(self) -> int:
        return self.ids[self.first]

    def __len__(self) -> int:
        return len(self.ids) - self.first

    def pop(self) -> int:
        head = self.ids[self.first]
        self.first += 1
        if self.first > 256 and self.first * 2 > len(self.ids):
            del self.ids[: self.first]
            self.first = 0
        return head


class Schedule:
    """The waiting hits the drain knows of, by lane."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        # Heaps hold hints: an entry is checked against its lane when it comes up.
        self._ready: list[tuple[int, int]] = []
        self._fresh: list[tuple[int, int]] = []
        self._later: list[tuple[float, int]] = []
        self._known = 0
        self._flying = 0
        self._sendable = 0
        self._sendable_fresh = 0
        self._turn = 0

    def __len__(self) -> int:
        """Hits known, those in flight included."""
        return self._known

    @property
    def flying(self) -> int:
        return self._flying

    @property
    def sendable(self) -> int:
        """Lanes that could send at once."""
        return self._sendable + self._sendable_fresh

    @property
    def sendable_backlog(self) -> int:
        """Those of them that are not fresh."""
        return self._sendable

    @property
    def lanes(self) -> int:
        """Lanes with a hit that waits or flies."""
        return len(self._lanes)

    def behind(self, lane: int) -> int:
        """How many hits of a lane are known."""
        known = self._lanes.get(lane)
        return len(known) if known is not None else 0

    def offer(self, hit: int, lane: int, *, fresh: bool = False) -> None:
        """A waiting hit, in order of id within its lane; `fresh` makes a new lane a fresh one."""
        known = self._lanes.get(lane)
        if known is None:
            known = self._lanes[lane] = _Lane(array("q", (hit,)), fresh=fresh)
            self._ready_again(lane, known)
        else:
            known.ids.append(hit)
        self._known += 1

    def take(self, turn: Callable[[int], int] | None = None) -> tuple[int, int] | None:
        """The next hit to send and its lane, now in flight; None when every lane waits.

        `turn` puts lanes in an order of its own before that of their heads: while a link is
        unproven, one lane whose hits always fail must not be the only one tried.
        """
        self._turn = (self._turn + 1) % FRESH_TURN
        first, second = self._ready, self._fresh
        if self._turn == 0:
            first, second = second, first
        chosen = self._pop(first, turn)
        if chosen is None:
            chosen = self._pop(second, turn)
        elif turn is not None and turn(chosen[1]):
            chosen = self._swap(chosen, first, second, turn)
        if chosen is None:
            return None
        known = self._lanes[chosen[1]]
        self._count_sendable(known, -1)
        known.state = _State.FLYING
        self._flying += 1
        return chosen

    def _pop(
        self, ready: list[tuple[int, int]], turn: Callable[[int], int] | None
    ) -> tuple[int, int] | None:
        passed: list[tuple[int, int, int]] = []
        while ready:
            hit, lane = heapq.heappop(ready)
            known = self._lanes.get(lane)
            if known is None or known.state is not _State.READY or known.head != hit:
                continue
            passed.append((turn(lane) if turn is not None else 0, hit, lane))
            if passed[-1][0] == 0:
                break
        if not passed:
            return None
        best = min(passed)
        for entry in passed:
            if entry is not best:
                heapq.heappush(ready, entry[1:])
        return best[1:]

    def _swap(
        self,
        chosen: tuple[int, int],
        first: list[tuple[int, int]],
        second: list[tuple[int, int]],
        turn: Callable[[int], int],
    ) -> tuple[int, int]:
        """The one whose turn comes earlier, of this and the best of the other heap."""
        other = self._pop(second, turn)
        if other is None:
            return chosen
        if turn(other[1]) < turn(chosen[1]):
            heapq.heappush(first, chosen)
            return other
        heapq.heappush(second, other)
        return chosen

    def settled(self, lane: int) -> None:
        """The hit in flight has left the queue for good; its lane goes on."""
        known = self._landed(lane)
        known.pop()
        self._known -= 1
        self._go_on(lane, known)

    def deferred(self, lane: int, until: float) -> None:
        """The hit in flight stays the head of its lane, and not before `until`."""
        known = self._landed(lane)
        known.state, known.until = _State.LATER, until
        heapq.heappush(self._later, (until, lane))

    def blocked(self, lane: int) -> None:
        """The hit in flight waits for a person, and its lane with it."""
        known = self._landed(lane)
        known.state = _State.BLOCKED

    def dropped(self, through: int, spared: frozenset[int] | set[int] = frozenset()) -> None:
        """Hits up to id `through` left the queue by a limit, but for `spared` ones.

        A hit in flight is known until it lands, spared or not.  Where the head is gone, so
        is what its lane waited for.
        """
        for lane, known in list(self._lanes.items()):
            head = known.head
            if head > through:
                continue
            flies = known.state is _State.FLYING
            kept = array(
                "q",
                (
                    hit
                    for hit in known.ids[known.first :]
                    if hit > through or hit in spared or (flies and hit == head)
                ),
            )
            self._known -= len(known) - len(kept)
            known.ids, known.first = kept, 0
            if kept and kept[0] == head:
                continue
            if known.state is _State.READY:
                self._count_sendable(known, -1)
            if kept:
                known.state = _State.READY
                self._count_sendable(known, 1)
            else:
                del self._lanes[lane]
        self._hint_afresh()

    def _hint_afresh(self) -> None:
        """Only true hints: while nothing is taken, drop after drop would pile up stale ones."""
        self._ready.clear()
        self._fresh.clear()
        self._later.clear()
        for lane, known in self._lanes.items():
            if known.state is _State.READY:
                (self._fresh if known.fresh else self._ready).append((known.head, lane))
            elif known.state is _State.LATER:
                self._later.append((known.until, lane))
        for hints in (self._ready, self._fresh):
            heapq.heapify(hints)
        heapq.heapify(self._later)

    def release(self, now: float) -> None:
        """Lanes whose wait is over may send again."""
        while self._later and self._later[0][0] <= now:
            until, lane = heapq.heappop(self._later)
            known = self._lanes.get(lane)
            if known is not None and known.state is _State.LATER and known.until == until:
                self._ready_again(lane, known)

    def release_all(self, among: Collection[int] | None = None) -> int:
        """Every lane, or each of these, may send again at once: a person said so; how many."""
        lanes = list(self._lanes) if among is None else [one for one in among if one in self._lanes]
        waited = [lane for lane in lanes if self._lanes[lane].state is _State.LATER]
        for lane in waited:
            self._ready_again(lane, self._lanes[lane])
        return len(waited)

    def next_at(self) -> float | None:
        """When the first waiting lane may send again; None when none waits for time."""
        while self._later:
            until, lane = self._later[0]
            known = self._lanes.get(lane)
            if known is not None and known.state is _State.LATER and known.until == until:
                return until
            heapq.heappop(self._later)
        return None

    def _ready_again(self, lane: int, known: _Lane) -> None:
        known.state = _State.READY
        self._count_sendable(known, 1)
        heapq.heappush(self._fresh if known.fresh else self._ready, (known.head, lane))

    def _count_sendable(self, known: _Lane, change: int) -> None:
        if known.fresh:
            self._sendable_fresh += change
        else:
            self._sendable += change

    def _landed(self, lane: int) -> _Lane:
        known = self._lanes[lane]
        if known.state is not _State.FLYING:
            raise ValueError(f"lane {lane} has no hit in flight")
        self._flying -= 1
        return known

    def _go_on(self, lane: int, known: _Lane) -> None:
        if len(known):
            self._ready_again(lane, known)
        else:
            del self._lanes[lane]
