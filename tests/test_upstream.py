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
    ],
)
async def test_a_target_arrives_as_it_is(
    adobe: FakeCollector, upstream: Upstream, target: bytes
) -> None:
    """Not decoded, not encoded, no segment resolved, no empty piece dropped."""
    await upstream.send(Request("GET", target))
    assert [hit.target for hit in adobe.received] == [target]


async def test_the_question_mark_of_an_empty_query_is_lost(
    adobe: FakeCollector, upstream: Upstream
) -> None:
    """The one byte of a target that the library takes; it says nothing."""
    await upstream.send(Request("GET", b"/b/ss/opt/1/s1?"))
    assert [hit.target for hit in adobe.received] == [b"/b/ss/opt/1/s1"]


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


async def test_spellings_of_one_name_become_the_first_one(
    adobe: FakeCollector, upstream: Upstream
) -> None:
    """The library would take the later for a correction of the earlier; names have no case."""
    await upstream.send(Request("GET", TARGET, ((b"X-A", b"1"), (b"x-a", b"2"))))
    assert adobe.received[0].headers[1:] == ((b"X-A", b"1"), (b"X-A", b"2"))


async def test_a_header_that_is_no_utf8_is_read_as_latin_1_and_sent_as_utf8(
    adobe: FakeCollector, upstream: Upstream
) -> None:
    """The library writes UTF-8 and nothing else; UTF-8 itself arrives byte for byte."""
    await upstream.send(Request("GET", TARGET, ((b"X-Name", b"caf\xe9"),)))
    assert adobe.received[0].header(b"x-name") == "café".encode()


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
    async with way_to(adobe.url, timeout_s=0.3) as upstream:
        found = await upstream.send(Request(method, TARGET))
    assert isinstance(found, Failure)
    assert found.fault is expected
    assert found.detail
    assert "\n" not in found.detail
    # Details reach the log, and a hit's contents never do.
    assert not re.search("vid|ss/|2x0|yyy|xxx", found.detail)
    assert adobe.counts.requests == 1


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
    asked, closed = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                asked += 1
                answer = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % answers[asked]
                writer.write(answer)
                if asked == 1:
                    await taken.wait()
                    writer.write(answer)
                    again.set()
        writer.close()
        closed.set()

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
        await closed.wait()
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
