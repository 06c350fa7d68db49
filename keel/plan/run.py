"""`keel plan RECIPE`: what a run takes, whether it fits, what to change, how long it goes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from keel.core.errors import ConfigError
from keel.plan.fit import fit
from keel.plan.machine import Machine, measure_machine
from keel.plan.measured import corrected, factors_of, run_probe
from keel.plan.measured import rates_of as measured_rates
from keel.plan.memory import beside_the_gpu, memory
from keel.plan.read import Asked, amount_of, read, work_of
from keel.plan.seconds import Rates, rates_of, seconds
from keel.plan.shape import read_shape
from keel.plan.text import Lang, show
from keel.plan.work import Factors, Mode, Work
from keel.runs.durable import write_atomic

_UNITS = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2.0**20, "GIB": 2.0**30, "TIB": 2.0**40}


def run_plan(
    recipe: Path,
    overrides: Sequence[str] = (),
    *,
    verb: str = "",
    shape: str = "",
    available: str = "",
    ranks: int = 1,
    share: bool = True,
    measure: bool = False,
    json_file: str = "",
    lang: Lang = "en",
    console: Console | None = None,
) -> dict[str, Any]:
    """Plan, print, write ``json_file`` where given; ``fits`` of what is returned is false where no change is enough. Raises UserError."""
    if measure and (shape or ranks > 1):
        raise ConfigError("--measure runs the recipe's own model in one process", "leave out --measure, or --shape and --ranks")
    asked = read(recipe, overrides, verb, read_shape(shape) if shape else None, ranks, share)
    limit = bytes_of(available) if available else None  # a word that is no size is told before anything is measured
    work, factors, rates = work_of(asked), Factors(), None
    if measure:
        probed = run_probe(asked.verb, asked.recipe)
        work = corrected(work, probed)
        factors, rates = factors_of(work, probed), measured_rates(probed)
    plan = make_plan(asked, work, factors, rates, measure_machine(asked.recipe.model_options), limit, shape)
    show(plan, lang, console or Console())
    if json_file:
        _write(Path(json_file), plan)
    return plan


def make_plan(
    asked: Asked, work: Work, factors: Factors, rates: Rates | None, machine: Machine, limit: float | None, shape: str = ""
) -> dict[str, Any]:
    """All of it as JSON. ``limit``: the memory that there is, in place of the machine's."""
    found, amount = memory(work, factors), amount_of(asked, work)
    fitted = fit(work, factors, float(machine.memory) if limit is None else limit)
    mode: Mode = "lora" if work.rank else "full"
    rates = rates or rates_of(machine, work.size, mode, amount.scored)
    return {
        "verb": asked.verb,
        "model": {"spec": shape or asked.recipe.model, "parameters": work.size.parameters, "trained": round(work.trained)},
        "work": {
            "mode": mode,
            "microbatch": round(work.microbatch),
            "inference": round(work.inference),
            "rows": work.rows,
            "answer": round(work.answer),
            "ranks": work.ranks,
            "beside_the_gpu": round(beside_the_gpu(work)),
            "bytes_per_value": work.value,
            "device": work.device,
            "checkpointing": work.checkpointing,
            "optimizer": work.optimizer,
        },
        "memory": found.to_json(),
        "factors": factors.to_json(),
        "available": machine.memory if limit is None else round(limit),
        "limit_given": limit is not None,
        "fit": fitted.to_json(),
        "fits": fitted.enough is not None,
        "time": {"steps": amount.steps, "seconds": [round(s, 2) for s in seconds(amount, rates)], "rates": rates.to_json()},
    }


def bytes_of(text: str) -> float:
    """``24GB`` -> 24e9; also MB, TB, MiB, GiB, TiB; a bare number is GB. Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?\s*", text, re.IGNORECASE)
    if found is None or float(found.group(1)) == 0:
        raise ConfigError(f"--memory {text}: no size", "write 24GB, 80GiB or 512MB")
    unit = (found.group(2) or "GB").upper()
    if unit not in _UNITS:
        raise ConfigError(f"--memory {text}: no size", "write 24GB, 80GiB or 512MB")
    return float(found.group(1)) * _UNITS[unit]


def _write(path: Path, plan: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(plan, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"--json {path}: cannot be written: {error.strerror}", "give another path") from None
