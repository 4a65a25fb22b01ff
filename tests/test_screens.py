"""Claims about the page in a real browser: what it shows, what it lets one do, what it resists.

Each test ends with the browser's own word that nothing was wrong: no error on the console, no
script that failed, nothing the content security policy had to stop.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import pytest
from clock import FakeClock
from daemon import Serve, Served
from test_browser import chromium
from test_edge import cookie, entries

from proxy import fake
from proxy.core import search
from proxy.fake import FakeCollector

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, ConsoleMessage, Page

__all__ = ["chromium"]  # a fixture that lives in `test_browser`

pytestmark = pytest.mark.browser

FOLDER = Path(__file__).resolve().parent.parent / "proxy" / "page"
AXE = Path(__file__).resolve().parent / "vendor" / "axe.min.js"
SECRET = "a token of this test"
OPTIONAL = {"suites.timestamps": "optional"}

FIELDS = (
    *("ch", "server", "v0", "v1", "c1", "l1", "h1", "xact", "zip", "cc", "products", "events"),
    *("pageType", "purchaseID", "tnt", "t", "bw", "hp", "pev3", "oid"),
    *("c.a.x", "c.a.media.name", "h.brand"),
)

# What a hostile site would send, in every place a hit has for it.
HOSTILE = '<img src=x onerror="window.ran=1">'
LINK = "javascript:window.ran=2"


@dataclass
class Screen:
    """The page of a daemon as a person has it before them."""

    page: Page
    daemon: Served
    faults: list[str] = field(default_factory=list)
    expected: re.Pattern[str] = re.compile(r"$^")

    async def open(self, path: str = "/") -> None:
        await self.page.goto(f"http://{self.daemon.admin}{path}")

    async def has(self, text: str | re.Pattern[str], within: str = "body") -> None:
        """Wait until it can be seen."""
        await self.page.locator(within).get_by_text(text).first.wait_for(timeout=8_000)

    async def press(self, name: str | re.Pattern[str], within: str = "body") -> None:
        place = self.page.locator(within)
        await place.get_by_role("button", name=name, exact=isinstance(name, str)).first.click()

    async def until(self, what: str, given: object = None) -> None:
        """Wait until an expression is true on the page, or a function is."""
        function = what if "=>" in what else f"() => {what}"  # else asked again by `eval`
        await self.page.wait_for_function(function, arg=given, timeout=8_000)

    async def rows(self, count: int) -> None:
        await self.until(
            "n => document.querySelectorAll('table.hits tbody tr').length === n", count
        )

    def heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)


class Look(Protocol):
    async def __call__(self, daemon: Served, path: str = "/") -> Screen: ...


@pytest.fixture
async def look(chromium: BrowserContext) -> AsyncIterator[Look]:
    """Opens the page of a daemon."""
    screens: list[Screen] = []

    async def open_(daemon: Served, path: str = "/") -> Screen:
        page = await chromium.new_page()
        screen = Screen(page, daemon)
        page.on("console", screen.heard)
        page.on("pageerror", lambda error: screen.faults.append(str(error)))
        screens.append(screen)
        await screen.open(path)
        return screen

    yield open_
    for screen in screens:
        ran = await screen.page.evaluate("window.ran ?? null")
        await screen.page.close()
        assert not [fault for fault in screen.faults if not screen.expected.search(fault)]
        assert ran is None, "what a hit said was run"


def beacon(name: str, more: str = "", suite: str = "examplersid", visitor: str = "fid=7") -> str:
    return f"/b/ss/{suite}/1/JS-2.27.0/s1?AQB=1&ndh=1&{visitor}&pageName={quote(name)}&{more}&AQE=1"


async def send(daemon: Served, *targets: str, headers: dict[str, str] | None = None) -> None:
    for target in targets:
        assert (await daemon.send(target, headers=headers)).status == 200, target


FULL = (
    "events=scCheckout,event3%3D2&products=Boots;Alder;1;89.90;event4%3D5;eVar7%3Dbrown&v12=boots&l1=a,b"
    f"&c5={'x' * 131}&c.=&cart.=&size=3&.cart=&.c=&h.=&brand=X&.h=&bw=412&hp=N&cc=EUR&ch=Shop"
)


@pytest.fixture
async def busy(serve: Serve, adobe: FakeCollector) -> Served:
    """A daemon with a hit in each state, and the link down."""
    adobe.when(b"buried", fake.status(404))
    daemon = await serve(adobe, {"suites.known.examplersid.timestamps": "optional"})
    await send(daemon, beacon("Home", visitor="mid=11"), beacon("Gone", suite="buried"))
    await daemon.until(lambda status: status["delivered"] == 1 and status["dead"] == 1)
    await adobe.cut()
    await send(daemon, beacon("Basket", FULL), beacon("", "pe=lnk_e&pev2=Help%20centre"))
    await daemon.until(lambda status: status["state"] == "offline")
    return daemon


# -- each screen ---------------------------------------------------------------------------------


WAYS = [(width, scheme) for width in (1280, 360) for scheme in ("light", "dark")]
IMPACT = """() => axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
  .then(found => found.violations.map(one =>
    `${one.id}: ${one.nodes.map(node => node.html + " " + node.failureSummary).join("; ")}`))"""


@pytest.mark.parametrize("width, scheme", WAYS)
async def test_each_screen_fits_and_can_be_used_by_everybody(
    busy: Served, look: Look, width: int, scheme: Any
) -> None:
    """No sideways scrolling, and nothing that axe-core objects to, on paper or by night."""
    screen = await look(busy)
    page = screen.page
    await page.set_viewport_size({"width": width, "height": 740})
    await page.emulate_media(color_scheme=scheme)
    for path, shown in (
        ("/", "examplersid"),
        ("/hits", "Help centre"),
        ("/hits/3", "prop5"),
        ("/hits?q=page%3Anowhere", "No hit matches"),
        ("/dead", "Requeue 1"),
        ("/health", "queue.max_hits"),
    ):
        await screen.open(path)
        await screen.has(shown, "main")
        for menu in await page.locator("main details:not(.menu) > summary").all():
            await menu.click()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
        wide = await page.evaluate(
            "[...document.querySelectorAll('main, .list, .pane')]"
            ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.className)"
        )
        assert not wide, (path, wide)
        await page.evaluate(AXE.read_text())
        assert await page.evaluate(IMPACT) == [], path


async def test_a_box_can_be_used_by_everybody(busy: Served, look: Look) -> None:
    screen = await look(busy, "/hits")
    await screen.has("Help centre", "table")
    for name in ("How to filter", "Keys", "Go offline…"):
        await screen.press(name)
        await screen.page.evaluate(AXE.read_text())
        assert await screen.page.evaluate(IMPACT) == [], name
        await screen.page.keyboard.press("Escape")
        await screen.until("!document.querySelector('dialog')")


async def test_a_theme_that_was_chosen_stays(served: Served, look: Look) -> None:
    """Until it is given back to the system."""
    screen = await look(served)
    ground = "getComputedStyle(document.body).backgroundColor"
    await screen.page.emulate_media(color_scheme="dark")
    assert await screen.page.evaluate(ground) == "rgb(20, 23, 26)"
    await screen.press("Theme: system")
    assert await screen.page.evaluate(ground) == "rgb(255, 255, 255)"
    await screen.page.reload()
    assert await screen.page.evaluate(ground) == "rgb(255, 255, 255)"
    await screen.press("Theme: light")
    await screen.press("Theme: dark")
    assert await screen.page.evaluate(ground) == "rgb(20, 23, 26)"


async def test_nothing_moves_for_who_wants_it_still(served: Served, look: Look) -> None:
    screen = await look(served, "/hits")
    await screen.has("Live", "#chip")
    await screen.has("No hits yet")
    await send(served, beacon("Home"))
    row = screen.page.locator("table.hits tbody tr.new")
    await row.wait_for()
    name = "row => getComputedStyle(row).animationName"
    assert await row.evaluate(name) == "came"
    await screen.page.emulate_media(reduced_motion="reduce")
    assert await row.evaluate(name) == "none"


async def test_only_the_line_of_the_state_is_read_aloud(busy: Served, look: Look) -> None:
    """What counts down beside it would be read each second."""
    screen = await look(busy, "/hits")
    await screen.has("Help centre", "table")
    live = "[...document.querySelectorAll('[aria-live], [role=alert]')].map(one => one.id)"
    assert await screen.page.evaluate(live) == ["state"]
    said = await screen.page.locator("#state").text_content()
    assert said
    assert said.startswith("Offline since ")
    assert "next try" not in said


# -- hits ----------------------------------------------------------------------------------------


async def test_an_empty_list_says_how_to_begin(served: Served, look: Look) -> None:
    """Where it listens, and one button that makes the first hit; it comes without a reload."""
    screen = await look(served, "/hits")
    await screen.has("No hits yet")
    await screen.has("It doesn't show up?")
    await screen.press("Send a test hit")
    await screen.has("trackoffline test", "table")
    assert (await served.status())["accepted"] == 1


async def test_a_hit_comes_without_a_reload(served: Served, look: Look) -> None:
    """On top of the list, and among the figures of the overview."""
    hits, overview = await look(served, "/hits"), await look(served, "/")
    await hits.has("No hits yet")
    await send(served, beacon("Home"))
    await hits.rows(1)
    await send(served, beacon("Basket"))
    await hits.rows(2)
    first = hits.page.locator("table.hits tbody tr").first
    assert "Basket" in (await first.text_content() or "")
    await overview.has(re.compile("^2$"), ".figures")
    await overview.has("examplersid", "table")


async def test_the_list_stands_still_while_somebody_is_in_it(served: Served, look: Look) -> None:
    """What came meanwhile is counted, and shown when asked for."""
    await send(served, beacon("Home"))
    screen = await look(served, "/hits")
    await screen.rows(1)
    await screen.page.keyboard.press("j")
    await send(served, beacon("Basket"), beacon("Thanks"))
    await screen.has(re.compile("2 new hits"))
    await screen.rows(1)
    await screen.press(re.compile("2 new hits"))
    await screen.rows(3)


async def test_a_paused_list_waits(served: Served, look: Look) -> None:
    await send(served, beacon("Home"))
    screen = await look(served, "/hits")
    await screen.rows(1)
    await screen.press("Pause list")
    await send(served, beacon("Basket"))
    await screen.has(re.compile("1 new hit"))
    await screen.rows(1)
    await screen.press("Pause list")
    await screen.rows(2)


async def test_a_filter_finds_and_stands_in_the_address(busy: Served, look: Look) -> None:
    """So that it can be kept, sent, and gone back to."""
    screen = await look(busy, "/hits")
    await screen.rows(4)
    await screen.page.get_by_label("Filter", exact=True).fill("page:Basket")
    await screen.rows(1)
    assert screen.page.url.endswith("/hits?q=page%3ABasket")
    await screen.page.get_by_role("link", name="Basket").click()
    await screen.has("prop5 is 131 bytes", ".pane")
    await screen.page.go_back()
    await screen.until("document.querySelector('.pane').hidden")
    await screen.rows(1)

    again = await look(busy, "/hits?q=page%3ABasket")
    await again.rows(1)
    assert await again.page.get_by_label("Filter", exact=True).input_value() == "page:Basket"


async def test_the_states_are_filters(busy: Served, look: Look) -> None:
    """Each with its count, and beside whatever else is looked for."""
    screen = await look(busy, "/hits?q=page%3A*")
    states = screen.page.get_by_label("States")
    await states.get_by_text("Dead 1").click()
    await screen.rows(1)
    assert await screen.page.get_by_label("Filter", exact=True).input_value() == "page:* state:dead"
    await states.get_by_text("Waiting 2").click()
    await screen.rows(2)
    await states.get_by_text("All 4").click()
    await screen.rows(4)


async def test_a_fault_in_a_filter_is_shown_where_it_is(busy: Served, look: Look) -> None:
    """The list stays, so that a slip costs nothing."""
    screen = await look(busy, "/hits")
    screen.expected = re.compile("status of 400")
    await screen.rows(4)
    box = screen.page.get_by_label("Filter", exact=True)
    await box.fill("page:Basket nowhere:x")
    await screen.has(re.compile("^Column 13: there is no field"), "#fault-of-q")
    assert await screen.page.locator("#fault-of-q mark").text_content() == "n"
    assert await box.get_attribute("aria-invalid") == "true"
    await screen.rows(4)
    await box.fill("page:Basket")
    await screen.rows(1)
    assert await box.get_attribute("aria-invalid") is None


async def test_a_hit_is_shown_in_adobes_names(busy: Served, look: Look) -> None:
    """What is wrong with it and who says so, the visitor that counts, products as a table."""
    screen = await look(busy, "/hits/3")
    pane = screen.page.locator(".pane")
    await screen.has("prop5 is 131 bytes", ".pane")
    said = await pane.locator(".found a").first.get_attribute("href")
    assert said
    assert said.startswith("https://experienceleague.adobe.com/")
    assert await pane.locator(".ids .used").inner_text() == "fid\n7\n← used"
    row = pane.locator("table.products tbody tr")
    assert (await row.inner_text()).split("\t") == [
        "Boots",
        "Alder",
        "1",
        "89.90",
        "event4=5",
        "eVar7=brown",
    ]
    for name, value in (("eVar12 v12", "boots"), ("cart.size", "3"), ("channel ch", "Shop")):
        cell = pane.get_by_role("row").filter(
            has=screen.page.get_by_role("rowheader", name=name, exact=True)
        )
        assert (await cell.locator("code").first.text_content()) == value, name


async def test_a_hit_is_compared_with_the_one_before_it(serve: Serve, look: Look) -> None:
    """What changed, came and went is marked, by the site's own names; pressed again, it is not."""
    daemon = await serve(None, {"variables.eVar12": "Search term"})
    await send(daemon, beacon("Home", "v12=boots&c5=x"), beacon("Other", visitor="fid=8"))
    await send(daemon, beacon("Basket", "v12=shoes&ch=Shop"))
    screen = await look(daemon, "/hits/3")
    marked = screen.page.locator(".pane tr.changed")
    await screen.has("Search term", ".pane")
    assert await marked.count() == 0

    await screen.press("Compare", ".pane")
    await screen.has("4 fields differ from", ".pane")
    said = [" ".join((await row.inner_text()).split()) for row in await marked.all()]
    assert said == [
        "pageName Basket was Home",
        "channel ch Shop new",
        "eVar12 Search term v12 shoes was boots",
        "prop5 c5 gone, was x",
    ]
    await screen.until("document.activeElement.textContent === 'Compare'")
    await screen.page.evaluate(AXE.read_text())
    assert await screen.page.evaluate(IMPACT) == []
    await screen.press("Compare", ".pane")
    await screen.until("!document.querySelector('tr.changed')")

    await screen.press("Close the hit")
    for name in ("Other", "Basket"):
        await screen.page.get_by_role("checkbox", name=f"Select {name}").check()
    await screen.press("Compare", ".chosen")
    await screen.has("the other one selected", ".pane")


async def test_an_open_hit_stands_still_and_says_that_it_changed(
    busy: Served, adobe: FakeCollector, look: Look
) -> None:
    screen = await look(busy, "/hits/3")
    await screen.has("waiting", ".about")
    await adobe.restore()
    await screen.press("Now delivered: show")
    await screen.has("delivered", ".about")


async def test_retry_on_a_hit_is_about_this_hit(busy: Served, look: Look) -> None:
    screen = await look(busy, "/hits/3")
    await screen.has("waiting", ".about")
    async with screen.page.expect_request("**/forwarding/retry") as asked:
        await screen.press("Retry", ".pane")
    assert (await asked.value).post_data_json == {"ids": [3]}
    await screen.has("1 failed try", ".pane")


async def test_on_a_phone_a_hit_covers_the_list(busy: Served, look: Look) -> None:
    """What lies below it cannot be reached; closed, the list is where it was."""
    screen = await look(busy, "/hits")
    await screen.page.set_viewport_size({"width": 360, "height": 740})
    await screen.page.get_by_role("link", name="Basket").click()
    await screen.has("prop5 is 131 bytes", ".pane")
    assert await screen.page.evaluate("document.activeElement.className") == "pane"
    for _ in range(30):
        await screen.page.keyboard.press("Tab")
        within = "document.activeElement.closest('.pane, html')?.className"
        assert await screen.page.evaluate(within) in ("pane", ""), "outside, or the browser's own"
    assert await screen.page.evaluate("document.querySelector('.list').inert")
    await screen.press("Close the hit")
    await screen.until("!document.querySelector('.list').inert")
    assert await screen.page.evaluate("document.activeElement.textContent") == "Basket"


async def test_a_bar_is_a_filter_of_its_time(busy: Served, look: Look) -> None:
    """The chart of when hits came, pressed."""
    screen = await look(busy, "/hits")
    await screen.rows(4)
    points = [{"at_ms": round(time.time() * 1000), "received": 4, "delivered": 0, "dead": 0}]
    series = json.dumps({"step_s": 300, "points": points})
    await screen.page.route("**/api/v1/series*", lambda route: route.fulfill(body=series))
    await screen.page.reload()
    await screen.page.locator(".bars g").last.click()
    await screen.until("/^after:.*Z before:.*Z$/.test(document.getElementById('q').value)")
    await screen.rows(4)
    await screen.page.locator(".bars g").first.click()
    await screen.has("No hit matches")


async def test_a_hit_can_be_taken_along(
    busy: Served, adobe: FakeCollector, look: Look, chromium: BrowserContext
) -> None:
    """As a command of a shell, as an address, as JSON."""
    await chromium.grant_permissions(["clipboard-read", "clipboard-write"])
    screen = await look(busy, "/hits/3")
    copied = "navigator.clipboard.readText()"
    await screen.press("Copy cURL")
    await screen.has("Copied ✓", ".pane")
    assert str(await screen.page.evaluate(copied)).startswith("curl ")
    await screen.page.locator(".pane .menu summary").click()
    await screen.press("Copy URL")
    await screen.until("async () => (await navigator.clipboard.readText()).includes('/b/ss/')")
    assert str(await screen.page.evaluate(copied)).startswith(f"{adobe.url}/b/ss/")
    await screen.page.locator(".pane .menu summary").click()
    await screen.press("Copy JSON")
    await screen.until("async () => (await navigator.clipboard.readText()).startsWith('{')")
    assert json.loads(await screen.page.evaluate(copied))["kind"] == "page"


# -- dead letters --------------------------------------------------------------------------------


@pytest.fixture
async def bereaved(serve: Serve, adobe: FakeCollector) -> Served:
    """A daemon with dead letters of two reasons: two of one, one of the other."""
    adobe.when(b"buried", fake.status(404))
    adobe.when(b"gone", fake.status(410))
    daemon = await serve(adobe, OPTIONAL)
    await send(
        daemon, beacon("One", suite="buried"), beacon("Two", suite="buried", visitor="fid=8")
    )
    await send(daemon, beacon("Three", suite="gone"))
    await daemon.until(lambda status: status["dead"] == 3)
    return daemon


async def test_dead_letters_stand_by_their_reason_and_go_back(
    bereaved: Served, adobe: FakeCollector, look: Look
) -> None:
    screen = await look(bereaved, "/dead")
    await screen.has("Dead letters 3", "#screens")
    group = screen.page.locator("tr.group").filter(has_text="404")
    await group.locator(".toggle").click()
    await screen.has("Two", ".letters")
    adobe.heal()
    await group.get_by_role("button", name="Requeue 2").click()
    await bereaved.until(lambda status: status["delivered"] == 2 and status["dead"] == 1)
    await screen.has("Dead letters 1", "#screens")
    assert await screen.page.locator("tr.group").count() == 1


async def test_discarding_takes_the_number_typed_back(bereaved: Served, look: Look) -> None:
    """And offers a copy before; Enter alone, Esc and "Keep" discard nothing."""
    screen = await look(bereaved, "/dead")
    group = screen.page.locator("tr.group").filter(has_text="404")
    ask, keys = group.get_by_role("button", name="Discard…"), screen.page.keyboard
    box = screen.page.locator("dialog")
    for way in ("Enter", "Escape", "Keep"):
        await ask.click()
        assert await box.get_by_role("button", name="Discard").is_disabled()
        if way == "Keep":
            await box.get_by_role("button", name="Keep").click()
        else:
            await keys.press(way)
            if way == "Enter":
                assert await box.is_visible()
                await keys.press("Escape")
        await screen.until("!document.querySelector('dialog')")
    await ask.click()
    await keys.type("3")
    assert await box.get_by_role("button", name="Discard").is_disabled()
    assert (await bereaved.status())["dead"] == 3

    copy = await box.get_by_role("link", name="Export them first").get_attribute("href")
    exported = (await bereaved.ask(copy or "")).body.splitlines()
    assert len(exported) == 2

    await keys.press("Backspace")
    await keys.type("2")
    await keys.press("Enter")
    found = await bereaved.until(lambda status: status["discarded"] == 2)
    assert found["dead"] == 1
    await screen.has("Dead letters 1", "#screens")


async def test_without_dead_letters_it_says_so(served: Served, look: Look) -> None:
    await (await look(served, "/dead")).has("Nothing has failed.")


# -- the line of the state -----------------------------------------------------------------------


async def test_a_person_holds_everything_back_and_lets_it_go(
    serve: Serve, adobe: FakeCollector, look: Look
) -> None:
    """Held is not broken: the line says who, and until when."""
    daemon = await serve(adobe, OPTIONAL)
    screen = await look(daemon)
    await screen.has("Ready", "#state")
    await screen.press("Go offline…")
    await screen.page.get_by_label("For how long?").select_option("2h")
    await screen.press("Go offline", "dialog")
    await screen.has(re.compile("Held offline by you"), "#state")
    await send(daemon, beacon("Home"))
    assert (await daemon.status())["waiting"] == 1
    await screen.page.reload()
    await screen.has(re.compile("until .*: nothing is sent, nothing is lost"), "#state")
    await screen.press("Go online")
    await daemon.until(lambda status: status["delivered"] == 1)
    await screen.has("Online", "#state")


async def test_an_outage_is_seen_to_come_and_to_go(
    serve: Serve, adobe: FakeCollector, look: Look
) -> None:
    daemon = await serve(adobe, {**OPTIONAL, "retry.first": "1h", "retry.max": "1h"})
    await send(daemon, beacon("Home"))
    screen = await look(daemon)
    await screen.has("Online", "#state")
    await adobe.cut()
    await send(daemon, beacon("Basket"))
    await screen.has(
        re.compile(r"Offline since .* cannot be reached \(connection refused\)"), "#state"
    )
    await screen.has(re.compile("next try in"), "#aside")
    await adobe.restore()
    await screen.press("Retry now")
    await screen.has("Online", "#state")


async def test_both_roads_are_seen_and_each_by_itself(
    serve: Serve, adobe: FakeCollector, look: Look
) -> None:
    """Edge beside Analytics: its link, its last error, its queue; its events and their server."""
    async with FakeCollector() as edge:
        slow = {"retry.first": "1h", "retry.max": "1h"}
        daemon = await serve(adobe, {**OPTIONAL, **slow, "edge.server": edge.url})
        await send(daemon, beacon("Home"))
        screen = await look(daemon)
        await screen.has(re.compile("Edge ready"), "#aside")
        await screen.has("Online", "#state")
        await edge.cut()
        xdm = {"web": {"webPageDetails": {"name": "Shoes"}}}
        body = json.dumps({"meta": entries(cookie()), "events": [{"xdm": xdm}]}).encode()
        target = "/ee/v1/collect?configId=abc"
        text = {"Content-Type": "text/plain"}
        assert (await daemon.send(target, "POST", text, body)).status == 204
        down = r"Edge is offline since .*: 127.*cannot be reached \(connection refused\)"
        await screen.has(re.compile(down), "#state")
        await screen.has(re.compile("Edge offline, next try in"), "#aside")
        await screen.has("datastream", "table.suites")
        assert "timestamps" not in await screen.page.locator("table.suites").inner_html()
        row = screen.page.locator("table.suites tr", has_text="abc")
        assert (await row.locator("td.count").first.inner_text()).strip() == "1"

        await screen.open("/health")
        check = screen.page.locator("tr[data-name=edge]")
        await check.get_by_text("Connect call failed").wait_for()
        await check.get_by_role("button", name="Test now").wait_for()
        await screen.open("/hits?q=page:Shoes")
        await screen.rows(1)
        await edge.restore()
        await screen.press("Retry now")
        await daemon.until(lambda status: status["delivered"] == 2)
        await screen.until("!document.getElementById('state').textContent.includes('Edge')")
        await screen.has(re.compile("Edge online"), "#aside")


async def test_edge_alone_has_the_line_of_the_state(serve: Serve, look: Look) -> None:
    async with FakeCollector() as edge:
        daemon = await serve(None, {"edge.server": edge.url})
        screen = await look(daemon)
        await screen.has(re.compile("Ready.*sent to 127"), "#state")
        text = {"Content-Type": "text/plain"}
        body = json.dumps({"events": [{"xdm": {}}]}).encode()
        await daemon.send("/ee/v1/collect?configId=abc", "POST", text, body)
        await screen.has(re.compile("Online: delivering to 127"), "#state")
        await edge.cut()
        await daemon.send("/ee/v1/collect?configId=abc", "POST", text, body)
        await screen.has(re.compile("Offline since .* cannot be reached"), "#state")
        await screen.press("Retry now")


async def test_a_pause_that_the_server_asked_for_is_said_and_can_be_ended(
    serve: Serve, adobe: FakeCollector, look: Look
) -> None:
    """It is no outage; whoever knows better need not sit it out."""
    daemon = await serve(adobe, OPTIONAL)
    await send(daemon, beacon("Home"))
    await daemon.until(lambda status: status["delivered"] == 1)
    adobe.always(fake.status(503, retry_after=3600))
    await send(daemon, beacon("Basket"))
    screen = await look(daemon)
    await screen.has(re.compile("the server asked for a pause, next try in 5. m"), "#aside")
    adobe.heal()
    await screen.press("Retry now")
    await daemon.until(lambda status: status["delivered"] == 2)
    await screen.until("!document.getElementById('aside').textContent.includes('pause')")


async def test_a_queue_that_is_full_is_red(serve: Serve, look: Look) -> None:
    """With what it means for the apps."""
    daemon = await serve(None, {"queue.max_hits": 1})
    await send(daemon, beacon("Home"))
    screen = await look(daemon)
    await screen.has(re.compile(r"Refusing hits \(503\).*Apps that retry will hold them"), "#state")


async def test_what_waits_for_a_person_is_on_the_overview(
    serve: Serve, adobe: FakeCollector, look: Look
) -> None:
    """A late hit of a suite whose mode nobody told, and the setting that would free it."""
    daemon = await serve(adobe, {"suites.known.examplersid.timestamps": "unknown"})
    await send(daemon, beacon("Home", suite="examplersid"))
    screen = await look(daemon)
    await screen.has("unknown ⚠", "table.suites")
    await (await look(daemon, "/health")).has("set [suites.known.examplersid] timestamps")


@pytest.mark.parametrize("width", [1280, 360])
async def test_a_held_hit_says_the_lines_that_release_it(
    serve: Serve, adobe: FakeCollector, look: Look, width: int
) -> None:
    """On the overview and in the hit, with the file they belong in; and they do release it."""
    clock = FakeClock()
    before = await serve(None, clock=clock)
    await send(before, beacon("Home", suite="a.b"))
    await before.stop()
    clock.passes(3_600)
    daemon = await serve(adobe, clock=clock)
    await daemon.until(lambda status: status["held"] == 1)
    screen = await look(daemon)
    await screen.page.set_viewport_size({"width": width, "height": 800})
    await screen.has("a.b has 1 hit waiting for you", ".wanting")
    for path in ("/", "/hits/1"):
        await screen.open(path)
        await screen.page.get_by_text("What releases it").click()
        await screen.has("config.toml", ".release")
        await screen.has(re.compile("Then reload"), ".release")
        lines = await screen.page.locator(".release pre").inner_text()
        await screen.page.evaluate(AXE.read_text())
        assert await screen.page.evaluate(IMPACT) == []
        assert await screen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert lines == '[suites.known."a.b"]\ntimestamps = "required"'
    await daemon.stop()

    told = tomllib.loads(lines)["suites"]["known"]["a.b"]["timestamps"]
    released = await serve(adobe, {'suites.known."a.b".timestamps': told}, clock=clock)
    await released.until(lambda status: status["delivered"] == 1)


async def test_a_daemon_is_told_from_others_by_its_name(serve: Serve, look: Look) -> None:
    """Beside the product's name, and in the tab."""
    screen = await look(await serve(None, {"admin.label": "store-17"}), "/health")
    await screen.has("store-17", "header")
    await screen.until("document.title === 'Health · store-17 · trackoffline'")


async def test_a_lost_daemon_is_said_and_found_again(serve: Serve, look: Look) -> None:
    """What was shown stays, greyed; when it is back, the page asks anew by itself."""
    first = await serve(None)
    await first.stop()
    settings = {"admin.address": first.admin}
    daemon = await serve(None, settings)
    await send(daemon, beacon("Home"))
    screen = await look(daemon, "/hits")
    screen.expected = re.compile("ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE")
    await screen.rows(1)
    await screen.has("Live", "#chip")
    await daemon.stop()
    await screen.has("Reconnecting…", "#chip")
    await screen.rows(1)
    again = await serve(None, settings)
    await send(again, beacon("Basket"))
    await screen.has("Live", "#chip")
    await screen.rows(2)


async def test_a_hidden_page_holds_no_connection(served: Served, look: Look) -> None:
    """A browser has six to a host: the seventh tab would wait for ever."""
    screen = await look(served, "/hits")
    page = screen.page
    await page.add_init_script(
        "{const Real = EventSource; window.streams = [];"
        "window.EventSource = class extends Real {"
        "constructor(...given) { super(...given); streams.push(this) } } }"
    )
    await page.reload()
    await screen.has("Live", "#chip")
    hide = """hidden => {
      Object.defineProperty(document, "hidden", {value: hidden, configurable: true})
      document.dispatchEvent(new Event("visibilitychange"))
    }"""
    await page.evaluate(hide, arg=True)
    await screen.has("Paused", "#chip")
    assert await page.evaluate("streams.map(one => one.readyState)") == [2]
    seen = await look(served, "/hits")
    await seen.has("Live", "#chip")
    await send(served, beacon("Home"))
    await seen.rows(1)  # so it has been told of
    await page.evaluate(hide, arg=False)
    await screen.has("Live", "#chip")
    await screen.rows(1)


# -- guards --------------------------------------------------------------------------------------


@pytest.fixture
async def guarded(serve: Serve, tmp_path: Path) -> Served:
    """A daemon that wants a token."""
    token = tmp_path / "token"
    token.write_text(SECRET)
    return await serve(None, {"admin.token_file": str(token)})


async def test_without_the_token_the_page_asks_for_it(guarded: Served, look: Look) -> None:
    screen = await look(guarded, "/hits")
    screen.expected = re.compile("status of 401")
    await screen.page.get_by_label("Token").fill("another")
    await screen.press("Open")
    await screen.has("not the token of admin.token_file", "main")
    await screen.page.get_by_label("Token").fill(SECRET)
    await screen.press("Open")
    await screen.has("No hits yet")
    await screen.has("Live", "#chip")


async def test_a_link_with_the_token_opens_the_page_and_forgets_it(
    guarded: Served, look: Look
) -> None:
    """It stays neither in the address nor in the history, nor where a script could read it."""
    screen = await look(guarded, f"/hits#token={quote(SECRET)}")
    await screen.has("No hits yet")
    assert screen.page.url == f"http://{guarded.admin}/hits"
    kept = await screen.page.evaluate(
        "JSON.stringify([document.cookie, Object.entries(localStorage), history.state])"
    )
    assert SECRET not in kept
    assert json.loads(kept)[0] == ""


async def test_what_a_hit_says_is_never_run(serve: Serve, adobe: FakeCollector, look: Look) -> None:
    """Any site can send one. It is text, wherever it is shown: list, detail, groups, boxes."""
    bad, script = quote(HOSTILE), quote(LINK)
    adobe.when(b"buried", fake.status(404))
    daemon = await serve(adobe, OPTIONAL)
    everywhere = "&".join(f"{key}={bad}" for key in (*FIELDS, bad))
    nested = f"c.=&{bad}.=&deep={bad}&.{bad}=&.c=&products={bad};{bad};{bad};{bad};{bad};{bad}"
    headers = {"User-Agent": HOSTILE, "Referer": f"http://x/{HOSTILE}"}
    await send(
        daemon,
        beacon(HOSTILE, f"{everywhere}&g={script}&r={script}", visitor=f"vid={bad}"),
        beacon(HOSTILE, nested, visitor=f"mid={bad}&aid={bad}&fid={bad}", suite="buried"),
        beacon("", f"pe=lnk_e&pev1={script}&pev2={bad}", visitor=""),
        headers=headers,
    )
    await daemon.until(lambda status: status["delivered"] == 2 and status["dead"] == 1)
    screen = await look(daemon)
    for path in ("/", "/hits", "/hits/1", "/hits/2", "/hits/3", "/dead", "/health"):
        await screen.open(path)
        if "hits" in path:
            await screen.has(HOSTILE, "main")
        if path.startswith("/hits/"):
            await screen.has("What happened", ".pane")
            for folded in await screen.page.locator(".pane details > summary").all():
                await folded.click()
        if path == "/dead":
            await screen.page.locator(".toggle").click()
            await screen.has(HOSTILE, ".letters")
    await screen.open(f"/hits?q={quote(HOSTILE)}")
    await screen.open(f"/hits?q={quote('page:' + json.dumps(HOSTILE))}")
    await screen.rows(2)
    strange = (
        "document.querySelectorAll('img, iframe, script:not([src]), [href^=javascript]').length"
    )
    assert await screen.page.evaluate(strange) == 0
    assert await screen.page.evaluate("window.ran ?? null") is None


def test_the_page_never_makes_markup_of_text() -> None:
    """No way from a string to an element or a program, in any of its files."""
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
        r"|setHTML|DOMParser|createContextualFragment|set(?:Timeout|Interval)\(\s*['\"`]"
    )
    files = [file for file in FOLDER.rglob("*.js") if "vendor" not in file.parts]
    assert len(files) > 10
    for file in files:
        assert not sinks.search(file.read_text()), file.name
    index = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|\son\w+=|https?:", index)


def test_the_help_for_the_filter_is_true() -> None:
    """Each example of the box is a filter; each field that is only named is one."""
    listed = (FOLDER / "query.js").read_text().partition("export const HELP = [")[2]
    examples = [
        pair[0] or pair[1]
        for pair in re.findall(r"""^  \[(?:"(.+?)"|'(.+?)'), """, listed, re.MULTILINE)
    ]
    assert len(examples) > 10
    for example in examples:
        for term in re.findall(r'"[^"]*"|\S+', example):
            field = term.removesuffix(":")
            value = {"after": "2026-02-02T10:30", "before": "2026-02-02"}.get(field, "1")
            search.parse(f"{term}{value}" if term.endswith(":") else term)


# -- keys ----------------------------------------------------------------------------------------


async def test_all_of_it_can_be_done_with_the_keys(busy: Served, look: Look) -> None:
    screen = await look(busy, "/")
    keys = screen.page.keyboard
    await screen.has("examplersid", "table")
    await keys.press("g")
    await keys.press("h")
    await screen.rows(4)
    focused = "document.activeElement.textContent"
    await keys.press("j")
    assert await screen.page.evaluate(focused) == "Help centre"
    await keys.press("j")
    await keys.press("j")
    await keys.press("k")
    assert await screen.page.evaluate(focused) == "Basket"
    await keys.press("x")
    await screen.has("1 hit selected")
    await keys.press("Enter")
    await screen.has("prop5 is 131 bytes", ".pane")
    assert screen.page.url.endswith("/hits/3")
    await keys.press("Escape")
    await screen.until("document.querySelector('.pane').hidden")
    assert await screen.page.evaluate(focused) == "Basket"
    await keys.press("p")
    await screen.until("document.querySelector('[aria-pressed=true]')")
    await keys.press("/")
    assert await screen.page.evaluate("document.activeElement.id") == "q"
    await keys.type("gd?jxp")
    assert await screen.page.get_by_label("Filter", exact=True).input_value() == "gd?jxp", (
        "not while typing"
    )
    await keys.press("Tab")
    await keys.press("g")
    await keys.press("d")
    await screen.has("Requeue 1", "main")
    await keys.press("g")
    await keys.press("s")
    await screen.has("Configuration in force")
    await keys.press("?")
    await screen.has("copy the hit as a cURL command", "dialog")
    await screen.page.get_by_label("These keys are on").uncheck()
    await keys.press("Escape")
    await keys.press("g")
    await keys.press("o")
    assert screen.page.url.endswith("/health"), "they are off"


async def test_the_first_tab_skips_to_the_content(served: Served, look: Look) -> None:
    screen = await look(served, "/health")
    await screen.has("queue.max_hits")
    await screen.page.keyboard.press("Tab")
    assert await screen.page.evaluate("document.activeElement.textContent") == "Skip to content"
    await screen.page.keyboard.press("Enter")
    await screen.until("document.activeElement.id === 'main'")


async def test_a_dead_letter_goes_back_by_its_key(
    bereaved: Served, adobe: FakeCollector, look: Look
) -> None:
    screen = await look(bereaved, "/hits?q=state%3Adead")
    await screen.rows(3)
    adobe.heal()
    await screen.page.keyboard.press("j")
    await screen.page.keyboard.press("r")
    await bereaved.until(lambda status: status["dead"] == 2 and status["delivered"] == 1)
    await screen.rows(2)
    await screen.page.locator("td.page a").first.click()
    await screen.press("Requeue", ".pane")
    await screen.has("It waits again, as a hit of a new number.", ".pane")
    await screen.rows(1)
    await bereaved.until(lambda status: status["dead"] == 1 and status["delivered"] == 2)
