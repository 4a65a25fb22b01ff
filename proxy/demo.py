"""`trackoffline demo`: an outage in half a minute, on loopback only.

Rule: everything shown is real: the daemon is a process of its own that is killed with
SIGKILL while apps are sending, the collection server is the scriptable fake the tests use,
and the last lines are checked, not recited.
Rule: nothing leaves this machine, whatever its environment configures, and nothing is left
on it, however the demo ends (but by a SIGKILL of its own).
Non-rule: no library of ours in the apps: a hit is a line and a 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from proxy.errors import TrackofflineError
from proxy.fake import FakeCollector, latency, ok

VISITORS = ("Anna", "Ben", "Chloe", "Dario", "Emi")
PAGES = ("Home", "Search", "Product", "Basket", "Checkout", "Thanks")
# Page views of each visitor while the link is up, and while it is down.
ONLINE, OFFLINE = 5, 35
TOTAL = len(VISITORS) * (ONLINE + OFFLINE)
KILL_AT = len(VISITORS) * (ONLINE + OFFLINE // 2)

MOST_S = 28.0  # a demo that hangs has failed
AGAIN_S = 0.05
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

CONFIG = """
[listen]
address = "127.0.0.1:{listen}"
[admin]
address = "127.0.0.1:{admin}"
[upstream]
server = "{server}"
[suites.known.demo]
timestamps = "optional"
[queue]
path = "{queue}"
min_free_disk = "0B"
[log]
level = "error"
"""


class DemoError(TrackofflineError):
    """The demo could not be played to its end."""


@dataclass(slots=True)
class Visitor:
    """An app in a visitor's hands: sends each hit again until it gets its 200.

    `kept` names the hits that got it; `seconds` are those in which each may have been
    received, from the first try on: a hit whose answer was lost is on disk since then.
    """

    name: str
    random: random.Random
    kept: list[str] = field(default_factory=list)
    seconds: list[range] = field(default_factory=list)
    unanswered: int = 0

    async def browse(self, port: int, hits: int, tell: Callable[[], None]) -> None:
        for _ in range(hits):
            await asyncio.sleep(self.random.uniform(0.02, 0.12))
            name = f"{self.name}.{len(self.kept) + 1}"
            target = self._page_view(name)
            before = int(time.time())
            while (answer := await _get(port, target))[0] != 200:
                if answer[0]:
                    raise DemoError(f"a hit was answered {answer[0]}")
                self.unanswered += 1
                await asyncio.sleep(AGAIN_S)
            self.kept.append(name)
            self.seconds.append(range(before, int(time.time()) + 1))
            tell()

    def _page_view(self, name: str) -> str:
        page = PAGES[len(self.kept) % len(PAGES)]
        now = time.localtime()
        # Months from 0, Sunday is 0, minutes west of Greenwich: what JavaScript's Date says.
        moment = (
            f"{now.tm_mday}/{now.tm_mon - 1}/{now.tm_year}"
            f" {now.tm_hour}:{now.tm_min}:{now.tm_sec}"
            f" {(now.tm_wday + 1) % 7} {-now.tm_gmtoff // 60}"
        )
        return (
            f"/b/ss/demo/1/JS-2.27.0/s{self.random.randrange(10**13):013}"
            f"?AQB=1&ndh=1&pf=1&t={quote(moment, safe='')}&vid={self.name}&ce=UTF-8&pageName={page}"
            f"&g=https%3A%2F%2Fshop.example%2F{page.lower()}&c1={name}&AQE=1"
        )


class Daemon:
    """`trackoffline serve` as a process of its own, always at the same addresses."""

    def __init__(self, folder: Path, server: str) -> None:
        self.listen, self.admin = _free_ports()
        self._config = folder / "demo.toml"
        self._config.write_text(
            CONFIG.format(
                listen=self.listen, admin=self.admin, server=server, queue=folder / "hits.db"
            ),
            encoding="utf-8",
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it can keep a hit."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "--quiet", "serve", "--config", str(self._config)),
            cwd=Path(__file__).parents[1],  # `-m proxy` is this one, wherever we were called
            env=_environ(),
            start_new_session=True,  # Ctrl-C is for us; the daemon ends as we say
        )
        while (await _get(self.admin, "/readyz"))[0] != 200:
            if self._process.returncode is not None:
                raise DemoError(f"the daemon ended with {self._process.returncode}")
            await asyncio.sleep(AGAIN_S)

    async def end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()

    async def status(self) -> dict[str, Any]:
        _, body = await _get(self.admin, "/api/v1/status")
        found: dict[str, Any] = json.loads(body)
        return found


def _environ() -> dict[str, str]:
    """Ours without what would configure the daemon: its hits must not go to a real server."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("TRACKOFFLINE_") and name != "NOTIFY_SOCKET"
    }


async def _get(port: int, target: str) -> tuple[int, bytes]:
    """Status and body of what a port on this machine answers; 0 when it does not."""
    request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request.encode())
                answer = await reader.read()
            finally:
                writer.close()
    except OSError:
        return 0, b""
    head, whole, body = answer.partition(b"\r\n\r\n")
    return (int(head.split(None, 2)[1]) if whole else 0), body


async def play(console: Console, seed: int = 1) -> bool:
    """The whole demonstration; whether every promise was kept."""
    with tempfile.TemporaryDirectory(prefix="trackoffline-demo-") as folder:
        async with FakeCollector() as adobe:
            adobe.always(latency(0.03) | ok())
            daemon = Daemon(Path(folder), adobe.url)
            visitors = [
                Visitor(name, random.Random(seed + number))  # noqa: S311 - a play, no secret
                for number, name in enumerate(VISITORS)
            ]
            try:
                async with asyncio.timeout(MOST_S):
                    return await _play(console, adobe, daemon, visitors)
            except TimeoutError as error:
                raise DemoError(f"the demo did not end within {MOST_S:g} s") from error
            finally:
                await daemon.end(signal.SIGKILL)


async def _play(
    console: Console, adobe: FakeCollector, daemon: Daemon, visitors: list[Visitor]
) -> bool:
    def say(number: int, words: str) -> None:
        console.print(f"[bold]{number}[/] {words}")

    say(1, f"A fake collection server listens at {adobe.url}.")
    await daemon.start()
    say(2, f"trackoffline takes hits at http://127.0.0.1:{daemon.listen}.")
    async with _browsing(console, daemon, visitors, ONLINE):
        pass
    await adobe.wait_for(len(VISITORS) * ONLINE, timeout=MOST_S, answered=True)
    console.print(f"  {adobe.counts.answered} hits of {len(visitors)} visitors went through.")

    await adobe.cut()
    say(3, "The link is cut. The apps notice nothing.")
    async with _browsing(console, daemon, visitors, OFFLINE) as half:
        await half.wait()
        status = await daemon.status()
        console.print(f"  State {status['state']}: {status['waiting']} hits wait on disk.")
        await daemon.end(signal.SIGKILL)
        say(4, "kill -9, while the apps are sending.")
        await daemon.start()
        status = await daemon.status()
        console.print(f"  Started again: {status['waiting']} hits wait on disk.")
    again = sum(visitor.unanswered > 0 for visitor in visitors)
    console.print(f"  {again} apps got no answer meanwhile, and sent the hit again.")
    status = await daemon.status()
    console.print(f"  All hits are answered, {status['waiting']} wait on disk.")

    await adobe.restore()
    say(5, "The link is back.")
    with _bar(console) as bar:
        task = bar.add_task("delivered", total=TOTAL)
        while (status := await daemon.status())["waiting"]:
            bar.update(task, completed=status["delivered"])
            await asyncio.sleep(AGAIN_S)
        bar.update(task, completed=status["delivered"])
    console.print(f"  {status['delivered']} hits are delivered, {status['waiting']} wait.")
    await daemon.end(signal.SIGTERM)
    say(6, "What the collection server has, against what was promised:")
    return _judge(console, adobe, visitors, status)


@contextlib.asynccontextmanager
async def _browsing(
    console: Console, daemon: Daemon, visitors: list[Visitor], hits: int
) -> AsyncIterator[asyncio.Event]:
    """Every visitor sends so many hits meanwhile; the event: it is time to kill."""
    half = asyncio.Event()
    with _bar(console) as bar:
        task = bar.add_task("answered 200", total=len(visitors) * hits)

        def tell() -> None:
            bar.advance(task)
            if sum(len(visitor.kept) for visitor in visitors) >= KILL_AT:
                half.set()

        try:
            async with asyncio.TaskGroup() as apps:
                for visitor in visitors:
                    apps.create_task(visitor.browse(daemon.listen, hits, tell))
                yield half
        except ExceptionGroup as error:
            raise error.exceptions[0] from error


def _bar(console: Console) -> Progress:
    """A bar for someone who watches; in a file its frames would be noise."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _judge(
    console: Console, adobe: FakeCollector, visitors: list[Visitor], status: dict[str, Any]
) -> bool:
    """Hold what the collection server got against what the apps were promised."""
    arrived: dict[str, list[str]] = {visitor.name: [] for visitor in visitors}
    seconds = {}
    for hit in adobe.received:
        who, name, ts = ((hit.param(key) or b"").decode() for key in (b"vid", b"c1", b"ts"))
        arrived.setdefault(who, []).append(name)
        seconds[name] = int(ts or 0)
    promised = {
        name: window
        for visitor in visitors
        for name, window in zip(visitor.kept, visitor.seconds, strict=True)
    }
    lost = len(promised.keys() - seconds.keys())
    twice = len(adobe.received) - len(seconds)
    claims = {
        f"{len(promised)} hits got their 200, {lost} of them are lost": lost == 0
        and len(promised) == TOTAL,
        f"{twice} arrived twice": twice == 0,
        "each visitor's hits arrived in their order": all(
            arrived[visitor.name] == visitor.kept for visitor in visitors
        ),
        "each hit carries the second at which it happened": all(
            seconds.get(name, 0) in window for name, window in promised.items()
        ),
        "accepted {accepted} = waiting {waiting} + delivered {delivered} + dead {dead}"
        " + expired {expired} + discarded {discarded}".format(**status): status["balanced"]
        and status["accepted"] == status["delivered"] == len(promised),
    }
    yes, no = ("✓", "✗") if console.encoding.startswith("utf") else ("yes:", "NO:")
    for claim, holds in claims.items():
        console.print(f"  [green]{yes}[/] {claim}" if holds else f"  [red]{no}[/] {claim}")
    return all(claims.values())


def _free_ports() -> tuple[int, int]:
    # Held together, so that they differ.
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        return one.getsockname()[1], other.getsockname()[1]


async def _until_told(console: Console, told: list[int]) -> bool:
    """Play it; the first signal to end ends it in order, and is noted in `told`."""
    loop = asyncio.get_running_loop()
    playing = asyncio.ensure_future(play(console))

    def end(number: int) -> None:
        told.append(number)
        for each in ENDS:  # nothing more may end the tidying up
            signal.signal(each, signal.SIG_IGN)
        playing.cancel()

    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            loop.add_signal_handler(number, end, number)
    try:
        return await playing
    except asyncio.CancelledError:
        return False


def main(*, color: bool | None = None) -> int:
    """Play it on standard output; 0 when every promise was kept."""
    console = Console(force_terminal=color, highlight=False)
    told: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDS}
    kept = asyncio.run(_until_told(console, told))
    if told:
        for number, what in before.items():
            signal.signal(number, what)
        signal.raise_signal(told[0])  # all is tidy: now as if we had never caught it
    return 0 if kept else 1
