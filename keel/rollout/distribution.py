"""From logits to a token and its log-probability under exactly the distribution it was drawn from.

Everything works row by row: what one row draws does not depend on the rows beside it. A truncation (top-k, top-p) is a floor on the
logits: the support is every token at least as likely as the last one that fits, so equal logits are in or out together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.kernels.narrow import row_blocks
from keel.types import SamplingParams
from keel.types.support import Support

BLOCK = 256  # tokens summed together at the first level of the cumulative distribution
NUCLEUS_CANDIDATES = 1024  # top-p looks among this many tokens before it sorts the whole vocabulary


@dataclass(frozen=True, slots=True)
class RowParams:
    """Sampling parameters of B rows; rows side by side may differ. ``kind_B`` points into ``kinds``, the distinct parameters."""

    kinds: tuple[SamplingParams, ...]
    kind_B: Tensor  # int64
    temperature_B: Tensor  # float32, 0 = greedy
    top_k_B: Tensor  # int64, 0 = off
    top_p_B: Tensor  # float64, 1 = off

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device | str = "cpu") -> RowParams:
        """Gather one SamplingParams a row into tensors on ``device``."""
        kinds = tuple(dict.fromkeys(params))
        return cls(
            kinds=kinds,
            kind_B=torch.tensor([kinds.index(p) for p in params], device=device),
            temperature_B=torch.tensor([p.temperature for p in params], dtype=torch.float32, device=device),
            top_k_B=torch.tensor([p.top_k for p in params], device=device),
            top_p_B=torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device),
        )

    def take(self, rows: Tensor) -> RowParams:
        """The parameters of the rows with these indices, in this order."""
        return RowParams(self.kinds, self.kind_B[rows], self.temperature_B[rows], self.top_k_B[rows], self.top_p_B[rows])


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token a row. Where ``finite_B`` is False the logits were not finite (or every token was forbidden) and the rest means nothing."""

    tokens_B: Tensor  # int64
    logprobs_B: Tensor  # float32
    finite_B: Tensor  # bool
    support: Support | None = None  # of each row's token, if asked for


def draw(logits_BV: Tensor, rows: RowParams, step: int, uniform_B: Tensor, keep_support: bool = False) -> Drawn:
    """Draw token number ``step`` of each row by inverse CDF in id order.

    ``logits_BV`` float32 is overwritten; ``uniform_B`` float64 in [0, 1). Order of the warps: forbidden tokens out, temperature, top-k,
    top-p over what is left, a share of a hotter distribution. A greedy row takes the most likely token that is not forbidden (the lowest id
    among equals); its log-probability is that of the untempered, untruncated distribution, since the greedy one would always say 0.

    With ``keep_support`` the tokens that had a probability are returned: those left after top-p (the hotter distribution adds none).
    Tokens to which the model itself gives no probability do not count as cut.
    """
    assert logits_BV.dtype == torch.float32, f"logits must be float32, got {logits_BV.dtype}"
    assert uniform_B.dtype == torch.float64, f"uniform numbers must be float64, got {uniform_B.dtype}"
    given_B = torch.isfinite(logits_BV).sum(-1) if keep_support else None
    forbid_(logits_BV, rows, step)
    finite_B = torch.isfinite(logits_BV.amax(-1))
    forced_B = None
    if any(p.temperature == 0 for p in rows.kinds):
        forced_B = torch.where(rows.temperature_B == 0, logits_BV.argmax(-1), -1)
    if any(p.temperature not in (0, 1) for p in rows.kinds):  # greedy rows stay as they are
        logits_BV.div_(torch.where(rows.temperature_B == 0, 1.0, rows.temperature_B)[:, None])
    scaled_BV = _truncate(logits_BV, rows)
    support = None
    if given_B is not None:
        inside_BV = torch.isfinite(scaled_BV)
        support = Support.of(inside_BV, inside_BV.sum(-1) == given_B)  # a row that kept all that the model gave is whole
    tokens_B, logprobs_B = inverse_cdf(_explored(scaled_BV, rows), uniform_B, forced_B)
    return Drawn(tokens_B, logprobs_B, finite_B, support)


def forbid_(logits_BV: Tensor, rows: RowParams, step: int) -> None:
    """Put banned tokens, and end tokens before ``min_tokens``, out of the support, in place."""
    for index, params in enumerate(rows.kinds):
        ids = set(params.banned_tokens) | (set(params.stop_tokens) if step < params.min_tokens else set[int]())
        if ids:
            ids_F = torch.tensor(sorted(ids), device=logits_BV.device)
            if len(rows.kinds) == 1:
                logits_BV.index_fill_(1, ids_F, -torch.inf)
            else:
                logits_BV[(rows.kind_B == index).nonzero(), ids_F[None]] = -torch.inf


def _truncate(scaled_BV: Tensor, rows: RowParams) -> Tensor:
    """Top-k, then top-p over what is left: logits below the floor become -inf, in place."""
    sampled_B = rows.temperature_B != 0
    if any(0 < p.top_k < scaled_BV.shape[1] for p in rows.kinds):
        chosen_R = (sampled_B & (rows.top_k_B > 0) & (rows.top_k_B < scaled_BV.shape[1])).nonzero()[:, 0]
        if len(chosen_R):
            _cut_below(scaled_BV, chosen_R, top_k_floor(scaled_BV[chosen_R], rows.top_k_B[chosen_R]))
    if any(p.top_p < 1 for p in rows.kinds):
        chosen_R = (sampled_B & (rows.top_p_B < 1)).nonzero()[:, 0]
        if len(chosen_R):
            _cut_below(scaled_BV, chosen_R, top_p_floor(scaled_BV[chosen_R], rows.top_p_B[chosen_R]))
    return scaled_BV


def _explored(scaled_BV: Tensor, rows: RowParams) -> Tensor:
    """Weights in proportion to the probabilities that are sampled from: ``(1 - e) p + e p_hot`` over one support, e = 0 for most.
    ``scaled_BV`` is used up."""
    if not any(p.explore and p.temperature for p in rows.kinds):
        for block in row_blocks(scaled_BV):  # exp(x - max), in place
            scaled_bV = scaled_BV[block]
            scaled_bV.sub_(scaled_bV.amax(-1, keepdim=True)).exp_()
        return scaled_BV
    weights_BV = torch.softmax(scaled_BV, -1)
    mixed = [(p.explore, p.temperature / p.explore_temperature) if p.temperature else (0.0, 1.0) for p in rows.kinds]
    share_B, factor_B = weights_BV.new_tensor(mixed)[rows.kind_B].T
    return weights_BV.lerp_(torch.softmax(scaled_BV * factor_B[:, None], -1), share_B[:, None])


def _cut_below(scaled_BV: Tensor, chosen_R: Tensor, floor_R: Tensor) -> None:
    floor_B = scaled_BV.new_full((scaled_BV.shape[0],), -torch.inf)
    floor_B[chosen_R] = floor_R
    scaled_BV.masked_fill_(scaled_BV < floor_B[:, None], -torch.inf)


def top_k_floor(scaled_BV: Tensor, top_k_B: Tensor) -> Tensor:
    """The k-th largest logit of each row, [B]. ``top_k_B`` between 1 and V."""
    best_BK = scaled_BV.topk(int(top_k_B.max()), -1).values
    return best_BK.gather(1, top_k_B[:, None] - 1)[:, 0]


def top_p_floor(scaled_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """The smallest logit of the nucleus, [B]: the fewest most likely tokens whose mass reaches ``top_p`` (Holtzman et al. 2020, eq. 2)."""
    mass_B = torch.logsumexp(scaled_BV, -1, keepdim=True)
    floor_B, reached_B = _nucleus(scaled_BV.topk(min(NUCLEUS_CANDIDATES, scaled_BV.shape[1]), -1).values, mass_B, top_p_B)
    open_B = (~reached_B).nonzero()[:, 0]
    if len(open_B):  # a flat distribution: the nucleus is larger than the candidates
        floor_B[open_B] = _nucleus(scaled_BV[open_B].sort(-1, descending=True).values, mass_B[open_B], top_p_B[open_B])[0]
    return floor_B


def _nucleus(sorted_BC: Tensor, mass_B: Tensor, top_p_B: Tensor) -> tuple[Tensor, Tensor]:
    """Floor among candidates sorted downwards, and whether their mass reaches ``top_p`` at all."""
    cumulative_BC = (sorted_BC - mass_B).double().exp_().cumsum_(-1)
    count_B = (cumulative_BC < top_p_B[:, None]).sum(-1)  # tokens before the one that reaches top_p
    last = sorted_BC.shape[1] - 1
    return sorted_BC.gather(1, count_B.clamp(max=last)[:, None])[:, 0], count_B <= last


def inverse_cdf(weights_BV: Tensor, uniform_B: Tensor, forced_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens [B] int64 drawn in proportion to ``weights_BV`` (float32, >= 0), and their log-probabilities [B] float32.

    Token v is drawn when ``uniform_B`` lies in [F(v - 1), F(v)), F the cumulative distribution in id order. Two levels: sums of blocks
    of 256 accumulated in float64, then the one block. That is faster than a cumulative sum over the vocabulary and keeps the rounding of
    a long float32 sum out of it. Where ``forced_B`` >= 0 that token is taken instead. A token of weight 0 is never drawn.
    """
    blocks_BN = _block_sums(weights_BV).double().cumsum_(-1)
    total_B = blocks_BN[:, -1]
    target_B = uniform_B * total_B
    block_B = _first_above(blocks_BN, target_B)
    before_B = torch.where(block_B > 0, blocks_BN.gather(1, (block_B - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    ids_BK = block_B[:, None] * BLOCK + torch.arange(BLOCK, device=weights_BV.device)
    inside_BK = weights_BV.gather(1, ids_BK.clamp(max=weights_BV.shape[1] - 1)).double()
    inside_BK.masked_fill_(ids_BK >= weights_BV.shape[1], 0.0)
    tokens_B = block_B * BLOCK + _first_above(inside_BK.cumsum_(-1), target_B - before_B)
    if forced_B is not None:
        tokens_B = torch.where(forced_B >= 0, forced_B, tokens_B)
    weight_B = weights_BV.gather(1, tokens_B.clamp(max=weights_BV.shape[1] - 1)[:, None])[:, 0].double()
    return tokens_B, (weight_B.log() - total_B.log()).float()


def _block_sums(weights_BV: Tensor) -> Tensor:
    whole = weights_BV.shape[1] // BLOCK * BLOCK
    sums_BN = weights_BV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1) if whole else weights_BV[:, :0]
    if whole == weights_BV.shape[1]:
        return sums_BN
    return torch.cat([sums_BN, weights_BV[:, whole:].sum(-1, keepdim=True)], 1)


def _first_above(cumulative_BN: Tensor, target_B: Tensor) -> Tensor:
    """First index whose cumulative weight is above the target; should rounding leave none, the last one that has any weight."""
    index_B = (cumulative_BN <= target_B[:, None]).sum(-1)
    last_B = (cumulative_BN < cumulative_BN[:, -1:]).sum(-1)
    return torch.minimum(index_B, last_B)
