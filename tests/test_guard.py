"""Who may speak to a listener: claims about names and about pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import guard

LOOPBACK = ("127.0.0.1", "::1", "localhost")
EVERYWHERE = ("0.0.0.0", "::", "192.168.1.10")


@pytest.mark.parametrize(
    "host, name",
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8277", "localhost"),
        ("site.example:80", "site.example"),
        ("127.0.0.1:8277", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8277", "::1"),
        ("::1", "::1"),
        (b" Site.Example:1 ", "site.example"),
        (b"caf\xe9", "café"),
        ("", ""),
        (":80", ""),
    ],
)
def test_a_name_is_read_without_port_brackets_and_case(host: str | bytes, name: str) -> None:
    """As a Host header has it."""
    assert guard.hostname(host) == name


@pytest.mark.parametrize("bound", [*LOOPBACK, *EVERYWHERE])
@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:9", "app.localhost", "127.0.0.1", "127.1.2.3:8277", "[::1]:8277"],
)
def test_names_of_this_machine_are_always_ours(bound: str, host: str) -> None:
    """`localhost` and its subdomains are never looked up elsewhere (RFC 6761)."""
    assert guard.is_our_host(host, bound, ())


@pytest.mark.parametrize("bound", [*LOOPBACK, *EVERYWHERE])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8277",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.example:8277",
        "notlocalhost.example",
        "a.b",
        "evil.example.",
    ],
)
def test_a_name_with_a_dot_is_never_ours_unasked(bound: str, host: str) -> None:
    """That is the kind a stranger can make point here."""
    assert not guard.is_our_host(host, bound, ())


@pytest.mark.parametrize("host", ["192.168.1.10", "[fe80::1]:8277", "kiosk", "kiosk:8277", ""])
def test_a_listener_of_this_machine_has_no_name_in_the_network(host: str) -> None:
    """Nothing but this machine can reach it, so nothing else can be meant."""
    for bound in LOOPBACK:
        assert not guard.is_our_host(host, bound, ())


@pytest.mark.parametrize("host", ["192.168.1.10", "[fe80::1]:8277", "kiosk", "kiosk:8277"])
def test_a_listener_for_other_devices_has_addresses_and_short_names(host: str) -> None:
    """None of them can be a page's of the internet."""
    for bound in EVERYWHERE:
        assert guard.is_our_host(host, bound, ())


def test_a_listener_without_a_name_has_none() -> None:
    """An empty name is nobody's."""
    assert not guard.is_our_host("", "0.0.0.0", ())


def test_what_is_allowed_is_ours() -> None:
    """With any port, in any case, and nothing beside it."""
    allowed = ("Metrics.Site.Example", "other.example:8277")
    for host in (
        "metrics.site.example",
        "METRICS.site.example:9",
        "other.example",
        b"other.example:1",
    ):
        assert guard.is_our_host(host, "127.0.0.1", allowed)
    for host in ("site.example", "x.metrics.site.example", "metrics.site.example.evil.example"):
        assert not guard.is_our_host(host, "127.0.0.1", allowed)


@given(st.text(), st.sampled_from(LOOPBACK + EVERYWHERE))
def test_no_host_is_too_odd_to_be_judged(host: str, bound: str) -> None:
    """Whatever stands there, the answer is yes or no; bytes and text agree."""
    ours = guard.is_our_host(host, bound, ())
    assert isinstance(ours, bool)
    try:
        data = host.encode("latin-1")
    except UnicodeEncodeError:
        return
    assert guard.is_our_host(data, bound, ()) is ours


@pytest.mark.parametrize("name", ["127.0.0.1", "127.255.0.1", "::1", "localhost", "a.localhost"])
def test_these_mean_this_machine(name: str) -> None:
    """And can mean no other."""
    assert guard.is_loopback(name)


@pytest.mark.parametrize("name", ["0.0.0.0", "::", "128.0.0.1", "localhost.example", "", "127.1"])
def test_these_do_not_mean_this_machine_alone(name: str) -> None:
    """An address of all interfaces least of all."""
    assert not guard.is_loopback(name)


HOST = "localhost:8278"
OURS = f"http://{HOST}"


@pytest.mark.parametrize(
    "method, site, origin, allowed",
    [
        # No browser, or one that tells nothing.
        ("POST", None, None, True),
        ("DELETE", None, None, True),
        # Our own page, or a person who typed the address.
        ("POST", "same-origin", OURS, True),
        ("POST", "none", None, True),
        ("POST", None, OURS, True),
        # Another page: of the same machine on another port, or of anywhere.
        ("POST", "same-site", "http://localhost:3000", False),
        ("POST", "cross-site", "https://evil.example", False),
        ("POST", "cross-site", None, False),
        ("POST", "", None, False),
        ("POST", None, "http://localhost:3000", False),
        ("POST", None, "https://localhost:8278", False),
        ("POST", None, "https://evil.example", False),
        ("POST", None, "null", False),
        # What the browser says of itself outweighs what a page might have it say.
        ("POST", "cross-site", OURS, False),
        # Reading changes nothing.
        ("GET", "cross-site", "https://evil.example", True),
        ("HEAD", "cross-site", None, True),
        ("OPTIONS", "cross-site", "null", True),
    ],
)
def test_a_change_comes_from_our_own_page_or_from_no_page(
    method: str, site: str | None, origin: str | None, allowed: bool
) -> None:
    """Any page can make a browser send a POST to this machine."""
    assert guard.may_change(method, site, origin, HOST, "http") is allowed


@pytest.mark.parametrize(
    "site, allowed",
    [
        (None, True),
        ("same-origin", True),
        ("none", True),
        ("same-site", False),
        ("cross-site", False),
    ],
)
def test_work_is_done_for_our_own_page_or_for_no_page(site: str | None, allowed: bool) -> None:
    """Another site's page sees no answer, but each question of its costs something."""
    assert guard.may_read(site) is allowed
