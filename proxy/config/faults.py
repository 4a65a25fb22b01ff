"""What is wrong with a configuration, each fault in an operator's words.

Rule: says the setting, what stood there, what may stand there, and the nearest name.
Non-rule: pydantic's own words never reach a person.
Source: the errors of rustc and Terraform, for the shape of a good one.
"""

from __future__ import annotations

import copy
import json
import re

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config import model
from proxy.config.checks import conflicts
from proxy.config.model import Config, KeyPath
from proxy.config.sources import Problem, Sources, Table
from proxy.config.values import nearest

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_CREDENTIALS = re.compile(r"//[^/\s]*@")
_WIDEST = 80


def validate(sources: Sources) -> tuple[Config, list[Problem]]:
    """The configuration, with faulty settings at their defaults, and every fault.

    The defaults let what several settings mean together be checked in the same run, for
    all that are not faulty themselves.
    """
    problems: list[Problem] = []
    faulty: set[KeyPath] = set()
    try:
        config = Config.model_validate(sources.table)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_problem(sources, detail) for detail in details]
        faulty = {_key_path(detail) for detail in details}
        config = Config.model_validate(_without(sources.table, faulty))
    for conflict in conflicts(config):
        if not any(key[: len(bad)] == bad for key in conflict.keys for bad in faulty):
            written = [key for key in conflict.keys if sources.origin(key) != "default"]
            problems.append(sources.problem((written or conflict.keys)[0], conflict.text))
    return config, problems


def _without(table: Table, faulty: set[KeyPath]) -> Table:
    rest = copy.deepcopy(table)
    for path in faulty:
        # A section without the one key it needs goes as a whole.
        gone = path[:1] if path in (("upstream", "server"), ("edge", "server")) else path
        inner = rest
        for name in gone[:-1]:
            inner = inner.get(name, {})
        inner.pop(gone[-1], None)
    return rest


def _key_path(detail: ErrorDetails) -> KeyPath:
    # "[key]" is pydantic's mark for a fault in the name of a table, not in its content.
    return tuple(str(part) for part in detail["loc"] if part != "[key]")


def _problem(sources: Sources, detail: ErrorDetails) -> Problem:
    path, value = _key_path(detail), detail["input"]
    name = dotted(path)
    reason = str(detail.get("ctx", {}).get("error", ""))
    if detail["type"] == "extra_forbidden":
        return sources.problem(path, _unknown(path, value), at_key=True)
    if detail["type"] == "missing":
        text = f"{name} is not set; leave the whole section out to send nothing"
        return sources.problem(path, text)
    if "[key]" in detail["loc"]:
        return sources.problem(path, f"{name}: {reason}", at_key=True)
    if detail["type"] == "value_error":
        return sources.problem(path, f"{name} is {_shown(value)}; {reason}")
    text = f"{name} is {_shown(value)}; it must be a section, [{name}]"
    return sources.problem(path, text)


def _unknown(path: KeyPath, value: object) -> str:
    guess = nearest(path[-1], model.names_below(path[:-1]))
    if len(path) == 1 and isinstance(value, dict | list):
        return f'there is no section "{path[0]}"{guess}'
    elsewhere = [dotted(key) for key in model.settings() if key[-1] == path[-1]]
    if not guess and elsewhere:
        guess = f'. Did you mean "{elsewhere[0]}"?'
    return f"{dotted(path)} is not a setting{guess}"


def dotted(path: KeyPath) -> str:
    """A path as TOML writes it, the placeholder of a suite's id as it is."""
    return ".".join(
        part
        if part in (model.ANY_SUITE, model.ANY_VARIABLE) or _BARE.fullmatch(part)
        else json.dumps(part)
        for part in path
    )


def _shown(value: object) -> str:
    """A value as it stood in the file, on one line and without anybody's password."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = _CREDENTIALS.sub("//***@", json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
