"""The loader: YAML recipe + ``key.path=value`` overrides -> a frozen pydantic model. Unknown keys are errors with a suggestion, and all
errors come at once. Each room owns its own sections; this file knows none of them.

A recipe may start from another one: ``base: quickstart.yaml`` (relative to the file it stands in) reads that recipe first and lays this
one over it, mapping by mapping; lists and single values replace what was there. A mapping changes only the keys that it names, also
where the default is a section with numbers of its own.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from keel.core.errors import ConfigError, UserError
from keel.core.recipe_files import as_override, merge, parse_yaml, places, read_recipe, value_text
from keel.core.schema import FieldDoc, chosen_section, describe, plain_type, tag_field, type_text, walk

__all__ = ["FieldDoc", "Section", "as_override", "checked", "describe", "dump", "load", "merge", "parse_yaml", "read_recipe"]


class Section(BaseModel):
    """Base of every config model: frozen, unknown keys refused, every field with a ``Field(description=...)``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=False, allow_inf_nan=False)

    @property
    def changed(self) -> frozenset[str]:
        """Fields that are not at their defaults. What asks whether a setting would have an effect asks this, and not whether it was
        written down: a resolved config writes everything."""
        fields = type(self).model_fields
        return frozenset(name for name, f in fields.items() if getattr(self, name) != f.get_default(call_default_factory=True))


C = TypeVar("C", bound=Section)


def load(cls: type[C], recipe: Path | None, overrides: Sequence[str] = ()) -> C:
    """The config of class ``cls`` from a recipe file (None: defaults only) and overrides like ``optim.lr=1e-5`` or ``rewards.0.weight=2``.

    Values of overrides are YAML. Raises ConfigError that lists every problem with its key path.
    """
    assert "base" not in cls.model_fields, "`base` is the loader's own key"
    raw = read_recipe(recipe) if recipe is not None else {}
    problems: list[str] = []
    touched: dict[str, str] = {}
    for override in overrides:
        try:
            touched[_apply(cls, raw, override)] = override
        except ConfigError as error:
            problems.append(error.message)
    raw = _with_defaults(cls, raw)
    try:
        config = cls.model_validate(raw)
    except ValidationError as error:
        problems += _explain(cls, error.errors(), touched, places(recipe) if recipe is not None else {})
    else:
        problems += [f"{path}: expected {kind}, got {value}" for path, kind, value in _swallowed_booleans(raw, config, "")]
        if not problems:
            return config
    where = f"{recipe}: " if recipe is not None else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ConfigError(f"{where}{count} in the configuration\n" + "\n".join(f"  {p}" for p in problems))


def checked(cls: type[C], values: Mapping[str, Any]) -> C:
    """The config of class ``cls`` from what a program gives. Raises ConfigError that lists every problem by its key."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = _explain(cls, error.errors(), {}, {})
    raise ConfigError("; ".join(problems))


def dump(config: Section) -> dict[str, Any]:
    """The resolved config as plain JSON values; ``cls.model_validate`` of it gives the same config again."""
    return config.model_dump(mode="json")


# --------------------------------------------------------------------------------------------------------------------------------
# Overrides and defaults
# --------------------------------------------------------------------------------------------------------------------------------


def _apply(cls: type[Section], raw: dict[str, Any], override: str) -> str:
    """Set one ``key.path=value`` in ``raw`` and return the path."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: must look like key.path=value")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"override {override!r}: the value is no YAML: {problem} (quote it: {path}='\"...\"')") from None
    here: Any = raw
    for depth, key in enumerate(keys[:-1]):
        done = ".".join(keys[:depth])
        here = _descend(here, key, done, lambda d=depth: _default_at(cls, keys[: d + 1]))
    _put(here, keys[-1], value, ".".join(keys[:-1]))
    return ".".join(keys)


def _descend(here: Any, key: str, done: str, default: Callable[[], Any]) -> Any:
    if isinstance(here, list):
        items = cast("list[Any]", here)
        return items[_index(items, key, done, append=False)]
    if not isinstance(here, dict):
        raise ConfigError(f"{done}.{key}: {done} is {value_text(here)}, which has no keys")
    section = cast("dict[str, Any]", here)
    if section.get(key) is None:
        section[key] = default()
    return section[key]


def _put(here: Any, key: str, value: Any, done: str) -> None:
    if isinstance(here, list):
        items = cast("list[Any]", here)
        index = _index(items, key, done, append=True)
        items[index : index + 1] = [value]
    elif isinstance(here, dict):
        here[key] = value
    else:
        raise ConfigError(f"{done}.{key}: {done} is {value_text(here)}, which has no keys")


def _index(items: list[Any], key: str, done: str, append: bool) -> int:
    limit = len(items) + (1 if append else 0)
    if not key.isdecimal():
        raise ConfigError(f"{done}.{key}: {done} is a list; name an entry by its number, like {done}.0")
    if int(key) >= limit:
        raise ConfigError(f"{done}.{key}: no such entry; {done} has {len(items)}, counted from 0")
    return int(key)


def _default_at(cls: type[Section], keys: Sequence[str]) -> Any:
    """What an override below ``keys`` starts from when the recipe is silent: a copy of a default list, otherwise an empty mapping."""
    owner, annotation, _ = walk(cls, tuple(keys))
    field = owner.model_fields.get(keys[-1]) if owner else None
    default: Any = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(default, list | tuple) and typing.get_origin(plain_type(annotation)) in (list, tuple, Sequence):
        return [cast("Any", x).model_dump() if isinstance(x, BaseModel) else x for x in cast("Sequence[Any]", default)]
    return {}


def _with_defaults(cls: type[BaseModel], raw: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with the defaults of partly given sections laid under them, where a default differs from its class's own."""
    out = dict(raw)
    for name, field in cls.model_fields.items():
        value = raw.get(name)
        if isinstance(value, Mapping):
            given = cast("Mapping[str, Any]", value)
            default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
            section = chosen_section(field.annotation, given, default)
            if section is not None:
                if type(default) is section:
                    given = merge(_own_numbers(default), given)
                out[name] = _with_defaults(section, given)
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            element = next(iter(typing.get_args(plain_type(field.annotation))), None)
            out[name] = [_element_with_defaults(element, item) for item in items]
    return out


def _own_numbers(default: BaseModel) -> dict[str, Any]:
    """A default section as a mapping; where it is its class's own default, only its kind (the class fills in the rest)."""
    if default.model_dump(exclude_defaults=True):
        return default.model_dump()
    tag = tag_field(type(default))
    return {tag: getattr(default, tag)} if tag else {}


def _element_with_defaults(element: Any, item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    given = cast("Mapping[str, Any]", item)
    section = chosen_section(element, given)
    return _with_defaults(section, given) if section else given


# --------------------------------------------------------------------------------------------------------------------------------
# Messages
# --------------------------------------------------------------------------------------------------------------------------------

_WRONG_TYPE = re.compile(r"_(type|parsing|error|from_float|parsing_size)$|^(enum|is_instance_of|union_tag_invalid|int_from_float)$")


def _explain(cls: type[Section], errors: Sequence[ErrorDetails], touched: Mapping[str, str], lines_of: Mapping[str, str]) -> list[str]:
    """One line a problem, with the line of the recipe that it is about. The several complaints of a union about one value become one."""
    lines: dict[str, str] = {}
    all_paths = [doc.path for doc in describe(cls)]
    located = [(walk(cls, error["loc"]), error) for error in errors]
    paths = [path for (_, _, path), _ in located]
    other = {path for (_, _, path), error in located if not _wrong_type(error)}  # complaints of the member that was meant
    for (owner, annotation, path), error in located:
        inside = path in other or any(p.startswith(f"{path}.") for p in paths)
        is_mapping_meant_otherwise = isinstance(error["input"], Mapping) and inside
        if path in lines or (_wrong_type(error) and is_mapping_meant_otherwise):
            continue
        text = _problem(owner, annotation, path, error, all_paths)
        source = touched.get(path) or next((o for p, o in touched.items() if p.startswith(f"{path}.")), "")
        place = "" if source else _place(path, lines_of)
        lines[path] = f"{place}{path or 'recipe'}: {text}" + (f" (from the override {source})" if source else "")
    return list(lines.values())


def _wrong_type(error: ErrorDetails) -> bool:
    """Is the value of another kind than the place takes? What a section's own check says is about values of the right kind."""
    return error["type"] not in ("value_error", "assertion_error") and bool(_WRONG_TYPE.search(error["type"]))


def _place(path: str, lines_of: Mapping[str, str]) -> str:
    """The line of a key, or of the section that it is missing in."""
    while path and path not in lines_of:
        path = path.rpartition(".")[0]
    return f"{lines_of[path]}: " if path else ""


def _problem(owner: type[BaseModel] | None, annotation: Any, path: str, error: ErrorDetails, all_paths: Sequence[str]) -> str:
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        near = _suggestions(path, list(owner.model_fields) if owner else [], all_paths)
        return "unknown key" + (f". Did you mean {' or '.join(near)}?" if near else "")
    if kind == "missing":
        return "required, but not given"
    if kind == "union_tag_not_found":
        return f"needs the key {error.get('ctx', {}).get('discriminator', '')} that says which kind it is"
    if kind == "union_tag_invalid":
        context = error.get("ctx", {})
        return f"{context['discriminator']} must be one of {context['expected_tags']}, not '{context['tag']}'"
    if kind in ("value_error", "assertion_error"):
        cause = error.get("ctx", {}).get("error")
        hint = f" ({cause.hint})" if isinstance(cause, UserError) and cause.hint else ""
        return (cause.message if isinstance(cause, UserError) else str(cause)) + hint
    field = owner.model_fields.get(path.rpartition(".")[2]) if owner else None
    annotation = field.annotation if field else annotation
    if kind == "literal_error" and isinstance(value, str):
        near = difflib.get_close_matches(value, [str(a) for a in typing.get_args(plain_type(annotation))], 1)
        return f"expected {type_text(annotation, field)}, got {value_text(value)}" + (f". Did you mean '{near[0]}'?" if near else "")
    if _WRONG_TYPE.search(kind):
        return f"expected {type_text(annotation, field)}, got {value_text(value)}"
    return f"{error['msg'].replace('Input should', 'must').replace('should', 'must')}, got {value_text(value)}"


def _suggestions(path: str, siblings: Sequence[str], all_paths: Sequence[str]) -> list[str]:
    """Keys that were perhaps meant: a neighbour with nearly this name, the same name elsewhere, or a path that looks alike."""
    parent, _, leaf = path.rpartition(".")
    near = difflib.get_close_matches(leaf, siblings, 1, 0.6)
    if near:
        return [f"{parent}.{near[0]}" if parent else near[0]]
    elsewhere = [p for p in all_paths if p.rpartition(".")[2] == leaf]
    return list(dict.fromkeys(elsewhere))[:3] or difflib.get_close_matches(path, all_paths, 1, 0.6)


def _swallowed_booleans(raw: Any, value: Any, path: str) -> list[tuple[str, str, str]]:
    """Places where ``true`` was given and pydantic made the number 1 of it: (path, expected, given)."""
    if isinstance(raw, bool) and type(value) in (int, float):
        return [(path, "whole number" if type(value) is int else "number", value_text(raw))]
    if isinstance(raw, Mapping):
        given = cast("Mapping[str, Any]", raw)
        inner: Any = {k: getattr(value, k, None) for k in given} if isinstance(value, BaseModel) else value
        if isinstance(inner, Mapping):
            found = cast("Mapping[str, Any]", inner)
            return [x for k, v in given.items() for x in _swallowed_booleans(v, found.get(k), f"{path}.{k}" if path else str(k))]
    if isinstance(raw, list) and isinstance(value, list | tuple):
        pairs = zip(cast("list[Any]", raw), cast("Sequence[Any]", value), strict=False)
        return [x for i, (a, b) in enumerate(pairs) for x in _swallowed_booleans(a, b, f"{path}.{i}")]
    return []
