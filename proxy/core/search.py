"""One language to look for hits with, the same on the page, on the command line and in the API.

    page:Checkout* evar12:boots !is:delivered has:finding newer:10m "exactly this"

Rule: words stand beside each other for "and".  A word is found within a value in any case,
with a `*` it is the whole value, in quotes it is the value exactly; `!` negates.  `event:`,
`rule:`, `id:` and the fields with a list of choices mean the whole name; the latter take
several, as in `type:link|exit`.  A fault says its column.
Rule: what narrows a search beforehand (`plan`, `may_match`) never leaves out what matches.
Non-rule: reads nothing and knows no SQL; times without a zone are UTC.
Source: Mailpit's search for the manner of it; Adobe's names, from `decode`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from proxy.core import stamp
from proxy.core.decode import GROUPS, NAMES, Decoded, Kind
from proxy.core.findings import RULES, Finding, Severity, unix_ms
from proxy.errors import TrackofflineError

LONGEST: Final = 1000
MOST_TERMS: Final = 50

STATES: Final = ("waiting", "sending", "held", "delivered", "dead")
# What has neither left the queue nor died; `state:` tells these apart.
_STILL_HERE: Final = frozenset(("waiting", "sending", "held"))
_IDS: Final = ("vid", "aid", "mid", "fid", "ip")
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "type": tuple(Kind),
    "state": STATES,
    "is": (*STATES, "late", "ambiguous"),
    "has": ("finding", "note", "products", "events", "ts", "reason", *GROUPS),
    "ts": ("late", "sent", "none"),
    "severity": tuple(Severity),
    "rule": tuple(rule.id.lower() for rule in RULES),
}
_TIMES: Final = ("after", "before")
_SPANS: Final = ("newer", "older")
# Adobe's names and, for the impatient, the parameters as they are sent.
_NAMES: Final = {
    **{name.lower(): frozenset((name,)) for _, name in NAMES.values()},
    "page": frozenset(("pageName",)),
    "url": frozenset(("pageURL", "pageURL, continued")),
    "pageurl": frozenset(("pageURL", "pageURL, continued")),
    "link": frozenset(("link name", "linkURL")),
}
_TEXTS: Final = ("suite", "event", "product", "visitor", "reason", "id", "version")
_CONTEXT: Final = "ctx."
FIELDS: Final = (*_TEXTS, *_CHOICES, *_TIMES, *_SPANS, *_IDS)
# Nothing of these is in the bytes of a hit, or it is there under another name.
_NOT_IN_BYTES: Final = frozenset((*_CHOICES, *_TIMES, *_SPANS, "reason", "id"))
_KNOWN_WITHOUT: Final = frozenset(("state", "is", "reason", "id", *_TIMES, *_SPANS))

_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):")
_SPAN = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_SPAN_MS: Final = {
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
}
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)

# Letters and digits are written as they are, whatever else a client escapes. Not so k and i:
# the Kelvin sign and the dotted capital I are them too, in lower case.
_LITERAL = re.compile(r"[0-9a-hjl-z]{3,}")
# Where a value's letters do not stand side by side as they are: one that was escaped all the
# same (`%41`, `\u0041`), an encoding with escape sequences of its own, tags and comments amid a
# text; or where an event has another name in XDM.
_ESCAPED = re.compile(
    rb"%(?:3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|1[bB])|\\u00(?:3[0-9]|[46][1-9a-fA-F]|[57][0-9aA])"
)
_COOKIE: Final = b"kndctr_"
_APART: Final = (b"\x1b", b"/b/ss//6", b'"commerce"')


class Fault(TrackofflineError):  # noqa: N818 - one of a filter, not of ours
    """The filter cannot be read: `column`, from 1, is where, `message` is why."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


@dataclass(frozen=True, slots=True)
class View:
    """A hit as it can be searched; `decoded` may be left out where `needs_decoding` is false."""

    state: str
    received_ms: float
    now_ms: float
    decoded: Decoded | None = None
    findings: tuple[Finding, ...] = ()
    delivered_ms: float | None = None
    id: int = 0
    reason: str = ""
    ambiguous: bool = False

    @property
    def is_late(self) -> bool:
        """Whether it was, or is by now, later than a suite without timestamps should take."""
        at = self.now_ms if self.delivered_ms is None else self.delivered_ms
        return at - self.received_ms > stamp.LATE_AFTER_S * 1000


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a value must be: `pieces` around wildcards, one piece without any."""

    pieces: tuple[str, ...]
    exact: bool = False
    whole: bool = False

    def matches(self, value: str) -> bool:
        first, *rest = self.pieces
        if self.exact:
            return value == first
        value = value.lower()
        if not rest:
            return value == first if self.whole else first in value
        *middle, last = rest
        if not (value.startswith(first) and value.endswith(last)):
            return False
        at, end = len(first), len(value) - len(last)
        for piece in middle:
            found = value.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return at <= end


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. `field` is empty for a bare word; `ms` is a time or a length of time."""

    field: str
    pattern: Pattern
    negated: bool = False
    choices: frozenset[str] = frozenset()
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Query:
    """Terms of which all must hold; none at all matches everything."""

    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What every match has: one of `states` (None: any), a time of receipt, and `literals`.

    `from_ms` is the first instant that can match, `to_ms` the first after it that cannot; `only`
    is the id that it must have.
    """

    states: frozenset[str] | None
    from_ms: float | None
    to_ms: float | None
    literals: tuple[bytes, ...]
    only: int | None = None

    def covers(self, received_ms: float) -> bool:
        """Whether a hit of this instant can match."""
        return (self.from_ms is None or self.from_ms <= received_ms) and (
            self.to_ms is None or received_ms < self.to_ms
        )


def choices(field: str) -> tuple[str, ...]:
    """What a field is one of; nothing where it is any text."""
    return _CHOICES.get(field, ())


# -- reading ---------------------------------------------------------------------------------


def parse(text: str) -> Query:
    """The filter as a query; `Fault` when it is none."""
    if len(text) > LONGEST:
        raise Fault(LONGEST + 1, f"a filter has at most {LONGEST} characters")
    terms: list[Term] = []
    at = 0
    while (at := _past_spaces(text, at)) < len(text):
        if len(terms) == MOST_TERMS:
            raise Fault(at + 1, f"a filter has at most {MOST_TERMS} terms")
        term, at = _term(text, at)
        terms.append(term)
    return Query(tuple(terms))


def _past_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _term(text: str, at: int) -> tuple[Term, int]:
    negated = text[at] == "!"
    start = at + negated
    match = _FIELD.match(text, start)
    field = _field(match[1], start) if match else ""
    begin = match.end() if match else start
    value, quoted, end = _value(text, begin)
    if not value and not quoted:
        what = f"{match[1]}:" if match else "!"
        raise Fault(begin + 1, f"a value belongs after {what}")
    column = begin + 1
    if field in _CHOICES:
        choices = frozenset(_choice(field, one, column) for one in value.split("|"))
        return Term(field, Pattern(("",)), negated, choices), end
    ms = 0.0
    if field in _TIMES:
        ms = _time(value, column)
    elif field in _SPANS:
        ms = _length(value, column)
    elif field == "id" and not _NUMBER.fullmatch(value):
        raise Fault(column, f'"{value}" is no id: ids are numbers')
    if quoted:
        return Term(field, Pattern((value,), exact=True), negated, ms=ms), end
    whole = field in ("event", "id")
    return Term(field, Pattern(tuple(value.lower().split("*")), whole=whole), negated, ms=ms), end


def _field(name: str, at: int) -> str:
    low = name.lower()
    if low in FIELDS or low in _NAMES:
        return low
    if low.startswith(_CONTEXT) and len(low) > len(_CONTEXT):
        return low
    if name in NAMES:
        return NAMES[name][1].lower()
    raise Fault(
        at + 1,
        f'there is no field "{name}"; to look for a text with a colon put it in quotes',
    )


def _value(text: str, at: int) -> tuple[str, bool, int]:
    """The value, whether it was quoted, and where it ends."""
    if text[at : at + 1] == '"':
        return _quoted(text, at)
    end = at
    while end < len(text) and not text[end].isspace():
        end += 1
    return text[at:end], False, end


def _quoted(text: str, at: int) -> tuple[str, bool, int]:
    """Between quotes everything stands for itself; a backslash goes before a quote or another."""
    found: list[str] = []
    end = at + 1
    while end < len(text) and text[end] != '"':
        if text[end] == "\\" and text[end + 1 : end + 2] in ("\\", '"'):
            end += 1
        found.append(text[end])
        end += 1
    if end >= len(text):
        raise Fault(at + 1, "this quote is not closed")
    end += 1
    if end < len(text) and not text[end].isspace():
        raise Fault(end + 1, "a space belongs after a closing quote")
    return "".join(found), True, end


def _choice(field: str, value: str, column: int) -> str:
    low = value.lower()
    if low not in _CHOICES[field]:
        known = ", ".join(one.upper() if field == "rule" else one for one in _CHOICES[field])
        raise Fault(column, f'{field}: is one of {known}; not "{value}"')
    return low


def _time(value: str, column: int) -> float:
    if _NUMBER.fullmatch(value) and len(value) == 13:
        return float(value)
    text = f"{value}T00:00" if _DATE.fullmatch(value) else value
    found = unix_ms(text)
    if found is not None and found[0] != found[1]:
        found = unix_ms(f"{text}Z")
    if found is None:
        raise Fault(column, f'"{value}" is no time; write 2026-02-02, 2026-02-02T10:30 or with Z')
    return found[0]


def _length(value: str, column: int) -> float:
    match = _SPAN.fullmatch(value)
    if match is None:
        raise Fault(column, f'"{value}" is no length of time; write 30s, 10m, 2h, 7d or 4w')
    return float(match[1]) * _SPAN_MS[match[2]]


# -- matching --------------------------------------------------------------------------------


def matches(query: Query, view: View) -> bool:
    """Whether the hit is one that is looked for."""
    return all(_holds(term, view) != term.negated for term in query.terms)


def needs_decoding(query: Query) -> bool:
    """Whether a term asks for what is said in the hit."""
    return any(term.field not in _KNOWN_WITHOUT for term in query.terms)


def needs_findings(query: Query) -> bool:
    """Whether a term asks for what is wrong with the hit."""
    return any(
        term.field in ("rule", "severity")
        or (term.field == "has" and not term.choices.isdisjoint(("finding", "note")))
        for term in query.terms
    )


def _holds(term: Term, view: View) -> bool:
    field = term.field
    if field in _CHOICES:
        return any(_is(field, choice, view) for choice in term.choices)
    match field:
        case "after":
            return view.received_ms >= term.ms
        case "before":
            return view.received_ms < term.ms
        case "newer":
            return view.received_ms >= view.now_ms - term.ms
        case "older":
            return view.received_ms < view.now_ms - term.ms
        case "id":
            return term.pattern.matches(str(view.id))
        case "reason":
            return term.pattern.matches(view.reason)
    if view.decoded is None:
        return False
    return any(term.pattern.matches(value) for value in _values(field, view.decoded))


def _is(field: str, choice: str, view: View) -> bool:
    match field:
        case "state":
            return view.state == choice
        case "is":
            return _is_so(choice, view)
        case "rule":
            return any(one.rule.lower() == choice for one in view.findings)
        case "severity":
            return any(one.severity == choice for one in view.findings)
    decoded = view.decoded
    if decoded is None:
        return False
    if field == "type":
        return decoded.kind == choice
    if field == "ts":
        return {"late": view.is_late, "sent": decoded.ts is not None, "none": decoded.ts is None}[
            choice
        ]
    return _has(choice, view, decoded)


def _is_so(choice: str, view: View) -> bool:
    match choice:
        case "waiting":
            return view.state in _STILL_HERE
        case "late":
            return view.is_late
        case "ambiguous":
            return view.ambiguous
    return view.state == choice


def _has(what: str, view: View, decoded: Decoded) -> bool:
    match what:
        case "finding":
            # A note is worth knowing, and on many hits: asked for by its own name.
            return any(one.severity is not Severity.NOTE for one in view.findings)
        case "note":
            return any(one.severity is Severity.NOTE for one in view.findings)
        case "products":
            return bool(decoded.products)
        case "events":
            return bool(decoded.events)
        case "ts":
            return decoded.ts is not None
        case "reason":
            return bool(view.reason)
    return any(group.id == what for group in decoded.groups)


def _values(field: str, decoded: Decoded) -> Iterator[str]:
    """The values that a field of the language means."""
    if not field:
        yield from _all_values(decoded)
    elif field.startswith(_CONTEXT):
        name = field[len(_CONTEXT) :]
        for group in decoded.groups:
            if group.id in ("context", "activity", "media"):
                yield from (one.value for one in group.fields if one.name.lower() == name)
    elif field in _IDS:
        yield from (one.value for one in decoded.identities if one.kind == field)
    elif field in _TEXTS:
        yield from _TEXT_VALUES[field](decoded)
    else:
        names = _NAMES[field]
        found = [one.value for group in decoded.groups for one in group.fields if one.name in names]
        # Adobe takes the URL for a page that has no name.
        if not found and field == "page":
            yield from _values("url", decoded)
        yield from found


def _all_values(decoded: Decoded) -> Iterator[str]:
    for group in decoded.groups:
        # Without a key it is a remark of ours.
        yield from (one.value for one in group.fields if one.key)
    yield from (one.value for one in decoded.identities)
    yield from decoded.suites
    # What a quoted text must be the whole of.
    yield from (one.name for one in decoded.events)
    yield from (one.name for one in decoded.products)


def _of_products(decoded: Decoded) -> Iterator[str]:
    for product in decoded.products:
        yield product.name
        yield product.category


_TEXT_VALUES: Final[dict[str, Callable[[Decoded], Iterator[str]]]] = {
    "suite": lambda decoded: iter(decoded.suites),
    "event": lambda decoded: (one.name for one in decoded.events),
    "product": _of_products,
    "visitor": lambda decoded: (one.value for one in decoded.identities),
    "version": lambda decoded: iter((decoded.version,)),
}


# -- narrowing -------------------------------------------------------------------------------


def plan(query: Query, now_ms: float) -> Plan:
    """What can be asked of the queue before any hit is read."""
    states: frozenset[str] | None = None
    from_ms: list[float] = []
    to_ms: list[float] = []
    literals: dict[bytes, None] = {}
    ids = [int(t.pattern.pieces[0]) for t in query.terms if t.field == "id" and not t.negated]
    for term in query.terms:
        asked = _states(term)
        if asked is not None:
            states = asked if states is None else states & asked
        if term.field in _TIMES or term.field in _SPANS:
            at = term.ms if term.field in _TIMES else now_ms - term.ms
            # "not after" is "before", and the other way round.
            is_from = (term.field in ("after", "newer")) != term.negated
            (from_ms if is_from else to_ms).append(at)
        elif not term.negated and term.field not in _NOT_IN_BYTES:
            for piece in term.pattern.pieces:
                found = _LITERAL.findall(piece.lower())
                literals |= dict.fromkeys(literal.encode() for literal in found)
    first, last = max(from_ms, default=None), min(to_ms, default=None)
    return Plan(states, first, last, tuple(literals), min(ids, default=None))


def _states(term: Term) -> frozenset[str] | None:
    """The states in which the term can hold; None when it says nothing of states."""
    if term.field == "state":
        asked = term.choices
    elif term.field == "is" and term.choices <= set(STATES):
        asked = term.choices | (_STILL_HERE if "waiting" in term.choices else frozenset())
    else:
        return None
    return frozenset(STATES) - asked if term.negated else asked


def may_match(plan: Plan, content: bytes) -> bool:
    """Whether the bytes of a hit can hold what is looked for; no is certain, yes is not."""
    low = content.lower()
    missing = [literal for literal in plan.literals if literal not in low]
    if not missing or any(mark in content for mark in _APART):
        return True
    # An identity cookie has the ECID in base64.
    if _COOKIE in content and all(literal.isdigit() for literal in missing):
        return True
    return _ESCAPED.search(content) is not None
