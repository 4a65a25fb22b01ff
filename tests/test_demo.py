"""`trackoffline demo` plays a real outage, holds itself to the promise, and leaves nothing."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from proxy import demo
from proxy.fake import FakeCollector, Received

ROOT = Path(demo.__file__).parents[1]
# As the console script does, it finds the package without a look at the working directory.
DEMO = [sys.executable, "-P", "-m", "proxy", "demo"]


def running(folder: Path) -> list[int]:
    """The processes started with a file in the demo's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in process.read_bytes():
                found.append(int(process.parent.name))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the demo has its files, and nobody else."""
    folder = tmp_path / "of the demo"
    folder.mkdir()
    yield folder
    for left in running(folder):
        os.kill(left, signal.SIGKILL)


@pytest.fixture
def environ(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}


def test_every_claim_holds_within_half_a_minute(
    tmp_path: Path, folder: Path, environ: dict[str, str]
) -> None:
    """Also where a real daemon is configured, and in a folder with another package `proxy`.

    Plain text when nobody watches.
    """
    other = tmp_path / "proxy"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the wrong package')")
    environ["TRACKOFFLINE_UPSTREAM__SERVER"] = "http://127.0.0.1:9"
    environ["trackoffline_queue__max_hits"] = "7"
    done = subprocess.run(
        DEMO, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓") == 5
    assert "✗" not in done.stdout
    assert "kill -9" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "accepted 200 = waiting 0 + delivered 200 + dead 0 + expired 0 + discarded 0" in last
    assert "\x1b" not in done.stdout
    assert "━" not in done.stdout, "a bar is for someone who watches"
    assert not done.stderr
    assert running(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "number, code, again",
    [
        (signal.SIGINT, 130, False),
        (signal.SIGTERM, -signal.SIGTERM, True),
        (signal.SIGHUP, -signal.SIGHUP, True),  # the terminal was closed
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    folder: Path, environ: dict[str, str], number: signal.Signals, code: int, again: bool
) -> None:
    """Neither the daemon, nor a file of it, nor a hidden cursor; also when told over and over."""
    terminal, its = pty.openpty()
    hung_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored here, as by nohup
    shown = subprocess.Popen(DEMO, env={**environ, "TERM": "xterm"}, stdout=its, stderr=its)
    signal.signal(signal.SIGHUP, hung_up)
    with shown:
        os.close(its)
        seen = b""
        while b"answered 200" not in seen.partition(b"The link is cut")[2]:
            seen += os.read(terminal, 4096)
        shown.send_signal(number)
        while again and shown.poll() is None:
            shown.send_signal(number)
            time.sleep(0.001)  # every moment of its tidying up may be interrupted
        assert shown.wait(10) == code, seen
    os.set_blocking(terminal, False)
    with contextlib.suppress(OSError):
        while more := os.read(terminal, 4096):
            seen += more
    os.close(terminal)
    assert b"Traceback" not in seen
    assert b"Ready (^C to quit)" not in seen, "the daemon has no words for this terminal"
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") > 0
    assert running(folder) == []
    assert list(folder.iterdir()) == []


# -- its judgement ---------------------------------------------------------------------------

FIRST_SECOND = 1_700_000_000
Played = tuple[list[Received], dict[str, int | bool]]


def arrival(visitor: str, number: int, ts: int) -> Received:
    target = f"/b/ss/demo/1/JS-2.27.0/s1?AQB=1&ts={ts}&vid={visitor}&c1={visitor}.{number}&AQE=1"
    return Received(1, 1, 0.0, "GET", target.encode(), b"HTTP/1.1", (), b"", status=200)


def judged(doctor: Callable[[Played], Played], encoding: str = "utf-8") -> tuple[bool, str]:
    """What the demo says of a play that went well, but for what was done to it."""
    visitors = [demo.Visitor(name, random.Random(0)) for name in demo.VISITORS]
    received = []
    for visitor in visitors:
        for number in range(1, demo.TOTAL // len(visitors) + 1):
            second = FIRST_SECOND + number
            visitor.kept.append(f"{visitor.name}.{number}")
            visitor.seconds.append(range(second, second + 1))
            received.append(arrival(visitor.name, number, second))
    status = dict.fromkeys(("waiting", "dead", "expired", "discarded"), 0)
    status |= dict.fromkeys(("accepted", "delivered"), demo.TOTAL) | {"balanced": True}
    adobe = FakeCollector()
    adobe.received, said = doctor((received, status))
    written = io.BytesIO()
    console = Console(file=io.TextIOWrapper(written, encoding, write_through=True), width=120)
    kept = demo._judge(console, adobe, visitors, said)
    return kept, written.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding, yes", [("utf-8", "✓"), ("ascii", "yes:")])
def test_a_play_that_went_well_is_judged_so(encoding: str, yes: str) -> None:
    kept, words = judged(lambda played: played, encoding)
    assert kept
    assert words.count(yes) == 5


def lost(played: Played) -> Played:
    received, status = played
    return received[:-1], status


def twice(played: Played) -> Played:
    received, status = played
    return [received[0], *received], status


def out_of_order(played: Played) -> Played:
    received, status = played
    return [received[1], received[0], *received[2:]], status


def at_the_time_of_sending(played: Played) -> Played:
    received, status = played
    late = replace(received[0], target=received[0].target.replace(b"ts=17", b"ts=18"))
    return [late, *received[1:]], status


def without_a_time(played: Played) -> Played:
    received, status = played
    return [
        replace(received[0], target=b"/b/ss/demo/1/J/s1?vid=Anna&c1=Anna.1"),
        *received[1:],
    ], status


def not_accounted_for(played: Played) -> Played:
    received, status = played
    return received, {**status, "delivered": demo.TOTAL - 1}


@pytest.mark.parametrize(
    "doctor, claim",
    [
        (lost, "1 of them are lost"),
        (twice, "1 arrived twice"),
        (out_of_order, "in their order"),
        (at_the_time_of_sending, "the second at which"),
        (without_a_time, "the second at which"),
        (not_accounted_for, "accepted 200 = waiting 0 + delivered 199"),
    ],
)
def test_each_claim_can_fail(doctor: Callable[[Played], Played], claim: str) -> None:
    kept, words = judged(doctor)
    assert not kept
    assert [line for line in words.splitlines() if "✗" in line and claim in line], words
