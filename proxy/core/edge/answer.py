"""What a client of the Edge Network is told: its answers while it cannot be asked, and its errors.

Rule: a stored event gets what Edge gives for it, with nothing in it: the Web SDK takes 204, or
JSON with an array `handle`, for success, and throws at everything else.  Errors are problem
details, with the number and the title of Adobe's own page.
Non-rule: never more than Edge would say: no identity, no content and no consent is made up.
Source: Adobe, "Interact endpoint", "Collect endpoint", "Downloaded endpoint", "Troubleshooting";
RFC 7807; the Fetch standard (CORS).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from json import dumps
from typing import Final

from proxy.core.answer import UNCACHED, Answer, shared_with
from proxy.core.edge import verdict
from proxy.core.edge.read import Asked, Call, Endpoint, Problem
from proxy.core.hit import Header, Headers, Reply, Request
from proxy.core.verdict import LinkDown

ERRORS: Final = "https://ns.adobe.com/aep/errors/EXEG-"
METHODS: Final = b"POST, OPTIONS"
_JSON: Final[Header] = (b"Content-Type", b"application/json;charset=utf-8")
_PROBLEM: Final[Header] = (b"Content-Type", b"application/problem+json")
# What a page may read beside the body; the Web SDK reads the second.
_EXPOSED: Final[Header] = (
    b"Access-Control-Expose-Headers",
    b"Retry-After, X-Adobe-Edge, X-Request-ID",
)
# Of a reply of Edge's, what concerns the client and not the connection.
_RELAYED: Final = frozenset(
    {b"content-type", b"content-encoding", b"retry-after", b"x-adobe-edge", b"x-request-id"}
)
_STATUSES: Final = frozenset(status.value for status in HTTPStatus)


def stored(where: Endpoint, said: Asked, request: Request, origin: bytes | None) -> Answer:
    """The event is on disk."""
    if where.call is Call.COLLECT:
        if where.version == "v1" or said.is_silent:
            return Answer(204, (*UNCACHED, *shared_with(origin)), b"")
        return _json(202, {"requestId": _request_id(said, request)}, origin)
    return _json(200, {"requestId": _request_id(said, request), "handle": []}, origin)


def problem(error: Problem, origin: bytes | None, said: Asked | None = None) -> Answer:
    """What Edge would refuse as well."""
    return _problem(error.status, error.code, error.title, error.reason, origin, said)


def not_here(status: int, reason: str, origin: bytes | None) -> Answer:
    """No endpoint, or not in this way: there is no number for it."""
    more: Headers = ((b"Allow", METHODS),) if status == 405 else ()
    given = _problem(status, None, HTTPStatus(status).phrase, reason, origin)
    return Answer(status, given.headers + more, given.body)


def unavailable(
    retry_after_s: int, reason: str, origin: bytes | None, said: Asked | None = None
) -> Answer:
    """Not now: nothing is stored, and nobody could be asked."""
    given = _problem(503, "0000-503", "Service unavailable", reason, origin, said)
    return Answer(503, (*given.headers, (b"Retry-After", b"%d" % retry_after_s)), given.body)


@dataclass(frozen=True, slots=True)
class Relayed:
    """Edge's own reply for a page of this origin, if it was Edge who spoke."""

    origin: bytes | None

    def __call__(self, reply: Reply) -> Answer | None:
        judged = verdict.judge(reply, wall_now=0.0)
        if isinstance(judged, LinkDown) or reply.status not in _STATUSES:
            return None
        kept = tuple(
            (_titled(name), value)
            for name, value in reply.headers
            if name in _RELAYED or (name == b"set-cookie" and value.startswith(b"kndctr_"))
        )
        # Of these two Edge's own, if it has some, is another page's.
        return Answer(
            reply.status, (*kept, *UNCACHED, _EXPOSED, *shared_with(self.origin)), reply.body
        )


def _titled(name: bytes) -> bytes:
    return b"-".join(part.capitalize() for part in name.split(b"-"))


def _request_id(said: Asked, request: Request) -> str:
    """The client's own and 16 hexadecimal digits, as Edge's are; the same for the same request."""
    seen = b"\0".join((request.target, request.body))
    ours = hashlib.blake2b(seen, digest_size=8).hexdigest()
    return ours if said.request_id is None else f"{said.request_id.decode('ascii')}-{ours}"


def _json(status: int, body: dict[str, object], origin: bytes | None) -> Answer:
    return Answer(status, (_JSON, *UNCACHED, *shared_with(origin)), _dumped(body))


def _problem(
    status: int,
    code: str | None,
    title: str,
    detail: str,
    origin: bytes | None,
    said: Asked | None = None,
) -> Answer:
    report = (
        {}
        if said is None or said.request_id is None
        else {"requestId": said.request_id.decode("ascii")}
    )
    body = {
        "type": "about:blank" if code is None else ERRORS + code,
        "status": status,
        "title": title,
        "detail": detail,
        "report": report,
    }
    return Answer(status, (_PROBLEM, *UNCACHED, _EXPOSED, *shared_with(origin)), _dumped(body))


def _dumped(body: dict[str, object]) -> bytes:
    return dumps(body, separators=(",", ":")).encode()
