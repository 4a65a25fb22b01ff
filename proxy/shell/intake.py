"""The beacon port: reads requests, has them judged, stores hits, answers.

Rule: 200 only after the queue has committed; 503 when it cannot; every refusal is exact
and counted.  Hit contents never reach a log.
Non-rule: what a request means is the core's business (`core.reception`), how a hit is
stored the queue's.
Source: aiohttp's low-level server, which spares routes and middlewares a hit has no use
for; docs/design/0001.  Its `handler_cancellation` stays off: a client that hangs up does
not undo a hit, held by a test.

Two roads lead to the same answer.  Most hits are a GET without a body, and take the short one
(`_Connection._go_on`): aiohttp's parser, our answer in one write when the commit calls back, and
none of its request, task and response between.  Where the same head came before, it needs no
parser either (`core.plain`, docs/design/0019).  Whatever else comes takes aiohttp's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from time import time
from typing import NamedTuple, Protocol, TypeVar

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from proxy.core import answer, guard, headers, plain, protocols, reception
from proxy.core.answer import Answer
from proxy.core.hit import Headers, NewHit, Received, Reply, Request
from proxy.core.lately import Lately
from proxy.core.measure import BySuite
from proxy.core.reception import Head, Pass, Refuse, Take
from proxy.errors import QueueError, QueueFull
from proxy.points import Point, reached
from proxy.shell.door import Door

# What a server that was asked to go at once leaves to requests under way; to the library
# 0 would mean: for ever.
AT_ONCE_S = 0.05
# Who connected less than this before a stop is about to ask: its request is waited for this long.
# A connection that said nothing for longer (browsers open some to have them) delays no stop.
FIRST_WORD_S = 0.5

# Which methods may take the short road.
SHORT = frozenset({"GET", "HEAD"})

# Larger answers are not kept ready.
MOST_KEPT = 512

# After these the connection ends: where the next request begins is not known for sure, or not
# worth to be read up to.
LAST = frozenset({400, 408, 413, 414})

# What a head has beside the bytes counted for `listen.max_request`: some 200 line ends.
FRAMING = 16 * 1024
# What a byte of a body takes on the wire at most, when each comes as a chunk of its own.
CHUNKED = 6

# A trackOffline client resends every 500 ms while it fails; ten minutes cover a client
# that was suspended between, half as many hits cover that time at 50 hits a second.
COPY_WINDOW_S = 600.0
MOST_COPIES = 65_536
# After a restart only hits whose answer never left can come again: those of the last commits.
COPIES_AFTER_RESTART = 4_096


T = TypeVar("T")


class Coming(NamedTuple):
    """An answer that a collection server has a say in; `otherwise` where nobody can wait for it."""

    answer: Coroutine[None, None, Answer]
    otherwise: Answer


# Who is told the answer; None: the connection ends without one, for nobody knows what became of
# the hit.  Called once, from the event loop; it must not fail.
Tell = Callable[[Answer | Coming | None], None]


class Store(Protocol):
    """What the intake asks of the queue."""

    def put(
        self, hits: Sequence[NewHit], tell: Callable[[list[int] | QueueError | None], None]
    ) -> None: ...

    async def newest(self, count: int, say: Callable[[bytes], T]) -> list[T]: ...

    def tally(self, name: str) -> None: ...


class Roads(Protocol):
    """What the intake asks of the collection servers, by the name of a protocol."""

    async def ask(self, protocol: str, request: Request, within_s: float) -> Reply | None: ...

    def goes_soon(self, protocol: str, lane: int) -> bool: ...

    async def reply(self, protocol: str, hit: int) -> Reply | None: ...


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how to listen; with `tls`, over TLS.

    `idle_s`: a page sends in a burst, then idles; a head that is not whole by then never
    will be.  `body_s` is what a body has to arrive.  `linger_s` is what a client has to read
    its answer that ends the connection: a close on bytes we did not read would reset it.
    """

    host: str
    port: int
    max_request: int = 256 * 1024
    allowed_hosts: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    idle_s: float = 30.0
    body_s: float = 10.0
    linger_s: float = 2.0


class Copies:
    """Hits by what a resent copy has in common with them.

    `asked`: those on their way to the disk, and who came with a copy meanwhile.  `stored`: when
    those were seen that are on disk.
    """

    def __init__(self) -> None:
        self.asked: dict[bytes, tuple[Callable[[], None], ...]] = {}
        self.stored: Lately[bytes, float] = Lately(MOST_COPIES)

    def has(self, key: bytes, now: float) -> bool:
        """Whether such a hit is on disk, and was seen within the window."""
        at = self.stored.get(key)
        return at is not None and now - at < COPY_WINDOW_S

    def remember(self, key: bytes, now: float) -> None:
        """Such a hit is on disk."""
        self.stored.keep(key, now)


class Intake:
    """Takes hits on one or more addresses, of every one of `spoken`.

    `received` gives the instant of receipt.
    """

    def __init__(
        self,
        store: Store,
        spoken: Sequence[protocols.Protocol],
        received: Callable[[], Received],
        roads: Roads,
        most_connections: int = 2_000,
    ) -> None:
        self.spoken = spoken
        self._store = store
        self._now = received
        self._roads = roads
        self.received = BySuite()
        self._copies = Copies()
        self._door = Door(most_connections, lambda: store.tally("refused.connections"))
        self._servers: list[_Server] = []
        self._loop = asyncio.get_running_loop()

    async def start(self, where: Listening, opened: socket.socket | None = None) -> tuple[str, int]:
        """Listen; the address really bound.  OSError when it cannot be.

        `opened` is a listening socket to use instead of the address.
        """
        server = _Server(self, where)
        bound = self._door.open(server, where.host, where.port, opened, where.tls)
        self._servers.append(server)
        return bound

    async def remember_newest(self) -> None:
        """Know the hits stored last, whose answers a crash may have kept from their clients."""
        now = asyncio.get_running_loop().time()
        keys = await self._store.newest(COPIES_AFTER_RESTART, self._copy_key)
        for key in reversed(keys):
            if key is not None:
                self._copies.remember(key, now)

    def _copy_key(self, content: bytes) -> bytes | None:
        request = reception.stored(content)
        return protocols.hearing(self.spoken, request.target).copy_key(request)

    async def close(self, grace_s: float) -> None:
        """Take no more; requests under way are answered, for `grace_s` at most."""
        self._door.shut()
        # What was accepted a moment ago becomes a connection in the loop's next turn.
        await asyncio.sleep(0)
        if grace_s:
            await asyncio.gather(*[server.first_words() for server in self._servers])
        for server in self._servers:
            server.pre_shutdown()
        for server in self._servers:
            await server.shutdown(max(grace_s, AT_ONCE_S))

    async def answer(self, request: Request, peer: str) -> Answer:
        """The answer to one request that is whole and for us."""
        given: asyncio.Future[Answer | Coming] = self._loop.create_future()

        def tell(said: Answer | Coming | None) -> None:
            if given.done():
                if isinstance(said, Coming):
                    said.answer.close()
            elif said is None:
                given.cancel()
            else:
                given.set_result(said)

        self.begin(request, peer, tell)
        said = await given
        return await self.waited(said) if isinstance(said, Coming) else said

    async def waited(self, coming: Coming) -> Answer:
        """What a collection server says; a bug of ours on that way does not undo a stored hit."""
        try:
            return await coming.answer
        except Exception as error:  # noqa: BLE001 - its traceback is logged
            self.failed(error)
            return coming.otherwise

    def begin(self, request: Request, peer: str, tell: Tell, known: Head | None = None) -> None:
        """Have a request judged that is whole and for us, and its hit stored; `tell` the answer."""
        try:
            protocol = protocols.hearing(self.spoken, request.target)
            todo = protocol.receive(request, peer, known)
        except Exception as error:  # noqa: BLE001 - its traceback is logged
            tell(self.failed(error))
            return
        match todo:
            case Take():
                self._once(todo, protocol, tell)
            case Refuse():
                if todo.tally:
                    self._store.tally(todo.tally)
                tell(todo.answer)
            case Pass():
                tell(Coming(self._passed(todo, protocol), todo.otherwise))

    async def _passed(self, todo: Pass, protocol: protocols.Protocol) -> Answer:
        reply = await self._roads.ask(protocol.name, todo.request, todo.within_s)
        return (reply and todo.relay(reply)) or todo.otherwise

    def head(
        self, method: str, path: str, version: HttpVersion, raw: Headers, where: Listening
    ) -> Request | Answer:
        """The request without its body, or what one gets that is not for us or too large."""
        target = _origin_form(path)
        if target is None or version not in (HttpVersion10, HttpVersion11):
            return self._refuse(400, "no HTTP/1.1 request with a path or an address", "malformed")
        host = headers.first(raw, b"host")
        # An absolute target names its own host, and no browser sends one to us.
        if (
            host
            and path.startswith("/")
            and not _is_our_host(host, where.host, where.allowed_hosts)
        ):
            return self._refuse(
                421, "this name is not ours: listen.allowed_hosts would allow it", "host"
            )
        if len(target) + _size(raw) > where.max_request:
            return self._refuse(414, "the request is larger than listen.max_request", "too-large")
        return Request(method, target, raw)

    async def whole(self, message: web.BaseRequest, where: Listening) -> Request | Answer:
        """The request with its body, or what one gets that is not for us or too large."""
        request = self.head(
            message.method, message.raw_path, message.version, tuple(message.raw_headers), where
        )
        if isinstance(request, Answer) or not message.can_read_body:
            return request
        body = await self._body(message, where.max_request - len(request.target), where.body_s)
        if isinstance(body, Answer):
            return protocols.hearing(self.spoken, request.target).turned_away(request, body)
        return request._replace(body=body)

    def _once(self, take: Take, protocol: protocols.Protocol, tell: Tell) -> None:
        """Store it, unless it is a copy of a hit that is stored, or is about to be."""
        key, asked = take.copy, self._copies.asked
        if key is None:
            self._put(take, protocol, tell)
        elif key in asked:
            # The first one is on its way to the disk; if it gets there, this is a copy.
            asked[key] += (partial(self._once, take, protocol, tell),)
        elif self._copies.has(key, self._loop.time()):
            self._store.tally("repeated")
            tell(take.answer)
        else:
            asked[key] = ()
            self._put(take, protocol, tell)

    def _put(self, take: Take, protocol: protocols.Protocol, tell: Tell) -> None:
        reached(Point.ACCEPT_BEFORE)
        try:
            # Asked before it is stored: then it is not yet one of those that it would wait for.
            waits = take.relay is not None and self._roads.goes_soon(
                protocol.name, take.rows[0].lane
            )
            at = self._now()
            hits = [NewHit(row.lane, at, take.content, row.suites) for row in take.rows]
            self._store.put(hits, partial(self._stored, take, protocol, tell, waits))
        except Exception as error:  # noqa: BLE001 - its traceback is logged
            self._stored(take, protocol, tell, False, error)

    def _stored(
        self,
        take: Take,
        protocol: protocols.Protocol,
        tell: Tell,
        waits: bool,
        said: list[int] | Exception | None,
    ) -> None:
        """The hit is on disk, or is not: who sent it is told, and who sent a copy meanwhile."""
        copies = self._copies.asked.pop(take.copy, ()) if take.copy is not None else ()
        if isinstance(said, list):
            reached(Point.ACCEPT_AFTER)
            if take.copy is not None:
                self._copies.remember(take.copy, self._loop.time())
            self.received.add(take.suites, protocol.known)
            if waits:
                tell(Coming(self._relayed(take, protocol, said[0]), take.answer))
            else:
                tell(take.answer)
        elif said is None:
            tell(None)
        elif isinstance(said, QueueError):
            reason = said.reason if isinstance(said, QueueFull) else "storage"
            self._store.tally(f"refused.{reason}")
            tell(take.otherwise)
        else:
            tell(self.failed(said))
        for copy in copies:
            copy()

    async def _relayed(self, take: Take, protocol: protocols.Protocol, hit: int) -> Answer:
        reply = await self._roads.reply(protocol.name, hit)
        return (reply and take.relay and take.relay(reply)) or take.answer

    async def _body(self, message: web.BaseRequest, most: int, within_s: float) -> bytes | Answer:
        """The whole body; 413 as soon as it is known to be too large, 408 when it stalls."""
        too_large = 413, "the body is larger than listen.max_request allows", "too-large"
        if message.content_length is not None and message.content_length > most:
            return self._refuse(*too_large)
        waits = message.headers.get("Expect", "").lower() == "100-continue"
        if waits and message.transport and message.version == HttpVersion11:
            message.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b""
        try:
            async with asyncio.timeout(within_s):
                while chunk := await message.content.readany():
                    body += chunk
                    if len(body) > most:
                        return self._refuse(*too_large)
        except TimeoutError:
            return self._refuse(408, "the body did not arrive in time", "timeout")
        except _TooLong:
            return self._refuse(*too_large)
        except web.RequestPayloadError:
            return self._refuse(400, "the body is not framed as HTTP wants it", "malformed")
        except (ConnectionError, RuntimeError):
            # To who asks for a body of a client that is gone already, the library says the latter.
            if message.transport is not None:
                raise
            # Nobody is there to read this, but it was no hit, and somebody may look for it.
            return self._refuse(400, "the client went away within the body", "incomplete")
        return body

    def _refuse(self, status: int, reason: str, tally: str) -> Answer:
        self._store.tally(f"refused.{tally}")
        return answer.refused(status, reason)

    def malformed(self, error: BaseException | None) -> Answer:
        """What aiohttp's parser would not read."""
        if isinstance(error, LineTooLong):
            return self._refuse(414, "the request is larger than listen.max_request", "too-large")
        return self._refuse(400, "not HTTP as this port wants it", "malformed")

    def failed(self, error: BaseException | None) -> Answer:
        """A bug of ours: the log has the traceback, without the request."""
        logging.getLogger(__name__).error("intake failed", exc_info=error)
        return answer.unstored(reception.RETRY_AFTER_S)


class _TooLong(web.RequestPayloadError):
    """The chunks of a body come with too much around them."""


class _Asked(NamedTuple):
    """What an answer has to know of the request that it is for."""

    method: str
    version: HttpVersion
    should_close: bool


_PLAIN = _Asked(plain.METHOD, HttpVersion11, should_close=False)


class _Known(NamedTuple):
    """What was made of a head that may come again; `size` is what `listen.max_request` counts."""

    headers: Headers
    size: int
    head: Head


class _Server(web.Server):
    """aiohttp's low-level server with connections that speak our answers."""

    def __init__(self, intake: Intake, where: Listening) -> None:
        super().__init__(self._handle)
        self._intake, self._where = intake, where
        self._young: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._heads = plain.Heads[_Known]()

    async def first_words(self) -> None:
        """Until all who connected just now have had an answer, or their time to ask is over."""
        since = asyncio.get_running_loop().time() - FIRST_WORD_S
        waited_for = [first for born, first in self._young if born > since]
        if waited_for:
            await asyncio.wait(waited_for, timeout=FIRST_WORD_S)

    def __call__(self) -> web.RequestHandler:
        loop = asyncio.get_running_loop()
        now, first = loop.time(), loop.create_future()
        while self._young and (self._young[0][1].done() or self._young[0][0] < now - FIRST_WORD_S):
            self._young.popleft()
        self._young.append((now, first))
        return _Connection(
            self,
            first,
            self._intake,
            self._where,
            self._heads,
            loop=loop,
            keepalive_timeout=self._where.idle_s,
            access_log=None,  # a log line of a hit would hold its contents
            logger=_SILENT,
            max_line_size=self._where.max_request,
            max_field_size=self._where.max_request,
            max_headers=200,
            lingering_time=self._where.linger_s,
            auto_decompress=False,
        )

    async def _handle(self, message: web.BaseRequest) -> web.StreamResponse:
        request = await self._intake.whole(message, self._where)
        if isinstance(request, Answer):
            return _Written(request)
        return _Written(await self._intake.answer(request, message.remote or ""))


class _Connection(web.RequestHandler):
    """One client; what cannot be parsed is answered and counted as everything else is."""

    __slots__ = (
        "_asked",
        "_at_start",
        "_body",
        "_broken",
        "_end",
        "_first",
        "_handed_over",
        "_heads",
        "_held",
        "_intake",
        "_is_going",
        "_lost",
        "_most_unread",
        "_offered",
        "_offers",
        "_peer",
        "_reads",
        "_rest",
        "_unread",
        "_where",
    )

    def __init__(
        self,
        server: web.Server,
        first: asyncio.Future[None],  # becomes done with the first answer
        intake: Intake,
        where: Listening,
        heads: plain.Heads[_Known],
        **settings: object,
    ) -> None:
        super().__init__(server, **settings)  # type: ignore[arg-type]
        self._first, self._intake, self._where = first, intake, where
        self._broken = False
        # What came since the last whole head, and the body that comes meanwhile.
        self._unread, self._body = 0, EMPTY_PAYLOAD
        self._most_unread = where.max_request + FRAMING
        # Whether a request that offers an upgrade is coming, its head once that is whole, and the
        # last few bytes that came; what the parser gets once it has room for another request.
        self._offers, self._end, self._held = False, b"", b""
        self._offered: tuple[RawRequestMessage, StreamReader] | None = None
        self._peer = ""
        self._lost = asyncio.Event()
        # Until the client reads its answers again, or nobody waits for that any more.
        self._reads: asyncio.Future[None] | None = None
        # Heads that came before; whether the next byte begins a request, and one that may come
        # again; the rest of the head of the one that is being read.
        self._heads, self._at_start, self._rest = heads, True, b""
        # The request of the short road that is being answered.
        self._asked: _Asked | RawRequestMessage | None = None
        self._is_going = False
        self._handed_over: asyncio.Future[Coming | None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = str(address[0])
        super().connection_made(transport)

    def _answered(self) -> None:
        if not self._first.done():
            self._first.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost.set()
        self._wait_no_more()
        self._answered()
        super().connection_lost(exc)

    async def start(self) -> None:
        """What aiohttp runs for each connection: waits for what the short road cannot wait for.

        That is an answer which a collection server has a say in, and the first request of the
        long road, with whatever follows.
        """
        while (coming := await self._handed_over) is not None:
            self._handed_over = self._loop.create_future()
            self._tell(await self._intake.waited(coming))
            if self._manager is None:
                return  # the client left, and nothing is handed over any more
        if self._manager is not None:
            await super().start()

    def _go_on(self) -> None:
        """The short road: ask for the next request's answer, unless one is being waited for.

        From aiohttp's `start`, what a hit needs: the order of the answers, the count, reading
        on when pipelined requests were held back, waiting at a shutdown, the clock of an idle
        connection.  What it spares is most of what aiohttp costs a hit.
        """
        if self._is_going:
            return  # an answer was there at once: the loop below goes on
        self._is_going = True
        try:
            while self._messages and not (
                self._asked or self._paused or self._close or self._force_close
            ):
                message = self._short()
                if message is None:
                    if not self._handed_over.done():
                        self._handed_over.set_result(None)
                    break
                self._ask(message)
        finally:
            self._is_going = False

    def _short(self) -> RawRequestMessage | None:
        """The next request, taken, if it is one for the short road; else it stays."""
        message, payload = self._messages[0]
        if (
            payload is not EMPTY_PAYLOAD
            or not isinstance(message, RawRequestMessage)
            or message.method not in SHORT
            or message.upgrade
        ):
            return None
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return message

    def _ask(self, message: RawRequestMessage) -> None:
        """Have a request without a body answered."""
        self._take_up(message)
        known = None
        try:
            given = self._intake.head(
                message.method, message.path, message.version, message.raw_headers, self._where
            )
            if not isinstance(given, Answer):
                known = self._know(given.headers, message.should_close)
        except Exception as error:  # noqa: BLE001 - its traceback is logged
            given = self._intake.failed(error)
        if isinstance(given, Answer):
            self._tell(given)
        else:
            self._intake.begin(given, self._peer, self._tell, known)

    def _take_up(self, asked: _Asked | RawRequestMessage) -> None:
        """From here to its answer nothing else is asked, and a stop waits."""
        if self._manager is not None:
            self._manager.requests_count += 1
        self._asked = asked
        self._request_in_progress = True

    def _know(self, said: Headers, should_close: bool) -> Head | None:
        """What these headers say, if they may come again: then it is kept."""
        rest, self._rest = self._rest, b""
        if not rest or should_close or headers.has_secrets(said):
            return None
        head = reception.head(said, self._peer)
        self._heads.keep(rest, self._peer, _Known(said, _size(said), head))
        return head

    def _tell(self, given: Answer | Coming | None) -> None:
        """Write the answer to what was asked; then the next, or the end."""
        if isinstance(given, Coming):
            if not self._handed_over.done():
                self._handed_over.set_result(given)
                return
            given.answer.close()
            given = given.otherwise
        message, self._asked = self._asked, None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if message is None or self.transport is None:
            return
        keeps = given is not None and not message.should_close and given.status not in LAST
        if given is not None:
            self.transport.write(_written(given, keeps, message.version, message.method))
        self._answered()
        reached(Point.ACCEPT_ANSWERED)
        if not keeps or self._close:
            self.close()
            self.transport.close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        if self._messages:
            self._go_on()

    def resume_writing(self) -> None:
        """The client reads its answers again; while it did not, nothing more was asked for it."""
        super().resume_writing()
        self._wait_no_more()
        if not self._handed_over.done():
            self._go_on()

    def _wait_no_more(self) -> None:
        if self._reads is not None and not self._reads.done():
            self._reads.set_result(None)

    def close(self) -> None:
        """Ask nothing more."""
        super().close()
        self._wait_no_more()
        self._handed_over.cancel()

    def force_close(self) -> None:
        """Nothing more in either direction."""
        super().force_close()
        self._handed_over.cancel()

    def _process_keepalive(self) -> None:
        """End a connection that was idle for too long; one that waits for our answer is not."""
        if self._handed_over.done():
            super()._process_keepalive()
            return
        self._keepalive_handle = None
        if self._asked or self._force_close or self.transport is None:
            return  # an answer sets the clock anew
        if self._loop.time() < self._next_keepalive_close_time:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # it does not read its answers
        else:
            self.force_close()

    def data_received(self, data: bytes) -> None:
        at_start, self._at_start = self._at_start, False
        found = plain.split(data) if at_start and self._is_free() else None
        if found is None:
            self._to_parser(data)
            return
        target, rest = found
        known = self._heads.get(rest, self._peer)
        if known is None or known.size + len(target) > self._where.max_request:
            if plain.is_head(rest) and self._heads.again(rest, self._peer):
                self._rest = rest
            self._to_parser(data)
            self._rest = b""
            return
        self._at_start = True
        self._take_up(_PLAIN)
        request = Request(plain.METHOD, target, known.headers)
        self._intake.begin(request, self._peer, self._tell, known.head)

    def _is_free(self) -> bool:
        """Whether the next request may be asked at once: then no earlier one is left, either."""
        return not (
            self._asked
            or self._paused
            or self._close
            or self._force_close
            or self._handed_over.done()
        )

    def _to_parser(self, data: bytes) -> None:
        # aiohttp's parser forgets what comes in one piece with the end of a request that offers an
        # upgrade we do not know (Java's client offers HTTP/2): then it gets the next one by itself,
        # and not before it has given us what it holds back for being pipelined.
        if self._buffer_paused or not data:
            self._read(b"")
            self._judge_offer()
        if self._held:
            data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            if len(self._messages) >= self._max_msg_queue_size:
                self._held = data[at:]
                return
            offer = at
            if not self._offers:
                if b"pgrade" not in self._end + data[at : at + 5]:
                    offer = data.find(b"pgrade", at)
                self._offers = offer >= 0
            end = self._up_to(data, at, offer) if self._offers else len(data)
            piece = data[at:end] if at or end < len(data) else data
            self._end = (self._end + piece[-5:])[-5:]
            self._read(piece)
            self._judge_offer()
            at = end

    def _judge_offer(self) -> None:
        """Look whether a request that offers an upgrade, as it seems, is whole, or is none."""
        if not self._offers or len(self._messages) >= self._max_msg_queue_size:
            return  # it may be held back
        if not self._has_more_to_offer():
            self._offers, self._end, self._offered = False, b"", None

    def _up_to(self, data: bytes, at: int, offer: int) -> int:
        """Where the request ends for now that offers an upgrade, or may do so."""
        if self._offered is not None and (left := _left_of_body(*self._offered)):
            return at + left
        # A head ends so, and so does a body in chunks; what else does is only cut in two.
        before = self._end[-3:] if offer == at else b""
        found = (before + data[at : at + 3]).find(b"\r\n\r\n") if before else -1
        if found >= 0:
            return at + found + 4 - len(before)
        found = data.find(b"\r\n\r\n", offer)
        return len(data) if found < 0 else found + 4

    def _has_more_to_offer(self) -> bool:
        """Whether the request that offers an upgrade, as it seems, is not whole yet."""
        if self._offered is None:
            if not self._end.endswith(b"\r\n\r\n"):
                return True
            message, body = self._messages[-1] if self._messages else (None, EMPTY_PAYLOAD)
            if not isinstance(message, RawRequestMessage) or not message.upgrade:
                return False
            self._offered = message, body
        return not self._offered[1].is_eof()

    def _read(self, data: bytes) -> None:
        # Behind what could not be parsed nothing can be; it is only taken off the wire.
        if self._broken:
            return
        before = self._request_count
        body = self._body
        is_late = not self._messages and not body.is_eof()
        super().data_received(data)
        if is_late and body.is_eof() and self._parser is not None:
            # The parser counts a request when its body ends, here after it was taken up: as one
            # that waits for ever, for whose sake later ones are held back.
            self._parser.message_consumed()
            super().data_received(b"")
        if self._request_count != before:
            self._unread, self._body = 0, self._messages[-1][1]
            self._at_start = self._body is EMPTY_PAYLOAD and data.endswith(plain.END)
        else:
            # One that began in the same piece as the last one ended is the parser's to the end.
            self._at_start = False
            self._unread += len(data)
            if self._unread > self._most_unread and not self._buffer_paused:
                self._judge()
        if not self._handed_over.done():
            self._go_on()

    def _judge(self) -> None:
        """End a head that is too large before it is whole, or a body framed at such length.

        aiohttp's parser bounds each line of a head and how many there are, and keeps all of
        them until the last has come.  What it holds back for being pipelined is no head.
        """
        body = self._body
        if body is not EMPTY_PAYLOAD:
            if body.is_eof():
                # It ended somewhere in there, and the next head began.
                self._unread, self._body = 0, EMPTY_PAYLOAD
                return
            if self._unread <= self._most_unread + CHUNKED * body.total_bytes:
                return
            self._broken = True
            body.set_exception(_TooLong())
            return
        self._broken = True
        error = _ErrInfo(status=400, exc=LineTooLong(b"", self._most_unread), message="")
        self._messages.append((error, EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; when it is the last because of what came, let the client read it."""
        sent = await super().finish_response(request, resp, start_time)
        self._answered()
        if self._held and not self._upgraded:
            self.data_received(b"")
        if self._broken and self.transport is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._where.linger_s):
                    await self._lost.wait()
        elif self._paused and not self._close:
            await self._until_read()
        return sent

    async def _until_read(self) -> None:
        """As on the short road: who reads no answers is asked for no more, and let go in time."""
        self._reads = self._loop.create_future()
        try:
            async with asyncio.timeout(self._keepalive_timeout):
                await self._reads
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        if status == 500:
            found = self._intake.failed(exc)
        else:
            self._broken = True
            found = self._intake.malformed(exc)
        response = _Written(found)
        response.force_close()
        return response


def _size(raw: Headers) -> int:
    return sum([len(name) + len(value) for name, value in raw])


def _left_of_body(message: RawRequestMessage, body: StreamReader) -> int:
    return max(0, int(message.headers.get("Content-Length", "0")) - body.total_bytes)


class _Written(web.StreamResponse):
    """An answer in one piece, written as it stands.

    aiohttp's own response assembles headers anew for each request, which cost a third of
    what a hit costs in all; ours are the same for thousands of hits.
    """

    def __init__(self, given: Answer) -> None:
        super().__init__(status=given.status)
        self._given = given
        if given.status in LAST:
            self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        given = self._given
        keeps = request.keep_alive if self._keep_alive is None else self._keep_alive
        self._keep_alive = keeps
        written = _written(given, keeps, request.version, request.method)
        if request.transport is None:
            raise ConnectionResetError("the client went away")
        request.transport.write(written)
        reached(Point.ACCEPT_ANSWERED)

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything is written."""


def _written(given: Answer, keeps: bool, version: HttpVersion, method: str) -> bytes:
    # What a collection server said is as large as it likes, and never the same again.
    build = _bytes if len(given.body) <= MOST_KEPT else _bytes.__wrapped__
    return build(given, keeps, version == HttpVersion11, method == "HEAD", int(time()))


# So few because each second brings new ones.
@lru_cache(maxsize=32)
def _bytes(given: Answer, keeps: bool, is_11: bool, to_head: bool, second: int) -> bytes:
    lines = [b"HTTP/1.%d %d %s" % (is_11, given.status, HTTPStatus(given.status).phrase.encode())]
    lines += [name + b": " + value for name, value in given.headers]
    lines.append(b"Server: trackoffline")
    if given.status != HTTPStatus.NO_CONTENT:
        lines.append(b"Content-Length: %d" % len(given.body))
    lines.append(b"Date: " + formatdate(second, usegmt=True).encode())
    # HTTP/1.0 ends with the answer unless it is told otherwise, 1.1 the other way round.
    if keeps != is_11:
        lines.append(b"Connection: keep-alive" if keeps else b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if to_head else given.body)


@lru_cache(maxsize=64)
def _is_our_host(host: bytes, bound: str, allowed: tuple[str, ...]) -> bool:
    return guard.is_our_host(host, bound, allowed)


def _origin_form(path: str) -> bytes | None:
    """The request target as `/path?query`, whichever of its forms the client used."""
    raw = path.encode("utf-8", "surrogateescape")
    if raw.startswith(b"/"):
        return raw
    scheme, found, rest = raw.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        return None
    authority_ends = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=-1)
    if authority_ends < 0:
        return b"/"
    rest = rest[authority_ends:]
    return rest if rest.startswith(b"/") else b"/" + rest


_SILENT = logging.getLogger("proxy.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
