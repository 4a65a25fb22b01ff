"""Claims about the API's document: every route is in it, and real answers are what it says.

The last part asks what nobody would ask: whatever comes, the answer is one that is described.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from daemon import Answer, Process, Served, prepared
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it has no types
from jsonschema.exceptions import best_match  # type: ignore[import-untyped] # likewise
from test_admin import bereaved

from proxy import config
from proxy.core import contract
from proxy.core.contract import OPERATIONS, Operation
from proxy.daemon import Daemon
from proxy.shell import page
from proxy.shell.queue import Queue
from proxy.shell.supervisor import Supervisor

__all__ = ["bereaved"]  # a fixture that lives in `test_admin`

DOCUMENT = contract.document("1")
ENDLESS = "/api/v1/events"
BY_PLACE = {f"{one.method} {one.path}": one for one in OPERATIONS}


def validator(schema: Any) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def described(operation: Operation, answer: Answer) -> None:
    """The answer is one the document describes."""
    found = DOCUMENT["paths"][operation.path][operation.method.lower()]
    known = found["responses"].get(str(answer.status))
    assert known is not None, (operation, answer)
    ((kind, content),) = known["content"].items()
    assert answer.headers["Content-Type"].partition(";")[0] == kind, (operation, answer)
    if kind in (contract.JSON, contract.PROBLEM):
        wrong = best_match(validator(content["schema"]).iter_errors(answer.json()))
        assert wrong is None, (operation, wrong)


VIEWS = {f"GET {view}" for view in page.OPEN}


async def test_every_route_is_described_and_every_described_route_exists(queue: Queue) -> None:
    """But for the page's own files, which are no API."""
    loop = asyncio.get_running_loop()
    daemon = Daemon(config.load(None, {}), queue, Supervisor(), loop, dict)
    app = web.Application()
    app.add_routes(daemon.admin.routes())

    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }

    assert routes - VIEWS == set(BY_PLACE)


def test_the_document_is_made_of_sound_schemas() -> None:
    """Each can be checked against, and what it points to is there."""
    for name, schema in contract.SCHEMAS.items():
        Draft202012Validator.check_schema(schema)
        assert name in DOCUMENT["components"]["schemas"]
    pointed = set()
    for text in json.dumps(DOCUMENT).split('"$ref": "#/components/schemas/')[1:]:
        pointed.add(text.partition('"')[0])
    assert pointed <= contract.SCHEMAS.keys()
    ids = [one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)


async def test_the_document_is_served(served: Served) -> None:
    found = (await served.ask("/api/v1/openapi.json")).json()

    assert found["openapi"] == "3.1.0"
    assert found["paths"].keys() == DOCUMENT["paths"].keys()


@pytest.mark.parametrize(
    "place", [place for place in BY_PLACE if place.startswith("GET ") and ENDLESS not in place]
)
async def test_real_answers_are_what_the_document_says(bereaved: Served, place: str) -> None:
    """With hits that wait, that were delivered and that died."""
    await bereaved.tell("/api/v1/forwarding/offline", {})
    await bereaved.hits(range(5, 7))
    operation = BY_PLACE[place]
    path = operation.path.replace("{id}", "1")

    answer = await bereaved.ask(path)

    assert answer.status == 200
    described(operation, answer)


@pytest.mark.parametrize(
    "path, body",
    [
        ("forwarding/offline", {"for": "2h"}),
        ("forwarding/online", {}),
        ("forwarding/retry", {}),
        ("forwarding/retry", {"q": "page:p1"}),
        ("test-hit", {"suite": "a"}),
        ("hits/requeue", {"q": "suite:gone"}),
        ("hits/discard", {"ids": [1]}),
        ("dead/requeue", {"ids": [2]}),
        ("dead/discard", {"ids": [3]}),
        ("reset", {}),
        ("login", {"token": "x"}),
    ],
)
async def test_real_answers_to_changes_are_what_the_document_says(
    bereaved: Served, path: str, body: object
) -> None:
    described(BY_PLACE[f"POST /api/v1/{path}"], await bereaved.tell(f"/api/v1/{path}", body))


# -- whatever comes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One daemon for all questions, in capture mode, with a few hits."""
    process = prepared(tmp_path_factory.mktemp("asked"))

    async def start() -> None:
        await process.start()
        await process.hits(range(5))

    asyncio.run(start())
    yield process
    asyncio.run(process.kill())


def ask(daemon: Process, operation: Operation, query: dict[str, str], body: bytes | None) -> Answer:
    path = operation.path.replace("{id}", "3")
    if query:
        path += "?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())
    connection = http.client.HTTPConnection(daemon.admin, timeout=15)
    headers = {} if body is None else {"Content-Type": operation.body_kind}
    try:
        connection.request(operation.method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
WORDS = st.sampled_from(
    [
        "",
        "is:dead",
        "page:p*",
        "!rule:W1",
        "x:y",
        '"',
        "after:2026",
        "0",
        "1",
        "-1",
        "9" * 30,
        "24h",
    ]
)
QUERIES = ("q", "cursor", "limit", "unredacted", "window", "count", "after", "nonsense")


@st.composite
def questions(draw: st.DrawFn) -> tuple[Operation, dict[str, str], bytes | None]:
    operation = draw(st.sampled_from([one for one in OPERATIONS if one.path != ENDLESS]))
    query = draw(
        st.dictionaries(st.sampled_from(QUERIES), WORDS | st.text(max_size=20), max_size=3)
    )
    if operation.path.endswith("/wait"):
        query["timeout"] = draw(st.sampled_from(["0", "0.01", "-1", "x", "nan"]))
    body = None
    if operation.method == "POST":
        names = list((operation.body or {}).get("properties", {"target": {}}))
        known = st.dictionaries(st.sampled_from(names or ["x"]), ANY_JSON)
        as_text = (known | ANY_JSON).map(json.dumps).map(str.encode)
        body = draw(st.none() | as_text | st.binary(max_size=20))
    return operation, query, body


@settings(max_examples=300, deadline=None)
@given(asked=questions())
def test_whatever_is_asked_the_answer_is_described(
    daemon: Process, asked: tuple[Operation, dict[str, str], bytes | None]
) -> None:
    """No question is a fault of ours (500), and none ends the daemon."""
    operation, query, body = asked

    answer = ask(daemon, operation, query, body)

    assert answer.status != 500, answer
    described(operation, answer)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
