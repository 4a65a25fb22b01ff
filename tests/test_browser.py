"""Claims about a page in a real browser: it sees success through an outage, and nothing is lost.

The page is ours and comes from another origin than the daemon; it sends in the four ways
AppMeasurement does, and asks `/id` as VisitorAPI does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from daemon import LOOK_AGAIN_S, Serve, Served

from proxy.fake import FakeCollector
from proxy.fake import status as answers

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

pytestmark = pytest.mark.browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ALONE = [  # a browser that looks for nothing but our two servers
    "--no-proxy-server",
    "--disable-quic",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SUITE = {"suites.known.shop.timestamps": "optional"}

# Browsers do not separate cookies by port: both of these go to the daemon as well.
SECRET = "a-secret-of-another-application"
IDENTITY = '{"id":"2B2A0001-4000000000000001"}'
VISITOR = "[CS]v1|2B2A0001-4000000000000001[CE]"

# What a page does, and what it takes for success, each as AppMeasurement does it.
PAGE = """<!doctype html><title>A shop</title><script>
const image = url => new Promise(done => {
  const it = new Image()
  it.onload = () => done(it.naturalWidth)
  it.onerror = () => done(0)
  it.src = url
})
const xhr = (method, url, body) => new Promise(done => {
  const it = new XMLHttpRequest()
  it.open(method, url, true)
  it.withCredentials = true
  if (body) it.setRequestHeader("Content-Type", "application/x-www-form-urlencoded")
  it.onreadystatechange = () => { if (it.readyState === 4) done([it.status, it.responseText]) }
  it.send(body)
})
const script = url => new Promise(done => {
  window.s_c_il = [{doPostbacks: got => done(got)}]
  const it = document.createElement("script")
  it.async = true
  it.onerror = () => done("the script did not load")
  it.src = url
  document.head.append(it)
})
</script>"""

# A page of no origin at all, within the other: its XHR says `Origin: null`.
SANDBOXED = """([url, body]) => new Promise(done => {
  addEventListener("message", event => done([event.origin, event.data]), {once: true})
  const frame = document.createElement("iframe")
  frame.sandbox = "allow-scripts"
  frame.srcdoc = `<script>
    const it = new XMLHttpRequest()
    it.open("POST", ${JSON.stringify(url)}, true)
    it.withCredentials = true
    it.setRequestHeader("Content-Type", "application/x-www-form-urlencoded")
    it.onreadystatechange = () => { if (it.readyState === 4) parent.postMessage(it.status, "*") }
    it.send(${JSON.stringify(body)})
  </` + `script>`
  document.body.append(frame)
})"""


def absent(what: str) -> None:
    """Elsewhere a reason to skip; where these tests must run, a failure."""
    if os.environ.get("TRACKOFFLINE_CI"):
        pytest.fail(f"{what} is not here, and TRACKOFFLINE_CI says it must be")
    pytest.skip(f"{what} is not installed")


@pytest.fixture
async def chromium() -> AsyncIterator[BrowserContext]:
    """A browser nobody has used before, headless."""
    try:
        from playwright.async_api import async_playwright  # noqa: PLC0415 - may be absent
    except ImportError:
        absent("playwright")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        absent("Chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=ALONE, chromium_sandbox=False
        )
        yield await browser.new_context()
        await browser.close()


@pytest.fixture
async def shop(chromium: BrowserContext) -> AsyncIterator[Page]:
    """The page, loaded from a server of its own; its origin is not the daemon's."""

    async def show(request: web.BaseRequest) -> web.Response:
        answer = web.Response(text=PAGE, content_type="text/html")
        answer.headers.add("Set-Cookie", f"session={SECRET}; Path=/")
        answer.headers.add("Set-Cookie", f"s_vi={VISITOR}; Path=/")
        return answer

    server = web.Server(show)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    page = await chromium.new_page()
    await page.goto(f"http://127.0.0.1:{port}/")
    yield page
    await page.close()
    listener.close()
    await server.shutdown(0.5)


class Visit:
    """What the page sent in the name of a visitor: each hit's name, and when it happened."""

    def __init__(self, page: Page, daemon: Served) -> None:
        self.page = page
        self.daemon = daemon
        self.sent: list[tuple[str, range]] = []

    def hit(self, name: str, kind: str = "1", more: str = "") -> tuple[str, str]:
        """Address and query of a hit that can be told from every other."""
        number = f"s{len(self.sent) + 1:013}"
        query = f"AQB=1&ndh=1&pf=1&{more}mid=4242&ce=UTF-8&pageName={name}&AQE=1"
        return f"http://{self.daemon.beacons}/b/ss/shop/{kind}/JS-2.27.0/{number}", query

    async def once(self, name: str, what: str, *given: object) -> Any:
        """Do it, and wait until the daemon has it: a beacon's page does not."""
        before = int(time.time())
        accepted = (await self.daemon.status())["accepted"]
        result = await self.page.evaluate(what, list(given))
        await self.daemon.until(lambda status: status["accepted"] == accepted + 1)
        self.sent.append((name, range(before, int(time.time()) + 1)))
        return result

    async def all_ways(self, of: str) -> None:
        """One hit in each way a page has; each must look like a success to the page."""
        url, query = self.hit(f"{of}.image", more=f"c1={'x' * 70_000}&")
        assert await self.once(f"{of}.image", "([url]) => image(url)", f"{url}?{query}") > 0

        url, query = self.hit(f"{of}.xhr")
        post = "([url, body]) => xhr('POST', url, body)"
        status, _ = await self.once(f"{of}.xhr", post, url, query)
        assert status == 200

        url, query = self.hit(f"{of}.beacon", more="pe=lnk_e&")
        send = "([url]) => navigator.sendBeacon(url)"
        assert await self.once(f"{of}.beacon", send, f"{url}?{query}") is True

        url, query = self.hit(f"{of}.script", "10", "callback=s_c_il[0].doPostbacks&et=1&")
        assert await self.once(f"{of}.script", "([url]) => script(url)", f"{url}?{query}") == {}

    async def identity(self) -> tuple[int, str]:
        url = f"http://{self.daemon.beacons}/id?d_visid_ver=5.5.0&d_fieldgroup=A&mid=4242"
        status, text = await self.page.evaluate("url => xhr('GET', url)", url)
        return status, text

    def arrived_once_and_in_order(self, adobe: FakeCollector) -> bool:
        """Nothing else either; each with the second at which it happened."""
        hits = [hit for hit in adobe.received if hit.path != b"/id"]
        got = [
            ((hit.param(b"pageName") or b"").decode(), int(hit.param(b"ts") or 0)) for hit in hits
        ]
        assert [name for name, _ in got] == [name for name, _ in self.sent]
        for (name, ts), (_, seconds) in zip(got, self.sent, strict=True):
            assert ts in seconds, name
        return True


async def test_while_the_link_is_up_the_page_sees_success_and_adobe_gets_each_hit_once(
    serve: Serve, adobe: FakeCollector, shop: Page
) -> None:
    adobe.when(b"/id?", answers(200, body=IDENTITY.encode(), content_type="application/json"))
    visit = Visit(shop, await serve(adobe, SUITE))
    status, text = await visit.identity()
    assert (status, text) == (200, IDENTITY), "/id is the collection server's own answer"
    await visit.all_ways("online")
    await visit.daemon.until(lambda status: status["delivered"] == 4)
    assert visit.arrived_once_and_in_order(adobe)


async def test_through_an_outage_and_a_reload_the_page_sees_nothing_but_success(
    serve: Serve, adobe: FakeCollector, shop: Page
) -> None:
    visit = Visit(shop, await serve(adobe, SUITE))
    await visit.all_ways("before")
    await visit.daemon.until(lambda status: status["delivered"] == 4)

    await adobe.cut()
    await visit.all_ways("offline")
    await visit.daemon.until(lambda status: status["state"] == "offline")
    assert await visit.identity() == (200, "{}")
    await shop.reload()
    await visit.all_ways("reloaded")
    assert (await visit.daemon.status())["waiting"] == 8
    assert len(adobe.received) == 4, "nothing got through"

    while time.time() < visit.sent[-1][1].stop:  # so that sent late is not sent in time  # noqa: ASYNC110
        await asyncio.sleep(LOOK_AGAIN_S)
    await adobe.restore()
    await visit.daemon.until(lambda status: status["delivered"] == 12)
    assert visit.arrived_once_and_in_order(adobe)


async def test_what_a_page_sent_arrives_as_it_was_but_for_the_time_and_the_origin(
    serve: Serve, adobe: FakeCollector, shop: Page
) -> None:
    visit = Visit(shop, await serve(adobe, SUITE))
    await visit.all_ways("as-it-was")
    await visit.daemon.until(lambda status: status["delivered"] == 4)
    image, xhr, beacon, script = adobe.received
    assert [hit.method for hit in adobe.received] == ["GET", "POST", "POST", "GET"]
    assert len(image.target) > 70_000
    assert (xhr.query, beacon.body) == (b"", b"")
    assert xhr.body.startswith(b"AQB=1&ts=")
    assert xhr.header(b"content-type") == b"application/x-www-form-urlencoded"
    assert script.type == b"10"
    agent = await shop.evaluate("navigator.userAgent")
    for hit in adobe.received:
        assert hit.header(b"user-agent") == agent.encode()
        assert hit.header(b"referer") == shop.url.encode()
        assert hit.header(b"origin") is None


async def test_no_cookie_of_the_page_reaches_adobe_or_the_disk_but_adobes_own(
    serve: Serve, adobe: FakeCollector, shop: Page
) -> None:
    visit = Visit(shop, await serve(adobe, SUITE))
    url, query = visit.hit("cookies")
    async with shop.expect_request(f"{url}?*") as sent:
        await visit.once("cookies", "([url]) => image(url)", f"{url}?{query}")
    given = await (await sent.value).header_value("cookie")
    assert given is not None
    assert SECRET in given, "the browser did not send the daemon what this test is about"

    await visit.daemon.until(lambda status: status["delivered"] == 1)
    assert adobe.received[0].all(b"cookie") == (f"s_vi={VISITOR}".encode(),)
    for file in visit.daemon.queue_file.parent.glob("hits.db*"):
        assert SECRET.encode() not in file.read_bytes(), file.name


async def test_a_page_of_no_origin_sees_success_too(
    serve: Serve, adobe: FakeCollector, shop: Page
) -> None:
    await adobe.cut()
    visit = Visit(shop, await serve(adobe, SUITE))
    url, query = visit.hit("sandboxed")
    assert await visit.once("sandboxed", SANDBOXED, url, query) == ["null", 200]
    await adobe.restore()
    await visit.daemon.until(lambda status: status["delivered"] == 1)
    assert visit.arrived_once_and_in_order(adobe)


async def test_a_page_sees_that_its_hit_could_not_be_kept(serve: Serve, shop: Page) -> None:
    """Then AppMeasurement keeps it itself, and comes again."""
    visit = Visit(shop, await serve(None, {**SUITE, "queue.max_hits": 1}))
    url, query = visit.hit("the-only-one")
    await visit.once("the-only-one", "([url]) => image(url)", f"{url}?{query}")
    url, query = visit.hit("one-too-many")
    assert await shop.evaluate("url => image(url)", f"{url}?{query}") == 0
    status, _ = await shop.evaluate("([url, body]) => xhr('POST', url, body)", [url, query])
    assert status == 503
    assert (await visit.daemon.status())["accepted"] == 1
