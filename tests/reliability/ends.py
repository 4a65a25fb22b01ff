"""A daemon's ends under load: killed at random instants, or asked to stop.

Rule: seeded; each run says what it did and what the oracle says, and judges nothing by itself
but what the oracle cannot see (how long, and how often).  A long run is the same with a larger
count, in batches with a queue file each, so that a failing batch can be replayed alone.
Non-rule: no assertion about times: tests have theirs, and a table has the measured ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import statistics
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from daemon import Process, prepared
from oracle import Promises, Verdict, name_in
from traffic import STAMPED, Resend, Traffic

from proxy.core.wire import plain
from proxy.fake import FakeCollector, latency

SETTINGS: dict[str, object] = {**STAMPED, "log.level": "warning"}
DRAINS_S = 60.0


@dataclass(slots=True)
class Outcome:
    """What a run saw: the verdict, seconds measured, and what is wrong beside the verdict."""

    seed: int
    verdict: Verdict
    runs: int = 0
    ready_s: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    in_flight: int = 0  # hits in flight at the ends, all together
    wrong: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return [*self.wrong, *([] if self.verdict.ok else [str(self.verdict)])]

    def __str__(self) -> str:
        parts = [f"seed {self.seed}: {self.runs} runs", str(self.verdict)]
        for name, times in (("ready", self.ready_s), ("ended", self.ended_s)):
            if times:
                parts.append(f"{name} {spread(times)}")
        if self.in_flight:
            parts.append(f"in flight {self.in_flight}")
        return "; ".join([*parts, *self.wrong])


def spread(times: Sequence[float]) -> str:
    """`median 0.61 s, most 0.84 s`."""
    return f"median {statistics.median(times):.2f} s, most {max(times):.2f} s"


@dataclass(slots=True)
class Scene:
    """A collection server, a daemon process, and the clients of both, in one folder."""

    adobe: FakeCollector
    daemon: Process
    traffic: Traffic
    promises: Promises
    random: Random

    async def start(self) -> float:
        """Start the daemon; after how many seconds it was ready."""
        began = time.monotonic()
        await self.daemon.start()
        return time.monotonic() - began

    async def judge(self, *, requeued: bool = False) -> Verdict:
        """The oracle's word when all is quiet and gone, a fresh hit too."""
        await self.traffic.hush()
        await self.traffic.send(1)
        status = await self.daemon.until(
            lambda now: not now["forwarding"]["in_flight"] and not now["waiting"], DRAINS_S
        )
        return self.promises.judge(
            self.adobe.received, self.daemon.queue_file, status, requeued=requeued
        )


@contextlib.asynccontextmanager
async def scene(
    folder: Path,
    seed: int,
    *,
    visitors: int = 8,
    resend: Resend = Resend.NEVER,
    settings: dict[str, object] | None = None,
    pause_s: float = 0.02,
) -> AsyncIterator[Scene]:
    """A scene whose daemon is not started yet; whatever runs at the end is killed."""
    async with FakeCollector(seed=seed) as adobe:
        daemon = prepared(folder, adobe, {**SETTINGS, **(settings or {})})
        promises = Promises()
        traffic = Traffic(
            daemon.beacons, promises, seed, visitors=visitors, resend=resend, pause_s=pause_s
        )
        try:
            yield Scene(adobe, daemon, traffic, promises, Random(seed))
        finally:
            if daemon.popen is not None and daemon.popen.poll() is None:
                await daemon.kill()


# -- kill -9 ---------------------------------------------------------------------------------


async def kill(folder: Path, seed: int, runs: int) -> Outcome:
    """SIGKILL at random instants under load, one in five while it still starts."""
    random = Random(seed)
    resend = random.choice(list(Resend))
    flying: Counter[str] = Counter()
    ready_s = []
    async with scene(folder, seed, resend=resend) as here:
        here.adobe.always(latency(0.01, jitter=0.01))
        ready_s.append(await here.start())
        async with here.traffic.running():
            for _ in range(runs):
                await asyncio.sleep(random.uniform(0.0, 0.5))
                await here.daemon.kill()
                flying.update(in_flight(here.daemon.queue_file))
                if random.random() < 0.2:
                    here.daemon.launch()
                    await asyncio.sleep(random.uniform(0.0, 0.5))
                    await here.daemon.kill()
                    flying.update(in_flight(here.daemon.queue_file))
                ready_s.append(await here.start())
            verdict = await here.judge()
        found = Outcome(seed, verdict, runs, ready_s, in_flight=flying.total())
        found.wrong += _more_than_in_flight(verdict, flying)
        await here.daemon.terminate()
    return found


def in_flight(queue_file: Path) -> list[str]:
    """The names of the hits a killed daemon had in flight, by the marks beside its file."""
    sending = queue_file.with_name(queue_file.name + "-sending")
    data = sending.read_bytes() if sending.exists() else b""
    ids = [hit for (hit,) in struct.iter_unpack("<q", data[: len(data) // 8 * 8]) if hit]
    if not ids:
        return []
    uri = f"{queue_file.as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
        contents = [
            db.execute("SELECT content FROM hits WHERE id = ?", (hit,)).fetchone() for hit in ids
        ]
    names = (name_in(plain(row[0])) for row in contents if row)
    return [name for name in names if name is not None]


def _more_than_in_flight(verdict: Verdict, flying: Counter[str]) -> list[str]:
    """A kill doubles what was in flight then, once, and nothing else."""
    return [
        f"{name} was taken {count} times, and in flight at {flying[name]} kills"
        for name, count in verdict.doubled.items()
        if count - 1 > flying[name]
    ]


# -- SIGTERM ---------------------------------------------------------------------------------


async def stop(folder: Path, seed: int, runs: int, *, online: bool, hasty: bool = False) -> Outcome:
    """SIGTERM under load, again and again; `hasty`: a second one follows at once."""
    random = Random(seed)
    ready_s, ended_s = [], []
    wrong = []
    async with scene(folder, seed, resend=random.choice(list(Resend))) as here:
        here.adobe.always(latency(0.01, jitter=0.01))
        async with here.traffic.running():
            for run in range(runs):
                ready_s.append(await here.start())
                if not online:
                    await asyncio.sleep(random.uniform(0.0, 0.1))
                    await here.adobe.cut()
                await asyncio.sleep(random.uniform(0.05, 0.4))
                began = time.monotonic()
                here.daemon.signal(signal.SIGTERM)
                if hasty:
                    await asyncio.sleep(random.uniform(0.0, 0.02))
                    with contextlib.suppress(ProcessLookupError):
                        here.daemon.signal(signal.SIGTERM)
                code = await here.daemon.ended()
                ended_s.append(time.monotonic() - began)
                if code != 0:
                    wrong.append(f"run {run} ended with {code}")
                await here.adobe.restore()
            ready_s.append(await here.start())
            verdict = await here.judge()
        if online and not hasty and verdict.doubled:
            wrong.append(f"doubled: {verdict.doubled}")
        if "Traceback" in here.daemon.log:
            wrong.append(f"a traceback: {here.daemon.log[-2000:]}")
        await here.daemon.terminate()
    return Outcome(seed, verdict, runs, ready_s, ended_s, wrong=wrong)
