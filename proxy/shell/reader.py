"""A process that reads the queue file for people, so that the daemon need not.

Rule: decoding and matching is work for a processor, and the event loop has hits to take; so
it is done in another process, at a lower priority, started with the first question and ended
by itself when nobody has asked for a while.  It ends with its parent (its input ends), and
whatever becomes of it is an error answer to whoever asked: the daemon goes on.
Non-rule: knows no HTTP and changes nothing; what is answered is `browse`'s.
Source: the pipes of Python's multiprocessing for the shape; proc(5) for `oom_score_adj`; sched(7),
"The autogroup feature".

On the pipe: a question is a line of JSON; an answer is a line of JSON with the size of what
follows, and then so many bytes, which travel on to the client as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from proxy.core.hit import ReportSuite, Suites, Timestamps, WhenLate
from proxy.core.search import Fault
from proxy.errors import QueueUnavailable
from proxy.shell.browse import WORK_S, Browser, Piece, Told

IDLE_S = 60.0
PATIENCE_S = 20.0
NICE = 10
PACKAGE = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Reply:
    """What the reader says: `head` for the daemon, `body` for the client."""

    head: Mapping[str, Any]
    body: bytes


class Reader:
    """The daemon's end.  `told` gives what the file does not know; `close` ends the process."""

    def __init__(self, path: Path, told: Callable[[], Told]) -> None:
        self._path = path
        self._told = told
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def ask(self, what: str, work_s: float = WORK_S, **how: object) -> Reply:
        """The answer to one question; QueueUnavailable when there is none.

        One question at a time: each is short, so the next one waits.  The head says how much of a
        processor it took, as `took_s`.
        """
        async with self._asking:
            told = _as_json(self._told())
            line = json.dumps({"ask": what, "how": how, "work_s": work_s, "told": told})
            try:
                # A process that ended itself for want of questions is asked once more.
                return await self._exchange(line) or await self._exchange(line) or _gone()
            except TimeoutError:
                await self._end()
                raise QueueUnavailable("the reader took too long, and was ended") from None
            except BaseException:
                # Between question and answer the pipe is of no further use.
                await self._end()
                raise

    async def close(self) -> None:
        """End the process; no further question is answered."""
        self._closed = True
        await self._end()

    async def _exchange(self, line: str) -> Reply | None:
        """The answer; None when the process went away instead."""
        to, from_ = await self._started()
        try:
            async with asyncio.timeout(PATIENCE_S):
                to.write(line.encode() + b"\n")
                await to.drain()
                head = json.loads(await from_.readuntil(b"\n"))
                body = await from_.readexactly(head["size"])
        except TimeoutError:
            raise  # (an OSError too)
        except (OSError, asyncio.IncompleteReadError):
            await self._end()
            return None
        return Reply(head, body)

    async def _started(self) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        if self._closed:
            raise QueueUnavailable("the daemon is stopping")
        if self._process is None or self._process.returncode is not None:
            await self._end()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    # Not from the working directory, whatever lies there.
                    *("-P", "-m", __name__, str(self._path)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # A traceback could quote a hit; what there is to say is in the answer.
                    stderr=asyncio.subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": str(PACKAGE)},
                    # A Ctrl-C of the terminal is for the daemon.  (No session of its own: Linux
                    # gives each as much as any other, however nice those in it are.)
                    process_group=0,
                )
            except OSError as error:
                raise QueueUnavailable(f"no reader could be started: {error}") from error
        to, from_ = self._process.stdin, self._process.stdout
        if to is None or from_ is None:  # pragma: no cover - both were asked for
            raise QueueUnavailable("the reader has no pipes")
        return to, from_

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # it holds nothing that could be half done
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


def _gone() -> Reply:
    raise QueueUnavailable("the reader ended without an answer")


# -- the process -----------------------------------------------------------------------------


def main(path: Path, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the questions end, or stay away for long."""
    _stand_back()
    with Browser(path) as browser:
        while select.select([questions], [], [], IDLE_S)[0]:
            line = questions.readline()
            if not line:
                return
            began_s = time.process_time()
            head, body = answer(browser, line)
            head |= {"size": len(body), "took_s": time.process_time() - began_s}
            answers.write(json.dumps(head).encode() + b"\n" + body)
            answers.flush()


def answer(browser: Browser, line: bytes) -> tuple[dict[str, Any], bytes]:
    """Head and body of the answer to one question."""
    try:
        asked = json.loads(line)
        browser.told = _from_json(asked["told"])
        browser.work_s = asked["work_s"]
        found = getattr(browser, asked["ask"])(**asked["how"])
    except Fault as fault:
        return {"faulty": fault.message, "column": fault.column}, b""
    except QueueUnavailable as error:
        return {"error": str(error)}, b""
    except Exception as error:  # noqa: BLE001 - a fault of ours is an answer, not an end
        # Where it happened, not with what: the message could quote a hit.
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return {"fault": f"{type(error).__name__} at {place}"}, b""
    if isinstance(found, Piece):
        return {"cursor": found.cursor}, found.text.encode()
    if isinstance(found, str):
        return {}, found.encode()
    return {"none": found is None}, json.dumps(found, separators=(",", ":")).encode()


def _stand_back() -> None:
    """Whatever is short, the daemon has it first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")


def _as_json(told: Told) -> dict[str, Any]:
    suites = told.suites

    def suite(one: ReportSuite) -> list[Any]:
        return [one.timestamps, one.when_late, list(one.silence)]

    return {
        "known": {rsid: suite(one) for rsid, one in suites.known.items()},
        "unlisted": suite(suites.unlisted),
        "silence_of_events": list(suites.silence_of_events),
        "base_url": told.base_url,
        "edge_url": told.edge_url,
        "sending": list(told.sending),
        "tries": list(told.tries.items()),
        "names": dict(told.names),
        "waits": list(told.waits.items()),
    }


def _from_json(said: dict[str, Any]) -> Told:
    def suite(one: list[Any]) -> ReportSuite:
        return ReportSuite(Timestamps(one[0]), WhenLate(one[1]), frozenset(one[2]))

    return Told(
        Suites(
            {rsid: suite(one) for rsid, one in said["known"].items()},
            suite(said["unlisted"]),
            silence_of_events=frozenset(said["silence_of_events"]),
        ),
        said["base_url"],
        frozenset(said["sending"]),
        dict(said["tries"]),
        said["edge_url"],
        said["names"],
        {hit: (why, again_s) for hit, (why, again_s) in said["waits"]},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
