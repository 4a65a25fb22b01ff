"""What a client is told: every answer of the beacon port as a value.

Rule: only an exact 200 counts as success for Adobe's clients, so a stored hit gets nothing
else, with the body and the type that the client at hand can digest. An image gets an image,
a script a script, an XHR the headers that let it see the status.
Rule: nothing of the request comes back but a validated origin, a validated callback name and
validated header names. No cookie is set; no ETag or Last-Modified invites a conditional request.
Rule: an answer to HEAD is that to GET, body included; the server leaves the body away.
Non-rule: when to give which answer; `Date`, `Connection` and `Content-Length` are the server's.
Source: a collection server's answer on record (the `Cache-Control` set, the 43 bytes); what
AppMeasurement, VisitorAPI and the mobile SDK take for success; Adobe, "Data Insertion API
troubleshooting" (the XML); the Fetch standard (CORS).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes
from xml.sax.saxutils import escape

from proxy.core.hit import Header, Headers

# Transparent, 2x2: "actually 2x2 pixels", says Adobe's old page on tagging mobile pages.
GIF: Final = bytes.fromhex(
    "47494638396102000200800000ffffff00000021f90401000000002c00000000020002000002028451003b"
)
# The same for phones that read WBMP alone (type 5.5): type 0, fixed header 0, width 2,
# height 2, then two rows of one byte each, whose two leading bits are white.
WBMP: Final = bytes.fromhex("00000202c0c0")

METHODS: Final = b"GET, POST, HEAD"

# For how long a browser need not ask again; within what Chrome (2 h) and Firefox (24 h) grant.
_PREFLIGHT_SECONDS: Final = b"600"

_CALLBACK: Final = re.compile(rb"[A-Za-z0-9_.\[\]]{1,100}")
# Printable ASCII without a space: no header can be broken out of. Longer than any host name.
_ORIGIN: Final = re.compile(rb"[!-~]{1,512}")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_MAX_TOKENS: Final = 32

UNCACHED: Final[Headers] = (
    (b"Cache-Control", b"no-cache, no-store, max-age=0, no-transform, private"),
    (b"Pragma", b"no-cache"),
    (b"Expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"cross-origin"),
)


def _typed(content_type: bytes) -> Headers:
    return ((b"Content-Type", content_type), *UNCACHED)


# Made once: one of these is in every answer to a hit.
_AS_GIF: Final = _typed(b"image/gif")
_AS_WBMP: Final = _typed(b"image/vnd.wap.wbmp")
_AS_SCRIPT: Final = _typed(b"application/javascript")
_AS_JSON: Final = _typed(b"application/json")
_AS_XML: Final = _typed(b"text/xml")
_AS_TEXT: Final = _typed(b"text/plain; charset=utf-8")

_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SUCCESS: Final = f"{_XML}<status>SUCCESS</status>".encode()

_ANYONE: Final[Headers] = ((b"Access-Control-Allow-Origin", b"*"),)
_WITH_CREDENTIALS: Final[Header] = (b"Access-Control-Allow-Credentials", b"true")


class Answer(NamedTuple):
    """A whole answer but for `Date`, `Connection` and `Content-Length`."""

    status: int
    headers: Headers
    body: bytes


@lru_cache(maxsize=256)
def accepted(type_: str, *, method: str, origin: bytes | None, callback: bytes | None) -> Answer:
    """The hit is on disk. Never call this before the commit.

    `type_` is the response type of the path, `callback` what `callback_of` made of it.
    """
    headers, body = _body(type_, method, callback)
    return Answer(200, headers + shared_with(origin), body)


def failure_xml(reason: str, *, origin: bytes | None = None) -> Answer:
    """An XML Data Insertion that is no hit. Two roots, and 200: that is Adobe's format."""
    body = f"{_XML}<status>FAILURE</status>\n<reason>{escape(reason)}</reason>"
    return Answer(200, _AS_XML + shared_with(origin), body.encode())


@lru_cache(maxsize=256)
def unstored(retry_after_s: int, *, origin: bytes | None = None) -> Answer:
    """The hit could not be stored: a client with a queue of its own keeps it and comes again.

    503 it is, as the mobile SDK drops a hit for 429, 500 and 502.
    """
    headers = (
        *_AS_TEXT,
        (b"Retry-After", b"%d" % max(0, retry_after_s)),
        (b"Access-Control-Expose-Headers", b"Retry-After"),
        *shared_with(origin),
    )
    return Answer(503, headers, b"the hit could not be stored, try again later\n")


def refused(status: int, reason: str, *, origin: bytes | None = None) -> Answer:
    """No hit, or none that may be stored: one line of plain text.

    `reason` is ours, never the client's words. A page may read it only when `origin` is given.
    """
    line = "".join(c if c.isprintable() else " " for c in reason)
    allow: Headers = ((b"Allow", METHODS + b", OPTIONS"),) if status == 405 else ()
    shared = () if origin is None else shared_with(origin)
    return Answer(status, _AS_TEXT + allow + shared, f"{line}\n".encode())


def preflight(
    origin: bytes | None,
    request_method: bytes | None,
    request_headers: bytes | None,
    private_network: bool,
) -> Answer:
    """OPTIONS: a page may send hits here from anywhere; the suites decide what is stored.

    `request_method` and `request_headers` are the values of `Access-Control-Request-…`,
    `private_network` whether `Access-Control-Request-Private-Network` asks (Chrome before
    Local Network Access). Without the first two it is no preflight, and learns the methods only.
    """
    headers: list[Header] = [*UNCACHED, (b"Allow", METHODS + b", OPTIONS")]
    if origin is not None and _ORIGIN.fullmatch(origin) and request_method is not None:
        headers += [
            *_credentialed(origin),
            (b"Access-Control-Allow-Methods", METHODS),
            (b"Access-Control-Max-Age", _PREFLIGHT_SECONDS),
        ]
        if wanted := _tokens(request_headers or b""):
            # Named one by one: with credentials `*` means a header called "*".
            headers.append((b"Access-Control-Allow-Headers", b", ".join(wanted)))
        if private_network:
            headers.append((b"Access-Control-Allow-Private-Network", b"true"))
    return Answer(204, tuple(headers), b"")


def identity(origin: bytes | None, body: bytes = b"{}") -> Answer:
    """`/id`: the collection server's JSON, or `{}`, which makes VisitorAPI go on without.

    Always 200: with anything else VisitorAPI waits for ever, and the page never tracks again.
    """
    return Answer(200, _AS_JSON + shared_with(origin), body)


def callback_of(value: bytes) -> bytes | None:
    """The function named by the raw value of `callback=`; None when it is no plain name.

    None means `refused(400, …)`: text of anyone's choice must not become script of ours.
    """
    name = unquote_to_bytes(value)
    return name if _CALLBACK.fullmatch(name) else None


def _body(type_: str, method: str, callback: bytes | None) -> tuple[Headers, bytes]:
    """Type and body by response type.

    5 would go by `Accept`, and 2, 3, 7, 8 and 9 are not documented: the GIF suits every
    client that shows an image, and the others look at the status alone.
    """
    match type_:
        case "6":
            return _AS_XML, _SUCCESS
        case "10" | "5.10":
            # `{}`, not `null`: AppMeasurement's doPostbacks breaks on null.
            if callback is not None and _CALLBACK.fullmatch(callback):
                return _AS_SCRIPT, callback + b"({})"
            return _AS_JSON, b"{}"
        case "0" if method == "POST":
            # The mobile SDK and servers; plain text, as HTML here is what captive portals send.
            return _AS_TEXT, b""
        case "5.5":
            return _AS_WBMP, WBMP
        case _:
            return _AS_GIF, GIF


def shared_with(origin: bytes | None) -> Headers:
    """Who may read the answer: anyone without an origin, the origin itself with credentials.

    An origin that is not printable ASCII is no origin; nobody may read that answer.
    """
    if origin is None:
        return _ANYONE
    return _credentialed(origin) if _ORIGIN.fullmatch(origin) else ()


def _credentialed(origin: bytes) -> Headers:
    # Echoed, since `*` is not allowed beside credentials; hence it varies.
    return (
        (b"Access-Control-Allow-Origin", origin),
        _WITH_CREDENTIALS,
        (b"Vary", b"Origin"),
    )


def _tokens(names: bytes) -> list[bytes]:
    wanted = [name.strip(b" \t") for name in names.split(b",", _MAX_TOKENS)[:_MAX_TOKENS]]
    return [name for name in wanted if _TOKEN.fullmatch(name)]
