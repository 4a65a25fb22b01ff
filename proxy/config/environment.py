"""Settings from the environment: `TRACKOFFLINE_SECTION__KEY`, in any case.

Rule: a variable that means to be a setting (two underscores) and is none is a fault with
the nearest name; an unread setting would be a silent default.
Non-rule: one underscore is never ours, `TRACKOFFLINE_CONFIG` excepted: Kubernetes injects
`TRACKOFFLINE_PORT=tcp://...` for a Service of that name. So no setting is without section.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_origin

from proxy.config import model
from proxy.config.values import nearest

PREFIX = "TRACKOFFLINE_"
_FLAGS = {"true": True, "1": True, "yes": True, "on": True} | {
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


@dataclass(slots=True)
class Variables:
    """What the environment sets: value and variable by path; strays set nothing, and why."""

    values: dict[model.KeyPath, object] = field(default_factory=dict)
    names: dict[model.KeyPath, str] = field(default_factory=dict)
    strays: dict[str, str] = field(default_factory=dict)


def read(environ: Mapping[str, str], suites: list[str], variables: Sequence[str] = ()) -> Variables:
    """Every setting of `environ`.

    `suites` and `variables` are the names whose spelling the file decides.
    """
    found = Variables()
    for name in sorted(environ):
        tail = name[len(PREFIX) :].lower()
        if not name.upper().startswith(PREFIX) or "__" not in f"_{tail}":
            continue
        try:
            path = _path(tail, suites, variables)
        except ValueError as fault:
            found.strays[name] = str(fault)
            continue
        if path in found.names:
            found.strays[name] = f"{found.names[path]} sets the same"
            continue
        found.names[path] = name
        found.values[path] = _value(path, environ[name])
    return found


def _path(rest: str, suites: list[str], variables: Sequence[str]) -> model.KeyPath:
    parts = rest.split("__")
    if parts[:2] == ["suites", "known"] and len(parts) > 3:
        # A suite id may itself have two underscores: the last part is the key.
        parts = ["suites", "known", _suite("__".join(parts[2:-1]), suites), parts[-1]]
    if parts[:1] == ["variables"] and len(parts) == 2:
        alike = [name for name in variables if name.lower() == parts[1]]
        parts[1] = alike[0] if alike else parts[1]
    path = tuple(parts)
    if model.pattern(path) in model.settings():
        return path
    sections = model.names_below(())
    if path[0] not in sections:
        raise ValueError(f'there is no section "{path[0]}"{nearest(path[0].strip("_"), sections)}')
    if model.names_below(path):
        raise ValueError(f"{'.'.join(path)} is a section; name one of its keys, each by a variable")
    keys = model.names_below(path[:-1])
    raise ValueError(f"{'.'.join(path)} is not a setting{nearest(path[-1], keys)}")


def _suite(name: str, suites: list[str]) -> str:
    alike = [suite for suite in suites if suite.lower() == name]
    if len(alike) > 1:
        raise ValueError(f"suites {' and '.join(alike)} differ only in case; set it in the file")
    return alike[0] if alike else name


def _value(path: model.KeyPath, text: str) -> object:
    """The text as the file would have said it; what cannot be is left for the validator."""
    kind = model.settings()[model.pattern(path)].annotation
    try:
        if kind is bool:
            return _FLAGS.get(text.strip().lower(), text)
        if kind is int:
            return int(text)
        if get_origin(kind) is tuple:
            return json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text
