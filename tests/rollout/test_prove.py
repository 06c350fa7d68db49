from __future__ import annotations

import logging

import pytest
import torch
import transformers
from torch.nn import functional as F

from keel.kernels import decode_products
from keel.kernels.logit_transform import discover
from keel.models import prove
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.rollout import decode, plans
from keel.rollout.prove import company, decode_error, prove_decode, row_dependence
from keel.types import Layout

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


# ------------------------------------------------------------------------------------------------------------------ rows beside


def test_dependence_on_the_rows_beside_is_measured_not_assumed(load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding alone is small on every machine; a product that sees how many rows there are is found out; one that rounds each row by
    itself measures exactly 0."""
    assert row_dependence(load("llama").model) < 1e-4

    def leaks(part, rows: int, dtype: torch.dtype):
        weight_OI = torch.cat([u.weight_OI for u in part])
        return lambda x: F.linear(x, weight_OI) * (1 + 1e-3 * x.shape[0])

    def by_row(part, rows: int, dtype: torch.dtype):
        weight_IO = torch.cat([u.weight_OI for u in part]).double().T

        def product(x: torch.Tensor) -> torch.Tensor:
            return torch.stack([(row.double() @ weight_IO).float() for row in x.reshape(-1, x.shape[-1])]).view(*x.shape[:-1], -1)

        return product

    monkeypatch.setattr(prove, "_write_file", lambda *_: None)
    monkeypatch.setattr(prove, "_read_file", dict)
    for copy in (leaks, by_row):
        monkeypatch.setattr(decode_products, "_copy", copy)
        monkeypatch.setattr(prove, "_memory", {})
        found = row_dependence(load("llama").model)
        assert found > 1e-3 if copy is leaks else found < 1e-5
    assert ("last bit" in company(found)) == (found == 0)


def test_what_is_measured_is_kept_by_machine(load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder that several machines share must not carry a verdict from one processor to another."""
    model = load("llama").model
    key = prove._key(model, "rows beside", row_dependence, ())
    monkeypatch.setattr(prove, "machine", lambda: {"processor": "another"})
    assert prove._key(model, "rows beside", row_dependence, ()) != key


@pytest.mark.parametrize("arch", ["qwen2_vl", "gemma3_vision", "paligemma"])
def test_the_proof_has_images(load, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    """Positions behind an image that are counted in tokens, or a prompt read without its two-way spans: right on text, wrong on images."""
    model = load(arch).model
    assert decode_error(model) < 1e-5
    if arch == "qwen2_vl":
        original = plans.Cache.__init__
        monkeypatch.setattr(plans.Cache, "__init__", lambda self, lengths, max_tokens, _=(): original(self, lengths, max_tokens))
    else:
        monkeypatch.setattr(decode, "Layout", lambda n, spans: Layout(n))
    assert decode_error(model) > 1e-2
    monkeypatch.setattr(model, "pictured", None)
    assert decode_error(model) < 1e-5, "text alone does not show it"
