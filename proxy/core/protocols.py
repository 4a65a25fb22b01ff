"""What a collection protocol has to say for itself, so that queue, drain and intake need not ask.

Rule: intake, queue and drain speak of hits; how one is read, answered, stamped, rendered and
judged is its protocol's alone.  Which protocol a stored hit is of is told by its lane, so that
a drain takes its own from the queue without looking into them.
Non-rule: no protocol knows of another, of a queue or of a road.
Source: docs/design/0013.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol as Interface

from proxy.core.answer import Answer
from proxy.core.hit import Failure, Hit, Reply, Request
from proxy.core.reception import Head, Pass, Refuse, Take
from proxy.core.stamp import Bury, Hold, Send
from proxy.core.verdict import Verdict


class Opened(Interface):
    """One stored hit, read by its protocol."""

    @property
    def addressees(self) -> tuple[str, ...]:
        """To whom it goes, as a person would name them: report suites, a datastream."""
        ...

    @property
    def lack(self) -> str | None:
        """What a person must say of the addressees before all of their hits may be sent."""
        ...

    def decide(self, age_s: float) -> Send | Hold | Bury:
        """What may become of it at this age."""
        ...

    def render(self, at_ms: int | None) -> Request:
        """As the collection server gets it; with the Unix time of its receipt, if it needs one."""
        ...

    def judge(self, reply: Reply | Failure, *, followed: bool, wall_now: float) -> Verdict:
        """What an answer means for it."""
        ...


class Protocol(Interface):
    """One way of speaking to a collection server; a value, made of configuration."""

    @property
    def name(self) -> str: ...

    @property
    def known(self) -> Container[str]:
        """The addressees that the configuration names."""
        ...

    def hears(self, path: bytes) -> bool:
        """Whether a request for this path is one for this protocol."""
        ...

    def receive(
        self, request: Request, peer: str, known: Head | None = None
    ) -> Take | Refuse | Pass:
        """What to do with a request whose size and Host were found good.

        `known`: what `reception.head` made of the same headers from the same `peer`.
        """
        ...

    def turned_away(self, request: Request, refused: Answer) -> Answer:
        """In its own form what a request gets that was refused before its body was whole."""
        ...

    def copy_key(self, request: Request) -> bytes | None:
        """What a resent copy has in common with this request; None when none can be told."""
        ...

    def takes(self, lane: int) -> bool:
        """Whether the hits of a lane are of this protocol."""
        ...

    def named(self, hit: Hit) -> tuple[str, ...]:
        """To whom a stored hit goes, as far as it can be told: it may be damaged."""
        ...

    def open(self, hit: Hit) -> Opened:
        """Read a stored hit; NotABeacon when its stored form is none."""
        ...


def hearing(protocols: Sequence[Protocol], target: bytes) -> Protocol:
    """The protocol of a request; the last one answers for what is nobody's."""
    *others, last = protocols
    if others:
        path = target.partition(b"?")[0]
        for one in others:
            if one.hears(path):
                return one
    return last
