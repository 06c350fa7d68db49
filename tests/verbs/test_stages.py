"""Every stage end to end on a tiny model, in this process: what it leaves behind, that others can load it, that it learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.types import Branch, Encoded, Unit

NAMES = ("sft", "reward", "dpo", "grpo", "ppo")
METRICS = {
    "sft": {"loss", "grad_norm", "lr", "epoch"},
    "reward": {"loss", "accuracy", "margin"},
    "dpo": {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"},
    "grpo": {"reward", "reward_std", "rewards/share_of_e/mean", "kl", "entropy", "completions/mean_length", "frac_reward_zero_std"},
    "ppo": {"objective/kl", "objective/scores", "loss/policy_avg", "loss/value_avg", "val/ratio", "policy/clipfrac_avg"},
}
EVERY_STEP = {"step", "grad_norm", "lr", "time/step_s", "time/train_s", "tokens_per_s", "mem/peak_mb"}
FP32 = ModelOptions(precision="fp32")

Rows = Callable[[Path], list[dict[str, Any]]]
Finished = Callable[[str], Path]
Stage = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_run_is_complete(name: str, finished: Finished, rows: Rows) -> None:
    run = finished(name)
    metrics = rows(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2, 3, 4], "one object a step, the baseline first"
    for row in metrics[1:]:
        assert (METRICS[name] | EVERY_STEP) <= set(row), f"missing: {(METRICS[name] | EVERY_STEP) - set(row)}"
    assert [row["step"] for row in metrics if any(key.startswith("eval/") for key in row)] == [0, 2, 4]
    kinds = [row["kind"] for row in rows(run / "events.jsonl")]
    assert {"self_test", "run_started", "eval", "checkpoint", "run_finished"} <= set(kinds)
    manifest, summary = (json.loads((run / file).read_text()) for file in ("manifest.json", "summary.json"))
    assert manifest["verb"] == summary["verb"]
    assert manifest["config"]["loop"]["steps"] == summary["steps"] == 4
    assert next(iter(manifest["data"].values())), "the data's fingerprint"
    assert {"wall_s", "peak_mb", "last", "last_eval"} <= set(summary)
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo", "ppo"])
def test_the_final_model_loads_in_plain_transformers(name: str, finished: Finished) -> None:
    final = finished(name) / "final"
    theirs = AutoModelForCausalLM.from_pretrained(final).eval()
    tokenizer = AutoTokenizer.from_pretrained(final)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    ours = load_model(str(final), FP32).model
    with torch.no_grad():
        expected = ours.logits(ours.run_plain(ids, torch.ones_like(ids))[0])
        torch.testing.assert_close(theirs(ids).logits[0].float(), expected, rtol=1e-4, atol=1e-5)
    start = load_model("tiny:llama?seed=1", FP32).model.module.state_dict()
    assert all(torch.isfinite(p).all() for p in theirs.parameters())
    assert any(not torch.equal(p, start[key]) for key, p in theirs.state_dict().items()), "nothing was trained"


def test_the_reward_model_is_a_sequence_classifier(finished: Finished) -> None:
    """Its score of a conversation is the score that Keel gives."""
    final = finished("reward") / "final"
    theirs = AutoModelForSequenceClassification.from_pretrained(final).eval()
    tokenizer = AutoTokenizer.from_pretrained(final)
    ask = [{"role": "user", "content": "Write about a red tent."}]
    prompt = tokenizer.apply_chat_template(ask, add_generation_prompt=True, return_dict=False, return_tensors="pt")[0]
    whole = tokenizer.apply_chat_template([*ask, {"role": "assistant", "content": "tent tent"}], return_dict=False, return_tensors="pt")[0]
    answer = whole[len(prompt) :]
    model = load_model(str(final), FP32, heads=frozenset({"score"})).model
    unit = Unit("u", Encoded(prompt), (Branch(answer, torch.ones(len(answer), dtype=torch.bool)),))
    ours = LocalInference(model, BatchConfig()).scores([unit])[0]
    with torch.no_grad():
        torch.testing.assert_close(theirs(whole[None]).logits[0].float(), ours, rtol=1e-4, atol=1e-5)
    summary = json.loads((final.parent / "summary.json").read_text())
    assert {"accuracy", "low", "high", "ece"} <= set(summary["reward_model"])
    assert set(json.loads((final / "keel_reward.json").read_text())) >= {"mean", "std"}


def test_the_critic_is_kept_beside_the_policy(finished: Finished) -> None:
    heads = load_file(finished("ppo") / "critic" / "keel_heads.safetensors")
    assert any(bool(t.any()) for t in heads.values()), "a value head starts at zero and was trained"


def test_adapters_load_in_peft(stage: Stage, tmp_path: Path) -> None:
    """RL with adapters: the reference is the adapter switched off; base + adapter = the merged model that was saved."""
    base = load_model("tiny:llama?seed=1", FP32)
    base.model.save(tmp_path / "base", base.tokenizer, None)
    stage("grpo", tmp_path / "run", "lora={r: 4, alpha: 8}", "loop.steps=2", "optim.lr=1e-3")
    ids = torch.arange(5, 25)[None]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "run" / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final").eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(merged(ids).logits, base.model.module(ids).logits, atol=1e-4), "the adapter does nothing"


@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_a_folder_of_another_architecture_trains_by_the_same_recipe(arch: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    source = load_model(f"tiny:{arch}?seed=2", FP32)
    source.model.save(tmp_path / "model", source.tokenizer, source.processor)
    stage("sft", tmp_path / "run", f"model={tmp_path / 'model'}", "loop.steps=3", "data.limit=12", "loop.probes=1", "loop.eval_every=0")
    losses = [row["loss"] for row in rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final")


def test_rl_checks_that_its_reward_model_reads(stage: Stage, finished: Finished, rows: Rows, tmp_path: Path) -> None:
    reward = f"rewards=[{{type: model, name: judge, path: {finished('reward') / 'final'}}}]"
    stage("grpo", tmp_path / "run", reward, "loop.steps=1", "loop.eval_every=0", "held_out=0")
    checks = [name for row in rows(tmp_path / "run" / "events.jsonl") if row["kind"] == "self_test" for name in row["checks"]]
    assert {"longest-batch", "ratio", "reward-reads-prompt", "reward-reads-answer"} <= set(checks)


@pytest.mark.parametrize(("name", "metric"), [("sft", "loss"), ("dpo", "loss"), ("reward", "accuracy"), ("grpo", "reward")])
def test_the_test_side_is_measured_once_at_the_end(name: str, metric: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    summary = stage(name, tmp_path / "run", "loop.steps=2", "loop.eval_every=1", "loop.probes=0", "test=0.2")
    tested = [row for row in rows(tmp_path / "run" / "metrics.jsonl") if f"test/{metric}" in row]
    assert [row["step"] for row in tested] == [2]
    assert summary["test"][f"test/{metric}"] == tested[0][f"test/{metric}"]
    assert summary["data"]["test"]["records"] > 0
    if name == "reward":
        assert summary["test_reward_model"]["accuracy"] == summary["test"]["test/accuracy"]


def test_rl_evaluates_by_its_own_sampling(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    greedy = "eval_sampling={temperature: 0, samples: 2}"
    stage("grpo", tmp_path / "run", "loop.steps=1", "loop.eval_every=0", "loop.probes=2", "sampling.temperature=1.3", greedy)
    last = [row for row in rows(tmp_path / "run" / "metrics.jsonl") if "eval/reward" in row][-1]
    assert last["eval/reward_std"] == 0.0, "two greedy answers to a prompt are one and the same"
    assert {row["why"] for row in rows(tmp_path / "run" / "samples" / "training.jsonl")} == {"fixed", "random", "worst", "best"}


def test_the_critic_is_tested_too(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("ppo", tmp_path / "run", "loop.steps=1", "loop.eval_every=0", "held_out=0")
    tested = [row["checks"] for row in rows(tmp_path / "run" / "events.jsonl") if row["kind"] == "self_test"]
    assert sum("longest-batch" in checks for checks in tested) == 2, "policy and critic"


def test_a_finished_run_is_not_run_again(stage: Stage, finished: Finished) -> None:
    run = finished("reward")
    before = (run / "metrics.jsonl").read_bytes()
    summary = stage("reward", run)
    assert summary["steps"] == 4
    assert (run / "metrics.jsonl").read_bytes() == before


# --------------------------------------------------------------------------------------------------------------------- learning


def test_sft_learns(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("sft", tmp_path, "loop.steps=10", "loop.eval_every=0", "loop.probes=0", "optim.lr=5e-3")
    metrics = rows(tmp_path / "metrics.jsonl")
    assert metrics[-1]["eval/loss"] < metrics[0]["eval/loss"] - 0.5


def test_a_reward_model_learns(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("reward", tmp_path, "loop.steps=8", "loop.eval_every=0")
    metrics = rows(tmp_path / "metrics.jsonl")
    assert metrics[-1]["eval/loss"] < 0.1 < metrics[0]["eval/loss"]
    assert metrics[-1]["eval/accuracy"] == 1.0


def test_dpo_learns(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("dpo", tmp_path, "loop.steps=8", "loop.eval_every=0", "loop.probes=0")
    metrics = rows(tmp_path / "metrics.jsonl")
    assert metrics[0]["eval/loss"] == pytest.approx(0.6931, abs=1e-3), "log 2 at the reference"
    assert metrics[-1]["eval/loss"] < 0.5
    assert metrics[-1]["eval/rewards/margins"] > 0.3


LEARNING_RL = {
    "grpo": ("grpo", "optim.lr=5e-3"),
    "rloo": ("grpo", "algorithm.name=rloo", "algorithm.kl.coef=0.001", "optim.lr=5e-3"),
    "ppo": ("ppo", "loop={steps: 12, batch_size: 6}", "optim.lr=5e-3"),
}


@pytest.mark.parametrize("name", LEARNING_RL)
def test_rl_learns(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """A random model writes about 6% of e; the reward is their share."""
    recipe, *overrides = LEARNING_RL[name]
    stage(recipe, tmp_path, "loop.steps=15", "samples=8", "sampling.max_tokens=12", "loop.eval_every=0", *overrides)
    rewards = [row["reward"] for row in rows(tmp_path / "metrics.jsonl") if "reward" in row]
    first, last = sum(rewards[:3]) / 3, sum(rewards[-3:]) / 3
    assert last > 1.7 * first, f"{first:.3f} -> {last:.3f}"


# --------------------------------------------------------------------------------------------------------- independence of batches


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "grpo"])
def test_micro_batches_do_not_show_in_the_result(name: str, stage: Stage, finished: Finished, tmp_path: Path) -> None:
    """One batch of all units = units one by one, after whole stages."""
    stage(name, tmp_path, "batch={microbatch_tokens: 1, inference_tokens: 1}")
    whole, split = (load_file(path / "final" / "model.safetensors") for path in (finished(name), tmp_path))
    start = load_model("tiny:llama?seed=1", FP32).model.module.state_dict()
    moved = sum(float((w - start[key]).square().sum()) for key, w in whole.items() if key in start)
    apart = sum(float((w - split[key]).square().sum()) for key, w in whole.items())
    assert (apart / moved) ** 0.5 < 1e-2, "Adam divides by the gradient's size, so rounding of weights without a gradient shows most"
