"""Claims about Adobe's own Web SDK, unchanged, in a real browser over TLS, pointed at the daemon.

The library knows neither port nor path: the browser is told where `localhost:443` is, and
nothing else.  The page is one of a shop's own server; Edge is a fake that is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certificates
import pytest
from aiohttp import web
from daemon import Launch, Process, free_ports
from test_browser import ALONE, CHROMIUM, absent
from test_edge import ECID, cookie

from proxy.fake import FakeCollector, Received, identifies, status

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

pytestmark = pytest.mark.browser

LIBRARY = Path(__file__).parent / "vendor" / "alloy-2.33.1.min.js"
ORG = "97D1F3F459CE0AD80A495CBE@AdobeOrg"
# Adobe's own base code, in its words of one syllable: calls wait until the library is there.
PAGE = """<!doctype html><title>A shop</title><script>
window.__alloyNS = ["alloy"]
window.alloy = (...given) => new Promise((done, failed) =>
  setTimeout(() => alloy.q.push([done, failed, given])))
window.alloy.q = []
window.thrown = []
addEventListener("unhandledrejection", event => thrown.push(String(event.reason)))
addEventListener("error", event => thrown.push(event.message))
</script><script src="/alloy.js"></script><script>
alloy("configure", {
  datastreamId: "the-datastream", orgId: "%s", edgeDomain: "localhost",
  thirdPartyCookiesEnabled: false, clickCollectionEnabled: false, context: ["web"],
})
const send = async (name, more) => {
  const before = Date.now()
  const got = await alloy("sendEvent", {xdm: {web: {webPageDetails: {name}}}, ...more})
  return [before, Date.now(), Object.keys(got)]
}
const failing = async (...given) => {
  try { await alloy(...given) } catch (error) { return error.message }
  return ""
}
</script>"""


class Kiosk:
    """A browser with a profile of its own that survives it, and what was sent with it."""

    def __init__(self, daemon: Process, shop: str, profile: Path, tls: int) -> None:
        self.daemon, self._shop, self._profile, self._tls = daemon, shop, profile, tls
        self.sent: list[tuple[str, float, float]] = []
        self.page: Page
        self._context: BrowserContext
        self._open = contextlib.AsyncExitStack()

    async def start(self) -> None:
        try:
            from playwright.async_api import async_playwright  # noqa: PLC0415 - may be absent
        except ImportError:
            absent("playwright")
        program = next(filter(None, map(shutil.which, CHROMIUM)), None)
        if program is None:
            absent("Chromium")
        playwright = await self._open.enter_async_context(async_playwright())
        self._context = await playwright.chromium.launch_persistent_context(
            str(self._profile),
            executable_path=program,
            args=[*ALONE, f"--host-resolver-rules=MAP localhost:443 127.0.0.1:{self._tls}"],
            chromium_sandbox=False,
            ignore_https_errors=True,
        )
        self.page = await self._context.new_page()
        await self.page.goto(self._shop)

    async def stop(self) -> None:
        """The page never saw the library throw."""
        with contextlib.suppress(AttributeError):
            assert await self.page.evaluate("thrown") == []
            await self._context.close()
        await self._open.aclose()

    async def restart(self) -> None:
        await self.stop()
        self._open = contextlib.AsyncExitStack()
        await self.start()

    async def event(self, *, unloading: bool = False) -> list[str]:
        """One more event, on disk when this returns; what the library gave the page for it."""
        accepted = (await self.daemon.status())["accepted"]
        name = f"page {len(self.sent)}"
        more = {"documentUnloading": True} if unloading else {}
        before, after, got = await self.page.evaluate(
            "([name, more]) => send(name, more)", [name, more]
        )
        self.sent.append((name, before, after))
        await self.daemon.until(lambda status: status["accepted"] > accepted)
        keys: list[str] = got
        return keys

    def arrived_once_in_order_and_at_their_time(self, hits: list[Received]) -> bool:
        events = [event["xdm"] for hit in hits for event in hit.events]
        assert [xdm["web"]["webPageDetails"]["name"] for xdm in events] == [
            name for name, _, _ in self.sent
        ]
        for xdm, (name, before, after) in zip(events, self.sent, strict=True):
            seconds, _, millis = xdm["timestamp"].removesuffix("Z").partition(".")
            parsed = time.strptime(seconds + " UTC", "%Y-%m-%dT%H:%M:%S %Z")
            at_ms = 1000 * (int(time.mktime(parsed)) - time.timezone) + int(millis)
            assert before <= at_ms <= after, name
        return True


@pytest.fixture
async def shop() -> AsyncIterator[str]:
    """The shop's own server: a page, and the library as Adobe made it."""
    script = await asyncio.to_thread(LIBRARY.read_text)

    async def show(request: web.BaseRequest) -> web.Response:
        if request.path == "/alloy.js":
            return web.Response(text=script, content_type="text/javascript")
        return web.Response(text=PAGE % ORG, content_type="text/html")

    server = web.Server(show)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    listener.close()
    await server.shutdown(0.5)


@pytest.fixture
async def edge() -> AsyncIterator[FakeCollector]:
    async with FakeCollector() as server:
        server.when(b"/interact", identifies(ORG, ECID))
        yield server


@pytest.fixture
async def kiosk(
    process: Launch, edge: FakeCollector, shop: str, tmp_path: Path
) -> AsyncIterator[Kiosk]:
    cert, key = certificates.make(tmp_path, "kiosk")
    (tls,) = free_ports(1)
    daemon = process(
        None,
        {
            "edge.server": edge.url,
            "edge.datastreams": ["the-datastream"],
            "edge.unlisted": "refuse",
            "listen.tls_address": f"127.0.0.1:{tls}",
            "listen.tls_cert": str(cert),
            "listen.tls_key": str(key),
        },
    )
    await daemon.start()
    kiosk = Kiosk(daemon, shop, tmp_path / "profile", tls)
    await kiosk.start()
    yield kiosk
    await kiosk.stop()


async def test_through_an_outage_and_restarts_every_event_of_the_web_sdk_arrives(
    kiosk: Kiosk, edge: FakeCollector
) -> None:
    """Once, in order, with its own time; the library never throws.

    Fifty events while the link is down, every third one as the page goes away; in the middle
    the browser is restarted, and the daemon killed.
    """
    first = await kiosk.page.evaluate("send('the very first')")
    assert "propositions" in first[2]
    assert (await kiosk.daemon.status())["accepted"] == 0, "nobody is known yet: passed through"
    (arrival,) = edge.received
    assert arrival.header(b"content-type") == b"text/plain; charset=UTF-8"

    for number in range(6):
        await kiosk.event(unloading=number % 3 == 2)
    await kiosk.daemon.until(lambda status: status["delivered"] == 6)

    await edge.cut()
    for number in range(25):
        await kiosk.event(unloading=number % 3 == 2)
    await kiosk.restart()
    await kiosk.daemon.restart()
    for number in range(25):
        await kiosk.event(unloading=number % 3 == 2)
    assert (await kiosk.daemon.status())["waiting"] == 50
    assert len(edge.received) == 7, "nothing got through"

    await edge.restore()
    found = await kiosk.daemon.until(lambda status: status["delivered"] == 56)
    assert kiosk.arrived_once_in_order_and_at_their_time(edge.received[1:])
    calls = {hit.path.rpartition(b"/")[2] for hit in edge.received}
    assert calls == {b"interact", b"collect"}
    assert (found["dead"], found["ambiguous"], found["repeated"]) == (0, 0, 0)
    for hit in edge.received[1:]:
        assert f'"value":"{cookie()}"'.encode() in hit.body, "one visitor throughout"


async def test_a_page_that_sends_at_once_loses_nothing_either(
    kiosk: Kiosk, edge: FakeCollector
) -> None:
    """Ten events without waiting, online and offline: the browser orders them, we lose none."""
    await kiosk.page.evaluate("send('the very first')")
    at_once = "prefix => Promise.all([...Array(10).keys()].map(n => send(`${prefix} ${n}`)))"
    await kiosk.page.evaluate(at_once, "online")
    await kiosk.daemon.until(lambda status: status["delivered"] == 10)
    await edge.cut()
    await kiosk.page.evaluate(at_once, "offline")
    await edge.restore()
    await kiosk.daemon.until(lambda status: status["delivered"] == 20)
    names = [
        event["xdm"]["web"]["webPageDetails"]["name"]
        for hit in edge.received[1:]
        for event in hit.events
    ]
    assert sorted(names) == sorted(
        f"{prefix} {n}" for prefix in ("online", "offline") for n in range(10)
    )


async def test_personalization_works_online_and_is_empty_offline(
    kiosk: Kiosk, edge: FakeCollector
) -> None:
    """Edge's own answer reaches the page; in an outage it has nothing to show, and goes on."""
    await kiosk.page.evaluate("send('the very first')")
    offer: dict[str, Any] = {
        "type": "personalization:decisions",
        "payload": [{"id": "AT:1", "scope": "banner", "items": []}],
    }
    answer = json.dumps({"requestId": "r", "handle": [offer]}).encode()
    edge.when(b"wants an offer", status(200, body=answer, content_type="application/json"))
    ask = (
        "alloy('sendEvent', {xdm: {web: {webPageDetails: {name: 'wants an offer'}}},"
        " personalization: {decisionScopes: ['banner']}}).then(got => got.propositions.length)"
    )
    assert await kiosk.page.evaluate(ask) == 1
    await edge.cut()
    assert await kiosk.page.evaluate(ask) == 0
    assert (await kiosk.daemon.status())["waiting"] == 1


async def test_consent_is_passed_through_and_never_stored(
    kiosk: Kiosk, edge: FakeCollector
) -> None:
    """One that arrives hours later would be worse than none."""
    consent = [
        "setConsent",
        {"consent": [{"standard": "Adobe", "version": "1.0", "value": {"general": "in"}}]},
    ]
    await kiosk.page.evaluate("send('the very first')")
    assert await kiosk.page.evaluate("given => failing(...given)", consent) == ""
    assert edge.received[-1].path == b"/ee/v1/privacy/set-consent"
    assert (await kiosk.daemon.status())["accepted"] == 0
