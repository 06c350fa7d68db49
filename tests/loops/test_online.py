"""The online loop on scripted answers and a learner that only counts: what is asked of the sampler, what reaches the learner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from keel.loops.config import ExplorationConfig, LoopConfig
from keel.loops.gathering import by_temperature
from keel.loops.online import Actors, OnlineTrainer
from keel.methods import AlgorithmConfig, resolve
from keel.rollout.scripted import ScriptedSampler
from keel.types import Encoded, Group, Prompt, SampleRequest, SamplingParams, StepReport, Unit


class CountingLearner:
    """Says of its k-th pass since the last step that the policy is ``old_kls[k]`` away from the old one."""

    def __init__(self, old_kls: Sequence[float] = (0.0,)) -> None:
        self.old_kls = list(old_kls)
        self.trained: list[list[Unit]] = []
        self.objectives: list[Any] = []
        self.passes = self.steps = self.discarded = self.progress = 0
        self.planned: list[int] = []  # by update: how many planned ones lay before it

    def weights(self) -> Any:
        return SimpleNamespace(digest=lambda: "digest")

    def logprobs(self, units: Sequence[Unit]) -> list[tuple[torch.Tensor, ...]]:
        return [tuple(torch.full((len(b),), -1.0) for b in u.branches) for u in units]

    def forward_backward(self, units: Sequence[Unit], objective: Any) -> StepReport:
        self.trained.append(list(units))
        self.objectives.append(objective)
        self.passes += 1
        return StepReport({"loss": 1.0, "policy/old_kl_avg": self.old_kls[(self.passes - 1) % len(self.old_kls)]}, 1)

    def step(self) -> StepReport:
        self.steps += 1
        self.planned.append(self.progress)
        return StepReport({"lr": 1.0}, 0)

    def discard_gradients(self) -> None:
        self.discarded += 1

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {}

    def load_state(self, tensors: Any, state: Any) -> None:
        pass


def by_length(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The reward of an answer is its number of tokens."""
    return tuple(replace(g, rewards_G=torch.tensor([float(len(r)) for r in g.rollouts])) for g in groups)


def trainer(
    settings: dict[str, Any], script: dict[str, list[list[int]]], learner: CountingLearner, samples: int = 2, **loop: Any
) -> OnlineTrainer:
    sampler = ScriptedSampler(script, lambda text: [], lambda tokens: "")
    actors = Actors(learner, sampler, by_length, lambda units: learner.logprobs(units))  # type: ignore[arg-type]
    prompts = {name: (Prompt(name, text=name), Encoded(torch.tensor([1]))) for name in script}
    algorithm = resolve(AlgorithmConfig(**settings), samples)
    params = SamplingParams(max_tokens=10)
    config = LoopConfig(**{"steps": 4, "batch_size": len(script), **loop})
    return OnlineTrainer(actors, algorithm, prompts, params, samples, config, seed=0, evaluators={"eval": lambda step: {}})


def advantages(learner: CountingLearner) -> dict[str, list[float]]:
    return {u.unit_id: [float(b.signals["advantages"][0]) for b in u.branches] for part in learner.trained for u in part}


def test_the_greedy_answer_is_a_baseline_and_not_trained_on():
    """Samples 0 and 1 of the script are trained on, sample 2 is the greedy one."""
    script = {"p": [[7], [7] * 5, [7] * 3], "q": [[7] * 4, [7] * 2, [7] * 2]}
    learner = CountingLearner()
    run = trainer({"name": "remax", "kl": {"place": "none"}}, script, learner)
    metrics = run.step(0)
    assert advantages(learner) == {"p/0": [-2.0, 2.0], "q/0": [2.0, 0.0]}
    assert metrics["reward"] == 3.0  # of the samples: 1, 5, 4, 2
    assert metrics["reward_greedy"] == 2.5
    assert metrics["tokens"] == 17.0
    asked = [(r.prompt_id, r.n, r.first_sample, r.params.temperature) for r in run.actors.sampler.requests]
    assert sorted(asked) == [("p", 1, 2, 0.0), ("p", 2, 0, 1.0), ("q", 1, 2, 0.0), ("q", 2, 0, 1.0)]


def test_the_greedy_answer_pays_the_same_price_for_its_length():
    """Limit 10, buffer 5, factor 2: at 8 tokens -1.2, at 10 tokens -2, at 5 none. An answer like the greedy one is worth nothing."""
    learner = CountingLearner()
    settings = {"name": "remax", "kl": {"place": "none"}, "credit": {"overlong": {"factor": 2.0, "buffer": 0.5}}}
    run = trainer(settings, {"p": [[7] * 8, [7] * 5, [7] * 8], "q": [[7] * 10, [7] * 10, [7] * 10]}, learner)
    assert run.step(0)["reward_greedy"] == pytest.approx((8 - 1.2 + 10 - 2) / 2)
    assert advantages(learner)["p/0"] == pytest.approx([0.0, 5 - 6.8])
    assert advantages(learner)["q/0"] == [0.0, 0.0]


def test_without_a_greedy_answer_a_prompt_is_left_out():
    learner = CountingLearner()
    run = trainer({"name": "remax", "kl": {"place": "none"}}, {"p": [[7], [7] * 5, []], "q": [[7], [7], [7]]}, learner)
    assert run.step(0)["completions/failed_ratio"] == 0.5
    assert advantages(learner) == {"q/0": [0.0, 0.0]}


SCRIPT = {"p": [[7], [7] * 5], "q": [[7] * 4, [7] * 2]}


@pytest.mark.parametrize(("kl", "asked"), [({}, False), ({"control": {"kind": "multiplicative"}}, True), ({"estimator": "k2"}, True)])
def test_a_reference_that_the_loss_asks_itself_makes_no_other_pass(kl: dict[str, Any], asked: bool):
    """Whole distributions: its log-probabilities of the sampled tokens are taken beforehand only where a control follows them."""
    learner = CountingLearner()
    trainer({"name": "gkd", "kl": kl}, SCRIPT, learner).step(0)
    assert all(("ref_logprobs" in b.signals) is asked for part in learner.trained for u in part for b in u.branches)


DRY, RICH = [[7], [7]], [[7], [7] * 5]  # rewards that are equal, rewards that differ


def test_updates_end_before_the_one_that_finds_the_policy_too_far_away():
    settings = {"name": "grpo_trl", "epochs": 3, "clip": {"kl_stop": 0.1}}
    learner = CountingLearner([0.0, 0.1, 0.3])
    metrics = trainer(settings, SCRIPT, learner).step(0)
    assert (learner.passes, learner.steps, learner.discarded) == (3, 2, 1)
    assert metrics["policy/updates"] == 2.0
    assert 0.0 < metrics["time/measures_s"] < metrics["time/train_s"]
    free = CountingLearner([0.0, 0.1, 0.1])
    assert trainer(settings, SCRIPT, free).step(0)["policy/updates"] == 3.0
    assert (free.steps, free.discarded) == (3, 0)


def test_every_pass_cuts_its_minibatches_anew():
    """Each pass sees every prompt once, in parts whose sizes differ by one at most; no two passes or steps are cut alike."""
    learner = CountingLearner()
    script = {f"p{i}": [[7] * (i + 1), [7]] for i in range(7)}
    run = trainer({"name": "grpo_trl", "epochs": 2, "minibatches": 2}, script, learner)
    cuts = []
    for step in range(2):
        learner.trained.clear()
        run.step(step)
        parts = [tuple(u.unit_id.split("/")[0] for u in part) for part in learner.trained]
        assert [len(p) for p in parts] == [4, 3] * 2
        assert {*parts[0], *parts[1]} == {*parts[2], *parts[3]} == set(script)
        cuts += [parts[0], parts[2]]
    assert len(set(cuts)) == 4


def test_the_first_update_is_never_stopped_and_is_its_own_old_policy():
    """Old log-probabilities that another pass recorded differ in rounding from the policy's own, which has not moved yet."""
    settings = {"name": "grpo_trl", "epochs": 2, "minibatches": 2, "clip": {"kl_stop": 1e-12}}
    learner = CountingLearner([1e-7])
    assert trainer(settings, SCRIPT, learner).step(0)["policy/updates"] == 1.0
    recorded = [any("old_logprobs" in b.signals for u in part for b in u.branches) for part in learner.trained]
    assert recorded == [False, True]


@pytest.mark.parametrize("lost", ["nothing", "to the KL", "groups", "answers"])
@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_the_schedule_follows_the_plan_whatever_updates_are_left_out(lost: str, epochs: int, minibatches: int):
    """The k-th update of step s is planned behind s steps of updates, and the last step of all is at the schedule's end."""
    settings: dict[str, Any] = {"name": "grpo_trl", "epochs": epochs, "minibatches": minibatches}
    script, learner = dict(SCRIPT), CountingLearner()
    if lost == "to the KL":
        settings["clip"], learner.old_kls = {"kl_stop": 0.1}, [1.0]
        if epochs * minibatches == 1:
            pytest.skip("the only update of a step is never stopped")
    elif lost == "answers":
        script = {"p": [[], []], "q": [[7] * 4, [7] * 2]}  # one prompt's answers all failed
    elif lost == "groups":
        settings |= {"name": "dapo", "credit": {"refill_rounds": 1, "overlong": {"factor": 0.0}}}
        script = {"p": DRY, "q": [[7] * 4, [7] * 2]}  # one group with equal rewards is left out
    run, per_step = trainer(settings, script, learner), epochs * minibatches
    for step in range(4):
        learner.planned.clear()
        made = int(run.step(step)["policy/updates"])
        assert 1 <= made <= per_step
        assert (made == per_step) == (lost == "nothing" or per_step == 1 or (minibatches == 1 and lost != "to the KL"))
        assert learner.planned[0] == step * per_step
        assert learner.planned == sorted(set(learner.planned))
        assert learner.planned[-1] < (step + 1) * per_step
    if lost == "nothing":
        assert learner.planned == list(range(3 * per_step, 4 * per_step))


def test_a_step_without_any_update_is_passed_over_by_the_schedule():
    learner = CountingLearner()
    run = trainer({"name": "grpo_trl", "epochs": 2}, {"p": [[], []], "q": [[], []]}, learner)
    run.step(0)
    assert learner.planned == []
    run = trainer({"name": "grpo_trl", "epochs": 2}, SCRIPT, learner)
    run.step(1)
    assert learner.planned == [2, 3]


def test_the_penalty_follows_the_last_pass_and_survives_a_resume():
    """Two passes of two updates; the first pass says nothing of where the step ended."""
    settings = {"name": "grpo_trl", "objective": "surrogate", "epochs": 2, "minibatches": 2, "clip": {"kl_coef": 1.0, "kl_target": 0.02}}
    learner = CountingLearner([0.0, 0.0, 0.02, 0.06])  # the last pass: 0.04, above 1.5 targets
    run = trainer(settings, SCRIPT, learner)
    assert run.step(0)["policy/old_kl_coef"] == 1.0
    assert learner.objectives[-1].old_kl_coef == 1.0
    resumed = trainer(settings, SCRIPT, learner)
    resumed.load_state(*run.state())
    assert resumed.step(1)["policy/old_kl_coef"] == run.step(1)["policy/old_kl_coef"] == 2.0
    assert learner.objectives[-1].old_kl_coef == 2.0


@pytest.mark.parametrize("place", ["reward", "loss"])
def test_the_price_of_the_reference_follows_its_kl(place):
    """The sampler says -1 a token and the reference says -1: no KL, so the price falls."""
    learner = CountingLearner()
    run = trainer({"name": "grpo", "kl": {"place": place, "coef": 0.4, "control": {"kind": "multiplicative"}}}, SCRIPT, learner)
    assert [run.step(k)["kl_coef"] for k in range(3)] == pytest.approx([0.4, 0.3, 0.225])
    assert math.isclose(learner.objectives[-1].kl_coef, 0.225 if place == "loss" else 0.0)


def dynamic(script: dict[str, list[list[int]]], learner: CountingLearner, rounds: int, **loop: Any) -> OnlineTrainer:
    settings = {"name": "dapo", "credit": {"refill_rounds": rounds, "overlong": {"factor": 0.0}}}
    return trainer(settings, script, learner, **loop)


def test_groups_of_equal_rewards_are_replaced_until_the_batch_is_full():
    """Two of twelve prompts at a time, every other one is of use."""
    script = {f"{kind}{i}": answers for i in range(6) for kind, answers in (("dry", DRY), ("rich", RICH))}
    learner = CountingLearner()
    run = dynamic(script, learner, 20, batch_size=2)
    for step in range(4):
        metrics = run.step(step)
        trained = [u.unit_id for u in learner.trained[-1]]
        assert len(trained) == len(set(trained)) == 2
        assert all(name.startswith("rich") and name.endswith(f"/{step}") for name in trained)
        assert metrics["dynamic_sampling/kept_groups"] >= 2
    asked = [(r.prompt_id, r.attempt) for r in run.actors.sampler.requests]
    assert len(asked) == len(set(asked)), "a prompt was asked twice in a step"
    again = dynamic(script, CountingLearner(), 20, batch_size=2)
    for step in (2, 3):  # what a step asks hangs on seed and step alone
        again.step(step)
    assert [(r.prompt_id, r.attempt) for r in again.actors.sampler.requests] == [a for a in asked if a[1] >= 2]


def test_rounds_and_prompts_are_limits():
    script = {f"dry{i}": DRY for i in range(8)}
    learner = CountingLearner()
    metrics = dynamic(script, learner, 3, batch_size=2).step(0)
    assert (metrics["train/num_gen_batches"], metrics["dynamic_sampling/sampled_groups"]) == (3.0, 6.0)
    assert metrics["dynamic_sampling/kept_groups"] == 0.0
    assert learner.trained == []  # nothing to learn from, and nothing was made up
    assert metrics["frac_reward_zero_std"] == 1.0
    used_up = dynamic({"dry": DRY, "rich": RICH}, learner, 3).step(0)
    assert (used_up["train/num_gen_batches"], used_up["dynamic_sampling/kept_groups"]) == (1.0, 1.0)
    assert [u.unit_id for u in learner.trained[-1]] == ["rich/0"]
    assert used_up["frac_reward_zero_std"] == 0.5  # metrics are of all that was sampled


def test_a_full_batch_asks_no_more():
    run = dynamic({f"rich{i}": RICH for i in range(6)}, CountingLearner(), 5, batch_size=3)
    assert run.step(0)["train/num_gen_batches"] == 1.0
    assert len(run.actors.sampler.requests) == 3


def test_over_long_answers_are_punished_after_groups_were_chosen():
    """Limit 10, buffer 5: 8 tokens cost 0.6. Equal rewards stay equal for the choice."""
    settings = {"name": "dapo", "reduce": "per_token", "credit": {"estimator": "group_centred", "overlong": {"buffer": 0.5, "factor": 2.0}}}
    learner = CountingLearner()
    run = trainer(settings, {"rich": [[7] * 2, [7] * 8]}, learner)
    metrics = run.step(0)
    assert advantages(learner) == {"rich/0": pytest.approx([-2.4, 2.4])}  # rewards 2 and 8 - 1.2
    assert metrics["rewards/overlong/mean"] == pytest.approx(-0.3)
    same = trainer(settings, {"dry": [[7] * 2, [7] * 8]}, CountingLearner())
    same.gatherer.reward = lambda groups: groups  # all rewards are 0
    assert same.step(0)["dynamic_sampling/kept_groups"] == 0.0


def test_staleness_is_counted_by_token():
    """A sampler that was two versions behind for one answer, one for another; the failed one does not count."""
    learner = CountingLearner()
    run = trainer({"name": "grpo_trl"}, {"p": [[7] * 3, [7]], "q": [[7], []]}, learner)
    version = {("p", 0): 3, ("p", 1): 4, ("q", 0): 5, ("q", 1): 0}
    collect = run.actors.sampler.collect
    run.actors.sampler.collect = lambda: (replace(r, version_T=torch.full((len(r),), version[r.prompt_id, r.sample])) for r in collect())
    metrics = run.step(5)
    assert metrics["sampling/staleness/mean"] == pytest.approx((3 * 2 + 1 * 1 + 0) / 5)
    assert metrics["sampling/staleness/max"] == 2.0


def test_extremes_of_updates_are_not_averaged():
    learner = CountingLearner([0.0, 0.0])
    values = iter([3.0, 1.0])
    forward_backward = learner.forward_backward

    def noting(units, objective):
        report, x = forward_backward(units, objective), next(values)
        return replace(report, metrics={**report.metrics, "a/min": x, "a/max": x, "a/mean": x})

    learner.forward_backward = noting
    metrics = trainer({"name": "grpo_trl", "epochs": 2}, SCRIPT, learner).step(0)
    assert (metrics["a/min"], metrics["a/mean"], metrics["a/max"]) == (1.0, 2.0, 3.0)


def test_credit_sees_scaled_rewards_and_the_metrics_do_not():
    """Rewards are lengths: 1, 5, 4, 2, mean 3, deviation sqrt 2.5; REINFORCE without a baseline passes them on."""
    settings = {"name": "reinforce", "kl": {"place": "none"}, "credit": {"estimator": "no_baseline", "rewards": {"normalise": "running"}}}
    learner = CountingLearner()
    run = trainer(settings, SCRIPT, learner)
    metrics = run.step(0)
    assert metrics["reward"] == 3.0
    expected = {"p/0": [-2.0, 2.0], "q/0": [1.0, -1.0]}
    assert advantages(learner) == {name: pytest.approx([x / 2.5**0.5 for x in a]) for name, a in expected.items()}
    resumed = trainer(settings, SCRIPT, learner)
    resumed.load_state(*run.state())
    assert resumed.scale == run.scale
    assert run.scale.seen.count == 4.0


def test_the_entropy_bonus_follows_the_entropy():
    settings = {"name": "grpo_trl", "entropy": {"coef": 0.01, "target": 1.0, "step": 0.01, "high": 0.02}}
    learner, values = CountingLearner(), iter([0.5, 0.5, 0.5, 3.0, 3.0])
    forward_backward = learner.forward_backward

    def noting(units, objective):
        report = forward_backward(units, objective)
        return replace(report, metrics={**report.metrics, "entropy": next(values)})

    learner.forward_backward = noting
    run = trainer(settings, SCRIPT, learner)
    assert [run.step(k)["entropy_coef"] for k in range(5)] == pytest.approx([0.01, 0.02, 0.02, 0.02, 0.01])
    assert [o.entropy_coef for o in learner.objectives] == pytest.approx([0.01, 0.02, 0.02, 0.02, 0.01])
    resumed = trainer(settings, SCRIPT, learner)
    resumed.load_state(*run.state())
    assert resumed.coefficients.metrics(5) == {"entropy_coef": 0.0}


def test_samples_are_by_temperature_among_temperatures():
    """Five samples at three temperatures: 2, 2 and 1; one group of five comes back. The first update is its own old policy; a later one has
    the log-probabilities of the policy before it, not those of the temperatures that were drawn from."""
    script = {"p": [[7] * n for n in (1, 2, 3, 4, 5)]}
    learner = CountingLearner()
    settings = {"name": "remax", "kl": {"place": "none"}, "objective": "ppo_clip", "correction": {"kind": "truncate"}, "epochs": 2}
    run = trainer(settings, {"p": [*script["p"], [7] * 3]}, learner, samples=5)
    run.gatherer.exploration = ExplorationConfig(temperatures=(0.7, 0.9, 1.1), share=0.1, hot=3.0)
    run.step(0)
    asked = [
        (r.first_sample, r.n, r.params.temperature, r.params.explore, r.params.explore_temperature) for r in run.actors.sampler.requests
    ]
    assert asked == [(0, 2, 0.7, 0.1, 3.0), (2, 2, 0.9, 0.1, 3.0), (4, 1, 1.1, 0.1, 3.0), (5, 1, 0.0, 0.0, 1.0)]
    assert advantages(learner) == {"p/0": [-2.0, -1.0, 0.0, 1.0, 2.0]}
    first, second = (units[0].branches for units in learner.trained)
    assert not any("old_logprobs" in b.signals for b in first)
    assert all("old_logprobs" in b.signals and "sampler_logprobs" in b.signals for b in second)


def test_fewer_samples_than_temperatures():
    whole = SampleRequest("p", Encoded(torch.tensor([1])), 2, SamplingParams(), seed=0)
    assert [(r.first_sample, r.n) for r in by_temperature(whole, ExplorationConfig(temperatures=(0.5, 1.0, 2.0)))] == [(0, 1), (1, 1)]
    assert by_temperature(whole, ExplorationConfig()) == [whole]
