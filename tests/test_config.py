"""A configuration is right as a whole, or every fault of it is said at once, with its place."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it has no types

from proxy import config
from proxy.config import model, values
from proxy.core import hit
from proxy.core.hit import ReportSuite, Timestamps, WhenLate
from proxy.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def load(text: str, tmp_path: Path, environ: Mapping[str, str] | None = None) -> config.Config:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, environ or {})


def problems(text: str, tmp_path: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    """Every fault, the directory left out of its place."""
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path, environ)
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.problems]


def problem(text: str, tmp_path: Path, environ: Mapping[str, str] | None = None) -> str:
    (only,) = problems(text, tmp_path, environ)
    return only


def env_problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(None, environ)
    return caught.value.problems


# What is right


def test_nothing_written_is_capture_only_at_the_documented_addresses() -> None:
    """Without file and variables the defaults of the documentation hold, and nothing is sent."""
    empty = config.load(None, {})

    assert empty.upstream is None
    assert str(empty.listen.address) == "127.0.0.1:8277"
    assert empty.listen.tls_address is None
    assert empty.listen.max_request == 256 * 1024
    assert str(empty.admin.address) == "127.0.0.1:8278"
    assert (empty.queue.max_hits, empty.queue.max_bytes) == (1_000_000, 2 * 1024**3)
    assert (empty.queue.max_age, empty.queue.keep_delivered) == (0.0, 86_400.0)
    assert (empty.retry.first, empty.retry.max, empty.retry.attempts) == (1.0, 15.0, 5)
    assert (empty.drain.rate, empty.drain.concurrency) == (0.0, 64)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Nothing has to be written."""
    assert config.load(None, {}) == load("", tmp_path)


def test_a_file_that_windows_saved_is_read(tmp_path: Path) -> None:
    """Byte order mark and carriage returns change nothing."""
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[queue]\r\nmax_hits = 7\r\n")

    assert config.load(path, {}).queue.max_hits == 7


def test_what_is_loaded_never_changes() -> None:
    """A configuration is a value."""
    loaded = config.load(None, {})

    with pytest.raises(ValueError, match="frozen"):
        loaded.queue.max_hits = 3


@pytest.mark.parametrize(
    "written,seconds",
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("7d", 604_800.0),
        ("1.5s", 1.5),
        ("0s", 0.0),
        ("0", 0.0),
        (0, 0.0),
    ],
)
def test_durations_are_read(written: object, seconds: float) -> None:
    """A number and its unit; zero needs none."""
    assert seconds == values.duration(written)


@pytest.mark.parametrize(
    "written", [30, "30", "s", "-1s", "1 w", "1S", "", None, True, 1.5, "1h30m", "٣s", "9" * 99]
)
def test_a_duration_without_a_unit_is_refused(written: object) -> None:
    """Nobody guesses whether 30 is seconds or milliseconds."""
    with pytest.raises(ValueError, match='such as "30s"'):
        values.duration(written)


@given(st.integers(0, 10**12))
def test_a_spelled_duration_reads_back(milliseconds: int) -> None:
    """What a warning says could be written into the file."""
    assert milliseconds / 1000 == values.duration(values.spell_duration(milliseconds / 1000))


@pytest.mark.parametrize(
    "written,count",
    [
        ("64KiB", 65_536),
        ("2GiB", 2 * 1024**3),
        ("10MB", 10_000_000),
        ("1.5 MiB", 1_572_864),
        ("512b", 512),
        ("4096", 4096),
        (4096, 4096),
        (0, 0),
    ],
)
def test_sizes_are_read(written: object, count: int) -> None:
    """Binary and decimal units, and plain numbers of bytes."""
    assert count == values.size(written)


@pytest.mark.parametrize("written", ["64 K", "-1", -1, "", "KiB", None, True, 1.5, "99999999TiB"])
def test_what_is_no_size_is_refused(written: object) -> None:
    """Neither negative nor without meaning nor beyond what the queue file can count."""
    with pytest.raises(ValueError, match=r"it must be a size|larger than"):
        values.size(written)


@pytest.mark.parametrize("written,hits", [(0, 0.0), (20, 20.0), (0.5, 0.5), ("20/s", 20.0)])
def test_rates_are_read(written: object, hits: float) -> None:
    """A number of hits a second, with or without saying so."""
    assert hits == values.rate(written)


@pytest.mark.parametrize("written", [-1, "20/m", float("nan"), -0.5, True, "fast"])
def test_what_is_no_rate_is_refused(written: object) -> None:
    """Only hits a second."""
    with pytest.raises(ValueError, match="hits a second"):
        values.rate(written)


@pytest.mark.parametrize(
    "written", ["127.0.0.1:8277", "[::1]:8277", "0.0.0.0:0", "localhost:1", "[fe80::1%eth0]:80"]
)
def test_addresses_are_read_and_written_alike(written: str) -> None:
    """Names, IPv4, and IPv6 in brackets."""
    assert written == str(values.address(written))


@pytest.mark.parametrize(
    "written",
    ["8277", ":8277", "::1:8277", "127.0.0.1", "a:99999", "a b:1", "127.1:80", "[127.0.0.1]:x", 1],
)
def test_what_is_no_address_is_refused(written: object) -> None:
    """Host and port, both said, nothing guessed."""
    with pytest.raises(ValueError, match=r"host:port|at most 65535|not an IP address"):
        values.address(written)


@pytest.mark.parametrize(
    "written,normal",
    [
        ("https://Example.data.adobedc.net", "https://example.data.adobedc.net"),
        ("https://example.data.adobedc.net/", "https://example.data.adobedc.net"),
        ("HTTPS://a:443", "https://a"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_servers_are_read(written: str, normal: str) -> None:
    """Scheme, host and perhaps a port."""
    assert normal == str(values.server(written))


@pytest.mark.parametrize(
    "written,said",
    [
        ("example.data.adobedc.net", 'begin with "https://"'),
        ("ftp://a", "only https://"),
        ("https://a/b/ss", "path and query come with each hit"),
        ("https://a?x=1", "path and query come with each hit"),
        ("https://me:secret@a", "no user name or password"),
        ("https://", "scheme://host"),
        ("https://a b", "scheme://host"),
        ("https://a\n", "scheme://host"),
        ("https://a:0", "port 0"),
        ("https://a:70000", "65535"),
        (5, "it must be a URL"),
    ],
)
def test_what_is_no_server_is_refused(written: object, said: str) -> None:
    """Each with what to do about it."""
    with pytest.raises(ValueError, match=said):
        values.server(written)


def test_suites_reach_the_core_as_plain_values(tmp_path: Path) -> None:
    """Every listed suite with its mode; of the others what is assumed."""
    loaded = load(
        """
        [suites]
        timestamps = "optional"
        unlisted = "refuse"
        silence = ["N2"]
        [suites.known.examplersid]
        timestamps = "required"
        silence = ["N1", "W4"]
        [suites.known.exampledev]
        timestamps = "not-allowed"
        when_late = "send"
        [suites.known."a.b-c_1"]
        [edge]
        server = "https://edge.adobedc.net"
        silence = ["E9"]
        """,
        tmp_path,
    )

    expected = hit.Suites(
        known={
            "examplersid": ReportSuite(Timestamps.REQUIRED, silence=frozenset({"N1", "W4"})),
            "exampledev": ReportSuite(Timestamps.NOT_ALLOWED, WhenLate.SEND),
            "a.b-c_1": ReportSuite(Timestamps.UNKNOWN),
        },
        unlisted=ReportSuite(Timestamps.OPTIONAL, silence=frozenset({"N2"})),
        refuse_unlisted=True,
        silence_of_events=frozenset({"E9"}),
    )
    assert expected == config.suites(loaded)


def test_variables_are_named_in_any_case(tmp_path: Path) -> None:
    """The environment too; what has no name has none."""
    text = '[variables]\neVar12 = "Search term"\nevent3 = ""\n"ctx.Cart.size" = "Basket"\n'
    path = tmp_path / "config.toml"
    path.write_text(text)
    environ = {"TRACKOFFLINE_VARIABLES__EVAR12": "Query", "TRACKOFFLINE_VARIABLES__PROP5": "Way"}

    assert config.names(config.load(path, environ)) == {
        "evar12": "Query",
        "ctx.cart.size": "Basket",
        "prop5": "Way",
    }


@pytest.mark.parametrize(
    "line, said",
    [
        ('eVra12 = "x"', "config.toml:2:1: variables.eVra12: Adobe has no variable of this name"),
        ('eVra12 = "x"', 'Did you mean "eVar12"?'),
        ('event1001 = "x"', "no variable of this name"),
        ("eVar1 = 3", "variables.eVar1 is 3; it must be a name of 64 characters at most"),
        ('eVar1 = "x"\nevar1 = "y"', "variables.evar1 is the same variable as variables.eVar1"),
        ("prop1.x = 1", "variables.prop1 is a table"),
    ],
)
def test_a_name_for_no_variable_is_a_fault(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[variables]\n{line}\n")
    with pytest.raises(ConfigError) as fault:
        config.load(path, {})

    assert said in str(fault.value)


# What is wrong


def test_every_fault_is_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Unknown keys, bad values, variables and contradictions, in one run."""
    text = """[listen]
max_request = "1KiB"
[suites.known.examplersid]
timestamps = "requird"
[queue]
max_hitz = 10
[retry]
first = "1m"
[admin]
address = "0.0.0.0:8278"
"""
    expected = [
        (
            'config.toml:2:15: listen.max_request is "1KiB"; it must be 8KiB to 16MiB: below it '
            "ordinary hits are refused, above it a few strangers fill the memory"
        ),
        (
            'config.toml:4:14: suites.known.examplersid.timestamps is "requird"; choose required, '
            'optional, not-allowed or unknown. Did you mean "required"?'
        ),
        'config.toml:6:1: queue.max_hitz is not a setting. Did you mean "max_hits"?',
        (
            "config.toml:8:9: retry.first is 1m and retry.max is 15s; the first pause cannot "
            "exceed the longest"
        ),
        (
            "config.toml:10:11: admin.address is 0.0.0.0:8278 but admin.token_file is not set: "
            "anyone on the network could read hits; set it, or use 127.0.0.1:8278"
        ),
        (
            "environment: TRACKOFFLINE_QUEU__MAX_HITS: there is no section "
            '"queu". Did you mean "queue"?'
        ),
    ]

    assert expected == problems(text, tmp_path, {"TRACKOFFLINE_QUEU__MAX_HITS": "3"})


@pytest.mark.parametrize(
    "text,said",
    [
        ("[hub]\nserver = 'https://a'", '1:2: there is no section "hub"'),
        ("[edge]", "1:2: edge.server is not set; leave the whole section out"),
        ("[edge]\nserver = 'https://a'\nbase_path = '/ee/'", "3:13: edge.base_path"),
        ("[edge]\nserver = 'https://a'\nbase_path = 'b/ss'", "hits of Adobe Analytics go"),
        ("[edge]\nserver = 'https://a'\ndatastreams = 'abc'", "3:15: edge.datastreams"),
        ("[edge]\nserver = 'https://a'\nunlisted = 'drop'", "3:12: edge.unlisted"),
        ("[suites]\nsilence = ['w44']", '2:11: suites.silence is a list; "w44" is no rule; there'),
        (
            "[suites.known.a]\nsilence = ['w44']",
            'N2 E1 E2 E3 E4 E5 E6 E7 E8 E9. Did you mean "W4"?',
        ),
        ("[suites]\nsilence = 'W4'", '2:11: suites.silence is "W4"; it must be a list of rules'),
        ("[admin]\nlabel = 17", "2:9: admin.label is 17; it must be a name of 64 characters"),
        ("[[queue]]", "1:3: queue is a list; it must be a section, [queue]"),
        ("listen = 5", "1:10: listen is 5; it must be a section, [listen]"),
        ("address = 'a'", '1:1: address is not a setting. Did you mean "listen.address"?'),
        ("[retry]\nrate = 3", '2:1: retry.rate is not a setting. Did you mean "drain.rate"?'),
        ("[log]\nzzz = 3", "2:1: log.zzz is not a setting"),
        ("queue = {max_hits = '9'}", '1:21: queue.max_hits is "9"; it must be a whole number'),
        ("queue.max_hits = 0", "1:18: queue.max_hits is 0; it must be at least 1"),
        ("queue.max_hits = 1.5", "1:18: queue.max_hits is 1.5; it must be a whole number"),
        ("queue.max_hits = true", "1:18: queue.max_hits is true; it must be a whole number"),
        ("queue.max_hits = 99999999999999999999", "larger than 64 bits hold"),
        ("queue.max_age = 30", "1:17: queue.max_age is 30; it must be a duration"),
        ("queue.path = ''", '1:14: queue.path is ""; it must be a path'),
        ("queue.path = ':memory:'", "must be on disk"),
        ("queue.path = 'file:x?mode=memory'", "must be on disk"),
        ("queue.path = '~/hits.db'", '"~" is not expanded'),
        ("queue.path = '/var/'", "not a directory"),
        ("queue.when_full = 'drop\u2028a'", '"drop\\u2028a"; choose refuse or drop-oldest'),
        ("queue.when_full = 'drop'", "choose refuse or drop-oldest"),
        ("drain.concurrency = 1025", "it must be 1 to 1024"),
        ("drain.rate = 2000000", "it must be 0 to 1000000"),
        ("retry.attempts = 0", "it must be 1 to 1000"),
        ("retry.first = '0s'", "it must be 1ms to 1h"),
        ("admin.allowed_hosts = 'a'", "it must be a list of host names"),
        ("admin.allowed_hosts = ['http://a']", '"http://a" is not a host name'),
        ("admin.allowed_hosts = [1]", "it must be a list of host names"),
        ("log.level = 1979-05-27", 'log.level is "1979-05-27"; choose debug'),
        ("[upstream]", "1:2: upstream.server is not set; leave the whole section out"),
        ("[upstream]\nserver = 'https://a'\nallow_plaintext = 'yes'", "3:19: upstream.allow_pl"),
        ("[upstream]\nserver = 'https://a'\ntimeout = '0s'", "3:11: upstream.timeout"),
        ('[suites.known]\na = "required"', "2:5: suites.known.a is"),
        ("[suites.known.'a,b']", '1:15: suites.known."a,b": a report suite id has only'),
        ("[suites.known]\n'a\\nb' = {}", "a report suite id has only"),
    ],
)
def test_a_fault_says_where_what_and_what_else(text: str, said: str, tmp_path: Path) -> None:
    """In plain words, at the key when it is unknown and at the value when that is wrong."""
    line = problem(text, tmp_path)

    assert said in line
    assert re.match(r"config\.toml:\d+:\d+: ", line)
    assert line.isprintable()


def test_a_password_in_a_url_is_not_repeated(tmp_path: Path) -> None:
    """A fault may end in a log."""
    line = problem("[upstream]\nserver = 'https://me:sec@ret@a/b'", tmp_path)

    assert "no user name or password" in line
    assert "ret" not in line


@pytest.mark.parametrize(
    "content,said",
    [
        (b"[queue\nmax_hits = 1", ":1:7: this is not TOML: expected ']'"),
        (b"[queue]\nmax_age = 30s", ":2:13: this is not TOML: expected newline or end of docu"),
        (b"[queue]\nmax_age = never", ":2:11: this is not TOML: invalid value; text needs quo"),
        (b"[queue]\nmax_hits = 1\nmax_hits = 2\n", "this key is given twice"),
        (b"[suites.known.a]\n[suites.known.a]", "the section [suites.known.a] stands here twice"),
        (b'[queue]\npath = "', ":2:9: this is not TOML: unterminated string"),
        (b"[queue]\npath = '\xc3\xa4\xff'", ":2:10: what follows is not UTF-8"),
        (b"\xff\xfe[\x00", ":1:1: what follows is not UTF-8"),
        (b"a = " + b"[" * 100_000, ": this is no sensible TOML"),
        (b"a = " + b"9" * 5_000, ": this is no sensible TOML"),
    ],
)
def test_what_is_no_toml_is_said_with_its_place(content: bytes, said: str, tmp_path: Path) -> None:
    """A slip of the keyboard is found by line and column too."""
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(path, {})

    assert len(caught.value.problems) == 1
    assert f"{path}{said}" in caught.value.problems[0] or said in caught.value.problems[0]


def test_a_missing_file_is_never_silent_defaults(tmp_path: Path) -> None:
    """Neither is a directory; and the environment's faults are said beside it."""
    for path, said in ((tmp_path / "no.toml", "no such file"), (tmp_path, "this is a directory")):
        with pytest.raises(ConfigError) as caught:
            config.load(path, {"TRACKOFFLINE_A__B": ""})
        assert [f"{path}: ", "environment: "] == [
            f"{line.partition(': ')[0]}: " for line in caught.value.problems
        ]
        assert said in caught.value.problems[0]


def test_a_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    """It may hold what the defaults would silently replace: one clear line."""
    nowhere = tmp_path / ("x" * 300)
    found = config.find({}, nowhere)

    assert found == nowhere / "config.toml"
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: file name too long"):
        config.load(found, {})


# What settings mean together


@pytest.mark.parametrize(
    "text,said",
    [
        (
            "listen.address = '127.0.0.1:8278'",
            "1:18: listen.address and admin.address both use port 8278",
        ),
        ("admin.address = 'localhost:8277'", "1:17: listen.address and admin.address both use"),
        ("listen.address = '0.0.0.0:8278'", "both use port 8278 (0.0.0.0:8278, 127.0.0.1:8278)"),
        ("admin.address = 'admin.example:1'", "admin.token_file is not set"),
        (
            "[upstream]\nserver = 'http://example.data.adobedc.net'",
            "2:10: upstream.server is http://example.data.adobedc.net: hits would cross",
        ),
        ("[upstream]\nserver = 'http://127.0.0.1:8277'", "2:10: upstream.server is http://127.0"),
        ("[upstream]\nserver = 'http://localhost:8277'", "which is our own listen.address"),
        ("[upstream]\nserver = 'http://localhost:8278'", "which is our own admin.address"),
        (
            "listen.address = '0.0.0.0:9'\n[upstream]\nserver = 'http://127.0.0.3:9'",
            "hits would go in circles",
        ),
        (
            "[upstream]\nserver = 'https://a'\ntls_ca_file = '/no/ca.pem'",
            "3:15: upstream.tls_ca_file: /no/ca.pem: no such file or directory",
        ),
        ("[edge]\nserver = 'http://edge.adobedc.net'", "2:10: edge.server is http://edge"),
        ("[edge]\nserver = 'http://localhost:8277'", "which is our own listen.address"),
        (
            "[edge]\nserver = 'https://a'\ntoken_file = '/no/token'",
            "3:14: edge.token_file: /no/token: no such file or directory",
        ),
        (
            "[admin]\ntoken_file = '/no/token'",
            "2:14: admin.token_file: /no/token: no such file or directory",
        ),
    ],
)
def test_settings_that_cannot_stand_together_are_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    """At the place of the one that was written, with the consequence."""
    line = problem(text, tmp_path)

    assert said in line
    assert line.startswith("config.toml:")


def test_a_listener_everywhere_leaves_its_port_to_no_other(tmp_path: Path) -> None:
    """Whatever address of this machine the other has."""
    text = "listen.address = '192.0.2.1:9'\nadmin.address = '0.0.0.0:9'"

    assert any("both use port 9" in line for line in problems(text, tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "listen.address = '127.0.0.1:0'\nadmin.address = '127.0.0.1:0'",
        "listen.address = '127.0.0.2:8278'",
        "admin.address = ''\nlisten.address = '127.0.0.1:8278'",
        "[upstream]\nserver = 'http://127.0.0.1:9000'",
        "[upstream]\nserver = 'http://[::1]:9000'",
        "[upstream]\nserver = 'http://localhost:9000'",
        "[upstream]\nserver = 'http://127.0.0.2:8277'",
        "[upstream]\nserver = 'http://a.example'\nallow_plaintext = true",
        "listen.address = '0.0.0.0:443'\n[upstream]\nserver = 'https://a.example'",
    ],
)
def test_settings_that_can_stand_together_are_taken(text: str, tmp_path: Path) -> None:
    """Nothing is refused on suspicion."""
    assert load(text, tmp_path)


def test_a_faulty_setting_is_blamed_once(tmp_path: Path) -> None:
    """What it would mean together with others is not guessed."""
    text = (
        "listen.address = '127.0.0.1:8278'\nadmin.address = 'x'\nretry = {first = 1, max = '1ms'}"
    )

    assert [line.partition(": ")[0] for line in problems(text, tmp_path)] == [
        "config.toml:2:17",
        "config.toml:3:18",
    ]


def test_the_page_needs_a_token_beyond_loopback(tmp_path: Path) -> None:
    """A token file that says nothing is none; the token is what it says without blanks."""
    token = tmp_path / "token"
    text = f"[admin]\naddress = '0.0.0.0:8278'\ntoken_file = '{token}'"
    token.write_text(" \n")

    assert problem(text, tmp_path) == f"config.toml:3:14: admin.token_file: {token} is empty"

    token.write_text("s3cret\n")

    assert config.admin_token(load(text, tmp_path)) == "s3cret"
    assert config.admin_token(config.load(None, {})) is None


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    openssl = shutil.which("openssl")
    assert openssl, "these tests need the openssl command"
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            key,
            "-out",
            cert,
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def tls(cert: Path, key: Path) -> str:
    return f"[listen]\ntls_address = '127.0.0.1:8443'\ntls_cert = '{cert}'\ntls_key = '{key}'\n"


def test_a_certificate_is_loaded_before_anything_starts(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its files exist, are PEM, and belong together."""
    cert, key = certificate

    assert str(load(tls(cert, key), tmp_path).listen.tls_address) == "127.0.0.1:8443"
    assert "3:12: listen.tls_cert: /no/cert: no such file" in problem(
        tls(Path("/no/cert"), key), tmp_path
    )
    assert "do not load together" in problem(tls(key, cert), tmp_path)
    assert problems("[listen]\ntls_address = '127.0.0.1:8443'", tmp_path) == [
        "config.toml:2:15: listen.tls_address needs listen.tls_cert, which is not set",
        "config.toml:2:15: listen.tls_address needs listen.tls_key, which is not set",
    ]


def test_a_passphrase_is_never_asked_for(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """A daemon has nobody to ask: an encrypted key is a fault."""
    cert, key = certificate
    locked = tmp_path / "locked.pem"
    openssl = str(shutil.which("openssl"))
    subprocess.run(
        [openssl, "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:x"],
        check=True,
        capture_output=True,
    )

    assert "do not load together" in problem(tls(cert, locked), tmp_path)


# The environment


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """In any case, of every type, also for sections the file does not have."""
    loaded = load(
        "[queue]\nmax_hits = 1\npath = 'a.db'",
        tmp_path,
        {
            "TRACKOFFLINE_QUEUE__MAX_HITS": "2",
            "trackoffline_queue__max_bytes": "65536",
            "TRACKOFFLINE_DRAIN__RATE": "20/s",
            "TRACKOFFLINE_UPSTREAM__SERVER": "http://a.example",
            "TRACKOFFLINE_UPSTREAM__ALLOW_PLAINTEXT": "True",
            "TRACKOFFLINE_ADMIN__ALLOWED_HOSTS": '["A.example", "b"]',
            "TRACKOFFLINE_ADMIN__ADDRESS": "",
        },
    )

    assert (2, 65_536, Path("a.db")) == (
        loaded.queue.max_hits,
        loaded.queue.max_bytes,
        loaded.queue.path,
    )
    assert loaded.drain.rate == 20.0
    assert loaded.upstream is not None
    assert loaded.upstream.allow_plaintext
    assert loaded.admin.allowed_hosts == ("a.example", "b")
    assert loaded.admin.address is None


def test_a_variable_finds_its_suite_in_any_case(tmp_path: Path) -> None:
    """The file's spelling holds; a suite the file does not have is lower case."""
    loaded = load(
        "[suites.known.ExampleRsid]\ntimestamps = 'unknown'",
        tmp_path,
        {
            "TRACKOFFLINE_SUITES__KNOWN__EXAMPLERSID__TIMESTAMPS": "required",
            "TRACKOFFLINE_SUITES__KNOWN__NEW__ONE__TIMESTAMPS": "optional",
        },
    )

    assert {rsid: suite.timestamps for rsid, suite in loaded.suites.known.items()} == {
        "ExampleRsid": Timestamps.REQUIRED,
        "new__one": Timestamps.OPTIONAL,
    }


def test_suites_that_differ_only_in_case_are_set_in_the_file(tmp_path: Path) -> None:
    """No variable can tell them apart, so none is taken for one of them."""
    line = problem(
        "[suites.known]\nab = {}\nAB = {}",
        tmp_path,
        {"TRACKOFFLINE_SUITES__KNOWN__AB__TIMESTAMPS": "required"},
    )

    assert "suites ab and AB differ only in case" in line


@pytest.mark.parametrize(
    "name",
    [
        "TRACKOFFLINE_PORT",
        "TRACKOFFLINE_LISTEN",
        "TRACKOFFLINE_PORT_8277_TCP_ADDR",
        "TRACKOFFLINE_CONFIG",
        "TRACKOFFLINE",
        "TRACKOFFLINEX__A",
        "PROXY_QUEUE__MAX_HITS",
    ],
)
def test_names_that_are_not_ours_are_left_alone(name: str) -> None:
    """Kubernetes puts TRACKOFFLINE_PORT into every pod beside a Service of that name."""
    assert config.load(None, {}) == config.load(None, {name: "tcp://10.0.0.1:8277"})


@pytest.mark.parametrize(
    "name,said",
    [
        ("TRACKOFFLINE_QUEU__MAX_HITS", 'there is no section "queu". Did you mean "queue"?'),
        ("TRACKOFFLINE_QUEUE__MAX_HIT", 'queue.max_hit is not a setting. Did you mean "max_hits"?'),
        ("TRACKOFFLINE__QUEUE__PATH", 'there is no section "_queue". Did you mean "queue"?'),
        ("TRACKOFFLINE__PATH", 'there is no section "_path"'),
        ("TRACKOFFLINE_QUEUE__", "is not a setting"),
        ("TRACKOFFLINE_SUITES__KNOWN", "suites.known is a section; name one of its keys"),
        ("TRACKOFFLINE_SUITES__KNOWN__A", "suites.known.a is a section; name one of its keys"),
        ("TRACKOFFLINE_SUITES__KNOWN__A__TIMESTAMP", 'Did you mean "timestamps"?'),
        ("TRACKOFFLINE_QUEUE__PATH__X", "queue.path.x is not a setting"),
    ],
)
def test_a_misspelt_variable_is_a_fault(name: str, said: str) -> None:
    """It would otherwise be a silent default."""
    (line,) = env_problems({name: "1"})

    assert line.startswith(f"environment: {name}: ")
    assert said in line


@pytest.mark.parametrize(
    "name,value,said",
    [
        ("TRACKOFFLINE_QUEUE__MAX_HITS", "many", 'queue.max_hits is "many"; it must be a whole'),
        ("TRACKOFFLINE_QUEUE__MAX_AGE", "30", 'queue.max_age is "30"; it must be a duration'),
        ("TRACKOFFLINE_UPSTREAM__ALLOW_PLAINTEXT", "maybe", 'is "maybe"; it must be true or false'),
        ("TRACKOFFLINE_ADMIN__ALLOWED_HOSTS", "a,b", "it must be a list of host names, such as ["),
        ("TRACKOFFLINE_ADMIN__ADDRESS", "0.0.0.0:1", "admin.token_file is not set"),
        ("TRACKOFFLINE_SUITES__KNOWN__A B__TIMESTAMPS", "unknown", "a report suite id has only"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str, said: str) -> None:
    """A fault of the environment is not looked for in the file."""
    lines = env_problems({name: value})

    assert f"environment: {name}: " in lines[0]
    assert any(said in line for line in lines)


def test_the_same_setting_by_two_variables_is_a_fault() -> None:
    """Which of them wins would be chance."""
    both = {"TRACKOFFLINE_QUEUE__PATH": "a", "trackoffline_queue__path": "b"}

    assert env_problems(both) == [
        "environment: trackoffline_queue__path: TRACKOFFLINE_QUEUE__PATH sets the same"
    ]


# Which file, which directory


def test_the_file_is_looked_for_where_the_documentation_says(tmp_path: Path) -> None:
    """Flag, variable, working directory, personal directory; none of them is fine."""
    here, home = tmp_path / "here", tmp_path / "home"
    environ = {"HOME": str(home), "TRACKOFFLINE_CONFIG": "/named.toml"}
    personal = home / ".config/trackoffline/config.toml"
    personal.parent.mkdir(parents=True)
    here.mkdir()

    assert Path("/flag.toml") == config.find(environ, here, Path("/flag.toml"))
    assert Path("/named.toml") == config.find(environ, here)
    del environ["TRACKOFFLINE_CONFIG"]
    personal.touch()
    assert personal == config.find(environ, here)
    (here / "config.toml").touch()
    assert here / "config.toml" == config.find(environ, here)
    elsewhere = environ | {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    (here / "config.toml").unlink()
    assert config.find(elsewhere, here) in (None, Path("/etc/trackoffline/config.toml"))


@pytest.mark.parametrize(
    "environ,expected",
    [
        ({"STATE_DIRECTORY": "/var/lib/trackoffline:/x", "HOME": "/h"}, "/var/lib/trackoffline/q"),
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/trackoffline/q"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/trackoffline/q"),
        ({"HOME": "/h"}, "/h/.local/state/trackoffline/q"),
    ],
)
def test_a_relative_queue_is_below_the_state_directory(
    environ: dict[str, str], expected: str, tmp_path: Path
) -> None:
    """The same file whatever the working directory is."""
    assert Path(expected) == config.queue_path(load("queue.path = 'q'", tmp_path), environ)


def test_an_absolute_queue_needs_no_state_directory(tmp_path: Path) -> None:
    """And a relative one without any is a fault, not a file somewhere."""
    assert Path("/q.db") == config.queue_path(load("queue.path = '/q.db'", tmp_path), {})
    with pytest.raises(ConfigError, match="give the whole path"):
        config.queue_path(config.load(None, {}), {})


# What people are told


@pytest.mark.parametrize(
    "text,said",
    [
        ("", "capture only"),
        ("", 'suites.timestamps is "unknown"'),
        ("[suites.known.a]", 'suites.known.a.timestamps is "unknown"'),
        ("[suites.known.a]\ntimestamps = 'not-allowed'", "held until you decide"),
        (
            "[suites.known.a]\ntimestamps = 'not-allowed'\nwhen_late = 'send'",
            "late hits count at the time they are delivered",
        ),
        ("suites.unlisted = 'refuse'", "every hit is refused"),
        ("retry.attempts = 1", "dead letter at once"),
        ("queue.when_full = 'drop-oldest'", "discarded for good"),
        ("queue.max_age = '36h'", "queue.max_age is 36h: a hit that waited longer expires"),
        ("queue.min_free_disk = 0", "may fill the disk"),
        ("queue.max_bytes = '64KiB'", "get 503"),
        ("listen.address = '0.0.0.0:8277'", "anyone there can send hits"),
        ("listen.tls_cert = '/c'", "have no effect"),
        ("[upstream]\nserver = 'http://a.b'\nallow_plaintext = true", "read and change hits"),
        ("[edge]\nserver = 'http://a.b'\nallow_plaintext = true", "read and change events"),
        ("[edge]\nserver = 'https://a'\nunlisted = 'refuse'", "every event is refused"),
        ("suites.silence = ['N1', 'L2']", "suites.silence hides L2: of hits that Adobe will drop"),
        (
            "listen.address = '0.0.0.0:8277'\n[edge]\nserver = 'https://a'",
            "anyone there can send events",
        ),
    ],
)
def test_what_may_surprise_is_a_warning_with_its_consequence(
    text: str, said: str, tmp_path: Path
) -> None:
    """One line each, and only when it holds."""
    calm = config.warnings(load(CALM, tmp_path))

    assert calm == []
    assert any(said in line for line in config.warnings(load(text, tmp_path)))


CALM = """
[upstream]
server = "https://example.data.adobedc.net"
[edge]
server = "https://edge.adobedc.net"
[suites]
unlisted = "refuse"
[suites.known.examplersid]
timestamps = "required"
"""


def test_what_is_in_effect_says_who_set_it(tmp_path: Path) -> None:
    """As it was written, each setting once."""
    path = tmp_path / "config.toml"
    path.write_text(f'{CALM}\n[variables]\n"ctx.cart.size" = "Basket"\n')
    rows = config.effective(path, {"TRACKOFFLINE_QUEUE__MAX_AGE": "7d"})

    assert config.Setting("queue.max_age", '"7d"', "environment") in rows
    assert config.Setting("suites.unlisted", '"refuse"', "file") in rows
    assert config.Setting("suites.known.examplersid.timestamps", '"required"', "file") in rows
    assert config.Setting("upstream.timeout", '"30s"', "default") in rows
    assert config.Setting('variables."ctx.cart.size"', '"Basket"', "file") in rows
    told = config.as_json(rows, "")["values"]
    assert told["variables"] == {'"ctx.cart.size"': {"value": "Basket", "from": "file"}}
    assert len(model.settings()) == len({row.key for row in rows}) == len(rows)


# The example file and the table are the model


def example_lines() -> list[tuple[str, str, str, bool]]:
    """Every key of the example file: (key, value, the line, whether it is an example)."""
    found, section = [], ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        bare = line.removeprefix("# ")
        header = re.match(r"\[([a-z.]+)\]", bare)
        pair = re.match(r"([A-Za-z0-9_]+) = (.+?) *(# example)?$", bare)
        if header:
            section = header[1].replace("examplersid", "<rsid>")
        elif pair:
            name = "<name>" if section == "variables" else pair[1]
            found.append((f"{section}.{name}", pair[2], line, bool(pair[3])))
    return found


def test_the_example_file_captures_and_sends_nothing() -> None:
    """It is the first thing anyone runs."""
    loaded = config.load(EXAMPLE, {})

    assert loaded.upstream is None
    assert Timestamps.REQUIRED is loaded.suites.known["examplersid"].timestamps


def test_the_example_file_has_every_setting_with_its_default() -> None:
    """Commented out or not; what is no default is marked as an example."""
    lines = example_lines()
    settings = {".".join(path): field for path, field in model.settings().items()}

    assert list(settings) == [key for key, *_ in lines]
    for key, value, _, is_example in lines:
        if not is_example:
            assert settings[key].default == tomllib.loads(f"x = {value}")["x"]


def test_the_example_file_loads_with_everything_switched_on(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """What is commented out is right too, once its files exist."""
    cert, key = certificate
    text = EXAMPLE.read_text(encoding="utf-8").replace("# [upstream]", "[upstream]")
    text = text.replace("# [edge]", "[edge]")
    for _, _, line, _ in example_lines():
        text = text.replace(line, line.removeprefix("# "))
    for there, here in (
        ("/etc/trackoffline/cert.pem", cert),
        ("/etc/trackoffline/key.pem", key),
        ("/etc/trackoffline/token", key),
        ("/etc/trackoffline/edge-token", key),
        ("/etc/ssl/certs/site-ca.pem", cert),
    ):
        assert there in text
        text = text.replace(there, str(here))

    loaded = load(text, tmp_path)

    assert loaded.upstream is not None
    assert str(loaded.upstream.server) == "https://example.data.adobedc.net"
    assert all(row.origin == "file" for row in config.effective(tmp_path / "config.toml", {}))


def test_the_table_has_every_setting_and_what_it_means() -> None:
    """One row a key, three cells a row."""
    head, rule, *rows = config.table().splitlines()

    assert head == "| key | default | meaning |"
    assert rule == "| --- | --- | --- |"
    assert [f"`{'.'.join(path)}`" for path in model.settings()] == [
        row.split(" | ")[0].removeprefix("| ") for row in rows
    ]
    assert all(re.fullmatch(r"\| `\S+` \| \S+ \| [A-Z`].+\. \|", row) for row in rows)


def test_loading_imports_neither_the_server_nor_tls() -> None:
    """`trackoffline --help` and `check` start at once."""
    program = (
        "import sys; from proxy import config; config.load(None, {}); "
        "sys.exit(bool({'aiohttp', 'ssl', 'sqlite3', 'asyncio'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# The schema is the model


def keys(schema: dict[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    """Every key that a schema describes, as the model names it."""
    for name, one in schema.get("properties", {}).items():
        yield from keys(one, *above, name) if one.get("type") == "object" else [(*above, name)]
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        is_suite = "properties" in more
        yield from keys(more, *above, "<rsid>") if is_suite else [(*above, "<name>")]


def test_the_schema_has_every_setting_with_its_default_and_its_meaning() -> None:
    assert list(keys(config.schema())) == list(model.settings())
    for path, setting in model.settings().items():
        said: dict[str, Any] = config.schema()
        for name in path:
            if name == "<name>":
                break
            said = said["additionalProperties" if name == "<rsid>" else "properties"]
            said = said if name == "<rsid>" else said[name]
        assert said["description"] == setting.description
        if setting.default_factory is None and not setting.is_required():
            assert said["default"] == setting.default
            assert not list(Draft202012Validator(said).iter_errors(said["default"])), path


def test_the_schema_takes_what_a_start_takes_and_marks_a_misspelt_key() -> None:
    """The example file; a key, a section and a word that are none."""
    check = Draft202012Validator(config.schema())
    Draft202012Validator.check_schema(config.schema())
    assert not list(check.iter_errors(tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))))
    faults: tuple[dict[str, Any], ...] = (
        {"queue": {"max_hitz": 1}},
        {"queu": {}},
        {"suites": {"known": {"a": {"timestamps": "requird"}}}},
        {"upstream": {}},
    )
    for wrong in faults:
        assert list(check.iter_errors(wrong)), wrong
