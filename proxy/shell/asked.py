"""What a request to the admin port asks, and how it is told no.

Rule: what is not understood is refused, never guessed; every refusal is problem+json.
Non-rule: knows no route and nothing of hits.
Source: RFC 9457 (problem+json).
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from aiohttp import web

BODY_S = 10.0
MOST_ID = 2**63 - 1  # what SQLite keeps
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Server": "trackoffline",
}


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is no success: `detail` is one line that says what to do.

    `further` are other members of the answer, as the `column` of a faulty filter.
    """

    def __init__(self, status: int, detail: str, **further: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.further = further


async def body(request: web.Request, *names: str, within_s: float = BODY_S) -> dict[str, Any]:
    """The body as an object with no other names; an empty body is an empty one."""
    try:
        async with asyncio.timeout(within_s):
            said = await request.read()
    except TimeoutError as error:
        raise Problem(408, "the body did not arrive in time") from error
    if not said:
        return {}
    if request.content_type != "application/json":
        raise Problem(415, "the body must be application/json")
    try:
        found = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Problem(400, "the body must be a JSON object")
    strays = sorted(found.keys() - set(names))
    if strays:
        raise Problem(400, f"nothing here is called {strays[0]!r:.80}")
    return found


def number(request: web.Request, name: str, default: int, least: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= least):
        raise Problem(400, f"{name} must be a whole number from {least} on")
    return int(text)


def chosen(asked: dict[str, Any]) -> list[int] | None:
    """The ids asked for; None for all of them."""
    ids = asked.get("ids")
    if "ids" not in asked and asked.get("all") is True:
        return None
    if (
        "all" not in asked
        and isinstance(ids, list)
        and all(is_whole(id_) and 0 <= id_ <= MOST_ID for id_ in ids)
    ):
        return [int(id_) for id_ in ids]
    raise Problem(400, 'say which: {"ids": [1, 2]} or {"all": true}')


def expected(asked: dict[str, Any]) -> int | None:
    """Takes `expect_count` out of what is asked."""
    if "expect_count" not in asked:
        return None
    count = asked.pop("expect_count")
    if not is_whole(count) or count < 0:
        raise Problem(400, "expect_count must be a whole number from 0 on")
    return int(count)


def is_whole(value: object) -> bool:
    """1.0 is one, as JSON Schema has it; true is none."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def problem(status: int, detail: str, **further: object) -> web.Response:
    response = web.json_response(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            **further,
        },
        status=status,
        content_type="application/problem+json",
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="trackoffline"'
    return response
