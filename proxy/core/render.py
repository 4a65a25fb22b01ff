"""A hit in the forms that other tools take: a command for a shell, JSON, CSV, HAR.

Rule: hits are hostile; what is copied into a shell, a spreadsheet or another program does
nothing there but stand for itself.  Headers that tell who someone is stay out unless asked
for.  The JSON of a request is lossless: one character is one byte.
Non-rule: writes nothing; what comes out is text, or plain data for a JSON writer.
Source: POSIX, "Shell Command Language" and printf(1); RFC 4180; OWASP, "CSV injection";
HAR 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import parse_qsl

from proxy.core.findings import Finding, unix_ms
from proxy.core.hit import Headers, Request
from proxy.core.search import View

# What identifies a person, or opens a door.
IDENTIFYING: Final = frozenset((b"cookie", b"authorization", b"proxy-authorization"))

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"/[\x21-\xff]*")
_ADDRESS = re.compile(r"https?://[^/?#]+(?P<target>[^#]*)(?:#.*)?", re.DOTALL | re.IGNORECASE)
_BREAK = re.compile(rb"[\r\n\0]")
_PRINTABLE = re.compile(rb"[ -~]*")
# `#` would begin a fragment, which no client sends.
_NOT_IN_URL = re.compile(rb"[^!-~]|[#\"<>\\^`{}|]")
_OCTAL = re.compile(rb"[^ -~]|['\\]")


def redacted(headers: Headers) -> Headers:
    """The headers without those that identify."""
    return tuple(header for header in headers if header[0].lower() not in IDENTIFYING)


# -- JSON ------------------------------------------------------------------------------------


def finding_json(finding: Finding) -> dict[str, Any]:
    return asdict(finding)


def request_json(request: Request, *, unredacted: bool = False) -> dict[str, Any]:
    """The request as text, a character for a byte; with `unredacted` nothing of it is lost."""
    headers = request.headers if unredacted else redacted(request.headers)
    return {
        "method": request.method,
        "target": request.target.decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers],
        "body": request.body.decode("latin-1"),
    }


def request_of(row: Mapping[str, Any]) -> Request:
    """The request that `request_json` wrote; ValueError when it is none one could send."""
    match {"method": "GET", "headers": [], "body": "", **row}:
        case {
            "method": str(method),
            "target": str(target),
            "headers": [*headers],
            "body": str(body),
        }:
            pass
        case _:
            raise ValueError("method, target and body are texts, headers a list")
    pairs: list[tuple[bytes, bytes]] = []
    for header in headers:
        match header:
            case [str(name), str(value)]:
                pairs.append((_bytes(name), _bytes(value)))
            case _:
                raise ValueError("each of the headers is [name, value]")
    request = Request(method, _bytes(target), tuple(pairs), _bytes(body))
    if not _TOKEN.fullmatch(_bytes(method)):
        raise ValueError("the method is no word")
    if not _TARGET.fullmatch(request.target):
        raise ValueError("the target must be a path and a query without spaces")
    if not all(_TOKEN.fullmatch(name) and not _BREAK.search(value) for name, value in pairs):
        raise ValueError("a header has a name or a value that HTTP does not allow")
    return request


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError("a character stands for a byte: none may be above U+00FF") from error


# -- a shell ---------------------------------------------------------------------------------


def url(request: Request, base_url: str) -> str:
    """Where the request goes; a byte that no URL may hold is escaped."""
    target = _NOT_IN_URL.sub(lambda match: b"%%%02X" % match[0][0], request.target)
    return base_url.rstrip("/") + target.decode("ascii")


def curl(request: Request, base_url: str, *, unredacted: bool = False) -> str:
    """A command that sends the same request again, for any POSIX shell.

    curl adds no header of its own: a library's User-Agent would be what Adobe sees.
    """
    headers = request.headers if unredacted else redacted(request.headers)
    words = ["curl --globoff --path-as-is"]
    if request.method not in ("GET", "POST") or (request.method == "GET" and request.body):
        words.append(f"--request {_word(request.method.encode())}")
    words.append(_word(url(request, base_url).encode()))
    names = {name.lower() for name, _ in headers}
    for name, value in headers:
        if _TOKEN.fullmatch(name):
            # To curl `Name:` means "leave it out", and `Name;` means "without a value".
            words.append("--header " + _word(name + (b": " + value if value else b";")))
    own = [b"User-Agent", b"Accept"]
    sends_body = bool(request.body) or request.method == "POST"
    if sends_body:
        own += [b"Content-Type", b"Expect"]
    words += ["--header " + _word(name + b":") for name in own if name.lower() not in names]
    if not sends_body:
        return _command(words)
    if _PRINTABLE.fullmatch(request.body):
        return _command([*words, "--data-raw " + _word(request.body)])
    return f"printf {_octal(request.body)} |\n  " + _command([*words, "--data-binary @-"])


def _command(words: list[str]) -> str:
    return " \\\n  ".join(words)


def _word(data: bytes) -> str:
    """One word of a shell's that stands for these bytes; a NUL can be in no argument."""
    if _PRINTABLE.fullmatch(data):
        return "'" + data.decode("ascii").replace("'", "'\\''") + "'"
    return f'"$(printf {_octal(data)})"'


def _octal(data: bytes) -> str:
    """A format of printf(1)'s, in single quotes, that prints these bytes."""
    # Some shells read the escapes first and then the conversions: `%` is doubled, not escaped.
    escaped = _OCTAL.sub(lambda match: b"\\%03o" % match[0][0], data.replace(b"%", b"%%"))
    # A format that begins with a dash would be taken for an option.
    if escaped.startswith(b"-"):
        escaped = b"\\055" + escaped[1:]
    return f"'{escaped.decode('ascii')}'"


# -- a spreadsheet ---------------------------------------------------------------------------

_COLUMNS: Final = (
    "id",
    "received",
    "delivered",
    "state",
    "reason",
    "type",
    "title",
    "suites",
    "visitor kind",
    "visitor",
    "page name",
    "page url",
    "campaign",
    "events",
    "products",
    "evars",
    "props",
    "lists",
    "context",
    "findings",
)
# What a spreadsheet takes for the beginning of a formula, full-width forms included.
_FORMULA: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def _line(cells: Iterable[str]) -> str:
    return ",".join(_cell(cell) for cell in cells) + "\r\n"


def _cell(text: str) -> str:
    if text.startswith(_FORMULA):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"'


CSV_HEADER: Final = _line(_COLUMNS)


def csv_row(view: View) -> str:
    """One hit as a line below `CSV_HEADER`."""
    decoded = view.decoded
    seen = [
        str(view.id),
        iso(view.received_ms),
        "" if view.delivered_ms is None else iso(view.delivered_ms),
        view.state,
        view.reason,
    ]
    if decoded is None:
        return _line([*seen, *[""] * (len(_COLUMNS) - len(seen))])
    groups = {group.id: group.fields for group in decoded.groups}
    page = {field.name: field.value for field in groups.get("page", ())}
    visitor = next((one for one in decoded.identities if one.used), None)
    return _line(
        [
            *seen,
            decoded.kind,
            decoded.title,
            ",".join(decoded.suites),
            visitor.kind if visitor else "",
            visitor.value if visitor else "",
            page.get("pageName", ""),
            page.get("pageURL", "") + page.get("pageURL, continued", ""),
            page.get("campaign", ""),
            page.get("events", ""),
            page.get("products", ""),
            *(
                "; ".join(f"{field.name}={field.value}" for field in groups.get(id_, ()))
                for id_ in ("evars", "props", "lists", "context")
            ),
            "; ".join(f"{one.rule} {one.text}" for one in view.findings),
        ]
    )


# -- HAR -------------------------------------------------------------------------------------

HAR_START: Final = (
    '{"log":{"version":"1.2","creator":{"name":"trackoffline","version":"1"},"entries":['
)
HAR_END: Final = "]}}"


def har_entry(
    request: Request,
    base_url: str,
    *,
    received_ms: float,
    status: int | None = None,
    unredacted: bool = False,
) -> dict[str, Any]:
    """The request as an entry of a HAR file; `status` is what a collection server answered.

    Bytes that are no UTF-8 text are written a character for a byte, and said to be.
    """
    address = url(request, base_url)
    headers = request.headers if unredacted else redacted(request.headers)
    asked: dict[str, Any] = {
        "method": request.method,
        "url": address,
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": [
            _named(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers
        ],
        "queryString": [
            _named(name, value)
            for name, value in parse_qsl(address.partition("?")[2], keep_blank_values=True)
        ],
        "headersSize": -1,
        "bodySize": len(request.body),
    }
    if request.body:
        kinds = [value for name, value in headers if name.lower() == b"content-type"]
        mime = kinds[0].decode("latin-1") if kinds else ""
        try:
            asked["postData"] = {"mimeType": mime, "text": request.body.decode()}
        except UnicodeDecodeError:
            text = request.body.decode("latin-1")
            asked["postData"] = {"mimeType": mime, "text": text, "_latin1": True}
    return {
        "startedDateTime": iso(received_ms),
        "time": 0,
        "request": asked,
        "response": {
            "status": status or 0,
            "statusText": "",
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": [],
            "content": {"size": 0, "mimeType": ""},
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": -1,
        },
        "cache": {},
        "timings": {"send": 0, "wait": 0, "receive": 0},
    }


def of_har(entry: Mapping[str, Any]) -> tuple[Request, float | None]:
    """The request of an entry, and its time in Unix milliseconds; ValueError when it has none.

    Whether it is a hit is for `beacon` to say.
    """
    match entry:
        case {"request": {"method": str(method), "url": str(address), **rest}}:
            pass
        case _:
            raise ValueError("an entry without a request")
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise ValueError("an entry whose URL is not of the web")
    target = parts["target"] if parts["target"].startswith("/") else "/" + parts["target"]
    headers: list[list[str]] = []
    given = rest.get("headers")
    for header in given if isinstance(given, list) else []:
        match header:
            # Browsers list the pseudo-headers of HTTP/2, which are part of the request line.
            case {"name": str(name), "value": str(value)} if not name.startswith(":"):
                headers.append(
                    [name, value if max(value, default="") <= "\xff" else _latin1(value)]
                )
    body = ""
    match rest.get("postData"):
        case {"text": str(text), **more}:
            body = text if more.get("_latin1") is True else _latin1(text)
    row = {"method": method, "target": _latin1(target), "headers": headers, "body": body}
    at = entry.get("startedDateTime")
    span = unix_ms(at) if isinstance(at, str) else None
    return request_of(row), None if span is None else span[0]


def _latin1(text: str) -> str:
    """The bytes of a text, a character for each."""
    return text.encode("utf-8", "replace").decode("latin-1")


def _named(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


# -- times -----------------------------------------------------------------------------------


def iso(ms: float) -> str:
    """An instant as `2026-02-02T02:40:00.000Z`."""
    days, left = divmod(int(ms), 86_400_000)
    # Eras of 400 years that begin in March, so that a leap day is the last one of a year.
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    year, month = era * 400 + year + (month >= 10), (month + 3 if month < 10 else month - 9)
    seconds, millis = divmod(left, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{year:04}-{month:02}-{day + 1:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z"
