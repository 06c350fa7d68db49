"""The parts between recipe and training: put together by hand they train as a recipe's do; what is wrong with them is seen; their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.errors import SelfTestError
from keel.core.events import EventBus
from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.loops.config import LoopConfig
from keel.loops.harness import TrainResult
from keel.loops.offline import OfflineTrainer, Sides
from keel.methods import AlgorithmConfig, resolve
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.text import TextSource
from keel.rollout.local import LocalSampler
from keel.types import Demonstration, Group, Prompt, SamplingParams, Unit
from keel.verbs.rl.build import RLParts
from keel.verbs.sft.recipe import SFTRecipe
from keel.verbs.shared.parts import OfflineParts, run_parts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.session import Session, renderer_of

Rows = Callable[[Path], list[dict[str, Any]]]
Finished = Callable[[str], Path]
LOOP = LoopConfig(steps=4, batch_size=4)
BUS = EventBus([])


def tiny(render: RenderConfig | None = None) -> tuple[Loaded, Renderer]:
    loaded = load_model("tiny:llama?seed=1", ModelOptions(precision="fp32"))
    return loaded, renderer_of(loaded, render or RenderConfig())


def trained_on(path: Path, **data: Any) -> Dataset:
    """The training side of a tiny recipe's data."""
    return load_data(DataConfig(path=str(path), **data), 0).split_by_prompt(0.2, 0, "split")[0]


def demonstrated(root: Path) -> OfflineParts:
    loaded, renderer = tiny(RenderConfig(system="You help customers of an outdoor shop."))
    data = trained_on(root / "recipes/quickstart/demonstrations.jsonl", limit=48)
    units, _ = renderer.units(data.of(Demonstration))
    training = Training(OptimConfig(lr=3e-3, warmup_ratio=0.1), LOOP)
    return OfflineParts.of(loaded, SupervisedObjective(), Sides(tuple(units)), training)


def test_sft_by_hand_is_that_of_the_recipe(root: Path, finished: Finished, rows: Rows) -> None:
    trainer = demonstrated(root).trainer()
    losses = [trainer.step(step)["loss"] for step in range(4)]
    assert losses == pytest.approx([row["loss"] for row in rows(finished("sft") / "metrics.jsonl") if "loss" in row], rel=1e-6)


def test_learner_and_loop_have_the_settings_of_the_training(root: Path) -> None:
    """A schedule that ends with the loop, and one seed for both; beside a learner and a loop that are made apart."""
    parts = demonstrated(root)
    training = Training(OptimConfig(lr=3e-3, schedule="linear", warmup_steps=0), LOOP, 7)
    units, objective = parts.units, parts.objective
    made = OfflineParts.of(tiny()[0], objective, units, training)
    apart = LocalLearner(tiny()[0].model, training.optim, BatchConfig(), 4, 7)
    trainers = made.trainer(), OfflineTrainer(apart, objective, units, LOOP, 7)
    ours, theirs = ([trainer.step(step) for step in range(4)] for trainer in trainers)
    for name in ("loss", "lr", "grad_norm"):
        assert [m[name] for m in ours] == pytest.approx([m[name] for m in theirs], rel=1e-6), name
    assert [m["lr"] for m in ours] == pytest.approx([3e-3, 2.25e-3, 1.5e-3, 0.75e-3])
    assert made.learner.seed == 7
    sampler, ppo = LocalSampler(parts.loaded.model, lambda tokens_T: ""), resolve(AlgorithmConfig(name="ppo", epochs=3, minibatches=2), 4)
    asked = {"train": {str(i): (Prompt(str(i), text=""), units.train[i].prompt) for i in range(4)}}
    critic = load_model("tiny:llama", ModelOptions(precision="fp32"), heads=frozenset({"value"}), new_heads=True), OptimConfig(lr=1e-2)
    rl = RLParts.of(parts.loaded, ppo, sampler, lambda groups: groups, asked, SamplingParams(4), 4, training, critic=critic)
    assert rl.critic is not None
    assert (rl.policy.plan.updates, rl.critic.plan.updates) == (4 * 3 * 2, 4 * 3 * 2)
    assert (rl.policy.config.lr, rl.critic.config.lr) == (3e-3, 1e-2)
    assert (rl.policy.seed, rl.critic.seed, rl.trainer().seed) == (7, 7, 7)


def test_rl_by_hand_is_that_of_the_recipe(root: Path, finished: Finished, rows: Rows) -> None:
    """With a function of this process in place of the recipe's worker."""
    loaded, renderer = tiny()
    asked = {p.prompt_id: (p, renderer.prompt(p, 6)) for p in trained_on(root / "recipes/tiny/prompts.jsonl").prompts()}

    def share_of_e(prompt: Prompt, answer: str) -> float:
        return answer.count("e") / max(1, len(answer))

    def reward(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return apply_rewards(groups, [Reward(TextSource("share_of_e", share_of_e))])

    params = SamplingParams(6, stop_tokens=renderer.stop_tokens, banned_tokens=renderer.banned_tokens)
    training = Training(OptimConfig(lr=3e-3, warmup_steps=1, schedule="constant"), LOOP, 0, BatchConfig())
    sampler, algorithm = LocalSampler(loaded.model, renderer.decode), resolve(AlgorithmConfig(name="grpo"), 4)
    parts = RLParts.of(loaded, algorithm, sampler, reward, {"train": asked}, params, 4, training)
    parts.self_test(BUS)
    trainer = parts.trainer()
    steps = [trainer.step(step) for step in range(4)]
    stage = [row for row in rows(finished("grpo") / "metrics.jsonl") if "grad_norm" in row]
    for name in ("reward", "loss", "grad_norm", "kl"):
        assert [m[name] for m in steps] == pytest.approx([row[name] for row in stage], rel=1e-5, abs=1e-9), name


def test_the_self_test_reads_the_parts(root: Path) -> None:
    parts = demonstrated(root)
    parts.self_test(BUS)

    def untrained(unit: Unit) -> Unit:
        return replace(unit, branches=tuple(replace(b, trained_T=torch.zeros_like(b.trained_T)) for b in unit.branches))

    def referred(unit: Unit) -> Unit:
        signals = {"ref_logprobs": torch.zeros(len(unit.branches[0]))}
        return replace(unit, branches=(replace(unit.branches[0], signals=signals),))

    empty = replace(parts, units=Sides(tuple(map(untrained, parts.units.train))))
    with pytest.raises(SelfTestError, match="loss-mask"):
        empty.self_test(BUS)
    away = replace(parts, units=Sides(tuple(map(referred, parts.units.train))))
    away.self_test(BUS)  # a reference that is another model may lie anywhere
    with pytest.raises(SelfTestError, match="policy and reference differ"):
        replace(away, starts_at_reference=True).self_test(BUS)
    replace(away, starts_at_reference=True).self_test(BUS, ["reference"])


@dataclass
class Noted:
    """Parts that note what is asked of them."""

    interrupted: bool
    asked: list[str] = field(default_factory=list[str])

    def self_test(self, bus: EventBus, skip: Sequence[str] = ()) -> None:
        self.asked.append(f"self_test without {', '.join(skip)}")

    def train(self, session: Session) -> TrainResult:
        self.asked.append("train")
        return TrainResult(2, self.interrupted, False, {"loss": 1.0}, {}, {}, 0.0)

    def save(self, session: Session) -> dict[str, Any]:
        self.asked.append("save")
        return {"units": 3}

    def close(self) -> None:
        self.asked.append("close")


@pytest.mark.parametrize("interrupted", [False, True])
def test_build_self_test_train_save(interrupted: bool, tmp_path: Path) -> None:
    """In this order; a run that was interrupted saves nothing, one that is finished is not built again."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Yes."}\n')
    fields = {"model": "tiny:llama", "data": {"path": str(tmp_path / "rows.jsonl")}, "held_out": 0}
    recipe = SFTRecipe.model_validate({**fields, "settings": {"skip_self_test": ["reference"], "threads": torch.get_num_threads()}})
    parts = Noted(interrupted)
    built: list[int] = []

    def build(session: Session, recipe: SFTRecipe, splits: Any) -> Noted:
        built.append(len(splits.train))
        return parts

    found = [run_parts("sft", build, recipe, tmp_path / "run") for _ in range(2)]
    once = ["self_test without reference", "train", *(["save"] if not interrupted else []), "close"]
    assert (parts.asked, built) == ((once * 2, [1, 1]) if interrupted else (once, [1]))
    assert (tmp_path / "run" / "summary.json").exists() is not interrupted
    assert found[0].get("units") == found[1].get("units") == (None if interrupted else 3)
