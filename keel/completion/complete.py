"""What may stand at the end of a command line. Reads folders and recipes; loads no torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.completion.keys import FILE, STAGE, read_keys
from keel.core.errors import UserError
from keel.core.recipe_files import read_recipe
from keel.help import SPOKEN

MOST = 2000  # entries of a folder that are looked at
Parsers = Callable[[Sequence[str]], argparse.ArgumentParser]


def complete(given: Sequence[str], parsers: Parsers) -> list[str]:
    """Words for the last of ``given`` (perhaps ""), those before it being whole; ``keel`` itself is not among them. A word that ends with
    ``=`` or ``/`` is to be followed without a space."""
    *before, last = given or [""]
    if not before:
        return [w for w in _commands(parsers) if w.startswith(last)]
    spoken = {tuple(words.split()): name for name, words in SPOKEN.items()}
    if len(before) == 1:
        seconds = [second for first, second in spoken if first == before[0] and second.startswith(last)]
    else:
        seconds = []
    verb = spoken.get(tuple(before[:2]), before[0])
    rest = before[2 if verb in SPOKEN else 1 :]
    sub = _parser_of(verb, parsers)
    if sub is None:
        return seconds
    if last.startswith("-"):
        return sorted({o for a in sub._actions for o in a.option_strings if o.startswith(last) and len(o) > 2})
    key, is_setting, value = last.partition("=")
    if is_setting:
        return [f"{key}={path}" for path in _files(value)]
    choices = _choices(sub, rest)
    if choices is not None:
        return [*seconds, *(c for c in choices if c.startswith(last))]
    return sorted({*seconds, *_names(sub, last, rest), *_settings(verb, sub, last, rest)})


def _commands(parsers: Parsers) -> list[str]:
    return [*(name for name in _subparsers(parsers(["completion"])) if name not in SPOKEN), "--help", "--version"]


def _subparsers(top: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    found = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return found.choices  # type: ignore[return-value]


def _parser_of(verb: str, parsers: Parsers) -> argparse.ArgumentParser | None:
    return _subparsers(parsers(["completion"])).get(verb)


def _choices(sub: argparse.ArgumentParser, rest: Sequence[str]) -> list[str] | None:
    """Words of which one must stand here: an option's values, or those of the command's first argument; None where anything may."""
    options = {o: a for a in sub._actions for o in a.option_strings}
    action: argparse.Action | None = options.get(rest[-1]) if rest else None
    if action is None or action.nargs == 0:
        positional = [a for a in sub._actions if not a.option_strings]
        action = positional[0] if positional and not rest else None
    return [str(c) for c in action.choices] if action is not None and action.choices is not None else None


def _names(sub: argparse.ArgumentParser, last: str, rest: Sequence[str]) -> Iterator[str]:
    """Files: recipes alone where a recipe is due, runs where a run is."""
    firsts = [a.dest for a in sub._actions if not a.option_strings]
    first = firsts[0] if firsts and not [w for w in rest if not w.startswith("-")] else ""
    if first == "recipe":
        yield from _files(last, (".yaml", ".yml"))
    elif first in ("run", "run_dir"):
        yield from _runs(last)
    else:
        yield from _files(last)


def _files(start: str, endings: tuple[str, ...] = ()) -> list[str]:
    """Files (of some endings) and folders that begin with ``start``; folders end with a slash."""
    head, slash, tail = start.rpartition("/")
    folder = Path(head + slash or ".").expanduser()
    try:
        entries = [p for p, _ in zip(folder.iterdir(), range(MOST), strict=False)]
    except OSError:
        return []
    shown = [p for p in entries if p.name.startswith(tail) and (tail.startswith(".") or not p.name.startswith("."))]
    named = [f"{head}{slash}{p.name}/" for p in shown if p.is_dir()]
    return sorted(named + [f"{head}{slash}{p.name}" for p in shown if not p.is_dir() and (not endings or p.suffix in endings)])


def _runs(start: str) -> list[str]:
    """Folders; of those that are runs the name without a slash, so that it is whole. At the beginning also the runs in ``runs/``."""
    found = _files(start) if start else [*_files(start), *_files("runs/")]
    folders = [f for f in found if f.endswith("/")]
    return sorted(f.rstrip("/") if (Path(f).expanduser() / "manifest.json").is_file() else f for f in folders)


def _settings(verb: str, sub: argparse.ArgumentParser, last: str, rest: Sequence[str]) -> Iterator[str]:
    """``key=`` for the settings below what was written: one step of the path at a time."""
    if not any(a.dest == "overrides" for a in sub._actions) or not re.fullmatch(r"[\w.]*", last):
        return
    recipe = next((w for w in rest if w.endswith((".yaml", ".yml"))), "")
    steps = last.count(".") + 1
    for key in _keys_of(verb, recipe):
        parts = key.split(".")
        if key.startswith(last):
            yield f"{key}=" if len(parts) == steps else ".".join(parts[:steps]) + "."


def _keys_of(verb: str, recipe: str) -> list[str]:
    """Paths of settings; of a pipeline also those of its stages, by their names in the file."""
    keys = read_keys(FILE.read_text(encoding="utf-8"))
    found = list(keys.get(verb, []))
    if verb not in ("run", "check") or not recipe:
        return found
    try:
        stages: Any = read_recipe(Path(recipe)).get("stages")
    except UserError:
        return found
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        own = stage.get("verb", name) if isinstance(stage, Mapping) else name
        verb_of = {"evaluate": "eval"}.get(str(own), str(own))
        found += [f"stages.{name}.{key}" for key in keys.get(STAGE + verb_of) or keys.get(verb_of, [])]
    return found
