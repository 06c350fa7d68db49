"""What an algorithm's settings are refused for, with the reason: parts that cannot work together, overrides that nothing would read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keel.core.config import Section
from keel.methods.credit.assign import ESTIMATORS, SequenceEstimator, TokenEstimator
from keel.methods.rl_config import ControlConfig, Overrides, ReferenceConfig
from keel.methods.rl_parts import Algorithm

_Rule = tuple[str, Section, tuple[str, ...], bool, str]  # (section, its values, fields, is it read, why not)


def contradictions(a: Algorithm, samples: int | None) -> Iterator[str]:
    """Parts that cannot work together, whoever set them. ``samples``: rollouts of a prompt, None where it is not known yet."""
    yield from _of_credit(a, samples)
    yield from _of_kl(a)
    yield from _of_rewards(a)
    yield from _of_loss(a)
    yield from _of_teacher(a)


def _of_teacher(a: Algorithm) -> Iterator[str]:
    if a.taught and a.kl is None:
        yield f"{a.name} learns from the distance to its teacher, which would not be taken (kl.coef above 0, kl.place=reward or loss)"
    if a.taught and a.kl is not None and a.kl.reference is not None:
        yield "a teacher stays as it is (kl.reference.kind=fixed)"


def _of_loss(a: Algorithm) -> Iterator[str]:
    loss = a.policy_loss
    if loss.by_sequence and a.reduce != "per_sequence":
        yield f"{a.objective} makes one loss a sequence, which {a.reduce} would count by its tokens (reduce=per_sequence)"
    if not loss.ratio and a.epochs > 1:
        yield f"{a.objective} has no correction for a policy that has moved on since it sampled (epochs=1, or objective=ppo_clip)"
    if loss.explodes and not loss.clips and a.needs_old_logprobs and not a.old_kl.coef and a.old_kl.stop is None:
        yield f"{a.objective} does not clip, so nothing would keep a step's updates together (set clip.kl_coef, or objective=ppo_clip)"
    if a.dual_clip is not None and a.dual_clip <= 1 + a.clip[1] and loss.clips:
        yield f"clip.dual={a.dual_clip:g} lies inside the band that clip.high={a.clip[1]:g} leaves open (clip.dual above {1 + a.clip[1]:g})"


def _of_credit(a: Algorithm, samples: int | None) -> Iterator[str]:
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
    if a.refill_rounds and getattr(estimator, "min_samples", 1) < 2:
        yield (
            f"groups of equal rewards are replaced where the answers to one prompt are compared; {a.credit.estimator} learns from them too "
            "(credit.refill_rounds=0)"
        )


def _of_rewards(a: Algorithm) -> Iterator[str]:
    if a.rewards.normalise != "none" and getattr(ESTIMATORS[a.credit.estimator], "unit_free", False):
        yield (
            f"credit.rewards.normalise would have no effect: {a.credit.estimator} takes mean and scale out of every group "
            "(leave it out, or another credit.estimator)"
        )
    if a.entropy.target is not None and a.entropy.coef > a.entropy.high:
        yield f"entropy: coef={a.entropy.coef:g} is above high={a.entropy.high:g}"


def _of_kl(a: Algorithm) -> Iterator[str]:
    if a.kl is not None and a.kl.place == "loss" and a.kl.estimator == "k1":
        yield "k1 in the loss has an expected gradient of zero, so it would hold nothing (kl.estimator=k2 or k3, or kl.place=reward)"
    if a.kl is not None and a.kl.place == "reward" and a.kl.estimator != "k1":
        yield f"{a.kl.estimator} in the reward does not give the KL's gradient; k1 does (kl.estimator=k1, or kl.place=loss)"
    if a.kl is not None and a.kl.control is not None and a.kl.control.low > a.kl.control.high:
        yield f"kl.control: low={a.kl.control.low:g} is above high={a.kl.control.high:g}"
    if a.kl is not None and a.kl.coef == 0:
        yield f"kl.place={a.kl.place} has no price (set kl.coef)"
    if not a.needs_old_logprobs and (a.old_kl.coef or a.old_kl.stop is not None):
        yield (
            "the only update of a step starts at the policy that sampled, whose KL to itself is 0: clip.kl_coef and clip.kl_stop would "
            "hold nothing (epochs or minibatches above 1)"
        )
    if a.old_kl.target is not None and not a.old_kl.coef:
        yield "clip.kl_target has no coefficient to steer (set clip.kl_coef)"


def idle(config: Overrides, a: Algorithm) -> Iterator[str]:
    """Overrides that nothing would read: better refused than believed."""
    loss, estimator = a.policy_loss, ESTIMATORS[a.credit.estimator]
    read = estimator.settings if isinstance(estimator, TokenEstimator) else ()
    rules = [
        ("clip", config.clip, ("low", "high"), loss.clips, f"{a.objective} does not clip"),
        ("clip", config.clip, ("dual",), loss.explodes, f"{a.objective} is not blown up by a large ratio"),
        ("credit", config.credit, ("gamma",), "gamma" in read, f"{a.credit.estimator} gives whole answers their credit"),
        (
            "credit.overlong",
            config.credit.overlong,
            ("buffer",),
            a.overlong is not None,
            "there is no penalty (set credit.overlong.factor)",
        ),
        ("credit", config.credit, ("gamma_slope",), "gamma" in read and a.credit.gamma < 1, "there is no gamma below 1 to raise"),
        ("credit", config.credit, ("lam",), "lam" in read, f"{a.credit.estimator} has no lambda"),
        ("critic", config.critic, ("clip", "vf_coef"), a.critic is not None, "there is no critic"),
        ("kl", config.kl, ("grounded", "ungrounded"), a.kl is not None, "there is no KL (set kl.place and kl.coef)"),
        ("kl", config.kl, ("estimator",), a.kl is not None, "there is no KL (set kl.place and kl.coef)"),
        ("kl", config.kl, ("beta",), a.kl is not None and a.kl.estimator == "jsd", "kl.estimator is not jsd"),
        ("kl", config.kl, ("coef",), a.kl is not None or config.kl.coef == 0, "there is no KL (set kl.place)"),
        ("entropy", config.entropy, ("step", "high"), a.entropy.target is not None, "there is no target (set entropy.target)"),
        ("credit.rewards", config.credit.rewards, ("decay",), a.rewards.normalise == "quantile", "normalise is not quantile"),
        *_of_reference(config.kl.reference, a),
        ("correction", config.correction, ("level", "cap"), a.correction is not None, "there is none (set correction.kind)"),
        *_of_control(config.kl.control, a),
    ]
    for section, values, names, is_read, reason in rules:
        if not is_read:
            yield from (f"{section}.{name} would have no effect: {reason}" for name in given(values, *names))


def _of_reference(values: ReferenceConfig, a: Algorithm) -> list[_Rule]:
    kind = a.kl.reference.kind if a.kl is not None and a.kl.reference is not None else "fixed"
    reason = f"kl.reference.kind is {kind}" if a.kl is not None else "there is no KL (set kl.place and kl.coef)"
    return [
        ("kl.reference", values, ("kind",), a.kl is not None, reason),
        ("kl.reference", values, ("decay",), kind == "ema", reason),
        ("kl.reference", values, ("every",), kind == "refresh", reason),
    ]


def _of_control(values: ControlConfig, a: Algorithm) -> list[_Rule]:
    if a.kl is None:
        return [("kl.control", values, tuple(type(values).model_fields), False, "there is no KL (set kl.place and kl.coef)")]
    kind = a.kl.control.kind if a.kl.control is not None else "fixed"
    read_by = {
        ("target", "target_slope", "unit"): {"proportional", "multiplicative"},
        ("horizon",): {"proportional"},
        ("low",): {"proportional", "multiplicative"},
        ("high",): {"multiplicative"},
        ("end",): {"scheduled"},
    }
    return [("kl.control", values, names, kind in kinds, f"kl.control.kind is {kind}") for names, kinds in read_by.items()]


def given(section: Section, *names: str) -> dict[str, Any]:
    """The fields among ``names`` that are not empty."""
    return {name: getattr(section, name) for name in names if getattr(section, name) is not None}
