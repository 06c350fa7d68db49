"""What must hold between the losses, whatever the numbers: identities, gradients and finite differences, all in float64."""

from __future__ import annotations

import math

import pytest
import torch

from keel.losses import kl, policy, preference, reduce, reward, sft, value
from keel.types import Branch, Encoded, Unit


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


def test_ratio_one_has_the_gradient_of_reinforce():
    logprobs, advantages = draw(20), draw(20, seed=1)
    a, b = leaf(logprobs), leaf(logprobs)
    policy.ppo_clip(a, logprobs, advantages, 0.2, 0.2).loss_S.sum().backward()
    policy.policy_gradient(b, logprobs, advantages).loss_S.sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)


def test_clip_higher_with_equal_sides_is_ppo_and_a_wide_band_is_the_plain_ratio():
    new, old, advantages = draw(200), draw(200, seed=1), draw(200, seed=2)
    ratio = (new - old).exp()
    symmetric = torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 0.8, 1.2))  # as PPO implementations write it
    torch.testing.assert_close(policy.ppo_clip(new, old, advantages, 0.2, 0.2).loss_S, symmetric)
    torch.testing.assert_close(policy.ppo_clip(new, old, advantages, 1.0, math.inf).loss_S, -ratio * advantages)


def test_the_gradient_stops_exactly_where_the_clip_is_reported():
    new, old, advantages = leaf(draw(200)), draw(200, seed=1), draw(200, seed=2)
    terms = policy.ppo_clip(new, old, advantages, 0.2, 0.28)
    (grad,) = torch.autograd.grad(terms.loss_S.sum(), new)
    held = terms.low_S | terms.high_S
    assert held.any()
    assert (~held).any()
    assert torch.equal(grad == 0, held)


def test_cispo_s_gradient_is_its_clipped_weight_and_never_stops():
    new, old, advantages = leaf(draw(200)), draw(200, seed=1), draw(200, seed=2)
    (grad,) = torch.autograd.grad(policy.cispo(new, old, advantages, 0.2, 0.28).loss_S.sum(), new)
    weight = torch.clamp((new - old).exp(), 0.8, 1.28)
    torch.testing.assert_close(grad, (-weight * advantages).detach(), rtol=0, atol=1e-12)
    same = leaf(draw(20))
    (at_one,) = torch.autograd.grad(policy.cispo(same, same.detach(), draw(20, seed=1), 1.0, 4.0).loss_S.sum(), same)
    torch.testing.assert_close(at_one, -draw(20, seed=1))  # at a ratio of 1 it is REINFORCE


def test_a_dual_clip_bounds_bad_tokens_only_and_stops_their_gradient():
    new, old, advantages = leaf(draw(200)), draw(200, seed=1), draw(200, seed=2)
    terms = policy.dual_clip(new, old, advantages, policy.surrogate, 2.0)
    held = (advantages < 0) & ((new - old).exp() > 2.0)
    (grad,) = torch.autograd.grad(terms.loss_S.sum(), new)
    assert held.any()
    assert torch.equal(grad == 0, held)
    assert torch.equal(terms.high_S, held)
    free = policy.dual_clip(new, old, advantages, policy.ppo_clip, 1e9)
    torch.testing.assert_close(free.loss_S, policy.ppo_clip(new, old, advantages).loss_S)


def test_the_penalty_to_the_old_policy_has_the_gradient_of_its_kl():
    """k3 of tokens drawn from the old policy, as a loss on the new one: value and gradient are those of KL(old || new)."""
    logits, log_old = leaf(draw(7)), draw(7, seed=1).log_softmax(0)
    log_new = logits.log_softmax(0)
    exact = (log_old.exp() * (log_old - log_new)).sum()
    sampled = (log_old.exp() * kl.k3(log_old, log_new)).sum()
    torch.testing.assert_close(sampled, exact)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (sampled, exact)))


def test_k1_and_k3_estimate_kl_and_k3_is_never_negative():
    log_p, log_q = draw(7).log_softmax(0), draw(7, seed=1).log_softmax(0)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    for estimator in (kl.k1, kl.k3):
        torch.testing.assert_close((log_p.exp() * estimator(log_p, log_q)).sum(), exact)
    assert (kl.k3(draw(1000), draw(1000, seed=1)) >= 0).all()
    assert (kl.k1(draw(1000), draw(1000, seed=1)) < 0).any()


def test_expected_gradients_of_the_estimators_as_losses():
    """Under samples of the policy: k1 carries nothing, k2 the reverse KL's gradient, k3 the forward KL's."""
    logits, log_q = leaf(draw(7)), draw(7, seed=1).log_softmax(0)
    log_p = logits.log_softmax(0)
    weight = log_p.exp().detach()

    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(x.sum(), logits, retain_graph=True)[0]

    reverse = gradient(log_p.exp() * (log_p - log_q))
    forward = gradient(log_q.exp() * (log_q - log_p))
    torch.testing.assert_close(gradient(weight * kl.k1(log_p, log_q)), torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(weight * kl.k2(log_p, log_q)), reverse)
    torch.testing.assert_close(gradient(weight * kl.k3(log_p, log_q)), forward)


def test_dpo_is_ln_2_at_the_reference_and_mirrors_with_its_label():
    same = draw(5)
    torch.testing.assert_close(preference.dpo(same, same, torch.rand(5, dtype=torch.float64), 0.3), torch.full((5,), math.log(2)).double())
    a, b, label = draw(5), draw(5, seed=1), torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(preference.dpo(a, b, label, 0.3, 0.1), preference.dpo(b, a, 1 - label, 0.3, 0.1))


def test_dpo_and_bradley_terry_are_one_likelihood():
    a, b, label = draw(9), draw(9, seed=1), torch.linspace(0, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(preference.dpo(a, b, label, 0.5), reward.bradley_terry(0.5 * a, 0.5 * b, label, torch.zeros(9).double()))


def test_bradley_terry_mirrors_with_its_label_and_stays_finite():
    a, b, label, margin = draw(9), draw(9, seed=1), torch.linspace(0, 1, 9, dtype=torch.float64), draw(9, seed=2).abs()
    torch.testing.assert_close(reward.bradley_terry(a, b, label, margin), reward.bradley_terry(b, a, 1 - label, margin))
    far = torch.tensor([1e4], dtype=torch.float64)
    assert reward.bradley_terry(-far, far, torch.ones(1).double(), torch.zeros(1).double()).item() == pytest.approx(2e4)


def test_values_without_a_clip_are_the_squared_error():
    values, old, returns = draw(9), draw(9, seed=1), draw(9, seed=2)
    torch.testing.assert_close(value.clipped_value(values, old, returns, math.inf).loss_S, 0.5 * (values - returns) ** 2)
    torch.testing.assert_close(value.clipped_value(old, old, returns, 0.2).loss_S, 0.5 * (old - returns) ** 2)


SMOOTH = {
    "nll": (sft.negative_log_likelihood, 1),
    "k1": (kl.k1, 2),
    "k2": (kl.k2, 2),
    "k3": (kl.k3, 2),
    "policy_gradient": (lambda x: policy.policy_gradient(x, draw(6, seed=8), draw(6, seed=9)).loss_S, 1),
    "ppo_clip": (lambda x: policy.ppo_clip(x, draw(6, seed=8), draw(6, seed=9), 0.2, 0.3).loss_S, 1),
    "surrogate": (lambda x: policy.surrogate(x, draw(6, seed=8), draw(6, seed=9)).loss_S, 1),
    "dual_clip": (lambda x: policy.dual_clip(x, draw(6, seed=8), draw(6, seed=9), ceiling=1.5).loss_S, 1),
    "clipped_value": (lambda x: value.clipped_value(x, draw(6, seed=8), draw(6, seed=9), 0.2).loss_S, 1),
    "bradley_terry": (lambda a, b: reward.bradley_terry(a, b, draw(6, seed=8).sigmoid(), draw(6, seed=9).abs()), 2),
    "centring": (reward.centring, 2),
    "dpo": (lambda a, b: preference.dpo(a, b, draw(6, seed=8).sigmoid(), 0.4, 0.1), 2),
    "sequence_sums": (lambda x: reduce.sequence_sums(x, torch.tensor([0, 0, 1, 3, 3, 3]), 4), 1),
    "sequence_means": (lambda x: reduce.sequence_means(x, torch.tensor([0, 0, 1, 3, 3, 3]), 4), 1),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_finite_differences(name):
    function, n_inputs = SMOOTH[name]
    assert torch.autograd.gradcheck(function, tuple(leaf(draw(6, seed=i)) for i in range(n_inputs)))


def unit(*lengths: int) -> Unit:
    branches = tuple(Branch(torch.zeros(n + 1, dtype=torch.int64), torch.tensor([False] + [True] * n)) for n in lengths)
    return Unit("u", Encoded(torch.zeros(2, dtype=torch.int64)), branches)


def weighted(name: str, units: list[Unit], losses: torch.Tensor) -> tuple[float, float]:
    """(sum, count) of a reduction; ``losses`` hold one number a trained token, in order."""
    weights = reduce.REDUCTIONS[name](units)
    lengths, _ = reduce.trained_lengths(units)
    return float((weights.weights_R.repeat_interleave(lengths.long()) * losses).sum()), weights.count


@pytest.mark.parametrize("name", list(reduce.REDUCTIONS))
def test_sums_and_counts_do_not_depend_on_how_units_are_split(name):
    units = [unit(3, 1), unit(4), unit(2, 2), unit(7)]
    losses = draw(19)
    whole = weighted(name, units, losses)
    cuts = losses.split([4, 4, 4, 7])
    parts = [weighted(name, [u], x) for u, x in zip(units, cuts)]
    assert sum(s for s, _ in parts) == pytest.approx(whole[0], abs=1e-12)
    assert sum(c for _, c in parts) == pytest.approx(whole[1], abs=1e-12)


@pytest.mark.parametrize("name", [n for n, r in reduce.REDUCTIONS.items() if not r.couples_branches])
def test_a_group_may_be_split_between_its_branches(name):
    losses = draw(6)
    whole = weighted(name, [unit(3, 1, 2)], losses)
    parts = [weighted(name, [unit(3)], losses[:3]), weighted(name, [unit(1, 2)], losses[3:])]
    assert sum(s for s, _ in parts) == pytest.approx(whole[0], abs=1e-12)
    assert sum(c for _, c in parts) == pytest.approx(whole[1], abs=1e-12)


def test_what_each_reduction_is_a_mean_of():
    units, losses = [unit(1, 3), unit(2)], torch.tensor([6.0, 1.0, 2.0, 3.0, 10.0, 20.0], dtype=torch.float64)
    mean = {name: s / c for name, (s, c) in ((n, weighted(n, units, losses)) for n in reduce.REDUCTIONS)}
    assert mean["per_token"] == pytest.approx(42 / 6)
    assert mean["per_sequence"] == pytest.approx((6 + 2 + 15) / 3)
    assert mean["per_prompt"] == pytest.approx((12 / 4 + 15) / 2)
    assert mean["sequence_sum"] == pytest.approx((6 + 6 + 30) / 3)
