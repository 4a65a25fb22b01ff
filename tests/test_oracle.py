"""The oracle finds each wrong it is there to find, and none where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from oracle import Promises, Rows, Verdict, named

from proxy.core.hit import Request
from proxy.fake import Received, captive_portal, reset_peer

NOW = 1_800_000_000
NAMES = [named(1, 0, n) for n in range(3)]
HEADERS = ((b"User-Agent", b"it"), (b"Cookie", b"s_fid=1-2"))


def sent(name: str) -> Request:
    return Request(
        "GET", b"/b/ss/examplersid/1?AQB=1&c.&ts=9&.c&pageName=" + name.encode(), HEADERS
    )


def got(name: str, ts: int = NOW) -> Received:
    """The hit as the collection server gets it."""
    target = sent(name).target.replace(b"AQB=1&", b"AQB=1&ts=%d&" % ts)
    headers = ((b"Host", b"adobe"), *HEADERS)
    return Received(1, 1, 0.0, "GET", target, b"HTTP/1.1", headers, b"", status=200, over=True)


def promised() -> Promises:
    promises = Promises()
    for name in NAMES:
        promises.obligation(name, "visitor", "examplersid", sent(name), NOW, NOW)
    return promises


def status(**counts: int) -> dict[str, int]:
    """A daemon's counts; three hits delivered without other word."""
    names = ("waiting", "dead", "expired", "discarded", "ambiguous")
    return {"accepted": 3, "delivered": 3, "balanced": 1, **dict.fromkeys(names, 0), **counts}


def judged(received: list[Received], rows: Rows = Rows(), **counts: int) -> Verdict:  # noqa: B008
    return promised().judge(received, rows, status(**counts))


def test_all_is_well_when_each_hit_came_once_in_order_and_stamped() -> None:
    verdict = judged([got(name) for name in NAMES])

    assert verdict.ok, verdict
    assert verdict.taken == 3
    assert not verdict.extra


def test_a_hit_that_is_nowhere_is_lost_unless_a_limit_counted_it() -> None:
    received = [got(name) for name in NAMES[:2]]

    assert judged(received).lost == [NAMES[2]]
    assert judged(received, delivered=2, expired=1).ok


@pytest.mark.parametrize("state", ["waiting", "dead"])
def test_a_hit_that_waits_or_is_a_dead_letter_is_not_lost(state: str) -> None:
    rows = Rows()
    getattr(rows, state)[NAMES[2]] = 1
    counts = status(delivered=2, **{state: 1})

    verdict = promised().judge([got(name) for name in NAMES[:2]], rows, counts)

    assert verdict.ok, verdict


def test_a_delivered_row_without_an_arrival_is_a_loss() -> None:
    rows = Rows(delivered=Counter(NAMES))

    assert judged([got(name) for name in NAMES[:2]], rows).lost == [NAMES[2]]


def test_what_was_refused_or_met_a_portal_was_not_taken_and_what_was_cut_off_was() -> None:
    refused = replace(got(NAMES[0]), status=503)
    portal = replace(got(NAMES[0]), fault=captive_portal())
    cut = replace(got(NAMES[0]), status=None, fault=reset_peer())
    rest = [got(name) for name in NAMES[1:]]

    assert judged([refused, *rest]).lost == [NAMES[0]]
    assert judged([portal, *rest]).lost == [NAMES[0]]
    assert judged([cut, *rest]).ok


def test_a_double_is_no_wrong_only_if_marked_and_called_ambiguous() -> None:
    received = [got(NAMES[0]), *(got(name) for name in NAMES)]
    here = Rows(delivered=Counter(NAMES))

    assert judged(received, here, ambiguous=1).unmarked == [NAMES[0]]
    assert judged(received, replace(here, marked=frozenset(NAMES[:1]))).equation
    found = judged(received, replace(here, marked=frozenset(NAMES[:1])), ambiguous=1)
    assert found.ok, found
    assert found.doubled == {NAMES[0]: 2}


def test_order_is_that_of_first_arrivals() -> None:
    late = [got(NAMES[0]), got(NAMES[2]), got(NAMES[1])]
    again = [*(got(name) for name in NAMES), got(NAMES[0])]

    assert judged(late).reordered == [(NAMES[2], NAMES[1])]
    assert not judged(again, ambiguous=1).reordered


@pytest.mark.parametrize(
    "wrong",
    [
        lambda hit: replace(hit, target=hit.target + b"&x=1"),
        lambda hit: replace(hit, target=hit.target.replace(b"c.&ts=9&", b"c.&")),
        lambda hit: replace(hit, method="POST"),
        lambda hit: replace(hit, body=b"x"),
        lambda hit: replace(hit, headers=hit.headers[:-1]),
        lambda hit: replace(hit, headers=(*hit.headers, (b"Via", b"1.1 proxy"))),
    ],
    ids=["more", "less", "method", "body", "header-gone", "header-more"],
)
def test_any_other_byte_is_an_alteration(wrong: Callable[[Received], Received]) -> None:
    verdict = judged([wrong(got(NAMES[0])), *(got(name) for name in NAMES[1:])])

    assert verdict.altered == [NAMES[0]]


@pytest.mark.parametrize(
    "seconds", [(NOW - 2, NOW, NOW), (NOW, NOW, NOW + 2), (NOW + 1, NOW, NOW + 1)]
)
def test_a_stamp_outside_the_receipt_or_one_that_goes_back_is_wrong(
    seconds: tuple[int, int, int],
) -> None:
    verdict = judged([got(name, ts) for name, ts in zip(NAMES, seconds, strict=True)])

    assert len(verdict.wrong_ts) == 1


def test_an_unanswered_hit_may_be_there_or_not() -> None:
    promises = promised()
    extra = named(1, 0, 9)
    promises.unknown(extra, "visitor", "examplersid", sent(extra), NOW)
    received = [got(name) for name in NAMES]

    assert promises.judge(received, Rows(), status()).ok
    assert promises.judge([*received, got(extra)], Rows(), status(accepted=4, delivered=4)).ok
    assert promises.judge(received, Rows(), status(accepted=4, delivered=4)).equation


def test_a_hit_that_was_refused_to_the_client_must_be_nowhere() -> None:
    promises = promised()
    extra = named(1, 0, 9)
    promises.refusal(extra)
    received = [*(got(name) for name in NAMES), got(extra)]

    assert promises.judge(received, Rows(), status(accepted=4, delivered=4)).undead == [extra]


@pytest.mark.parametrize("count", ["accepted", "delivered", "waiting", "dead"])
def test_a_count_of_the_daemon_that_is_off_by_one_is_found(count: str) -> None:
    off = status()
    off[count] += 1

    verdict = promised().judge([got(name) for name in NAMES], Rows(), off)

    assert len(verdict.equation) == 1
