"""Rows of a file of answers: what was asked, what was answered, and the columns that a reward may need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keel.core.errors import DataError
from keel.data.errors import FieldError
from keel.data.fields import Fields, make_prompt
from keel.data.sources import RawRow, read_source
from keel.data.turns import as_messages
from keel.render.said import reasoning
from keel.rewards.text import Item
from keel.types import Message

_PROMPTS = ("prompt", "question", "instruction", "query")
_COMPLETIONS = ("completion", "response", "output", "generation")
# What other data sets call the columns that rewards look for.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "ground_truth": ("answer", "reference", "solution", "target", "label", "gold", "expected"),
    "choices": ("options",),
    "schema": ("json_schema",),
}


def read_rows(path: str) -> tuple[list[RawRow], list[Item]]:
    """Every row of a file with its prompt and answer, in order. Raises DataError that names the line and field of all rows that cannot be
    scored: none is left out silently."""
    source = read_source(path)
    problems = [str(bad) for bad in source.bad]
    items: list[Item] = []
    for row in source.rows:
        try:
            items.append(_item(Fields(row, {})))
        except FieldError as error:
            problems.append(f"{row.place}: {error.field}: {error.reason}")
    if problems:
        shown = "\n".join(f"  {p}" for p in problems[:10]) + (f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise DataError(
            f"{path}: {len(problems)} of {len(source.rows) + len(source.bad)} rows cannot be scored\n{shown}",
            "each row is a JSON object with prompt (text or messages) and completion (text); mend these rows, nothing was written",
        )
    return list(source.rows), items


def check_columns(items: Sequence[Item], key: str, what: str) -> None:
    """Raise DataError when no row at all has column ``key`` (``a.b`` looks at ``a``)."""
    top = key.partition(".")[0]
    if any(top in prompt.meta for prompt, _ in items):
        return
    columns = sorted({name for prompt, _ in items for name in prompt.meta})
    raise DataError(
        f"no row has a column {top!r}, {what}",
        f"name it so, or say which one it is; columns here: {', '.join(columns) or 'none beside prompt and completion'}",
    )


def _item(fields: Fields) -> Item:
    values = fields.values
    completion_key = next((k for k in _COMPLETIONS if k in values), None)
    prompt_key = next((k for k in _PROMPTS if k in values), None)
    if completion_key is None and prompt_key is None and "messages" in values:
        messages = as_messages("messages", values["messages"])
        if messages[-1].role != "assistant":
            raise FieldError("messages", "end with no assistant turn: there is no answer to score")
        return make_prompt(fields, messages[:-1], None, _meta(values, {"messages"})), _said("messages", messages[-1])
    if completion_key is None:
        raise FieldError("completion", "is missing")
    if prompt_key is None:
        raise FieldError("prompt", "is missing")
    for key in (prompt_key, completion_key):
        fields.need(key)  # no empty cell
    meta, given = _meta(values, {prompt_key, completion_key}), values[prompt_key]
    if isinstance(given, str):
        prompt = make_prompt(fields, (Message("user", given),), None, meta)
    elif isinstance(given, list):
        prompt = make_prompt(fields, as_messages(prompt_key, given), None, meta)
    else:
        raise FieldError(prompt_key, f"must be text or a list of messages, not {_kind(given)}")
    return prompt, _text(completion_key, values[completion_key])


def _text(name: str, value: Any) -> str:
    """The answer: text, or one message."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise FieldError(name, f"must be text, not {_kind(value)}")
    messages = as_messages(name, value)
    if not messages or messages[-1].role != "assistant":
        raise FieldError(name, "ends with no assistant turn")
    if len(messages) != 1:
        raise FieldError(name, f"has {len(messages)} turns, and the last alone would be scored: put the others into the prompt")
    return _said(name, messages[0])


def _said(name: str, answer: Message) -> str:
    """The text of an answer that is nothing but text. Raises FieldError."""
    if "tool_calls" in answer.extra:
        raise FieldError(name, "is a tool call, and answers are scored as text: write the call into its content")
    thought = next((key for key, _ in reasoning(answer)), None)
    if thought is not None:
        raise FieldError(name, f"has its {thought} beside the text: put it into content, as <think>...</think> in front of the answer")
    return answer.text


def _meta(values: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    meta = {k: v for k, v in values.items() if k not in used and k not in ("score", "reason", "error")}
    for name, others in _OTHER_NAMES.items():
        if name not in meta:
            found = next((meta[k] for k in others if meta.get(k) is not None), None)
            if found is not None:
                meta[name] = found
    return meta


def _kind(value: Any) -> str:
    from keel.data.rows import json_type

    return json_type(value)
