"""Reward models and policies that look at the picture, and such that cannot have learnt to: how far their outputs move when the picture
changes. The limits of the blindness check are chosen from it; the disease (labels that the text alone gives away) and remedies are shown.

One object a picture. The question names two looks, one of which is there, so the text alone says nothing.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from torch import Tensor

from keel.data.config import WithoutImageConfig
from keel.data.text_only import with_questions_alone
from keel.evaluate.blindness import changed, policy_moves, score_changes, scores_are_right
from keel.evaluate.statistics import wilson
from keel.learner.config import OptimConfig
from keel.loops.config import LoopConfig
from keel.loops.offline import Sides
from keel.methods.objectives.common import branch_sums
from keel.methods.objectives.reward import RewardObjective
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import ModelOptions
from keel.models.loading import HeadName, load_model
from keel.render.config import RenderConfig
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.draw import draw
from keel.simulate.scenes.scene import Look as Shown
from keel.simulate.scenes.scene import all_looks, chance, make_scene
from keel.simulate.scenes.speak import english
from keel.types import Demonstration, ImagePart, Message, Pair, Prompt, TextPart
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.session import renderer_of

Kind = Literal["healthy", "permuted", "by_text", "given_away", "without_image", "other_image", "counter"]
Start = Literal["scratch", "policy"]
KINDS: Mapping[Kind, str] = {
    "healthy": "labels follow the picture",
    "permuted": "each row has another row's picture",
    "by_text": "labels follow the text alone",
    "given_away": "labels follow the picture, and better answers are worded otherwise in 95% of the rows",
    "without_image": "the same, with questions without their picture (data.without_image.share=0.5)",
    "other_image": "the same, with every row again before another row's picture, as a tie",
    "counter": "the same, with as many rows worded the other way round",
}
SCENES = SceneConfig(objects=(1, 1), shapes=2, colours=4, grid=2, pixels=56)
TELL = "Surely "
HELD_OUT = 1000  # their scenes are of other series
MODEL = "tiny:llava?std=0.08"
LR, REWARD_LR = 3e-3, 1e-3


OF_REWARDS: tuple[tuple[Kind, Start], ...] = (
    ("healthy", "scratch"),
    ("permuted", "scratch"),
    ("by_text", "scratch"),
    ("given_away", "scratch"),
    ("without_image", "scratch"),
    ("other_image", "scratch"),
    ("counter", "scratch"),
    ("healthy", "policy"),
    ("permuted", "policy"),
    ("by_text", "policy"),
    ("given_away", "policy"),
)
OF_POLICIES: tuple[Kind, ...] = ("healthy", "permuted", "by_text")
TRIED: Mapping[str, tuple[float, ...]] = {"reward": (0.01, 0.03, 0.1, 0.3), "policy": (0.001, 0.003, 0.01, 0.03, 0.1)}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is trained and measured."""

    seeds: tuple[int, ...] = (0, 1, 2)
    rows: int = 600
    held_out: int = 128
    steps: int = 300
    batch: int = 16

    @property
    def reward_steps(self) -> int:
        return max(1, self.steps // 2)

    def training(self, seed: int, steps: int, lr: float) -> Training:
        return Training(OptimConfig(lr=lr), LoopConfig(steps=steps, batch_size=self.batch), seed)


@dataclass(frozen=True, slots=True)
class Row:
    """A picture's file, what is on it, and another look that the question names."""

    image: str
    there: Shown
    absent: Shown
    turned: bool  # the question names the other look first

    def prompt(self, name: str) -> Prompt:
        named = [english(self.there), english(self.absent)]
        text = "Is it {} or {}?".format(*(reversed(named) if self.turned else named))
        return Prompt(name, (Message("user", (ImagePart(self.image), TextPart(text))),))


def looking(plan: Plan) -> dict[str, Any]:
    """Every kind with every seed: reward models of all kinds, policies that see and that are blind."""
    with tempfile.TemporaryDirectory(prefix="keel-looking-") as name:
        folder = Path(name)
        runs = [policy(kind, seed, folder, plan) for seed in plan.seeds for kind in OF_POLICIES]
        runs += [reward_model(kind, start, seed, folder, plan) for seed in plan.seeds for kind, start in OF_REWARDS]
    return found_in(runs, plan.held_out)


def found_in(runs: Sequence[Mapping[str, Any]], held_out: int) -> dict[str, Any]:
    """The runs with what is said of them: false alarms (of models that see) and misses (of blind ones) at each limit, by statistic. Whether
    a model sees is told by held-out questions, whose text says nothing: it is right more often than a coin, surely."""
    rates: list[dict[str, Any]] = []
    for of, statistic in (("reward", "mean"), ("reward", "median"), ("policy", "mean")):
        most: dict[bool, list[float]] = {True: [], False: []}
        for r in (r for r in runs if r["of"] == of):
            most[sees(r, held_out)].append(most_of(r, statistic))
        for limit in TRIED[of]:
            alarms, misses = sum(x < limit for x in most[True]), sum(x >= limit for x in most[False])
            counts = {"alarms": alarms, "sees": len(most[True]), "misses": misses, "blind": len(most[False])}
            rates.append({"of": of, "statistic": statistic, "limit": limit, **counts})
    return {"study": "looking", "runs": [{**r, "sees": sees(r, held_out)} for r in runs], "rates": rates}


def sees(run: Mapping[str, Any], held_out: int) -> bool:
    """Its share of right answers to ``held_out`` questions is above a half with its whole 95% interval."""
    return wilson(run["right"] * held_out, held_out).low > 0.5


def most_of(run: Mapping[str, Any], statistic: str = "mean") -> float:
    """How far the change of the image that a model sees best moves it; a policy's numbers are means."""
    return max(x[statistic] if isinstance(x, Mapping) else x for x in run["moved"].values())


def rows_of(folder: Path, n: int, seed: int) -> list[Row]:
    """``n`` pictures in ``folder``, each with a question about its colour."""
    found: list[Row] = []
    for i in range(n):
        scene, rng = make_scene(SCENES, seed, i), chance("question", seed, i)
        file = folder / f"{seed}-{i}.png"
        if not file.exists():
            draw(scene, SCENES).save(file)
        there = scene.things[0].look
        others = [look for look in all_looks(SCENES) if look.shape == there.shape and look != there]
        found.append(Row(str(file), there, rng.choice(others), rng.random() < 0.5))
    return found


def pairs(rows: Sequence[Row], kind: Kind, seed: int) -> list[Pair]:
    """Labels of this kind."""
    rng = random.Random(seed)
    if kind == "permuted":
        images = [row.image for row in rows]
        rng.shuffle(images)
        rows = [replace(row, image=image) for row, image in zip(rows, images, strict=True)]
    found = [_pair(f"r{i}", row, kind, rng) for i, row in enumerate(rows)]
    if kind == "other_image":
        turned = [*rows[1:], rows[0]]
        found += [
            replace(
                pair,
                record_id=f"{pair.record_id}~other",
                prompt=replace(row, image=other.image).prompt(f"{pair.record_id}~"),
                label=0.5,
                tie=1.0,
            )
            for pair, row, other in zip(found, rows, turned, strict=True)
        ]
    if kind == "without_image":
        found = [r for r in with_questions_alone(found, WithoutImageConfig(share=0.5), seed, "study")[0] if isinstance(r, Pair)]
    return found


def _pair(name: str, row: Row, kind: Kind, rng: random.Random) -> Pair:
    better, worse = english(row.there), english(row.absent)
    if kind == "by_text" and better > worse:
        better, worse = worse, better
    if kind not in ("healthy", "permuted", "by_text"):
        usual = rng.random() < (0.5 if kind == "counter" else 0.95)
        better, worse = (TELL + better, worse) if usual else (better, TELL + worse)
    return Pair(name, row.prompt(name), (Message("assistant", better),), (Message("assistant", worse),))


def reward_model(kind: Kind, start: Start, seed: int, folder: Path, plan: Plan) -> dict[str, Any]:
    """Train one, from random weights or from a policy that has learnt to look (made where it is not there yet), and measure it on held-out
    rows whose text says nothing."""
    base = folder / f"policy-{seed}"
    if start == "policy" and not base.exists():
        policy("healthy", seed, folder, plan)
    heads = frozenset[HeadName]({"score"})
    spec, steps, lr = (str(base), plan.reward_steps, REWARD_LR) if start == "policy" else (f"{MODEL}&seed={seed}", plan.steps, LR)
    loaded = load_model(spec, ModelOptions(precision="fp32"), heads=heads, seed=seed, new_heads=True)
    renderer = renderer_of(loaded, RenderConfig())
    train = renderer.units(pairs(rows_of(folder, plan.rows, seed), kind, seed))[0]
    held_out = renderer.units(pairs(rows_of(folder, plan.held_out, seed + HELD_OUT), "healthy", seed))[0]
    parts = OfflineParts.of(loaded, RewardObjective(), Sides(tuple(train)), plan.training(seed, steps, lr))
    shown, whole = changed(held_out, renderer.twins), changed(held_out, renderer.twins, plan.held_out)
    before = score_changes(parts.learner.scores, shown)
    norms = trained(parts, steps)
    moved = score_changes(parts.learner.scores, shown)
    numbers = {"right": parts.learner.evaluate(held_out, parts.objective).metrics["accuracy"], "norms": norms}
    numbers |= {"before": _both(before), "moved": _both(moved), "right_with": scores_are_right(parts.learner.scores, whole)}
    return {"of": "reward", "kind": kind, "start": start, "seed": seed, **numbers}


def policy(kind: Kind, seed: int, folder: Path, plan: Plan) -> dict[str, Any]:
    """Teach one to answer, and measure it on held-out rows; it is right where the true answer is the likelier one. ``by_text``: what comes
    first in the alphabet is answered."""
    loaded = load_model(f"{MODEL}&seed={seed}", ModelOptions(precision="fp32"), seed=seed)
    renderer = renderer_of(loaded, RenderConfig())
    labels = pairs(rows_of(folder, plan.rows, seed), kind, seed)
    told = pairs(rows_of(folder, plan.held_out, seed + HELD_OUT), "healthy", seed)
    train, held_out = (tuple(renderer.units([Demonstration(p.record_id, p.prompt, p.chosen) for p in of])[0]) for of in (labels, told))
    parts = OfflineParts.of(loaded, SupervisedObjective(), Sides(train), plan.training(seed, plan.steps, LR))
    shown = changed(held_out, renderer.twins)
    look, known = policy_moves(parts.learner.divergences, shown), parts.learner.information(held_out)
    norms = trained(parts, plan.steps)
    if kind == "healthy":
        loaded.model.save(folder / f"policy-{seed}", loaded.tokenizer, loaded.processor)
    after = policy_moves(parts.learner.divergences, shown)
    assert look is not None
    assert after is not None
    numbers = {"before": look.moved, "known_before": known, "moved": after.moved, "known": parts.learner.information(held_out)}
    others = tuple(renderer.units([Demonstration(p.record_id, p.prompt, p.rejected) for p in told])[0])
    true, false = (branch_sums(us, parts.learner.logprobs(us)) for us in (held_out, others))
    return {
        "of": "policy",
        "kind": kind,
        "start": "scratch",
        "seed": seed,
        "right": float((true > false).float().mean()),
        **numbers,
        "norms": norms,
    }


def trained(parts: OfflineParts, steps: int) -> dict[str, list[float]]:
    """Train; the gradient's norm by part, as means over ten steps."""
    trainer = parts.trainer()
    found = [trainer.step(step) for step in range(steps)]
    names = [name for name in found[0] if name.startswith("grad_norm")]
    return {name: [fmean(m[name] for m in found[k : k + 10]) for k in range(0, steps, 10)] for name in names}


def _both(moved: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    return {name: {"mean": float(x.mean()), "median": float(x.median())} for name, x in moved.items()}
