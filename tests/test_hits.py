"""Claims about the hits' routes: what a page, a script and a person get to see."""

from __future__ import annotations

import asyncio

import pytest
from daemon import Serve, Served, hit
from test_admin import OPTIONAL, bereaved, problem

from proxy.fake import FakeCollector

__all__ = ["bereaved"]  # a fixture that lives in `test_admin`


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


@pytest.mark.parametrize("length", ["-1", "x", "1e9", "nan", "inf"])
async def test_a_wait_of_no_sensible_length_is_refused(served: Served, length: str) -> None:
    problem(await served.ask(f"/api/v1/hits/wait?timeout={length}"), 400)


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


async def test_suites_have_their_numbers(bereaved: Served) -> None:
    suites = (await bereaved.ask("/api/v1/suites")).json()["suites"]

    assert {suite["suite"]: suite["dead"] for suite in suites} == {"buried": 2, "gone": 1}
    assert {suite["timestamps"] for suite in suites} == {"optional"}
