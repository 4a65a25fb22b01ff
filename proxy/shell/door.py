"""A door: where connections come in, and how many at most may be inside.

Rule: descriptors are for hits first.  All listeners of a door share one limit, a handshake
counts as a connection, and whoever comes when it is reached takes the place of the one that
has been idle for longest: strangers who only hold connections open keep nobody out.
Non-rule: what is said on a connection is its server's.
Source: asyncio's own server accepts without a limit, counts no handshake, and logs one
traceback for each connection there is no descriptor for; accept(2) for its errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from aiohttp import web

log = logging.getLogger(__name__)

# What the kernel holds for us while the loop is busy.
BACKLOG = 1024
# So few are let in at a turn of the loop that those who had to go are gone by the next.
AT_A_TURN = 16
HANDSHAKE_S = 5.0
# After an accept that failed for want of descriptors or memory.
AGAIN_S = 0.1
TOLD_EVERY_S = 1.0
_SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Guest(socket.socket):
    """A connection's socket, which says when its descriptor is given back."""

    left: Callable[[_Guest], None]

    def close(self) -> None:
        self.left(self)
        super().close()


class Door:
    """Lets at most `most` connections in; `turned_away` hears of each that had to go."""

    def __init__(self, most: int, turned_away: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._turned_away = turned_away
        self._listening: list[socket.socket] = []
        # In the order they came; None until it is known what speaks with it.
        self._inside: dict[_Guest, web.RequestHandler | None] = {}
        self._leaving: set[_Guest] = set()
        self._welcomes: set[asyncio.Task[None]] = set()
        self._told_at = float("-inf")

    def open(
        self,
        server: web.Server,
        host: str,
        port: int,
        opened: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> tuple[str, int]:
        """Listen; the address really bound.  OSError when it cannot be.

        `opened` is a listening socket to use instead of the address.
        """
        listening = [opened] if opened is not None else []
        with contextlib.ExitStack() as undone:
            if opened is None:
                # Not in a thread: nobody is served yet who would have to wait.
                infos = socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
                for family, _, _, _, address in dict.fromkeys(infos):
                    one = socket.create_server(address, family=family, backlog=BACKLOG)
                    listening.append(undone.enter_context(one))
            undone.pop_all()
        loop = asyncio.get_running_loop()
        for one in listening:
            one.setblocking(False)
            one.listen(BACKLOG)
            loop.add_reader(one.fileno(), self._accept, one, server, tls)
        self._listening += listening
        bound: tuple[str, int] = listening[0].getsockname()[:2]
        return bound

    def shut(self) -> None:
        """Let nobody in any more; who is inside stays."""
        loop = asyncio.get_running_loop()
        listening, self._listening = self._listening, []
        for one in listening:
            loop.remove_reader(one.fileno())
            one.close()

    def _accept(
        self, listening: socket.socket, server: web.Server, tls: ssl.SSLContext | None
    ) -> None:
        for _ in range(AT_A_TURN):
            if len(self._inside) + len(self._leaving) >= self._most + AT_A_TURN:
                return  # those who are leaving are about to be gone
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORT_OF:
                    raise
                self._wait(listening, server, tls)
                return
            guest = _Guest(fileno=accepted.detach())
            guest.left = self._left
            if len(self._inside) >= self._most and not self._make_room():
                self._turned_away()
                guest.close()
                continue
            self._inside[guest] = None
            welcome = asyncio.get_running_loop().create_task(self._welcome(guest, server, tls))
            self._welcomes.add(welcome)
            welcome.add_done_callback(self._welcomes.discard)

    async def _welcome(self, guest: _Guest, server: web.Server, tls: ssl.SSLContext | None) -> None:
        def speaks() -> web.RequestHandler:
            self._inside[guest] = connection = server()
            return connection

        within = None if tls is None else HANDSHAKE_S
        # Who fails the handshake, or is gone before it, is nobody.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                speaks, guest, ssl=tls, ssl_handshake_timeout=within, ssl_shutdown_timeout=within
            )

    def _left(self, guest: _Guest) -> None:
        self._inside.pop(guest, None)
        self._leaving.discard(guest)

    def _make_room(self) -> bool:
        """Ask the one that has been idle for longest to go; whether there was one."""
        idle = (one for one in self._inside.items() if one[1] is None or _is_idle(one[1]))
        guest, connection = next(idle, (None, None))
        if guest is None:
            return False
        self._turned_away()
        del self._inside[guest]
        self._leaving.add(guest)
        if connection is not None and connection.transport is not None:
            connection.force_close()
        # Whoever is in the midst of a handshake has nothing else to be closed by.
        with contextlib.suppress(OSError):
            guest.shutdown(socket.SHUT_RDWR)
        return True

    def _wait(
        self, listening: socket.socket, server: web.Server, tls: ssl.SSLContext | None
    ) -> None:
        """Nothing can be accepted: make room, and leave the listener alone for a while."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._told_at + TOLD_EVERY_S:
            self._told_at = loop.time()
            log.error("no descriptor is left for a new connection")
        for _ in range(AT_A_TURN):
            if not self._make_room():
                break
        loop.remove_reader(listening.fileno())

        def again() -> None:
            if listening in self._listening:
                loop.add_reader(listening.fileno(), self._accept, listening, server, tls)

        loop.call_later(AGAIN_S, again)


def _is_idle(connection: web.RequestHandler) -> bool:
    """Whether nothing it asked for is under way."""
    return not (connection._request_in_progress or connection._messages)  # noqa: SLF001 - no other tells
