"""What a person has at hand of a hit: a URL, a line of a log or of an export, a body, a command.

Rule: whatever holds a hit is read, in a pipe line by line; of JSON and of commands so many lines
as belong together.  What holds none is told by its line.
Non-rule: nothing is judged here, and no command is run.
Source: clig.dev; what the network panels of Chrome and Firefox copy ("Copy as cURL"); POSIX,
"Shell Command Language", and the `$'…'` of bash, for their quotes; curl(1) for its options.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from proxy.core import render
from proxy.core.hit import Header, Request

# The path as a client writes it, wherever in a line; a quote or a space ends it.
BEACON = re.compile(rb"/b/ss/[^\s\"'<>]*")
EVENTS = re.compile(
    rb"(?<!/)(?:/[^\s\"'<>?/]+)*/(?:v[12]/(?:interact|collect)|va/v1/downloaded)(?:\?[^\s\"'<>]*)?"
    rb"(?=[\s\"'<>#]|\Z)"
)
QUERY = re.compile(rb"\??[^\s=&]+=[^\s]*")
COMMAND = re.compile(rb"(?:\$ )?(curl|printf)\s")
# A body has 64 KB at most, and some more when it is written for people.
MOST_TOGETHER = 1024 * 1024
ALONE, BATCH, SINGLE = b"/ee/v1/interact", b"/ee/v1/collect", b"/ee/v2/interact"


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, or why there is none, and the line it begins on.

    `is_whole` is false where the request line, and what an SDK puts in, is not part of it.
    """

    line: int
    request: Request | None
    why: str = "holds no hit"

    @property
    def is_whole(self) -> bool:
        request = self.request
        return not (request is None or request.target.startswith(b"?") or _is_ours(request))


def _is_ours(request: Request) -> bool:
    """Whether the request line is one that we put in: that very one, not one like it."""
    return any(request.target is ours for ours in (ALONE, BATCH, SINGLE))


def hits(lines: Iterable[bytes], body: bytes = b"") -> Iterator[Found]:
    """Everything that the lines hold; `body` is that of the URLs among them."""
    waiting: Found | None = None  # a URL of the Edge Network, for the body behind it
    for number, text in _together(lines):
        target = waiting.request.target if waiting and waiting.request else None
        found = Found(number, _request(text, body, target))
        if waiting is not None and not _is_body(text):
            yield _without_body(waiting)
        waiting = None
        if found.request is not None and _lacks_body(found.request):
            waiting = found
        else:
            yield found
    if waiting is not None:
        yield _without_body(waiting)


def _without_body(found: Found) -> Found:
    return Found(found.line, None, "calls the Edge Network, and its body is missing: see --body")


def _lacks_body(request: Request) -> bool:
    return not request.body and EVENTS.fullmatch(request.target) is not None


def _request(text: bytes, body: bytes, target: bytes | None) -> Request | None:
    """The hit in the text, if there is one; `target` is of the line before it."""
    if text.startswith(b"{"):
        found = _of_json(text, target)
        beacon = None if found else BEACON.search(text)
        # Some access logs are JSON themselves.
        return Request("GET", beacon[0]) if beacon else found
    if COMMAND.match(text):
        return _of_command(text)
    beacon = BEACON.search(text)
    if beacon is not None:
        return Request("POST" if body else "GET", beacon[0].partition(b"#")[0], (), body)
    events = EVENTS.search(text)
    if events is not None:
        return Request("POST", events[0], (), body)
    if QUERY.fullmatch(text) and b"://" not in text.partition(b"=")[0]:
        return Request("GET", b"?" + text.removeprefix(b"?"), (), body)
    return None


# -- JSON ------------------------------------------------------------------------------------


def _of_json(text: bytes, target: bytes | None) -> Request | None:
    try:
        row = json.loads(text)
        if "target" in row:
            return render.request_of(row)
        if "request" in row:
            return render.of_har(row)[0]
    except (ValueError, TypeError, RecursionError):
        return None
    return _of_body(text, row, target)


def _is_body(text: bytes) -> bool:
    """Whether it is JSON that is a body, or an event within one."""
    request = _of_json(text, None) if text.startswith(b"{") else None
    return request is not None and _is_ours(request)


def _of_body(text: bytes, row: dict[str, Any], target: bytes | None) -> Request | None:
    """A body without its URL, or what a page gives to `sendEvent`."""
    if isinstance(row.get("events"), list):
        return Request("POST", target or (BATCH if len(row["events"]) > 1 else ALONE), (), text)
    if isinstance(row.get("event"), dict):
        return Request("POST", target or SINGLE, (), text)
    if isinstance(row.get("xdm"), dict) or isinstance(row.get("data"), dict):
        return Request("POST", target or ALONE, (), b'{"events":[' + text + b"]}")
    return None


# -- lines that belong together ----------------------------------------------------------------


def _together(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Texts and where each begins: most are a line, JSON and commands may have many.

    Of one that never ends its first line stands alone, and so do the others.
    """
    left = enumerate(lines, 1)
    back: deque[tuple[int, bytes]] = deque()

    def following() -> tuple[int, bytes] | None:
        return back.popleft() if back else next(left, None)

    while (first := following()) is not None:
        number, text = first
        taken = [first]
        begins = text.lstrip()
        ends = _json_ends if begins.startswith(b"{") else _command_ends
        if begins.startswith(b"{") or COMMAND.match(begins):
            size = len(text)
            state = ends(_START, text)
            while state not in (_END, _BROKEN) and size <= MOST_TOGETHER:
                more = following()
                if more is None:
                    break
                taken.append(more)
                size += len(more[1])
                state = ends(state, more[1])
            if state is not _END and len(taken) > 1:
                back.extendleft(reversed(taken[1:]))
                taken = taken[:1]
        whole = b"".join(line if line.endswith(b"\n") else line + b"\n" for _, line in taken)
        if whole.strip():
            yield number, whole.strip()


@dataclass(frozen=True, slots=True)
class _State:
    """How deep in brackets, and within which quote, a text of several lines is."""

    depth: int = 0
    quote: bytes = b""


_START, _END, _BROKEN = _State(), _State(-1), _State(-2)
_JSON_MARKS = re.compile(rb'"(?:[^"\\\n]|\\.)*(?:"|(?P<open>\n|\Z))|[{}\[\]]', re.DOTALL)
_SHELL_MARKS = re.compile(rb"\\.|\$'|['\"]", re.DOTALL)


def _json_ends(state: _State, line: bytes) -> _State:
    """Where brackets stand after this line; a text in quotes has no line break."""
    depth = state.depth
    for mark in _JSON_MARKS.finditer(line):
        if mark["open"] is not None:
            return _BROKEN
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(mark[0], 0)
    return _State(depth) if depth > 0 else _END


def _command_ends(state: _State, line: bytes) -> _State:
    """Whether a quote is still open, or a backslash or a bar says that there is more."""
    quote = state.quote
    for mark in _SHELL_MARKS.finditer(line):
        if not quote and mark[0] in (b"'", b'"', b"$'"):
            quote = mark[0]
        elif mark[0] == quote[-1:]:
            quote = b""
        elif quote == b"'" and mark[0].startswith(b"\\") and mark[0].endswith(b"'"):
            quote = b""  # a backslash means nothing there
    bare = line.rstrip(b"\r\n")
    return _State(0, quote) if quote or bare.endswith((b"\\", b"|")) else _END


# -- commands ----------------------------------------------------------------------------------

_LETTERS = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "e": "\x1b",
}
_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|(.))", re.DOTALL
)
_WORD = re.compile(
    r"""\$'((?:[^'\\]|\\.)*)'|'([^']*)'|"((?:[^"\\]|\\.)*)"|\\\r?\n|\\(.)|([^\s'"\\]+)|(\s+)""",
    re.DOTALL,
)
_OF_BODY = frozenset({"-d", "--data", "--data-raw", "--data-binary", "--data-ascii", "--json"})
_OF_HEADER = {"-A": "User-Agent", "-b": "Cookie", "-e": "Referer"}
_LONG = {"--header": "-H", "--request": "-X", "--user-agent": "-A", "--cookie": "-b"}
_LONG |= {"--referer": "-e", "--url": "-U"}
_WITH_VALUE = ("-H", "-X", "-A", "-b", "-e", "-d")


def _of_command(text: bytes) -> Request | None:
    """The request that a `curl` would send; a `printf` before it is its body."""
    words = _words(text.decode("utf-8", "surrogateescape").removeprefix("$ "))
    body = b""
    if words[:1] == ["printf"] and "|" in words and len(words) > 2:
        body = _bytes(_unescaped(words[1].replace("%%", "%")))
        words = words[words.index("|") + 1 :]
    if words[:1] != ["curl"]:
        return None
    headers: list[Header] = []
    given: list[bytes] = []
    method, target = "", None
    arguments = iter(words[1:])
    for word in arguments:
        option, value = _option(word, arguments)
        if option in _OF_BODY:
            given.append(body if value == "@-" else _bytes(value))
        elif option == "-H" and ":" in value:
            name, _, said = value.partition(":")
            headers.append((_bytes(name), _bytes(said.strip())))
        elif option in _OF_HEADER:
            headers.append((_OF_HEADER[option].encode(), _bytes(value)))
        elif option == "-X":
            method = value
        elif target is None and (found := _request(_bytes(value), b"", None)) is not None:
            target = found.target
    if target is None or target.startswith(b"?"):
        return None
    request = Request(method or ("POST" if given else "GET"), target, tuple(headers))
    return request._replace(body=b"&".join(given))


def _option(word: str, more: Iterator[str]) -> tuple[str, str]:
    """An option by its short name with its value; a plain word is a value without a name."""
    if not word.startswith("-"):
        return "", word
    name, sign, value = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
    name = _LONG.get(name, name)
    if name in _OF_BODY or name in _WITH_VALUE or name == "-U":
        return ("" if name == "-U" else name), value if sign or value else next(more, "")
    return name, ""


def _words(text: str) -> list[str]:
    """The words of a command, without their quotes."""
    words: list[str] = []
    word: str | None = None
    for match in _WORD.finditer(text):
        ansi, single, double, escaped, plain, white = match.groups()
        if white is not None or match[0].startswith(("\\\n", "\\\r")):
            if word is not None:
                words.append(word)
            word = None
            continue
        if ansi is not None:
            piece = _unescaped(ansi)
        elif double is not None:
            piece = re.sub(r'\\([$`"\\\n])', r"\1", double)
        else:
            piece = next(part for part in (single, escaped, plain) if part is not None)
        word = (word or "") + piece
    return words if word is None else [*words, word]


def _unescaped(text: str) -> str:
    """What `$'…'` and printf(1) make of it; a byte above 127 is a half of a surrogate pair."""

    def one(match: re.Match[str]) -> str:
        octal, byte, short, long, letter = match.groups()
        if octal is not None or byte is not None:
            code = int(octal, 8) & 255 if octal is not None else int(byte, 16)
            return bytes((code,)).decode("utf-8", "surrogateescape")
        if letter is not None:
            return _LETTERS.get(letter, letter)
        return chr(min(int(short or long, 16), 0x10FFFF))

    return _ESCAPE.sub(one, text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if _is_bytes(text) else "replace")


def _is_bytes(text: str) -> bool:
    return all(not "\ud800" <= char <= "\udfff" or "\udc80" <= char <= "\udcff" for char in text)
