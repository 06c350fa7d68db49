"""Many hidden states -> one: what a reward head reads of an answer. The last real token, the mean, attention, or a mix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from keel.types import Batch


@dataclass(frozen=True, slots=True)
class Spans:
    """The tokens of each branch in a packed row: ``at_P`` are packed positions, ``branch_P`` says of which branch. A branch without tokens
    is its prompt's last one."""

    at_P: Tensor  # int64 [P]
    branch_P: Tensor  # int64 [P], rising
    last_R: Tensor  # int64 [R]


def spans(batch: Batch, device: torch.device) -> Spans:
    """Where the branches of ``batch`` stand."""
    at: list[Tensor] = []
    branch: list[Tensor] = []
    start = r = 0
    for group in batch.groups:
        first = start + group.prompt
        for length in group.branches:
            at.append(torch.arange(first, first + length) if length else torch.tensor([start + group.prompt - 1]))
            branch.append(torch.full((max(1, length),), r))
            first, r = first + length, r + 1
        start = first
    return Spans(torch.cat(at).to(device), torch.cat(branch).to(device), batch.last_R.to(device))


def single(at_R: Tensor) -> Spans:
    """Positions that stand for themselves: the ends of steps."""
    return Spans(at_R, torch.arange(len(at_R), device=at_R.device), at_R)


def mean(states_PH: Tensor, found: Spans) -> Tensor:
    """Mean over a branch's tokens: [R, H]."""
    n = len(found.last_R)
    counts_R = torch.zeros(n, device=states_PH.device).index_add(0, found.branch_P, torch.ones(len(found.at_P), device=states_PH.device))
    return torch.zeros(n, states_PH.shape[1], device=states_PH.device).index_add(0, found.branch_P, states_PH) / counts_R[:, None]


def attend(states_PH: Tensor, logits_P: Tensor, found: Spans) -> Tensor:
    """Mean over a branch's tokens weighted by the softmax of ``logits_P`` within the branch: [R, H]."""
    n = len(found.last_R)
    top_R = torch.full((n,), -torch.inf, device=logits_P.device).scatter_reduce(0, found.branch_P, logits_P.detach(), "amax")
    weights_P = torch.exp(logits_P - top_R[found.branch_P])
    total_R = torch.zeros(n, device=logits_P.device).index_add(0, found.branch_P, weights_P)
    weighted_PH = states_PH * (weights_P / total_R[found.branch_P])[:, None]
    return torch.zeros(n, states_PH.shape[1], device=logits_P.device).index_add(0, found.branch_P, weighted_PH)
