"""Parts of vision-language models: what belongs to which, and training some of them."""

from __future__ import annotations

from collections import Counter

import pytest

from keel.core.errors import ModelError
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.parts import parts_of

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


def test_adapters_have_targets_of_their_own() -> None:
    with pytest.raises(ModelError, match=r"adapters have lora\.targets"):
        load_model("tiny:llava", ModelOptions(train=("language",)), LoraConfig())
