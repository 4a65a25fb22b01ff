"""The beacon port, byte for byte: what it takes, what it refuses, and what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Protocol

import pytest
from conftest import OpenQueue
from raw import Got, ask, connected, get, post, until

from proxy.core import answer, wire
from proxy.core.analytics import Analytics
from proxy.core.edge import Edge
from proxy.core.hit import Received, Reply, ReportSuite, Request, Suites, Timestamps
from proxy.core.limits import Limits
from proxy.roads import Roads
from proxy.shell.intake import (
    COPY_WINDOW_S,
    MOST_COPIES,
    Copies,
    Intake,
    Listening,
    _Connection,
)
from proxy.shell.queue import Queue

# (more than a page, and not to be compressed)
FILLER = Random(1).randbytes(25_000).hex().encode()
HIT = b"/b/ss/opt/1/JS-2.27.0/s84882983483599?AQB=1&ndh=1&mid=7&pageName=home&AQE=1"
XML = (
    b"<request><visitorID>7</visitorID><reportSuiteID>%s</reportSuiteID>"
    b"<pageName>home</pageName></request>"
)
OPEN = Suites({"opt": ReportSuite(Timestamps.OPTIONAL)})
CLOSED = replace(OPEN, refuse_unlisted=True)
# Kept small, so that what is too large need not be large.
MAX_REQUEST = 4096


@dataclass(frozen=True, slots=True)
class Port:
    """A beacon port with its queue."""

    intake: Intake
    queue: Queue
    address: str

    @property
    def stored(self) -> int:
        return self.queue.ledger.accepted

    @property
    def refused(self) -> dict[str, int]:
        """Refusals by reason."""
        return {
            name.removeprefix("refused."): count
            for name, count in self.queue.tallies.items()
            if name.startswith("refused.")
        }

    @property
    def repeated(self) -> int:
        return self.queue.tallies.get("repeated", 0)

    @property
    def taken_up(self) -> int:
        """How many requests were begun to be answered."""
        return self.intake._servers[0].requests_count

    @property
    def connections(self) -> list[_Connection]:
        """The clients that are there."""
        return [
            connection
            for connection in self.intake._servers[0].connections
            if isinstance(connection, _Connection)
        ]

    async def requests(self) -> list[Request]:
        """What the queue holds, oldest first."""
        return list(reversed(await self.queue.newest(1000, wire.unpack)))


class Listen(Protocol):
    """Opens a beacon port in the test."""

    async def __call__(
        self,
        suites: Suites = ...,
        where: Listening = ...,
        queue: Queue | None = ...,
        roads: Roads = ...,
        received: Callable[[], Received] | None = ...,
        most_connections: int = ...,
        edge: bool = ...,
    ) -> Port: ...


LOCAL = Listening("127.0.0.1", 0)
NOWHERE = Roads()


class Asked(Roads):
    """A collection server that gives one reply to all that is passed through."""

    def __init__(self, given: Reply) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self._given = given

    async def ask(self, protocol: str, request: Request, within_s: float) -> Reply | None:
        assert (protocol, within_s) == ("analytics", 2.0)
        self.requests.append(request)
        return self._given


@pytest.fixture
async def listen(open_queue: OpenQueue) -> AsyncIterator[Listen]:
    async with contextlib.AsyncExitStack() as opened:

        async def listen_(
            suites: Suites = OPEN,
            where: Listening = LOCAL,
            queue: Queue | None = None,
            roads: Roads = NOWHERE,
            received: Callable[[], Received] | None = None,
            most_connections: int = 100,
            edge: bool = False,
        ) -> Port:
            store = queue or await open_queue()
            intake = Intake(
                store,
                [*([Edge()] if edge else []), Analytics(suites)],
                received or (lambda: Received(store.boots.current, store.clock.ms())),
                roads,
                most_connections,
            )
            opened.push_async_callback(intake.close, 0)
            host, port = await intake.start(where)
            return Port(intake, store, f"{host}:{port}")

        yield listen_


@pytest.fixture
async def port(listen: Listen) -> Port:
    return await listen()


@pytest.fixture
async def small(listen: Listen) -> Port:
    """A port with a small `max_request`."""
    return await listen(where=replace(LOCAL, max_request=MAX_REQUEST, linger_s=0.2))


@contextlib.contextmanager
def busy_disk(queue: Queue) -> Iterator[None]:
    """No commit gets through meanwhile: another program has the file's write lock."""
    with contextlib.closing(sqlite3.connect(queue.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def contents(folder: Path) -> dict[str, bytes]:
    """The files, and what the rows of the queue say."""
    with contextlib.closing(sqlite3.connect(folder / "hits.db")) as db:
        rows = db.execute("SELECT content FROM hits").fetchall()
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return files | {"rows": b"".join(wire.plain(content) for (content,) in rows)}


async def refuses(port: Port, data: bytes, status: int, reason: str) -> Got:
    """It answers so, in plain text, counts it under that reason and stores nothing."""
    before = port.refused
    got = await ask(port.address, data)
    assert (got.status, port.stored) == (status, 0), data[:200]
    assert got[b"content-type"] == b"text/plain; charset=utf-8"
    assert port.refused == before | {reason: before.get(reason, 0) + 1}
    return got


# -- a hit is taken ------------------------------------------------------------------------


async def test_an_image_request_gets_these_bytes_and_is_stored_as_it_came(port: Port) -> None:
    """The answer is exact to the byte, but for its date; no cookie, no ETag."""
    async with connected(port.address) as raw:
        raw.say(get(HIT, b"User-Agent: UA1", b"accept-LANGUAGE: de", b"Connection: close"))
        got = await raw.rest()
    date = rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
    assert re.sub(date, b"Date: now\r\n", got) == (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: image/gif\r\n"
        b"Cache-Control: no-cache, no-store, max-age=0, no-transform, private\r\n"
        b"Pragma: no-cache\r\n"
        b"Expires: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        b"X-Content-Type-Options: nosniff\r\n"
        b"Cross-Origin-Resource-Policy: cross-origin\r\n"
        b"Access-Control-Allow-Origin: *\r\n"
        b"Server: trackoffline\r\n"
        b"Content-Length: 43\r\n"
        b"Date: now\r\n"
        b"Connection: close\r\n"
        b"\r\n" + answer.GIF
    )
    assert await port.requests() == [
        Request("GET", HIT, ((b"User-Agent", b"UA1"), (b"accept-LANGUAGE", b"de")))
    ]


TYPES: tuple[tuple[bytes, bytes, bytes], ...] = (
    (get(b"/b/ss/opt/1"), b"image/gif", answer.GIF),
    (get(b"/b/ss/opt/5/v/x?a=b"), b"image/gif", answer.GIF),
    (get(b"/b/ss/opt/5.1/v/x?a=b"), b"image/gif", answer.GIF),
    (get(b"/b/ss/opt/5.5/v/x?a=b"), b"image/vnd.wap.wbmp", answer.WBMP),
    (get(b"/b/ss/opt/0/v/x?a=b"), b"image/gif", answer.GIF),
    (post(b"/b/ss/opt/0/v/s1234", b"a=b"), b"text/plain; charset=utf-8", b""),
    (post(b"/b/ss/opt/1/v/s1234", b"a=b"), b"image/gif", answer.GIF),
    (post(b"/b/ss/opt/1/v/x?a=b"), b"image/gif", answer.GIF),
    (get(b"/b/ss/opt/10/v/s1?callback=s[0].f"), b"application/javascript", b"s[0].f({})"),
    (get(b"/b/ss/opt/5.10/v/s1?callback=f"), b"application/javascript", b"f({})"),
    (get(b"/b/ss/opt/10/v/s1?a=b"), b"application/json", b"{}"),
    (post(b"/b/ss/opt/10/v/s1", b"a=b"), b"application/json", b"{}"),
    (
        post(b"/b/ss//6", XML % b"opt"),
        b"text/xml",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<status>SUCCESS</status>',
    ),
)


async def test_each_response_type_gets_its_answer(port: Port) -> None:
    """Exactly 200, and the type and body that the client of that type can digest."""
    for data, kind, body in TYPES:
        before = port.stored
        got = await ask(port.address, data)
        assert (got.status, got[b"content-type"], got.body) == (200, kind, body), data
        assert b"set-cookie" not in got
        assert b"date" in got
        assert port.stored == before + 1


async def test_an_answer_to_head_has_no_body(port: Port) -> None:
    """The next answer on the connection follows at once."""
    async with connected(port.address) as raw:
        raw.say(get(HIT, method=b"HEAD") + get(HIT))
        head, whole = await raw.answer(to_head=True), await raw.answer()
    assert (head.status, head[b"content-length"], head.body) == (200, b"43", b"")
    assert whole.body == answer.GIF
    assert [request.method for request in await port.requests()] == ["HEAD", "GET"]


async def test_a_page_may_read_the_answer_to_its_xhr(port: Port) -> None:
    """The origin is echoed and credentials are allowed, for 200 and for 503."""
    got = await ask(port.address, post(HIT, b"", b"Origin: https://shop.example"))
    assert got[b"access-control-allow-origin"] == b"https://shop.example"
    assert got[b"access-control-allow-credentials"] == b"true"
    assert got[b"vary"] == b"Origin"


async def test_a_preflight_is_answered_and_not_counted(port: Port) -> None:
    """204 without a body or a type."""
    got = await ask(
        port.address,
        get(
            HIT,
            b"Origin: https://shop.example",
            b"Access-Control-Request-Method: POST",
            b"Access-Control-Request-Headers: content-type",
            b"Access-Control-Request-Private-Network: true",
            method=b"OPTIONS",
        ),
    )
    assert (got.status, got.body) == (204, b"")
    assert got[b"access-control-allow-headers"] == b"content-type"
    assert got[b"access-control-allow-private-network"] == b"true"
    assert b"content-type" not in got
    assert (port.stored, port.refused) == (0, {})


async def test_the_id_service_gets_an_empty_object_and_nothing_is_stored(port: Port) -> None:
    """200, JSON, readable by the page: with anything else the page would never track again."""
    got = await ask(port.address, get(b"/id?d_fieldgroup=A", b"Origin: https://shop.example"))
    assert (got.status, got[b"content-type"], got.body) == (200, b"application/json", b"{}")
    assert got[b"access-control-allow-origin"] == b"https://shop.example"
    assert (port.stored, port.refused) == (0, {})


async def test_the_id_service_gets_what_the_collection_server_says(listen: Listen) -> None:
    """It is asked with what the client sent, less what is not Adobe's."""
    adobe = Asked(Reply(200, (), b'{"id":"2B2A-4000"}'))
    port = await listen(roads=adobe)
    got = await ask(port.address, get(b"/id?mid=7", b"Cookie: jwt=x; s_vi=y", b"User-Agent: UA1"))
    assert got.body == b'{"id":"2B2A-4000"}'
    headers = ((b"Cookie", b"s_vi=y"), (b"User-Agent", b"UA1"))
    assert adobe.requests == [Request("GET", b"/id?mid=7", headers)]
    assert port.stored == 0


async def test_a_get_of_70_kilobytes_is_taken_whole(port: Port) -> None:
    """AppMeasurement without an ECID never switches to POST."""
    target = HIT + b"&v1=" + b"y" * (70_251 - len(HIT) - 4)
    got = await ask(port.address, get(target))
    assert got.status == 200
    assert [request.target for request in await port.requests()] == [target]


async def test_a_header_of_70_kilobytes_is_taken_whole(port: Port) -> None:
    """Its Referer is as long as the page's address."""
    referer = b"Referer: http://site.example/" + b"y" * 70_000
    assert (await ask(port.address, get(HIT, referer))).status == 200


@pytest.mark.parametrize("pieces", [(b"a=b",), (b"a", b"=", b"b"), (b"a=b&c.&d=e&.c",)])
async def test_a_chunked_body_is_stored_without_its_chunks(
    port: Port, pieces: tuple[bytes, ...]
) -> None:
    """Extensions and trailers are framing too."""
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    data = get(HIT, b"Transfer-Encoding: chunked", method=b"POST") + chunks + b"0\r\nT: 1\r\n\r\n"
    assert (await ask(port.address, data)).status == 200
    assert await port.requests() == [Request("POST", HIT, (), b"".join(pieces))]


async def test_the_body_of_a_get_is_stored(port: Port) -> None:
    """It is a part of what the client said."""
    await ask(port.address, get(HIT, b"Content-Length: 3") + b"v=1")
    assert [request.body for request in await port.requests()] == [b"v=1"]


async def test_expect_100_continue_is_answered_before_the_body_comes(port: Port) -> None:
    """And the Expect header is not stored: Adobe's servers were seen to refuse it."""
    async with connected(port.address) as raw:
        raw.say(get(HIT, b"Expect: 100-continue", b"Content-Length: 3", method=b"POST"))
        assert (await raw.answer()).status == 100
        assert (await raw.ask(b"a=b")).status == 200
    assert await port.requests() == [Request("POST", HIT, (), b"a=b")]


async def test_a_body_that_is_too_large_is_not_asked_for(small: Port) -> None:
    """413 in place of the 100 that the client waits for."""
    length = b"Content-Length: %d" % (MAX_REQUEST + 1)
    data = get(HIT, b"Expect: 100-continue", length, method=b"POST")
    await refuses(small, data, 413, "too-large")


async def test_a_client_of_http_1_0_gets_no_100_and_a_close(port: Port) -> None:
    """It needs no Host either."""
    data = b"POST %s HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    async with connected(port.address) as raw:
        raw.say(data % HIT + b"x")
        got = await raw.answer()
        assert (got.version, got.status, await raw.rest()) == (b"HTTP/1.0", 200, b"")
    assert port.stored == 1


async def test_a_client_of_http_1_0_may_keep_its_connection(port: Port) -> None:
    """When it asks for that."""
    async with connected(port.address) as raw:
        for _ in range(2):
            got = await raw.ask(b"GET /b/ss/opt/1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert got[b"connection"] == b"keep-alive"
    assert port.stored == 2


async def test_pipelined_requests_are_answered_in_their_order(port: Port) -> None:
    """A hundred at once, each answer of another length."""
    async with connected(port.address) as raw:
        raw.say(b"".join(get(b"/b/ss/opt/10/v/s1?callback=f%d" % n) for n in range(100)))
        answers = [(await raw.answer()).body for _ in range(100)]
    assert answers == [b"f%d({})" % n for n in range(100)]
    targets = [request.target for request in await port.requests()]
    assert targets == [b"/b/ss/opt/10/v/s1?callback=f%d" % n for n in range(100)]


async def test_a_body_that_comes_late_keeps_no_later_request_waiting(port: Port) -> None:
    """However many are pipelined behind it."""
    async with connected(port.address) as raw:
        for _ in range(2):
            asked = port.taken_up
            raw.say(get(HIT, b"Content-Length: 3", method=b"POST"))
            await until(lambda: port.taken_up == asked + 1)  # noqa: B023 - called in its turn
            raw.say(b"a=b" + get(HIT) * 80)
            assert [(await raw.answer()).status for _ in range(81)] == [200] * 81


async def test_a_refusal_does_not_end_the_connection(port: Port) -> None:
    """What was no hit is followed by one."""
    async with connected(port.address) as raw:
        assert (await raw.ask(get(b"/favicon.ico"))).status == 404
        assert (await raw.ask(get(HIT))).status == 200


async def test_an_offer_of_http_2_is_passed_over(port: Port) -> None:
    """Java's client makes it on every first request, a body included."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")
    async with connected(port.address) as raw:
        assert (await raw.ask(post(HIT, b"a=b", *offer))).status == 200
        assert (await raw.ask(get(HIT))).status == 200
    assert await port.requests() == [Request("POST", HIT, (), b"a=b"), Request("GET", HIT)]


@pytest.mark.parametrize("offered", [b"h2c", b"websocket"])
async def test_a_request_right_behind_an_offer_to_upgrade_is_answered(
    port: Port, offered: bytes
) -> None:
    """In the same piece of the connection, behind a body or none."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + offered, b"HTTP2-Settings: AA")
    said = b"".join(
        (
            get(HIT + b"&1", *offer),
            get(HIT + b"&2", *offer),
            post(HIT + b"&3", b"Upgrade: a\r\n\r\nb=c", *offer),
            post(HIT + b"&4", b"Upgrade: a\r\n\r\nb=c"),
            get(HIT + b"&5"),
            get(HIT + b"&6", *offer, b"Transfer-Encoding: chunked", method=b"POST"),
            b"3\r\na=1\r\n3\r\n&b=\r\n0\r\n\r\n",
        )
    )
    async with connected(port.address) as raw:
        raw.say(said)
        assert [(await raw.answer()).status for _ in range(6)] == [200] * 6
    body = b"Upgrade: a\r\n\r\nb=c"
    assert await port.requests() == [
        Request("GET", HIT + b"&1"),
        Request("GET", HIT + b"&2"),
        Request("POST", HIT + b"&3", (), body),
        Request("POST", HIT + b"&4", (), body),
        Request("GET", HIT + b"&5"),
        Request("POST", HIT + b"&6", (), b"a=1&b="),
    ]


async def test_a_request_behind_an_offer_to_upgrade_is_answered_however_both_are_cut(
    port: Port,
) -> None:
    """Within the name of the header, at the end of the head, within the body."""
    offering = post(HIT, b"a=b", b"Connection: Upgrade", b"Upgrade: h2c")
    for cut in range(len(offering) - 42, len(offering)):
        asked = port.taken_up
        async with connected(port.address) as raw:
            raw.say(offering[:cut])
            await until(lambda: bool(port.connections))
            (connection,) = port.connections
            if cut < len(offering) - 3:
                await until(lambda: connection._unread == cut)  # noqa: B023 - called in its turn
            else:
                await until(lambda: port.taken_up == asked + 1)  # noqa: B023
            raw.say(offering[cut:] + get(b"/b/ss/opt/1/v/s%d" % cut))
            assert [(await raw.answer()).status for _ in range(2)] == [200, 200]
        await until(lambda: not port.connections)
    assert (port.stored, port.repeated) == (43, 41)


async def test_an_absolute_target_names_no_host_for_us(port: Port) -> None:
    """It is taken as its path: where hits go is a matter of configuration alone."""
    for target in (b"http://evil.example" + HIT, b"HTTPS://evil.example:99" + HIT):
        got = await ask(port.address, get(target + b"&", host=b"evil.example"))
        assert got.status == 200
    assert {request.target for request in await port.requests()} == {HIT + b"&"}


async def test_odd_characters_of_a_target_are_kept(port: Port) -> None:
    """What no standard allows, and clients send all the same."""
    target = HIT + b"&&v2=%zz&x=<>\"{}|\\^`[]'//..&c.&.c"
    assert (await ask(port.address, get(target))).status == 200
    assert [request.target for request in await port.requests()] == [target]


async def test_bytes_that_are_no_utf8_in_a_header_are_kept(port: Port) -> None:
    """They are bytes to us."""
    await ask(port.address, get(HIT, b"X-Name: caf\xe9 \xc3\xa9"))
    assert (await port.requests())[0].headers == ((b"X-Name", b"caf\xe9 \xc3\xa9"),)


async def test_repeated_headers_are_kept_in_their_order(port: Port) -> None:
    """Nothing joins them."""
    lines = (b"X-A: 1", b"X-B: 2", b"x-a: 3", b"X-Empty: ")
    await ask(port.address, get(HIT, *lines))
    assert (await port.requests())[0].headers == (
        (b"X-A", b"1"),
        (b"X-B", b"2"),
        (b"x-a", b"3"),
        (b"X-Empty", b""),
    )


async def test_a_hit_of_suites_with_different_modes_is_stored_once_for_each(listen: Listen) -> None:
    """One request, one 200, two rows: none may carry the other's timestamp mode."""
    suites = replace(OPEN, known={**OPEN.known, "non": ReportSuite(Timestamps.NOT_ALLOWED)})
    port = await listen(suites)
    assert (await ask(port.address, get(b"/b/ss/opt,non/1/v/s1234?a=b"))).status == 200
    ids = [id_ for id_, _ in await port.queue.page(0)]
    assert [hit.suites for hit in await port.queue.fetch(ids)] == [("opt",), ("non",)]


# -- nothing secret is kept ----------------------------------------------------------------


async def test_what_is_not_adobes_never_reaches_the_disk(port: Port, tmp_path: Path) -> None:
    """Not the cookie of another application on localhost, not in any file of the queue."""
    got = await ask(
        port.address,
        get(
            HIT,
            b"Cookie: sessionid=SECRET; s_vi=[CS]v1|2B2A-4000[CE]; jwt=SECRET",
            b"Authorization: Bearer SECRET",
            b"Proxy-Authorization: Basic SECRET",
            b"Connection: close, X-Token",
            b"X-Token: SECRET",
            b'If-None-Match: "SECRET"',
            b"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
        ),
    )
    assert got.status == 200
    assert [request.headers for request in await port.requests()] == [
        ((b"Cookie", b"s_vi=[CS]v1|2B2A-4000[CE]"),)
    ]
    files = contents(tmp_path)
    assert b"s_vi" in files["rows"]
    assert not [name for name, data in files.items() if b"SECRET" in data]


async def test_no_log_line_holds_what_a_request_said(
    listen: Listen, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with it, at every level, with the event loop's debug mode on."""
    asyncio.get_running_loop().set_debug(True)
    caplog.set_level(logging.DEBUG)

    def bug() -> Received:
        raise RuntimeError("a bug of ours")

    port = await listen(CLOSED, replace(LOCAL, max_request=MAX_REQUEST, body_s=0.05), received=bug)
    wrong = (
        get(b"/SECRET"),
        get(b"/b/ss/SECRET/1?SECRET"),
        get(b"/b/ss/opt/10/v/s1?callback=SECRET()"),
        get(HIT + b"SECRET\0"),
        get(HIT, b"SECRET: \0"),
        get(HIT, b"X: SECRET\rX"),
        get(HIT, host=b"SECRET.example"),
        get(HIT + b"SECRET" * 1000),
        get(HIT, b"X: " + b"SECRET" * 1000),
        get(HIT, method=b"SECRET"),
        get(b"ftp://SECRET"),
        post(HIT, b"SECRET" * 1000),
        post(b"/b/ss//6", b"<SECRET"),
        get(HIT, b"Transfer-Encoding: chunked", method=b"POST") + b"SECRET\r\n",
        get(HIT, b"Content-Length: SECRET"),
        get(HIT, b"Content-Length: 9", method=b"POST") + b"SECRET",
        get(HIT + b"SECRET"),
    )
    statuses = [(await ask(port.address, data)).status for data in wrong]
    assert statuses[-1] == 503
    assert all(status >= 400 or status == 200 for status in statuses)
    out, err = capfd.readouterr()
    assert "a bug of ours" in caplog.text
    assert "SECRET" not in caplog.text + out + err


# -- what is refused -----------------------------------------------------------------------


NO_BEACONS = (
    b"/",
    b"/favicon.ico",
    b"/optout.html",
    b"/api/v1/status",
    b"/b/ss/",
    b"/b/ss/opt",
    b"/b/ss/opt/x/1",
    b"/b/ss/..%2f..%2fetc/passwd/1/",
    b"/b/ss/../1/x",
    b"//evil.example/b/ss/opt/1/x",
    b"/x/b/ss/opt/1/x",
    b"/b/ss/opt/4/REDIR/?url=https%3A%2F%2Fevil.example%2F&pe=lnk_d&pev2=x",
)


async def test_what_is_no_beacon_gets_404(port: Port) -> None:
    """A tracked redirect too: it would make this host one that redirects to anywhere."""
    for target in NO_BEACONS:
        await refuses(port, get(target), 404, "not-a-beacon")


@pytest.mark.parametrize("target", [HIT, b"/id?d_fieldgroup=A"])
async def test_a_method_that_is_no_beacons_gets_405(port: Port, target: bytes) -> None:
    """It says which methods there are; `/id` passes none of them on either."""
    for method in (b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"PROPFIND"):
        got = await refuses(port, get(target, method=method), 405, "method")
        assert got[b"allow"] == b"GET, POST, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "data",
    [
        get(b"/b/ss/competitor/1/v/s1?a=b"),
        get(b"/b/ss/opt,competitor/1/v/s1?a=b"),
        post(b"/b/ss//6", XML % b"opt,competitor"),
    ],
)
async def test_a_suite_that_is_not_listed_gets_403_when_strangers_are_refused(
    listen: Listen, data: bytes
) -> None:
    """One stranger among the suites is enough."""
    await refuses(await listen(CLOSED), data, 403, "unlisted")


async def test_a_listed_suite_is_taken_when_strangers_are_refused(listen: Listen) -> None:
    """The list is a list of what may pass."""
    port = await listen(CLOSED)
    assert (await ask(port.address, get(HIT))).status == 200


@pytest.mark.parametrize("callback", [b"alert(1)//", b"", b"%3Cscript%3E", b"a" * 101])
async def test_a_callback_that_is_no_name_gets_400_and_never_comes_back(
    port: Port, callback: bytes
) -> None:
    """Text of anyone's choice must not become a script of ours."""
    got = await refuses(
        port, get(b"/b/ss/opt/10/v/s1?AQB=1&callback=" + callback + b"&AQE=1"), 400, "callback"
    )
    assert b"alert" not in got.body


async def test_a_compressed_body_gets_415(port: Port) -> None:
    """No `ts` could be put into it."""
    await refuses(port, post(HIT, b"\x1f\x8b", b"Content-Encoding: gzip"), 415, "encoded")
    assert (await ask(port.address, post(HIT, b"a", b"Content-Encoding: identity"))).status == 200


@pytest.mark.parametrize(
    "body", [b"", b"<x/>", b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><request/>"]
)
async def test_an_xml_hit_that_is_none_gets_adobes_failure(port: Port, body: bytes) -> None:
    """200 with FAILURE, as Adobe answers; counted, not stored."""
    got = await ask(port.address, post(b"/b/ss//6", body))
    assert (got.status, got[b"content-type"]) == (200, b"text/xml")
    assert b"<status>FAILURE</status>\n<reason>Syntax Error</reason>" in got.body
    assert (port.stored, port.refused) == (0, {"xml": 1})


@pytest.mark.parametrize("host", [b"evil.example", b"127.0.0.1.evil.example:80", b"192.0.2.1"])
async def test_a_name_that_is_not_ours_gets_421(port: Port, host: bytes) -> None:
    """A page of a stranger's can make its own name point here."""
    await refuses(port, get(HIT, host=host), 421, "host")


@pytest.mark.parametrize("host", [b"localhost", b"LocalHost:8277", b"127.0.0.1:1", b"[::1]:8277"])
async def test_names_of_this_machine_are_ours(port: Port, host: bytes) -> None:
    """Whatever the port."""
    assert (await ask(port.address, get(HIT, host=host))).status == 200


async def test_a_name_can_be_allowed(listen: Listen) -> None:
    """By `listen.allowed_hosts`."""
    port = await listen(where=replace(LOCAL, allowed_hosts=("metrics.site.example",)))
    assert (await ask(port.address, get(HIT, host=b"metrics.site.example"))).status == 200


async def closes(port: Port, data: bytes, status: int, reason: str) -> None:
    """It answers so, counts it, stores nothing and ends the connection."""
    before = port.refused
    async with connected(port.address) as raw:
        got = await raw.ask(data)
        assert (got.status, await raw.rest(), port.stored) == (status, b"", 0), data[:200]
    assert port.refused == before | {reason: before.get(reason, 0) + 1}


@pytest.mark.parametrize(
    "data",
    [
        post(HIT, b"x" * MAX_REQUEST),
        get(HIT, b"Content-Length: 3145728", method=b"POST") + b"x" * 3_145_728,
        get(HIT, b"Transfer-Encoding: chunked", method=b"POST")
        + b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(8)),
    ],
    ids=["a little", "3 MiB", "chunked"],
)
async def test_a_body_that_is_too_large_gets_413_and_a_close(small: Port, data: bytes) -> None:
    """The answer is not lost on a client that is still sending."""
    await closes(small, data, 413, "too-large")


@pytest.mark.parametrize(
    "data",
    [
        get(HIT + b"&v1=" + b"x" * MAX_REQUEST),
        get(HIT + b"&v1=" + b"x" * 1_000_000),
        get(HIT, b"Referer: " + b"x" * MAX_REQUEST),
        get(HIT, *(b"X-%d: " % n + b"x" * 1000 for n in range(5))),
    ],
    ids=["target", "1 MB target", "header", "many headers"],
)
async def test_a_head_that_is_too_large_gets_414_and_a_close(small: Port, data: bytes) -> None:
    """One long line, or many that are long together."""
    await closes(small, data, 414, "too-large")


# As many lines as are allowed, each as long as is allowed.
ENDLESS = b"".join(b"X-%d: %s\r\n" % (n, b"x" * (MAX_REQUEST - 100)) for n in range(190))


async def test_a_head_is_refused_before_it_is_whole(small: Port) -> None:
    """What is kept of one is bounded by `listen.max_request`, not by its lines alone."""
    await closes(small, get(HIT)[:-2] + ENDLESS, 414, "too-large")


async def test_a_head_that_is_too_large_is_answered_in_its_turn(small: Port) -> None:
    """What was asked before it on the connection has its answers first."""
    async with connected(small.address) as raw:
        raw.say(get(HIT) + get(HIT + b"&v1=2") + get(HIT)[:-2])
        raw.say(ENDLESS)
        assert [(await raw.answer()).status for _ in range(3)] == [200, 200, 414]
        assert await raw.rest() == b""
    assert (small.stored, small.refused) == (2, {"too-large": 1})


CHUNKED = get(HIT, b"Transfer-Encoding: chunked", method=b"POST")


@pytest.mark.parametrize(
    "framing",
    [b"3\r\na=1\r\n0\r\n" + ENDLESS, b"3;" + b"x" * 100_000],
    ids=["trailers", "a chunk's extension"],
)
async def test_a_body_with_too_much_around_it_gets_413_and_a_close(
    small: Port, framing: bytes
) -> None:
    """Whatever is in it: neither trailers nor extensions of chunks are for us."""
    async with connected(small.address) as raw:
        raw.say(CHUNKED)
        await until(lambda: small.taken_up == 1)
        got = await raw.ask(framing)
        assert (got.status, await raw.rest()) == (413, b"")
    assert (small.stored, small.refused) == (0, {"too-large": 1})


async def test_the_smallest_chunks_are_no_excess(listen: Listen) -> None:
    """Each byte of a body in a chunk of its own; then another request."""
    port = await listen()
    body = b"1\r\na\r\n" * 200_000 + b"0\r\n\r\n"
    async with connected(port.address) as raw:
        for _ in range(2):
            raw.say(CHUNKED)
            await until(lambda: port.taken_up > port.stored)
            assert (await raw.ask(body)).status == 200
            assert (await raw.ask(get(b"/b/ss/opt/1/v/s1234?v1=" + b"x" * 70_000))).status == 200


async def test_twenty_thousand_pipelined_requests_are_no_large_head(port: Port) -> None:
    """Each is counted by itself, however they are cut into pieces on their way."""
    one = get(b"/none")
    async with connected(port.address) as raw:
        raw.say(one * 20_000)
        for _ in range(20_000):
            assert (await raw.answer()).status == 404


@contextlib.asynccontextmanager
async def deaf(port: Port, data: bytes) -> AsyncIterator[socket.socket]:
    """A client that says this and does not read; small buffers stand between."""
    host, _, number = port.address.rpartition(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(number)))
        await until(lambda: len(port.connections) == 1)
        transport = port.connections[0].transport
        assert transport is not None
        ours = transport.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        saying = asyncio.create_task(loop.sock_sendall(client, data))
        await until(lambda: port.connections[0].writing_paused)
        yield client
        saying.cancel()
        await asyncio.wait([saying])


@pytest.mark.parametrize("method", [b"GET", b"PUT"])
async def test_who_does_not_read_answers_is_asked_for_no_more(port: Port, method: bytes) -> None:
    """On either road: what we hold for a client is bounded; once it reads, it gets each answer."""
    loop, requests = asyncio.get_running_loop(), 3_000
    one = get(b"/none", method=method)
    async with connected(port.address) as raw:
        raw.say(one)
        answer_ = await raw.reader.readuntil(b"\r\n\r\n")
        answer_ += await raw.reader.readuntil(b"\n")
    await until(lambda: not port.connections)
    async with deaf(port, one * requests) as client:
        (connection,) = port.connections
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 128 * 1024
        taken_up = port.taken_up
        for _ in range(500):
            await asyncio.sleep(0)
        assert port.taken_up - taken_up <= 1

        missing = requests * len(answer_)
        while missing:
            async with asyncio.timeout(5.0):
                missing -= len(await loop.sock_recv(client, 1 << 20))
    assert port.taken_up == requests + 1


@pytest.mark.parametrize("method", [b"GET", b"PUT"])
async def test_who_never_reads_answers_is_let_go(listen: Listen, method: bytes) -> None:
    """A close would wait for the answers to be read."""
    port = await listen(where=replace(LOCAL, idle_s=0.2))
    async with deaf(port, get(b"/none", method=method) * 3_000):
        await until(lambda: not port.connections)


LINES = {
    "two framings": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6",
    "a list of lengths": b"Content-Length: 5, 5",
    "a signed length": b"Content-Length: +5",
    "a negative length": b"Content-Length: -5",
    "a length beyond all bounds": b"Content-Length: 99999999999999999999",
    "an unknown coding": b"Transfer-Encoding: xchunked",
    "chunked not last": b"Transfer-Encoding: chunked, identity",
    "a space before the colon": b"X-A : 1",
    "a folded line": b"X-A: 1\r\n 2",
    "no colon": b"X-A",
    "a NUL": b"X-A: 1\x002",
    "a bare CR": b"X-A: 1\r2",
    "a bare LF": b"X-A: 1\nX-B: 2",
    "a control byte": b"X-A: 1\x012",
    "a second Host": b"Host: evil.example",
    "a foreign byte in a name": b"X-\xe9: 1",
}


async def test_malformed_headers_get_400_and_a_close(port: Port) -> None:
    """What two servers could read in two ways is read by none."""
    for lines in LINES.values():
        data = get(HIT, lines, method=b"POST") + b"0\r\n\r\n" + get(HIT)
        await closes(port, data, 400, "malformed")


NO_REQUESTS = (
    get(HIT).replace(b"\r\n", b"\n"),
    get(HIT).replace(b"HTTP/1.1", b"HTTP/2.0"),
    b"GET " + HIT + b"\r\n\r\n",
    b"GET " + HIT + b" HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    get(HIT, method=b"get"),
    get(HIT, method=b"FETCH"),
    get(HIT + b" x"),
    get(HIT + b"\x00"),
    get(HIT + b"\x7f"),
    get(HIT + b"&v1=\xc3\xa9"),
    get(HIT + b"#here"),
    get(b"ftp://site.example" + HIT),
    get(b"http://[::" + HIT),
    get(b"*", method=b"OPTIONS"),
)


async def test_a_malformed_request_line_gets_400_and_a_close(port: Port) -> None:
    """A raw byte beyond ASCII in a target is none of HTTP's either: clients escape it."""
    for count, data in enumerate(NO_REQUESTS, 1):
        async with connected(port.address) as raw:
            raw.say(data)
            got = await raw.rest()
        assert got.split(b" ", 2)[1] == b"400", data
        assert (port.stored, port.refused) == (0, {"malformed": count})


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcX\r\n0\r\n\r\n", b"-3\r\n"]
)
async def test_malformed_chunks_get_400_and_a_close(port: Port, chunks: bytes) -> None:
    """What follows them is no request."""
    head = get(HIT, b"Transfer-Encoding: chunked", method=b"POST")
    await closes(port, head + chunks + get(HIT), 400, "malformed")


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcX\r\n0\r\n\r\n", b"-3\r\n"]
)
async def test_malformed_chunks_that_come_late_end_as_a_body_that_stalls(
    listen: Listen, chunks: bytes
) -> None:
    """The library tells a reader nothing of them; the body's time runs out instead."""
    port = await listen(where=replace(LOCAL, body_s=0.05, linger_s=0.05))
    async with connected(port.address) as raw:
        raw.say(get(HIT, b"Transfer-Encoding: chunked", method=b"POST"))
        await until(lambda: port.taken_up == 1)
        got = await raw.ask(chunks + get(HIT))
        assert (got.status, await raw.rest()) == (408, b"")
    assert (port.stored, port.refused) == (0, {"timeout": 1})


# -- clients that are slow, or leave -------------------------------------------------------


@pytest.mark.parametrize("before", [b"", get(HIT)])
async def test_a_head_that_never_ends_is_closed_and_nothing_stored(
    listen: Listen, before: bytes
) -> None:
    """However diligently it drips, on a new connection or after a hit."""
    port = await listen(where=replace(LOCAL, idle_s=0.2))
    async with connected(port.address) as raw:
        if before:
            await raw.ask(before)
        raw.say(b"GET " + HIT + b" HTTP/1.1\r\nHost: localhost\r\n")

        async def drip() -> None:
            while True:
                raw.say(b"X: 1\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            with contextlib.suppress(ConnectionError):
                assert await raw.rest() == b""
        finally:
            dripping.cancel()
    assert port.stored == bool(before)


async def test_an_idle_connection_is_closed(listen: Listen) -> None:
    """It would hold one of the places."""
    port = await listen(where=replace(LOCAL, idle_s=0.05))
    async with connected(port.address) as raw:
        assert await raw.rest() == b""
    assert port.refused == {}


async def test_a_body_that_stalls_gets_408_and_a_close(listen: Listen) -> None:
    """Nothing of it is stored."""
    port = await listen(where=replace(LOCAL, body_s=0.05, linger_s=0.05))
    data = get(HIT, b"Content-Length: 9", method=b"POST") + b"a=b"
    await closes(port, data, 408, "timeout")


async def test_a_client_that_leaves_within_its_body_is_counted(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a hit is none, and no fault of ours: the log has nothing to say."""
    async with connected(port.address) as raw:
        raw.say(get(HIT, b"Content-Length: 9", method=b"POST") + b"a=b")
        await until(lambda: port.taken_up == 1)
        raw.hang_up()
        await until(lambda: port.refused == {"incomplete": 1})
    assert port.stored == 0
    assert caplog.text == ""


async def test_a_client_that_left_before_its_body_is_asked_for_is_counted(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that leaves within it, however the library words it."""
    async with connected(port.address) as raw:
        raw.say(get(HIT, b"Content-Length: 9", method=b"POST") + b"a=b")
        await until(lambda: port.taken_up == 1)
        (connection,) = port.connections
        request = connection._current_request
        assert request is not None
        raw.hang_up()
        await until(lambda: port.refused == {"incomplete": 1})
    assert isinstance(await port.intake.whole(request, LOCAL), answer.Answer)
    assert port.refused == {"incomplete": 2}
    assert (port.stored, caplog.text) == (0, "")


async def test_a_client_that_hangs_up_does_not_undo_its_hit(port: Port) -> None:
    """The commit under way goes on; the client sends again, and that is a copy."""
    with busy_disk(port.queue):
        async with connected(port.address) as raw:
            raw.say(get(HIT))
            await until(lambda: port.taken_up == 1)
            (connection,) = port.connections
            raw.hang_up()
            await until(connection._lost.is_set)
    await until(lambda: port.stored == 1)
    assert (await ask(port.address, get(HIT))).status == 200
    assert (port.stored, port.repeated) == (1, 1)


async def test_a_client_that_sends_and_leaves_at_once_has_sent_a_hit(port: Port) -> None:
    """It never looks at the answer."""
    async with connected(port.address) as raw:
        raw.say(get(HIT))
        raw.writer.close()
        await until(lambda: port.stored == 1)


async def test_a_connection_too_many_takes_the_place_of_the_longest_idle_one(
    listen: Listen,
) -> None:
    """Strangers who hold connections open keep nobody out; each that had to go is counted."""
    port = await listen(most_connections=2)
    async with connected(port.address) as first, connected(port.address) as second:
        assert (await first.ask(get(HIT))).status == 200
        assert (await second.ask(get(HIT))).status == 200
        async with connected(port.address) as third:
            assert (await third.ask(get(HIT))).status == 200
            assert await first.rest() == b""
            assert (await second.ask(get(HIT))).status == 200
        assert port.refused == {"connections": 1}


# -- when it cannot be stored --------------------------------------------------------------


async def full_at(port: Port, reason: str) -> None:
    """503 within 50 ms, counted by its reason, and worth another attempt."""
    took = []
    for n in range(1, 6):
        began = time.perf_counter()
        got = await ask(
            port.address, get(b"/b/ss/opt/1/v/s999%d?a=b" % n, b"Origin: https://s.example")
        )
        took.append(time.perf_counter() - began)
        assert (got.status, got[b"retry-after"]) == (503, b"30")
        assert got[b"access-control-allow-origin"] == b"https://s.example"
        assert port.refused == {reason: n}
    assert min(took) < 0.05


@pytest.mark.parametrize(
    "limits, reason",
    [
        (Limits(max_hits=1, min_free_disk=0), "max_hits"),
        (Limits(max_bytes=50, min_free_disk=0), "max_bytes"),
    ],
)
async def test_a_full_queue_answers_503_at_once(
    listen: Listen, open_queue: OpenQueue, limits: Limits, reason: str
) -> None:
    """By the name of its limit; what was stored stays."""
    port = await listen(queue=await open_queue(limits))
    assert (await ask(port.address, get(HIT))).status == 200
    await full_at(port, reason)
    assert port.stored == 1


async def test_a_disk_short_of_its_reserve_answers_503_at_once(
    listen: Listen, open_queue: OpenQueue
) -> None:
    """Before anything is written."""
    port = await listen(queue=await open_queue(Limits(min_free_disk=1 << 62)))
    await full_at(port, "disk")
    assert port.stored == 0


async def test_a_disk_that_refuses_answers_503_at_once(port: Port) -> None:
    """SQLite's own word that the disk is full, from a real transaction."""
    pages = await port.queue._writer.execute_fetchall("PRAGMA page_count")
    await port.queue._writer.execute_fetchall(f"PRAGMA max_page_count = {next(iter(pages))[0]}")
    # The first ones may still fit on pages that exist.
    filler = b"&v1=" + FILLER
    assert (await ask(port.address, get(HIT + filler))).status == 503
    before = port.stored
    got = await ask(port.address, get(HIT + filler))
    assert (got.status, got[b"retry-after"]) == (503, b"30")
    assert (port.stored, port.refused) == (before, {"storage": 2})


async def test_a_queue_that_is_closed_answers_503(port: Port) -> None:
    """A hit that comes while we go."""
    await port.queue.close()
    assert (await ask(port.address, get(HIT))).status == 503
    assert port.refused == {"storage": 1}


async def test_a_bug_of_ours_is_no_200(listen: Listen) -> None:
    """503, so that a client with a queue of its own keeps the hit."""

    def bug() -> Received:
        raise RuntimeError

    port = await listen(received=bug)
    got = await ask(port.address, get(HIT))
    assert (got.status, got[b"retry-after"]) == (503, b"30")


class Slow(Roads):
    """A collection server that says nothing before it is told to, and then what makes no sense."""

    def __init__(self) -> None:
        super().__init__()
        self.speaks = asyncio.Event()

    async def ask(self, protocol: str, request: Request, within_s: float) -> Reply | None:  # noqa: ARG002
        return await self.reply(protocol, 0)

    def goes_soon(self, protocol: str, lane: int) -> bool:  # noqa: ARG002
        return True

    async def reply(self, protocol: str, hit: int) -> Reply | None:  # noqa: ARG002
        await self.speaks.wait()
        raise RuntimeError("a bug of ours")


async def test_a_bug_on_the_way_of_a_reply_does_not_undo_a_stored_hit(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the answer to a stored event, and the log has the fault."""
    adobe = Slow()
    adobe.speaks.set()
    port = await listen(roads=adobe, edge=True)
    event = b'{"events":[{"xdm":{"identityMap":{"ECID":[{"id":"7"}]}}}]}'
    got = await ask(port.address, post(b"/ee/v1/interact?configId=abc", event))
    assert (got.status, port.stored) == (200, 1)
    async with connected(port.address) as raw:
        assert (await raw.ask(get(b"/id?mid=7"))).body == b"{}"
        assert (await raw.ask(get(HIT))).status == 200
    assert caplog.text.count("RuntimeError: a bug of ours") == 2


async def test_who_leaves_just_as_a_server_is_asked_leaves_nothing_behind(listen: Listen) -> None:
    """No task waits for what can no longer come."""
    adobe = Slow()
    port = await listen(roads=adobe)
    async with connected(port.address) as raw:
        with busy_disk(port.queue):
            raw.say(get(HIT) + get(b"/id?mid=7"))
            await until(lambda: port.taken_up == 1)
            (connection,) = port.connections
            task = connection._task_handler
            assert connection.transport is not None
            assert task is not None
            # It breaks as the first answer is written: the next request is taken up before the
            # connection hears of it.
            connection.transport.abort()
            connection._tell(answer.unstored(1))
            assert port.taken_up == 2
        adobe.speaks.set()
        await until(task.done)


# -- copies --------------------------------------------------------------------------------


async def test_a_retry_storm_is_one_hit(port: Port) -> None:
    """Twenty copies on as many connections, each answered 200 as the first one."""
    answers = await asyncio.gather(*(ask(port.address, get(HIT)) for _ in range(20)))
    assert {(got.status, got.body) for got in answers} == {(200, answer.GIF)}
    assert (port.stored, port.repeated) == (1, 19)


async def test_copies_wait_for_the_commit_of_the_first(port: Port) -> None:
    """None of them is answered before the one hit is on disk."""
    with busy_disk(port.queue):
        asking = [asyncio.create_task(ask(port.address, get(HIT))) for _ in range(20)]
        await until(lambda: port.taken_up == 20)
        assert not any(task.done() for task in asking)
    assert {(await task).status for task in asking} == {200}
    assert (port.stored, port.repeated) == (1, 19)


async def test_a_copy_of_what_could_not_be_stored_is_stored(
    listen: Listen, open_queue: OpenQueue
) -> None:
    """A 503 is remembered by nobody."""
    queue = await open_queue(Limits(max_hits=0, min_free_disk=0))
    port = await listen(queue=queue)
    assert (await ask(port.address, get(HIT))).status == 503
    queue.limits = Limits(min_free_disk=0)
    assert (await ask(port.address, get(HIT))).status == 200
    assert (port.stored, port.repeated) == (1, 0)


async def test_copies_of_what_the_disk_refuses_are_refused_each(port: Port) -> None:
    """However many wait for the first one: each tries for itself, none is a 200."""
    pages = await port.queue._writer.execute_fetchall("PRAGMA page_count")
    await port.queue._writer.execute_fetchall(f"PRAGMA max_page_count = {next(iter(pages))[0]}")
    large = get(HIT + b"&v1=" + FILLER)
    answers = await asyncio.gather(*(ask(port.address, large) for _ in range(50)))
    assert {got.status for got in answers} == {503}
    assert (port.stored, port.refused) == (0, {"storage": 50})


async def test_a_copy_after_a_restart_is_still_one(listen: Listen, open_queue: OpenQueue) -> None:
    """The crash may have kept the answer from the client."""
    first = await listen()
    visitor = b"Cookie: other=1; s_vi=[CS]v1|2A00000000000000-4000000000000001[CE]"
    await ask(first.address, get(HIT, b"User-Agent: UA1", visitor))
    await ask(first.address, post(b"/b/ss/opt/1/v/s1234", b"a=b"))
    await first.intake.close(0)
    await first.queue.close()
    again = await listen(queue=await open_queue())
    await again.intake.remember_newest()
    assert (await ask(again.address, get(HIT, b"User-Agent: UA1", visitor))).status == 200
    assert (await ask(again.address, post(b"/b/ss/opt/1/v/s1234", b"a=b"))).status == 200
    assert (again.stored, again.repeated) == (2, 2)
    await ask(again.address, post(b"/b/ss/opt/1/v/s1234", b"a=c"))
    assert again.stored == 3


@pytest.mark.parametrize(
    "other",
    [
        get(HIT.replace(b"s84882983483599", b"s84882983483598")),
        get(HIT + b"&"),
        post(HIT),
        get(HIT, b"User-Agent: UA2"),
        get(HIT, b"Cookie: s_vi=[CS]v1|2A00000000000000-4000000000000001[CE]"),
        get(HIT, b"X-Forwarded-For: 198.51.100.7"),
    ],
)
async def test_what_differs_at_all_is_another_hit(port: Port, other: bytes) -> None:
    """In its random segment, its query, its method or its user agent."""
    await ask(port.address, get(HIT))
    await ask(port.address, other)
    assert (port.stored, port.repeated) == (2, 0)


async def test_a_hit_without_a_random_segment_has_no_copies(port: Port) -> None:
    """A hardcoded image is the same each time, and each time a page view."""
    for _ in range(3):
        await ask(port.address, get(b"/b/ss/opt/1/H.25.2--NS/0?pageName=legacy"))
    assert (port.stored, port.repeated) == (3, 0)


def test_copies_are_known_for_ten_minutes_and_are_bounded() -> None:
    """Later the same bytes are another hit; memory does not grow with them."""
    copies = Copies()
    copies.remember(b"first", 1.0)
    assert copies.has(b"first", COPY_WINDOW_S)
    assert not copies.has(b"first", COPY_WINDOW_S + 1)
    for n in range(3 * MOST_COPIES):
        copies.remember(b"%d" % n, 2.0)
        assert len(copies.stored) <= MOST_COPIES
    newest = range(3 * MOST_COPIES - MOST_COPIES // 2, 3 * MOST_COPIES)
    assert all(copies.has(b"%d" % n, 3.0) for n in newest)
    assert not copies.has(b"first", 3.0)


# -- the end -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"GET", b"PUT"])
async def test_who_does_not_read_answers_delays_no_stop(port: Port, method: bytes) -> None:
    """It was answered, as far as that is ours to do."""
    async with deaf(port, get(b"/none", method=method) * 3_000), asyncio.timeout(2.0):
        await port.intake.close(30)


async def test_a_hit_under_way_is_answered_when_the_port_closes(port: Port) -> None:
    """New connections are refused and idle ones closed meanwhile."""
    async with connected(port.address) as idle, connected(port.address) as raw:
        with busy_disk(port.queue):
            raw.say(get(HIT))
            await until(lambda: port.taken_up == 1)
            closing = asyncio.create_task(port.intake.close(5))
            assert await idle.rest() == b""
            with pytest.raises(ConnectionError):
                await ask(port.address, get(HIT))
        assert (await raw.answer()).status == 200
        await closing
    assert port.stored == 1


async def test_closing_at_once_waits_for_nobody(port: Port) -> None:
    """A hit that cannot be stored must not keep a daemon from ending after a failure."""
    with busy_disk(port.queue):
        async with connected(port.address) as raw:
            raw.say(get(HIT))
            await until(lambda: port.taken_up == 1)
            async with asyncio.timeout(2):
                await port.intake.close(0)
            assert await raw.rest() == b""
