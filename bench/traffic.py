"""Beacons as AppMeasurement writes them, of many sites and visitors, from a seed.

Rule: what varies in real traffic varies here (visitor, page, title, address, referrer, eVars,
products, the browser's own headers), so that neither compression nor a cache has it easier
than it will; about 1.3 KB each.
Non-rule: no claim about any one site's traffic; nothing here was recorded.
Source: Adobe's pages on query parameters and on AppMeasurement's own order of them.
"""

from __future__ import annotations

import random
from urllib.parse import quote

SYLLABLES = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) " + WEBKIT + " Chrome/{n}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) " + SAFARI + " Version/17.{n} Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_{n} like Mac OS X) " + SAFARI + " Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{n}.0) Gecko/20100101 Firefox/{n}.0",
)
LANGUAGES = ("en-US,en;q=0.9", "de-DE,de;q=0.9,en;q=0.8", "fr-FR,fr;q=0.9", "ja,en-US;q=0.9")
SCREENS = ("1920x1080", "2560x1440", "1536x864", "390x844", "1440x900")


class Traffic:
    """Beacons without end; the same ones for the same seed."""

    def __init__(self, seed: int, sites: int = 20) -> None:
        self._random = random.Random(seed)
        self._sites = [self.words(2, "") for _ in range(sites)]
        self._number = 0

    def words(self, count: int, between: str = " ") -> str:
        draw = self._random
        return between.join(
            "".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(count)
        )

    def beacon(self, visitor: int) -> bytes:
        """One whole request."""
        draw, self._number = self._random, self._number + 1
        of_visitor = random.Random(visitor)
        site = of_visitor.choice(self._sites)
        agent = of_visitor.choice(AGENTS).format(n=of_visitor.randint(1, 130))
        page = f"https://www.{site}.example/{self.words(1)}/{self.words(2, '-')}"
        said = {
            "AQB": "1",
            "ndh": "1",
            "pf": "1",
            "t": f"{draw.randint(1, 28)}/{draw.randint(0, 11)}/2026 {draw.randint(0, 23)}:"
            f"{draw.randint(0, 59)}:{draw.randint(0, 59)} {draw.randint(0, 6)} -60",
            "mid": f"{of_visitor.getrandbits(126):038d}",
            "aamlh": str(of_visitor.randint(1, 12)),
            "ce": "UTF-8",
            "ns": site,
            "pageName": self.words(4, ":"),
            "g": f"{page}?id={draw.randint(1, 10**6)}&utm_source={self.words(1)}",
            "r": f"https://www.{draw.choice(self._sites)}.example/",
            "cc": draw.choice(("EUR", "USD", "GBP")),
            "ch": self.words(1),
            "server": f"www.{site}.example",
            "events": f"event{draw.randint(1, 99)},event{draw.randint(1, 99)}=1",
            "products": f";{self.words(2)};1;{draw.randint(1, 500)}.{draw.randint(10, 99)}",
            "aamb": f"{of_visitor.getrandbits(300):x}",
        }
        for number in draw.sample(range(1, 75), 9):
            said[f"c{number}"] = self.words(draw.randint(1, 3))
            said[f"v{number}"] = draw.choice((f"D=c{number}", self.words(2), str(draw.random())))
        said |= {
            "s": of_visitor.choice(SCREENS),
            "c": "24",
            "j": "1.6",
            "v": "N",
            "k": "Y",
            "bw": str(draw.randint(300, 1900)),
            "bh": str(draw.randint(300, 1100)),
            "mcorgid": f"{of_visitor.getrandbits(96):024X}@AdobeOrg",
            "AQE": "1",
        }
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in said.items())
        random_ = f"s{draw.getrandbits(46):014d}"
        return (
            f"GET /b/ss/opt/1/JS-2.27.0/{random_}?{query} HTTP/1.1\r\n"
            f"Host: localhost\r\nUser-Agent: {agent}\r\n"
            "Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8\r\n"
            f"Accept-Language: {of_visitor.choice(LANGUAGES)}\r\n"
            f"Accept-Encoding: gzip, deflate, br\r\nReferer: https://www.{site}.example/\r\n\r\n"
        ).encode()
