"""Algorithms of RL as compositions, in one table, and their settings.

An algorithm is a credit rule, a policy loss, a reduction, a place for the KL and perhaps a critic. One step of the online loop::

    algorithm = resolve(config, samples)               # refuses what cannot go together, with the reason
    groups    = ...                                    # sampled, rewarded; with a greedy answer's reward if algorithm.needs_greedy
    units     = rollout_units(groups)                  # valid rollouts, with the sampler's log-probabilities
    units     = + "ref_logprobs"                       # if algorithm.needs_reference
                + "values"                             # if algorithm.needs_critic
                + "old_logprobs"                       # if algorithm.needs_old_logprobs
    credited  = credit(groups, units, algorithm)       # + "advantages" (and "returns"), and the metrics of it
    learner.forward_backward(part, algorithm.policy_objective()), learner.step()       # epochs x minibatches times
    critic.forward_backward(part, algorithm.value_objective()), critic.step()          # if algorithm.needs_critic
    metrics   = group_metrics(groups) | credited.metrics | ...

Signals are per-branch tensors [T]. A new algorithm is one row in ``ALGORITHMS``; a new part of one is a function and a row in its own table
(``ESTIMATORS``, ``POLICY_LOSSES``, ``REDUCTIONS``). Parts are in ``rl_parts``, settings in ``rl_config``, refusals in ``rl_checks``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field, model_validator

from keel.core.errors import ConfigError
from keel.core.python_file import names_a_file
from keel.core.schema import key_of
from keel.methods.credit.assign import CreditRule
from keel.methods.math.policy import Correction
from keel.methods.own import own_policy_loss
from keel.methods.rl_checks import contradictions, given, idle
from keel.methods.rl_config import ControlConfig, CorrectionConfig, CriticConfig, KLConfig, OverlongConfig, Overrides, ReferenceConfig
from keel.methods.rl_parts import KL, Algorithm, Control, Critic, OldKL, Overlong, ReferenceRule

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
        # Yu et al. 2025 (arXiv:2503.14476, eq. 8 to 13): clip-higher, groups that differ, tokens alike, over-long penalty, no KL
        replace(_GRPO, name="dapo", clip=(0.2, 0.28), reduce="per_token", kl=None, overlong=Overlong(0.2, 1.0), refill_rounds=10),
        # Liu et al. 2025 (arXiv:2503.20783): no deviation, no length in the denominator, no KL
        replace(_GRPO, name="dr_grpo", credit=CreditRule("group_centred"), reduce="sequence_sum", kl=None),
        # Zheng et al. 2025 (arXiv:2507.18071, sections 4.1, 4.3; clip: 5.1): one ratio a sequence; with each token's own gradient
        replace(_GRPO, name="gspo", objective="gspo", clip=(3e-4, 4e-4), kl=None),
        replace(_GRPO, name="gspo_token", objective="gspo_token", clip=(3e-4, 4e-4), kl=None),
        # Zhao et al. 2025 (arXiv:2507.20673): the geometric mean of token ratios clipped in log space; a wide band, no KL
        replace(_GRPO, name="gmpo", objective="gmpo", clip=(0.4, 0.4), kl=None),
        # Gao et al. 2025 (arXiv:2511.20347): a soft gate in place of the clip, no KL
        replace(_GRPO, name="sapo", objective="sapo", kl=None),
        # MiniMax-M1 (arXiv:2506.13585, eq. 4 and 5): the weight is clipped from above only, over all tokens alike, no KL
        replace(_GRPO, name="cispo", objective="cispo", clip=(1.0, 4.0), reduce="per_token", kl=None),
        # Liu et al. 2026 (arXiv:2601.05242): each reward normalised in its group (composition.normalise), their sum over the batch
        replace(_GRPO, name="gdpo", credit=CreditRule("batch_normalised"), reduce="per_token", kl=None),
        _RLOO,
        replace(_RLOO, name="reinforce", credit=CreditRule("batch_baseline")),  # Williams 1992, baseline: the batch's mean
        replace(_RLOO, name="remax", credit=CreditRule("greedy_baseline")),  # Li et al. 2023 (arXiv:2310.10505), one sample is enough
        # Hu 2025 (arXiv:2501.03262): no critic, returns whitened over the batch, PPO's clip
        replace(_PPO, name="reinforce_pp", credit=CreditRule("reward_to_go", whiten=True), critic=None, epochs=1),
        _PPO,
        # Schulman et al. 2017 (arXiv:1707.06347, section 4): no clip, an adaptive price for the KL to the old policy
        replace(_PPO, name="ppo_kl", objective="surrogate", old_kl=OldKL(coef=1.0, target=0.01)),
        # Lu et al. 2025 ("On-policy distillation", Thinking Machines), Agarwal et al. 2023 (arXiv:2306.13649): reverse KL to a teacher
        # at the policy's own tokens; a token's advantage is log teacher - log policy, and nothing that comes after it
        Algorithm("distill", CreditRule("reward_to_go", gamma=0.0), kl=KL("reward", "k1", 1.0), taught=True),
        # Agarwal et al. 2023 (arXiv:2306.13649): generalised Jensen-Shannon divergence of teacher and policy over whole distributions, on
        # the policy's own answers; rewards, where there are any, beside it
        Algorithm("gkd", CreditRule("batch_baseline"), kl=KL("loss", "jsd", 1.0, beta=0.5), taught=True),
    )
}

# --------------------------------------------------------------------------------------------------------------------------------
# Settings: a name, and overrides by field
# --------------------------------------------------------------------------------------------------------------------------------


class AlgorithmConfig(Overrides):
    """An algorithm by name; every other field overrides one of its parts."""

    name: Annotated[str, key_of(ALGORITHMS)] = Field(default="grpo", description=f"One of: {', '.join(ALGORITHMS)}.")

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
    base, clip = ALGORITHMS[config.name], config.clip
    algorithm = replace(
        base,
        own_loss=own_policy_loss(config.objective) if names_a_file(config.objective) else None,
        **given(config, "objective", "reduce", "epochs", "minibatches"),
        **given(config.credit, "refill_rounds"),
        overlong=_resolve_overlong(config.credit.overlong, base.overlong),
        clip=(_or(clip.low, base.clip[0]), _or(clip.high, base.clip[1])),
        dual_clip=base.dual_clip if clip.dual is None else clip.dual,
        old_kl=OldKL(
            coef=_or(clip.kl_coef, base.old_kl.coef),
            target=(base.old_kl.target if clip.kl_coef != 0 else None) if clip.kl_target is None else clip.kl_target,
            stop=base.old_kl.stop if clip.kl_stop is None else clip.kl_stop,
        ),
        credit=replace(base.credit, **given(config.credit, "estimator", "gamma", "gamma_slope", "lam", "whiten", "mask_truncated")),
        kl=_resolve_kl(config.kl, base.kl),
        critic=_resolve_critic(config.critic, base.critic),
        rewards=replace(base.rewards, **given(config.credit.rewards, "normalise", "decay", "clip")),
        entropy=replace(base.entropy, **given(config.entropy, "coef", "target", "step", "high")),
        correction=_resolve_correction(config.correction, base.correction),
    )
    problems = [*contradictions(algorithm, samples), *idle(config, algorithm)]
    if problems:
        raise ConfigError(f"algorithm '{config.name}' cannot run as set: " + "; ".join(problems))
    return algorithm


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _resolve_kl(config: KLConfig, base: KL | None) -> KL | None:
    place = config.place or (base.place if base else "none")
    if place == "none" or config.coef == 0:
        return None
    own = base.estimator if base and base.place == place else ("k1" if place == "reward" else "k2")
    control = _resolve_control(config.control, base.control if base else None)
    reference = _resolve_reference(config.reference, base.reference if base else None)
    beta = _or(config.beta, base.beta if base else 0.5)
    kinds = _or(config.grounded, base.kinds[0] if base else 1.0), _or(config.ungrounded, base.kinds[1] if base else 1.0)
    return KL(place, config.estimator or own, _or(config.coef, base.coef if base else 0.0), control, reference, beta, kinds)


def _resolve_reference(config: ReferenceConfig, base: ReferenceRule | None) -> ReferenceRule | None:
    kind = config.kind or (base.kind if base else "fixed")
    if kind == "fixed":
        return None
    return replace(base if base and base.kind == kind else ReferenceRule(kind), **given(config, "decay", "every"))


def _resolve_control(config: ControlConfig, base: Control | None) -> Control | None:
    kind = config.kind or (base.kind if base else "fixed")
    if kind == "fixed":
        return None
    own = base if base and base.kind == kind else Control(kind, low=1e-3 if kind == "multiplicative" else 1e-4)
    return replace(own, **given(config, "target", "target_slope", "unit", "horizon", "low", "high", "end"))


def _resolve_overlong(config: OverlongConfig, base: Overlong | None) -> Overlong | None:
    if config.factor == 0 or (base is None and config.factor is None):
        return None
    return replace(base or Overlong(), **given(config, "buffer", "factor"))


def _resolve_critic(config: CriticConfig, base: Critic | None) -> Critic | None:
    if config.use is False or (base is None and not config.use):
        return None
    return replace(base or Critic(), **given(config, "clip", "vf_coef"))


def _resolve_correction(config: CorrectionConfig, base: Correction | None) -> Correction | None:
    if config.kind is None:
        return None if base is None else replace(base, **given(config, "level", "cap"))
    return None if config.kind == "none" else replace(base or Correction(config.kind), **given(config, "kind", "level", "cap"))
