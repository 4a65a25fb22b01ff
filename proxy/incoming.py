"""Hits that a person brings: a test hit, and what was exported elsewhere.

Rule: judged and stored as the beacon port judges and stores, by the same functions; what is
refused there is refused here, and counted under the same name.
Non-rule: no HTTP; nothing is sent.
Source: docs/design/0001, 0002.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy import __version__
from proxy.core import render
from proxy.core.hit import NewHit, Received, Request, Suites
from proxy.core.moment import TOLD
from proxy.core.protocols import Protocol, hearing
from proxy.core.reception import Refuse, Take
from proxy.shell.queue import Queue

CAPTURED = "examplersid"


class Incoming:
    """What a running daemon can be given by a person."""

    def __init__(
        self,
        queue: Queue,
        suites: Callable[[], Suites],
        spoken: Callable[[], Sequence[Protocol]],
        *,
        is_capture: bool = False,
    ) -> None:
        self._queue, self._suites, self._is_capture = queue, suites, is_capture
        self._spoken = spoken

    def usual_suite(self) -> str | None:
        """The report suite of a test hit; None when there are several to choose from."""
        known = list(self._suites().known)
        if len(known) == 1:
            return known[0]
        return None if known else CAPTURED

    async def test_hit(self, suite: str) -> list[int]:
        """Store a hit as an app would send it; the ids it got.  ValueError says why not."""
        # A visitor of its own, so that it waits behind nobody; in the form of Adobe's `fid`.
        visitor = f"{secrets.token_hex(8)}-{secrets.token_hex(8)}".upper()
        target = (
            f"/b/ss/{suite}/1/trackoffline-{__version__}/s{secrets.randbelow(10**13):013}"
            f"?AQB=1&ndh=1&fid={visitor}&ce=UTF-8&pageName=trackoffline%20test&AQE=1"
        )
        if not target.isascii() or any(mark in suite for mark in "/?# "):
            raise ValueError("no report suite id")
        return await self._store(Request("GET", target.encode()), None)

    async def bring(self, row: Mapping[str, Any]) -> list[int]:
        """Store the hit of one line of an export; the ids it got.  ValueError says why not."""
        at_ms = row.get("received_ms")
        if at_ms is not None and (type(at_ms) not in (int, float) or not math.isfinite(at_ms)):
            raise ValueError("received_ms is no number")
        if at_ms is not None and at_ms < 0:
            raise ValueError("received_ms is before 1970")
        return await self._store(render.request_of(row), at_ms)

    async def reset(self) -> int | None:
        """Give up every hit there is, counted as discarded; None unless nothing is ever sent.

        What comes meanwhile was not meant, and would let a busy one never end.
        """
        if not self._is_capture:
            return None
        ledger = self._queue.ledger
        count, most = 0, ledger.waiting + ledger.dead
        while count < most and (dropped := await self._queue.give_up(most - count)):
            count += dropped
        return count

    async def _store(self, request: Request, at_ms: float | None) -> list[int]:
        taken = hearing(self._spoken(), request.target).receive(request, "")
        match taken:
            case Take():
                at = self._received(at_ms)
                return await self._queue.add(
                    [NewHit(row.lane, at, taken.content, row.suites) for row in taken.rows]
                )
            case Refuse():
                if taken.tally:
                    self._queue.tally(taken.tally)
                why = taken.answer.body.decode("utf-8", "replace").strip()
                raise ValueError(f"refused with {taken.answer.status}: {why:.200}")
        raise ValueError("it is passed through where it comes in, and never stored")

    def _received(self, at_ms: float | None) -> Received:
        """The instant it was received elsewhere; now, if that is not known, or is yet to come.

        0 says as little: that time was lost with a damaged file.
        """
        clock = self._queue.clock
        if at_ms is None or not 1 <= at_ms <= clock.wall_ms():
            return Received(self._queue.boots.current, clock.ms())
        return Received(TOLD, int(at_ms))
