"""Claims about the Edge Network beside Analytics, over real sockets, processes and SQLite."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from daemon import Answer, Launch, Reached, Serve, Served
from test_edge import ECID, cookie, entries

from proxy.cli import show
from proxy.core.wire import unpack
from proxy.fake import (
    FakeCollector,
    captive_portal,
    close_without_answer,
    identifies,
    latency,
    problem,
    timeout,
)
from proxy.fake import status as answers

ORIGIN = "https://shop.example"
TEXT = {"Content-Type": "text/plain; charset=UTF-8", "Origin": ORIGIN}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def edge() -> AsyncIterator[FakeCollector]:
    async with FakeCollector() as server:
        yield server


def settings(edge: FakeCollector, **more: object) -> dict[str, object]:
    keyed = {f"edge.{key}": value for key, value in more.items()}
    return {"edge.server": edge.url, "suites.timestamps": "optional", **keyed}


def ecid(visitor: int) -> str:
    return f"{visitor:038}"


def body(name: str, visitor: int | None = 0, *, dated: bool = True) -> bytes:
    """One event of a visitor; None is nobody."""
    event: dict[str, Any] = {"xdm": {"_id": name}}
    if dated:
        event["xdm"]["timestamp"] = "2026-02-02T02:40:00.000Z"
    known = {} if visitor is None else {"meta": entries(cookie(ecid(visitor)))}
    return json.dumps({**known, "events": [event]}).encode()


async def send(
    daemon: Reached,
    name: str,
    visitor: int | None = 0,
    call: str = "v1/interact",
    *,
    headers: dict[str, str] = TEXT,
    dated: bool = True,
) -> Answer:
    target = f"/ee/{call}?configId=abc&requestId={name}"
    return await daemon.send(target, "POST", headers, body(name, visitor, dated=dated))


def names(edge: FakeCollector) -> list[str]:
    return [event["xdm"]["_id"] for hit in edge.received for event in hit.events]


def by_visitor(edge: FakeCollector) -> dict[str, list[int]]:
    """The numbers of the events that arrived, by identity, in their order."""
    found: dict[str, list[int]] = defaultdict(list)
    for hit in edge.received:
        identity = json.loads(hit.body)["meta"]["state"]["entries"][0]["value"]
        found[identity] += [int(event["xdm"]["_id"]) for event in hit.events]
    return found


def empty(got: Answer) -> bool:
    """Our own answer, of which a page makes nothing; that of the fake Edge is numbered."""
    return (
        got.status == 200
        and got.json()["handle"] == []
        and re.search("-0{8}", got.json()["requestId"]) is None
    )


# --- the endpoints ---------------------------------------------------------------------------


async def test_without_its_section_edge_is_nowhere(serve: Serve, adobe: FakeCollector) -> None:
    daemon = await serve(adobe)
    got = await send(daemon, "a")
    assert got.status == 404
    assert (await daemon.status())["edge"] is None


async def test_online_a_page_gets_edges_own_answer_and_the_event_arrives_once(
    serve: Serve, edge: FakeCollector
) -> None:
    """Personalization, identity and location hints work as without us."""
    edge.when(b"interact", identifies("ORG@AdobeOrg", ECID))
    daemon = await serve(None, settings(edge))
    first = await send(daemon, "first", None)
    stored = first.json()["handle"][0]["payload"][0]
    assert stored["key"] == "kndctr_ORG_AdobeOrg_identity"
    assert first.headers["Access-Control-Allow-Origin"] == ORIGIN

    second = await send(daemon, "second")
    assert second.json()["requestId"].startswith("second-")
    assert (await send(daemon, "third", call="v1/collect")).status == 204
    found = await daemon.until(lambda status: status["delivered"] == 2)
    assert names(edge) == ["first", "second", "third"]
    assert found["accepted"] == 2, "what is of nobody is never stored"
    assert [hit.answered for hit in edge.received] == [True] * 3


async def test_offline_what_can_wait_waits_and_the_rest_gets_503(
    serve: Serve, edge: FakeCollector
) -> None:
    """And goes out in order when the link is back, byte for byte."""
    daemon = await serve(None, settings(edge))
    await edge.cut()
    assert empty(await send(daemon, "1"))
    await daemon.until(lambda status: status["edge"]["link"] == "offline")
    assert empty(await send(daemon, "2"))
    assert (await send(daemon, "3", call="v1/collect")).status == 204
    assert (await send(daemon, "4", call="v2/collect", headers=JSON)).status == 202
    assert empty(await send(daemon, "5", call="or2/v1/interact"))
    assert empty(await send(daemon, "6", call="va/v1/downloaded"))
    for call in ("v1/privacy/set-consent", "v1/identity/acquire", "va/v1/sessionStart"):
        got = await send(daemon, "not-stored", call=call)
        assert (got.status, got.headers["Retry-After"]) == (503, "30")
        assert got.headers["Content-Type"] == "application/problem+json"
    assert (await send(daemon, "of-nobody", None)).status == 503
    assert (await daemon.status())["waiting"] == 6

    await edge.restore()
    await daemon.until(lambda status: status["delivered"] == 6)
    assert names(edge) == ["1", "2", "3", "4", "5", "6"]
    assert [hit.body for hit in edge.received] == [body(str(n)) for n in range(1, 7)]
    assert edge.received[4].path == b"/ee/or2/v1/interact"


@pytest.mark.parametrize(
    "call",
    ["v1/privacy/set-consent", "v2/identity/acquire", "va/v1/sessionStart", "or2/va/v1/ping"],
)
async def test_consent_identity_and_media_reach_edge_while_it_can_be_reached(
    serve: Serve, edge: FakeCollector, call: str
) -> None:
    """As they came, with their client's own answer; nothing of them is stored."""
    daemon = await serve(None, settings(edge))
    got = await send(daemon, "now", call=call)
    assert got.status == 200
    assert "now-" in got.json()["requestId"], "Edge's own"
    assert edge.received[0].path == b"/ee/" + call.encode()
    assert edge.received[0].body == body("now")
    assert (await daemon.status())["accepted"] == 0


async def test_any_base_path_may_be_configured(serve: Serve, edge: FakeCollector) -> None:
    """What is stored under one goes out as it came, also when it is another by then."""
    edge.when(b"/own/path/", answers(204))
    daemon = await serve(None, settings(edge, base_path="own/path"))
    assert (await send(daemon, "1")).status == 404
    await edge.cut()
    target = "/own/path/or2/v1/collect?configId=abc"
    assert (await daemon.send(target, "POST", TEXT, body("2"))).status == 204
    await daemon.stop()
    await edge.restore()
    daemon = await serve(None, settings(edge))
    await daemon.until(lambda status: status["delivered"] == 1)
    assert [hit.path for hit in edge.received] == [b"/own/path/or2/v1/collect"]


async def test_held_offline_by_a_person_nothing_goes_to_edge_either(
    serve: Serve, edge: FakeCollector
) -> None:
    daemon = await serve(None, settings(edge))
    assert (await daemon.tell("/api/v1/forwarding/offline")).status == 200
    assert empty(await send(daemon, "1"))
    assert (await send(daemon, "2", call="v1/privacy/set-consent")).status == 503
    assert (await daemon.status())["state"] == "held"
    assert not edge.received

    await daemon.tell("/api/v1/forwarding/online")
    await daemon.until(lambda status: status["delivered"] == 1)
    assert names(edge) == ["1"]


async def test_an_event_without_a_time_gets_that_of_its_receipt(
    serve: Serve, edge: FakeCollector
) -> None:
    daemon = await serve(None, settings(edge))
    await edge.cut()
    await send(daemon, "1", dated=False)
    await edge.restore()
    await daemon.until(lambda status: status["delivered"] == 1)
    (sent,) = edge.received
    time = sent.events[0]["xdm"]["timestamp"]
    inserted = f'"timestamp":"{time}",'.encode()
    assert sent.body.replace(inserted, b"", 1) == body("1", dated=False)
    assert sent.header(b"content-length") == str(len(sent.body)).encode()


async def test_an_error_of_edges_reaches_the_page_and_the_event_is_a_dead_letter(
    serve: Serve, edge: FakeCollector
) -> None:
    """500 is never sent again, 207 is done."""
    edge.when(b"bad", problem("0003-400", "Invalid datastream ID"))
    edge.when(b"broken", answers(500))
    edge.when(b"partly", answers(207, body=b'{"handle":[]}', content_type="application/json"))
    daemon = await serve(None, settings(edge))
    got = await send(daemon, "bad")
    assert (got.status, got.json()["title"]) == (400, "Invalid datastream ID")
    assert (await send(daemon, "broken")).status == 500
    assert (await send(daemon, "partly")).status == 207
    found = await daemon.until(lambda status: status["delivered"] + status["dead"] == 3)
    assert (found["delivered"], found["dead"]) == (1, 2)
    letters = (await daemon.ask("/api/v1/dead")).json()
    reasons = [letter["reason"] for letter in letters["letters"]]
    assert "400 from the Edge Network: Invalid datastream ID" in reasons
    groups = (await daemon.ask("/api/v1/dead/groups")).json()["groups"]
    assert [group["suites"] for group in groups] == [["abc"], ["abc"]]
    assert {letter["suites"] for letter in letters["letters"]} == {"abc"}
    assert names(edge) == ["bad", "broken", "partly"]


async def test_a_push_back_is_waited_out_and_the_page_need_not_wait(
    serve: Serve, edge: FakeCollector
) -> None:
    edge.will(problem("0201-503", retry_after=1))
    daemon = await serve(None, settings(edge))
    assert empty(await send(daemon, "1"))
    assert empty(await send(daemon, "2"))
    await daemon.until(lambda status: status["delivered"] == 2)
    assert names(edge) == ["1", "1", "2"]
    assert edge.received[1].at - edge.received[0].at > 0.9


async def test_a_page_that_waits_for_a_lost_reply_sees_success_and_nothing_is_sent_twice(
    serve: Serve, edge: FakeCollector
) -> None:
    """Whether Edge has it nobody knows: it is counted, kept, and a person says what becomes of it.

    What waits for no reply is sent again, as every hit is.
    """
    edge.will(close_without_answer())
    daemon = await serve(None, settings(edge))
    assert empty(await send(daemon, "1"))
    found = await daemon.until(lambda status: status["dead"] == 1)
    assert (found["ambiguous"], found["balanced"]) == (1, True)
    assert (await send(daemon, "2", call="v1/collect")).status == 204
    await daemon.until(lambda status: status["delivered"] == 1)
    assert names(edge) == ["1", "2"]

    edge.will(close_without_answer())
    await send(daemon, "3", call="v1/collect")
    await daemon.until(lambda status: status["delivered"] == 2)
    assert names(edge) == ["1", "2", "3", "3"]


async def test_a_captive_portal_is_an_outage(serve: Serve, edge: FakeCollector) -> None:
    edge.always(captive_portal())
    daemon = await serve(None, settings(edge))
    assert empty(await send(daemon, "1"))
    assert (await send(daemon, "of-nobody", None)).status == 503
    await daemon.until(lambda status: status["edge"]["link"] == "offline")
    edge.heal()
    await daemon.until(lambda status: status["delivered"] == 1)


async def test_while_a_link_is_tried_again_and_again_no_page_waits_for_it(
    serve: Serve, edge: FakeCollector
) -> None:
    """Connections succeed, answers are another's: each page is answered long before a timeout."""
    edge.always(captive_portal())
    slow = {"retry.first": "20s", "retry.max": "2h"}
    daemon = await serve(None, {**settings(edge), **slow})
    await send(daemon, "1", 1, call="v1/collect")
    await daemon.until(lambda status: status["edge"]["link"] == "offline")
    edge.always(latency(0.2) | captive_portal())
    await daemon.tell("/api/v1/forwarding/retry")
    await edge.wait_for(2)
    began = asyncio.get_running_loop().time()
    assert empty(await send(daemon, "2", 2))
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_slow_edge_is_waited_for_and_no_longer_than_its_timeout(
    serve: Serve, edge: FakeCollector
) -> None:
    edge.will(latency(0.3))
    daemon = await serve(None, settings(edge, timeout="1s"))
    assert (await send(daemon, "1")).json()["requestId"].endswith("0000000000000001")
    edge.always(timeout())
    assert empty(await send(daemon, "2"))
    await daemon.until(lambda status: status["dead"] == 1)


async def test_behind_a_backlog_a_page_does_not_wait_and_overtakes_nobody(
    serve: Serve, edge: FakeCollector
) -> None:
    daemon = await serve(None, settings(edge))
    await edge.cut()
    for number in range(30):
        await send(daemon, str(number), call="v1/collect")
    edge.always(latency(0.05))
    await edge.restore()
    await daemon.until(lambda status: status["delivered"] > 0)
    assert empty(await send(daemon, "30"))
    await daemon.until(lambda status: status["delivered"] == 31)
    assert names(edge) == [str(number) for number in range(31)]


async def test_events_of_one_visitor_sent_at_once_are_answered_by_edge_and_in_order(
    serve: Serve, edge: FakeCollector
) -> None:
    """A page does not wait for the first answer before its next event."""
    daemon = await serve(None, settings(edge))
    await send(daemon, "0")
    edge.always(latency(0.05))
    got = await asyncio.gather(*[send(daemon, str(n)) for n in range(1, 5)])
    assert [one.json()["requestId"][:2] for one in got] == ["1-", "2-", "3-", "4-"]
    assert sorted(names(edge)) == ["0", "1", "2", "3", "4"]
    assert edge.counts.in_flight == 0


async def test_a_token_is_added_when_sending_and_is_never_on_disk(
    serve: Serve, edge: FakeCollector, tmp_path: Path
) -> None:
    """Ours from its file, however often it changes; one that is not taken costs no event."""
    file = tmp_path / "token"
    file.write_text("OLD\n")
    edge.when(lambda hit: hit.header(b"authorization") != b"Bearer NEW", problem("0503-401"))
    daemon = await serve(None, settings(edge, token_file=str(file)))
    theirs = {**JSON, "Authorization": "Bearer THEIR-SECRET"}
    assert (await send(daemon, "1", call="v2/collect", headers=theirs)).status == 202
    await edge.wait_for(2)
    assert (await daemon.status())["dead"] == 0
    for stored in daemon.queue_file.parent.glob("hits.db*"):
        assert b"SECRET" not in stored.read_bytes()

    file.write_text("NEW\n")
    await daemon.until(lambda status: status["delivered"] == 1)
    assert edge.received[0].header(b"authorization") == b"Bearer OLD"
    assert edge.received[-1].header(b"authorization") == b"Bearer NEW"


async def test_without_a_token_of_ours_theirs_is_passed_through_or_refused(
    serve: Serve, edge: FakeCollector
) -> None:
    """Stored it could never be sent; so its client keeps it."""
    daemon = await serve(None, settings(edge))
    theirs = {**JSON, "Authorization": "Bearer THEIRS"}
    assert (await send(daemon, "1", call="v2/collect", headers=theirs)).status == 202
    assert edge.received[0].header(b"authorization") == b"Bearer THEIRS"
    await edge.cut()
    assert (await send(daemon, "2", call="v2/collect", headers=theirs)).status == 503
    assert (await daemon.status())["accepted"] == 0


async def test_bad_input_is_refused_counted_and_stored_nowhere(
    serve: Serve, edge: FakeCollector
) -> None:
    daemon = await serve(None, settings(edge, datastreams=["abc"], unlisted="refuse"))
    target = "/ee/v1/collect?configId=abc"
    image = {**TEXT, "Content-Type": "image/gif"}
    elsewhere = "/ee/v1/collect?configId=other"
    for got, status, number in (
        (await daemon.send(target, "POST", TEXT, b"{"), 400, "0101-400"),
        (await daemon.send(target, "POST", TEXT, b"{}"), 400, "0103-400"),
        (await daemon.send(target, "POST", TEXT, b" " * 66_560), 413, "0112-413"),
        (await daemon.send(target, "POST", TEXT, b" " * 300_000), 413, "0112-413"),
        (await daemon.send(target, "POST", image, body("1")), 415, "0111-415"),
        (await daemon.send(elsewhere, "POST", TEXT, body("1")), 400, "0003-400"),
    ):
        assert (got.status, got.json()["status"]) == (status, status)
        assert got.json()["type"] == f"https://ns.adobe.com/aep/errors/EXEG-{number}"
        assert got.headers["Content-Type"] == "application/problem+json"
        assert got.headers["Access-Control-Allow-Origin"] == ORIGIN, "the page may read why"
    found = await daemon.status()
    assert found["accepted"] == 0
    assert found["refused_by_reason"] == {
        "too-large": 1,  # larger than anything that is taken here
        **{
            f"edge.{reason}": 1
            for reason in ("malformed", "no-events", "too-large", "type", "unlisted")
        },
    }
    assert not edge.received


async def test_what_cannot_be_stored_is_given_back_to_its_client(
    serve: Serve, edge: FakeCollector
) -> None:
    """With 503 and Retry-After, for which the Web SDK and the Edge mobile SDK try again."""
    daemon = await serve(None, settings(edge) | {"queue.max_hits": 1})
    await edge.cut()
    assert (await send(daemon, "1", call="v1/collect")).status == 204
    for call in ("v1/collect", "v1/interact", "v2/collect"):
        got = await send(daemon, "2", call=call)
        assert (got.status, got.headers["Retry-After"]) == (503, "30")
        assert got.json()["type"].endswith("/EXEG-0000-503")
        assert got.headers["Access-Control-Allow-Origin"] == ORIGIN
    found = await daemon.status()
    assert (found["accepted"], found["refused_by_reason"]) == (1, {"max_hits": 3})


# --- two roads -------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", ["edge", "analytics"])
async def test_a_dead_road_does_not_slow_the_other(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector, dead: str
) -> None:
    """Refused connections here, hanging requests there, a backlog in both."""
    daemon = await serve(adobe, {**settings(edge), "upstream.timeout": "1s", "edge.timeout": "1s"})
    broken, well = (edge, adobe) if dead == "edge" else (adobe, edge)
    broken.always(timeout())
    await daemon.hits(range(20), visitors=5)
    for number in range(20):
        await send(daemon, str(number), number % 5, call="v1/collect")
    await well.wait_for(20, answered=True)
    found = await daemon.until(lambda status: status["delivered"] == 20)
    assert found["waiting"] == 20
    await broken.cut()
    await daemon.hits(range(20, 40), visitors=5)
    for number in range(20, 40):
        await send(daemon, str(number), number % 5, call="v1/collect")
    await well.wait_for(40, answered=True)
    found = await daemon.until(lambda status: status["delivered"] == 40)
    assert found["waiting"] == 40
    links = found["forwarding"]["link"], found["edge"]["link"]
    assert links == (("online", "offline") if dead == "edge" else ("offline", "online"))
    assert found["state"] == links[0], "that of Analytics, with `edge` beside it"

    broken.heal()
    await broken.restore()
    await daemon.until(lambda status: status["delivered"] == 80)
    assert all(hit.path.startswith(b"/b/ss/") for hit in adobe.received)
    assert all(hit.path.startswith(b"/ee/") for hit in edge.received)


async def test_an_outage_of_analytics_is_not_called_online_between_its_probes(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector
) -> None:
    """It lets itself be reached and answers nothing: most of the time one hit tries its luck."""
    daemon = await serve(adobe, {**settings(edge), "upstream.timeout": "300ms"})
    await send(daemon, "1", call="v1/collect")
    await daemon.until(lambda status: status["state"] == "online")
    adobe.always(timeout())
    await daemon.hits(range(1))
    await daemon.until(lambda status: status["forwarding"]["link"] == "offline")
    found = await daemon.until(lambda status: status["forwarding"]["link"] == "suspect")
    assert found["edge"]["link"] == "online"
    assert found["state"] == "offline"
    assert show.state_line(found).startswith("Offline")


async def test_each_road_has_its_part_of_the_status(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector
) -> None:
    daemon = await serve(adobe, settings(edge))
    await daemon.hits(range(1))
    await send(daemon, "1", call="v1/collect")
    found = await daemon.until(lambda status: status["delivered"] == 2)
    assert found["upstream"] == adobe.url
    assert found["edge"]["upstream"] == edge.url
    assert set(found["forwarding"]) < set(found["edge"])
    assert found["forwarding"]["sends"] == found["edge"]["sends"] == {"delivered": 1}
    assert found["state"] == "online"


async def test_edge_alone_is_told_of_as_well(serve: Serve, edge: FakeCollector) -> None:
    """By `status`, by the health's lines, and by the one word for the whole."""
    daemon = await serve(None, settings(edge))
    await send(daemon, "1")
    found = await daemon.until(lambda status: status["delivered"] == 1)
    assert (found["state"], found["forwarding"]) == ("online", None)
    assert show.state_line(found).split() == ["Online", edge.url, "takes", "hits"]
    await edge.cut()
    await send(daemon, "2")
    found = await daemon.until(lambda status: status["state"] == "offline")
    assert show.state_line(found).startswith("Offline")
    assert "since" in show.state_line(found)
    checks = (await daemon.ask("/api/v1/health")).json()["checks"]
    (road,) = [check for check in checks if check["name"] in {"upstream", "edge"}]
    assert (road["name"], road["state"]) == ("edge", "warn")
    assert show.needs_a_person(found)


async def test_beside_analytics_edge_is_told_of_in_every_status(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector
) -> None:
    """Its link, since when, and its last error; one word where there is one line."""
    daemon = await serve(adobe, settings(edge))
    await daemon.hits(range(1))
    await send(daemon, "1", call="v1/collect")
    found = await daemon.until(lambda status: status["delivered"] == 2)
    (line,) = [one for one in show.status_lines(found, "") if one.startswith("Edge")]
    assert line.startswith(f"Edge       {edge.url}: online; last 20")
    assert not show.needs_a_person(found)
    await edge.cut()
    await send(daemon, "2", call="v1/collect")
    found = await daemon.until(lambda status: status["edge"]["link"] == "offline")
    (line,) = [one for one in show.status_lines(found, "") if one.startswith("Edge")]
    assert re.search(r": offline since .*Connect call failed.*; next try in", line)
    assert show.watch_line(found).endswith("takes hits; Edge offline")
    metrics = (await daemon.ask("/metrics")).body.decode()
    assert 'trackoffline_road_state{road="analytics"} 1.0' in metrics
    assert 'trackoffline_road_state{road="edge"} 0.0' in metrics
    assert show.needs_a_person(found)


async def test_a_reload_brings_other_datastreams(process: Launch, edge: FakeCollector) -> None:
    daemon = process(None, settings(edge, datastreams=["other"], unlisted="refuse"))
    await daemon.start()
    assert (await send(daemon, "1")).status == 400
    text = daemon.config_file.read_text().replace('["other"]', '["abc"]')
    daemon.config_file.write_text(text)
    daemon.signal(signal.SIGHUP)
    async with asyncio.timeout(10):
        while (await send(daemon, "2")).status != 200:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.02)
    await edge.wait_for(1)
    assert "this setting changes with a restart only" not in daemon.log


async def test_events_that_nobody_is_configured_for_wait(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector
) -> None:
    """The section was taken away: nothing goes to the wrong server, and nothing is lost."""
    daemon = await serve(adobe, settings(edge))
    await edge.cut()
    await send(daemon, "1")
    await daemon.stop()
    daemon = await serve(adobe)
    await daemon.hits(range(3))
    found = await daemon.until(lambda status: status["delivered"] == 3)
    assert (found["waiting"], found["dead"]) == (1, 0)
    found = await daemon.until(lambda status: status["unserved"] == 1)
    told = "1 hits wait, and nothing sends them: [edge] is not configured"
    assert told in "\n".join(show.status_lines(found, ""))
    assert show.needs_a_person(found)
    assert told in (await daemon.ask("/api/v1/health")).body.decode()
    await daemon.stop()
    await edge.restore()
    daemon = await serve(adobe, settings(edge))
    await daemon.until(lambda status: status["delivered"] == 4)
    assert names(edge) == ["1"]


async def test_people_who_look_at_hits_find_events_among_them(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector
) -> None:
    """By the same names, and by what is wrong with them."""
    daemon = await serve(adobe, settings(edge))
    await edge.cut()
    await daemon.hits(range(1))
    analytics = {"eVar12": "twelve", "events": "event1=2,purchase", "pageName": "Home"}
    event = {"xdm": {}, "data": {"__adobe": {"analytics": analytics}}}
    target = "/ee/v1/collect?configId=abc"
    data = json.dumps({"meta": entries(cookie()), "events": [event]}).encode()
    assert (await daemon.send(target, "POST", TEXT, data)).status == 204
    (row,) = (await daemon.ask("/api/v1/hits?q=eVar12:twelve")).json()["hits"]
    assert row["title"] == "Home"
    assert row["kind"] == "page"
    assert row["suites"] == ["abc"]
    assert row["events"] == ["event1", "purchase"]
    assert row["visitor"] == {"kind": "mid", "value": ECID}
    assert row["findings"] == [{"rule": "E8", "severity": "note"}]
    suites = (await daemon.ask("/api/v1/suites")).json()["suites"]
    known = {one["suite"]: (one["protocol"], one["waiting"]) for one in suites}
    assert known["abc"] == ("edge", 1)
    assert {one[0] for one in known.values()} == {"analytics", "edge"}
    (same,) = (await daemon.ask("/api/v1/hits?q=rule:E8")).json()["hits"]
    assert same["id"] == row["id"]
    shown = (await daemon.ask(f"/api/v1/hits/{row['id']}")).json()
    assert shown["decoded"]["protocol"] == "edge"
    assert shown["findings"][0]["doc"].endswith("/xdm/classes/experienceevent")
    assert len((await daemon.ask("/api/v1/hits")).json()["hits"]) == 2
    curl = (await daemon.ask(f"/api/v1/hits/{row['id']}/curl")).body.decode()
    assert f"'{edge.url}{target}'" in curl, "it goes to the server of its own protocol"
    har = (await daemon.ask("/api/v1/hits.har?q=eVar12:twelve")).json()
    assert har["log"]["entries"][0]["request"]["url"] == edge.url + target


async def test_an_event_can_be_exported_and_brought_back(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector
) -> None:
    """It is judged again by its own protocol, and sent on its own road."""
    daemon = await serve(adobe, settings(edge))
    await edge.cut()
    await send(daemon, "1", call="v1/collect")
    exported = (await daemon.ask("/api/v1/hits.ndjson?unredacted=1")).body
    got = await daemon.ask(
        "/api/v1/hits/import", "POST", {"Content-Type": "application/x-ndjson"}, exported
    )
    assert got.status == 200, got.body
    await edge.restore()
    await daemon.until(lambda status: status["delivered"] == 2)
    assert names(edge) == ["1", "1"]


async def test_the_lane_tells_the_protocol_on_disk(
    serve: Serve, adobe: FakeCollector, edge: FakeCollector
) -> None:
    daemon: Served = await serve(adobe, settings(edge))
    await edge.cut()
    await adobe.cut()
    await daemon.hits(range(3), visitors=3)
    for number in range(3):
        await send(daemon, str(number), number)
    await daemon.stop()
    with sqlite3.connect(daemon.queue_file) as db:
        rows = db.execute("SELECT lane < 0, content FROM hits ORDER BY id").fetchall()
    db.close()
    posted = [unpack(content).method == "POST" for _, content in rows]
    assert [bool(edges) for edges, _ in rows] == posted
    assert sum(edges for edges, _ in rows) == 3


# --- the promise, over a process that dies ---------------------------------------------------


async def test_through_kills_every_event_arrives_in_order_of_its_visitor_and_once(
    process: Launch, adobe: FakeCollector, edge: FakeCollector
) -> None:
    """Killed while the link is down, and again while the backlog drains on both roads.

    What was in flight at a kill may come twice, and then is marked.
    """
    daemon = process(adobe, settings(edge))
    await daemon.start()
    calls = ("v1/interact", "v1/collect", "v2/collect")
    sent = 0

    async def some(count: int) -> None:
        nonlocal sent
        for number in range(sent, sent + count):
            got = await send(daemon, str(number), number % 4, calls[number % 3])
            assert got.status in {200, 202, 204}
        await daemon.hits(range(sent, sent + count), visitors=4)
        sent += count

    await some(20)
    await edge.cut()
    await adobe.cut()
    await some(40)
    await daemon.kill()
    await daemon.start()
    await some(40)
    edge.always(latency(0.01))
    adobe.always(latency(0.01))
    await edge.restore()
    await adobe.restore()
    await daemon.until(lambda status: status["delivered"] >= 60)
    await daemon.kill()
    await daemon.start()
    found = await daemon.until(lambda status: status["waiting"] == 0)
    assert await daemon.terminate() == 0

    assert found["balanced"]
    assert found["accepted"] == found["delivered"] == 2 * sent
    doubled = 0
    for numbers in by_visitor(edge).values():
        once = list(dict.fromkeys(numbers))
        assert once == sorted(once)
        doubled += len(numbers) - len(once)
    assert {int(name) for name in names(edge)} == set(range(sent))
    doubled += len(adobe.received) - len({hit.param(b"pageName") for hit in adobe.received})
    assert doubled <= found["ambiguous"]
    assert "Traceback" not in daemon.log


async def test_a_stop_answers_those_who_wait_for_edge(process: Launch, edge: FakeCollector) -> None:
    """At once, and their events go out after the next start; what was passed through gets 503."""
    daemon = process(None, settings(edge))
    await daemon.start()
    edge.always(timeout())
    waiting = [
        asyncio.create_task(send(daemon, "1")),
        asyncio.create_task(send(daemon, "2", call="v1/privacy/set-consent")),
    ]
    await edge.wait_for(2)
    daemon.signal(signal.SIGTERM)
    event, consent = await asyncio.wait_for(asyncio.gather(*waiting), 2)
    assert empty(event)
    assert consent.status == 503
    assert await daemon.ended() == 0
    edge.heal()
    await daemon.start()
    found = await daemon.until(lambda status: status["delivered"] == 1)
    assert (found["balanced"], found["dead"]) == (True, 0)
