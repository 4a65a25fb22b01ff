"""Every key and value of a TOML file is found where it stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.config.locate import Spot, locate

NAMES = st.sampled_from(["queue", "max_hits", "a", "b", "1-x", "ü", 'a"b', "a.b", "#", ""])
STRINGS = st.text(alphabet="a#=[]{},.\"'\\\t é", max_size=8)
BLANKS = st.sampled_from(["", " ", "  ", "\t"])
COMMENTS = st.sampled_from(["", " # a = 1", '# "', "#'''", "# [x]", " # {"])


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")


@st.composite
def key_parts(draw: st.DrawFn) -> str:
    """One part of a key, in a spelling that can say it."""
    name = draw(NAMES)
    spellings = [f'"{escaped(name)}"', f"'{name}'"]
    if name and name.isascii() and all(c.isalnum() or c in "-_" for c in name):
        spellings.append(name)
    return draw(st.sampled_from(spellings))


@st.composite
def keys(draw: st.DrawFn) -> tuple[str, str]:
    """A dotted key as (all before the last part, the last part)."""
    parts = draw(st.lists(key_parts(), min_size=1, max_size=3))
    before = "".join(f"{part}{draw(BLANKS)}.{draw(BLANKS)}" for part in parts[:-1])
    return before, parts[-1]


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A string in any of the four spellings."""
    text = draw(STRINGS)
    literal = text.replace("'", "")
    return draw(
        st.sampled_from(
            [
                f'"{escaped(text)}"',
                f"'{literal}'",
                f"'''{literal}\n#'{literal}''''",
                f'"""{escaped(text)}\n[x]\n"a" = \\""" ""{escaped(text)}""""',
            ]
        )
    )


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    gaps = st.sampled_from(["", "\n", " # ],}\n", " "])
    arrays = st.builds(
        lambda values, gap: f"[{gap}{f'{gap},{gap}'.join(values)}{gap}]",
        st.lists(inner, max_size=3),
        gaps,
    )
    pairs = st.builds(lambda key, value: f"{''.join(key)} = {value}", keys(), inner)
    tables = st.builds(lambda pairs: "{" + ", ".join(pairs) + "}", st.lists(pairs, max_size=2))
    return arrays | tables


SCALARS = strings() | st.sampled_from(["1_000", "-1.5e3", "true", "1979-05-27 07:32:00Z", "inf"])
VALUES = st.recursive(SCALARS, containers, max_leaves=4)


@dataclass(frozen=True)
class Document:
    """A text, and the offsets at which its pairs' keys (last part) and values were written."""

    text: str
    pairs: tuple[tuple[int, int], ...]


@st.composite
def documents(draw: st.DrawFn) -> Document:
    text, pairs = draw(st.sampled_from(["", "\n", "# [a]\n"])), []
    for _ in range(draw(st.integers(0, 5))):
        before, last = draw(keys())
        text += draw(BLANKS)
        if draw(st.integers(0, 3)) == 0:
            text += f"[{draw(BLANKS)}{before}{last}{draw(BLANKS)}]"
        else:
            at_key = len(text) + len(before)
            text += f"{before}{last}{draw(BLANKS)}={draw(BLANKS)}"
            pairs.append((at_key, len(text)))
            text += draw(VALUES)
        text += draw(COMMENTS) + draw(st.sampled_from(["\n", "\n\n"]))
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(condition=False)
    return Document(text, tuple(pairs))


def place(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def paths(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from paths(value, (*path, name))


def name_at(text: str, spot: tuple[int, int]) -> str:
    """What tomllib reads as the key that begins at this place."""
    rest = text.split("\n")[spot[0] - 1][spot[1] - 1 :]
    for length in range(1, len(rest) + 1):
        try:
            key = next(iter(tomllib.loads(f"{rest[:length]} = 1")))
        except tomllib.TOMLDecodeError:
            continue
        if rest[:length][0] in "\"'":
            return key
        if length == len(rest) or not (rest[length].isalnum() or rest[length] in "-_"):
            return key
    raise AssertionError(rest)


@given(documents())
def test_every_key_is_found_where_its_text_stands(document: Document) -> None:
    """No key is missed or made up, and each place holds the key's own text."""
    spots = locate(document.text)

    assert set(spots) == set(paths(tomllib.loads(document.text)))
    for path, spot in spots.items():
        assert path[-1] == name_at(document.text, spot.key)


@given(documents())
def test_every_value_is_found_where_its_text_begins(document: Document) -> None:
    """Strings that look like comments, tables or keys mislead nobody."""
    found = set(locate(document.text).values())

    for at_key, at_value in document.pairs:
        assert Spot(place(document.text, at_key), place(document.text, at_value)) in found


@given(documents())
def test_windows_line_ends_change_no_place(document: Document) -> None:
    """A file saved on Windows has its faults at the same places."""
    assert locate(document.text) == locate(document.text.replace("\n", "\r\n"))


def test_keys_are_found_in_every_spelling() -> None:
    """Tables, dotted keys, inline tables and quoted keys all have their places."""
    text = (
        "[queue] # one\n"
        'max_hits = 1\n  path="#[x]"\n'
        "[suites]\n"
        "known.a.timestamps = 'x'\n"
        'known."b.c" = {timestamps = "required", when_late= "hold"}\n'
    )

    spots = locate(text)

    assert Spot((1, 2), (1, 2)) == spots["queue",]
    assert Spot((2, 1), (2, 12)) == spots["queue", "max_hits"]
    assert Spot((3, 3), (3, 8)) == spots["queue", "path"]
    assert Spot((5, 9), (5, 22)) == spots["suites", "known", "a", "timestamps"]
    assert Spot((6, 41), (6, 52)) == spots["suites", "known", "b.c", "when_late"]


def test_of_an_array_of_tables_the_first_is_found() -> None:
    """A later table of the array moves nothing."""
    spots = locate("[[queue]]\npath = 1\n[[queue]]\n path = 2\nmax_hits = 3\n")

    assert Spot((1, 3), (1, 3)) == spots["queue",]
    assert Spot((2, 1), (2, 8)) == spots["queue", "path"]
    assert Spot((5, 1), (5, 12)) == spots["queue", "max_hits"]
