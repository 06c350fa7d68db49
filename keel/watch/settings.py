"""Settings of a recipe as numbers that rules can ask for: ``$kl.target``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from keel.core.config import dump
from keel.watch.config import WatchConfig
from keel.watch.names import nearest


def numbers(flat: Mapping[str, Any], config: WatchConfig) -> dict[str, float]:
    """What of a recipe, by key path, is a number; ``config`` under ``settings.watch`` where the recipe says nothing of it."""
    own = {f"settings.watch.{name}": value for name, value in dump(config).items()}
    return {
        path: float(value) for path, value in (own | dict(flat)).items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def find(asked: str, paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that ``asked`` can mean: itself, else those that end in its last part and hold all its parts in order, so that `kl.target`
    finds `algorithm.kl.control.target`."""
    paths = tuple(paths)
    if asked in paths:
        return (asked,)
    parts = asked.split(".")

    def holds(path: str) -> bool:
        rest = iter(path.split("."))
        return path.rpartition(".")[2] == parts[-1] and all(part in rest for part in parts)

    return tuple(path for path in paths if holds(path))


def settled(asked: Iterable[str], known: Mapping[str, float]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The values of the settings that rules ask for (None where there is none), and why those have none, in words."""
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for name in sorted(set(asked)):
        found = find(name, known)
        values[name] = known[found[0]] if len(found) == 1 else None
        if len(found) > 1:
            missing[name] = f"${name} may be {' or '.join(found[:4])}: write more of the path"
        elif not found:
            near = nearest(name, [*known, *(path.rpartition(".")[2] for path in known)])
            missing[name] = f"the recipe has no number {name}" + (f"; did you mean ${near}?" if near else "")
    return values, missing
