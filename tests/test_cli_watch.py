"""Claims about what goes on by itself: `status --watch`, and bars that only a terminal shows."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from pathlib import Path

from daemon import Served
from test_cli import Shell, run, shell_for
from verbs import running

from proxy.cli.exits import Exit

PATIENCE_S = 30.0


class Terminal:
    """A verb whose output and complaints go to a terminal, as for a person."""

    def __init__(self, shell: Shell, *words: str, output: bool = True) -> None:
        self._own, theirs = pty.openpty()
        environ = {**shell.environ(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        self.verb = subprocess.Popen(
            shell.command(*words),
            cwd=shell.folder,
            env=environ,
            stdin=theirs,
            stdout=theirs if output else subprocess.DEVNULL,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def read_until(self, word: str) -> None:
        while word not in self.seen:
            try:
                self.seen += os.read(self._own, 65_536).decode()
            except OSError as error:  # it has ended
                raise AssertionError(f"{word!r} is not in {self.seen!r}") from error

    async def shows(self, word: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(self.read_until, word)

    async def interrupt(self) -> int:
        self.verb.send_signal(signal.SIGINT)
        return await asyncio.to_thread(self.verb.wait, PATIENCE_S)

    def close(self) -> None:
        if self.verb.poll() is None:
            self.verb.kill()
            self.verb.wait()
        os.close(self._own)


async def test_a_watched_status_is_shown_anew_in_its_place(served: Served, tmp_path: Path) -> None:
    terminal = Terminal(shell_for(served, tmp_path), "status", "--watch")
    try:
        await terminal.shows("0 hits")
        await served.hits(range(3))
        await terminal.shows("3 hits")
        assert await terminal.interrupt() == Exit.INTERRUPTED
    finally:
        terminal.close()
    assert "\x1b[" in terminal.seen, "the cursor goes back up"


async def test_in_a_pipe_a_line_comes_whenever_the_state_is_another(
    served: Served, tmp_path: Path
) -> None:
    async with running(shell_for(served, tmp_path), "status", "--watch") as verb:
        await verb.says("Capture")
        await served.stop()
        await verb.says("Stopped")
        code, err = await verb.interrupt()

    assert len(verb.lines) == 2
    assert code == Exit.INTERRUPTED
    assert "Traceback" not in err


async def test_as_json_each_look_is_a_line(served: Served, tmp_path: Path) -> None:
    async with running(shell_for(served, tmp_path), "status", "--watch", "--json") as verb:
        first = json.loads(await verb.says("capture"))
        second = json.loads(await verb.says("capture"))

    assert second["uptime_seconds"] > first["uptime_seconds"]


def test_a_watch_never_ends_with_a_verdict() -> None:
    assert run("status", "--watch", "--exit-code").code == Exit.USAGE


async def test_a_long_verb_shows_a_bar_on_a_terminal_and_none_in_a_pipe(
    served: Served, tmp_path: Path
) -> None:
    """The bar is gone at the end; what was done stays."""
    await served.hits(range(3))
    shell = shell_for(served, tmp_path)
    for words, bar in (((), True), (("--quiet",), False)):
        terminal = Terminal(shell, "export", "-o", "x.ndjson", *words, output=False)
        try:
            assert await asyncio.to_thread(terminal.verb.wait, PATIENCE_S) == 0
            if bar:
                await terminal.shows("3 hits, ")
                assert "exported" in terminal.seen.partition("3 hits, ")[0]
            else:
                assert terminal.seen == ""
        finally:
            terminal.close()
    said = await shell("export", "-o", "x.ndjson")
    assert said.err.startswith("3 hits, ")
