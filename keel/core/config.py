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
from keel.core.schema import FieldDoc, chosen_section, describe, plain_type, tag_field, type_text, walk

__all__ = ["FieldDoc", "Section", "describe", "dump", "load", "merge", "parse_yaml", "read_recipe"]


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
        problems += _explain(cls, error.errors(), touched)
    else:
        problems += [f"{path}: expected {kind}, got {value}" for path, kind, value in _swallowed_booleans(raw, config, "")]
        if not problems:
            return config
    where = f"{recipe}: " if recipe is not None else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ConfigError(f"{where}{count} in the configuration\n" + "\n".join(f"  {p}" for p in problems))


def dump(config: Section) -> dict[str, Any]:
    """The resolved config as plain JSON values; ``cls.model_validate`` of it gives the same config again."""
    return config.model_dump(mode="json")


# --------------------------------------------------------------------------------------------------------------------------------
# Reading YAML
# --------------------------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``1e-4`` as a number, dates, ``1:30``, ``off`` and ``no`` as text, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' stands here a second time", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_RULES = (  # of YAML 1.2, with the first letters they apply to
    ("bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), "-+0123456789"),
    (
        "float",
        re.compile(r"^[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"),
        "-+.0123456789",
    ),
)


def _set_rules() -> None:
    inherited: dict[str, list[tuple[str, Any]]] = cast("Any", yaml.SafeLoader).yaml_implicit_resolvers
    dropped = (":bool", ":int", ":float", ":timestamp")
    loader = cast("Any", _Loader)
    loader.yaml_implicit_resolvers = {k: [(t, p) for t, p in rules if not t.endswith(dropped)] for k, rules in inherited.items()}
    for name, pattern, first in _RULES:
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", pattern, list(first))


_set_rules()


def parse_yaml(text: str) -> Any:
    """YAML with the loader's rules; raises yaml.YAMLError."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("lists or mappings are nested too deep") from None


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a recipe file, its ``base`` files merged under it. Raises ConfigError with file, line and column."""
    return _read_recipe(Path(path), ())


def _read_recipe(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in below:
        raise ConfigError(
            f"{path}: `base` goes in a circle: " + " -> ".join(p.name for p in (*below, path)), "remove one of the `base` lines"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.glob("*.y*ml")), 1, 0.5)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise ConfigError(f"no such recipe: {path}", hint) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{error.object[error.start]:02x})", "save the file as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        raw = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: broken YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: broken YAML: {error}") from None
    if raw is None:
        raise ConfigError(f"{path}: the recipe is empty", "write at least one `key: value`")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of `key: value`, this is {_value_text(raw)}")
    recipe = cast("dict[str, Any]", raw)
    base = recipe.pop("base", None)
    if base is None:
        return recipe
    if not isinstance(base, str):
        raise ConfigError(f"{path}: `base` is the name of one recipe file, not {_value_text(base)}")
    return merge(_read_recipe(path.parent / base, (*below, path.resolve())), recipe)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``under``: mappings key by key, everything else replaced."""
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(cast("Any", old), cast("Any", value)) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


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
        raise ConfigError(f"{done}.{key}: {done} is {_value_text(here)}, which has no keys")
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
        raise ConfigError(f"{done}.{key}: {done} is {_value_text(here)}, which has no keys")


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


def _explain(cls: type[Section], errors: Sequence[ErrorDetails], touched: Mapping[str, str]) -> list[str]:
    """One line a problem. The several complaints of a union about one value become one."""
    lines: dict[str, str] = {}
    all_paths = [doc.path for doc in describe(cls)]
    located = [(walk(cls, error["loc"]), error) for error in errors]
    paths = [path for (_, _, path), _ in located]
    for (owner, annotation, path), error in located:
        is_mapping_meant_otherwise = isinstance(error["input"], Mapping) and any(p.startswith(f"{path}.") for p in paths)
        if path in lines or (_WRONG_TYPE.search(error["type"]) and is_mapping_meant_otherwise):
            continue
        text = _problem(owner, annotation, path, error, all_paths)
        source = touched.get(path) or next((o for p, o in touched.items() if p.startswith(f"{path}.")), "")
        lines[path] = f"{path or 'recipe'}: {text}" + (f" (from the override {source})" if source else "")
    return list(lines.values())


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
        return f"expected {type_text(annotation, field)}, got {_value_text(value)}" + (f". Did you mean '{near[0]}'?" if near else "")
    if _WRONG_TYPE.search(kind):
        return f"expected {type_text(annotation, field)}, got {_value_text(value)}"
    return f"{error['msg'].replace('Input should', 'must').replace('should', 'must')}, got {_value_text(value)}"


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
        return [(path, "whole number" if type(value) is int else "number", _value_text(raw))]
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


def _value_text(value: Any) -> str:
    """A value as the user wrote it, with what kind of thing it is."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if len(str(value)) <= 80 else str(value)[:77] + "..."
    return f"'{text}'" if isinstance(value, str) else f"the number {text}" if isinstance(value, int | float) else text
