"""Hours of everything at once: faults of the link, of the server, of the process and of people.

Rule: a seeded series of short phases.  After each one the faults end, the queue runs empty, a
fresh hit comes through, and the oracle judges the phase: the equation is exact each time.  What
a phase left is then forgotten, so that memory of the judge does not grow with the hours.
Non-rule: no disk faults, no damage, no clocks: those have scenarios of their own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ends import Scene, scene
from oracle import Promises, Verdict, rows
from traffic import Resend

from proxy import fake
from proxy.fake import Fault, Received

# What a soak may never exceed, measured when the queue has run empty.
MOST_RSS_MB = 150.0
MOST_DESCRIPTORS = 100
MOST_WAL_MB = 20.0  # 16 MiB and one transaction
MOST_FILE_MB = 128.0
# A server that pushed back is approached slowly for minutes (`core.pace`); that is no wedge.
EMPTY_S = 300.0
SETTINGS: dict[str, object] = {
    "queue.keep_delivered": "5s",
    "upstream.timeout": "1s",
    "retry.attempts": 3,
}
COUNTS = ("accepted", "delivered", "dead", "expired", "discarded", "ambiguous")

Faults = Callable[[Random], Fault]
FAULTS: dict[str, Faults] = {
    "slow": lambda r: fake.latency(r.uniform(0.05, 0.3), 0.05),
    "500": lambda r: fake.status(r.choice((500, 502, 503, 504))),
    "429": lambda _: fake.status(429, retry_after=1),
    "503": lambda _: fake.status(503, retry_after=1),
    "404": lambda r: fake.status(r.choice((400, 403, 404, 410))),
    "204": lambda _: fake.status(204),
    "reset": lambda r: fake.reset_peer(r.uniform(0, 0.05)),
    "closed": lambda _: fake.close_without_answer(),
    "half": lambda r: fake.limit_data(r.randrange(1, 200)),
    "silence": lambda _: fake.timeout(),
    "portal": lambda _: fake.captive_portal(),
    "garbage": lambda _: fake.garbage(),
    "endless": lambda _: fake.endless_body(),
    "closing": lambda r: fake.slow_close(0.01, announced=r.random() < 0.5),
}


@dataclass(slots=True)
class Soaked:
    """What a soak saw."""

    seed: int
    phases: Counter[str] = field(default_factory=Counter)
    acked: int = 0
    doubled: int = 0
    kills: int = 0
    stops: int = 0
    rss_mb: float = 0.0
    descriptors: int = 0
    wal_mb: float = 0.0
    file_mb: float = 0.0
    slowest_drain_s: float = 0.0
    slowest: str = ""  # the phase it was after
    last: str = ""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.phases.total()} phases, {self.kills} kills, {self.stops} "
            f"stops, {self.acked} hits acked, {self.doubled} doubled and marked; at most RSS "
            f"{self.rss_mb:.0f} MB, {self.descriptors} descriptors, log {self.wal_mb:.1f} MB, file "
            f"{self.file_mb:.1f} MB; empty after {self.slowest_drain_s:.1f} s at most "
            f"({self.slowest}); phases "
            + ", ".join(f"{name} {count}" for name, count in sorted(self.phases.items()))
            + "".join(f"\n{each}" for each in self.wrong)
        )


async def soak(folder: Path, seed: int, seconds: float, least: int = 1) -> Soaked:
    """Phases until the time is over and `least` of them were, or something is wrong."""
    found = Soaked(seed)
    over = time.monotonic() + seconds
    async with scene(folder, seed, settings=SETTINGS, pause_s=0.01) as here:
        await here.start()
        base: Mapping[str, Any] = await here.daemon.status()
        phase = 0
        async with here.traffic.running():
            while (time.monotonic() < over or phase < least) and not found.wrong:
                phase += 1
                await _phase(here, found)
                base = await _check(here, found, base, phase)
        if await here.daemon.terminate() != 0:
            found.wrong.append("it did not end with 0")
        if "Traceback" in here.daemon.log:
            found.wrong.append(f"a traceback:\n{here.daemon.log[-3000:]}")
    return found


async def _phase(here: Scene, found: Soaked) -> None:
    """One or two troubles at once, for a second or two."""
    random = here.random
    here.traffic.resend = random.choice(list(Resend))
    here.traffic.go_on()
    name = random.choice((*FAULTS, "cut", "flap", "held", "well"))
    share = random.choice((0.05, 0.3, 1.0))
    if name in FAULTS:
        fault = FAULTS[name](random)
        chance = Random(random.random())

        def hurts(_: Received) -> bool:
            return chance.random() < share

        here.adobe.when(hurts, fault)
    found.phases[name] += 1
    found.last = f"{name} for {share:.0%}" if name in FAULTS else name
    ends = asyncio.create_task(_end(here, random.choice(("", "", "", "kill", "stop")), found))
    match name:
        case "cut":
            await here.adobe.cut()
            await asyncio.sleep(random.uniform(0.2, 1.5))
        case "flap":
            for _ in range(random.randrange(2, 10)):
                await here.adobe.cut()
                await asyncio.sleep(random.uniform(0, 0.2))
                await here.adobe.restore()
                await asyncio.sleep(random.uniform(0, 0.2))
        case "held":
            await ends
            await here.daemon.tell("/api/v1/forwarding/offline")
            await asyncio.sleep(random.uniform(0.2, 1))
            await here.daemon.tell("/api/v1/forwarding/online")
        case _:
            await asyncio.sleep(random.uniform(0.3, 1.5))
    await ends
    here.adobe.heal()
    await here.adobe.restore()


async def _end(here: Scene, how: str, found: Soaked) -> None:
    """Perhaps the process ends in the middle of it, and comes again."""
    if not how:
        return
    await asyncio.sleep(here.random.uniform(0, 1))
    if how == "kill":
        found.kills += 1
        await here.daemon.kill()
    else:
        found.stops += 1
        code = await here.daemon.terminate()
        if code != 0:
            found.wrong.append(f"told to stop, it ended with {code}")
    await here.daemon.start()


async def _check(
    here: Scene, found: Soaked, base: Mapping[str, Any], phase: int
) -> Mapping[str, Any]:
    """Nothing wedged, everything accounted for; the counts the next phase starts from."""
    began = time.monotonic()
    await here.traffic.hush()
    await here.traffic.send(1)
    await _empty(here)
    took_s = time.monotonic() - began
    if took_s > found.slowest_drain_s:
        found.slowest_drain_s, found.slowest = took_s, found.last
    verdict, status = await _judged(here, base)
    if status["dead"]:
        # A person sends what was refused or given up once more.
        await here.daemon.tell("/api/v1/dead/requeue", {"all": True})
        await _empty(here)
        again, status = await _judged(here, base, requeued=True)
        if not again.ok or status["dead"]:
            found.wrong.append(f"phase {phase} ({found.last}), requeued: {again}")
    if not verdict.ok:
        found.wrong.append(f"phase {phase} ({found.last}): {verdict}")
    found.acked += verdict.acked
    found.doubled += verdict.extra
    _measure(here, found)
    here.adobe.received.clear()
    here.promises = here.traffic.promises = Promises()
    here.traffic.run += 1
    return status


async def _empty(here: Scene) -> None:
    await here.daemon.until(
        lambda now: not now["forwarding"]["in_flight"] and not now["waiting"], EMPTY_S
    )


async def _judged(
    here: Scene, base: Mapping[str, Any], *, requeued: bool = False
) -> tuple[Verdict, Mapping[str, Any]]:
    status = await here.daemon.status()
    since = {**status, **{name: status[name] - base[name] for name in COUNTS}}
    file = rows(here.daemon.queue_file, here.traffic.run)
    return here.promises.judge(here.adobe.received, file, since, requeued=requeued), status


def _measure(here: Scene, found: Soaked) -> None:
    process = Path(f"/proc/{here.daemon.pid}")
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    file = here.daemon.queue_file
    wal = file.with_name(file.name + "-wal")
    found.rss_mb = max(found.rss_mb, resident / 1e6)
    found.descriptors = max(found.descriptors, len(list((process / "fd").iterdir())))
    found.wal_mb = max(found.wal_mb, wal.stat().st_size / 1e6 if wal.exists() else 0.0)
    found.file_mb = max(found.file_mb, file.stat().st_size / 1e6)
    for name, seen, most in (
        ("RSS MB", found.rss_mb, MOST_RSS_MB),
        ("descriptors", found.descriptors, MOST_DESCRIPTORS),
        ("log MB", found.wal_mb, MOST_WAL_MB),
        ("file MB", found.file_mb, MOST_FILE_MB),
    ):
        if seen > most:
            found.wrong.append(f"{name}: {seen:.1f}, at most {most}")
