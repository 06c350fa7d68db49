"""Several reward models, or several heads of one, as one source: a mean or a more careful number, and none where they disagree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keel.rewards.ensemble_config import EnsembleConfig
from keel.rewards.model import Ending, Standardiser, units_of
from keel.types import Group, Unit

log = logging.getLogger("keel")
Members = Callable[[Sequence[Unit]], Sequence[tuple[Tensor, Tensor]]]  # units -> scores, variances [G, M]: ``LocalInference.judgements``


def aggregate(members_GM: Tensor, config: EnsembleConfig) -> Tensor:
    """One score of the members' [G, M]. The lower bound takes k times the epistemic standard deviation off the mean (Coste et al. 2023,
    arXiv:2310.02743, eq. 5 has the variance in its place); the least is their worst case.

    Args:
        members_GM: float [G, M].

    Returns:
        float [G].
    """
    match config.aggregate:
        case "mean":
            return members_GM.mean(1)
        case "median":
            return members_GM.quantile(0.5, dim=1)
        case "min":
            return members_GM.min(1).values
        case "lower_bound":
            return members_GM.mean(1) - config.k * spread(members_GM)


def spread(members_GM: Tensor) -> Tensor:
    """Epistemic standard deviation: of the members' scores, over them all (no n - 1). float [G]."""
    return members_GM.std(1, correction=0)


@dataclass(slots=True)
class EnsembleSource:
    """A ``RewardSource`` of several members. ``experts`` are models (each with one score or several) and the scales of their scores.

    ``details`` of the groups scored last: ``epistemic`` standard deviation (members that disagree: too little data) and ``aleatoric`` one
    (what each member expects labels to scatter: people who disagree), both in standardised units. ``refused`` of ``scored`` answers so far
    got no reward because the members disagreed.
    """

    name: str
    experts: Sequence[tuple[Members, Standardiser]]
    ending: Ending
    config: EnsembleConfig
    details: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]], init=False)
    refused: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)

    def scorer(self, units: Sequence[Unit]) -> list[Tensor]:
        """One score a branch, standardised: what the self-test asks."""
        return [aggregate(members_GM, self.config) for members_GM, _ in self._members(units)]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN for rollouts that failed, for scores that are not finite, and where members disagree too much."""
        found = [units_of(g, self.ending) for g in groups]
        judged = iter(self._members([unit for unit, _ in found if unit is not None]))
        result = [torch.full((len(g.rollouts),), torch.nan) for g in groups]
        self.details = {name: [torch.full((len(g.rollouts),), torch.nan) for g in groups] for name in ("epistemic", "aleatoric")}
        refused = 0
        for i, (unit, used) in enumerate(found):
            if unit is None:
                continue
            members_GM, aleatoric_G = next(judged)
            apart_G = spread(members_GM)
            doubtful_G = apart_G > (self.config.refuse_above or torch.inf)
            result[i][used] = torch.where(doubtful_G, torch.nan, aggregate(members_GM, self.config))
            result[i][~torch.isfinite(result[i])] = torch.nan
            self.details["epistemic"][i][used], self.details["aleatoric"][i][used] = apart_G, aleatoric_G
            refused += int(doubtful_G.sum())
            self.scored += len(used)
        if refused:
            self.refused += refused
            text = "reward %r: %d answers get no reward, members differ by more than %g (%d of %d so far)"
            log.warning(text, self.name, refused, self.config.refuse_above, self.refused, self.scored)
        return result

    def _members(self, units: Sequence[Unit]) -> list[tuple[Tensor, Tensor]]:
        """Standardised scores [G, M] of all members of all experts, and the aleatoric standard deviation [G]: the root of the mean
        variance."""
        asked = [[(scale(s.float()), v.float() / scale.std**2) for s, v in expert(units)] for expert, scale in self.experts]
        return [
            (torch.cat([s for s, _ in of_unit], 1), torch.cat([v for _, v in of_unit], 1).mean(1).sqrt())
            for of_unit in zip(*asked, strict=True)
        ]
