"""A race: the best few ways train a little, the better half trains on, until one is left (successive halving: Jamieson & Talwalkar 2015,
arXiv:1502.07943). All through the real stages, on the same training data, measured on the same held-out prompts.

Preferences: the share of held-out pairs whose preferred answer gained more log-probability over the starting model than the other one. For
any policy that log-ratio is the reward it is the optimum of (Rafailov et al. 2023, arXiv:2305.18290, eq. 5), so losses with and without a
reference can be compared, and with a reward model's own scores (as in RewardBench, Lambert et al. 2024, arXiv:2403.13787). Where answers
have labels of their own, a wanted answer is set against an unwanted one, by the mean per token, since their prompts differ.
Verifiers: the mean reward of fresh answers.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keel.advise.config import AdviseRecipe
from keel.advise.measure import Measures
from keel.advise.race_data import Sides, sides
from keel.advise.race_score import HeldOut, Scores
from keel.advise.rank import Ranked
from keel.advise.ways import Way, start
from keel.core.errors import UserError
from keel.core.hashing import digest_bytes
from keel.evaluate.statistics import Interval, mean_interval, paired_difference, wilson
from keel.plan.work import Mode
from keel.runs.durable import write_atomic
from keel.verbs.run import run_verb

log = logging.getLogger("keel")
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Result:
    """A way after ``steps`` steps."""

    way: Way
    steps: int
    scores: Scores

    @property
    def interval(self) -> Interval:
        return interval(self.scores)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.way.name, "steps": self.steps, **self.interval.to_json()}


def interval(scores: Scores) -> Interval:
    """Mean over prompts with its 95% interval; Wilson's where all prompts are the same."""
    means = [math.fsum(v) / len(v) for v in scores.values()]
    if min(means) == max(means) and 0.0 <= means[0] <= 1.0:
        return wilson(math.fsum(means), len(means))
    return mean_interval(scores, draws=DRAWS)


def family(way: Way) -> str:
    """Ways that a race can compare: by labels, or by a verifier. "" for one that it cannot run."""
    if way.needs == "checkable":
        return "verifier"
    return "labels" if way.kind in ("sft", "referred", "reference_free") or way.name == "best_of_n" else ""


def entrants(ranking: Sequence[Ranked], most: int) -> list[Way]:
    """The best ways of the leader's family that fit. A reward model stands for all ways that begin with one.
    Raises UserError when there are not two."""
    able = [r.way for r in ranking if family(r.way) and r.fits_memory is not False]
    found = [way for way in able if family(way) == family(able[0])][:most] if able else []
    if len(found) < 2:
        names = ", ".join(w.name for w in found) or "none"
        raise UserError(f"--race needs two ways that can be compared, and these data leave {names}", "take the advice without --race")
    return found


def run_race(config: AdviseRecipe, m: Measures, ranking: Sequence[Ranked], mode: Mode) -> dict[str, Any]:
    """Run it in ``out/race/...``; the same race started again goes on where it was. Returns rounds, intervals and the winner."""
    ways = entrants(ranking, config.race.ways)
    data = sides(config, m, family(ways[0]))
    key = digest_bytes(json.dumps([config.model_dump(mode="json"), m.fingerprint, mode, data.fingerprint], sort_keys=True).encode())[:10]
    folder = Path(config.out) / "race" / key
    data.write(folder)
    held_out = HeldOut(config, folder, data)
    rounds: list[list[Result]] = []
    steps, left = config.race.steps, ways
    while True:
        results: list[Result] = []
        for way in left:
            _train(config, m, way, held_out, steps, mode)
            results.append(Result(way, steps, held_out.score(way, steps)))
        results.sort(key=lambda r: -r.interval.mean)
        rounds.append(results)
        for r in results:
            log.info("race, %d steps: %s %.3f [%.3f, %.3f]", steps, r.way.name, r.interval.mean, r.interval.low, r.interval.high)
        if len(left) <= 2:
            break
        left, steps = [r.way for r in results[: math.ceil(len(results) / 2)]], 2 * steps
    return _result(rounds, family(ways[0]), folder, data)


def _result(rounds: Sequence[Sequence[Result]], kind: str, folder: Path, data: Sides) -> dict[str, Any]:
    best, *others = rounds[-1]
    lead = paired_difference(others[0].scores, best.scores)
    last = {r.way.name: r for results in rounds for r in results}
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "folder": str(folder),
        "measure": "held-out preference accuracy" if kind == "labels" else "held-out reward",
        "train": len(data.train),
        "held_out_prompts": best.interval.n,
        "rounds": [[r.to_json() for r in results] for results in rounds],
        "ways": [r.to_json() for r in sorted(last.values(), key=lambda r: (-r.steps, -r.interval.mean))],
        "winner": best.way.name,
        "lead": {"over": others[0].way.name, **lead.to_json()},
        "clear": lead.low > 0.0,
    }


def _train(config: AdviseRecipe, m: Measures, way: Way, held_out: HeldOut, steps: int, mode: Mode) -> None:
    """Train, or train on, to ``steps`` steps. Raises KeyboardInterrupt when the run was interrupted; it goes on the next time."""
    folder, data = held_out.folder, held_out.data
    recipe_path = folder / f"{way.name}.yaml"
    begin = start(way, m, str(folder / data.file(way, "train")), config.model, mode, {})
    write_atomic(recipe_path, yaml.safe_dump(_short(begin.recipe, config, way, folder, data), sort_keys=False, allow_unicode=True).encode())
    summary = run_verb(begin.verb, recipe_path, [f"loop.steps={steps}", f"run_dir={folder / way.name}"])
    if summary.get("interrupted"):
        raise KeyboardInterrupt


def _short(recipe: Mapping[str, Any], config: AdviseRecipe, way: Way, folder: Path, data: Sides) -> dict[str, Any]:
    """A way's recipe for a race: constant learning rate, so that a longer run goes on from a shorter one; held-out data of the race."""
    race = config.race
    short = {**recipe, "seed": config.seed, "model_options": config.model_options.model_dump(mode="json")}
    short["data"] = {k: v for k, v in {**recipe["data"]}.items() if k != "convert"}
    short["held_out"] = {"path": str(folder / data.file(way, "held_out"))}
    short["optim"] = {"lr": way.lr * race.lr_factor, "schedule": "constant", "warmup_steps": 0}
    short["loop"] = {"steps": race.steps, "batch_size": race.batch_size, "probes": 0, "eval_at_start": False}
    if way.needs == "checkable":
        short |= {"samples": race.samples, "sampling": {"max_tokens": race.max_tokens}}
    return short


def with_result(ranking: Sequence[Ranked], race: Mapping[str, Any]) -> list[Ranked]:
    """The ranking with the winner first, where its lead is more than chance can make; else as it was."""
    first = next((r for r in ranking if r.way.name == race["winner"]), None) if race["clear"] else None
    return list(ranking) if first is None else [first, *(r for r in ranking if r is not first)]
