"""Each benchmark runs; how fast is for people to read (docs/performance.md), not for a test."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import tables
from bench.__main__ import SHORT
from proxy.core import dictionary

ROOT = Path(__file__).resolve().parent.parent
WITHIN_S = 120.0


def wrong_with(name: str) -> str:
    """What a benchmark said that failed, or printed no table; nothing when all is well."""
    with subprocess.Popen(
        [sys.executable, "-m", f"bench.{name}", "--smoke"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as child:
        try:
            said, _ = child.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # with all it started
            return f"{name} did not end: {child.communicate()[0]}"
    return "" if child.returncode == 0 and "| --- |" in said else f"{name}: {said}"


def test_each_benchmark_runs_and_prints_its_table() -> None:
    """`--smoke` is the whole of it, made small; two at a time, for nobody reads these figures."""
    names = [*SHORT, "backlog"]
    if shutil.which("cc") is None:
        names.remove("slowdisk")  # its shim wants a C compiler
    with ThreadPoolExecutor(2) as two:
        wrong = [said for said in two.map(wrong_with, names) if said]

    assert wrong == []


def test_tables_for_a_dictionary_are_made_of_samples() -> None:
    """As those of ours were, for its text and with its number; which ones is libzstd's choice."""
    if ctypes.util.find_library("zstd") is None:
        pytest.skip("no libzstd here")
    made = tables.tables([tables.stored(one) for one in tables.apps(1)])
    assert made[:8] == dictionary.TABLES[:8]
    assert 100 < len(made) < 500
