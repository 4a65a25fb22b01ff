"""The admin port: what a person asks of the daemon, over HTTP.

Rule: its own listener and its own application; no route of it exists on the beacon port.
Every request passes the same guards: a Host of ours, and what changes something comes from
our own page or from no page; with a token configured, the token.
Non-rule: decides and knows nothing about hits; every answer is the desk's.
Source: RFC 9457 (problem+json), Fetch Metadata; docs/design/0009 for who may ask.
"""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

from aiohttp import web

from proxy.core import guard
from proxy.errors import QueueError

MOST_BODY = 64 * 1024
PAGE = 500
COOKIE = "trackoffline"
OPEN = frozenset({"/healthz", "/readyz", "/api/v1/login"})
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Server": "trackoffline",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Desk(Protocol):
    """What the admin port asks for."""

    async def status(self) -> dict[str, Any]: ...
    def refusing(self) -> str | None: ...
    async def is_alive(self) -> bool: ...
    async def go_offline(self, for_s: float | None = None) -> None: ...
    async def go_online(self) -> None: ...
    def retry(self) -> None: ...
    async def dead_letters(self, after: int, limit: int) -> list[dict[str, Any]]: ...
    async def export(self, after: int, limit: int) -> list[dict[str, Any]]: ...
    def dead(self) -> int: ...
    async def requeue(self, ids: list[int] | None) -> int: ...
    async def discard(self, ids: list[int] | None) -> int: ...


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is no success: `detail` is one line that says what to do."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Admin:
    """The admin listener."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._runner: web.AppRunner | None = None
        self._bound = ""
        self._allowed: tuple[str, ...] = ()
        self._token: str | None = None

    def routes(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/api/v1/status", self._status),
            web.post("/api/v1/login", self._login),
            web.post("/api/v1/forwarding/offline", self._offline),
            web.post("/api/v1/forwarding/online", self._online),
            web.post("/api/v1/forwarding/retry", self._retry),
            web.get("/api/v1/dead", self._dead),
            web.get("/api/v1/dead.ndjson", self._export),
            web.post("/api/v1/dead/requeue", self._requeue),
            web.post("/api/v1/dead/discard", self._discard),
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
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0)
        await self._runner.setup()
        site: web.BaseSite
        if opened is None:
            site = web.TCPSite(self._runner, host, port)
        else:
            site = web.SockSite(self._runner, opened)
        await site.start()
        address: tuple[str, int] = self._runner.addresses[0][:2]
        return address

    async def close(self) -> None:
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
            response = _problem(problem.status, problem.detail)
        except web.HTTPException as found:
            response = _problem(found.status, found.reason)
        except QueueError as error:
            response = _problem(503, str(error))
        if not response.prepared:
            response.headers.update(HEADERS)
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
        if self._token is not None and request.path not in OPEN and not self._is_known(request):
            raise Problem(401, "a token is needed: Authorization: Bearer <admin.token_file>")

    def _is_known(self, request: web.Request) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
        return self._is_token(given)

    def _is_token(self, given: object) -> bool:
        ours = (self._token or "").encode()
        return isinstance(given, str) and hmac.compare_digest(given.encode(), ours)

    # -- routes ----------------------------------------------------------------------------

    async def _healthz(self, _: web.Request) -> web.Response:
        """Live: the event loop and the queue's writer answer, and the drain is not stuck."""
        alive = await self._desk.is_alive()
        return web.json_response({"alive": alive}, status=200 if alive else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready: a hit that came now would be kept.  An offline upstream is still ready."""
        reason = self._desk.refusing()
        return web.json_response(
            {"ready": reason is None, "reason": reason}, status=200 if reason is None else 503
        )

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._desk.status())

    async def _login(self, request: web.Request) -> web.Response:
        asked = await _json(request)
        if self._token is None or not self._is_token(asked.get("token")):
            raise Problem(401, "not the token of admin.token_file")
        response = web.json_response({"ok": True})
        response.set_cookie(
            COOKIE, self._token, httponly=True, samesite="Strict", secure=request.secure, path="/"
        )
        return response

    async def _offline(self, request: web.Request) -> web.Response:
        asked = await _json(request)
        for_s = asked.get("for_seconds")
        if for_s is not None and (
            not isinstance(for_s, int | float) or isinstance(for_s, bool) or for_s <= 0
        ):
            raise Problem(400, "for_seconds must be a number above 0, or left out")
        await self._desk.go_offline(for_s)
        return await self._status(request)

    async def _online(self, request: web.Request) -> web.Response:
        await _json(request)
        await self._desk.go_online()
        return await self._status(request)

    async def _retry(self, request: web.Request) -> web.Response:
        await _json(request)
        self._desk.retry()
        return await self._status(request)

    async def _dead(self, request: web.Request) -> web.Response:
        after, limit = _number(request, "after", 0), _number(request, "limit", 100)
        letters = await self._desk.dead_letters(after, min(limit, PAGE))
        return web.json_response({"letters": letters, "total": self._desk.dead()})

    async def _export(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        after = 0
        while letters := await self._desk.export(after, PAGE):
            after = letters[-1]["id"]
            await response.write("".join(json.dumps(one) + "\n" for one in letters).encode())
        await response.write_eof()
        return response

    async def _requeue(self, request: web.Request) -> web.Response:
        ids = _chosen(await _json(request))
        return web.json_response({"requeued": await self._desk.requeue(ids)})

    async def _discard(self, request: web.Request) -> web.Response:
        asked = await _json(request)
        ids = _chosen(asked)
        if ids is None and asked.get("expect_count") != self._desk.dead():
            raise Problem(
                409, f"expect_count must be the number of dead letters: {self._desk.dead()}"
            )
        return web.json_response({"discarded": await self._desk.discard(ids)})


def _chosen(asked: dict[str, Any]) -> list[int] | None:
    """The ids asked for; None for all of them."""
    ids = asked.get("ids")
    if ids is None and asked.get("all") is True:
        return None
    if not isinstance(ids, list) or not all(isinstance(id_, int) for id_ in ids):
        raise Problem(400, 'say which: {"ids": [1, 2]} or {"all": true}')
    return ids


async def _json(request: web.Request) -> dict[str, Any]:
    """The body as an object; an empty body is an empty one."""
    text = await request.text()
    if not text:
        return {}
    if request.content_type != "application/json":
        raise Problem(415, "the body must be application/json")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Problem(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Problem(400, "the body must be a JSON object")
    return found


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdigit() or len(text) > 18:
        raise Problem(400, f"{name} must be a whole number")
    return int(text)


def _problem(status: int, detail: str) -> web.Response:
    return web.json_response(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        },
        status=status,
        content_type="application/problem+json",
    )
