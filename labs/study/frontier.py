"""Reward against KL for algorithms of RL and direct losses on equal model, data and budget.

Equal are: the start model; the votes, all by one gold reward, from which direct losses learn at first hand and RL through one reward model;
the prompts (those that were voted on); the number of answers that are trained on; optimizer and learning rate.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from keel.rewards.sources.model import ModelSource
from labs.study.curves import area, envelope, pareto, spread, standard_error
from labs.study.ways import BATCH, SAMPLES, Looks, preferred, reinforced
from labs.study.world import ANSWERS, Meter, Point, World, ending

log = logging.getLogger("keel")
_RL: dict[str, dict[str, Any]] = {name: {"name": name} for name in ("ppo", "grpo", "rloo")}
_DIRECT: dict[str, dict[str, Any]] = {name: {"name": name} for name in ("dpo", "ipo", "kto", "simpo")}
ALGORITHMS = (*_RL, *_DIRECT)
_PRICES = (0.02, 0.1, 0.5)  # of a nat of KL, in RL
_BETAS: Mapping[str, tuple[float, ...]] = {
    "dpo": (0.02, 0.1, 0.5),
    "ipo": (0.02, 0.1, 0.5),
    "kto": (0.02, 0.1, 0.5),
    "simpo": (0.5, 2.0, 8.0),  # it has no reference: beta is the slope of the loss
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done. The defaults are what the documentation shows."""

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 16  # of RL; direct losses have steps for as many answers
    world: int = 0  # seed of gold reward and start
    algorithms: tuple[str, ...] = ALGORITHMS
    voted: int = 96  # prompts that are voted on, four votes each
    noise: float = 1.0
    epochs: int = 4  # of the reward model over the votes
    held_out: int = 32
    samples: int = 8
    every: int = 4
    kls: tuple[float, ...] = (2.0, 5.0, 10.0, 15.0)  # at which rewards are compared


@dataclass(frozen=True, slots=True)
class Run:
    """One algorithm at one strength: the same stops for all seeds."""

    algorithm: str
    strength: float  # price of a nat of KL, or beta
    seeds: tuple[tuple[Point, ...], ...]


def settings(algorithm: str, strength: float) -> dict[str, Any]:
    """The algorithm as a recipe has it, at a strength."""
    return {**_RL[algorithm], "kl": {"coef": strength}} if algorithm in _RL else {**_DIRECT[algorithm], "beta": strength}


def strengths(algorithm: str) -> tuple[float, ...]:
    return _PRICES if algorithm in _RL else _BETAS[algorithm]


def frontier(plan: Plan) -> dict[str, Any]:
    """Run everything; the result as it goes into the file."""
    found: dict[tuple[str, float], list[tuple[Point, ...]]] = {}
    with tempfile.TemporaryDirectory(prefix="keel-study-") as scratch:
        world = World(Path(scratch), plan.world)
        meter = Meter(world, plan.held_out, plan.samples)
        for seed in plan.seeds:
            votes = world.votes(plan.voted, plan.noise, seed)
            model, scale = world.proxy("medium", votes, plan.epochs, seed)
            source = ModelSource("reward model", model.scores, ending, scale)
            prompts, looks = {u.unit_id: u.prompt for u in votes}, Looks(plan.steps, plan.every)
            for name in plan.algorithms:
                for strength in strengths(name):
                    given = settings(name, strength)
                    if name in _RL:
                        points = reinforced(meter, source, given, prompts, looks, seed)
                    else:
                        points = preferred(meter, votes, source, given, looks, seed)
                    found.setdefault((name, strength), []).append(tuple(points))
                    last = points[-1]
                    log.info("seed %d, %s at %g: KL %.1f, gold %.2f, proxy %.2f", seed, name, strength, last.kl, last.gold, last.proxy)
    return report([Run(name, strength, tuple(seeds)) for (name, strength), seeds in found.items()], plan)


def report(runs: Sequence[Run], plan: Plan) -> dict[str, Any]:
    """A row a run with its last policy, the front among these, and what each algorithm gets for a KL."""
    rows = [_row(run) for run in runs]
    names = dict.fromkeys(run.algorithm for run in runs)
    for row, on_front in zip(rows, pareto([(r["kl"], r["gold"]) for r in rows]), strict=True):
        row["pareto"] = on_front
    return {
        "study": "frontier",
        "plan": asdict(plan),
        "equal": {
            "model": "the same start for all",
            "votes": plan.voted * ANSWERS // 2,
            "prompts": plan.voted,
            "trained_answers": plan.steps * BATCH * SAMPLES,
        },
        "runs": rows,
        "algorithms": [_summary(name, [r for r in runs if r.algorithm == name], plan.kls) for name in names],
    }


def _row(run: Run) -> dict[str, Any]:
    stops = list(zip(*run.seeds, strict=True))
    points = [{name: fmean(getattr(p, name) for p in stop) for name in ("kl", "gold", "proxy")} for stop in stops]
    errors = {f"{name}_se": standard_error([getattr(p, name) for p in stops[-1]]) for name in ("kl", "gold", "proxy")}
    seeds = [[asdict(p) for p in points] for points in run.seeds]
    return {"algorithm": run.algorithm, "strength": run.strength, **points[-1], **errors, "points": points, "seeds": seeds}


def _summary(name: str, runs: Sequence[Run], kls: Sequence[float]) -> dict[str, Any]:
    """The best gold reward for at most each KL, among all stops of all strengths of a seed, and the area below up to the last KL over that
    KL: the mean reward of a buyer whose budget is anything up to it. Means over seeds with intervals."""
    clouds = [[(p.kl, p.gold) for run in runs for p in run.seeds[k]] for k in range(len(runs[0].seeds))]
    at = {f"{kl:g}": spread([envelope(cloud, kl) for cloud in clouds])._asdict() for kl in kls}
    return {"algorithm": name, "gold_at_kl": at, "mean_gold": spread([area(cloud, kls[-1]) / kls[-1] for cloud in clouds])._asdict()}
