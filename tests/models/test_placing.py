"""Positions and two-way spans of prompts, in numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from keel.kernels.positions import as_input, packed_positions
from keel.models.placing import image_token, positions_of, spans_of, type_ids
from keel.types import Encoded

IMAGE = {"image_grid_thw": torch.tensor([[1, 4, 6]])}  # patches; two by two are one token: 2 high, 3 wide


@pytest.mark.parametrize("arch", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_an_image_counts_in_three_rows(load, arch: str) -> None:
    module = load(arch).model.module
    image = image_token(module)
    start, end = module.config.vision_start_token_id, module.config.vision_end_token_id
    tokens_T = torch.tensor([40, start, *[image] * 6, end, 41])
    positions_PT = positions_of(module, tokens_T, [IMAGE])
    assert positions_PT is not None
    assert positions_PT.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],  # time
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],  # height
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],  # width
    ]
    prompt = Encoded(tokens_T, (), positions_PT)
    assert prompt.next_position == 7, "ten tokens, and a branch goes on at seven"
    row = packed_positions([(prompt, (2,)), (Encoded(tokens_T[:2]), (1, 1))])
    assert row[:, 10:].tolist() == [[7, 8, 0, 1, 2, 2]] * 3
    assert positions_of(module, tokens_T[:2], []) is None


def test_one_row_stays_one_row() -> None:
    row = packed_positions([(Encoded(torch.tensor([5, 6])), (2, 1))])
    assert row.tolist() == [[0, 1, 2, 3, 2]]
    assert as_input(row[:, None]).shape == (1, 5)
    assert as_input(row.expand(3, -1)[:, None]).shape == (3, 1, 5)


def test_spans_of_images_and_of_prompts(load) -> None:
    gemma, pali, llama = (load(arch).model.module for arch in ("gemma3_vision", "paligemma", "llama"))
    i = image_token(gemma)
    tokens_T = torch.tensor([i, i, 40, 41, i, i, i])
    assert spans_of(gemma, tokens_T) == ((0, 2), (4, 7))
    assert spans_of(gemma, tokens_T[2:4]) == ()
    assert spans_of(pali, tokens_T) == ((0, 7),)
    assert spans_of(llama, tokens_T) == ()
    inside = torch.tensor([[True, True, False]])
    assert type_ids(gemma, inside)["token_type_ids"].tolist() == [[1, 1, 0]]
    assert type_ids(pali, inside)["token_type_ids"].tolist() == [[0, 0, 1]]
    assert type_ids(gemma, ~inside & inside) == {}
    assert type_ids(llama, inside) == {}
