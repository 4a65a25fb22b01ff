"""Claims about SIGHUP: what changes at once, what needs a restart, and what changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import certificates
from clock import FakeClock
from conftest import OpenQueue
from daemon import Launch, Process, free_ports, hit, write_config

from proxy.core.hit import NewHit, Received, Request, Suites
from proxy.core.reception import Take, receive
from proxy.fake import FakeCollector, status

REQUIRED = {"suites.known.examplersid.timestamps": "required"}


class Connection:
    """A client that keeps its connection open, and hears of it when it is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, target: str) -> int:
        """A hit on this very connection; the status it got."""
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split()[0]
        await self.reader.readexactly(int(length))
        assert b"\r\nconnection: close" not in head.lower()
        return int(head.split()[1])

    @property
    def certificate(self) -> bytes:
        shown: bytes = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown


@contextlib.asynccontextmanager
async def connected(address: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Connection]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


def change(
    daemon: Process, settings: Mapping[str, object], upstream: FakeCollector | None = None
) -> None:
    """Another configuration with the same addresses and the same queue."""
    given: dict[str, object] = {
        "listen.address": daemon.beacons,
        "admin.address": daemon.admin,
        "queue.path": str(daemon.queue_file),
        "retry.first": "10ms",
        "retry.max": "100ms",
        **settings,
    }
    write_config(daemon.config_file, given, upstream.url if upstream else None)


async def said(daemon: Process, words: str) -> list[str]:
    """The lines of the log with these words, once there are some."""
    async with asyncio.timeout(10):
        while not (lines := [line for line in daemon.log.splitlines() if words in line]):  # noqa: ASYNC110 - a file of another process
            await asyncio.sleep(0.02)
    return lines


async def reload(
    daemon: Process, settings: Mapping[str, object], upstream: FakeCollector | None = None
) -> None:
    """Change the file, say so, and wait until the daemon says that it is done."""
    change(daemon, settings, upstream)
    daemon.log_file.write_text("")
    daemon.signal(signal.SIGHUP)
    await said(daemon, '"reloaded"')


# -- what changes ------------------------------------------------------------------------------


async def test_a_limit_changes_under_an_open_connection(process: Launch) -> None:
    """The third hit is refused, and after the reload taken, on the same connection."""
    daemon = process(None, {"queue.max_hits": 2})
    await daemon.start()
    async with connected(daemon.beacons) as client:
        assert [await client.send(hit(number)) for number in range(3)] == [200, 200, 503]
        await reload(daemon, {"queue.max_hits": 3})

        assert await client.send(hit(3)) == 200
        assert await client.send(hit(4)) == 503


async def test_suites_change_under_an_open_connection(process: Launch) -> None:
    """A suite that is not listed is refused from the reload on."""
    daemon = process(None, REQUIRED)
    await daemon.start()
    async with connected(daemon.beacons) as client:
        assert await client.send(hit(0, suite="other")) == 200
        await reload(daemon, REQUIRED | {"suites.unlisted": "refuse"})

        assert await client.send(hit(1, suite="other")) == 403
        assert await client.send(hit(2)) == 200


async def test_a_silenced_rule_is_silent_from_the_reload_on(process: Launch) -> None:
    """In the list, in a hit, and for a filter; other suites go on to be told of."""
    daemon = process(None, {})
    await daemon.start()

    async def found(q: str) -> list[tuple[int, bool]]:
        """The hits, and whether they are told to have no visitor."""
        rows = (await daemon.ask(f"/api/v1/hits?q={q}")).json()["hits"]
        rules = [[one["rule"] for one in row["findings"]] for row in rows]
        return [(row["id"], "W1" in said) for row, said in zip(rows, rules, strict=True)]

    async with connected(daemon.beacons) as client:
        for number, suite in enumerate(("examplersid", "other")):
            await client.send(hit(number, suite).replace("&fid=", "&nobody="))
        assert await found("rule:W1") == [(2, True), (1, True)]

        await reload(daemon, {"suites.known.examplersid.silence": ["W1"]})

    assert await found("rule:W1") == [(2, True)]
    assert await found("") == [(2, True), (1, False)]
    told = (await daemon.ask("/api/v1/hits/1")).json()["findings"]
    assert "W1" not in [one["rule"] for one in told]


async def held(daemon: Process, open_queue: OpenQueue) -> None:
    """A started daemon in which three late hits of each of two suites wait for their mode."""
    clock = FakeClock()  # of years ago: they are late
    queue = await open_queue(clock=clock, path=daemon.queue_file)
    for suite in ("examplersid", "another"):
        for number in range(3):
            target = hit(number, suite).encode()
            take = receive(Request("GET", target, ((b"Host", b"localhost"),)), "::1", Suites({}))
            assert isinstance(take, Take)
            await queue.add([NewHit(take.rows[0].lane, Received(1, clock.ms()), take.content)])
            clock.passes(10)
    await queue.close()
    await daemon.start()
    await daemon.until(lambda found: found["held"] == 6)


async def test_held_hits_are_released_by_the_mode_they_wait_for(
    process: Launch, adobe: FakeCollector, open_queue: OpenQueue
) -> None:
    """Told the mode of their suite, they go out with their own seconds; the others stay."""
    daemon = process(adobe)
    await held(daemon, open_queue)
    assert not adobe.received
    await reload(daemon, REQUIRED, adobe)
    found = await daemon.until(lambda found: found["delivered"] == 3)

    assert [received.param(b"ts") for received in adobe.received] == [
        b"1700000000",
        b"1700000010",
        b"1700000020",
    ]
    assert (found["held"], list(found["held_suites"])) == (3, ["another"])
    await said(daemon, "held hits are released")


async def test_what_the_disk_did_not_release_keeps_nothing_else_back(
    process: Launch, adobe: FakeCollector, open_queue: OpenQueue
) -> None:
    """The daemon lives, what was released goes out, and the rest is asked for again."""
    daemon = process(adobe)
    await held(daemon, open_queue)
    with contextlib.closing(sqlite3.connect(daemon.queue_file)) as db:
        db.execute(
            "CREATE TRIGGER refusing BEFORE DELETE ON held WHEN old.suites = 'examplersid'"
            " BEGIN SELECT raise(ABORT, 'refused'); END"
        )
        await reload(daemon, REQUIRED | {"suites.known.another.timestamps": "required"}, adobe)
        await said(daemon, "held hits could not be released")
        found = await daemon.until(lambda found: found["delivered"] == 3)
        assert list(found["held_suites"]) == ["examplersid"]
        db.execute("DROP TRIGGER refusing")

    await daemon.until(lambda found: found["delivered"] == 6, 20)


async def test_hits_whose_suites_no_longer_agree_wait_until_they_do(
    process: Launch, adobe: FakeCollector
) -> None:
    """Known modes that cannot share a request release nothing, or they would be held again."""
    agree = {"suites.known.a.timestamps": "required", "suites.known.b.timestamps": "required"}
    differ = agree | {"suites.known.b.timestamps": "not-allowed"}
    daemon = process(adobe, agree)
    await daemon.start()
    await daemon.tell("/api/v1/forwarding/offline")
    await daemon.hits(range(2), "a,b")
    await reload(daemon, differ, adobe)
    await daemon.tell("/api/v1/forwarding/online")
    found = await daemon.until(lambda found: found["held"] == 2)
    assert "no longer agree" in found["held_suites"]["a,b"]["reason"]
    await reload(daemon, differ | {"log.level": "debug"}, adobe)
    assert (await daemon.status())["held"] == 2
    assert "released" not in daemon.log

    await reload(daemon, agree, adobe)
    await daemon.until(lambda found: found["delivered"] == 2)


async def test_the_rate_changes_while_a_backlog_leaves(
    process: Launch, adobe: FakeCollector
) -> None:
    """Two hundred hits at one a second would take minutes; without a bound they do not."""
    slow = REQUIRED | {"drain.rate": 1}
    daemon = process(adobe, slow)
    await daemon.start()
    await daemon.hits(range(200), visitors=20)
    found = await daemon.status()
    assert found["waiting"] > 150
    await reload(daemon, REQUIRED, adobe)
    await daemon.until(lambda found: found["delivered"] == 200)


async def test_the_attempts_change_while_a_hit_fails(process: Launch, adobe: FakeCollector) -> None:
    """A hit that would be tried a thousand times is given up by the new bound."""
    adobe.when(b"pageName=p7", status(500))
    patient = REQUIRED | {"retry.attempts": 1_000}
    daemon = process(adobe, patient)
    await daemon.start()
    await daemon.hits(range(10), visitors=10)
    found = await daemon.until(lambda found: found["delivered"] == 9)
    assert found["dead"] == 0
    await reload(daemon, REQUIRED | {"retry.attempts": 1}, adobe)
    await daemon.until(lambda found: found["dead"] == 1)


async def test_the_log_level_changes(process: Launch) -> None:
    """What was silent speaks."""
    daemon = process(None, {"log.level": "error"})
    await daemon.start()
    assert daemon.log == ""
    await reload(daemon, {"log.level": "info"})

    assert '"level": "info"' in daemon.log


async def test_a_renewed_certificate_drops_no_connection(process: Launch, tmp_path: Path) -> None:
    """Open connections go on with the old one, new ones get the new one."""
    cert, key = certificates.make(tmp_path, "first")
    (port,) = free_ports(1)
    tls = {
        "listen.tls_address": f"127.0.0.1:{port}",
        "listen.tls_cert": str(tmp_path / "cert.pem"),
        "listen.tls_key": str(tmp_path / "key.pem"),
    }
    shutil.copy(cert, tmp_path / "cert.pem")
    shutil.copy(key, tmp_path / "key.pem")
    daemon = process(None, tls)
    await daemon.start()
    trusts = ssl.create_default_context(cafile=cert)
    async with connected(f"127.0.0.1:{port}", trusts) as before:
        assert await before.send(hit(0)) == 200
        renewed, its_key = certificates.make(tmp_path, "second")
        shutil.copy(renewed, tmp_path / "cert.pem")
        shutil.copy(its_key, tmp_path / "key.pem")
        trusts.load_verify_locations(renewed)
        await reload(daemon, tls)
        async with connected(f"127.0.0.1:{port}", trusts) as after:
            assert await after.send(hit(1)) == 200
            assert await before.send(hit(2)) == 200

            assert before.certificate == ssl.PEM_cert_to_DER_cert(cert.read_text())
            assert after.certificate == ssl.PEM_cert_to_DER_cert(renewed.read_text())


# -- what does not -----------------------------------------------------------------------------


async def test_a_faulty_configuration_changes_nothing_and_is_said(process: Launch) -> None:
    """Every fault with its line; limits and connections stay, and the next one is taken."""
    daemon = process(None, {"queue.max_hits": 2})
    await daemon.start()
    async with connected(daemon.beacons) as client:
        assert await client.send(hit(0)) == 200
        change(daemon, {"queue.max_hits": 1, "queue.max_hist": 5, "log.level": "loud"})
        daemon.signal(signal.SIGHUP)
        lines = await said(daemon, "the old configuration stays")

        assert any(f"{daemon.config_file}:" in line and "max_hist" in line for line in lines)
        assert any("log.level" in line for line in lines)
        assert [await client.send(hit(number)) for number in (1, 2)] == [200, 503]
        await reload(daemon, {"queue.max_hits": 3})
        assert await client.send(hit(3)) == 200


async def test_a_missing_file_changes_nothing(process: Launch) -> None:
    daemon = process(None, {"queue.max_hits": 1})
    await daemon.start()
    daemon.config_file.unlink()
    daemon.signal(signal.SIGHUP)
    await said(daemon, "the old configuration stays")

    assert (await daemon.send(hit(0))).status == 200
    assert (await daemon.send(hit(1))).status == 503


async def test_a_faulty_certificate_changes_nothing(process: Launch, tmp_path: Path) -> None:
    """As when a renewal has written one file of two: the old pair goes on."""
    cert, key = certificates.make(tmp_path, "first")
    (port,) = free_ports(1)
    tls = {
        "listen.tls_address": f"127.0.0.1:{port}",
        "listen.tls_cert": str(cert),
        "listen.tls_key": str(key),
    }
    daemon = process(None, tls)
    await daemon.start()
    trusts = ssl.create_default_context(cafile=cert)
    other, _ = certificates.make(tmp_path, "second")
    change(daemon, tls | {"listen.tls_cert": str(other)})
    daemon.signal(signal.SIGHUP)
    (line, *_) = await said(daemon, "the old configuration stays")

    assert "do not load together" in line
    async with connected(f"127.0.0.1:{port}", trusts) as client:
        assert await client.send(hit(0)) == 200


async def test_what_needs_a_restart_is_said(process: Launch) -> None:
    """Setting by setting; the rest of the same file is taken over, the address goes on."""
    daemon = process(None, {"queue.max_hits": 1})
    await daemon.start()
    (port,) = free_ports(1)
    moved = {
        "listen.address": f"127.0.0.1:{port}",
        "drain.concurrency": 5,
        "log.format": "console",
        "queue.max_hits": 9,
    }
    await reload(daemon, moved)
    lines = await said(daemon, "changes with a restart only")

    for setting in ("listen.address", "drain.concurrency", "log.format"):
        assert sum(f'"{setting}"' in line for line in lines) == 1, setting
    assert len(lines) == 3
    assert [(await daemon.send(hit(number))).status for number in range(2)] == [200, 200]
