"""Claims about `replay`: hits of a file to a collection server, and what it says before and after.

The server is `proxy.fake`; the file is what `export` writes.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from daemon import hit, write_config
from test_cli import Shell, run
from verbs import running

from proxy import fake
from proxy.cli import files_of_hits, sender
from proxy.cli.exits import Exit
from proxy.core.hit import Request, Suites
from proxy.core.render import request_json
from proxy.fake import FakeCollector
from proxy.shell.upstream import Where

NOW = 1_770_000_000


def line(number: int, suite: str = "rs1", query: str = "", **more: Any) -> str:
    """A line of an export: the hit was received so many seconds after NOW."""
    target = hit(number, suite).replace("&AQE=1", f"{query}&AQE=1")
    row = request_json(Request("GET", target.encode(), ((b"User-Agent", b"UA1"),)))
    return json.dumps({"received_ms": (NOW + number) * 1000, **row, **more})


def shell_with(tmp_path: Path, *lines: str, settings: dict[str, object] | None = None) -> Shell:
    """A shell with these lines in the file `x.ndjson`."""
    (tmp_path / "x.ndjson").write_text("".join(f"{one}\n" for one in lines))
    return Shell(tmp_path, write_config(tmp_path / "asked.toml", settings or {}))


def names(adobe: FakeCollector) -> list[bytes]:
    return [received.param(b"pageName") or b"" for received in adobe.received]


async def test_hits_are_sent_as_they_are_and_in_their_order(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    """The file has the newest first, as every export."""
    lines = [line(number, query="&v1=%zz") for number in (3, 2, 1)]
    shell = shell_with(tmp_path, *lines)
    said = await shell("replay", "x.ndjson", "--to", adobe.url, "--rate", "1000/s", "--yes")

    assert (said.code, said.out) == (0, "3 of 3 sent\n")
    targets = [json.loads(one)["target"].encode() for one in reversed(lines)]
    assert [received.target for received in adobe.received] == targets
    for received in adobe.received:
        assert received.all(b"user-agent") == (b"UA1",)
        assert received.header(b"host") == adobe.url.removeprefix("http://").encode()


async def test_what_it_costs_is_said_before_anything_is_sent(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    """Also to whoever wants it quiet, and nobody is taken by surprise in a script."""
    shell = shell_with(tmp_path, line(1, "a,b"), line(2, "b", state="delivered"))
    said = await shell("replay", "x.ndjson", "--to", adobe.url, "--quiet")

    assert (said.code, said.out, adobe.received) == (Exit.USAGE, "", [])
    first, second, third = said.err.splitlines()
    assert first == (
        f"About to send 2 hits to {adobe.url}: 3 server calls, report suites a, b."
        " Adobe bills server calls."
    )
    assert second == "1 were delivered before: sent again, they count twice."
    assert third == "Nothing was sent: nobody can be asked here; --yes agrees."


@pytest.mark.parametrize("set_ts, lost", [("keep", 2), ("received", 1), ("now", 1)])
async def test_what_adobe_would_drop_is_counted_beforehand(
    adobe: FakeCollector, tmp_path: Path, set_ts: str, lost: int
) -> None:
    settings: dict[str, object] = {
        "suites.known.req.timestamps": "required",
        "suites.known.non.timestamps": "not-allowed",
    }
    lines = (line(1, "req"), line(2, "non", "&ts=7"), line(3, "non"), line(4, "req", "&ts=7"))
    shell = shell_with(tmp_path, *lines, settings=settings)
    said = await shell("replay", "x.ndjson", "--to", adobe.url, "--set-ts", set_ts)

    assert f"{lost} Adobe would drop" in said.err


async def test_a_hit_without_ts_gets_when_it_was_received_if_that_is_asked_for(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    """A client's own stays, and a suite that takes none gets none."""
    settings: dict[str, object] = {"suites.known.non.timestamps": "not-allowed"}
    lines = (line(1), line(2, query="&ts=1700000000"), line(3, "non"))
    shell = shell_with(tmp_path, *lines, settings=settings)
    words = ("--to", adobe.url, "--rate", "1000", "--yes", "--set-ts", "received")
    assert (await shell("replay", "x.ndjson", *words)).code == 0

    stamps = [received.param(b"ts") for received in adobe.received]
    assert stamps == [b"%d" % (NOW + 1), b"1700000000", None]


async def test_a_hit_gets_the_time_it_is_sent_if_that_is_asked_for(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    shell = shell_with(tmp_path, line(1), line(2, query="&ts=1700000000"))
    before = int(time.time())
    words = ("--to", adobe.url, "--rate", "1000", "--yes", "--set-ts", "now")
    assert (await shell("replay", "x.ndjson", *words)).code == 0

    for received in adobe.received:
        assert before <= int(received.param(b"ts") or 0) <= time.time()


async def test_it_goes_no_faster_than_it_may(adobe: FakeCollector, tmp_path: Path) -> None:
    """So many pauses lie between the beginning and the last hit, however slow the answers."""
    (tmp_path / "x.ndjson").write_text("\n".join(map(line, range(5))))
    loop = asyncio.get_running_loop()
    with files_of_hits.opened(str(tmp_path / "x.ndjson")) as contents:
        order = sender.Order(Where(adobe.url), Suites({}), rate=20.0, set_ts="keep")
        began = loop.time()
        account = sender.Account()
        assert await sender.send(contents, order, account, lambda _: None) is None

    assert account.sent == 5
    assert adobe.received[-1].at - began >= 4 / 20


async def test_ctrl_c_ends_it_and_says_where_to_go_on(adobe: FakeCollector, tmp_path: Path) -> None:
    """The hit under way may have arrived, which is said; the others are sent once each."""
    adobe.when(b"pageName=p1&", fake.timeout())
    shell = shell_with(tmp_path, *map(line, range(4)))
    words = ("replay", "x.ndjson", "--to", adobe.url, "--yes", "--rate", "1000")
    async with running(shell, *words) as verb:
        await adobe.wait_for(2)
        code, err = await verb.interrupt()
    assert code == Exit.INTERRUPTED
    assert verb.lines == ["1 of 4 sent"]
    assert "interrupted; the hit that was being sent may have arrived; go on with --skip 1\n" in err

    adobe.heal()
    said = await shell(*words, "--skip", "1")
    assert (said.code, said.out) == (0, "3 of 3 sent\n")
    assert names(adobe) == [b"p0", b"p1", b"p1", b"p2", b"p3"]


async def test_what_is_refused_for_good_does_not_stop_the_rest(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    adobe.when(b"pageName=p1", fake.status(404))
    shell = shell_with(tmp_path, *map(line, range(3)))
    words = ("replay", "x.ndjson", "--to", adobe.url, "--rate", "1000", "--yes", "--json")
    said = await shell(*words)

    assert said.code == Exit.FAULT
    assert said.json() == {"hits": 3, "sent": 2, "refused": 1, "ambiguous": 0, "left": 0}
    assert "line 2: 404 from the collection server" in said.err
    assert names(adobe) == [b"p0", b"p1", b"p2"]


async def test_what_does_not_get_through_is_tried_again_before_the_next(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    """Adobe wants a visitor's hits in their order."""
    adobe.will(fake.status(503))
    shell = shell_with(tmp_path, line(1), line(2))
    said = await shell("replay", "x.ndjson", "--to", adobe.url, "--rate", "1000", "--yes")

    assert (said.code, said.out) == (0, "2 of 2 sent\n")
    assert names(adobe) == [b"p1", b"p1", b"p2"]


async def test_a_redirect_of_adobes_own_is_followed_once(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    adobe.will(fake.pccr())
    shell = shell_with(tmp_path, line(1))
    said = await shell("replay", "x.ndjson", "--to", adobe.url, "--yes")

    assert (said.code, said.out) == (0, "1 of 1 sent\n")
    assert len(adobe.received) == 2


async def test_upstream_is_the_configured_server(adobe: FakeCollector, tmp_path: Path) -> None:
    shell = shell_with(tmp_path, line(1), settings={"upstream.server": adobe.url})
    said = await shell("replay", "x.ndjson", "--to", "upstream", "--yes")

    assert said.code == 0
    assert names(adobe) == [b"p1"]


async def test_without_a_configured_server_there_is_none_to_mean(tmp_path: Path) -> None:
    said = await shell_with(tmp_path, line(1))("replay", "x.ndjson", "--to", "upstream", "--yes")
    assert (said.code, said.out) == (Exit.CONFIG, "")


async def test_a_har_file_is_sent_without_a_browsers_own_headers(
    adobe: FakeCollector, tmp_path: Path
) -> None:
    entry = {
        "request": {
            "method": "POST",
            "url": "https://a.example/b/ss/rs1/1/X/s1",
            "headers": [
                {"name": "Host", "value": "a.example"},
                {"name": "Cookie", "value": "session=secret; s_fid=7"},
                {"name": "Content-Length", "value": "99"},
                {"name": "Accept-Encoding", "value": "br"},
            ],
            "postData": {"mimeType": "text/plain", "text": "pageName=long&mid=1"},
        }
    }
    shell = shell_with(tmp_path)
    (tmp_path / "x.har").write_text(json.dumps({"log": {"entries": [entry]}}))
    said = await shell("replay", "x.har", "--to", adobe.url, "--yes")

    assert said.code == 0
    (received,) = adobe.received
    assert (received.method, received.body) == ("POST", b"pageName=long&mid=1")
    assert received.all(b"cookie") == (b"s_fid=7",)
    assert received.header(b"accept-encoding") is None


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--to", "nowhere"],
        ["--to", "http://a.example/path"],
        ["--to", "upstream", "--rate", "0"],
        ["--to", "upstream", "--rate", "fast"],
        ["--to", "upstream", "--set-ts", "then"],
    ],
)
def test_what_cannot_be_meant_is_bad_usage(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "x.ndjson").write_text(line(1))
    said = run("replay", str(tmp_path / "x.ndjson"), *words)
    assert (said.code, said.out) == (Exit.USAGE, "")


async def test_a_file_without_hits_is_said_to_have_none(tmp_path: Path) -> None:
    said = await shell_with(tmp_path, "{}")("replay", "x.ndjson", "--to", "http://127.0.0.1:9")

    assert said.code == Exit.FAULT
    assert said.err == "left out: line 1: no hit of an export\nno hit to send in x.ndjson\n"
