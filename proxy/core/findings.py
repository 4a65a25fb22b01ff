"""What is wrong with a hit, as far as Adobe's documentation tells it: rules, each with its page.

Rule: a finding names what was seen, what Adobe makes of it, and the page that says so.  A
collection server answers 200 to hits that Adobe then drops; these rules predict that.
Non-rule: nothing is decided here (`stamp` decides what is sent), and what processing rules or
VISTA make of a hit cannot be known.
Source: Adobe's pages, one for each rule; `DOCS` is how their files become addresses: the
anchors of the guides' tables of contents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from proxy.core import stamp
from proxy.core.decode import CLOSES_NOTHING, NAMES, UNCLOSED, Decoded, Field, Product
from proxy.core.hit import Request, Suites, Timestamps, WhenLate
from proxy.core.words import span

DOCS = "https://experienceleague.adobe.com/en/docs/analytics/"
TIMESTAMPS = (
    f"{DOCS}admin/admin-tools/manage-report-suites/edit-report-suite/report-suite-general/"
    "timestamp-configuration"
)
HARDCODED = f"{DOCS}implementation/other/hardcoded"
IDENTITY = f"{DOCS}implementation/id/overview"
PARAMETERS = f"{DOCS}implementation/validate/query-parameters"
VARS = f"{DOCS}implementation/vars/"
HIT_TYPES = f"{DOCS}implementation/aep-edge/hit-types"
DATA_OBJECT = f"{DOCS}implementation/aep-edge/data-var-mapping"
PLATFORM = "https://experienceleague.adobe.com/en/docs/experience-platform/"
XDM_EVENT = f"{PLATFORM}xdm/classes/experienceevent"
DATASTREAMS = f"{PLATFORM}datastreams/configure"
EDGE_API = "https://developer.adobe.com/data-collection-apis/docs/"

# A visit of a suite that takes timestamps is held open for so long.
OPEN_MS = 92 * 86_400_000
# Clocks of two machines differ a little, and `ts` has no fractions.
SLACK_MS = 60_000
# Without a zone a time is within these of UTC, and nobody but Adobe knows where.
EAST_MS, WEST_MS = 14 * 3_600_000, 12 * 3_600_000
SHOWN = 20
MOST = 100


class Severity(StrEnum):
    """LOST: Adobe will drop it; WRONG: data are distorted or cut; NOTE: worth knowing."""

    LOST = "lost"
    WRONG = "wrong"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Rule:
    """`why` is what Adobe's page `doc` says."""

    id: str
    severity: Severity
    title: str
    why: str
    doc: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a hit breaks: `text` for a person, `key` the parameter, if it is one."""

    rule: str
    severity: Severity
    text: str
    key: str
    doc: str


RULES = (
    Rule(
        "L1",
        Severity.LOST,
        "the request was cut short",
        "AQE marks the end of a request: where AQB is and AQE is not, something was cut off.",
        PARAMETERS,
    ),
    Rule(
        "L2",
        Severity.LOST,
        "ts, and the suite does not take timestamps",
        "A hit with a timestamp is permanently dropped by such a report suite.",
        TIMESTAMPS,
    ),
    Rule(
        "L3",
        Severity.NOTE,
        "no ts, and the suite requires timestamps",
        "Such a report suite permanently drops a hit without a timestamp. What passes through"
        " here gets the time it was received; sent to Adobe directly it would be lost.",
        TIMESTAMPS,
    ),
    Rule(
        "L4",
        Severity.LOST,
        "ts is no time Adobe reads",
        "Adobe reads Unix time in seconds and some forms of ISO 8601; milliseconds are neither.",
        f"{VARS}page-vars/timestamp",
    ),
    Rule(
        "L5",
        Severity.LOST,
        "no report suite",
        "The report suite stands in the path after /b/ss/; without one the hit belongs nowhere.",
        HARDCODED,
    ),
    Rule(
        "W1",
        Severity.WRONG,
        "no visitor id",
        "Without vid, aid, mid or fid a visitor is an IP address and a user agent: many devices"
        " behind one address can become one visitor.",
        IDENTITY,
    ),
    Rule(
        "W2",
        Severity.WRONG,
        "visitorID with a timestamp",
        "visitorID is not supported where timestamps are required; where they are optional it"
        " leads to out-of-order data on hits that have one.",
        TIMESTAMPS,
    ),
    Rule(
        "W3",
        Severity.WRONG,
        "visitorID is not a good one",
        "Placeholders such as 0 and NULL make one visitor of many; valid values are alphanumeric,"
        " up to 100 bytes.",
        f"{VARS}config-vars/visitorid",
    ),
    Rule(
        "W4",
        Severity.WRONG,
        "longer than Adobe keeps",
        "Values are cut at their limit, counted in bytes of UTF-8.",
        HARDCODED,
    ),
    Rule(
        "W5",
        Severity.WRONG,
        "ts is in the future, or too long ago",
        "A hit counts at its timestamp; a visit is held open for 92 days and takes no older hits.",
        TIMESTAMPS,
    ),
    Rule(
        "W6",
        Severity.WRONG,
        "late, and the suite does not take timestamps",
        "The time of such a hit is when Adobe receives it, not when it happened.",
        TIMESTAMPS,
    ),
    Rule(
        "W7",
        Severity.WRONG,
        "not written as Adobe reads it",
        "Parameter names are case-sensitive; a name given twice, a level of names that is not"
        " closed and a product with more than six fields are read in ways nobody promises.",
        HARDCODED,
    ),
    Rule(
        "N1",
        Severity.NOTE,
        "parameters that are no longer used",
        "Adobe lists these parameters as no longer used.",
        PARAMETERS,
    ),
    Rule(
        "N2",
        Severity.NOTE,
        "worth knowing",
        "Of several ids one wins; a hit is a page view or a link; some parameters are Adobe's own"
        " to set; a suite whose timestamp mode is unknown cannot be checked.",
        PARAMETERS,
    ),
    Rule(
        "E1",
        Severity.LOST,
        "the Edge Network refuses it",
        "A request without a datastream, without events, that is no JSON or larger than 64 KB is"
        " refused, and must not be sent again as it is.",
        f"{EDGE_API}getting-started/troubleshooting",
    ),
    Rule(
        "E2",
        Severity.LOST,
        "an event that is neither a page view nor a link",
        "Analytics drops an event with neither a page's name or URL nor a type of link, and one"
        " of a proposition without its details. Other services behind the datastream may not.",
        HIT_TYPES,
    ),
    Rule(
        "E3",
        Severity.LOST,
        "no identity in v2/collect",
        "The endpoint answers 400 where the mandatory primary identity is not found.",
        f"{EDGE_API}endpoints/collect",
    ),
    Rule(
        "E4",
        Severity.WRONG,
        "its time is not what XDM wants",
        "The timestamp of an event is written as in RFC 3339, and must be in the past.",
        XDM_EVENT,
    ),
    Rule(
        "E5",
        Severity.WRONG,
        "an event without an identity",
        "Where the datastream hides IP addresses in full, Analytics drops a page view with neither"
        " ECID nor visitor ID; elsewhere the address tells the visitor.",
        DATASTREAMS,
    ),
    Rule(
        "E6",
        Severity.WRONG,
        "several events for interact",
        "The interact endpoint takes a single event; batches are for collect.",
        f"{EDGE_API}endpoints/interact",
    ),
    Rule(
        "E7",
        Severity.WRONG,
        "a variable and its short name",
        "Where the data object has both, Adobe does not promise which one counts.",
        DATA_OBJECT,
    ),
    Rule(
        "E8",
        Severity.NOTE,
        "an event without a time",
        "XDM has the timestamp for when an event occurred. What passes through here gets the time"
        " it was received.",
        XDM_EVENT,
    ),
    Rule(
        "E9",
        Severity.NOTE,
        "worth knowing of an event",
        "Where XDM and the data object differ, the data object counts; events of one request are"
        " counted one by one; a request has 64 KB at most; Analytics drops requests for"
        " propositions, as it should.",
        DATA_OBJECT,
    ),
)
_RULES = {rule.id: rule for rule in RULES}
LOST = frozenset(rule.id for rule in RULES if rule.severity is Severity.LOST)

# The most bytes of each, and the page that says so.
_LIMITS: dict[str, tuple[int, str]] = {
    "pageName": (100, "page-vars/pagename"),
    "channel": (100, "page-vars/channel"),
    "server": (100, "page-vars/server"),
    "transactionID": (100, "page-vars/transactionid"),
    "purchaseID": (20, "page-vars/purchaseid"),
    "campaign": (255, "page-vars/campaign"),
    "referrer": (255, "page-vars/referrer"),
    "products": (65_536, "page-vars/products"),
    **{f"prop{number}": (100, "page-vars/prop") for number in range(1, 76)},
    **{f"eVar{number}": (255, "page-vars/evar") for number in range(1, 251)},
}
_LIST_VALUE = 255
# What separates the values of a list variable is a setting of the suite; these are common.
_LIST_MARKS = re.compile(r"[,;:|/]")
_CONTEXT_BYTES = 32 * 1024
_PRODUCT_BYTES = 100
_PRODUCT_FIELDS = 6

_RIGHT_CASE = {key.lower(): key for key in NAMES}
_OWN_PARAMETERS = ("pccr", "vidn")
_CONTEXT = ("context", "activity", "media")
_GROUPS_OF_NO_USE = ("hierarchy", "retired")
_PLACEHOLDERS = ("0", "null")

_UNIX = re.compile(r"[0-9]{1,10}", re.ASCII)
_ISO = re.compile(
    r"(?:(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)T(?P<h>\d\d):(?P<n>\d\d)(?::(?P<s>\d\d))?"
    r"|(?P<y2>\d{4})(?P<m2>\d\d)(?P<d2>\d\d)T(?P<h2>\d\d)(?P<n2>\d\d)(?P<s2>\d\d)?)"
    r"(?:[.,]\d+)?(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)


def findings(
    decoded: Decoded,
    request: Request,
    suites: Suites,
    *,
    received_ms: float,
    at_ms: float,
) -> tuple[Finding, ...]:
    """What is wrong with the hit, the worst first.

    `received_ms` is when it came, `at_ms` when it was delivered, or now while it waits, both
    in Unix milliseconds.  Nothing is said of rules that a person silenced for all of its report
    suites.  Of a hit with more than MOST findings the rest is left out.  These are a beacon's;
    those of an event of the Edge Network are in `edge.findings`.
    """
    found = [
        *_of_the_request(decoded, request),
        *_of_the_time(decoded, suites, received_ms, at_ms),
        *_of_the_visitor(decoded, suites),
        *_of_the_fields(decoded),
        *_of_the_modes(decoded, suites),
    ]
    return worst_first(found, suites.silence(decoded.suites))


def worst_first(found: list[Finding], silence: frozenset[str]) -> tuple[Finding, ...]:
    """What is to be said of these, MOST at most."""
    if silence:
        found = [one for one in found if one.rule not in silence]
    if len(found) > 1:
        order = list(_RULES)
        found.sort(key=lambda one: (_WORST.index(one.severity), order.index(one.rule)))
    return tuple(found[:MOST])


_WORST = list(Severity)


def finding(rule: str, text: str, key: str = "", doc: str = "") -> Finding:
    known = _RULES[rule]
    return Finding(rule, known.severity, text, key, doc or known.doc)


# -- the request as a whole ------------------------------------------------------------------


def _of_the_request(decoded: Decoded, request: Request) -> Iterator[Finding]:
    # In the bytes: what follows a level that was never closed may hold it.
    sent = b"&" + request.target.partition(b"?")[2] + b"&" + request.body
    if b"&AQB=" in sent and b"&AQE=" not in sent:
        yield finding("L1", "AQB=1 is there and AQE=1 is not: the end of the request is missing")
    if not decoded.suites:
        yield finding("L5", "no report suite in /b/ss/<report suite>/…: Adobe cannot count it")


# -- its time --------------------------------------------------------------------------------


def _of_the_time(
    decoded: Decoded, suites: Suites, received_ms: float, at_ms: float
) -> Iterator[Finding]:
    late_ms = at_ms - received_ms
    for rsid in decoded.suites:
        suite = suites.of(rsid)
        if suite.timestamps is Timestamps.NOT_ALLOWED:
            if decoded.ts is not None:
                text = f"it carries ts, and {rsid} does not take timestamps: Adobe will drop it"
                yield finding("L2", text, "ts")
            elif late_ms > stamp.LATE_AFTER_S * 1000:
                late = span(late_ms / 1000)
                sent = suite.when_late is WhenLate.SEND
                fate = "it counts when it arrives" if sent else "it is not sent by itself"
                text = f"{late} late, and {rsid} does not take timestamps: {fate}"
                yield finding("W6", text)
        elif suite.timestamps is Timestamps.REQUIRED and decoded.ts is None:
            text = f"{rsid} requires a timestamp and the client sent none: it gets our own"
            yield finding("L3", text, "ts")
    if decoded.ts is not None:
        yield from _of_the_timestamp(decoded.ts, received_ms, at_ms)


def _of_the_timestamp(ts: str, received_ms: float, at_ms: float) -> Iterator[Finding]:
    span_ = unix_ms(ts)
    if span_ is None:
        hint = ": these are milliseconds" if ts.isdecimal() and len(ts) == 13 else ""
        yield finding("L4", f'ts "{short(ts)}" is no time Adobe reads{hint}', "ts")
        return
    earliest, latest = span_
    if earliest > received_ms + SLACK_MS:
        ahead = span((earliest - received_ms) / 1000)
        yield finding("W5", f"ts is {ahead} after the hit was received", "ts")
    elif at_ms - latest > OPEN_MS:
        text = f"ts is {span((at_ms - latest) / 1000)} old; visits are held open for 92 days"
        yield finding("W5", text, "ts")


def unix_ms(ts: str) -> tuple[float, float] | None:
    """The earliest and the latest that `ts` can mean; None when Adobe does not read it."""
    if _UNIX.fullmatch(ts):
        return float(ts) * 1000, float(ts) * 1000
    match = _ISO.fullmatch(ts)
    if match is None:
        return None
    group = match.group
    year, month, day = (int(group(name) or group(f"{name}2")) for name in "ymd")
    hour, minute = (int(group(name) or group(f"{name}2")) for name in "hn")
    second = int(group("s") or group("s2") or 0)
    is_time = hour < 24 and minute < 60 and second <= 60
    if not (is_time and 1 <= month <= 12 and 1 <= day <= _days(year, month)):
        return None
    at = ((_day(year, month, day) * 24 + hour) * 60 + minute) * 60_000.0 + second * 1000.0
    zone = group("zone")
    if zone is None:
        return at - EAST_MS, at + WEST_MS
    if zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        offset_ms = (int(digits[:2]) * 60 + int(digits[2:])) * 60_000
        at += offset_ms if zone[0] == "-" else -offset_ms
    return at, at


def _days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _day(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01: the years begin in March, so that a leap day is the last one."""
    year, month = (year - 1, month + 9) if month < 3 else (year, month - 3)
    return (
        365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 719469
    )


# -- its visitor -----------------------------------------------------------------------------


def _of_the_visitor(decoded: Decoded, suites: Suites) -> Iterator[Finding]:
    named = [identity for identity in decoded.identities if identity.kind != "ip"]
    if not named:
        yield finding("W1", "no vid, aid, mid or fid: the visitor is an address and a user agent")
        return
    used = named[0]
    if used.kind == "vid":
        yield from _of_the_custom_id(used.value, decoded, suites)
    if len(named) > 1:
        others = ", ".join(identity.kind for identity in named[1:])
        yield finding(
            "N2", f"several ids: {used.kind} is the visitor, {others} is not", doc=IDENTITY
        )


def _of_the_custom_id(vid: str, decoded: Decoded, suites: Suites) -> Iterator[Finding]:
    for rsid in decoded.suites:
        mode = suites.of(rsid).timestamps
        if mode is Timestamps.REQUIRED:
            text = f"vid on a timestamped hit: {rsid} requires timestamps and does not support it"
            yield finding("W2", text, "vid")
        elif mode is Timestamps.OPTIONAL or (mode is Timestamps.UNKNOWN and decoded.ts is not None):
            text = f"vid on a timestamped hit leads to out-of-order data in {rsid}"
            yield finding("W2", text, "vid")
    if vid.lower() in _PLACEHOLDERS:
        yield finding("W3", f'vid is "{vid}": everyone with it is one visitor', "vid")
    elif _bytes(vid) > 100:
        yield finding("W3", f"vid is {_bytes(vid)} bytes; Adobe takes 100", "vid")
    elif not vid.isalnum():
        text = f'vid "{short(vid)}" has characters other than letters and digits'
        yield finding("W3", text, "vid")


# -- its fields ------------------------------------------------------------------------------


def _of_the_fields(decoded: Decoded) -> Iterator[Finding]:
    yield from of_the_lengths(field for group in decoded.groups for field in group.fields)
    for group in decoded.groups:
        if group.id in _GROUPS_OF_NO_USE:
            names = ", ".join(dict.fromkeys(field.key for field in group.fields))
            yield finding("N1", f"no longer used: {names}", group.fields[0].key)
        elif group.id == "lists":
            yield from of_the_lists(group.fields)
        elif group.id == "other":
            yield from _of_the_unknown(group.fields)
    yield from _of_the_repeated(decoded)
    yield from _of_the_context(decoded)
    for product in decoded.products:
        yield from of_the_product(product)


def of_the_lengths(fields: Iterable[Field]) -> Iterator[Finding]:
    """Values that are cut at their limit."""
    for field in fields:
        # Four bytes are the most that a character has, and 20 the least limit.
        if len(field.value) > 5 and field.name in _LIMITS:
            most, page = _LIMITS[field.name]
            if len(field.value) * 4 > most and _bytes(field.value) > most:
                yield _cut(field.name, field.value, most, field.key, page)


def _of_the_repeated(decoded: Decoded) -> Iterator[Finding]:
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for group in decoded.groups:
        # Names of context data know no case, all others do.
        is_context = group.id in _CONTEXT
        for field in group.fields:
            key = field.key.lower() if is_context else field.key
            if key in seen:
                twice[field.key] = None
            seen.add(key)
    twice.pop("", None)
    for closer in [key for key in twice if key.endswith(".") or key.startswith(".")]:
        del twice[closer]
    if twice:
        text = f"given twice: {short(', '.join(twice))}"
        yield finding("W7", text, next(iter(twice)), PARAMETERS)


def of_the_lists(fields: Iterable[Field]) -> Iterator[Finding]:
    """Values of list variables that are cut at their limit."""
    for field in fields:
        if len(field.value) * 4 <= _LIST_VALUE:
            continue
        for value in _LIST_MARKS.split(field.value):
            if _bytes(value) > _LIST_VALUE:
                name = f"a value of {field.name}"
                yield _cut(name, value, _LIST_VALUE, field.key, "page-vars/list")
                break


def _of_the_unknown(fields: tuple[Field, ...]) -> Iterator[Finding]:
    unbalanced = [
        f"{field.key} {field.name}"
        for field in fields
        if field.name in (UNCLOSED, CLOSES_NOTHING) and not field.value
    ]
    if unbalanced:
        more = f" and {len(unbalanced) - 3} more" if len(unbalanced) > 3 else ""
        text = f"levels of names: {', '.join(unbalanced[:3])}{more}"
        yield finding("W7", text, doc=f"{VARS}page-vars/contextdata")
    for key in dict.fromkeys(field.key for field in fields):
        right = _RIGHT_CASE.get(key.lower())
        if right is not None:
            text = f"{key} is no parameter; is {right} meant? Names are case-sensitive"
            yield finding("W7", text, key)


def _of_the_context(decoded: Decoded) -> Iterator[Finding]:
    size = sum(
        len(field.name) + _bytes(field.value)
        for group in decoded.groups
        if group.id in _CONTEXT
        for field in group.fields
    )
    if size > _CONTEXT_BYTES:
        text = f"context data are {size:,} bytes with their names; Adobe takes {_CONTEXT_BYTES:,}"
        yield finding("W4", text, "c.", f"{VARS}page-vars/contextdata")


def of_the_product(product: Product) -> Iterator[Finding]:
    """What is cut, or not read, of one product."""
    page = "page-vars/products"
    for what, value in (("category", product.category), ("name", product.name)):
        if _bytes(value) > _PRODUCT_BYTES:
            yield _cut(f"a product's {what}", value, _PRODUCT_BYTES, "products", page)
    for evar in product.evars:
        if _bytes(evar.value) > 255:
            yield _cut(f"a product's {evar.name}", evar.value, 255, "products", "page-vars/evar")
    if product.raw.count(";") >= _PRODUCT_FIELDS:
        count = product.raw.count(";") + 1
        text = f'product "{short(product.name)}" has {count} fields; Adobe reads six'
        yield finding("W7", text, "products", f"{VARS}{page}")


def _cut(name: str, value: str, most: int, key: str, page: str) -> Finding:
    """The text with the place where it is cut; a character that is half over goes whole."""
    kept = value.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
    rest = value[len(kept) :]
    before = kept if len(kept) <= SHOWN else f"…{kept[-SHOWN:]}"
    after = rest if len(rest) <= SHOWN else f"{rest[:SHOWN]}…"
    text = f'{name} is {_bytes(value)} bytes; Adobe keeps {most}: "{before}|cut here|{after}"'
    return finding("W4", text, key, VARS + page)


# -- what cannot be checked ------------------------------------------------------------------


def _of_the_modes(decoded: Decoded, suites: Suites) -> Iterator[Finding]:
    keys = {field.key for group in decoded.groups for field in group.fields}
    own = [key for key in _OWN_PARAMETERS if key in keys]
    if own:
        yield finding("N2", f"{' and '.join(own)} is for Adobe's servers to set", own[0])
    names = {field.name for group in decoded.groups for field in group.fields}
    if names.isdisjoint(("pageName", "link type", "link name")):
        yield finding("N2", "neither pageName nor pe: the page will be its URL", "pageName")
    for rsid in decoded.suites:
        if suites.of(rsid).timestamps is Timestamps.UNKNOWN:
            text = f"set [suites.known.{rsid}] timestamps: L2 and L3 cannot be checked without it"
            yield finding("N2", text, doc=TIMESTAMPS)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def short(text: str) -> str:
    return text if len(text) <= SHOWN * 2 else f"{text[: SHOWN * 2]}…"
