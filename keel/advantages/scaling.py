"""Rewards on a scale that credit can use: normalised by what a run has seen so far, and clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from keel.advantages.whiten import Moments, moments
from keel.types import Group

_LEAST = 1e-6  # a scale below this is taken for none at all
_PERCENTILES = (0.05, 0.95)


@dataclass(frozen=True, slots=True)
class RewardRule:
    """What is done to rewards before they are credited."""

    normalise: Literal["none", "running", "quantile"] = "none"
    decay: float = 0.99  # of quantile: share of the moving average that is left after a batch
    clip: float | None = None  # rewards, normalised if they are, are cut at plus and minus this


@dataclass(frozen=True, slots=True)
class RewardScale:
    """What a run knows of its rewards; part of its checkpoints."""

    seen: Moments = field(default_factory=Moments)
    low: float | None = None  # moving averages of the batches' percentiles; None before the first batch
    high: float | None = None

    def after(self, groups: Sequence[Group], rule: RewardRule) -> RewardScale:
        """With the valid samples of one more batch. Without any it is as it was."""
        found = [g.rewards_G[g.valid_G] for g in groups]
        rewards_B = torch.cat(found).double() if found else torch.zeros(0, dtype=torch.float64)
        if not len(rewards_B):
            return self
        low, high = (float(x) for x in torch.quantile(rewards_B, torch.tensor(_PERCENTILES, dtype=torch.float64)))
        if self.low is not None and self.high is not None:
            low, high = (rule.decay * old + (1.0 - rule.decay) * new for old, new in ((self.low, low), (self.high, high)))
        return RewardScale(self.seen + moments(rewards_B), low, high)

    def centre_and_spread(self, rule: RewardRule) -> tuple[float, float]:
        """What is taken off a reward, and what it is divided by: mean and deviation of all rewards so far, or the middle and the distance
        of the percentiles (the latter after Hafner et al. 2023, arXiv:2301.04104, who do not centre)."""
        if rule.normalise == "running":
            return self.seen.mean, max(self.seen.variance**0.5, _LEAST)
        if rule.normalise == "quantile" and self.low is not None and self.high is not None:
            return (self.low + self.high) / 2.0, max(self.high - self.low, _LEAST)
        return 0.0, 1.0

    def state(self) -> dict[str, Any]:
        """For a checkpoint (JSON)."""
        return asdict(self)

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> RewardScale:
        """What ``state`` returned, also in older checkpoints."""
        return cls(Moments.of_state(state["seen"]), state["low"], state["high"])


def scaled(groups: Sequence[Group], scale: RewardScale, rule: RewardRule) -> tuple[Group, ...]:
    """Groups with the rewards that credit sees; the greedy answers' rewards with them. Parts stay as they were given."""
    if rule.normalise == "none" and rule.clip is None:
        return tuple(groups)
    centre, spread = scale.centre_and_spread(rule)
    most = rule.clip if rule.clip is not None else float("inf")

    def of(group: Group) -> Group:
        rewards_G = ((group.rewards_G.double() - centre) / spread).clamp(-most, most).to(group.rewards_G.dtype)
        greedy = (group.greedy_reward - centre) / spread
        greedy = greedy if math.isnan(greedy) else min(max(greedy, -most), most)
        return replace(group, rewards_G=rewards_G, greedy_reward=greedy, moved=tuple(m / spread for m in group.moved))

    return tuple(map(of, groups))
