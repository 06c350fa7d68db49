"""Vision-language models trained part after part: the recipes, on a tiny model, and resuming across the border of two stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from keel.core.errors import ConfigError, ModelError
from keel.loops.offline import OfflineTrainer
from keel.loops.online import OnlineTrainer
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.verbs.run import run_verb

Rows = Callable[[Path], list[dict[str, Any]]]
TINY = "model=tiny:llava?seed=1"
SHORT = (
    *(TINY, "model_options.gradient_checkpointing=false", "model_options.precision=fp32", "held_out=0", "loop.probes=0"),
    *("loop.batch_size=4", "settings={threads: 1, checkpoint: {every: 1, keep: 20}}"),
)


class Crash(BaseException):
    """Ends the program where it is."""


def run(name: str, path: Path, *overrides: str) -> Path:
    run_verb("sft", Path(f"recipes/{name}.yaml"), [*SHORT, *overrides, f"run_dir={path}"])
    return path


def weights(path: Path) -> dict[str, Tensor]:
    return load_file(path / "final" / "model.safetensors")


def moved(path: Path, until: Path) -> set[str]:
    """Parts with weights that differ between two runs, by more than a rate of 1e-30 can do to a bias of 0."""
    one, other = (load_model(str(p / "final"), ModelOptions(precision="fp32", device="cpu")).model for p in (path, until))
    a, b = one.weights(), other.weights()
    return {part for name, part in one.parts().items() if float((a[name] - b[name]).abs().max()) > 1e-20}


def test_the_projector_then_the_language_model(proofs: None, rows: Rows, tmp_path: Path) -> None:
    first = run("vlm_two_stage_sft", tmp_path / "first", "loop.steps=4", "loop.phases=[{name: p, until: 1, train: [projector], lr: 2e-5}]")
    both = run("vlm_two_stage_sft", tmp_path / "both", "loop.steps=8")
    steps = [row for row in rows(both / "metrics.jsonl") if "loss" in row]
    assert [row["phase"] for row in steps] == [1.0] * 4 + [2.0] * 4
    assert [row["lr"] for row in steps] == pytest.approx([2e-5] * 4 + [2e-6 * x for x in (1, 2 / 3, 1 / 3, 0)])
    start = run("vlm_two_stage_sft", tmp_path / "start", "loop.steps=1", "optim.lr=1e-30", "loop.phases=[]")
    assert moved(start, first) == {"projector"}
    assert moved(first, both) == {"language"}, "both runs have the same first stage, and the projector then rests"


def test_staged_unfreezing(proofs: None, rows: Rows, tmp_path: Path) -> None:
    at = run("vlm_staged_sft", tmp_path, "loop.steps=10")
    steps = [row for row in rows(at / "metrics.jsonl") if "loss" in row]
    assert [row["phase"] for row in steps] == [1.0] * 3 + [2.0] * 4 + [3.0] * 3
    assert all(row["lr/projector"] == pytest.approx(10 * row["lr"]) and row["lr/vision"] == pytest.approx(0.5 * row["lr"]) for row in steps)


@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_run_that_ends_at_a_border_goes_on_exactly(step: int, proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the last step before a border, in the first one behind it, and at the next border."""
    fast = ("loop.steps=10", "optim={lr: 1e-3, weight_decay: 0.1, lr_parts: {projector: 3e-3}}")
    whole = weights(run("vlm_staged_sft", tmp_path / "whole", *fast))
    original = OfflineTrainer.step

    def crashing(self: OfflineTrainer, at: int) -> Any:
        metrics = original(self, at)
        if at == step:
            raise Crash
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(OfflineTrainer, "step", crashing)
        with pytest.raises(Crash):
            run("vlm_staged_sft", tmp_path / "killed", *fast)
    resumed = weights(run("vlm_staged_sft", tmp_path / "killed", *fast))
    assert whole.keys() == resumed.keys()
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_a_phase_that_trains_what_the_recipe_freezes_is_refused_at_once(
    proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OfflineTrainer, "step", None)  # nobody gets there
    with pytest.raises(ModelError, match="train of a phase names 'vision:last1', of which nothing is trained"):
        run("vlm_two_stage_sft", tmp_path, 'loop.phases=[{name: a, until: 1, train: ["vision:last1"]}]')


def test_the_policy_of_rl_is_trained_by_parts_too(proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("loop={steps: 1, batch_size: 4, probes: 0, eval_at_start: false}", "settings={threads: 1}", "model_options.precision=fp32")

    def grpo(name: str, phase: str) -> None:
        overrides = [*short, "samples=4", "sampling.max_tokens=6", f"loop.phases=[{phase}]", f"run_dir={tmp_path / name}"]
        run_verb("rl", Path("recipes/tiny_vlm_grpo.yaml"), overrides)

    grpo("still", "{name: a, until: 1, lr: 1e-30}")
    grpo("projector", "{name: a, until: 1, train: [projector]}")
    assert moved(tmp_path / "still", tmp_path / "projector") == {"projector"}
    monkeypatch.setattr(OnlineTrainer, "step", None)
    with pytest.raises(ModelError, match="of which nothing is trained"):
        run_verb(
            "rl",
            Path("recipes/tiny_vlm_grpo.yaml"),
            [*short, "model_options.train=[language]", "loop.phases=[{name: a, until: 1, train: [vision]}]", f"run_dir={tmp_path / 'no'}"],
        )


AUGMENT = "augment={share: 0.8, crop: 0.7}"


@pytest.mark.parametrize("lora", ["lora={r: 4}", "optim.lr=1e-3"])
def test_the_reference_sees_the_image_as_the_policy_does(lora: str, proofs: None, rows: Rows, tmp_path: Path) -> None:
    """At first both are one model: the loss is ln 2 whatever the images' form, and is not where one of them sees another image."""
    short = ("loop={steps: 3, batch_size: 4, probes: 0, eval_at_start: false}", "settings={threads: 1}", "model_options.precision=fp32")
    still = ("optim.lr=1e-30", f"run_dir={tmp_path}")
    run_verb("prefer", Path("recipes/tiny_vlm_dpo.yaml"), [*short, lora, *still, AUGMENT])
    steps = [row for row in rows(tmp_path / "metrics.jsonl") if "loss" in row]
    assert [row["loss"] for row in steps] == pytest.approx([math.log(2)] * 3, abs=1e-6)


def test_a_run_on_augmented_images_goes_on_exactly(proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = ("loop.steps=6", "loop.batch_size=8", "optim.lr=1e-3")
    plain = weights(run("vlm_staged_sft", tmp_path / "plain", *fast))
    whole = weights(run("vlm_staged_sft", tmp_path / "whole", *fast, AUGMENT))
    assert any((plain[name] != whole[name]).any() for name in whole), "other images"
    original = OfflineTrainer.step

    def crashing(self: OfflineTrainer, at: int) -> Any:
        metrics = original(self, at)
        if at == 3:
            raise Crash
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(OfflineTrainer, "step", crashing)
        with pytest.raises(Crash):
            run("vlm_staged_sft", tmp_path / "killed", *fast, AUGMENT)
    resumed = weights(run("vlm_staged_sft", tmp_path / "killed", *fast, AUGMENT))
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_augmenting_what_holds_no_image_is_refused(proofs: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training row holds an image"):
        run_verb("sft", Path("recipes/tiny_sft.yaml"), [f"run_dir={tmp_path}", "augment={}", "settings.threads=1"])
