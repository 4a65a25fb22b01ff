"""Claims about the log: who reads it can read it, and no hit is ever in it."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from proxy import logs

CONTENT = "pageName=a-secret-page"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The logging of other tests is theirs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.SILENT}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = True
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[tuple[TextIO, Path, str]]:
    """A stream that is the journal's, by what systemd says of it."""
    path = tmp_path / "journal"
    with path.open("w", buffering=1) as stream:
        stat = os.fstat(stream.fileno())
        yield stream, path, f"{stat.st_dev}:{stat.st_ino}"


def fail(visitor: str) -> None:
    """A bug, in a function that has a hit at hand."""
    raise RuntimeError("a bug")


def log_a_traceback() -> None:
    try:
        fail(CONTENT)
    except RuntimeError:
        structlog.get_logger().exception("it broke", hit=17)


def test_elsewhere_than_on_a_terminal_each_line_is_json() -> None:
    stderr = io.StringIO()
    logs.set_up("info", "auto", {}, stderr)

    structlog.get_logger().info("ready", queue="hits.db")

    found = json.loads(stderr.getvalue())
    assert (found["event"], found["level"], found["queue"]) == ("ready", "info", "hits.db")
    assert found["timestamp"].endswith("Z")


def test_on_a_terminal_it_is_for_people() -> None:
    terminal = Terminal()
    logs.set_up("info", "auto", {}, terminal)

    structlog.get_logger().info("ready", queue="hits.db")

    assert "ready" in terminal.getvalue()
    assert "{" not in terminal.getvalue()


@pytest.mark.parametrize("form, is_json", [("console", False), ("json", True)])
def test_a_form_that_was_asked_for_is_what_one_gets(form: str, is_json: bool) -> None:
    stderr = io.StringIO()
    logs.set_up("info", form, {}, stderr)

    structlog.get_logger().info("ready")

    assert stderr.getvalue().startswith("{") is is_json


def test_colour_is_left_out_when_not_wanted() -> None:
    terminal = Terminal()
    logs.set_up("info", "auto", {"NO_COLOR": "1"}, terminal)

    structlog.get_logger().warning("offline")

    assert "\x1b" not in terminal.getvalue()


def test_a_line_can_forge_no_other() -> None:
    """What a server answered may stand in a log; it stays within its line."""
    stderr = io.StringIO()
    logs.set_up("info", "json", {}, stderr)

    structlog.get_logger().info("offline", reason='x\n{"event": "online"}\x1b[2J')

    assert len(stderr.getvalue().splitlines()) == 1
    assert "\x1b" not in stderr.getvalue()


def test_in_the_journal_each_line_has_its_priority_and_no_time(
    journal: tuple[TextIO, Path, str],
) -> None:
    """`journalctl -p warning` reads the priorities, and the journal has its own time."""
    stream, path, name = journal
    logs.set_up("debug", "auto", {"JOURNAL_STREAM": name}, stream)
    log = structlog.get_logger()

    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("word")

    lines = path.read_text().splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert not any("timestamp" in line for line in lines)


def test_in_the_journal_every_line_of_a_traceback_has_its_priority(
    journal: tuple[TextIO, Path, str],
) -> None:
    """The journal takes each line as a message of its own."""
    stream, path, name = journal
    logs.set_up("info", "console", {"JOURNAL_STREAM": name}, stream)

    log_a_traceback()

    lines = path.read_text().splitlines()
    assert len(lines) > 3
    assert {line[:3] for line in lines} == {"<3>"}


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense"])
def test_what_is_not_the_journal_is_not_taken_for_it(
    journal: tuple[TextIO, Path, str], stream: str
) -> None:
    """A child whose standard error was redirected inherits the variable."""
    written, path, _ = journal
    logs.set_up("info", "auto", {"JOURNAL_STREAM": stream}, written)

    structlog.get_logger().info("ready")

    assert path.read_text().startswith("{")


def test_what_libraries_say_comes_the_same_way() -> None:
    stderr = io.StringIO()
    logs.set_up("info", "auto", {}, stderr)

    logging.getLogger("asyncio").warning("%s took %d s", "a task", 3)

    found = json.loads(stderr.getvalue())
    assert (found["event"], found["level"]) == ("a task took 3 s", "warning")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_only_what_is_severe_enough_is_written(level: str) -> None:
    stderr = io.StringIO()
    logs.set_up(level, "json", {}, stderr)
    log = structlog.get_logger()
    order = ["debug", "info", "warning", "error"]

    for one in order:
        getattr(log, one)(one)

    written = [json.loads(line)["event"] for line in stderr.getvalue().splitlines()]
    assert written == order[order.index(level) :]


def test_the_level_can_change_while_running() -> None:
    stderr = io.StringIO()
    logs.set_up("error", "json", {}, stderr)
    structlog.get_logger().info("not yet")

    logs.set_level("info")
    structlog.get_logger().info("now")

    assert json.loads(stderr.getvalue())["event"] == "now"


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_has_no_local_variables(form: str) -> None:
    """A local variable of ours may be a hit; the libraries' default is to show them."""
    terminal = Terminal()
    logs.set_up("debug", form, {}, terminal)

    log_a_traceback()

    assert "RuntimeError: a bug" in terminal.getvalue()
    assert CONTENT not in terminal.getvalue()


@pytest.mark.parametrize("name", logs.SILENT)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_libraries_that_quote_requests_are_not_heard(name: str, level: int) -> None:
    stderr = io.StringIO()
    logs.set_up("debug", "json", {}, stderr)

    logging.getLogger(name).log(level, "executing INSERT of %s", CONTENT)

    assert stderr.getvalue() == ""


class Gone(io.StringIO):
    """A standard error nobody reads, or on a full disk."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """The disk that is full is often the one the log is on too."""
    logs.set_up("info", "json", {}, Gone())

    structlog.get_logger().warning("the disk is full")
    logging.getLogger("asyncio").warning("slow")
