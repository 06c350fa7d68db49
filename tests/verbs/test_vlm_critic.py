"""PPO whose critic looks at the images again: the stage, going on from its critic, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from keel.core.config import load
from keel.core.errors import ConfigError, UserError
from keel.verbs.run import RECIPES, run_verb

SHORT = (
    *("samples=4", "sampling.max_tokens=6", "settings={threads: 1}", "model_options.precision=fp32", "critic_head=image_attention"),
    "loop={steps: 3, batch_size: 4, probes: 0, eval_at_start: false}",
)


def ppo(path: Path, *overrides: str) -> dict[str, float]:
    summary = run_verb("rl", Path("recipes/tiny_vlm_ppo.yaml"), [*SHORT, *overrides, f"run_dir={path}"])
    assert summary is not None
    return summary["last"]


def test_ppo_with_a_critic_that_looks_again(proofs: None, tmp_path: Path) -> None:
    first = ppo(tmp_path / "first")
    assert first["critic/grad_norm"] > 0
    head = load_file(tmp_path / "first" / "critic" / "keel_heads.safetensors")
    assert float(head["value_head.gate"]) != 0.0, "it has begun to look"
    ppo(tmp_path / "second", f"critic_model={tmp_path / 'first' / 'critic'}", "critic_optim.lr=1e-30", "critic_head=null")
    after = load_file(tmp_path / "second" / "critic" / "keel_heads.safetensors")
    assert head.keys() == after.keys()
    assert all((head[name] - after[name]).abs().max() < 1e-20 for name in head)


def test_what_has_nothing_to_look_at_is_refused(proofs: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no prompt holds one"):
        ppo(tmp_path, "data.path=recipes/tiny/prompts.jsonl", "rewards=[{type: finished, name: ended}]", "algorithm={name: ppo, epochs: 2}")
    with pytest.raises(UserError, match="critic_head would have no effect: the algorithm 'grpo' has no critic"):
        load(RECIPES["rl"], Path("recipes/tiny_vlm_grpo.yaml"), ["critic_head=linear"])
