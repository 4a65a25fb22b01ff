"""Clients that mean harm, or know no better: many, slow, endless, malformed.

Runs against a process of its own, so that its memory, its log and its descriptors are its
own.  The seed of a run is in its failure; the long run is the same with larger numbers.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from pathlib import Path

import pytest
from daemon import Launch, Process
from raw import get

SCALE = int(os.environ.get("TRACKOFFLINE_SCALE", "1"))
SEED = int(os.environ.get("TRACKOFFLINE_SEED", "1"))
MOST_MB = 200
SETTINGS = {"suites.known.examplersid.timestamps": "optional", "log.level": "debug"}

TARGET = b"/b/ss/examplersid/1/JS-2.27.0/s%013d?AQB=1&ndh=1&pageName=p&AQE=1"
GOOD = get(TARGET, b"User-Agent: x")
LAST = get(TARGET, b"User-Agent: x", b"Connection: close")


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.fixture
async def attacked(process: Launch) -> Process:
    daemon = process(None, SETTINGS)
    await daemon.start()
    return daemon


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


async def test_slow_clients_hold_nobody_up(attacked: Process) -> None:
    """Heads that are never finished, more of them than connections are allowed."""
    host, _, port = attacked.beacons.rpartition(":")
    held: list[asyncio.StreamWriter] = []
    try:
        for _ in range(1_000 * min(SCALE, 5)):
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                continue
            writer.write(b"GET /b/ss/examplersid/1 HTTP/1.1\r\nHo")
            held.append(writer)
        before = await attacked.status()
        answer = await attacked.send("/b/ss/examplersid/1/x/s123456?AQB=1&AQE=1")
        assert answer.status == 200
        after = await attacked.status()
        assert after["accepted"] == before["accepted"] + 1
    finally:
        for writer in held:
            writer.transport.abort()
    await is_well(attacked)


async def test_endless_heads_and_bodies_are_cut_off(attacked: Process) -> None:
    """Neither takes more memory than one request may."""
    endless = [
        b"GET /b/ss/examplersid/1?" + b"x" * 4_000_000,
        b"GET /b/ss/examplersid/1 HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: y\r\n" * 200_000,
        b"GET /b/ss/examplersid/1 HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"y" * 4_000_000,
        get(b"/b/ss/examplersid/1")[:-2]
        + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 250_000) for n in range(190)),
        get(b"/b/ss/examplersid/1", b"Transfer-Encoding: chunked", method=b"POST")
        + b"1\r\na\r\n0\r\n"
        + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 250_000) for n in range(190)),
        get(b"/b/ss/examplersid/1", b"Content-Length: 9000000", method=b"POST") + b"a" * 4_000_000,
        get(b"/b/ss/examplersid/1", b"Transfer-Encoding: chunked", method=b"POST")
        + b"10000\r\n"
        + b"a" * 65_536
        + b"\r\n" * 30,
    ]
    for _ in range(3 * SCALE):
        await asyncio.gather(*(talk(attacked.beacons, data) for data in endless))
    assert (await attacked.status())["accepted"] == 0
    await is_well(attacked)


async def test_what_is_no_request_is_refused_and_counted(attacked: Process) -> None:
    """Every mutilated request gets an answer or a close; what was stored or refused adds up."""
    dice = random.Random(SEED)
    tries = 1_500 * SCALE
    stored = refused = 0
    for start in range(0, tries, 50):
        batch = [mutilated(dice, start + number) for number in range(50)]
        answers = await asyncio.gather(*(talk(attacked.beacons, data) for data in batch))
        for answer in answers:
            codes = [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]
            stored += codes.count(200)
            refused += sum(code >= 400 for code in codes)
    status = await attacked.status()

    assert stored > tries / 4
    assert refused > tries / 10
    assert status["accepted"] + status["repeated"] == stored, f"seed {SEED}"
    assert status["refused"] >= refused, f"seed {SEED}"
    await is_well(attacked)


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


async def test_more_than_can_be_stored_is_refused_and_counted_exactly(process: Launch) -> None:
    """A full queue under ten times its room: each 503 is one in the count, each 200 a hit."""
    flooded = process(None, {**SETTINGS, "queue.max_hits": 200})
    await flooded.start()

    async def client(first: int) -> list[int]:
        codes = []
        for number in range(first, first + 40):
            answer = await talk(flooded.beacons, LAST % number)
            codes.append(int(answer[9:12] or b"0"))
        return codes

    answered = await asyncio.gather(*(client(10**6 * number) for number in range(50)))
    codes = [code for codes in answered for code in codes]
    status = await flooded.status()

    assert status["accepted"] == codes.count(200) == 200
    assert status["refused_by_reason"] == {"max_hits": codes.count(503)}
    assert codes.count(200) + codes.count(503) == len(codes)
    assert "Traceback" not in flooded.log
