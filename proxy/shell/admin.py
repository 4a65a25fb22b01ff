"""The admin port: what a person asks of the daemon, over HTTP.

Rule: its own listener and its own application; no route of it exists on the beacon port.
Every request passes the same guards: a Host of ours, and what changes something comes from
our own page or from no page; with a token configured, the token.
Non-rule: decides and knows nothing about hits; every answer is the desk's.
Source: RFC 9457 (problem+json), Fetch Metadata; docs/design/0009 for who may ask.
"""

from __future__ import annotations

import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aiohttp import web

from proxy.core import guard
from proxy.core.search import Fault
from proxy.errors import QueueError
from proxy.shell import asked, page
from proxy.shell.api import Api, Desk
from proxy.shell.asked import Problem
from proxy.shell.door import Door

log = logging.getLogger(__name__)

MOST_BODY = 64 * 1024
# Some browsers, some probes, and every stream of events there may be.
MOST_CALLERS = 100
CLOSE_S = 2.0
COOKIE = "trackoffline"
OPEN = frozenset({"/healthz", "/readyz", "/api/v1/login"}) | page.OPEN

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes(Protocol):
    """A group of routes."""

    def routes(self) -> list[web.RouteDef]: ...


class Admin:
    """The admin listener."""

    def __init__(
        self,
        desk: Desk,
        further: Sequence[Routes] = (),
        *,
        body_s: float = asked.BODY_S,
        most_connections: int = MOST_CALLERS,
    ) -> None:
        self._desk = desk
        self._further = further
        self._body_s = body_s
        self._door = Door(most_connections)
        self._runner: web.AppRunner | None = None
        self._bound = ""
        self._allowed: tuple[str, ...] = ()
        self._token: str | None = None

    def routes(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            web.post("/api/v1/login", self._login),
            *Api(self._desk, body_s=self._body_s).routes(),
            *(route for group in self._further for route in group.routes()),
        ]

    async def start(
        self,
        host: str,
        port: int,
        allowed_hosts: tuple[str, ...],
        token: str | None,
        opened: socket.socket | None = None,
    ) -> tuple[str, int]:
        """Listen; the address really bound.  `opened`: a listening socket to use instead."""
        self._bound, self._allowed, self._token = host, allowed_hosts, token
        app = web.Application(middlewares=[self._guarded], client_max_size=MOST_BODY)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=30.0, shutdown_timeout=CLOSE_S
        )
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101 - what `setup` makes
        return self._door.open(self._runner.server, host, port, opened)

    async def close(self) -> None:
        self._door.shut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # -- guards ----------------------------------------------------------------------------

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            response = await handler(request)
        except Problem as problem:
            response = asked.problem(problem.status, problem.detail, **problem.further)
        except Fault as fault:
            response = asked.problem(400, fault.message, column=fault.column)
        except web.HTTPException as found:
            response = asked.problem(found.status, found.reason)
            if "Allow" in found.headers:
                response.headers["Allow"] = found.headers["Allow"]
        except QueueError as error:
            response = asked.problem(503, str(error))
        except Exception:
            # The library's own log is silent, since it may quote what a client sent.
            log.exception("an admin request failed")
            response = asked.problem(500, "a fault of trackoffline, the log has more")
        if not response.prepared:
            for name, value in asked.HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def _check(self, request: web.Request) -> None:
        host = request.headers.get("Host", "")
        if not guard.is_our_host(host, self._bound, self._allowed):
            raise Problem(421, "this name is not ours: admin.allowed_hosts would allow it")
        if not guard.may_change(
            request.method,
            request.headers.get("Sec-Fetch-Site"),
            request.headers.get("Origin"),
            host,
            request.scheme,
        ):
            raise Problem(403, "a page of another site may not change anything here")
        # (A link on any page may lead to our page; what that asks for, only our page asks for.)
        if not _is_open(request) and not guard.may_read(request.headers.get("Sec-Fetch-Site")):
            raise Problem(403, "a page of another site may not ask for this")
        if self._token is not None and not _is_open(request) and not self._is_known(request):
            raise Problem(401, "a token is needed: Authorization: Bearer <admin.token_file>")

    def _is_known(self, request: web.Request) -> bool:
        token = self._token or ""
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _same(bearer.strip(), token)
        return _same(request.cookies.get(COOKIE), _cookie(token))

    async def _login(self, request: web.Request) -> web.Response:
        said = await asked.body(request, "token", within_s=self._body_s)
        if self._token is None:
            raise Problem(409, "no token is asked for: admin.token_file is not set")
        if not _same(said.get("token"), self._token):
            raise Problem(401, "not the token of admin.token_file")
        response = web.json_response({"ok": True})
        response.set_cookie(
            COOKIE,
            _cookie(self._token),
            httponly=True,
            samesite="Strict",
            secure=request.secure,
            path="/",
        )
        return response


def _is_open(request: web.Request) -> bool:
    """Whether it is a route for everybody; one that does not exist is for nobody."""
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in OPEN


def _same(given: object, ours: str) -> bool:
    # Neither the time it takes nor an odd character tells how far one got.
    return isinstance(given, str) and hmac.compare_digest(
        given.encode(errors="backslashreplace"), ours.encode()
    )


def _cookie(token: str) -> str:
    """What a browser keeps in the token's place: cookies go to every port of a host."""
    return hmac.digest(token.encode(), b"trackoffline cookie", "sha256").hex()
