"""Clients as they are: visitors who send one hit after the other, whatever becomes of the daemon.

Rule: seeded, so that the same seed sends the same hits; every answer, refusal and silence is
told to the oracle at once.  A visitor's next hit is sent only when the last one is over.
Non-rule: no fault and no judgement.  When hits are sent is not repeatable: that is up to the
daemon and the machine.
Source: AppMeasurement sends its hits one by one and, with offline tracking, the same bytes
again until they are answered; images and server-side clients send once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import TypeAlias

from oracle import Promises, named

from proxy.core.hit import Headers, Request

SUITES = ("examplersid", "exampledev")
# Both take timestamps, so that each hit is stamped.
STAMPED = {f"suites.known.{suite}.timestamps": "optional" for suite in SUITES}
AGENT = b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0"
PATIENCE_S = 10.0
TRY_AGAIN_S = 0.01

Shape: TypeAlias = "Callable[[Random, str, str, str], Request]"


class Resend(Enum):
    """What a client does when no answer or a refusal comes."""

    NEVER = "never"  # the hit is over: stored or not, nobody knows
    UNTIL_TAKEN = "until taken"  # the same bytes again; only where a copy can be told


# -- hits ------------------------------------------------------------------------------------


def _query(random: Random, visitor: str, name: str, size: int = 0) -> bytes:
    filler = "".join(f"&v{n}={random.randbytes(40).hex()}" for n in range(1, 1 + size // 84))
    return (
        f"AQB=1&ndh=1&pf=1&t=24%2F10%2F2026%200%3A0%3A0%202%20-60&vid={visitor}&ce=UTF-8"
        f"&pageName={name}&g=https%3A%2F%2Fshop.example%2F{name}&c.&a.&ts=1&.a&.c&c1={name}"
        f"{filler}&s=1920x1080&AQE=1"
    ).encode()


def _path(random: Random, suite: str) -> bytes:
    return f"/b/ss/{suite}/1/JS-2.27.0/s{random.randrange(10**13):014}".encode()


def _headers(*more: tuple[bytes, bytes]) -> Headers:
    return (
        (b"User-Agent", AGENT),
        (b"Accept", b"*/*"),
        (b"Referer", b"https://shop.example/a?b=c"),
        (b"Cookie", b"s_fid=6A1F-2B3C"),
        *more,
    )


def image(random: Random, suite: str, visitor: str, name: str) -> Request:
    """AppMeasurement's GET."""
    target = _path(random, suite) + b"?" + _query(random, visitor, name)
    return Request("GET", target, _headers())


def large(random: Random, suite: str, visitor: str, name: str) -> Request:
    """The same with many variables, 1 to 12 KB."""
    target = _path(random, suite) + b"?" + _query(random, visitor, name, random.randrange(12_000))
    return Request("GET", target, _headers())


def beacon(random: Random, suite: str, visitor: str, name: str) -> Request:
    """`navigator.sendBeacon`."""
    body = _query(random, visitor, name, random.randrange(3_000))
    typed = (b"Content-Type", b"text/plain;charset=UTF-8")
    return Request("POST", _path(random, suite), _headers(typed), body)


def form(random: Random, suite: str, visitor: str, name: str) -> Request:
    """AppMeasurement's POST of what is too long for a GET, with a timestamp of its own."""
    own = f"AQB=1&ts={1_700_000_000 + random.randrange(10**7)}&".encode()
    body = own + _query(random, visitor, name, random.randrange(20_000))[6:]
    typed = (b"Content-Type", b"application/x-www-form-urlencoded")
    return Request("POST", _path(random, suite), _headers(typed), body)


def mobile(random: Random, suite: str, visitor: str, name: str) -> Request:
    """The mobile SDK's POST."""
    path = f"/b/ss/{suite}/0/JAVA-4.18.2-AN/s{random.randrange(10**8)}".encode()
    body = (
        f"ndh=1&ce=UTF-8&c.&a.&OSVersion=Android%209&AppID={name}&.a&.c&t=00%2F00%2F0000%2000"
        f"%3A00%3A00%200%20-60&pageName={name}&vid={visitor}"
    ).encode()
    return Request(
        "POST",
        path,
        (
            (b"User-Agent", b"Dalvik/2.1.0 (Linux; U; Android 9)"),
            (b"Content-Type", b"application/x-www-form-urlencoded"),
        ),
        body,
    )


def hardcoded(random: Random, suite: str, visitor: str, name: str) -> Request:
    """An image with a constant path: sent again it is another hit."""
    target = f"/b/ss/{suite}/1/H.27.5--NS/0?vid={visitor}&pageName={name}".encode()
    return Request("GET", target, _headers())


def insertion(random: Random, suite: str, visitor: str, name: str) -> Request:
    """A server's XML hit."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<request>\n<sc_xml_ver>1.0</sc_xml_ver>\n'
        f"<reportSuiteID>{suite}</reportSuiteID>\n<visitorID>{visitor}</visitorID>\n"
        f"<pageName>{name}</pageName>\n</request>"
    ).encode()
    return Request("POST", b"/b/ss//6", ((b"Content-Type", b"text/xml"),), body)


# A copy of these can be told by its random path segment.
RESENDABLE: tuple[Shape, ...] = (image, image, image, large, beacon, form, mobile)
SHAPES: tuple[Shape, ...] = (*RESENDABLE, hardcoded, insertion)


# -- who sends them --------------------------------------------------------------------------


@dataclass(slots=True)
class Traffic:
    """So many visitors, each sending on its own until told to stop."""

    address: str
    promises: Promises
    seed: int
    visitors: int = 8
    resend: Resend = Resend.NEVER
    pause_s: float = 0.02  # the mean from one hit of a visitor to the next
    shapes: tuple[Shape, ...] = SHAPES
    answers: Counter[int] = field(default_factory=Counter)  # by status; 0: no answer
    slowest_s: float = 0.0  # the longest wait for an answer
    took: dict[int, deque[float]] = field(default_factory=dict)  # the last waits, by status
    run: int = -1  # what the names begin with; the seed without other word
    _numbers: Counter[int] = field(default_factory=Counter)
    _go: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: int = 0
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = self.seed if self.run < 0 else self.run

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Traffic]:
        """Everyone sends within the block; what is unanswered at its end stays unknown."""
        self._tasks = [asyncio.create_task(self._visit(n)) for n in range(self.visitors)]
        self._go.set()
        try:
            yield self
        finally:
            self._go.clear()
            for task in self._tasks:
                task.cancel()
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
            for end in ends:
                if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                    raise end

    async def hush(self) -> None:
        """Nobody sends any more; back when the last answer is there."""
        self._go.clear()
        if self._busy:
            self._quiet.clear()
            await self._quiet.wait()

    def go_on(self) -> None:
        self._go.set()

    async def send(self, count: int, shape: Shape = image, visitors: int = 1) -> None:
        """So many hits now, one after the other, of visitors of their own; each is answered 200."""
        connection = _Connection(self.address)
        random = Random(f"{self.seed} {self._numbers.total()}")
        try:
            for n in range(count):
                visitor = self.visitors + n % visitors
                answered = await self._tell(connection, random, visitor, shape)
                assert answered == 200, answered
        finally:
            connection.close()

    async def _visit(self, visitor: int) -> None:
        random = Random(f"{self.seed} {visitor}")
        connection = _Connection(self.address)
        try:
            while True:
                await asyncio.sleep(random.expovariate(1 / self.pause_s) if self.pause_s else 0)
                await self._go.wait()
                shape = random.choice(self.shapes)
                self._busy += 1
                try:
                    await self._tell(connection, random, visitor, shape)
                finally:
                    self._busy -= 1
                    if not self._busy:
                        self._quiet.set()
        finally:
            connection.close()

    async def _tell(
        self, connection: _Connection, random: Random, visitor: int, shape: Shape
    ) -> int:
        """One hit of a visitor, until it is over; the last status, 0 for none."""
        number = self._numbers[visitor] = self._numbers[visitor] + 1
        name = named(self.run, visitor, number)
        suite, who = random.choice(SUITES), f"visitor{visitor}"
        request = shape(random, suite, who, name)
        # Sets of suites are lanes of their own; an XML hit names its one in the body.
        suite = request.target.split(b"/")[3].decode() or suite
        again = self.resend is Resend.UNTIL_TAKEN and shape in RESENDABLE
        begun = 0
        while True:
            await connection.ready()
            before = int(time.time())
            begun = begun or before
            started = time.monotonic()
            try:
                status = await connection.ask(request)
            except (OSError, EOFError, TimeoutError, asyncio.CancelledError) as error:
                connection.close()
                self.answers[0] += 1
                self.promises.unknown(name, who, suite, request, begun)
                if isinstance(error, asyncio.CancelledError):
                    raise
                status = 0
            else:
                self.answers[status] += 1
                took_s = time.monotonic() - started
                self.slowest_s = max(self.slowest_s, took_s)
                self.took.setdefault(status, deque(maxlen=10_000)).append(took_s)
                if status == 200:
                    after = int(time.time())
                    self.promises.obligation(name, who, suite, request, begun, after)
                    return status
                self.promises.refusal(name)
            if not again:
                return status
            await asyncio.sleep(TRY_AGAIN_S)


class _Connection:
    """A keep-alive connection that is made anew when it is gone."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ready(self) -> None:
        """Until there is a connection, however long nobody listens."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        while self._streams is None:
            try:
                self._streams = await asyncio.open_connection(self._host, self._port)
            except OSError:
                await asyncio.sleep(TRY_AGAIN_S)

    async def ask(self, request: Request) -> int:
        """The status of the answer; OSError, EOFError or TimeoutError when none came whole."""
        assert self._streams is not None
        reader, writer = self._streams
        lines = [f"{request.method} ".encode() + request.target + b" HTTP/1.1"]
        lines += [b"Host: " + f"{self._host}:{self._port}".encode()]
        lines += [name + b": " + value for name, value in request.headers]
        if request.method == "POST":
            lines += [b"Content-Length: %d" % len(request.body)]
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + request.body)
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or b"0"))
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
