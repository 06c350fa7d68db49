"""The policy objective on two answers, every term and metric by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from keel.learner.packing import pack
from keel.methods.math.kl import k1, k2
from keel.methods.math.policy import POLICY_LOSSES, Correction
from keel.methods.objectives.policy import PolicyObjective
from keel.types import Branch, Divergence, Encoded, Outputs, Unit

LN2, FAR = math.log(2), 20.0
PPO, SURROGATE = POLICY_LOSSES["ppo_clip"], POLICY_LOSSES["surrogate"]


def measured(
    objective: PolicyObjective, logprobs: list[float], entropies: list[float], **signals: list[float]
) -> tuple[float, dict[str, Any]]:
    """Loss and metrics of one answer."""
    n = len(logprobs)
    branch = Branch(torch.arange(n), torch.ones(n, dtype=torch.bool), {name: torch.tensor(x).double() for name, x in signals.items()})
    units = [Unit("u", Encoded(torch.tensor([1])), (branch,))]
    outputs = Outputs(torch.tensor(logprobs).double(), torch.tensor(entropies).double())
    found = objective.loss(pack(units), outputs, objective.counts(units))
    return float(found.loss), {name: s / c for name, (s, c) in found.metrics.items()}


def test_every_term_joins_the_loss():
    """Ratios 2 and 1, advantages 1 and -3; r to the reference ln 2 and 2; entropies 0.5 and 1.5."""
    old, reference = [-1.0 - LN2, -2.0], [-1.0 - LN2, -4.0]
    given: dict[str, Any] = {"old_logprobs": old, "ref_logprobs": reference, "advantages": [1.0, -3.0]}
    policy = (-2.0 + 3.0) / 2
    call = ([-1.0, -2.0], [0.5, 1.5])
    assert measured(PolicyObjective(SURROGATE), *call, **given)[0] == pytest.approx(policy)
    assert measured(PolicyObjective(SURROGATE, entropy_coef=0.2), *call, **given)[0] == pytest.approx(policy - 0.2 * 1.0)
    assert measured(PolicyObjective(SURROGATE, kl=k1, kl_coef=0.3), *call, **given)[0] == pytest.approx(policy + 0.3 * (LN2 + 2) / 2)
    assert measured(PolicyObjective(SURROGATE, kl=k2), *call, **given)[0] == pytest.approx(policy)  # at no price
    assert measured(PolicyObjective(SURROGATE, old_kl_coef=0.4), *call, **given)[0] == pytest.approx(policy + 0.4 * (1 - LN2) / 2)


def test_whole_distributions_join_the_loss():
    """Without advantages the loss is the price times the mean divergence; the reference's log-probabilities come with the pass."""
    units = [
        Unit("u", Encoded(torch.tensor([1])), (Branch(torch.arange(2), torch.ones(2, dtype=torch.bool), {"advantages": torch.zeros(2)}),))
    ]
    objective = PolicyObjective(PPO, kl_coef=0.5, divergence=Divergence("jsd"))
    leaf = torch.tensor([0.25, 0.5], requires_grad=True)
    outputs = Outputs(torch.tensor([-1.0, -2.0]), torch.zeros(2), divergence_S=leaf, ref_logprobs_S=torch.tensor([-2.0, -2.0]))
    found = objective.loss(pack(units), outputs, objective.counts(units))
    found.loss.backward()
    metrics = {name: s / c for name, (s, c) in found.metrics.items()}
    assert found.loss.item() == pytest.approx(0.5 * 0.375)
    assert leaf.grad is not None
    assert leaf.grad.tolist() == pytest.approx([0.25, 0.25])
    assert metrics["objective/divergence"] == pytest.approx(0.375)
    with pytest.raises(AssertionError):  # a learner that did not give what was asked for
        objective.loss(pack(units), replace(outputs, divergence_S=None), objective.counts(units))
    assert (metrics["kl"], metrics["kl/max"]) == pytest.approx((math.exp(-1) / 2, math.exp(-1)))
    assert metrics["loss/policy_avg"] == 0.0


def test_every_metric_by_hand():
    """Log-ratios ln 2 (clipped above), -ln 2 (clipped below), 0 and 0; to the reference 1, 0, 0 and -1."""
    given: dict[str, Any] = {
        "old_logprobs": [-1.0 - LN2, -1.0 + LN2, -1.0, -1.0],
        "ref_logprobs": [-2.0, -1.0, -1.0, 0.0],
        "advantages": [1.0, -1.0, 1.0, 1.0],
    }
    _, found = measured(PolicyObjective(PPO), [-1.0] * 4, [0.0, 1.0, 2.0, 3.0], **given)
    k3_up, k3_down = math.exp(-1) + 1 - 1, math.e - 1 - 1
    assert found == pytest.approx(
        {
            "loss/policy_avg": (-1.2 + 0.8 - 1 - 1) / 4,
            "entropy": 1.5,
            "clip_ratio/low_mean": 0.25,
            "clip_ratio/high_mean": 0.25,
            "clip_ratio/region_mean": 0.5,
            "policy/clipfrac_avg": 0.5,
            "policy/approxkl_avg": 0.5 * 2 * LN2**2 / 4,
            "policy/old_kl_avg": ((2 - 1 - LN2) + (0.5 - 1 + LN2)) / 4,
            "val/ratio": (2 + 0.5 + 1 + 1) / 4,
            "kl": (k3_up + k3_down) / 4,
            "kl/max": k3_down,
            "policy/bounded_ratio": 0.0,
        }
    )


def test_tokens_beyond_the_bound_are_counted_once_and_cut():
    """To the old policy: beyond it upwards, on it, within; to the reference: beyond, within, beyond downwards."""
    given: dict[str, Any] = {"old_logprobs": [-1.0 - 2 * FAR, -1.0 - FAR, -1.0], "advantages": [0.0] * 3}
    _, alone = measured(PolicyObjective(SURROGATE), [-1.0] * 3, [0.0] * 3, **given)
    assert alone["policy/bounded_ratio"] == pytest.approx(1 / 3)
    assert alone["val/ratio"] == pytest.approx((2 * math.exp(FAR) + 1) / 3)
    _, both = measured(
        PolicyObjective(SURROGATE), [-1.0] * 3, [0.0] * 3, ref_logprobs=[-1.0 - 2 * FAR, -1.0 - FAR, -1.0 + 2 * FAR], **given
    )
    assert both["policy/bounded_ratio"] == pytest.approx(2 / 3)
    assert both["kl/max"] == pytest.approx(math.exp(FAR) - 1 - FAR, rel=1e-6)


def test_extremes_are_those_of_tokens():
    given: dict[str, Any] = {"sampler_logprobs": [-1.0 - LN2, -1.0 + LN2, -1.0], "advantages": [1.0, 1.0, 1.0]}
    for objective in (PolicyObjective(SURROGATE), PolicyObjective(SURROGATE, correction=Correction("truncate", "token", 9.0))):
        _, found = measured(objective, [-1.0] * 3, [0.0] * 3, **given)
        ratio = [found[f"sampling/importance_sampling_ratio/{x}"] for x in ("min", "mean", "max")]
        assert ratio == pytest.approx([0.5, 3.5 / 3, 2.0])
        assert found["sampling/sampling_logp_difference/max"] == pytest.approx(LN2)


@pytest.mark.parametrize("missing", [0, 1])
def test_both_outputs_are_asked_for(missing: int):
    branch = Branch(torch.arange(1), torch.ones(1, dtype=torch.bool), {"advantages": torch.ones(1)})
    units = [Unit("u", Encoded(torch.tensor([1])), (branch,))]
    values: list[Any] = [torch.zeros(1), torch.zeros(1)]
    values[missing] = None
    with pytest.raises(AssertionError):
        PolicyObjective(SURROGATE).loss(pack(units), Outputs(logprobs_S=values[0], entropy_S=values[1]), PolicyObjective().counts(units))


def test_the_price_of_the_kl_differs_by_kind_of_token():
    """r to the reference ln 2 and 2; the first token is grounded and costs twice as much, the second half."""
    given: dict[str, Any] = {"ref_logprobs": [-1.0 - LN2, -4.0], "advantages": [0.0, 0.0], "grounded": [1.0, 0.0]}
    call = ([-1.0, -2.0], [0.5, 1.5])
    assert measured(PolicyObjective(SURROGATE, kl=k1, kl_coef=0.3, kl_kinds=(2.0, 0.5)), *call, **given)[0] == pytest.approx(
        0.3 * (2 * LN2 + 0.5 * 2) / 2
    )
    plain = measured(PolicyObjective(SURROGATE, kl=k1, kl_coef=0.6), *call, **given)[0]
    assert measured(PolicyObjective(SURROGATE, kl=k1, kl_coef=0.3, kl_kinds=(2.0, 2.0)), *call, **given)[0] == pytest.approx(plain)
    with pytest.raises(KeyError, match="grounded"):
        measured(PolicyObjective(SURROGATE, kl=k1, kl_coef=0.3, kl_kinds=(2.0, 0.5)), *call, **{k: given[k] for k in given if k[0] != "g"})


def test_the_price_of_a_divergence_differs_too():
    branch = Branch(torch.arange(2), torch.ones(2, dtype=torch.bool), {"advantages": torch.zeros(2), "grounded": torch.tensor([1.0, 0.0])})
    units = [Unit("u", Encoded(torch.tensor([1])), (branch,))]
    objective = PolicyObjective(PPO, kl_coef=0.5, kl_kinds=(3.0, 1.0), divergence=Divergence("jsd"))
    outputs = Outputs(torch.tensor([-1.0, -2.0]), torch.zeros(2), divergence_S=torch.tensor([0.25, 0.5]), ref_logprobs_S=torch.zeros(2))
    assert float(objective.loss(pack(units), outputs, objective.counts(units)).loss) == pytest.approx(0.5 * (3 * 0.25 + 0.5) / 2)


def test_entropy_and_kl_by_kind_are_means_over_their_own_tokens():
    given: dict[str, Any] = {"ref_logprobs": [-1.0, -2.0 + LN2, -3.0], "advantages": [0.0] * 3, "grounded": [1.0, 0.0, 1.0]}
    _, metrics = measured(PolicyObjective(SURROGATE), [-1.0, -2.0, -4.0], [0.5, 1.5, 2.5], **given)
    assert metrics["policy/grounded_ratio"] == pytest.approx(2 / 3)
    assert (metrics["entropy/grounded"], metrics["entropy/ungrounded"]) == pytest.approx((1.5, 1.5))
    assert metrics["kl/grounded"] == pytest.approx((0.0 + (math.e - 2)) / 2)  # k3: e^-r - 1 + r with r 0 and -1
    assert metrics["kl/ungrounded"] == pytest.approx(2.0 - 1 - LN2)
    assert not any("grounded" in name for name in measured(PolicyObjective(SURROGATE), [-1.0], [0.5], advantages=[0.0])[1])
