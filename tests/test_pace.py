"""The pace against simulated servers: no clock, no sleep, hundreds of seconds in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.pace import FORGOTTEN, Pace

Taken = Callable[[float], bool]


def everything(now: float) -> bool:
    """A server without a limit."""
    return True


def bucket(rate: float, burst: float) -> Taken:
    """A server with a token bucket."""
    tokens, at = burst, 0.0

    def take(now: float) -> bool:
        nonlocal tokens, at
        tokens = min(burst, tokens + (now - at) * rate)
        at = now
        if tokens < 1:
            return False
        tokens -= 1
        return True

    return take


def windows(rate: float, phase: float) -> Taken:
    """A server that counts by the second."""
    second, count = -1, 0

    def take(now: float) -> bool:
        nonlocal second, count
        if int(now + phase) != second:
            second, count = int(now + phase), 0
        count += 1
        return count <= rate

    return take


@dataclass
class Run:
    sends: list[float] = field(default_factory=list)
    deliveries: list[float] = field(default_factory=list)
    early: list[float] = field(default_factory=list)


def drain(
    pace: Pace,
    taken: Taken,
    until: float,
    *,
    after_s: float | None = 1.0,
    rtt: float = 0.02,
    window: int = 64,
) -> Run:
    """Send an endless backlog through `pace` to a server that answers after `rtt`."""
    run = Run()
    now = 0.0
    closed_until = -inf
    flying: list[tuple[float, float, bool]] = []
    while now < until:
        while len(flying) < window and pace.next_at(now) <= now:
            pace.sent(now)
            run.sends.append(now)
            if now < closed_until:
                run.early.append(now)
            heappush(flying, (now + rtt, now, taken(now + rtt / 2)))
        now = min(
            flying[0][0] if flying else inf, pace.next_at(now) if len(flying) < window else inf
        )
        while flying and flying[0][0] <= now:
            _, began, ok = heappop(flying)
            if ok:
                pace.delivered(now)
                run.deliveries.append(now)
            else:
                pace.pushed_back(now, after_s, began)
                closed_until = max(closed_until, now + (after_s or 0.0))
    return run


def between(instants: list[float], start: float, end: float) -> int:
    return sum(start <= at < end for at in instants)


@pytest.mark.parametrize("after_s", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("rtt", [0.02, 0.2])
@pytest.mark.parametrize(
    "server",
    [
        pytest.param(lambda: bucket(50, 50), id="token bucket"),
        pytest.param(lambda: windows(50, 0.3), id="windows of a second"),
        pytest.param(lambda: windows(50, 0.97), id="windows, met at their end"),
    ],
)
def test_a_server_that_takes_fifty_a_second_gets_just_that(
    server: Callable[[], Taken], rtt: float, after_s: float
) -> None:
    """From 10 s on at most 110 % of the limit is sent and at least 85 % of it delivered."""
    run = drain(Pace(), server(), 310, after_s=after_s, rtt=rtt)
    assert run.early == []
    for start in range(10, 300, 10):
        assert between(run.sends, start, start + 10) <= 1.1 * 50 * 10
    for start in range(10, 250, 10):
        assert between(run.deliveries, start, start + 60) >= 0.85 * 50 * 60


def test_without_push_back_nothing_holds_a_hit() -> None:
    """The window alone bounds the rate: 64 in 20 ms."""
    run = drain(Pace(), everything, 2)
    assert len(run.deliveries) >= 0.98 * 2 * 64 / 0.02
    assert Pace().limit(0) is None


@pytest.mark.parametrize("rate", [0.5, 10.0, 400.0])
def test_the_configured_rate_is_kept_to_the_hit(rate: float) -> None:
    """Evenly spaced, not in bursts."""
    run = drain(Pace(rate), everything, 60)
    assert between(run.sends, 0, 60) == pytest.approx(60 * rate, abs=2 + 0.05 * rate)
    assert between(run.sends, 10, 11) <= rate * 1.05 + 2


def test_a_learned_rate_never_exceeds_the_configured_one() -> None:
    """The smaller of the two wins."""
    run = drain(Pace(20), bucket(50, 50), 60)
    assert between(run.sends, 0, 60) <= 20 * 60 + 2
    run = drain(Pace(400), bucket(50, 50), 60)
    assert between(run.sends, 10, 60) <= 1.1 * 50 * 50


def test_a_rate_that_grows_back_stops_at_the_configured_one() -> None:
    """However long no push-back comes."""
    run = drain(Pace(20), lambda now: not 5 < now < 6, 60)
    assert 0.9 * 20 * 50 <= between(run.sends, 10, 60) <= 20 * 50 + 2


def test_idle_time_saves_up_no_burst() -> None:
    """After an hour of nothing the configured rate still holds."""
    pace = Pace(10)
    pace.sent(0)
    sent = 0
    while pace.next_at(3600) <= 3600:
        pace.sent(3600)
        sent += 1
    assert sent <= 2


def test_after_a_pause_one_hit_goes_alone() -> None:
    """A server that takes nothing gets one send a Retry-After, not a volley."""
    run = drain(Pace(), lambda now: now < 5, 65, after_s=1.0)
    assert between(run.sends, 6, 65) <= 59 / 1.0


def test_a_server_that_pushes_back_for_long_is_asked_less_often() -> None:
    """Beyond its Retry-After we wait longer of our own accord, 15 s at most."""
    run = drain(Pace(), lambda _: False, 300, after_s=0.0)
    late = [at for at in run.sends if at > 100]
    gaps = [b - a for a, b in pairwise(late)]
    assert all(15 <= gap <= 16 for gap in gaps)
    assert len(gaps) >= 10


def test_a_maintenance_does_not_slow_the_backlog_for_long() -> None:
    """What little traffic taught is a guess: 20 s after the push-back's end nothing holds."""
    pace = Pace()
    for second in range(100):  # a hit every second, then a 503 with Retry-After: 120
        pace.sent(second)
        pace.delivered(second + 0.02)
    pace.sent(100)
    pace.pushed_back(100.02, 120.0, 100)
    now = pace.next_at(101)
    assert now == pytest.approx(220.02)
    while now < 240:
        pace.sent(now)
        pace.delivered(now + 0.001)
        now = pace.next_at(now + 0.001)
    assert (pace.limit(now) or inf) > 100


def test_stray_push_backs_at_little_traffic_teach_no_limit() -> None:
    """Twelve hits a second and a 429 now and then: a backlog is soon as fast as ever."""
    pace = Pace()
    now = 0.0
    for stray in (40.0, 50.0, 60.0):
        while now < stray:
            now = max(now + 1 / 12, pace.next_at(now))
            pace.sent(now)
            pace.delivered(now + 0.02)
        pace.sent(now)
        pace.pushed_back(now + 0.02, 1.0, now)
    end = pace.next_at(now) + 20
    while now < end:
        now = pace.next_at(now + 0.001)
        pace.sent(now)
        pace.delivered(now + 0.001)
    assert (pace.limit(now) or inf) > 100


def test_a_server_that_refuses_everything_is_asked_ever_more_rarely() -> None:
    """Twenty refusals at the hits' own cost, then one hit every 15 s; a delivery ends it."""
    pace = Pace()
    now, sent = 0.0, []
    while now < 600:
        now = pace.next_at(now)
        pace.sent(now)
        sent.append(now)
        now += 0.02
        pace.refused(now)
    assert between(sent, 0, 1) >= 20
    assert len(sent) <= 20 + 600 / 15 + 6
    assert pace.next_at(now) == pytest.approx(now + 15)
    pace.delivered(now)
    assert pace.next_at(now) == now


def test_a_person_need_not_wait_for_a_retry_after() -> None:
    """One hit goes at once and alone; if it is pushed back, the server's pause holds again."""
    pace = Pace()
    pace.sent(0)
    pace.pushed_back(0.02, 7_200, 0)
    assert pace.pause(1) == pytest.approx(7_199.02)
    pace.retry_now(1)
    assert pace.pause(1) == 0
    assert pace.next_at(1) == 1
    pace.sent(1)
    assert pace.next_at(1) == pytest.approx(2)
    pace.pushed_back(1.02, 7_200, 1)
    assert pace.next_at(2) == pytest.approx(7_201.02)


def test_a_new_rate_holds_from_its_first_moment() -> None:
    """Nobody waits out a minute that the old one asked for."""
    pace = Pace(0.02)
    pace.sent(0)
    assert pace.next_at(1) == pytest.approx(49.95)
    pace.configure(0, 1)
    assert pace.next_at(1) == 1


def test_refusals_between_deliveries_slow_nothing() -> None:
    """They are the hits' own matter, however many."""
    pace = Pace()
    for number in range(1_000):
        assert pace.next_at(number * 0.01) == number * 0.01
        pace.sent(number * 0.01)
        if number % 20:
            pace.refused(number * 0.01)
        else:
            pace.delivered(number * 0.01)


def test_a_limit_is_forgotten_when_no_push_back_comes() -> None:
    """From a confirmed limit back to unlimited within minutes."""
    pace = Pace()
    drain(pace, bucket(50, 50), 120)
    limit = pace.limit(121)
    assert limit is not None
    assert 40 < limit < 60
    assert pace.limit(121 + 900) is None


def test_a_server_that_takes_ten_times_more_is_found_out() -> None:
    """The learned limit does not last: a wider road is used within minutes."""
    slow, fast = bucket(50, 50), bucket(500, 500)
    run = drain(Pace(), lambda now: slow(now) if now < 100 else fast(now), 400)
    assert between(run.deliveries, 340, 400) >= 0.85 * 500 * 60


def test_the_old_sends_push_backs_lower_the_rate_once() -> None:
    """Sixty answers to one burst are one push-back."""
    one, many = Pace(), Pace()
    for pace, answers in ((one, 1), (many, 60)):
        for k in range(100):
            pace.sent(k * 0.01)
            pace.delivered(k * 0.01 + 0.02)
        for _ in range(answers):
            pace.pushed_back(1.1, 1.0, 1.0)
    assert one.limit(10) == many.limit(10)


# An event: what happens, how long after the one before, and a Retry-After.
events = st.lists(
    st.tuples(
        st.sampled_from(["send", "deliver", "push"]),
        st.floats(0, 30),
        st.none() | st.floats(0, 100),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(events, st.sampled_from([0.0, 0.1, 5.0, 1000.0]))
def test_no_hit_goes_before_retry_after_ends_nor_waits_for_ever(
    script: list[tuple[str, float, float | None]], rate: float
) -> None:
    """Whatever happens in whatever order; and a limit is a positive number."""
    pace = Pace(rate)
    now = closed_until = 0.0
    for what, wait, after_s in script:
        now += wait
        if what == "send":
            now = max(now, pace.next_at(now))
            assert now >= closed_until
            pace.sent(now)
        elif what == "deliver":
            pace.delivered(now)
        else:
            pace.pushed_back(now, after_s, now - wait)
            closed_until = max(closed_until, now + (1.0 if after_s is None else after_s))
        assert pace.next_at(now) >= now
        assert pace.next_at(now) <= max(now + 16, closed_until) + 11
        limit = pace.limit(now)
        assert limit is None or 0 < limit <= max(rate, FORGOTTEN)
