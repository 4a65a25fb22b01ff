"""Where each key and value of a TOML file stands.

Rule: given a text `tomllib` accepts, says line and column of every key and of its value;
both count from 1, in characters, as editors do.
Non-rule: no reader of TOML. Values come from `tomllib`; of two tables of one array only
the first is found, since no setting is an array of tables.
Source: TOML 1.0.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from dataclasses import dataclass

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
# Up to two quotes may stand directly before the closing three.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Spot:
    """Line and column of a key and of its value; of a table, its name twice."""

    key: tuple[int, int]
    value: tuple[int, int]


def locate(text: str) -> dict[tuple[str, ...], Spot]:
    """The spot of every key of `text`, tables and inline tables included."""
    return _Walk(text.replace("\r\n", "\n")).document()


class _Walk:
    """One pass over the text; `at` is where it stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines = [0, *(found.end() for found in re.finditer("\n", text))]
        self.spots: dict[tuple[str, ...], Spot] = {}

    def document(self) -> dict[tuple[str, ...], Spot]:
        table: tuple[str, ...] = ()
        while self.skip(_GAP) < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
        return self.spots

    def header(self) -> tuple[str, ...]:
        """`[a.b]` or `[[a.b]]`."""
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        path, _ = self.key(())
        self.at += brackets
        return path

    def pair(self, table: tuple[str, ...]) -> None:
        """`key = value`."""
        path, key = self.key(table)
        self.at += 1  # the "="
        self.skip(_BLANK)
        if self.spots[path].key == key:  # else it is of a later table of an array
            self.spots[path] = Spot(key, self.place(self.at))
        self.value(path)

    def key(self, table: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, int]]:
        """A key, dotted or not, with blanks around; each part is noted where first seen.

        Gives the whole path, and the place of its last part.
        """
        path = table
        while True:
            start = self.skip(_BLANK)
            if self.text[start] in "\"'":
                raw = self.take(_STRING)
                part = str(tomllib.loads(f"key = {raw}")["key"])
            else:
                part = self.take(_BARE_KEY)
            path = (*path, part)
            here = self.place(start)
            self.spots.setdefault(path, Spot(here, here))
            if self.text[self.skip(_BLANK)] != ".":
                return path, here
            self.at += 1

    def value(self, path: tuple[str, ...] | None) -> None:
        """Past a value; what stands inside an array has no path of its own."""
        opening = self.text[self.at]
        if opening in "\"'":
            self.take(_STRING)
        elif opening == "[":
            self.array()
        elif opening == "{":
            self.inline_table(path)
        else:
            self.take(_SCALAR)

    def array(self) -> None:
        self.at += 1
        while self.text[self.skip(_GAP)] != "]":
            self.value(None)
            if self.text[self.skip(_GAP)] == ",":
                self.at += 1
        self.at += 1

    def inline_table(self, path: tuple[str, ...] | None) -> None:
        self.at += 1
        kept = self.spots
        if path is None:
            self.spots = {}  # noted where nobody looks
        while self.text[self.skip(_GAP)] != "}":
            self.pair(path or ())
            if self.text[self.skip(_GAP)] == ",":
                self.at += 1
        self.at += 1
        self.spots = kept

    def skip(self, gap: re.Pattern[str]) -> int:
        self.take(gap)
        return self.at

    def take(self, token: re.Pattern[str]) -> str:
        found = token.match(self.text, self.at)
        if found is None:
            raise ValueError(f"no TOML at offset {self.at}")
        self.at = found.end()
        return found[0]

    def place(self, offset: int) -> tuple[int, int]:
        line = bisect.bisect_right(self.lines, offset)
        return line, offset - self.lines[line - 1] + 1
