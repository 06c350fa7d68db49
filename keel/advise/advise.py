"""`keel advise DATA`: measure, estimate, rank, perhaps race; write the recipes to start with."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from keel.advise.choose import ranking_of
from keel.advise.config import AdviseRecipe
from keel.advise.estimate import Estimate
from keel.advise.learned import recall, remember
from keel.advise.measure import Measures, measure
from keel.advise.race import run_race, with_result
from keel.advise.rank import Ranked, possible, warnings
from keel.advise.text import report
from keel.advise.ways import Start, Way, start
from keel.core.config import dump, load
from keel.core.errors import DataError, ModelError, UserError
from keel.data.dataset import load as load_data
from keel.plan.machine import Machine, measure_machine
from keel.plan.size import Size, size_of
from keel.plan.work import Mode
from keel.runs.durable import write_atomic

log = logging.getLogger("keel")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def run_advise(path: str, model: str, budget: str, race: bool, json_file: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Everything; prints the report, writes recipes to ``out`` and the advice to ``json_file`` where given.

    Raises UserError for data, a model, a budget or settings that cannot be used."""
    named = [f"model={json.dumps(model)}"] if model else []
    config = load(AdviseRecipe, None, [f"data={{path: {json.dumps(path)}}}", *named, *overrides])
    seconds = budget_seconds(budget) if budget else None
    data = load_data(config.data, config.seed)
    m = measure(data)
    machine = measure_machine(config.model_options)
    size, unknown = _size(config, asked=bool(model) or any(o.startswith("model=") for o in overrides))
    earlier = recall(Path(config.out), m)
    mode, ranking = ranking_of(data, m, earlier, machine, size, seconds)
    raced: dict[str, Any] | None = None
    if race:
        raced = run_race(config, m, ranking, mode)
        remember(Path(config.out), m, config.model, raced)
        ranking = with_result(ranking, raced)
    advice = _advice(config, m, machine, size, ranking, mode)
    advice |= {"unknown": unknown, "budget_seconds": seconds, "race": raced, "learned": earlier}
    if json_file:
        _write(Path(json_file), advice)
    print(report(advice))
    return advice


def budget_seconds(text: str) -> float:
    """``"2h"`` -> 7200; s, m (min), h, d, also together (``1h30m``); a bare number is hours. Raises UserError."""
    if re.fullmatch(r"\d+(\.\d+)?", text) and float(text) > 0:
        return 3600.0 * float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text)
    total = sum(float(n) * _UNITS[unit] for n, unit in parts)
    if not total or re.sub(r"(\d+(?:\.\d+)?)\s*(min|[smhd])\s*", "", text).strip():
        raise UserError(f"--budget {text}: no time", "write 45m, 2h, 1h30m or 3d")
    return total


def _size(config: AdviseRecipe, asked: bool) -> tuple[Size | None, str]:
    """The model's size, or why it is not known; a model that was asked for must be readable."""
    try:
        return size_of(config.model, config.model_options), ""
    except (ModelError, DataError) as error:
        if asked:
            raise
        return None, f"no --model was given, and the usual one cannot be read ({error.message}): nothing is said of memory and time"


def _advice(
    config: AdviseRecipe, m: Measures, machine: Machine, size: Size | None, ranking: Sequence[Ranked], mode: Mode
) -> dict[str, Any]:
    """All of it as JSON; recipes are written on the way."""
    _, out = possible(m)
    given = dump(config)["data"]
    settings = {k: given[k] for k in config.data.model_fields_set - {"path", "convert"}}
    rows = []
    for r in ranking:
        begin = start(r.way, m, config.data.path, config.model, mode, settings)
        rows.append(_row(r, begin, Path(config.out) / f"{r.way.name}.yaml"))
    command = rows[0]["command"] if rows else ""
    return {
        "start": command,
        "best": rows[0]["name"] if rows else None,
        "data": m.to_json(),
        "machine": machine.to_json(),
        "model": {"spec": config.model, "mode": mode, **(size.to_json() if size else {})},
        "ranking": rows,
        "not_possible": out,
        "warnings": warnings(m),
        "needed": "" if rows else _needed(m),
    }


def _row(r: Ranked, begin: Start, path: Path) -> dict[str, Any]:
    _write_recipe(path, begin.recipe, r.way)
    return {
        "name": r.way.name,
        "title": r.way.title,
        "score": r.score,
        "reasons": [{"points": x.points, "why": x.why, "source": x.source} for x in r.reasons],
        "estimate": _estimated(r.estimate),
        "fits": r.fits,
        "fits_memory": r.fits_memory,
        "fits_budget": r.fits_budget,
        "command": f"keel {begin.verb} {shlex.quote(str(path))}",
        "recipe": begin.recipe,
    }


def _estimated(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else found.to_json()


def _needed(m: Measures) -> str:
    """What to do with data that no way can use."""
    if "prompt" in m.kinds:
        return (
            "prompts alone: write a reward (docs/add_a_reward.md) for keel rl, add what is right in a column ground_truth for a verifier, "
            "or collect answers and judgements of them"
        )
    return "no label that anything could be learned from: compare answers, rate them, or label them wanted or not"


def _write_recipe(path: Path, recipe: Mapping[str, Any], way: Way) -> None:
    text = f"# {way.title[0].upper()}{way.title[1:]}. Written by keel advise as a place to start.\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (text + yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)).encode())
    except OSError as error:
        raise UserError(
            f"out={path.parent}: recipes cannot be written there: {error.strerror}", "give another folder with out=DIR"
        ) from None


def _write(path: Path, advice: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(_finite(advice), ensure_ascii=False, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written: {error.strerror}", "give another path") from None


def _finite(value: Any) -> Any:
    """JSON knows no NaN: what could not be told is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
