"""Claims about the clocks, the real ones and the one tests move."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from clock import FakeClock

from proxy.shell import clock
from proxy.shell.clock import Clock, SystemClock


def test_the_forward_clock_is_the_one_that_counts_suspend() -> None:
    """The forward-only clock reads milliseconds of CLOCK_BOOTTIME and never goes back."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    first, second = SystemClock().ms(), SystemClock().ms()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    assert before <= first <= second <= after


def test_the_wall_clock_is_unix_time() -> None:
    before = time.time_ns() // 1_000_000
    now = SystemClock().wall_ms()

    assert before <= now <= time.time_ns() // 1_000_000


def test_a_boot_has_one_name() -> None:
    """Two processes of one boot agree on its name, so that they share its offset."""
    assert SystemClock().boot_id == SystemClock().boot_id
    assert SystemClock().boot_id == clock.BOOT_ID.read_text(encoding="ascii").strip()


def test_without_a_name_of_the_boot_each_run_is_one(tmp_path: Path) -> None:
    """Where the kernel names no boot, an invented name is never that of another run."""
    first, second = clock._boot_id(tmp_path / "none"), clock._boot_id(tmp_path / "none")

    assert first != second
    assert str(uuid.UUID(first)) == first


def test_the_tests_clock_is_a_clock() -> None:
    """Time passes on both hands, a step moves one, a reboot starts the other anew."""
    hands = FakeClock(forward_ms=1_000, unix_ms=5_000)
    told: Clock = hands

    hands.passes(2)
    assert (told.ms(), told.wall_ms()) == (3_000, 7_000)
    hands.steps(-1)
    assert (told.ms(), told.wall_ms()) == (3_000, 6_000)
    hands.reboots("another")
    assert (told.ms(), told.wall_ms(), told.boot_id) == (0, 6_000, "another")


def test_what_a_thread_worked_counts_its_waiting_for_a_processor(tmp_path: Path) -> None:
    """In the kernel's nanoseconds; where it does not say, the time it ran alone."""
    said = tmp_path / "schedstat"
    said.write_text("1500000000 500000000 7\n")

    assert clock.worked_s(said) == 2.0
    assert 0 < clock.worked_s(tmp_path / "none") <= time.thread_time()
    assert 0 < clock.worked_s() < 3_600
