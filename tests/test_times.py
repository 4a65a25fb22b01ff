"""A hit's own time, through wrong clocks, corrections, suspends, reboots and restarts."""

from __future__ import annotations

import pytest
from clock import FakeClock
from daemon import Serve, Served, hit

from proxy.fake import FakeCollector

SUITE = {"suites.known.examplersid.timestamps": "required"}
DAY_S = 86_400


def stamps(adobe: FakeCollector) -> dict[int, int]:
    """The `ts` of each hit that arrived, by its number."""
    return {
        int((got.param(b"pageName") or b"p0")[1:]): int(got.param(b"ts") or 0)
        for got in adobe.received
    }


async def one(served: Served, number: int) -> None:
    await served.hits(range(number, number + 1))


async def test_a_boot_in_1970_is_forgiven_once_the_clock_is_set(
    serve: Serve, adobe: FakeCollector
) -> None:
    """Hits taken before the correction carry the second at which they really happened."""
    clock = FakeClock(forward_ms=5_000, unix_ms=5_000)
    await adobe.cut()
    served = await serve(adobe, SUITE, clock=clock)
    await one(served, 1)
    clock.passes(60)
    await one(served, 2)
    clock.passes(40)
    clock.unix_ms = 1_770_000_100_000  # NTP
    await one(served, 3)
    await adobe.restore()
    await adobe.wait_for(3, answered=True)

    assert stamps(adobe) == {1: 1_770_000_000, 2: 1_770_000_060, 3: 1_770_000_100}


async def test_the_correction_survives_a_restart_of_the_machine(
    serve: Serve, adobe: FakeCollector
) -> None:
    """A device without a battery clock is right about the day before yesterday, too."""
    clock = FakeClock(forward_ms=5_000, unix_ms=5_000)
    await adobe.cut()
    served = await serve(adobe, SUITE, clock=clock)
    await one(served, 1)
    clock.passes(100)
    clock.unix_ms = 1_770_000_100_000
    await one(served, 2)
    assert (await served.tell("/api/v1/forwarding/retry")).status == 200
    await served.stop()
    clock.reboots("second boot")
    clock.unix_ms = 1_770_090_000_000
    await adobe.restore()
    served = await serve(adobe, SUITE, clock=clock)
    await one(served, 3)
    await adobe.wait_for(3, answered=True)

    assert stamps(adobe) == {1: 1_770_000_000, 2: 1_770_000_100, 3: 1_770_090_000}


@pytest.mark.parametrize("step_s", [-DAY_S, -3_600, 3_600, DAY_S])
async def test_a_stepped_clock_turns_no_visitors_time_back(
    serve: Serve, adobe: FakeCollector, step_s: int
) -> None:
    """Neither within a run nor over a restart; forward steps are followed at once."""
    clock = FakeClock(unix_ms=1_770_000_000_000)
    served = await serve(adobe, SUITE, clock=clock)
    await one(served, 1)
    await adobe.wait_for(1, answered=True)
    clock.steps(step_s)
    await one(served, 2)
    await adobe.wait_for(2, answered=True)
    await served.until(lambda status: status["waiting"] == 0)
    await served.stop()
    served = await serve(adobe, SUITE, clock=clock)
    clock.passes(10)
    await one(served, 3)
    await adobe.wait_for(3, answered=True)

    found = stamps(adobe)
    later = 1_770_000_000 + max(0, step_s)
    assert found == {1: 1_770_000_000, 2: later, 3: later + (10 if step_s > 0 else 0)}


async def test_another_visitor_is_not_held_to_it(serve: Serve, adobe: FakeCollector) -> None:
    """A clock that was a day ahead leaves nobody in the future who was not there."""
    clock = FakeClock(unix_ms=1_770_000_000_000)
    served = await serve(adobe, SUITE, clock=clock)
    await served.hits(range(2), visitors=2)
    await adobe.wait_for(2, answered=True)
    clock.steps(-DAY_S)
    await served.hits(range(3, 4), visitors=5)
    await adobe.wait_for(3, answered=True)

    assert stamps(adobe)[3] == 1_770_000_000 - DAY_S


async def test_time_asleep_counts_as_time_passed(serve: Serve, adobe: FakeCollector) -> None:
    """The hits before a suspend keep their second, those after it get theirs."""
    clock = FakeClock(unix_ms=1_770_000_000_000)
    await adobe.cut()
    served = await serve(adobe, SUITE, clock=clock)
    await one(served, 1)
    clock.passes(8 * 3_600)
    await one(served, 2)
    await adobe.restore()
    await adobe.wait_for(2, answered=True)

    assert stamps(adobe) == {1: 1_770_000_000, 2: 1_770_000_000 + 8 * 3_600}


async def test_a_wall_clock_that_steps_while_offline_changes_no_age(
    serve: Serve, adobe: FakeCollector
) -> None:
    """Expiry follows the forward-only clock: a day's step must not expire an hour's hits."""
    clock = FakeClock(unix_ms=1_770_000_000_000)
    await adobe.cut()
    served = await serve(adobe, {**SUITE, "queue.max_age": "2h"}, clock=clock)
    await one(served, 1)
    clock.steps(DAY_S)
    clock.passes(60)
    await one(served, 2)
    status = await served.status()
    assert (status["expired"], status["waiting"]) == (0, 2)
    assert 60 <= status["oldest_waiting_seconds"] < 61
    await adobe.restore()
    await adobe.wait_for(2, answered=True)


async def test_an_imported_hit_keeps_its_own_second_whatever_its_visitor_sent_since(
    serve: Serve, adobe: FakeCollector
) -> None:
    """What was exported an hour ago is brought back behind a hit of a minute ago."""
    clock = FakeClock()
    served = await serve(adobe, SUITE, clock=clock)
    clock.passes(3600)
    await one(served, 1)
    await adobe.wait_for(1, answered=True)
    row = {"target": hit(2), "received_ms": 1_700_000_000_000}
    answer = await served.tell("/api/v1/hits/import", row)
    await adobe.wait_for(2, answered=True)
    await one(served, 3)
    await adobe.wait_for(3, answered=True)

    assert answer.json()["imported"] == 1
    assert stamps(adobe) == {1: 1_700_003_600, 2: 1_700_000_000, 3: 1_700_003_600}


async def test_a_clock_that_is_set_moves_no_imported_hit(
    serve: Serve, adobe: FakeCollector
) -> None:
    """Its time is of the machine it was exported from, whose clock was not wrong."""
    clock = FakeClock()
    await adobe.cut()
    served = await serve(adobe, SUITE, clock=clock)
    clock.passes(3600)
    row = {"target": hit(2), "received_ms": 1_700_000_000_000}
    answer = await served.tell("/api/v1/hits/import", row)
    clock.steps(7200)
    await adobe.restore()
    await adobe.wait_for(1, answered=True)

    assert answer.json()["imported"] == 1
    assert stamps(adobe) == {2: 1_700_000_000}


async def test_a_late_hit_requeued_once_its_suite_takes_timestamps_gets_its_own_time(
    serve: Serve, adobe: FakeCollector
) -> None:
    """As the next step of such a dead letter says: nothing is written into the hit."""
    clock = FakeClock()
    received = clock.wall_ms() // 1000
    before = await serve(None, {"suites.timestamps": "not-allowed"}, clock=clock)
    await before.hits(range(1))
    await before.stop()
    clock.passes(3_600)
    late = await serve(adobe, {"suites.timestamps": "not-allowed"}, clock=clock)
    await late.until(lambda status: status["dead"] == 1)
    await late.stop()
    after = await serve(adobe, {"suites.timestamps": "optional"}, clock=clock)

    await after.tell("/api/v1/hits/requeue", {"all": True})

    await after.until(lambda status: status["delivered"] == 1)
    assert stamps(adobe) == {0: received}
