"""Clients that mean harm, or know no better: many, slow, endless, malformed.

Runs against a process of its own, so that its memory, its log and its descriptors are its
own.  The long run is the same with larger numbers; of mutilated requests it is
`python -m bench.reliability fuzz --runs 1000000`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import hostile
import pytest
from daemon import Launch, Process
from hostile import LAST, SETTINGS, is_well, talk
from raw import get

SCALE = int(os.environ.get("TRACKOFFLINE_SCALE", "1"))
SEED = int(os.environ.get("TRACKOFFLINE_SEED", "1"))


@pytest.fixture
async def attacked(process: Launch) -> Process:
    daemon = process(None, SETTINGS)
    await daemon.start()
    return daemon


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
    for _ in range(SCALE):
        await asyncio.gather(*(talk(attacked.beacons, data) for data in endless))
    assert (await attacked.status())["accepted"] == 0
    await is_well(attacked)


async def test_what_is_no_request_is_refused_and_counted(tmp_path: Path) -> None:
    """Every mutilated request gets an answer or a close; what was stored or refused adds up."""
    found = await hostile.fuzz(tmp_path, SEED, 1_500)

    assert not found.wrong, found
    assert found.stored > found.requests / 4
    assert found.refused > found.requests / 10


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
