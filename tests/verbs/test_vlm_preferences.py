"""mDPO and MPO of a vision-language model: whole stages, what is refused, and whether the preference hangs on the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import load
from keel.core.errors import ConfigError, UserError
from keel.data.config import DataConfig
from keel.data.dataset import load as read
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.types import Unit
from keel.verbs.prefer.answers import referred
from keel.verbs.run import RECIPES, run_verb
from keel.verbs.shared.session import renderer_of
from keel.verbs.shared.units import preference_units

Rows = Callable[[Path], list[dict[str, Any]]]
RECIPE = Path("recipes/tiny_vlm_dpo.yaml")
SHORT = ("loop={steps: 3, batch_size: 4, probes: 0, eval_every: 1}", "settings={threads: 1}", "model_options.precision=fp32")


def prefer(path: Path, *overrides: str) -> dict[str, Any]:
    summary = run_verb("prefer", RECIPE, [*SHORT, *overrides, f"run_dir={path}"])
    assert summary is not None
    return summary


def test_mdpo(proofs: None, rows: Rows, tmp_path: Path) -> None:
    summary = prefer(tmp_path, "objective={name: mdpo}")
    assert summary["contrasts"] == summary["units"] > 0
    first, *_, last = rows(tmp_path / "metrics.jsonl")
    assert first["eval/loss"] == pytest.approx(3 * 0.6931, rel=1e-3), "three times ln 2 at the reference"
    assert {"loss/dpo", "loss/conditional", "loss/anchor", "contrast/margins", "contrast/accuracies", "rewards/accuracies"} <= set(last)
    assert last["eval/loss"] < first["eval/loss"]


def test_mpo(proofs: None, rows: Rows, tmp_path: Path) -> None:
    prefer(tmp_path, "objective={name: mpo}")
    first, *_, last = rows(tmp_path / "metrics.jsonl")
    assert {"loss/dpo", "loss/bco", "loss/sft", "nll"} <= set(last)
    assert last["eval/loss"] < first["eval/loss"]


def test_what_has_no_image_to_corrupt_is_refused(proofs: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no prompt holds an image"):
        prefer(tmp_path, "objective={name: mdpo}", "data.path=recipes/tiny/pairs.jsonl")
    online = "online={samples: 2, rewards: [{type: finished, name: ended}]}"
    with pytest.raises(UserError, match="online makes its own"):
        load(RECIPES["prefer"], RECIPE, ["objective={name: mdpo}", online])


def trained(name: str, seed: int, steps: int = 30) -> tuple[LocalLearner, tuple[Unit, ...]]:
    """A tiny model after ``steps`` steps on all pairs of the scenes."""
    loaded = load_model(f"tiny:llava?seed={seed}", ModelOptions(precision="fp32", device="cpu"))
    renderer, objective = renderer_of(loaded, RenderConfig()), preference_objective(ObjectiveConfig(name=name))
    made, refused = preference_units(renderer, objective.needs_contrast)(read(DataConfig(path="recipes/tiny/scenes/pairs.jsonl"), 0))
    assert not refused
    learner = LocalLearner(loaded.model, OptimConfig(lr=1e-3, schedule="constant", warmup_ratio=0.1), BatchConfig(), steps, seed)
    units = referred(objective, tuple(made), seed, learner.logprobs)
    for _ in range(steps):
        learner.forward_backward(units, objective)
        learner.step()
    return learner, units


def answers(learner: LocalLearner, units: tuple[Unit, ...]) -> torch.Tensor:
    """Log-probabilities of the preferred and of the other answer, nats: [units, 2]."""
    return torch.stack([torch.stack([branch_T.sum() for branch_T in row]) for row in learner.logprobs(units)])


@pytest.mark.slow
def test_mdpo_hangs_on_the_picture_more_than_dpo(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another scene's picture the lead of the preferred answer moves by more, and that answer becomes less likely; and unlike under
    DPO it has become likelier than it was."""
    monkeypatch.chdir(root)
    moved, lost, gained = {}, {}, {}
    for name in ("dpo", "mdpo"):
        learner, units = trained(name, seed=2)
        others = [unit.prompt.with_images_of(units[(k + 7) % len(units)].prompt) for k, unit in enumerate(units)]
        swapped = tuple(Unit(unit.unit_id, other, unit.branches) for unit, other in zip(units, others, strict=True) if other is not None)
        assert len(swapped) == len(units)
        own_U2, other_U2 = answers(learner, units), answers(learner, swapped)
        start_U = torch.stack([u.branches[0].signals["ref_logprobs"].sum() for u in units])
        moved[name] = float(((own_U2 - other_U2) @ torch.tensor([1.0, -1.0])).abs().mean())
        lost[name] = float((own_U2 - other_U2)[:, 0].mean())
        gained[name] = float((own_U2[:, 0] - start_U).mean())
    assert moved["mdpo"] > 1.5 * moved["dpo"]
    assert lost["mdpo"] > 1.0 > lost["dpo"]
    assert gained["dpo"] < 0.0 < gained["mdpo"]
