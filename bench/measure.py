"""Rounds, medians, and what a process cost: the parts every benchmark shares."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median [min–max]`."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} [{min(values):.{digits}f}–{max(values):.{digits}f}]"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, so that a slow minute of the machine cancels out."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def cpu_s(pid: int) -> float:
    """User and system seconds a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def rss_mb(pid: int) -> float:
    """Resident memory now."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def wake_ups(pid: int) -> int:
    """How often a process went to sleep of itself, its threads included: each was woken."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text(encoding="ascii").splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                found += int(line.split()[1])
    return found


def written_bytes(pid: int) -> int:
    """Bytes a process caused to be written to disk."""
    for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


@contextlib.contextmanager
def process(*argv: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process of this environment, ended with the block."""
    with command(sys.executable, *argv, env=env) as child:
        yield child


@contextlib.contextmanager
def command(*argv: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Any process, ended with the block."""
    with subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    ) as child:
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


CONFIG = """
[listen]
address = "127.0.0.1:{port}"
[admin]
address = "127.0.0.1:{admin}"
{upstream}
[suites.known.opt]
timestamps = "optional"
[retry]
max = "15s"
[queue]
path = "hits.db"
max_hits = 100_000_000
max_bytes = "1TiB"
min_free_disk = "0B"
keep_delivered = "{keep}"
[drain]
concurrency = {concurrency}
[log]
level = "warning"
"""


@contextlib.contextmanager
def unready(
    port: int,
    folder: Path,
    *,
    server: str | None = None,
    concurrency: int = 64,
    keep: str = "24h",
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in `folder` that has just been started; its admin port is `port + 1`."""
    upstream = f'[upstream]\nserver = "{server}"' if server else ""
    config = folder / "bench.toml"
    config.write_text(
        CONFIG.format(
            port=port, admin=port + 1, upstream=upstream, concurrency=concurrency, keep=keep
        ),
        encoding="utf-8",
    )
    env = {"STATE_DIRECTORY": str(folder), **(env or {})}
    with process("-m", "proxy", "serve", "--config", str(config), env=env) as child:
        yield child


@contextlib.contextmanager
def daemon(
    port: int,
    folder: Path,
    *,
    server: str | None = None,
    concurrency: int = 64,
    keep: str = "24h",
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The same, ready."""
    with unready(port, folder, server=server, concurrency=concurrency, keep=keep, env=env) as child:
        wait_for(lambda: answers(f"http://127.0.0.1:{port + 1}/readyz"), child)
        yield child


def status(port: int) -> dict[str, int]:
    """What the daemon says of itself on its admin port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=10) as response:
        found: dict[str, int] = json.load(response)
    return found


def free_port() -> int:
    """A port that is free now, and the one after it.

    Below those that the system gives to connections: one of them may be gone the next moment.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def load(
    pid: int, port: int, connections: int, seconds: float, rate: float = 0, *, heads: bool = False
) -> dict[str, float]:
    """One stretch of load against a server, and the server's CPU a hit in µs."""
    before = cpu_s(pid)
    found: dict[str, float] = json.loads(
        subprocess.run(
            [
                sys.executable,
                "-m",
                "bench.load",
                str(port),
                str(connections),
                str(seconds),
                f"--rate={rate}",
                *(["--heads"] if heads else []),
            ],
            check=True,
            capture_output=True,
            cwd=ROOT,
        ).stdout
    )
    found["rate"] = found["hits"] / found["seconds"]
    found["cpu_us"] = (cpu_s(pid) - before) / found["hits"] * 1e6
    return found


def table(*head: str) -> None:
    """The head of a table of the report."""
    row(*head)
    row(*("---" for _ in head))


def row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def answers(url: str) -> bool:
    """Whether something answers there with 200."""
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        # Also of a port that nobody has yet: from it, a connection may reach itself.
        return False


def wait_for(
    condition: Callable[[], bool],
    child: subprocess.Popen[bytes] | None = None,
    within_s: float = 30,
) -> None:
    """Poll until it holds; for starting processes, never inside what is measured."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end or (child is not None and child.poll() is not None):
            raise RuntimeError("it did not start")
        time.sleep(0.02)


@contextlib.contextmanager
def folder(keep: Path | None = None) -> Iterator[Path]:
    """A place on the disk to be measured: below `keep`, else the temporary directory."""
    with tempfile.TemporaryDirectory(dir=keep) as name:
        yield Path(name)
