"""Claims about a hit in other tools' hands: it does nothing there but stand for itself."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.core.decode import decode
from proxy.core.findings import findings
from proxy.core.hit import Request, Suites
from proxy.core.names import as_json
from proxy.core.render import (
    CSV_HEADER,
    HAR_END,
    HAR_START,
    csv_row,
    curl,
    finding_json,
    har_entry,
    iso,
    of_har,
    request_json,
    request_of,
    url,
)
from proxy.core.search import View

BASE = "https://example.data.adobedc.net"
NOW = 1_770_000_000_123.0
HIT = Request(
    "GET",
    b"/b/ss/rs1/1/JS-2.27.0/s1?AQB=1&mid=7&pageName=It's%20%22fine%22&AQE=1",
    ((b"User-Agent", b"UA1"), (b"Cookie", b"s_vi=[CS]v1|1-2[CE]"), (b"Authorization", b"x")),
)

TARGETS = st.binary(max_size=40).map(
    lambda data: b"/b/ss/rs/1?" + bytes(byte for byte in data if byte > 32 and byte != 127)
)
VALUES = st.binary(max_size=20).map(
    lambda data: bytes(byte for byte in data if byte not in b"\r\n\0").strip(b" \t")
)
HEADERS = st.lists(
    st.tuples(st.sampled_from([b"X-A", b"User-Agent", b"Cookie", b"Content-Type"]), VALUES),
    max_size=3,
).map(tuple)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST"]),
    target=TARGETS,
    headers=HEADERS,
    body=st.one_of(st.just(b""), st.binary(max_size=40), st.text(max_size=20).map(str.encode)),
)
NASTY = st.one_of(
    st.sampled_from([b"'", b'"', b"$(touch x)", b"`touch x`", b"\\", b"!", b"\n", b"%s", b"%%"]),
    st.sampled_from([b"\x00", b"\xff", b"@/etc/passwd", b"; touch x", b"&", b"|", b"\\047"]),
    st.sampled_from([b"[a-z]", b"{a,b}", b"#", b"-o x", b" ", b"> x", b"~", b"*", b"\t"]),
)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command named curl was given."""

    words: list[bytes]
    body: bytes


class Shells:
    """Runs commands with a `curl` that notes its words and what it reads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        fake = folder / "bin" / "curl"
        fake.parent.mkdir()
        fake.write_text(
            "#!/bin/sh\n"
            f'for word; do printf "%s\\000" "$word"; done > "{folder}/words"\n'
            f'case "$*" in *"--data-binary @-"*) cat > "{folder}/body" ;; esac\n'
        )
        fake.chmod(0o755)
        self._path = f"{fake.parent}:{os.environ['PATH']}"

    def run(self, command: str, shell: str) -> Ran:
        body = self._folder / "body"
        body.write_bytes(b"")
        where = self._folder / "cwd"
        where.mkdir(exist_ok=True)
        subprocess.run(
            [shell, "-c", command],
            check=True,
            cwd=where,
            env={"PATH": self._path, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
        )
        assert not list(where.iterdir()), "nothing else was done"
        words = (self._folder / "words").read_bytes().split(b"\0")[:-1]
        return Ran(words, body.read_bytes())


@pytest.fixture(scope="module")
def shells(tmp_path_factory: pytest.TempPathFactory) -> Shells:
    return Shells(tmp_path_factory.mktemp("shells"))


SHELLS = [name for name in ("sh", "bash", "zsh") if shutil.which(name)]


def escaped(target: bytes) -> bytes:
    """A URL's bytes as a server understands them: escaped or not is the same."""
    return unquote_to_bytes(target)


def check_curl(request: Request, ran: Ran) -> None:
    """The command says the request, the whole request and nothing but the request."""
    words = list(ran.words)
    assert words[:2] == [b"--globoff", b"--path-as-is"]
    headers = [words[at + 1] for at, word in enumerate(words) if word == b"--header"]
    sent = [b"%s: %s" % pair if pair[1] else pair[0] + b";" for pair in request.headers]
    assert headers[: len(sent)] == sent
    assert all(header.endswith(b":") for header in headers[len(sent) :]), "none is curl's own"
    (address,) = [word for word in words if word.startswith(BASE.encode())]
    assert escaped(address[len(BASE) :]) == escaped(request.target)
    raw = [words[at + 1] for at, word in enumerate(words) if word == b"--data-raw"]
    assert (raw[0] if raw else ran.body) == request.body
    is_post = bool(raw) or b"--data-binary" in words
    assert is_post == (request.method == "POST" or bool(request.body))
    if request.method == "GET" and request.body:
        assert words[words.index(b"--request") + 1] == b"GET"
    assert set(words) - {address, *headers, *raw} <= {
        b"--globoff",
        b"--path-as-is",
        b"--header",
        b"--data-raw",
        b"--data-binary",
        b"@-",
        b"--request",
        b"GET",
    }


@pytest.mark.parametrize("shell", SHELLS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(request=HIT, nasty=b"-\0")
@example(request=HIT, nasty=b"-v x\n")
@example(request=HIT, nasty=b"%s%%\0")
@given(request=REQUESTS, nasty=st.lists(NASTY, min_size=1, max_size=3).map(b"".join))
def test_a_curl_command_is_safe_in_a_shell_and_says_the_same_request(
    shells: Shells, shell: str, request: Request, nasty: bytes
) -> None:
    """Whatever bytes a hit holds, a shell sees words and runs nothing but curl."""
    visible = bytes(byte for byte in nasty if byte > 32)
    header = (b"X-Nasty", bytes(byte for byte in nasty if byte not in b"\r\n\0").strip())
    for hit in (
        request,
        request._replace(target=b"/b/ss/rs/1?" + visible),
        request._replace(headers=(header,)),
        request._replace(body=nasty),
    ):
        check_curl(hit, shells.run(curl(hit, BASE, unredacted=True), shell))


def test_a_curl_command_can_be_read() -> None:
    request = HIT._replace(method="POST", body=b"a=1")
    assert curl(request, BASE) == (
        "curl --globoff --path-as-is \\\n"
        "  'https://example.data.adobedc.net/b/ss/rs1/1/JS-2.27.0/s1"
        "?AQB=1&mid=7&pageName=It'\\''s%20%22fine%22&AQE=1' \\\n"
        "  --header 'User-Agent: UA1' \\\n"
        "  --header 'Accept:' \\\n"
        "  --header 'Content-Type:' \\\n"
        "  --header 'Expect:' \\\n"
        "  --data-raw 'a=1'"
    )


def test_what_identifies_stays_out_unless_asked_for() -> None:
    forms = [curl(HIT, BASE), json.dumps(request_json(HIT))]
    forms.append(json.dumps(har_entry(HIT, BASE, received_ms=NOW)))
    for form in forms:
        assert "s_vi" not in form
        assert "Authorization" not in form
    assert "s_vi" in curl(HIT, BASE, unredacted=True)
    assert "s_vi" in json.dumps(har_entry(HIT, BASE, received_ms=NOW, unredacted=True))


def test_a_url_holds_only_what_a_url_may() -> None:
    request = HIT._replace(target=b'/b/ss/rs/1?a="<\xff#>\x7f|')
    assert url(request, BASE + "/") == f"{BASE}/b/ss/rs/1?a=%22%3C%FF%23%3E%7F%7C"


# -- JSON ------------------------------------------------------------------------------------


@given(REQUESTS)
def test_a_request_survives_its_json(request: Request) -> None:
    text = json.dumps(request_json(request, unredacted=True))
    assert request_of(json.loads(text)) == request


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"target": 7},
        {"target": "/b/ss/a b"},
        {"target": "b/ss"},
        {"target": "/b/ss\r\nHost: x"},
        {"target": "/\u0394"},
        {"target": "/", "method": "G T"},
        {"target": "/", "method": None},
        {"target": "/", "body": 1},
        {"target": "/", "headers": "x"},
        {"target": "/", "headers": ["ab"]},
        {"target": "/", "headers": [["a", "b", "c"]]},
        {"target": "/", "headers": [["a b", "c"]]},
        {"target": "/", "headers": [["a", "b\r\nc"]]},
        {"target": "/", "headers": [["a", 1]]},
        {"target": "/", "headers": {"a": "b"}},
    ],
)
def test_what_nobody_could_send_is_no_request(row: dict[str, object]) -> None:
    """An import is somebody's file: it is checked before it is a hit."""
    with pytest.raises(ValueError, match=r"[a-z]"):
        request_of(row)


def test_a_hit_in_json_has_the_fields_of_the_contract() -> None:
    found = json.loads(json.dumps(as_json(decode(HIT), {})))
    assert found.keys() == {
        "protocol",
        "kind",
        "title",
        "version",
        "ts",
        "identities",
        "events",
        "products",
        "groups",
    }
    assert found["identities"][0] == {"kind": "aid", "value": "1-2", "used": True}
    assert found["groups"][0]["fields"][0] == {
        "key": "pageName",
        "name": "pageName",
        "value": 'It\'s "fine"',
    }


# -- a spreadsheet ---------------------------------------------------------------------------


def seen(query: bytes) -> View:
    request = HIT._replace(target=b"/b/ss/rs1/1?" + query)
    decoded = decode(request)
    found = findings(decoded, request, Suites({}), received_ms=NOW, at_ms=NOW)
    return View("dead", NOW, NOW, decoded, found, NOW + 1, 5, "404")


def cells(line: str) -> dict[str, str]:
    (header,), (row,) = (
        list(csv.reader(io.StringIO(text, newline=""))) for text in (CSV_HEADER, line)
    )
    return dict(zip(header, row, strict=True))


def test_a_csv_row_says_what_an_analyst_looks_for() -> None:
    row = cells(csv_row(seen(b'pageName=a,"b%22%0Ac&v1=x&c2=y&events=event1&mid=7')))
    assert row["page name"] == row["title"] == 'a,"b"\nc'
    assert (row["evars"], row["props"], row["events"]) == ("eVar1=x", "prop2=y", "event1")
    assert (row["id"], row["state"], row["reason"]) == ("5", "dead", "404")
    assert (row["visitor kind"], row["visitor"]) == ("aid", "1-2")
    assert row["received"] == "2026-02-02T02:40:00.123Z"
    assert "N2" in row["findings"]
    assert cells(csv_row(View("waiting", NOW, NOW)))["title"] == ""


@pytest.mark.parametrize("start", "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
def test_no_cell_is_a_formula(start: str) -> None:
    """A page named `=HYPERLINK(…)` is a text when the file is opened."""
    from urllib.parse import quote  # noqa: PLC0415 - for this test alone

    line = csv_row(seen(f"pageName={quote(start)}cmd".encode()))
    assert cells(line)["page name"] == f"'{start}cmd"


@given(st.binary(max_size=60))
def test_any_hit_is_one_row(query: bytes) -> None:
    cells(csv_row(seen(query.replace(b"#", b""))))


# -- HAR -------------------------------------------------------------------------------------


@given(REQUESTS)
def test_a_hit_comes_back_from_a_har_file(request: Request) -> None:
    """Escaped or not, the URL is the same to a server; all else is the same bytes."""
    entry = har_entry(request, BASE, received_ms=NOW, status=200, unredacted=True)
    again, at = of_har(json.loads(json.dumps(entry)))
    assert at == 1_770_000_000_000.0, "to the second"
    assert escaped(again.target) == escaped(request.target)
    assert (again.method, again.headers, again.body) == (
        request.method,
        request.headers,
        request.body,
    )


def test_a_har_file_is_whole_json() -> None:
    entry = json.dumps(har_entry(HIT, BASE, received_ms=NOW))
    found = json.loads(HAR_START + entry + HAR_END)
    assert found["log"]["version"] == "1.2"
    (one,) = found["log"]["entries"]
    assert one["request"]["queryString"][1] == {"name": "mid", "value": "7"}
    assert urlsplit(one["request"]["url"]).netloc == "example.data.adobedc.net"


def test_a_browsers_har_entry_is_read() -> None:
    entry = {
        "startedDateTime": "2026-02-02T03:40:00.123+01:00",
        "request": {
            "method": "POST",
            "url": "https://a.example/b/ss/rs/1/X/s1?x=%E9#top",
            "headers": [
                {"name": ":authority", "value": "a.example"},
                {"name": "Accept", "value": "*/*"},
            ],
            "postData": {"mimeType": "text/plain", "text": "pageName=caf\xe9"},
        },
    }
    request, at = of_har(entry)
    assert at == 1_770_000_000_000.0
    assert request.target == b"/b/ss/rs/1/X/s1?x=%E9"
    assert request.headers == ((b"Accept", b"*/*"),)
    assert request.body == "pageName=caf\xe9".encode()


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"request": {"method": "GET"}},
        {"request": {"method": "GET", "url": "http://a/ b"}},
        {"request": {"method": "GET", "url": "data:text/plain,x"}},
        {"request": {"method": "GET", "url": "ftp://x/"}},
        {"request": {"method": "", "url": "http://x/"}},
    ],
)
def test_an_entry_without_a_request_is_said_to_be_none(entry: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        of_har(entry)


# -- the rest --------------------------------------------------------------------------------


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001
def test_an_instant_is_written_as_iso(when: datetime) -> None:
    when = when.replace(tzinfo=UTC, microsecond=when.microsecond // 1000 * 1000)
    text = f"{when.year:04}{when:-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03}Z"
    assert iso(round(when.timestamp() * 1000)) == text


def test_a_finding_in_json_has_the_fields_of_the_contract() -> None:
    (one, *_) = seen(b"ts=x").findings
    assert finding_json(one).keys() == {"rule", "severity", "text", "key", "doc"}
