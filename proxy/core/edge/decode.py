"""What an Edge request says, in the names of Adobe Analytics where it has some.

Rule: a view for people, as `decode` is for beacons: it never raises on what the queue holds.
A field that Adobe maps to a variable has that variable's name; every other one has its path.
Non-rule: forms no opinion, and nothing decoded here is ever sent on.
Source: Adobe's pages "Variable mapping in Adobe Analytics" (XDM) and "Send data to Adobe
Analytics using the Web SDK data object" (`data.__adobe.analytics`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from proxy.core import decode as beacons
from proxy.core.decode import (
    CONTEXT,
    EVARS,
    GROUPS,
    HIERARCHY,
    LINK,
    LISTS,
    MOST,
    OTHER,
    PAGE,
    PROPS,
    TECHNICAL,
    Decoded,
    Event,
    Field,
    Group,
    Identity,
    Kind,
)
from proxy.core.edge import read
from proxy.core.hit import Request
from proxy.errors import NotABeacon

LONGEST_NAME = 256
ANALYTICS = "data.__adobe.analytics."
_NAMED = {
    "xdm.web.webPageDetails.name": (PAGE, "pageName"),
    "xdm.web.webPageDetails.URL": (PAGE, "pageURL"),
    "xdm.web.webPageDetails.siteSection": (PAGE, "channel"),
    "xdm.web.webPageDetails.server": (PAGE, "server"),
    "xdm.web.webReferrer.URL": (PAGE, "referrer"),
    "xdm.marketing.trackingCode": (PAGE, "campaign"),
    "xdm.commerce.order.purchaseID": (PAGE, "purchaseID"),
    "xdm.commerce.order.currencyCode": (PAGE, "currencyCode"),
    "xdm.web.webInteraction.type": (LINK, "link type"),
    "xdm.web.webInteraction.URL": (LINK, "linkURL"),
    "xdm.web.webInteraction.name": (LINK, "link name"),
    "xdm.timestamp": (TECHNICAL, "timestamp"),
    "xdm._id": (TECHNICAL, "event ID"),
    "xdm.eventType": (TECHNICAL, "event type"),
    **{
        f"{ANALYTICS}{key}": (PAGE, name)
        for key, name in {
            "pageName": "pageName",
            "pageURL": "pageURL",
            "channel": "channel",
            "server": "server",
            "referrer": "referrer",
            "campaign": "campaign",
            "events": "events",
            "products": "products",
            "purchaseID": "purchaseID",
            "currencyCode": "currencyCode",
            "pageType": "pageType",
        }.items()
    },
    f"{ANALYTICS}linkType": (LINK, "link type"),
    f"{ANALYTICS}linkURL": (LINK, "linkURL"),
    f"{ANALYTICS}linkName": (LINK, "link name"),
}
_CUSTOM = re.compile(
    r"(?:xdm\._experience\.analytics\.customDimensions\.(?:eVars|props|hierarchies|lists)"
    r"|data\.__adobe\.analytics)\.(eVar|prop|list|hier)([0-9]{1,3})(?:\.|\Z)"
)
_EVENT = re.compile(
    r"xdm\._experience\.analytics\.event[0-9]+to[0-9]+\.(event[0-9]{1,4})\.(value|id)"
)
_GROUP_OF = {"eVar": EVARS, "prop": PROPS, "list": LISTS, "hier": HIERARCHY}
_LINKS = {"other": Kind.LINK, "exit": Kind.EXIT, "download": Kind.DOWNLOAD}
_SHORT = {"o": "other", "e": "exit", "d": "download"}


def decode(request: Request, peer: str = "") -> Decoded:
    """What a request of either protocol says; `peer` is the address it came from."""
    path, _, query = request.target.partition(b"?")
    where = None if beacons.is_beacon(path) else read.stored_endpoint(path)
    if where is None:
        return beacons.decode(request, peer)
    try:
        found = read.document(request.body)
        events = read.events(found, where)
    except NotABeacon:
        found, events = {}, []
    fields = [field for event in events for field in _fields(event)][: MOST + 1]
    if len(fields) > MOST:
        fields[MOST] = (OTHER, Field("", "not shown", "more fields"))
    values: dict[str, str] = {}
    for _, field in fields:
        values.setdefault(field.name, field.value)
    kind = _kind(values, where)
    return Decoded(
        protocol="edge",
        kind=kind,
        title=_title(kind, values) or path.decode("latin-1"),
        suites=_datastream(query),
        version=where.version,
        ts=values.get("timestamp"),
        identities=_identities(found, request, peer),
        events=tuple(_events(values, fields)),
        products=(),
        groups=tuple(
            Group(id_, "XDM and data" if id_ == CONTEXT else title, listed)
            for id_, title in GROUPS.items()
            if (listed := tuple(field for group, field in fields if group == id_))
        ),
    )


def _datastream(query: bytes) -> tuple[str, ...]:
    try:
        return (read.asked(query).datastream,)
    except NotABeacon:
        return ()


def _identities(found: dict[str, Any], request: Request, peer: str) -> tuple[Identity, ...]:
    kind, _, value = read.visitor(found, request, peer).key.partition(b":")
    # The ECID by the name it has in a hit of Analytics, so that one search finds both.
    named = {"ecid": "mid"}.get(kind.decode("utf-8", "replace"), kind.decode("utf-8", "replace"))
    return (Identity(named, value.decode("utf-8", "replace"), used=True),)


def _fields(event: dict[str, Any]) -> Iterator[tuple[str, Field]]:
    for path, value in _leaves(event):
        if path in _NAMED:
            group, name = _NAMED[path]
            yield group, Field(path, name, value)
        elif custom := _CUSTOM.match(path):
            kind, number = custom[1], custom[2]
            yield _GROUP_OF[kind], Field(path, f"{kind}{number}", value)
        elif "identityMap." not in path:
            yield CONTEXT, Field(path, path, value)


def _leaves(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every value that is no object, with its path; in order, and without recursion."""
    waiting: list[tuple[str, Any]] = [("", event)]
    while waiting:
        whole, value = waiting.pop()
        # A long name of many members would be written once for each of them.
        path = whole[:LONGEST_NAME]
        if isinstance(value, dict):
            inner = [(f"{path}.{key}" if path else key, one) for key, one in value.items()]
        elif isinstance(value, list):
            inner = [(f"{path}.{number}", one) for number, one in enumerate(value)]
        else:
            yield _text(path), _text(value)
            continue
        waiting += reversed(inner)


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # An escape may stand for half a character, which no page could be sent.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _kind(values: dict[str, str], where: read.Endpoint) -> Kind:
    link = values.get("link type")
    if link is not None:
        return _LINKS.get(_SHORT.get(link, link), Kind.LINK)
    if where.call is read.Call.DOWNLOADED:
        return Kind.MEDIA
    is_page = values.get("pageName") or values.get("pageURL")
    return Kind.PAGE if is_page else Kind.OTHER


def _title(kind: Kind, values: dict[str, str]) -> str:
    names: tuple[str, ...] = ("pageName", "pageURL", "event type")
    if kind in _LINKS.values():
        names = ("link name", "linkURL", *names)
    return next((values[name] for name in names if values.get(name)), "")


def _events(values: dict[str, str], fields: list[tuple[str, Field]]) -> Iterator[Event]:
    for piece in filter(None, values.get("events", "").split(",")):
        name, _, value = piece.strip().partition("=")
        yield Event(name.partition(":")[0], value, name.partition(":")[2])
    found: dict[str, dict[str, str]] = {}
    for _, field in fields:
        if event := _EVENT.fullmatch(field.key):
            found.setdefault(event[1], {})[event[2]] = field.value
    for name, said in found.items():
        yield Event(name, said.get("value", ""), said.get("id", ""))
