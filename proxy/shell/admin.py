"""The admin port: what a person asks of the daemon, over HTTP.

Rule: its own listener and its own application; no route of it exists on the beacon port.
Every request passes the same guards: a Host of ours, and what changes something comes from
our own page or from no page; with a token configured, the token.  What the desk is handed
was checked here: a fault in the daemon's loops would end it.
Non-rule: decides and knows nothing about hits; every answer is the desk's.
Source: RFC 9457 (problem+json), Fetch Metadata; docs/design/0009 for who may ask.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import re
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

from aiohttp import web

from proxy.core import guard
from proxy.errors import QueueError

log = logging.getLogger(__name__)

MOST_BODY = 64 * 1024
BODY_S = 10.0
CLOSE_S = 2.0
PAGE = 500
MOST_ID = 2**63 - 1  # what SQLite keeps
MOST_HOLD_S = 10 * 366 * 86_400.0
SPAN = re.compile(r"([0-9]{1,9})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
COOKIE = "trackoffline"
OPEN = frozenset({"/healthz", "/readyz", "/api/v1/login"})
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
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

    def __init__(self, desk: Desk, *, body_s: float = BODY_S) -> None:
        self._desk = desk
        self._body_s = body_s
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
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=30.0, shutdown_timeout=CLOSE_S
        )
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
        except Exception:
            # The library's own log is silent, since it may quote what a client sent.
            log.exception("an admin request failed")
            response = _problem(500, "a fault of trackoffline, the log has more")
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
        token = self._token or ""
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _same(bearer.strip(), token)
        return _same(request.cookies.get(COOKIE), _cookie(token))

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
        asked = await self._json(request, "token")
        if self._token is None:
            raise Problem(409, "no token is asked for: admin.token_file is not set")
        if not _same(asked.get("token"), self._token):
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

    async def _offline(self, request: web.Request) -> web.Response:
        for_s = _length(await self._json(request, "for_seconds", "for"))
        await self._desk.go_offline(for_s)
        return await self._status(request)

    async def _online(self, request: web.Request) -> web.Response:
        await self._json(request)
        await self._desk.go_online()
        return await self._status(request)

    async def _retry(self, request: web.Request) -> web.Response:
        await self._json(request)
        self._desk.retry()
        return await self._status(request)

    async def _dead(self, request: web.Request) -> web.Response:
        after, limit = _number(request, "after", 0, 0), _number(request, "limit", 100, 1)
        letters = await self._desk.dead_letters(after, min(limit, PAGE))
        return web.json_response({"letters": letters, "total": self._desk.dead()})

    async def _export(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        after = 0
        try:
            while letters := await self._desk.export(after, PAGE):
                after = letters[-1]["id"]
                await response.write("".join(json.dumps(one) + "\n" for one in letters).encode())
        except Exception:
            # Half an export must not look like a whole one: it ends without its last chunk.
            log.exception("an export broke off")
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _requeue(self, request: web.Request) -> web.Response:
        ids = _chosen(await self._json(request, "ids", "all"))
        if ids is None:
            ids = await self._dead_now()
        return web.json_response({"requeued": await _in_parts(self._desk.requeue, ids)})

    async def _discard(self, request: web.Request) -> web.Response:
        asked = await self._json(request, "ids", "all", "expect_count")
        ids = _chosen(asked)
        if ids is None:
            ids = await self._dead_now()
            if not _is_whole(asked.get("expect_count")) or asked["expect_count"] != len(ids):
                raise Problem(409, f"expect_count must be the number of dead letters: {len(ids)}")
        return web.json_response({"discarded": await _in_parts(self._desk.discard, ids)})

    async def _dead_now(self) -> list[int]:
        """The dead letters there are; what dies from now on was not meant by "all"."""
        ids: list[int] = []
        while letters := await self._desk.dead_letters(ids[-1] if ids else 0, PAGE):
            ids += [letter["id"] for letter in letters]
        return ids

    # -- what was asked ----------------------------------------------------------------------

    async def _json(self, request: web.Request, *names: str) -> dict[str, Any]:
        """The body as an object with no other names; an empty body is an empty one."""
        try:
            async with asyncio.timeout(self._body_s):
                body = await request.read()
        except TimeoutError as error:
            raise Problem(408, "the body did not arrive in time") from error
        if not body:
            return {}
        if request.content_type != "application/json":
            raise Problem(415, "the body must be application/json")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Problem(400, f"the body is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise Problem(400, "the body must be a JSON object")
        strays = sorted(found.keys() - set(names))
        if strays:
            raise Problem(400, f"nothing here is called {strays[0]!r:.80}")
        return found


def _same(given: object, ours: str) -> bool:
    # Neither the time it takes nor an odd character tells how far one got.
    return isinstance(given, str) and hmac.compare_digest(
        given.encode(errors="backslashreplace"), ours.encode()
    )


def _cookie(token: str) -> str:
    """What a browser keeps in the token's place: cookies go to every port of a host."""
    return hmac.digest(token.encode(), b"trackoffline cookie", "sha256").hex()


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _length(asked: dict[str, Any]) -> float | None:
    """How long to hold, in seconds; None for until told otherwise."""
    if len(asked) > 1:
        raise Problem(400, "say for_seconds or for, not both")
    if not asked:
        return None
    if "for" in asked:
        found = SPAN.fullmatch(asked["for"]) if isinstance(asked["for"], str) else None
        if found is None:
            raise Problem(400, 'for must be a length such as "30m", "2h" or "7d"')
        for_s: object = int(found[1]) * SECONDS[found[2]]
    else:
        for_s = asked["for_seconds"]
    if isinstance(for_s, bool) or not isinstance(for_s, int | float):
        raise Problem(400, "for_seconds must be a number")
    if not math.isfinite(for_s) or not 0 < for_s <= MOST_HOLD_S:
        raise Problem(400, "a hold is longer than nothing and shorter than ten years")
    return for_s


async def _in_parts(do: Callable[[list[int] | None], Awaitable[int]], ids: list[int]) -> int:
    """No transaction so long that a hit would wait for it."""
    return sum([await do(ids[at : at + PAGE]) for at in range(0, len(ids), PAGE)])


def _chosen(asked: dict[str, Any]) -> list[int] | None:
    """The ids asked for; None for all of them."""
    ids, all_ = asked.get("ids"), asked.get("all")
    if ids is None and all_ is True:
        return None
    if (
        all_ is None
        and isinstance(ids, list)
        and all(_is_whole(id_) and 0 <= id_ <= MOST_ID for id_ in ids)
    ):
        return ids
    raise Problem(400, 'say which: {"ids": [1, 2]} or {"all": true}')


def _number(request: web.Request, name: str, default: int, least: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= least):
        raise Problem(400, f"{name} must be a whole number from {least} on")
    return int(text)


def _problem(status: int, detail: str) -> web.Response:
    response = web.json_response(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        },
        status=status,
        content_type="application/problem+json",
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="trackoffline"'
    return response
