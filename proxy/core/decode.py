"""What a hit says, in Adobe's names: the page, the events, the visitor that wins.

Rule: a view for people. It never raises on what the queue holds: what cannot be read is shown
as it stands, and what is not known lands in the group `other`.
Non-rule: nothing decoded here is ever sent on (the bytes are), and no opinion is formed
(`findings`).
Source: Adobe's pages "query parameters", "variables", "products", "events overview",
"dynamic variables", "identity overview" and AppMeasurement 2.27 itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.core.hit import Request


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


def decode(request: Request, peer: str = "") -> Decoded:
    """What the request says; `peer` is the address it came from."""
    return Decoded(
        "analytics",
        Kind.OTHER,
        request.target.partition(b"?")[0].decode("ascii", "replace"),
        (),
        "",
        None,
        (Identity("ip", peer, used=True),),
        (),
        (),
        (),
    )
