"""Claims about the hits' routes: what a page, a script and a person get to see."""

from __future__ import annotations

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
