"""The table of algorithms: what each is made of, overrides by field, refusals with their reasons, and credit end to end."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from keel.core.errors import ConfigError
from keel.learner.packing import pack
from keel.methods import (
    ALGORITHMS,
    KL,
    AlgorithmConfig,
    Control,
    Critic,
    Entropy,
    OldKL,
    Overlong,
    ReferenceRule,
    credit,
    resolve,
    rollout_units,
)
from keel.methods.credit.assign import ESTIMATORS
from keel.methods.credit.scaling import RewardRule
from keel.methods.math.kl import k3
from keel.methods.math.policy import POLICY_LOSSES, Correction
from keel.methods.math.reduce import REDUCTIONS
from keel.types import Divergence, Encoded, Group, Outputs, Prompt, Rollout, Unit


def config(name: str = "grpo", **fields) -> AlgorithmConfig:
    return AlgorithmConfig(name=name, **fields)


# ------------------------------------------------------------------------------------------------------------------------ table


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_row_resolves_to_itself(name):
    assert resolve(config(name), samples=4) == ALGORITHMS[name]
    assert ALGORITHMS[name].policy_objective().needs == {"logprobs", "entropy"} | ({"divergence"} if name == "gkd" else set())


def test_grpo_is_the_paper():
    a = ALGORITHMS["grpo"]
    assert (a.credit.estimator, a.reduce, a.clip, a.critic) == ("group_normalised", "per_sequence", (0.2, 0.2), None)
    assert a.kl == KL("loss", "k3", 0.04)
    objective = a.policy_objective()
    assert (objective.kl, objective.kl_coef, objective.reduction) == (k3, 0.04, REDUCTIONS["per_sequence"])
    assert (objective.policy_loss, objective.clip, objective.ceiling) == (POLICY_LOSSES["ppo_clip"], (0.2, 0.2), None)
    assert (a.needs_reference, a.needs_critic, a.needs_old_logprobs) == (True, False, False)


def test_trl_preset_has_no_kl_and_a_token_level_loss():
    a = ALGORITHMS["grpo_trl"]
    assert (a.kl, a.reduce, a.needs_reference) == (None, "per_token", False)
    assert replace(a, name="grpo", kl=ALGORITHMS["grpo"].kl, reduce="per_sequence") == ALGORITHMS["grpo"]


def test_rloo_reinforce_and_ppo():
    rloo, reinforce, ppo = (ALGORITHMS[n] for n in ("rloo", "reinforce", "ppo"))
    assert (rloo.credit.estimator, rloo.objective, rloo.kl) == ("leave_one_out", "policy_gradient", KL("reward", "k1", 0.05))
    assert rloo.policy_objective().policy_loss is POLICY_LOSSES["policy_gradient"]
    assert rloo.policy_objective().kl is None  # it is in the reward
    assert reinforce == replace(rloo, name="reinforce", credit=replace(rloo.credit, estimator="batch_baseline"))
    assert (ppo.credit.estimator, ppo.credit.gamma, ppo.credit.lam, ppo.critic) == ("gae", 1.0, 0.95, Critic(0.2, 0.1))
    assert (ppo.needs_critic, ppo.needs_old_logprobs) == (True, True)
    assert (ppo.value_objective().clip, ppo.value_objective().coef) == (0.2, 0.1)


def test_relatives_of_grpo():
    grpo, gspo, token, cispo = (ALGORITHMS[n] for n in ("grpo", "gspo", "gspo_token", "cispo"))
    assert replace(gspo, name="gspo_token", objective="gspo_token") == token
    assert replace(gspo, name="gmpo", objective="gmpo", clip=(0.4, 0.4)) == ALGORITHMS["gmpo"]
    assert replace(grpo, name="sapo", objective="sapo", kl=None) == ALGORITHMS["sapo"]
    assert (token.clip, token.kl, token.policy_objective().token_local) == ((3e-4, 4e-4), None, False)
    assert (cispo.clip, cispo.reduce, cispo.kl, cispo.credit) == ((1.0, 4.0), "per_token", None, grpo.credit)
    assert cispo.policy_objective().clip == (1.0, 4.0)


def test_remax_and_ppo_with_a_penalty():
    remax, ppo, ppo_kl = (ALGORITHMS[n] for n in ("remax", "ppo", "ppo_kl"))
    assert replace(remax, name="rloo", credit=ALGORITHMS["rloo"].credit) == ALGORITHMS["rloo"]
    assert remax.needs_greedy
    assert not ALGORITHMS["rloo"].needs_greedy
    assert replace(ppo, name="ppo_kl", objective="surrogate", old_kl=OldKL(1.0, 0.01)) == ppo_kl
    assert ppo_kl.policy_objective().policy_loss is POLICY_LOSSES["surrogate"]
    assert (ppo_kl.policy_objective().old_kl_coef, ppo.policy_objective().old_kl_coef) == (1.0, 0.0)


def test_dapo_has_its_five_parts():
    dapo = ALGORITHMS["dapo"]
    assert (dapo.reduce, dapo.clip, dapo.kl, dapo.overlong, dapo.refill_rounds) == ("per_token", (0.2, 0.28), None, Overlong(0.2, 1.0), 10)
    plain = replace(dapo, name="grpo_trl", clip=(0.2, 0.2), overlong=None, refill_rounds=0)
    assert plain == ALGORITHMS["grpo_trl"]
    off = resolve(config("dapo", clip={"high": 0.2}, credit={"overlong": {"factor": 0.0}, "refill_rounds": 0}))
    assert replace(off, name="grpo_trl") == ALGORITHMS["grpo_trl"]
    on = resolve(config("grpo", credit={"overlong": {"factor": 0.5, "buffer": 0.1}, "refill_rounds": 3}))
    assert (on.overlong, on.refill_rounds) == (Overlong(0.1, 0.5), 3)


def test_limits_on_a_step():
    a = resolve(config("ppo", clip={"dual": 3.0, "kl_stop": 0.02, "kl_coef": 0.5, "kl_target": 0.03}))
    assert (a.dual_clip, a.old_kl) == (3.0, OldKL(0.5, 0.03, 0.02))
    objective = a.policy_objective()
    assert (objective.policy_loss.name, objective.ceiling, objective.clip) == ("ppo_clip", 3.0, (0.2, 0.2))
    assert resolve(config("ppo_kl", clip={"kl_coef": 0.0, "kl_stop": 0.1})).old_kl == OldKL(0.0, None, 0.1)


def test_controls_of_the_kl():
    assert resolve(config("ppo", kl={"control": {"kind": "fixed"}})).kl == KL("reward", "k1", 0.05)
    proportional = resolve(config("ppo", kl={"coef": 0.001, "control": {"kind": "proportional"}})).kl
    assert proportional == KL("reward", "k1", 0.001, Control("proportional", 0.1, "token", 10_000.0, low=1e-4))
    multiplicative = resolve(config("grpo", kl={"control": {"kind": "multiplicative", "target": 6.0, "unit": "sequence", "high": 5.0}})).kl
    assert multiplicative.control == Control("multiplicative", 6.0, "sequence", low=1e-3, high=5.0)
    assert resolve(config("grpo", kl={"control": {"kind": "scheduled", "end": 0.01}})).kl.control.end == 0.01


def test_what_follows_the_run_is_a_part_of_any_row():
    a = resolve(config("rloo", entropy={"coef": 0.01, "target": 0.5}, credit={"rewards": {"normalise": "running", "clip": 5.0}}))
    assert a.entropy == Entropy(0.01, 0.5, 0.005, 0.1)
    assert a.rewards == RewardRule("running", clip=5.0)
    assert resolve(config("grpo", kl={"reference": {"kind": "ema"}})).kl == replace(
        ALGORITHMS["grpo"].kl, reference=ReferenceRule("ema", decay=0.99)
    )
    assert resolve(config("grpo", kl={"reference": {"kind": "refresh", "every": 7}})).kl.reference == ReferenceRule("refresh", every=7)
    assert resolve(config("grpo", kl={"reference": {"kind": "fixed"}})) == ALGORITHMS["grpo"]


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("grpo_trl", {"kl": {"grounded": 2.0}}, "kl.grounded would have no effect: there is no KL"),
        ("ppo", {"credit": {"gamma_slope": 0.5}}, "credit.gamma_slope would have no effect: there is no gamma below 1"),
        ("grpo", {"credit": {"gamma_slope": 0.5}}, "credit.gamma_slope would have no effect"),
        ("grpo", {"kl": {"control": {"target_slope": 0.5}}}, "kl.control.target_slope would have no effect: kl.control.kind is fixed"),
        ("grpo", {"entropy": {"step": 0.1}}, "entropy.step would have no effect: there is no target"),
        ("grpo", {"entropy": {"coef": 0.5, "target": 1.0}}, "coef=0.5 is above high=0.1"),
        ("grpo", {"credit": {"rewards": {"normalise": "running"}}}, "group_normalised takes mean and scale out of every group"),
        ("rloo", {"credit": {"rewards": {"normalise": "running", "decay": 0.9}}}, "rewards.decay would have no effect: normalise is not"),
        ("dapo", {"kl": {"reference": {"kind": "ema"}}}, "kl.reference.kind would have no effect: there is no KL"),
        ("grpo", {"kl": {"reference": {"decay": 0.9}}}, "kl.reference.decay would have no effect: kl.reference.kind is fixed"),
        ("grpo", {"kl": {"reference": {"kind": "ema", "every": 3}}}, "kl.reference.every would have no effect: kl.reference.kind is ema"),
    ],
)
def test_what_nothing_would_follow_is_refused(name, fields, reason):
    with pytest.raises(ValidationError, match=re.escape(reason)):
        config(name, **fields)


def test_a_correction_is_a_part_of_any_row():
    a = resolve(config("gspo_token", correction={"kind": "mask", "level": "sequence"}))
    assert a.policy_objective().correction == a.correction == Correction("mask", "sequence", 3.0)
    assert not resolve(config("grpo", correction={"kind": "truncate", "level": "sequence"})).policy_objective().token_local
    assert resolve(config("grpo", correction={"kind": "truncate", "cap": 2.0})).policy_objective().token_local
    assert resolve(config("grpo", correction={"kind": "none"})).correction is None
    with pytest.raises(ValidationError, match=r"correction\.cap would have no effect: there is none"):
        config("grpo", correction={"cap": 2.0})


# -------------------------------------------------------------------------------------------------------------------- overrides


def test_every_field_overrides_its_part():
    a = resolve(
        config(
            "ppo",
            reduce="per_sequence",
            entropy={"coef": 0.01},
            epochs=2,
            minibatches=3,
            clip={"high": 0.28},
            credit={"gamma": 0.9, "lam": 0.5, "whiten": False, "mask_truncated": True},
            kl={"coef": 0.2},
            critic={"clip": 0.5, "vf_coef": 0.7},
        )
    )
    assert (a.reduce, a.entropy.coef, a.epochs, a.minibatches, a.clip) == ("per_sequence", 0.01, 2, 3, (0.2, 0.28))
    assert (a.credit.gamma, a.credit.lam, a.credit.whiten, a.credit.mask_truncated) == (0.9, 0.5, False, True)
    assert (a.kl, a.critic) == (KL("reward", "k1", 0.2), Critic(0.5, 0.7))
    assert a.policy_objective().entropy_coef == 0.01


def test_the_kl_can_move_and_takes_its_place_s_estimator():
    assert resolve(config("grpo", kl={"place": "reward"})).kl == KL("reward", "k1", 0.04)
    assert resolve(config("rloo", kl={"place": "loss"})).kl == KL("loss", "k2", 0.05)
    assert resolve(config("grpo", kl={"estimator": "k2"})).kl == KL("loss", "k2", 0.04)
    assert resolve(config("grpo_trl", kl={"place": "loss", "coef": 0.1})).kl == KL("loss", "k2", 0.1)
    for off in ({"place": "none"}, {"coef": 0.0}):
        assert resolve(config("grpo", kl=off)).kl is None


def test_a_group_method_gets_a_critic_by_name():
    a = resolve(config("grpo", credit={"estimator": "gae", "lam": 0.9}, critic={"use": True}))
    assert (a.needs_critic, a.credit.lam) == (True, 0.9)


# --------------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("grpo", {"credit": {"estimator": "gae"}}, "gae estimates advantages with a critic and there is none"),
        ("ppo", {"critic": {"use": False}}, "gae estimates advantages with a critic and there is none"),
        ("grpo", {"critic": {"use": True}}, "a critic would be trained and never asked"),
        ("grpo", {"kl": {"estimator": "k1"}}, "k1 in the loss has an expected gradient of zero"),
        ("ppo", {"kl": {"estimator": "k3"}}, "k3 in the reward does not give the KL's gradient"),
        ("grpo_trl", {"kl": {"place": "loss"}}, "kl.place=loss has no price"),
        ("gspo", {"reduce": "per_token"}, "gspo makes one loss a sequence, which per_token would count by its tokens"),
        ("distill", {"kl": {"coef": 0.0}}, "learns from the distance to its teacher"),
        ("distill", {"kl": {"reference": {"kind": "ema"}}}, "a teacher stays as it is"),
        ("distill", {"kl": {"estimator": "jsd"}}, "jsd in the reward does not give the KL's gradient"),
        ("gkd", {"kl": {"coef": 0.0}}, "learns from the distance to its teacher"),
        ("gkd", {"kl": {"reference": {"kind": "ema"}}}, "a teacher stays as it is"),
        ("gkd", {"kl": {"estimator": "reverse_kl", "beta": 0.1}}, "kl.beta would have no effect: kl.estimator is not jsd"),
        ("gkd", {"kl": {"beta": 1.0}}, "less than 1"),
        ("gkd", {"kl": {"beta": 0.0}}, "greater than 0"),
        ("grpo_trl", {"kl": {"beta": 0.1}}, "kl.beta would have no effect"),
        ("gmpo", {"reduce": "sequence_sum"}, "gmpo makes one loss a sequence, which sequence_sum would count"),
        ("sapo", {"clip": {"high": 0.3}}, "clip.high would have no effect: sapo does not clip"),
        ("sapo", {"clip": {"dual": 3.0}}, "clip.dual would have no effect: sapo is not blown up"),
        ("rloo", {"epochs": 2}, "no correction for a policy that has moved on"),
        ("rloo", {"clip": {"low": 0.1}}, "clip.low would have no effect: policy_gradient does not clip"),
        ("grpo", {"credit": {"gamma": 0.9}}, "credit.gamma would have no effect"),
        ("reinforce_pp", {"credit": {"lam": 0.9}}, "credit.lam would have no effect"),
        ("grpo", {"critic": {"vf_coef": 0.5}}, "critic.vf_coef would have no effect: there is no critic"),
        ("grpo_trl", {"kl": {"coef": 0.1}}, "kl.coef would have no effect: there is no KL"),
        ("grpo_trl", {"kl": {"estimator": "k2"}}, "kl.estimator would have no effect: there is no KL"),
        ("grpo", {"credit": {"overlong": {"buffer": 0.1}}}, "overlong.buffer would have no effect: there is no penalty"),
        ("ppo", {"credit": {"refill_rounds": 2}}, "gae learns from them too"),
        ("reinforce", {"credit": {"refill_rounds": 2}}, "batch_baseline learns from them too"),
        ("ppo_kl", {"clip": {"low": 0.1}}, "clip.low would have no effect: surrogate does not clip"),
        ("cispo", {"clip": {"dual": 3.0}}, "clip.dual would have no effect: cispo is not blown up"),
        ("ppo", {"clip": {"dual": 1.2}}, "clip.dual=1.2 lies inside the band"),
        ("ppo", {"clip": {"dual": 1.0}}, "greater than 1"),
        ("grpo", {"clip": {"kl_stop": 0.1}}, "the only update of a step starts at the policy that sampled"),
        ("ppo_kl", {"epochs": 1}, "the only update of a step starts at the policy that sampled"),
        ("ppo", {"clip": {"kl_target": 0.1}}, "clip.kl_target has no coefficient to steer"),
        ("ppo_kl", {"clip": {"kl_coef": 0.0}}, "nothing would keep a step's updates together"),
        ("grpo_trl", {"kl": {"control": {"kind": "proportional"}}}, "kl.control.kind would have no effect: there is no KL"),
        ("grpo", {"kl": {"control": {"target": 0.1}}}, "kl.control.target would have no effect: kl.control.kind is fixed"),
        ("grpo", {"kl": {"control": {"kind": "scheduled", "unit": "token"}}}, "unit would have no effect: kl.control.kind is scheduled"),
        ("grpo", {"kl": {"control": {"kind": "multiplicative", "horizon": 10}}}, "horizon would have no effect"),
        ("grpo", {"kl": {"control": {"kind": "proportional", "high": 10}}}, "high would have no effect"),
        ("grpo", {"kl": {"control": {"kind": "proportional", "end": 10}}}, "end would have no effect"),
        ("grpo", {"kl": {"control": {"kind": "multiplicative", "low": 3.0, "high": 2.0}}}, "low=3 is above high=2"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_reason(name, fields, reason):
    with pytest.raises(ValidationError, match=reason):
        config(name, **fields)


@pytest.mark.parametrize("name", [n for n, a in ALGORITHMS.items() if getattr(ESTIMATORS[a.credit.estimator], "min_samples", 1) > 1])
def test_one_sample_cannot_be_compared(name):
    with pytest.raises(ConfigError, match=r"compares the answers to one prompt and gets 1 \(samples=2"):
        resolve(config(name), samples=1)
    assert resolve(config(name), samples=2) == ALGORITHMS[name]


@pytest.mark.parametrize("name", ["ppo", "ppo_kl", "reinforce", "reinforce_pp", "remax"])
def test_one_sample_is_enough_for_the_others(name):
    assert resolve(config(name), samples=1) == ALGORITHMS[name]


@pytest.mark.parametrize("row", POLICY_LOSSES.values(), ids=lambda row: row.name)
def test_what_is_refused_follows_from_the_row(row):
    """Of every loss of the table, and of one that is put in it: its flags, and no list of names, decide."""
    base = {"objective": row.name, "reduce": "per_sequence"}
    tries = {
        "does not clip": ({"clip": {"low": 0.1}}, row.clips),
        "is not blown up": ({"clip": {"dual": 30.0}}, row.explodes),
        "moved on since it sampled": ({"epochs": 2, "clip": {"kl_stop": 0.1}}, row.ratio),
        "nothing would keep a step's updates together": ({"minibatches": 2}, row.clips or not row.explodes),
        "which per_token would count by its tokens": ({"reduce": "per_token"}, not row.by_sequence),
    }
    for reason, (fields, allowed) in tries.items():
        if allowed:
            assert config("grpo", **{**base, **fields}).objective == row.name
        else:
            with pytest.raises(ValidationError, match=reason):
                config("grpo", **{**base, **fields})


@pytest.mark.parametrize(
    ("ratio", "now"), [("token", {}), ("sequence", {"objective": "gspo"}), ("sequence_token", {"objective": "gspo_token"})]
)
def test_a_recipe_that_sets_the_ratio_is_told_what_to_set(ratio, now):
    hint = f"set algorithm.objective={now['objective']}" if now else "leave it out"
    with pytest.raises(ValidationError) as caught:
        config("grpo", ratio=ratio)
    (error,) = caught.value.errors()
    assert error["ctx"]["error"].hint == hint
    assert config("grpo", **now).objective == now.get("objective")


def test_all_problems_come_at_once():
    with pytest.raises(ValidationError) as caught:
        config("grpo", credit={"estimator": "gae"}, kl={"estimator": "k1"})
    assert "with a critic" in str(caught.value)
    assert "expected gradient of zero" in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{"name": "grop"}, {"objective": "ppo"}, {"reduce": "mean"}, {"credit": {"estimator": "gea"}}, {"epochs": 0}, {"clp": {}}]
)
def test_unknown_names_and_bad_numbers_are_refused(fields):
    with pytest.raises(ValidationError):
        AlgorithmConfig(**fields)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValidationError, match="'grop' is none of: grpo, grpo_trl"):
        config("grop")


# ----------------------------------------------------------------------------------------------------------------------- credit


def group(rewards: list[float], lengths: list[int]) -> Group:
    def rollout(n: int) -> Rollout:
        zeros = torch.zeros(n, dtype=torch.int64)
        return Rollout("p", 0, 0, zeros, torch.ones(n, dtype=torch.bool), torch.full((n,), -1.0), zeros, "stop")

    valid = torch.ones(len(rewards), dtype=torch.bool)
    return Group(Prompt("p", text="?"), Encoded(torch.tensor([1])), tuple(map(rollout, lengths)), torch.tensor(rewards), {}, valid)


def with_signal(units: tuple[Unit, ...], name: str, value: float) -> tuple[Unit, ...]:
    return tuple(
        replace(u, branches=tuple(replace(b, signals={**b.signals, name: torch.full((len(b),), value)}) for b in u.branches)) for u in units
    )


def test_kl_in_the_reward_is_priced_and_in_the_loss_is_not():
    groups = [group([1.0, 1.0], [1, 3])]
    units = with_signal(rollout_units(groups), "ref_logprobs", -2.0)  # 1 and 3 nats
    rloo = credit(groups, units, ALGORITHMS["rloo"])
    first, second = rloo.units[0].branches
    assert first.signals["advantages"].tolist() == pytest.approx([0.1])
    assert second.signals["advantages"].tolist() == pytest.approx([-0.1] * 3)
    assert rloo.metrics == pytest.approx(
        {
            "objective/kl": 2.0,
            "objective/kl_per_token": 1.0,
            "objective/scores": 1.0,
            "objective/non_score_reward": -0.1,
            "objective/rlhf_reward": 0.9,
        }
    )
    grpo = credit(groups, units, ALGORITHMS["grpo"])
    assert all(b.signals["advantages"].eq(0).all() for b in grpo.units[0].branches)
    assert grpo.metrics["objective/kl"] == pytest.approx(2.0)
    assert grpo.metrics["objective/non_score_reward"] == 0.0


def test_a_teacher_is_near_or_far_at_each_token_by_itself():
    """Sampled at -1, 0.5 nats above and 2 below the teacher: advantages -0.5 and 2, whatever comes later; the reward is none."""
    groups = [group([0.0], [3])]
    (unit,) = rollout_units(groups)
    unit = replace(
        unit, branches=tuple(replace(b, signals={**b.signals, "ref_logprobs": torch.tensor([-1.5, 1.0, -1.0])}) for b in unit.branches)
    )
    (found,) = credit(groups, (unit,), ALGORITHMS["distill"]).units
    assert found.branches[0].signals["advantages"].tolist() == [-0.5, 2.0, 0.0]
    assert credit(groups, (unit,), ALGORITHMS["distill"]).metrics["objective/kl_per_token"] == pytest.approx(-0.5)
    whole = resolve(config("distill", credit={"gamma": 1.0}))
    (found,) = credit(groups, (unit,), whole).units
    assert found.branches[0].signals["advantages"].tolist() == [1.5, 2.0, 0.0]


def test_whole_distributions_are_compared_in_the_loss_and_need_no_signal():
    """A control that follows the KL of the sampled tokens still needs the reference's log-probabilities of them."""
    gkd = ALGORITHMS["gkd"]
    assert (gkd.kl, gkd.taught, gkd.needs_reference) == (KL("loss", "jsd", 1.0, beta=0.5), True, False)
    assert gkd.policy_objective().divergence == Divergence("jsd", 0.5)
    assert not gkd.policy_objective().token_local
    assert resolve(config("gkd", kl={"beta": 0.1})).policy_objective().divergence == Divergence("jsd", 0.1)
    grpo = resolve(config("grpo", kl={"estimator": "reverse_kl"}))
    objective = grpo.policy_objective()
    assert (objective.divergence, objective.kl, objective.kl_coef) == (Divergence("reverse_kl"), None, 0.04)
    for kind, needed in (("scheduled", False), ("proportional", True), ("multiplicative", True)):
        assert resolve(config("grpo", kl={"estimator": "forward_kl", "control": {"kind": kind}})).needs_reference is needed
    assert ALGORITHMS["grpo"].policy_objective().divergence is None


def test_ppo_credit_has_returns_and_says_what_the_critic_explains():
    groups = [group([1.0], [2]), group([3.0], [1])]
    units = with_signal(with_signal(rollout_units(groups), "ref_logprobs", -1.0), "values", 0.5)
    credited = credit(groups, units, ALGORITHMS["ppo"])
    assert credited.units[1].branches[0].signals["returns"].tolist() == [3.0]
    assert credited.metrics["critic/vf_explained_var"] == pytest.approx(0.0)  # a constant explains nothing
    advantages = torch.cat([b.signals["advantages"] for u in credited.units for b in u.branches])
    assert advantages.mean().item() == pytest.approx(0, abs=1e-6)  # whitened
    assert advantages.var(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_a_batch_in_which_everything_failed_gives_no_units():
    groups = [replace(group([1.0, 1.0], [1, 3]), valid_G=torch.zeros(2, dtype=torch.bool))]
    assert credit(groups, rollout_units(groups), ALGORITHMS["ppo"]) == ((), {})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_from_groups_to_a_gradient(name):
    groups = [group([0.0, 1.0], [2, 3]), group([2.0, 0.0], [1, 1])]
    groups = [replace(g, greedy_reward=1.0) for g in groups] if ALGORITHMS[name].needs_greedy else groups
    algorithm, units = ALGORITHMS[name], rollout_units(groups)
    for signal, needed in (("ref_logprobs", algorithm.needs_reference), ("values", algorithm.needs_critic)):
        units = with_signal(units, signal, -1.5) if needed else units
    credited = credit(groups, units, algorithm).units
    batch, objective = pack(credited), algorithm.policy_objective()
    logprobs = torch.full((batch.n_scored,), -1.0, requires_grad=True)
    outputs = Outputs(logprobs, torch.ones(batch.n_scored), divergence_S=torch.ones(batch.n_scored))
    objective.loss(batch, outputs, objective.counts(credited)).loss.backward()
    better = batch.signals["advantages"] > 0
    assert better.any()
    assert logprobs.grad[better].max() < 0  # what was better becomes likelier
    if algorithm.needs_critic:
        values = torch.zeros(batch.n_scored, requires_grad=True)
        value = algorithm.value_objective()
        assert value.loss(batch, Outputs(values_S=values), value.counts(credited)).loss.requires_grad


def test_settings_of_images_reach_their_parts():
    settings = {
        "kl": {"grounded": 2.0, "ungrounded": 0.5, "control": {"kind": "multiplicative", "target_slope": 1.5}},
        "credit": {"gamma": 0.9, "gamma_slope": 0.5},
    }
    found = resolve(AlgorithmConfig.model_validate({"name": "ppo", **settings}))
    assert found.kl is not None
    assert found.kl.control is not None
    assert (found.kl.kinds, found.kl.control.target_slope, found.credit.gamma_slope) == ((2.0, 0.5), 1.5, 0.5)
    assert found.needs_kinds
    assert found.policy_objective().kl_kinds == (1.0, 1.0), "ppo pays in the reward"
    in_loss = resolve(AlgorithmConfig.model_validate({"name": "grpo", "kl": {"grounded": 2.0}}))
    assert in_loss.policy_objective().kl_kinds == (2.0, 1.0)
    assert not resolve(AlgorithmConfig(name="grpo")).needs_kinds
