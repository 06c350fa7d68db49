"""Adapters in the tower and the projector: off they are the base, saved they are merged, for images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from keel.core.errors import ModelError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import LoraConfig
from keel.models.loading import Loaded
from keel.models.model import Model
from keel.models.pictured import Pictured
from keel.types import Branch, Unit

Load = Callable[..., Loaded]
ANSWER_T = torch.tensor([40, 41, 300, 17, 9])
EVERYWHERE = LoraConfig(r=2, alpha=8, parts=("language", "projector", "vision"))
FAMILIES = ("llava", "idefics3", "internvl", "qwen2_5_vl")


def unit(sample: Pictured) -> Unit:
    return Unit("u", sample.prompt, (Branch(ANSWER_T, torch.ones(len(ANSWER_T), dtype=torch.bool)),))


def logprobs(model: Model) -> Tensor:
    """Of an answer to a prompt with two images."""
    assert model.pictured is not None
    sample = model.pictured()[1]
    with model.showing([sample]):
        return LocalInference(model, BatchConfig()).logprobs([unit(sample)])[0][0]


def perturb(model: Model) -> None:
    with torch.no_grad():
        for i, (_, p) in enumerate(model.trainable()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)


@pytest.mark.parametrize("arch", FAMILIES)
def test_off_is_the_base_and_saved_is_merged(load: Load, tmp_path: Path, arch: str) -> None:
    base = logprobs(load(arch).model)
    loaded = load(arch, lora=EVERYWHERE)
    perturb(loaded.model)
    adapted = logprobs(loaded.model)
    assert float((adapted - base).abs().max()) > 0.1
    with loaded.model.as_reference() as reference:
        assert torch.equal(logprobs(reference), base)
    loaded.model.save(tmp_path, loaded.tokenizer, loaded.processor)
    torch.testing.assert_close(logprobs(load(str(tmp_path)).model), adapted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("part", ["projector", "vision"])
def test_the_adapters_of_one_part_alone_change_what_is_said_of_an_image(load: Load, part: str) -> None:
    base = logprobs(load("llava").model)
    model = load("llava", lora=LoraConfig.model_validate({"r": 2, "alpha": 8, "parts": [part]})).model
    assert torch.equal(logprobs(model), base), "adapters start at nothing"
    perturb(model)
    assert float((logprobs(model) - base).abs().max()) > 1e-3


@pytest.mark.parametrize("arch", ["llava", "idefics3"])
def test_plain_transformers_reads_what_was_merged(load: Load, tmp_path: Path, arch: str) -> None:
    loaded = load(arch, lora=EVERYWHERE)
    perturb(loaded.model)
    loaded.model.save(tmp_path, loaded.tokenizer, loaded.processor)
    assert loaded.model.pictured is not None
    sample = loaded.model.pictured()[1]
    plain = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="eager")
    ids_BL = torch.cat([sample.prompt.tokens_T, ANSWER_T])[None]
    with torch.no_grad():
        logits_TV = plain(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), **sample.whole).logits[0, -len(ANSWER_T) - 1 : -1]
    logits_TV[:, list(loaded.model.transform.banned)] = -torch.inf  # never sampled, so in no distribution
    theirs = logits_TV.log_softmax(-1).gather(1, ANSWER_T[:, None])[:, 0]
    torch.testing.assert_close(logprobs(loaded.model), theirs, rtol=1e-5, atol=2e-5)


def test_a_projector_without_a_linear_layer_is_refused_and_the_tower_is_not(load: Load) -> None:
    """Gemma 3's projector is a bare matrix."""
    with pytest.raises(ModelError, match=r"lora\.parts names 'projector', which has no linear module"):
        load("gemma3_vision", lora=EVERYWHERE)
    base = logprobs(load("gemma3_vision").model)
    model = load("gemma3_vision", lora=LoraConfig(r=2, parts=("vision",))).model
    perturb(model)
    assert float((logprobs(model) - base).abs().max()) > 1e-3
    with model.as_reference() as reference:
        assert torch.equal(logprobs(reference), base)
