"""Sends one hit to the collection server, and turns what comes of it into a value.

Rule: one call is one request on the wire, its bytes as given; every exception of the
client library becomes a `Failure` here, and nothing else imports that library's client.
Non-rule: judges nothing (`core.verdict` does), retries nothing, follows nothing.
Source: aiohttp's client reference; docs/design/0007 on the private switch below.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from proxy.core.hit import Failure, Fault, Reply, Request

MOST_REPLY = 64 * 1024  # the collection server answers with 43 bytes
# Adobe's sample answers say `Keep-Alive: timeout=15`; a connection we drop first is one
# on which no hit can meet the server's closing.
IDLE_S = 10.0
MOST_CONNECT_S = 10.0
# What the library would add of its own: none of it may reach Adobe (a User-Agent of a
# library decides the browser report), and an encoded answer we could not read.
NOT_OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


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


class _Connector(aiohttp.TCPConnector):
    """Never sends a hit where something was said that nobody asked for.

    What stands there already (an answer given twice, a 408 to an idle connection) would be read
    as the answer to the hit: it would leave the queue though nobody took it.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class Upstream:
    """A connection pool to one collection server; made inside a running loop."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._origin = str(where.url.origin())
        self._connect_s = min(MOST_CONNECT_S, where.timeout_s / 2)
        self._tls = None
        if where.url.scheme == "https":
            # Reading the machine's certificates takes long enough to do it once.
            self._tls = where.tls or ssl.create_default_context()
        self._session = aiohttp.ClientSession(
            # The drain's window bounds what is in flight; the pool must not queue behind it.
            connector=_Connector(limit=0, keepalive_timeout=IDLE_S, ssl=self._tls or True),
            timeout=aiohttp.ClientTimeout(total=where.timeout_s, connect=self._connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=NOT_OURS,
            auto_decompress=False,
            trust_env=False,  # a proxy comes from our configuration or not at all
        )
        # aiohttp sends a GET a second time when the connection drops before the answer:
        # for a beacon that is a double count behind our back.  There is no public switch;
        # a test counts what the fake collection server received.
        self._session._retry_connection = False  # noqa: SLF001

    async def send(self, request: Request) -> Reply | Failure:
        """What came back, or why nothing whole did."""
        # A GET may have a body, and `ts` may be in it; a POST without one has the length 0.
        body = request.body if request.body or request.method == "POST" else None
        headers = _text(request)
        if "Authorization" not in headers and (token := self.where.token()) is not None:
            headers["Authorization"] = token.decode("latin-1")
        try:
            url = URL(self._origin + request.target.decode("ascii"), encoded=True)
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                start = await _read(response, self.where.most_reply)
                if start is None:
                    response.close()
                    return Failure(Fault.ENDLESS, f"no end within {self.where.most_reply} bytes")
                lower = tuple((name.lower(), value) for name, value in response.raw_headers)
                return Reply(response.status, lower, start)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return _failure(error)

    async def probe(self) -> Failure | None:
        """Reach the collection server without sending anything; None when that works."""
        url = self.where.url
        try:
            async with asyncio.timeout(self._connect_s):
                _, writer = await asyncio.open_connection(
                    url.host, url.port, ssl=self._tls, happy_eyeballs_delay=0.25
                )
        except (OSError, TimeoutError) as error:
            return _unreached(error)
        writer.transport.abort()
        return None

    async def close(self) -> None:
        await self._session.close()


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The body; None when it does not end where an answer should."""
    start = b""
    while chunk := await response.content.readany():
        start += chunk
        if len(start) > most:
            return None
    return start


def _text(request: Request) -> CIMultiDict[str]:
    """The headers as the library wants them: the same lines in the same order.

    It takes a name in another spelling for a correction of the earlier line, so the first
    spelling counts for all.  It writes UTF-8, so only what is no UTF-8 changes on its way.
    """
    headers: CIMultiDict[str] = CIMultiDict()
    spelled: dict[bytes, str] = {}
    for name, value in request.headers:
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        headers.add(spelled.setdefault(name.lower(), name.decode("latin-1")), text)
    return headers


def _unreached(error: OSError | TimeoutError) -> Failure:
    detail = f"{type(error).__name__}: {error}"[:200]
    if isinstance(error, socket.gaierror):
        return Failure(Fault.DNS, detail)
    if isinstance(error, ssl.SSLError):
        return Failure(Fault.TLS, detail)
    return Failure(
        Fault.CONNECT_TIMEOUT if isinstance(error, TimeoutError) else Fault.CONNECT, detail
    )


def _words(error: Exception) -> str:
    """One line for a person, and for the log.

    The library's own words quote the address, and with it the hit, or what the server said,
    which may be an echo of it: only what the system says of a connection is passed on.
    """
    said = str(error) if isinstance(error, OSError) else type(error.__cause__).__name__
    if said == "NoneType":
        return type(error).__name__
    return f"{type(error).__name__}: {' '.join(said.split())}"[:200]


def _failure(error: Exception) -> Failure:
    """The table of what can go wrong, most certain first; all before CUT sent nothing."""
    detail = _words(error)
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Fault], ...] = (
        (aiohttp.ConnectionTimeoutError, Fault.CONNECT_TIMEOUT),
        (aiohttp.ClientConnectorDNSError, Fault.DNS),
        # Not ssl.SSLError: in the middle of an exchange it is a cut like any other.
        (aiohttp.ClientSSLError, Fault.TLS),
        (aiohttp.ClientConnectorError, Fault.CONNECT),
        ((aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError), Fault.CUT),
        ((aiohttp.ServerTimeoutError, TimeoutError), Fault.TIMEOUT),
        ((aiohttp.ClientResponseError, ValueError), Fault.MALFORMED),
        ((aiohttp.ClientError, OSError), Fault.CUT),
    )
    for kind, fault in kinds:
        if isinstance(error, kind):
            return Failure(fault, detail)
    return Failure(Fault.CUT, detail)
