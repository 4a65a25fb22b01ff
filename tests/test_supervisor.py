"""Claims about the supervisor's side: a real datagram socket, real inherited sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from conftest import OpenQueue
from daemon import PATIENCE_S, Launch, Process, hit

from proxy import house
from proxy.desk import Desk
from proxy.shell.supervisor import Supervisor, supervisor

# Puts the inherited sockets where sd_listen_fds(3) wants them, under the daemon's own process id.
TRAMPOLINE = """
import os, sys
count, names = int(sys.argv[1]), sys.argv[2]
for index, descriptor in enumerate(map(int, sys.argv[3 : 3 + count])):
    os.dup2(descriptor, 3 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execv(sys.argv[3 + count], sys.argv[3 + count :])
"""


class Ear:
    """What systemd has at NOTIFY_SOCKET: every message, with the process that sent it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(address)

    async def next(self, within_s: float = PATIENCE_S) -> tuple[int, dict[str, str]]:
        return await asyncio.to_thread(self._next, within_s)

    def _next(self, within_s: float) -> tuple[int, dict[str, str]]:
        self.socket.settimeout(within_s)
        data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        (pid,) = (struct.unpack("3i", given)[0] for _, _, given in ancillary)
        return pid, dict(line.split("=", 1) for line in data.decode().split("\n"))

    async def hears(self, key: str) -> dict[str, str]:
        """The first message that has the key; other ones may go on and on."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while (left_s := deadline - loop.time()) > 0:
            _, message = await self.next(left_s)
            if key in message:
                return message
        pytest.fail(f"{key} was never told")

    def empty(self) -> None:
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(4096)


@pytest.fixture
async def ear(tmp_path: Path) -> AsyncIterator[Ear]:
    heard = Ear(str(tmp_path / "notify"))
    yield heard
    heard.socket.close()


def watched(daemon: Process, ear: Ear, **more: str) -> Process:
    daemon.environ |= {"NOTIFY_SOCKET": ear.socket.getsockname(), **more}
    return daemon


def listener(address: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def named(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def launch_with(daemon: Process, sockets: Sequence[tuple[str, socket.socket]]) -> None:
    """Start it as systemd does, with listening sockets under these names."""
    descriptors = [str(opened.fileno()) for _, opened in sockets]
    # High numbers, so that no descriptor is in the way of the one it becomes.
    high = [os.dup2(int(number), 100 + at) for at, number in enumerate(descriptors)]
    names = ":".join(name for name, _ in sockets)
    serve = [sys.executable, "-m", "proxy", "serve", "--config", str(daemon.config_file)]
    with daemon.log_file.open("ab") as log:
        daemon.popen = subprocess.Popen(
            [sys.executable, "-c", TRAMPOLINE, str(len(high)), names, *map(str, high), *serve],
            env={**os.environ, **daemon.environ},
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    for descriptor in high:
        os.close(descriptor)


def flags_of(pid: int, descriptor: int) -> int:
    text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    return int(text.split("flags:")[1].split()[0], 8)


# -- telling -----------------------------------------------------------------------------------


async def test_ready_is_told_once_hits_are_taken(process: Launch, ear: Ear) -> None:
    """By the daemon itself, with its state; a hit at that moment gets its 200."""
    daemon = watched(process(None), ear)
    daemon.launch()
    pid, message = await ear.next()

    assert pid == daemon.pid
    assert message == {"READY": "1", "STATUS": "Capture; 0 waiting"}
    assert (await daemon.send(hit(1))).status == 200


async def test_an_abstract_address_is_understood(process: Launch) -> None:
    """`@` stands for the null byte that begins it."""
    heard = Ear(f"\0trackoffline-test-{os.getpid()}")
    with contextlib.closing(heard.socket):
        daemon = process(None)
        daemon.environ["NOTIFY_SOCKET"] = f"@trackoffline-test-{os.getpid()}"
        daemon.launch()

        assert "READY" in await heard.hears("READY")


async def test_the_end_is_told_before_it_comes(process: Launch, ear: Ear) -> None:
    daemon = watched(process(None), ear)
    daemon.launch()
    await ear.hears("READY")
    daemon.signal(signal.SIGTERM)

    assert await ear.hears("STOPPING") == {"STOPPING": "1"}
    assert await daemon.ended() == 0


@pytest.mark.parametrize("config", ["good", "faulty"])
async def test_a_reload_is_told_with_its_instant_and_its_end(
    process: Launch, ear: Ear, config: str
) -> None:
    """`Type=notify-reload` waits for both, also when the new configuration is refused."""
    daemon = watched(process(None), ear)
    daemon.launch()
    await ear.hears("READY")
    if config == "faulty":
        daemon.config_file.write_text("nonsense = [")
    daemon.signal(signal.SIGHUP)
    message = await ear.hears("RELOADING")

    assert int(message["MONOTONIC_USEC"]) > 0
    assert "READY" in await ear.hears("READY")


async def test_the_status_line_tells_the_backlog(process: Launch, ear: Ear) -> None:
    """What `systemctl status` shows; with the daemon's name, if it was given one."""
    daemon = process(None, {"admin.label": "store-17"})
    await daemon.start()
    await daemon.hits(range(3))
    await daemon.terminate()
    watched(daemon, ear).launch()
    message = await ear.hears("STATUS")

    assert message["STATUS"].startswith("store-17: Capture; 3 waiting, oldest ")


async def test_nobody_to_tell_is_no_fault(process: Launch, tmp_path: Path) -> None:
    """Without a supervisor, and with one that is gone."""
    Supervisor().tell("READY=1")
    daemon = process(None)
    daemon.environ["NOTIFY_SOCKET"] = str(tmp_path / "nobody")
    await daemon.start()

    assert await daemon.terminate() == 0


# -- watchdog ----------------------------------------------------------------------------------


async def test_signs_of_life_come_in_time_and_end_with_life(process: Launch, ear: Ear) -> None:
    """Twice in the time that is asked for; none from a frozen process, so that it is killed."""
    daemon = watched(process(None), ear, WATCHDOG_USEC="1000000")
    daemon.launch()
    await ear.hears("WATCHDOG")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        await ear.hears("WATCHDOG")
    assert (loop.time() - began) / 4 < 1.0

    daemon.signal(signal.SIGSTOP)
    ear.empty()
    with pytest.raises(TimeoutError):
        await ear.next(within_s=1.5)
    daemon.signal(signal.SIGCONT)
    await ear.hears("WATCHDOG")


async def test_a_stuck_writer_gives_no_sign_of_life(open_queue: OpenQueue, ear: Ear) -> None:
    """A process whose loop runs and whose disk hangs must be killed: it can keep no hit."""
    queue = await open_queue()
    loop = asyncio.get_running_loop()
    stuck, go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        stuck.set()
        go.wait()

    hanging = asyncio.create_task(queue._change(hang))
    await asyncio.to_thread(stuck.wait)
    keeping = asyncio.create_task(
        house.keep(
            Desk(queue, None, None, loop.time(), loop.time),
            Supervisor(ear.socket.getsockname(), 0.1),
        )
    )
    try:
        with pytest.raises(TimeoutError):
            await ear.next(within_s=1.0)
        go.set()
        await hanging
        await ear.hears("WATCHDOG")
    finally:
        go.set()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_daemon_whose_writer_is_stuck_is_not_healthy(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for those who ask by HTTP; that the file can be read is no proof."""
    monkeypatch.setattr("proxy.desk.ALIVE_S", 0.1)
    queue = await open_queue()
    stuck, go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        stuck.set()
        go.wait()

    desk = Desk(queue, None, None, 0.0, lambda: 0.0)
    assert await desk.is_alive()
    hanging = asyncio.create_task(queue._change(hang))
    await asyncio.to_thread(stuck.wait)
    try:
        assert not await desk.is_alive()
    finally:
        go.set()
        await hanging
    assert await desk.is_alive()


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    """A wrapper may leave its own variables behind."""
    given = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "5"}

    assert supervisor(given, 5) == Supervisor("/run/notify", 2.0)
    assert supervisor(given, 6) == Supervisor("/run/notify", None)
    assert supervisor({}, 6) == Supervisor(None, None)
    assert supervisor({"WATCHDOG_USEC": "0", "NOTIFY_SOCKET": ""}, 6) == Supervisor(None, None)


# -- sockets -----------------------------------------------------------------------------------


async def test_a_hit_sent_before_the_daemon_runs_is_taken(process: Launch) -> None:
    """It waits in the supervisor's socket, as during a restart; the socket outlives the daemon."""
    with listener() as opened:
        daemon = process(None)
        daemon.beacons = named(opened)
        for number in (1, 2):
            waiting = asyncio.create_task(daemon.send(hit(number)))
            await asyncio.sleep(0)
            launch_with(daemon, [("beacons", opened)])

            assert (await waiting).status == 200
            assert (await daemon.status())["waiting"] == number
            assert await daemon.terminate() == 0


async def test_who_connected_just_before_the_end_is_still_answered(
    process: Launch, ear: Ear
) -> None:
    """The connection is taken, the request is not there yet: a close would lose its hit."""
    daemon = watched(process(None), ear)
    await daemon.start()
    host, _, port = daemon.beacons.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    # Answered on a later connection, so the first is accepted by now.
    assert (await daemon.send(hit(0))).status == 200
    daemon.signal(signal.SIGTERM)
    await ear.hears("STOPPING")
    writer.write(f"GET {hit(1)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert await daemon.ended() == 0
    assert '"waiting": 2' in daemon.log


async def test_restarts_behind_the_socket_refuse_nobody(process: Launch) -> None:
    """Each hit with a connection of its own, four at a time, through three restarts."""
    with listener() as opened:
        daemon = process(None)
        daemon.beacons = named(opened)
        launch_with(daemon, [("beacons", opened)])
        await daemon.wait_ready()
        answers: list[int] = []
        enough = asyncio.Event()

        async def client(first: int) -> None:
            number = first
            while not enough.is_set():
                answers.append((await daemon.send(hit(number))).status)
                number += 4

        async with asyncio.TaskGroup() as clients:
            for first in range(4):
                clients.create_task(client(first))
            for _ in range(3):
                assert await daemon.terminate() == 0
                launch_with(daemon, [("beacons", opened)])
                await daemon.wait_ready()
            enough.set()

        assert set(answers) == {200}
        assert (await daemon.status())["waiting"] == len(answers)


async def test_no_child_of_the_daemon_inherits_its_sockets(process: Launch) -> None:
    """A socket held by a stray child would take hits nobody reads."""
    with listener() as opened:
        daemon = process(None)
        launch_with(daemon, [("beacons", opened)])
        await daemon.wait_ready()

        assert flags_of(daemon.pid, 3) & os.O_CLOEXEC


async def test_two_sockets_of_one_name_are_both_served(process: Launch) -> None:
    """As of a socket unit with an address of each family."""
    with listener() as first, listener("::1") as second:
        daemon = process(None)
        launch_with(daemon, [("beacons", first), ("beacons", second)])
        await daemon.wait_ready()
        for number, opened in enumerate((first, second)):
            daemon.beacons = named(opened)

            assert (await daemon.send(hit(number))).status == 200


async def test_the_socket_takes_the_place_of_the_configured_address(process: Launch) -> None:
    """Two owners of one port could not both be right; the names it answers to follow it too."""
    with listener("0.0.0.0") as opened:
        daemon = process(None)
        configured, port = daemon.beacons, opened.getsockname()[1]
        launch_with(daemon, [("beacons", opened)])
        await daemon.wait_ready()
        daemon.beacons = f"127.0.0.1:{port}"
        answer = await daemon.send(hit(1), headers={"Host": f"192.0.2.7:{port}"})
        assert answer.status == 200

        daemon.beacons = configured
        with pytest.raises(OSError, match="Cannot connect"):
            await daemon.send(hit(2))


async def test_a_socket_that_nothing_serves_is_said(process: Launch) -> None:
    """Its clients would wait for ever, and nobody would know why."""
    with listener() as beacons, listener() as other, listener() as tls:
        daemon = process(None)
        launch_with(daemon, [("beacons", beacons), ("other", other), ("tls", tls)])
        await daemon.wait_ready()

        said = [line for line in daemon.log.splitlines() if "nothing serves this socket" in line]
        assert ['"other"' in line or '"tls"' in line for line in said] == [True, True]


async def test_an_open_admin_socket_needs_a_token(process: Launch) -> None:
    """The rule for admin.address holds for a socket that takes its place."""
    with listener("0.0.0.0") as opened:
        daemon = process(None)
        launch_with(daemon, [("admin", opened)])

        assert await daemon.ended() == 78
        assert "admin.token_file" in daemon.log
        assert "Traceback" not in daemon.log


async def test_sockets_of_another_process_are_not_ours(process: Launch) -> None:
    """LISTEN_PID names whom they are for."""
    daemon = process(None)
    daemon.environ |= {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "beacons"}
    await daemon.start()

    assert (await daemon.send(hit(1))).status == 200
