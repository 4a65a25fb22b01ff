"""Each benchmark runs; how fast is for people to read (docs/performance.md), not for a test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.__main__ import SHORT

ROOT = Path(__file__).resolve().parent.parent
NAMES = (*SHORT, "backlog")


@dataclass(frozen=True, slots=True)
class Run:
    """A benchmark under way, and the file it prints to."""

    child: subprocess.Popen[bytes]
    said: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All of them at once, for nobody reads these figures; each in a group with all it starts."""
    folder = tmp_path_factory.mktemp("bench")
    started: dict[str, Run] = {}
    try:
        for name in NAMES:
            with (folder / name).open("wb") as said:
                child = subprocess.Popen(
                    [sys.executable, "-m", f"bench.{name}", "--smoke"],
                    cwd=ROOT,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            started[name] = Run(child, folder / name)
        yield started
    finally:
        for run in started.values():
            if run.child.poll() is None:
                os.killpg(run.child.pid, signal.SIGKILL)
            run.child.wait()


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_and_prints_its_table(name: str, runs: dict[str, Run]) -> None:
    """`--smoke` is the whole of it, made small."""
    if name == "slowdisk" and shutil.which("cc") is None:
        pytest.skip("its shim wants a C compiler")
    code = runs[name].child.wait(120)
    said = runs[name].said.read_text(encoding="utf-8")

    assert code == 0, said
    assert "| --- |" in said
