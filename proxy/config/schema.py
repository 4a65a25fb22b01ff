"""The settings as a JSON Schema: what an editor completes and marks while one writes.

Rule: made of the model, key by key, with the same words and defaults; what cannot be said of a
value in a schema (that a file is there, that two settings fit) is for `trackoffline check`.
Non-rule: checks nothing here.
Source: JSON Schema 2020-12; TOML as editors check it against one.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from proxy.config.model import Config

TEXT: Final[dict[str, Any]] = {"type": "string"}
# How a value that is more than its type is written in the file.
_WRITTEN: Final[dict[type, dict[str, Any]]] = {
    bool: {"type": "boolean"},
    int: {"type": ["integer", "string"]},  # "2GiB", "10"
    float: {"type": ["number", "string"]},  # "30s", 20, "20/s"
    str: TEXT,
    Path: TEXT,
}


def schema() -> dict[str, Any]:
    """The schema of a whole configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "trackoffline",
        **_section(Config),
        "description": "The configuration of trackoffline; see its README for the meaning of all.",
    }


def _section(model: type[BaseModel]) -> dict[str, Any]:
    fields = model.model_fields
    found: dict[str, Any] = {
        "type": "object",
        "description": " ".join((model.__doc__ or "").split()),
        "properties": {name: _field(field) for name, field in fields.items()},
        "additionalProperties": False,
    }
    required = [name for name, field in fields.items() if field.is_required()]
    return found | ({"required": required} if required else {})


def _field(field: FieldInfo) -> dict[str, Any]:
    kind = next(one for one in _kinds(field.annotation) if one is not type(None))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _section(kind)
    said = _value(kind)
    if field.description:
        said = said | {"description": field.description}
    if not field.is_required() and field.default_factory is None:
        said = said | {"default": field.default}
    return said


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types a value may have, once it is read."""
    if isinstance(annotation, type) or get_origin(annotation) in (dict, tuple):
        return (annotation,)
    return get_args(annotation)


def _value(kind: Any) -> dict[str, Any]:
    if get_origin(kind) is dict:
        of = get_args(kind)[1]
        is_table = isinstance(of, type) and issubclass(of, BaseModel)
        return {"type": "object", "additionalProperties": _section(of) if is_table else TEXT}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": TEXT}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"enum": [str(word) for word in kind]}
    return dict(_WRITTEN.get(kind, TEXT))
