"""Which lanes may have hits on disk that the drain has not read yet.

Rule: a fresh hit may overtake the backlog of other visitors, never its own; `may_hold` is
therefore never wrong when it says no.  When it says yes it may be wrong (a Bloom filter),
and the hit merely waits its turn.
Non-rule: knows no hit's content and reads nothing itself.
Source: Bloom, "Space/time trade-offs in hash coding with allowable errors" (1970); 16 bits
and 4 probes a hit are wrong in 0.24 % of the cases, at 2 bytes a hit instead of an index
(docs/design/0003).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# Hits a filter holds; a filter goes when the drain has read past its last hit.
FILTER_HITS = 65_536
FILTER_BITS = FILTER_HITS * 16
PROBES = 4
HALF = (1 << 31) - 1


def _probes(lane: int) -> list[int]:
    # A lane is 63 uniform bits already: two halves give as many probes as wanted.
    first, step = lane & HALF, (lane >> 31) | 1
    return [(first + number * step) % FILTER_BITS for number in range(PROBES)]


@dataclass(slots=True)
class _Filter:
    last: int = 0
    hits: int = 0
    bits: bytearray = field(default_factory=lambda: bytearray(FILTER_BITS // 8))

    def add(self, hit: int, lane: int) -> None:
        for probe in _probes(lane):
            self.bits[probe >> 3] |= 1 << (probe & 7)
        self.last = max(self.last, hit)
        self.hits += 1

    def has_all(self, probes: Sequence[int]) -> bool:
        return all(self.bits[probe >> 3] & (1 << (probe & 7)) for probe in probes)


class Unread:
    """The hits behind the drain's cursor, told of as they arrive or as they are surveyed.

    What was on disk before, ids up to `last`, must be surveyed once: until then any lane
    may be in it.
    """

    def __init__(self, cursor: int, last: int) -> None:
        self.surveyed = cursor  # ids up to this one are in the filters, or read
        self._old = last
        self._filters: list[_Filter] = []

    @property
    def to_survey(self) -> bool:
        """Whether there are old hits no filter knows of."""
        return self.surveyed < self._old

    def survey(self, rows: Iterable[tuple[int, int]], through: int) -> None:
        """Old hits (id, lane), all there are with ids up to `through`."""
        for hit, lane in rows:
            self.add(hit, lane)
        self.surveyed = max(self.surveyed, through)

    def missed(self, through: int) -> None:
        """Nobody told of some hit up to this id: they count as old."""
        self._old = max(self._old, through)

    def add(self, hit: int, lane: int) -> None:
        """A hit the drain leaves for its cursor to find."""
        if not self._filters or self._filters[-1].hits >= FILTER_HITS:
            self._filters.append(_Filter())
        self._filters[-1].add(hit, lane)

    def read(self, cursor: int) -> None:
        """The drain has read everything up to id `cursor`."""
        self.surveyed = max(self.surveyed, cursor)
        self._filters = [known for known in self._filters if known.last > cursor]

    def may_hold(self, lane: int) -> bool:
        """Whether an unread hit of this lane may exist."""
        probes = _probes(lane)
        return self.to_survey or any(known.has_all(probes) for known in self._filters)
