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
import json
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxy import __version__, config, desk
from proxy.config import Config
from proxy.core.hit import Received, Reply, Request, Timestamps
from proxy.core.limits import Limits
from proxy.core.link import State
from proxy.desk import Desk
from proxy.drain import Drain, Policy
from proxy.shell.admin import Admin
from proxy.shell.clock import Clock, SystemClock
from proxy.shell.intake import Intake, Listening
from proxy.shell.queue import Queue
from proxy.shell.upstream import Upstream, Where

log = structlog.get_logger()

GRACE_S = 3.0
# VisitorAPI waits 30 s for `/id`, and the page with it; without an answer it goes on alone.
IDENTITY_S = 2.0


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
    clock: Clock | None = None,
) -> None:
    """Serve until `stop` is set.  QueueError and OSError when it cannot start."""
    loop = asyncio.get_running_loop()
    queue = await Queue.open(
        queue_file, limits(settings), clock or SystemClock(), settings.drain.concurrency
    )
    upstream = drain = None
    if settings.upstream is not None:
        upstream = Upstream(_where(settings.upstream))
        drain = Drain(
            queue,
            upstream,
            upstream.where.authority,
            config.suites(settings),
            policy(settings),
            random.random,
        )
    server = None if settings.upstream is None else str(settings.upstream.server)
    front = Desk(queue, drain, server, loop.time(), loop.time)
    intake = Intake(
        queue, config.suites(settings), lambda: received(queue), _identify(upstream, drain, front)
    )
    admin = Admin(front)
    try:
        async with asyncio.TaskGroup() as loops:
            loops.create_task(queue.run())
            await release(settings, queue)
            await front.remember()
            await intake.remember_newest()
            draining = loops.create_task(drain.run()) if drain is not None else None
            house = loops.create_task(desk.keep_house(front))
            listeners = await _listen(settings, intake, admin)
            log.info("ready", version=__version__, queue=str(queue_file), upstream=server)
            ready(listeners)

            await stop.wait()
            # 1. No new hits; what is being stored is answered.
            await intake.close(GRACE_S)
            # 2. Nothing new is sent; what flies may land.
            if drain is not None and draining is not None:
                drain.stop()
                await draining
            # 3. No more people.
            house.cancel()
            await admin.close()
            # 4. What is known goes to disk.
            await queue.close()
            log.info("stopped", waiting=queue.ledger.waiting)
    finally:
        # After a failure the steps above did not run; each of these may be repeated.
        with contextlib.suppress(OSError):
            await intake.close(0)
        await admin.close()
        if upstream is not None:
            await upstream.close()
        await queue.close()


async def _listen(settings: Config, intake: Intake, admin: Admin) -> Listeners:
    listen = settings.listen
    tls = None
    beacons = await intake.start(_listening(settings, listen.address, None))
    if listen.tls_address is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(str(listen.tls_cert), str(listen.tls_key))
        tls = await intake.start(_listening(settings, listen.tls_address, context))
    page = None
    if settings.admin.address is not None:
        page = await admin.start(
            settings.admin.address.host,
            settings.admin.address.port,
            settings.admin.allowed_hosts,
            config.admin_token(settings),
        )
    return Listeners(_shown(beacons), tls and _shown(tls), page and _shown(page))


def _shown(bound: tuple[str, int]) -> str:
    host, port = bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listening(settings: Config, address: config.Address, tls: ssl.SSLContext | None) -> Listening:
    listen = settings.listen
    return Listening(address.host, address.port, listen.max_request, listen.allowed_hosts, tls)


def received(queue: Queue) -> Received:
    """The present instant, as a hit is stamped with it."""
    return Received(queue.boots.current, queue.clock.ms())


def _identify(
    upstream: Upstream | None, drain: Drain | None, front: Desk
) -> Callable[[Request], Awaitable[bytes | None]]:
    """`/id` is passed through while the link is up, and never an error."""

    async def ask(request: Request) -> bytes | None:
        if upstream is None or drain is None or front.offline_until_ms is not None:
            return None
        if drain.link.state is not State.ONLINE:
            return None
        try:
            async with asyncio.timeout(IDENTITY_S):
                reply = await upstream.send(request)
        except TimeoutError:
            return None
        return _identity(reply) if isinstance(reply, Reply) else None

    return ask


def _identity(reply: Reply) -> bytes | None:
    """Adobe's JSON, if that is what came back."""
    try:
        found = json.loads(reply.body)
    except ValueError:
        return None
    return reply.body if reply.status == 200 and isinstance(found, dict) else None


async def release(settings: Config, queue: Queue) -> int:
    """Let held hits go whose report suites are described by now; how many."""
    known = config.suites(settings)
    count = 0
    for suites in await queue.held_suites():
        if all(known.of(rsid).timestamps is not Timestamps.UNKNOWN for rsid in suites.split(",")):
            released = await queue.release(suites)
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


def _where(upstream: config.Upstream) -> Where:
    tls = None
    if upstream.tls_ca_file is not None:
        tls = ssl.create_default_context(cafile=str(upstream.tls_ca_file))
    return Where(str(upstream.server), upstream.timeout, tls)
