"""The case recipes: what they say, and the whole chain of each on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import dump
from keel.pipeline import load_pipeline, run_pipeline

CASES = Path("recipes/cases")
SCRIPTS_TINY = (
    *("model=tiny:llava?seed=1", "model_options.gradient_checkpointing=false", "model_options.precision=fp32", "settings.threads=1"),
    *(f"stages.{name}.held_out=0.2" for name in ("sft", "reward", "rl")),
    *(f"stages.{name}.loop={{steps: 2, batch_size: 4, probes: 0}}" for name in ("sft", "reward", "rl")),
    *("stages.rl.sampling.max_tokens=6",),
)


@pytest.fixture(autouse=True)
def _here(root: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_numbers_of_the_documents() -> None:
    stages: Any = load_pipeline(CASES / "llava_rlhf_documents.yaml", []).stages
    assert (stages.sft.loop.batch_size, stages.sft.loop.epochs) == (128, 1)
    assert (stages.reward.optim.lr, stages.reward.loop.batch_size, stages.reward.loop.epochs) == (1e-6, 64, 3)
    rl = stages.rl
    assert (rl.optim.lr, rl.critic_optim.lr, rl.algorithm.kl.coef) == (5e-7, 1e-6, 0.1)
    assert (rl.loop.batch_size, rl.loop.steps, rl.loop.eval_every, rl.optim.schedule) == (32, 50000, 1000, "linear")


def test_numbers_of_the_scripts() -> None:
    stages: Any = load_pipeline(CASES / "llava_rlhf_scripts.yaml", []).stages
    assert {s.lora.r for s in (stages.sft, stages.reward, stages.rl)} == {64}
    rates = [s.optim.lr * s.optim.lora_lr_factor for s in (stages.sft, stages.reward, stages.rl)]
    assert rates == pytest.approx([1e-4, 2e-5, 3e-5])
    rl = stages.rl
    assert (rl.loop.batch_size, rl.algorithm.epochs, rl.algorithm.minibatches, rl.sampling.max_tokens) == (512, 2, 2, 896)
    assert [(r.name, r.weight) for r in rl.rewards] == [("preferred", 1.0), ("ended", 8.0)]


@pytest.mark.parametrize("name", ["documents", "scripts", "tiny"])
def test_what_a_run_keeps_is_a_recipe(name: str, tmp_path: Path) -> None:
    recipe, kept = load_pipeline(CASES / f"llava_rlhf_{name}.yaml", []), tmp_path / "kept.json"
    kept.write_text(json.dumps(dump(recipe)))
    assert dump(load_pipeline(kept, [])) == dump(recipe)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("tiny", ("model_options.precision=fp32", "settings.threads=1")), pytest.param("scripts", SCRIPTS_TINY, marks=pytest.mark.slow)],
)
def test_the_chain_runs(name: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    run_pipeline(CASES / f"llava_rlhf_{name}.yaml", [*overrides, f"run_dir={tmp_path}"])
    summary = json.loads((tmp_path / "stages" / "rl" / "summary.json").read_text())
    assert summary["last"]["grad_norm"] > 0
    assert "rewards/preferred/mean" in summary["last"]
    assert (tmp_path / "stages" / "rl" / "critic" / "keel_heads.safetensors").is_file()
