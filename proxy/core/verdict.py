"""What one answer of the collection server means for the hit: one table.

    200, the expected kind of answer                  Delivered
    200, type 6, <status>FAILURE                      Refused, with Adobe's reason
    200, anything else (HTML page, other type)        LinkDown: it was not Adobe who spoke
    2xx other than 200                                Retry, charged, ambiguous
    302 to the same host with pccr=true, once         Follow
    any other 3xx                                     Retry, charged
    407, 511                                          LinkDown: a proxy or a captive portal
    408, 421, 425                                     Retry, charged
    429                                               Retry, not charged: push-back
    503 with Retry-After                              Retry, not charged: push-back
    any other 5xx but 501                             Retry, charged
    400, 403, 404, 405, 410, 413, 414, 431, 501,
      and every 4xx not named above                   Refused
    any other number                                  Retry, charged
    no answer: dns, connect, tls, connect-timeout     LinkDown: nothing was sent
    no answer: cut, timeout, malformed, endless       Retry, charged, ambiguous

The expected kind of a 200, by the response type in the hit's path:

    6                `<status>SUCCESS` somewhere in the body; the answer has two roots and
                     is no XML, so it is searched, never parsed
    10, 5.10, id     JavaScript or JSON; for 10 also an image, or "status":"SUCCESS"
    0                anything but an HTML page: the "html space" may be labelled text/html
    all others       image/*

Rule: only a 200 that looks like Adobe's is a delivery; what is unknown is retried and ends
as a dead letter, never as a silent loss. A 2xx other than 200 is undocumented for `/b/ss`:
it may well be a success, hence ambiguous, but it is not believed.
Rule: Retry-After counts in both its forms and is a minimum; more than a day is taken for a
day, since no collection server means it and a typo must not silence a queue for years.
Non-rule: whether a charged failure really counts against the hit is the link's decision
(`link.py`), and how often a hit may fail is the policy's.
Source: Adobe, "Validate using packet monitors" (200, 302, 404), "Data Insertion API"
(SUCCESS, FAILURE, reasons), "Data collection query parameters" (`pccr`); RFC 9110 §10.2.3,
§15; RFC 6585 §4-6. 429 and 5xx are undocumented for `/b/ss` and taken at HTTP's word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from proxy.core.hit import Failure, Fault, Reply

LONGEST_RETRY_AFTER = 86_400.0
# An "html space" is a few bytes; a page that says anything to a person is longer.
LONGEST_HTML_SPACE = 64


@dataclass(frozen=True, slots=True)
class Delivered:
    """The collection server took the hit."""

    status: int


@dataclass(frozen=True, slots=True)
class Refused:
    """It will never take this hit: a dead letter."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Not this time.

    `after_s` is the server's own minimum. `charge`: may count against the hit; without it
    the server pushed back, which is never the hit's fault. `ambiguous`: the hit may have
    been taken all the same, so sending it again may double it.
    """

    reason: str
    after_s: float | None = None
    charge: bool = True
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The collection server was not reached; `answered`: something in its place spoke."""

    reason: str
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Follow:
    """Send once more, to `target` on the same host, with `cookies` added (`name=value`)."""

    target: bytes
    cookies: tuple[bytes, ...]


Verdict: TypeAlias = Delivered | Refused | Retry | LinkDown | Follow

_NOTHING_SENT = frozenset({Fault.DNS, Fault.CONNECT, Fault.TLS, Fault.CONNECT_TIMEOUT})


def judge(
    kind: str, reply: Reply | Failure, *, upstream_host: bytes, followed: bool, wall_now: float
) -> Verdict:
    """Look one answer up in the table above.

    `kind` is the response type in the hit's path, `upstream_host` the configured authority
    (`host` or `host:port`), `followed` whether this answer already came by a redirect,
    `wall_now` the Unix time against which a Retry-After date is read.
    """
    if isinstance(reply, Failure):
        return without_answer(reply)
    status = reply.status
    if status == 200:
        return _of_200(kind, reply)
    words = f"{status} from the collection server"
    if 200 < status < 300:
        return Retry(f"{words}: only 200 counts", ambiguous=True)
    if 300 <= status < 400:
        return _of_redirect(reply, upstream_host, followed=followed)
    if status == 407:
        return LinkDown("407: a proxy on the way wants authentication", answered=True)
    if status == 511:
        return LinkDown("captive portal: 511, the network wants a login", answered=True)
    if status in (408, 421, 425, 429) or (500 <= status < 600 and status != 501):
        after_s = retry_after(reply.header(b"retry-after"), wall_now)
        pushed_back = status == 429 or (status == 503 and after_s is not None)
        return Retry(words, after_s, charge=not pushed_back)
    if 400 <= status < 500 or status == 501:
        return Refused(words)
    return Retry(f"{words}: no such status")


def skew_s(date: bytes | None, wall_now: float) -> float | None:
    """How far our clock is ahead of the server's `Date`; None when that says nothing.

    The header has whole seconds: within half a second there is no telling.
    """
    if date is None:
        return None
    try:
        return wall_now - parsedate_to_datetime(date.decode("latin-1")).timestamp() - 0.5
    except (ValueError, OverflowError):
        return None


def retry_after(value: bytes | None, wall_now: float) -> float | None:
    """Seconds from now, at most a day, never negative; None when absent or garbage."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    # RFC 9110 has whole seconds only; a fraction is understood, since ignoring it would
    # mean to come back too early.
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        return min(LONGEST_RETRY_AFTER, float(text))
    try:
        seconds = parsedate_to_datetime(text).timestamp() - wall_now
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds))


def without_answer(failure: Failure) -> LinkDown | Retry:
    """What no whole answer means, whatever the protocol."""
    reason = line(f"{failure.fault.value}: {failure.detail}" if failure.detail else failure.fault)
    if failure.fault in _NOTHING_SENT:
        return LinkDown(reason)
    return Retry(reason, ambiguous=True)


_STATUS = re.compile(rb"<\s*status\s*>\s*(SUCCESS|FAILURE)\b", re.IGNORECASE)
_REASON = re.compile(rb"<\s*reason\s*>\s*([^<]*)", re.IGNORECASE)
_JSON_SUCCESS = re.compile(rb'"status"\s*:\s*"SUCCESS"')
DOCUMENT = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_MARKUP = re.compile(
    rb"<\s*(?:!doctype|html|head|body|title|meta|script|form|iframe|frameset)\b", re.IGNORECASE
)


def _of_200(kind: str, reply: Reply) -> Verdict:
    body = reply.body
    content_type = (reply.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    image = content_type.startswith(b"image/") or (not content_type and body.startswith(b"GIF8"))
    page = DOCUMENT.match(body) is not None
    if page:
        expected = False
    elif kind == "6":
        status = _STATUS.search(body)
        if status is not None and status[1].upper() == b"FAILURE":
            reason = _REASON.search(body)
            return Refused(f"Adobe: {(line(reason[1]) if reason else '') or 'FAILURE'}")
        expected = status is not None
    elif kind in ("10", "5.10"):
        script = b"javascript" in content_type or b"json" in content_type
        expected = script or image or _JSON_SUCCESS.search(body) is not None
    elif kind == "id":
        expected = b"javascript" in content_type or b"json" in content_type
    elif kind == "0":
        expected = b"html" not in content_type or _is_html_space(body)
    else:
        expected = image
    if expected:
        return Delivered(200)
    if page or b"html" in content_type:
        return LinkDown("captive portal: an HTML page instead of Adobe's answer", answered=True)
    shown = line(content_type) or "no content type"
    return LinkDown(f"200, but no answer of Adobe's to type {line(kind)}: {shown}", answered=True)


def _is_html_space(body: bytes) -> bool:
    return len(body.strip()) <= LONGEST_HTML_SPACE and _MARKUP.search(body) is None


# Absolute, scheme-relative or origin-form; white space and control bytes are in none.
_LOCATION = re.compile(
    rb"(?:(?:(?P<scheme>https?):)?//(?P<host>[^/?#\\\x00-\x20\x7f]+))?"
    rb"(?P<path>(?:/(?!/)[^?#\x00-\x20\x7f]*)?)"
    rb"(?P<query>(?:\?[^#\x00-\x20\x7f]*)?)"
    rb"(?:#[^\x00-\x20\x7f]*)?",
    re.IGNORECASE,
)
_PCCR = re.compile(rb"[?&]pccr=true(?:&|\Z)")
_COOKIE = re.compile(rb"\s*([^=;,\x00-\x20\x7f]+=[^;\x00-\x1f\x7f]*)")


def _of_redirect(reply: Reply, upstream_host: bytes, *, followed: bool) -> Verdict:
    location = reply.header(b"location") or b""
    parts = _LOCATION.fullmatch(location.strip())
    words = f"{reply.status} from the collection server"
    if parts is None or (parts["host"] is None and not parts["path"]):
        return Retry(f"{words}: a redirect to nowhere we could go")
    if parts["host"] is not None and not _same_host(parts["scheme"], parts["host"], upstream_host):
        return Retry(f"{words}: redirect to another host ({line(parts['host'])}) not followed")
    if reply.status != 302 or not _PCCR.search(parts["query"]):
        return Retry(f"{words}: redirect without pccr=true not followed")
    if followed:
        return Retry(f"{words}: second redirect not followed")
    cookies = tuple(
        pair[1].rstrip()
        for name, value in reply.headers
        if name == b"set-cookie" and (pair := _COOKIE.match(value))
    )
    return Follow((parts["path"] or b"/") + parts["query"], cookies)


def _same_host(scheme: bytes | None, host: bytes, upstream_host: bytes) -> bool:
    # The scheme never changes: what is followed is a target on our own connection.
    usual = b":80" if scheme and scheme.lower() == b"http" else b":443"
    return host.lower().removesuffix(usual) == upstream_host.lower().removesuffix(usual)


def line(text: bytes | str) -> str:
    """Foreign words as one short printable line."""
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    shown = "".join(c if c.isprintable() else " " for c in shown)
    return " ".join(shown.split())[:200]
