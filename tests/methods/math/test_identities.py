"""What must hold between the losses, whatever the numbers: identities, gradients and finite differences, all in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from keel.methods.math import imitation as sft
from keel.methods.math import kl, policy, preference, reduce, reward, value
from keel.methods.math import kl as divergence
from keel.methods.math import preference as answers
from keel.types import Branch, Encoded, Unit


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


def tokens(new, old, advantages, low=0.2, high=0.2):
    return policy.PolicyTokens(new, old, advantages, torch.zeros(len(new), dtype=torch.int64), 1, low, high)


def test_clip_higher_with_equal_sides_is_ppo_and_a_wide_band_is_the_plain_ratio():
    new, old, advantages = draw(200), draw(200, seed=1), draw(200, seed=2)
    ratio = (new - old).exp()
    symmetric = torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 0.8, 1.2))  # as PPO implementations write it
    torch.testing.assert_close(policy.ppo_clip(tokens(new, old, advantages)).loss_S, symmetric)
    torch.testing.assert_close(policy.ppo_clip(tokens(new, old, advantages, 1.0, math.inf)).loss_S, -ratio * advantages)


def test_the_gradient_stops_exactly_where_the_clip_is_reported():
    new, old, advantages = leaf(draw(200)), draw(200, seed=1), draw(200, seed=2)
    for loss in (policy.ppo_clip, policy.gmpo):
        terms = loss(tokens(new, old, advantages, 0.2, 0.28))
        (grad,) = torch.autograd.grad(terms.loss_S.sum(), new)
        held = terms.low_S | terms.high_S
        assert held.any()
        assert (~held).any()
        assert torch.equal(grad == 0, held)


def test_a_wide_band_makes_gmpo_the_plain_ratio_of_sequences():
    new, old, advantages = draw(9), draw(9, seed=1), draw(9, seed=2)
    wide, gspo = policy.gmpo(tokens(new, old, advantages, 99.0, 99.0)), policy.gspo(tokens(new, old, advantages, 1.0, math.inf))
    torch.testing.assert_close(wide.loss_S, gspo.loss_S)


def test_cispo_s_gradient_is_its_clipped_weight_and_never_stops():
    new, old, advantages = leaf(draw(200)), draw(200, seed=1), draw(200, seed=2)
    (grad,) = torch.autograd.grad(policy.cispo(tokens(new, old, advantages, 0.2, 0.28)).loss_S.sum(), new)
    weight = torch.clamp((new - old).exp(), 0.8, 1.28)
    torch.testing.assert_close(grad, (-weight * advantages).detach(), rtol=0, atol=1e-12)


def test_a_dual_clip_bounds_bad_tokens_only_and_stops_their_gradient():
    new, old, advantages = leaf(draw(200)), draw(200, seed=1), draw(200, seed=2)
    terms = policy.dual_clip(tokens(new, old, advantages), policy.surrogate, 2.0)
    held = (advantages < 0) & ((new - old).exp() > 2.0)
    (grad,) = torch.autograd.grad(terms.loss_S.sum(), new)
    assert held.any()
    assert torch.equal(grad == 0, held)
    assert torch.equal(terms.high_S, held)
    free = policy.dual_clip(tokens(new, old, advantages), policy.ppo_clip, 1e9)
    torch.testing.assert_close(free.loss_S, policy.ppo_clip(tokens(new, old, advantages)).loss_S)


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
    at_reference = preference.dpo(same, same, draw(5, seed=1).sigmoid(), torch.zeros_like(same), 0.3)
    torch.testing.assert_close(at_reference, torch.full((5,), math.log(2)).double())


def with_margin(loss):
    return lambda a, b, label: loss(a, b, label, draw(len(a), seed=7).abs())


# every loss of two scores as (winner_E, loser_E, label_E) -> loss_E
PAIR_LOSSES = {
    "dpo": with_margin(lambda *x: preference.dpo(*x, 0.4)),
    "hinge": with_margin(lambda *x: preference.hinge(*x, 0.4)),
    "ipo": with_margin(lambda *x: preference.ipo(*x, 0.4)),
    "dpop": with_margin(lambda *x: preference.dpop(*x, 0.4, 2.0)),
    "exo": lambda a, b, label: preference.exo(a, b, preference.smoothed(label, 0.01), 0.4),
    "orpo": lambda a, b, label: preference.orpo(-a.exp(), -b.exp(), label, 0.4),
    "tdpo": lambda a, b, label: preference.tdpo(a, b, b.square(), a.square(), label, 0.4, 0.5),
    "robust": with_margin(lambda a, b, label, m: preference.dpo(a, b, preference.unbiased(label, 0.2), m, 0.4)),
}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_swapping_the_answers_with_the_label_changes_nothing(name):
    a, b, label = draw(5), draw(5, seed=1), torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(PAIR_LOSSES[name](a, b, label), PAIR_LOSSES[name](b, a, 1 - label))


@pytest.mark.parametrize("name", [n for n in PAIR_LOSSES if n != "exo"])
def test_a_soft_label_is_the_expectation_over_hard_ones(name):
    a, b, label = draw(9), draw(9, seed=1), torch.linspace(0, 1, 9, dtype=torch.float64)
    one, zero = (PAIR_LOSSES[name](a, b, torch.full_like(label, x)) for x in (1.0, 0.0))
    torch.testing.assert_close(PAIR_LOSSES[name](a, b, label), label * one + (1 - label) * zero)


def test_robust_dpo_is_unbiased_under_flips():
    a, b, none = draw(9), draw(9, seed=1), torch.zeros(9, dtype=torch.float64)
    clean, flipped = (preference.unbiased(torch.full_like(a, x), 0.2) for x in (1.0, 0.0))
    noisy = 0.8 * preference.dpo(a, b, clean, none, 0.5) + 0.2 * preference.dpo(a, b, flipped, none, 0.5)
    torch.testing.assert_close(noisy, preference.dpo(a, b, torch.ones_like(a), none, 0.5))


def test_exo_is_a_divergence():
    a, b = draw(50), draw(50, seed=1)
    assert (preference.exo(a, b, draw(50, seed=2).sigmoid(), 0.5) >= 0).all()
    agreed = (0.5 * (a - b)).sigmoid()
    torch.testing.assert_close(preference.exo(a, b, agreed, 0.5), torch.zeros_like(a), rtol=0, atol=1e-12)


def test_tdpo_holds_the_preferred_side_s_kl_constant():
    sides = [leaf(draw(5, seed=i).abs()) for i in range(4)]
    preference.tdpo(*sides, torch.ones(5, dtype=torch.float64), 0.5, 0.7).sum().backward()
    assert torch.equal(sides[2].grad, torch.zeros(5).double())
    torch.testing.assert_close(sides[3].grad, 0.7 * sides[1].grad)


def test_sorted_leads_are_optimal_transport():
    """Matching ranks is the assignment whose convex cost is lowest: no permutation of the references does better."""
    leads, references, one, none = draw(5), draw(5, seed=1), torch.ones(5).double(), torch.zeros(5).double()
    best = preference.dpo(leads, preference.matched(leads, references), one, none, 1.0).sum()
    others = [preference.dpo(leads, references[list(p)], one, none, 1.0).sum() for p in itertools.permutations(range(5))]
    torch.testing.assert_close(best, torch.stack(others).min())


def test_answers_mirror_with_their_label():
    ratio, wanted = draw(9), torch.linspace(0, 1, 9, dtype=torch.float64)
    for loss in (answers.kto, answers.bco):
        torch.testing.assert_close(loss(ratio, wanted, 0.4, 0.3, (2.0, 3.0)), loss(-ratio, 1 - wanted, 0.4, -0.3, (3.0, 2.0)))
    torch.testing.assert_close(answers.kto(ratio, 1 - wanted, 0.4, 0.3), 1 - answers.kto(ratio, wanted, 0.4, 0.3))


def test_divergences_near_the_reference_are_the_log_ratio():
    """f'(1) = 0 and u f''(u) = 1 at u = 1 for each but Jensen-Shannon, where it is 1/2; alpha lies between forward and reverse KL."""
    ratio = leaf(torch.zeros(3, dtype=torch.float64))
    for name, measure in divergence.DIVERGENCES.items():
        value_R = measure(ratio, 0.3)
        (slope,) = torch.autograd.grad(value_R.sum(), ratio)
        assert not value_R.any()
        torch.testing.assert_close(slope, torch.full_like(ratio, 0.5 if name == "js" else 1.0))
    far = draw(9)
    torch.testing.assert_close(divergence.alpha_divergence(far, 1e-9), far, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(divergence.alpha_divergence(far, 1.0), divergence.forward_kl(far, 0.0))


def test_dpo_and_bradley_terry_are_one_likelihood():
    a, b, label = draw(9), draw(9, seed=1), torch.linspace(0, 1, 9, dtype=torch.float64)
    margin = draw(9, seed=2).abs()
    torch.testing.assert_close(preference.dpo(a, b, label, margin, 0.5), reward.bradley_terry(0.5 * a, 0.5 * b, label, margin))


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
    "dual_clip": (lambda x: policy.dual_clip(tokens(x, draw(6, seed=8), draw(6, seed=9)), policy.ppo_clip, 1.5).loss_S, 1),
    "clipped_value": (lambda x: value.clipped_value(x, draw(6, seed=8), draw(6, seed=9), 0.2).loss_S, 1),
    "bradley_terry": (lambda a, b: reward.bradley_terry(a, b, draw(6, seed=8).sigmoid(), draw(6, seed=9).abs()), 2),
    "centring": (reward.centring, 2),
    **{name: (lambda a, b, loss=loss: loss(a, b, draw(6, seed=8).sigmoid()), 2) for name, loss in PAIR_LOSSES.items() if name != "tdpo"},
    "kto": (lambda a: answers.kto(a, draw(6, seed=8).sigmoid(), 0.4, 0.3, (2.0, 3.0)), 1),
    "bco": (lambda a: answers.bco(a, draw(6, seed=8).sigmoid(), 0.4, 0.3, (2.0, 3.0)), 1),
    **{name: (lambda a, f=f: f(a, 0.3), 1) for name, f in divergence.DIVERGENCES.items()},
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
