from __future__ import annotations

import logging

import pytest
import torch
import transformers

from keel.models import prove
from keel.models.logit_transform import discover
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.rollout import plans
from keel.rollout.prove import decode_error, prove_decode

ARCHITECTURES = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "qwen3_moe",
    "granite",
    "cohere",
    "gpt_neox",
    "llava",
    "idefics3",
]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_tiny_models_prove_their_fast_path(load, arch: str) -> None:
    model = load(arch).model
    assert decode_error(model) < 5e-6
    assert prove_decode(model)


@pytest.mark.parametrize("arch", ["gemma2", "mistral"])
def test_a_window_that_is_ignored_is_noticed(load, arch: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    attend = plans.DecodePlan.attend

    def blind(self, layer, query, key, value, options):
        return attend(self, layer, query, key, value, type(options)(options.scaling, None, options.softcap, options.sinks_H))

    monkeypatch.setattr(plans.DecodePlan, "attend", blind)
    model = load(arch).model
    assert decode_error(model) > 1e-2
    with caplog.at_level(logging.WARNING):
        assert not prove_decode(model)
    assert "plain path" in caplog.text


def test_a_cache_that_mixes_rows_up_is_noticed(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans.Cache, "move", lambda *_: None)
    assert decode_error(load("llama").model) > 1e-2


def test_windows_are_what_they_were_afterwards(load) -> None:
    model = load("mistral").model
    before = [getattr(m, "sliding_window", None) for m in (model.config, *model.module.modules())]
    decode_error(model)
    assert before == [getattr(m, "sliding_window", None) for m in (model.config, *model.module.modules())]
    assert 16 in before


def test_a_model_whose_packed_rows_failed_is_not_tried(load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("llama").model
    monkeypatch.setattr(model, "packed", False)
    monkeypatch.setattr(prove, "verdict", lambda *_: pytest.fail("it was tried"))
    assert not prove_decode(model)


def test_state_between_tokens_outside_attention_is_noticed() -> None:
    """Some layers of this architecture are convolutions over time, which no attention plan sees."""
    config = transformers.Lfm2Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        full_attn_idxs=[1],
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    assert decode_error(Model(module, discover(config), torch.float32, MediaStore())) > 1e-2
