"""From a client's bytes to the collection server's, through a whole daemon.

The requests are those of Adobe's own libraries and pages; what must come of each is said
in the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from clock import FakeClock
from raw import Got, ask, connected, get, post

from proxy import config, daemon
from proxy.core import wire
from proxy.daemon import Listeners
from proxy.fake import (
    GIF,
    FakeCollector,
    Received,
    captive_portal,
    close_without_answer,
    pccr,
    redirect,
    status,
    timeout,
)

NOW = 1_770_000_000
PATH = b"/b/ss/opt/1/JS-2.27.0/s84882983483599"
TIME = b"t=2%2F1%2F2026%202%3A40%3A0%201%200"
QUERY = (
    b"pf=1&" + TIME + b"&fid=21351AB889F10DEA-19850987357B32B7&ce=UTF-8&pageName=p1"
    b"&g=http%3A%2F%2Fsite.example%2Fp&AQE=1"
)
VIEW = PATH + b"?AQB=1&ndh=1&" + QUERY
VIEW_STAMPED = PATH + b"?AQB=1&ts=1770000000&ndh=1&" + QUERY
MID = b"12345678901234567890123456789012345678"
SETTINGS = """
[listen]
address = "127.0.0.1:0"
[upstream]
server = "{server}"
timeout = "5s"
[suites.known.opt]
timestamps = "optional"
[suites.known.req]
timestamps = "required"
[suites.known.non]
timestamps = "not-allowed"
[queue]
min_free_disk = "0B"
[retry]
first = "20ms"
max = "50ms"
attempts = 1000
[admin]
address = "127.0.0.1:0"
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A daemon in this process, and its collection server."""

    adobe: FakeCollector
    beacons: str
    admin: str
    clock: FakeClock
    folder: Path

    async def take(self, *requests: bytes) -> list[Got]:
        """Each is answered 200, one after the other."""
        answers = [await ask(self.beacons, data) for data in requests]
        assert [got.status for got in answers] == [200] * len(requests)
        return answers

    async def drained(self, count: int = 1) -> list[Received]:
        """The requests at Adobe, once `count` were answered in all."""
        await self.adobe.wait_for(count, answered=True)
        return self.adobe.received

    async def status(self) -> dict[str, Any]:
        got = await ask(self.admin, get(b"/api/v1/status"))
        found: dict[str, Any] = json.loads(got.body)
        assert found["balanced"]
        return found

    async def comes_to(self, **counts: object) -> dict[str, Any]:
        """The status, once these fields of it are so."""
        async with asyncio.timeout(5):
            while True:
                found = await self.status()
                if {name: found[name] for name in counts} == counts:
                    return found
                await asyncio.sleep(0.005)

    async def fails_by(self, words: str) -> None:
        """Until these words say why nothing is delivered."""
        async with asyncio.timeout(5):
            while True:
                found = await self.status()
                if words in (found["forwarding"]["last_failure"] or ""):
                    return
                await asyncio.sleep(0.005)

    @contextlib.asynccontextmanager
    async def outage(self, hours: float = 0.0) -> AsyncIterator[None]:
        """The collection server cannot be reached meanwhile, which takes so long."""
        await self.adobe.cut()
        yield
        self.clock.passes(hours * 3600)
        await self.adobe.restore()
        # A person who sees the light again need not wait for the next probe.
        await ask(
            self.admin, get(b"/api/v1/forwarding/retry", b"Content-Length: 0", method=b"POST")
        )


class Serve(Protocol):
    """Runs a daemon for the test."""

    async def __call__(self, more: str = ..., folder: Path | None = ...) -> Served: ...


@pytest.fixture
async def serve(adobe: FakeCollector, tmp_path: Path) -> AsyncIterator[Serve]:
    async with contextlib.AsyncExitStack() as running:

        async def serve_(more: str = "", folder: Path | None = None) -> Served:
            folder = folder or tmp_path / "state"
            folder.mkdir(exist_ok=True)
            file = folder / "config.toml"
            file.write_text(SETTINGS.format(server=adobe.url) + more)
            clock = FakeClock(unix_ms=NOW * 1000)
            stop = asyncio.Event()
            ready: asyncio.Future[Listeners] = asyncio.get_running_loop().create_future()
            run = asyncio.create_task(
                daemon.run(
                    config.load(file, {}),
                    folder / "hits.db",
                    stop,
                    ready=ready.set_result,
                    clock=clock,
                )
            )

            async def end() -> None:
                stop.set()
                await run

            running.push_async_callback(end)
            run.add_done_callback(lambda _: ready.done() or ready.cancel())
            at = await ready
            assert at.admin is not None
            return Served(adobe, at.beacons, at.admin, clock, folder)

        yield serve_


@pytest.fixture
async def served(serve: Serve) -> Served:
    return await serve()


# -- what is sent is what came, and its time ------------------------------------------------


async def test_a_page_view_is_sent_as_it_came_with_its_time(served: Served) -> None:
    """`ts` stands behind `AQB=1`; headers and all other bytes are the client's."""
    headers = (b"User-Agent: UA1", b"Accept-Language: de", b"Referer: http://site.example/p")
    (got,) = await served.take(get(VIEW, *headers))
    assert (got[b"content-type"], got.body) == (b"image/gif", GIF)
    (hit,) = await served.drained()
    assert (hit.method, hit.target, hit.body) == ("GET", VIEW_STAMPED, b"")
    assert hit.headers == (
        (b"Host", served.adobe.url.removeprefix("http://").encode()),
        (b"User-Agent", b"UA1"),
        (b"Accept-Language", b"de"),
        (b"Referer", b"http://site.example/p"),
    )
    await served.comes_to(state="online", accepted=1, delivered=1, waiting=0)


async def test_a_hit_that_has_a_time_keeps_it(served: Served) -> None:
    """Nothing is put in, nothing is changed."""
    target = VIEW.replace(TIME, TIME + b"&ts=1769990000")
    await served.take(get(target))
    (hit,) = await served.drained()
    assert hit.target == target


async def test_the_time_of_a_hit_is_that_of_its_receipt(served: Served) -> None:
    """Not that of its delivery, hours later."""
    async with served.outage(hours=5):
        await served.take(get(VIEW))
        await served.comes_to(state="offline", waiting=1)
    (hit,) = await served.drained()
    assert hit.target == VIEW_STAMPED


async def test_an_exit_link_is_a_post_without_a_body(served: Served) -> None:
    """`sendBeacon` puts all data in the address: so does the stamp."""
    path, rest = b"/b/ss/opt/1/JS-2.27.0/s857", b"&pe=lnk_e&pev1=https%3A%2F%2Fex.example%2Fa%20b"
    await served.take(post(path + b"?AQB=1" + rest + b"&pev2=Exit%201&AQE=1"))
    (hit,) = await served.drained()
    assert hit.method == "POST"
    assert hit.target == path + b"?AQB=1&ts=1770000000" + rest + b"&pev2=Exit%201&AQE=1"
    assert (hit.body, hit.header(b"content-length")) == (b"", b"0")
    assert hit.header(b"content-type") is None


async def test_a_long_hit_of_a_page_is_readable_by_it_and_stamped_in_its_body(
    served: Served,
) -> None:
    """An XHR with credentials: the origin is echoed to it, and not sent on."""
    rest = b"&ndh=1&pf=1&" + TIME + b"&mid=" + MID + b"&v1=" + b"y" * 2100 + b"&AQE=1"
    form = b"Content-Type: application/x-www-form-urlencoded"
    (got,) = await served.take(
        post(b"/b/ss/opt/1/JS-2.27.0/s863", b"AQB=1" + rest, b"Origin: https://shop.example", form)
    )
    assert got[b"access-control-allow-origin"] == b"https://shop.example"
    assert got[b"access-control-allow-credentials"] == b"true"
    (hit,) = await served.drained()
    assert (hit.method, hit.target) == ("POST", b"/b/ss/opt/1/JS-2.27.0/s863")
    assert hit.body == b"AQB=1&ts=1770000000" + rest
    assert hit.header(b"content-length") == b"%d" % len(hit.body)
    assert hit.header(b"content-type") == b"application/x-www-form-urlencoded"
    assert hit.header(b"origin") is None


async def test_a_hit_fetched_as_a_script_calls_back(served: Served) -> None:
    """Its callback is sent on as it stood."""
    target = b"/b/ss/opt/10/JS-2.27.0/s1?AQB=1&ndh=1&pf=1&callback=s_c_il[0].doPostbacks&et=1&AQE=1"
    (got,) = await served.take(get(target))
    assert got[b"content-type"] == b"application/javascript"
    assert got.body == b"s_c_il[0].doPostbacks({})"
    (hit,) = await served.drained()
    assert hit.target == target.replace(b"AQB=1", b"AQB=1&ts=1770000000")


async def test_a_callback_that_is_no_name_is_no_hit(served: Served) -> None:
    """400, nothing stored, and the words never come back."""
    got = await ask(served.beacons, get(PATH.replace(b"/1/", b"/10/") + b"?callback=alert(1)//"))
    assert (got.status, b"alert" in got.body) == (400, False)
    assert (await served.status())["accepted"] == 0


APP = (
    b"c.&a.&AppID=App%201.0&.a&action=buy&.c&ce=UTF-8&cp=foreground&mid=" + MID + b"&pageName=App"
    b"&pe=lnk_o&pev2=AMACTION%3Abuy&t=00%2F00%2F0000%2000%3A00%3A00%200%20-60"
)
APP_PATH = b"/b/ss/opt/0/ANDN030002030300/s12345"


async def test_a_mobile_hit_is_stamped_behind_its_first_parameter(served: Served) -> None:
    """And answered 200: the SDK would drop it or send it again for anything else."""
    (got,) = await served.take(post(APP_PATH, b"ndh=1&" + APP))
    assert got.body == b""
    (hit,) = await served.drained()
    assert (hit.target, hit.body) == (APP_PATH, b"ndh=1&ts=1770000000&" + APP)


async def test_a_mobile_hit_with_a_time_is_not_touched(served: Served) -> None:
    """The SDK's own offline tracking has written it."""
    body = b"ndh=1&" + APP + b"&ts=1769999000"
    await served.take(post(APP_PATH, body))
    (hit,) = await served.drained()
    assert hit.body == body


async def test_context_data_named_ts_is_no_time(served: Served) -> None:
    """At whatever depth it stands."""
    rest = b"&ndh=1&c.&ts=yesterday&x.&ts=1&.x&.c&pageName=p&AQE=1"
    await served.take(get(PATH + b"?AQB=1" + rest))
    (hit,) = await served.drained()
    assert hit.target == PATH + b"?AQB=1&ts=1770000000" + rest
    assert [value for name, value in hit.params() if name == b"ts"] == [b"1770000000"]
    assert [value for name, value in hit.params() if name == b"c.ts"] == [b"yesterday"]


async def test_a_suite_that_requires_times_gets_them_when_nothing_is_late(served: Served) -> None:
    """Without one the hit would be dropped for ever."""
    await served.take(get(VIEW.replace(b"/opt/", b"/req/")))
    (hit,) = await served.drained()
    assert hit.target == VIEW_STAMPED.replace(b"/opt/", b"/req/")


async def test_a_suite_that_takes_no_times_gets_fresh_hits_alone(served: Served) -> None:
    """An hour late the hit would count at the wrong time: it is kept as a dead letter."""
    fresh = VIEW.replace(b"/opt/", b"/non/")
    await served.take(get(fresh))
    (hit,) = await served.drained()
    assert hit.target == fresh
    async with served.outage(hours=1):
        await served.take(get(fresh + b"&late"))
        await served.comes_to(state="offline", waiting=1)
    await served.comes_to(dead=1, waiting=0)
    got = await ask(served.admin, get(b"/api/v1/dead"))
    assert b"its suite does not accept timestamps, and the hit is too old" in got.body
    assert served.adobe.counts.requests == 1


async def test_a_time_for_a_suite_that_takes_none_is_never_sent(served: Served) -> None:
    """Adobe would answer 200 and drop it."""
    await served.take(get(VIEW.replace(b"/opt/", b"/non/") + b"&ts=1769990000"))
    await served.comes_to(accepted=1, dead=1)
    assert served.adobe.counts.requests == 0


async def test_a_late_hit_for_such_a_suite_can_be_sent_on_request(serve: Serve) -> None:
    """Then Adobe dates it at its arrival; never with a `ts`."""
    served = await serve('[suites.known.lax]\ntimestamps = "not-allowed"\nwhen_late = "send"')
    late = VIEW.replace(b"/opt/", b"/lax/")
    async with served.outage(hours=1):
        await served.take(get(late))
        await served.comes_to(state="offline", waiting=1)
    (hit,) = await served.drained()
    assert hit.target == late


async def test_a_late_hit_of_a_suite_nobody_described_is_held(served: Served) -> None:
    """With or without a time, half of the suites would lose it."""
    async with served.outage(hours=1):
        await served.take(get(VIEW.replace(b"/opt/", b"/who/")))
        await served.comes_to(state="offline", waiting=1)
    found = await served.comes_to(held=1, waiting=1)
    assert "[suites.known.who]" in found["held_suites"]["who"]["reason"]
    assert served.adobe.counts.requests == 0


async def test_whoever_is_held_behind_a_held_hit_says_what_releases_both(served: Served) -> None:
    """It is the setting that an operator at night has to find."""
    async with served.outage(hours=1):
        await served.take(get(VIEW.replace(b"/opt/", b"/who/")))
        await served.comes_to(state="offline", waiting=1)
    await served.comes_to(held=1)
    await served.take(get(VIEW.replace(b"/opt/", b"/who/") + b"&v1=2"))
    found = await served.comes_to(held=2, waiting=2)
    assert "[suites.known.who]" in found["held_suites"]["who"]["reason"]


async def test_suites_of_different_modes_never_share_a_late_request(served: Served) -> None:
    """One part is stamped, the other is buried; suites of one kind stay together in order."""
    both = VIEW.replace(b"/opt/", b"/opt,non/")
    alike = VIEW.replace(b"/opt/", b"/opt,req/")
    async with served.outage(hours=1):
        await served.take(get(both), get(alike))
        await served.comes_to(state="offline", waiting=3, accepted=3)
    await served.drained(2)
    targets = {hit.target for hit in served.adobe.received}
    assert targets == {VIEW_STAMPED, VIEW_STAMPED.replace(b"/opt/", b"/opt,req/")}
    await served.comes_to(delivered=2, dead=1, waiting=0)


async def test_a_visitor_id_of_the_sites_own_keeps_its_order(served: Served) -> None:
    """`vid` names the visitor before all other ids do."""
    async with served.outage():
        await served.take(
            *(get(PATH + b"%d?vid=customer42&fid=%d-1&pageName=%d" % (n, n, n)) for n in range(5))
        )
        await served.comes_to(state="offline", waiting=5)
    await served.drained(5)
    assert [hit.param(b"pageName") for hit in served.adobe.received] == [
        b"%d" % n for n in range(5)
    ]


# -- XML ----------------------------------------------------------------------------------


XML = (
    b"<?xml version=1.0 encoding=UTF-8?><request>%s<PAGEURL>https://e.example</PAGEURL>"
    b"<visitorid>128655</visitorid><ReportSuiteID>opt,req</ReportSuiteID></request>"
)
AS_XML = b"Content-Type: application/xml"


async def test_an_xml_hit_is_stamped_with_a_tag(served: Served) -> None:
    """Adobe's own samples leave out the quotes of the declaration: so may a client."""
    (got,) = await served.take(post(b"/b/ss//6", XML % b"", AS_XML))
    assert (got[b"content-type"], b"<status>SUCCESS</status>" in got.body) == (b"text/xml", True)
    (hit,) = await served.drained()
    assert (hit.target, hit.header(b"content-type")) == (b"/b/ss//6", b"application/xml")
    assert hit.body == XML % b"<timestamp>1770000000</timestamp>"


async def test_an_xml_hit_that_has_a_time_keeps_it(served: Served) -> None:
    """Whatever the spelling of the tag."""
    body = XML % b"<TimeStamp>2026-02-01T10:00:00Z</TimeStamp>"
    await served.take(post(b"/b/ss//6", body, AS_XML))
    (hit,) = await served.drained()
    assert hit.body == body


@pytest.mark.parametrize(
    "body, reason",
    [
        (
            b"<request><pageURL>x</pageURL><reportSuiteID>opt</reportSuiteID></request>",
            b"NO visitorid OR ipaddress",
        ),
        (
            b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><request>&a;</request>',
            b"Syntax Error",
        ),
    ],
)
async def test_an_xml_hit_adobe_would_not_take_is_not_taken(
    served: Served, body: bytes, reason: bytes
) -> None:
    """In Adobe's words; no entity is ever expanded."""
    (got,) = await served.take(post(b"/b/ss//6", body, AS_XML))
    assert b"<status>FAILURE</status>\n<reason>" + reason + b"</reason>" in got.body
    assert b"root:" not in got.body
    assert (await served.status())["accepted"] == 0


# -- bytes, headers, sizes ----------------------------------------------------------------


LEGACY = b"/b/ss/opt/1/H.25.2--NS/0"


async def test_a_hardcoded_image_is_stamped_in_front(served: Served) -> None:
    """The client's address is kept, and no User-Agent is made up for it."""
    await served.take(get(LEGACY + b"?pageName=legacy", b"X-Forwarded-For: 203.0.113.7"))
    (hit,) = await served.drained()
    assert hit.target == LEGACY + b"?ts=1770000000&pageName=legacy"
    assert hit.headers[1:] == ((b"X-Forwarded-For", b"203.0.113.7"),)


async def test_the_cookie_check_is_followed_once(served: Served) -> None:
    """As a browser does: same host, same headers, the new cookie; then the hit is delivered."""
    served.adobe.will(pccr())
    await served.take(get(LEGACY + b"?AQB=1&pageName=legacy&AQE=1", b"User-Agent: UA1"))
    first, second = await served.drained(2)
    assert b"pccr=true" not in first.target
    assert b"AQB=1&pccr=true&vidn=" in second.target
    assert second.header(b"user-agent") == b"UA1"
    assert (second.header(b"cookie") or b"").startswith(b"s_vi=[CS]v1|")
    await served.comes_to(delivered=1, ambiguous=0)


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_no_other_redirect_is_followed(served: Served, elsewhere: bool) -> None:
    """To another host, or again and again: the hit stays, and someone can read why."""
    other = redirect(b"https://evil.example/b/ss/opt/1/x?pccr=true")
    served.adobe.always(other if elsewhere else pccr(loop=True))
    await served.take(get(LEGACY + b"?AQB=1&AQE=1"))
    await served.fails_by("another host" if elsewhere else "second redirect not followed")
    await served.comes_to(waiting=1, delivered=0)
    served.adobe.heal()
    await served.comes_to(waiting=0, delivered=1)


async def test_foreign_bytes_arrive_as_they_are(served: Served) -> None:
    """No escape is corrected, no empty piece dropped, no charset changed."""
    rest = b"&ce=ISO-8859-1&pageName=caf%E9&v1=a%2Bb+c&&v1=dup&v2=%zz&AQE=1"
    await served.take(get(PATH + b"?AQB=1" + rest))
    (hit,) = await served.drained()
    assert hit.target == PATH + b"?AQB=1&ts=1770000000" + rest


async def test_a_hit_of_70_kilobytes_is_drained_whole(served: Served) -> None:
    """One line of it."""
    rest = b"&v1=" + b"y" * (70_251 - len(PATH) - len(b"?AQB=1&v1=&AQE=1")) + b"&AQE=1"
    assert len(PATH + b"?AQB=1" + rest) == 70_251
    await served.take(get(PATH + b"?AQB=1" + rest))
    (hit,) = await served.drained()
    assert hit.target == PATH + b"?AQB=1&ts=1770000000" + rest


async def test_a_body_of_3_mib_is_refused(served: Served) -> None:
    """413, counted, nothing stored, and the connection ends."""
    async with connected(served.beacons) as raw:
        got = await raw.ask(post(PATH, b"x" * 3 * 1024**2))
        assert (got.status, await raw.rest()) == (413, b"")
    found = await served.status()
    assert (found["accepted"], found["refused_by_reason"]) == (0, {"too-large": 1})


@pytest.mark.parametrize(
    "data",
    [
        post(PATH, b"a=bcd", b"Transfer-Encoding: chunked"),
        post(PATH, b"a=bcd", b"Content-Length: 6"),
        get(PATH, b"X-A: 1\x002"),
        get(PATH, b"X-A: 1\r2"),
        get(PATH, b"X-A: 1\nX-B: 2"),
    ],
)
async def test_what_two_servers_might_read_differently_is_refused(
    served: Served, data: bytes
) -> None:
    """400 and a close; nothing of it reaches the queue."""
    async with connected(served.beacons) as raw:
        got = await raw.ask(data + get(VIEW))
        assert (got.status, await raw.rest()) == (400, b"")
    assert (await served.status())["accepted"] == 0


async def test_where_a_hit_goes_is_not_the_clients_business(served: Served) -> None:
    """An absolute target names a host; the collection server stays the configured one."""
    await served.take(get(b"http://evil.example" + VIEW, host=b"evil.example"))
    (hit,) = await served.drained()
    assert hit.target == VIEW_STAMPED
    assert hit.header(b"host") == served.adobe.url.removeprefix("http://").encode()


async def test_strangers_are_turned_away(serve: Serve) -> None:
    """A name that is not ours, a suite that is not listed, a path that climbs."""
    served = await serve('[suites]\nunlisted = "refuse"')
    for data, status_ in (
        (get(VIEW, host=b"evil.example"), 421),
        (get(VIEW.replace(b"/opt/", b"/competitor/")), 403),
        (get(b"/b/ss/..%2f..%2fetc/passwd/1/"), 404),
        (get(b"/b/ss/opt/4/REDIR/?url=https%3A%2F%2Fevil.example%2F&pe=lnk_d&pev2=x"), 404),
    ):
        assert (await ask(served.beacons, data)).status == status_
    found = await served.status()
    reasons = {"host": 1, "unlisted": 1, "not-a-beacon": 2}
    assert (found["accepted"], found["refused"]) == (0, 4)
    assert found["refused_by_reason"] == reasons
    assert served.adobe.counts.requests == 0


async def test_nothing_but_adobes_own_is_stored_or_sent(served: Served) -> None:
    """Other applications' cookies, hop-by-hop headers, a local address: none of it."""
    await served.take(
        get(
            VIEW,
            b"Cookie: sessionid=SECRET; s_vi=[CS]v1|2B2AF1AA05079532-40000110400027BD[CE]; jwt=x",
            b"Connection: close, X-Trace",
            b"X-Trace: SECRET",
            b"Authorization: SECRET",
            b'If-None-Match: "SECRET"',
            b"If-Modified-Since: SECRET",
            b"Accept-Encoding: gzip, br",
        )
    )
    (hit,) = await served.drained()
    cookie = (b"Cookie", b"s_vi=[CS]v1|2B2AF1AA05079532-40000110400027BD[CE]")
    assert hit.headers[1:] == (cookie,)
    stored = {file.name: file.read_bytes() for file in files(served.folder)}
    with contextlib.closing(sqlite3.connect(served.folder / "hits.db")) as db:
        ((content,),) = db.execute("SELECT content FROM hits").fetchall()
    stored["row"] = wire.plain(content)
    assert b"2B2AF1AA05079532" in stored["row"]
    assert not [name for name, data in stored.items() if b"SECRET" in data]


async def test_expect_is_answered_and_not_sent_on(served: Served) -> None:
    """Adobe's servers were seen to refuse it."""
    async with connected(served.beacons) as raw:
        raw.say(get(APP_PATH, b"Expect: 100-continue", b"Content-Length: 5", method=b"POST"))
        assert (await raw.answer()).status == 100
        assert (await raw.ask(b"ndh=1")).status == 200
    (hit,) = await served.drained()
    assert (hit.body, hit.header(b"expect")) == (b"ndh=1&ts=1770000000", None)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


# -- the id service -------------------------------------------------------------------------


IDENTITY = (
    b"/id?d_visid_ver=5.5.0&d_fieldgroup=A&mcorgid=AB%40AdobeOrg&mid=" + MID + b"&ts=1770000000123"
)


async def test_the_id_service_is_answered_offline(served: Served) -> None:
    """200 and `{}`, readable by the page, nothing stored: an error would end its tracking."""
    async with served.outage():
        (got,) = await served.take(get(IDENTITY, b"Origin: https://shop.example"))
        assert (got[b"content-type"], got.body) == (b"application/json", b"{}")
        assert got[b"access-control-allow-origin"] == b"https://shop.example"
        assert got[b"access-control-allow-credentials"] == b"true"
    assert (await served.status())["accepted"] == 0


async def test_the_id_service_is_passed_through_online(served: Served) -> None:
    """As it came, its `ts` untouched, and no cookie comes back."""
    await served.take(get(VIEW))
    await served.comes_to(state="online")
    await served.take(get(IDENTITY))
    assert served.adobe.received[-1].target == IDENTITY


@pytest.mark.parametrize("body", [b"<html>", b"[" * 60_000, b"null", b"\xff"])
async def test_what_is_no_identity_is_never_passed_on(served: Served, body: bytes) -> None:
    """Whatever the collection server says, the page gets 200 and an object."""
    await served.take(get(VIEW))
    await served.comes_to(state="online")
    served.adobe.will(status(200, body=body))
    (got,) = await served.take(get(IDENTITY))
    assert got.body == b"{}"


# -- copies ---------------------------------------------------------------------------------


async def test_a_retry_storm_is_one_hit(served: Served) -> None:
    """Twenty copies are answered 200, one is stored; another random segment is another hit."""
    target = VIEW.replace(TIME, TIME + b"&ts=1769990000")
    answers = await asyncio.gather(*(ask(served.beacons, get(target)) for _ in range(20)))
    assert {got.status for got in answers} == {200}
    await served.take(get(target.replace(b"s84882983483599", b"s84882983483598")))
    found = await served.comes_to(accepted=2, delivered=2)
    assert found["repeated"] == 19
    assert served.adobe.counts.requests == 2


# -- when the drain fails -------------------------------------------------------------------


async def test_a_hit_whose_answer_was_cut_off_is_sent_again_and_counted(served: Served) -> None:
    """It may have arrived: the count says how many may be double."""
    served.adobe.will(close_without_answer())
    await served.take(get(VIEW))
    await served.drained()
    await served.comes_to(delivered=1, waiting=0, ambiguous=1)
    assert [hit.target for hit in served.adobe.received] == [VIEW_STAMPED] * 2


async def test_a_captive_portal_takes_nothing(served: Served) -> None:
    """Its 200 is a login page: the hit stays, and the reason is told."""
    served.adobe.always(captive_portal())
    await served.take(get(VIEW))
    await served.fails_by("captive portal")
    await served.comes_to(state="offline", waiting=1, delivered=0)
    served.adobe.heal()
    await served.comes_to(state="online", waiting=0, delivered=1, dead=0)


async def test_a_server_that_asks_for_time_gets_it(served: Served) -> None:
    """Retry-After is a minimum: for nobody is there an attempt meanwhile."""
    served.adobe.will(status(503, retry_after=120))
    await served.take(get(VIEW))
    await served.adobe.wait_for(1)
    found = await served.comes_to(waiting=1)
    # Ten first pauses of a failure, in which it would have come again.
    with pytest.raises(TimeoutError):
        await served.adobe.wait_for(2, timeout=0.3)
    assert found["dead"] == 0


async def test_a_hit_that_is_refused_for_good_stops_nobody(served: Served) -> None:
    """It is a dead letter; the next one of the same visitor goes."""
    served.adobe.when(b"pageName=poison", status(404))
    async with served.outage():
        await served.take(*(get(PATH + b"%d?fid=A-B&pageName=%s" % pair) for pair in PAIRS))
        await served.comes_to(state="offline", waiting=3)
    await served.comes_to(delivered=2, dead=1, waiting=0)
    assert [hit.param(b"pageName") for hit in served.adobe.received] == [b"a", b"poison", b"b"]


PAIRS = ((1, b"a"), (2, b"poison"), (3, b"b"))


async def test_a_crash_in_flight_loses_nothing_and_doubles_one_hit_at_most(
    serve: Serve, tmp_path: Path
) -> None:
    """What is on disk while the answer is awaited is what a killed process leaves behind."""
    first = await serve()
    first.adobe.will(timeout())
    await first.take(get(VIEW))
    await first.adobe.wait_for(1)
    left = tmp_path / "left"
    shutil.copytree(first.folder, left)
    second = await serve(folder=left)
    await second.comes_to(accepted=1, delivered=1, waiting=0, ambiguous=1)
    assert [hit.target for hit in second.adobe.received] == [VIEW_STAMPED] * 2
    # The client never knew: its copy is one still.
    await second.take(get(VIEW))
    assert (await second.status())["repeated"] == 1
    await first.adobe.cut()


async def test_a_visitor_who_is_stuck_stops_no_other(served: Served) -> None:
    """And goes on in order afterwards."""
    stuck = [False]
    served.adobe.when(lambda hit: stuck[0] and hit.param(b"fid") == b"A-A", status(500))
    await served.take(get(PATH + b"0?fid=B-B&pageName=b0"))
    await served.comes_to(state="online", delivered=1)
    stuck[0] = True
    hits = [b"%d?fid=A-A&pageName=a%d" % (n, n) for n in range(1, 4)]
    hits += [b"%d?fid=B-B&pageName=b%d" % (n, n) for n in range(4, 7)]
    await served.take(*(get(PATH + hit) for hit in hits))
    await served.comes_to(delivered=4)
    assert (await served.status())["dead"] == 0
    stuck[0] = False
    await served.comes_to(delivered=7, waiting=0)
    done = [hit.param(b"pageName") or b"" for hit in served.adobe.received if hit.status == 200]
    assert [name for name in done if name.startswith(b"a")] == [b"a1", b"a2", b"a3"]
    assert [name for name in done if name.startswith(b"b")] == [b"b0", b"b4", b"b5", b"b6"]
