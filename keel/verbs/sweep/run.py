"""`keel sweep`: sample at each setting, score, rank, say which one to take."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.config import load as load_config
from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.evaluate.sweep import Cell, Ranked, least_surprising, rank
from keel.loops.gathering import sample_groups
from keel.render.renderer import Renderer
from keel.render.template import RefusedError
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rollout.local import LocalSampler
from keel.types import Encoded, Prompt, SampleRequest, SamplingParams
from keel.verbs.shared.judges import check_seen_by
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.session import load, set_machine
from keel.verbs.sweep.recipe import SweepRecipe

log = logging.getLogger("keel")


def run_sweep(model: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """``model``: a model, or a recipe (.yaml) that names one. Prints the table; returns it. Raises UserError."""
    path = Path(model) if model.endswith((".yaml", ".yml")) else None
    recipe = load_config(SweepRecipe, path, [*([] if path else [f"model={json.dumps(model)}"]), *overrides])
    set_machine(recipe)
    data = load_data(DataConfig(path=list(recipe.prompts), limit=recipe.limit), recipe.seed)
    for bad in data.bad[:5]:
        log.warning("%s:%s: %s is left out: %s", bad.file, bad.line, bad.field or "the row", bad.reason)
    check_seen_by(recipe.rewards, data.prompts())
    loaded, renderer = load(recipe)
    loaded.model.freeze()
    prompts, refused = _encoded(data.prompts(), renderer, recipe.max_tokens)
    sampler = LocalSampler(loaded.model, renderer.decode, recipe.sampler)
    rewards = rewards_of(recipe.rewards, recipe, loaded.model, renderer)
    cells: list[Cell] = []
    for temperature, top_p in recipe.grid:
        cells.append(_cell(recipe, renderer, sampler, prompts, rewards, temperature, top_p))
        log.info("%s: %d prompts", cells[-1].name, len(prompts))
    for cell in cells:
        if not any(math.isfinite(s) for s in cell.scores_P):
            raise DataError(f"{cell.name}: no answer could be scored", "try the reward on some answers first: keel score")
    ranked = rank(cells, level=recipe.level, draws=recipe.draws, seed=recipe.seed)
    chosen = least_surprising(ranked, recipe.now_temperature, recipe.now_top_p)
    for line in table(ranked, chosen, recipe):
        print(line)
    left = {"bad_rows": len(data.bad), "refused": [{"prompt": name, "reason": why} for name, why in refused]}
    where = {"temperature": chosen.cell.temperature, "top_p": chosen.cell.top_p}
    return {"model": recipe.model, "prompts": len(prompts), "settings": [r.to_json() for r in ranked], "choice": where, "left_out": left}


def _encoded(prompts: Sequence[Prompt], renderer: Renderer, room: int) -> tuple[dict[str, tuple[Prompt, Encoded]], list[tuple[str, str]]]:
    """Prompts by id with their tokens, and those that cannot be rendered, with the reason. Raises DataError when none is left."""
    found: dict[str, tuple[Prompt, Encoded]] = {}
    refused: list[tuple[str, str]] = []
    for prompt in prompts:
        try:
            found[prompt.prompt_id] = prompt, renderer.prompt(prompt, room)
        except RefusedError as error:
            refused.append((prompt.source_id or prompt.prompt_id, error.reason))
    if refused:
        log.warning("%d prompts are refused (first: %s: %s)", len(refused), *refused[0])
    if len(found) < 2:
        raise DataError(f"{len(found)} prompts are left", "two or more are needed for an interval; look at the rows with keel data show")
    return found, refused


def _cell(
    recipe: SweepRecipe,
    renderer: Renderer,
    sampler: LocalSampler,
    prompts: dict[str, tuple[Prompt, Encoded]],
    rewards: Sequence[Reward],
    temperature: float,
    top_p: float,
) -> Cell:
    params = SamplingParams(
        max_tokens=recipe.max_tokens,
        temperature=temperature,
        top_p=top_p,
        stop_tokens=renderer.stop_tokens,
        banned_tokens=renderer.banned_tokens,
    )
    n = recipe.samples if temperature else 1
    requests = [SampleRequest(name, encoded, n, params, recipe.seed) for name, (_, encoded) in prompts.items()]
    groups = apply_rewards(sample_groups(sampler, requests, {name: prompt for name, (prompt, _) in prompts.items()}), rewards)
    return Cell(temperature, top_p, tuple(_mean(group.rewards_G.tolist(), group.valid_G.tolist()) for group in groups))


def _mean(rewards: Sequence[float], valid: Sequence[bool]) -> float:
    kept = [r for r, ok in zip(rewards, valid, strict=True) if ok]
    return sum(kept) / len(kept) if kept else math.nan


def table(ranked: Sequence[Ranked], chosen: Ranked, recipe: SweepRecipe) -> list[str]:
    """For the terminal."""
    lines = [f"{'temperature':>11} {'top_p':>6} {'score':>9} {'interval':>21}  {'to the best':>22}"]
    for r in ranked:
        difference = "best" if r.to_best is None else f"{r.to_best.mean:+.4g} [{r.to_best.low:+.4g}, {r.to_best.high:+.4g}]"
        mark = " worse" if not r.kept else " <- take this" if r is chosen else ""
        interval = f"[{r.mean.low:.4g}, {r.mean.high:.4g}]"
        lines.append(f"{r.cell.temperature:>11g} {r.cell.top_p:>6g} {r.mean.mean:>9.4g} {interval:>21}  {difference:>22}{mark}")
    now = f"temperature {recipe.now_temperature:g}, top_p {recipe.now_top_p:g}"
    return [*lines, f"take {chosen.cell.name}: not shown to be worse than the best, and nearest to what is used now ({now})"]
