"""XML Data Insertion: what the body of a `POST /b/ss//6` says, and the same body stamped.

Rule: the client's bytes stay. Rendering writes a `<timestamp>` and, for a hit that stands
for a part of its report suites, the text of the report suite tag; nothing is serialised anew.
Rule: only the children of the root `<request>` are tags; deeper ones are context data, so a
`<timestamp>` within `<contextData>` is no timestamp.
Rule: a document type is refused before any parser sees it, so no entity is ever expanded.
Non-rule: what a value means to Adobe, and how large a body may be (the intake's limit).
Source: Adobe, "Data Insertion API": overview, "Supported XML Tags and Query Variables",
"Data Insertion API troubleshooting" (the reasons, word for word).

Where Adobe is silent, chosen here:

- A `<timestamp>` that is empty, self-closed or white space counts as not sent. Stamping then
  fills that tag: a second tag would leave it to Adobe which of the two is read.
- A repeated report suite tag names all its suites together, any other repeated tag counts
  by its first non-blank one.
- The declared encoding is obeyed where ASCII bytes mean ASCII in it (UTF-8, ISO-8859-x,
  windows-125x). UTF-16 bytes are refused: Adobe's page asks for UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape

from proxy.errors import TrackofflineError

# Context data is the only thing Adobe nests, a handful deep; far above that is no hit.
MAX_DEPTH: Final = 64
LONGEST_PATH: Final = 256

# What XML calls white space; `str.strip()` alone would also take a no-break space away.
_SPACE: Final = " \t\r\n"

# Adobe's own samples declare `<?xml version=1.0 encoding=UTF-8?>`, which is not well-formed,
# and shell samples put a line break before it. Both are blanked before expat looks.
_DECLARATION: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?[ \t\r\n]*(<\?xml[ \t\r\n][^<>]*\?>)")
_ENCODING: Final = re.compile(rb"encoding\s*=\s*[\"']?([A-Za-z0-9._-]+)")

# Encodings in which ASCII bytes mean ASCII, so that what is searched for and inserted as
# ASCII is what the parser sees. A UTF-16 declared over plain bytes (.NET's StringWriter
# writes it) is not believed: such a body reads as UTF-8.
_UNICODE: Final = re.compile(r"utf-?(?:8|16)(?:-?[lb]e)?")
_ONE_BYTE: Final = re.compile(r"(?:us-)?ascii|latin-?1|iso-?8859-\d{1,2}|(?:windows-|cp)125\d")

# A document type can only stand before the root. Possessive: one pass, no backtracking.
_DOCTYPE: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?(?>[ \t\r\n]+|<!--.*?-->|<\?.*?\?>)*+<!DOCTYPE", re.DOTALL
)


# The tags that are read here; the others stay bytes.
_READ: Final = frozenset(
    (
        "reportsuiteid",
        "timestamp",
        "visitorid",
        "marketingcloudvisitorid",
        "fallbackvisitorid",
        "ipaddress",
        "useragent",
        "pageurl",
        "pagename",
        "linktype",
        "linkname",
        "linkurl",
    )
)


class Reason(StrEnum):
    """Adobe's reasons for a FAILURE, word for word."""

    SYNTAX = "Syntax Error"
    NO_ACCOUNT = "NO account"
    NO_VISITOR = "NO visitorid OR ipaddress"
    NO_PAGE = "NO pagename OR pageurl"


class InsertionRefused(TrackofflineError):  # noqa: N818 - FAILURE is an answer, not an error
    """The body is no hit: `reason` is what Adobe would give."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Insertion:
    """What the body says.

    `suites` keeps the order of the tag, each suite once. `visitor` is the ordering key.
    `timestamp` is the client's own, as sent but for white space around it.
    """

    suites: tuple[str, ...]
    visitor: bytes
    timestamp: bytes | None


def read(body: bytes) -> Insertion:
    """The hit in `body`; `InsertionRefused` when it is none.

    The order in which Adobe checks is not known: ours is syntax, suite, visitor, page.
    """
    document = _Document(body)
    if not document.suites:
        raise InsertionRefused(Reason.NO_ACCOUNT)
    visitor = _visitor(document)
    if visitor is None:
        raise InsertionRefused(Reason.NO_VISITOR)
    if not _names_a_page(document):
        raise InsertionRefused(Reason.NO_PAGE)
    timestamp = document.text("timestamp")
    return Insertion(document.suites, visitor, timestamp.encode() if timestamp else None)


def fields(body: bytes) -> tuple[tuple[str, str], ...]:
    """Every tag that has a text, its path below the root joined with dots, in order.

    For showing only: a text that tags interrupt is one text, trimmed.  `InsertionRefused`
    when the body is no XML, or nested deeper than any hit.
    """
    found: list[tuple[str, str]] = []
    open_: list[tuple[str, list[str]]] = []

    def start(name: str, _: dict[str, str]) -> None:
        if len(open_) == MAX_DEPTH:
            raise InsertionRefused(Reason.SYNTAX)
        above = open_[-1][0] if len(open_) > 1 else ""
        # Cut, or a long name with many tags below it would be written out for each of them.
        path = f"{above}.{name}" if above else name
        open_.append((path[:LONGEST_PATH], []))

    def end(_: str) -> None:
        path, chunks = open_.pop()
        text = "".join(chunks).strip(_SPACE)
        if text and open_:
            found.append((path, text))

    def text(data: str) -> None:
        if open_:
            open_[-1][1].append(data)

    encoding, document = _declared(body)
    parser = _parser(encoding, document)
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    _parse(parser, document)
    return tuple(found)


def render(body: bytes, timestamp: int | None, suites: tuple[str, ...] = ()) -> bytes:
    """`body` with its stamp, and with a real part of its suites; else byte for byte `body`.

    Stamped is only what has no timestamp, narrowed only what names more than `suites`
    (empty: all of them), so rendering twice is rendering once. `body` is one that `read` took.
    """
    if timestamp is None and not suites:
        return body
    document = _Document(body)
    edits: list[_Edit] = []
    if timestamp is not None and not document.text("timestamp"):
        tags = document.tags("timestamp")
        # Every blank tag gets the stamp, so that it does not matter which of them Adobe reads.
        edits += [tag.filled(str(timestamp)) for tag in tags]
        if not tags:
            stamp = b"<timestamp>%d</timestamp>" % timestamp
            edits.append((document.inside, document.inside, stamp))
    if suites and set(suites) < set(document.suites):
        text = ",".join(suites)
        edits += [tag.filled(text) for tag in document.tags("reportsuiteid") if tag.text]
    return _edited(body, edits)


def unstamped(body: bytes) -> bytes:
    """`body` with every timestamp emptied, for `render` to fill. `body` is one that `read` took."""
    tags = _Document(body).tags("timestamp")
    return _edited(body, [tag.filled("") for tag in tags if tag.text])


def _edited(body: bytes, edits: list[_Edit]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for start, stop, new in sorted(edits):
        pieces += (body[at:start], new)
        at = stop
    return b"".join((*pieces, body[at:]))


def _visitor(document: _Document) -> bytes | None:
    """The ordering key, by the precedence of Adobe's page "Identify unique visitors".

    An address counts only beside a user agent: a hit without one is "omitted from reporting"
    says the tag reference, so taking it would be losing it.
    """
    for prefix, name in (
        ("vid", "visitorid"),
        ("mid", "marketingcloudvisitorid"),
        ("fid", "fallbackvisitorid"),
    ):
        if value := document.text(name):
            return f"{prefix}:{value}".encode()
    address, agent = document.text("ipaddress"), document.text("useragent")
    return f"ip:{address} {agent}".encode() if address and agent else None


def _names_a_page(document: _Document) -> bool:
    """Whether it is a page view or a link; `linkType` defaults to `o` beside a `linkName`."""
    text = document.text
    return bool(
        text("pageurl")
        or text("pagename")
        or text("linkname")
        or (text("linktype") and text("linkurl"))
    )


# Bytes [start, stop) of the body, and what stands there instead.
_Edit = tuple[int, int, bytes]


@dataclass(slots=True)
class _Tag:
    """A child of the root: where its content lies in the body, and its text, trimmed."""

    name: str  # as the client wrote it
    encoding: str
    start: int = -1
    stop: int = -1
    text: str = ""
    is_self_closed: bool = False

    def filled(self, text: str) -> _Edit:
        """The edit that makes `text` its whole content."""
        text = escape(text)
        start = self.start
        if self.is_self_closed:
            # `/>` gives way to `>text</name>`: attributes and the client's spelling stay.
            start, text = start - len("/>"), f">{text}</{self.name}>"
        return start, self.stop, text.encode(self.encoding, "xmlcharrefreplace")


class _Document:
    """The body as expat saw it: the root's children, and their places in the body."""

    def __init__(self, body: bytes) -> None:
        self.inside = -1  # where the root's content begins
        self._body = body
        self._tags: dict[str, list[_Tag]] = {}
        self._depth = 0
        self._tag: _Tag | None = None  # the one being read
        self._chunks: list[str] = []
        self._encoding, text = _declared(body)
        self._expat = _parser(self._encoding, text)
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._text
        self._expat.DefaultHandler = self._other
        try:
            _parse(self._expat, text)
        finally:
            del self._expat  # it holds us by its handlers: a cycle for every hit otherwise

    @property
    def suites(self) -> tuple[str, ...]:
        """Every report suite, once, in order."""
        text = ",".join(tag.text for tag in self.tags("reportsuiteid"))
        names = (name.strip(_SPACE) for name in text.split(","))
        return tuple(dict.fromkeys(name for name in names if name))

    def tags(self, name: str) -> list[_Tag]:
        """The root's children of this lower-case name, in order."""
        return self._tags.get(name, [])

    def text(self, name: str) -> str:
        """The text of the first such tag that has any."""
        return next((tag.text for tag in self.tags(name) if tag.text), "")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._after_start_tag()
        is_foreign = self._depth == 0 and (name.lower() != "request" or "xmlns" in attributes)
        if is_foreign or self._depth == MAX_DEPTH:
            raise InsertionRefused(Reason.SYNTAX)
        if self._depth == 1 and name.lower() in _READ:
            self._tag = _Tag(name, self._encoding)
            self._tags.setdefault(name.lower(), []).append(self._tag)
        self._depth += 1

    def _end(self, _: str) -> None:
        self._after_start_tag()
        self._depth -= 1
        if self._depth == 1 and self._tag is not None:
            tag, self._tag = self._tag, None
            tag.stop = self._expat.CurrentByteIndex
            # A start tag that does not close itself ends in a name, a quote or a space, then `>`.
            is_empty = tag.start == tag.stop
            tag.is_self_closed = is_empty and self._body.endswith(b"/>", 0, tag.start)
            tag.text = "".join(self._chunks).strip(_SPACE)
            self._chunks.clear()

    def _text(self, data: str) -> None:
        self._after_start_tag()
        if self._tag is not None:
            self._chunks.append(data)

    def _other(self, _: str) -> None:
        self._after_start_tag()

    def _after_start_tag(self) -> None:
        """Note where content begins: expat tells an event's start, and this is the first one."""
        if self._depth == 1 and self.inside < 0:
            self.inside = self._expat.CurrentByteIndex
        elif self._tag is not None and self._tag.start < 0:
            self._tag.start = self._expat.CurrentByteIndex


def _parser(encoding: str, text: bytes) -> expat.XMLParserType:
    """A parser that refuses a document type twice over."""
    # Raising in a handler does not stop expat before the end of its input; a document
    # type must therefore not even reach it.
    if b"\0" in text or _DOCTYPE.match(text):
        raise InsertionRefused(Reason.SYNTAX)
    parser = expat.ParserCreate(encoding)
    parser.StartDoctypeDeclHandler = _refused
    return parser


def _refused(*_: object) -> None:
    # The second lock, should the first have missed a spelling that expat knows.
    raise InsertionRefused(Reason.SYNTAX)


def _parse(parser: expat.XMLParserType, text: bytes) -> None:
    try:
        parser.Parse(text, True)
    # Beside its own error: a codec that Python has not.
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise InsertionRefused(Reason.SYNTAX) from error


def _declared(body: bytes) -> tuple[str, bytes]:
    """The encoding that the declaration names, and the body with spaces in its place.

    As many spaces as there were bytes: every place that expat reports is one of `body`.
    """
    declaration = _DECLARATION.match(body)
    if declaration is None:
        return "utf-8", body
    start, stop = declaration.span(1)
    blanked = body[:start] + b" " * (stop - start) + body[stop:]
    named = _ENCODING.search(declaration[1])
    encoding = named[1].decode("ascii").lower() if named else "utf-8"
    # The byte order mark of UTF-8 says more than any declaration.
    if _UNICODE.fullmatch(encoding) or body.startswith(b"\xef\xbb\xbf"):
        return "utf-8", blanked
    if not _ONE_BYTE.fullmatch(encoding):
        raise InsertionRefused(Reason.SYNTAX)
    return encoding, blanked
