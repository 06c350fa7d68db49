"""Recipe files: YAML by the rules of version 1.2, the files that a recipe starts from, and the line that each key stands on."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from keel.core.errors import ConfigError


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

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """JSON writes what lies beyond 16 bits as two escapes, which PyYAML leaves apart."""
        value = super().construct_scalar(node)
        halves = isinstance(value, str) and any("\ud800" <= ch <= "\udfff" for ch in value)
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") if halves else value


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


def _which_recipe(path: Path) -> str:
    """What somebody may have meant who named a recipe that is not there."""
    there = sorted(p.name for p in path.parent.glob("*.y*ml"))
    by_stem = {Path(name).stem: name for name in there}  # endings are alike: they say nothing
    near = difflib.get_close_matches(path.stem, by_stem, 1, 0.6)
    if near:
        return f"did you mean {path.parent / by_stem[near[0]]}?"
    if there:
        shown = ", ".join(there[:5]) + (" ..." if len(there) > 5 else "")
        return f"there are, in {path.parent.absolute()}: {shown}"
    start = "keel new DIR makes a project with a recipe"
    if path.parts[0] == "recipes":
        return f"recipes/ lies in a checkout of Keel: start there, or {start}"
    return f"no recipe is in {path.parent.absolute()}: start where yours is, or {start}"


def _read_recipe(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in below:
        raise ConfigError(
            f"{path}: `base` goes in a circle: " + " -> ".join(p.name for p in (*below, path)), "remove one of the `base` lines"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no such recipe: {path}", _which_recipe(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, not a recipe", _which_recipe(path / "recipe.yaml")) from None
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
        raise ConfigError(f"{path}: a recipe is a mapping of `key: value`, this is {value_text(raw)}")
    recipe = cast("dict[str, Any]", raw)
    base = recipe.pop("base", None)
    if base is None:
        return recipe
    if not isinstance(base, str):
        raise ConfigError(f"{path}: `base` is the name of one recipe file, not {value_text(base)}")
    return merge(_read_recipe(path.parent / base, (*below, path.resolve())), recipe)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``under``: mappings key by key, everything else replaced."""
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(cast("Any", old), cast("Any", value)) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def places(path: Path) -> dict[str, str]:
    """Where each key of a recipe stands, by its path: "line 8", or "base.yaml, line 3" where another file says it. {} for a file that
    cannot be read: whoever reads it says why."""
    found: dict[str, str] = {}
    file: Path | None = path
    seen: set[Path] = set()
    while file is not None and file.resolve() not in seen:
        seen.add(file.resolve())
        try:
            node = yaml.compose(file.read_bytes().decode("utf-8-sig"), Loader=_Loader)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            return found
        lines = dict(_lines(node, ""))
        name = "" if file == path else f"{file.name}, "
        for key, line in lines.items():
            found.setdefault(key, f"{name}line {line}")
        base = next((v.value for k, v in node.value if k.value == "base"), None) if isinstance(node, yaml.MappingNode) else None
        file = file.parent / base if isinstance(base, str) else None
    return found


def _lines(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """(key path, line) below ``node``."""
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(cast("Any", key).value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(i), value, value) for i, value in enumerate(node.value)]
    else:
        return
    for name, key, value in pairs:
        here = f"{path}.{name}" if path else name
        yield here, cast("Any", key).start_mark.line + 1
        yield from _lines(value, here)


def as_override(key: str, value: Any) -> str:
    """``key=value`` of a value that JSON can hold, in one line that `parse_yaml` reads back as it was, however long it is. Text goes in
    ASCII: raw, YAML takes some characters for ends of lines."""
    return f"{key}={json.dumps(value, default=str)}".replace("\x7f", "\\u007f")


def value_text(value: Any) -> str:
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
