"""The Edge Network as a protocol: what the Web SDK and the Edge mobile SDK send.

    collect, downloaded      stored, and answered as Edge answers
    interact, of somebody    stored, and answered by Edge itself where it can be asked at once;
      Edge can know again    else with an empty list of what a page could act on
    interact, of nobody      passed through, else 503: Edge would draw a new identity for each
    consent, identity,       passed through, else 503: an old consent is harmful, and a media
      running media          session is over when nothing is heard of it
    with a token of its own  passed through, else 503, unless we have one to send it with later

Rule: what is stored is sent with its own time, byte for byte otherwise, and without a token.
Its lane is below zero, so that each drain knows its own hits.
Non-rule: no clock, no queue; where Edge is, is the road's to know.
Source: Adobe's Edge Network API pages; docs/design/0013.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass

from proxy.core import beacon, headers, reception, wire
from proxy.core.answer import Answer
from proxy.core.edge import answer, read, stamp, verdict
from proxy.core.edge.read import Asked, Call, Endpoint, Problem
from proxy.core.hit import Failure, Hit, Reply, Request
from proxy.core.reception import RETRY_AFTER_S, Head, Pass, Refuse, Row, Take
from proxy.core.stamp import Send
from proxy.core.verdict import Verdict
from proxy.errors import NotABeacon

NAME = "edge"


def lane(datastream: str, visitor: bytes) -> int:
    """The order key: below zero, where those of Analytics are not."""
    return -1 - beacon.lane(b"edge", (datastream,), visitor)


def datastream(target: bytes) -> str:
    """The datastream a request target names; empty when it names none."""
    try:
        return read.asked(target.partition(b"?")[2]).datastream
    except Problem:
        return ""


@dataclass(frozen=True, slots=True)
class Edge:
    """`datastreams` are the only ones taken if `refuse_unlisted`; `has_token`: we can add one."""

    base_path: str = "ee"
    datastreams: frozenset[str] = frozenset()
    refuse_unlisted: bool = False
    has_token: bool = False
    name: str = NAME

    @property
    def known(self) -> Container[str]:
        return self.datastreams

    def named(self, hit: Hit) -> tuple[str, ...]:
        found = datastream(hit.request.target)
        return (found,) if found else ()

    def hears(self, path: bytes) -> bool:
        return path.startswith(b"/" + self.base_path.encode() + b"/")

    def takes(self, lane: int) -> bool:
        return lane < 0

    def receive(
        self,
        request: Request,
        peer: str,
        known: Head | None = None,  # noqa: ARG002 - an event is a POST, whose body says it all
    ) -> Take | Refuse | Pass:
        origin = headers.first(request.headers, b"origin")
        where = read.endpoint(request.target.partition(b"?")[0], self.base_path)
        if where is None or not request.target.isascii():
            return Refuse("refused.edge.not-here", answer.not_here(404, "no endpoint", origin))
        if request.method == "OPTIONS":
            return Refuse("", reception.preflight(request, origin))
        if request.method != "POST":
            return Refuse("refused.edge.method", answer.not_here(405, "POST alone", origin))
        said = None
        try:
            said = read.asked(request.target.partition(b"?")[2])
            return self._received(request, peer, where, said, origin)
        except Problem as error:
            return Refuse(f"refused.edge.{error.tally}", answer.problem(error, origin, said))

    def _received(
        self, request: Request, peer: str, where: Endpoint, said: Asked, origin: bytes | None
    ) -> Take | Pass:
        if self.refuse_unlisted and said.datastream not in self.datastreams:
            raise Problem(
                "0003-400",
                "Invalid datastream ID",
                "this datastream is not on the list",
                "unlisted",
            )
        if len(request.body) > read.MOST_BODY:
            raise _too_large(f"the payload is larger than {read.MOST_BODY} bytes")
        sent = request._replace(headers=headers.kept(request.headers, peer))
        token = headers.first(request.headers, b"authorization")
        if where.call is Call.SESSION:
            return _passed(sent, token, said, origin)
        _check_type(request)
        found = read.document(request.body)
        events = read.events(found, where)
        of = read.visitor(found, request, peer)
        interacts = where.call is Call.INTERACT
        if (interacts and not of.has_identity) or (token is not None and not self.has_token):
            return _passed(sent, token, said, origin)
        if stamp.size(request.body, where, events) > read.MOST_BODY:
            # Edge would refuse it when it is sent, and its client would never know.
            raise _too_large(
                f"with a time in each event the payload is larger than {read.MOST_BODY} bytes"
            )
        return Take(
            (Row(lane(said.datastream, of.key), ()),),
            wire.pack(sent),
            answer.stored(where, said, request, origin),
            answer.unavailable(RETRY_AFTER_S, "the event could not be stored", origin, said),
            _copy_key(request, said),
            (said.datastream,),
            answer.Relayed(origin) if interacts else None,
        )

    def turned_away(self, request: Request, refused: Answer) -> Answer:
        origin = headers.first(request.headers, b"origin")
        if refused.status == 413:
            problem = _too_large(f"the payload is larger than {read.MOST_BODY} bytes")
            return answer.problem(problem, origin)
        reason = refused.body.decode("utf-8", "replace").strip()
        return answer.not_here(refused.status, reason, origin)

    def copy_key(self, request: Request) -> bytes | None:
        try:
            return _copy_key(request, read.asked(request.target.partition(b"?")[2]))
        except Problem:
            return None

    def open(self, hit: Hit) -> Opened:
        path, _, query = hit.request.target.partition(b"?")
        # The configured base path may have changed while it waited; any one is read.
        where = read.stored_endpoint(path)
        if where is None:
            raise NotABeacon(404, "no endpoint of the Edge Network")
        read.events(read.document(hit.request.body), where)
        return Opened(self, hit, where, read.asked(query))


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored event, or a batch of them."""

    protocol: Edge
    hit: Hit
    where: Endpoint
    said: Asked

    @property
    def addressees(self) -> tuple[str, ...]:
        return (self.said.datastream,)

    @property
    def lack(self) -> None:
        return None

    def decide(self, age_s: float) -> Send:  # noqa: ARG002 - no age is too great for Edge
        return Send(stamped=not stamp.is_dated(self.hit.request.body, self.where))

    def render(self, at_ms: int | None) -> Request:
        request = self.hit.request
        if at_ms is None:
            return request
        return request._replace(body=stamp.dated(request.body, self.where, at_ms))

    def judge(self, reply: Reply | Failure, *, followed: bool, wall_now: float) -> Verdict:  # noqa: ARG002
        return verdict.judge(reply, wall_now=wall_now, has_token=self.protocol.has_token)


def _passed(sent: Request, token: bytes | None, said: Asked, origin: bytes | None) -> Pass:
    """With its own token, which is not stored anywhere on this way."""
    if token is not None:
        sent = sent._replace(headers=(*sent.headers, (b"Authorization", token)))
    otherwise = answer.unavailable(
        RETRY_AFTER_S, "the Edge Network cannot be reached, and this cannot wait", origin, said
    )
    return Pass(sent, answer.Relayed(origin), otherwise)


def _too_large(why: str) -> Problem:
    return Problem("0112-413", "Invalid request", why, "too-large")


def _check_type(request: Request) -> None:
    given = headers.first(request.headers, b"content-type") or b""
    kind = given.partition(b";")[0].strip().lower()
    if (kind and kind not in read.CONTENT_TYPES) or reception.is_encoded(request):
        raise Problem(
            "0111-415", "Invalid request", "the content type, or its coding, is not taken", "type"
        )


def _copy_key(request: Request, said: Asked) -> bytes | None:
    if not read.is_drawn(said.request_id):
        return None
    agent = headers.first(request.headers, b"user-agent") or b""
    seen = b"\0".join((agent, request.target, request.body))
    return hashlib.blake2b(seen, digest_size=16).digest()


__all__ = ["NAME", "Edge", "Opened", "datastream", "lane"]
