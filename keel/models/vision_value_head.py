"""A critic's head that looks at the images again: hidden states attend to the projected features of their own prompt's images before they
are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keel.types import Batch

WIDTH, HEAD = 512, 64  # of the attention at most, and of each of its heads


@dataclass(frozen=True, slots=True)
class View:
    """What the tokens of one unit may look at."""

    first: int  # the unit's place in the packed row
    length: int
    rows_FH: Tensor  # projected features of its images, in order
    from_F: Tensor  # int64 [F]: the token of the unit from which on each is seen, the first one behind its image


def views(batch: Batch, rows: Mapping[str, Tensor], image_token: int | None) -> list[View]:
    """The units of ``batch`` whose prompt holds images. ``rows``: the features [n, H] of each image by its digest."""
    found: list[View] = []
    first = 0
    for unit, group in zip(batch.units, batch.groups, strict=True):
        length = sum(group.lengths)
        if unit.prompt.media:
            at_F = (unit.prompt.tokens_T == image_token).nonzero()[:, 0]
            sizes = torch.tensor([ref.n_tokens for ref in unit.prompt.media])
            behind = at_F[sizes.cumsum(0) - 1] + 1
            rows_FH = torch.cat([rows[ref.digest] for ref in unit.prompt.media])
            found.append(View(first, length, rows_FH, behind.repeat_interleave(sizes).to(rows_FH.device)))
        first += length
    return found


class LookingValueHead(nn.Linear):
    """``w . h' + b`` with ``h' = h + tanh(gate) W_o Attention(W_q LN(h), W_k LN(f), W_v LN(f))``, where ``f`` are the projected features of
    the images that stand before the token (gated cross-attention: Alayrac et al. 2022, arXiv:2204.14198, section 2.1.2, whose gate starts
    at 0 too). With the gate at 0, as it starts, and for tokens with no image before them it is the plain head on the text trunk, exactly.

    ``look`` makes ``h'``; called as a layer it is the plain head. All of it in float32.
    """

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__(hidden, 1)
        width = min(hidden, WIDTH)
        self.n_heads = max(1, width // HEAD)
        generator = torch.Generator().manual_seed(seed)
        self.query, self.key, self.view = (nn.Linear(hidden, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, hidden, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            for layer in (self.query, self.key, self.view, self.out):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)

    def look(self, hidden_NH: Tensor, seen: Sequence[View]) -> Tensor:
        """The hidden states [N, H] of a packed row with what they see in their images."""
        if not seen:
            return hidden_NH
        parts: list[Tensor] = []
        done = 0
        for view in seen:
            start = view.first + int(view.from_F.min())  # before that nothing is seen
            end = view.first + view.length
            parts += [hidden_NH[done:start].float(), self._attended(hidden_NH[start:end].float(), view, start - view.first)]
            done = end
        return torch.cat([*parts, hidden_NH[done:].float()])

    def _attended(self, hidden_LH: Tensor, view: View, first: int) -> Tensor:
        """``h'`` of the unit's tokens from its ``first`` one on."""
        normed_LH, rows_FH = F.layer_norm(hidden_LH, hidden_LH.shape[-1:]), view.rows_FH.float()
        rows_FH = F.layer_norm(rows_FH, rows_FH.shape[-1:])
        at_L = torch.arange(first, first + len(hidden_LH), device=hidden_LH.device)
        query, key, value = (self._by_head(x) for x in (self.query(normed_LH), self.key(rows_FH), self.view(rows_FH)))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=at_L[:, None] >= view.from_F)
        return hidden_LH + torch.tanh(self.gate) * self.out(found[0].transpose(0, 1).flatten(1))

    def _by_head(self, x_LW: Tensor) -> Tensor:
        """[1, heads, L, width of a head]."""
        return x_LW.unflatten(1, (self.n_heads, -1)).transpose(0, 1)[None]
