"""The grammar of the Edge Network: from a request to what it asks for, without changing a byte.

Rule: this module alone knows how an Edge request is written: which endpoint it calls, for which
datastream, which events it holds, and who they are of.
Non-rule: decides nothing about time, storage or answers.
Source: Adobe's Edge Network API pages "Interact endpoint", "Collect endpoint", "Downloaded
endpoint", "Location hints" and "Troubleshooting" (the errors' numbers and titles); the Web SDK
2.33 and the Edge mobile SDK themselves for what they send.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from json import JSONDecoder
from typing import Any
from urllib.parse import unquote_to_bytes

from proxy.core import headers
from proxy.core.hit import Request
from proxy.errors import NotABeacon

# "The maximum accepted size for request payloads", Adobe's page "Guardrails".
MOST_BODY = 64 * 1024
CONTENT_TYPES = frozenset({b"application/json", b"text/plain", b"text/javascript"})


class Call(StrEnum):
    """What an endpoint is for."""

    INTERACT = "interact"  # events, and an answer that the page acts on
    COLLECT = "collect"  # events alone
    DOWNLOADED = "downloaded"  # media sessions that are over, each with its own times
    SESSION = "session"  # consent, identity, running media: of this moment, or of no use


CALLS = (
    rb"(?:v[12]/(?P<events>interact|collect)"
    rb"|va/v1/(?P<media>[A-Za-z]{1,40})"
    rb"|v[12]/(?P<session>privacy/set-consent|identity/acquire))"
)
HINT = rb"(?:/[A-Za-z0-9_-]{1,16})?"
IDENTITY_COOKIE = re.compile(r"kndctr_[A-Za-z0-9_]{1,100}_identity")
COOKIE = re.compile(rb"(?:^|;[ \t]*)(kndctr_[^=;\s]+_identity)=([^;]*)")
ECID = re.compile(r"[0-9]{38}")
# What the Web SDK draws for each request; a number somebody counts up would be no proof.
UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
REQUEST_ID = re.compile(rb"[0-9A-Za-z._~-]{1,100}")
DATASTREAM = frozenset({b"configId", b"datastreamId"})


class Problem(NotABeacon):
    """A request that the Edge Network would refuse, by the number of its error."""

    def __init__(self, code: str, title: str, detail: str, tally: str) -> None:
        super().__init__(int(code.rpartition("-")[2]), detail)
        self.code, self.title, self.tally = code, title, tally


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Which endpoint a path calls; `version` as in the path (`v1`)."""

    call: Call
    version: str

    @property
    def has_one_event(self) -> bool:
        return self.call is Call.INTERACT and self.version == "v2"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the query says."""

    datastream: str
    request_id: bytes | None = None
    is_silent: bool = False


@lru_cache(maxsize=8)
def _paths(base_path: str) -> re.Pattern[bytes]:
    return re.compile(b"/" + re.escape(base_path.encode()) + HINT + b"/" + CALLS)


def endpoint(path: bytes, base_path: str) -> Endpoint | None:
    """The endpoint of a path below the base path; None when there is none like it."""
    match = _paths(base_path).fullmatch(path)
    if match is None:
        return None
    version = re.findall(rb"/(v[0-9])/", path)[-1].decode()
    if match["events"]:
        return Endpoint(Call(match["events"].decode()), version)
    is_whole = match["media"] == b"downloaded"
    return Endpoint(Call.DOWNLOADED if is_whole else Call.SESSION, version)


def stored_endpoint(path: bytes) -> Endpoint | None:
    """The endpoint of a stored path, whatever its base path was."""
    segments = path.split(b"/")
    for count in range(1, len(segments)):
        base = b"/".join(segments[1 : count + 1]).decode("ascii", "replace")
        found = endpoint(path, base)
        if found is not None:
            return found
    return None


def asked(query: bytes) -> Asked:
    """The query's part; Problem when it does not name one datastream.

    Of two that differ nobody but Edge knows which counts: one of them would pass any list.
    """
    found: dict[bytes, bytes] = {}
    named: set[bytes] = set()
    for piece in query.split(b"&"):
        raw, _, value = piece.partition(b"=")
        name, text = unquote_to_bytes(raw), unquote_to_bytes(value)
        found.setdefault(name, text)
        if name in DATASTREAM and text:
            named.add(text)
    if not named:
        raise Problem(
            "0002-400",
            "Missing datastream parameter",
            "configId or datastreamId is missing",
            "malformed",
        )
    if len(named) > 1:
        raise Problem(
            "0003-400",
            "Invalid datastream ID",
            "configId and datastreamId name several datastreams",
            "malformed",
        )
    datastream = named.pop()
    request_id = found.get(b"requestId", b"")
    return Asked(
        datastream.decode("utf-8", "replace"),
        request_id if REQUEST_ID.fullmatch(request_id) else None,
        found.get(b"silent", b"").lower() == b"true",
    )


def is_drawn(request_id: bytes | None) -> bool:
    """Whether a request with this id can be recognised when it comes again."""
    return request_id is not None and UUID.fullmatch(request_id) is not None


# -- the body ----------------------------------------------------------------------------------


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


class Written(str):
    """A number as its client wrote it: a view for people rounds none."""

    __slots__ = ()


# Numbers are not looked at; as floats no number is too long to be read.
DECODER = JSONDecoder(parse_int=float, parse_constant=_no_constant)
AS_WRITTEN = JSONDecoder(parse_int=Written, parse_float=Written, parse_constant=_no_constant)


def document(body: bytes, decoder: JSONDecoder = DECODER) -> dict[str, Any]:
    """The body as JSON; Problem when it is none, or no object."""
    try:
        found = decoder.decode(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Problem(
            "0101-400", "Invalid JSON request", "the body is no JSON in UTF-8", "malformed"
        ) from error
    if not isinstance(found, dict):
        raise Problem("0101-400", "Invalid JSON request", "the body is no object", "malformed")
    return found


def events(found: dict[str, Any], where: Endpoint) -> list[dict[str, Any]]:
    """The events of a body; Problem when there are none."""
    field = "event" if where.has_one_event else "events"
    given = found.get(field)
    listed = [given] if where.has_one_event and isinstance(given, dict) else given
    if not isinstance(listed, list) or not listed or not all(isinstance(e, dict) for e in listed):
        raise Problem(
            "0103-400", "Missing required value", f"the {field} field is mandatory", "no-events"
        )
    return listed


# -- who ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whose events they are: the key of their order, and whether Edge knows them by it.

    Without an identity Edge would draw a new one for each request.
    """

    key: bytes
    has_identity: bool


def visitor(found: dict[str, Any], request: Request, peer: str) -> Visitor:
    """Whose events these are, by what stays the same for longest.

    The ECID (of the identity cookie or an identity map), then FPID, then any other identity,
    the primary one first; at last address and agent.  Of a batch of several people's it is the
    first one's order that counts.
    """
    maps = list(_identity_maps(found))
    for value in filter(None, _cookies(found, request)):
        ecid = _ecid_within(value)
        return Visitor(_key("ecid", ecid) if ecid else _key("cookie", value), has_identity=True)
    for namespace in ("ECID", "FPID"):
        for identities in maps:
            for id_ in _ids(identities.get(namespace)):
                return Visitor(_key(namespace.lower(), id_), has_identity=True)
    others = sorted(
        (not _is_primary(identity), namespace, str(identity["id"]))
        for identities in maps[:2]
        for namespace, listed in identities.items()
        for identity in _identities(listed)
    )
    for _, namespace, id_ in others[:1]:
        return Visitor(_key(namespace, id_), has_identity=False)
    address = headers.first(request.headers, b"x-forwarded-for") or peer.encode()
    agent = headers.first(request.headers, b"user-agent") or b""
    return Visitor(b"ip:" + address + b" " + agent, has_identity=False)


def _key(namespace: str, id_: str) -> bytes:
    # An escape in JSON may stand for half a character.
    return f"{namespace}:{id_}".encode("utf-8", "surrogatepass")


def _identity_maps(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every identity map, the request's own first."""
    listed = found.get("events")
    given = [found, found.get("event"), *(listed if isinstance(listed, list) else ())]
    for one in given:
        if isinstance(one, dict):
            for holder in (one.get("xdm"), one):
                if isinstance(holder, dict) and isinstance(holder.get("identityMap"), dict):
                    yield holder["identityMap"]


def _identities(listed: object) -> Iterator[dict[str, Any]]:
    if isinstance(listed, list):
        for identity in listed:
            if isinstance(identity, dict) and isinstance(identity.get("id"), str | float):
                yield identity


def _ids(listed: object) -> Iterator[str]:
    for identity in _identities(listed):
        if identity["id"]:
            yield str(identity["id"])


def _is_primary(identity: dict[str, Any]) -> bool:
    return identity.get("primary") in (True, "true")


def _cookies(found: dict[str, Any], request: Request) -> Iterator[str]:
    """The values of the identity cookie: in the body for a third party, else a header."""
    meta = found.get("meta")
    state = meta.get("state") if isinstance(meta, dict) else None
    entries = state.get("entries") if isinstance(state, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            key, value = entry.get("key"), entry.get("value")
            if isinstance(key, str) and isinstance(value, str) and IDENTITY_COOKIE.fullmatch(key):
                yield value
    cookie = headers.first(request.headers, b"cookie") or b""
    for _, raw in COOKIE.findall(cookie):
        yield raw.decode("latin-1")


def _ecid_within(value: str) -> str | None:
    """The ECID in an identity cookie, which is written anew from time to time with other dates.

    The cookie is a message whose first field is the ECID, 38 digits after a tag and a length.
    """
    text = unquote_to_bytes(value).replace(b"-", b"+").replace(b"_", b"/")
    try:
        message = b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    if message[:2] != b"\x0a\x26":
        return None
    ecid = message[2:40].decode("ascii", "replace")
    return ecid if ECID.fullmatch(ecid) else None
