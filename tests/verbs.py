"""A verb that goes on until it is told to stop, as a shell starts it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from test_cli import Shell

PATIENCE_S = 30.0


@dataclass(slots=True)
class Running:
    """A verb under way; `lines` are those of its results so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def says(self, word: str) -> str:
        """The next line of its results that has the word in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip("\n"))
                if word in line:
                    return self.lines[-1]
        raise AssertionError(f"it ended without {word!r}: {self.lines}, {await self.complains()}")

    async def complains(self, word: str = "") -> str:
        """Its standard error up to the line with the word; all of it without one."""
        assert self.process.stderr is not None
        said = ""
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stderr.readline()).decode():
                said += line
                if word and word in line:
                    return said
        return said

    async def interrupt(self) -> tuple[int, str]:
        """Ctrl-C: the exit code, and what it had left to say on standard error."""
        self.process.send_signal(signal.SIGINT)
        return await self.ended()

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.communicate()
            self.lines += out.decode().splitlines()
            return await self.process.wait(), err.decode()


@contextlib.asynccontextmanager
async def running(shell: Shell, *words: str) -> AsyncIterator[Running]:
    """Start it; whatever still runs at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        *shell.command(*words),
        cwd=shell.folder,
        env=shell.environ(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
