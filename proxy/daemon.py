"""The daemon: builds everything, starts it, and stops it in the order written here.

Rule: one task group holds every loop; when one of them fails the process ends, so that a
supervisor sees it.  Stopping is no outcome of any hit.
Non-rule: no decision about hits, no argv, no signals (`stop` is an argument).
Source: docs/design/0001; the order of stopping is that of a mail server: no new mail,
finish what is under way, close the spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from proxy import __version__, config, house, logs
from proxy.config import Config
from proxy.core import stamp
from proxy.core.analytics import Analytics
from proxy.core.edge import Edge
from proxy.core.hit import Received
from proxy.core.limits import Limits
from proxy.core.protocols import Protocol
from proxy.desk import Desk
from proxy.drain import Drain, Policy
from proxy.errors import ConfigError, QueueError
from proxy.incoming import Incoming
from proxy.live import Live
from proxy.monitor import Monitor
from proxy.points import Point, reached
from proxy.reading import Reading
from proxy.roads import Road, Roads
from proxy.shell.admin import MOST_CALLERS, Admin
from proxy.shell.api import Metrics
from proxy.shell.clock import Clock, SystemClock, worked_s
from proxy.shell.door import AT_A_TURN
from proxy.shell.given import Given
from proxy.shell.hits import Hits
from proxy.shell.intake import Intake, Listening
from proxy.shell.live import Events
from proxy.shell.page import Page
from proxy.shell.queue import Queue
from proxy.shell.supervisor import Supervisor
from proxy.shell.token import Token
from proxy.shell.upstream import Upstream, Where

log = structlog.get_logger()

GRACE_S = 3.0

# What Edge answers may hold the content of a whole page.
MOST_EDGE_REPLY = 4 * 1024**2

# Of all beacon listeners together.
MOST_CONNECTIONS = 2_000
# The admin port's connections; queue file and its readers, log, libraries; who is just leaving.
OWN_DESCRIPTORS = MOST_CALLERS + 2 * AT_A_TURN + 64


@dataclass(frozen=True, slots=True)
class Listeners:
    """The addresses really bound, `host:port`; None when not configured."""

    beacons: str
    tls: str | None
    admin: str | None


async def run(
    settings: Config,
    queue_file: Path,
    stop: asyncio.Event,
    *,
    ready: Callable[[Listeners], None] = lambda _: None,
    reloads: asyncio.Queue[Config] | None = None,
    clock: Clock | None = None,
    boss: Supervisor | None = None,
    sockets: Mapping[str, Sequence[socket.socket]] | None = None,
    shown: Callable[[], dict[str, Any]] = lambda: config.as_json((), ""),
) -> None:
    """Serve until `stop` is set.  QueueError and OSError when it cannot start.

    `reloads` brings checked configurations to change to; `sockets` are listening ones the
    supervisor opened, named `beacons`, `tls` and `admin`: they replace the configured addresses.
    `shown` gives the configuration as it is to be told, with who set what.
    """
    loop = asyncio.get_running_loop()
    queue = await Queue.open(
        queue_file, limits(settings), clock or SystemClock(), 2 * most_in_flight(settings)
    )
    daemon = Daemon(settings, queue, boss or Supervisor(), loop, shown)
    try:
        async with asyncio.TaskGroup() as loops:
            loops.create_task(queue.run())
            await daemon.remember()
            reached(Point.START_REMEMBERED)
            drains = [road.drain for road in daemon.roads]
            draining = [loops.create_task(drain.run()) for drain in drains]
            keeping = loops.create_task(house.keep(daemon.desk, daemon.boss, daemon.release))
            changing = loops.create_task(daemon.change(reloads or asyncio.Queue()))
            noting = loops.create_task(daemon.live.note())
            listeners = await daemon.listen(sockets or {})
            reached(Point.START_LISTENING)
            log.info("ready", version=__version__, queue=str(queue_file), upstream=daemon.server)
            daemon.boss.tell("READY=1", f"STATUS={await house.sentence(daemon.desk)}")
            ready(listeners)

            await stop.wait()
            reached(Point.STOP_ASKED)
            daemon.boss.tell("STOPPING=1")
            # 1. No new hits; what is being stored is answered, and nobody waits for a server.
            daemon.roads.answer_no_more()
            await daemon.intake.close(GRACE_S)
            reached(Point.STOP_INTAKE_CLOSED)
            # 2. Nothing new is sent; what flies may land.
            for drain in drains:
                drain.stop()
            await asyncio.gather(*draining)
            reached(Point.STOP_DRAINED)
            # 3. No more people.
            changing.cancel()
            keeping.cancel()
            noting.cancel()
            daemon.events.end()
            daemon.hits.end()
            await daemon.admin.close()
            await daemon.reading.close()
            # 4. What is known goes to disk.
            await queue.close()
            reached(Point.STOP_CLOSED)
            log.info("stopped", waiting=queue.ledger.waiting)
    finally:
        # After a failure the steps above did not run; each of these may be repeated.
        await daemon.close()


class Daemon:
    """What runs, and what a changed configuration changes in it."""

    def __init__(
        self,
        settings: Config,
        queue: Queue,
        boss: Supervisor,
        loop: asyncio.AbstractEventLoop,
        shown: Callable[[], dict[str, Any]],
    ) -> None:
        self.settings = settings
        self.queue = queue
        self.boss = boss
        self.drain: Drain | None = None
        self.server: str | None = None
        self.suites = config.suites(settings)
        self._upstream = settings.upstream
        self._edge = settings.edge
        spoken = protocols(settings)
        roads: list[Road] = []
        if settings.upstream is not None:
            self.server = str(settings.upstream.server)
            upstream = Upstream(_where(settings.upstream))
            self.drain = Drain(
                queue, upstream, spoken[-1], policy(settings), random.random, worked_s=worked_s
            )
            roads.append(Road(upstream, self.drain))
        if settings.edge is not None:
            upstream = Upstream(_edge_where(settings.edge))
            drain = Drain(
                queue, upstream, spoken[0], policy(settings), random.random, queue.feed(), worked_s
            )
            roads.append(Road(upstream, drain))
        self.roads = Roads(*roads)
        self.desk = Desk(
            queue,
            self.drain,
            self.server,
            loop.time(),
            loop.time,
            suites=lambda: self.suites,
            settings=shown,
            timeout_s=max((road.upstream.where.timeout_s for road in roads), default=0.0),
            roads=self.roads,
            label=settings.admin.label,
            host=socket.gethostname(),
        )
        self.intake = Intake(
            queue,
            spoken,
            lambda: received(queue),
            self.roads,
            connections(most_in_flight(settings)),
        )
        drains = [road.drain for road in roads]
        edge = None if settings.edge is None else str(settings.edge.server)
        self.reading = Reading(
            queue,
            drains,
            lambda: self.suites,
            self.server,
            edge,
            names=lambda: self.names,
        )
        self.desk.lanes = self.reading.lanes
        incoming = Incoming(
            queue, lambda: self.suites, lambda: self.intake.spoken, is_capture=not roads
        )
        self.hits = Hits(self.reading)
        self.live = Live(self.desk, self.reading)
        self.events = Events(self.live)
        self.admin = Admin(
            self.desk,
            [
                self.hits,
                Given(incoming, self.reading),
                Metrics(Monitor(self.desk, self.reading, self.intake.received)),
                self.events,
                Page(),
            ],
        )
        self._tls: ssl.SSLContext | None = None

    async def remember(self) -> None:
        """What the queue file and people left behind."""
        for line in self.queue.salvaged:
            log.error(line)
        await self.release()
        await self.desk.remember()
        await self.intake.remember_newest()

    async def listen(self, sockets: Mapping[str, Sequence[socket.socket]]) -> Listeners:
        """Open every configured listener, or take over the supervisor's."""
        listen, admin = self.settings.listen, self.settings.admin
        served = {
            "beacons": True,
            "tls": listen.tls_address is not None,
            "admin": admin.address is not None,
        }
        for name in sockets:
            if not served.get(name, False):
                log.warning("nothing serves this socket of the supervisor's", socket=name)
        beacons = await self._listen(listen.address, None, sockets.get("beacons", ()))
        tls = None
        if listen.tls_address is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._load_certificate(self.settings)
            tls = await self._listen(listen.tls_address, self._tls, sockets.get("tls", ()))
        page = None
        if admin.address is not None:
            opened = next(iter(sockets.get("admin", ())), None)
            at = admin.address if opened is None else _address(opened)
            token = config.admin_token(self.settings)
            if token is None and not at.is_loopback:
                # The configuration was checked for its own address, not for the supervisor's.
                raise ConfigError([f"the admin socket is {at} but admin.token_file is not set"])
            page = await self.admin.start(at.host, at.port, admin.allowed_hosts, token, opened)
        return Listeners(_shown(beacons), tls and _shown(tls), page and _shown(page))

    async def _listen(
        self,
        address: config.Address,
        tls: ssl.SSLContext | None,
        opened: Sequence[socket.socket],
    ) -> tuple[str, int]:
        """Take beacons at the address, or at the opened sockets in its place; the first bound."""
        if not opened:
            return await self.intake.start(self._listening(address, tls))
        # Which names are ours depends on where one really listens.
        bound = [
            await self.intake.start(self._listening(_address(one), tls), one) for one in opened
        ]
        return bound[0]

    async def close(self) -> None:
        """End everything that is still open, without a grace."""
        with contextlib.suppress(OSError):
            await self.intake.close(0)
        self.events.end()
        await self.admin.close()
        await self.reading.close()
        for road in self.roads:
            await road.upstream.close()
        await self.queue.close()

    async def change(self, reloads: asyncio.Queue[Config]) -> None:
        """Change to each new configuration as far as that goes while running."""
        while True:
            settings = await reloads.get()
            await self._change_to(settings)
            self.boss.tell("READY=1")

    async def _change_to(self, settings: Config) -> None:
        try:
            self._load_certificate(settings)
        except (OSError, ssl.SSLError) as error:
            log.warning("reload: the certificate stays as it was", reason=str(error))
        for key in needs_restart(self.settings, settings):
            log.warning("reload: this setting changes with a restart only", setting=key)
        self.suites = config.suites(settings)
        # Where hits go changes with a restart only.
        fixed = {"upstream": self._upstream, "edge": _still_there(self._edge, settings.edge)}
        self.intake.spoken = protocols(settings.model_copy(update=fixed))
        self.queue.limits = limits(settings)
        spoken = {protocol.name: protocol for protocol in self.intake.spoken}
        for road in self.roads:
            drain = road.drain
            drain.protocol = spoken[road.name]
            drain.change_policy(replace(policy(settings), concurrency=drain.policy.concurrency))
        logs.set_level(settings.log.level)
        self.settings = settings
        await self.release()
        log.info("reloaded")

    async def release(self) -> None:
        """Held hits go whose report suites are described by now."""
        if not self.queue.ledger.held:
            return
        try:
            released = await release(self.settings, self.queue)
        except QueueError as error:
            log.warning("held hits could not be released", reason=str(error))
            released = 1  # some may have been before the disk refused, and nobody else finds them
        if released and self.drain is not None:
            self.drain.start_over()

    @property
    def names(self) -> Mapping[str, str]:
        """What the site calls Adobe's variables."""
        return config.names(self.settings)

    def _load_certificate(self, settings: Config) -> None:
        # New connections get the new certificate; those that are open keep the old one.
        listen = settings.listen
        if self._tls is not None and listen.tls_cert is not None:
            # The passphrase is given, so that OpenSSL never asks a terminal for one.
            self._tls.load_cert_chain(str(listen.tls_cert), str(listen.tls_key), password="")

    def _listening(self, address: config.Address, tls: ssl.SSLContext | None) -> Listening:
        listen = self.settings.listen
        return Listening(
            address.host,
            address.port,
            listen.max_request,
            listen.allowed_hosts,
            tls,
        )


def connections(concurrency: int) -> int:
    """How many clients may be connected: what this process may open, less what it needs.

    A process that runs out of descriptors can neither store nor send; strangers who hold
    connections open must not bring it there.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + 2 * concurrency + OWN_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):  # a sandbox forbids it
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(MOST_CONNECTIONS, soft - 2 * concurrency - OWN_DESCRIPTORS))


def needs_restart(old: Config, new: Config) -> list[str]:
    """The settings that differ and that a running daemon cannot change."""
    fixed = {
        "listen.address": (old.listen.address, new.listen.address),
        "listen.tls_address": (old.listen.tls_address, new.listen.tls_address),
        "listen.max_request": (old.listen.max_request, new.listen.max_request),
        "listen.allowed_hosts": (old.listen.allowed_hosts, new.listen.allowed_hosts),
        "upstream": (old.upstream, new.upstream),
        "edge": (old.edge, _still_there(new.edge, old.edge)),
        "queue.path": (old.queue.path, new.queue.path),
        "drain.concurrency": (old.drain.concurrency, new.drain.concurrency),
        "admin": (old.admin, new.admin),
        "log.format": (old.log.format, new.log.format),
    }
    return [key for key, (before, after) in fixed.items() if before != after]


def _address(opened: socket.socket) -> config.Address:
    if opened.family not in (socket.AF_INET, socket.AF_INET6):
        raise ConfigError(["a socket of the supervisor's is none of TCP: use ListenStream=PORT"])
    return config.Address(*opened.getsockname()[:2])


def _shown(bound: tuple[str, int]) -> str:
    host, port = bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def received(queue: Queue) -> Received:
    """The present instant, as a hit is stamped with it."""
    return Received(queue.boots.current, queue.clock.ms())


async def release(settings: Config, queue: Queue) -> int:
    """Let held hits go whose report suites are described by now; how many."""
    known = config.suites(settings)
    count = 0
    for suites in await queue.held_suites():
        if stamp.lack(tuple(suites.split(",")), known) is None:
            released = await queue.release(suites)
            if released:
                log.info("held hits are released", suites=suites, hits=released)
            count += released
    return count


def limits(settings: Config) -> Limits:
    """The configured bounds as the queue wants them."""
    queue = settings.queue
    return Limits(
        max_hits=queue.max_hits,
        max_bytes=queue.max_bytes,
        max_age_s=queue.max_age,
        min_free_disk=queue.min_free_disk,
        drop_oldest=queue.when_full is config.WhenFull.DROP_OLDEST,
        keep_delivered_s=queue.keep_delivered,
    )


def policy(settings: Config) -> Policy:
    """The configured price of a failure as the drain wants it."""
    return Policy(
        first_s=settings.retry.first,
        most_s=settings.retry.max,
        attempts=settings.retry.attempts,
        rate=settings.drain.rate,
        concurrency=settings.drain.concurrency,
        grace_s=GRACE_S,
    )


def protocols(settings: Config) -> list[Protocol]:
    """What is spoken on the beacon port; the last one answers for what is nobody's."""
    upstream = settings.upstream
    authority = b"" if upstream is None else Where(str(upstream.server)).authority
    analytics = Analytics(config.suites(settings), authority)
    if settings.edge is None:
        return [analytics]
    edge = Edge(
        settings.edge.base_path,
        frozenset(settings.edge.datastreams),
        refuse_unlisted=settings.edge.unlisted is config.Unlisted.REFUSE,
        has_token=settings.edge.token_file is not None,
    )
    return [edge, analytics]


def most_in_flight(settings: Config) -> int:
    """How many hits may be in flight at once, on all roads."""
    roads = sum(remote is not None for remote in (settings.upstream, settings.edge))
    return max(1, roads) * settings.drain.concurrency


def _still_there(edge: config.Edge | None, changed: config.Edge | None) -> config.Edge | None:
    """A road as it was, with the datastreams of a changed configuration."""
    if edge is None or changed is None:
        return edge
    changing = ("datastreams", "unlisted", "silence")
    listed = {name: getattr(changed, name) for name in changing}
    return edge.model_copy(update=listed)


def _edge_where(edge: config.Edge) -> Where:
    token = Token(edge.token_file) if edge.token_file is not None else lambda: None
    return replace(_where(edge), most_reply=MOST_EDGE_REPLY, token=token)


def _where(upstream: config.Upstream | config.Edge) -> Where:
    tls = None
    if upstream.tls_ca_file is not None:
        tls = ssl.create_default_context(cafile=str(upstream.tls_ca_file))
    return Where(str(upstream.server), upstream.timeout, tls)
