"""The pictures of the page in `docs/images`: `python -m bench.screenshots [--look]`.

Rule: a real daemon and a real browser; only the day is made up (a shop's apps, an outage of
five hours, a report suite id with a typing error), and its clock is run through in seconds.
`--look` takes no pictures, but serves that day to your own browser until Ctrl-C.
Non-rule: proves nothing; `tests/test_screens.py` does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from proxy import config, daemon
from proxy.fake import FakeCollector, status

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
AGENT = "Shop/5.2 (Android 15; Pixel 8)"
CHROMIUM = "/usr/bin/chromium"
PLAIN = ["--no-proxy-server", "--disable-lcd-text"]  # grey edges make small files
OUTAGE_S = 5 * 3600 + 12 * 60
CONFIG = """
[listen]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:{port}"
label = "store-17"
[upstream]
server = "{server}"
[suites.known.examplersid]
timestamps = "optional"
[suites.known.examplekiosk]
timestamps = "required"
[suites.known.examplelegacy]
timestamps = "not-allowed"
[suites.known.exampledev]
timestamps = "unknown"
[queue]
path = "hits.db"
min_free_disk = "0B"
[retry]
max = "5m"
[log]
level = "error"
[variables]
eVar12 = "Search term"
eVar7 = "Colour"
event3 = "Payment step"
event4 = "Discount"
prop5 = "Shipping"
"ctx.cart.size" = "Things in the basket"
"""
PAGES = (
    ("Home", "event1", ""),
    ("Search results", "event2", "v12=waterproof%20boots&c5=232"),
    ("Product: Alder boot", "prodView", "products=Boots;Alder%20boot&v5=summer"),
    ("Basket", "scAdd,scView", "products=Boots;Alder%20boot;1;89.90"),
    (
        "Checkout > Payment",
        "scCheckout,event3=2",
        "products=Boots;Alder%20boot;1;89.90;event4=5;eVar7=brown,Care;Wax;2;7.00&cc=EUR"
        "&v12=waterproof%20boots&c5=" + quote("shipping-method=express|" * 6),
    ),
    ("Thank you", "purchase,event8:ABC", "products=Boots;Alder%20boot;1;89.90&purchaseID=A-1142"),
)
CONTEXT = (
    "c.=&cart.=&size=3&currency=EUR&.cart=&a.=&AppID=Shop%205.2&.a=&.c="
    "&h.=&brand=Shop%20App&platform=Android&mobile=1&.h=&s=1080x2400&bw=412&bh=915&v=N&k=Y&cp=foreground"
)


@dataclass(slots=True)
class Day:
    """A clock that is behind by so many seconds, fewer and fewer."""

    behind_s: float
    boot_id: str = "a made-up day"

    def ms(self) -> int:
        return round((time.monotonic() + 1e6 - self.behind_s) * 1000)

    def wall_ms(self) -> int:
        return round((time.time() - self.behind_s) * 1000)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--look", action="store_true", help="serve the day, take no pictures")
    parser.add_argument("--port", type=int, default=0, help="of the page")
    args = parser.parse_args()
    async with day(args.port) as address:
        if args.look:
            print(f"http://{address}/  (Ctrl-C ends it)")
            await asyncio.Event().wait()
        await pictures(f"http://{address}")


# -- the day -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def day(port: int = 0) -> AsyncIterator[str]:
    """A daemon at the end of that day; the page's address."""
    with tempfile.TemporaryDirectory(prefix="trackoffline-day-") as folder:
        async with FakeCollector() as adobe:
            file = Path(folder) / "config.toml"
            file.write_text(CONFIG.format(server=adobe.url, port=port))
            environ = {"STATE_DIRECTORY": folder}
            settings = config.load(file, environ)
            queue = config.queue_path(settings, environ)
            clock = Day(OUTAGE_S + 1600)
            async with served(settings, queue, clock) as listening:
                began_s = await morning(adobe, clock, f"http://{listening.beacons}")
                await adobe.cut()
                await outage(clock, f"http://{listening.beacons}")
            chart(queue, began_s)
            told = config.as_json(config.effective(file, environ), "config.toml")
            async with served(settings, queue, clock, told) as listening:
                await send(f"http://{listening.beacons}", clock, 3)
                await asyncio.sleep(3)
                yield str(listening.admin)


@contextlib.asynccontextmanager
async def served(
    settings: config.Config, queue: Path, clock: Day, told: dict[str, Any] | None = None
) -> AsyncIterator[daemon.Listeners]:
    stop = asyncio.Event()
    ready: asyncio.Future[daemon.Listeners] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        daemon.run(
            settings, queue, stop, ready=ready.set_result, clock=clock, shown=lambda: told or {}
        )
    )
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await running
    try:
        yield ready.result()
    finally:
        stop.set()
        await running


async def morning(adobe: FakeCollector, clock: Day, base: str) -> int:
    """While all is well: deliveries, a suite that does not exist, one whose mode is unknown.

    The second at which the oldest hit came that still waits.
    """
    adobe.when(b"examplersld", status(404))
    await send(base, clock, 90, wait_s=15)
    await adobe.until(lambda: len(adobe.answered) >= 90, 30)
    await send(base, clock, 3, suite="examplersld")
    await adobe.until(lambda: len(adobe.answered) >= 93, 30)
    await send(base, clock, 2, suite="examplelegacy", ts=True)
    await asyncio.sleep(1)  # the answers are noted
    await adobe.cut()
    began_s = clock.wall_ms() // 1000
    await send(base, clock, 4, suite="exampledev", wait_s=20)
    clock.behind_s -= 120
    await adobe.restore()
    await send(base, clock, 12, wait_s=20)
    await asyncio.sleep(4)
    return began_s


async def outage(clock: Day, base: str) -> None:
    """Nobody answers any more; the shop goes on."""
    count = 160
    wait_s = (clock.behind_s - 20) / count
    await send(base, clock, count, wait_s=wait_s)
    clock.behind_s = 0


async def send(
    base: str,
    clock: Day,
    count: int,
    suite: str = "examplersid",
    wait_s: float = 0,
    *,
    ts: bool = False,
) -> None:
    rng = random.Random(count)
    async with aiohttp.ClientSession(headers={"User-Agent": AGENT}) as session:
        for number in range(count):
            clock.behind_s = max(0, clock.behind_s - wait_s * rng.uniform(0.5, 1.5))
            now_s = clock.wall_ms() // 1000
            url = base + hit(rng, suite, number, now_s)
            url = url.replace("&AQE", f"&ts={now_s}&AQE") if ts else url
            async with session.get(URL(url, encoded=True)) as answer:
                assert answer.status == 200, answer.status
                await answer.read()


def hit(rng: random.Random, suite: str, number: int, now_s: int) -> str:
    """A beacon as one of the shop's clients sends it."""
    visitor = f"mid={4821 + rng.randrange(9):05}7{rng.randrange(10**9):033}"
    name, events, more = PAGES[number % len(PAGES)]
    what = f"pageName={quote(name)}&g={quote(f'https://shop.example/{number}', safe='')}&ch=Shop"
    match number % 13:
        case 5:
            what = "pe=lnk_e&pev1=https%3A%2F%2Fhelp.example%2F&pev2=Help%20centre&pageName=Basket"
            events, more = "", "c5=help"
        case 8:
            what = "pe=lnk_o&pev2=Size%20guide&pageName=Product"
        case 10:
            visitor = ""
        case 11:
            suite = f"{suite},examplekiosk" if suite == "examplersid" else suite
            more += f"&ts={now_s}"
    random_part = f"s{rng.randrange(10**13):013}"
    return (
        f"/b/ss/{suite}/1/JS-2.27.0/{random_part}?AQB=1&ndh=1&pf=1&ce=UTF-8&{visitor}&{what}"
        f"&events={events}&{more}&{CONTEXT}&AQE=1"
    )


def chart(queue: Path, began: int) -> None:
    """The points of the day, which its daemon had no time to note."""
    now = int(time.time())
    delivered = accepted = dead = 0
    rng = random.Random(7)
    with contextlib.closing(sqlite3.connect(queue)) as db, db:
        db.execute("DELETE FROM series")
        for at in range(now - now % 300 - 24 * 3600, now, 300):
            busy = 2 + 9 * max(0.0, 1 - abs((at % 86_400) - 50_000) / 30_000)
            came = round(busy * rng.uniform(0.6, 1.4))
            accepted += came
            is_out = at > began
            oldest = at - began if is_out else rng.randrange(3)
            if began - 7200 < at <= began - 5700:  # a shorter one before
                oldest = at - (began - 7200)
            elif not is_out:
                delivered = accepted
            dead += 5 if at - 300 < began - 1800 <= at else 0
            point = (at, oldest, accepted - delivered, accepted, delivered, dead)
            db.execute("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?)", point)


# -- the pictures ------------------------------------------------------------------------------


async def pictures(base: str) -> None:
    from playwright.async_api import async_playwright  # noqa: PLC0415 - only for this

    IMAGES.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=PLAIN, chromium_sandbox=False
        )

        async def take(name: str, path: str, *, width: int = 1280, dark: bool = False) -> None:
            page = await browser.new_page(
                viewport={"width": width, "height": 580 if width > 400 else 700},
                color_scheme="dark" if dark else "light",
            )
            await page.goto(f"{base}{path}")
            if name.startswith("hit-"):
                await page.get_by_role("link", name="Checkout > Payment").first.click()
                await page.locator(".pane h2").wait_for()
            if path == "/dead":
                await page.locator(".toggle").first.click()
            await page.wait_for_timeout(900)
            await page.screenshot(path=IMAGES / f"{name}.png")
            await page.close()

        await take("overview", "/")
        await take("hits", "/hits")
        await take("hit-light", "/hits?q=has:finding")
        await take("hit-dark", "/hits?q=has:finding", dark=True)
        await take("dead", "/dead")
        await take("health", "/health")
        await take("overview-360", "/", width=360)
        await take("hits-360", "/hits", width=360)
        await take("hit-360", "/hits", width=360)
        await browser.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
