"""The digest of a model's weights: what proves to a sampler that it has the trainer's."""

from __future__ import annotations

import copy

import pytest
import torch

from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.checksum import checksum
from keel.models.config import LoraConfig
from keel.types import Branch, Encoded, Unit

SIGNED = 1 << 64


def by_hand(data: bytes) -> int:
    """The definition, word by word."""
    words = [int.from_bytes(data[i : i + 8].ljust(8, b"\0"), "little") for i in range(0, len(data), 8)]
    total = sum(word * ((k * 0x9E3779B97F4A7C15) | 1) for k, word in enumerate(words, 1)) % SIGNED
    return total - SIGNED if total >= SIGNED // 2 else total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("n", [1, 7, 8, 33])
def test_the_checksum_is_the_sum_of_its_words(n: int, dtype: torch.dtype) -> None:
    values = torch.arange(1, n + 1).to(dtype)
    assert checksum(values) == by_hand(values.view(torch.uint8).numpy().tobytes())


def test_any_change_of_a_large_tensor_shows() -> None:
    """Over several blocks: one element, two that change places, two blocks that do, one bit of a zero's sign."""
    whole = torch.arange(700_000, dtype=torch.float32)
    others = [whole.clone() for _ in range(5)]
    others[0][699_999] += 1
    others[1][[3, 4]] = whole[[4, 3]]
    others[2][: 1 << 18], others[2][1 << 18 : 1 << 19] = whole[1 << 18 : 1 << 19].clone(), whole[: 1 << 18].clone()
    others[3][0] = -0.0
    others[4] = whole.roll(1)
    assert len({checksum(t) for t in (whole, *others)}) == 6


def test_where_the_bytes_lie_does_not_show() -> None:
    values = torch.arange(20, dtype=torch.bfloat16)
    assert checksum(values[1:]) == checksum(values[1:].clone())
    matrix = torch.arange(12, dtype=torch.float32).view(3, 4)
    assert checksum(matrix.t()) == checksum(matrix.t().contiguous()) != checksum(matrix)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)])
def test_it_follows_every_step_and_every_other_way_to_set_weights(load, name: str, lora: LoraConfig | None) -> None:
    model = load("llama", lora=lora).model
    learner = LocalLearner(model, OptimConfig(name=name, lr=1e-2, warmup_ratio=0.0), BatchConfig(), 10, 0)
    unit = Unit("u", Encoded(torch.tensor([5, 6])), (Branch(torch.tensor([7, 8]), torch.ones(2, dtype=torch.bool)),))
    tensors, state = (copy.deepcopy(x) for x in learner.state())
    seen = [model.digest()]
    assert model.digest() == seen[0]
    for _ in range(2):
        learner.forward_backward([unit], SupervisedObjective())
        learner.step()
        seen.append(model.digest())
    with learner.altered():
        seen.append(model.digest())
    assert model.digest() == seen[2]
    assert len(set(seen)) == 4
    learner.load_state(tensors, state)
    assert model.digest() == seen[0]
    model.set_weights({key: value + 1 for key, value in model.state_tensors().items()})
    assert model.digest() not in seen
