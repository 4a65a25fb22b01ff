"""Claims about `decode`: what a hit says, in a pipe, with no daemon and no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import hit, write_config
from test_cli import ROOT, Said, Shell, run, shell, shell_without

from proxy.cli.exits import Exit
from proxy.core.hit import Request
from proxy.core.render import request_json

__all__ = ["shell"]  # a fixture, found by its name

URL = (
    "https://example.data.adobedc.net/b/ss/rs1/1/JS-2.27.0/s1?AQB=1&ndh=1&mid=48210009"
    "&pageName=Shop%20%3E%20Basket&v12=boots&events=scAdd,event3%3D2.5%3AABC"
    "&products=Shoes%3BBoot%3B1%3B49.99%3Bevent1%3D2%3BeVar1%3Dred&c.&cart.&size=3&.cart&.c&AQE=1"
)


def piped(text: bytes, *words: str) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "decode", *words],
        cwd=ROOT,
        input=text,
        capture_output=True,
        check=False,
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_url_is_told_in_adobes_words() -> None:
    said = run("decode", URL)

    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == 'page view "Shop > Basket" for rs1'
    assert "Visitor   mid 48210009 (used), ip unknown (not used)" in lines
    assert "Events    scAdd, event3=2.5:ABC" in lines
    assert "eVars     eVar12  boots" in lines
    assert "Context data cart.size  3" in lines
    table = [line.split() for line in lines if line.startswith(("Products", "          Shoes"))]
    assert table == [
        ["Products", "CATEGORY", "PRODUCT", "QUANTITY", "PRICE", "EVENTS", "EVARS"],
        ["Shoes", "Boot", "1", "49.99", "event1=2", "eVar1=red"],
    ]


def test_json_is_one_line_a_hit_in_the_words_of_the_api() -> None:
    said = run("decode", "--json", URL, URL.replace("rs1", "rs2"))

    first, second = map(json.loads, said.out.splitlines())
    assert (first["suites"], second["suites"]) == (["rs1"], ["rs2"])
    assert first["decoded"]["events"][1] == {"name": "event3", "value": "2.5", "serial": "ABC"}
    assert {one["rule"] for one in first["findings"]} == {"N2"}


def test_lines_of_a_log_an_export_and_a_body_are_read_from_a_pipe() -> None:
    """`grep b/ss access.log | trackoffline decode`, and what else holds a hit."""
    row = json.dumps(request_json(Request("GET", hit(7).encode())))
    lines = [
        '10.0.0.7 - - [02/Feb/2026] "GET /b/ss/rs1/1/X/s1?pageName=log HTTP/1.1" 200 43',
        row,
        "AQB=1&pageName=body&AQE=1",
        "",
        "/b/ss/rs1/1?pageName=path#fragment",
    ]
    said = piped("\n".join(lines).encode(), "--json")

    assert said.code == 0
    titles = [json.loads(line)["title"] for line in said.out.splitlines()]
    assert titles == ["log", "p7", "body", "path"]


def test_a_query_alone_is_not_blamed_for_its_path() -> None:
    assert "L5" not in run("decode", "AQB=1&pageName=p&AQE=1").out
    assert "L5" in run("decode", "/b/ss//1?pageName=p").out


def test_what_holds_no_hit_is_said_and_the_rest_is_done() -> None:
    said = piped(b'https://shop.example/basket?x=1\n{"a":1}\n{\n\xff\xfe\n' + URL.encode())

    assert said.code == Exit.FAULT
    assert said.err.splitlines() == [f"line {number} holds no hit" for number in (1, 2, 3, 4)]
    assert said.out.startswith('page view "Shop > Basket"')


def test_a_body_is_part_of_the_hit() -> None:
    said = run("decode", "/b/ss/rs1/1/X/s1", "--body", "pageName=long&mid=1")
    assert said.out.startswith('page view "long" for rs1')


async def test_the_suites_of_the_configuration_are_heeded(tmp_path: Path) -> None:
    shell = shell_without(tmp_path, {"suites.known.rs1.timestamps": "not-allowed"})
    said = await shell("decode", "--json", URL + "&ts=1770000000")

    assert "L2" in {one["rule"] for one in said.json()["findings"]}


async def test_a_faulty_configuration_is_not_passed_over(tmp_path: Path) -> None:
    broken = Shell(tmp_path, write_config(tmp_path / "x.toml", {"queue.max_hitz": 1}))
    assert (await broken("decode", URL)).code == Exit.CONFIG


def test_what_a_stranger_wrote_moves_no_cursor() -> None:
    said = run("decode", "/b/ss/rs1/1?pageName=%1B%5B2J%0AInjected&c.&%1b=%1b&.c")

    assert "\x1b" not in said.out
    assert 'page view "\ufffd[2J\ufffdInjected" for rs1' in said.out


@pytest.mark.parametrize("text", [b"", b"\n\n"])
def test_of_nothing_nothing_is_said(text: bytes) -> None:
    assert piped(text) == Said(0, "", "")


def test_findings_come_with_adobes_page() -> None:
    said = run("decode", f"/b/ss/rs1/1?mid=1&pageName={'x' * 101}")

    at = said.out.splitlines().index(
        f'!         W4 wrong: pageName is 101 bytes; Adobe keeps 100: "\u2026{"x" * 20}|cut here|x"'
    )
    assert said.out.splitlines()[at + 1].endswith("/implementation/vars/page-vars/pagename")
