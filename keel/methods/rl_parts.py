"""What an algorithm of RL is made of: the composition and its parts, as plain values; what it does with a batch: credit and objectives. The
table of compositions is in ``rl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch

from keel.methods.credit.assign import ESTIMATORS, CreditRule, TokenEstimator, assign
from keel.methods.credit.measures import kl_metrics
from keel.methods.credit.scaling import RewardRule
from keel.methods.math import kl
from keel.methods.math.policy import POLICY_LOSSES, Correction, PolicyLoss
from keel.methods.math.reduce import REDUCTIONS
from keel.methods.math.value import explained_variance
from keel.methods.objectives.policy import PolicyObjective
from keel.methods.objectives.value import ValueObjective
from keel.types import Divergence, Group, Unit


@dataclass(frozen=True, slots=True)
class Control:
    """How the price of the KL changes in the course of a run. The KL it follows is k1 of the policy that sampled; numbers of the two that
    follow it, from Ziegler et al. 2019 (arXiv:1909.08593) for the target and the horizon, are per token unless ``unit`` says otherwise."""

    kind: Literal["proportional", "multiplicative", "scheduled"]
    target: float = 0.1  # nats per ``unit``
    unit: Literal["token", "sequence"] = "token"
    horizon: float = 10_000.0  # samples; read by proportional
    low: float = 1e-4  # never below
    high: float = 10.0  # never above; read by multiplicative
    end: float = 0.0  # the last step's coefficient; read by scheduled
    target_slope: float = 0.0  # the target of a batch is 1 + this * the mean complexity of its prompts times as high


@dataclass(frozen=True, slots=True)
class KL:
    """Where the distance to the reference is paid, how it is measured, and its price. k1, k2 and k3 estimate it from the sampled token; the
    others are of the whole distributions at its place."""

    place: Literal["reward", "loss"]
    estimator: Literal["k1", "k2", "k3", "forward_kl", "reverse_kl", "jsd"]
    coef: float  # where it starts, if there is a control
    control: Control | None = None  # None: the price is fixed
    reference: ReferenceRule | None = None  # None: the reference stays where training started
    beta: float = 0.5  # of jsd
    kinds: tuple[float, float] = (1.0, 1.0)  # factors on the price: of grounded tokens, of the others

    @property
    def divergence(self) -> Divergence | None:
        """What is taken of whole distributions; None for an estimate from the sampled token."""
        match self.estimator:
            case "forward_kl" | "reverse_kl" | "jsd" as kind:
                return Divergence(kind, self.beta)
            case _:
                return None

    @property
    def followed(self) -> bool:
        """A control follows the KL that was measured."""
        return self.control is not None and self.control.kind != "scheduled"


@dataclass(frozen=True, slots=True)
class ReferenceRule:
    """How the reference follows the policy (Gorbatovski et al. 2024, arXiv:2404.09656: soft and hard updates)."""

    kind: Literal["ema", "refresh"]
    decay: float = 0.99  # of ema: share of the old reference that is left after a step
    every: int = 100  # of refresh: steps after which the reference becomes the policy


@dataclass(frozen=True, slots=True)
class Entropy:
    """The price of a nat of entropy per token, in the loss."""

    coef: float = 0.0  # where it starts, if there is a target
    target: float | None = None  # nats per token: the coefficient is a step higher below it, a step lower above it; None = it stays
    step: float = 0.005
    high: float = 0.1  # never above


@dataclass(frozen=True, slots=True)
class OldKL:
    """Limits on the KL to the policy that sampled, in nats per token (``policy/old_kl_avg``)."""

    coef: float = 0.0  # price of a nat of it in the loss
    target: float | None = None  # the coefficient is doubled above 1.5x of it and halved below 1 / 1.5 of it; None = the coefficient stays
    stop: float | None = None  # the updates of a step end before the one that finds the policy further away


@dataclass(frozen=True, slots=True)
class Overlong:
    """A soft penalty for answers near the length limit."""

    buffer: float = 0.2  # share of the limit over which it falls from 0 to -factor: DAPO's 4096 of 20480 tokens
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Critic:
    """How the critic is trained."""

    clip: float = 0.2
    vf_coef: float = 0.1


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A resolved algorithm: plain values, so that it can be printed and compared."""

    name: str
    credit: CreditRule
    objective: str = "ppo_clip"  # a key of POLICY_LOSSES, or FILE.py:NAME
    own_loss: PolicyLoss | None = None  # what that file has; None: the table's
    clip: tuple[float, float] = (0.2, 0.2)  # below and above a ratio of 1
    dual_clip: float | None = None  # ceiling of the ratio for negative advantages
    reduce: str = "per_token"  # a key of REDUCTIONS
    kl: KL | None = None
    old_kl: OldKL = OldKL()
    overlong: Overlong | None = None
    refill_rounds: int = 0  # dynamic sampling: groups of equal rewards are replaced in at most so many rounds of sampling; 0 = kept
    critic: Critic | None = None
    correction: Correction | None = None  # importance weights between the trainer's policy and the sampler's
    rewards: RewardRule = field(default_factory=RewardRule)
    taught: bool = False  # the reference is a teacher: what is learned is to be near to it, with rewards or without
    entropy: Entropy = Entropy()
    epochs: int = 1  # passes over the rollouts of a step
    minibatches: int = 1  # optimizer steps a pass

    @property
    def policy_loss(self) -> PolicyLoss:
        """The row of its policy loss."""
        return self.own_loss or POLICY_LOSSES[self.objective]

    @property
    def needs_reference(self) -> bool:
        """Units need the signal ``ref_logprobs``. For whole distributions the learner asks the reference itself, in the loss."""
        return self.kl is not None and (self.kl.divergence is None or self.kl.followed)

    @property
    def needs_kinds(self) -> bool:
        """Units need the signal ``grounded``."""
        return self.kl is not None and self.kl.kinds != (1.0, 1.0)

    @property
    def needs_critic(self) -> bool:
        """Units need the signal ``values``, and the critic is trained on ``value_objective``."""
        return self.critic is not None

    @property
    def credits_tokens(self) -> bool:
        """Each token has an advantage of its own: what a reward says of parts of an answer is credited where it is due."""
        return isinstance(ESTIMATORS[self.credit.estimator], TokenEstimator)

    @property
    def needs_greedy(self) -> bool:
        """Groups need ``greedy_reward``: each prompt is answered once more, greedily, and that answer is rewarded and not trained on."""
        return "greedy_B" in self.credit.reads

    @property
    def needs_old_logprobs(self) -> bool:
        """More than one update on the same rollouts: record ``old_logprobs`` before the first. Otherwise the update's own forward pass
        is the old policy, exactly."""
        return self.epochs * self.minibatches > 1

    def policy_objective(self) -> PolicyObjective:
        """The loss of the policy."""
        in_loss = self.kl if self.kl is not None and self.kl.place == "loss" else None
        divergence = in_loss.divergence if in_loss else None
        return PolicyObjective(
            policy_loss=self.policy_loss,
            reduction=REDUCTIONS[self.reduce],
            clip=self.clip,
            ceiling=self.dual_clip,
            kl=kl.ESTIMATORS[in_loss.estimator] if in_loss and divergence is None else None,
            kl_coef=in_loss.coef if in_loss else 0.0,
            kl_kinds=in_loss.kinds if in_loss else (1.0, 1.0),
            divergence=divergence,
            old_kl_coef=self.old_kl.coef,
            entropy_coef=self.entropy.coef,
            correction=self.correction,
        )

    def value_objective(self) -> ValueObjective:
        """The loss of the critic."""
        assert self.critic is not None, f"{self.name} has no critic"
        return ValueObjective(self.critic.clip, self.critic.vf_coef)


class Credited(NamedTuple):
    """Units that are ready for the learner, and what the credit looked like."""

    units: tuple[Unit, ...]
    metrics: Mapping[str, float]


def credit(groups: Sequence[Group], units: Sequence[Unit], algorithm: Algorithm) -> Credited:
    """Give every trained token its advantage (``credit.assign``) under the algorithm's rule.

    Metrics: ``objective/*`` of ``kl_metrics`` where there is a reference, ``critic/vf_explained_var`` where there is a critic. When all
    samples failed or were masked no unit is left: such a step has nothing to train on.
    """
    paid = algorithm.kl if algorithm.kl is not None and algorithm.kl.place == "reward" else None
    in_reward = paid.coef if paid is not None else 0.0
    kinds = paid.kinds if paid is not None else (1.0, 1.0)
    credited = assign(groups, units, replace(algorithm.credit, kl_coef=in_reward, kl_kinds=kinds))
    metrics = kl_metrics(groups, units, in_reward) if algorithm.needs_reference else {}
    branches = [b for u in credited for b in u.branches]
    if algorithm.needs_critic and branches:
        values, returns = (torch.cat([b.signals[name][b.trained_T] for b in branches]) for name in ("values", "returns"))
        metrics["critic/vf_explained_var"] = explained_variance(values, returns)
    return Credited(credited, metrics)
