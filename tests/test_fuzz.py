"""Whatever comes in at the two doors, a request or a configuration, has an exact answer.

Fuzzed with what is nearly right, which gets further in than noise.  What is no HTTP at all is
tried over sockets, in tests/reliability/test_hostile.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import config
from proxy.core.hit import ReportSuite, Request, Suites, Timestamps
from proxy.core.reception import Pass, Refuse, Take, receive
from proxy.errors import ConfigError

SUITES = Suites({"opt": ReportSuite(Timestamps.OPTIONAL), "non": ReportSuite()})
CLOSED = Suites({"opt": ReportSuite(Timestamps.OPTIONAL)}, refuse_unlisted=True)

PIECES = st.sampled_from(
    [
        b"/b/ss/",
        b"opt",
        b"non",
        b",",
        b"/",
        b"/1/",
        b"/6",
        b"JS-2.27.0",
        b"/s1234567",
        b"?",
        b"&",
        b"AQB=1",
        b"AQE=1",
        b"ts=",
        b"ts=1",
        b"vid=%",
        b"mid=7",
        b"c.",
        b".c",
        b"=",
        b"%00",
        b"/id",
        b"//",
        b"..",
        b"#",
        b"%2F",
        b"\xff",
        b"D=g",
        b"&&",
        b";",
    ]
)
TARGETS = st.lists(st.one_of(PIECES, st.binary(max_size=4)), max_size=14).map(
    lambda pieces: b"/" + b"".join(pieces).lstrip(b"/")
)
TAGS = [b"request", b"reportSuiteID", b"visitorID", b"timestamp", b"pageName", b"sc_xml_ver"]
XML = st.lists(
    st.one_of(
        st.sampled_from([b"<%s>" % tag for tag in TAGS] + [b"</%s>" % tag for tag in TAGS]),
        st.sampled_from([b"<?xml version='1.0'?>", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;"]),
        st.sampled_from([b"opt", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"1.0", b"\xff\xfe"]),
        st.binary(max_size=6),
    ),
    max_size=20,
).map(b"".join)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"Content-Type", b"Cookie", b"Origin", b"X-Forwarded-For", b"User-Agent"]),
        st.one_of(st.sampled_from([b"text/xml", b"text/plain", b"a=b; s_vi=1"]), st.binary()),
    ),
    max_size=4,
).map(tuple)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", ""])


@settings(max_examples=600)
@given(METHODS, TARGETS, HEADERS, st.one_of(XML, st.binary(max_size=40)))
def test_every_request_is_taken_refused_or_an_identity_call(
    method: str, target: bytes, headers: tuple[tuple[bytes, bytes], ...], body: bytes
) -> None:
    """No exception; what is taken gets 200, what is refused a 4xx or the 2xx of a preflight."""
    for suites in (SUITES, CLOSED):
        match receive(Request(method, target, headers, body), "127.0.0.1", suites):
            case Take() as todo:
                assert (todo.answer.status, todo.otherwise.status) == (200, 503)
                assert todo.rows
            case Refuse() as todo:
                known = {200, 204, 400, 403, 404, 405, 411, 413, 414, 415, 421}
                assert todo.answer.status in known
            case todo:
                assert isinstance(todo, Pass)


@settings(max_examples=600)
@given(XML)
def test_every_xml_body_has_an_exact_answer(body: bytes) -> None:
    """Data Insertion parses what clients send; nothing they send is an exception."""
    todo = receive(Request("POST", b"/b/ss//6", (), body), "127.0.0.1", SUITES)

    assert isinstance(todo, Take | Refuse)
    assert todo.answer.status in {200, 400, 403}


WORDS = st.sampled_from(
    [
        "listen",
        "upstream",
        "suites",
        "known",
        "queue",
        "retry",
        "drain",
        "admin",
        "log",
        "address",
        "server",
        "timestamps",
        "path",
        "max_hits",
        "max_age",
        "rate",
        "token_file",
        "level",
        "opt",
        "[",
        "]",
        "[[",
        ".",
        " = ",
        "\n",
        '"',
        "'",
        "1",
        "-1",
        "true",
        '"5s"',
        '"2GiB"',
        "{",
        "}",
        '"https://a.example"',
        '"127.0.0.1:0"',
        "1979-05-27",
        "nan",
        "#",
        ",",
        "\u00e4",
        "\x00",
    ]
)
TOML = st.lists(WORDS, max_size=30).map("".join)


def faults(path: Path | None, environ: dict[str, str]) -> list[str]:
    try:
        config.load(path, environ)
    except ConfigError as error:
        return error.problems
    return []


@settings(max_examples=400, deadline=None)
@given(st.one_of(TOML.map(str.encode), st.binary(max_size=60)))
def test_every_configuration_is_taken_or_its_faults_are_said(content: bytes) -> None:
    """A `ConfigError` with printable lines, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(content)
        assert all(line.isprintable() for line in faults(path, {}))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["QUEUE__MAX_HITS", "UPSTREAM__SERVER", "SUITES__KNOWN__A__TIMESTAMPS", "X"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
)
def test_every_word_of_the_environment_is_taken_or_its_fault_is_said(key: str, value: str) -> None:
    """Likewise for what an operator sets there."""
    assert all(line.isprintable() for line in faults(None, {f"TRACKOFFLINE_{key}": value}))
