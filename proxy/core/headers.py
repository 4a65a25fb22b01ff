"""Which headers of a hit are kept, and so travel on to the collection server.

Rule: every end-to-end header is kept, because a dynamic variable (`v1=D=User-Agent`) may
name any of them; what concerns one connection, one cache or one application's secrets
is not.  Of the cookies only Adobe's own are kept: browsers do not separate cookies by
port, so a request to localhost carries the session cookies of every other localhost app.
Non-rule: values are never rewritten, and no header is invented (no Via, no Forwarded,
no User-Agent of a library).
Source: Adobe's page on HTTP headers in data collection; RFC 9110 section 7.6.1.
"""

from __future__ import annotations

import ipaddress
import re

from proxy.core.hit import Header, Headers

# Secrets of other applications on this host.
SECRETS = frozenset({b"authorization", b"proxy-authenticate", b"proxy-authorization"})
DROPPED = SECRETS | frozenset(
    {
        # One connection only, RFC 9110 section 7.6.1.
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        # Written anew by whoever sends the hit on.
        b"host",
        b"content-length",
        # Adobe's servers were seen to refuse POSTs with it; we answer it ourselves.
        b"expect",
        # Negotiation with us; upstream we read plain answers, and want whole ones.
        b"accept-encoding",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
        # Between the page and us; the collection server needs no CORS.
        b"origin",
        b"access-control-request-headers",
        b"access-control-request-method",
        b"access-control-request-private-network",
    }
)
ADOBE_COOKIE = re.compile(
    rb"(?:s_vi|s_ecid|s_fid|demdex|omniture_optout|AMCVS?_[^=]*|kndctr_[^=]*)=[^;]*"
)


def kept(headers: Headers, peer: str) -> Headers:
    """The headers to store, in their order.

    `peer` is the address the hit came from.  It is added to X-Forwarded-For only when it
    is a public one: with none, Adobe uses the address we send from, which is right for a
    device behind its own router; 127.0.0.1 or a private address would only mislead.
    """
    dropped = DROPPED
    stored: list[Header] = []
    named: set[bytes] = set()
    for name, value in headers:
        low = name.lower()
        if low in dropped:
            if low == b"connection":
                named.update(part.strip().lower() for part in value.split(b","))
            continue
        if low == b"cookie":
            cookies = adobe_cookies(value)
            if cookies:
                stored.append((name, cookies))
            continue
        stored.append((name, value))
    # Before the peer is added: what a client names in Connection is its own, not ours.
    if named - {b"close", b"keep-alive"}:
        stored = [header for header in stored if header[0].lower() not in named]
    if is_public(peer):
        _add_forwarded(stored, peer.encode())
    return tuple(stored)


def _add_forwarded(stored: list[Header], peer: bytes) -> None:
    """The address at the end of the last X-Forwarded-For, or in one of its own."""
    for index in range(len(stored) - 1, -1, -1):
        name, value = stored[index]
        if name.lower() == b"x-forwarded-for":
            stored[index] = (name, value + b", " + peer if value else peer)
            return
    stored.append((b"X-Forwarded-For", peer))


def adobe_cookies(value: bytes) -> bytes:
    """Adobe's own cookies of a Cookie header, as they stood; empty when there are none."""
    pieces = (piece.strip() for piece in value.split(b";"))
    return b"; ".join(piece for piece in pieces if ADOBE_COOKIE.fullmatch(piece))


def has_secrets(headers: Headers) -> bool:
    """Whether some of them are other applications': those are kept nowhere, not even in memory."""
    for name, value in headers:
        low = name.lower()
        if low in SECRETS or (low == b"cookie" and _others(value)):
            return True
    return False


def _others(value: bytes) -> bool:
    pieces = filter(None, map(bytes.strip, value.split(b";")))
    return not all(map(ADOBE_COOKIE.fullmatch, pieces))


def is_public(peer: str) -> bool:
    """Whether an address means anything outside this network."""
    if peer.startswith("127.") or not peer:
        return False
    try:
        return ipaddress.ip_address(peer).is_global
    except ValueError:
        return False


def is_private(peer: str) -> bool:
    """Whether an address means another machine of this network, and is not told to Adobe."""
    here = peer in ("", "::1") or peer.startswith(("127.", "::ffff:127."))
    return not here and not is_public(peer)


def first(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a header; `name` in lower case."""
    for key, value in headers:
        if key.lower() == name:
            return value
    return None
