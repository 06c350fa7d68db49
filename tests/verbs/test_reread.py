"""The model that a stage saves, read again, against the one in memory."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from keel.models import lora

LORA = "lora={r: 4, alpha: 8}"


SLOW = {("sft", "bf16"), ("grpo", "bf16"), ("online_dpo", "bf16")}  # one of bf16 is enough for every day


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=[pytest.mark.slow] if (name, precision) in SLOW else [])
        for name in ("sft", "dpo", "grpo", "online_dpo")
        for precision in ("fp32", "bf16")
    ],
)
def test_a_policy_is_saved_as_it_was_trained(stage, tmp_path: Path, name: str, precision: str) -> None:
    saved = stage(name, tmp_path / "run", LORA, "optim.lr=3e-2", f"model_options.precision={precision}")["saved"]
    assert saved["tokens"] > 0
    assert saved["kl_of_training"] > 1e-3, "something was learnt"
    assert abs(saved["kl"]) < (1e-6 if precision == "fp32" else 0.1 * saved["kl_of_training"])


def test_a_reward_model_is_saved_as_it_was_trained(stage, tmp_path: Path) -> None:
    assert stage("reward", tmp_path / "run", LORA)["saved"]["score_difference"] < 1e-4


def test_without_adapters_nothing_is_merged(stage, tmp_path: Path) -> None:
    assert "saved" not in stage("sft", tmp_path / "run")


def test_a_merge_that_loses_what_was_learnt_is_told(stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """Adapters that are left out of the merge: the saved model is the one before training."""
    original = lora.merged_state

    def forgets(module, compute_dtype=torch.float32):
        state = original(module)
        return {k: dict(module.named_parameters()).get(k.replace(".weight", ".base_layer.weight"), v).detach() for k, v in state.items()}

    monkeypatch.setattr(lora, "merged_state", forgets)
    with caplog.at_level(logging.WARNING, "keel"):
        saved = stage("sft", tmp_path / "run", LORA, "optim.lr=3e-2")["saved"]
    assert saved["kl"] == pytest.approx(saved["kl_of_training"], rel=1e-3)
    assert "differs from the model that was trained" in caplog.text
