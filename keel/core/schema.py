"""What a config class looks like: its fields in plain words, the key path of a place in it, which member of a union is meant.

Used by the loader for its messages and by the documentation for the reference of all settings.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """One line of the generated reference. In ``path``, ``N`` stands for a list index and ``KEY`` for a name that the user chooses."""

    path: str
    type: str  # in words: "number > 0", "one of 'grpo', 'ppo'"
    default: str  # as it is written in YAML; "required" when there is none
    description: str
    when: str = ""  # "kind=rule": the field belongs to this kind of section only


def describe(cls: type[BaseModel]) -> Iterator[FieldDoc]:
    """Every field that can be set, in order, with sections, lists and unions of sections walked through."""
    yield from _describe(cls, "", "", (), None)


def plain_type(annotation: Any) -> Any:
    """The annotation without ``Annotated`` and, where one member is left, without ``| None``."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
            continue
        if is_union(annotation):
            rest = [a for a in typing.get_args(annotation) if a is not type(None)]
            if len(rest) == 1:
                annotation = rest[0]
                continue
        return annotation


def is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def members_of(annotation: Any) -> list[Any]:
    """The alternatives of a union, flat; of anything else, itself."""
    annotation = plain_type(annotation)
    if not is_union(annotation):
        return [annotation]
    return [m for a in typing.get_args(annotation) if a is not type(None) for m in members_of(a)]


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    return [s for m in members_of(annotation) if (s := as_section(m)) is not None]


def tag_field(section: type[BaseModel]) -> str:
    """The name of a section's first ``Literal`` field: what tells it from the other members of a union."""
    return next((n for n, f in section.model_fields.items() if typing.get_origin(f.annotation) is typing.Literal), "")


def tags_of(section: type[BaseModel]) -> tuple[Any, ...]:
    name = tag_field(section)
    return typing.get_args(section.model_fields[name].annotation) if name else ()


def chosen_section(annotation: Any, given: Mapping[str, Any], default: Any = None) -> type[BaseModel] | None:
    """The section that a mapping is meant for: the only one, the one of a union whose kind it names, or the default's."""
    candidates = sections_of(annotation)
    if len(candidates) == 1:
        return candidates[0]
    for section in candidates:
        if given.get(tag_field(section)) in tags_of(section):
            return section
    return next((s for s in candidates if type(default) is s and tag_field(s) not in given), None)


def walk(cls: type[BaseModel], loc: Sequence[int | str]) -> tuple[type[BaseModel] | None, Any, str]:
    """Follow pydantic's location: (section that owns the last key, annotation of the place, key path without the kinds of unions)."""
    owner: type[BaseModel] | None = None
    annotation: Any = cls
    path: list[str] = []
    for key in loc:
        annotation = plain_type(annotation)
        if is_union(annotation):
            member = [m for m in members_of(annotation) if _is_named(m, key)]
            if member:
                annotation = member[0]
                continue
            annotation = (sections_of(annotation) or [None])[0]
        arguments = typing.get_args(annotation)
        section = as_section(annotation)
        if section is not None:
            owner = section
            path.append(str(key))
            annotation = section.model_fields[str(key)].annotation if str(key) in section.model_fields else None
        elif arguments and typing.get_origin(annotation) is not typing.Literal:
            path.append(str(key))
            is_mapping = typing.get_origin(annotation) in (dict, Mapping)
            annotation = arguments[-1] if is_mapping else arguments[0]
    return owner, annotation, ".".join(path)


def _is_named(member: Any, key: int | str) -> bool:
    section = as_section(member)
    if section is None:
        return str(key).startswith(_name(member))
    return key in (*tags_of(section), section.__name__) or str(key).endswith(f"{section.__name__}]")  # "function-after[check(), Name]"


def as_section(annotation: Any) -> type[BaseModel] | None:
    """The annotation where it is a section, else None."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))


def type_text(annotation: Any, field: FieldInfo | None = None) -> str:
    """A type in plain words, with the bounds of its field."""
    bounds: list[Any] = [*(field.metadata if field else ())]
    if typing.get_origin(annotation) is typing.Annotated:
        bounds += list(annotation.__metadata__)
        annotation = typing.get_args(annotation)[0]
    signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    limits = [f"{sign} {getattr(b, name)}" for b in bounds for name, sign in signs if getattr(b, name, None) is not None]
    text = _bare_type_text(annotation)
    return f"{text} {' and '.join(limits)}" if limits else text


def _bare_type_text(annotation: Any) -> str:
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", type(None): "null", Any: "anything"}
    if annotation in words:
        return words[annotation]
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(repr(a) for a in arguments)
    if is_union(annotation):
        return " or ".join(dict.fromkeys(type_text(a) for a in arguments))
    if origin in (dict, Mapping):
        return f"mapping of name: {type_text(arguments[1])}"
    if arguments:
        inner = [type_text(a) for a in arguments if a is not Ellipsis]
        return f"list of {inner[0]}" if len(inner) == 1 else f"list ({', '.join(inner)})"
    return "section" if as_section(annotation) else _name(annotation)


def _describe(
    cls: type[BaseModel], prefix: str, when: str, above: tuple[type[BaseModel], ...], given: BaseModel | None
) -> Iterator[FieldDoc]:
    """``given`` is the instance that stands as default in the section above: its numbers are the real defaults."""
    for name, field in cls.model_fields.items():
        path = f"{prefix}{name}"
        inner, suffix = plain_type(field.annotation), "."
        if typing.get_origin(inner) in (list, tuple, Sequence):
            inner, suffix = typing.get_args(inner)[0], ".N."
        elif typing.get_origin(inner) in (dict, Mapping):
            inner, suffix = typing.get_args(inner)[1], ".KEY."
        inside = [s for s in sections_of(inner) if s not in (*above, cls)]
        default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
        default = getattr(given, name) if given is not None else default
        if not (suffix == "." and inside and isinstance(default, BaseModel)):  # a section that is always there is told by its fields
            shown = "required" if field.is_required() and given is None else _yaml_text(default)
            yield FieldDoc(path, type_text(field.annotation, field), shown, field.description or "", when)
        for section in inside:
            tag = tag_field(section) if len(sections_of(inner)) > 1 else ""
            kind = f"{path}{suffix}{tag}={'|'.join(map(str, tags_of(section)))}" if tag else when
            yield from _describe(section, path + suffix, kind, (*above, cls), default if type(default) is section else None)


def _yaml_text(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_yaml_text(v) for v in cast("Sequence[Any]", value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_yaml_text(v)}" for k, v in cast("Mapping[str, Any]", value).items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)


def key_of(table: Mapping[str, Any]) -> AfterValidator:
    """Annotation of a field whose value names a row of ``table`` (or is None)."""

    def check(name: str | None) -> str | None:
        if name is not None and name not in table:
            raise ValueError(f"'{name}' is none of: {', '.join(table)}")
        return name

    return AfterValidator(check)
