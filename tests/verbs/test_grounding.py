"""Measures and prices by kind of token, and complexity, in a run of RL on pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.core.errors import ConfigError
from keel.verbs.run import run_verb

SHORT = (
    "loop.steps=2",
    "loop.eval_every=0",
    "settings.threads=1",
    "model_options.precision=fp32",
    "settings.checkpoint.every=2",
    "samples=2",
)
KINDS = {f"{name}/{kind}" for name in ("kl", "entropy") for kind in ("grounded", "ungrounded")}


def run(path: Path, *overrides: str, name: str = "vlm_grpo") -> dict[str, float]:
    summary = run_verb("rl", Path(f"recipes/tiny_{name}.yaml"), [*SHORT, *overrides, f"run_dir={path}"])
    assert summary is not None
    return summary["last"] | summary["last_eval"]


def test_kinds_are_measured_when_asked_for(proofs: None, tmp_path: Path) -> None:
    found = run(tmp_path / "a", "grounding={every: 1, above: 0}")
    assert KINDS | {"policy/grounded_ratio"} <= found.keys()
    assert 0 < found["policy/grounded_ratio"] < 1
    ratio = found["policy/grounded_ratio"]
    mixed = ratio * found["entropy/grounded"] + (1 - ratio) * found["entropy/ungrounded"]
    assert mixed == pytest.approx(found["entropy"], rel=1e-4)
    plain = run(tmp_path / "b")
    assert not KINDS & plain.keys()
    assert plain["entropy"] == found["entropy"], "what is measured changes nothing"
    assert {
        "grad_norm/language",
        "grad_norm/projector",
        "grad_norm/vision",
        "eval/attention/image_mass",
        "eval/alignment/lead",
    } <= plain.keys()
    assert 0 < plain["prompts/complexity"] < 1


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm.kl.grounded=0", "algorithm.kl.ungrounded=3", "grounding.above=0"),
        ("algorithm.name=ppo", "algorithm.kl.coef=0.05", "algorithm.kl.grounded=0", "algorithm.kl.ungrounded=3", "grounding.above=0"),
    ],
    ids=["in the loss", "in the reward"],
)
def test_the_price_by_kind_changes_what_is_learnt(overrides: tuple[str, ...], proofs: None, tmp_path: Path) -> None:
    priced = run(tmp_path / "a", *overrides)
    assert priced.keys() >= KINDS
    even = run(tmp_path / "b", *(x.replace("grounded=0", "grounded=1").replace("grounded=3", "grounded=1") for x in overrides))
    assert not KINDS & even.keys(), "a price that is the same for all asks for no kinds"
    assert priced["grad_norm"] != even["grad_norm"]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("algorithm.kl.grounded=2", "algorithm.kl.grounded and ungrounded"),
        ("grounding.every=1", "grounding"),
        ("algorithm.kl.control={kind: multiplicative, target_slope: 1}", "algorithm.kl.control.target_slope"),
    ],
)
def test_prompts_without_images_refuse_what_would_do_nothing(setting: str, name: str, proofs: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} would have no effect: no prompt shows an image"):
        run(tmp_path, setting, name="grpo")
