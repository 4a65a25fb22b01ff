"""Claims about `hits` and `hit`: what came in, listed, followed, asserted, one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from daemon import Launch, Serve, Served, hit
from test_cli import run, shell_for, shell_without
from verbs import running

from proxy import fake
from proxy.cli import tell
from proxy.cli.exits import Exit
from proxy.cli.hits import since
from proxy.fake import FakeCollector

OPTIONAL = {"suites.timestamps": "optional"}


async def test_hits_are_listed_the_newest_last(served: Served, tmp_path: Path) -> None:
    await served.hits(range(3))
    said = await shell_for(served, tmp_path)("hits")

    assert said.code == 0
    assert [line.split("  ")[2] for line in said.out.splitlines()] == ["p0", "p1", "p2"]
    (first, *_) = said.out.splitlines()
    for word in ("page view", "examplersid", "fid ...00000001", "waiting", "N2", "#1"):
        assert word in first


async def test_the_newest_so_many_are_listed(served: Served, tmp_path: Path) -> None:
    await served.hits(range(5))
    shell = shell_for(served, tmp_path)

    said = await shell("hits", "--limit", "2", "--json")
    assert [json.loads(line)["title"] for line in said.out.splitlines()] == ["p3", "p4"]
    assert (await shell("hits", "-n", "0")).out == ""


async def test_the_columns_are_chosen(served: Served, tmp_path: Path) -> None:
    """In the order that was asked for; what a hit does not have is a dash."""
    await served.hits(range(2))
    shell = shell_for(served, tmp_path)

    said = await shell("hits", "--columns", "id,title,status, state")
    assert [line.split() for line in said.out.splitlines()] == [
        ["#1", "p0", "-", "waiting"],
        ["#2", "p1", "-", "waiting"],
    ]
    everything = ",".join(tell.COLUMNS + tell.MORE_COLUMNS)
    said = await shell("hits", "--columns", everything)
    assert [len(line.split("  ")) > len(tell.COLUMNS) for line in said.out.splitlines()] == [
        True
    ] * 2


def test_a_column_that_is_none_is_said_with_those_there_are() -> None:
    said = run("hits", "--columns", "id,sate")

    assert said.code == Exit.USAGE
    assert '"sate" is no column; there are received, kind, title' in said.err
    assert 'Did you mean "state"?' in said.err


async def test_a_filter_chooses(served: Served, tmp_path: Path) -> None:
    await served.hits(range(3))
    await served.hits(range(3, 5), suite="other")
    shell = shell_for(served, tmp_path)

    said = await shell("hits", "suite:other page:p4", "--json")
    assert [json.loads(line)["suites"] for line in said.out.splitlines()] == [["other"]]
    said = await shell("hits", "page:nothing")
    assert (said.code, said.out, said.err) == (0, "", "No hit matches.\n")


async def test_before_the_first_hit_that_is_said(served: Served, tmp_path: Path) -> None:
    said = await shell_for(served, tmp_path)("hits")
    assert (said.code, said.out, said.err) == (0, "", "No hits yet.\n")


@pytest.mark.parametrize("verb", ["hits", "export"])
def test_a_faulty_filter_is_shown_where_it_is_wrong(verb: str) -> None:
    """Before anything is asked or read."""
    said = run(verb, "page:x   foo:y")

    assert said.code == Exit.USAGE
    line, mark = said.err.splitlines()
    assert line == "page:x   foo:y"
    assert mark.startswith('         ^ there is no field "foo"')


def test_a_fault_far_right_is_shown_too() -> None:
    said = run("hits", "x" * 200 + " \x1b type:y")

    line, mark = said.err.splitlines()[:2]
    assert line[mark.index("^") :] == "y"
    assert "\x1b" not in said.err


async def test_what_comes_in_is_followed(served: Served, tmp_path: Path) -> None:
    await served.hits(range(2))
    async with running(shell_for(served, tmp_path), "hits", "page:p*", "-f", "-n", "1") as verb:
        await verb.says("p1")
        await served.hits(range(2, 4))
        await served.send(hit(9).replace("pageName=p", "pageName=q"))
        await served.hits(range(4, 5))
        await verb.says("p4")
        code, err = await verb.interrupt()

    assert [line.split("  ")[2] for line in verb.lines] == ["p1", "p2", "p3", "p4"], "and no q9"
    assert (code, err) == (Exit.INTERRUPTED, "Following; Ctrl-C ends it.\n")


async def test_a_daemon_that_is_restarted_is_followed_on(process: Launch, tmp_path: Path) -> None:
    daemon = process()
    await daemon.start()
    await daemon.hits(range(1))
    async with running(shell_for(daemon, tmp_path), "hits", "--follow") as verb:
        await verb.says("p0")
        await daemon.kill()
        assert "waiting for it" in await verb.complains("waiting for it")
        await daemon.start()
        await daemon.hits(range(1, 2))
        await verb.says("p1")


async def test_an_expected_hit_may_still_be_on_its_way(served: Served, tmp_path: Path) -> None:
    """The point of it in a test: the app was told to send, and takes its time."""
    words = ("hits", "page:p1", "--expect", "1", "--timeout", "30", "--json")
    async with running(shell_for(served, tmp_path), *words) as verb:
        await served.hits(range(2))
        code, err = await verb.ended()

    assert (code, err) == (0, "")
    assert [json.loads(line)["title"] for line in verb.lines] == ["p1"]


@pytest.mark.parametrize("expected", ["3", "1..", "2..3", "0..", "3..3"])
async def test_what_is_as_expected_ends_with_0(
    served: Served, tmp_path: Path, expected: str
) -> None:
    await served.hits(range(3))
    said = await shell_for(served, tmp_path)("hits", "page:p*", "--expect", expected)

    assert said.code == 0
    assert len(said.out.splitlines()) == 3


@pytest.mark.parametrize("expected", ["2", "4", "4..", "0", "0..2"])
async def test_what_is_not_as_expected_ends_with_3(
    served: Served, tmp_path: Path, expected: str
) -> None:
    await served.hits(range(3))
    words = ("hits", "page:p*", "--expect", expected, "--timeout", "0.2")
    said = await shell_for(served, tmp_path)(*words)

    assert (said.code, said.out) == (Exit.NOT_SO, "")
    assert said.err == f"expected {expected} of 'page:p*', there are 3 (0.2 s)\n"


@contextlib.asynccontextmanager
async def overheard(admin: str, word: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Another address of the admin port, and an event: a request with this word has come."""
    heard = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(65_536):
                if word in data:
                    heard.set()
                writer.write(data)
                await writer.drain()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = admin.partition(":")
        upstream, downstream = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, downstream), pump(upstream, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


async def test_of_none_one_is_too_many_however_late(served: Served, tmp_path: Path) -> None:
    async with overheard(served.admin, b"/hits/wait") as (admin, waits):
        words = ("hits", "--expect", "0", "--timeout", "30", "--admin", admin)
        async with running(shell_for(served, tmp_path), *words) as verb:
            await asyncio.wait_for(waits.wait(), 30)
            await served.hits(range(1))
            code, err = await verb.ended()

    assert code == Exit.NOT_SO
    assert err == "expected 0 of 'any hit', there are 1 (30 s)\n"


class Between:
    """A source to which a hit comes between two questions."""

    def __init__(self) -> None:
        self.asked = 0

    def page(self, _q: str, _cursor: str | None, limit: int) -> dict[str, Any]:
        self.asked += 1
        ids = range(min(2 + self.asked, 4), 0, -1)
        return {"hits": [{"id": id_} for id_ in ids][:limit], "cursor": None}


def test_a_hit_that_comes_between_two_questions_is_shown_once() -> None:
    source, last, shown = Between(), 1, []
    for _ in range(3):
        rows, last = since(source, "page:x", last)  # type: ignore[arg-type]  # a page is enough
        shown += [row["id"] for row in reversed(rows)]

    assert shown == [2, 3, 4]


@pytest.mark.parametrize(
    "words",
    [
        ["hits", "--expect", "x"],
        ["hits", "--expect", "3..2"],
        ["hits", "--expect", "1", "--follow"],
        ["hits", "--limit", "-1"],
        ["hit", "x"],
        ["hit", "-1"],
        ["hit", "1", "--raw", "--curl"],
        ["hit", "1", "--raw", "--json"],
    ],
)
def test_what_cannot_be_meant_is_bad_usage(words: list[str]) -> None:
    said = run(*words)
    assert (said.code, said.out) == (Exit.USAGE, "")


async def test_one_hit_is_told_whole(serve: Serve, adobe: FakeCollector, tmp_path: Path) -> None:
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(1))
    await served.until(lambda status: status["delivered"] == 1)
    said = await shell_for(served, tmp_path, OPTIONAL)("hit", "#1")

    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == 'page view "p0" for examplersid'
    assert "State     delivered, hit #1" in lines
    assert any("received and stored" in line for line in lines)
    assert any("delivered: answered 200" in line for line in lines)


async def test_one_hit_in_json_is_what_the_api_says(served: Served, tmp_path: Path) -> None:
    await served.hits(range(1))
    said = await shell_for(served, tmp_path)("hit", "1", "--json")

    assert said.json() == (await served.ask("/api/v1/hits/1")).json()
    assert said.json()["decoded"]["title"] == "p0"


async def test_a_hit_is_shown_as_it_stands_and_as_a_command(served: Served, tmp_path: Path) -> None:
    cookie = "s_vi=[CS]v1|2B2AF1AA05079532-40000110400027BD[CE]"
    await served.send(hit(0), headers={"Cookie": cookie, "X-Odd": "\xe9"})
    shell = shell_for(served, tmp_path)

    raw = await shell("hit", "1", "--raw")
    assert raw.out.startswith(f"GET {hit(0)} HTTP/1.1\n")
    assert "s_vi" not in raw.out
    command = await shell("hit", "1", "--curl")
    assert command.out.startswith("curl ")
    assert f"{hit(0)}' \\\n" in command.out
    assert "s_vi" not in command.out
    for how in ("--raw", "--curl"):
        assert "s_vi=[CS]v1" in (await shell("hit", "1", how, "--unredacted")).out


async def test_a_hit_that_is_not_there_ends_with_1(served: Served, tmp_path: Path) -> None:
    shell = shell_for(served, tmp_path)
    for how in ([], ["--raw"], ["--curl"], ["--json"]):
        said = await shell("hit", "7", *how)
        assert (said.code, said.out, said.err) == (Exit.FAULT, "", "no hit #7 is kept\n")


async def test_without_a_daemon_the_file_is_read_and_named(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    """The same rows, and a word about where they come from."""
    adobe.when(b"pageName=p1", fake.status(404))
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(3))
    await served.until(lambda status: status["dead"] == 1 and status["delivered"] == 2)
    shell = shell_for(served, tmp_path, OPTIONAL)
    words = [("hits", "--json"), ("hit", "2", "--json"), ("hit", "1", "--raw"), ("hits", "is:dead")]
    asked = [await shell(*one) for one in words]
    await served.stop()

    for one, before in zip(words, asked, strict=True):
        said = await shell(*one)
        assert (said.code, said.out) == (0, before.out)
        assert f"from the file {served.queue_file}; no daemon answers" in said.err
        assert before.err == ""


async def test_what_only_a_daemon_can_do_ends_with_69_without_one(tmp_path: Path) -> None:
    shell = shell_without(tmp_path)
    for words in (["hits", "-f"], ["hits", "--expect", "1"], ["hits"], ["hit", "1"]):
        said = await shell(*words)
        assert said.code == Exit.UNREACHABLE
        assert "no daemon answers" in said.err


async def test_another_daemon_is_not_replaced_by_our_file(served: Served, tmp_path: Path) -> None:
    await served.hits(range(1))
    shell = shell_for(served, tmp_path)
    said = await shell("hits", "--admin", "http://127.0.0.1:9")

    assert (said.code, said.out) == (Exit.UNREACHABLE, "")


async def test_a_list_shows_what_strangers_wrote_without_obeying_it(
    served: Served, tmp_path: Path
) -> None:
    await served.send("/b/ss/rs1/1/X/s1?pageName=%1B%5B2J%0A" + "x" * 500)
    said = await shell_for(served, tmp_path)("hits")

    assert said.out.count("\n") == 1
    assert "\x1b" not in said.out
    assert "x..." in said.out


async def test_a_hit_is_compared_by_the_site_s_own_names(serve: Serve, tmp_path: Path) -> None:
    """With the one before it of the same visitor, or with one that is named."""
    daemon = await serve(None, {"variables.eVar12": "Search term"})
    await daemon.send(hit(1, visitor=1) + "&v12=boots&c5=x")
    await daemon.send(hit(2, visitor=1) + "&v12=shoes")
    await daemon.send(hit(3, visitor=3))
    shell = shell_for(daemon, tmp_path)

    said = await shell("hit", "2", "--compare")
    assert said.code == 0
    assert said.out.splitlines()[0].startswith("against hit #1 of ")
    assert "- eVar12 Search term  boots\n+ eVar12 Search term  shoes\n" in said.out
    assert "- prop5  x\n" in said.out
    assert (await shell("hit", "3", "--compare")).out.startswith("No hit of the same visitor")
    assert (
        json.loads((await shell("hit", "3", "--compare", "#1", "--json")).out)["other"]["id"] == 1
    )
    assert (await shell("hit", "3", "--compare", "9")).code == Exit.FAULT
    assert "eVars     eVar12 Search term  boots" in (await shell("hit", "1")).out


def test_a_comparison_with_what_is_no_id_is_bad_usage() -> None:
    assert run("hit", "3", "--compare", "x").code == Exit.USAGE
