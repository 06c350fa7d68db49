"""Hand-computed cases of every loss, as functions of the module under test: the tests run them on the real modules, the mutation check on
broken ones. Numbers were worked out on paper from the equations, not by running the code."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

LN2 = 0.6931471805599453


def vec(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual, vec(*expected), rtol=0.0, atol=1e-9)


def refuses(call: Any, *args: Any) -> None:
    try:
        call(*args)
    except AssertionError:
        return
    raise AssertionError("input of a wrong shape or dtype was accepted")


def sft(m: ModuleType) -> None:
    close(m.negative_log_likelihood(vec(-0.5, -2.0)), 0.5, 2.0)
    refuses(m.negative_log_likelihood, torch.zeros(2, 2))


def kl(m: ModuleType) -> None:
    policy, reference = vec(-1.0, -2.0, -3.0), vec(-2.0, -2.0, -1.0)  # r = 1, 0, -2
    close(m.k1(policy, reference), 1.0, 0.0, -2.0)
    close(m.k2(policy, reference), 0.5, 0.0, 2.0)
    close(m.k3(policy, reference), 0.36787944117144233, 0.0, 4.38905609893065)  # 1/e - 1 + 1; e^2 - 1 - 2
    assert list(m.ESTIMATORS.items()) == [("k1", m.k1), ("k2", m.k2), ("k3", m.k3)]
    for estimator in (m.k1, m.k2, m.k3):
        refuses(estimator, vec(0.0), vec(0.0, 0.0))


def policy(m: ModuleType) -> None:
    # ratios 1.5, 1.5, 0.5, 0.5, 1.1; advantages 2, -2, 2, -2, 2
    new, old = vec(1.5, 1.5, 0.5, 0.5, 1.1).log(), vec(1.0, 1.0, 1.0, 1.0, 1.0).log()
    advantages = vec(2.0, -2.0, 2.0, -2.0, 2.0)
    terms = m.ppo_clip(new, old, advantages, 0.2, 0.3)
    # clipped up to 1.3 only for A > 0; down to 0.8 only for A < 0
    close(terms.loss_S, -2.6, 3.0, -1.0, 1.6, -2.2)
    assert terms.low_S.tolist() == [False, False, False, True, False]
    assert terms.high_S.tolist() == [True, False, False, False, False]
    close(m.ppo_clip(vec(0.0), vec(-0.1), vec(1.0)).loss_S, -math.exp(0.1))
    close(m.ppo_clip(vec(0.0), vec(-0.5), vec(1.0)).loss_S, -1.2)  # the defaults are 0.2 and 0.2
    close(m.ppo_clip(vec(-0.5), vec(0.0), vec(-1.0)).loss_S, 0.8)
    inside = m.ppo_clip(vec(0.9, 1.1, 1.1).log(), vec(0.0, 0.0, 0.0), vec(-2.0, -2.0, 2.0))
    assert not (inside.low_S | inside.high_S).any()
    slight = m.ppo_clip(vec(0.5, 1.5).log(), vec(0.0, 0.0), vec(-0.5, 0.5))
    assert slight.low_S.tolist() == [True, False]
    assert slight.high_S.tolist() == [False, True]
    still = m.ppo_clip(vec(0.5, -0.5), vec(0.0, 0.0), vec(0.0, 0.0))
    assert not (still.low_S | still.high_S).any()  # no advantage: nothing was held back
    edge = m.ppo_clip(vec(0.0, 0.0), vec(0.0, 0.0), vec(1.0, -1.0), 0.0, 0.0)
    assert not (edge.low_S | edge.high_S).any()  # on the edge of the band: the gradient still flows
    plain = m.policy_gradient(vec(-0.5, -2.0), vec(-1.0, -1.0), vec(3.0, -1.0))
    close(plain.loss_S, 1.5, -2.0)
    assert plain.low_S.tolist() == plain.high_S.tolist() == [False, False]
    refuses(m.ppo_clip, vec(0.0), vec(0.0), vec(0.0, 0.0))
    refuses(m.policy_gradient, vec(0.0), vec(0.0), torch.ones(1, dtype=torch.int64))


def value(m: ModuleType) -> None:
    values, old, returns = vec(1.0, 1.0, 0.1, -1.0), vec(0.0, 0.0, 0.0, 0.0), vec(2.0, 0.0, 1.0, -3.0)
    # near: 0.2, 0.2, 0.1, -0.2; errors: (1 | 3.24), (1 | 0.04), (0.81 | 0.81), (4 | 7.84)
    terms = m.clipped_value(values, old, returns, 0.2)
    close(terms.loss_S, 1.62, 0.5, 0.405, 3.92)
    assert terms.clipped_S.tolist() == [True, False, False, True]
    close(m.clipped_value(vec(0.9), vec(0.5), vec(1.0)).loss_S, 0.045)  # default 0.2: near is 0.7, (0.3)^2 / 2
    close(m.clipped_value(vec(0.55), vec(0.5), vec(0.0), 0.2).loss_S, 0.15125)  # inside the band: 0.55^2 / 2
    close(m.clipped_value(values, old, returns, math.inf).loss_S, 0.5, 0.5, 0.405, 2.0)
    assert math.isclose(m.explained_variance(vec(1.0, 2.0, 3.0), vec(1.0, 2.0, 3.0)), 1.0)
    assert math.isclose(m.explained_variance(vec(5.0, 6.0), vec(1.0, 2.0)), 1.0)  # a constant offset is not variance
    # R = 0, 4 (variance 4); R - V = 0, 2 (variance 1)
    assert math.isclose(m.explained_variance(vec(0.0, 2.0), vec(0.0, 4.0)), 0.75)
    assert m.explained_variance(vec(0.0, 2.0), vec(3.0, 3.0)) == 0.0
    assert m.explained_variance(vec(), vec()) == 0.0
    refuses(m.clipped_value, vec(0.0), vec(0.0), vec(0.0, 0.0))
    refuses(m.explained_variance, vec(0.0), vec(0.0, 0.0))


def reward(m: ModuleType) -> None:
    zero, one = vec(0.0), vec(1.0)
    close(m.bradley_terry(vec(2.0), vec(2.0), one, zero), LN2)
    close(m.bradley_terry(vec(3.0), vec(1.0), one, zero), 0.12692801104297252)  # ln(1 + e^-2)
    close(m.bradley_terry(vec(3.0), vec(1.0), zero, zero), 2.1269280110429725)  # ln(1 + e^2)
    close(m.bradley_terry(vec(3.0), vec(1.0), vec(0.75), zero), 0.6269280110429725)  # 0.75 * 0.1269 + 0.25 * 2.1269
    close(m.bradley_terry(vec(3.0), vec(1.0), one, vec(2.0)), LN2)  # the lead is just the margin
    close(m.bradley_terry(vec(3.0), vec(1.0), zero, vec(1.0)), 3.048587351573742)  # ln(1 + e^3)
    close(m.centring(vec(3.0, -1.0), vec(1.0, 1.0)), 16.0, 0.0)
    refuses(m.bradley_terry, vec(0.0, 0.0), vec(0.0), one, zero)
    refuses(m.centring, vec(0.0, 0.0), vec(0.0))


def preference(m: ModuleType) -> None:
    close(m.dpo(vec(0.0), vec(0.0), vec(1.0), 0.1), LN2)
    close(m.dpo(vec(15.0), vec(-5.0), vec(1.0), 0.1), 0.12692801104297252)  # z = 2
    close(m.dpo(vec(15.0), vec(-5.0), vec(0.0), 0.1), 2.1269280110429725)
    close(m.dpo(vec(15.0), vec(-5.0), vec(1.0), 0.1, 0.25), 0.6269280110429725)
    close(m.dpo(vec(15.0), vec(-5.0), vec(0.5), 0.1, 0.25), 1.1269280110429725)  # y stays 0.5
    close(m.dpo(vec(15.0), vec(-5.0), vec(0.0), 0.1, 0.25), 1.6269280110429725)  # y = 0.25
    refuses(m.dpo, vec(0.0, 0.0), vec(0.0), vec(1.0), 0.1)


def reduce(m: ModuleType) -> None:
    def unit(*lengths: int) -> Any:
        return SimpleNamespace(branches=[SimpleNamespace(trained_T=torch.tensor([False] + [True] * n)) for n in lengths])

    units = [unit(1, 3), unit(2), unit(0)]
    expected = {
        "per_token": ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], 6.0),
        "per_sequence": ([1.0, 1 / 3, 0.5, 0.0], [1.0, 1 / 3, 0.5, 0.0], 3.0),
        "per_prompt": ([0.25, 0.25, 0.5, 0.0], [0.25, 0.25, 0.5, 0.0], 2.0),
        "sequence_sum": ([1.0, 1.0, 1.0, 1.0], [1.0, 1 / 3, 0.5, 0.0], 3.0),
    }
    names = {"per_token": "tokens", "per_sequence": "sequences", "per_prompt": "prompts", "sequence_sum": "sequences"}
    assert {name: r.unit for name, r in m.REDUCTIONS.items()} == names
    assert [name for name, r in m.REDUCTIONS.items() if r.couples_branches] == ["per_prompt"]
    for name, (weights, shares, count) in expected.items():
        got = m.REDUCTIONS[name](units)
        close(got.weights_R, *weights)
        close(got.shares_R, *shares)
        assert math.isclose(got.count, count)
        assert m.REDUCTIONS[name]([]).count == 0.0
    branch_S = torch.tensor([0, 0, 2])
    close(m.sequence_sums(vec(1.0, 2.0, 5.0), branch_S, 3), 3.0, 0.0, 5.0)
    close(m.sequence_means(vec(1.0, 2.0, 5.0), branch_S, 3), 1.5, 0.0, 5.0)
    refuses(m.sequence_sums, vec(1.0, 2.0), branch_S, 3)
    refuses(m.sequence_sums, torch.ones(3, 1), branch_S[:, None], 3)


def checks(m: ModuleType) -> None:
    m.same_vectors(vec(1.0))
    m.same_vectors(vec(1.0, 2.0), vec(3.0, 4.0))
    refuses(m.same_vectors, torch.zeros(()))
    refuses(m.same_vectors, torch.zeros(1, 1))
    refuses(m.same_vectors, torch.zeros(1, dtype=torch.int64))
    refuses(m.same_vectors, vec(1.0, 2.0), vec(1.0))
    refuses(m.same_vectors, vec(1.0), vec(1.0), torch.zeros(1, 1))


CASES = {
    "checks": checks,
    "sft": sft,
    "kl": kl,
    "policy": policy,
    "value": value,
    "reward": reward,
    "preference": preference,
    "reduce": reduce,
}
