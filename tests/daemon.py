"""A whole daemon for a test: within the test's own process, or as a real one to be killed.

Settings are given by their dotted names, as `{"queue.max_hits": 5}`; what is not given has
its default, but for loopback addresses nobody uses, a queue in the test's folder, and a
disk that may be full.  Waiting is always for something, and ends with what was seen instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from yarl import URL

from proxy import config, daemon
from proxy.config import Config
from proxy.fake import FakeCollector
from proxy.shell.clock import Clock

PATIENCE_S = 15.0
LOOK_AGAIN_S = 0.02
HIT = "/b/ss/{suite}/1/JS-2.27.0/s{number:013}?AQB=1&ndh=1&fid={visitor}&pageName=p{number}&AQE=1"

Status = dict[str, Any]


def hit(number: int, suite: str = "examplersid", visitor: int = 0) -> str:
    """The request target of a page view; its page name is `p` and the number."""
    return HIT.format(suite=suite, number=number, visitor=f"{visitor:016X}-0000000000000001")


def write_config(path: Path, settings: Mapping[str, object], upstream: str | None = None) -> Path:
    """A configuration file; `upstream` is the URL of a collection server."""
    given: dict[str, object] = {"queue.min_free_disk": "0B", **settings}
    if upstream is not None:
        given["upstream.server"] = upstream
    # A JSON value is a TOML value, for all that a setting can be.
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()))
    return path


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on; held together, so that they differ.

    Below those that the system gives to connections: one of them may be gone the next moment.
    """
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            with contextlib.suppress(OSError):
                held.append(socket.create_server(("127.0.0.1", random.randrange(10_000, 32_000))))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True, kw_only=True)
class Reached:
    """A daemon by its addresses, `host:port` each."""

    beacons: str
    admin: str

    async def send(
        self,
        target: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One request to the beacon port, as it stands."""
        return await self._ask(f"http://{self.beacons}{target}", method, headers, body)

    async def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One request to the admin port, as it stands."""
        return await self._ask(f"http://{self.admin}{path}", method, headers, body)

    async def tell(self, path: str, body: object = None) -> Answer:
        """A POST of JSON to the admin port."""
        given = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        return await self.ask(path, "POST", headers, given)

    async def hits(self, numbers: range, suite: str = "examplersid", visitors: int = 1) -> None:
        """Page views one after the other, spread over visitors; each must get its 200."""
        async with aiohttp.ClientSession() as session:
            for number in numbers:
                url = URL(f"http://{self.beacons}{hit(number, suite, number % visitors)}")
                async with session.get(url) as answer:
                    assert answer.status == 200, (number, answer.status)
                    await answer.read()

    async def status(self) -> Status:
        answer = await self.ask("/api/v1/status")
        assert answer.status == 200, answer
        found: Status = answer.json()
        return found

    async def until(
        self, is_so: Callable[[Status], object], timeout_s: float = PATIENCE_S
    ) -> Status:
        """The first status of which something is so."""
        found: Status = {}
        try:
            async with asyncio.timeout(timeout_s):
                while not is_so(found := await self.status()):  # noqa: ASYNC110 - it is HTTP
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            pytest.fail(f"it never became so; last seen: {json.dumps(found, indent=1)}")
        return found

    async def _ask(
        self, url: str, method: str, headers: Mapping[str, str] | None, body: bytes | None
    ) -> Answer:
        # A connection of its own: no test shall depend on what another request left open.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True),
                auto_decompress=False,
                skip_auto_headers=("Content-Type",),
                timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
            ) as session,
            session.request(
                method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
            ) as answer,
        ):
            return Answer(answer.status, dict(answer.headers), await answer.read())


# -- within this process -----------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Served(Reached):
    """A daemon running in the test's own event loop."""

    settings: Config
    queue_file: Path
    stopping: asyncio.Event
    running: asyncio.Task[None]

    async def stop(self) -> None:
        """Stop in order, and raise what the daemon raised."""
        self.stopping.set()
        async with asyncio.timeout(PATIENCE_S):
            await self.running


class Serve(Protocol):
    """Starts a daemon: `upstream` is where it sends, None is capture mode."""

    async def __call__(
        self,
        upstream: FakeCollector | str | None = None,
        settings: Mapping[str, object] | None = None,
        /,
        clock: Clock | None = None,
    ) -> Served: ...


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts daemons in this process; each is stopped in order at the end of the test.

    Two of one test share a queue file, so the first must be stopped before the second.
    """
    running: list[Served] = []

    async def start(
        upstream: FakeCollector | str | None = None,
        settings: Mapping[str, object] | None = None,
        /,
        clock: Clock | None = None,
    ) -> Served:
        file = write_config(
            tmp_path / "config.toml",
            {
                "listen.address": "127.0.0.1:0",
                "admin.address": "127.0.0.1:0",
                "queue.path": str(tmp_path / "hits.db"),
                "retry.first": "10ms",
                "retry.max": "100ms",
                **(settings or {}),
            },
            upstream.url if isinstance(upstream, FakeCollector) else upstream,
        )
        loaded = config.load(file, {})
        stopping = asyncio.Event()
        ready: asyncio.Future[daemon.Listeners] = asyncio.get_running_loop().create_future()
        queue_file = config.queue_path(loaded, {})
        task = asyncio.create_task(
            daemon.run(
                loaded,
                queue_file,
                stopping,
                ready=ready.set_result,
                clock=clock,
                shown=lambda: config.as_json(config.effective(file, {}), str(file)),
            )
        )
        either: list[asyncio.Future[Any]] = [task, ready]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await task
        listening = ready.result()
        served = Served(
            beacons=listening.beacons,
            admin=listening.admin or "",
            settings=loaded,
            queue_file=queue_file,
            stopping=stopping,
            running=task,
        )
        running.append(served)
        return served

    yield start
    for served in running:
        await served.stop()


@pytest.fixture
async def served(serve: Serve) -> Served:
    """A daemon in capture mode."""
    return await serve()


# -- a process of its own ------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Process(Reached):
    """`python -m proxy serve`, always at the same addresses and with the same queue file."""

    config_file: Path
    queue_file: Path
    log_file: Path
    environ: dict[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Everything it ever wrote to its standard error."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def pid(self) -> int:
        assert self.popen is not None, "it was never started"
        return self.popen.pid

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        assert self.popen is None or self.popen.returncode is not None, "it is running already"
        command = [sys.executable, "-m", "proxy", "serve", "--config", str(self.config_file)]
        with self.log_file.open("ab") as log:
            self.popen = subprocess.Popen(
                [*command, *self.args],
                env={**os.environ, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C of the tests is not meant for it
            )

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.launch()
        await self.wait_ready()

    async def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Until a hit that came now would be kept."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._is_ready():  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            pytest.fail(f"not ready within {timeout_s} s:\n{self.log}")

    async def _is_ready(self) -> bool:
        assert self.popen is not None, "it was never started"
        if self.popen.poll() is not None:
            pytest.fail(f"it ended with {self.popen.returncode}:\n{self.log}")
        try:
            return (await self.ask("/readyz")).status == 200
        except (aiohttp.ClientError, OSError):
            return False

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code, once it has ended; minus the signal that killed it."""
        assert self.popen is not None, "it was never started"
        try:
            return await asyncio.to_thread(self.popen.wait, timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {timeout_s} s:\n{self.log}")

    async def terminate(self) -> int:
        """Ask it to stop, as a supervisor does; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """End it without a word, as the kernel does when memory is short."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def restart(self) -> None:
        """Kill it, start it again, and wait until it is ready."""
        await self.kill()
        await self.start()


def prepared(
    folder: Path,
    upstream: FakeCollector | str | None = None,
    settings: Mapping[str, object] | None = None,
) -> Process:
    """A process not yet started, with everything it needs in one folder."""
    folder.mkdir(exist_ok=True)
    beacons, admin = free_ports(2)
    given: dict[str, object] = {
        "listen.address": f"127.0.0.1:{beacons}",
        "admin.address": f"127.0.0.1:{admin}",
        "queue.path": str(folder / "hits.db"),
        "retry.first": "10ms",
        "retry.max": "100ms",
        **(settings or {}),
    }
    return Process(
        beacons=str(given["listen.address"]),
        admin=str(given["admin.address"]),
        config_file=write_config(
            folder / "config.toml",
            given,
            upstream.url if isinstance(upstream, FakeCollector) else upstream,
        ),
        queue_file=Path(str(given["queue.path"])),
        log_file=folder / "log",
    )


class Launch(Protocol):
    """Makes a `Process`, not yet started."""

    def __call__(
        self,
        upstream: FakeCollector | str | None = None,
        settings: Mapping[str, object] | None = None,
        /,
        *,
        name: str = ...,
    ) -> Process: ...


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Launch]:
    """Makes daemons that are processes of their own; whatever still runs is killed at the end.

    Those of different `name` have nothing in common.
    """
    made: list[Process] = []

    def make(
        upstream: FakeCollector | str | None = None,
        settings: Mapping[str, object] | None = None,
        /,
        *,
        name: str = "daemon",
    ) -> Process:
        made.append(prepared(tmp_path / name, upstream, settings))
        return made[-1]

    yield make
    for one in made:
        if one.popen is not None and one.popen.poll() is None:
            await one.kill()
