"""The settings for people: the README's table, and what is in effect.

Rule: both come from the model, so that neither can fall behind it.
Non-rule: no secret can be shown, since no setting is one: tokens and keys are files.
Source: `proxy.config.model`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config import model
from proxy.config.faults import dotted
from proxy.config.load import load_with_sources
from proxy.config.model import ANY_SUITE, ANY_VARIABLE, KeyPath
from proxy.config.sources import Sources


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of what is in effect; `origin` is default, file or environment."""

    key: str
    value: str
    origin: str


def table() -> str:
    """The configuration table in Markdown: key, default, meaning."""
    rows = [
        f"| `{dotted(path)}` | {_default(path)} | {_cell(field.description or '')} |"
        for path, field in model.settings().items()
    ]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def effective(path: Path | None, environ: Mapping[str, str]) -> list[Setting]:
    """Every setting in effect, as it was written, and who wrote it."""
    config, sources = load_with_sources(path, environ)
    return [
        Setting(dotted(key), _spelled(_written(sources, key)), sources.origin(key))
        for key in _keys(list(config.suites.known), list(config.variables))
        if (key[0] != "upstream" or config.upstream is not None)
        and (key[0] != "edge" or config.edge is not None)
    ]


def as_json(settings: Iterable[Setting], source: str) -> dict[str, Any]:
    """What is in effect by section and key, for programs."""
    values: dict[str, dict[str, Any]] = {}
    for setting in settings:
        section, _, key = setting.key.rpartition(".")
        if setting.key.startswith("variables."):  # a name may have dots of its own
            section, _, key = setting.key.partition(".")
        origin = "env" if setting.origin == "environment" else setting.origin
        values.setdefault(section, {})[key] = {"value": json.loads(setting.value), "from": origin}
    return {"source": source, "values": values}


def _keys(suites: list[str], variables: list[str]) -> Iterator[KeyPath]:
    """Every key, those of a suite once for each suite."""
    for key in model.settings():
        if ANY_SUITE not in key and ANY_VARIABLE not in key:
            yield key
    for name in variables:
        yield ("variables", name)
    for rsid in suites:
        for key in model.settings():
            if ANY_SUITE in key:
                yield tuple(rsid if part == ANY_SUITE else part for part in key)


def _written(sources: Sources, key: KeyPath) -> object:
    value: object = sources.table
    for part in key:
        value = value.get(part) if isinstance(value, dict) else None
    return model.settings()[model.pattern(key)].default if value is None else value


def _default(path: KeyPath) -> str:
    field = model.settings()[path]
    if path[-1] == ANY_VARIABLE:
        return "*none*"
    return "*required*" if field.is_required() else f"`{_spelled(field.default)}`"


def _spelled(value: object) -> str:
    """A value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
