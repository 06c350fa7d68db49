"""Nulls that are Arrow's and not the data's. A column of objects has the keys of all rows: what an object lacks comes back as null, so one
tool's arguments would hold the names of all others'."""

from __future__ import annotations

from typing import Any

_KEPT = ("default", "const")  # in a JSON schema null is a value there
_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # the keys inside are names of the user's


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """The row with every null taken out of the objects inside its columns; the columns' own nulls stay. In ``tools`` a null that stands
    under ``default``, ``const`` or ``enum`` of a schema stays. Lists keep their nulls, and JSON text is not looked into."""
    return {name: _schema(value) if name in ("tools", "functions") else _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _schema(value: Any) -> Any:
    if isinstance(value, list):
        return [_schema(v) for v in value]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for key, inner in value.items():
        if key in _KEPT or (key == "enum" and inner is not None):
            kept[key] = inner
        elif key in _NAMES and isinstance(inner, dict):
            kept[key] = {name: _schema(v) for name, v in inner.items() if v is not None}
        elif inner is not None:
            kept[key] = _schema(inner)
    return kept
