"""A policy ties with itself before its first step, whatever measures it and however answers are drawn."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.evaluate.compare import compare
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.loops.online import Actors
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.rewards.score import Score
from keel.rewards.sources.duels import PairJudge
from keel.rewards.sources.python import CompareConfig
from keel.rollout.config import EvalSamplingConfig, SamplingConfig
from keel.rollout.local import LocalSampler
from keel.runs.directory import RunDir
from keel.types import Message, Prompt, Sampler, SamplingParams
from keel.verbs.evaluate.answering import answer
from keel.verbs.evaluate.scoring import score
from keel.verbs.prefer import preference_source
from keel.verbs.prefer.online_config import OnlineConfig
from keel.verbs.run import RECIPES
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled_eval import eval_params, evaluators_of
from keel.verbs.shared.session import renderer_of

TRAINING = [{}, {"top_p": 0.3}, {"top_k": 3}, {"temperature": 1.7}, {"min_tokens": 4}, {"stop": ["e"]}]
MEASURING = [{"temperature": 0.0}, {}, {"top_p": 0.5, "samples": 2}, {"top_k": 4, "temperature": 1.3}]


class LongerIsBetter:
    """A judge that is never undecided about two different texts."""

    def judge(self, items: Any) -> list[Score]:
        return [Score(float((len(first), first) > (len(second), second))) for _, (first, second) in items]


@pytest.fixture(scope="module")
def policy(proofs: None) -> Any:
    loaded = load_model("tiny:llama?seed=1&std=0.15&layers=1", ModelOptions(precision="fp32"))
    renderer = renderer_of(loaded, RenderConfig())
    prompts = [Prompt(f"p{i}", (Message("user", f"Number {i}?"),)) for i in range(3)]
    return loaded.model, renderer, {p.prompt_id: (p, renderer.prompt(p)) for p in prompts}


@pytest.fixture
def judged_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference_source, "comparing_source", lambda config: LongerIsBetter())


@pytest.mark.parametrize(("training", "measuring"), product(TRAINING, MEASURING))
def test_an_online_judge_sees_a_tie_at_step_0(
    training: dict[str, Any], measuring: dict[str, Any], policy: Any, judged_by_length: None, tmp_path: Path
) -> None:
    model, renderer, prompts = policy
    online = OnlineConfig(
        judge=CompareConfig(function="a.py:f"),
        sampling=SamplingConfig(max_tokens=6, **training),
        eval_sampling=EvalSamplingConfig(**measuring),
    )
    params = online.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    sampler = LocalSampler(model, renderer.decode)
    assert online.judge is not None
    found = preference_source.by_judge(online, online.judge, sampler, {"held_out": prompts}, params)
    learner = LocalLearner(model, OptimConfig(), BatchConfig(), 1, 0)
    actors = Actors(learner, sampler, found.evaluate, None)
    with RunDir.open(tmp_path / "run", online, "prefer", 0) as run:
        metrics = evaluators_of({"eval": prompts}, actors, params, online.eval_sampling, renderer, run, 0)["eval"](0)
    assert metrics["eval/reward"] == 0.5
    assert metrics["eval/reward_std"] == 0.0


@pytest.mark.parametrize("measuring", ["temperature=0", "temperature=0.9", "top_p=0.4"])
def test_a_model_is_no_better_than_itself(measuring: str, policy: Any) -> None:
    model, renderer, prompts = policy
    small = "evaluate={prompts: [x], samples: 3, max_tokens: 6, gold: true}"
    rewards = "rewards=[{type: regex, name: vowels, pattern: '[aeiou]'}]"
    recipe = load(RECIPES["eval"], None, ["model=tiny:llama", "baseline=tiny:llama", small, rewards, f"evaluate.{measuring}"])
    first, second = (answer(model, renderer, prompts, recipe) for _ in range(2))
    summary = compare(score(recipe, first, second, rewards_of(recipe.rewards, recipe, model, renderer)), languages=())
    assert set(summary.win_rates) == {"gold", "gold_content", "vowels"}
    assert all(interval.mean == 0.5 for interval in summary.win_rates.values())
    assert all(interval.mean == 0.0 for interval in summary.gains.values())


def test_only_how_an_answer_ends_is_the_trainings() -> None:
    training = SamplingParams(9, 2, 1.5, 0.3, 7, ("x",), (1,), (2,), 0.5, 3.0)
    own = eval_params(training, EvalSamplingConfig(temperature=0.2, top_p=0.9, top_k=4))
    assert own == SamplingParams(9, 2, 0.2, 0.9, 4, ("x",), (1,), (2,), 0.0, 1.0)


def test_measuring_is_greedy_where_only_training_is_not(policy: Any) -> None:
    model, renderer, prompts = policy
    training = SamplingConfig(max_tokens=6, temperature=2.0).params(renderer.stop_tokens, renderer.banned_tokens)
    sampler = LocalSampler(model, renderer.decode)
    for temperature, n in ((0.0, 1), (2.0, 3)):
        asked = EvalSamplingConfig(temperature=temperature, samples=3)
        texts = [{r.text for r in g.rollouts} for g in preference_source.measured_answers(sampler, prompts, training, asked)]
        assert [len(found) for found in texts] == [n] * 3


def test_a_start_that_failed_is_nobodys_win(policy: Any, judged_by_length: None, caplog: pytest.LogCaptureFixture) -> None:
    """The sampler loses an answer of the starting weights: nothing can be compared there, and an empty text is no opponent."""
    model, renderer, prompts = policy
    online = OnlineConfig(judge=CompareConfig(function="a.py:f"), sampling=SamplingConfig(max_tokens=6))
    params = online.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    assert online.judge is not None
    whole = LocalSampler(model, renderer.decode)
    found = preference_source.by_judge(online, online.judge, Losing(whole, "p1"), {"held_out": prompts}, params)
    assert "1 held-out answers of the starting weights failed" in caplog.text
    groups = preference_source.measured_answers(whole, prompts, params, online.eval_sampling)
    valid = {g.prompt.prompt_id: g.valid_G.tolist() for g in found.evaluate(groups)}
    assert valid == {"p0": [True], "p1": [False], "p2": [True]}


class Losing:
    """A sampler that loses the answers to one prompt."""

    def __init__(self, inner: Sampler, prompt_id: str) -> None:
        self.inner, self.prompt_id = inner, prompt_id
        self.submit, self.load = inner.submit, inner.load

    def collect(self) -> Any:
        for rollout in self.inner.collect():
            yield replace(rollout, finish_reason="error", error="lost") if rollout.prompt_id == self.prompt_id else rollout


def test_equal_texts_are_a_tie_that_nobody_is_asked_about() -> None:
    asked: list[Any] = []

    class Counting(LongerIsBetter):
        def judge(self, items: Any) -> list[Score]:
            asked.extend(items)
            return super().judge(items)

    judge = PairJudge(Counting(), CompareConfig(function="a.py:f"), "drop_sample")
    assert judge.probabilities([preference_source.Duel(Prompt("p"), "same", "same"), preference_source.Duel(Prompt("p"), "long", "s")]) == [
        0.5,
        1.0,
    ]
    assert len(asked) == 1
