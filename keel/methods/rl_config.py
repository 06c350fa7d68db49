"""Settings of an algorithm of RL, section by section. Each overrides one of its parts; an empty field is the algorithm's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.core.python_file import names_a_file
from keel.core.schema import key_of
from keel.methods.credit.assign import ESTIMATORS
from keel.methods.math.policy import POLICY_LOSSES
from keel.methods.math.reduce import REDUCTIONS

_OWN = " Empty: the algorithm's own."


class ClipConfig(Section):
    """How far one step may move from the policy that sampled: clips of the ratio to it, and limits on the KL to it."""

    low: float | None = Field(
        default=None, ge=0, le=1, description="Below 1: the ratio counts down to 1 - low, with gmpo to e^-low." + _OWN
    )
    high: float | None = Field(
        default=None,
        ge=0,
        description="Above 1: the ratio counts up to 1 + high, with gmpo to e^high; larger than low is clip-higher." + _OWN,
    )
    dual: float | None = Field(
        default=None, gt=1, description="Dual clip: for negative advantages the ratio counts up to this (3 in the paper)." + _OWN
    )
    kl_coef: float | None = Field(
        default=None, ge=0, description="Price in the loss of a nat of KL(old policy || policy) per token; where it starts." + _OWN
    )
    kl_target: float | None = Field(
        default=None,
        gt=0,
        description="That KL in nats per token (k3): kl_coef is doubled when the last pass of a step is above 1.5 times it, halved below "
        "1/1.5 of it." + _OWN,
    )
    kl_stop: float | None = Field(
        default=None,
        gt=0,
        description="That KL in nats per token (k3): an update that finds the policy further away is not made, nor are the rest of the "
        "step's." + _OWN,
    )


class OverlongConfig(Section):
    """A soft penalty for answers near the length limit (DAPO)."""

    buffer: float | None = Field(
        default=None, gt=0, le=1, description="The last share of sampling.max_tokens, over which the penalty grows. Empty: 0.2."
    )
    factor: float | None = Field(default=None, ge=0, description="The penalty of an answer that reaches the limit; 0 = none." + _OWN)


class RewardScaleConfig(Section):
    """What is done to rewards before they are credited. The metrics `reward` and `rewards/*` stay as they were given."""

    normalise: Literal["none", "running", "quantile"] | None = Field(
        default=None,
        description="running: less the mean, over the deviation, of all rewards so far; quantile: less the middle, over the distance, of "
        "a moving average of the batches' 5th and 95th percentile. Empty: none.",
    )
    decay: float | None = Field(default=None, ge=0, lt=1, description="Of quantile: share of the average left after a batch. Empty: 0.99.")
    clip: float | None = Field(default=None, gt=0, description="Rewards (normalised, if they are) are cut at plus and minus this.")


class CreditConfig(Section):
    """From rewards to advantages."""

    estimator: Annotated[str | None, key_of(ESTIMATORS)] = Field(default=None, description=f"One of: {', '.join(ESTIMATORS)}." + _OWN)
    gamma: float | None = Field(
        default=None, ge=0, le=1, description="Discount of later rewards, for estimators that work by token." + _OWN
    )
    gamma_slope: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="The more complex what a prompt shows, the further ahead: gamma + this * complexity * (1 - gamma). Empty: 0.",
    )
    lam: float | None = Field(default=None, ge=0, le=1, description="GAE's lambda: 1 trusts the returns, 0 the critic." + _OWN)
    whiten: bool | None = Field(
        default=None, description="Shift and scale the advantages of the batch's tokens to mean 0, variance 1." + _OWN
    )
    mask_truncated: bool | None = Field(
        default=None, description="Answers cut off at the length limit count in the statistics but are not trained on." + _OWN
    )
    overlong: OverlongConfig = Field(default=OverlongConfig(), description="A soft penalty for answers near the length limit.")
    rewards: RewardScaleConfig = Field(default=RewardScaleConfig(), description="What is done to rewards before they are credited.")
    refill_rounds: int | None = Field(
        default=None,
        ge=0,
        description="Dynamic sampling: groups whose rewards (before penalties) are all equal are dropped and other prompts are answered in "
        "their place, drawn without loop.balance_by, in at most this many rounds of sampling; then the step makes do with what there is. "
        "0 keeps such groups." + _OWN,
    )


class ControlConfig(Section):
    """How the price of the KL to the reference changes in the course of a run."""

    kind: Literal["fixed", "proportional", "multiplicative", "scheduled"] | None = Field(
        default=None,
        description="fixed; proportional (Ziegler et al.: follows the error over a horizon); multiplicative (x1.5 above 1.5 "
        "targets, x0.75 below half of one); scheduled (a straight line from kl.coef to `end`)." + _OWN,
    )
    target: float | None = Field(
        default=None, gt=0, description="KL to steer to, in nats per `unit`: k1 of the policy that sampled. Empty: 0.1."
    )
    unit: Literal["token", "sequence"] | None = Field(default=None, description="What target and measured KL are per. Empty: token.")
    horizon: float | None = Field(
        default=None, gt=0, description="Of proportional, in samples: a full error moves the price by a fifth in so many. Empty: 10000."
    )
    low: float | None = Field(
        default=None, gt=0, description="The price is never below. Empty: 0.0001 for proportional, 0.001 for multiplicative."
    )
    high: float | None = Field(default=None, gt=0, description="Of multiplicative: the price is never above. Empty: 10.")
    target_slope: float | None = Field(
        default=None,
        ge=0,
        description="The more complex what a batch's prompts show, the more KL: target * (1 + this * mean complexity). Empty: 0.",
    )
    end: float | None = Field(default=None, ge=0, description="Of scheduled: the price at the last step. Empty: 0.")


class ReferenceConfig(Section):
    """Whether the reference follows the policy. One that does is a copy of the model, under LoRA too."""

    kind: Literal["fixed", "ema", "refresh"] | None = Field(
        default=None,
        description="fixed: the starting weights; ema: a moving average of the policy's; refresh: the policy's, every so many steps. "
        "Empty: fixed.",
    )
    decay: float | None = Field(default=None, gt=0, lt=1, description="Of ema: share of it that is left after a step. Empty: 0.99.")
    every: int | None = Field(default=None, ge=1, description="Of refresh, in steps. Empty: 100.")


class KLConfig(Section):
    """The price of moving away from the reference."""

    place: Literal["none", "reward", "loss"] | None = Field(
        default=None, description="Part of the reward, a term of the loss, or none." + _OWN
    )
    estimator: Literal["k1", "k2", "k3", "forward_kl", "reverse_kl", "jsd"] | None = Field(
        default=None,
        description="k1 in the reward; k2 (reverse KL) or k3 (as GRPO was published) in the loss, from the sampled token; forward_kl, "
        "reverse_kl or jsd in the loss, of the whole distributions at its place." + _OWN,
    )
    beta: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Of jsd, the generalised Jensen-Shannon divergence: the reference's share of the mixture; near 0 it pulls as the "
        "forward KL does, near 1 as the reverse KL." + _OWN,
    )
    grounded: float | None = Field(
        default=None, ge=0, description="Factor on the price at tokens that hang on the prompt's images (see `grounding`). Empty: 1."
    )
    ungrounded: float | None = Field(default=None, ge=0, description="The same at all other sampled tokens. Empty: 1.")
    coef: float | None = Field(default=None, ge=0, description="Price of one nat; 0 switches the KL off." + _OWN)
    control: ControlConfig = Field(default=ControlConfig(), description="How the price changes in the course of the run.")
    reference: ReferenceConfig = Field(default=ReferenceConfig(), description="What the distance is measured from.")


class CriticConfig(Section):
    """Training of the critic."""

    use: bool | None = Field(default=None, description="Train a critic." + _OWN)
    clip: float | None = Field(default=None, gt=0, description="How far a value may move from its old one and still lower the loss." + _OWN)
    vf_coef: float | None = Field(default=None, gt=0, description="Factor of the critic's loss." + _OWN)


class EntropyConfig(Section):
    """A bonus for entropy, in the loss: fixed, or as much as it takes."""

    coef: float | None = Field(default=None, ge=0, description="Reward of a nat of entropy per token; where it starts." + _OWN)
    target: float | None = Field(
        default=None, gt=0, description="Nats per token: after each step below it coef is `step` higher, above it lower. Empty: coef stays."
    )
    step: float | None = Field(default=None, gt=0, description="Empty: 0.005.")
    high: float | None = Field(default=None, gt=0, description="coef is never above, and never below 0. Empty: 0.1.")


class CorrectionConfig(Section):
    """Importance weights between the trainer's policy and the distribution that was sampled from, in the policy's loss."""

    kind: Literal["none", "truncate", "mask"] | None = Field(
        default=None, description="A weight above the cap counts as the cap (truncate) or as 0 (mask); none: no weights." + _OWN
    )
    level: Literal["token", "sequence"] | None = Field(
        default=None, description="One weight a token, or the product of a sequence's for all its tokens. Empty: token."
    )
    cap: float | None = Field(default=None, gt=0, description="The largest weight that counts as it is. Empty: 3.")


_OF_RATIO = {"token": "leave it out", "sequence": "set algorithm.objective=gspo", "sequence_token": "set algorithm.objective=gspo_token"}


def _is_a_loss(name: str | None) -> str | None:
    """A row of the table, or a file's: whether that file has it is told when it is read."""
    if name is not None and name not in POLICY_LOSSES and not names_a_file(name):
        raise ValueError(f"'{name}' is none of: {', '.join(POLICY_LOSSES)}; nor is it FILE.py:NAME")
    return name


class Overrides(Section):
    """An algorithm's name, and what overrides its parts."""

    name: str = Field(default="grpo", description="A key of the table of algorithms.")
    objective: Annotated[str | None, AfterValidator(_is_a_loss)] = Field(
        default=None,
        description="The policy loss: a row of POLICY_LOSSES (the column `objective` of the algorithms below names them), or a function of "
        "yours, FILE.py:NAME." + _OWN,
    )
    reduce: Annotated[str | None, key_of(REDUCTIONS)] = Field(default=None, description=f"One of: {', '.join(REDUCTIONS)}." + _OWN)
    entropy: EntropyConfig = Field(default=EntropyConfig(), description="A bonus for entropy.")
    epochs: int | None = Field(default=None, ge=1, description="Passes over the rollouts of a step." + _OWN)
    minibatches: int | None = Field(default=None, ge=1, description="Optimizer steps in one pass." + _OWN)
    clip: ClipConfig = Field(default=ClipConfig(), description="How far one step may move from the policy that sampled.")
    credit: CreditConfig = Field(default=CreditConfig(), description="From rewards to advantages.")
    kl: KLConfig = Field(default=KLConfig(), description="The price of moving away from the reference.")
    critic: CriticConfig = Field(default=CriticConfig(), description="Training of the critic.")
    correction: CorrectionConfig = Field(default=CorrectionConfig(), description="Importance weights between trainer and sampler.")

    @model_validator(mode="before")
    @classmethod
    def _ratio_is_the_loss_s(cls, given: Any) -> Any:
        """What older recipes set: the ratio is now part of the loss."""
        if isinstance(given, Mapping) and "ratio" in given:
            what = cast("Mapping[str, Any]", given)["ratio"]
            hint = _OF_RATIO.get(str(what)) or f"set algorithm.objective to one of: {', '.join(POLICY_LOSSES)}"
            raise ConfigError(f"ratio={what} is no setting: whether a ratio is a token's or a sequence's is part of the loss", hint)
        return given
