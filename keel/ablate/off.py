"""What "off" means for a setting: false, 0, none, empty or null, as its type allows and the recipe accepts. What has none is refused."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import yaml
from pydantic.fields import FieldInfo

from keel.core.config import Section, dump, parse_yaml
from keel.core.errors import ConfigError
from keel.core.schema import is_union, members_of, walk
from keel.tune.config import OWN
from keel.tune.recipe import Training, value_of

Meaning = Literal["false", "0", "none", "empty", "null", "default", "value"]
_NOT = ("ablate", "held_out", "test", "data")  # what is held out would be other prompts


@dataclass(frozen=True, slots=True)
class Change:
    """One setting, changed. ``meaning``: what "off" is here; "value" where the user gave one."""

    key: str
    value: Any
    was: Any
    meaning: Meaning
    about: str  # what the setting is, in the schema's words

    @property
    def name(self) -> str:
        return f"{self.key}={shown(self.value)}"

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields, and the name."""
        return {"name": self.name, **asdict(self)}


def shown(value: Any) -> str:
    """A value as it would be written in a recipe, on one line."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list | dict | type(None)) else str(value)


def changes_of(training: Training, words: list[str]) -> list[Change]:
    """The changes that ``KEY`` and ``KEY=VALUE,VALUE`` ask for. Raises ConfigError with what to write."""
    if not words:
        raise ConfigError("nothing to switch off", "name settings of the recipe: keel ablate RECIPE algorithm.kl.coef optim.lr=1e-4,1e-2")
    found: list[Change] = []
    for word in words:
        key, equals, text = word.partition("=")
        _may_change(training, key)
        found += _given(training, key, text) if equals else [_off(training, key)]
    twice = sorted({c.name for c in found if sum(d.name == c.name for d in found) > 1})
    if twice:
        raise ConfigError(f"{twice[0]} is asked for twice", "name each change once")
    return found


def _may_change(training: Training, key: str) -> None:
    if not key or any(not part for part in key.split(".")):
        raise ConfigError(f"{key!r} is no key of a recipe", "write section.name, e.g. algorithm.kl.coef")
    held = isinstance(training.recipe.held_out, float)
    if key in OWN or key.startswith("settings.") or any(key == k or key.startswith(f"{k}.") for k in _NOT if k != "data" or held):
        raise ConfigError(
            f"{key}: what is measured would no longer be the same", "switch off what trains; the data with a held_out file of its own"
        )


def _given(training: Training, key: str, text: str) -> Iterator[Change]:
    try:
        values = parse_yaml(f"[{text}]")
    except yaml.YAMLError:
        raise ConfigError(f"{key}={text}: the values are no YAML", f"write {key}=1,2 or {key}=true") from None
    if not values:
        raise ConfigError(f"{key}= gives no value", f"write {key}=VALUE,VALUE, or {key} alone to switch it off")
    was, (_, field) = value_of(training.recipe, key), _place(training, key)
    for value in values:
        training.check(key, value)
        if _same(value, was):
            raise ConfigError(f"{key}={shown(value)} is what the recipe has", "it is one side of every comparison: leave it out")
        yield Change(key, value, was, "value", _about(field))


def _off(training: Training, key: str) -> Change:
    was, (given, field) = value_of(training.recipe, key), _place(training, key)
    if field is None and not given:
        training.check(key, False)  # a misspelt key is told with what was meant
        raise ConfigError(f"{key} has no off", f"write {key}=VALUE,VALUE")
    already = False
    for value, meaning in _candidates(field, given):
        if _same(value, was):
            already = True
            continue
        try:
            training.check(key, value)
        except ConfigError:
            continue
        return Change(key, value, was, meaning, _about(field))
    if already:
        raise ConfigError(
            f"{key} is {shown(was)} in the recipe: there is nothing to switch off", f"write {key}=VALUE to see what it would do"
        )
    if isinstance(was, Mapping | list):
        entries = was if isinstance(was, Mapping) else range(len(was))
        raise ConfigError(f"{key} has no off", f"name one of its settings: {', '.join(f'{key}.{e}' for e in list(entries)[:6])}")
    raise ConfigError(f"{key} is {shown(was)} and has no off", f"write {key}=VALUE,VALUE with what to try in its place")


def _candidates(field: FieldInfo | None, given: bool) -> Iterator[tuple[Any, Meaning]]:
    """What may be off, the first that the recipe accepts. ``given``: a number under a name that the user chose."""
    if field is None:
        yield (0, "0") if given else (None, "null")
        return
    members = members_of(field.annotation)
    default = dump_value(field.get_default(call_default_factory=True)) if not field.is_required() else ...
    if bool in members:
        yield False, "false"
    if int in members or float in members:
        yield 0, "0"
    for member in members:
        if typing.get_origin(member) is Literal:
            for name in typing.get_args(member):
                if name in ("none", "off"):
                    yield name, "none"
    if default is not ... and default in ("", [], {}):
        yield default, "empty"
    if _takes_null(field.annotation):
        yield None, "null"
    if isinstance(default, Mapping):
        yield default, "default"


def dump_value(value: Any) -> Any:
    """A default as plain JSON values."""
    if isinstance(value, Section):
        return dump(value)
    return list(value) if isinstance(value, tuple) else value


def _takes_null(annotation: Any) -> bool:
    if typing.get_origin(annotation) is typing.Annotated:
        return _takes_null(typing.get_args(annotation)[0])
    return is_union(annotation) and types.NoneType in typing.get_args(annotation)


def _place(training: Training, key: str) -> tuple[bool, FieldInfo | None]:
    """Whether the key is an entry of a mapping of numbers, and the field that it names, in the section that the recipe chose there."""
    here: Any = training.recipe
    parts = key.split(".")
    for depth, part in enumerate(parts[:-1]):
        if isinstance(here, Section):
            here = getattr(here, part, None)
        elif isinstance(here, Mapping):
            here = here.get(part)
        elif isinstance(here, list | tuple) and part.isdecimal() and int(part) < len(here):
            here = here[int(part)]
        if here is None:  # not written, and no section by default: by the schema
            owner, _, _ = walk(type(training.recipe), tuple(int(p) if p.isdecimal() else p for p in parts[: depth + 2]))
            return False, owner.model_fields.get(parts[-1]) if owner and depth == len(parts) - 2 else None
    if isinstance(here, Section):
        return False, type(here).model_fields.get(parts[-1])
    number = isinstance(here, Mapping) and isinstance(here.get(parts[-1]), int | float)
    return number, None


def _same(value: Any, was: Any) -> bool:
    if isinstance(value, bool) or isinstance(was, bool):
        return value is was
    return json.dumps(value, sort_keys=True) == json.dumps(was, sort_keys=True) or (
        isinstance(value, int | float) and isinstance(was, int | float) and value == was
    )


def _about(field: FieldInfo | None) -> str:
    return (field.description or "") if field else ""
