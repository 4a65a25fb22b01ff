"""Claims about the chart of a day: nothing that came or went is missing from it."""

from __future__ import annotations

from clock import FakeClock
from conftest import OpenQueue
from daemon import Serve, Served
from hypothesis import given
from hypothesis import strategies as st
from test_admin import problem
from test_browse import new_hit

from proxy.core import series
from proxy.core.series import STEP_S, Point
from proxy.desk import Desk


@given(gaps=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9), st.integers(0, 9))))
def test_what_is_shown_adds_up_to_the_totals(gaps: list[tuple[int, int, int]]) -> None:
    """However many points were never written, the hits between them are in the next one."""
    points = [Point(0, 0, 0, 100, 50, 0)]
    for steps, came, went in gaps:
        last = points[-1]
        at_s = last.at_s + steps * STEP_S
        points.append(Point(at_s, 0, 0, last.accepted + came, last.delivered + went, 0))

    shown = series.shown(points, 0)

    assert sum(point["received"] for point in shown) == points[-1].accepted - 100
    assert sum(point["delivered"] for point in shown) == points[-1].delivered - 50


def test_a_point_is_due_once_a_step() -> None:
    noted, written = -1, []
    for now_s in range(1_000_000, 1_000_000 + 2 * STEP_S, 10):
        due = series.due(now_s, noted)
        if due is not None:
            noted = due
            written.append(due)

    assert written == [999_900, 1_000_200, 1_000_500]


async def test_the_points_of_a_day_are_kept_and_no_more(open_queue: OpenQueue) -> None:
    """Also when the clock was set back: what lies in the future goes."""
    queue = await open_queue()
    for at_s in range(0, 30 * 3600, STEP_S):
        await queue.note_point(at_s, 0)

    points = await queue.series()
    assert len(points) == series.KEPT_S // STEP_S + 1
    assert points[-1].at_s == 30 * 3600 - STEP_S

    await queue.note_point(20 * 3600, 0)
    assert (await queue.series())[-1].at_s == 20 * 3600


async def test_the_chart_survives_a_restart(open_queue: OpenQueue) -> None:
    """What came before it is in the points, what came after in the last one."""
    clock = FakeClock()
    queue = await open_queue(clock=clock)
    desk = Desk(queue, None, None, 0.0, lambda: 0.0)
    await desk.note_point()
    await queue.add([new_hit(number) for number in range(3)])
    clock.passes(STEP_S)
    await desk.note_point()
    await queue.close()

    again = await open_queue(clock=clock)
    await again.add([new_hit(3)])
    clock.passes(STEP_S)
    found = await Desk(again, None, None, 0.0, lambda: 0.0).series(86_400)

    assert [point["received"] for point in found["points"]] == [3, 1]
    assert found["points"][-1]["waiting"] == 4
    assert found["points"][-1]["oldest_s"] >= STEP_S


async def test_the_chart_is_asked_for_by_its_length(served: Served) -> None:
    await served.hits(range(2))

    found = (await served.ask("/api/v1/series?window=1h")).json()

    assert found["step_s"] == STEP_S
    assert found["points"][-1]["waiting"] == 2
    problem(await served.ask("/api/v1/series?window=soon"), 400)


async def test_the_chart_begins_with_the_daemon(serve: Serve) -> None:
    """The first point is noted at the start, so that what comes then is told apart."""
    served = await serve()
    await served.hits(range(2))

    points = (await served.ask("/api/v1/series")).json()["points"]

    assert sum(point["received"] for point in points) == 2
