"""A reward model as a source: it scores the very tokens that were sampled, and its scale is frozen before RL begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.types import Branch, Group, Prompt, Rollout, Unit

Ending = Callable[[Prompt, Tensor], Tensor]  # an answer's ids [T] as a reward model has learnt to read them: ``Renderer.closed``
Scorer = Callable[[Sequence[Unit]], Sequence[Tensor]]  # units -> float32 [branches] each: ``LocalLearner.scores``


@dataclass(frozen=True, slots=True)
class Standardiser:
    """(score - mean) / std with fixed constants. They never follow the policy: a moving scale would hide that rewards rise."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, scores_G: Tensor) -> Tensor:
        return (scores_G - self.mean) / self.std


def fit_standardiser(scores: Iterable[Tensor], mean: float | None = None, std: float | None = None) -> Standardiser:
    """Constants from the scores [G] of the starting policy's answers, failed ones (not finite) left out; given ones are kept.

    The standard deviation is that of the population (no n - 1). Raises UserError when a reward model cannot tell answers apart.
    """
    if mean is not None and std is not None:
        return Standardiser(mean, std)
    all_N = torch.cat([s.reshape(-1) for s in scores]).double()
    all_N = all_N[torch.isfinite(all_N)]
    found = float(all_N.std(correction=0)) if len(all_N) else math.nan
    if std is None and not found > 1e-6:
        raise UserError(
            f"the reward model gives {len(all_N)} answers of the starting policy scores that do not differ (standard deviation {found:g})",
            "check that this is a trained reward model and that the sampling temperature is above 0, or set mean and std",
        )
    return Standardiser(float(all_N.mean()) if mean is None else mean, found if std is None else std)


def units_of(group: Group, ending: Ending) -> tuple[Unit | None, list[int]]:
    """The group's usable rollouts as one unit, tokens as sampled, and their places in the group.

    A reward model has learnt to give its score at the end of an answer. So every answer that does not end so (cut off at the length limit,
    stopped at a text, ended by another end token) is closed by ``ending``, as cut-off candidates were in training. Read anywhere else the
    score would mean nothing.
    """
    used = [i for i, valid in enumerate(group.valid_G.tolist()) if valid]
    branches = tuple(_closed(group.rollouts[i], ending(group.prompt, group.rollouts[i].tokens_T)) for i in used)
    return (Unit(group.prompt.prompt_id, group.encoded, branches) if used else None), used


def _closed(rollout: Rollout, tokens_T: Tensor) -> Branch:
    """``tokens_T``: the rollout's with another end, or as they are. What was put there was not sampled."""
    n = min(len(tokens_T), len(rollout))
    same_T = (tokens_T[:n] == rollout.tokens_T[:n]).cumprod(0).bool()
    sampled_T = torch.zeros(len(tokens_T), dtype=torch.bool)
    sampled_T[:n] = rollout.sampled_T[:n] & same_T
    return Branch(tokens_T, sampled_T)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A ``RewardSource`` of a reward model with the policy's tokenizer. ``scorer`` is a learner's or a model's ``scores``."""

    repeats: ClassVar[bool] = True  # asked again it would say the same

    name: str
    scorer: Scorer
    ending: Ending
    standardiser: Standardiser = Standardiser()

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group, standardised; NaN for rollouts that failed and for scores that are not finite."""
        found = [units_of(g, self.ending) for g in groups]
        scores = iter(self.scorer([unit for unit, _ in found if unit is not None]))
        result = [torch.full((len(g.rollouts),), torch.nan) for g in groups]
        for out_G, (unit, used) in zip(result, found, strict=True):
            if unit is not None:
                out_G[used] = self.standardiser(next(scores).detach().float().cpu())
            out_G[~torch.isfinite(out_G)] = torch.nan
        return result
