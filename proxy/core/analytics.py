"""Adobe Analytics as a protocol: `/b/ss/…` and `/id`, put together from the modules that know it.

Rule: no rule of its own.  Reading is `beacon`, intake `reception`, time `stamp`, the meaning
of an answer `verdict`.
Non-rule: no clock, no queue.
Source: docs/design/0013.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from proxy.core import beacon, insertion, reception, stamp, verdict
from proxy.core.answer import Answer
from proxy.core.beacon import Gist
from proxy.core.hit import Failure, Hit, Reply, Request, Suites
from proxy.core.reception import Head, Pass, Refuse, Take
from proxy.core.stamp import Bury, Hold, Send
from proxy.core.verdict import Verdict
from proxy.errors import NotABeacon


@dataclass(frozen=True, slots=True)
class Analytics:
    """`suites` as configured; `authority` is the collection server's, `host[:port]`."""

    suites: Suites
    authority: bytes = b""
    name: str = "analytics"

    @property
    def known(self) -> Container[str]:
        return self.suites.known

    def hears(self, path: bytes) -> bool:
        return path == b"/id" or path.startswith(b"/b/ss/")

    def receive(
        self, request: Request, peer: str, known: Head | None = None
    ) -> Take | Refuse | Pass:
        return reception.receive(request, peer, self.suites, known)

    def turned_away(self, request: Request, refused: Answer) -> Answer:  # noqa: ARG002
        return refused

    def copy_key(self, request: Request) -> bytes | None:
        return beacon.copy_key(request)

    def takes(self, lane: int) -> bool:
        return lane >= 0

    def named(self, hit: Hit) -> tuple[str, ...]:
        return hit.suites or beacon.named(hit.request)

    def open(self, hit: Hit) -> Opened:
        try:
            said = beacon.gist(hit.request)
        except insertion.InsertionRefused as error:
            raise NotABeacon(400, str(error)) from error
        return Opened(self, hit, said)


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored beacon."""

    protocol: Analytics
    hit: Hit
    said: Gist

    @property
    def addressees(self) -> tuple[str, ...]:
        return self.hit.suites or self.said.suites

    @property
    def lack(self) -> str | None:
        return stamp.lack(self.addressees, self.protocol.suites)

    def decide(self, age_s: float) -> Send | Hold | Bury:
        return stamp.decide(self.said, self.hit.suites, self.protocol.suites, age_s)

    def render(self, at_ms: int | None) -> Request:
        second = None if at_ms is None else at_ms // 1000
        return stamp.render(self.hit.request, second, self.hit.suites)

    def judge(self, reply: Reply | Failure, *, followed: bool, wall_now: float) -> Verdict:
        return verdict.judge(
            self.said.kind,
            reply,
            upstream_host=self.protocol.authority,
            followed=followed,
            wall_now=wall_now,
        )
