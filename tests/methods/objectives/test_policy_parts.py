"""Parts of the policy objective that algorithms differ by: a sequence ratio with token gradients, the penalty to the old policy."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from keel.learner.inference import MetricSums
from keel.learner.packing import narrow, pack
from keel.methods.math.kl import k2
from keel.methods.math.policy import POLICY_LOSSES, Correction
from keel.methods.math.reduce import REDUCTIONS
from keel.methods.objectives.policy import PolicyObjective
from keel.types import Batch, Branch, Encoded, Outputs, Unit

SIGNALS = ("advantages", "old_logprobs", "sampler_logprobs", "key")
PPO, SURROGATE, GSPO, GSPO_TOKEN = (POLICY_LOSSES[name] for name in ("ppo_clip", "surrogate", "gspo", "gspo_token"))
PER_SEQUENCE = REDUCTIONS["per_sequence"]
OBJECTIVES = {
    **{name: PolicyObjective(row, PER_SEQUENCE, (0.3, 0.5)) for name, row in POLICY_LOSSES.items()},
    "dual": PolicyObjective(PPO, ceiling=1.5),
    "dual of sequences": PolicyObjective(GSPO, PER_SEQUENCE, ceiling=1.5),
    "ppo_kl": PolicyObjective(SURROGATE, old_kl_coef=0.7),
    "tis": PolicyObjective(PPO, correction=Correction("truncate", "token", 1.5)),
    "mis": PolicyObjective(PPO, PER_SEQUENCE, correction=Correction("mask", "sequence", 1.5)),
}


def ragged() -> list[Unit]:
    """Branches of different lengths with untrained tokens between, one of them untrained altogether."""
    generator = torch.Generator().manual_seed(0)

    def random(*trained: int) -> Branch:
        draws = torch.randn(len(SIGNALS), len(trained), generator=generator)
        return Branch(torch.arange(len(trained)), torch.tensor(trained, dtype=torch.bool), dict(zip(SIGNALS, draws)))

    prompt = Encoded(torch.tensor([1, 2]))
    branches = [(random(1, 1, 1), random(1)), (random(1, 0, 1, 1), random(1, 1), random(0, 0))]
    return [Unit("u", prompt, b) for b in branches]


def of(batch: Batch) -> torch.Tensor:
    """Log-probabilities that hang on the token alone, however it is packed."""
    return -(7.1 * batch.signals["key"]).sin().abs() - 0.1


def gradient(objective: PolicyObjective, batches: list[Batch], units: list[Unit]) -> tuple[float, list[float]]:
    counts, total, grads = objective.counts(units), 0.0, []
    for batch in batches:
        logprobs = of(batch).requires_grad_()
        loss = objective.loss(batch, Outputs(logprobs, torch.zeros(batch.n_scored)), counts).loss
        (grad,) = torch.autograd.grad(loss, logprobs)
        total, grads = total + loss.item(), grads + grad.tolist()
    return total, grads


@pytest.mark.parametrize("name", OBJECTIVES)
def test_cuts_change_neither_loss_nor_gradient(name):
    objective, units = OBJECTIVES[name], ragged()
    total, grads = gradient(objective, [pack(units)], units)
    assert any(grads)
    singles = [pack([Unit("u", u.prompt, (b,))]) for u in units for b in u.branches if b.trained_T.any()]
    cuts = [[pack([u]) for u in units], singles]
    if objective.token_local:
        whole = pack(units)
        cuts.append([narrow(whole, slice(i, i + 3)) for i in range(0, whole.n_scored, 3)])
    for cut in cuts:
        other_total, other_grads = gradient(objective, cut, units)
        assert other_total == pytest.approx(total, abs=1e-6)
        assert other_grads == pytest.approx(grads, abs=1e-6)


def unit_of(advantages: list[float], old: list[float]) -> list[Unit]:
    """A branch of two tokens and one of one."""
    signals = {"advantages": torch.tensor(advantages), "old_logprobs": torch.tensor(old)}
    parts = [{k: v[i:j] for k, v in signals.items()} for i, j in ((0, 2), (2, 3))]
    branches = tuple(Branch(torch.arange(len(p["advantages"])), torch.ones(len(p["advantages"]), dtype=torch.bool), p) for p in parts)
    return [Unit("u", Encoded(torch.tensor([1])), branches)]


def loss_and_gradient(objective: PolicyObjective, units: list[Unit], logprobs: list[float]) -> tuple[float, list[float], dict]:
    leaf = torch.tensor(logprobs, requires_grad=True)
    result = objective.loss(pack(units), Outputs(leaf, torch.zeros(len(logprobs))), objective.counts(units))
    (grad,) = torch.autograd.grad(result.loss, leaf)
    return result.loss.item(), grad.tolist(), {name: s / c for name, (s, c) in result.metrics.items()}


def test_gspo_token_has_gspo_s_value_and_the_token_s_own_gradient():
    sequence, token = (PolicyObjective(row, PER_SEQUENCE, (1.0, 1.0)) for row in (GSPO, GSPO_TOKEN))
    logprobs, old = [-0.9, -1.3, -1.0], [-1.0, -1.0, -1.0]
    s = math.exp((0.1 - 0.3) / 2)
    # one advantage a sequence: the two are the same, value and gradient
    same = unit_of([2.0, 2.0, -1.0], old)
    a, b = (loss_and_gradient(o, same, logprobs) for o in (sequence, token))
    assert a[0] == pytest.approx(b[0]) == pytest.approx((-2 * s + 1) / 2)
    assert a[1] == pytest.approx(b[1])
    # advantages of tokens: each goes to its own token, where GSPO spreads their mean
    loss, grad, _ = loss_and_gradient(token, unit_of([2.0, -4.0, -1.0], old), logprobs)
    assert loss == pytest.approx((s + 1) / 2)
    assert grad == pytest.approx([-2 * s / 4, 4 * s / 4, 0.5])
    assert loss_and_gradient(sequence, unit_of([2.0, -4.0, -1.0], old), logprobs)[1] == pytest.approx([s / 4, s / 4, 0.5])


def test_gspo_token_is_clipped_by_its_sequence():
    objective = PolicyObjective(GSPO_TOKEN, PER_SEQUENCE, (0.1, 0.1))
    _, grad, metrics = loss_and_gradient(objective, unit_of([1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]), [-1.0, -0.5, -1.0])
    assert grad == pytest.approx([0.0, 0.0, -0.5])  # the first token's own ratio is 1, its sequence's is e^0.25
    assert metrics["clip_ratio/high_mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", [name for name, row in POLICY_LOSSES.items() if row.ratio and row.clips])
def test_the_first_update_has_a_ratio_of_exactly_one(name):
    """The clip of GSPO is 3e-4 wide: rounding must not reach it."""
    units = ragged()
    units = [
        Unit(
            "u",
            u.prompt,
            tuple(Branch(b.tokens_T, b.trained_T, {k: v for k, v in b.signals.items() if k != "old_logprobs"}) for b in u.branches),
        )
        for u in units
    ]
    objective = PolicyObjective(POLICY_LOSSES[name], PER_SEQUENCE, (0.0, 0.0))
    batch = pack(units)
    result = objective.loss(batch, Outputs(1e3 * of(batch), torch.zeros(batch.n_scored)), objective.counts(units))
    assert result.metrics["clip_ratio/region_mean"][0] == 0.0


def test_the_penalty_to_the_old_policy_by_hand():
    """Steps of ln 2, -ln 2 and 0: k3 of KL(old || new) is 1 - ln 2, -1/2 + ln 2 and 0; its gradient is ratio - 1."""
    units, ln2 = unit_of([0.0, 0.0, 0.0], [-2.0, -1.0, -1.0]), math.log(2)
    loss, grad, metrics = loss_and_gradient(PolicyObjective(SURROGATE, old_kl_coef=3.0), units, [ln2 - 2, -ln2 - 1, -1.0])
    assert metrics["policy/old_kl_avg"] == pytest.approx(0.5 / 3)
    assert loss == pytest.approx(3 * 0.5 / 3)
    assert grad == pytest.approx([1.0, -0.5, 0.0])


@pytest.mark.parametrize("recorded", [True, False])
def test_importance_weights_scale_the_policy_s_part_alone(recorded):
    """Weights 2 and 4, cut to 3, and 1/2; the penalty to the reference (r = 1: k2 is 1/2) is not weighed. Whether the old policy was
    recorded or is this very pass makes no difference to the first update."""
    ln2 = math.log(2)
    units = unit_of([1.0, 1.0, -2.0], [-1.0, -1.0, -1.0])
    sampler = torch.tensor([-1.0 - ln2, -1.0 - 2 * ln2, -1.0 + ln2])
    extra = [{"sampler_logprobs": sampler[i:j], "ref_logprobs": torch.full((j - i,), -2.0)} for i, j in ((0, 2), (2, 3))]
    kept = ("advantages", "old_logprobs") if recorded else ("advantages",)
    branches = [
        Branch(b.tokens_T, b.trained_T, {name: b.signals[name] for name in kept} | x) for b, x in zip(units[0].branches, extra, strict=True)
    ]
    units = [Unit("u", units[0].prompt, tuple(branches))]
    objective = PolicyObjective(SURROGATE, kl=k2, kl_coef=0.1, correction=Correction("truncate", "token", 3.0))
    loss, grad, metrics = loss_and_gradient(objective, units, [-1.0, -1.0, -1.0])
    assert loss == pytest.approx((-2.0 - 3.0 + 1.0) / 3 + 0.1 * 0.5)
    assert grad == pytest.approx([(-2.0 + 0.1) / 3, (-3.0 + 0.1) / 3, (1.0 + 0.1) / 3])
    name = "sampling/importance_sampling_ratio"
    assert [metrics[f"{name}/{x}"] for x in ("mean", "min", "max")] == pytest.approx([5.5 / 3, 0.5, 3.0])
    difference = "sampling/sampling_logp_difference"
    assert [metrics[f"{difference}/{x}"] for x in ("mean", "max")] == pytest.approx([4 * ln2 / 3, 2 * ln2])
    assert metrics["sampling/capped_ratio"] == pytest.approx(1 / 3)
    masked, grad, metrics = loss_and_gradient(replace(objective, correction=Correction("mask", "sequence", 3.0)), units, [-1.0] * 3)
    assert masked == pytest.approx(1.0 / 3 + 0.1 * 0.5)  # the first sequence's ratio is 8
    assert grad == pytest.approx([0.1 / 3, 0.1 / 3, 1.1 / 3])
    assert (metrics[f"{name}/min"], metrics["sampling/capped_ratio"]) == (0.0, pytest.approx(2 / 3))


def test_without_a_correction_the_ratio_is_only_measured():
    units, ln2 = unit_of([1.0, 1.0, 1.0], [-1.0] * 3), math.log(2)
    branches = tuple(replace(b, signals={**b.signals, "sampler_logprobs": b.signals["old_logprobs"] - ln2}) for b in units[0].branches)
    plain = loss_and_gradient(PolicyObjective(SURROGATE), units, [-1.0] * 3)
    measured = loss_and_gradient(PolicyObjective(SURROGATE), [replace(units[0], branches=branches)], [-1.0] * 3)
    assert plain[:2] == measured[:2]
    assert measured[2]["sampling/importance_sampling_ratio/mean"] == pytest.approx(2.0)
    with pytest.raises(AssertionError, match="sampler's log-probabilities"):
        loss_and_gradient(PolicyObjective(SURROGATE, correction=Correction("mask")), units, [-1.0] * 3)


def test_extremes_are_of_the_whole_batch_however_it_is_cut():
    units, objective = ragged(), OBJECTIVES["tis"]
    counts, found = objective.counts(units), []
    for parts in ([pack(units)], [pack([u]) for u in units], [narrow(pack(units), slice(i, i + 2)) for i in range(0, 10, 2)]):
        sums = MetricSums()
        for batch in parts:
            sums.add(objective.loss(batch, Outputs(of(batch), torch.zeros(batch.n_scored)), counts).metrics)
        metrics = sums.report().metrics
        found.append([metrics[f"sampling/importance_sampling_ratio/{x}"] for x in ("min", "mean", "max")])
        assert found[-1][0] < found[-1][1] < found[-1][2] == 1.5
    assert found[1:] == [pytest.approx(found[0])] * 2
