"""Claims about `decode`: what a hit says, in a pipe, with no daemon and no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import hit, write_config
from hypothesis import given
from hypothesis import strategies as st
from test_cli import ROOT, Said, Shell, run, shell, shell_without
from test_edge import cookie, entries

from proxy.cli import pasted
from proxy.cli.exits import Exit
from proxy.core.hit import Request
from proxy.core.render import curl, request_json

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
        '{"status":200,"url":"http://localhost/b/ss/rs1/1/X/s1?pageName=json"}',
        "AQB=1&pageName=body&AQE=1",
        "",
        "/b/ss/rs1/1?pageName=path#fragment",
    ]
    said = piped("\n".join(lines).encode(), "--json")

    assert said.code == 0
    titles = [json.loads(line)["title"] for line in said.out.splitlines()]
    assert titles == ["log", "p7", "json", "body", "path"]


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


# --- events of the Edge Network ----------------------------------------------------------------

EVENT = {"xdm": {"timestamp": "2026-02-02T02:40:00Z", "web": {"webPageDetails": {"name": "Home"}}}}
BODY = json.dumps({"meta": entries(cookie()), "events": [EVENT]})
INTERACT = "https://edge.adobedc.net/ee/or2/v1/interact?configId=abc&requestId=1"
# As the network panels of Chrome, of Chrome with a body that has an apostrophe, and of Firefox
# copy it.
CHROME = f"""curl '{INTERACT}' \\
  -H 'accept: */*' \\
  -H 'content-type: text/plain; charset=UTF-8' \\
  -b 's_ecid=1' \\
  --data-raw '{BODY}'
"""
ODD = BODY.replace("Home", "It\\'s \\u0021 \\xc3\\xa9")
QUOTED = f"curl '{INTERACT}' \\\n  --data-raw $'{ODD}' \\\n  --compressed\n"
FIREFOX = f"curl '{INTERACT}' --compressed -X POST -H 'Accept: */*' --data-binary '{BODY}'\n"


def titles(said: Said) -> list[str]:
    return [json.loads(line)["title"] for line in said.out.splitlines()]


def test_an_edge_request_is_read_in_whatever_form_one_has_it() -> None:
    """A body alone, pretty or not, behind its URL, an export's line, what a browser copied."""
    request = Request("POST", b"/ee/v1/interact?configId=abc", (), BODY.encode())
    texts = [
        BODY,
        json.dumps(json.loads(BODY), indent=2),
        f"{INTERACT}\n{BODY}",
        f"POST {INTERACT} HTTP/1.1\n\n{json.dumps(json.loads(BODY), indent=4)}",
        json.dumps(request_json(request)),
        json.dumps(EVENT, indent=2),
        CHROME,
        FIREFOX,
    ]
    said = piped("\n".join(texts).encode(), "--json")
    assert (said.code, said.err) == (0, "")
    assert titles(said) == ["Home"] * len(texts)
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["suites"] for row in rows] == [
        [],
        [],
        ["abc"],
        ["abc"],
        ["abc"],
        [],
        ["abc"],
        ["abc"],
    ]
    assert [row["findings"] for row in rows] == [[]] * len(texts)


def test_what_a_shell_would_make_of_quotes_is_made_of_them() -> None:
    assert titles(piped(QUOTED.encode(), "--json")) == ["It's ! é"]
    spaced = """curl --url="%s" -d "{\\"events\\":[{\\"data\\":{\\"a\\":\\"\\$x\\"}}]}" """
    (row,) = piped((spaced % INTERACT).encode(), "--json").out.splitlines()
    (group,) = json.loads(row)["decoded"]["groups"]
    assert group["fields"][0]["value"] == "$x"


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", b"/ee/v1/collect?configId=abc", (), BODY.encode()),
        Request("POST", b"/ee/v1/collect?configId=abc", (), BODY.replace("Home", "%é'").encode()),
        Request("GET", b"/b/ss/rs1/1/x/s1?AQB=1&pageName=it%27s&AQE=1", ((b"A", b"b'c"),)),
        Request("POST", b"/b/ss/rs1/1/x/s1", (), b"AQB=1&pageName=caf\xe9&ce=ISO-8859-1&AQE=1"),
    ],
    ids=["event", "odd event", "beacon", "odd beacon"],
)
def test_our_own_commands_are_read_back(request_: Request) -> None:
    """What `hit --curl` and the page's Copy cURL give."""
    command = curl(request_, "https://example.data.adobedc.net")
    (found,) = pasted.hits(command.encode().splitlines(keepends=True))
    assert found.request is not None
    assert (found.request.method, found.request.target) == (request_.method, request_.target)
    assert found.request.body == request_.body


def test_a_url_of_an_event_wants_its_body(tmp_path: Path) -> None:
    said = run("decode", INTERACT)
    assert said.code == Exit.FAULT
    assert said.err == "line 1 calls the Edge Network, and its body is missing: see --body\n"
    file = tmp_path / "body.json"
    file.write_text(BODY)
    for body in (BODY, f"@{file}"):
        assert run("decode", INTERACT, "--body", body).out.startswith('page view "Home" for abc')
    assert piped(BODY.encode(), INTERACT, "--body", "@-").out.startswith('page view "Home" for abc')
    assert run("decode", "--body", f"@{file}").out.startswith('page view "Home" for no datastream')
    assert run("decode", INTERACT, "--body", "@/nowhere").code == Exit.FAULT


def test_what_is_wrong_with_an_event_is_told_with_adobes_page() -> None:
    bad = '{"events":[{"xdm":{"timestamp":1}},{"xdm":{"timestamp":2}}]}'
    said = run("decode", INTERACT, "--body", bad)
    rules = [line.split()[1] for line in said.out.splitlines() if line.startswith("!")]
    assert rules == ["E2", "E4", "E4", "E6"]
    assert "https://developer.adobe.com/data-collection-apis/docs/endpoints/interact" in said.out
    refused = run("decode", "https://edge.adobedc.net/ee/v1/collect", "--body", "{}")
    assert "E1 lost: configId or datastreamId is missing" in refused.out
    assert "E1 lost: the events field is mandatory" in refused.out


def test_json_that_never_ends_hides_nothing_behind_it() -> None:
    text = '{"events": [\n' + URL + "\n{\n" + BODY + "\ncurl 'https://shop.example/\n" + URL
    said = piped(text.encode(), "--json")
    assert said.err.splitlines() == [f"line {number} holds no hit" for number in (1, 3, 5)]
    assert titles(said) == ["Shop > Basket", "Home", "Shop > Basket"]


@given(
    st.lists(
        st.sampled_from([*"{}[]\"\\$'|", "\n", "curl ", "printf ", "/b/ss/a", "é", "-d", "x", " "])
    )
)
def test_whatever_is_pasted_each_line_is_accounted_for(pieces: list[str]) -> None:
    lines = "".join(pieces).encode().splitlines(keepends=True)
    found = list(pasted.hits(lines))
    assert [one.line for one in found] == sorted({one.line for one in found})
    assert bool(found) == bool(b"".join(lines).strip())
