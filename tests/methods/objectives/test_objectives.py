"""Objectives on packed batches: hand-computed losses and metrics, and independence of how the batch is cut."""

from __future__ import annotations

import math

import pytest
import torch

from keel.core.errors import DataError
from keel.learner.inference import MetricSums
from keel.learner.packing import narrow, pack
from keel.methods.math.kl import k2, k3
from keel.methods.math.policy import POLICY_LOSSES
from keel.methods.math.preference import smoothed
from keel.methods.math.reduce import REDUCTIONS
from keel.methods.objectives.policy import PolicyObjective
from keel.methods.objectives.preference import PreferenceObjective
from keel.methods.objectives.reward import RewardObjective
from keel.methods.objectives.supervised import SupervisedObjective
from keel.methods.objectives.value import ValueObjective
from keel.types import Batch, Branch, Edge, Encoded, Outputs, PairTarget, Unit

SIGNALS = ("advantages", "old_logprobs", "ref_logprobs", "sampler_logprobs", "values", "returns")


def branch(*trained: int, **signals: float | list[float]) -> Branch:
    mask_T = torch.tensor(trained, dtype=torch.bool)
    n = len(mask_T)
    made = {k: torch.tensor(v) if isinstance(v, list) else torch.full((n,), v) for k, v in signals.items()}
    return Branch(torch.arange(n), mask_T, made)


def unit(*branches: Branch, target: PairTarget | None = None) -> Unit:
    return Unit("u", Encoded(torch.tensor([1, 2])), branches, target)


def ragged() -> list[Unit]:
    """Three units with random signals; the third has an untrained token and an untrained branch."""
    generator = torch.Generator().manual_seed(0)

    def random(*trained: int) -> Branch:
        draws = torch.randn(len(SIGNALS), len(trained), generator=generator)
        return Branch(torch.arange(len(trained)), torch.tensor(trained, dtype=torch.bool), dict(zip(SIGNALS, draws)))

    target = PairTarget((Edge(0, 1, label=0.8, margin=0.3, weight=2.0), Edge(1, 0, label=1.0, weight=0.5)))
    return [
        unit(random(1, 1, 1), random(1), target=target),
        unit(random(1, 1), random(1, 1, 1, 1), random(1, 1), target=PairTarget((Edge(2, 0),))),
        unit(random(1, 0, 1, 1), random(0, 0), target=target),
    ]


def outputs(batch: Batch, seed: int = 1) -> Outputs:
    """Random outputs that depend on the scored token's own signals, so that the same token gets the same in every batch."""
    key_S = batch.signals["returns"] * 7.1 + seed
    scores_R = torch.stack([b.signals["returns"].sum() for u in batch.units for b in u.branches])
    return Outputs(-key_S.sin().abs() - 0.1, key_S.cos().abs(), (3 * key_S).sin(), scores_R)


OBJECTIVES = {
    "sft": SupervisedObjective(),
    "sft per sequence": SupervisedObjective(REDUCTIONS["per_sequence"]),
    "reward": RewardObjective(centring=0.1),
    "dpo": PreferenceObjective(relabel=lambda label_E: smoothed(label_E, 0.1)),
    "policy gradient": PolicyObjective(POLICY_LOSSES["policy_gradient"], REDUCTIONS["sequence_sum"]),
    "ppo": PolicyObjective(entropy_coef=0.1),
    "grpo": PolicyObjective(POLICY_LOSSES["ppo_clip"], REDUCTIONS["per_sequence"], kl=k3, kl_coef=0.04),
    "per prompt": PolicyObjective(POLICY_LOSSES["ppo_clip"], REDUCTIONS["per_prompt"], kl=k2, kl_coef=0.1),
    "gspo": PolicyObjective(POLICY_LOSSES["gspo"], REDUCTIONS["per_sequence"]),
    "value": ValueObjective(),
}


def total(objective, batches: list[tuple[Batch, Outputs]], units: list[Unit]) -> tuple[float, dict]:
    counts = objective.counts(units)
    loss, sums = 0.0, MetricSums()
    for batch, out in batches:
        part = objective.loss(batch, out, counts)
        loss += part.loss.item()
        sums.add(part.metrics)
    return loss, sums.pairs


def assert_same(a: tuple[float, dict], b: tuple[float, dict]) -> None:
    assert a[0] == pytest.approx(b[0], abs=1e-6)
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        assert a[1][name] == pytest.approx(b[1][name], abs=1e-5), name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_batch_or_many(name):
    objective, units = OBJECTIVES[name], ragged()
    whole = total(objective, [(pack(units), outputs(pack(units)))], units)
    singles = [pack([u]) for u in units]
    assert_same(total(objective, [(b, outputs(b)) for b in singles], units), whole)
    assert objective.counts(units) == pytest.approx({k: sum(objective.counts([u])[k] for u in units) for k in objective.counts(units)})


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if not o.couples_branches])
def test_units_may_be_split_between_branches(name):
    objective, units = OBJECTIVES[name], ragged()
    split = [Unit("u", u.prompt, (b,), u.target) for u in units for b in u.branches if b.trained_T.any()]
    batches = [pack([u]) for u in split]
    assert_same(total(objective, [(b, outputs(b)) for b in batches], units), total(objective, [(pack(units), outputs(pack(units)))], units))


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if o.token_local])
def test_token_local_objectives_may_see_slices(name):
    objective, units = OBJECTIVES[name], ragged()
    batch = pack(units)
    slices = [narrow(batch, slice(i, i + 4)) for i in range(0, batch.n_scored, 4)]
    assert_same(total(objective, [(b, outputs(b)) for b in slices], units), total(objective, [(batch, outputs(batch))], units))


def test_flags_of_the_objectives():
    assert [n for n, o in OBJECTIVES.items() if o.couples_branches] == ["reward", "dpo", "per prompt"]
    assert [n for n, o in OBJECTIVES.items() if not o.token_local] == ["reward", "dpo", "gspo"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_to_train_on_is_an_error_and_not_a_nan(name):
    empty = [unit(branch(0, 0, **dict.fromkeys(SIGNALS, 0.0)), target=PairTarget(()))]
    batch = pack([*ragged(), *empty])
    with pytest.raises(AssertionError, match="to train on"):
        OBJECTIVES[name].loss(batch, outputs(batch), OBJECTIVES[name].counts(empty))


def metrics_of(output) -> dict[str, float]:
    return {name: s / c for name, (s, c) in output.metrics.items()}


def test_sft_by_hand():
    units = [unit(branch(1, 1, 1)), unit(branch(0, 1))]
    out = Outputs(logprobs_S=torch.tensor([-1.0, -2.0, -3.0, -8.0]))
    result = SupervisedObjective().loss(pack(units), out, SupervisedObjective().counts(units))
    assert result.loss.item() == pytest.approx(3.5)
    assert metrics_of(result) == pytest.approx({"nll": 3.5})
    by_sequence = SupervisedObjective(REDUCTIONS["per_sequence"])
    assert by_sequence.loss(pack(units), out, by_sequence.counts(units)).loss.item() == pytest.approx(5.0)


def test_reward_by_hand():
    pair = unit(branch(1), branch(1), target=PairTarget((Edge(1, 0, weight=3.0),)))
    tie = unit(branch(1), branch(1), target=PairTarget((Edge(0, 1, label=0.5),)))
    units, objective = [pair, tie], RewardObjective(centring=0.5)
    result = objective.loss(pack(units), Outputs(scores_R=torch.tensor([1.0, 3.0, 1.0, 1.0])), objective.counts(units))
    # weight 3: ln(1 + e^-2) + 0.5 * 16; weight 1: ln 2 + 0.5 * 4
    assert result.loss.item() == pytest.approx((3 * (math.log1p(math.exp(-2)) + 8) + math.log(2) + 2) / 4)
    assert metrics_of(result) == pytest.approx({"accuracy": 1.0, "margin": 1.0, "mean_reward": 1.5})
    assert result.metrics["accuracy"] == (1.0, 1.0)  # the tie is not judged


def test_margins_of_the_data_count_only_when_asked_for():
    pair = unit(branch(1), branch(1), target=PairTarget((Edge(0, 1, margin=3.0),)))
    for margin, expected in ((0.0, math.log1p(math.exp(-2))), (0.5, math.log1p(math.exp(-0.5)))):
        objective = RewardObjective(margin=margin)
        result = objective.loss(pack([pair]), Outputs(scores_R=torch.tensor([3.0, 1.0])), objective.counts([pair]))
        assert result.loss.item() == pytest.approx(expected)


def test_reward_accuracy_follows_the_label():
    edges = (Edge(0, 1, label=0.2), Edge(0, 1, label=0.9), Edge(2, 3))
    four = unit(*(branch(1) for _ in range(4)), target=PairTarget(edges))
    objective = RewardObjective()
    result = objective.loss(pack([four]), Outputs(scores_R=torch.tensor([2.0, 1.0, 0.0, 0.0])), objective.counts([four]))
    assert result.metrics["accuracy"] == (1.5, 3.0)  # wrong, right, and undecided


def test_dpo_by_hand():
    pair = unit(branch(1, 1, ref_logprobs=-2.0), branch(0, 1, ref_logprobs=-1.0), target=PairTarget((Edge(0, 1),)))
    objective = PreferenceObjective(beta=0.5)
    # chosen: -2 against -4; rejected: -3 against -1 (the untrained token is not counted)
    result = objective.loss(pack([pair]), Outputs(logprobs_S=torch.tensor([-0.5, -1.5, -3.0])), objective.counts([pair]))
    assert result.loss.item() == pytest.approx(math.log1p(math.exp(-2)))
    expected = {
        "rewards/chosen": 1.0,
        "rewards/rejected": -1.0,
        "rewards/margins": 2.0,
        "rewards/accuracies": 1.0,
        "logps/chosen": -2.0,
        "logps/rejected": -3.0,
    }
    assert metrics_of(result) == pytest.approx(expected)
    at_reference = objective.loss(pack([pair]), Outputs(logprobs_S=torch.tensor([-2.0, -2.0, -1.0])), objective.counts([pair]))
    assert at_reference.loss.item() == pytest.approx(math.log(2))


def test_preference_losses_refuse_units_without_pairs():
    lone = unit(branch(1, ref_logprobs=0.0))
    for objective in (RewardObjective(), PreferenceObjective()):
        with pytest.raises(DataError, match="'u' has no preference"):
            objective.counts([lone])


def policy_batch(**signals: list[float]) -> tuple[list[Unit], Batch]:
    units = [unit(branch(1, 1, **{k: v[:2] for k, v in signals.items()}), branch(1, **{k: v[2:] for k, v in signals.items()}))]
    return units, pack(units)


def test_policy_by_hand():
    units, batch = policy_batch(
        advantages=[2.0, -1.0, 1.0],
        old_logprobs=[-1.0, -1.0, -1.0],
        ref_logprobs=[-1.0, -1.0, -1.0 + math.log(2)],
        sampler_logprobs=[-1.0, -1.0, -1.0 - math.log(4)],
    )
    logprobs = torch.tensor([math.log(1.5) - 1, math.log(0.5) - 1, -1.0])
    out = Outputs(logprobs, entropy_S=torch.tensor([1.0, 2.0, 6.0]))
    objective = PolicyObjective(POLICY_LOSSES["ppo_clip"], REDUCTIONS["per_sequence"], (0.2, 0.3), kl=k2, kl_coef=0.1, entropy_coef=0.01)
    result = objective.loss(batch, out, objective.counts(units))
    l15, l2 = math.log(1.5) ** 2, math.log(2) ** 2
    policy = [-2.6, 0.8, -1.0]
    token = [policy[0] + 0.05 * l15 - 0.01, policy[1] + 0.05 * l2 - 0.02, policy[2] + 0.05 * l2 - 0.06]
    assert result.loss.item() == pytest.approx(((token[0] + token[1]) / 2 + token[2]) / 2)
    k = [1 / 1.5 - 1 + math.log(1.5), 2 - 1 - math.log(2), 2 - 1 - math.log(2)]
    expected = {
        "loss/policy_avg": ((policy[0] + policy[1]) / 2 + policy[2]) / 2,
        "entropy": 3.0,
        "clip_ratio/low_mean": 1 / 3,
        "clip_ratio/high_mean": 1 / 3,
        "clip_ratio/region_mean": 2 / 3,
        "policy/clipfrac_avg": 2 / 3,
        "policy/approxkl_avg": (l15 + l2) / 6,
        "policy/old_kl_avg": (0.5 - math.log(1.5) - 0.5 + math.log(2)) / 3,
        "val/ratio": 1.0,
        "policy/bounded_ratio": 0.0,
        "kl": sum(k) / 3,
        "kl/max": max(k),
        "sampling/importance_sampling_ratio/mean": 2.0,
        "sampling/importance_sampling_ratio/min": 1.0,
        "sampling/importance_sampling_ratio/max": 4.0,
        "sampling/sampling_logp_difference/mean": math.log(4) / 3,
        "sampling/sampling_logp_difference/max": math.log(4),
    }
    assert metrics_of(result) == pytest.approx(expected)


def test_without_old_logprobs_the_ratio_is_exactly_one():
    units, batch = policy_batch(advantages=[2.0, -1.0, 1.0])
    logprobs = torch.tensor([-0.3, -2.0, -1.0], requires_grad=True)
    for name in ("ppo_clip", "policy_gradient"):
        objective = PolicyObjective(POLICY_LOSSES[name])
        result = objective.loss(batch, Outputs(logprobs, torch.zeros(3)), objective.counts(units))
        (gradient,) = torch.autograd.grad(result.loss, logprobs)
        assert gradient.tolist() == pytest.approx([-2 / 3, 1 / 3, -1 / 3])
        assert result.metrics["val/ratio"] == (3.0, 3.0)
        assert result.metrics["policy/approxkl_avg"] == (0.0, 3.0)


def test_a_sequence_ratio_is_the_geometric_mean_and_moves_all_tokens():
    units, batch = policy_batch(advantages=[2.0, 2.0, -1.0], old_logprobs=[-1.0, -1.0, -1.0])
    logprobs = torch.tensor([-0.9, -1.3, -1.0], requires_grad=True)
    objective = PolicyObjective(POLICY_LOSSES["gspo"], REDUCTIONS["per_sequence"], (1.0, 1.0))
    result = objective.loss(batch, Outputs(logprobs, torch.zeros(3)), objective.counts(units))
    ratio = math.exp((0.1 - 0.3) / 2)
    assert result.loss.item() == pytest.approx((-2 * ratio + 1) / 2)
    result.loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-ratio / 2, -ratio / 2, 0.5])


def test_entropy_bonus_raises_entropy():
    units, batch = policy_batch(advantages=[0.0, 0.0, 0.0])
    entropy = torch.ones(3, requires_grad=True)
    objective = PolicyObjective(entropy_coef=0.3)
    objective.loss(batch, Outputs(torch.zeros(3), entropy), objective.counts(units)).loss.backward()
    assert entropy.grad.tolist() == pytest.approx([-0.1] * 3)


def test_value_by_hand():
    units, batch = policy_batch(values=[0.0, 0.0, 0.0], returns=[2.0, 0.0, 1.0])
    objective = ValueObjective(clip=0.2, coef=0.5)
    result = objective.loss(batch, Outputs(values_S=torch.tensor([1.0, 1.0, 0.1])), objective.counts(units))
    assert result.loss.item() == pytest.approx(0.5 * (1.62 + 0.5 + 0.405) / 3)
    assert metrics_of(result) == pytest.approx({"loss/value_avg": 2.525 / 3, "val/clipfrac_avg": 1 / 3, "critic/value_mean": 0.7})


def test_a_missing_signal_is_named():
    units, batch = policy_batch(old_logprobs=[0.0, 0.0, 0.0])
    with pytest.raises(KeyError, match="advantages"):
        PolicyObjective().loss(batch, Outputs(torch.zeros(3), torch.zeros(3)), PolicyObjective().counts(units))
