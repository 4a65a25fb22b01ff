"""The fake collection server answers as the real one, and misbehaves exactly as told."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.fake import (
    GIF,
    Ending,
    FakeCollector,
    Fault,
    Received,
    bandwidth,
    by,
    captive_portal,
    close_without_answer,
    down,
    endless_body,
    garbage,
    identifies,
    latency,
    limit_data,
    line,
    ok,
    pccr,
    problem,
    rate_limit,
    redirect,
    reset_peer,
    slicer,
    slots,
    slow_close,
    status,
    timeout,
    xml_failure,
)

HOME = b"/b/ss/opt/1/JS-2.27.0/s1?AQB=1&ndh=1&fid=A-B&pageName=home&AQE=1"
SUCCESS = b'<?xml version="1.0" encoding="UTF-8"?>\n<status>SUCCESS</status>'


def get(target: bytes = HOME, *headers: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
    """A request as bytes."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: adobe.example", *headers]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Client:
    """A client that sees bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head_only: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
        """One answer with a length; status, headers in lower case, body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value for name, value in (each.split(b": ", 1) for each in lines)}
        size = 0 if head_only else int(headers.get(b"content-length", b"0"))
        return int(first.split()[1]), headers, await self.reader.readexactly(size)

    async def ask(self, data: bytes = b"") -> tuple[int, dict[bytes, bytes], bytes]:
        self.send(data or get())
        return await self.answer()

    async def rest(self) -> bytes:
        """Everything until the connection ends."""
        return await self.reader.read()


@asynccontextmanager
async def connected(
    adobe: FakeCollector, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(adobe.host, adobe.port, ssl=tls)
    try:
        async with asyncio.timeout(10):
            yield Client(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture(autouse=True)
async def clean_loop() -> AsyncIterator[None]:
    """Nothing may end in the event loop's exception handler."""
    troubles: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: troubles.append(str(context)))
    yield
    assert troubles == []


# --- what it answers when all is well ----------------------------------------------------


@pytest.mark.parametrize(
    "target,kind,body",
    [
        (b"/b/ss/opt/1/JS-2.27.0/s1?AQB=1&AQE=1", b"image/gif", GIF),
        (b"/b/ss/opt/5/JS-2.27.0/s1?AQB=1&AQE=1", b"image/gif", GIF),
        (b"/b/ss/opt,req/5.1/JS-2.27.0/s1", b"image/gif", GIF),
        (b"/b/ss/opt/0/ANDN030002030300/s1?ndh=1", b"image/gif", GIF),
        (b"/b/ss/opt/1?vid=7", b"image/gif", GIF),
        (b"/some/prefix/b/ss/opt/1/x/s1", b"image/gif", GIF),
        (b"/b/ss/opt/10/JS-2.27.0/s1?AQB=1&AQE=1", b"application/javascript", b"{}"),
        (b"/b/ss/opt/5.10/JS/s1?callback=f%5B0%5D", b"application/javascript", b"f[0]({})"),
        (b"/b/ss//6", b"text/xml", SUCCESS),
        (b"/id?d_visid_ver=5.5.0&mcorgid=A%40AdobeOrg", b"application/json", b"{}"),
    ],
)
async def test_each_kind_of_request_gets_its_own_kind_of_answer(
    adobe: FakeCollector, target: bytes, kind: bytes, body: bytes
) -> None:
    """Image, script, XML and the id service, as a collection server answers them."""
    async with connected(adobe) as client:
        code, headers, got = await client.ask(get(target))
    assert (code, headers[b"content-type"], got) == (200, kind, body)


async def test_the_image_is_forty_three_bytes_and_comes_with_adobes_headers(
    adobe: FakeCollector,
) -> None:
    """The headers of a captured answer are there."""
    async with connected(adobe) as client:
        _, headers, body = await client.ask()
    assert len(body) == 43
    assert headers[b"server"].startswith(b"Omniture DC/")
    assert headers[b"cache-control"].startswith(b"no-cache, no-store")
    assert {b"date", b"expires", b"last-modified", b"etag", b"p3p", b"x-c"} <= set(headers)


async def test_a_page_with_credentials_is_answered_by_its_origin(adobe: FakeCollector) -> None:
    """`*` is not allowed with credentials, so an Origin comes back."""
    async with connected(adobe) as client:
        _, anyone, _ = await client.ask()
        _, page, _ = await client.ask(get(HOME, b"Origin: https://shop.example"))
    assert anyone[b"access-control-allow-origin"] == b"*"
    assert page[b"access-control-allow-origin"] == b"https://shop.example"
    assert page[b"access-control-allow-credentials"] == b"true"


@pytest.mark.parametrize(
    "target,header,expected",
    [
        (b"/b/ss/opt/1/H.25/0?pageName=x", b"X: 1", True),
        (b"/b/ss/opt/1/H.25/0?pageName=x&cl=none", b"X: 1", False),
        (b"/b/ss/opt/1/H.25/0?mid=7", b"X: 1", False),
        (b"/b/ss/opt/1/H.25/0?c.&mid=7&.c", b"X: 1", True),
        (b"/b/ss/opt/1/H.25/0", b"Cookie: s_vi=[CS]v1|A-B[CE]", False),
    ],
)
async def test_only_a_visitor_without_a_name_is_given_a_cookie(
    adobe: FakeCollector, target: bytes, header: bytes, expected: bool
) -> None:
    """`s_vi` is set where no id, no cookie and no `cl=none` came."""
    async with connected(adobe) as client:
        _, headers, _ = await client.ask(get(target, header))
    assert headers.get(b"set-cookie", b"").startswith(b"s_vi=[CS]v1|") is expected


async def test_a_head_request_gets_the_head_alone(adobe: FakeCollector) -> None:
    """The next answer on the connection starts right behind it."""
    async with connected(adobe) as client:
        client.send(get(method=b"HEAD") + get())
        code, headers, body = await client.answer(head_only=True)
        assert (code, headers[b"content-length"], body) == (200, b"43", b"")
        assert (await client.answer())[2] == GIF


async def test_the_edge_answers_interact_and_collect(adobe: FakeCollector) -> None:
    """200 with a handle, 204, and 202 with a request id."""
    async with connected(adobe) as client:
        code, _, body = await client.ask(
            get(b"/ee/or2/v1/interact?configId=a&requestId=r1", method=b"POST", body=b"{}")
        )
        assert (code, body) == (200, b'{"requestId": "r1-0000000000000001", "handle": []}')
        assert (await client.ask(get(b"/ee/v1/collect", method=b"POST", body=b"{}")))[0] == 204
        assert (await client.ask(get(b"/ee/v2/collect", method=b"POST", body=b"{}")))[0] == 202
        silent = get(b"/ee/v2/collect?silent=true", method=b"POST", body=b"{}")
        assert (await client.ask(silent))[0] == 204


async def test_what_is_no_beacon_is_not_found(adobe: FakeCollector) -> None:
    """A request that should never have been sent is seen as such, and recorded."""
    async with connected(adobe) as client:
        assert (await client.ask(get(b"/favicon.ico")))[0] == 404
    assert adobe.received[0].type == b""


async def test_a_real_client_understands_the_answers(adobe: FakeCollector) -> None:
    """The parser of aiohttp takes answers, bodies of every kind, and an announced close."""
    adobe.will(ok(), status(503, retry_after=1), slicer(7, 0.0001), slow_close(0))
    async with aiohttp.ClientSession() as session:
        for expected in (200, 503, 200, 200):
            async with session.post(adobe.url + HOME.decode(), data=b"a=1") as answer:
                assert answer.status == expected
                assert await answer.read() == (GIF if expected == 200 else b"")


# --- what it keeps -------------------------------------------------------------------------


async def test_every_byte_of_a_request_is_kept(adobe: FakeCollector) -> None:
    """Foreign bytes, doubled separators, header order, case and number."""
    target = b"/b/ss/opt/1/x/s1?AQB=1&pageName=caf%E9&v1=a%2Bb+c&&v1=dup&v2=%zz&\xff\x01&AQE=1"
    body = bytes(range(256))
    async with connected(adobe) as client:
        client.send(get(target, b"user-AGENT:  UA\t", b"X: 1", b"x: 2", method=b"POST", body=body))
        await client.answer()
    [hit] = adobe.received
    assert (hit.method, hit.target, hit.version, hit.body) == ("POST", target, b"HTTP/1.1", body)
    assert hit.headers == (
        (b"Host", b"adobe.example"),
        (b"user-AGENT", b"UA"),
        (b"X", b"1"),
        (b"x", b"2"),
        (b"Content-Length", b"256"),
    )
    assert (hit.header(b"User-Agent"), hit.all(b"x")) == (b"UA", (b"1", b"2"))
    assert (hit.number, hit.connection, hit.answered, hit.status) == (1, 1, True, 200)


async def test_a_request_line_of_70_kilobytes_is_ordinary(adobe: FakeCollector) -> None:
    """A client without a visitor id never switches to POST."""
    target = HOME + b"&v1=" + b"y" * 70_000
    async with connected(adobe) as client:
        assert (await client.ask(get(target)))[0] == 200
    assert adobe.received[0].target == target


STREAM = (
    get(HOME)
    + get(b"/b/ss/opt/1/x/s2", method=b"POST", body=b"AQB=1&\r\n\r\n&AQE=1")
    + b"POST /b/ss//6 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
    + b'5\r\n<requ\r\nA;x="y"\r\nest></requ\r\n4\r\nest>\r\n0\r\nTrailer: 1\r\n\r\n'
    + b"\r\n".join((b"POST /b/ss/a/0/x HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked"))
    + b"\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    + get(b"/b/ss/opt/1/x/last", b"Connection: close")
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_it_does_not_matter_how_the_bytes_were_cut(cuts: list[int]) -> None:
    """The same requests come out of the same stream, wherever the network parted it."""

    async def exchange() -> list[tuple[bytes, bytes]]:
        async with FakeCollector() as adobe, connected(adobe) as client:
            edges = [0, *sorted(cuts), len(STREAM)]
            for start, end in pairwise(edges):
                client.send(STREAM[start:end])
                await asyncio.sleep(0)
            await client.rest()
            return [(hit.target, hit.body) for hit in adobe.received]

    assert asyncio.run(exchange()) == [
        (HOME, b""),
        (b"/b/ss/opt/1/x/s2", b"AQB=1&\r\n\r\n&AQE=1"),
        (b"/b/ss//6", b"<request></request>"),
        (b"/b/ss/a/0/x", b"x"),
        (b"/b/ss/opt/1/x/last", b""),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"G\xc3T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        b"G" * (1 << 20) + b"EE",
    ],
)
async def test_what_is_not_quite_http_is_refused_and_not_received(
    adobe: FakeCollector, data: bytes
) -> None:
    """A malformed or smuggled request of the proxy must not pass for a hit."""
    async with connected(adobe) as client:
        client.send(data)
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    assert (adobe.received, adobe.counts.requests, adobe.counts.malformed) == ([], 0, 1)


async def test_requests_sent_ahead_are_answered_in_order_on_one_connection(
    adobe: FakeCollector,
) -> None:
    """The second waits for the first, however slow that is."""
    adobe.will(latency(0.02) | status(501), status(502), latency(0.01) | status(503))
    async with connected(adobe) as client:
        client.send(get() * 3)
        assert [(await client.answer())[0] for _ in range(3)] == [501, 502, 503]
    assert (adobe.counts.opened, {hit.connection for hit in adobe.received}) == (1, {1})


async def test_one_who_asks_and_never_reads_cannot_fill_the_memory(adobe: FakeCollector) -> None:
    """Requests sent ahead wait in the socket, not in the server, and none is lost."""
    adobe.always(status(500, body=b"x" * 100_000))
    async with connected(adobe) as client:
        client.send(get() * 3000)
        await adobe.wait_for(10)
        [connection] = adobe._connections
        await adobe.until(lambda: not connection._writable.is_set())
        assert connection._transport.get_write_buffer_size() < 1_000_000
        for _ in range(3000):
            assert (await client.answer())[0] == 500
    assert adobe.counts.answered == 3000


async def test_behind_a_request_that_hangs_nothing_more_is_read(adobe: FakeCollector) -> None:
    """What is sent ahead stays with the one who sends it."""
    adobe.will(timeout())
    async with connected(adobe) as client:
        client.send(get() + b"x" * (64 << 20))
        await adobe.wait_for(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.writer.drain()


async def test_memory_is_bounded_on_request() -> None:
    """`keep` is how many of the last requests stay; the counts go on."""
    async with FakeCollector(keep=0) as none, FakeCollector(keep=2) as two:
        for adobe in (none, two):
            async with connected(adobe) as client:
                for n in range(5):
                    await client.ask(get(b"/b/ss/opt/1/x/%d" % n))
    assert (none.received, none.counts.answered) == ([], 5)
    assert [hit.target[-1:] for hit in two.received] == [b"3", b"4"]


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
async def test_a_client_that_wants_no_second_answer_gets_a_close(
    adobe: FakeCollector, version: bytes
) -> None:
    """By `Connection: close`, or by HTTP/1.0."""
    async with connected(adobe) as client:
        client.send(get(HOME, b"Connection: close").replace(b"HTTP/1.1", version))
        _, headers, _ = await client.answer()
        assert (headers[b"connection"], await client.rest()) == (b"close", b"")


# --- reading a hit -----------------------------------------------------------------------


def received(target: bytes = HOME, body: bytes = b"") -> Received:
    return Received(1, 1, 0.0, "POST", target, b"HTTP/1.1", (), body)


async def test_context_data_is_not_a_variable() -> None:
    """`ts` inside `c.` is no timestamp; the levels give it its full name."""
    hit = received(b"/b/ss/a,b/5.1/x/s1?c.&ts=yesterday&x.&ts=1&.x&.c&&pageName=a+b%21&v1&AQE=1")
    assert (hit.suites, hit.type) == ((b"a", b"b"), b"5.1")
    assert (hit.param(b"ts"), hit.param(b"c.ts"), hit.param(b"c.x.ts")) == (
        None,
        b"yesterday",
        b"1",
    )
    assert (hit.param(b"pageName"), hit.param(b"v1")) == (b"a b!", b"")


async def test_a_variable_is_found_in_the_body_and_in_the_xml_too() -> None:
    """Forms in any order of query and body; tags in any case."""
    assert received(b"/b/ss/a/1/x?q=1", b"AQB=1&ts=17&AQE=1").param(b"ts") == b"17"
    xml = received(b"/b/ss//6", b"<request><TimeStamp> 17 </TimeStamp></request>")
    assert (xml.param(b"timestamp"), xml.param(b"pageName"), xml.suites) == (b"17", None, ())
    assert list(received(b"/ee/v1/interact", b'{"a&b=1":2}').params()) == []


# --- the script ----------------------------------------------------------------------------


async def test_the_script_is_played_in_order_and_then_the_default(adobe: FakeCollector) -> None:
    """One entry for each request received; `always` comes after the last."""
    adobe.will(status(503), ok())
    adobe.will(status(429))
    adobe.always(status(404))
    async with connected(adobe) as client:
        assert [(await client.ask())[0] for _ in range(5)] == [503, 200, 429, 404, 404]
        adobe.heal()
        assert (await client.ask())[0] == 200


async def test_a_rule_comes_before_the_script_and_uses_none_of_it(adobe: FakeCollector) -> None:
    """Bytes are looked for in target and body; the latest rule wins."""
    adobe.when(b"poison", status(404))
    adobe.when(lambda hit: hit.method == "HEAD", status(405))
    adobe.will(status(503))
    async with connected(adobe) as client:
        assert (await client.ask(get(HOME + b"&v1=poison")))[0] == 404
        form = get(b"/b/ss/opt/1/x", method=b"POST", body=b"v1=poison")
        assert (await client.ask(form))[0] == 404
        assert (await client.ask(get(HOME + b"&v1=poison", method=b"HEAD")))[0] == 405
        assert (await client.ask())[0] == 503
        adobe.when(b"poison", ok())
        assert (await client.ask(form))[0] == 200


async def test_waiting_ends_with_the_request_and_gives_up_in_words(adobe: FakeCollector) -> None:
    """No polling; and a test that waits in vain is told what there was."""
    waiting = asyncio.create_task(adobe.wait_for(2, answered=True))
    async with connected(adobe) as client:
        await client.ask()
        assert not waiting.done()
        await client.ask()
        await waiting
        with pytest.raises(TimeoutError, match=r"not 3 requests received .*requests=2"):
            await adobe.wait_for(3, timeout=0.01)


async def test_it_tells_of_each_request_as_it_comes() -> None:
    """Before the answer, so that even a request that hangs is seen."""
    told: list[str] = []
    async with FakeCollector(tell=lambda hit: told.append(line(hit))) as adobe:
        adobe.will(timeout())
        async with connected(adobe) as client:
            client.send(get(HOME + b"&ts=17&v1=%1b", method=b"POST", body=b"x=1"))
            await adobe.wait_for(1)
    assert told[0].endswith("#1 c1 POST opt type=1 ts=17 home 80 B  timeout()")


# --- faults: how the answer travels --------------------------------------------------------


async def test_latency_delays_the_answer_and_not_the_request(adobe: FakeCollector) -> None:
    """The request is received at once, the answer comes after the time at the earliest."""
    adobe.will(latency(0.05), latency(0.01) | latency(0.04, jitter=0.001))
    loop = asyncio.get_running_loop()
    async with connected(adobe) as client:
        for _ in range(2):
            assert (await client.ask())[0] == 200
            assert loop.time() - adobe.received[-1].at >= 0.048


async def test_jitter_is_the_same_each_time_and_never_negative() -> None:
    """A seed repeats it; a delay below nothing is none."""
    one, two, other = FakeCollector(seed=1), FakeCollector(seed=1), FakeCollector(seed=2)
    delays = [[each._delay(latency(0.1, 0.2)) for _ in range(50)] for each in (one, two, other)]
    assert delays[0] == delays[1] != delays[2]
    assert all(0 <= delay <= 0.3 for delay in delays[0])
    assert len(set(delays[0])) > 10


async def test_a_timeout_receives_and_never_answers(adobe: FakeCollector) -> None:
    """It lasts until the client goes, and then the request is over, unanswered."""
    adobe.will(timeout())
    async with connected(adobe) as client:
        client.send(get())
        await adobe.wait_for(1)
        assert adobe.counts.in_flight == 1
    await adobe.until(lambda: adobe.received[0].over)
    assert (adobe.counts.in_flight, adobe.received[0].answered) == (0, False)


@pytest.mark.parametrize("fault", [close_without_answer(), timeout(0.01)])
async def test_a_close_without_an_answer_is_an_ordinary_end(
    adobe: FakeCollector, fault: Fault
) -> None:
    """The client reads nothing, then the end."""
    adobe.will(fault)
    async with connected(adobe) as client:
        client.send(get())
        assert await client.rest() == b""
    assert (adobe.counts.answered, adobe.counts.requests) == (0, 1)


@pytest.mark.parametrize("fault", [reset_peer(), reset_peer(0.01)])
async def test_a_reset_is_a_reset(adobe: FakeCollector, fault: Fault) -> None:
    """The client gets the error of a connection reset, not an end."""
    adobe.will(fault)
    async with connected(adobe) as client:
        client.send(get())
        with pytest.raises(ConnectionResetError):
            await client.rest()
    assert (adobe.counts.answered, adobe.counts.requests) == (0, 1)


@pytest.mark.parametrize("n", [0, 1, 100])
async def test_a_limit_is_kept_to_the_byte(adobe: FakeCollector, n: int) -> None:
    """So many bytes of the answer, then the end; such a request was not answered."""
    adobe.will(limit_data(n), limit_data(n) | latency(0.001) | slicer(3))
    for _ in range(2):
        async with connected(adobe) as client:
            client.send(get())
            assert len(await client.rest()) == n
    assert adobe.answered == []


async def test_a_limit_beyond_the_answer_still_closes(adobe: FakeCollector) -> None:
    """Nothing is missing, so it was answered."""
    adobe.will(limit_data(100_000))
    async with connected(adobe) as client:
        client.send(get())
        assert (await client.rest()).endswith(GIF)
    assert adobe.counts.answered == 1


async def test_an_answer_can_stop_in_the_middle_and_hang(adobe: FakeCollector) -> None:
    """A limit with a timeout is a stall: the greater limit and the harsher ending."""
    adobe.will(limit_data(20) | timeout(), reset_peer() | limit_data(20))
    async with connected(adobe) as client:
        client.send(get())
        assert await client.reader.readexactly(20) == b"HTTP/1.1 200 OK\r\nCon"
        assert adobe.counts.in_flight == 1
    async with connected(adobe) as client:
        client.send(get())
        with pytest.raises(ConnectionResetError):  # the bytes may be lost with the reset
            await client.reader.readexactly(21)


@pytest.mark.parametrize(
    "fault,at_least",
    [
        (slicer(100, 0.005), 0.025),
        (bandwidth(20_000), 0.03),
        (slicer(100, 0.002) | bandwidth(20_000), 0.04),
    ],
)
async def test_a_bad_road_changes_the_time_and_not_the_answer(
    adobe: FakeCollector, fault: Fault, at_least: float
) -> None:
    """All bytes come, no sooner than they could."""
    adobe.will(fault, ok())
    loop = asyncio.get_running_loop()
    async with connected(adobe) as client:
        sent = loop.time()
        assert (await client.ask())[2] == GIF
        assert loop.time() - sent >= at_least
        assert (await client.ask())[2] == GIF


async def test_a_slow_close_comes_after_the_answer(adobe: FakeCollector) -> None:
    """Announced, the client knows; it ends no sooner than asked for."""
    adobe.will(slow_close(0.03))
    loop = asyncio.get_running_loop()
    async with connected(adobe) as client:
        _, headers, _ = await client.ask()
        assert headers[b"connection"] == b"close"
        assert await client.rest() == b""
        assert loop.time() - adobe.received[0].at >= 0.028


async def test_a_close_unannounced_swallows_the_next_request(adobe: FakeCollector) -> None:
    """The keep-alive race: the request was sent, and never received."""
    adobe.will(slow_close(0.02, announced=False))
    async with connected(adobe) as client:
        _, headers, _ = await client.ask()
        assert headers[b"connection"] == b"keep-alive"
        client.send(get())
        assert await client.rest() == b""
    assert adobe.counts.requests == 1


async def test_faults_add_up() -> None:
    """Delays are summed, the right answer wins, the harsher ending wins, in either order."""
    both = latency(0.1) | status(503) | latency(0.2, 0.1) | slow_close(1)
    assert both.name == "latency(0.1) | status(503) | latency(0.2) | slow_close(1)"
    assert both.wait == pytest.approx(0.3)
    assert (both.jitter, both.linger) == (0.1, 1)
    assert (both.answer, both.ending) == (status(503).answer, Ending.CLOSE)
    assert (status(503) | status(429)).answer == status(429).answer
    assert (status(503) | ok()).answer == status(503).answer
    assert (status(503) | pccr()).answer is None
    for one, two in ((limit_data(9), reset_peer()), (timeout(), close_without_answer())):
        assert (one | two).ending == (two | one).ending
        assert (one | two).limit == (two | one).limit
    assert ok() | ok() == ok()
    assert status(503, 1) == status(503, 1) != status(503, 2)


# --- faults: other answers -----------------------------------------------------------------


async def test_a_status_comes_with_what_it_was_given(adobe: FakeCollector) -> None:
    """Retry-After in both forms, a body and its type, and codes nobody named."""
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    adobe.will(status(503, retry_after=120), status(429, date, b"{}", "application/json"))
    adobe.will(status(599), status(204), status(304))
    async with connected(adobe) as client:
        code, headers, _ = await client.ask()
        assert (code, headers[b"retry-after"]) == (503, b"120")
        code, headers, body = await client.ask()
        assert (code, headers[b"retry-after"], body) == (429, date.encode(), b"{}")
        assert headers[b"content-type"] == b"application/json"
        assert [(await client.ask())[0] for _ in range(3)] == [599, 204, 304]


async def test_a_captive_portal_answers_every_request_with_its_page(adobe: FakeCollector) -> None:
    """200, and yet not Adobe."""
    adobe.always(captive_portal())
    async with connected(adobe) as client:
        for target in (HOME, b"/b/ss//6", b"/id"):
            code, headers, body = await client.ask(get(target))
            assert (code, headers[b"content-type"][:9], body[:9]) == (
                200,
                b"text/html",
                b"<!DOCTYPE",
            )


async def test_the_xml_failure_looks_like_the_documented_one(adobe: FakeCollector) -> None:
    """Status 200, FAILURE, and the reason as a second root."""
    adobe.will(xml_failure("NO pagename OR pageurl"))
    async with connected(adobe) as client:
        code, headers, body = await client.ask(get(b"/b/ss//6", method=b"POST", body=b"<request/>"))
    assert (code, headers[b"content-type"]) == (200, b"text/xml")
    assert b"<status>FAILURE</status>\n<reason>NO pagename OR pageurl</reason>" in body


async def test_garbage_is_no_http(adobe: FakeCollector) -> None:
    """Just these bytes, and the end."""
    adobe.will(garbage(b"\x15\x03\x01"))
    async with connected(adobe) as client:
        client.send(get())
        assert await client.rest() == b"\x15\x03\x01"
    assert adobe.answered == []


async def test_an_endless_body_ends_only_when_the_client_goes(adobe: FakeCollector) -> None:
    """It is as fast as it is read, and waits in no memory of the server's."""
    adobe.will(endless_body())
    async with connected(adobe) as client:
        client.send(get())
        assert b"chunked" in await client.reader.readuntil(b"\r\n\r\n")
        await client.reader.readexactly(2_000_000)
        [connection] = adobe._connections
        for _ in range(5000):  # turns of the loop in which it could write, and nobody reads
            await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() < 1_000_000
    await adobe.until(lambda: adobe.received[0].over)
    assert adobe.answered == []


async def test_an_endless_body_can_be_cut_and_has_no_body_for_head(adobe: FakeCollector) -> None:
    """Faults combine with it too."""
    adobe.will(endless_body(), limit_data(50_000) | endless_body())
    async with connected(adobe) as client:
        client.send(get(method=b"HEAD"))
        assert (await client.answer(head_only=True))[0] == 200
        client.send(get())
        assert len(await client.rest()) == 50_000


async def test_the_cookie_check_redirects_once_to_the_same_request(adobe: FakeCollector) -> None:
    """`pccr=true` and `vidn` stand right behind `AQB=1`; the second time it is answered."""
    adobe.always(pccr())
    async with connected(adobe) as client:
        code, headers, _ = await client.ask()
        prefix = b"http://adobe.example/b/ss/opt/1/JS-2.27.0/s1?AQB=1&pccr=true&vidn="
        location = headers[b"location"]
        assert (code, location[: len(prefix)]) == (302, prefix)
        assert location.endswith(b"&&ndh=1&fid=A-B&pageName=home&AQE=1")
        assert headers[b"set-cookie"].startswith(b"s_vi=[CS]v1|")
        assert (await client.ask(get(location.removeprefix(b"http://adobe.example"))))[0] == 200
        _, headers, _ = await client.ask(get(b"/b/ss/opt/1/H/0?pageName=x"))
        assert headers[b"location"].endswith(b"&&pageName=x")
        adobe.will(pccr(loop=True))
        assert (await client.ask(get(location.removeprefix(b"http://adobe.example"))))[0] == 302


async def test_a_redirect_goes_where_it_was_told(adobe: FakeCollector) -> None:
    """Also to another host."""
    adobe.will(redirect("https://evil.example/"), redirect(b"/x", 307))
    async with connected(adobe) as client:
        code, headers, _ = await client.ask()
        assert (code, headers[b"location"]) == (302, b"https://evil.example/")
        assert (await client.ask())[0] == 307


async def test_a_rate_limit_refuses_what_comes_faster() -> None:
    """A second's worth at once, then one for each moment that passed; and it says when."""
    limit = rate_limit(2, retry_after=1)
    assert limit.choose is not None
    answers = []
    for at in (0.0, 0.0, 0.0, 0.4, 0.5, 0.6, 9.0, 9.0, 9.0):
        hit = received()
        hit.at = 100 + at
        answers.append(limit.choose(hit))
    busy = status(429, retry_after=1)
    assert answers == [ok(), ok(), busy, busy, ok(), busy, ok(), ok(), busy]


async def test_a_rate_limit_works_at_the_door(adobe: FakeCollector) -> None:
    """As the default, under other faults."""
    adobe.always(rate_limit(0.01) | latency(0.001))
    async with connected(adobe) as client:
        codes = [(await client.ask())[0] for _ in range(3)]
    assert codes == [200, 429, 429]


async def test_only_so_many_are_served_at_a_time(adobe: FakeCollector) -> None:
    """The next one is refused, and a slot is free again once its request is over."""
    adobe.always(slots(2, timeout()))
    async with connected(adobe) as one, connected(adobe) as two, connected(adobe) as three:
        one.send(get())
        two.send(get())
        await adobe.wait_for(2)
        assert (await three.ask())[0] == 503
        one.writer.transport.abort()
        await adobe.until(lambda: adobe.received[0].over)
        three.send(get())
        await adobe.wait_for(4)
        assert adobe.counts.in_flight == 2


async def test_a_choice_of_ones_own(adobe: FakeCollector) -> None:
    """`by` looks at the request; what it chooses joins what stands beside it."""
    adobe.always(by(lambda hit: status(503) if hit.param(b"v1") else ok()) | slow_close(0))
    async with connected(adobe) as client:
        _, headers, _ = await client.ask()
        assert headers[b"connection"] == b"close"
    async with connected(adobe) as client:
        assert (await client.ask(get(HOME + b"&v1=1")))[0] == 503


# --- the link ------------------------------------------------------------------------------


async def test_the_link_can_be_cut_and_comes_back_on_the_same_port(adobe: FakeCollector) -> None:
    """Connections break, new ones are refused, and then all is as before."""
    url = adobe.url
    async with connected(adobe) as client:
        await client.ask()
        await adobe.cut()
        assert adobe.counts.open == 0
        assert await client.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(adobe.host, adobe.port)
    await adobe.cut()
    await adobe.restore()
    await adobe.restore()
    async with connected(adobe) as client:
        assert (await client.ask())[0] == 200
    assert (adobe.url, adobe.counts.requests) == (url, 2)


async def test_nobody_takes_the_port_while_the_link_is_cut(adobe: FakeCollector) -> None:
    """It stays bound, so a free port is another one."""
    await adobe.cut()
    async with FakeCollector() as other:
        assert other.port != adobe.port


async def test_a_request_can_take_the_link_down(adobe: FakeCollector) -> None:
    """With it go all connections."""
    adobe.when(b"last", down())
    async with connected(adobe) as bystander, connected(adobe) as client:
        await bystander.ask()
        client.send(get(HOME + b"&v1=last"))
        await adobe.until(lambda: adobe.counts.open == 0)
        assert await client.rest() == b""
        assert await bystander.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(adobe.host, adobe.port)
    await adobe.restore()
    async with connected(adobe) as client:
        assert (await client.ask())[0] == 200
    assert adobe.counts.in_flight == 0


async def test_a_connection_accepted_as_the_link_goes_is_closed(adobe: FakeCollector) -> None:
    """Before anything of the event loop had seen it."""
    with socket.create_connection((adobe.host, adobe.port)) as early:
        early.settimeout(10)
        adobe._accept()
        assert len(adobe._accepting) == 1
        await adobe.cut()
        assert (early.recv(1), adobe.counts.opened) == (b"", 0)


async def test_it_stops_at_once_whatever_hangs() -> None:
    """Silent clients, half a request, hanging and endless answers."""
    adobe = FakeCollector()
    await adobe.start()
    adobe.when(b"hang", timeout())
    adobe.when(b"slow", latency(1000))
    adobe.when(b"drip", bandwidth(1))
    adobe.when(b"endless", endless_body())
    adobe.when(b"linger", slow_close(1000))
    clients = [await asyncio.open_connection(adobe.host, adobe.port) for _ in range(7)]
    for (_, writer), word in zip(clients, (b"hang", b"slow", b"drip", b"endless", b"linger")):  # noqa: B905 - two say nothing or half
        writer.write(get(HOME + word))
    clients[5][1].write(b"GET / HTTP/1.1\r\nHos")
    await adobe.wait_for(5)
    async with asyncio.timeout(1):
        await adobe.stop()
    assert (adobe.counts.open, adobe.counts.in_flight) == (0, 0)
    for _, writer in clients:
        writer.transport.abort()


async def test_it_can_be_started_again_and_only_once(adobe: FakeCollector) -> None:
    """On the port it had; what was received stays; stopping twice is nothing."""
    port = adobe.port
    async with connected(adobe) as client:
        await client.ask()
    await adobe.stop()
    await adobe.stop()
    with pytest.raises(RuntimeError, match="not started"):
        await adobe.restore()
    await adobe.start()
    with pytest.raises(RuntimeError, match="already started"):
        await adobe.start()
    assert (adobe.port, adobe.counts.requests) == (port, 1)
    async with connected(adobe) as client:
        assert (await client.ask())[0] == 200


async def test_a_port_in_use_is_an_error_at_the_start(adobe: FakeCollector) -> None:
    """And leaves nothing behind."""
    with pytest.raises(OSError, match="in use"):
        await FakeCollector(port=adobe.port).start()


async def test_a_link_that_flaps_under_load_leaves_no_trace(adobe: FakeCollector) -> None:
    """Accepted, half open, under way: nothing warns, leaks or stays behind."""
    adobe.always(latency(0.001, 0.001))
    stop = asyncio.Event()

    async def insist() -> None:
        while not stop.is_set():
            try:
                async with connected(adobe) as client:
                    for _ in range(20):
                        await client.ask()
            except (OSError, EOFError):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(insist())
        for _ in range(20):
            await adobe.wait_for(adobe.counts.requests + 20)
            await adobe.cut()
            assert (adobe.counts.open, adobe.counts.in_flight) == (0, 0)
            await adobe.restore()
        stop.set()
    await adobe.until(lambda: adobe.counts.open == 0)
    assert adobe.counts.malformed == 0


@pytest.mark.parametrize("fault", [ok(), latency(1000), slicer(1, 1000), slow_close(1000)])
async def test_a_client_that_goes_abruptly_leaves_no_trace(
    adobe: FakeCollector, fault: Fault
) -> None:
    """In the middle of a request or of an answer."""
    adobe.always(fault)
    async with connected(adobe) as client:
        client.send(get() + get()[:20])
        await adobe.wait_for(1)
    await adobe.until(lambda: adobe.counts.open == 0)
    assert (adobe.counts.in_flight, adobe.received[0].over) == (0, True)


# --- TLS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate for 127.0.0.1, made on the spot."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=fake"
    names = f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run([openssl, *kind.split(), *names.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


async def test_over_tls_all_is_the_same(tls: tuple[ssl.SSLContext, Path]) -> None:
    """Answers, redirects to https, faults, cutting and stopping."""
    server, certificate = tls
    trusting = ssl.create_default_context(cafile=certificate)
    async with FakeCollector(ssl_context=server) as adobe:
        assert adobe.url == f"https://127.0.0.1:{adobe.port}"
        adobe.will(ok(), pccr(), reset_peer(), timeout())
        async with connected(adobe, trusting) as client:
            assert (await client.ask())[2] == GIF
            assert (await client.ask())[1][b"location"].startswith(b"https://adobe.example/")
            client.send(get())
            with pytest.raises(ConnectionResetError):
                await client.rest()
        async with connected(adobe, trusting) as client:
            client.send(get())
            await adobe.wait_for(4)
            await adobe.cut()
            assert adobe.counts.open == 0
            await adobe.restore()
        async with connected(adobe, trusting) as client:
            assert (await client.ask())[0] == 200


async def test_a_client_that_does_not_trust_it_sends_nothing(
    tls: tuple[ssl.SSLContext, Path],
) -> None:
    """The failed handshake is counted, and no request."""
    async with FakeCollector(ssl_context=tls[0]) as adobe:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(adobe.host, adobe.port, ssl=ssl.create_default_context())
        await adobe.until(lambda: adobe.counts.handshakes_failed == 1)
        async with connected(adobe) as plain:
            plain.send(get())
            await plain.rest()
        await adobe.until(lambda: adobe.counts.handshakes_failed == 2)
        assert adobe.counts.requests == 0


async def test_a_handshake_that_hangs_does_not_hold_up_the_end(
    tls: tuple[ssl.SSLContext, Path],
) -> None:
    """The client connected and said nothing."""
    async with FakeCollector(ssl_context=tls[0]) as adobe, connected(adobe) as mute:
        await adobe.until(lambda: bool(adobe._accepting))
        async with asyncio.timeout(1):
            await adobe.stop()
            assert await mute.rest() == b""


# --- by hand ---------------------------------------------------------------------------------


async def run(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.fake", *arguments, stdout=asyncio.subprocess.PIPE
    )


async def spoken(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(10):
        return (await process.stdout.readline()).decode().rstrip()


async def test_by_hand_it_says_its_address_each_hit_and_the_sum() -> None:
    """And a signal ends it in good order."""
    process = await run("--latency", "0.001")
    url = await spoken(process)
    async with aiohttp.ClientSession() as session, session.get(url + HOME.decode()) as answer:
        assert await answer.read() == GIF
    assert (await spoken(process)).endswith(
        f"GET opt type=1 ts=- home {len(HOME)} B  latency(0.001)"
    )
    process.send_signal(signal.SIGTERM)
    assert await spoken(process) == "requests 1 answered 1 connections 1 malformed 0"
    assert await process.wait() == 0


async def test_by_hand_and_quiet_it_only_counts() -> None:
    """One line when the count has changed, none for a hit."""
    process = await run("--quiet")
    url = await spoken(process)
    assert await spoken(process) == "requests 0 answered 0 connections 0 malformed 0"
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(url + HOME.decode()) as answer:
                assert answer.status == 200
    process.send_signal(signal.SIGINT)
    lines = [each async for each in process.stdout] if process.stdout else []
    assert lines[-1] == b"requests 3 answered 3 connections 1 malformed 0\n"
    assert await process.wait() == 0


# --- the Edge Network ------------------------------------------------------------------------


def to_edge(call: bytes, body: bytes = b"{}") -> bytes:
    return get(b"/ee/" + call + b"?configId=a&requestId=r", method=b"POST", body=body)


async def test_edge_knows_its_endpoints() -> None:
    """Events, media, consent and identity; what else is asked for is not there."""
    async with FakeCollector() as edge, connected(edge) as client:
        for call in (b"v1/interact", b"va/v1/sessionStart", b"v1/privacy/set-consent"):
            status, _, body = await client.ask(to_edge(call))
            assert status == 200
            assert body.endswith(b'"handle": []}')
        assert (await client.ask(to_edge(b"v1/other")))[0] == 404


async def test_edge_gives_an_identity_to_who_has_none() -> None:
    """In the body, as for a page of another domain."""
    key = b"kndctr_ORG_AdobeOrg_identity"
    async with FakeCollector() as edge, connected(edge) as client:
        edge.always(identifies("ORG@AdobeOrg", "7" * 38))
        _, _, stranger = await client.ask(to_edge(b"v1/interact", b'{"events":[{"xdm":{}}]}'))
        _, _, known = await client.ask(to_edge(b"v1/interact", b'{"x":"%s"}' % key))
    assert b'"type": "state:store"' in stranger
    assert key in stranger
    assert b'"handle": []' in known
    assert [hit.events for hit in edge.received] == [[{"xdm": {}}], []]


async def test_an_error_of_edges_is_problem_details() -> None:
    """With the number of Adobe's page, and what it says of trying again."""
    async with FakeCollector() as edge, connected(edge) as client:
        edge.will(problem("0201-503", "later", retry_after=7))
        status, headers, body = await client.ask(to_edge(b"v1/collect"))
    assert status == 503
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"retry-after"] == b"7"
    assert b"EXEG-0201-503" in body
