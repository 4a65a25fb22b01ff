"""Claims about beacons over TLS: who gets in, with what, and that a hit is a hit."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import certificates
import pytest
from daemon import Launch, Process, free_ports, hit
from yarl import URL

from proxy.fake import FakeCollector


@dataclass(frozen=True, slots=True)
class Secure:
    """A daemon with a TLS port, and its certificate."""

    daemon: Process
    port: int
    cert: Path

    async def handshake(self, context: ssl.SSLContext) -> tuple[str, str]:
        """The protocol and the cipher that were agreed on."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        agreed: tuple[str, str, int] = writer.get_extra_info("cipher")
        version: str = writer.get_extra_info("ssl_object").version()
        writer.close()
        await writer.wait_closed()
        return version, agreed[0]

    async def send(self, target: str) -> int:
        context = ssl.create_default_context(cafile=self.cert)
        url = URL(f"https://localhost:{self.port}{target}", encoded=True)
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
            return answer.status


def settings(cert: Path, key: Path, port: int) -> dict[str, object]:
    return {
        "suites.known.examplersid.timestamps": "required",
        "listen.tls_address": f"127.0.0.1:{port}",
        "listen.tls_cert": str(cert),
        "listen.tls_key": str(key),
    }


@pytest.fixture
async def secure(tmp_path: Path, process: Launch, adobe: FakeCollector) -> Secure:
    cert, key = certificates.make(tmp_path, "localhost")
    (port,) = free_ports(1)
    daemon = process(adobe, settings(cert, key, port))
    await daemon.start()
    return Secure(daemon, port, cert)


async def test_a_hit_over_tls_is_a_hit_like_any_other(secure: Secure, adobe: FakeCollector) -> None:
    """Stored, answered, delivered; the port without TLS goes on beside it."""
    assert await secure.send(hit(1)) == 200
    assert (await secure.daemon.send(hit(2, visitor=2))).status == 200
    await secure.daemon.until(lambda status: status["delivered"] == 2)

    assert {received.param(b"pageName") for received in adobe.received} == {b"p1", b"p2"}


async def test_the_newest_protocol_is_spoken(secure: Secure) -> None:
    """TLS 1.3 where the client knows it, 1.2 with forward secrecy where not."""
    context = ssl.create_default_context(cafile=secure.cert)
    assert (await secure.handshake(context))[0] == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    version, cipher = await secure.handshake(context)

    assert version == "TLSv1.2"
    assert cipher.startswith("ECDHE-")
    assert "GCM" in cipher or "CHACHA20" in cipher


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_an_old_protocol_is_refused(secure: Secure, version: ssl.TLSVersion) -> None:
    """Even of a client that would take any cipher."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is the point of it
        context.minimum_version = context.maximum_version = version

    with pytest.raises((ssl.SSLError, ConnectionError)) as refused:
        await secure.handshake(context)
    if isinstance(refused.value, ssl.SSLError):
        assert "VERSION" in (refused.value.reason or "").upper()


async def test_ciphers_without_forward_secrecy_are_refused(secure: Secure) -> None:
    """What was recorded must stay secret when the key is stolen one day."""
    context = ssl.create_default_context(cafile=secure.cert)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-GCM-SHA384:AES128-SHA")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await secure.handshake(context)


async def test_what_is_no_tls_harms_nobody(secure: Secure) -> None:
    """Plain HTTP, noise, and a client that says nothing: the next client gets its answer."""
    for said in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(200), b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
        writer.write(said)
        writer.write_eof()
        try:
            answer = await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            answer = b""
        writer.close()

        assert not answer.startswith(b"HTTP")
    assert await secure.send(hit(1)) == 200
    assert "Traceback" not in secure.daemon.log


async def test_a_key_with_a_passphrase_is_refused_without_asking(
    tmp_path: Path, process: Launch
) -> None:
    """A daemon that waits for someone to type would never start at boot."""
    cert, key = certificates.make(tmp_path, "locked", passphrase="secret")
    daemon = process(None, settings(cert, key, *free_ports(1)))
    daemon.launch()

    assert await daemon.ended() == 78
    assert "do not load together" in daemon.log
    assert "Enter PEM pass phrase" not in daemon.log
