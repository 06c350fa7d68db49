"""How well a way of a race does on held-out prompts: scores by prompt, in [0, 1] for preferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from torch import Tensor

from keel.advise.config import AdviseRecipe
from keel.advise.race_data import Sides
from keel.advise.ways import Way
from keel.core.errors import DataError
from keel.core.hashing import permutation
from keel.evaluate.compare import PromptAnswers
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.render.targets import pairs_to_units
from keel.runs.durable import write_atomic
from keel.runs.logs import read as read_rows
from keel.types import Pair, PairTarget, Unit, Unpaired, UnpairedTarget
from keel.verbs.run import run_verb
from keel.verbs.shared.session import renderer_of

Scores = Mapping[str, Sequence[float]]  # by prompt


@dataclass
class HeldOut:
    """The held-out side of a race, and what the starting model says of it (taken once)."""

    config: AdviseRecipe
    folder: Path
    data: Sides

    def score(self, way: Way, steps: int) -> Scores:
        """Scores of the weights that ``way`` left in its run directory after ``steps`` steps."""
        final = str(self.folder / way.name / "final")
        if way.needs == "checkable":
            return self._verified(way, final, steps)
        return self._rewarded(final) if way.kind == "reward" else self._gained(final)

    @cached_property
    def _start(self) -> tuple[list[Unit], list[tuple[Tensor, ...]]]:
        loaded = load_model(self.config.model, self.config.model_options)
        units = self._units(renderer_of(loaded, RenderConfig()))
        return units, LocalInference(loaded.model, BatchConfig()).logprobs(units)

    def _gained(self, final: str) -> Scores:
        """By the log-probability that answers gained over the starting model."""
        units, before = self._start
        after = LocalInference(load_model(final, self.config.model_options).model, BatchConfig()).logprobs(units)
        gains = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(after, before, strict=True)]
        if isinstance(units[0].target, UnpairedTarget):
            return wanted_over_unwanted(units, [float(g[0].sum()) / max(1, g[0].shape[0]) for g in gains])
        return pairs_right(units, [[float(t.sum()) for t in g] for g in gains])

    def _rewarded(self, final: str) -> Scores:
        """By the scores of a reward model."""
        loaded = load_model(final, self.config.model_options, heads=frozenset({"score"}))
        units = self._units(renderer_of(loaded, RenderConfig()))
        return pairs_right(units, [s.tolist() for s in LocalInference(loaded.model, BatchConfig()).scores(units)])

    def _verified(self, way: Way, final: str, steps: int) -> Scores:
        """Rewards of fresh answers to the held-out prompts, through `keel eval` against the starting model."""
        recipe = yaml.safe_load((self.folder / f"{way.name}.yaml").read_text(encoding="utf-8"))
        race = self.config.race
        evaluate = {"samples": race.samples, "max_tokens": race.max_tokens, "kl_prompts": 0, "languages": [], "seed": self.config.seed}
        evaluate["prompts"] = [str(self.folder / self.data.file(way, "held_out"))]
        asked = {k: recipe[k] for k in ("model_options", "rewards", "seed")}
        asked |= {"model": final, "baseline": self.config.model, "evaluate": evaluate}
        path, run_dir = self.folder / f"{way.name}_eval.yaml", self.folder / f"{way.name}_eval_{steps}"
        write_atomic(path, yaml.safe_dump(asked, sort_keys=False).encode())
        run_verb("eval", path, [f"run_dir={run_dir}"])
        name = recipe["rewards"][0]["name"]
        rows = [PromptAnswers.from_row(r) for r in read_rows(run_dir / "samples" / "evaluation.jsonl")]
        scores = {r.prompt_id: [s for a in r.after if (s := a.score(name)) is not None] for r in rows}
        return {k: v for k, v in scores.items() if v}

    def _units(self, renderer: Renderer) -> list[Unit]:
        rows = self.data.held_out
        pairs, answers = [r for r in rows if isinstance(r, Pair)], [r for r in rows if isinstance(r, Unpaired)]
        units, refused = pairs_to_units(renderer, pairs) if pairs else renderer.units(answers)
        if not units:
            why = f": {refused[0].reason}" if refused else ""
            raise DataError(f"none of {len(rows)} held-out records of the race can be rendered{why}", "see the limits in render.*")
        return units


def pairs_right(units: Sequence[Unit], scores: Sequence[Sequence[float]]) -> Scores:
    """1 for a preference that the scores agree with, 0 for one that they do not, 1/2 for equal scores; ties of the labels are left out."""
    found: dict[str, list[float]] = {}
    for i, (unit, of) in enumerate(zip(units, scores, strict=True)):
        assert isinstance(unit.target, PairTarget)
        for edge in unit.target.edges:
            lead = (of[edge.winner] - of[edge.loser]) * (1.0 if edge.label > 0.5 else -1.0)
            if edge.label != 0.5:
                found.setdefault(f"{i}", []).append(1.0 if lead > 0 else 0.5 if lead == 0 else 0.0)
    return found


def wanted_over_unwanted(units: Sequence[Unit], scores: Sequence[float]) -> Scores:
    """The share of unwanted answers that each wanted one is above: its mean is the area under the ROC curve. Of many answers, up to 200
    unwanted ones drawn by hash stand for all."""
    good: list[tuple[str, float]] = []
    bad: list[float] = []
    for i, (unit, score) in enumerate(zip(units, scores, strict=True)):
        assert isinstance(unit.target, UnpairedTarget)
        if unit.target.desirable[0]:
            good.append((f"{i}", score))
        else:
            bad.append(score)
    against = [bad[i] for i in permutation(len(bad), "race")[:200]]
    return {name: [sum(1.0 if s > b else 0.5 if s == b else 0.0 for b in against) / len(against)] for name, s in good}
