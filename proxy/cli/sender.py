"""Hits of a file on their way to a collection server, one after the other.

Rule: the next hit is sent when the one before it was taken or refused for good; what gets
through after some tries neither way ends it.  A suite that takes no timestamps gets none.
Non-rule: asks nobody whether to begin (`replay` does), and keeps nothing.
Source: `core.verdict` for what an answer means; Adobe's page "timestamp configuration".
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy import config
from proxy.cli.files_of_hits import Contents, Place
from proxy.config import Config, values
from proxy.core import beacon, stamp, verdict
from proxy.core.hit import Failure, Reply, Request, Suites, Timestamps
from proxy.core.verdict import Delivered, Follow, LinkDown, Refused, Retry, Verdict
from proxy.drain import following
from proxy.shell.upstream import Upstream, Where

TRIES = 5
FIRST_PAUSE_S = 1.0
MOST_SAID = 5
UPSTREAM = "upstream"


@dataclass(slots=True)
class Account:
    """What became of the hits so far; `reasons` has the first few refusals."""

    sent: int = 0
    refused: int = 0
    ambiguous: int = 0
    in_flight: bool = False
    reasons: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        return self.sent + self.refused


@dataclass(frozen=True, slots=True)
class Order:
    """Where to, how fast (hits a second), and with which `ts`: keep, received or now."""

    where: Where
    suites: Suites
    rate: float
    set_ts: str

    def may_stamp(self, place: Place) -> bool:
        """Whether a `ts` of ours would do no harm, as far as the configuration knows."""
        modes = {self.suites.of(rsid).timestamps for rsid in place.suites}
        return Timestamps.NOT_ALLOWED not in modes

    def would_lose(self, place: Place) -> bool:
        """Whether one of the hit's suites would drop it, as far as the configuration knows."""
        modes = {self.suites.of(rsid).timestamps for rsid in place.suites}
        stamped = place.has_ts or (self.set_ts != "keep" and self.may_stamp(place))
        return (Timestamps.NOT_ALLOWED if stamped else Timestamps.REQUIRED) in modes

    def rendered(self, request: Request, place: Place) -> Request:
        if self.set_ts == "keep" or not self.may_stamp(place):
            return request
        if self.set_ts == "now":
            return stamp.render(stamp.unstamped(request), int(time.time()))
        return request if place.at_ms is None else stamp.render(request, int(place.at_ms // 1000))


def where(found: Config, to: str) -> Where | None:
    """The server that is meant; None when the configuration has none. ValueError: no server."""
    if to != UPSTREAM:
        return Where(str(values.server(to)))
    upstream = found.upstream
    if upstream is None:
        return None
    tls = None
    if upstream.tls_ca_file is not None:
        tls = ssl.create_default_context(cafile=str(upstream.tls_ca_file))
    return Where(str(upstream.server), upstream.timeout, tls)


def suites(found: Config) -> Suites:
    return config.suites(found)


async def send(
    contents: Contents, order: Order, account: Account, advance: Callable[[int], None]
) -> str | None:
    """Why it ended before the last hit; None when it did not."""
    road = Upstream(order.where)
    loop = asyncio.get_running_loop()
    pause_s = 1 / order.rate
    next_at = loop.time()
    try:
        for place in contents.places:
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            # What was lost to a slow answer is not made up for in a burst.
            next_at = max(next_at + pause_s, loop.time())
            request = order.rendered(contents.request(place), place)
            failure = await _one(road, request, place, account)
            if failure is not None:
                return f"{place.where}: {failure}"
            advance(1)
    finally:
        await road.close()
    return None


async def _one(road: Upstream, request: Request, place: Place, account: Account) -> str | None:
    """Send it until it is taken or refused for good; why not, when it is neither."""
    kind = beacon.read(request).kind
    pause_s, why = FIRST_PAUSE_S, ""
    for number in range(TRIES):
        if number:
            await asyncio.sleep(pause_s)
            pause_s *= 2
        account.in_flight = True
        judged = await _tried(road, request, kind)
        account.in_flight = False
        match judged:
            case Delivered():
                account.sent += 1
                return None
            case Refused(why):
                account.refused += 1
                if len(account.reasons) < MOST_SAID:
                    account.reasons.append(f"{place.where}: {why}")
                return None
            case Retry(why):
                account.ambiguous += judged.ambiguous
                pause_s = max(pause_s, judged.after_s or 0.0)
            case LinkDown(why):
                pass
            case Follow():
                why = "it redirects again and again"
    return why


async def _tried(road: Upstream, request: Request, kind: str) -> Verdict:
    def judged(reply: Reply | Failure, *, followed: bool) -> Verdict:
        host = road.where.authority
        now = time.time()
        return verdict.judge(kind, reply, upstream_host=host, followed=followed, wall_now=now)

    found = judged(await road.send(request), followed=False)
    if isinstance(found, Follow):
        found = judged(await road.send(following(request, found)), followed=True)
    return found
