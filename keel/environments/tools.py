"""Tools: Python functions that a policy may call. Their signatures and docstrings become JSON schemas, arguments are checked against the
signature, and a call that is wrong is an answer to the policy, never an exception."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from keel.core.errors import UserError
from keel.types import Message, Reply

_SECTION = re.compile(r"^\s*(args|arguments|parameters|returns?|raises|yields|examples?|notes?)\s*:\s*$", re.IGNORECASE)
_ARGUMENT = re.compile(r"^(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call as the policy wrote it. ``error``: why it could not be read; name and arguments are then empty."""

    name: str = ""
    arguments: Mapping[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with what is told of it."""

    function: Callable[..., Any]
    schema: Mapping[str, Any]
    types: Mapping[str, TypeAdapter[Any]]
    required: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.schema["function"]["name"]


def tool_of(function: Callable[..., Any]) -> Tool:
    """The tool that a function is.

    Raises:
        UserError: it has no docstring or an argument without a type: the model would not know what it does; or it takes arguments that have
            no name.
    """
    name = getattr(function, "__name__", type(function).__name__)
    summary, described = _docstring(inspect.getdoc(function) or "")
    if not summary:
        raise UserError(f"tool {name!r} has no docstring: it is what the model is told of it", "write one, with a section Args:")
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # a name that its module does not have, say
        raise UserError(f"tool {name!r}: its annotations cannot be read: {error}", "annotate its arguments with types that can") from None
    types: dict[str, TypeAdapter[Any]] = {}
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(f"tool {name!r}: its argument {parameter} cannot be given by name", "give every argument a name of its own")
        if key not in hints:
            raise UserError(f"tool {name!r}: its argument {key!r} has no type", f"write {key}: int, or whatever it takes")
        types[key] = TypeAdapter(hints[key])
        properties[key] = _plain(types[key].json_schema()) | ({"description": described[key]} if key in described else {})
        if parameter.default is parameter.empty:
            required.append(key)
        else:
            properties[key]["default"] = parameter.default if _is_json(parameter.default) else str(parameter.default)
    parameters = {"type": "object", "properties": properties, "required": required}
    return Tool(function, {"type": "function", "function": _function(name, summary, parameters)}, types, tuple(required))


def _function(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "description": description, "parameters": parameters}


@dataclass(frozen=True, slots=True)
class Result:
    """What the policy is told of a call. ``bad``: it could not be read, or no tool takes it so. ``reply``: the tool's own, where it gave a
    reward or ended the conversation."""

    message: Message
    bad: bool = False
    reply: Reply | None = None


def run(tools: Mapping[str, Tool], call: Call) -> Result:
    """Call a tool. What the tool itself raises is told to the policy, as to a person at a keyboard; such a call is no bad one. Nothing is
    raised but what ends the process."""
    wrong = call.error
    tool = tools.get(call.name)
    if not wrong and tool is None:
        wrong = f"there is no tool {call.name!r}; tools are: {', '.join(tools) or 'none'}"
    if wrong or tool is None:
        return Result(_told(call.name, f"error: {wrong}"), bad=True)
    arguments, wrong = _checked(tool, call.arguments or {})
    if wrong:
        return Result(_told(call.name, f"error: {wrong}"), bad=True)
    try:
        value = tool.function(**arguments)
    except Exception as error:
        return Result(_told(call.name, f"error: {type(error).__name__}: {error}"))
    if not isinstance(value, Reply):
        return Result(_told(call.name, _text(value)))
    text = value.messages if isinstance(value.messages, str) else "\n".join(m.text for m in value.messages)
    return Result(_told(call.name, text), reply=value)


def _checked(tool: Tool, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The arguments as the signature has them, or what is wrong with them."""
    unknown = [key for key in given if key not in tool.types]
    missing = [key for key in tool.required if key not in given]
    if unknown or missing:
        what = [f"unknown argument {key!r}" for key in unknown] + [f"argument {key!r} is missing" for key in missing]
        return {}, f"{tool.name}: {'; '.join(what)}; it takes: {', '.join(tool.types) or 'nothing'}"
    found: dict[str, Any] = {}
    for key, value in given.items():
        try:
            found[key] = tool.types[key].validate_python(value)
        except ValidationError as error:
            return {}, f"{tool.name}: argument {key!r}: {error.errors()[0]['msg']}"
    return found, ""


def _told(name: str, text: str) -> Message:
    return Message("tool", text, {"name": name})


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if _is_json(value) else str(value)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without the titles that pydantic makes of names."""
    schema.pop("title", None)
    return schema


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """(what stands before the sections, what ``Args:`` says of each argument)."""
    summary: list[str] = []
    described: dict[str, str] = {}
    section, key, indent = "", "", 0
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section, key = found[1].lower(), ""
        elif not section:
            summary.append(line.strip())
        elif section in ("args", "arguments", "parameters") and line.strip():
            depth = len(line) - len(line.lstrip())
            if (argument := _ARGUMENT.match(line.strip())) and (not key or depth <= indent):
                key, indent = argument[1], depth
                described[key] = argument[2].strip()
            elif key:
                described[key] = f"{described[key]} {line.strip()}".strip()
    return " ".join(" ".join(summary).split()), described


_TOOLS_TEXT = """You may call these tools:
{tools}
To call one, write <tool_call>{{"name": NAME, "arguments": {{...}}}}</tool_call>."""


def tools_text(schemas: Sequence[Mapping[str, Any]]) -> str:
    """The tools in words, for templates that show none."""
    return _TOOLS_TEXT.format(tools="\n".join(json.dumps(s["function"], ensure_ascii=False) for s in schemas))
