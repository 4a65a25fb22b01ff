"""Claims about `export` and `import`: hits out of the queue into a file, and in again."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from daemon import Serve, Served, hit
from test_cli import Shell, run, shell_for, shell_without
from test_edge import cookie, entries

from proxy.cli import ask, files_of_hits
from proxy.cli.exits import Exit
from proxy.core.hit import Request
from proxy.core.render import iso, request_json
from proxy.fake import FakeCollector

OPTIONAL: dict[str, object] = {"suites.timestamps": "optional"}
JSON = {"Content-Type": "application/json"}
COOKIE = {"Cookie": "s_vi=[CS]v1|2B2AF1AA05079532-40000110400027BD[CE]"}


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def exported(shell: Shell, *words: str) -> Path:
    file = shell.folder / "hits.ndjson"
    said = await shell("export", "--unredacted", "-o", str(file), *words)
    assert (said.code, said.out) == (0, "")
    return file


async def test_what_is_exported_is_what_the_filter_means(served: Served, tmp_path: Path) -> None:
    await served.hits(range(4))
    said = await shell_for(served, tmp_path)("export", "!page:p2")

    assert said.code == 0
    assert [row["title"] for row in rows(said.out)] == ["p3", "p1", "p0"]
    assert said.err.startswith("3 hits, ")


async def test_csv_and_har_are_whole_files(served: Served, tmp_path: Path) -> None:
    await served.hits(range(3))
    shell = shell_for(served, tmp_path)
    for name in ("hits.csv", "hits.har"):
        assert (await shell("export", "-o", name)).code == 0, "the name says the format"

    with (shell.folder / "hits.csv").open(newline="") as file:
        assert [row["title"] for row in csv.DictReader(file)] == ["p2", "p1", "p0"]
    found = json.loads((shell.folder / "hits.har").read_text())
    urls = [entry["request"]["url"] for entry in found["log"]["entries"]]
    assert [url[-14:-6] for url in urls] == [hit(number)[-14:-6] for number in (2, 1, 0)]
    said = await shell("export", "page:p1", "--format", "har")
    assert len(json.loads(said.out)["log"]["entries"]) == 1


async def test_cookies_are_left_out_unless_asked_for(served: Served, tmp_path: Path) -> None:
    await served.send(hit(0), headers=COOKIE)
    shell = shell_for(served, tmp_path)

    said = await shell("export")
    assert "s_vi" not in said.out
    assert "--unredacted" in said.err
    assert "s_vi" in (await shell("export", "--unredacted")).out


async def test_without_a_daemon_the_file_gives_the_same(served: Served, tmp_path: Path) -> None:
    await served.hits(range(3))
    shell = shell_for(served, tmp_path)
    formats = ("ndjson", "csv", "har")
    asked = [(await shell("export", "--format", kind, "!page:p1")).out for kind in formats]
    await served.stop()

    for kind, before in zip(formats, asked, strict=True):
        said = await shell("export", "--format", kind, "!page:p1")
        assert said.out.replace("8277", "") == before.replace("8277", "")
        assert f"from the file {served.queue_file}" in said.err


async def test_a_broken_export_leaves_no_file_behind(tmp_path: Path) -> None:
    """And the one of yesterday stays."""
    shell = shell_without(tmp_path)
    file = shell.folder / "hits.ndjson"
    file.write_text("yesterday")
    said = await shell("export", "-o", str(file))

    assert said.code == Exit.UNREACHABLE
    assert file.read_text() == "yesterday"
    assert [one.name for one in shell.folder.iterdir() if "part" in one.name] == []


async def test_a_file_that_cannot_be_written_is_one_line(served: Served, tmp_path: Path) -> None:
    shell = shell_for(served, tmp_path)
    said = await shell("export", "-o", str(tmp_path / "no" / "hits.csv"))

    assert said.code == Exit.FAULT
    assert said.err == f"{tmp_path}/no/hits.csv: No such file or directory\n"


async def test_an_export_comes_in_again_as_the_same_hits(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    """Byte for byte, each at its own time and in its order, cookies included."""
    first = await serve()
    await first.send(hit(0), headers={**COOKIE, "X-Odd": "\xe9"})
    await first.send("/b/ss/examplersid/1/X/s7", "POST", None, b"mid=1&pageName=caf\xe9&ce=x")
    await first.hits(range(1, 4))
    shell = shell_for(first, tmp_path)
    file = await exported(shell)
    before = rows(file.read_text())
    await first.stop()
    first.queue_file.unlink()

    second = await serve(adobe, OPTIONAL)
    said = await shell_for(second, tmp_path, OPTIONAL)("import", str(file))
    assert (said.code, said.out) == (0, "5 in the file, 5 server calls, 5 imported\n")
    assert f"They will be sent to {adobe.url}: 5 server calls, which Adobe bills.\n" in said.err
    await adobe.wait_for(5)
    seconds = {row["target"]: row["received_ms"] // 1000 for row in before}
    for received in adobe.received:
        sent = (received.query or received.body).replace(b"ts=%s&" % received.param(b"ts"), b"")
        assert any(sent.decode("latin-1") in (r["target"] + "?" + r["body"]) for r in before)
    stamps = {int(received.param(b"ts") or 0) for received in adobe.received}
    assert stamps == set(seconds.values())


async def test_events_of_the_edge_network_come_in_again_too(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    """Each goes to its own server; `replay`, which has one, leaves them out and says so."""
    async with FakeCollector() as edge:
        roads: dict[str, object] = {**OPTIONAL, "edge.server": edge.url}
        first = await serve(adobe, roads)
        await first.tell("/api/v1/forwarding/offline")
        await first.hits(range(1))
        xdm = {"web": {"webPageDetails": {"name": "Home"}}}
        body = json.dumps({"meta": entries(cookie()), "events": [{"xdm": xdm}]}).encode()
        for path in ("v1/collect", "v1/interact"):
            await first.send(f"/ee/{path}?configId=abc", "POST", JSON, body)
        file = await exported(shell_for(first, tmp_path, roads))
        at_ms = {row["received_ms"] for row in rows(file.read_text())}
        await first.stop()
        first.queue_file.unlink()

        second = await serve(adobe, roads)
        shell = shell_for(second, tmp_path, roads)
        said = await shell("import", str(file))
        assert (said.code, said.out) == (0, "3 in the file, 3 server calls, 3 imported\n")
        assert f"They will be sent to {adobe.url} and {edge.url}: 3 server calls" in said.err
        await second.until(lambda status: status["delivered"] == 3)
        assert [hit.path for hit in edge.received] == [b"/ee/v1/collect", b"/ee/v1/interact"]
        stamps = {event["xdm"]["timestamp"] for hit in edge.received for event in hit.events}
        assert stamps <= {iso(at) for at in at_ms}, "each at its own time"

        replayed = await shell("replay", str(file), "--to", adobe.url, "--yes")
        assert replayed.out == "1 of 1 sent\n"
        assert "left out: 2 events of the Edge Network" in replayed.err
        assert len(edge.received) == 2


async def test_a_har_file_is_imported_without_what_is_no_hit(
    served: Served, tmp_path: Path
) -> None:
    entries = [
        {
            "startedDateTime": f"2026-02-02T02:4{number}:00.000Z",
            "request": {
                "method": "GET",
                "url": f"https://a.example{target}",
                "headers": [
                    {"name": "Host", "value": "a.example"},
                    {"name": "Cookie", "value": "session=secret"},
                ],
            },
        }
        for number, target in enumerate((hit(1), "/index.html", hit(0)))
    ]
    shell = shell_for(served, tmp_path)
    (shell.folder / "x.har").write_text(json.dumps({"log": {"version": "1.2", "entries": entries}}))

    said = await shell("import", "x.har")
    assert (said.code, said.out) == (0, "2 in the file, 2 server calls, 1 not taken, 2 imported\n")
    assert "not taken: entry 2: not a beacon" in said.err
    found = rows((await shell("export", "--unredacted")).out)
    assert [row["title"] for row in found] == ["p0", "p1"], "the oldest first: the newest is last"
    assert [row["received_ms"] for row in found] == [1_770_000_120_000, 1_770_000_000_000]
    assert all("secret" not in json.dumps(row) for row in found)


async def test_a_dry_run_says_what_is_in_the_file_and_stores_nothing(
    served: Served, tmp_path: Path
) -> None:
    await served.hits(range(2))
    shell = shell_for(served, tmp_path)
    file = await exported(shell)
    for words, expected in (
        ([], "2 in the file, 2 server calls; report suites: examplersid\n"),
        (
            ["--json"],
            '{"hits": 2, "server_calls": 2, "not_taken": 0, "suites": ["examplersid"]}\n',
        ),
    ):
        assert (await shell("import", str(file), "--dry-run", *words)).out == expected
    assert (await served.status())["accepted"] == 2


async def test_hits_are_put_into_order_even_from_a_pipe(served: Served, tmp_path: Path) -> None:
    """An export has the newest first; Adobe wants a visitor's hits in their order."""
    await served.hits(range(3))
    shell = shell_for(served, tmp_path)
    text = (await shell("export")).out
    said = await shell("import", "-", "--json", typed=text)

    assert said.json() == {
        "hits": 3,
        "server_calls": 3,
        "not_taken": 0,
        "imported": 3,
        "refused": 0,
    }
    found = rows((await shell("hits", "--json", "-n", "3")).out)
    assert [row["title"] for row in found] == ["p0", "p1", "p2"]


def test_hits_of_one_millisecond_are_put_into_order_too(tmp_path: Path) -> None:
    """By their ids; a HAR file has none, and has the oldest first."""
    export = tmp_path / "x.ndjson"
    lines = [{"id": id_, "received_ms": 7, "target": hit(id_)} for id_ in (3, 2, 1)]
    export.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    archive = tmp_path / "x.har"
    entries = [
        {"request": {"method": "GET", "url": f"http://a{hit(number)}"}} for number in (1, 2, 3)
    ]
    archive.write_text(json.dumps({"log": {"entries": entries}}))

    for file in (export, archive):
        with files_of_hits.opened(str(file)) as found:
            targets = [found.request(place).target.decode() for place in found.places]
        assert targets == [hit(1), hit(2), hit(3)]


async def test_delivered_hits_are_not_imported_without_a_word(
    serve: Serve, adobe: FakeCollector, tmp_path: Path
) -> None:
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(2))
    await served.until(lambda status: status["delivered"] == 2)
    shell = shell_for(served, tmp_path, OPTIONAL)
    file = await exported(shell)

    said = await shell("import", str(file), "--dry-run")
    assert "2 were delivered before: sent again, they count twice" in said.err


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "0 in the file"),
        ('{"a": 1}\nnonsense\n', "2 not taken"),
        ('{"target": "/b/ss/a b"}', "1 not taken"),
        ('{"target": "/index.html"}', "1 not taken"),
        ('{"target": "/b/ss/x/1", "received_ms": true}', "1 not taken"),
        ('{"target": "/b/ss/x/1", "received_ms": NaN}', "1 not taken"),
    ],
)
async def test_a_file_without_hits_ends_with_1(
    served: Served, tmp_path: Path, text: str, word: str
) -> None:
    said = await shell_for(served, tmp_path)("import", "-", typed=text)

    assert said.code == Exit.FAULT
    assert word in said.out


async def test_what_the_daemon_refuses_is_said_with_its_line(serve: Serve, tmp_path: Path) -> None:
    """As the intake does: a suite that is not listed, for one."""
    settings = {"suites.unlisted": "refuse", "suites.known.a.timestamps": "optional"}
    served = await serve(None, settings)
    shell = shell_for(served, tmp_path, settings)
    lines = [
        json.dumps(request_json(Request("GET", hit(number, suite).encode())))
        for number, suite in enumerate(("a", "b", "a"))
    ]
    said = await shell("import", "-", typed="\n".join(lines))

    assert said.code == Exit.FAULT
    assert said.out == "3 in the file, 3 server calls, 2 imported, 1 refused\n"
    assert "refused: line 2: refused with 403" in said.err


async def test_a_har_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    shell = shell_without(tmp_path)
    said = await shell("import", "-", typed='{"log": {"entries": 7}}')

    assert (said.code, said.err) == (Exit.FAULT, "- is no HAR file\n")


async def test_nothing_is_imported_without_a_daemon(tmp_path: Path) -> None:
    line = json.dumps(request_json(Request("GET", hit(0).encode())))
    said = await shell_without(tmp_path)("import", "-", typed=line)

    assert (said.code, said.out) == (Exit.UNREACHABLE, "")


def test_an_unknown_format_is_bad_usage() -> None:
    assert run("export", "--format", "xml").code == Exit.USAGE


async def test_an_export_that_finds_nothing_for_long_does_not_break_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A filter that means few of many hits: the daemon looks, and has nothing to say meanwhile."""
    told = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhead\n\r\n")
        await told.wait()
        writer.write(b"4\r\nhit\n\r\n0\r\n\r\n")
        await writer.drain()
        writer.close()

    monkeypatch.setattr(ask, "TIMEOUT_S", 0.05)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        daemon = ask.Daemon(f"http://{host}:{port}")
        asyncio.get_running_loop().call_later(0.2, told.set)

        chunks = await asyncio.to_thread(list, daemon.chunks("/api/v1/hits.csv"))

    assert b"".join(chunks) == b"head\nhit\n"
