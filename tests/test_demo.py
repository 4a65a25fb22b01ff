"""`trackoffline demo` plays a real outage, holds itself to the promise, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "proxy", "demo"]


def left_behind(folder: Path) -> list[str]:
    """What still runs or lies in the demo's folder."""
    running = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words:
            running.append(words.decode(errors="replace"))
    return running + [str(path) for path in folder.iterdir()]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    assert tempfile.gettempdir()
    return {**os.environ, "TMPDIR": str(tmp_path)}


def test_every_claim_holds_within_half_a_minute(tmp_path: Path, environ: dict[str, str]) -> None:
    """Each is checked, not recited; plain text when nobody watches."""
    done = subprocess.run(
        DEMO, env=environ, capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓") == 5
    assert "✗" not in done.stdout
    assert "kill -9" in done.stdout
    assert "accepted 200 = waiting 0 + delivered 200 + dead 0" in done.stdout
    assert "\x1b" not in done.stdout
    assert left_behind(tmp_path) == []


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    """Neither the daemon nor a file of it."""
    with subprocess.Popen(DEMO, env=environ, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        while "The link is cut" not in demo.stdout.readline():
            pass
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(10) == 130

    assert left_behind(tmp_path) == []
