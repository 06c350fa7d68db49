"""How per-token losses become one number, as a sum and a count.

A reduction gives every token of branch r the weight ``weights_R[r]``; the loss is ``sum_S(weight * loss) / count``. The count is a sum over
branches, so it adds up over micro-batches and ranks, and so does the weighted sum: how a batch is split cannot change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.types import Unit


@dataclass(frozen=True, slots=True)
class Weights:
    """What a token of each branch counts for."""

    weights_R: Tensor  # float64 [R]: factor of a token's loss
    shares_R: Tensor  # float64 [R]: a token's part of the count
    count: float  # the sum of all shares: how many units (tokens, sequences, prompts) there are


@dataclass(frozen=True, slots=True)
class Reduction:
    """A way to weigh tokens. ``unit`` is what the loss is a mean over."""

    name: str
    unit: str  # "tokens" | "sequences" | "prompts"
    weigh: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (lengths_R, unit_R) -> (weights_R, shares_R)
    couples_branches: bool = False  # the weight of a branch depends on its unit's other branches

    def __call__(self, units: Sequence[Unit]) -> Weights:
        """The weights of all branches of ``units`` in their order, and their count."""
        lengths_R, unit_R = trained_lengths(units)
        weights_R, shares_R = self.weigh(lengths_R, unit_R)
        return Weights(weights_R, shares_R, float((shares_R * lengths_R).sum()))


def trained_lengths(units: Sequence[Unit]) -> tuple[Tensor, Tensor]:
    """Trained tokens of each branch (float64 [R]) and the index of its unit (int64 [R])."""
    lengths_R = torch.tensor([int(b.trained_T.sum()) for u in units for b in u.branches], dtype=torch.float64)
    unit_R = torch.tensor([i for i, u in enumerate(units) for _ in u.branches], dtype=torch.int64)
    return lengths_R, unit_R


def _inverse(lengths: Tensor) -> Tensor:
    """1 / length, and 0 where there is nothing (an empty branch has no tokens that could use it)."""
    return torch.where(lengths > 0, 1.0 / lengths, torch.zeros_like(lengths))


def weigh_per_token(lengths_R: Tensor, unit_R: Tensor) -> tuple[Tensor, Tensor]:
    """Every token counts the same: ``1 / sum_i |y_i| * sum_i sum_t``. Long answers weigh more (DAPO, arXiv:2503.14476, section 3.3)."""
    return torch.ones_like(lengths_R), torch.ones_like(lengths_R)


def weigh_per_sequence(lengths_R: Tensor, unit_R: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over a sequence's tokens, then over sequences: ``1/G sum_i 1/|y_i| sum_t`` (GRPO, arXiv:2402.03300, eq. 3)."""
    return _inverse(lengths_R), _inverse(lengths_R)


def weigh_per_prompt(lengths_R: Tensor, unit_R: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over all tokens of a prompt's samples, then over prompts: every prompt counts the same, however long its answers are."""
    lengths_U = torch.bincount(unit_R, weights=lengths_R)
    return _inverse(lengths_U)[unit_R], _inverse(lengths_U)[unit_R]


def weigh_sequence_sum(lengths_R: Tensor, unit_R: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over a sequence's tokens, mean over sequences: the sequence as one action, as REINFORCE and RLOO are written
    (Ahmadian et al. 2024, arXiv:2402.14740, section 2)."""
    return torch.ones_like(lengths_R), _inverse(lengths_R)


REDUCTIONS: dict[str, Reduction] = {
    r.name: r
    for r in (
        Reduction("per_token", "tokens", weigh_per_token),
        Reduction("per_sequence", "sequences", weigh_per_sequence),
        Reduction("per_prompt", "prompts", weigh_per_prompt, couples_branches=True),
        Reduction("sequence_sum", "sequences", weigh_sequence_sum),
    )
}


def sequence_sums(values_S: Tensor, branch_S: Tensor, n_branches: int) -> Tensor:
    """Sum per-token values over each branch: [S] -> [R]. A branch without scored tokens gets 0."""
    assert values_S.dim() == 1, "values per token must be a vector"
    assert values_S.shape == branch_S.shape, "every value needs its branch"
    return values_S.new_zeros(n_branches).index_add(0, branch_S, values_S)


def sequence_means(values_S: Tensor, branch_S: Tensor, n_branches: int) -> Tensor:
    """Mean of per-token values over each branch: [S] -> [R]. A branch without scored tokens gets 0."""
    lengths_R = sequence_sums(torch.ones_like(values_S), branch_S, n_branches)
    return sequence_sums(values_S, branch_S, n_branches) / lengths_R.clamp(min=1.0)
