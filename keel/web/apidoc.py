"""The schema of the API as plain rows for a page of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of a request."""

    name: str
    kind: str
    needed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One call."""

    method: str
    path: str
    text: str
    tag: str
    fields: tuple[Parameter, ...]


def operations(schema: Mapping[str, Any]) -> tuple[Operation, ...]:
    """The calls of an OpenAPI schema, in its order."""
    return tuple(
        Operation(method.upper(), path, _text(call), (call.get("tags") or [""])[0], _fields(schema, call))
        for path, calls in schema["paths"].items()
        for method, call in calls.items()
    )


def _text(call: Mapping[str, Any]) -> str:
    return str(call.get("description", "")).replace("``", "")


def _fields(schema: Mapping[str, Any], call: Mapping[str, Any]) -> tuple[Parameter, ...]:
    found = [
        Parameter(p["name"], _kind(schema, p.get("schema", {})), bool(p.get("required")), str(p.get("description", "")))
        for p in call.get("parameters", [])
        if p["in"] != "cookie"
    ]
    content = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    body = _resolved(schema, content) if content else {}
    for name, one in body.get("properties", {}).items():
        found.append(Parameter(name, _kind(schema, one), name in body.get("required", []), str(one.get("description", ""))))
    return tuple(found)


def _resolved(schema: Mapping[str, Any], one: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = one.get("$ref", "")
    return schema["components"]["schemas"][reference.rpartition("/")[2]] if reference else one


def _kind(schema: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    if "anyOf" in one:
        return " or ".join(_kind(schema, x) for x in one["anyOf"])
    if "$ref" in one:
        return one["$ref"].rpartition("/")[2]
    kind = str(one.get("type", "any"))
    return f"list of {_kind(schema, one.get('items', {}))}" if kind == "array" else kind
