"""What a running daemon does now and then: tidy, end a hold in time, tell its supervisor.

Rule: a sign of life is given only after the queue's writer answered, and not while a drain
that could send has sent nothing for long: alive but stuck must look unhealthy.  Whatever was
refused, given up or dropped since the last look is said, one line a kind: a log that alarms are
made from must show each loss, and no flood.
Non-rule: decides nothing about hits.
Source: sd_notify(3); Fluent Bit's pods that stayed healthy while nothing was forwarded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import structlog

from proxy.core.link import State
from proxy.core.words import span
from proxy.desk import Desk
from proxy.errors import QueueError
from proxy.shell.queue import Queue
from proxy.shell.supervisor import Supervisor

log = structlog.get_logger()

TIDY_S = 10.0


async def keep(
    desk: Desk, supervisor: Supervisor, release: Callable[[], Awaitable[None]] | None = None
) -> None:
    """For ever, every ten seconds or as often as a sign of life is wanted.

    `release` lets held hits go that nothing holds any more: one that was being held while a
    reload told its suite's mode, or that the disk did not let go.
    """
    loop = asyncio.get_running_loop()
    tidied = -TIDY_S
    told = ""
    refuses: str | None = None
    counted = _losses(desk.queue)
    try:
        while True:
            if loop.time() - tidied >= TIDY_S:
                tidied = loop.time()
                try:
                    await desk.queue.tidy()
                    desk.note_speed()
                    await desk.note_point()
                    if release is not None:
                        await release()
                except QueueError as error:
                    log.warning("the queue could not be tidied", reason=str(error))
                before, counted = counted, _losses(desk.queue)
                _say(before, counted)
                was, refuses = refuses, desk.refusing()
                _say_refusing(was, refuses)
                status = await sentence(desk)
                if status != told:
                    supervisor.tell(f"STATUS={status}")
                    told = status
            if await desk.is_alive():
                supervisor.tell("WATCHDOG=1")
            left_s = await desk.end_of_hold()
            waits = [TIDY_S, left_s, supervisor.watchdog_s and supervisor.watchdog_s / 2]
            await asyncio.sleep(max(0.05, min(wait for wait in waits if wait is not None)))
    finally:
        _say(counted, _losses(desk.queue))


def _losses(queue: Queue) -> dict[str, int]:
    """Everything counted that is no delivery, by its name in the status."""
    ledger = queue.ledger
    counts = {"expired": ledger.expired, "discarded": ledger.discarded}
    return counts | {name: n for name, n in queue.tallies.items() if name.startswith("refused.")}


def _say(before: Mapping[str, int], now: Mapping[str, int]) -> None:
    for name, count in now.items():
        more = count - before.get(name, 0)
        if more <= 0:
            continue
        kind, _, reason = name.partition(".")
        if kind == "refused":
            log.warning("requests were refused", count=more, reason=reason)
        elif kind == "expired":
            log.warning("hits expired: they waited longer than queue.max_age", hits=more)
        else:
            log.warning("hits were discarded, by a limit or a person", hits=more)


def _say_refusing(was: str | None, now: str | None) -> None:
    """The reason may change from one look to the next; what is told is that it is refusing."""
    if was is None and now is not None:
        log.warning("new hits are refused", reason=now)
    elif was is not None and now is None:
        log.info("new hits are taken again")


async def sentence(desk: Desk) -> str:
    """The state in one line, for a supervisor's status: `Offline 29m; 12,418 waiting, ...`."""
    ledger = desk.queue.ledger
    words = [_state(desk), f"{ledger.waiting:,} waiting"]
    with contextlib.suppress(QueueError):
        oldest = await desk.oldest_s()
        if oldest is not None:
            words.append(f"oldest {span(oldest)}")
    others = [road for road in desk.roads if desk.drain not in (None, road.drain)]
    words += [f"{road.name} offline" for road in others if road.drain.link.state is State.OFFLINE]
    if ledger.dead:
        words.append(f"{ledger.dead:,} dead letters")
    if ledger.held:
        words.append(f"{ledger.held:,} held")
    called = f"{desk.label}: " if desk.label else ""
    return called + "; ".join([words[0], ", ".join(words[1:])])


def _state(desk: Desk) -> str:
    state = desk.state()
    if state == "offline":
        drain = next((d for d in desk.drains if d.link.state is State.OFFLINE), None)
        # Nothing was sent yet, and nothing failed.
        if drain is None and not any(d.last_failure for d in desk.drains):
            return "Ready"
        if drain is not None:
            return f"Offline {span((desk.queue.clock.wall_ms() - drain.since_ms) / 1000)}"
    return state.capitalize()
