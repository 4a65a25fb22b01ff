"""A GET that needs no parser: it is told apart surely, and fares as if the parser had read it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import pytest
from aiohttp import HttpVersion11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st
from raw import get, post

from proxy.core import plain, wire
from proxy.core.analytics import Analytics
from proxy.core.hit import NewHit, Received, Suites
from proxy.core.plain import Heads, is_head, split
from proxy.errors import QueueError, QueueFull
from proxy.roads import Roads
from proxy.shell.intake import Intake, Listening, _Connection, _Server

HIT = b"/b/ss/opt/1/JS-2.27.0/%s?AQB=1&mid=7&pageName=home&AQE=1"
T = TypeVar("T")
TURNS = 12  # of the loop, in which aiohttp's own road answers what needs no disk


# -- what is plain -------------------------------------------------------------------------


def test_a_get_is_split_behind_its_first_line() -> None:
    found = split(get(b"/b/ss/opt/1?x=1", b"A: b"))
    assert found == (b"/b/ss/opt/1?x=1", b"\r\nHost: localhost\r\nA: b\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"GET /",
        b"GET /x HTTP/1.1",
        b"GET /x HTTP/1.0\r\n\r\n",
        b"GET /x  HTTP/1.1\r\n\r\n",
        b"GET  /x HTTP/1.1\r\n\r\n",
        b"GET /x y HTTP/1.1\r\n\r\n",
        b"GET /x#y HTTP/1.1\r\n\r\n",
        b"GET /x\n HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET http://localhost/ HTTP/1.1\r\n\r\n",
        b"GET * HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.1\r\n\r\n",
        b"get /x HTTP/1.1\r\n\r\n",
        b"\r\nGET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\nHost: a\n\nGET /y HTTP/1.1\r\n\r\n",
    ],
)
def test_what_two_readers_could_read_differently_is_not_plain(data: bytes) -> None:
    assert split(data) is None


@given(st.binary(max_size=40))
@example(b"x\r")
@example(b"HTTP/1.1")
def test_a_plain_target_is_visible_ascii_and_the_pieces_are_the_whole(middle: bytes) -> None:
    data = b"GET /" + middle + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    found = split(data)
    if found is not None:
        target, rest = found
        assert b"GET " + target + b" HTTP/1.1" + rest == data
        assert all(0x21 <= byte < 0x7F for byte in target)


@pytest.mark.parametrize("byte", range(256))
async def test_of_a_plain_target_the_parser_says_the_same(byte: int) -> None:
    target = b"/b/ss/a?x=" + bytes([byte]) + b"y"
    data = get(target)
    if split(data) is not None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        ((message, _),), _, rest = parser.feed_data(data)
        assert (message.path.encode(), message.version, rest) == (target, HttpVersion11, b"")
    else:
        assert byte <= 0x20 or byte >= 0x7F or byte == ord("#")


def test_one_whole_head_may_be_kept_and_nothing_else() -> None:
    assert is_head(b"\r\nHost: a\r\n\r\n")
    assert is_head(b"\r\n\r\n")
    assert not is_head(b"\r\nHost: a\r\n")
    assert not is_head(b"\rHost: a\r\n\r\n")
    assert not is_head(b"\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    assert not is_head(b"\r\nA: " + bytes(plain.LONGEST) + b"\r\n\r\n")
    few = plain.MOST_PIECES - 2
    assert is_head(b"\r\n" + b"A: b\r\n" * few + b"\r\n")
    assert not is_head(b"\r\n" + b"A: b\r\n" * (few + 1) + b"\r\n")
    assert not is_head(b"\r\nCookie: " + b"s_vi=1;" * (few + 3) + b"\r\n\r\n")


def test_the_heads_that_came_last_are_known_and_never_many() -> None:
    heads = Heads[int](most=10)
    for number in range(1_000):
        heads.keep(b"%d" % number, "", number)
        assert heads.get(b"0", "") == (0 if number < 1_000 else None)
    known = {number for number in reversed(range(1_000)) if heads.get(b"%d" % number, "") == number}
    assert {0, *range(996, 1_000)} <= known
    assert len(known) <= 10


def test_a_head_is_known_to_have_come_until_many_others_came() -> None:
    heads = Heads[int]()
    assert not heads.again(b"head", "192.0.2.1")
    assert not heads.again(b"head", "192.0.2.2")
    assert heads.again(b"head", "192.0.2.1")
    for number in range(plain.MOST_ONCE):
        assert not heads.again(b"%d" % number, "")
        assert len(heads._once) <= plain.MOST_ONCE
    assert not heads.again(b"head", "192.0.2.1")


def test_a_head_is_another_one_from_another_address() -> None:
    heads = Heads[int]()
    heads.keep(b"head", "192.0.2.1", 1)
    assert (heads.get(b"head", "192.0.2.1"), heads.get(b"head", "192.0.2.2")) == (1, None)


# -- as if the parser had read it --------------------------------------------------------


@dataclass(slots=True)
class Kept:
    """A queue without a disk: what is put is stored in the loop's next turn, or refused then."""

    hits: list[NewHit] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    is_full: bool = False
    _ids: count[int] = field(default_factory=lambda: count(1))

    def put(
        self, hits: Sequence[NewHit], tell: Callable[[list[int] | QueueError | None], None]
    ) -> None:
        if self.is_full:
            raise QueueFull("max_hits")
        self.hits += hits
        asyncio.get_running_loop().call_soon(tell, [next(self._ids) for _ in hits])

    async def newest(self, count: int, say: Callable[[bytes], T]) -> list[T]:
        return [say(hit.content) for hit in reversed(self.hits[-count:])]

    def tally(self, name: str) -> None:
        self.counts[name] += 1


class Wire(asyncio.Transport):
    """A client's end in memory: what was written to it, and whether it was closed."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 1)})
        self.got, self.is_over = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.is_over:
            self.got += data

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


class Side:
    """A beacon port without a socket; `learns`: whether it knows heads that came before."""

    def __init__(self, *, learns: bool, is_full: bool = False) -> None:
        self.store, self.unparsed, self._learns = Kept(is_full=is_full), 0, learns
        intake = Intake(self.store, [Analytics(Suites({}))], lambda: Received(1, 5), Roads())
        self._server = _Server(intake, Listening("127.0.0.1", 0, max_request=1_000, linger_s=0))

    def connection(self, end: Wire | None = None) -> _Connection:
        """Of a client that has said nothing yet."""
        connection = self._server()
        assert isinstance(connection, _Connection)
        connection.connection_made(end or Wire("127.0.0.1"))
        return connection

    async def hear(self, pieces: Sequence[bytes], peer: str = "127.0.0.1") -> tuple[bytes, bool]:
        """What a client gets that says these one after the other, and whether it is let go."""
        end = Wire(peer)
        connection = self.connection(end)
        for piece, then in zip(pieces, [*pieces[1:], b"."], strict=True):
            if end.is_over:
                break
            if not piece:
                continue
            if not self._learns:
                connection._heads = Heads()
            before = connection._request_count
            connection.data_received(piece)
            is_whole = piece.startswith(b"GET") and piece.endswith(plain.END)
            self.unparsed += is_whole and connection._request_count == before
            for _ in range(TURNS if then else 0):
                await asyncio.sleep(0)
        was_over = end.is_over
        connection.connection_lost(None)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return re.sub(rb"Date: [^\r]*", b"", end.got), was_over

    @property
    def stored(self) -> list[tuple[int, bytes]]:
        return [(hit.lane, hit.content) for hit in self.store.hits]


TARGETS = st.one_of(
    st.integers(0, 3).map(lambda n: HIT % b"s1234567890%d" % n),
    st.sampled_from([HIT % b"x", HIT % b"upgrade"]),
    st.sampled_from([b"/id?x=1", b"/", b"//b/ss/a/1", b"*", b"http://localhost" + HIT % b"y"]),
    st.sampled_from([HIT % (b"z" * 900), HIT % (b"z" * 990)]),
    st.binary(min_size=1, max_size=2).map(lambda odd: HIT % odd),
)
FIRST = st.sampled_from([b"HEAD", b"POST", b"OPTIONS", b"get"])
LAST = st.sampled_from([b"HTTP/1.0", b"HTTP/2.0", b"", b"http/1.1"])
LINES = st.sampled_from(
    [
        b"User-Agent: UA1",
        b"User-Agent: UA2",
        b"Cookie: s_vi=[CS]v1|2A-3B[CE]",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Content-Length: 0",
        b"Content-Length: 3",
        b"Upgrade-Insecure-Requests: 1",
    ]
)
ODD_LINES = st.sampled_from(
    [
        b"Cookie: session=1",
        b"Authorization: Basic eA==",
        b"X-Forwarded-For: 8.8.8.8",
        b"Origin: https://shop.example",
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Host: evil.example",
        b"A : b",
        b" folded",
        b"A: b\nC: d",
        b"A: b\n",
        b"A:",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Mostly hits as they should be; the odd one out is odd in one thing."""
    odd = draw(st.sampled_from(["", "", "", "", "method", "version", "line", "end", "host"]))
    end = draw(st.sampled_from([b"\n", b"\r"])) if odd == "end" else b"\r\n"
    method = draw(FIRST) if odd == "method" else b"GET"
    version = draw(LAST) if odd == "version" else b"HTTP/1.1"
    lines = [draw(ODD_LINES)] if odd == "line" else draw(st.lists(LINES, max_size=1))
    host = [] if odd == "host" else [b"Host: localhost"]
    first = b" ".join((method, draw(TARGETS), version))
    return end.join((first, *host, *lines, b"", b"")) + draw(st.sampled_from([b""] * 6 + [b"abc"]))


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """Requests as they may come: whole, in parts, without their end, and some of them again.

    Several are one piece, or one and the beginning of another, or the next comes before the first
    is answered (an empty piece).
    """
    said = draw(st.lists(requests(), min_size=1, max_size=3))
    found: list[bytes] = []
    for one in draw(st.lists(st.sampled_from(said), min_size=1, max_size=6)):
        how = draw(st.sampled_from(["whole"] * 3 + ["cut", "short", "joined", "begun", "soon"]))
        at = draw(st.sampled_from([1, 3, len(one) // 2, len(one) - 2, len(one) - 1]))
        if how == "joined" and found:
            found[-1] += one
        elif how == "begun" and found:
            found[-1] += one[:at]
        else:
            found += {"cut": [one[:at], one[at:]], "short": [one[:at]], "soon": [b"", one]}.get(
                how, [one]
            )
    return found


CLOSE, LENGTH = get(HIT % b"x", b"Connection: close"), get(HIT % b"x", b"Content-Length: 3")


@given(
    st.lists(pieces(), min_size=1, max_size=3),
    st.sampled_from(["127.0.0.1", "8.8.4.4", "192.168.0.7"]),
    st.booleans(),
)
@example([[get(HIT % b"x")] * 2, [get(HIT % b"x")[:-4], get(HIT % b"x")]], "127.0.0.1", False)
@example(
    [[get(HIT % b"x")] * 2, [get(HIT % b"x"), b"", get(HIT % b"y"), b"", get(b"/")]], "::1", False
)
@example([[get(HIT % b"x")] * 2, [get(HIT % b"x") + b"GET /", get(HIT % b"x")]], "127.0.0.1", False)
@example(
    # (what offers an upgrade, as it seems, is given to the parser in parts)
    [
        [get(HIT % b"x")] * 2,
        [get(HIT % b"upgrade") + b"GET /b/ss HTTP/1.1\r\nA: ", get(HIT % b"x")],
    ],
    "127.0.0.1",
    False,
)
@example([[CLOSE, get(HIT % b"x")]], "127.0.0.1", False)
@example([[LENGTH + b"abc", LENGTH, get(HIT % b"x")]], "127.0.0.1", False)
@example([[get(HIT % b"x", method=b"HEAD"), get(HIT % b"x")]], "127.0.0.1", False)
def test_what_comes_again_fares_as_if_the_parser_had_read_it(
    clients: list[list[bytes]], peer: str, is_full: bool
) -> None:
    """Answers, hits, counts and whether the connection ends: all the same, in the same order."""

    async def fares(*, learns: bool) -> object:
        side = Side(learns=learns, is_full=is_full)
        got = [await side.hear(said, peer) for said in clients for _ in range(3)]
        return got, side.stored, side.store.counts

    assert asyncio.run(fares(learns=True)) == asyncio.run(fares(learns=False))


async def test_a_head_that_came_before_is_not_parsed_again_and_another_one_is() -> None:
    """From the third time on; once seen is not worth to be kept."""
    side = Side(learns=True)
    await side.hear([get(HIT % name, b"User-Agent: UA1") for name in (b"a", b"b", b"c")])
    assert (side.unparsed, len(side.stored)) == (1, 3)
    await side.hear([get(HIT % b"d", b"User-Agent: UA2"), get(HIT % b"e", b"User-Agent: UA1")])
    assert (side.unparsed, len(side.stored)) == (2, 5)


async def test_what_was_parsed_on_a_connection_does_not_matter_to_what_follows() -> None:
    """But for a body: from then on the connection is aiohttp's."""
    side, one = Side(learns=True), get(HIT % b"a")
    await side.hear([one, one, one[:9], one[9:], one, one + one, one, get(b"/nowhere"), one])
    # all but the first two, the one in parts, and the two at once
    assert (side.unparsed, len(side.stored)) == (4, 8)
    await side.hear([post(HIT % b"b", b"x=1"), one, one])
    assert (side.unparsed, len(side.stored)) == (4, 11)


@pytest.mark.parametrize("ends", ["pause_writing", "close", "force_close"])
async def test_who_reads_no_answers_or_is_let_go_is_asked_for_no_more(ends: str) -> None:
    side = Side(learns=True)
    await side.hear([get(HIT % b"a"), get(HIT % b"b")])
    connection = side.connection()
    getattr(connection, ends)()
    connection.data_received(get(HIT % b"c"))
    assert len(side.stored) == 2
    if ends == "pause_writing":
        connection.resume_writing()
        assert len(side.stored) == 3
    connection.connection_lost(None)


@pytest.mark.parametrize(
    "secret", [b"Authorization: Basic eA==", b"Cookie: s_vi=[CS]v1|2A-3B[CE]; session=1"]
)
async def test_a_head_with_a_secret_of_others_is_not_kept(secret: bytes) -> None:
    side = Side(learns=True)
    await side.hear([get(HIT % name, secret) for name in (b"a", b"b", b"c")])
    assert (side.unparsed, len(side.stored)) == (0, 3)


async def test_a_target_that_is_too_long_is_refused_behind_a_known_head() -> None:
    side = Side(learns=True)
    got, _ = await side.hear([get(HIT % b"a"), get(HIT % b"b"), get(HIT % (b"z" * 940))])
    assert (got.count(b"HTTP/1.1 200 OK"), got.count(b"HTTP/1.1 414 ")) == (2, 1)
    assert side.store.counts["refused.too-large"] == 1


def test_every_hit_is_whole_however_it_was_read() -> None:
    async def contents() -> list[bytes]:
        side = Side(learns=True)
        await side.hear([get(HIT % name, b"User-Agent: UA1") for name in (b"a", b"b", b"c")])
        assert side.unparsed == 1
        return [wire.plain(content) for _, content in side.stored]

    assert asyncio.run(contents()) == [
        b"GET " + HIT % name + b" HTTP/1.1\r\nUser-Agent: UA1\r\n\r\n"
        for name in (b"a", b"b", b"c")
    ]
