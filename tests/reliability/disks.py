"""A daemon whose disk is full, or fails, under load.

Rule: the real process; its disk is a small one of its own, or has `disk.c` before it.  Each
run says what it saw, and judges nothing by itself but what the oracle cannot see.
Non-rule: what is on the disk after a power loss is `power`'s.
Source: the kernel gives ENOSPC for what needs a new block, and EIO for a sync once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp
import pytest
from ends import Scene, scene
from oracle import Verdict
from shim import Faults, Op, environ
from traffic import Resend

from proxy.fake import latency

SMALL = "24m"

Refill = Callable[[], None]
Filling = Callable[[], AbstractContextManager[Refill]]


@dataclass(slots=True)
class Outcome:
    """What a run saw."""

    seed: int
    verdict: Verdict
    rounds: int = 0
    refused: int = 0  # answers 503
    refused_s: list[float] = field(default_factory=list)  # how long they took
    drained_full: int = 0  # hits delivered while the disk was full
    again_s: list[float] = field(default_factory=list)  # until a hit was taken again
    failed: int = 0  # doings of the disk that failed
    wrong: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return [*self.wrong, *([] if self.verdict.ok else [str(self.verdict)])]

    def within(self, share: float) -> float:
        """What this share of the refusals took at most, in seconds."""
        return sorted(self.refused_s)[int(share * (len(self.refused_s) - 1))]

    def __str__(self) -> str:
        parts = [f"seed {self.seed}: {self.rounds} rounds", str(self.verdict)]
        if self.refused_s:
            parts.append(
                f"{self.refused} answers 503 (95% in {self.within(0.95) * 1000:.0f} ms, "
                f"all in {max(self.refused_s) * 1000:.0f} ms)"
            )
        if self.drained_full:
            parts.append(f"{self.drained_full} delivered with no byte free")
        if self.again_s:
            parts.append(f"taken again after {max(self.again_s):.2f} s at most")
        parts.append(f"{self.failed} doings of the disk failed")
        return "; ".join([*parts, *self.wrong])


# -- full ------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, of some megabytes; where nobody may mount one, the test is skipped."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[Refill]:
    """No byte of the disk is free, but for what is given back meanwhile, until it is refilled."""
    others: list[Path] = []

    def refill() -> None:
        others.append(folder / f"other-{len(others)}")
        with others[-1].open("wb", 0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    try:
        refill()
        yield refill
    finally:
        for other in others:
            other.unlink()


async def full(folder: Path, seed: int, rounds: int) -> Outcome:
    """The disk fills up in an outage, and is full while the outage ends; on a small disk."""
    with small_disk(folder / "disk") as disk:
        return await _full(disk, seed, rounds, lambda: filled(disk), {})


async def as_if_full(folder: Path, seed: int, rounds: int) -> Outcome:
    """The same on any disk, whose files are kept from growing."""
    faults = Faults(folder / "fault")
    env = environ(folder / "disk", fault=faults.path)
    found = await _full(folder / "disk", seed, rounds, faults.full, env)
    found.failed = faults.failed
    return found


async def _full(
    folder: Path, seed: int, rounds: int, fill: Filling, env: dict[str, str]
) -> Outcome:
    wrong: list[str] = []
    again_s: list[float] = []
    drained = uncounted = 0
    async with _scene(folder, seed, env) as here:
        await here.start()
        async with here.traffic.running():
            for number in range(rounds):
                await here.adobe.cut()
                await asyncio.sleep(here.random.uniform(0.2, 0.5))
                before = here.traffic.answers[503]
                with fill() as refill:
                    await _until_refused(here, 20)
                    await here.traffic.hush()
                    status = await here.daemon.status()
                    if status["state"] != "refusing":
                        wrong.append(f"full, and {status['state']}")
                    backlog = status["waiting"]
                    # Two of three times it ends, and the next start finds no free byte either.
                    if number % 3:
                        if number % 3 == 1:
                            await here.daemon.terminate()
                        else:
                            await here.daemon.kill()
                            # What was counted since the last commit is gone with the process.
                            uncounted += here.traffic.answers[503] - before
                        refill()
                        here.daemon.launch()
                        await _up(here)
                    await here.adobe.restore()
                    await here.daemon.until(lambda now: not now["waiting"], 30)
                    drained += backlog
                    here.traffic.go_on()
                again_s.append(await _until_taken(here))
            await here.traffic.hush()
            status = await here.daemon.status()
            refused = here.traffic.answers[503]
            if not refused - uncounted <= status["refused"] <= refused:
                wrong.append(f"{refused} refused, counted {status['refused']}")
            verdict = await here.judge()
        await _ends_well(here, wrong)
    return _outcome(here, seed, rounds, verdict, wrong, again_s, drained=drained)


# -- failing ---------------------------------------------------------------------------------

KINDS = (Op.SYNC, Op.SYNC, Op.WRITE, Op.WRITE | Op.SYNC, Op.TRUNCATE | Op.SYNC)


async def failing(folder: Path, seed: int, rounds: int) -> Outcome:
    """Syncs and writes fail, once, now and then, or for a while; in between all is well."""
    random = Random(seed)
    faults = Faults(folder / "fault")
    wrong: list[str] = []
    again_s: list[float] = []
    failed = 0
    env = environ(folder / "disk", fault=faults.path)
    async with _scene(folder / "disk", seed, env) as here:
        await here.start()
        async with here.traffic.running():
            for _ in range(rounds):
                faults.arm(
                    random.choice(KINDS),
                    random.choice((errno.EIO, errno.EIO, errno.ENOSPC)),
                    skip=random.choice((0, 0, 1, 5, 50)),
                    count=random.choice((1, 1, 3, -1)),
                    halves=random.random() < 0.2,
                    suffix=random.choice(("-wal", "-wal", ".db", "")),
                )
                await asyncio.sleep(random.uniform(0.05, 0.4))
                faults.heal()
                failed += faults.failed
                again_s.append(await _until_taken(here))
            verdict = await here.judge()
        await _ends_well(here, wrong)
    return _outcome(here, seed, rounds, verdict, wrong, again_s, failed=failed)


async def no_sync(folder: Path, seed: int, rounds: int) -> Outcome:
    """While no sync succeeds no hit is answered 200, and the daemon says that it is not well."""
    faults = Faults(folder / "fault")
    wrong: list[str] = []
    again_s: list[float] = []
    failed = 0
    env = environ(folder / "disk", fault=faults.path)
    async with _scene(folder / "disk", seed, env) as here:
        await here.start()
        async with here.traffic.running():
            for _ in range(rounds):
                await asyncio.sleep(0.2)
                await here.traffic.hush()
                taken = here.traffic.answers[200]
                faults.arm(Op.SYNC)
                here.traffic.go_on()
                await _until_refused(here, 5)
                if (await here.daemon.ask("/readyz")).status != 503:
                    wrong.append("it called itself ready")
                if (state := (await here.daemon.status())["state"]) != "refusing":
                    wrong.append(f"it called itself {state}")
                await here.traffic.hush()
                failed += faults.failed
                faults.heal()
                if here.traffic.answers[200] != taken:
                    wrong.append(f"{here.traffic.answers[200] - taken} unsynced hits were acked")
                here.traffic.go_on()
                again_s.append(await _until_taken(here))
                await here.daemon.until(lambda now: now["state"] == "online")
            verdict = await here.judge()
        await _ends_well(here, wrong)
    return _outcome(here, seed, rounds, verdict, wrong, again_s, failed=failed)


async def starting(folder: Path, seed: int, rounds: int) -> Outcome:
    """Something of the disk fails while it starts: it starts all the same, or ends with 73."""
    random = Random(seed)
    faults = Faults(folder / "fault")
    wrong: list[str] = []
    again_s: list[float] = []
    failed = 0
    env = environ(folder / "disk", fault=faults.path)
    async with _scene(folder / "disk", seed, env) as here:
        await here.start()
        async with here.traffic.running():
            for _ in range(rounds):
                await asyncio.sleep(random.uniform(0.05, 0.2))
                await (here.daemon.kill() if random.random() < 0.7 else here.daemon.terminate())
                faults.arm(
                    random.choice(KINDS),
                    random.choice((errno.EIO, errno.ENOSPC)),
                    skip=random.choice((0, 0, 1, 2, 3, 5, 8)),
                    count=random.choice((1, 1, -1)),
                    halves=random.random() < 0.2,
                )
                here.daemon.launch()
                code = await _up_or_ended(here)
                failed += faults.failed
                faults.heal()
                if code not in (None, 73):
                    wrong.append(f"a start ended with {code}")
                if code is not None:
                    await here.start()
                again_s.append(await _until_taken(here))
            verdict = await here.judge()
        await _ends_well(here, wrong)
    return _outcome(here, seed, rounds, verdict, wrong, again_s, failed=failed)


# -- all -------------------------------------------------------------------------------------


def _outcome(
    here: Scene,
    seed: int,
    rounds: int,
    verdict: Verdict,
    wrong: list[str],
    again_s: list[float],
    *,
    drained: int = 0,
    failed: int = 0,
) -> Outcome:
    return Outcome(
        seed,
        verdict,
        rounds,
        here.traffic.answers[503],
        list(here.traffic.took.get(503, ())),
        drained,
        again_s,
        failed,
        wrong,
    )


@contextlib.asynccontextmanager
async def _scene(folder: Path, seed: int, env: dict[str, str]) -> AsyncIterator[Scene]:
    async with scene(folder, seed, resend=Resend.NEVER, settings={}, pause_s=0.01) as here:
        here.adobe.always(latency(0.002))
        here.daemon.environ.update(env)
        yield here


async def _up(here: Scene) -> None:
    """Until its admin port answers, ready or not."""
    if (code := await _up_or_ended(here)) is not None:
        pytest.fail(f"it ended with {code}:\n{here.daemon.log}")


async def _up_or_ended(here: Scene) -> int | None:
    """Its exit code, if it did not come up."""
    assert here.daemon.popen is not None
    async with asyncio.timeout(10):
        while here.daemon.popen.poll() is None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await here.daemon.status()
                return None
            await asyncio.sleep(0.02)
    return here.daemon.popen.returncode


async def _until_refused(here: Scene, more: int) -> None:
    """Until so many hits more got a 503."""
    before = here.traffic.answers[503]
    await here.daemon.until(lambda _: here.traffic.answers[503] >= before + more)


async def _until_taken(here: Scene) -> float:
    """The seconds until a hit gets its 200 again."""
    began = time.monotonic()
    before = here.traffic.answers[200]
    while here.traffic.answers[200] == before:
        await asyncio.sleep(0.005)
        if time.monotonic() - began > 30:
            pytest.fail(f"no hit was taken again: {await here.daemon.status()}")
    return time.monotonic() - began


async def _ends_well(here: Scene, wrong: list[str]) -> None:
    if (code := await here.daemon.terminate()) != 0:
        wrong.append(f"it ended with {code}")
    if "Traceback" in here.daemon.log:
        wrong.append(f"a traceback:\n{here.daemon.log[-3000:]}")
