"""What the online loop keeps in step with a run: the sampler's weights, the moving reference, the composer, prices; what it asks once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keel.loops.config import LoopConfig
from keel.loops.online import Actors, OnlineTrainer
from keel.methods import AlgorithmConfig, resolve
from keel.rollout.scripted import ScriptedSampler
from keel.types import Encoded, Group, PolicyVersion, Prompt, SamplingParams, StepReport, Unit


class Learner:
    """Its weights are the number of its steps, which is their digest too. Log-probabilities are -1, as the sampler's are."""

    def __init__(self) -> None:
        self.made, self.progress, self.lr_scale, self.lr = 0, 0, 1.0, 0.5

    def weights(self) -> Any:
        return SimpleNamespace(digest=lambda: f"after {self.made}")

    def logprobs(self, units: Sequence[Unit]) -> list[tuple[torch.Tensor, ...]]:
        return [tuple(torch.full((len(b),), -1.0) for b in u.branches) for u in units]

    def forward_backward(self, units: Sequence[Unit], objective: Any) -> StepReport:
        return StepReport({"loss": 1.0, "policy/old_kl_avg": 0.0}, 1)

    def step(self) -> StepReport:
        self.made += 1
        return StepReport({"lr": self.lr}, 0)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {}

    def load_state(self, tensors: Any, state: Any) -> None:
        pass


class Sampler(ScriptedSampler):
    """Notes the weights that it is given."""

    def __init__(self, script: Mapping[str, list[list[int]]]) -> None:
        super().__init__(script, lambda text: [], lambda tokens: "")
        self.loaded: list[PolicyVersion] = []

    def load(self, version: PolicyVersion, weights: Any) -> None:
        self.loaded.append(version)
        super().load(version, weights)


class Moving:
    """A reference that notes the steps it is told of; its one weight is the newest."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1)

    def follow(self, step: int) -> None:
        self.weight = torch.tensor([float(step)])

    def state(self) -> dict[str, torch.Tensor]:
        return {"w": self.weight}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.weight = tensors["w"]


class Following:
    """A composer that notes which groups it learns from."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.progress: list[float] = []

    def begin(self, progress: float) -> None:
        self.progress.append(progress)

    def learn(self, groups: Sequence[Group]) -> dict[str, float]:
        self.seen += [g.prompt.prompt_id for g in groups]
        return {"composition/seen": float(len(self.seen))}

    def state(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.seen = list(state["seen"])


def by_length(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    return tuple(replace(g, rewards_G=torch.tensor([float(len(r)) for r in g.rollouts])) for g in groups)


SCRIPT = {"p": [[7], [7] * 5], "q": [[7] * 4, [7] * 2]}
DRY, RICH = [[7], [7]], [[7], [7] * 5]


def trainer(
    settings: dict[str, Any],
    script: Mapping[str, list[list[int]]] = SCRIPT,
    meta: Mapping[str, Mapping[str, str]] | None = None,
    evaluators: Any = None,
    moving: Any = None,
    **loop: Any,
) -> OnlineTrainer:
    learner = Learner()
    actors = Actors(learner, Sampler(script), by_length, learner.logprobs, reference=moving)  # type: ignore[arg-type]
    prompts = {n: (Prompt(n, text=n, meta=(meta or {}).get(n, {})), Encoded(torch.tensor([1]))) for n in script}
    config = LoopConfig(**{"steps": 4, "batch_size": len(script), **loop})
    algorithm = resolve(AlgorithmConfig(**settings), 2)
    return OnlineTrainer(actors, algorithm, prompts, SamplingParams(max_tokens=10), 2, config, 0, evaluators or {})


def test_who_measures_is_given_the_newest_weights_first() -> None:
    run = trainer({"name": "grpo_trl"})
    at_work: list[tuple[int, PolicyVersion]] = []

    def evaluator(step: int) -> Mapping[str, float]:
        at_work.append((step, run.actors.sampler.loaded[-1]))  # type: ignore[attr-defined]
        return {}

    run.evaluators = {"eval": evaluator, "test": evaluator}
    run.step(0)
    assert run.actors.sampler.loaded == [PolicyVersion(0, "after 0")]  # type: ignore[attr-defined]
    run.evaluate(1)
    run.step(1)
    run.test()
    assert at_work == [(1, PolicyVersion(1, "after 1")), (4, PolicyVersion(4, "after 2"))]
    assert trainer({"name": "grpo_trl"}).test() == {}


def test_a_moving_reference_follows_each_step_and_is_part_of_the_state() -> None:
    run, moving = trainer({"name": "grpo"}, moving=(first := Moving())), Moving()
    for step in range(3):
        run.step(step)
        assert first.weight.item() == step + 1
    resumed = trainer({"name": "grpo"}, moving=moving)
    resumed.load_state(*run.state())
    assert moving.weight.item() == 3


def test_a_composer_follows_all_that_was_sampled_and_is_part_of_the_state() -> None:
    """With dynamic sampling too: what is left out for the credit's sake was judged all the same."""
    settings = {"name": "dapo", "credit": {"refill_rounds": 4, "overlong": {"factor": 0.0}}}
    run = trainer(settings, {"dry": DRY, "rich": RICH})
    run.composer = Following()  # type: ignore[assignment]
    assert run.step(1)["composition/seen"] == 2.0
    assert sorted(run.composer.seen) == ["dry", "rich"]  # type: ignore[union-attr]
    assert run.composer.progress == [0.25]  # type: ignore[union-attr]
    resumed = trainer(settings, {"dry": DRY, "rich": RICH})
    resumed.composer = Following()  # type: ignore[assignment]
    resumed.load_state(*run.state())
    assert resumed.composer.state() == run.composer.state()  # type: ignore[union-attr]


def test_tokens_are_those_of_all_rounds() -> None:
    """Six prompts, one at a time, until one of use: dry ones take 2 tokens, the rich one 6."""
    script = {**{f"dry{i}": DRY for i in range(5)}, "rich": RICH}
    settings = {"name": "dapo", "credit": {"refill_rounds": 9, "overlong": {"factor": 0.0}}}
    seen = set()
    for step in range(6):
        metrics = trainer(settings, script, batch_size=1, steps=6).step(step)
        rounds = metrics["train/num_gen_batches"]
        assert metrics["tokens"] == 2 * (metrics["dynamic_sampling/sampled_groups"] - 1) + 6
        seen.add(rounds)
    assert max(seen) > 1, "there was nothing to fill up"


@pytest.mark.parametrize(("script", "valid"), [(SCRIPT, 4), ({"p": [[7], []], "q": [[7] * 4, [7] * 2]}, 3)])
def test_a_controller_counts_the_samples_that_were_measured(script: Mapping[str, list[list[int]]], valid: int) -> None:
    """No KL: an error of -0.2 at most, times the share of the horizon (10 samples) that the step is."""
    control = {"kind": "proportional", "target": 1.0, "horizon": 10.0}
    run = trainer({"name": "grpo", "kl": {"coef": 0.5, "control": control}}, script)
    assert [run.step(k)["kl_coef"] for k in range(2)] == pytest.approx([0.5, 0.5 * (1 - 0.2 * valid / 10)])


def test_a_prompt_that_balanced_drawing_repeats_is_asked_once() -> None:
    meta = {"p": {"kind": "often"}, "q": {"kind": "often"}, "r": {"kind": "often"}, "s": {"kind": "rare"}}
    run = trainer({"name": "grpo_trl"}, dict.fromkeys(meta, RICH), meta, balance_by="kind")
    for step in range(3):
        run.step(step)
    asked = [(r.prompt_id, r.attempt) for r in run.actors.sampler.requests]  # type: ignore[attr-defined]
    assert len(asked) == len(set(asked)) < 3 * 4
    assert {("s", step) for step in range(3)} <= set(asked)


def test_an_emergency_scales_rates_and_prices_from_the_next_step_on() -> None:
    run = trainer({"name": "grpo", "kl": {"coef": 0.4}})
    assert run.adjust(0.1, 3.0) == {"lr": 0.5, "kl_coef": pytest.approx(1.2)}
    assert run.actors.policy.lr_scale == 0.1
    assert run.step(0)["kl_coef"] == pytest.approx(1.2)
    run.adjust(1.0, 1.0)
    assert run.step(1)["kl_coef"] == pytest.approx(0.4)
