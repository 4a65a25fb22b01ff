"""Claims about reading hits: one sequence, newest first, bounded, and never at the queue's cost."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from proxy.core import search, wire
from proxy.core.hit import NewHit, Received, ReportSuite, Request, Suites, Timestamps
from proxy.core.search import View
from proxy.shell import browse
from proxy.shell.browse import Browser, Told
from proxy.shell.queue import Queue

HIT = b"/b/ss/examplersid/1/JS-2.27.0/s%013d?AQB=1&fid=%016X-1&pageName=p%d&AQE=1"


def new_hit(number: int, at_ms: int = 1_000_000) -> NewHit:
    request = Request("GET", HIT % (number, number, number), ((b"User-Agent", b"app"),))
    return NewHit(number, Received(1, at_ms), wire.pack(request))


async def filled(queue: Queue, count: int) -> list[int]:
    """So many hits; every fifth each is delivered, held, dead, requeued, or waits."""
    ids = await queue.add([new_hit(number) for number in range(count)])
    for hit in await queue.fetch(ids):
        match hit.id % 5:
            case 0:
                await queue.delivered(hit, 200, 1_700_000_000)
            case 1:
                await queue.hold(hit, ["examplersid"], "its mode is not known")
            case 2 | 3:
                await queue.bury(hit, "refused with 404", 404, 2)
    requeued = [id_ for id_ in ids if id_ % 5 == 3]
    await queue.requeue(requeued)
    return ids


def states(ids: list[int], last: int) -> dict[int, str]:
    """What `filled` made of them, by id; requeued letters have ids of their own."""
    by_rest = {0: "delivered", 1: "held", 2: "dead", 4: "waiting"}
    found = {id_: by_rest[id_ % 5] for id_ in ids if id_ % 5 != 3}
    return found | dict.fromkeys(range(max(ids) + 1, last + 1), "waiting")


def everything(
    path: Path, limit: int = 7, work_s: float = 0.15, q: str = ""
) -> list[dict[str, Any]]:
    """All pages, one after the other."""
    rows: list[dict[str, Any]] = []
    cursor = None
    with Browser(path, work_s=work_s) as browser:
        while True:
            page = browser.hits(q, cursor=cursor, limit=limit)
            rows += page["hits"]
            if page["complete"]:
                assert page["cursor"] is None
                return rows
            cursor = int(page["cursor"])


async def test_all_that_is_kept_is_one_sequence_newest_first(queue: Queue) -> None:
    """Each hit once, in its state, whatever table it lies in and however small the pages."""
    ids = await filled(queue, 40)

    rows = everything(queue.path)

    assert {row["id"]: row["state"] for row in rows} == states(ids, queue.last_id)
    order = [row["id"] for row in rows]
    assert order == sorted(order, reverse=True)


async def test_a_question_without_time_gets_a_row_and_a_cursor(queue: Queue) -> None:
    """However little may be done at once, each answer is a step forward."""
    ids = await filled(queue, 10)

    rows = everything(queue.path, limit=100, work_s=0.0)

    assert {row["id"]: row["state"] for row in rows} == states(ids, queue.last_id)


async def test_a_row_says_what_became_of_the_hit(queue: Queue) -> None:
    await filled(queue, 5)

    with Browser(queue.path) as browser:
        delivered, dead, held = browser.hit(5), browser.hit(2), browser.hit(1)

    assert delivered is not None
    assert delivered["status"] == 200
    assert delivered["delivered_ms"] > 0
    assert delivered["ts_sent"] == 1_700_000_000
    assert dead is not None
    assert (dead["reason"], dead["status"], dead["tries"]) == ("refused with 404", 404, 2)
    assert dead["delivered_ms"] is None
    assert held is not None
    assert held["reason"] == "its mode is not known"


async def test_a_hit_that_left_is_not_found(queue: Queue) -> None:
    await queue.add([new_hit(0)])

    with Browser(queue.path) as browser:
        assert browser.hit(1) is not None
        assert browser.hit(0) is None
        assert browser.hit(2) is None
        assert browser.hit(2**63 - 1) is None


async def test_rows_are_as_many_as_there_is_time_for(queue: Queue) -> None:
    """The newest first, and one at least: large hits must not keep the reader from all else."""
    await queue.add([new_hit(0), new_hit(1), new_hit(2)])

    with Browser(queue.path) as browser:
        assert [row["id"] for row in browser.rows([1, 3, 2])] == [3, 2, 1]
        browser.work_s = 0.0
        assert [row["id"] for row in browser.rows([1, 3, 9, 2])] == [3]


async def test_what_is_in_flight_is_told_by_the_daemon(queue: Queue) -> None:
    await queue.add([new_hit(0), new_hit(1)])

    with Browser(queue.path, Told(sending=frozenset({2}), tries={1: 3})) as browser:
        rows = browser.hits()["hits"]

    assert [(row["id"], row["state"], row["tries"]) for row in rows] == [
        (2, "sending", 0),
        (1, "waiting", 3),
    ]


async def test_counts_are_those_of_the_rows(queue: Queue) -> None:
    ids = await filled(queue, 40)
    expected = list(states(ids, queue.last_id).values())

    with Browser(queue.path) as browser:
        counts = browser.counts()

        assert browser.counts("bytes") == {
            **counts,
            **dict.fromkeys(counts, 0),
            "cursor": None,
            "complete": True,
        }
        assert browser.counts("page:p*") == counts
    assert counts == {
        "total": len(expected),
        "waiting": expected.count("waiting") + expected.count("held"),
        "sending": 0,
        **{name: expected.count(name) for name in ("held", "delivered", "dead")},
        "cursor": None,
        "complete": True,
    }


@pytest.mark.parametrize("damage", [b"", b"no request at all", b"GET \xff"])
async def test_a_damaged_row_is_shown_as_it_stands(queue: Queue, damage: bytes) -> None:
    """What no reader takes for a hit is listed all the same, and harms no other row."""
    await queue.add([new_hit(0), NewHit(1, Received(1, 1), damage), new_hit(2)])

    assert [row["id"] for row in everything(queue.path)] == [3, 2, 1]


async def test_reading_does_not_keep_the_log_from_being_emptied(queue: Queue) -> None:
    """Between two questions no statement is open that a checkpoint would have to wait for."""
    await queue.add([new_hit(number) for number in range(300)])

    with Browser(queue.path, work_s=0.0) as browser:
        assert not browser.hits()["complete"]
        with contextlib.closing(sqlite3.connect(queue.path)) as other:
            (busy, *_) = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    assert busy == 0


QUERIES = (
    "is:dead",
    "state:held",
    "is:delivered",
    "is:waiting",
    "!is:dead",
    "state:waiting|dead page:p1*",
    "page:p7",
    "suite:examplersid !page:p7",
    "reason:404",
    "page:nowhere",
    "rule:N2",
    "before:2000-01-01",
    "is:dead is:waiting",
)


@pytest.mark.parametrize("q", QUERIES)
@pytest.mark.parametrize("limit, work_s", [(100, 10.0), (3, 10.0), (100, 0.0)])
async def test_a_search_finds_what_matches_and_nothing_else(
    queue: Queue, q: str, limit: int, work_s: float
) -> None:
    """Whatever is skipped unread, and wherever a page ends."""
    await filled(queue, 25)
    query = search.parse(q)
    with Browser(queue.path) as browser:
        expected = []
        for id_ in range(queue.last_id, 0, -1):
            kept = browser.find(id_)
            if kept is None:
                continue
            seen = browser.see(kept)
            view = View(
                state=kept.state,
                received_ms=kept.received_ms,
                now_ms=2_000_000_000_000,
                decoded=seen.decoded,
                findings=seen.findings,
                reason=kept.reason or "",
            )
            if search.matches(query, view):
                expected.append(id_)
        counted, cursor = 0, None
        while True:
            counts = browser.counts(q, cursor)
            counted += counts["total"]
            if counts["complete"]:
                break
            cursor = int(counts["cursor"])

    found = [row["id"] for row in everything(queue.path, limit, work_s, q)]
    assert found == expected
    assert counted == len(expected)


async def test_dead_letters_stand_in_groups_with_the_next_step(queue: Queue) -> None:
    await filled(queue, 10)
    (other,) = await queue.add([new_hit(99)])
    (hit,) = await queue.fetch([other])
    await queue.bury(hit, "its suite does not accept timestamps, and the hit is too old", None, 0)

    with Browser(queue.path) as browser:
        found = browser.groups()

    assert found["complete"]
    first, second = found["groups"]
    assert (first["reason"], first["status"], first["hits"]) == ("refused with 404", 404, 2)
    assert first["suites"] == ["examplersid"]
    assert "report suite id" in first["next_step"]
    assert "when_late" in second["next_step"]


async def test_a_suite_s_numbers_are_those_of_its_hits(queue: Queue) -> None:
    """Suites that were configured are there without a hit, others by their hits."""
    await filled(queue, 10)
    known = Suites({"configured": ReportSuite(Timestamps.REQUIRED)})

    with Browser(queue.path, Told(known), work_s=60) as browser:
        configured, other = browser.suites()["suites"]

    assert (configured["suite"], configured["timestamps"]) == ("configured", "required")
    assert configured["listed"]
    assert (other["suite"], other["listed"]) == ("examplersid", False)
    assert (other["dead"], other["waiting"]) == (2, 6)
    assert other["findings"]["N2"] == 10
    assert configured["oldest_ms"] is None
    assert other["oldest_ms"] == queue.boots.wall_ms(Received(1, 1_000_000))


async def test_suites_are_counted_part_by_part(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little time there is at once, each hit is counted, and once."""
    ids = await filled(queue, 20)
    monkeypatch.setattr(browse, "MOST_ROWS", 3)
    parts: list[dict[str, Any]] = []
    with Browser(queue.path, work_s=0.0) as browser:
        cursor = None
        while not parts or not parts[-1]["complete"]:
            parts.append(browser.suites(cursor))
            cursor = parts[-1]["cursor"]

    assert len(parts) > 3
    counted = [suite for part in parts for suite in part["suites"]]
    assert sum(suite["waiting"] + suite["dead"] for suite in counted) == len(ids) - 4
    assert sum(bool(suite["findings"]) for suite in counted) <= 1


async def test_a_sample_of_large_hits_is_a_small_one(queue: Queue) -> None:
    """A few KB on the disk may be a hit that takes long to decode."""
    await filled(queue, 40)

    with Browser(queue.path, work_s=0) as browser:
        (hasty,) = browser.suites()["suites"]
        browser.work_s = 60
        (patient,) = browser.suites()["suites"]

    assert set(hasty["findings"].values()) == {1}
    assert max(patient["findings"].values()) > 30


async def test_strangers_cannot_make_the_table_of_suites_grow(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may send hits may invent suites: beyond some they are counted together."""
    monkeypatch.setattr(browse, "MOST_SUITES", 3)
    for number in range(6):
        target = b"/b/ss/invented%d/1/x/s1?AQB=1&AQE=1" % number
        await queue.add([NewHit(1, Received(1, 1), wire.pack(Request("GET", target)))])

    with Browser(queue.path) as browser:
        found = {suite["suite"]: suite["waiting"] for suite in browser.suites()["suites"]}

    assert len(found) == 4
    assert found["other"] == 3


async def test_headers_that_tell_who_somebody_is_are_hidden(queue: Queue) -> None:
    request = Request("GET", b"/b/ss/a/1/x/s1?AQB=1", ((b"Cookie", b"s_vi=secret"),))
    await queue.add([NewHit(1, Received(1, 1), wire.pack(request))])

    with Browser(queue.path) as browser:
        hidden, shown = browser.hit(1), browser.hit(1, unredacted=True)

    assert hidden is not None
    assert shown is not None
    assert "secret" not in str(hidden["request"])
    assert shown["request"]["headers"] == [["Cookie", "s_vi=secret"]]


async def test_a_hit_is_compared_with_the_one_before_it_of_its_visitor(queue: Queue) -> None:
    """Wherever that one is by now; with another one when that is named."""
    ids = await queue.add(
        [new_hit(1), NewHit(1, Received(1, 2_000_000), new_hit(3).content), new_hit(2)]
    )
    (first, *_) = await queue.fetch(ids)
    await queue.bury(first, "refused with 404", 404, 2)
    with Browser(queue.path) as browser:
        found = browser.compare(2)
        assert found is not None
        assert (found["id"], found["other"]["id"], found["other"]["state"]) == (2, 1, "dead")
        assert [one["name"] for one in found["changes"]] == ["pageName", "fallback visitor ID"]
        assert (found["changes"][0]["before"], found["changes"][0]["after"]) == ("p1", "p3")
        assert found["complete"]

        assert browser.compare(3) == {"id": 3, "other": None, "changes": [], "complete": True}
        named = browser.compare(3, 2)
        assert named is not None
        assert named["other"]["id"] == 2
        assert browser.compare(3, 9) is None
        assert browser.compare(9) is None


async def test_a_comparison_ends_when_its_time_is_up(queue: Queue) -> None:
    """It says that it did not look at everything."""
    await queue.add([new_hit(number) for number in range(browse.MOST_LANES + 3)])
    with Browser(queue.path, work_s=0) as browser:
        found = browser.compare(browse.MOST_LANES + 3)

    assert found == {"id": browse.MOST_LANES + 3, "other": None, "changes": [], "complete": False}


async def test_one_id_is_looked_for_at_its_place(queue: Queue) -> None:
    """However many came after it, and however little time there is."""
    await queue.add([new_hit(number) for number in range(500)])
    with Browser(queue.path, work_s=0) as browser:
        for q, found in (("id:3", [3]), ("id:3 id:4", []), ("id:3 page:p2", [3]), ("id:900", [])):
            page = browser.hits(q)
            rows = [row["id"] for row in page["hits"]]
            cursor = page["cursor"]
            if not page["complete"]:
                rows += [row["id"] for row in browser.hits(q, cursor=int(cursor))["hits"]]
            assert rows == found, q
