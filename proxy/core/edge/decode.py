"""What an Edge request says, in the names of Adobe Analytics where it has some.

Rule: a view for people, as `decode` is for beacons: it never raises on what the queue holds.
A field that Adobe maps to a variable has that variable's name; every other one has its path.
Non-rule: forms no opinion, and nothing decoded here is ever sent on.
Source: Adobe's pages "XDM object variable mapping to Adobe Analytics", "Data object variable
mapping to Adobe Analytics" (`data.__adobe.analytics`) and "events overview".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
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
    Product,
)
from proxy.core.edge import read
from proxy.core.hit import Request
from proxy.errors import NotABeacon

LONGEST_NAME = 256
ANALYTICS = "data.__adobe.analytics."
CONTEXT_DATA = f"{ANALYTICS}contextData."
# The short names that the page on the data object has; the long ones are those of beacons.
_SHORT_NAMES = (
    *("bh", "bw", "c", "cc", "ch", "ct", "g", "k", "lat", "lon", "pe", "pev1", "pev2", "s", "v"),
    *("v0", "xact"),
    *(f"v{number}" for number in range(1, 251)),
    *(f"c{number}" for number in range(1, 76)),
    *(f"l{number}" for number in range(1, 4)),
)
_LONG_NAMES = {
    "browserHeight": "bh",
    "browserWidth": "bw",
    "campaign": "v0",
    "channel": "ch",
    "colorDepth": "c",
    "connectionType": "ct",
    "cookiesEnabled": "k",
    "currencyCode": "cc",
    "dynamicVariablePrefix": "D",
    "events": "events",
    "javaEnabled": "v",
    "latitude": "lat",
    "linkName": "pev2",
    "linkType": "pe",
    "linkURL": "pev1",
    "longitude": "lon",
    "pageName": "pageName",
    "pageType": "pageType",
    "pageURL": "g",
    "products": "products",
    "purchaseID": "purchaseID",
    "referrer": "r",
    "resolution": "s",
    "server": "server",
    "tnta": "tnta",
    "transactionID": "xact",
    "zip": "zip",
    **{f"eVar{number}": f"v{number}" for number in range(1, 251)},
    **{f"prop{number}": f"c{number}" for number in range(1, 76)},
    **{f"list{number}": f"l{number}" for number in range(1, 4)},
}
NAMED = {
    "xdm.web.webPageDetails.name": (PAGE, "pageName"),
    "xdm.web.webPageDetails.URL": (PAGE, "pageURL"),
    "xdm.web.webPageDetails.siteSection": (PAGE, "channel"),
    "xdm.web.webPageDetails.server": (PAGE, "server"),
    "xdm.web.webReferrer.URL": (PAGE, "referrer"),
    "xdm.marketing.trackingCode": (PAGE, "campaign"),
    "xdm.commerce.order.purchaseID": (PAGE, "purchaseID"),
    "xdm.commerce.order.currencyCode": (PAGE, "currencyCode"),
    "xdm.commerce.order.payments.0.transactionID": (PAGE, "transactionID"),
    "xdm.placeContext.geo.postalCode": (PAGE, "zip"),
    "xdm.web.webInteraction.type": (LINK, "link type"),
    "xdm.web.webInteraction.URL": (LINK, "linkURL"),
    "xdm.web.webInteraction.name": (LINK, "link name"),
    "xdm.timestamp": (TECHNICAL, "timestamp"),
    "xdm._id": (TECHNICAL, "event ID"),
    "xdm.eventType": (TECHNICAL, "event type"),
    **{f"{ANALYTICS}{key}": beacons.NAMES[key] for key in _SHORT_NAMES},
    **{f"{ANALYTICS}{name}": beacons.NAMES[key] for name, key in _LONG_NAMES.items()},
}
_CUSTOM = re.compile(
    r"xdm\._experience\.analytics\.customDimensions\.(?:eVars|props|hierarchies|lists|listProps)"
    r"\.(eVar|prop|list|hier)([0-9]{1,3})(?:\.|\Z)"
)
_EVENT = re.compile(
    r"xdm\._experience\.analytics\.event[0-9]+to[0-9]+\.(event[0-9]{1,4})\.(value|id)"
)
_COMMERCE = {
    "checkouts": "scCheckout",
    "productListAdds": "scAdd",
    "productListOpens": "scOpen",
    "productListRemovals": "scRemove",
    "productListViews": "scView",
    "productViews": "prodView",
    "purchases": "purchase",
}
_OF_COMMERCE = re.compile(rf"xdm\.commerce\.({'|'.join(_COMMERCE)})\.(value|id)")
_GROUP_OF = {"eVar": EVARS, "prop": PROPS, "list": LISTS, "hier": HIERARCHY}
_LINKS = {"other": Kind.LINK, "exit": Kind.EXIT, "download": Kind.DOWNLOAD}
PAGE_VIEW = "web.webpagedetails.pageViews"
_SHORT = {"o": "other", "e": "exit", "d": "download"}


def decode(request: Request, peer: str = "") -> Decoded:
    """What a request of either protocol says; `peer` is the address it came from."""
    path, _, query = request.target.partition(b"?")
    where = None if beacons.is_beacon(path) else read.stored_endpoint(path)
    if where is None:
        return beacons.decode(request, peer)
    try:
        found = read.document(request.body, read.AS_WRITTEN)
        events = read.events(found, where)
    except NotABeacon:
        found, events = {}, []
    fields: list[tuple[str, Field]] = []
    values: dict[str, str] = {}
    for event in events:
        listed = list(islice(fields_of(event), MOST + 1 - len(fields)))
        # Of both objects that of data counts; of several events the first names the whole.
        by_object = sorted(listed, key=lambda one: one[1].key.startswith(ANALYTICS))
        values = {field.name: field.value for _, field in by_object} | values
        fields += listed
    if len(fields) > MOST:
        fields[MOST] = (OTHER, Field("", "not shown", "more fields"))
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
        products=tuple(_products(values, events)),
        groups=tuple(
            Group(id_, "XDM and data" if id_ == CONTEXT else title, those)
            for id_, title in GROUPS.items()
            if (those := tuple(field for group, field in fields if group == id_))
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


def fields_of(event: dict[str, Any]) -> Iterator[tuple[str, Field]]:
    """All that an event says, each with the group it stands in."""
    for path, value in _leaves(event):
        if path in NAMED:
            group, name = NAMED[path]
            yield group, Field(path, name, value)
        elif custom := _CUSTOM.match(path):
            kind, number = custom[1], custom[2]
            yield _GROUP_OF[kind], Field(path, f"{kind}{number}", value)
        elif path.startswith(CONTEXT_DATA):
            yield CONTEXT, Field(path, path.removeprefix(CONTEXT_DATA), value)
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
    # An escape may stand for half a character, which no page could be sent.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _kind(values: dict[str, str], where: read.Endpoint) -> Kind:
    link = values.get("link type")
    if link is not None:
        link = link.removeprefix("lnk_")
        return _LINKS.get(_SHORT.get(link, link), Kind.LINK)
    if where.call is read.Call.DOWNLOADED:
        return Kind.MEDIA
    is_page = values.get("pageName") or values.get("pageURL")
    return Kind.PAGE if is_page or values.get("event type") == PAGE_VIEW else Kind.OTHER


def _title(kind: Kind, values: dict[str, str]) -> str:
    names: tuple[str, ...] = ("pageName", "pageURL", "event type")
    if kind in _LINKS.values():
        names = ("link name", "linkURL", *names)
    return next((values[name] for name in names if values.get(name)), "")


def _events(values: dict[str, str], fields: list[tuple[str, Field]]) -> Iterator[Event]:
    given = values.get("events")
    if given is not None:
        # It overwrites all events of XDM.
        yield from beacons.events(given)
        return
    found: dict[str, dict[str, str]] = {}
    for _, field in fields:
        if event := _EVENT.fullmatch(field.key):
            found.setdefault(event[1], {})[event[2]] = field.value
        elif event := _OF_COMMERCE.fullmatch(field.key):
            found.setdefault(_COMMERCE[event[1]], {})[event[2]] = field.value
    for name, said in found.items():
        yield Event(name, said.get("value", ""), said.get("id", ""))


def _products(values: dict[str, str], events: list[dict[str, Any]]) -> Iterator[Product]:
    given = values.get("products")
    if given is not None:
        yield from beacons.products(given)
        return
    for event in events:
        xdm = event.get("xdm")
        listed = xdm.get("productListItems") if isinstance(xdm, dict) else None
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item, dict):
                yield _product(item)


def _product(item: dict[str, Any]) -> Product:
    """One of XDM's; its name in Analytics is the SKU where it has one."""
    categories = item.get("productCategories")
    first = categories[0] if isinstance(categories, list) and categories else None
    category = first.get("categoryID") if isinstance(first, dict) else None
    said = (category, item.get("SKU") or item.get("name"), item.get("quantity"))
    texts = [_text(one) if isinstance(one, str) else "" for one in (*said, item.get("priceTotal"))]
    return Product(texts[0], texts[1], texts[2], texts[3], (), (), ";".join(texts))
