"""What leaves for the collection server, to the byte, and what comes of it as a value."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.core.hit import Failure, Header, Reply, Request
from proxy.core.hit import Fault as Kind
from proxy.fake import (
    GIF,
    FakeCollector,
    Fault,
    bandwidth,
    close_without_answer,
    endless_body,
    garbage,
    http,
    latency,
    limit_data,
    redirect,
    reset_peer,
    slow_close,
    status,
    timeout,
)
from proxy.shell.upstream import MOST_REPLY, Upstream, Where

TARGET = b"/b/ss/opt/1/JS-2.27.0/s1234?AQB=1&ts=1770000000&ndh=1&pageName=home&AQE=1"
HIT = Request("GET", TARGET, ((b"User-Agent", b"UA1"),))


@contextlib.asynccontextmanager
async def way_to(
    server: str, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Upstream]:
    upstream = Upstream(Where(server, timeout_s, tls))
    try:
        yield upstream
    finally:
        await upstream.close()


@pytest.fixture
async def upstream(adobe: FakeCollector) -> AsyncIterator[Upstream]:
    async with way_to(adobe.url) as opened:
        yield opened


async def on_the_wire(request: Request) -> bytes:
    """Every byte a server sees of a request, under the name of adobe.example."""
    seen = bytearray()
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not seen.endswith(request.body or b"\r\n\r\n"):
            seen.extend(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        seen.extend(await reader.read())
        writer.close()
        over.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with way_to(f"http://127.0.0.1:{port}") as upstream:
            assert isinstance(await upstream.send(request), Reply)
        await over.wait()
    return bytes(seen).replace(b"127.0.0.1:%d" % port, b"adobe.example")


# -- what is sent --------------------------------------------------------------------------


WIRE = {
    "GET": (
        Request("GET", TARGET, ((b"accept-LANGUAGE", b"de"), (b"User-Agent", b"UA1"))),
        (b"accept-LANGUAGE: de", b"User-Agent: UA1", b"", b""),
    ),
    "HEAD": (Request("HEAD", TARGET), (b"", b"")),
    "POST": (
        Request("POST", TARGET, ((b"Content-Type", b"text/plain"),), b"AQB=1&v1=%zz\xe9"),
        (b"Content-Type: text/plain", b"Content-Length: 13", b"", b"AQB=1&v1=%zz\xe9"),
    ),
    "POST of nothing": (Request("POST", TARGET), (b"Content-Length: 0", b"", b"")),
    "GET with a body": (
        Request("GET", TARGET, (), b"ts=1770000000"),
        (b"Content-Length: 13", b"", b"ts=1770000000"),
    ),
}


@pytest.mark.parametrize("name", WIRE)
async def test_nothing_is_added_to_a_request_but_host_and_length(name: str) -> None:
    """No User-Agent, Accept or Accept-Encoding of a library: they would be in Adobe's reports."""
    request, lines = WIRE[name]
    first = request.method.encode() + b" " + TARGET + b" HTTP/1.1"
    expected = b"\r\n".join((first, b"Host: adobe.example", *lines))
    assert await on_the_wire(request) == expected


@pytest.mark.parametrize(
    "target",
    [
        b"/b/ss/opt/1/s1?v1=%zz&v2=%",
        b"/b/ss/opt/1/s1?a=1&&b=2&&&",
        b"/b/ss/opt/1/s1?pageName=caf%E9&v1=a%2Bb+c&v1=dup&v2=%c3%a9",
        b"/b/ss/opt//1//s1?g=http://x//y/../z/./",
        b"/b/ss/opt/1/a/../b/./c?x",
        b"//b/ss",
        b"/b/ss/opt%2Creq/1/s1?g=%2f%2F",
        b"/b/ss/opt/1/s1?c.&a.&AppID=X&.a&.c&x=<>\"{}|\\^`[]'();:@,!*~$=?",
        b"/b/ss/[opt]/1/s1?a?b?c",
        b"/b/ss/opt/1/s1?",
    ],
)
async def test_a_target_arrives_as_it_is(
    adobe: FakeCollector, upstream: Upstream, target: bytes
) -> None:
    """Not decoded, not encoded, no segment resolved, no empty piece dropped."""
    await upstream.send(Request("GET", target))
    assert [hit.target for hit in adobe.received] == [target]


async def test_a_target_of_70_kilobytes_arrives_whole(
    adobe: FakeCollector, upstream: Upstream
) -> None:
    """As long as AppMeasurement makes them."""
    target = TARGET + b"&v1=" + b"y" * 70_000
    assert isinstance(await upstream.send(Request("GET", target)), Reply)
    assert adobe.received[0].target == target


@pytest.mark.parametrize(
    "headers",
    [
        ((b"X-B", b"1"), (b"X-A", b"2"), (b"X-B", b"3"), (b"X-C", b"")),
        ((b"Cookie", b"s_vi=1"), (b"Cookie", b"s_ecid=2")),
        ((b"User-Agent", b""), (b"Accept", b"image/*"), (b"Content-Type", b"x/y")),
        ((b"X-Name", b"caf\xc3\xa9"), (b"Referer", b'http://x/\t<>"')),
        ((b"X-Name", b"caf\xe9"), (b"x-NAME", b"")),
        ((b"X-Forwarded-For", b"203.0.113.7"), (b"Sec-CH-UA", b'"Chromium";v="120"')),
    ],
)
async def test_headers_arrive_in_their_order_and_number(
    adobe: FakeCollector, upstream: Upstream, headers: tuple[Header, ...]
) -> None:
    """Nothing is joined, sorted, or dropped for being empty."""
    await upstream.send(Request("GET", TARGET, headers))
    host = (b"Host", upstream.where.authority)
    assert adobe.received[0].headers == (host, *headers)


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", TARGET + b" HTTP/1.1\r\nX: y"),
        Request("GET", b"/b/ss/opt/1/s1 x"),
        Request("GET", b"/b/ss/opt/1/caf\xe9"),
        Request("GET /x", TARGET),
        Request("GET", TARGET, ((b"X-A", b"1\r\nX-B: 2"),)),
        Request("GET", TARGET, ((b"X-A", b"1\nX-B: 2"),)),
        Request("GET", TARGET, ((b"X-A\rX-B", b"1"),)),
        Request("GET", TARGET, ((b"X-A", b"\0"),)),
    ],
)
async def test_what_would_be_read_as_another_request_is_not_sent(
    adobe: FakeCollector, upstream: Upstream, request_: Request
) -> None:
    """No parser lets such a hit in; a damaged row must not become two requests either."""
    found = await upstream.send(request_)
    assert isinstance(found, Failure)
    assert found.fault is Kind.MALFORMED
    assert adobe.counts.opened == 0


async def test_connections_are_kept(adobe: FakeCollector, upstream: Upstream) -> None:
    """A handshake for each hit would cost more than the hit."""
    for _ in range(3):
        await upstream.send(HIT)
    assert adobe.counts.opened == 1


# -- what comes back -----------------------------------------------------------------------


async def test_an_answer_comes_back_as_it_was(adobe: FakeCollector, upstream: Upstream) -> None:
    """Status, headers by lower-case names, body."""
    adobe.will(Fault(answer=http(503, ((b"Retry-After", b"120"), (b"X-A", b"\xe9")), b"busy")))
    assert await upstream.send(HIT) == Reply(
        503,
        (
            (b"content-length", b"4"),
            (b"retry-after", b"120"),
            (b"x-a", b"\xe9"),
            (b"connection", b"keep-alive"),
        ),
        b"busy",
    )


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
async def test_each_method_gets_its_answer(
    adobe: FakeCollector, upstream: Upstream, method: str
) -> None:
    """The one to HEAD has no body, and the connection goes on."""
    for _ in range(2):
        reply = await upstream.send(Request(method, TARGET))
        assert isinstance(reply, Reply)
        assert (reply.status, reply.body) == (200, b"" if method == "HEAD" else GIF)
    assert [hit.method for hit in adobe.received] == [method] * 2


async def test_a_compressed_answer_is_left_alone(adobe: FakeCollector, upstream: Upstream) -> None:
    """Nobody asked for it, and no bomb goes off."""
    coding = ((b"Content-Encoding", b"gzip"),)
    adobe.will(Fault(answer=http(200, coding, b"\x1f\x8b\x00")))
    reply = await upstream.send(HIT)
    assert isinstance(reply, Reply)
    assert reply.body == b"\x1f\x8b\x00"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(adobe: FakeCollector, upstream: Upstream, code: int) -> None:
    """Whether to is not decided here."""
    adobe.will(redirect(adobe.url.encode() + b"/b/ss/other/1", code))
    reply = await upstream.send(HIT)
    assert isinstance(reply, Reply)
    assert (reply.status, adobe.counts.requests) == (code, 1)


async def test_no_cookie_is_kept(adobe: FakeCollector, upstream: Upstream) -> None:
    """One visitor's would be another's."""
    adobe.will(Fault(answer=http(200, ((b"Set-Cookie", b"s_vi=1; Path=/"),), GIF)))
    for _ in range(2):
        await upstream.send(HIT)
    assert adobe.received[1].header(b"cookie") is None


async def test_a_proxy_of_the_environment_is_not_used(
    adobe: FakeCollector, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hits go is a matter of configuration alone."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert isinstance(await upstream.send(HIT), Reply)


@pytest.mark.parametrize("size", [MOST_REPLY, MOST_REPLY + 1])
async def test_an_answer_is_read_up_to_64_kib(
    adobe: FakeCollector, upstream: Upstream, size: int
) -> None:
    """One byte more is no answer of a collection server."""
    adobe.will(Fault(answer=http(200, (), b"x" * size)))
    reply = await upstream.send(HIT)
    if size > MOST_REPLY:
        assert isinstance(reply, Failure)
        assert reply.fault is Kind.ENDLESS
    else:
        assert isinstance(reply, Reply)
        assert len(reply.body) == size
    # Of a connection with unread bytes nothing may be read again.
    assert isinstance(await upstream.send(HIT), Reply)


# -- what goes wrong -----------------------------------------------------------------------


def within_s(expected: Kind) -> float:
    """Time runs out where that is the claim, and nowhere else: a busy machine connects slowly."""
    return 1.0 if expected is Kind.TIMEOUT else 10.0


@pytest.mark.parametrize(
    "fault, expected",
    [
        (reset_peer(), Kind.CUT),
        (close_without_answer(), Kind.CUT),
        (limit_data(20), Kind.CUT),
        (limit_data(600) | status(200, body=b"x" * 900), Kind.CUT),
        (limit_data(600) | reset_peer() | status(200, body=b"x" * 900), Kind.CUT),
        (timeout(), Kind.TIMEOUT),
        (latency(9), Kind.TIMEOUT),
        (bandwidth(20), Kind.TIMEOUT),
        (garbage(), Kind.MALFORMED),
        (garbage(b"HTTP/1.1 2x0 OK\r\n\r\n"), Kind.MALFORMED),
        (garbage(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"), Kind.MALFORMED),
        (garbage(b"HTTP/1.1 200 OK\r\nX\r\n\r\n"), Kind.MALFORMED),
        (endless_body(), Kind.ENDLESS),
    ],
    ids=lambda value: getattr(value, "name", value)[:40],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_exchange_that_went_wrong_has_a_name_and_is_one_request(
    adobe: FakeCollector, fault: Fault, expected: Kind, method: str
) -> None:
    """The library would send a GET again by itself: at Adobe that is a second hit."""
    adobe.will(fault)
    async with way_to(adobe.url, timeout_s=within_s(expected)) as upstream:
        found = await upstream.send(Request(method, TARGET))
    assert isinstance(found, Failure)
    assert found.fault is expected
    assert found.detail
    assert "\n" not in found.detail
    # Details reach the log, and a hit's contents never do.
    assert not re.search("vid|ss/|2x0|yyy|xxx", found.detail)
    assert adobe.counts.requests == 1


async def asked(upstream: Upstream, request: Request) -> Reply | Failure:
    """What comes on a connection that rests, told by a call."""
    told: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
    assert upstream.ask(request, told.set_result)
    assert not told.done()
    return await told


async def test_where_a_connection_rests_a_call_tells_what_came(
    adobe: FakeCollector, upstream: Upstream
) -> None:
    """Else nothing is sent, and nobody is told; the connection rests again behind each answer."""
    told: list[Reply | Failure] = []
    assert not upstream.ask(HIT, told.append)
    assert isinstance(await upstream.send(HIT), Reply)
    assert not upstream.ask(Request("GET", b"/two lines\r\n"), told.append)
    for _ in range(3):
        found = await asked(upstream, HIT)
        assert isinstance(found, Reply)
        assert (found.status, found.body) == (200, GIF)
    assert adobe.counts.requests == 4
    assert not upstream._due
    assert not told


@pytest.mark.parametrize(
    "fault, expected",
    [
        (reset_peer(), Kind.CUT),
        (limit_data(20), Kind.CUT),
        (timeout(), Kind.TIMEOUT),
        (garbage(), Kind.MALFORMED),
        (endless_body(), Kind.ENDLESS),
    ],
    ids=lambda value: getattr(value, "name", value)[:40],
)
async def test_who_is_told_by_a_call_is_told_once_of_what_went_wrong(
    adobe: FakeCollector, fault: Fault, expected: Kind
) -> None:
    """And the connection is nobody's any more: a late answer is not the next hit's."""
    async with way_to(adobe.url, timeout_s=within_s(expected)) as upstream:
        assert isinstance(await upstream.send(HIT), Reply)
        adobe.will(fault)
        found = await asked(upstream, HIT)
        assert isinstance(found, Failure)
        assert found.fault is expected
        assert not upstream.ask(HIT, lambda _: None)
        assert not upstream._due
    assert adobe.counts.requests == 2


async def test_a_kept_connection_that_goes_away_is_one_request_too(
    adobe: FakeCollector, upstream: Upstream
) -> None:
    """The very case for which libraries send again; here the drain decides."""
    adobe.will(slow_close(0.2, announced=False))
    assert isinstance(await upstream.send(HIT), Reply)
    found = await upstream.send(HIT)
    assert isinstance(found, Failure)
    assert found.fault is Kind.CUT
    assert adobe.counts.requests == 1


async def test_what_a_server_says_unasked_answers_no_hit() -> None:
    """An answer given twice is not that of the next hit, which nobody took."""
    answers = {1: b"200 OK", 2: b"503 Service Unavailable"}
    asked = 0
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        serving.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                asked += 1
                answer = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % answers[asked]
                writer.write(answer)
                if asked == 1:
                    await taken.wait()
                    writer.write(answer)
                    again.set()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    taken, again = asyncio.Event(), asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with way_to(f"http://127.0.0.1:{port}") as upstream:
            first = await upstream.send(HIT)
            taken.set()
            await again.wait()
            for _ in range(3):  # it is in the socket; a turn of the loop reads it
                await asyncio.sleep(0)
            second = await upstream.send(HIT)
        await asyncio.gather(*[task for task in serving if task is not None])
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (first.status, second.status, asked) == (200, 503, 2)


async def test_a_name_nobody_knows_is_dns() -> None:
    """`.invalid` is nobody's by RFC 6761."""
    async with way_to("http://collection.invalid") as upstream:
        found = await upstream.send(HIT)
        probed = await upstream.probe()
    assert isinstance(found, Failure)
    assert isinstance(probed, Failure)
    assert (found.fault, probed.fault) == (Kind.DNS, Kind.DNS)


async def test_a_refused_connection_is_connect(adobe: FakeCollector, upstream: Upstream) -> None:
    """Nothing was sent, for certain."""
    await adobe.cut()
    found, probed = await upstream.send(HIT), await upstream.probe()
    assert isinstance(found, Failure)
    assert isinstance(probed, Failure)
    assert (found.fault, probed.fault) == (Kind.CONNECT, Kind.CONNECT)
    await adobe.restore()
    assert await upstream.probe() is None


async def test_a_connection_that_never_stands_is_a_connect_timeout() -> None:
    """Nothing was sent: the server's queue of connections is full, and nobody says so."""
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with way_to(f"http://127.0.0.1:{full.getsockname()[1]}", timeout_s=0.2) as upstream:
            found, probed = await upstream.send(HIT), await upstream.probe()
    assert isinstance(found, Failure)
    assert isinstance(probed, Failure)
    assert (found.fault, probed.fault) == (Kind.CONNECT_TIMEOUT, Kind.CONNECT_TIMEOUT)


async def test_the_probe_connects_and_says_nothing(
    adobe: FakeCollector, upstream: Upstream
) -> None:
    """A probe that asked for something would be a hit, or an error in someone's log."""
    assert await upstream.probe() is None
    await adobe.until(lambda: adobe.counts.opened == 1 and adobe.counts.open == 0)
    assert (adobe.counts.requests, adobe.counts.malformed) == (0, 0)


# -- one exchange after another on a connection ----------------------------------------------


@dataclass
class Script:
    """A server that says exact bytes: `answers[n]` to the n-th request that is whole.

    An answer in pieces comes in as many segments.  None after an answer: the server closes.
    """

    answers: tuple[tuple[bytes | None, ...], ...]
    url: str = ""
    asked: int = 0
    on: list[int] = field(default_factory=list)  # which connection each request came on
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        number = len(self.tasks)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.on.append(number)
                answer = self.answers[self.asked]
                self.asked += 1
                self.heard.set()
                for piece in answer:
                    if piece is None:
                        return await self.close(writer)
                    writer.write(piece)
                    await writer.drain()
                    if len(answer) > 1:
                        await asyncio.sleep(0.01)  # or the pieces would arrive as one
        return await self.close(writer)

    async def close(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.closed.set()


@contextlib.asynccontextmanager
async def scripted(
    *answers: tuple[bytes | None, ...], timeout_s: float = 5.0
) -> AsyncIterator[tuple[Script, Upstream]]:
    script = Script(answers)
    async with await asyncio.start_server(script.serve, "127.0.0.1", 0) as server:
        script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with way_to(script.url, timeout_s) as upstream:
            yield script, upstream
        await asyncio.gather(*script.tasks)


def ok(body: bytes, *lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """A whole answer."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((version + b" 200 OK", *lines, length, b"", body))


ONE, TWO = ok(b"one"), ok(b"two")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.1 200 OK\r\nServer: jag\r\n\r\n"


@pytest.mark.parametrize(
    "answer, body, connections",
    [
        ((ONE,), b"one", 1),
        (tuple(bytes((byte,)) for byte in ONE), b"one", 1),
        ((ONE[:30], ONE[30:]), b"one", 1),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" + ONE,), b"one", 1),
        ((b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", ONE), b"one", 1),
        ((b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n", ONE), b"one", 1),
        ((CHUNKED + b"3\r\none\r\n0\r\n\r\n",), b"one", 1),
        ((CHUNKED, b"1;x=y\r\no\r\n2\r\nne", b"\r\n0\r\nX: y\r\n\r\n"), b"one", 1),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), b"", 1),
        ((b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",), b"", 1),
        ((ok(b""),), b"", 1),
        ((ok(b"one", b"Connection: close"),), b"one", 2),
        ((ok(b"one", version=b"HTTP/1.0"),), b"one", 2),
        ((ok(b"one", b"Connection: keep-alive", version=b"HTTP/1.0"),), b"one", 1),
        ((UNFRAMED, b"o", b"ne", None), b"one", 2),
        ((b"HTTP/1.0 200 OK\r\n\r\none", None), b"one", 2),
        ((b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nHTTP/1.1 2",), b"", 2),
        # What comes behind an answer is no answer to the next request.
        ((ONE + TWO,), b"one", 2),
        ((ONE + ONE,), b"one", 2),
        ((b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",), b"", 2),
        ((ONE + b"HTTP/1.1 200 OK\r\nContent-Le",), b"one", 2),
        ((CHUNKED + b"3\r\none\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",), b"one", 2),
        ((ok(b"") + b"HTTP/1.1 200 OK\r\n",), b"", 2),
        ((ok(b"", b"Connection: close"), None), b"", 2),
    ],
)
async def test_an_answer_ends_where_http_says_and_the_next_is_the_next_ones(
    answer: tuple[bytes | None, ...], body: bytes, connections: int
) -> None:
    """The connection goes on when the answer's end is known, and nothing came behind it."""
    async with scripted(answer, (ok(b"next"),)) as (script, upstream):
        first, second = await upstream.send(HIT), await upstream.send(HIT)
        assert isinstance(first, Reply)
        assert first.body == body
        assert isinstance(second, Reply)
        assert second.body == b"next"
        assert len(script.tasks) == connections


@pytest.mark.parametrize(
    "answer, expected",
    [
        ((ONE[:-1], None), Kind.CUT),  # less than Content-Length says
        ((ONE[:20], None), Kind.CUT),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", None), Kind.CUT),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", None), Kind.CUT),
        ((CHUNKED + b"3\r\none\r\n", None), Kind.CUT),
        ((CHUNKED + b"3\r\none\r\n0\r\n", None), Kind.CUT),
        ((ONE[:-1],), Kind.TIMEOUT),
        ((b"HTTP/1.1 100 Continue\r\n\r\n",), Kind.TIMEOUT),
        ((ONE + b"more than it said",), Kind.MALFORMED),
        ((CHUNKED + b"zz\r\none",), Kind.MALFORMED),
        (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\none",),
            Kind.MALFORMED,
        ),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\none",), Kind.MALFORMED),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\none",),
            Kind.MALFORMED,
        ),
        ((b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",), Kind.MALFORMED),
        ((b"HTTP/1.1 200 " + b"y" * 9000 + b"\r\n\r\n",), Kind.MALFORMED),
        ((b"HTTP/9.9 hello\r\n\r\n",), Kind.MALFORMED),
        ((b"\x15\x03\x03\x00\x02\x02\x16",), Kind.MALFORMED),  # it wants TLS
    ],
)
async def test_what_is_no_whole_answer_is_none_and_the_next_has_a_connection_of_its_own(
    answer: tuple[bytes | None, ...], expected: Kind
) -> None:
    """Not a byte of it can become part of another hit's answer."""
    async with scripted(answer, (TWO,), timeout_s=0.3) as (script, upstream):
        found, second = await upstream.send(HIT), await upstream.send(HIT)
        assert isinstance(found, Failure)
        assert found.fault is expected
        assert isinstance(second, Reply)
        assert second.body == b"two"
        assert script.on == [1, 2]


async def test_a_reset_is_not_the_end_of_a_body(adobe: FakeCollector, upstream: Upstream) -> None:
    """A body without a length ends with its connection, but not with its breaking."""
    adobe.will(limit_data(len(UNFRAMED) + 3) | reset_peer() | garbage(UNFRAMED + b"x" * 900))
    found = await upstream.send(HIT)
    assert isinstance(found, Failure)
    assert found.fault is Kind.CUT


async def test_a_connection_known_to_be_closed_takes_no_hit() -> None:
    """Nothing was sent on it: no doubt, and no second try to speak of."""
    async with scripted((ONE, None), (TWO,)) as (script, upstream):
        await upstream.send(HIT)
        await script.closed.wait()
        await asyncio.sleep(0.01)  # until the loop has read of it
        second = await upstream.send(HIT)
        assert isinstance(second, Reply)
        assert (second.body, script.on) == (b"two", [1, 2])


async def test_what_a_server_says_unasked_is_nobodys_answer() -> None:
    """As `408 Request Timeout` before it closes a connection that rests."""
    async with scripted((ONE, b"HTTP/1.1 408 Request Timeout\r\n\r\n"), (TWO,)) as (
        script,
        upstream,
    ):
        await upstream.send(HIT)
        await script.closed.wait()
        second = await upstream.send(HIT)
        assert isinstance(second, Reply)
        assert (second.status, script.on) == (200, [1, 2])


@pytest.mark.parametrize("how", ["late", "cancelled"])
async def test_an_answer_nobody_waits_for_any_more_is_not_the_next_ones(how: str) -> None:
    """Its connection ends with the waiting."""
    async with scripted((ONE[:-1],), (TWO,), timeout_s=0.1) as (script, upstream):
        sending = asyncio.create_task(upstream.send(HIT))
        if how == "cancelled":
            await script.heard.wait()
            sending.cancel()
        await asyncio.wait([sending])
        async with asyncio.timeout(1):
            await script.closed.wait()
        second = await upstream.send(HIT)
        assert isinstance(second, Reply)
        assert (second.body, script.on) == (b"two", [1, 2])


async def test_an_answer_before_the_request_was_whole_counts_and_ends_the_connection() -> None:
    """As 413 does: what is left of the request is not sent, and would be read as the next."""
    over: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.Event()
        over.append(ended)
        await reader.read(1000)
        writer.write(ONE)
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            await reader.read()  # it ends, and not with the request's end
            writer.close()
            await writer.wait_closed()
        ended.set()

    big = Request("POST", TARGET, (), b"x" * 20_000_000)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=1000) as server:
        port = server.sockets[0].getsockname()[1]
        async with way_to(f"http://127.0.0.1:{port}") as upstream:
            for _ in range(2):
                reply = await upstream.send(big)
                assert isinstance(reply, Reply)
                assert reply.body == b"one"
        await asyncio.gather(*[each.wait() for each in over])
    assert len(over) == 2


async def test_connections_rest_for_so_long_and_no_longer(
    adobe: FakeCollector, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours end before the server's do: no hit meets their closing."""
    monkeypatch.setattr("proxy.shell.upstream.IDLE_S", 0.05)
    await asyncio.gather(*[upstream.send(HIT) for _ in range(3)])
    assert adobe.counts.open == 3
    await adobe.until(lambda: adobe.counts.open == 0)


async def test_each_exchange_has_its_own_time(adobe: FakeCollector) -> None:
    """One timer serves them all: it must forget none, and take none for another."""
    adobe.will(timeout(), latency(0.2), timeout())
    loop = asyncio.get_running_loop()
    took: list[float] = []

    async def one(upstream: Upstream, after_s: float) -> Kind | int:
        await asyncio.sleep(after_s)
        began = loop.time()
        found = await upstream.send(HIT)
        took.append(loop.time() - began)
        return found.fault if isinstance(found, Failure) else found.status

    async with way_to(adobe.url, timeout_s=0.4) as upstream:
        sends = [one(upstream, after_s) for after_s in (0, 0.1, 0.25)]
        assert await asyncio.gather(*sends) == [Kind.TIMEOUT, 200, Kind.TIMEOUT]
    assert all(0.15 < seconds < 0.7 for seconds in took)


async def test_what_is_under_way_is_cut_by_the_close(adobe: FakeCollector) -> None:
    """Nobody is left waiting, and nothing is sent afterwards."""
    adobe.will(timeout())
    upstream = Upstream(Where(adobe.url))
    sending = asyncio.create_task(upstream.send(HIT))
    await adobe.until(lambda: adobe.counts.requests == 1)
    await upstream.close()
    found, later = await sending, await upstream.send(HIT)
    assert isinstance(found, Failure)
    assert isinstance(later, Failure)
    assert (found.fault, later.fault) == (Kind.CUT, Kind.CONNECT)
    assert adobe.counts.requests == 1


# -- TLS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate of its own making for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    file, key = folder / "certificate.pem", folder / "key.pem"
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=adobe"
    names = f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {file}"
    subprocess.run([openssl, *kind.split(), *names.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context, file


async def test_a_certificate_nobody_vouches_for_is_refused(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    """By send and probe; not a byte of the hit is sent."""
    async with FakeCollector(ssl_context=certificate[0]) as adobe, way_to(adobe.url) as upstream:
        found, probed = await upstream.send(HIT), await upstream.probe()
        assert isinstance(found, Failure)
        assert isinstance(probed, Failure)
        assert (found.fault, probed.fault) == (Kind.TLS, Kind.TLS)
        assert adobe.counts.requests == 0


async def test_a_certificate_is_taken_with_its_authority(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    """As configured by `upstream.tls_ca_file`."""
    server, file = certificate
    trusting = ssl.create_default_context(cafile=file)
    async with (
        FakeCollector(ssl_context=server) as adobe,
        way_to(adobe.url, tls=trusting) as upstream,
    ):
        assert await upstream.probe() is None
        assert isinstance(await upstream.send(HIT), Reply)
        assert adobe.received[0].secure
        adobe.will(reset_peer(), close_without_answer())
        for _ in range(2):
            found = await upstream.send(HIT)
            assert isinstance(found, Failure)
            assert found.fault is Kind.CUT


async def test_a_certificate_for_another_name_is_refused(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    """The authority is trusted, the name is not the server's."""
    server, file = certificate
    trusting = ssl.create_default_context(cafile=file)
    async with (
        FakeCollector(ssl_context=server) as adobe,
        way_to(f"https://localhost:{adobe.port}", tls=trusting) as upstream,
    ):
        found, probed = await upstream.send(HIT), await upstream.probe()
        assert isinstance(found, Failure)
        assert isinstance(probed, Failure)
        assert (found.fault, probed.fault) == (Kind.TLS, Kind.TLS)
        assert adobe.counts.requests == 0


async def test_a_server_that_speaks_no_tls_is_a_failure_of_tls() -> None:
    """A captive portal is one; nothing of the hit was said to it."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with way_to(f"https://127.0.0.1:{port}") as upstream:
            found, probed = await upstream.send(HIT), await upstream.probe()
    assert isinstance(found, Failure)
    assert isinstance(probed, Failure)
    assert (found.fault, probed.fault) == (Kind.TLS, Kind.TLS)


@pytest.mark.parametrize(
    "server, authority",
    [
        ("https://example.data.adobedc.net", b"example.data.adobedc.net"),
        ("http://127.0.0.1:8299", b"127.0.0.1:8299"),
        ("http://[::1]:8299", b"[::1]:8299"),
    ],
)
def test_the_authority_is_the_host_header(server: str, authority: bytes) -> None:
    """The redirect of the cookie check is compared with it."""
    assert Where(server).authority == authority
