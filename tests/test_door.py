"""Claims about the doors: strangers who only hold connections open keep nobody out."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import certificates
import pytest
from aiohttp import web
from daemon import Launch, Process, hit
from raw import Raw, ask, connected, get, until

from proxy.shell.door import Door

PLAIN = get(b"/")


class Counted:
    """A door of four, and how many had to go."""

    def __init__(self) -> None:
        self.gone = 0
        self.door = Door(4, self._count)

    def _count(self) -> None:
        self.gone += 1

    def open(self, server: web.Server, tls: ssl.SSLContext | None = None) -> str:
        host, port = self.door.open(server, "127.0.0.1", 0, None, tls)
        return f"{host}:{port}"


@pytest.fixture
async def server() -> AsyncIterator[web.Server]:
    """Answers everything."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="here")

    server = web.Server(answer)
    yield server
    await server.shutdown(1)


@pytest.fixture
async def counted() -> AsyncIterator[Counted]:
    counted = Counted()
    yield counted
    counted.door.shut()


async def strangers(stack: AsyncExitStack, address: str, count: int) -> list[Raw]:
    """Connections that say nothing."""
    return [await stack.enter_async_context(connected(address)) for _ in range(count)]


def descriptors(daemon: Process) -> int:
    """How many it has open."""
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


async def test_listeners_of_a_door_share_its_limit(counted: Counted, server: web.Server) -> None:
    """The one that is idle for longest goes, at whichever of them it came in."""
    first, second = counted.open(server), counted.open(server)
    async with AsyncExitStack() as stack:
        held = await strangers(stack, first, 4)
        assert (await ask(second, PLAIN)).status == 200

        assert await held[0].rest() == b""
        assert counted.gone == 1
        assert (await held[1].ask(PLAIN)).status == 200


async def test_a_handshake_that_never_comes_keeps_no_place(
    counted: Counted, server: web.Server, tmp_path: Path
) -> None:
    """It counts as a connection, and goes like one."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificates.make(tmp_path, "localhost"))
    plain, secret = counted.open(server), counted.open(server, tls)
    async with AsyncExitStack() as stack:
        held = await strangers(stack, secret, 10)
        for one in held[:6]:
            assert await one.rest() == b""
        assert counted.gone == 6
        assert (await ask(plain, PLAIN)).status == 200


async def test_who_is_being_served_is_not_sent_away(counted: Counted) -> None:
    """When nobody is idle the newcomer goes."""
    slow, served = asyncio.Event(), 0

    async def answer(_: web.BaseRequest) -> web.Response:
        nonlocal served
        served += 1
        await slow.wait()
        return web.Response(text="here")

    server = web.Server(answer)
    address = counted.open(server)
    async with AsyncExitStack() as stack:
        held = await strangers(stack, address, 4)
        for one in held:
            one.say(PLAIN)
        await until(lambda: served == 4)
        async with connected(address) as late:
            with contextlib.suppress(ConnectionError):
                assert await late.rest() == b""
        slow.set()
        assert [(await one.answer()).status for one in held] == [200] * 4
        assert counted.gone == 1
    await server.shutdown(1)


async def test_all_descriptors_in_use_end_neither_hits_nor_the_log(process: Launch) -> None:
    """Fewer of them than was reckoned with: idle ones go, and the log has a line a second."""
    daemon = process(None)
    await daemon.start()
    most = descriptors(daemon) + 30
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (most, most))
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        await strangers(stack, daemon.beacons, 200)
        for number in range(3):
            assert (await daemon.send(hit(number))).status == 200
        status = await daemon.status()
    took = time.monotonic() - began

    assert status["accepted"] == 3
    assert 1 <= daemon.log.count("no descriptor is left for a new connection") <= took + 1
    assert len(daemon.log) < 5_000


async def test_idle_callers_of_the_admin_port_keep_nobody_out(process: Launch) -> None:
    """A hundred of them at most are inside; hits never notice."""
    daemon = process(None)
    await daemon.start()
    before = descriptors(daemon)
    async with AsyncExitStack() as stack:
        held = await strangers(stack, daemon.admin, 300)
        assert (await daemon.ask("/healthz")).status == 200
        assert (await daemon.send(hit(1))).status == 200
        await until(lambda: descriptors(daemon) <= before + 100)
        assert await held[0].rest() == b""
