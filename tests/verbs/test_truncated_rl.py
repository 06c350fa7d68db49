"""RL on rollouts that were drawn from a part of the distribution, whole stages of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import SelfTestError
from keel.learner import inference
from keel.loops.online import OnlineTrainer
from keel.verbs.rl.build import RLParts

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]
QUICK = ("loop.steps=2", "loop.eval_every=0", "loop.probes=0")
RATIO, APART = "sampling/importance_sampling_ratio", "sampling/sampling_logp_difference/max"


def trained(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "grad_norm" in row]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", ()),
        ("grpo", ("algorithm.name=gspo",)),
        ("ppo", ("algorithm={name: ppo, epochs: 1, minibatches: 1, kl: {coef: 0.01}}",)),
        ("grpo", ("algorithm.name=remax", "sampling.min_tokens=3")),
        ("grpo", ("algorithm.name=dapo", "sampling.top_k=40")),
        ("grpo", ("lora={r: 2}", "algorithm.kl.reference={kind: ema, decay: 0.5}")),
    ],
)
def test_it_trains_what_it_drew_from(name: str, settings: tuple[str, ...], parts: Callable[..., RLParts]) -> None:
    """Sampler and trainer agree on every token, the first ratio is 1, and so is the reference's at the start."""
    trainer = parts(name, *QUICK, "sampling.top_p=0.9", *settings).trainer()
    steps = [trainer.step(step) for step in range(2)]
    for row in steps:
        assert row["val/ratio"] == 1.0
        assert row["policy/approxkl_avg"] == 0.0
        assert row[APART] < 1e-3
        assert 1.0 < row["sampling/support/mean"] < 460  # of 512 tokens, nearly alike in a model from a seed
        assert row["grad_norm"] > 0
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
    if "kl" in steps[0]:
        assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-8)
        assert steps[1]["kl"] > 0.0


def test_it_explores_within_the_supports(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """Several temperatures and a share of a hotter distribution: each support is that of its own draw; the weights tell the two apart."""
    settings = ("exploration={temperatures: [0.7, 1.3], share: 0.1, hot: 3.0}", "algorithm.correction.kind=truncate")
    stage("grpo", tmp_path, *QUICK, "sampling.top_p=0.8", "algorithm.epochs=2", *settings)
    for row in trained(rows(tmp_path / "metrics.jsonl")):
        assert row[f"{RATIO}/min"] < 0.95 < 1.05 < row[f"{RATIO}/max"] <= 3.0
        assert 0.8 < row[f"{RATIO}/mean"] < 1.2  # a mean of weights over one support is near 1: over all tokens it would be near 0.8


def test_the_self_test_sees_a_trainer_that_forgets_the_supports(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = inference.token_logprobs
    monkeypatch.setattr(inference, "token_logprobs", lambda h, head, target, entropy, _: original(h, head, target, entropy))
    with pytest.raises(SelfTestError, match="self-test 'sampler' failed: sampler and trainer differ"):
        stage("grpo", tmp_path / "a", *QUICK, "sampling.top_p=0.9")
    monkeypatch.undo()
    fused = inference.fused_token_loss
    monkeypatch.setattr(inference, "fused_token_loss", lambda *args: fused(*args[:-1], None))
    with pytest.raises(SelfTestError, match="self-test 'ratio' failed"):
        stage("grpo", tmp_path / "b", *QUICK, "sampling.top_p=0.9")


@pytest.mark.slow
def test_a_crashed_run_ends_bit_for_bit_like_an_undisturbed_one(
    stage: Stage, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("loop.steps=3", "loop.eval_every=0", "loop.probes=0", "sampling={top_p: 0.9, max_tokens: 6}", "algorithm.epochs=2")
    every = "settings={threads: 1, checkpoint: {every: 1}}"
    stage("grpo", tmp_path / "whole", *settings, every)
    original = OnlineTrainer.step

    def step(self: Any, step: int) -> Mapping[str, float]:
        metrics = original(self, step)
        if step == 1:
            raise KeyboardInterrupt("with rollouts and updates that nobody has seen")
        return metrics

    monkeypatch.setattr(OnlineTrainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        stage("grpo", tmp_path / "crashed", *settings, every)
    monkeypatch.undo()
    stage("grpo", tmp_path / "crashed", *settings, every)
    found = [(tmp_path / run / "final" / "model.safetensors").read_bytes() for run in ("whole", "crashed")]
    assert found[0] == found[1]


def test_held_out_prompts_are_answered_by_settings_of_their_own(stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """What is cut in training is not cut in the evaluation, unless it says so."""
    cuts = {"none": (), "trained": ("sampling.top_k=2",), "measured": ("eval_sampling.top_k=2",)}
    for name, settings in cuts.items():
        stage("grpo", tmp_path / name, "loop={steps: 1, batch_size: 4, eval_every: 1, probes: 0}", "optim.lr=1e-12", *settings)
    variety = {name: rows(tmp_path / name / "metrics.jsonl")[0]["eval/completions/perplexity"] for name in cuts}
    assert variety["none"] == variety["trained"] > 50
    assert variety["measured"] <= 2.0


@pytest.mark.parametrize("name", ["dpo", "tdpo"])
def test_pairs_of_answers_from_a_nucleus_are_about_the_whole_distribution(name: str, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    """Online preferences pass the self-test, learn, and tell no KL: the answers' log-probabilities are of another distribution than the
    reference's. TDPO compares whole distributions, and refuses supports."""
    cut = "online.sampling={top_p: 0.8, max_tokens: 6, min_tokens: 2}"
    stage("online_dpo", tmp_path, *QUICK, cut, f"objective={{name: {name}}}")
    steps = trained(rows(tmp_path / "metrics.jsonl"))
    assert all(row["grad_norm"] > 0 and "objective/kl" not in row and "sampling/support/mean" not in row for row in steps)
    assert steps[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
