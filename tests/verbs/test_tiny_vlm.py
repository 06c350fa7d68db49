"""The tiny recipes of vision-language models, as they stand, for two steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.verbs.run import run_verb

VERBS = {"sft": "sft", "reward": "reward", "dpo": "prefer", "grpo": "rl", "ppo": "rl"}
SHORT = ("loop.steps=2", "loop.eval_every=0", "settings.threads=1", "model_options.precision=fp32", "settings.checkpoint.every=2")


@pytest.mark.parametrize("name", VERBS)
def test_the_recipe_trains(name: str, proofs: None, tmp_path: Path) -> None:
    summary = run_verb(VERBS[name], Path(f"recipes/tiny_vlm_{name}.yaml"), [*SHORT, f"run_dir={tmp_path}"])
    assert summary is not None
    assert summary["last"]["grad_norm"] > 0
    assert (tmp_path / "final" / "processor_config.json").exists() or name == "reward"
    if name in ("grpo", "ppo"):
        assert "rewards/made_up/coverage/mean" in summary["last"]
