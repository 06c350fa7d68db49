"""A fresh projector set near the words, before any language model reads through it.

A projector that starts at random gives a language model noise in place of a picture, and a small one needs many thousands of captions to
find out what it means. Where data say what can be seen in which cell of a picture, the projector can be set first: each row of the tower is
mapped near the mean embedding of the words for its cell. No pass of the language model is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

Cells = Sequence[Sequence[str]]
log = logging.getLogger("keel")
_BATCH = 64
EMPTY = "\n"  # what stands for a cell with nothing in it


def align_projector(
    module: Any, processor: Any, pictures: Sequence[tuple[Image.Image, Cells]], steps: int, lr: float, seed: int
) -> tuple[float, float]:
    """Train the projector of a LLaVA ``module`` for ``steps`` of AdamW with a cosine on squared distance, in batches of 64 pictures.

    A picture comes with ``cells``: rows of texts, a grid over it of any size; "" = nothing there. Distances are measured in standard
    deviations of the embedding table, so 1 is no better than the mean embedding's distance. Returns the mean over the last tenth of the
    steps, and over the first one.
    """
    rows_NPD = tower_rows(module, processor, [image for image, _ in pictures])
    side = round(rows_NPD.shape[1] ** 0.5)
    targets_NPH = torch.stack([_targets(module, processor.tokenizer, cells, side) for _, cells in pictures])
    scale = float(module.get_input_embeddings().weight.detach().std())
    projector = module.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for _ in range(steps):
        chosen = torch.randint(len(pictures), (_BATCH,), generator=draw)
        loss = ((projector(rows_NPD[chosen]) - targets_NPH[chosen]) / scale).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    tenth = max(1, steps // 10)
    return sum(losses[-tenth:]) / tenth, sum(losses[:tenth]) / tenth


@torch.no_grad()
def tower_rows(module: Any, processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """What the tower gives the projector, float32 [N, patches, D]."""
    drop = 1 if module.config.vision_feature_select_strategy == "default" else 0
    found: list[Tensor] = []
    for start in range(0, len(images), _BATCH):
        pixels = processor.image_processor(list(images[start : start + _BATCH]), return_tensors="pt")["pixel_values"]
        states = module.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        found.append(states[module.config.vision_feature_layer][:, drop:])
    return torch.cat(found)


def _targets(module: Any, tokenizer: Any, cells: Cells, side: int) -> Tensor:
    """[patches, H]: the mean word embedding of the cell that each patch's middle lies in."""
    table = module.get_input_embeddings().weight.detach()

    def meaning(text: str) -> Tensor:
        return table[tokenizer(f" {text}" if text else EMPTY, add_special_tokens=False)["input_ids"]].mean(0)

    means = [[meaning(text) for text in row] for row in cells]
    places = [(y, x) for y in range(side) for x in range(side)]
    return torch.stack([_at(_at(means, y, side), x, side) for y, x in places])


def _at(items: Sequence[Any], i: int, side: int) -> Any:
    return items[(2 * i + 1) * len(items) // (2 * side)]
