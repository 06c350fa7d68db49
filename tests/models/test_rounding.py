"""Rounding to bfloat16 by chance: the grid, the neighbours, the mean; and what it is for: merged adapters, read in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor

from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.lora import round_unbiased


def test_values_on_the_grid_stay_and_others_go_to_a_neighbour() -> None:
    value = torch.tensor([1.0, -1.0, 0.0, 1.00390625, -3.14159, 1e-30, 65504.0, float("inf")])
    for seed in range(20):
        rounded = round_unbiased(value, seed)
        assert torch.equal(rounded.bfloat16().float(), rounded), "on the grid"
        assert torch.equal(rounded[[0, 1, 2, 7]], value[[0, 1, 2, 7]]), "what was there stays"
        assert ((rounded - value).abs()[:7] <= value.abs()[:7] * 2**-7).all(), "a neighbour"


def test_the_mean_is_exact_and_the_seed_decides() -> None:
    """A quarter of the way from 1 to the next number, 1 + 1/128: up in a quarter of the draws (5 sigma: 0.7 points of 100,000)."""
    value = torch.full((100_000,), 1 + 0.25 / 128)
    for sign in (1.0, -1.0):
        rounded = round_unbiased(sign * value, 3)
        assert set(rounded.tolist()) == {sign, sign * (1 + 1 / 128)}
        assert abs((rounded != sign).float().mean() - 0.25) < 0.007
    assert torch.equal(round_unbiased(value, 3), round_unbiased(value, 3))
    assert not torch.equal(round_unbiased(value, 3), round_unbiased(value, 4))


def test_the_largest_number_does_not_become_infinite() -> None:
    largest = torch.tensor([torch.finfo(torch.float32).max])
    assert all(round_unbiased(largest, seed).isfinite() for seed in range(8))


def _trained(precision: str) -> tuple[Loaded, dict[str, Tensor], dict[str, Tensor]]:
    """A model whose adapters moved every weight by about a tenth of the distance between two bfloat16 numbers; its base's weights, and
    the changes, by the names in the saved file."""
    loaded = load_model("tiny:llama?seed=1&std=0.15", ModelOptions(precision=precision), LoraConfig(r=4, alpha=4), seed=3)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    base, change = {}, {}
    for name, module in loaded.model.module.named_modules():
        if isinstance(module, LoraLayer):
            with torch.no_grad():
                module.base_layer.weight.copy_(module.base_layer.weight.bfloat16())  # as published weights are
                module.lora_B["default"].weight.normal_(0, 2e-4, generator=generator)
            base[f"{name}.weight"] = module.base_layer.weight.detach().float().clone()
            change[f"{name}.weight"] = module.get_delta_weight("default").detach().float()
    return loaded, base, change


@pytest.mark.parametrize(("precision", "read_as"), [("fp32", torch.float32), ("bf16", torch.float32), ("bf16", torch.bfloat16)])
def test_whoever_reads_the_saved_model_finds_what_was_learnt(precision: str, read_as: torch.dtype, tmp_path: Path) -> None:
    """The projection of what a reader sees as changed on what was learnt is 1. By the nearest number it would be 0 in bfloat16."""
    loaded, base, change = _trained(precision)
    loaded.model.save(tmp_path, loaded.tokenizer)
    saved = load_file(tmp_path / "model.safetensors")
    found = torch.cat([(saved[name].to(read_as).float() - base[name]).reshape(-1) for name in change])
    learnt = torch.cat([delta.reshape(-1) for delta in change.values()])
    nearest = torch.cat([((base[n] + d).bfloat16().float() - base[n]).reshape(-1) for n, d in change.items()])
    assert (nearest @ learnt) / (learnt @ learnt) < 0.3, "the case is one where it matters"
    assert abs((found @ learnt) / (learnt @ learnt) - 1) < (1e-5 if precision == "fp32" else 0.1)


def test_a_saved_model_is_the_same_in_both_precisions(tmp_path: Path) -> None:
    loaded, _, change = _trained("bf16")
    loaded.model.save(tmp_path / "once", loaded.tokenizer)
    loaded.model.save(tmp_path / "twice", loaded.tokenizer)
    saved, again = (load_file(tmp_path / folder / "model.safetensors") for folder in ("once", "twice"))
    assert all(torch.equal(saved[name], saved[name].bfloat16().float()) for name in change)
    assert all(torch.equal(saved[name], again[name]) for name in saved)
