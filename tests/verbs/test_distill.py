"""On-policy distillation: a teacher in place of rewards, or beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from keel.core.errors import ModelError
from keel.verbs.rl.recipe import RLRecipe

Stage = Callable[..., dict[str, Any]]
TEACHER = "teacher=tiny:llama?seed=2&std=0.1"


def recipe(**fields: Any) -> RLRecipe:
    return RLRecipe.model_validate({"model": "tiny:llama", "data": {"path": "x.jsonl"}, **fields})


def test_the_policy_comes_near_to_its_teacher(stage: Stage, tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]) -> None:
    steps = ("loop={steps: 10, batch_size: 8, eval_every: 5, probes: 0}", "samples=16", "optim.lr=3e-3", "sampling.top_p=0.95")
    summary = stage("grpo", tmp_path, "algorithm.name=distill", TEACHER, "rewards=[]", *steps)
    found = rows(tmp_path / "metrics.jsonl")
    kl = [row["objective/kl_per_token"] for row in found if "objective/kl_per_token" in row]
    held_out = [row["eval/teacher/kl"] for row in found if "eval/teacher/kl" in row]
    assert sum(kl[:3]) > 3 * 0.2
    assert sum(kl[-3:]) < 0.9 * sum(kl[:3])
    assert len(held_out) == 3
    assert not any(name.startswith(("reward", "eval/reward")) for row in found for name in row)
    assert summary["steps"] == 10
    pinned = json.loads((tmp_path / "manifest.json").read_text())
    assert "the teacher's weights (float32)" in json.dumps(pinned)


def test_a_reward_may_be_measured_beside_a_teacher(stage: Stage, tmp_path: Path) -> None:
    quick = ("loop={steps: 1, batch_size: 4, eval_every: 1, probes: 0}", "rewards.0.weight=0")
    summary = stage("grpo", tmp_path, "algorithm.name=distill", TEACHER, *quick)
    assert {"rewards/share_of_e/mean", "objective/kl"} <= summary["last"].keys()
    assert {"eval/teacher/kl", "eval/rewards/share_of_e/mean"} <= summary["last_eval"].keys()


def test_a_teacher_has_the_same_words(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="another tokenizer"):
        stage("grpo", tmp_path, "algorithm.name=distill", "teacher=tiny:llama?vocab=330", "rewards=[]")


REWARD = {"type": "contains", "name": "r", "words": ["x"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": {"name": "distill"}}, "follows a teacher, and none is named"),
        ({"algorithm": {"name": "grpo"}, "teacher": "tiny:llama", "rewards": [REWARD]}, "teacher would have no effect"),
        ({"algorithm": {"name": "grpo"}}, "rewards: there are none"),
        ({"algorithm": {"name": "distill"}, "teacher": "tiny:llama", "composition": {"how": "min"}}, "composition would have no effect"),
        ({"algorithm": {"name": "distill"}, "teacher": "tiny:llama", "rewards": [REWARD]}, "would count for the last token of an answer"),
    ],
)
def test_what_nothing_would_be_learned_from_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"rewards": [{**REWARD, "weight": 0}]},
        {"rewards": [REWARD], "algorithm": {"name": "distill", "credit": {"gamma": 1.0}}},
        {"rewards": [REWARD], "algorithm": {"name": "distill", "credit": {"estimator": "leave_one_out", "gamma": None}}},
        {"rewards": [], "algorithm": {"name": "distill", "kl": {"place": "loss"}}},
    ],
)
def test_the_ways_out_are_ways(fields: dict[str, Any]) -> None:
    found = recipe(**{"algorithm": {"name": "distill"}, "teacher": "tiny:llama", **fields})
    assert ("teacher", "tiny:llama", True) in list(found.files())
