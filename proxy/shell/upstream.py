"""Sends one hit to the collection server, and turns what comes of it into a value.

Rule: one call is one request on the wire, its bytes as given, in one write; whatever goes wrong
becomes a `Failure` here.  A connection carries one exchange at a time, and the next one only when
the answer was read to its end and nothing came behind it.
Non-rule: judges nothing (`core.verdict` does), repeats nothing, follows nothing, keeps no cookie.
Source: RFC 9112; docs/design/0014 on why only the parser of the library's client is used.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TypeAlias, cast

from aiohttp import StreamReader
from aiohttp.http import HttpResponseParser, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy.core import headers
from proxy.core.hit import Failure, Fault, Reply, Request

MOST_REPLY = 64 * 1024  # the collection server answers with 43 bytes
# Adobe's sample answers say `Keep-Alive: timeout=15`; a connection we drop first is one
# on which no hit can meet the server's closing.
IDLE_S = 10.0
MOST_CONNECT_S = 10.0
# An address that leads nowhere costs no more than this when the name has another one.
NEXT_ADDRESS_S = 0.25

# Of what a request target may consist: ASCII without control characters and spaces.
VISIBLE = bytes(range(0x21, 0x7F))

Came: TypeAlias = Reply | Failure


class _Call:
    """In place of a future: who waits for an answer is told by a call, once, and no task waits."""

    __slots__ = ("_among", "_tell", "connection")

    def __init__(
        self, tell: Callable[[Came], None], among: dict[Waits, float], connection: _Connection
    ) -> None:
        self.connection = connection
        self._tell: Callable[[Came], None] | None = tell
        self._among = among

    def done(self) -> bool:
        return self._tell is None

    def set_result(self, came: Came) -> None:
        tell, self._tell = self._tell, None
        del self._among[self]
        if tell is not None:
            tell(came)


Waits: TypeAlias = "asyncio.Future[Came] | _Call"


@dataclass(frozen=True, slots=True)
class Where:
    """The collection server: `https://host[:port]`, seconds for a whole exchange.

    `most_reply` is what its longest answer has; `token` gives the Authorization to send with,
    where the request has none.
    """

    server: str
    timeout_s: float = 30.0
    tls: ssl.SSLContext | None = None
    most_reply: int = MOST_REPLY
    token: Callable[[], bytes | None] = lambda: None

    @property
    def url(self) -> URL:
        return URL(self.server)

    @property
    def authority(self) -> bytes:
        """Host, and port unless it is the scheme's own, as a Host header has it."""
        return (self.url.host_port_subcomponent or "").encode()


class Upstream:
    """The road to one collection server; made inside a running loop."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._loop = asyncio.get_running_loop()
        self._host_line = b" HTTP/1.1\r\nHost: " + where.authority
        self._connections = _Connections(where)
        # What is under way, and until when.  All have the same time: they are due in this order.
        self._due: dict[Waits, float] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def ask(self, request: Request, tell: Callable[[Came], None]) -> bool:
        """As `send`, on a connection that rests, without a task; False when that cannot be.

        `tell` is called once, never before this returns.
        """
        try:
            content = self._written(request)
        except ValueError:
            return False
        connection = self._connections.kept()
        if connection is None:
            return False
        call = _Call(tell, self._due, connection)
        self._expect(call)
        connection.ask(content, call, has_body=request.method != "HEAD")
        return True

    async def send(self, request: Request) -> Came:
        """What came back, or why nothing whole did."""
        try:
            content = self._written(request)
        except ValueError as error:
            return Failure(Fault.MALFORMED, type(error).__name__)
        answer: asyncio.Future[Came] = self._loop.create_future()
        self._expect(answer)
        connection: _Connection | Failure | None = None
        try:
            connection = self._connections.kept() or await self._connections.new()
            if isinstance(connection, Failure):
                return connection
            if answer.done():
                self._connections.rest(connection)
                return Failure(Fault.CONNECT_TIMEOUT, "no time left")
            connection.ask(content, answer, has_body=request.method != "HEAD")
            return await answer
        finally:
            del self._due[answer]
            if isinstance(connection, _Connection):
                connection.leave(answer)

    def _written(self, request: Request) -> bytes:
        """The request's bytes; ValueError when a server would read something else in them."""
        if not request.method.isalpha() or request.target.translate(None, VISIBLE):
            raise ValueError("no request line")
        first = request.method.encode("ascii") + b" " + request.target + self._host_line
        lines = [name + b": " + value for name, value in request.headers]
        token = self.where.token()
        if token is not None and headers.first(request.headers, b"authorization") is None:
            lines.append(b"Authorization: " + token)
        # A GET may have a body, and `ts` may be in it; a POST without one has the length 0.
        if request.body or request.method == "POST":
            lines.append(b"Content-Length: %d" % len(request.body))
        rest = b"\r\n".join(lines)
        if not rest.count(b"\r") == rest.count(b"\n") == max(len(lines) - 1, 0) or b"\0" in rest:
            raise ValueError("a line within a line")
        return b"%b\r\n%b%b%b" % (first, rest, b"\r\n\r\n" if rest else b"\r\n", request.body)

    def _expect(self, answer: Waits) -> None:
        self._due[answer] = self._loop.time() + self.where.timeout_s
        if self._alarm is None:
            self._alarm = self._loop.call_later(self.where.timeout_s, self._time_is_up)

    def _time_is_up(self) -> None:
        """One timer for all that is under way: one for each costs as much as reading its answer."""
        self._alarm = None
        now = self._loop.time()
        late: list[Waits] = []
        for answer, due in self._due.items():
            if due > now:
                self._alarm = self._loop.call_at(due, self._time_is_up)
                break
            late.append(answer)
        for answer in late:
            if isinstance(answer, _Call):
                answer.connection.leave(answer)
            if not answer.done():
                answer.set_result(Failure(Fault.TIMEOUT, "no whole answer in time"))

    async def probe(self) -> Failure | None:
        """Reach the collection server without sending anything; None when that works."""
        connection = await self._connections.new()
        if isinstance(connection, Failure):
            return connection
        connection.drop()
        return None

    async def close(self) -> None:
        """Nothing is sent any more; what is under way is cut."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._connections.close()
        # The loop tells them of their end in its next turn.
        await asyncio.sleep(0)


class _Connections:
    """Those to one collection server: as many as exchanges take place, and some that rest.

    How many there may be is not said here: the drain's window bounds what is in flight.
    """

    def __init__(self, where: Where) -> None:
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._connect_s = min(MOST_CONNECT_S, where.timeout_s / 2)
        self._host, self._port = where.url.raw_host or "", where.url.port or 0
        self._tls = None
        if where.url.scheme == "https":
            # Reading the machine's certificates takes long enough to do it once.
            self._tls = where.tls or ssl.create_default_context()
        self._open: set[_Connection] = set()
        self._resting: list[_Connection] = []  # the one used last is the next one's
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def kept(self) -> _Connection | None:
        """One that is open, as far as we know."""
        while self._resting:
            connection = self._resting.pop()
            if connection.is_open and self._loop.time() < connection.rests_since + IDLE_S:
                return connection
            connection.drop()
        return None

    async def new(self) -> _Connection | Failure:
        connection = _Connection(self, self._where.most_reply)
        try:
            async with asyncio.timeout(self._connect_s):
                await self._loop.create_connection(
                    lambda: connection,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host.rstrip(".") if self._tls else None,
                    happy_eyeballs_delay=NEXT_ADDRESS_S,
                )
        except (OSError, UnicodeError) as error:
            return _unreached(error)
        if self._closed:
            connection.drop()
        # Nothing was sent, so nothing can have arrived.
        return connection if connection.is_open else Failure(Fault.CONNECT, "closed at once")

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)

    def rest(self, connection: _Connection) -> None:
        """It may be used again."""
        connection.rests_since = self._loop.time()
        self._resting.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S, self._drop_idle)

    def _drop_idle(self) -> None:
        """Those that rested for long enough."""
        self._sweep = None
        since = self._loop.time() - IDLE_S
        kept = [one for one in self._resting if one.is_open and one.rests_since > since]
        for connection in self._resting:
            if connection not in kept:
                connection.drop()
        self._resting = kept
        if kept:
            self._sweep = self._loop.call_at(kept[0].rests_since + IDLE_S, self._drop_idle)

    def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._open):
            connection.drop()


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that takes place on it."""

    # What the parser's streams ask of it: the answer is bounded here, so nothing is held back.
    _reading_paused = False

    def __init__(self, among: _Connections, most: int) -> None:
        self.rests_since = -inf
        self.is_open = False
        self._loop = asyncio.get_running_loop()
        self._among, self._most = among, most
        self._answer: Waits | None = None  # who waits for one
        self._parser: HttpResponseParser | None = None
        self._came: tuple[RawResponseMessage, StreamReader] | None = None  # once its head is whole
        self._body: list[bytes] = []
        self._size = 0

    def ask(self, content: bytes, answer: Waits, *, has_body: bool) -> None:
        """Send a request, and let `answer` have what comes of it; `has_body`: may its answer."""
        self._answer = answer
        self._came = None
        self._body, self._size = [], 0
        # One for each: nothing of an answer can be left in it for the next.
        self._parser = HttpResponseParser(
            self,  # type: ignore[arg-type]
            self._loop,
            self._most,
            response_with_body=has_body,
            read_until_eof=True,
            auto_decompress=False,
        )
        self._transport.write(content)

    def leave(self, answer: Waits) -> None:
        """It is not waited for any more: if it still comes, it must not be the next one's."""
        if self._answer is answer:
            self._answer = None
            self.drop()

    def drop(self) -> None:
        self.is_open = False
        self._transport.abort()

    # -- what the loop says ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True
        self._among.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._parser is None:
            self.drop()  # nobody asked
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._ends(Failure(Fault.MALFORMED, type(error).__name__))
            return
        more = False
        for message, payload in messages:
            if self._came is not None:
                more = True
            # `100 Continue` and `103 Early Hints` go before the answer.
            elif message.code == 101 or not 100 <= message.code < 200:
                self._came = message, payload
                more = message.code == 101  # from here on it speaks something else
        if self._came is not None:
            self._read(*self._came, data, is_last=more)

    def eof_received(self) -> None:
        self.is_open = False

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._among.lost(self)
        parser, self._parser = self._parser, None
        if self._answer is None:
            return
        if error is None and parser is not None and self._came is not None:
            # The end of the connection may be that of the body; a reset is the end of nothing.
            try:
                parser.feed_eof()
            except HttpProcessingError as missing:
                error = missing
            else:
                self._read(*self._came, b"", is_last=True)
        self._ends(Failure(Fault.CUT, _words(error) if error else "closed before a whole answer"))

    # -- the answer --------------------------------------------------------------------

    def _read(
        self, message: RawResponseMessage, payload: StreamReader, data: bytes, *, is_last: bool
    ) -> None:
        """What came of the body in `data`."""
        piece = payload.read_nowait()
        self._body.append(piece)
        self._size += len(piece)
        if self._size > self._most:
            self._ends(Failure(Fault.ENDLESS, f"no end within {self._most} bytes"))
        elif payload.is_eof():
            # What came last is the answer's end, or something nobody asked for came behind it.
            ends_so = b"\r\n\r\n" if message.chunked or not piece else piece[-16:]
            again = (
                self.is_open
                and not (is_last or message.should_close)
                and data.endswith(ends_so)
                # Answered before it was asked: the rest of the request is still on its way.
                and not self._transport.get_write_buffer_size()
            )
            lower = tuple([(name.lower(), value) for name, value in message.raw_headers])
            self._ends(Reply(message.code, lower, b"".join(self._body)), again=again)

    def _ends(self, came: Came, *, again: bool = False) -> None:
        answer, self._answer = self._answer, None
        if not again:
            self.drop()
        if answer is None:
            return
        if again:
            self._among.rest(self)
        if not answer.done():
            answer.set_result(came)

    # What the parser's streams call: see `_reading_paused`.

    def pause_reading(self) -> None: ...

    def resume_reading(self, resume_parser: bool = True) -> None: ...


def _unreached(error: OSError | UnicodeError) -> Failure:
    detail = f"{type(error).__name__}: {error}"[:200]
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return Failure(Fault.DNS, detail)
    if isinstance(error, ssl.SSLError):
        return Failure(Fault.TLS, detail)
    return Failure(
        Fault.CONNECT_TIMEOUT if isinstance(error, TimeoutError) else Fault.CONNECT, detail
    )


def _words(error: Exception) -> str:
    """One line for a person, and for the log: what the system says of a connection.

    Of nothing else, for it may quote the address and with it the hit, or the server's echo of it.
    """
    said = f": {' '.join(str(error).split())}" if isinstance(error, OSError) else ""
    return f"{type(error).__name__}{said}"[:200]
