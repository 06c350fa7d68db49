"""Is an answer JSON that a schema allows? The library ``jsonschema`` (the extra ``json``) decides; it is imported when it is needed."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from keel.core.errors import UserError
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import InputFile, IsolatedConfig
from keel.rewards.verifiers.truth import column_of
from keel.types import Prompt


class JsonSchemaReward(IsolatedConfig):
    """1 when the answer is JSON that a schema allows; else 0. The JSON is the whole answer, or its last fenced block."""

    libraries: ClassVar[tuple[str, ...]] = ("jsonschema",)

    type: Literal["json_schema"] = Field(default="json_schema", description="JSON is checked against a schema.")
    path: str = Field(default="", description="File with the schema; empty = each row's own.")
    column: str = Field(default="schema", min_length=1, description="Key of the prompt's extra columns that holds the row's schema.")

    def files(self) -> Iterator[InputFile]:
        if self.path:
            yield InputFile("path", self.path)

    def columns(self) -> Iterator[tuple[str, str]]:
        if not self.path:
            yield self.column, "which holds the schema, and no path=SCHEMA_FILE is given"


_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)```", re.DOTALL)


@of_answers
def json_schema(config: JsonSchemaReward) -> TextReward:
    """1 when the answer's JSON is valid under the schema; 0 with the first violation's place and reason; a failure when the row has no
    schema, or one that is none. Raises UserError when the library is not there or the schema's file cannot be read."""
    if importlib.util.find_spec("jsonschema") is None:
        raise UserError(f"reward {config.name!r} needs the library jsonschema", "pip install 'keel-align[json]'")
    fixed = _read(Path(config.path)) if config.path else None

    def judge(prompt: Prompt, text: str) -> Score:
        schema = fixed if fixed is not None else column_of(prompt.meta, config.column)
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                return failure(f"the schema is not JSON: {error}")
        if not isinstance(schema, Mapping | bool):
            return failure(f"no schema: set path, or give each row a column {config.column!r} with one")
        try:
            value = _json_of(text)
        except ValueError as error:
            return Score(0.0, f"not JSON: {error}")
        return _check(schema, value)

    return judge


def _json_of(text: str) -> Any:
    """The value of the whole text, else of its last fenced block. Raises ValueError; NaN and infinity are no JSON, and an
    object that says one name twice is read differently by different readers."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON value")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            name = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
            raise ValueError(f"the name {name[:60]!r} stands twice in one object")
        return made

    blocks = _FENCE.findall(text)
    try:
        return json.loads(blocks[-1] if blocks else text, parse_constant=refuse, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check(schema: Any, value: Any) -> Score:
    import jsonschema
    import referencing
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from referencing.exceptions import Unresolvable

    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        return failure(f"the schema is no JSON schema: {error.message[:200]}")
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER, registry=referencing.Registry())  # an empty registry fetches nothing
    try:
        found = best_match(validator.iter_errors(value))
    except Unresolvable as error:
        return failure(f"the schema names another that is not in it: {error}")
    return Score(1.0, "valid") if found is None else Score(0.0, f"{found.json_path}: {found.message[:200]}")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such schema file", "check the path; it starts where the command is run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}", "a schema is one JSON object") from None


ROW = TextRow(JsonSchemaReward, json_schema)
