"""`trackoffline demo`: an outage in half a minute, on loopback only.

Rule: everything shown is real: the daemon is a process of its own that is killed with
SIGKILL, the collection server is the scriptable fake the tests use, and the last lines
are checked, not recited.
Non-rule: nothing leaves this machine and nothing is left on it.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.fake import FakeCollector, latency, ok

VISITORS = ("Anna", "Ben", "Chloe", "Dario", "Emi")
PAGES = ("Home", "Search", "Product", "Basket", "Checkout", "Thanks")
ONLINE_HITS, OFFLINE_HITS, LATER_HITS = 25, 150, 25

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
[drain]
concurrency = 4
[log]
level = "error"
"""


@dataclass
class Sent:
    """The hits a visitor got a 200 for: their names in order, and the second of each."""

    names: list[str] = field(default_factory=list)
    seconds: list[int] = field(default_factory=list)


class Stage:
    """The daemon, the apps in front of it, and what they were promised."""

    def __init__(self, folder: Path, server: str, seed: int) -> None:
        self.listen, self.admin = _free_port(), _free_port()
        self.config = folder / "demo.toml"
        self.config.write_text(
            CONFIG.format(
                listen=self.listen, admin=self.admin, server=server, queue=folder / "hits.db"
            ),
            encoding="utf-8",
        )
        self.random = random.Random(seed)  # noqa: S311 - a play, not a secret
        self.sent = {name: Sent() for name in VISITORS}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "serve", "--config", str(self.config)
        )
        for _ in range(200):
            if (await _get(f"http://127.0.0.1:{self.admin}/readyz"))[0] == 200:
                return
            await asyncio.sleep(0.05)
        raise RuntimeError("the daemon did not become ready")

    async def end(self, how: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(how)
            await self.process.wait()

    async def send(self, hits: int) -> AsyncIterator[str]:
        """Page views of several visitors; yields each name once it got its 200."""
        for _ in range(hits):
            visitor = self.random.choice(VISITORS)
            sent = self.sent[visitor]
            name = f"{visitor}.{len(sent.names) + 1}"
            page = PAGES[len(sent.names) % len(PAGES)]
            url = (
                f"http://127.0.0.1:{self.listen}/b/ss/demo/1/JS-2.27.0/s{self.random.randrange(10**13)}"
                f"?AQB=1&ndh=1&pf=1&vid={visitor}&ce=UTF-8&pageName={page}&c1={name}&AQE=1"
            )
            before = int(time.time())
            status, _ = await _get(url)
            if status != 200:
                raise RuntimeError(f"a hit was answered {status}")
            sent.names.append(name)
            sent.seconds.append(before)
            yield name

    async def status(self) -> dict[str, Any]:
        _, body = await _get(f"http://127.0.0.1:{self.admin}/api/v1/status")
        found: dict[str, Any] = json.loads(body)
        return found


async def _get(url: str) -> tuple[int, bytes]:
    """Status and body, as an app without any library of ours would get them; 0 for no answer."""

    def ask() -> tuple[int, bytes]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""
        except OSError:
            return 0, b""

    return await asyncio.to_thread(ask)


async def play(console: Console, seed: int = 1) -> bool:
    """The whole demonstration; whether every promise was kept."""
    with tempfile.TemporaryDirectory(prefix="trackoffline-demo-") as name:
        async with FakeCollector() as adobe:
            adobe.always(latency(0.03) | ok())
            stage = Stage(Path(name), adobe.url, seed)
            try:
                return await _play(console, adobe, stage)
            finally:
                await stage.end(signal.SIGKILL)


async def _play(console: Console, adobe: FakeCollector, stage: Stage) -> bool:
    total = ONLINE_HITS + OFFLINE_HITS + LATER_HITS
    console.print(f"[bold]1[/] A fake collection server listens at {adobe.url}.")
    await stage.start()
    console.print(f"[bold]2[/] trackoffline takes hits at http://127.0.0.1:{stage.listen}.")
    await _send(console, stage, ONLINE_HITS, "online: hits answered")
    await adobe.wait_for(ONLINE_HITS, timeout=15, answered=True)
    console.print(f"  {ONLINE_HITS} hits of {len(VISITORS)} visitors, delivered as they came.")

    await adobe.cut()
    console.print("[bold]3[/] The link is cut. Apps notice nothing:")
    await _send(console, stage, OFFLINE_HITS, "offline: hits answered")
    status = await stage.status()
    console.print(f"  state {status['state']}, {status['waiting']} hits wait on disk.")

    await stage.end(signal.SIGKILL)
    console.print("[bold]4[/] kill -9. The daemon is gone, in the middle of everything.")
    await stage.start()
    status = await stage.status()
    console.print(f"  Started again: {status['waiting']} hits still wait.")
    await _send(console, stage, LATER_HITS, "offline: hits answered")

    await adobe.restore()
    console.print("[bold]5[/] The link is back.")
    with _bar(console) as bar:
        task = bar.add_task("draining", total=total, completed=ONLINE_HITS)
        while (status := await stage.status())["delivered"] < total and status["waiting"]:
            bar.update(task, completed=status["delivered"])
            await asyncio.sleep(0.1)
        bar.update(task, completed=status["delivered"])
    await stage.end(signal.SIGTERM)
    return _judge(console, adobe, stage, status)


async def _send(console: Console, stage: Stage, hits: int, label: str) -> None:
    with _bar(console) as bar:
        task = bar.add_task(label, total=hits)
        async for _ in stage.send(hits):
            bar.advance(task)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _judge(console: Console, adobe: FakeCollector, stage: Stage, status: dict[str, Any]) -> bool:
    """Hold what the collection server got against what the apps were promised."""
    arrived: dict[str, list[tuple[str, int]]] = {name: [] for name in VISITORS}
    for hit in adobe.received:
        visitor, name, ts = (hit.param(key) or b"" for key in (b"vid", b"c1", b"ts"))
        arrived[visitor.decode()].append((name.decode(), int(ts)))
    promised = sum(len(sent.names) for sent in stage.sent.values())
    names = [name for hits in arrived.values() for name, _ in hits]
    order = all(
        [name for name, _ in arrived[visitor]] == sent.names for visitor, sent in stage.sent.items()
    )
    time_right = all(
        0 <= ts - second <= 1
        for visitor, sent in stage.sent.items()
        for (_, ts), second in zip(arrived[visitor], sent.seconds, strict=False)
    )
    claims = {
        f"{promised} hits were answered 200, {len(set(names))} arrived": len(set(names))
        == promised,
        f"{len(names) - len(set(names))} arrived twice": len(names) == len(set(names)),
        "each visitor's hits arrived in their order": order,
        "each hit carries the second at which it happened": time_right,
        "accepted {accepted} = waiting {waiting} + delivered {delivered} + dead {dead}"
        " + expired {expired} + discarded {discarded}".format(**status): status["balanced"],
    }
    console.print("[bold]6[/] What the collection server has, against what was promised:")
    for claim, holds in claims.items():
        console.print(f"  {'[green]✓[/]' if holds else '[red]✗[/]'} {claim}")
    return all(claims.values())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(*, color: bool | None = None) -> int:
    """Play it on standard output; 0 when every promise was kept."""
    console = Console(force_terminal=color, highlight=False)
    return 0 if asyncio.run(play(console)) else 1
