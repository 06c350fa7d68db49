"""Parts of vision-language models: what belongs to which, and training some of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from keel.core.errors import ModelError
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.model import Model
from keel.models.parts import Part, belonging, parts_of

VISION = {"llava": "vision_tower", "idefics3": "vision_model"}
PROJECTOR = {"llava": "multi_modal_projector", "idefics3": "connector"}


@pytest.mark.parametrize("arch", ["llava", "idefics3"])
def test_every_weight_has_its_part(arch: str) -> None:
    module = load_model(f"tiny:{arch}", ModelOptions(precision="fp32", device="cpu")).model.module
    for name, part in parts_of(module).items():
        expected = "vision" if VISION[arch] in name else "projector" if PROJECTOR[arch] in name else "language"
        assert part == expected, name
    assert len(Counter(parts_of(module).values())) == 3


def test_a_text_model_is_all_language() -> None:
    module = load_model("tiny:llama", ModelOptions(precision="fp32", device="cpu")).model.module
    assert set(parts_of(module).values()) == {"language"}
    with pytest.raises(ModelError, match="names 'projector'; a model of type 'llama' has: language"):
        load_model("tiny:llama", ModelOptions(train=("projector",)))


@pytest.mark.parametrize("part", ["language", "projector"])
def test_only_the_named_part_is_trained(part: str) -> None:
    options = ModelOptions.model_validate({"precision": "fp32", "device": "cpu", "train": [part]})
    model = load_model("tiny:llava", options, heads=frozenset({"score"}), new_heads=True).model
    trained = {name for name, _ in model.trainable()}
    named = {name for name, found in parts_of(model.module).items() if found == part}
    head = {name for name in trained if name.startswith("score_head")}
    output = {name for name in named if "lm_head" in name}  # a reward model does not use it
    assert head
    assert trained == (named - output) | head


@pytest.mark.parametrize("arch", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_mergers_are_projectors(arch: str) -> None:
    parts = parts_of(load_model(f"tiny:{arch}", ModelOptions(precision="fp32", device="cpu")).model.module)
    assert {name for name, part in parts.items() if part == "projector"} == {name for name in parts if "merger" in name}
    assert len(Counter(parts.values())) == 3


def adapted(*train: Part) -> Model:
    options = ModelOptions(precision="fp32", device="cpu", train=train)
    return load_model("tiny:llava?std=0.15&seed=1", options, LoraConfig(r=2, layers=1)).model


def test_a_part_in_full_beside_adapters() -> None:
    model = adapted("projector")
    trained = {name for name, _ in model.trainable()}
    assert {name for name in trained if ".lora_" not in name} == {n for n, part in parts_of(model.module).items() if part == "projector"}
    assert any(".lora_" in name for name in trained)
    with pytest.raises(ModelError, match="names 'language', which adapters train already"):
        adapted("language")


def test_the_reference_is_what_both_started_from() -> None:
    model = adapted("projector")
    start = {name: p.clone() for name, p in model.weights().items()}
    with torch.no_grad():
        for _, p in model.trainable():
            p.add_(0.1)
    trained = {name: p.clone() for name, p in model.weights().items()}
    with model.as_reference():
        inside = model.weights()
        assert all(torch.equal(inside[name], start[name]) for name in start if ".lora_" not in name)
    assert all(torch.equal(p, trained[name]) for name, p in model.weights().items())


def test_parts_in_full_have_the_rate_of_full_training() -> None:
    model = adapted("projector")
    learner = LocalLearner(model, OptimConfig(lr=1e-3, schedule="constant", weight_decay=0.0, clip_norm=None), BatchConfig(), 1, 0)
    before = {name: p.clone() for name, p in model.weights().items()}
    for _, p in model.trainable():
        p.grad = torch.ones_like(p)
    learner.step()
    moved = {name: float((p - before[name]).abs().max()) for name, p in model.weights().items()}
    assert {round(m, 5) for n, m in moved.items() if ".lora_" in n} == {0.01}
    assert {round(moved[n], 5) for n, part in parts_of(model.module).items() if part == "projector"} == {0.001}


@pytest.mark.parametrize("arch", ["llava", "qwen2_5_vl"])
def test_norms_by_part_add_up_to_the_whole(arch: str) -> None:
    model = load_model(f"tiny:{arch}?seed=1", ModelOptions(precision="fp32", device="cpu")).model
    learner = LocalLearner(model, OptimConfig(clip_norm=None), BatchConfig(), 10, seed=0)
    part_of = parts_of(model.module)
    for name, p in model.trainable():
        p.grad = torch.full_like(p, {"language": 1.0, "projector": 2.0, "vision": 3.0}[part_of[name]])
    sizes = Counter(part_of[name] for name, p in model.trainable() for _ in range(p.numel()))
    found = learner.step().metrics
    assert found["grad_norm/language"] == pytest.approx(sizes["language"] ** 0.5, rel=1e-5)
    assert found["grad_norm/vision"] == pytest.approx(3 * sizes["vision"] ** 0.5, rel=1e-5)
    squares = sum(found[f"grad_norm/{part}"] ** 2 for part in sizes)
    assert found["grad_norm"] == pytest.approx(squares**0.5, rel=1e-5)


@pytest.mark.parametrize("options", [{"train": ["language"]}, {}])
def test_where_one_part_is_trained_there_is_nothing_to_compare(options: dict) -> None:
    arch = "llava" if options else "llama"
    model = load_model(f"tiny:{arch}?seed=1", ModelOptions.model_validate({"precision": "fp32", "device": "cpu", **options})).model
    learner = LocalLearner(model, OptimConfig(), BatchConfig(), 10, seed=0)
    assert set(learner.step().metrics) == {"grad_norm", "lr", "skipped_steps"}


# ------------------------------------------------------------------------------------------------------------- layers of a part


@pytest.mark.parametrize(
    ("arch", "stack", "layers"),
    [
        ("llava", "vision_tower.encoder.layers.", {1}),  # of three layers, the features are those of the last but one
        ("internvl", "vision_tower.encoder.layer.", {1}),
        ("idefics3", "vision_model.encoder.layers.", {1}),
        ("qwen2_5_vl", "visual.blocks.", {1}),
    ],
)
def test_last_layers_are_the_last_that_are_read(arch: str, stack: str, layers: set[int]) -> None:
    module = load_model(f"tiny:{arch}", ModelOptions(precision="fp32", device="cpu", fast_path="off")).model.module
    named = belonging(module, ("vision:last1",), "here")
    assert named == {name for name in parts_of(module) if any(f"{stack}{k}." in name for k in layers)}
    assert named


def test_names_of_layers_that_are_not_there() -> None:
    module = load_model("tiny:llava", ModelOptions(precision="fp32", device="cpu")).model.module
    for name, reason in {
        "vision:last3": "here: 'vision:last3', and there are 2 layers that are read",
        "projector:last1": "this part of a 'llava' model has no layers",
        "visoin": "here names 'visoin'; a model of type 'llava' has: language, projector, vision",
        "vision:last0": "here names 'vision:last0'",
    }.items():
        with pytest.raises(ModelError, match=reason):
            belonging(module, (name,), "here")


# ------------------------------------------------------------------------------------------------------------ adapters by part


def with_adapters(**lora: object) -> Model:
    config = LoraConfig.model_validate({"r": 2, **lora})
    return load_model("tiny:llava?std=0.15&seed=1", ModelOptions(precision="fp32", device="cpu"), config).model


def adapted_parts(model: Model) -> dict[str, int]:
    """Adapted modules by part."""
    parts = parts_of(model.module)
    return dict(Counter(parts[name] for name, _ in model.trainable() if ".lora_A" in name))


def test_adapters_go_to_the_parts_that_are_named() -> None:
    language = adapted_parts(with_adapters())
    assert set(language) == {"language"}
    assert adapted_parts(with_adapters(parts=["language"])) == language
    everywhere = adapted_parts(with_adapters(parts=["language", "projector", "vision"]))
    # two linear layers in the projector; four of attention and two of the MLP in each of the tower's three layers
    assert everywhere == {**language, "projector": 2, "vision": 18}
    assert adapted_parts(with_adapters(parts=["vision"], targets=["fc1"])) == {"vision": 3}
    assert adapted_parts(with_adapters(parts=["language", "vision"], layers=1)) == {"language": language["language"] // 2, "vision": 18}


def test_parts_without_a_module_to_adapt() -> None:
    with pytest.raises(ModelError, match=r"lora.parts names 'projector', which has no linear module that lora.targets="):
        with_adapters(parts=["projector", "vision"], targets=["fc1"])
    with pytest.raises(ModelError, match=r"lora.parts names 'vision'; a model of type 'llama' has: language"):
        load_model("tiny:llama", ModelOptions(device="cpu"), LoraConfig(parts=("vision",)))
    with pytest.raises(ValueError, match="does not name language"):
        LoraConfig(parts=("vision",), layers=2)
