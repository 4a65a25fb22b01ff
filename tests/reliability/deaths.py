"""A daemon that dies at each of its named points, and what the next one makes of it.

Rule: each point has a way to get there; a run counts only when the process really died there,
by SIGKILL.  Then the faults end, a daemon without the wish to die starts, and the oracle judges
when a fresh hit has come through.
Non-rule: no point is reached by calling the product's code; only by what clients, people, the
collection server and signals can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp
from ends import Outcome, Scene, scene
from traffic import beacon

from proxy.core.hit import Request
from proxy.fake import Received, by, latency, ok, status, timeout
from proxy.points import VARIABLE, Point

LOOK_AGAIN_S = 0.02
ONE_BY_ONE = 30  # how many passes of a busy point a run may let go by

Step = Callable[[Scene], Coroutine[None, None, None]]


async def _nothing(_: Scene) -> None:
    """Nothing is needed."""


# -- what went before ------------------------------------------------------------------------


async def _left_in_flight(here: Scene) -> None:
    """Killed while the collection server takes its time to answer."""
    await here.start()
    await here.traffic.send(20, visitors=5)
    await here.daemon.until(lambda now: not now["waiting"])
    here.adobe.always(timeout())
    await here.traffic.send(5, visitors=5)
    await here.daemon.until(lambda now: now["forwarding"]["in_flight"] == 5)
    await here.daemon.kill()
    here.adobe.heal()


async def _dead_letters(here: Scene) -> None:
    here.adobe.always(status(404))
    await here.start()
    await here.traffic.send(6, visitors=3)
    await here.daemon.until(lambda now: now["dead"] == 6)
    await here.daemon.kill()
    here.adobe.heal()


async def _delivered_long_ago(here: Scene) -> None:
    await here.start()
    await here.traffic.send(5)
    await here.daemon.until(lambda now: not now["waiting"])
    await here.daemon.kill()


async def _a_file_full_of_nothing(here: Scene) -> None:
    """An outage's backlog that went out: empty pages."""
    await here.adobe.cut()
    await here.start()
    await here.traffic.send(120, _huge, visitors=20)
    await here.adobe.restore()
    await here.daemon.until(lambda now: not now["waiting"], 30)
    await here.daemon.kill()


async def _no_longer_agreeing(here: Scene) -> None:
    """Hits of two suites wait, of which one now takes no timestamps."""
    await here.adobe.cut()
    await here.start()
    await here.traffic.send(5, _of_two_suites)
    await here.daemon.kill()
    _dev_suite_is(here, "not-allowed")
    await here.adobe.restore()


async def _held(here: Scene) -> None:
    """And were held for it, until the suites agree again."""
    await _no_longer_agreeing(here)
    await here.start()
    await here.daemon.until(lambda now: now["held"])
    await here.daemon.kill()
    _dev_suite_is(here, "optional")


def _dev_suite_is(here: Scene, mode: str) -> None:
    file = here.daemon.config_file
    lines = file.read_text().splitlines()
    key = "suites.known.exampledev.timestamps"
    file.write_text(
        "\n".join(f'{key} = "{mode}"' if line.startswith(key) else line for line in lines)
    )


def _of_two_suites(random: Random, suite: str, visitor: str, name: str) -> Request:
    sent = beacon(random, "examplersid,exampledev", visitor, name)
    return Request("GET", sent.target + b"?" + sent.body[:300], sent.headers[:3])


def _huge(random: Random, suite: str, visitor: str, name: str) -> Request:
    sent = beacon(random, suite, visitor, name)
    filler = b"&v9=" + random.randbytes(110_000).hex().encode()
    return Request(sent.method, sent.target, sent.headers, sent.body + filler)


# -- how it gets there -----------------------------------------------------------------------


async def _ready(here: Scene) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            if (await here.daemon.ask("/readyz")).status == 200:
                return
        await asyncio.sleep(LOOK_AGAIN_S)


async def _some_are_refused(here: Scene) -> None:
    here.adobe.always(by(lambda hit: status(404) if hit.number % 5 == 0 else ok()))


async def _some_are_cut(here: Scene) -> None:
    here.adobe.always(by(lambda hit: latency(30) if hit.number % 5 == 0 else ok()))
    await _ready(here)
    while True:
        await asyncio.sleep(0.1)
        await here.adobe.cut()
        await here.adobe.restore()


async def _link_is_down(here: Scene) -> None:
    await here.adobe.cut()


async def _told_to_stop(here: Scene) -> None:
    await _ready(here)
    await asyncio.sleep(here.random.uniform(0, 0.1))
    here.daemon.signal(signal.SIGTERM)


async def _held_by_a_person(here: Scene) -> None:
    await _ready(here)
    await here.daemon.tell("/api/v1/forwarding/offline")


async def _requeued(here: Scene) -> None:
    await _decided(here, "requeue")


async def _discarded(here: Scene) -> None:
    await _decided(here, "discard")


async def _decided(here: Scene, what: str) -> None:
    await _ready(here)
    letters = (await here.daemon.ask("/api/v1/dead")).json()["letters"]
    await here.daemon.tell(f"/api/v1/dead/{what}", {"ids": [letter["id"] for letter in letters]})


# -- how it goes on --------------------------------------------------------------------------


async def _healed(here: Scene) -> None:
    here.adobe.heal()
    await here.adobe.restore()
    _dev_suite_is(here, "optional")


@dataclass(frozen=True, slots=True)
class Way:
    """What went before, how the point is reached, and how often it may be passed first."""

    before: Step = _nothing
    reach: Step = _nothing
    passes: int = 1
    settings: dict[str, object] = field(default_factory=dict)


BUSY = Way(passes=ONE_BY_ONE)
START = Way(before=_left_in_flight)
STOP = Way(reach=_told_to_stop)
EMPTY = Way(before=_a_file_full_of_nothing, settings={"queue.keep_delivered": "0s"})
WAYS = {
    Point.START_LOCKED: START,
    Point.MIGRATE_BEFORE: Way(),
    Point.MIGRATE_INSIDE: Way(),
    Point.MIGRATE_AFTER: Way(),
    Point.START_PREPARED: START,
    Point.START_DOUBTED: START,
    Point.START_CLEARED: START,
    Point.START_REMEMBERED: START,
    Point.START_LISTENING: START,
    Point.ACCEPT_BEFORE: BUSY,
    Point.COMMIT_BEGUN: BUSY,
    Point.COMMIT_BEFORE: BUSY,
    Point.COMMIT_AFTER: BUSY,
    Point.COMMIT_ADOPTED: BUSY,
    Point.ACCEPT_AFTER: BUSY,
    Point.ACCEPT_ANSWERED: BUSY,
    Point.SEND_BEFORE: BUSY,
    Point.SEND_MARKED: BUSY,
    Point.SEND_ANSWERED: BUSY,
    Point.VERDICT: BUSY,
    Point.RECORDED: BUSY,
    Point.LANDED_BEFORE: BUSY,
    Point.DELIVER_INSIDE: BUSY,
    Point.DOUBT_INSIDE: Way(before=_left_in_flight, reach=_some_are_cut, passes=8),
    Point.BURY_INSIDE: Way(reach=_some_are_refused, passes=5),
    Point.HOLD_INSIDE: Way(before=_no_longer_agreeing),
    Point.RELEASE_INSIDE: Way(before=_held),
    Point.REQUEUE_INSIDE: Way(before=_dead_letters, reach=_requeued, passes=6),
    Point.DISCARD_INSIDE: Way(before=_dead_letters, reach=_discarded),
    Point.DROP_INSIDE: Way(
        reach=_link_is_down,
        passes=5,
        settings={"queue.max_hits": 20, "queue.when_full": "drop-oldest"},
    ),
    Point.PURGE_INSIDE: Way(before=_delivered_long_ago, settings={"queue.keep_delivered": "10ms"}),
    Point.SHRINK_INSIDE: EMPTY,
    Point.CHECKPOINT_BEFORE: EMPTY,
    Point.CHECKPOINT_AFTER: EMPTY,
    Point.SETTING_INSIDE: Way(reach=_held_by_a_person),
    Point.OFFLINE_STORED: Way(reach=_held_by_a_person),
    Point.STOP_ASKED: STOP,
    Point.STOP_INTAKE_CLOSED: STOP,
    Point.STOP_DRAINED: STOP,
    Point.STOP_WRITER_ENDED: STOP,
    Point.STOP_READER_CLOSED: STOP,
    Point.STOP_CLOSED: STOP,
}


async def at(folder: Path, point: Point, seed: int) -> Outcome:
    """Die there once, after a seeded number of passes; start again, and be judged."""
    way = WAYS[point]
    async with scene(folder, seed, settings=way.settings, pause_s=0.005) as here:
        await way.before(here)
        passes = here.random.randint(1, way.passes)
        here.daemon.environ[VARIABLE] = f"{point}:{passes}"
        async with here.traffic.running():
            here.daemon.launch()
            reaching = asyncio.create_task(way.reach(here))
            code = await here.daemon.ended(30)
            reaching.cancel()
            await asyncio.gather(reaching, return_exceptions=True)
            return await _judged(here, seed, code, requeued=point is Point.REQUEUE_INSIDE)


async def on_the_wire(folder: Path, seed: int) -> Outcome:
    """Die when the request is written and no answer has come: the server itself pulls the plug."""
    async with scene(folder, seed, pause_s=0.005) as here:
        last = here.random.randint(1, ONE_BY_ONE)

        def pull(hit: Received) -> bool:
            if hit.number == last:
                here.daemon.signal(signal.SIGKILL)
            return False

        here.adobe.when(pull, ok())
        async with here.traffic.running():
            here.daemon.launch()
            return await _judged(here, seed, await here.daemon.ended(30))


async def _judged(here: Scene, seed: int, code: int, *, requeued: bool = False) -> Outcome:
    here.daemon.environ.pop(VARIABLE, None)
    await _healed(here)
    ready_s = await here.start()
    await here.daemon.tell("/api/v1/forwarding/online")
    verdict = await here.judge(requeued=requeued)
    wrong = [] if code == -signal.SIGKILL else [f"it ended with {code}:\n{here.daemon.log}"]
    return Outcome(seed, verdict, 1, [ready_s], wrong=wrong)
