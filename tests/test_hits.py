"""Claims about the hits' routes: what a page, a script and a person get to see."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import time

import aiohttp
import pytest
from daemon import Reached, Serve, Served, hit
from test_admin import OPTIONAL, SECRET, Broken, bereaved, guarded, problem
from test_browse import new_hit

from proxy import fake
from proxy import reading as reading_module
from proxy.core import health
from proxy.core.findings import RULES
from proxy.core.hit import Suites
from proxy.core.ration import BURST_S, OVERDRAFT_S
from proxy.errors import QueueUnavailable
from proxy.fake import FakeCollector
from proxy.incoming import Incoming
from proxy.reading import Reading
from proxy.shell.admin import Admin
from proxy.shell.hits import Hits
from proxy.shell.queue import Queue

__all__ = ["bereaved", "guarded"]  # fixtures that live in `test_admin`


async def test_hits_are_listed_newest_first(served: Served) -> None:
    await served.hits(range(3))

    page = (await served.ask("/api/v1/hits")).json()

    assert [row["id"] for row in page["hits"]] == [3, 2, 1]
    assert [row["state"] for row in page["hits"]] == ["waiting"] * 3
    assert (page["complete"], page["cursor"]) == (True, None)


async def test_a_page_says_where_the_next_one_begins(served: Served) -> None:
    await served.hits(range(3))

    first = (await served.ask("/api/v1/hits?limit=2")).json()
    rest = (await served.ask(f"/api/v1/hits?limit=2&cursor={first['cursor']}")).json()

    assert [row["id"] for row in first["hits"] + rest["hits"]] == [3, 2, 1]
    assert not first["complete"]
    assert rest["complete"]


async def test_a_hit_is_shown_with_its_request(served: Served) -> None:
    await served.hits(range(1))

    found = (await served.ask("/api/v1/hits/1")).json()

    assert found["request"]["target"] == hit(0)
    assert found["timeline"][0]["at_ms"] == found["received_ms"]


async def test_a_hit_that_is_not_kept_is_not_found(served: Served) -> None:
    assert "kept" in problem(await served.ask("/api/v1/hits/7"), 404)


async def test_counts_tell_the_states_apart(bereaved: Served) -> None:
    counts = (await bereaved.ask("/api/v1/counts")).json()

    assert (counts["total"], counts["dead"], counts["waiting"]) == (3, 3, 0)


async def test_what_was_delivered_is_shown_as_such(serve: Serve, adobe: FakeCollector) -> None:
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(1))
    await served.until(lambda status: status["delivered"] == 1)

    (row,) = (await served.ask("/api/v1/hits")).json()["hits"]

    assert (row["state"], row["status"], row["tries"]) == ("delivered", 200, 1)


async def test_a_search_answers_with_what_matches(served: Served) -> None:
    await served.hits(range(12))

    found = (await served.ask("/api/v1/hits?q=page:p1*")).json()

    assert [row["title"] for row in found["hits"]] == ["p11", "p10", "p1"]
    counts = (await served.ask("/api/v1/counts?q=page:p1*")).json()
    assert (counts["total"], counts["waiting"]) == (3, 3)


@pytest.mark.parametrize(
    "path", ["hits?q=", "counts?q=", "hits/wait?timeout=0&q=", "counts?q=is:dead%20"]
)
async def test_a_filter_that_cannot_be_read_says_where(served: Served, path: str) -> None:
    answer = await served.ask(f"/api/v1/{path}page:x%20pgae:y")

    assert "pgae" in problem(answer, 400)
    assert answer.json()["column"] == (8 if "dead" not in path else 16)


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "9" * 20, "%C2%B2"])
@pytest.mark.parametrize("name", ["cursor", "limit"])
async def test_a_number_that_is_none_is_refused(served: Served, name: str, number: str) -> None:
    problem(await served.ask(f"/api/v1/hits?{name}={number}"), 400)


async def test_a_wait_ends_when_the_hits_are_there(served: Served) -> None:
    """What a test of an app asks for: send, then wait for what should have come."""
    waiting = asyncio.create_task(served.ask("/api/v1/hits/wait?q=page:p*&count=2&timeout=10"))
    await served.hits(range(2))

    found = (await waiting).json()

    assert found["met"]
    assert [row["title"] for row in found["hits"]] == ["p1", "p0"]


async def test_a_wait_ends_with_its_time(served: Served) -> None:
    """And says what there was, and that it was not enough."""
    await served.hits(range(1))

    found = (await served.ask("/api/v1/hits/wait?count=2&timeout=0.1")).json()

    assert not found["met"]
    assert len(found["hits"]) == 1


async def test_a_wait_ends_with_the_daemon(served: Served) -> None:
    """Whoever waits for hits must not keep a stop waiting; and is told that they did not come."""
    waiting = asyncio.create_task(served.ask("/api/v1/hits/wait?timeout=10"))
    await served.until(lambda _: True)
    began = asyncio.get_running_loop().time()

    await served.stop()

    assert not (await waiting).json()["met"]
    assert asyncio.get_running_loop().time() - began < 5


@pytest.mark.parametrize("length", ["-1", "x", "1e9", "nan", "inf"])
async def test_a_wait_of_no_sensible_length_is_refused(served: Served, length: str) -> None:
    problem(await served.ask(f"/api/v1/hits/wait?timeout={length}"), 400)


@pytest.mark.parametrize("path", ["/api/v1/hits/requeue", "/api/v1/dead/requeue"])
@pytest.mark.parametrize("how", ["all", "q", "ids"])
async def test_what_is_requeued_leaves_in_the_order_of_its_visitor(
    serve: Serve, adobe: FakeCollector, path: str, how: str
) -> None:
    """The search finds the newest first, and a person may name them in any order."""
    adobe.when(b"refuse", fake.status(404))
    served = await serve(adobe, {"suites.timestamps": "optional"})
    await served.hits(range(5), suite="refuse")
    await served.until(lambda status: status["dead"] == 5)
    adobe.heal()
    chosen = {"all": {"all": True}, "q": {"q": "suite:refuse"}, "ids": {"ids": [5, 3, 1, 2, 4]}}

    asked = await served.tell(path, chosen[how])

    if (path, how) == ("/api/v1/dead/requeue", "q"):
        problem(asked, 400)
        return
    await served.until(lambda status: status["delivered"] == 5)
    names = [hit.param(b"pageName") for hit in adobe.received[5:]]
    assert names == [b"p0", b"p1", b"p2", b"p3", b"p4"]


async def test_dead_letters_are_requeued_by_what_they_are(
    bereaved: Served, adobe: FakeCollector
) -> None:
    adobe.heal()

    asked = await bereaved.tell("/api/v1/hits/requeue", {"q": "suite:gone"})

    assert asked.json() == {"requeued": 1}
    await bereaved.until(lambda status: (status["delivered"], status["dead"]) == (1, 2))


async def test_a_filter_cannot_discard_more_than_the_person_saw(bereaved: Served) -> None:
    refused = await bereaved.tell("/api/v1/hits/discard", {"q": "suite:buried", "expect_count": 3})
    assert "2" in problem(refused, 409)
    problem(await bereaved.tell("/api/v1/hits/discard", {"q": "suite:buried"}), 409)

    done = await bereaved.tell("/api/v1/hits/discard", {"q": "suite:buried", "expect_count": 2})

    assert done.json() == {"discarded": 2}
    assert (await bereaved.status())["balanced"]


@pytest.mark.parametrize(
    "body", [{}, {"q": 1}, {"q": "is:dead", "all": True}, {"q": "is:dead", "ids": [1]}, {"x": 1}]
)
async def test_a_decision_about_nothing_in_particular_is_refused(
    bereaved: Served, body: dict[str, object]
) -> None:
    problem(await bereaved.tell("/api/v1/hits/requeue", body), 400)
    problem(await bereaved.tell("/api/v1/hits/discard", body), 400)
    assert (await bereaved.status())["dead"] == 3


async def test_only_dead_letters_can_be_discarded(served: Served) -> None:
    """A waiting hit is the daemon's to deliver, whatever a filter says."""
    await served.hits(range(3))

    done = await served.tell("/api/v1/hits/discard", {"q": "page:p*", "expect_count": 0})

    assert done.json() == {"discarded": 0}
    assert (await served.status())["waiting"] == 3


async def test_dead_letters_are_grouped(bereaved: Served) -> None:
    groups = (await bereaved.ask("/api/v1/dead/groups")).json()["groups"]

    assert [(group["status"], group["hits"], group["suites"]) for group in groups] == [
        (404, 2, ["buried"]),
        (410, 1, ["gone"]),
    ]


async def test_the_numbers_of_suites_are_whole_and_kept_a_moment(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that asks each second does not have every hit counted each second."""
    await queue.add([new_hit(number) for number in range(1_200)])
    monkeypatch.setattr(reading_module, "KEEP_S", 60.0)
    reading = Reading(queue, [], lambda: Suites({}))
    try:
        first = json.loads(await reading.suites())
        await queue.add([new_hit(1_200)])
        again = json.loads(await reading.suites())
    finally:
        await reading.close()

    assert first["complete"]
    assert first["suites"][0]["waiting"] == 1_200
    assert again == first


async def test_suites_have_their_numbers(bereaved: Served) -> None:
    suites = (await bereaved.ask("/api/v1/suites")).json()["suites"]

    assert {suite["suite"]: suite["dead"] for suite in suites} == {"buried": 2, "gone": 1}
    assert {suite["timestamps"] for suite in suites} == {"optional"}


# -- taking along ----------------------------------------------------------------------------------

HOSTILE = (
    "/b/ss/examplersid/1/x/s1?AQB=1&pageName=%3Dcmd%7C%27%2FC%20calc%27%21A0"
    "&v1=%3C%2Fscript%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E&c1=%22%2C%0A%00&g=%27%3B%20rm%20-rf&AQE=1"
)


async def test_an_export_brought_back_is_the_same_hits(serve: Serve) -> None:
    """Lossless: what Adobe would get of the copy is what it would get of the original."""
    served = await serve()
    await served.hits(range(5))
    await served.send(HOSTILE)
    exported = await served.ask("/api/v1/hits.ndjson?unredacted=1")
    assert exported.headers["Content-Type"] == "application/x-ndjson"
    before = [json.loads(line) for line in exported.body.splitlines()]
    await served.tell("/api/v1/reset", {})

    done = await served.ask(
        "/api/v1/hits/import", "POST", {"Content-Type": "application/x-ndjson"}, exported.body
    )

    assert done.json() == {"imported": 6, "refused": 0, "faults": []}
    again = await served.ask("/api/v1/hits.ndjson?unredacted=1")
    after = [json.loads(line) for line in again.body.splitlines()]
    same = ("method", "target", "headers", "body", "received_ms", "title")
    assert [[row[name] for name in same] for row in reversed(after)] == [
        [row[name] for name in same] for row in before
    ]


async def test_what_is_brought_is_judged_as_what_is_sent(serve: Serve) -> None:
    """Line by line: a hit is stored, anything else is refused with its line, and counted."""
    served = await serve(
        None, {"suites.unlisted": "refuse", "suites.known.listed.timestamps": "required"}
    )
    lines = [
        {"target": hit(1, "listed")},
        {"target": hit(2, "stranger")},
        {"target": "/index.html"},
        {"target": "/b/ss/listed/1/x/s1 HTTP/1.1\r\nX: y"},
        {"target": 5},
        [],
        {"target": hit(3, "listed"), "received_ms": "yesterday"},
        {"target": hit(4, "listed"), "received_ms": 1_700_000_000_000},
        {"target": hit(5, "listed"), "received_ms": float("inf")},
        {"target": hit(6, "listed"), "received_ms": -1},
    ]
    body = "\n".join(["{", "", *map(json.dumps, lines)]).encode()

    done = await served.ask(
        "/api/v1/hits/import", "POST", {"Content-Type": "application/x-ndjson"}, body
    )

    found = done.json()
    assert (found["imported"], found["refused"]) == (2, 9)
    assert [fault["line"] for fault in found["faults"]] == [1, 4, 5, 6, 7, 8, 9, 11, 12]
    status = await served.status()
    assert (status["accepted"], status["balanced"]) == (2, True)
    assert status["refused_by_reason"]["unlisted"] == 1
    rows = (await served.ask("/api/v1/hits")).json()["hits"]
    assert rows[0]["received_ms"] == 1_700_000_000_000


async def test_a_hit_whose_time_was_lost_is_brought_back_as_of_now(serve: Serve) -> None:
    """A salvaged letter is exported with a time of 0, and not sent as of 1970."""
    served = await serve()
    line = json.dumps({"target": hit(1), "received_ms": 0}).encode()
    await served.ask("/api/v1/hits/import", "POST", {"Content-Type": "application/x-ndjson"}, line)
    (row,) = (await served.ask("/api/v1/hits")).json()["hits"]

    assert time.time() - row["received_ms"] / 1000 < 60


async def test_an_import_stops_where_the_queue_is_full(serve: Serve) -> None:
    """What was stored stays, and the answer says how far it came."""
    served = await serve(None, {"queue.max_hits": 2})
    body = "\n".join(json.dumps({"target": hit(number)}) for number in range(5)).encode()

    done = await served.ask(
        "/api/v1/hits/import", "POST", {"Content-Type": "application/x-ndjson"}, body
    )

    assert "line 3" in problem(done, 503)
    assert done.json()["imported"] == 2


async def test_a_form_cannot_bring_hits(served: Served) -> None:
    """A page of another site can post these types without being asked first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        refused = await served.ask(
            "/api/v1/hits/import", "POST", {"Content-Type": kind}, b'{"target": "/b/ss/a/1/x"}'
        )
        problem(refused, 415)


async def test_a_spreadsheet_gets_no_formula(served: Served) -> None:
    """Whoever may send a hit may not for that reason run anything where it is looked at."""
    await served.send(HOSTILE)

    exported = await served.ask("/api/v1/hits.csv")

    assert exported.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.reader(io.StringIO(exported.body.decode(), newline="")))
    assert len(rows) == 2
    assert not [cell for cell in rows[1] if cell.startswith(("=", "+", "-", "@"))]
    assert "'=cmd" in str(rows[1])


async def test_an_archive_is_whole_json(served: Served) -> None:
    await served.hits(range(2))
    await served.send(HOSTILE)

    exported = await served.ask("/api/v1/hits.har")

    entries = exported.json()["log"]["entries"]
    assert len(entries) == 3
    assert exported.headers["Content-Type"].startswith("application/json")
    assert exported.headers["X-Content-Type-Options"] == "nosniff"
    assert "attachment" in exported.headers["Content-Disposition"]


@pytest.mark.parametrize("kind", ["ndjson", "csv", "har"])
async def test_an_export_is_what_the_filter_means(served: Served, kind: str) -> None:
    await served.hits(range(12))

    exported = await served.ask(f"/api/v1/hits.{kind}?q=page:p1*")

    assert exported.body.count(b"pageName=p1") + exported.body.count(b'"p1') >= 3
    assert b"p2" not in exported.body
    problem(await served.ask(f"/api/v1/hits.{kind}?q=nonsense:1"), 400)


class Breaking:
    """A reading that fails after its first piece."""

    async def export(
        self, _kind: str, _q: str, cursor: int | None, **_: bool
    ) -> tuple[bytes, int | None]:
        if cursor is not None:
            raise QueueUnavailable("the disk is gone")
        return b"first", 7


@pytest.mark.parametrize("kind", ["ndjson", "csv", "har"])
async def test_half_an_export_does_not_look_whole(kind: str) -> None:
    """It breaks off without its end, which every client reports."""
    admin = Admin(Broken(), [Hits(Breaking())])  # type: ignore[arg-type]  # as much as is asked for
    host, port = await admin.start("127.0.0.1", 0, (), None)
    try:
        with pytest.raises(aiohttp.ClientPayloadError):
            await Reached(beacons="", admin=f"{host}:{port}").ask(f"/api/v1/hits.{kind}")
    finally:
        await admin.close()


async def test_a_hit_can_be_had_as_text(served: Served) -> None:
    await served.send(HOSTILE)

    raw = await served.ask("/api/v1/hits/1/raw")
    curl = await served.ask("/api/v1/hits/1/curl")

    assert raw.headers["Content-Type"].startswith("text/plain")
    assert raw.body.startswith(b"GET " + HOSTILE.encode() + b" HTTP/1.1\r\n")
    assert curl.body.startswith(b"curl ")
    assert b"/b/ss/examplersid/1/x/s1" in curl.body
    problem(await served.ask("/api/v1/hits/9/raw"), 404)
    problem(await served.ask("/api/v1/hits/9/curl"), 404)


# -- giving ----------------------------------------------------------------------------------------


async def test_a_test_hit_is_a_hit(served: Served) -> None:
    """Stored as an app's would be, and shown at once."""
    row = (await served.tell("/api/v1/test-hit", {"suite": "mine"})).json()

    assert (row["suites"], row["state"], row["title"]) == (["mine"], "waiting", "trackoffline test")
    assert (await served.status())["accepted"] == 1


async def test_a_test_hit_needs_a_suite_when_there_are_several(serve: Serve) -> None:
    served = await serve(
        None, {"suites.known.a.timestamps": "required", "suites.known.b.timestamps": "required"}
    )

    problem(await served.tell("/api/v1/test-hit"), 400)
    assert (await served.tell("/api/v1/test-hit", {"suite": "a"})).status == 200


@pytest.mark.parametrize(
    "suite", ["", "a/b", "a?b", "a b", "a#b", "..", "é", "a\r\nb", 5, None, []]
)
async def test_a_test_hit_for_no_suite_is_refused(served: Served, suite: object) -> None:
    problem(await served.tell("/api/v1/test-hit", {"suite": suite}), 400)
    assert (await served.status())["accepted"] == 0


async def test_a_reset_leaves_nothing_and_the_account_balances(served: Served) -> None:
    """What tests of an app begin with; everything given up is counted."""
    await served.hits(range(7))

    done = await served.tell("/api/v1/reset", {})

    assert done.json() == {"discarded": 7}
    status = await served.status()
    assert (status["waiting"], status["discarded"], status["balanced"]) == (0, 7, True)
    assert (await served.ask("/api/v1/hits")).json()["hits"] == []


async def test_a_reset_ends_while_hits_come_and_takes_none_of_those(queue: Queue) -> None:
    """They are the first of the test that is about to begin."""
    incoming = Incoming(queue, lambda: Suites({}), list, is_capture=True)
    await queue.add([new_hit(number) for number in range(1_200)])

    async def go_on() -> None:
        while True:
            await queue.add([new_hit(0)])

    coming = asyncio.create_task(go_on())
    async with asyncio.timeout(20):
        assert await incoming.reset() == 1_200
    coming.cancel()
    assert queue.ledger.discarded == 1_200
    assert queue.ledger.waiting > 0
    assert queue.ledger.balanced


async def test_there_is_no_reset_where_hits_are_sent(serve: Serve, adobe: FakeCollector) -> None:
    """Nothing that is on its way to Adobe is given up by a single call."""
    await adobe.cut()
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(1))

    problem(await served.tell("/api/v1/reset", {}), 409)
    assert (await served.status())["waiting"] == 1


# -- about -----------------------------------------------------------------------------------------


async def test_the_rules_are_told_with_their_pages(served: Served) -> None:
    rules = (await served.ask("/api/v1/rules")).json()["rules"]

    assert {rule["id"] for rule in rules} == {rule.id for rule in RULES}
    assert all(rule["doc"].startswith("https://") for rule in rules)


async def test_the_configuration_is_told_with_who_set_it(served: Served) -> None:
    found = (await served.ask("/api/v1/config")).json()

    assert found["source"].endswith("config.toml")
    assert found["values"]["queue"]["max_hits"] == {"value": 1_000_000, "from": "default"}
    assert found["values"]["listen"]["address"] == {"value": "127.0.0.1:0", "from": "file"}


async def test_the_token_is_not_told(guarded: Served) -> None:
    """Where it lies is; what it says is not."""
    answer = await guarded.ask("/api/v1/config", headers={"Authorization": f"Bearer {SECRET}"})

    assert answer.status == 200
    assert SECRET.encode() not in answer.body


async def test_health_is_a_line_for_each_thing(bereaved: Served) -> None:
    checks = (await bereaved.ask("/api/v1/health")).json()["checks"]

    states = {check["name"]: check["state"] for check in checks}
    text = next(check["text"] for check in checks if check["name"] == "storage")
    assert re.search(r"0 hits wait in /\S+hits.db, \d+\.\d KB and a log of ", text)
    assert states["storage"] == "ok"
    assert states["dead letters"] == "warn"
    assert states["upstream"] == "ok"
    assert "clock" not in states, "it answered without a Date"


@pytest.mark.parametrize(
    "skew_s, state, said",
    [
        (0.4, "ok", "+0.4 s against the collection server"),
        (-61.2, "warn", "-61.2 s against the collection server: hits get wrong times"),
    ],
)
async def test_a_wrong_clock_is_a_line_of_health(
    served: Served, skew_s: float, state: str, said: str
) -> None:
    """Whatever it stamps is wrong for good."""
    status = await served.status() | {"clock_skew_seconds": skew_s}
    (clock,) = (one for one in health.checks(status, Suites({})) if one.name == "clock")

    assert (clock.state, clock.text) == (state, said)


async def test_on_a_busy_machine_the_rest_of_a_search_waits_and_a_first_answer_does_not(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what a person decides; and nobody waits for ever."""
    await queue.add([new_hit(number) for number in range(3)])
    reading = Reading(queue, [], lambda: Suites({}), worked_s=time.monotonic)
    await reading.hits("", None, 10)  # the reader has started
    reading._ration.spend(BURST_S + OVERDRAFT_S / 2)
    try:
        first = json.loads(await reading.hits("", None, 2))
        assert [row["id"] for row in first["hits"]] == [3, 2]
        assert await reading.dead("") == []

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await reading.hits("", int(first["cursor"]), 2)

        monkeypatch.setattr(reading_module, "MOST_WAIT_S", 0.0)
        rest = json.loads(await reading.hits("", int(first["cursor"]), 2))
        assert [row["id"] for row in rest["hits"]] == [1]
    finally:
        await reading.close()
