"""From groups of rollouts to units that can be trained on: every sampled token gets its advantage.

The way of a batch, between the rewards and the learner::

    units = rollout_units(groups)                      # the valid rollouts, with the signal ``sampler_logprobs``
    units = ... + ref_logprobs, values, old_logprobs   # what the rule needs, added by whoever holds those models
    units = assign(groups, units, rule)                # + ``advantages`` (and ``returns``, where the rule works by token)

A new scheme is one function in ``estimators`` and one row in ``ESTIMATORS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from keel.methods.credit.estimators import (
    batch_baseline,
    batch_normalised,
    gae,
    greedy_baseline,
    group_centred,
    group_normalised,
    leave_one_out,
    no_baseline,
    optimal_baseline,
    returns_to_go,
)
from keel.methods.credit.scaling import Moments, kl_penalty, moments, whiten, with_terminal_reward
from keel.methods.math.kl import by_kind
from keel.types import Branch, Group, Unit


@dataclass(frozen=True, slots=True)
class CreditRule:
    """How rewards become advantages."""

    estimator: str  # a key of ESTIMATORS
    gamma: float = 1.0  # discount; read by token-level estimators
    lam: float = 1.0  # GAE's lambda
    whiten: bool = False  # shift and scale the advantages of all trained tokens of the batch to mean 0 and variance 1
    gamma_slope: float = 0.0  # how far gamma goes on to 1 for a prompt of complexity 1
    kl_coef: float = 0.0  # price of a nat of k1 in the reward; 0 = none
    kl_kinds: tuple[float, float] = (1.0, 1.0)  # factors on it: of grounded tokens (signal ``grounded`` is 1), of the others (0)
    mask_truncated: bool = False  # answers cut off at the length limit count in the statistics but are not trained on

    def for_complexity(self, complexity: float) -> CreditRule:
        """The rule of a prompt: ``gamma + slope * complexity * (1 - gamma)``. The more there is to take in, the further ahead is looked."""
        return replace(self, gamma=self.gamma + self.gamma_slope * complexity * (1.0 - self.gamma)) if self.gamma_slope else self

    @property
    def reads(self) -> tuple[str, ...]:
        """What the estimator reads beside the rewards of whole answers."""
        return getattr(ESTIMATORS[self.estimator], "reads", ())


@dataclass(frozen=True, slots=True)
class SequenceEstimator:
    """One advantage a sample, the same for all its tokens: ``(rewards_B, group_B[, what it reads]) -> advantages_B``."""

    advantages: Callable[..., Tensor]
    min_samples: int = 1  # fewer samples of a prompt give no signal
    unit_free: bool = False  # rewards shifted and scaled within a group give the same: normalising them before would do nothing
    reads: tuple[Literal["lengths_B", "greedy_B"], ...] = ()  # float64 [B] each, by keyword: sampled tokens; the greedy answer's reward


@dataclass(frozen=True, slots=True)
class TokenEstimator:
    """One advantage a token: ``(rewards_T, signals_T, rule) -> signals to add``, all over the sampled tokens of one sequence."""

    signals: Callable[[Tensor, Mapping[str, Tensor], CreditRule], Mapping[str, Tensor]]
    needs_critic: bool = False
    settings: tuple[Literal["gamma", "lam"], ...] = ()  # what it reads of the rule


def _gae(rewards_T: Tensor, signals_T: Mapping[str, Tensor], rule: CreditRule) -> Mapping[str, Tensor]:
    advantages_T, returns_T = gae(rewards_T, signals_T["values"], rule.gamma, rule.lam)
    return {"advantages": advantages_T, "returns": returns_T}


def _reward_to_go(rewards_T: Tensor, signals_T: Mapping[str, Tensor], rule: CreditRule) -> Mapping[str, Tensor]:
    return {"advantages": returns_to_go(rewards_T, rule.gamma)}


ESTIMATORS: dict[str, SequenceEstimator | TokenEstimator] = {
    "group_normalised": SequenceEstimator(group_normalised, min_samples=2, unit_free=True),
    "group_centred": SequenceEstimator(group_centred, min_samples=2),
    "leave_one_out": SequenceEstimator(leave_one_out, min_samples=2),
    "batch_baseline": SequenceEstimator(batch_baseline),
    "batch_normalised": SequenceEstimator(batch_normalised),
    "optimal_baseline": SequenceEstimator(optimal_baseline, min_samples=2, reads=("lengths_B",)),
    "greedy_baseline": SequenceEstimator(greedy_baseline, reads=("greedy_B",)),
    "no_baseline": SequenceEstimator(no_baseline),
    "reward_to_go": TokenEstimator(_reward_to_go, settings=("gamma",)),
    "gae": TokenEstimator(_gae, needs_critic=True, settings=("gamma", "lam")),
}


def assign(groups: Sequence[Group], units: Sequence[Unit], rule: CreditRule) -> tuple[Unit, ...]:
    """Give every trained token of ``units`` (made by ``rollout_units`` from the same groups) its credit.

    Args:
        groups: rewarded groups; ``rewards_G`` of samples that are not valid are not read; ``greedy_reward`` is, where the estimator's
            baseline is the greedy answer. What is ``moved`` to single tokens is read by estimators that give each token its own advantage;
            the others see the whole.
        units: with the signals that the rule needs: ``ref_logprobs`` if ``kl_coef`` is not 0, ``grounded`` if the price differs by kind,
            ``values`` for an estimator with a critic;
            the policy is ``old_logprobs`` where recorded, else ``sampler_logprobs``.
        rule: how.

    Returns:
        Units whose branches carry ``advantages`` (float32 [T], 0 at untrained tokens) and what else the estimator makes (``returns``).
        Left out: truncated answers if the rule says so, and units that have no branch left.

    Raises:
        KeyError: a signal that the rule needs is missing.
    """
    samples = _samples(groups, units)
    estimator = ESTIMATORS[rule.estimator]
    if isinstance(estimator, SequenceEstimator):
        credited = _by_sequence(samples, estimator, rule)
    else:
        credited = [_by_token(sample, estimator, rule) for sample in samples]
    kept = [s for s in credited if not (rule.mask_truncated and s.truncated)]
    if rule.whiten:
        kept = _whitened(kept)
    branches: list[list[Branch]] = [[] for _ in units]
    for sample in kept:
        for unit, branch in zip(sample.units, sample.branches, strict=True):
            branches[unit].append(branch)
    return tuple(replace(unit, branches=tuple(b)) for unit, b in zip(units, branches, strict=True) if b)


@dataclass(frozen=True, slots=True)
class _Sample:
    """A valid rollout on its way to credited branches: one a stream. Its trained tokens are one sequence, wherever they stand."""

    group: int  # counted from 0 over the groups that have a valid rollout
    units: tuple[int, ...]  # of each branch
    reward: float
    greedy: float  # reward of the greedy answer to the same prompt; NaN where none was asked for
    truncated: bool
    branches: tuple[Branch, ...]
    complexity: float  # of the prompt
    moved_T: Tensor | None = None  # over all tokens: what of the reward is due before the end

    @property
    def mask_T(self) -> Tensor:
        """Which of all tokens are trained."""
        return torch.cat([b.trained_T for b in self.branches])

    @property
    def length(self) -> int:
        """How many tokens are trained."""
        return sum(int(b.trained_T.sum()) for b in self.branches)

    def trained(self, name: str) -> Tensor:
        """A signal at the trained tokens only."""
        return torch.cat([b.signals[name][b.trained_T] for b in self.branches])

    def penalties(self, rule: CreditRule) -> Tensor:
        """The KL price of each trained token, zeros where there is none."""
        if rule.kl_coef == 0.0:
            return torch.zeros(self.length)
        policy = "old_logprobs" if "old_logprobs" in self.branches[0].signals else "sampler_logprobs"
        penalties_T = kl_penalty(self.trained(policy), self.trained("ref_logprobs"), rule.kl_coef)
        if rule.kl_kinds == (1.0, 1.0):
            return penalties_T
        return penalties_T * by_kind(self.trained("grounded"), rule.kl_kinds)

    def with_signals(self, trained: Mapping[str, Tensor]) -> _Sample:
        """Spread signals over the trained tokens, 0 elsewhere."""
        branches: list[Branch] = []
        start = 0
        for branch in self.branches:
            end = start + int(branch.trained_T.sum())
            spread = {name: _spread(values[start:end], branch.trained_T) for name, values in trained.items()}
            branches.append(replace(branch, signals={**branch.signals, **spread}))
            start = end
        return replace(self, branches=tuple(branches))


def _spread(values: Tensor, mask_T: Tensor) -> Tensor:
    """``values``, one a token of the mask, at those tokens; 0 elsewhere."""
    return torch.zeros(len(mask_T)).masked_scatter(mask_T, values.float())


def _samples(groups: Sequence[Group], units: Sequence[Unit]) -> list[_Sample]:
    """The valid rollouts in order, each with its branches, as ``rollout_units`` lays them out."""
    samples: list[_Sample] = []
    alive = [group for group in groups if bool(group.valid_G.any())]
    first = 0
    for g, group in enumerate(alive):
        valid = [i for i, ok in enumerate(group.valid_G) if ok]
        begun = [i for i in valid if group.rollouts[i].streams[0].stop]  # those that have a branch behind the group's prompt
        fork = first + bool(begun)
        assert not begun or (first < len(units) and len(units[first].branches) == len(begun)), "units do not belong to these groups"
        complexity = group.encoded.complexity
        for i in valid:
            own = [(first, begun.index(i))] if i in begun else []
            places = [*own, *((u, 0) for u in range(fork, fork + len(group.rollouts[i].forks)))]
            assert places[-1][0] < len(units), "units do not belong to these groups"
            branches = tuple(units[u].branches[k] for u, k in places)
            moved_T = group.moved[i] if group.moved else None
            truncated = group.rollouts[i].finish_reason == "length"
            reward = float(group.rewards_G[i])
            in_units = tuple(u for u, _ in places)
            samples.append(_Sample(g, in_units, reward, group.greedy_reward, truncated, branches, complexity, moved_T))
            fork += len(group.rollouts[i].forks)
        first = fork
    assert first == len(units), "units do not belong to these groups"
    return samples


def _by_sequence(samples: Sequence[_Sample], estimator: SequenceEstimator, rule: CreditRule) -> list[_Sample]:
    rewards_B = torch.tensor([s.reward + float(s.penalties(rule).sum()) for s in samples], dtype=torch.float64)
    group_B = torch.tensor([s.group for s in samples], dtype=torch.int64)
    known = {"lengths_B": [float(s.length) for s in samples], "greedy_B": [s.greedy for s in samples]}
    extra = {name: torch.tensor(known[name], dtype=torch.float64) for name in estimator.reads}
    assert not any(x.isnan().any() for x in extra.values()), f"{rule.estimator} was not given what it reads: {', '.join(extra)}"
    advantages_B = estimator.advantages(rewards_B, group_B, **extra)
    return [s.with_signals({"advantages": a.expand(s.length)}) for s, a in zip(samples, advantages_B)]


def _by_token(sample: _Sample, estimator: TokenEstimator, rule: CreditRule) -> _Sample:
    rewards_T = with_terminal_reward(sample.penalties(rule), sample.reward)
    if sample.moved_T is not None:
        rewards_T = rewards_T + sample.moved_T[sample.mask_T]
    signals_T = {name: sample.trained(name) for name in sample.branches[0].signals}
    return sample.with_signals(estimator.signals(rewards_T, signals_T, rule.for_complexity(sample.complexity)))


def _whitened(samples: Sequence[_Sample]) -> list[_Sample]:
    over = sum((moments(s.trained("advantages")) for s in samples), Moments())
    return [s.with_signals({"advantages": whiten(s.trained("advantages"), over)}) for s in samples]
