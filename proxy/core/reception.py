"""What is to be done with a request on the beacon port: one decision, no I/O.

Rule: the answer a stored hit will get is worked out before it is stored, so that nothing
can go wrong between the commit and the 200; whatever is not stored is counted by reason.
Non-rule: stores nothing, answers nothing, reads no clock.
Source: the table of answers in `answer`; docs/design/0002.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import loads
from math import inf
from typing import NamedTuple, Protocol

from proxy.core import answer, beacon, headers, insertion, stamp, wire
from proxy.core.answer import Answer
from proxy.core.hit import Headers, Reply, Request, Suites
from proxy.errors import NotABeacon

# The order key needs a name for where hits go; the address of the collection server may
# change while they wait, so it is not part of it.
UPSTREAM = b"analytics"

# The mobile SDK comes again after 30 s whatever we say; a person needs about as long.
RETRY_AFTER_S = 30
# VisitorAPI waits 30 s for `/id`, and the page with it; without an answer it goes on alone.
IDENTITY_S = 2.0


class Relay(Protocol):
    """What a client is told of a reply of the collection server's; None: nothing of it."""

    def __call__(self, reply: Reply) -> Answer | None: ...


class Row(NamedTuple):
    """One row for the queue."""

    lane: int
    suites: tuple[str, ...]


class Head(NamedTuple):
    """What the headers of a request say, worked out once for all that come with the same ones.

    `kept` are those to store, `lines` the same as a stored message has them; `of_a_copy` is what
    of them a resent copy would have, too.  `is_apart`: an address that means something here alone.
    `otherwise` is what a hit gets that could not be stored.
    """

    kept: Headers
    lines: bytes
    told: beacon.Told
    of_a_copy: bytes
    is_apart: bool
    origin: bytes | None
    otherwise: Answer


def head(headers_: Headers, peer: str) -> Head:
    """Of a request from the address `peer`."""
    kept, origin = headers.kept(headers_, peer), headers.first(headers_, b"origin")
    return Head(
        kept,
        wire.lines(kept),
        beacon.told(headers_, peer),
        beacon.of_a_copy(kept),
        headers.is_private(peer),
        origin,
        answer.unstored(RETRY_AFTER_S, origin=origin),
    )


class Take(NamedTuple):
    """Store `rows` with `content`, then give `answer`; `otherwise` when that fails.

    `copy` is what a resent copy of this hit would have in common with it, if that can be told;
    `suites` are those of the whole request, or what else it is addressed to.
    With a `relay` the client wants the reply of the collection server itself: it gets that
    instead of `answer` where the hit can be sent at once.
    """

    rows: tuple[Row, ...]
    content: bytes
    answer: Answer
    otherwise: Answer
    copy: bytes | None
    suites: tuple[str, ...] = ()
    relay: Relay | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Give `answer`, store nothing, count `tally`."""

    tally: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Pass:
    """Pass `request` through while online and give what `relay` makes of the reply.

    Without a reply within so many seconds, or one to be relayed, `otherwise`; never stored.
    """

    request: Request
    relay: Relay
    otherwise: Answer
    within_s: float = inf


@dataclass(frozen=True, slots=True)
class Identified:
    """The identity service's JSON for a page of this origin, if that is what came back."""

    origin: bytes | None

    def __call__(self, reply: Reply) -> Answer | None:
        try:
            found = loads(reply.body)
        except (ValueError, RecursionError):
            return None
        is_adobes = reply.status == 200 and isinstance(found, dict)
        return answer.identity(self.origin, reply.body) if is_adobes else None


def receive(
    request: Request, peer: str, suites: Suites, known: Head | None = None
) -> Take | Refuse | Pass:
    """What to do with a request whose size and Host were found good.

    `request.target` is origin-form; `peer` is the client's address; `known` is what `head` makes
    of the request's headers and that address, where it was asked before.
    """
    path = request.target.partition(b"?")[0]
    if path != b"/id" and not path.startswith(b"/b/ss/"):
        return _refuse(404, "not here: this port takes /b/ss/... and /id", "not-a-beacon")
    said = head(request.headers, peer) if known is None else known
    if request.method == "OPTIONS":
        return Refuse("", preflight(request, said.origin))
    if request.method not in ("GET", "POST", "HEAD"):
        return _refuse(405, "this method is no beacon's", "method")
    if b"#" in request.target:
        return _refuse(400, "a request target has no fragment", "malformed")
    if path == b"/id":
        # Never an error: VisitorAPI would wait for ever, and the page never track again.
        otherwise = answer.identity(said.origin)
        kept = request._replace(headers=said.kept)
        return Pass(kept, Identified(said.origin), otherwise, IDENTITY_S)
    if request.body and is_encoded(request):
        # Within compressed bytes no `ts` can be put, and Adobe documents none.
        return _refuse(415, "the body must come without Content-Encoding", "encoded")
    return _hit(request, peer, suites, said)


def is_encoded(request: Request) -> bool:
    """Whether the body came compressed."""
    coding = headers.first(request.headers, b"content-encoding")
    return coding is not None and coding.strip().lower() not in (b"", b"identity")


def _hit(request: Request, peer: str, suites: Suites, head_: Head) -> Take | Refuse:
    origin = head_.origin
    try:
        said = beacon.read(request, peer, head_.told)
    except NotABeacon as error:
        return _refuse(error.status, error.reason, "not-a-beacon")
    except insertion.InsertionRefused as error:
        return Refuse("refused.xml", answer.failure_xml(error.reason, origin=origin))
    if suites.refuse_unlisted:
        strangers = [rsid for rsid in said.suites if rsid not in suites.known]
        if strangers:
            return _refuse(403, "a report suite of this hit is not on the list", "unlisted")
    callback = None
    if said.callback is not None and said.kind.endswith("10"):
        callback = answer.callback_of(said.callback)
        if callback is None:
            return _refuse(400, "callback is not the name of a function", "callback")
    rows = [
        Row(beacon.lane(UPSTREAM, part or said.suites, said.visitor), part)
        for part in stamp.rows(said.suites, suites)
    ]
    accepted = answer.accepted(said.kind, method=request.method, origin=origin, callback=callback)
    # Whom an address alone tells apart is told apart by it here, too. A public one is in `kept`;
    # of this machine's own all clients are one. A restart does not know the others any more.
    apart = head_.is_apart and said.visitor.startswith(b"ip:")
    copy = beacon.copy_key(request, peer if apart else "", head_.of_a_copy)
    content = wire.pack(request, head_.lines)
    return Take(tuple(rows), content, accepted, head_.otherwise, copy, said.suites)


def preflight(request: Request, origin: bytes | None) -> Answer:
    """The answer to OPTIONS."""
    asked = {name.lower(): value for name, value in request.headers}
    return answer.preflight(
        origin,
        asked.get(b"access-control-request-method"),
        asked.get(b"access-control-request-headers"),
        b"access-control-request-private-network" in asked,
    )


def _refuse(status: int, reason: str, tally: str) -> Refuse:
    return Refuse(f"refused.{tally}", answer.refused(status, reason))


def stored(content: bytes) -> Request:
    """The request in a row's content, for telling copies of it; an empty one when damaged."""
    try:
        return wire.unpack(content)
    except ValueError:
        return Request("GET", b"/")
