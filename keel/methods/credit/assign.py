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

from keel.core.errors import UserError
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


def rollout_units(groups: Sequence[Group]) -> tuple[Unit, ...]:
    """One unit for every group that has a valid rollout, a branch for each valid rollout in the group's order.

    Branches carry ``sampler_logprobs`` and the rollouts' supports; the tokens that the policy sampled are the trained ones.

    Raises:
        UserError: a rollout was drawn under a bias on tokens: its distribution is not the policy's, and no ratio here would say so.
    """
    biased = next((r for g in groups for r in g.rollouts if r.biased), None)
    if biased is not None:
        raise UserError(
            f"an answer to prompt {biased.prompt_id} was drawn with some of its words made less likely: it is no sample of the policy",
            "learn from such answers as pairs or demonstrations, or sample without a bias on tokens",
        )
    units: list[Unit] = []
    for group in groups:
        branches = tuple(
            Branch(r.tokens_T, r.sampled_T, {"sampler_logprobs": r.logprobs_T}, r.support)
            for r, ok in zip(group.rollouts, group.valid_G, strict=True)
            if ok
        )
        if branches:
            units.append(Unit(f"{group.prompt.prompt_id}/{group.rollouts[0].attempt}", group.encoded, branches, meta=group.prompt.meta))
    return tuple(units)


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
        branches[sample.unit].append(sample.branch)
    return tuple(replace(unit, branches=tuple(b)) for unit, b in zip(units, branches, strict=True) if b)


@dataclass(frozen=True, slots=True)
class _Sample:
    """A valid rollout on its way to a credited branch."""

    unit: int
    reward: float
    greedy: float  # reward of the greedy answer to the same prompt; NaN where none was asked for
    truncated: bool
    branch: Branch
    complexity: float  # of the prompt
    moved_T: Tensor | None = None  # over all tokens: what of the reward is due before the end

    def trained(self, name: str) -> Tensor:
        """A signal at the trained tokens only."""
        return self.branch.signals[name][self.branch.trained_T]

    def penalties(self, rule: CreditRule) -> Tensor:
        """The KL price of each trained token, zeros where there is none."""
        if rule.kl_coef == 0.0:
            return torch.zeros(int(self.branch.trained_T.sum()))
        policy = "old_logprobs" if "old_logprobs" in self.branch.signals else "sampler_logprobs"
        penalties_T = kl_penalty(self.trained(policy), self.trained("ref_logprobs"), rule.kl_coef)
        if rule.kl_kinds == (1.0, 1.0):
            return penalties_T
        return penalties_T * by_kind(self.trained("grounded"), rule.kl_kinds)

    def with_signals(self, trained: Mapping[str, Tensor]) -> _Sample:
        """Spread signals over the trained tokens, 0 elsewhere."""
        mask_T = self.branch.trained_T
        spread = {name: torch.zeros(len(mask_T)).masked_scatter(mask_T, x.float()) for name, x in trained.items()}
        return replace(self, branch=replace(self.branch, signals={**self.branch.signals, **spread}))


def _samples(groups: Sequence[Group], units: Sequence[Unit]) -> list[_Sample]:
    """The valid rollouts in order, each with its branch."""
    valid = [[i for i, ok in enumerate(g.valid_G) if ok] for g in groups]
    alive = [(g, indices) for g, indices in zip(groups, valid) if indices]
    assert [len(i) for _, i in alive] == [len(u.branches) for u in units], "units do not belong to these groups"
    return [
        _Sample(
            u,
            float(group.rewards_G[i]),
            group.greedy_reward,
            group.rollouts[i].finish_reason == "length",
            branch,
            unit.prompt.complexity,
            group.moved[i] if group.moved else None,
        )
        for u, ((group, indices), unit) in enumerate(zip(alive, units))
        for i, branch in zip(indices, unit.branches)
    ]


def _by_sequence(samples: Sequence[_Sample], estimator: SequenceEstimator, rule: CreditRule) -> list[_Sample]:
    rewards_B = torch.tensor([s.reward + float(s.penalties(rule).sum()) for s in samples], dtype=torch.float64)
    group_B = torch.tensor([s.unit for s in samples], dtype=torch.int64)
    known = {"lengths_B": [float(s.branch.trained_T.sum()) for s in samples], "greedy_B": [s.greedy for s in samples]}
    extra = {name: torch.tensor(known[name], dtype=torch.float64) for name in estimator.reads}
    assert not any(x.isnan().any() for x in extra.values()), f"{rule.estimator} was not given what it reads: {', '.join(extra)}"
    advantages_B = estimator.advantages(rewards_B, group_B, **extra)
    return [s.with_signals({"advantages": a.expand(int(s.branch.trained_T.sum()))}) for s, a in zip(samples, advantages_B)]


def _by_token(sample: _Sample, estimator: TokenEstimator, rule: CreditRule) -> _Sample:
    rewards_T = with_terminal_reward(sample.penalties(rule), sample.reward)
    if sample.moved_T is not None:
        rewards_T = rewards_T + sample.moved_T[sample.branch.trained_T]
    signals_T = {name: sample.trained(name) for name in sample.branch.signals}
    return sample.with_signals(estimator.signals(rewards_T, signals_T, rule.for_complexity(sample.complexity)))


def _whitened(samples: Sequence[_Sample]) -> list[_Sample]:
    over = sum((moments(s.trained("advantages")) for s in samples), Moments())
    return [s.with_signals({"advantages": whiten(s.trained("advantages"), over)}) for s in samples]
