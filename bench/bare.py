"""A bare aiohttp client that sends the same requests as the drain, and keeps nothing.

    python -m bench.bare PORT CONCURRENCY SECONDS

prints one JSON line: hits, seconds, cpu_us a request.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp
from yarl import URL

from bench.stock import contents
from proxy.core import wire


async def drive(port: int, concurrency: int, seconds: float) -> dict[str, float]:
    requests = [
        (
            URL(f"http://127.0.0.1:{port}{request.target.decode()}", encoded=True),
            {name.decode(): value.decode() for name, value in request.headers},
        )
        for request in map(wire.unpack, contents(500))
    ]
    sent = 0
    end = 0.0

    async def worker(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal sent
        while time.perf_counter() < end:
            number += 1
            url, headers = requests[number % len(requests)]
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                await response.read()
            sent += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as session:
        began, cpu = time.perf_counter(), time.process_time()
        end = began + seconds
        await asyncio.gather(*(worker(session, number) for number in range(concurrency)))
        return {
            "hits": sent,
            "seconds": time.perf_counter() - began,
            "cpu_us": (time.process_time() - cpu) / sent * 1e6,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(drive(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
