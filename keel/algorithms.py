"""Algorithms of RL as compositions, in one table, and their settings.

An algorithm is a credit rule, a policy loss, a reduction, a place for the KL and perhaps a critic. One step of the online loop::

    algorithm = resolve(config, samples)               # refuses what cannot go together, with the reason
    groups    = ...                                    # sampled, rewarded
    units     = rollout_units(groups)                  # valid rollouts, with the sampler's log-probabilities
    units     = + "ref_logprobs"                       # if algorithm.needs_reference
                + "values"                             # if algorithm.needs_critic
                + "old_logprobs"                       # if algorithm.needs_old_logprobs
    credited  = credit(groups, units, algorithm)       # + "advantages" (and "returns"), and the metrics of it
    learner.forward_backward(part, algorithm.policy_objective()), learner.step()       # epochs x minibatches times
    critic.forward_backward(part, algorithm.value_objective()), critic.step()          # if algorithm.needs_critic
    metrics   = group_metrics(groups) | credited.metrics | ...

Signals are per-branch tensors [T]. A new algorithm is one row in ``ALGORITHMS``; a new part of one is a function and a row in its own table
(``ESTIMATORS``, ``POLICY_LOSSES``, ``REDUCTIONS``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator

from keel.advantages.credit import ESTIMATORS, CreditRule, SequenceEstimator, TokenEstimator, assign, rollout_units
from keel.advantages.measures import group_metrics, kl_metrics
from keel.config import Section
from keel.errors import ConfigError
from keel.losses import kl
from keel.losses.policy import policy_gradient, ppo_clip
from keel.losses.reduce import REDUCTIONS
from keel.losses.value import explained_variance
from keel.objectives.policy import PolicyLoss, PolicyObjective
from keel.objectives.value import ValueObjective
from keel.schema import key_of
from keel.types import Group, Unit

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmConfig",
    "Credited",
    "credit",
    "group_metrics",
    "resolve",
    "rollout_units",
]

# --------------------------------------------------------------------------------------------------------------------------------
# Compositions
# --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KL:
    """Where the distance to the reference is paid, how it is estimated, and its price."""

    place: Literal["reward", "loss"]
    estimator: Literal["k1", "k2", "k3"]
    coef: float


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
    objective: str = "ppo_clip"  # a key of POLICY_LOSSES
    clip: tuple[float, float] = (0.2, 0.2)  # below and above a ratio of 1
    ratio: Literal["token", "sequence"] = "token"
    reduce: str = "per_token"  # a key of REDUCTIONS
    kl: KL | None = None
    critic: Critic | None = None
    entropy_coef: float = 0.0
    epochs: int = 1  # passes over the rollouts of a step
    minibatches: int = 1  # optimizer steps a pass

    @property
    def needs_reference(self) -> bool:
        """Units need the signal ``ref_logprobs``."""
        return self.kl is not None

    @property
    def needs_critic(self) -> bool:
        """Units need the signal ``values``, and the critic is trained on ``value_objective``."""
        return self.critic is not None

    @property
    def needs_old_logprobs(self) -> bool:
        """More than one update on the same rollouts: record ``old_logprobs`` before the first. Otherwise the update's own forward pass
        is the old policy, exactly."""
        return self.epochs * self.minibatches > 1

    def policy_objective(self) -> PolicyObjective:
        """The loss of the policy."""
        in_loss = self.kl if self.kl is not None and self.kl.place == "loss" else None
        return PolicyObjective(
            policy_loss=POLICY_LOSSES[self.objective](self.clip),
            reduction=REDUCTIONS[self.reduce],
            ratio=self.ratio,
            kl=kl.ESTIMATORS[in_loss.estimator] if in_loss else None,
            kl_coef=in_loss.coef if in_loss else 0.0,
            entropy_coef=self.entropy_coef,
        )

    def value_objective(self) -> ValueObjective:
        """The loss of the critic."""
        assert self.critic is not None, f"{self.name} has no critic"
        return ValueObjective(self.critic.clip, self.critic.vf_coef)


POLICY_LOSSES: dict[str, Callable[[tuple[float, float]], PolicyLoss]] = {
    "ppo_clip": lambda clip: partial(ppo_clip, low=clip[0], high=clip[1]),
    "policy_gradient": lambda clip: policy_gradient,
}

# Shao et al. 2024 (arXiv:2402.03300): one update on each batch of rollouts, beta 0.04
_GRPO = Algorithm("grpo", CreditRule("group_normalised"), reduce="per_sequence", kl=KL("loss", "k3", 0.04))
# Ahmadian et al. 2024 (arXiv:2402.14740): the sequence is one action, its KL is part of its reward
_RLOO = Algorithm("rloo", CreditRule("leave_one_out"), objective="policy_gradient", reduce="sequence_sum", kl=KL("reward", "k1", 0.05))
# Schulman et al. 2017 (arXiv:1707.06347), for language models as in Ouyang et al. 2022 (arXiv:2203.02155)
_PPO = Algorithm(
    "ppo", CreditRule("gae", gamma=1.0, lam=0.95, whiten=True), kl=KL("reward", "k1", 0.05), critic=Critic(clip=0.2, vf_coef=0.1), epochs=4
)

ALGORITHMS: dict[str, Algorithm] = {
    a.name: a
    for a in (
        _GRPO,
        replace(_GRPO, name="grpo_trl", reduce="per_token", kl=None),  # TRL's defaults: token-level loss, no KL
        # Liu et al. 2025 (arXiv:2503.20783): no deviation, no length in the denominator, no KL
        replace(_GRPO, name="dr_grpo", credit=CreditRule("group_centred"), reduce="sequence_sum", kl=None),
        # Zheng et al. 2025 (arXiv:2507.18071): one ratio a sequence
        replace(_GRPO, name="gspo", ratio="sequence", clip=(3e-4, 4e-4), kl=None),
        _RLOO,
        replace(_RLOO, name="reinforce", credit=CreditRule("batch_baseline")),  # Williams 1992, baseline: the batch's mean
        # Hu 2025 (arXiv:2501.03262): no critic, returns whitened over the batch, PPO's clip
        replace(_PPO, name="reinforce_pp", credit=CreditRule("reward_to_go", whiten=True), critic=None, epochs=1),
        _PPO,
    )
}

# --------------------------------------------------------------------------------------------------------------------------------
# Settings: a name, and overrides by field
# --------------------------------------------------------------------------------------------------------------------------------


_OWN = " Empty: the algorithm's own."


class ClipConfig(Section):
    """How far the ratio to the old policy counts."""

    low: float | None = Field(default=None, ge=0, le=1, description="Below 1: the ratio counts down to 1 - low." + _OWN)
    high: float | None = Field(
        default=None, ge=0, description="Above 1: the ratio counts up to 1 + high; larger than low is clip-higher." + _OWN
    )


class CreditConfig(Section):
    """From rewards to advantages."""

    estimator: Annotated[str | None, key_of(ESTIMATORS)] = Field(default=None, description=f"One of: {', '.join(ESTIMATORS)}." + _OWN)
    gamma: float | None = Field(
        default=None, ge=0, le=1, description="Discount of later rewards, for estimators that work by token." + _OWN
    )
    lam: float | None = Field(default=None, ge=0, le=1, description="GAE's lambda: 1 trusts the returns, 0 the critic." + _OWN)
    whiten: bool | None = Field(
        default=None, description="Shift and scale the advantages of the batch's tokens to mean 0, variance 1." + _OWN
    )
    mask_truncated: bool | None = Field(
        default=None, description="Answers cut off at the length limit count in the statistics but are not trained on." + _OWN
    )


class KLConfig(Section):
    """The price of moving away from the reference."""

    place: Literal["none", "reward", "loss"] | None = Field(
        default=None, description="Part of the reward, a term of the loss, or none." + _OWN
    )
    estimator: Literal["k1", "k2", "k3"] | None = Field(
        default=None, description="k1 in the reward; k2 (reverse KL) or k3 (as GRPO was published) in the loss." + _OWN
    )
    coef: float | None = Field(default=None, ge=0, description="Price of one nat; 0 switches the KL off." + _OWN)


class CriticConfig(Section):
    """Training of the critic."""

    use: bool | None = Field(default=None, description="Train a critic." + _OWN)
    clip: float | None = Field(default=None, gt=0, description="How far a value may move from its old one and still lower the loss." + _OWN)
    vf_coef: float | None = Field(default=None, gt=0, description="Factor of the critic's loss." + _OWN)


class AlgorithmConfig(Section):
    """An algorithm by name; every other field overrides one of its parts."""

    name: Annotated[str, key_of(ALGORITHMS)] = Field(default="grpo", description=f"One of: {', '.join(ALGORITHMS)}.")
    objective: Annotated[str | None, key_of(POLICY_LOSSES)] = Field(default=None, description=f"One of: {', '.join(POLICY_LOSSES)}." + _OWN)
    ratio: Literal["token", "sequence"] | None = Field(
        default=None, description="One ratio to the old policy a token, or a sequence." + _OWN
    )
    reduce: Annotated[str | None, key_of(REDUCTIONS)] = Field(default=None, description=f"One of: {', '.join(REDUCTIONS)}." + _OWN)
    entropy_coef: float | None = Field(default=None, ge=0, description="Reward of a nat of entropy per token, in the loss." + _OWN)
    epochs: int | None = Field(default=None, ge=1, description="Passes over the rollouts of a step." + _OWN)
    minibatches: int | None = Field(default=None, ge=1, description="Optimizer steps in one pass." + _OWN)
    clip: ClipConfig = Field(default=ClipConfig(), description="Clip of the ratio.")
    credit: CreditConfig = Field(default=CreditConfig(), description="From rewards to advantages.")
    kl: KLConfig = Field(default=KLConfig(), description="The price of moving away from the reference.")
    critic: CriticConfig = Field(default=CriticConfig(), description="Training of the critic.")

    @model_validator(mode="after")
    def _parts_go_together(self) -> AlgorithmConfig:
        resolve(self)
        return self


def resolve(config: AlgorithmConfig, samples: int | None = None) -> Algorithm:
    """The algorithm that ``config`` describes.

    Args:
        config: a name and overrides.
        samples: rollouts of a prompt; None where it is not known yet.

    Raises:
        ConfigError: parts that cannot go together, or an override that nothing would read; all of them at once, each with its reason.
    """
    base = ALGORITHMS[config.name]
    algorithm = replace(
        base,
        **_given(config, "objective", "ratio", "reduce", "entropy_coef", "epochs", "minibatches"),
        clip=(_or(config.clip.low, base.clip[0]), _or(config.clip.high, base.clip[1])),
        credit=replace(base.credit, **_given(config.credit, "estimator", "gamma", "lam", "whiten", "mask_truncated")),
        kl=_resolve_kl(config.kl, base.kl),
        critic=_resolve_critic(config.critic, base.critic),
    )
    problems = [*_contradictions(algorithm, samples), *_idle(config, algorithm)]
    if problems:
        raise ConfigError(f"algorithm '{config.name}' cannot run as set: " + "; ".join(problems))
    return algorithm


def _given(section: Section, *names: str) -> dict[str, Any]:
    return {name: getattr(section, name) for name in names if getattr(section, name) is not None}


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _resolve_kl(config: KLConfig, base: KL | None) -> KL | None:
    place = config.place or (base.place if base else "none")
    if place == "none" or config.coef == 0:
        return None
    own = base.estimator if base and base.place == place else ("k1" if place == "reward" else "k2")
    return KL(place, config.estimator or own, _or(config.coef, base.coef if base else 0.0))


def _resolve_critic(config: CriticConfig, base: Critic | None) -> Critic | None:
    if config.use is False or (base is None and not config.use):
        return None
    return replace(base or Critic(), **_given(config, "clip", "vf_coef"))


def _contradictions(a: Algorithm, samples: int | None) -> Iterator[str]:
    """Parts that cannot work together, whoever set them."""
    estimator = ESTIMATORS[a.credit.estimator]
    if isinstance(estimator, TokenEstimator) and estimator.needs_critic and a.critic is None:
        yield f"{a.credit.estimator} estimates advantages with a critic and there is none (critic.use=true, or another credit.estimator)"
    if a.critic is not None and not (isinstance(estimator, TokenEstimator) and estimator.needs_critic):
        yield f"a critic would be trained and never asked: {a.credit.estimator} needs none (critic.use=false, or credit.estimator=gae)"
    if isinstance(estimator, SequenceEstimator) and samples is not None and samples < estimator.min_samples:
        yield (
            f"{a.credit.estimator} compares the answers to one prompt and gets {samples} "
            f"(samples={estimator.min_samples} or more, or credit.estimator=batch_baseline)"
        )
    if a.kl is not None and a.kl.place == "loss" and a.kl.estimator == "k1":
        yield "k1 in the loss has an expected gradient of zero, so it would hold nothing (kl.estimator=k2 or k3, or kl.place=reward)"
    if a.kl is not None and a.kl.place == "reward" and a.kl.estimator != "k1":
        yield f"{a.kl.estimator} in the reward does not give the KL's gradient; k1 does (kl.estimator=k1, or kl.place=loss)"
    if a.kl is not None and a.kl.coef == 0:
        yield f"kl.place={a.kl.place} has no price (set kl.coef)"
    if a.ratio == "sequence" and a.reduce != "per_sequence":
        yield f"one ratio a sequence makes one loss a sequence, which {a.reduce} would count by its tokens (reduce=per_sequence)"
    if a.objective == "policy_gradient" and a.epochs > 1:
        yield "policy_gradient has no correction for a policy that has moved on since it sampled (epochs=1, or objective=ppo_clip)"


def _idle(config: AlgorithmConfig, a: Algorithm) -> Iterator[str]:
    """Overrides that nothing would read: better refused than believed."""
    by_token = isinstance(ESTIMATORS[a.credit.estimator], TokenEstimator)
    rules = [
        ("clip", config.clip, ("low", "high"), a.objective == "ppo_clip", f"{a.objective} does not clip"),
        ("credit", config.credit, ("gamma",), by_token, f"{a.credit.estimator} gives whole answers their credit"),
        ("credit", config.credit, ("lam",), a.credit.estimator == "gae", f"{a.credit.estimator} has no lambda"),
        ("critic", config.critic, ("clip", "vf_coef"), a.critic is not None, "there is no critic"),
        ("kl", config.kl, ("estimator",), a.kl is not None, "there is no KL (set kl.place and kl.coef)"),
        ("kl", config.kl, ("coef",), a.kl is not None or config.kl.coef == 0, "there is no KL (set kl.place)"),
    ]
    for section, values, names, read, reason in rules:
        if not read:
            yield from (f"{section}.{name} would have no effect: {reason}" for name in _given(values, *names))
    if a.ratio == "sequence" and a.objective != "ppo_clip":
        yield f"ratio=sequence would have no effect: {a.objective} has no ratio"


# --------------------------------------------------------------------------------------------------------------------------------
# Credit of a batch
# --------------------------------------------------------------------------------------------------------------------------------


class Credited(NamedTuple):
    """Units that are ready for the learner, and what the credit looked like."""

    units: tuple[Unit, ...]
    metrics: Mapping[str, float]


def credit(groups: Sequence[Group], units: Sequence[Unit], algorithm: Algorithm) -> Credited:
    """Give every trained token its advantage (``advantages.credit.assign``) under the algorithm's rule.

    Metrics: ``objective/*`` of ``kl_metrics`` where there is a reference, ``critic/vf_explained_var`` where there is a critic. When all
    samples failed or were masked no unit is left: such a step has nothing to train on.
    """
    in_reward = algorithm.kl.coef if algorithm.kl is not None and algorithm.kl.place == "reward" else 0.0
    credited = assign(groups, units, replace(algorithm.credit, kl_coef=in_reward))
    metrics = kl_metrics(groups, units, in_reward) if algorithm.needs_reference else {}
    branches = [b for u in credited for b in u.branches]
    if algorithm.needs_critic and branches:
        values, returns = (torch.cat([b.signals[name][b.trained_T] for b in branches]) for name in ("values", "returns"))
        metrics["critic/vf_explained_var"] = explained_variance(values, returns)
    return Credited(credited, metrics)
