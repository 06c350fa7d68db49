"""On-policy distillation: a teacher in place of rewards, or beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from keel.core.errors import ConfigError, ModelError
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


@pytest.mark.parametrize("kl", ["{}", "{beta: 0.1}", "{estimator: forward_kl}", "{estimator: reverse_kl}"])
def test_whole_distributions_come_near_too(stage: Stage, tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]], kl: str) -> None:
    """By each divergence, over supports; the teacher is of another width."""
    steps = ("loop={steps: 8, batch_size: 4, eval_every: 8, probes: 0}", "samples=4", "optim.lr=3e-3", "sampling.top_p=0.95")
    stage("grpo", tmp_path, f"algorithm={{name: gkd, kl: {kl}}}", f"{TEACHER}&hidden=32", "rewards=[]", *steps)
    found = rows(tmp_path / "metrics.jsonl")
    apart = [row["objective/divergence"] for row in found if "objective/divergence" in row]
    held_out = [row["eval/teacher/kl"] for row in found if "eval/teacher/kl" in row]
    assert len(apart) == 8
    assert sum(apart[-2:]) < 0.8 * sum(apart[:2])
    assert len(held_out) == 2
    assert not any("objective/kl" in row for row in found), "a second pass of the teacher"
    assert {"kl", "loss", "entropy"} <= found[-2].keys() | found[-1].keys()


def test_the_reference_of_adapters_may_be_compared_as_a_whole(
    stage: Stage, tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]
) -> None:
    """Rewards and a KL of whole distributions: to the base without its adapters, and to a copy that follows."""
    short = ("loop={steps: 3, batch_size: 2, eval_every: 0, probes: 0}", "samples=4", "lora={r: 2}", "optim.lr=1e-2")
    for name, reference in (("off", "{}"), ("follows", "{kind: refresh, every: 2}")):
        kl = f"algorithm={{name: grpo, kl: {{estimator: reverse_kl, reference: {reference}}}}}"
        stage("grpo", tmp_path / name, kl, *short)
        apart = [row["objective/divergence"] for row in rows(tmp_path / name / "metrics.jsonl") if "objective/divergence" in row]
        assert abs(apart[0]) < 1e-6 < apart[1]
        assert (abs(apart[2]) < 1e-6) is (name == "follows")


def test_a_reward_may_be_measured_beside_a_teacher(stage: Stage, tmp_path: Path) -> None:
    quick = ("loop={steps: 1, batch_size: 4, eval_every: 1, probes: 0}", "rewards.0.weight=0")
    summary = stage("grpo", tmp_path, "algorithm.name=distill", TEACHER, *quick)
    assert {"rewards/share_of_e/mean", "objective/kl"} <= summary["last"].keys()
    assert {"eval/teacher/kl", "eval/rewards/share_of_e/mean"} <= summary["last_eval"].keys()


def test_a_teacher_has_the_same_words(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="another tokenizer"):
        stage("grpo", tmp_path, "algorithm.name=distill", "teacher=tiny:llama?vocab=330", "rewards=[]")


def test_heads_of_one_tokenizer_may_be_padded(stage: Stage, tmp_path: Path, load: Callable[..., Any]) -> None:
    """A teacher beyond the policy's tokens is compared over these; one that does not have them all is refused."""
    loaded = load("llama", "seed=2&std=0.1")
    loaded.model.module.resize_token_embeddings(len(loaded.model.head_weight_VH) + 8)
    loaded.model.save(tmp_path / "padded", loaded.tokenizer)
    quick = ("algorithm.name=gkd", "rewards=[]", "loop={steps: 1, batch_size: 2, eval_every: 1, probes: 0}", "samples=2")
    summary = stage("grpo", tmp_path / "run", *quick, f"teacher={tmp_path / 'padded'}")
    assert summary["last"]["objective/divergence"] > 0
    with pytest.raises(ConfigError, match="says nothing of the others"):
        stage("grpo", tmp_path / "refused", *quick, f"model={tmp_path / 'padded'}", "teacher=tiny:llama?seed=2")


REWARD = {"type": "contains", "name": "r", "words": ["x"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": {"name": "distill"}}, "follows a teacher, and none is named"),
        ({"algorithm": {"name": "grpo"}, "teacher": "tiny:llama", "rewards": [REWARD]}, "teacher would have no effect"),
        ({"algorithm": {"name": "grpo"}}, "rewards: there are none"),
        ({"algorithm": {"name": "gkd"}}, "follows a teacher, and none is named"),
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
        {"rewards": [], "algorithm": {"name": "gkd"}, "samples": 1},
        {"rewards": [REWARD], "algorithm": {"name": "gkd", "kl": {"coef": 0.5}}},
    ],
)
def test_the_ways_out_are_ways(fields: dict[str, Any]) -> None:
    found = recipe(**{"algorithm": {"name": "distill"}, "teacher": "tiny:llama", **fields})
    assert ("teacher", "tiny:llama", True) in list(found.files())
