"""Requests whose bytes were changed, by the thousand, against a daemon of its own.

Rule: each gets an answer or a close, and what was stored or refused is counted exactly, but for
clients that saw no answer; then a good client is served, and memory is within its bound.  The
seed repeats the bytes of all of them.
Non-rule: one client at a time is no attack of many: `test_hostile` has those.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from daemon import Process, prepared
from raw import get

AT_ONCE = 50
MOST_MB = 200
SETTINGS = {"suites.known.examplersid.timestamps": "optional", "log.level": "debug"}

TARGET = b"/b/ss/examplersid/1/JS-2.27.0/s%013d?AQB=1&ndh=1&pageName=p&AQE=1"
GOOD = get(TARGET, b"User-Agent: x")
LAST = get(TARGET, b"User-Agent: x", b"Connection: close")


@dataclass(slots=True)
class Outcome:
    """What became of the requests of one seed."""

    seed: int
    requests: int = 0
    stored: int = 0
    refused: int = 0
    unanswered: int = 0  # or not as far as the client saw: it was reset, or gave up
    several: int = 0  # a comma in it may make it one of several report suites, stored as several
    rss_mb: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = (
            f"seed {self.seed}: {self.requests} mutilated requests; {self.stored} answers 200, "
            f"{self.refused} refusals, {self.unanswered} without an answer; "
            f"RSS {self.rss_mb:.0f} MB"
        )
        return "; ".join([said, *self.wrong])


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def talk(address: str, data: bytes, timeout_s: float = 5.0) -> bytes:
    """Send, and read until the other side closes or says no more; empty when it says nothing."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(data)
                return await reader.read()
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return b""


async def is_well(process: Process) -> None:
    """A good client is served within five seconds, and nothing of ours has fallen over."""
    began = time.monotonic()
    number = random.randrange(10**12)
    while b" 200 " not in (await talk(process.beacons, LAST % number))[:20]:
        assert time.monotonic() - began < 5, "a good client was not served"
    assert (await process.status())["balanced"]
    assert resident_mb(process.pid) < MOST_MB
    assert "Traceback" not in process.log


async def fuzz(folder: Path, seed: int, requests: int) -> Outcome:
    """So many mutilated requests to a new daemon."""
    daemon = prepared(folder / "daemon", None, SETTINGS)
    found = Outcome(seed)
    dice = random.Random(seed)
    await daemon.start()
    try:
        while found.requests < requests:
            first, count = found.requests, min(AT_ONCE, requests - found.requests)
            batch = [mutilated(dice, first + number) for number in range(count)]
            for answer in await asyncio.gather(*(talk(daemon.beacons, data) for data in batch)):
                codes = [int(code) for code in re.findall(rb"HTTP/\d\.\d (\d{3}) ", answer)]
                found.stored += codes.count(200)
                found.refused += sum(code >= 400 for code in codes)
                found.unanswered += not answer
            found.several += sum(b"," in data for data in batch)
            found.requests += count
        status = await daemon.status()
        # What a client without an answer sent may be stored all the same, and no other.
        surplus = status["accepted"] + status["repeated"] - found.stored
        if not 0 <= surplus <= found.unanswered + found.several:
            found.wrong.append(f"{status['accepted']} stored, {status['repeated']} repeated")
        if status["refused"] < found.refused:
            found.wrong.append(f"{status['refused']} counted as refused")
        found.rss_mb = resident_mb(daemon.pid)
        await is_well(daemon)
    finally:
        await daemon.kill()
    return found


def mutilated(dice: random.Random, number: int) -> bytes:
    """A good request with some of its bytes changed, doubled, dropped or moved, then the last."""
    data = bytearray(GOOD % number)
    for _ in range(dice.randrange(0, 6)):
        at = dice.randrange(len(data))
        match dice.randrange(4):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randrange(1, 20)]
            case 2:
                data[at:at] = bytes(dice.choices(b"\r\n\0 :/?&=%ab\xff", k=dice.randrange(1, 9)))
            case _:
                data[at:at] = data[: dice.randrange(1, 60)]
        data = data or bytearray(b"x")
    # Whatever became of it, this ends the head at least, and the connection.
    return bytes(data) + b"\r\n\r\n" + LAST % (10**9 + number)
