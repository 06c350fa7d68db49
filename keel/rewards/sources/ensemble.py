"""Several reward models, or several heads of one, as one source: a mean or a more careful number, and none where they disagree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from keel.rewards.sources.model import Ending, EnsembleConfig, Standardiser, units_of
from keel.types import Group, Unit

log = logging.getLogger("keel")
SAME = Standardiser()
Members = Callable[[Sequence[Unit]], Sequence[tuple[Tensor, Tensor]]]  # units -> scores, variances [G, M]: ``LocalInference.judgements``


@dataclass(frozen=True, slots=True)
class Expert:
    """One model of an ensemble: what it says, the scale of its scores, and its weight.

    ``offsets``: what each of its heads says more on average than all of them, in the units of its scores. Preferences leave each head's
    zero open, so that this is no disagreement: it is taken off. Empty = nothing is known of it.
    """

    judge: Members
    scale: Standardiser = SAME
    weight: float = 1.0
    offsets: tuple[float, ...] = ()

    def standardised(self, members_GM: Tensor) -> Tensor:
        """The heads' scores on one scale and with one zero, float [G, M]. Raises ValueError where there are not M offsets."""
        if not self.offsets:
            return self.scale(members_GM)
        if len(self.offsets) != members_GM.shape[1]:
            raise ValueError(f"{len(self.offsets)} offsets for {members_GM.shape[1]} heads")
        return self.scale(members_GM - torch.tensor(self.offsets, dtype=members_GM.dtype))


def aggregate(members_GM: Tensor, config: EnsembleConfig, weights_M: Tensor | None = None) -> Tensor:
    """One score of the members' [G, M]. The lower bound takes k times the epistemic standard deviation off the mean (Coste et al. 2023,
    arXiv:2310.02743, eq. 5 has the variance in its place); the least is their worst case.

    Args:
        members_GM: float [G, M].
        weights_M: float [M], for ``aggregate="weighted"``; None = equal ones.

    Returns:
        float [G].
    """
    match config.aggregate:
        case "mean":
            return members_GM.mean(1)
        case "weighted":
            weights_M = torch.ones(members_GM.shape[1]) if weights_M is None else weights_M
            return members_GM @ (weights_M / weights_M.sum()).to(members_GM)
        case "median":
            return members_GM.quantile(0.5, dim=1)
        case "robust":
            return robust(members_GM)
        case "min":
            return members_GM.min(1).values
        case "lower_bound":
            return members_GM.mean(1) - config.k * spread(members_GM)


def robust(members_GM: Tensor) -> Tensor:
    """A mean in which outliers count little: weights ``1 / (1 + (d / s)^2)``, d the distance from the median and s 1.4826 times the median
    of these distances (a standard deviation, were they normal); the median itself where s is 0. float [G, M] -> [G]."""
    median_G = members_GM.quantile(0.5, dim=1)
    apart_GM = (members_GM - median_G[:, None]).abs()
    scale_G = 1.4826 * apart_GM.quantile(0.5, dim=1)
    weights_GM = 1.0 / (1.0 + (apart_GM / scale_G.clamp(min=1e-12)[:, None]).square())
    mean_G = (weights_GM * members_GM).sum(1) / weights_GM.sum(1)
    return torch.where(scale_G > 0, mean_G, median_G)


def spread(members_GM: Tensor) -> Tensor:
    """Epistemic standard deviation: of the members' scores, over them all (no n - 1). float [G]."""
    return members_GM.std(1, correction=0)


@dataclass(slots=True)
class EnsembleSource:
    """A ``RewardSource`` of several members. ``experts`` are models, each with one score or several.

    ``details`` of the groups scored last: ``epistemic`` standard deviation (members that disagree: too little data) and ``aleatoric`` one
    (what each member expects labels to scatter: people who disagree), both in standardised units; with an early exit ``asked``, how many
    of the experts were. ``refused`` of ``scored`` answers so far got no reward because the members disagreed.
    """

    repeats: ClassVar[bool] = True  # asked again it would say the same, and count its refusals twice
    name: str
    experts: Sequence[Expert]
    ending: Ending
    config: EnsembleConfig
    details: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]], init=False)
    refused: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)

    def scorer(self, units: Sequence[Unit]) -> list[Tensor]:
        """One score a branch, standardised: what the self-test asks."""
        return [found.score_G for found in self._members(units)]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN for rollouts that failed, for scores that are not finite, and where members disagree too much."""
        found = [units_of(g, self.ending) for g in groups]
        judged = iter(self._members([unit for unit, _ in found if unit is not None]))
        result = [torch.full((len(g.rollouts),), torch.nan) for g in groups]
        names = ("epistemic", "aleatoric", *(("asked",) if self.config.early_exit is not None else ()))
        self.details = {name: [torch.full((len(g.rollouts),), torch.nan) for g in groups] for name in names}
        refused = 0
        for i, (unit, used) in enumerate(found):
            if unit is None:
                continue
            said = next(judged)
            doubtful_G = said.apart_G > (self.config.refuse_above or torch.inf)
            result[i][used] = torch.where(doubtful_G, torch.nan, said.score_G)
            result[i][~torch.isfinite(result[i])] = torch.nan
            for name, values_G in (("epistemic", said.apart_G), ("aleatoric", said.aleatoric_G), ("asked", said.asked_G)):
                if name in self.details:
                    self.details[name][i][used] = values_G
            refused += int(doubtful_G.sum())
            self.scored += len(used)
        if refused:
            self.refused += refused
            text = "reward %r: %d answers get no reward, members differ by more than %g (%d of %d so far)"
            log.warning(text, self.name, refused, self.config.refuse_above, self.refused, self.scored)
        return result

    def _members(self, units: Sequence[Unit]) -> list[_Said]:
        """What the experts say of each unit's branches; where the first agree, with an early exit, the others are not asked."""
        leave = self.config.early_exit
        if leave is None or leave.first >= len(self.experts):
            return [self._made(raw, self.experts) for raw in _asked(self.experts, units)]
        first, rest = self.experts[: leave.first], self.experts[leave.first :]
        raw = _asked(first, units)
        said = [self._made(r, first) for r in raw]
        unsure = [(i, (one.apart_G > leave.below).nonzero()[:, 0].tolist()) for i, one in enumerate(said)]
        asked = [(i, at) for i, at in unsure if at]
        again = [replace(units[i], branches=tuple(units[i].branches[b] for b in at), target=None) for i, at in asked]
        for (i, at), more in zip(asked, _asked(rest, again) if again else [], strict=True):
            whole = self._made([*((s[at], v[at]) for s, v in raw[i]), *more], self.experts)
            for now_G, new_G in zip(said[i], whole, strict=True):
                now_G[at] = new_G
        return said

    def _made(self, raw: Sequence[tuple[Tensor, Tensor]], experts: Sequence[Expert]) -> _Said:
        """Of scores and variances [G, M] by expert; the aleatoric deviation is the root of the mean variance."""
        weights = [e.weight / s.shape[1] for e, (s, _) in zip(experts, raw, strict=True) for _ in range(s.shape[1])]
        members_GM = torch.cat([s for s, _ in raw], 1)
        score_G = aggregate(members_GM, self.config, torch.tensor(weights))
        aleatoric_G = torch.cat([v for _, v in raw], 1).mean(1).sqrt()
        return _Said(score_G, spread(members_GM), aleatoric_G, torch.full_like(score_G, float(len(experts))))


def _asked(experts: Sequence[Expert], units: Sequence[Unit]) -> list[list[tuple[Tensor, Tensor]]]:
    """Standardised scores and variances [G, M] by unit and expert."""
    each = [[(e.standardised(s.float()), v.float() / e.scale.std**2) for s, v in e.judge(units)] for e in experts]
    return [list(of_unit) for of_unit in zip(*each, strict=True)]


class _Said(NamedTuple):
    """What was made of the members' scores of a unit's branches: float32 [G] each."""

    score_G: Tensor
    apart_G: Tensor  # epistemic standard deviation
    aleatoric_G: Tensor
    asked_G: Tensor  # how many experts were asked
