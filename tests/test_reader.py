"""Claims about the reading process: it costs the daemon nothing, whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from daemon import Launch
from test_browse import new_hit

from proxy.core.hit import ReportSuite, Suites, Timestamps, WhenLate
from proxy.errors import QueueUnavailable
from proxy.shell import reader as reader_module
from proxy.shell.browse import Browser, Told
from proxy.shell.queue import Queue
from proxy.shell.reader import Reader, answer


@pytest.fixture
async def reader(queue: Queue) -> AsyncIterator[Reader]:
    """A reader of a queue with three hits."""
    await queue.add([new_hit(number) for number in range(3)])
    reader = Reader(queue.path, Told)
    yield reader
    await reader.close()


async def ids(reader: Reader) -> list[int]:
    return [row["id"] for row in json.loads((await reader.ask("hits")).body)["hits"]]


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def is_there(pid: int) -> bool:
    """Whether the process exists, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


async def test_there_is_no_process_until_somebody_asks(reader: Reader) -> None:
    assert reader.pid is None

    assert await ids(reader) == [3, 2, 1]
    assert reader.pid is not None


async def test_it_stands_back_for_the_daemon(reader: Reader) -> None:
    """Its processor time and memory are the first to be taken away."""
    await ids(reader)

    assert reader.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, reader.pid) >= reader_module.NICE
    assert int(proc(reader.pid, "oom_score_adj")) == 900


async def test_its_niceness_counts_and_a_terminals_signals_do_not(reader: Reader) -> None:
    """In a session of its own Linux would give it as much as the daemon; it has a group only."""
    await ids(reader)

    assert reader.pid is not None
    assert os.getsid(reader.pid) == os.getsid(0)
    assert os.getpgid(reader.pid) == reader.pid


async def test_an_answer_says_what_it_cost(reader: Reader) -> None:
    reply = await reader.ask("hits")

    assert 0 < reply.head["took_s"] < 5


async def test_one_that_was_killed_is_replaced(reader: Reader) -> None:
    """By the next question, which does not notice."""
    await ids(reader)
    first = reader.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    assert await ids(reader) == [3, 2, 1]
    assert reader.pid != first


async def test_questions_at_once_get_each_its_own_answer(reader: Reader) -> None:
    found = await asyncio.gather(*(reader.ask("hit", id_=id_) for id_ in (1, 2, 3) * 5))

    assert [json.loads(reply.body)["id"] for reply in found] == [1, 2, 3] * 5


async def test_a_question_that_is_given_up_spoils_no_other(reader: Reader) -> None:
    """Its answer must not be taken for that of the next one."""
    await ids(reader)
    given_up = asyncio.create_task(reader.ask("hit", id_=1))
    await asyncio.sleep(0)
    given_up.cancel()

    assert json.loads((await reader.ask("hit", id_=2)).body)["id"] == 2


async def test_closing_leaves_no_process(reader: Reader) -> None:
    await ids(reader)
    pid = reader.pid
    assert pid is not None

    await reader.close()

    assert not is_there(pid)
    with pytest.raises(QueueUnavailable):
        await reader.ask("hits")


async def test_one_that_does_not_answer_is_ended(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that never ends is an error answer, and the next one is answered."""
    await ids(reader)
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGSTOP)
    monkeypatch.setattr(reader_module, "PATIENCE_S", 0.05)

    with pytest.raises(QueueUnavailable, match="too long"):
        await reader.ask("hits")

    monkeypatch.undo()
    assert await ids(reader) == [3, 2, 1]


def test_it_ends_when_its_questions_end(tmp_path: Path) -> None:
    """As they do when the daemon dies, however suddenly."""
    child = subprocess.Popen(
        [sys.executable, "-m", "proxy.shell.reader", str(tmp_path / "hits.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()

    assert child.wait(15) == 0
    child.stdout.close()


async def test_it_ends_with_a_daemon_that_is_killed(process: Launch) -> None:
    daemon = process()
    await daemon.start()
    assert (await daemon.ask("/api/v1/hits")).status == 200
    (child,) = proc(daemon.pid, f"task/{daemon.pid}/children").split()

    await daemon.kill()

    async with asyncio.timeout(15):
        while is_there(int(child)):  # noqa: ASYNC110 - it is no child of ours
            await asyncio.sleep(0.02)


async def test_a_stopped_daemon_leaves_no_process(process: Launch) -> None:
    daemon = process()
    await daemon.start()
    assert (await daemon.ask("/api/v1/hits")).status == 200
    (child,) = proc(daemon.pid, f"task/{daemon.pid}/children").split()

    assert await daemon.terminate() == 0

    assert not is_there(int(child))


def test_what_the_daemon_knows_arrives_whole() -> None:
    told = Told(
        Suites(
            {"a": ReportSuite(Timestamps.REQUIRED), "b": ReportSuite(when_late=WhenLate.SEND)},
            ReportSuite(Timestamps.NOT_ALLOWED, silence=frozenset({"N1"})),
            silence_of_events=frozenset({"E9"}),
        ),
        "https://example.data.adobedc.net",
        frozenset({1, 2}),
        {3: 4},
        "https://edge.adobedc.net",
        {"evar12": "Search term"},
        {3: ("500", 2.5), 4: ("connect", None)},
    )

    said = json.loads(json.dumps(reader_module._as_json(told)))

    assert reader_module._from_json(said) == told


def test_a_fault_of_ours_is_an_answer_without_the_hit(tmp_path: Path) -> None:
    """It says where, and quotes nothing."""
    question = json.dumps({"ask": "hit", "how": {"id_": "secret"}, "told": {}}).encode()

    head, body = answer(Browser(tmp_path / "hits.db"), question)

    assert "KeyError at reader.py" in head["fault"]
    assert "secret" not in str(head)
    assert body == b""


def test_a_file_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    told = reader_module._as_json(Told())
    question = json.dumps({"ask": "hits", "how": {}, "work_s": 0.1, "told": told}).encode()

    head, _ = answer(Browser(tmp_path / "nothing.db"), question)

    assert "cannot read" in head["error"]
