"""What was written, by whom and where: one file, the environment, and both merged.

Rule: every fault gets the place of the text that caused it, `file:line:col` or the
variable's name; a file that cannot be read is one clear line.
Non-rule: knows no meaning of any setting.
Source: the GNU form of `file:line:col`, which editors and terminals make a link of.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from proxy.config import environment
from proxy.config.locate import Spot, locate
from proxy.config.model import KeyPath
from proxy.errors import ConfigError

Table: TypeAlias = dict[str, Any]  # Any: what tomllib gives

_SYNTAX = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_TWICE = re.compile(r"Cannot declare \((.*?),?\) twice")
_QUOTED = re.compile(r"'([^']*)'")
_LAST = (1 << 31, 0)  # the environment's faults stand after the file's


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: `place` sorts it, `where` names the place, empty when nobody wrote it."""

    place: tuple[int, int]
    where: str
    text: str

    def __str__(self) -> str:
        line = f"{self.where}: {self.text}" if self.where else self.text
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)


@dataclass(frozen=True, slots=True)
class Sources:
    """`table` is the file with the environment's settings over it."""

    file: Path | None
    spots: dict[KeyPath, Spot]
    names: dict[KeyPath, str]
    table: Table

    def problem(self, path: KeyPath, text: str, *, at_key: bool = False) -> Problem:
        """A fault of the setting at `path`, placed at its value or its key.

        What was not written is placed at its section, or at a variable that made the section.
        """
        made = [name for key, name in self.names.items() if key[: len(path)] == path]
        if path in self.names or (made and path not in self.spots):
            return in_environment(self.names.get(path, made[0]), text)
        for length in range(len(path), 0, -1):
            spot = self.spots.get(path[:length])
            if spot is not None:
                line, column = spot.key if at_key or length < len(path) else spot.value
                return Problem((line, column), f"{self.file}:{line}:{column}", text)
        beside = [name for key, name in self.names.items() if key[:-1] == path[:-1]]
        return in_environment(beside[0], text) if beside else Problem(_LAST, "", text)

    def origin(self, path: KeyPath) -> str:
        """Who set it: `environment`, `file` or `default`."""
        if path in self.names:
            return "environment"
        return "file" if path in self.spots else "default"


def in_environment(name: str, text: str) -> Problem:
    return Problem(_LAST, f"environment: {name}", text)


def in_order(problems: list[Problem]) -> ConfigError:
    """All of them as one error, those of the file first, as they stand there."""
    return ConfigError([str(problem) for problem in sorted(problems, key=lambda p: p.place)])


def gather(path: Path | None, environ: Mapping[str, str]) -> tuple[Sources, list[Problem]]:
    """File and environment together, and the variables that set nothing.

    Of an unreadable file only that is said, beside what is wrong without it.
    """
    try:
        text, table = _read(path) if path else ("", {})
    except _Unreadable as unreadable:
        strays = environment.read(environ, []).strays
        problems = [in_environment(name, fault) for name, fault in strays.items()]
        raise in_order([unreadable.problem, *problems]) from unreadable
    named = table.get("variables")
    variables = list(named) if isinstance(named, dict) else []
    found = environment.read(environ, _suites(table), variables)
    problems = [in_environment(name, fault) for name, fault in found.strays.items()]
    return Sources(path, locate(text), found.names, _merged(table, found.values)), problems


class _Unreadable(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def _read(path: Path) -> tuple[str, Table]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return text, tomllib.loads(text)
    except FileNotFoundError as error:
        reason = "there is no such file"
        raise _Unreadable(Problem((0, 0), str(path), reason)) from error
    except IsADirectoryError as error:
        reason = "this is a directory, not a file"
        raise _Unreadable(Problem((0, 0), str(path), reason)) from error
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise _Unreadable(Problem((0, 0), str(path), reason)) from error
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig")
        raise _Unreadable(_at_end(path, before, "what follows is not UTF-8")) from error
    except tomllib.TOMLDecodeError as error:
        raise _Unreadable(_no_toml(path, text, str(error))) from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of 4300 digits
        raise _Unreadable(Problem((0, 0), str(path), "this is no sensible TOML")) from error


def _no_toml(path: Path, text: str, message: str) -> Problem:
    found = _SYNTAX.fullmatch(message)
    plain = _plain(found[1] if found else message)
    if found is None or found[2] is None:
        return _at_end(path, text.rstrip("\r\n"), plain)
    line, column = int(found[2]), int(found[3])
    return Problem((line, column), f"{path}:{line}:{column}", plain)


def _plain(message: str) -> str:
    """A message of tomllib in an operator's words."""
    twice = _TWICE.fullmatch(message)
    if twice:
        return f"the section [{'.'.join(re.findall(_QUOTED, twice[1]))}] stands here twice"
    if message == "Cannot overwrite a value":
        return "this key is given twice"
    unquoted = message == "Invalid value" or message.startswith("Expected newline or end of doc")
    hint = '; text needs quotes, as in "30s"' if unquoted else ""
    return f"this is not TOML: {message[:1].lower()}{message[1:]}{hint}"


def _at_end(path: Path, text: str, message: str) -> Problem:
    line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    return Problem((line, column), f"{path}:{line}:{column}", message)


def _suites(table: Table) -> list[str]:
    suites = table.get("suites")
    known = suites.get("known") if isinstance(suites, dict) else None
    return list(known) if isinstance(known, dict) else []


def _merged(table: Table, values: Mapping[KeyPath, object]) -> Table:
    merged = copy.deepcopy(table)
    for path, value in values.items():
        inner: object = merged
        for name in path[:-1]:
            inner = inner.setdefault(name, {}) if isinstance(inner, dict) else None
        if isinstance(inner, dict):  # else the file has a value for a section: a fault there
            inner[path[-1]] = value
    return merged
