"""Which held-out answers are kept for people: by scripted answers and rewards, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch

from keel.core.config import Section
from keel.rollout.config import EvalSamplingConfig
from keel.rollout.scripted import ScriptedSampler
from keel.runs.directory import RunDir
from keel.types import Encoded, Group, Prompt, SamplingParams
from keel.verbs.shared.sampled_eval import RolloutEvaluator


def kept(rewards: Mapping[str, float | None], probes: int = 0, step: int = 3) -> tuple[dict[str, tuple[str, Any]], Mapping[str, float]]:
    """(why, reward) of the prompts whose answers are kept, and the metrics; None is a failed answer."""
    rows: list[Mapping[str, Any]] = []

    def write(step: int, found: Sequence[Mapping[str, Any]], part: str) -> None:
        assert part == "", "an evaluation's rows go with its step"
        rows.extend(found)

    with TemporaryDirectory() as folder:
        metrics = evaluator("eval", rewards, SimpleNamespace(path=Path(folder), write_sample=write), probes)(step)
    return {row["prompt"]: (row["why"], row.get("reward")) for row in rows}, metrics


def evaluator(side: str, rewards: Mapping[str, float | None], run: Any, probes: int = 0) -> RolloutEvaluator:
    def reward(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        given = [rewards[g.prompt.prompt_id] for g in groups]
        return tuple(
            replace(g, rewards_G=torch.tensor([x if x is not None else 0.0]), valid_G=torch.tensor([x is not None]))
            for g, x in zip(groups, given, strict=True)
        )

    sampler = ScriptedSampler({name: [[7]] for name in rewards}, lambda text: [], lambda tokens: "")
    return RolloutEvaluator(
        side,
        SimpleNamespace(sampler=sampler, reward=reward),  # type: ignore[arg-type]
        {name: (Prompt(name, text=name), Encoded(torch.tensor([1]))) for name in rewards},
        SamplingParams(max_tokens=4),
        EvalSamplingConfig(samples=1),
        SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda tokens, **_: "raw")),  # type: ignore[arg-type]
        run,
        probes,
    )


def test_a_test_that_is_made_again_after_a_kill_leaves_its_answers_once(tmp_path: Path) -> None:
    """The last checkpoint is written before the test: whoever is killed in the middle of it resumes there."""
    rewards = {"a": 1.0, "b": 2.0, "c": 0.5}
    with RunDir.open(tmp_path / "run", Section(), "rl", 0) as run:
        evaluator("eval", rewards, run)(4)
        evaluator("test", rewards, run)(4)
        once = run.samples()
    with RunDir.open(tmp_path / "run", Section(), "rl", 0) as run:
        run.cut_metrics(4)
        evaluator("test", rewards, run)(4)
        assert run.samples() == once
    assert [row.get("part") for row in once] == [None] * (len(once) // 2) + ["test"] * (len(once) // 2)


def test_the_worst_and_the_best_are_among_those_that_have_a_reward() -> None:
    """All rewards are below 0: the answer that failed is no better than they."""
    found, metrics = kept({"a": -3.0, "b": None, "c": -1.0, "d": -2.0})
    assert found == {"a": ("worst", -3.0), "c": ("best", -1.0), "d": ("random", -2.0)}
    assert metrics["eval/reward"] == -2.0
    assert metrics["eval/completions/failed_ratio"] == 0.25


def test_a_prompt_that_is_always_shown_is_shown_without_a_reward_too() -> None:
    found, _ = kept({"a": None, "b": 2.0}, probes=1)
    assert found == {"a": ("fixed", None), "b": ("best", 2.0)}
    nothing, metrics = kept({"a": None, "b": None})
    assert nothing == {}
    assert metrics == {"eval/completions/failed_ratio": 1.0}
