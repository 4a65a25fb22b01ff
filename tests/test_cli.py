"""Claims about the command line: what a verb prints, where, and with which code it ends.

Verbs that talk to a daemon are processes of their own, as a shell starts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from daemon import Launch, Process, Serve, Served, free_ports, write_config

from proxy import __version__, config, fake
from proxy.cli import browser, show
from proxy.cli.exits import Exit
from proxy.cli.root import Root, root
from proxy.fake import FakeCollector

ROOT = Path(__file__).parent.parent
OPTIONAL = {"suites.timestamps": "optional"}
HEAVY = ("aiohttp", "aiosqlite", "pydantic", "rich", "structlog", "urllib.request")


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs `trackoffline` in a folder of its own, with a given configuration."""

    folder: Path
    config: Path | None = None

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TRACKOFFLINE")}
        return {**kept, "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **(more or {})}

    def command(self, *words: str) -> list[str]:
        config = [] if self.config is None else ["--config", str(self.config)]
        return [sys.executable, "-m", "proxy", *words, *config]

    async def __call__(
        self, *words: str, typed: str = "", environ: Mapping[str, str] | None = None
    ) -> Said:
        done = await asyncio.to_thread(
            subprocess.run,
            self.command(*words),
            cwd=self.folder,
            env=self.environ(environ),
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell without a configuration."""
    folder = tmp_path / "home"
    folder.mkdir()
    return Shell(folder)


def shell_for(daemon: Process | Served, tmp_path: Path, more: Mapping[str, object] = {}) -> Shell:
    """A shell whose configuration leads to this daemon."""
    folder = tmp_path / "home"
    folder.mkdir(exist_ok=True)
    settings = {
        "listen.address": daemon.beacons,
        "admin.address": daemon.admin,
        "queue.path": str(daemon.queue_file),
        **more,
    }
    return Shell(folder, write_config(folder / "asked.toml", settings))


def shell_without(tmp_path: Path, more: Mapping[str, object] = {}) -> Shell:
    """A shell whose configuration leads to no daemon."""
    beacons, admin = free_ports(2)
    folder = tmp_path / "home"
    folder.mkdir(exist_ok=True)
    settings = {
        "listen.address": f"127.0.0.1:{beacons}",
        "admin.address": f"127.0.0.1:{admin}",
        "queue.path": str(tmp_path / "hits.db"),
        **more,
    }
    return Shell(folder, write_config(folder / "alone.toml", settings))


def run(*words: str, group: click.Group = root, environ: Mapping[str, str] | None = None) -> Said:
    """A verb that needs no daemon, within this process."""
    cleared = {name: None for name in os.environ if name.startswith("TRACKOFFLINE")}
    done = CliRunner().invoke(group, list(words), env={**cleared, **(environ or {})})
    return Said(done.exit_code, done.stdout, done.stderr)


@contextlib.contextmanager
def other_program() -> Iterator[str]:
    """An address something else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def bereave(serve: Serve, adobe: FakeCollector) -> Served:
    """A daemon with two dead letters of one suite and one of another."""
    adobe.when(b"buried", fake.status(404))
    adobe.when(b"gone", fake.status(410))
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(2), suite="buried", visitors=2)
    await served.hits(range(2, 3), suite="gone")
    await served.until(lambda status: status["dead"] == 3)
    return served


# -- help ------------------------------------------------------------------------------------------


def every_command(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, verb in command.commands.items():
            yield from every_command(verb, *words, name)


@pytest.mark.parametrize(
    "words, command",
    [pytest.param(*one, id=" ".join(one[0]) or "-") for one in every_command(root)],
)
def test_help_lists_every_verb_and_every_option(words: tuple[str, ...], command: Any) -> None:
    """What is not in `--help` does not exist for whoever needs it at night."""
    said = run(*words, "--help")

    assert said.code == 0
    for option in command.get_params(click.Context(command)):
        if isinstance(option, click.Option):
            assert all(name in said.out for name in option.opts), option.opts
            assert option.help, option.opts
    for verb in getattr(command, "commands", {}):
        assert f"  {verb}" in said.out
    assert "..." not in said.out.partition("Commands:")[2], "a sentence of --help is cut off"


def test_help_explains_every_exit_code() -> None:
    said = run("--help")

    for code in Exit:
        assert f"\n  {code.value:<3}  {code.meaning}" in said.out


def test_exit_codes_are_those_of_sysexits() -> None:
    """Scripts and units rely on them: a released code never changes."""
    assert {code.name: code.value for code in Exit} == {
        "OK": 0,
        "FAULT": 1,
        "USAGE": 2,
        "NOT_SO": 3,
        "UNREACHABLE": os.EX_UNAVAILABLE,
        "BUG": os.EX_SOFTWARE,
        "STORAGE": os.EX_CANTCREAT,
        "TEMPORARY": os.EX_TEMPFAIL,
        "TOKEN": os.EX_NOPERM,
        "CONFIG": os.EX_CONFIG,
        "INTERRUPTED": 130,
    }


def test_help_loads_nothing_heavy() -> None:
    """Its time is the interface's first impression; the libraries cost three times as much."""
    script = f"import sys, proxy.__main__; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)

    assert done.stdout.strip() == b"[]"


@pytest.mark.parametrize(
    "words, guess",
    [(["serv"], "serve"), (["stauts"], "status"), (["dead", "requeu"], "requeue")],
)
def test_a_misspelt_verb_is_answered_with_the_nearest(words: list[str], guess: str) -> None:
    said = run(*words)

    assert said.code == Exit.USAGE
    assert f'Did you mean "{guess}"?' in said.err


@pytest.mark.parametrize("words", [["xyzzy"], ["status", "--xyzzy"], ["completion", "csh"]])
def test_bad_usage_ends_with_2(words: list[str]) -> None:
    said = run(*words)

    assert said.code == Exit.USAGE
    assert said.out == ""


def test_a_fault_of_ours_shows_its_traceback_and_ends_with_70() -> None:
    """An unexpected exception is never dressed up as the operator's mistake."""

    @click.command()
    def breaks() -> None:
        raise ZeroDivisionError("a bug")

    said = run("breaks", group=Root("trackoffline", commands={"breaks": breaks}))

    assert said.code == Exit.BUG
    assert "ZeroDivisionError: a bug" in said.err
    assert said.out == ""


# -- what needs no daemon --------------------------------------------------------------------------


def test_the_version_is_the_result() -> None:
    assert run("version") == Said(0, f"{__version__}\n", "")
    assert run("version", "--json").json() == {"version": __version__}


def test_an_option_may_stand_before_or_after_the_verb() -> None:
    before, after = run("--json", "version"), run("version", "--json")

    assert before == after


def test_an_option_wins_over_the_environment(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    write_config(one, {"queue.max_hits": 11})
    write_config(other, {"queue.max_hits": 22})
    environ = {"TRACKOFFLINE_CONFIG": str(one)}

    assert "queue.max_hits = 11" in run("config", "show", environ=environ).out
    for words in (
        ["--config", str(other), "config", "show"],
        ["config", "show", "--config", str(other)],
    ):
        assert "queue.max_hits = 22" in run(*words, environ=environ).out


def test_the_settings_in_effect_say_who_set_them(tmp_path: Path) -> None:
    file = write_config(tmp_path / "config.toml", {"queue.max_hits": 11})
    environ = {"TRACKOFFLINE_CONFIG": str(file), "TRACKOFFLINE_RETRY__ATTEMPTS": "7"}

    found = {one["key"]: one for one in run("config", "show", "--json", environ=environ).json()}

    assert found["queue.max_hits"]["origin"] == "file"
    assert (found["retry.attempts"]["value"], found["retry.attempts"]["origin"]) == (
        "7",
        "environment",
    )
    assert found["listen.address"]["origin"] == "default"


def test_the_table_of_settings_has_all_of_them() -> None:
    said = run("config", "table")

    assert "| `queue.max_hits` |" in said.out


def test_the_schema_of_the_settings_is_printed() -> None:
    assert json.loads(run("config", "schema").out)["title"] == "trackoffline"


SHEET = """\ufeffSolution design;Owner
;Variable;Name;Type
shop;eVar12;Search  term;merch
;evar12;another;
;event3;"Form ""A"" sent";counter
;prop5;;
;Ctx.cart.size;Basket;
"""


def test_a_sheet_becomes_the_section_of_variables(tmp_path: Path) -> None:
    """Whatever its columns; and what is printed is a configuration."""
    sheet, file = tmp_path / "sdr.csv", tmp_path / "config.toml"
    sheet.write_text(SHEET, encoding="utf-8")

    said = run("config", "variables", str(sheet))
    assert said.code == 0
    file.write_text(said.out, encoding="utf-8")
    assert config.names(config.load(file, {})) == {
        "evar12": "Search term",
        "event3": 'Form "A" sent',
        "ctx.cart.size": "Basket",
    }
    sheet.write_text("nothing,here\n", encoding="utf-8")
    assert run("config", "variables", str(sheet)).code == Exit.FAULT


def test_context_data_of_any_name_makes_a_configuration(tmp_path: Path) -> None:
    """TOML knows no surrogates, with which JSON writes some characters."""
    sheet, file = tmp_path / "sdr.csv", tmp_path / "config.toml"
    sheet.write_text("ctx.\U0001f6d2,Basket\nctx.\x7f,Delete\n", encoding="utf-8")

    file.write_text(run("config", "variables", str(sheet)).out, encoding="utf-8")

    assert config.names(config.load(file, {})) == {"ctx.\U0001f6d2": "Basket"}


@pytest.mark.parametrize("sheet", [b"eVar1,Gr\xf6\xdfe\n", b'eVar1,"' + b"x" * 200_000 + b'"\n'])
def test_a_sheet_that_cannot_be_read_is_no_fault_of_ours(tmp_path: Path, sheet: bytes) -> None:
    """Spreadsheets save CSV in the encoding of their system, unless they are told."""
    file = tmp_path / "sdr.csv"
    file.write_bytes(sheet)

    said = run("config", "variables", str(file))

    assert said.code == Exit.FAULT
    assert f"{file} is no CSV in UTF-8" in said.err


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_completion_script_is_for_our_name(name: str) -> None:
    said = run("completion", name)

    assert said.code == 0
    assert "_TRACKOFFLINE_COMPLETE" in said.out


# -- serve -----------------------------------------------------------------------------------------


async def test_a_configuration_is_refused_with_every_fault_at_once(shell: Shell) -> None:
    (shell.folder / "config.toml").write_text("[queue]\nmax_hitz = 10\n[retry]\nattempts = 0\n")

    said = await shell("serve")

    assert said.code == Exit.CONFIG
    assert 'config.toml:2:1: queue.max_hitz is not a setting. Did you mean "max_hits"?' in said.err
    assert "config.toml:4:12: retry.attempts is 0" in said.err
    assert "2 problems; nothing was started." in said.err
    assert said.out == ""
    assert [path.name for path in shell.folder.iterdir()] == ["config.toml"]


async def test_a_configuration_that_is_not_there_is_no_set_of_defaults(shell: Shell) -> None:
    said = await shell("serve", "--config", "nowhere.toml")

    assert said.code == Exit.CONFIG
    assert "nowhere.toml" in said.err


async def test_sigterm_stops_in_order(process: Launch, adobe: FakeCollector) -> None:
    """Exit 0, quickly, with every hit accounted for and nothing in the log but words."""
    daemon = process(adobe, OPTIONAL)
    await daemon.start()
    await daemon.hits(range(3))
    await daemon.until(lambda status: status["delivered"] == 3)

    began = time.monotonic()
    code = await daemon.terminate()

    assert code == 0
    assert time.monotonic() - began < 5
    assert '"stopped"' in daemon.log
    assert "Traceback" not in daemon.log


async def stopping(daemon: Process, adobe: FakeCollector) -> None:
    """A daemon that was told to stop once, and waits for a send in flight."""
    adobe.always(fake.timeout(None))
    await daemon.start()
    await daemon.hits(range(1))
    await adobe.until(lambda: len(adobe.received) == 1)
    daemon.signal(signal.SIGTERM)
    with contextlib.suppress(ConnectionError, OSError):
        while True:  # until it takes no hits any more: then the signal has arrived
            _, writer = await asyncio.open_connection(*daemon.beacons.split(":"))
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_second_signal_does_not_wait(
    process: Launch, adobe: FakeCollector, number: signal.Signals, code: int
) -> None:
    daemon = process(adobe, OPTIONAL)
    await stopping(daemon, adobe)

    began = time.monotonic()
    daemon.signal(number)

    assert await daemon.ended() == code
    assert time.monotonic() - began < 2
    assert "Traceback" not in daemon.log


async def test_an_interrupt_stops_in_order_too(process: Launch) -> None:
    daemon = process()
    await daemon.start()

    daemon.signal(signal.SIGINT)

    assert await daemon.ended() == 0


async def test_a_queue_file_has_one_owner(process: Launch, tmp_path: Path) -> None:
    daemon = process()
    await daemon.start()

    said = await shell_without(tmp_path, {"queue.path": str(daemon.queue_file)})("serve")

    assert said.code == Exit.TEMPORARY
    assert f"{daemon.queue_file} is in use by another process" in said.err
    assert "Traceback" not in said.err


async def test_a_newer_queue_file_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "hits.db")) as db:
        db.execute("PRAGMA user_version = 999")

    said = await shell_without(tmp_path)("serve")

    assert said.code == Exit.CONFIG
    assert "version 999" in said.err
    assert "Traceback" not in said.err


async def test_a_queue_that_cannot_be_created_ends_with_73(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    said = await shell_without(tmp_path, {"queue.path": str(tmp_path / "file/hits.db")})("serve")

    assert said.code == Exit.STORAGE
    assert "Traceback" not in said.err


def test_a_code_is_given_where_no_line_can_be_written(tmp_path: Path) -> None:
    """Standard error may be a file on the very disk that is full; a supervisor reads the code."""
    file = write_config(tmp_path / "config.toml", {"queue.path": "/proc/none/hits.db"})
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(file)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stderr=full, check=False, timeout=30)
    assert done.returncode == Exit.STORAGE


@pytest.mark.parametrize("setting", ["listen.address", "admin.address"])
async def test_a_port_in_use_is_one_line_with_its_setting(tmp_path: Path, setting: str) -> None:
    with other_program() as address:
        said = await shell_without(tmp_path, {setting: address})("serve")

    assert said.code == Exit.TEMPORARY
    last = said.err.splitlines()[-1]
    assert last.startswith(f"{setting}: {address} is in use by another program")
    assert "Traceback" not in said.err


@pytest.mark.parametrize("setting", ["listen.address", "admin.address"])
async def test_another_trackoffline_on_a_port_is_called_so(
    process: Launch, tmp_path: Path, setting: str
) -> None:
    daemon = process()
    await daemon.start()
    address = daemon.beacons if setting == "listen.address" else daemon.admin

    said = await shell_without(tmp_path, {setting: address})("serve")

    assert said.code == Exit.TEMPORARY
    assert f"{setting}: {address} is in use by another trackoffline" in said.err
    assert (await daemon.status())["refused"] == 0, "asking who it is counts as no refusal"


async def test_the_page_is_opened_in_the_browser(process: Launch, tmp_path: Path) -> None:
    """As soon as it is served."""
    opened, program = tmp_path / "opened", tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}.new && mv {opened}.new {opened}\n')
    program.chmod(0o755)
    daemon = process()
    daemon.args = ("--open",)
    daemon.environ |= {"BROWSER": f"{program} %s"}
    await daemon.start()

    async with asyncio.timeout(10):
        while not opened.exists():  # noqa: ASYNC110 - another program's doing has no event
            await asyncio.sleep(0.02)

    assert opened.read_text() == f"http://{daemon.admin}/\n"


@pytest.mark.parametrize(
    "environ, platform, said",
    [
        ({"NOTIFY_SOCKET": "/run/notify", "DISPLAY": ":0"}, "linux", "a service"),
        ({"LISTEN_FDS": "1", "DISPLAY": ":0"}, "linux", "a service"),
        ({"DISPLAY": ""}, "linux", "no screen"),
        ({"DISPLAY": ":0"}, "linux", None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", None),
        ({"BROWSER": "firefox"}, "linux", None),
        ({}, "darwin", None),
    ],
)
def test_a_browser_is_opened_where_a_person_sits(
    environ: dict[str, str], platform: str, said: str | None
) -> None:
    """A terminal's own browser would take the terminal away."""
    assert (said or "None") in str(browser.lacking(environ, platform))


async def test_where_no_browser_can_be_started_it_is_said(process: Launch) -> None:
    """And where the page is; hits are taken all the same."""
    daemon = process()
    daemon.args = ("--open",)
    daemon.environ |= {"BROWSER": "/nowhere/at/all", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    await daemon.start()

    async with asyncio.timeout(10):
        while "No browser could be started" not in daemon.log:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    assert f"http://{daemon.admin}/" in daemon.log
    assert (await daemon.send("/b/ss/a/1/x/s1?AQB=1&AQE=1")).status == 200


async def test_v_tells_of_each_hit_by_its_number(process: Launch) -> None:
    """And never with what it says."""
    daemon = process()
    daemon.args = ("-v",)
    await daemon.start()
    await daemon.send("/b/ss/shop/1/x/s1?AQB=1&pageName=a-secret&AQE=1")

    async with asyncio.timeout(20):
        while '"event": "hit"' not in daemon.log:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)

    (line,) = (json.loads(one) for one in daemon.log.splitlines() if '"event": "hit"' in one)
    assert (line["hit"], line["state"], line["suites"]) == (1, "waiting", "shop")
    assert line["findings"] == "W1,N2"
    assert "secret" not in daemon.log


async def test_v_tells_what_was_asked_and_where_a_fault_arose(
    served: Served, tmp_path: Path
) -> None:
    """Beside the result, which is the same."""
    shell = shell_for(served, tmp_path)

    said = await shell("status", "-v", "--json")
    assert said.json()["state"] == "capture"
    assert f"configuration: {shell.config}" in said.err
    assert f"> GET http://{served.admin}/api/v1/status" in said.err
    assert "< 200 OK, " in said.err

    await served.stop()
    said = await shell("retry", "--verbose")
    assert said.code == Exit.UNREACHABLE
    assert "ConnectionRefusedError" in said.err


async def test_capture_sends_nothing_whatever_is_configured(
    process: Launch, adobe: FakeCollector
) -> None:
    daemon = process(adobe, OPTIONAL)
    daemon.args = ("--capture",)
    await daemon.start()

    await daemon.hits(range(1))

    found = await daemon.status()
    assert (found["state"], found["waiting"]) == ("capture", 1)
    assert await daemon.terminate() == 0
    assert adobe.received == []


async def test_a_changed_configuration_is_read_on_sighup(process: Launch) -> None:
    daemon = process(None, {"queue.max_hits": 1})
    await daemon.start()
    await daemon.hits(range(1))
    assert (await daemon.status())["state"] == "refusing"
    settings = daemon.config_file.read_text()

    daemon.config_file.write_text(settings.replace("max_hits = 1", "max_hits = 0"))
    daemon.signal(signal.SIGHUP)
    daemon.config_file.write_text(settings.replace("max_hits = 1", "max_hits = 9"))
    daemon.signal(signal.SIGHUP)

    await daemon.until(lambda status: status["state"] == "capture")
    assert await daemon.terminate() == 0


async def test_what_may_surprise_is_logged_at_the_start(process: Launch) -> None:
    daemon = process()
    await daemon.start()

    events = [json.loads(line) for line in daemon.log.splitlines()]

    assert events[0]["file"] == str(daemon.config_file)
    assert any(line["level"] == "warning" and "capture only" in line["event"] for line in events)


# -- status ----------------------------------------------------------------------------------------


async def test_status_is_what_an_operator_reads_first(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    await adobe.cut()
    served = await serve(adobe, OPTIONAL | {"admin.label": "store-17"})
    await served.hits(range(3))
    await served.until(lambda status: status["forwarding"]["last_failure"] is not None)

    said = await shell_for(served, tmp_path)("status")

    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"trackoffline {__version__}  store-17  up ")
    assert f"from the daemon at http://{served.admin}" in said.out
    assert "Offline    since " in said.out
    assert "Waiting    3 hits (" in said.out


async def test_status_as_json_is_the_api_and_its_source(served: Served, tmp_path: Path) -> None:
    shell = shell_for(served, tmp_path)

    found = (await shell("status", "--json")).json()

    assert found["state"] == "capture"
    assert served.admin in found["source"]


async def test_without_a_daemon_the_file_is_read_and_named(serve: Serve, tmp_path: Path) -> None:
    served = await serve()
    await served.hits(range(2))
    await served.stop()
    shell = shell_for(served, tmp_path)

    people, programs = await shell("status"), await shell("status", "--json")

    assert (people.code, programs.code) == (0, 0)
    assert f"from the file {served.queue_file}; no daemon answers" in people.out
    assert "Waiting    2 hits" in people.out
    found = programs.json()
    assert (found["state"], found["waiting"]) == ("stopped", 2)
    assert "from the file" in found["source"]


async def test_reading_the_file_changes_nothing_in_it(serve: Serve, tmp_path: Path) -> None:
    served = await serve()
    await served.hits(range(2))
    await served.stop()
    before = served.queue_file.read_bytes()

    await shell_for(served, tmp_path)("status")
    await shell_for(served, tmp_path)("dead")

    assert served.queue_file.read_bytes() == before


async def test_with_neither_daemon_nor_file_status_ends_with_69(tmp_path: Path) -> None:
    said = await shell_without(tmp_path)("status")

    assert said.code == Exit.UNREACHABLE
    assert "no daemon answers" in said.err
    assert "no queue file" in said.err
    assert said.out == ""


async def test_another_daemon_is_not_replaced_by_our_file(serve: Serve, tmp_path: Path) -> None:
    """With --admin another daemon is meant; our own file would be a wrong answer."""
    served = await serve()
    await served.stop()

    said = await shell_for(served, tmp_path)("status", "--admin", f"http://{served.admin}")

    assert said.code == Exit.UNREACHABLE


async def test_exit_code_tells_whether_a_person_is_needed(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    served = await serve(adobe, OPTIONAL)
    shell = shell_for(served, tmp_path)
    await served.hits(range(1))
    await served.until(lambda status: status["delivered"] == 1)
    assert (await shell("status", "--exit-code")).code == 0

    await served.tell("/api/v1/forwarding/offline")

    said = await shell("status", "--exit-code")
    assert said.code == Exit.NOT_SO
    assert "Held       by a person" in said.out
    assert (await shell("status")).code == 0


async def test_a_daemon_with_nothing_to_send_is_not_called_offline(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    """Nothing was tried, so nothing is known."""
    served = await serve(adobe)

    said = await shell_for(served, tmp_path)("status")

    assert "Ready      nothing has been sent to http://127.0.0.1:" in said.out


async def test_a_server_that_asked_for_a_pause_is_not_said_to_take_hits(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    """Nothing goes out for as long, and who looks is told why, by the status and by health."""
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(1))
    await served.until(lambda status: status["delivered"] == 1)
    adobe.always(fake.status(429, retry_after=3600))
    await served.hits(range(1, 2))
    await served.until(lambda status: status["forwarding"]["next_try_seconds"])

    said = await shell_for(served, tmp_path)("status")
    checks = (await served.ask("/api/v1/health")).json()["checks"]

    assert "has to be left alone: 429 from the collection server; next try in 59m" in said.out
    (upstream,) = (check for check in checks if check["name"] == "upstream")
    assert upstream["state"] == "warn"
    assert "429" in upstream["text"]


async def test_health_does_not_say_that_hits_are_taken_before_one_was(
    serve: Serve, adobe: FakeCollector
) -> None:
    served = await serve(adobe)
    checks = (await served.ask("/api/v1/health")).json()["checks"]
    (upstream,) = (check for check in checks if check["name"] == "upstream")
    assert "takes hits" not in upstream["text"]


def test_what_others_wrote_moves_no_cursor() -> None:
    """A server's answer or a suite's name may hold what a terminal obeys."""
    evil = "\x1b[2J\x9b2J\r\n\x07\u202e"
    letter = {"id": 1, "reason": evil, "suites": evil, "tries": 1, "received_ms": 0}
    status = {
        **dict.fromkeys(("waiting", "waiting_bytes", "delivered", "dead"), 0),
        **dict.fromkeys(("expired", "discarded", "ambiguous"), 0),
        "state": "offline",
        "forwarding": {"since_ms": 0, "last_failure": evil},
        "held_suites": {evil: {"hits": 1, "reason": evil}},
    }

    lines = [
        *show.status_lines(status, evil),
        show.state_line(status),
        *show.letter_lines([letter]),
        *show.group_lines(show.by_reason([letter])),
    ]

    assert len(lines) > 8
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "words, environ, colored",
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {}, False),
        ([], {"TRACKOFFLINE_COLOR": "always"}, True),
    ],
)
async def test_colour_comes_when_asked_for(
    served: Served, tmp_path: Path, words: list[str], environ: dict[str, str], colored: bool
) -> None:
    said = await shell_for(served, tmp_path)("status", *words, environ=environ)

    assert ("\x1b[" in said.out) is colored


# -- asking ----------------------------------------------------------------------------------------


async def test_a_proxy_of_the_environment_is_not_asked(served: Served, tmp_path: Path) -> None:
    """The token would go there."""
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    environ = {"http_proxy": dead, "HTTP_PROXY": dead, "all_proxy": dead}

    said = await shell_for(served, tmp_path)("status", environ=environ)

    assert "from the daemon" in said.out


async def test_a_token_of_the_configuration_is_used(serve: Serve, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    given = {"admin.token_file": str(token)}
    served = await serve(None, given)

    said = await shell_for(served, tmp_path, given)("status")

    assert said.code == 0
    assert "secret" not in said.out + said.err


@pytest.mark.parametrize("words", [["status"], ["online"], ["dead"], ["dead", "export"]])
async def test_without_its_token_a_daemon_tells_nothing(
    serve: Serve, tmp_path: Path, words: list[str]
) -> None:
    """And the file is no way around it: the daemon is there, and it said no."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    served = await serve(None, {"admin.token_file": str(token)})
    shell = shell_for(served, tmp_path)

    for said in (
        await shell(*words),
        await shell(*words, environ={"TRACKOFFLINE_TOKEN": "wrong"}),
    ):
        assert said.code == Exit.TOKEN
        assert said.out == ""
        assert "token" in said.err


async def test_a_token_in_the_environment_is_used(serve: Serve, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    served = await serve(None, {"admin.token_file": str(token)})
    environ = {"TRACKOFFLINE_TOKEN": "secret", "TRACKOFFLINE_ADMIN_URL": f"http://{served.admin}"}

    said = await shell_without(tmp_path)("status", environ=environ)

    assert said.code == 0


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://127.0.0.1:1", "http://", "http://[::1", "http://h:x"]
)
def test_an_address_that_is_none_is_bad_usage(url: str) -> None:
    assert run("online", "--admin", url).code == Exit.USAGE


async def test_something_else_on_the_admin_port_is_called_so(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    said = await shell_without(tmp_path)("status", "--admin", adobe.url)

    assert said.code in (Exit.UNREACHABLE, Exit.FAULT)
    assert adobe.url in said.err
    assert "Traceback" not in said.err


async def test_without_an_admin_port_a_daemon_cannot_be_told(tmp_path: Path) -> None:
    said = await shell_without(tmp_path, {"admin.address": ""})("online")

    assert said.code == Exit.UNREACHABLE
    assert "admin.address" in said.err


# -- steering --------------------------------------------------------------------------------------


async def test_forwarding_is_held_and_let_go(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    served = await serve(adobe, OPTIONAL)
    shell = shell_for(served, tmp_path)

    held = await shell("offline", "--for", "2h")
    assert (held.code, held.err) == (0, "")
    assert held.out.startswith("Held       by a person, until 20")
    left_s = (await served.status())["forwarding"]["held_until_ms"] / 1000 - time.time()
    assert 7000 < left_s <= 7200

    assert (await shell("offline")).out.startswith("Held       by a person, until `trackoffline")
    assert (await shell("online", "--quiet")).out == ""
    assert (await served.status())["state"] != "held"
    assert (await shell("retry", "--json")).json()["state"] != "held"
    assert (await shell("retry", "page:nothing")).code == Exit.FAULT
    await adobe.cut()
    await served.hits(range(2))
    await served.until(lambda status: status["state"] == "offline")
    said = await shell("retry", "page:p1")
    assert (said.code, said.err[:11]) == (0, "1 hit waits")
    assert said.out.startswith("Offline")


@pytest.mark.parametrize("length", ["soon", "5", "-1h", "0s", ""])
async def test_a_hold_of_no_sensible_length_is_bad_usage(shell: Shell, length: str) -> None:
    """Before anybody is asked: a misspelt length must not become "until told otherwise"."""
    said = await shell("offline", "--for", length)

    assert said.code == Exit.USAGE
    assert "--for" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["offline"],
        ["online"],
        ["retry"],
        ["dead", "requeue", "--all"],
        ["dead", "discard", "--all", "--yes"],
    ],
)
async def test_without_a_daemon_nothing_is_changed(
    serve: Serve, tmp_path: Path, words: list[str]
) -> None:
    """A file that no daemon owns is not written by anybody else."""
    served = await serve()
    await served.stop()

    said = await shell_for(served, tmp_path)(*words)

    assert said.code == Exit.UNREACHABLE
    assert "no daemon answers" in said.err
    assert said.out == ""


# -- dead letters ----------------------------------------------------------------------------------


async def test_dead_letters_are_grouped_by_reason(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    shell = shell_for(await bereave(serve, adobe), tmp_path)

    people, programs = await shell("dead"), await shell("dead", "list", "--json")

    rows = [line.split() for line in people.out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["HITS", "SUITE"],
        ["2", "buried"],
        ["1", "gone"],
        ["->", "check"],
    ], "both have the same next step"
    of_one = await shell("dead", "list", "--filter", "suite:gone", "--each", "--json")
    assert json.loads(of_one.out)["suites"] == "gone"
    assert [(one["hits"], one["suites"]) for one in programs.json()] == [(2, "buried"), (1, "gone")]


async def test_each_dead_letter_has_an_id_to_name_it_by(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    served = await bereave(serve, adobe)
    shell = shell_for(served, tmp_path)
    each = (await shell("dead", "list", "--each", "--json")).out.splitlines()
    one = next(letter["id"] for letter in map(json.loads, each) if letter["suites"] == "gone")
    adobe.heal()

    said = await shell("dead", "requeue", str(one))

    assert (said.code, said.out) == (0, "1 requeued\n")
    await served.until(lambda status: (status["delivered"], status["dead"]) == (1, 2))


async def test_an_id_that_is_no_dead_letter_is_not_passed_over(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    shell = shell_for(await bereave(serve, adobe), tmp_path)

    said = await shell("dead", "requeue", "999999")

    assert said.code == Exit.FAULT
    assert "no dead letters" in said.err


@pytest.mark.parametrize("verb", ["requeue", "discard"])
@pytest.mark.parametrize(
    "words",
    [[], ["1", "--all"], ["1", "--filter", "x"], ["--all", "--filter", "x"], ["--filter", " "]],
)
def test_which_letters_must_be_said(verb: str, words: list[str]) -> None:
    assert run("dead", verb, *words).code == Exit.USAGE


async def test_all_letters_are_requeued(serve: Serve, adobe: FakeCollector, tmp_path: Path) -> None:
    served = await bereave(serve, adobe)
    adobe.heal()

    said = await shell_for(served, tmp_path)("dead", "requeue", "--all")

    assert (said.code, said.out) == (0, "3 requeued\n")
    await served.until(lambda status: status["delivered"] == 3)


async def test_letters_are_chosen_by_a_filter(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    """What a filter means among the dead, and nothing else of what it means."""
    served = await bereave(serve, adobe)
    adobe.heal()
    await served.hits(range(5, 6), suite="buried")
    shell = shell_for(served, tmp_path)
    await served.until(lambda status: status["delivered"] == 1)

    said = await shell("dead", "requeue", "--filter", "suite:buried")
    assert (said.code, said.out) == (0, "2 requeued\n")
    said = await shell("dead", "discard", "--filter", "reason:410", typed="1\n")
    assert (said.code, said.out.strip()) == (0, "1 discarded")
    assert "(1)" in said.err
    status = await served.until(lambda status: status["delivered"] == 3)
    assert (status["dead"], status["discarded"]) == (0, 1)


def test_a_faulty_filter_changes_nothing() -> None:
    said = run("dead", "discard", "--filter", "sutie:x", "--yes")
    assert (said.code, said.out) == (Exit.USAGE, "")
    assert "^ there is no field" in said.err


@pytest.mark.parametrize("typed", ["", "\n", "y\n", "yes\n", "2\n", "33\n"])
async def test_a_discard_wants_the_number_typed_back(
    serve: Serve, adobe: FakeCollector, tmp_path: Path, typed: str
) -> None:
    served = await bereave(serve, adobe)

    said = await shell_for(served, tmp_path)("dead", "discard", "--all", typed=typed)

    assert said.code != 0
    assert (await served.status())["dead"] == 3


@pytest.mark.parametrize("words, typed", [([], "3\n"), (["--yes"], "")])
async def test_a_discard_that_was_meant_is_done(
    serve: Serve, adobe: FakeCollector, tmp_path: Path, words: list[str], typed: str
) -> None:
    served = await bereave(serve, adobe)

    said = await shell_for(served, tmp_path)("dead", "discard", "--all", *words, typed=typed)

    # (Before 8.4 click's prompt leaves a blank on standard output.)
    assert (said.code, said.out.strip()) == (0, "3 discarded")
    found = await served.status()
    assert (found["dead"], found["discarded"]) == (0, 3)


async def test_an_export_is_the_same_from_daemon_and_file(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    served = await bereave(serve, adobe)
    shell = shell_for(served, tmp_path)
    running = await shell("dead", "export")
    await served.stop()

    stopped = await shell("dead", "export")
    written = await shell("dead", "export", "--output", "letters.ndjson")

    assert (running.code, stopped.code, written.code) == (0, 0, 0)
    assert len(running.out.splitlines()) == 3
    assert stopped.out == running.out == (shell.folder / "letters.ndjson").read_text()
    assert "from the file" in stopped.err
    assert "from the file" not in running.err


async def test_dead_letters_are_listed_from_the_file(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    served = await bereave(serve, adobe)
    shell = shell_for(served, tmp_path)
    running = await shell("dead")
    await served.stop()

    stopped = await shell("dead")

    assert stopped.out == running.out
    assert f"from the file {served.queue_file}" in stopped.err


async def test_where_nothing_has_failed_it_is_said(served: Served, tmp_path: Path) -> None:
    said = await shell_for(served, tmp_path)("dead")

    assert (said.code, said.out, said.err) == (0, "", "Nothing has failed.\n")


# -- a test hit ------------------------------------------------------------------------------------


async def test_a_test_hit_is_a_real_one(serve: Serve, adobe: FakeCollector, tmp_path: Path) -> None:
    served = await serve(adobe, OPTIONAL)

    said = await shell_for(served, tmp_path, {"upstream.server": adobe.url})(
        "send-test", "--suite", "examplersid", "--wait"
    )

    assert said.code == 0
    assert said.out.endswith("Delivered.\n")
    (received,) = adobe.received
    assert (received.suites, received.param(b"pageName")) == (
        (b"examplersid",),
        b"trackoffline test",
    )


async def test_in_capture_mode_a_test_hit_is_kept(served: Served, tmp_path: Path) -> None:
    said = await shell_for(served, tmp_path)("send-test", "--wait")

    assert said.code == 0
    assert "not sent to Adobe" in said.out
    assert (await served.status())["waiting"] == 1


async def test_the_one_configured_suite_is_taken(served: Served, tmp_path: Path) -> None:
    shell = shell_for(served, tmp_path, {"suites.known.my.timestamps": "optional"})

    assert (await shell("send-test", "--json")).json()["suite"] == "my"


async def test_no_suite_is_guessed_when_it_would_be_sent(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    """A hit in a stranger's report suite cannot be taken back."""
    said = await shell_without(tmp_path, {"upstream.server": adobe.url})("send-test")

    assert said.code == Exit.USAGE
    assert "--suite" in said.err


async def test_a_test_hit_that_still_waits_ends_with_3(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    await adobe.cut()
    served = await serve(adobe, OPTIONAL)

    said = await shell_for(served, tmp_path)("send-test", "--wait", "--timeout", "0.2")

    assert said.code == Exit.NOT_SO
    assert "still waits" in said.err


async def test_another_hits_delivery_is_not_taken_for_ours(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    """Counts go up with every hit; only the age of the oldest tells that ours has left."""
    adobe.when(b"stuck", fake.timeout(None))
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(20), visitors=20)
    await served.until(lambda status: status["delivered"] == 20)

    verb = asyncio.create_task(
        shell_for(served, tmp_path)("send-test", "--suite", "stuck", "--wait", "--timeout", "1")
    )
    await adobe.until(lambda: len(adobe.received) == 21)
    await served.hits(range(20, 25))
    await served.until(lambda status: status["delivered"] == 25)

    assert (await verb).code == Exit.NOT_SO


async def test_a_refused_test_hit_ends_with_3(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    served = await serve(None, {"suites.unlisted": "refuse"})

    said = await shell_for(served, tmp_path)("send-test", "--suite", "stranger")

    assert said.code == Exit.NOT_SO
    assert "403" in said.err


async def test_a_test_hit_that_is_refused_for_good_is_said(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    adobe.always(fake.status(404))
    served = await serve(adobe, OPTIONAL)

    said = await shell_for(served, tmp_path)("send-test", "--wait", "--suite", "x")

    assert said.code == Exit.NOT_SO
    assert "dead letter" in said.err


async def test_a_test_hit_for_nobody_ends_with_69(tmp_path: Path) -> None:
    said = await shell_without(tmp_path)("send-test")

    assert said.code == Exit.UNREACHABLE
    assert "nobody takes beacons" in said.err


# -- waiting ---------------------------------------------------------------------------------------


async def test_wait_ready_returns_when_a_hit_would_be_kept(process: Launch, tmp_path: Path) -> None:
    daemon = process()
    waiting = asyncio.create_task(shell_for(daemon, tmp_path)("wait-ready"))
    daemon.launch()

    assert (await waiting).code == 0
    await daemon.hits(range(1))


async def test_wait_ready_gives_up_in_time(tmp_path: Path) -> None:
    said = await shell_without(tmp_path)("wait-ready", "--timeout", "0.2")

    assert said.code == Exit.NOT_SO
    assert "not ready" in said.err


async def test_a_daemon_that_cannot_store_is_not_ready(serve: Serve, tmp_path: Path) -> None:
    served = await serve(None, {"queue.max_hits": 1})
    await served.hits(range(1))

    said = await shell_for(served, tmp_path)("wait-ready", "--timeout", "0.1")

    assert said.code == Exit.NOT_SO
    assert "max_hits" in said.err


async def test_an_interrupt_ends_with_130(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        with contextlib.closing(writer):
            await asyncio.Event().wait()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    shell = shell_without(tmp_path, {"admin.address": f"127.0.0.1:{port}"})
    verb = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
        shell.command("wait-ready"),
        env=shell.environ(),
        cwd=shell.folder,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        await asyncio.wait_for(asked.wait(), 10)
        verb.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(verb.communicate, timeout=10)
    finally:
        verb.kill()
        server.close()

    assert verb.returncode == Exit.INTERRUPTED
    assert b"Traceback" not in err


# -- check -----------------------------------------------------------------------------------------


async def test_check_says_every_fault_of_the_configuration(shell: Shell) -> None:
    (shell.folder / "config.toml").write_text("[queue]\nmax_hitz = 10\n[retry]\nattempts = 0\n")
    environ = {"TRACKOFFLINE_QUEU__MAX_HITS": "5"}

    people, programs = await shell("check", environ=environ), await shell("check", "--json")

    assert people.code == programs.code == Exit.CONFIG
    assert people.out.count("config.toml:") >= 2
    assert 'there is no section "queu". Did you mean "queue"?' in people.out
    assert "3 problems; nothing was started." in people.out
    assert len(programs.json()["problems"]) == 2


async def test_check_of_what_would_start_is_ok_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shell = shell_without(tmp_path, {"queue.path": str(tmp_path / "state/hits.db")})

    people, programs = await shell("check"), await shell("check", "--json")

    assert people.code == programs.code == 0
    assert "capture only" in people.out
    assert programs.json()["ok"] is True
    assert not (tmp_path / "state").exists()


async def test_check_names_who_is_on_a_port(tmp_path: Path) -> None:
    with other_program() as address:
        said = await shell_without(tmp_path, {"listen.address": address})("check")

    assert said.code == Exit.TEMPORARY
    assert f"listen.address: {address} is in use by another program" in said.out


async def test_check_beside_the_running_daemon_is_ok(process: Launch, tmp_path: Path) -> None:
    """Whoever checks a changed file before a restart is not to be told of the daemon itself."""
    daemon = process()
    await daemon.start()

    said = await shell_for(daemon, tmp_path)("check")

    assert said.code == 0
    assert "this daemon is running there" in said.out


async def test_check_beside_a_strangers_daemon_is_not(process: Launch, tmp_path: Path) -> None:
    daemon = process()
    await daemon.start()

    said = await shell_for(daemon, tmp_path, {"queue.path": str(tmp_path / "other.db")})("check")

    assert said.code == Exit.TEMPORARY
    assert "in use by another trackoffline" in said.out


async def test_check_tells_a_newer_queue_file(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "hits.db")) as db:
        db.execute("PRAGMA user_version = 999")

    said = await shell_without(tmp_path)("check")

    assert said.code == Exit.CONFIG
    assert "version 999" in said.out


async def test_check_tells_a_disk_too_full(tmp_path: Path) -> None:
    said = await shell_without(tmp_path, {"queue.min_free_disk": "1000TiB"})("check")

    assert said.code == Exit.STORAGE
    assert "queue.min_free_disk" in said.out


async def test_check_tells_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    said = await shell_without(tmp_path, {"queue.path": str(tmp_path / "file/hits.db")})("check")

    assert said.code == Exit.STORAGE
    assert "queue.path" in said.out


async def test_check_reaches_for_the_collection_server_when_asked(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    shell = shell_without(tmp_path, {"upstream.server": adobe.url})
    up = await shell("check", "--online")
    await adobe.cut()
    down, unasked = await shell("check", "--online"), await shell("check")

    assert (up.code, down.code, unasked.code) == (0, Exit.TEMPORARY, 0)
    assert f"{adobe.url} reached in" in up.out
    assert "upstream.server" in down.out
    assert adobe.received == []
