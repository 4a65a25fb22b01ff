"""Claims about comparing two hits: every difference is told, once, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.compare import changes
from proxy.core.decode import decode
from proxy.core.hit import Request

KEYS = ("pageName", "v12", "c5", "ch", "zzz", "events")


def said(query: str) -> Request:
    return Request("GET", f"/b/ss/a/1/x/s1?AQB=1&{query}&AQE=1".encode())


def found(before: str, after: str) -> list[tuple[str, str | None, str | None]]:
    told = changes(decode(said(before)), decode(said(after)))
    return [(one.field.name, one.before, one.after) for one in told]


def test_what_changed_came_and_went_is_told_in_the_order_of_the_later_hit() -> None:
    assert found("pageName=Home&v12=boots&c5=x", "pageName=Basket&ch=Shop&v12=boots") == [
        ("pageName", "Home", "Basket"),
        ("channel", None, "Shop"),
        ("prop5", "x", None),
    ]


def test_a_short_name_and_a_long_one_are_the_same_variable() -> None:
    assert found("gn=Home&ev=event1", "pageName=Home&events=event1") == []


def test_context_data_is_compared_by_its_whole_name() -> None:
    assert found("c.&a.&b=1&.a&.c", "c.&a.&b=2&.a&.c&c.&b=1&.c") == [
        ("a.b", "1", "2"),
        ("b", None, "1"),
    ]


def test_a_key_that_stands_twice_is_compared_twice() -> None:
    assert found("zzz=1&zzz=2", "zzz=1&zzz=3&zzz=4") == [("zzz", "2", "3"), ("zzz", None, "4")]


FIELDS = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(("", "a", "b"))), max_size=8)


@given(FIELDS, FIELDS)
def test_a_hit_differs_from_another_as_that_one_does_from_it(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    """And from itself not at all."""
    left, right = ("&".join(f"{k}={v}" for k, v in fields) for fields in (one, other))
    forth, back = found(left, right), found(right, left)

    assert sorted(forth, key=str) == sorted(((n, b, a) for n, a, b in back), key=str)
    assert found(left, left) == []
