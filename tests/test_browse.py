"""Claims about reading hits: one sequence, newest first, bounded, and never at the queue's cost."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from proxy.core import wire
from proxy.core.hit import NewHit, Received, Request
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


def everything(path: Path, limit: int = 7, work_s: float = 0.15) -> list[dict[str, Any]]:
    """All pages, one after the other."""
    rows: list[dict[str, Any]] = []
    cursor = None
    with Browser(path, work_s=work_s) as browser:
        while True:
            page = browser.hits(cursor=cursor, limit=limit)
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

    assert counts == {
        "total": len(expected),
        **{name: expected.count(name) for name in ("waiting", "held", "delivered", "dead")},
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
