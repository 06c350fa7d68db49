"""The scale of rewards and advantages: whitening over a batch, with statistics that add up over its parts (processes, micro-batches);
rewards normalised by those seen so far, and clipped; penalties for the KL to the reference and for long answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from keel.types import Group


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the numbers seen. ``a + b`` are the moments of both together.

    Deviations from the mean are kept rather than plain squares: of numbers near 1e8 that differ by 1 the squares would be told apart no
    longer, and the variance would be rounding (Chan, Golub and LeVeque 1983, eq. 2.1).
    """

    count: float = 0.0
    mean: float = 0.0
    deviations: float = 0.0  # sum of squares of (x - mean)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        apart, share = other.mean - self.mean, other.count / count
        deviations = self.deviations + other.deviations + apart**2 * self.count * share
        return Moments(count, self.mean + apart * share, deviations)

    @property
    def variance(self) -> float:
        """Of the population."""
        return self.deviations / self.count if self.count else 0.0

    @classmethod
    def of_state(cls, state: Mapping[str, float]) -> Moments:
        """From the fields, as a checkpoint has them; older ones have the sum ``total`` and the sum of ``squares``."""
        if "total" not in state:
            return cls(**state)
        count, total = state["count"], state["total"]
        return cls(count, total / count, max(state["squares"] - total**2 / count, 0.0)) if count else cls()


def moments(values_S: Tensor) -> Moments:
    """Of a vector, in float64."""
    assert values_S.dim() == 1, "values are a vector"
    if not len(values_S):
        return Moments()
    exact_S = values_S.double()
    mean = exact_S.mean()
    return Moments(float(len(exact_S)), float(mean), float((exact_S - mean).square().sum()))


def whiten(values_S: Tensor, over: Moments, eps: float = 1e-8) -> Tensor:
    """``(x - mean) / sqrt(variance + eps)`` with the moments of the whole batch (Ziegler et al. 2019, arXiv:1909.08593, section 2.1).

    Args:
        values_S: float [S], this part's numbers.
        over: moments of all numbers that are whitened together.
        eps: added to the variance: equal numbers give 0.

    Returns:
        float [S] in the input's dtype.
    """
    assert values_S.is_floating_point(), f"values are floating point, not {values_S.dtype}"
    return ((values_S.double() - over.mean) / (over.variance + eps) ** 0.5).to(values_S.dtype)


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


def kl_penalty(logprobs_T: Tensor, ref_logprobs_T: Tensor, coef: float) -> Tensor:
    """``-beta (log pi - log pi_ref)`` per token: the k1 estimate of KL(policy || reference) as a negative reward (Ziegler et al. 2019,
    arXiv:1909.08593, eq. 2). Either sign: clamping it at 0 would bias it.

    Args:
        logprobs_T: float [T], of the policy that sampled.
        ref_logprobs_T: float [T], of the reference.
        coef: beta, reward per nat.

    Returns:
        float [T].
    """
    assert logprobs_T.dim() == 1, "one log-probability a token"
    assert logprobs_T.shape == ref_logprobs_T.shape, "policy and reference must have scored the same tokens"
    return -coef * (logprobs_T - ref_logprobs_T)


def with_terminal_reward(penalties_T: Tensor, reward: float) -> Tensor:
    """Add the answer's score to the last token's reward. float [T], T >= 1 -> float [T]."""
    assert penalties_T.dim() == 1, "one reward a token"
    assert len(penalties_T) > 0, "an answer without tokens cannot carry a reward"
    rewards_T = penalties_T.clone()
    rewards_T[-1] += reward
    return rewards_T


def overlong_penalty(lengths_G: Tensor, limit: int, buffer: float) -> Tensor:
    """0 up to ``limit - buffer`` tokens, then falling in a straight line to -1 at ``limit`` (soft over-long punishment of DAPO, Yu et al.
    2025, arXiv:2503.14476, eq. 13).

    Args:
        lengths_G: float [G], sampled tokens of each answer.
        limit: the longest answer there can be.
        buffer: the last tokens before it, above 0.

    Returns:
        float [G] from -1 to 0.
    """
    assert lengths_G.is_floating_point(), f"lengths are floating point, not {lengths_G.dtype}"
    assert buffer > 0, "a penalty needs a stretch to fall over"
    return ((limit - buffer - lengths_G) / buffer).clamp(-1.0, 0.0)


def with_overlong_penalty(group: Group, limit: int, buffer: float, factor: float) -> Group:
    """The group with ``factor * overlong_penalty`` added to its rewards; the penalty itself is the part ``overlong``."""
    penalty_G = overlong_penalty(torch.tensor([float(r.sampled_T.sum()) for r in group.rollouts]), limit, buffer)
    return replace(group, rewards_G=group.rewards_G + factor * penalty_G, parts={**group.parts, "overlong": penalty_G})


def rewards_differ(group: Group) -> bool:
    """Is there anything to compare? False where all valid rewards are equal, or fewer than two are valid."""
    rewards = group.rewards_G[group.valid_G]
    return bool((rewards != rewards[:1]).any())
