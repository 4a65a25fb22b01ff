"""The nouns: what a client sent, what waits, what a collection server answered.

Rule: plain frozen values, nothing else; every other module speaks in these words.
Non-rule: knows nothing of SQLite, HTTP libraries, clocks or configuration files.
What is made anew for each hit on its way in is a NamedTuple: a third of a frozen dataclass's cost.
Source: the field's own vocabulary (hit, beacon, report suite, collection server,
visitor, lane, dead letter); docs/design/0001 explains the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

Header: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = tuple[Header, ...]


class Request(NamedTuple):
    """One HTTP request as bytes; `target` is origin-form (`/path?query`), never decoded."""

    method: str
    target: bytes
    headers: Headers = ()
    body: bytes = b""


class Timestamps(StrEnum):
    """What a report suite does with `ts`: the three modes of Adobe, and our ignorance.

    Source: the administration page "timestamp configuration"; a hit of the wrong kind
    is dropped for ever although the collection server answers 200.
    """

    REQUIRED = "required"
    OPTIONAL = "optional"
    NOT_ALLOWED = "not-allowed"
    UNKNOWN = "unknown"


class WhenLate(StrEnum):
    """What becomes of a late hit whose suite takes no timestamps."""

    HOLD = "hold"
    SEND = "send"


@dataclass(frozen=True, slots=True)
class ReportSuite:
    """What a person told us about one report suite; `silence` has rules not to speak of."""

    timestamps: Timestamps = Timestamps.UNKNOWN
    when_late: WhenLate = WhenLate.HOLD
    silence: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Suites:
    """The configured report suites, and what is assumed of all others.

    `known` maps a report suite id, as it stands in the request, to what we know of it.
    `refuse_unlisted` answers 403 to a suite that is not in `known`.  `silence_of_events` is for
    events of the Edge Network, whose report suites nobody here knows.
    """

    known: dict[str, ReportSuite]
    unlisted: ReportSuite = ReportSuite()
    refuse_unlisted: bool = False
    silence_of_events: frozenset[str] = frozenset()

    def of(self, rsid: str) -> ReportSuite:
        return self.known.get(rsid, self.unlisted)

    def silence(self, rsids: tuple[str, ...]) -> frozenset[str]:
        """The rules not to speak of for a hit: those that are silent for each of its suites."""
        return frozenset.intersection(*(self.of(rsid).silence for rsid in rsids or ("",)))


class Received(NamedTuple):
    """An instant of receipt: which boot, and milliseconds of its forward-only clock.

    The wall time is `offset of the boot + ms`; correcting the offset corrects every
    hit of that boot at once (docs/design/0005).
    """

    boot: int
    ms: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One waiting hit as the queue hands it to the drain.

    `lane` is the order key: hits of one lane leave in order of `id`, one at a time.
    `suites` is the part of the request's report suites this row stands for; empty means
    all of them; `size` is what the row holds, in bytes.  `ambiguous`: it may already have
    reached the collection server once.  `requeued`: it left the dead letters and keeps its
    own time, whatever came after it.
    """

    id: int
    lane: int
    received: Received
    request: Request
    size: int = 0
    suites: tuple[str, ...] = ()
    ambiguous: bool = False
    requeued: bool = False


class NewHit(NamedTuple):
    """A hit on its way to the queue; `content` is the request as `wire.pack` wrote it."""

    lane: int
    received: Received
    content: bytes
    suites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a collection server (or something in its place) answered.

    `headers` have lower-case names; `body` is at most the first 64 KiB.
    """

    status: int
    headers: Headers = ()
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Fault(StrEnum):
    """Why there was no whole answer. The first four are certain: nothing was sent."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    CONNECT_TIMEOUT = "connect-timeout"
    CUT = "cut"  # the connection went away after we had begun to send
    TIMEOUT = "timeout"  # no whole answer in time, after we had begun to send
    MALFORMED = "malformed"  # what came back was not HTTP
    ENDLESS = "endless"  # the body never ended within what we are willing to read


@dataclass(frozen=True, slots=True)
class Failure:
    """A send that brought no whole answer; `detail` is one line for a person."""

    fault: Fault
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The counts of the promise; `held` is part of `waiting`.

    `accepted == waiting + delivered + dead + expired + discarded` at every moment.
    """

    accepted: int = 0
    waiting: int = 0
    delivered: int = 0
    dead: int = 0
    expired: int = 0
    discarded: int = 0
    held: int = 0
    ambiguous: int = 0
    waiting_bytes: int = 0

    @property
    def balanced(self) -> bool:
        """Whether the promise's equation holds."""
        return self.accepted == (
            self.waiting + self.delivered + self.dead + self.expired + self.discarded
        )
