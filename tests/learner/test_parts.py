"""Parts of a model in training: rates of their own, parts that rest, and resuming across the border of two phases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from keel.core.errors import ModelError
from keel.data.config import DataConfig
from keel.data.dataset import load as read
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import LoraConfig
from keel.models.loading import Loaded
from keel.models.model import Model
from keel.render.config import RenderConfig
from keel.types import Unit
from keel.verbs.shared.session import renderer_of

Load = Callable[..., Loaded]
FLAT = {"schedule": "constant", "warmup_ratio": 0.0, "clip_norm": None}


def learner_of(model: Model, **optim: object) -> LocalLearner:
    return LocalLearner(model, OptimConfig.model_validate({"lr": 1e-3, **FLAT, **optim}), BatchConfig(), 10, 0)


def moved(learner: LocalLearner, act: Callable[[], object]) -> dict[str, float]:
    """How far the trained parameters of each part have moved at most."""
    parts = learner.model.parts()
    before = {name: p.detach().clone() for name, p in learner.model.trainable()}
    act()
    found: dict[str, float] = {}
    for name, p in learner.model.trainable():
        far = float((p.detach() - before[name]).abs().max())
        part = parts.get(name, "head")
        found[part] = max(found.get(part, 0.0), far)
    return found


def one_step_of_ones(learner: LocalLearner) -> None:
    """Adam's first step is as long as the rate, whatever the gradient."""
    for _, p in learner.model.trainable():
        p.grad = torch.ones_like(p)
    learner.step()


def test_parts_have_their_own_rates(load: Load) -> None:
    learner = learner_of(load("llava").model, lr_parts={"projector": 2e-2, "vision": 1e-4})
    found = moved(learner, lambda: one_step_of_ones(learner))
    assert found == {
        "language": pytest.approx(1e-3, rel=1e-2),
        "projector": pytest.approx(2e-2, rel=1e-2),
        "vision": pytest.approx(1e-4, rel=2e-2),
    }


def test_their_schedule_has_the_shape_of_the_others(load: Load) -> None:
    learner = learner_of(load("llava").model, lr_parts={"vision": 1e-4}, schedule="linear", warmup_steps=2)
    rates = []
    for _ in range(10):
        one_step_of_ones(learner)
        rates.append(next(g["lr"] for g in learner._optimizer.param_groups if g["pace"] != 1.0))
    assert rates == pytest.approx([1e-4 * x for x in (0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)])
    learner.lr_now = 5e-4  # half of the recipe's rate
    one_step_of_ones(learner)
    assert sorted({g["lr"] for g in learner._optimizer.param_groups}) == pytest.approx([5e-5, 5e-4])


def test_rates_of_adapters_and_of_parts_beside_them(load: Load) -> None:
    lora = LoraConfig(r=2, parts=("language", "vision"))
    learner = learner_of(load("llava", lora=lora, train=("projector",)).model, lr_parts={"projector": 3e-3, "vision": 2e-4})
    report: dict[str, float] = {}

    def act() -> None:
        for _, p in learner.model.trainable():
            p.grad = torch.ones_like(p)
        report.update(learner.step().metrics)

    found = moved(learner, act)
    assert found == {
        "language": pytest.approx(1e-2, rel=1e-2),
        "projector": pytest.approx(3e-3, rel=1e-2),
        "vision": pytest.approx(2e-4, rel=2e-2),
    }
    assert {key: report[key] for key in ("lr", "lr/projector", "lr/vision")} == pytest.approx(
        {"lr": 1e-2, "lr/projector": 3e-3, "lr/vision": 2e-4}
    )


def test_rates_of_what_is_not_there_or_not_trained(load: Load) -> None:
    model = load("llava", train=("language", "projector")).model
    with pytest.raises(ModelError, match=r"optim\.lr_parts names 'tower'; a model of type 'llava' has: language, projector, vision"):
        learner_of(model, lr_parts={"tower": 1e-4})
    with pytest.raises(ModelError, match=r"names 'vision', of which nothing is trained \(trained: language, projector\)"):
        learner_of(model, lr_parts={"vision": 1e-4})
    with pytest.raises(ValueError, match="only whole parts"):
        learner_of(model, lr_parts={"vision:last1": 1e-4})


# -------------------------------------------------------------------------------------------------------------- parts that rest


@pytest.fixture
def units(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Loaded], tuple[Unit, ...]]:
    """Three descriptions of pictures, as this model reads them."""
    monkeypatch.chdir(root)

    def make(loaded: Loaded) -> tuple[Unit, ...]:
        records = read(DataConfig(path="recipes/tiny/scenes/captions.jsonl"), 0).records[:3]
        made, refused = renderer_of(loaded, RenderConfig()).units(records)
        assert not refused
        return tuple(made)

    return make


def train(learner: LocalLearner, units: Sequence[Unit], phases: Sequence[tuple[str, ...]], first: int = 0) -> list[dict[str, Tensor]]:
    """A step for each of ``phases`` from ``first`` on; the trained parameters after each."""
    found = []
    for parts in phases[first:]:
        learner.train_only(parts)
        learner.forward_backward(units, SupervisedObjective())
        learner.step()
        found.append({name: p.detach().clone() for name, p in learner.model.trainable()})
    return found


STAGES = (("projector",), ("projector",), ("projector", "vision:last1"), ())


def test_what_rests_stays_as_it_is_and_begins_anew(load: Load, units) -> None:
    loaded = load("llava")
    learner = learner_of(loaded.model, weight_decay=0.1)
    parts = loaded.model.parts()
    last = loaded.model.belonging(("vision:last1",), "test")
    start = {name: p.detach().clone() for name, p in loaded.model.trainable()}
    states = [start, *train(learner, units(loaded), STAGES)]
    changed = [{name for name in a if not torch.equal(a[name], b[name])} for a, b in itertools.pairwise(states)]
    projector = {name for name, part in parts.items() if part == "projector"}
    assert changed[0] == changed[1] == projector
    assert projector < changed[2] <= projector | last
    assert {parts[name] for name in changed[3]} == {"language", "projector", "vision"}
    steps = {name: float(learner._optimizer.state[p]["step"]) for name, p in loaded.model.trainable() if p in learner._optimizer.state}
    assert {steps[name] for name in projector} == {4.0}
    assert {steps[name] for name in last & steps.keys()} == {2.0}
    assert {steps[name] for name, part in parts.items() if part == "language"} == {1.0}


def test_what_is_updated_moves_as_in_full_training(load: Load, units) -> None:
    """The gradient of the part that trains is the whole model's."""
    whole, alone = load("llava"), load("llava")
    gradients = []
    for loaded, parts in ((whole, ()), (alone, ("projector",))):
        learner = learner_of(loaded.model)
        learner.train_only(parts)
        learner.forward_backward(units(loaded), SupervisedObjective())
        gradients.append({name: p.grad for name, p in loaded.model.trainable() if p.grad is not None})
    assert {loaded_part for name in gradients[1] if (loaded_part := alone.model.parts()[name])} == {"projector"}
    for name, grad in gradients[1].items():
        torch.testing.assert_close(grad, gradients[0][name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_resume_at_any_step_is_exact(load: Load, units, name: str, cut: int) -> None:
    """Moments of parts that have not been due yet are in no checkpoint, and begin as they would have."""
    optim = {"name": name, "weight_decay": 0.1}
    loaded = load("llava")
    first = learner_of(loaded.model, **optim)
    train(first, units(loaded), STAGES[:cut])
    tensors, state = first.state()
    kept = {key: t.clone() for key, t in tensors.items()}
    on = train(first, units(loaded), STAGES, cut)[-1]
    again = load("llava")
    second = learner_of(again.model, **optim)
    second.load_state(kept, state)
    resumed = train(second, units(again), STAGES, cut)[-1]
    assert all(torch.equal(on[key], resumed[key]) for key in on)


def test_adapters_and_a_part_in_full_take_turns(load: Load, units) -> None:
    """Adapters beside a projector in full, one at a time."""
    loaded = load("llava", lora=LoraConfig(r=2), train=("projector",))
    learner = learner_of(loaded.model)
    parts = loaded.model.parts()
    start = {name: p.detach().clone() for name, p in loaded.model.trainable()}
    states = [start, *train(learner, units(loaded), (("projector",), ("language",)))]
    changed = [{parts[name] for name in a if not torch.equal(a[name], b[name])} for a, b in itertools.pairwise(states)]
    assert changed == [{"projector"}, {"language"}]


def test_phases_of_what_is_not_trained(load: Load) -> None:
    learner = learner_of(load("llava", train=("language",)).model)
    for parts, reason in ((("projector",), "of which nothing is trained"), (("adapter",), "has: language, projector, vision")):
        with pytest.raises(ModelError, match=reason):
            learner.train_only(parts)
