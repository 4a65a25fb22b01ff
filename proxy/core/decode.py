"""What a hit says, in Adobe's names: the page, the events, the visitor that wins.

Rule: a view for people. It never raises on what the queue holds: what cannot be read is shown
as it stands, and what is not known lands in the group `other`.
Non-rule: nothing decoded here is ever sent on (the bytes are), and no opinion is formed
(`findings`).
Source: Adobe's pages "query parameters", "variables", "products", "events overview",
"dynamic variables", "identity overview" and AppMeasurement 2.27 itself.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from proxy.core import beacon, insertion
from proxy.core.hit import Request
from proxy.errors import NotABeacon

# A hit with more of anything was not made by a client of Adobe's: 250 eVars, 75 props and
# 1000 events are all there are.  What is beyond is counted in `other`, not shown.
MOST = 4096
# Of levels within levels; a longer path is cut, or every name below it would repeat it.
LONGEST_PATH = 256


class Kind(StrEnum):
    """What Adobe would count it as."""

    PAGE = "page"
    LINK = "link"
    EXIT = "exit"
    DOWNLOAD = "download"
    MEDIA = "media"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Field:
    """`key` as sent (`v12`), `name` as Adobe calls it (`eVar12`), `value` as decoded text."""

    key: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that belong together; `id` is stable, `title` is for people."""

    id: str
    title: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """`event1=2.5:ABC` is the event `event1`, its value `2.5` and its serial `ABC`."""

    name: str
    value: str
    serial: str


@dataclass(frozen=True, slots=True)
class Product:
    """One product string; `raw` is what it was read from."""

    category: str
    name: str
    quantity: str
    price: str
    events: tuple[Event, ...]
    evars: tuple[Field, ...]
    raw: str


@dataclass(frozen=True, slots=True)
class Identity:
    """One way to tell the visitor: `kind` is vid, aid, mid, fid or ip."""

    kind: str
    value: str
    used: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole hit. `title` is the page's or the link's name, its URL if it has none.

    `ts` is the client's own timestamp as sent. Of the `identities`, in Adobe's order,
    exactly one is `used`.
    """

    protocol: str
    kind: Kind
    title: str
    suites: tuple[str, ...]
    version: str
    ts: str | None
    identities: tuple[Identity, ...]
    events: tuple[Event, ...]
    products: tuple[Product, ...]
    groups: tuple[Group, ...]


GROUPS = {
    "page": "Page",
    "link": "Link",
    "evars": "eVars",
    "props": "Props",
    "lists": "List variables",
    "hierarchy": "Hierarchies",
    "context": "Context data",
    "media": "Media",
    "activity": "Activity Map",
    "hints": "Client hints",
    "technical": "Technical",
    "retired": "No longer used",
    "other": "Other",
}
(
    PAGE,
    LINK,
    EVARS,
    PROPS,
    LISTS,
    HIERARCHY,
    CONTEXT,
    MEDIA,
    ACTIVITY,
    HINTS,
    TECHNICAL,
    RETIRED,
    OTHER,
) = GROUPS

# Adobe's page "Data collection query parameters"; what it calls no longer used is `retired`.
_PARAMETERS = {
    PAGE: {
        "pageName": "pageName",
        "gn": "pageName",
        "g": "pageURL",
        "-g": "pageURL, continued",
        "r": "referrer",
        "ch": "channel",
        "server": "server",
        "sv": "server",
        "pageType": "pageType",
        "gt": "pageType",
        "v0": "campaign",
        "events": "events",
        "ev": "events",
        "products": "products",
        "pl": "products",
        "purchaseID": "purchaseID",
        "xact": "transactionID",
        "cc": "currencyCode",
        "zip": "zip",
    },
    LINK: {"pe": "link type", "pev1": "linkURL", "pev2": "link name"},
    EVARS: {f"v{number}": f"eVar{number}" for number in range(1, 251)},
    PROPS: {f"c{number}": f"prop{number}" for number in range(1, 76)},
    LISTS: {f"l{number}": f"list{number}" for number in range(1, 4)},
    HIERARCHY: {f"h{number}": f"hier{number}" for number in range(1, 6)},
    MEDIA: {"ms_a": "streaming audio"},
    ACTIVITY: {"oid": "s_objectID"},
    TECHNICAL: {
        "AQB": "begin of request",
        "AQE": "end of request",
        "ndh": "sent by a library",
        "pf": "platform flag",
        "t": "time of the client",
        "ts": "timestamp",
        "vid": "visitorID",
        "aid": "Analytics visitor ID",
        "mid": "Experience Cloud visitor ID",
        "fid": "fallback visitor ID",
        "mcorgid": "organization ID",
        "sdid": "supplemental data ID",
        "aamlh": "Audience Manager location hint",
        "aamb": "Audience Manager blob",
        "as": "authentication state",
        "vidn": "new visitor ID",
        "pccr": "cookie check redirect",
        "ce": "charSet",
        "cl": "cookieLifetime",
        "cp": "customerPerspective",
        "ct": "connection type",
        "D": "dynamicVariablePrefix",
        "s": "monitor resolution",
        "c": "color depth",
        "v": "Java enabled",
        "k": "cookie support",
        "bw": "browser width",
        "bh": "browser height",
        "lrt": "last request timing",
        "tnt": "Target data",
        "tnta": "Target data",
        "callback": "callback",
        "et": "callback timeout",
    },
    RETIRED: {
        "cdp": "cookieDomainPeriods",
        "hp": "homepage",
        "j": "JavaScript version",
        "lat": "latitude",
        "lon": "longitude",
        "ns": "visitorNamespace",
        "oi": "object instance",
        "oidt": "object identifier type",
        "ot": "object name",
        "p": "browser plug-ins",
        "pev3": "video milestone",
        "pid": "page identifier",
        "pidt": "page identifier type",
        "state": "state",
        "u": "account marker",
        "vmf": "visitorMigrationServer",
        "vmt": "visitorMigrationKey",
        "vvp": "variable provider",
    },
}
NAMES = {key: (group, name) for group, names in _PARAMETERS.items() for key, name in names.items()}
_BY_BYTES = {key.encode(): (key, group, name) for key, (group, name) in NAMES.items()}

# Adobe's page "Supported XML Tags and Query Variables"; tag names know no case.
_TAGS = {
    "browserheight": "bh",
    "browserwidth": "bw",
    "campaign": "v0",
    "channel": "ch",
    "colordepth": "c",
    "connectiontype": "ct",
    "cookiesenabled": "k",
    "customerperspective": "cp",
    "currencycode": "cc",
    "events": "events",
    "fallbackvisitorid": "fid",
    "imsregion": "aamlh",
    "javaenabled": "v",
    "linkname": "pev2",
    "linktype": "pe",
    "linkurl": "pev1",
    "marketingcloudorgid": "mcorgid",
    "marketingcloudvisitorid": "mid",
    "pagename": "pageName",
    "pagetype": "pageType",
    "pageurl": "g",
    "products": "products",
    "purchaseid": "purchaseID",
    "referrer": "r",
    "resolution": "s",
    "server": "server",
    "timestamp": "ts",
    "transactionid": "xact",
    "visitorid": "vid",
    "zip": "zip",
    **{name.lower(): key for key, name in _PARAMETERS[EVARS].items()},
    **{name.lower(): key for key, name in _PARAMETERS[PROPS].items()},
    **{name.lower(): key for key, name in _PARAMETERS[LISTS].items()},
    **{name.lower(): key for key, name in _PARAMETERS[HIERARCHY].items()},
}
_TAGS_ALONE = {
    "ipaddress": "IP address",
    "language": "language",
    "reportsuiteid": "report suites",
    "scxmlver": "XML version",
    "sc_xml_ver": "XML version",
    "timezone": "time zone",
    "useragent": "user agent",
}
_TAG_LEVELS = {"contextdata.": "c.", "useragentclienthints.": "h."}

# Where levels lead, the longest first: AppMeasurement nests context data, hints and ids.
_LEVELS = (
    ("c.a.activitymap.", ACTIVITY, "c."),
    ("c.a.media.", MEDIA, "c."),
    ("c.", CONTEXT, "c."),
    ("h.", HINTS, "h."),
    ("cid.", TECHNICAL, ""),
    ("d.", TECHNICAL, ""),
    ("p.", TECHNICAL, ""),
    ("mts.", TECHNICAL, ""),
)

# What tells the visitor, the time and the encoding: only at depth 0, and the first that says
# something, as `beacon.top_level` reads them.
_ACTED_ON = frozenset((b"vid", b"aid", b"mid", b"fid", b"ts", b"ce"))

UNCLOSED, CLOSES_NOTHING = "never closed", "closes nothing"

# The encodings that a web page may have.  A list, for Python's own names of "encodings" have
# some among them that are none, and some that take quadratic time.
_CHARSETS = {
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in range(1, 17) if part != 12},
    **{f"windows-125{part}": f"cp125{part}" for part in range(9)},
    "us-ascii": "iso8859-1",
    "latin1": "iso8859-1",
    "big5": "big5",
    "euc-jp": "euc_jp",
    "euc-kr": "euc_kr",
    "gb18030": "gb18030",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-2022-jp": "iso2022_jp",
    "koi8-r": "koi8_r",
    "koi8-u": "koi8_u",
    "ks_c_5601-1987": "cp949",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "tis-620": "tis_620",
    "windows-31j": "cp932",
    "windows-874": "cp874",
}

# The escapes that are most of all; `+` goes first, for it may stand for itself as `%2B`.
_COMMON = (
    (b"+", b" "),
    *(
        (case(b"%%%02x" % ord(char)), char)
        for char in (b" ", b"/", b":", b";", b",", b"|", b"=", b"?", b">", b"@")
        for case in (bytes.lower, bytes.upper)
    ),
)
_ENDS_NAME = re.compile("[=:]")


def is_beacon(path: bytes) -> bool:
    """Whether a path is one of ours to read, and of no other protocol."""
    return path.startswith(b"/b/ss/")


def decode(request: Request, peer: str = "") -> Decoded:
    """What the request says; `peer` is the address it came from."""
    path, _, query = request.target.partition(b"?")
    match = beacon.PATH.fullmatch(path)
    version = _plain(match["version"]) if match is not None and match["version"] else ""
    if match is not None and match["kind"] == beacon.INSERTION.encode():
        said, suites, identities, ts = _insertion(request.body)
    else:
        said = _parameters(query, request.body)
        suites = _suites(match["suites"]) if match is not None else ()
        told = beacon.visitors(said.acted, beacon.told(request.headers, peer))
        identities = _identities(told, said.charset)
        stamp = said.acted.get(b"ts")
        ts = _text(stamp, said.charset) if stamp else None
    value = said.values.get
    kind = _kind(value("pe", ""), value("pev2", ""))
    events = _events(value("events") or value("ev", ""), ",", said)
    products = _products(value("products") or value("pl", ""), said)
    return Decoded(
        protocol="analytics",
        kind=kind,
        title=_title(kind, said.values) or _plain(path),
        suites=suites,
        version=version,
        ts=ts,
        identities=identities,
        events=events,
        products=products,
        groups=tuple(
            Group(id_, title, tuple(said.groups[id_]))
            for id_, title in GROUPS.items()
            if id_ in said.groups
        ),
    )


class _Said:
    """Fields as they are found, and the value that counts of each parameter."""

    __slots__ = ("acted", "charset", "groups", "values")

    def __init__(self, charset: str = "utf-8") -> None:
        self.acted: dict[bytes, bytes] = {}
        self.charset = charset
        self.groups: defaultdict[str, list[Field]] = defaultdict(list)
        self.values: dict[str, str] = {}

    def add(self, group: str, field: Field) -> None:
        self.groups[group].append(field)

    def add_leveled(self, key: str, path: str, value: str) -> None:
        """A field whose full name has a dot, or that nobody knows."""
        for level, group, cut in _LEVELS:
            if path.startswith(level) and len(path) > len(level):
                self.add(group, Field(key, path[len(cut) :], value))
                return
        self.add(OTHER, Field(key, path, value))

    def cut(self, what: str, count: int) -> None:
        self.add(OTHER, Field("", "not shown", f"{count} more {what}"))


def _parameters(query: bytes, body: bytes) -> _Said:
    """The parameters of the URL and of the body; the body's are the ones that count."""
    both = [_Walk(data) for data in (query, body) if data]
    acted: dict[bytes, bytes] = {}
    for walk in both:
        acted |= {name: value for name, value in walk.acted.items() if value}
    charset = _CHARSETS.get(acted.get(b"ce", b"").decode("ascii", "replace").lower(), "utf-8")
    said = _Said(charset)
    # A walk that was cut short has not seen all of them.
    said.acted = beacon.parameters(query, body) if any(walk.rest for walk in both) else acted
    groups = said.groups
    for walk in both:
        values: dict[str, str] = {}
        for name, text in zip(walk.names, _texts(walk.values, charset), strict=True):
            known = _BY_BYTES.get(name)
            if known is None:
                path = _text(name, charset)
                said.add_leveled(_plain(name), path, text)
                continue
            key, group, title = known
            groups[group].append(Field(key, title, text))
            if text and key not in values:
                values[key] = text
        said.values |= values
        for level in walk.unclosed:
            said.add(OTHER, Field(_plain(level), UNCLOSED, ""))
        for closer in walk.stray:
            said.add(OTHER, Field(_plain(closer), CLOSES_NOTHING, ""))
        if walk.rest:
            said.cut("parameters", walk.rest)
    return said


class _Walk:
    """One walk along `a=1&c.&b=2&.c`, by the rules of `beacon.STEP`: full names and raw values."""

    __slots__ = ("_levels", "_open", "acted", "names", "rest", "stray", "unclosed", "values")

    def __init__(self, data: bytes) -> None:
        self.names: list[bytes] = []
        self.values: list[bytes] = []
        self.unclosed: list[bytes] = []
        self.stray: list[bytes] = []
        self.acted: dict[bytes, bytes] = {}  # the first value of each of _ACTED_ON, at depth 0
        self.rest = 0
        self._levels: list[tuple[bytes, bytes]] = []  # the name, and the path with it
        # Whether a level is open must not cost a look at all of them.
        self._open: Counter[bytes] = Counter()
        pieces = data.split(b"&", MOST)
        if len(pieces) > MOST:
            self.rest = pieces.pop().count(b"&") + 1
        path = b""
        for piece in pieces:
            name, _, value = piece.partition(b"=")
            if not value and name[-1:] == b"." and name[:1] != b".":
                path = self._opened(name[:-1], path)
            elif not value and name[:1] == b"." and name != b".":
                path = self._closed(name[1:], path)
            elif piece:
                self.names.append(path + name)
                self.values.append(value)
                if name in _ACTED_ON and not path and not self.acted.get(name):
                    self.acted[name] = value
        if not self.rest:
            self.unclosed += [level + b"." for level, _ in self._levels]

    def _opened(self, level: bytes, path: bytes) -> bytes:
        path = (path + level + b".")[:LONGEST_PATH]
        self._levels.append((level, path))
        self._open[level] += 1
        return path

    def _closed(self, level: bytes, path: bytes) -> bytes:
        if not self._open[level]:
            self.stray.append(b"." + level)
            return path
        while (inner := self._levels.pop()[0]) != level:
            self._open[inner] -= 1
            self.unclosed.append(inner + b".")
        self._open[level] -= 1
        return self._levels[-1][1] if self._levels else b""


def _insertion(
    body: bytes,
) -> tuple[_Said, tuple[str, ...], tuple[Identity, ...], str | None]:
    """What an XML request says; its visitor and its suites are those that `insertion` reads."""
    said = _Said()
    try:
        tags = insertion.fields(body)
    except insertion.InsertionRefused:
        said.add(OTHER, Field("", "not readable as XML", _plain(body[:LONGEST_PATH])))
        tags = ()
    first: dict[str, str] = {}
    for tag, text in tags[:MOST]:
        low = tag.lower()
        first.setdefault(low, text)
        key = _TAGS.get(low)
        if key is not None:
            group, name = NAMES[key]
            said.values.setdefault(key, text)
            said.add(group, Field(tag, name, text))
        elif low in _TAGS_ALONE:
            said.add(TECHNICAL, Field(tag, _TAGS_ALONE[low], text))
        else:
            level, dot, rest = tag.partition(".")
            said.add_leveled(tag, _TAG_LEVELS.get(level.lower() + dot, level + dot) + rest, text)
    if len(tags) > MOST:
        said.cut("tags", len(tags) - MOST)
    try:
        read = insertion.read(body)
    except insertion.InsertionRefused:
        suites = tuple(filter(None, first.get("reportsuiteid", "").replace(" ", "").split(",")))
        return said, suites, (Identity("ip", "", used=True),), first.get("timestamp")
    used, _, value = read.visitor.decode().partition(":")
    ways = [(used, value)]
    ways += [(kind, first[tag]) for tag, kind in _VISITOR_TAGS.items() if tag in first]
    if "ipaddress" in first:
        ways.append(("ip", f"{first['ipaddress']} {first.get('useragent', '')}".rstrip()))
    stamp = read.timestamp
    return said, read.suites, _ordered(ways), stamp.decode() if stamp else None


_VISITOR_TAGS = {"visitorid": "vid", "marketingcloudvisitorid": "mid", "fallbackvisitorid": "fid"}


def _identities(ways: Iterator[tuple[bytes, bytes]], charset: str) -> tuple[Identity, ...]:
    return _ordered([(kind.decode(), _text(value, charset)) for kind, value in ways])


def _ordered(ways: list[tuple[str, str]]) -> tuple[Identity, ...]:
    """One identity for each kind; the first is the one that counts."""
    found: dict[str, str] = {}
    for kind, value in ways:
        found.setdefault(kind, value)
    return tuple(
        Identity(kind, value, used=number == 0)
        for number, (kind, value) in enumerate(found.items())
    )


def _suites(segment: bytes) -> tuple[str, ...]:
    try:
        return beacon.suites_of(segment)
    except NotABeacon:
        pieces = unquote_to_bytes(segment).split(b",", beacon.MOST_SUITES)
        return tuple(_plain(piece) for piece in pieces if piece)


def _kind(pe: str, link_name: str) -> Kind:
    """`pe`, or the `linkType` of an XML request, which is `o` beside a name."""
    match pe.removeprefix("lnk_"):
        case "":
            return Kind.LINK if link_name and not pe else Kind.PAGE
        case "e":
            return Kind.EXIT
        case "d":
            return Kind.DOWNLOAD
        case "o":
            return Kind.LINK
    if pe.startswith(("m_", "ms_")):
        return Kind.MEDIA
    return Kind.LINK if pe.startswith("lnk_") else Kind.OTHER


def _title(kind: Kind, values: dict[str, str]) -> str:
    value = values.get
    page = value("pageName") or value("gn") or value("g", "") + value("-g", "")
    if kind in (Kind.LINK, Kind.EXIT, Kind.DOWNLOAD):
        return value("pev2") or value("pev1") or page
    return page


def _events(text: str, mark: str, said: _Said) -> tuple[Event, ...]:
    return tuple(_event(piece) for piece in _split(text, mark, "events", said))


def _split(text: str, mark: str, what: str, said: _Said) -> list[str]:
    """The pieces that say something, MOST of them at the most."""
    if not text:
        return []
    pieces = text.split(mark, MOST)
    if len(pieces) > MOST:
        said.cut(what, pieces.pop().count(mark) + 1)
    return [piece for piece in pieces if piece]


def _event(text: str) -> Event:
    """`event1`, `event1=2.5`, `event1:SERIAL` or both."""
    end = _ENDS_NAME.search(text)
    if end is None:
        return Event(text, "", "")
    name, rest = text[: end.start()], text[end.end() :]
    if end[0] == ":":
        return Event(name, "", rest)
    value, _, serial = rest.partition(":")
    return Event(name, value, serial)


def events(text: str) -> tuple[Event, ...]:
    """The events of an `events` variable, wherever it stood."""
    return _events(text, ",", _Said())


def products(text: str) -> tuple[Product, ...]:
    """The products of a `products` variable, wherever it stood."""
    return _products(text, _Said())


def _products(text: str, said: _Said) -> tuple[Product, ...]:
    return tuple(_product(piece, said) for piece in _split(text, ",", "products", said))


def _product(text: str, said: _Said) -> Product:
    """`category;name;quantity;price;events;eVars`; there is no way to escape a separator."""
    category, name, quantity, price, events, evars, *_ = (*text.split(";", 6), *[""] * 6)
    return Product(
        category,
        name,
        quantity,
        price,
        _events(events, "|", said),
        tuple(_evar(piece) for piece in _split(evars, "|", "eVars", said)),
        text,
    )


def _evar(text: str) -> Field:
    name, _, value = text.partition("=")
    return Field(name, name, value)


def _text(raw: bytes, charset: str) -> str:
    """A value as a person reads it; a byte that means nothing is shown as the replacement."""
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    return raw.decode(charset, "replace")


def _texts(raws: list[bytes], charset: str) -> list[str]:
    """What `_text` makes of each, for less: most of it is done to all of them at once."""
    # None of them holds a `&`, and none of what is put in is one, or a digit of an escape.
    joined = b"&".join(raws)
    for escape, char in _COMMON:
        joined = joined.replace(escape, char)
    if charset != "utf-8":
        return [_text(raw, charset) for raw in joined.split(b"&")] if raws else []
    texts = joined.decode("utf-8", "replace").split("&") if raws else []
    return [
        unquote_to_bytes(text).decode("utf-8", "replace") if "%" in text else text for text in texts
    ]


def _plain(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
