"""What came lately is known, and no more of it than so much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.lately import Lately


@given(st.integers(2, 20), st.lists(st.integers(0, 30), max_size=100))
def test_the_last_half_is_known_with_its_last_value_and_never_more_than_all(
    most: int, keys: list[int]
) -> None:
    lately: Lately[int, int] = Lately(most)
    for at, key in enumerate(keys):
        lately.keep(key, at)
        assert len(lately) <= most
    last = {key: at for at, key in enumerate(keys)}
    newest = sorted(last, key=last.__getitem__)[-(most // 2) :]
    assert all(lately.get(key) == last[key] for key in reversed(newest))
    assert all(lately.get(key) in {None, last[key]} for key in last)


def test_what_is_asked_for_stays() -> None:
    lately: Lately[int, str] = Lately(10)
    lately.keep(-1, "asked for")
    for key in range(1_000):
        lately.keep(key, "new")
        assert lately.get(-1) == "asked for"
    assert lately.get(0) is None
