"""Hand-computed cases of every loss, as functions of the module under test: the tests run them on the real modules, the mutation check on
broken ones. Numbers were worked out on paper from the equations, not by running the code."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from keel.types import Divergence

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
    close(m.k3(vec(-90.0, 90.0), vec(0.0, 0.0)), math.expm1(20.0) - 20.0, math.exp(-90.0) - 1.0 + 90.0)  # e^90 would overflow float32
    close(m.bounded(vec(-25.0, -19.5, 20.0, 1e4)), -20.0, -19.5, 20.0, 20.0)
    assert list(m.ESTIMATORS.items()) == [("k1", m.k1), ("k2", m.k2), ("k3", m.k3)]
    for estimator in (m.k1, m.k2, m.k3):
        refuses(estimator, vec(0.0), vec(0.0, 0.0))
    kinds(m)


def kinds(m: ModuleType) -> None:
    """Tokens that hang on what is shown: 1.0, 0.5, 0.25 and -1.0 nats more likely with it."""
    found = m.grounded(vec(-1.0, -2.0, -3.0, -4.0), vec(-2.0, -2.5, -3.25, -3.0), 0.5)
    assert found.dtype == torch.float32
    assert found.tolist() == [1.0, 0.0, 0.0, 0.0]
    refuses(m.grounded, vec(0.0), vec(0.0, 0.0), 0.0)
    close(m.by_kind(vec(1.0, 0.0, 1.0), (0.25, 3.0)), 0.25, 3.0, 0.25)
    refuses(m.by_kind, torch.zeros(2, 2), (1.0, 1.0))


POLICY_LOSSES = Path(__file__).with_name("policy_losses")


def tokens(
    m: ModuleType, new: Tensor, old: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.2, branch: list[int] | None = None
) -> Any:
    """Tokens of one sequence, or of those that ``branch`` names."""
    branch_S = torch.tensor(branch or [0] * len(new))
    return m.PolicyTokens(new, old, advantages, branch_S, int(branch_S.max()) + 1, low, high)


def policy(m: ModuleType) -> None:
    """The case of each policy loss is ``check(m, tools)`` in a file of its name, with the tools of this file."""
    for path in sorted(POLICY_LOSSES.glob("*.py")):
        runpy.run_path(str(path))["check"](m, SimpleNamespace(vec=vec, close=close, refuses=refuses, tokens=tokens))


def policy_parts(m: ModuleType) -> None:
    """What all policy losses share: the tokens they see, and the bound on bad tokens."""

    def dual(new: Tensor, advantages: Tensor, loss: Any, ceiling: float) -> Any:
        return m.dual_clip(tokens(m, new, torch.zeros_like(new), advantages), loss, ceiling)

    # ratios 4, 4, 3, 1.5, 0.5 under a ceiling of 3: only the first bad one is bounded, and 3 itself is not
    tall = vec(4.0, 4.0, 3.0, 1.5, 0.5).log()
    bounded = dual(tall, vec(-2.0, 2.0, -2.0, -2.0, -2.0), m.surrogate, 3.0)
    close(bounded.loss_S, 6.0, -8.0, 6.0, 3.0, 1.0)
    assert bounded.high_S.tolist()[:2] == [True, False]
    assert bounded.high_S.tolist()[3:] == [False, False]
    close(dual(tall, vec(-2.0, 2.0, -2.0, -2.0, -2.0), m.ppo_clip, 2.0).loss_S, 4.0, -2.4, 4.0, 3.0, 1.6)
    both = dual(vec(4.0, 4.0, 0.5).log(), vec(-1.0, 1.0, -1.0), m.ppo_clip, 3.0)
    assert both.high_S.tolist() == [True, True, False]
    assert both.low_S.tolist() == [False, False, True]

    def fixed(loss: float) -> Any:
        return lambda _: m.PolicyTerms(vec(loss), vec(0.0) > 0, vec(0.0) > 0)

    close(dual(vec(1.0), vec(0.0), fixed(1.0), 3.0).loss_S, 1.0)  # without an advantage there is nothing to bound
    assert dual(vec(0.0), vec(-1.0), fixed(3.0), 3.0).high_S.tolist() == [False]  # on the ceiling itself the gradient still flows
    refuses(dual, vec(0.0), vec(1.0), m.ppo_clip, 1.0)
    refuses(dual, vec(0.0), vec(1.0), m.ppo_clip, 0.5)
    close(dual(vec(3.0).log(), vec(-1.0), m.surrogate, 1.5).loss_S, 1.5)
    refuses(tokens, m, vec(0.0), vec(0.0), vec(0.0, 0.0))
    refuses(tokens, m, vec(0.0), vec(0.0, 0.0), vec(0.0))
    refuses(tokens, m, vec(0.0), vec(0.0), torch.ones(1, dtype=torch.int64))
    refuses(tokens, m, vec(0.0), vec(0.0), vec(0.0), 0.2, 0.2, [0, 0])
    close(tokens(m, vec(1.0, 3.0, 5.0), vec(0.0, 0.0, 0.0), vec(0.0, 0.0, 0.0), branch=[1, 1, 0]).means(vec(1.0, 3.0, 5.0)), 2.0, 2.0, 5.0)
    assert list(m.POLICY_LOSSES) == [row.name for row in m.POLICY_LOSSES.values()]


def correction(m: ModuleType) -> None:
    # two sequences: ratios 4, 1/2 and 2, 2; their products are 2 and 4
    policy, sampler = vec(0.8, 0.1, 0.4, 0.6).log(), vec(0.2, 0.2, 0.2, 0.3).log()
    branch = torch.tensor([0, 0, 1, 1])

    def weigh(kind: str, level: str, cap: float, new: Tensor = policy) -> tuple[Tensor, list[bool]]:
        weights, capped = m.importance_weights(new, sampler, branch, 2, m.Correction(kind, level, cap))
        assert not weights.requires_grad
        return weights, capped.tolist()

    close(weigh("truncate", "token", 3.0)[0], 3.0, 0.5, 2.0, 2.0)
    assert weigh("truncate", "token", 3.0)[1] == weigh("mask", "token", 3.0)[1] == [True, False, False, False]
    close(weigh("mask", "token", 3.0)[0], 0.0, 0.5, 2.0, 2.0)
    close(weigh("truncate", "sequence", 3.0)[0], 2.0, 2.0, 3.0, 3.0)
    close(weigh("mask", "sequence", 3.0)[0], 2.0, 2.0, 0.0, 0.0)
    assert weigh("mask", "sequence", 3.0)[1] == [False, False, True, True]
    close(weigh("truncate", "token", 0.25, sampler.clone().requires_grad_())[0], 0.25, 0.25, 0.25, 0.25)
    close(weigh("mask", "token", 1.0, sampler)[0], 1.0, 1.0, 1.0, 1.0)  # the cap itself counts
    default = m.importance_weights(vec(0.8, 0.58, 0.2, 0.3).log(), sampler, branch, 2, m.Correction("truncate"))
    close(default[0], 3.0, 2.9, 1.0, 1.0)  # by token, 3
    refuses(m.importance_weights, vec(0.0), vec(0.0, 0.0), branch, 2, m.Correction("mask"))


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
    # lead 2; margin 3: right 1, wrong 5, and three quarters of the first with a quarter of the second; margin 1: paid for only when wrong
    close(m.hinge(vec(3.0, 3.0, 3.0), vec(1.0, 1.0, 1.0), vec(1.0, 0.0, 0.75), vec(3.0, 3.0, 3.0)), 1.0, 5.0, 2.0)
    close(m.hinge(vec(3.0, 3.0), vec(1.0, 1.0), vec(1.0, 0.0), vec(1.0, 1.0)), 0.0, 3.0)
    refuses(m.hinge, vec(0.0, 0.0), vec(0.0), one, zero)
    ties(m)
    ranking(m)
    close(m.uncertain(vec(3.0, 3.0), vec(0.0, 24.0 / math.pi)), 3.0, 1.5)  # sqrt(1 + 3) = 2
    refuses(m.uncertain, vec(0.0, 0.0), vec(0.0))
    close(m.self_trusting(vec(1.0, 0.2, 0.6), vec(-1.0, 0.5, 0.0), 0.25), 0.75, 0.4, 0.45)
    refuses(m.self_trusting, vec(0.0, 0.0), vec(0.0), 0.5)


def ties(m: ModuleType) -> None:
    five = [vec(3.0, 3.0, 3.0, 3.0, 1.0), vec(1.0, 1.0, 1.0, 1.0, 1.0), vec(1.0, 0.0, 0.5, 0.5, 0.5), vec(0.0, 0.0, 1.0, 0.0, 1.0)]
    # Davidson, v = 2, d = 2: e + 2 + 1/e = 5.086161269630488 shares; a win, a loss, a tie, an even vote; then v = 2, d = 0: 2 of 4 shares
    whole = math.log(5.086161269630488)
    close(m.davidson(*five, torch.full((5,), LN2, dtype=torch.float64)), whole - 1.0, whole + 1.0, whole - LN2, whole, LN2)
    # Rao and Kupper, theta = 3: v = 9 - 1. d = ln 3: a win 1/2, a loss 1/10, a tie 4/10; one of four votes a tie, the others wins
    log8, log3 = vec(8.0, 8.0, 8.0, 8.0).log(), vec(3.0, 3.0, 3.0, 3.0).log()
    votes = (log3 + 2.0, vec(2.0, 2.0, 2.0, 2.0), vec(1.0, 0.0, 0.5, 0.875), vec(0.0, 0.0, 1.0, 0.25), log8)
    tie = -math.log(0.4)
    close(m.rao_kupper(*votes), LN2, math.log(10.0), tie, 0.75 * LN2 + 0.25 * tie)
    for loss in (m.davidson, m.rao_kupper):
        refuses(loss, vec(0.0, 0.0), vec(0.0), vec(1.0), vec(0.0), vec(0.0))


def ranking(m: ModuleType) -> None:
    scores = vec(4.0, 2.0, 1.0).log()

    def of(*ranks: float) -> Tensor:
        return m.plackett_luce(scores, vec(*ranks))[None]

    close(of(1, 2, 3), -(math.log(4 / 7) + math.log(2 / 3)) / 2)
    close(of(3, 1, 2), -(math.log(2 / 7) + math.log(1 / 5)) / 2)
    close(of(1, 1, 2), -(math.log(4 / 7) + math.log(2 / 7)) / 2)  # both chosen from all three
    close(of(1, 2, 2), -math.log(4 / 7))
    close(of(2, 2, 2), 0.0)
    refuses(m.plackett_luce, vec(0.0, 0.0), vec(0.0))


def ratings(m: ModuleType) -> None:
    close(m.squared_error(vec(3.0, 1.0), vec(1.0, 1.5)), 4.0, 0.25)
    # variance 4, off by 4: (ln 4 + 4) / 2; variance 1, right: 0
    close(m.gaussian(vec(5.0, 2.0), vec(4.0, 1.0), vec(1.0, 2.0)), LN2 + 2.0, 0.0)
    close(m.gaussian(vec(2.0), vec(4.0), vec(2.0)), LN2)
    for loss, args in ((m.squared_error, 1), (m.gaussian, 2)):
        refuses(loss, vec(0.0, 0.0), *[vec(0.0)] * args)
    cuts = vec(-math.log(3.0), math.log(3.0))
    levels = m.cumulative_link(vec(0.0, math.log(3.0)), cuts.expand(2, 2))
    close(levels[0].exp(), 0.25, 0.5, 0.25)
    close(levels[1].exp(), 0.1, 0.4, 0.5)
    close(m.cumulative_link(vec(0.0), vec(math.log(3.0))[None])[0].exp(), 0.75, 0.25)  # two levels
    four = m.cumulative_link(vec(0.0), vec(-math.log(3.0), 0.0, math.log(3.0))[None])[0]
    close(four.exp(), 0.25, 0.25, 0.25, 0.25)
    close(m.cumulative_link(vec(0.0)[0], cuts).exp(), 0.25, 0.5, 0.25)
    close(m.level(levels, torch.tensor([2, 0])), -math.log(0.25), -math.log(0.1))


def preference(m: ModuleType) -> None:
    none, sure = vec(0.0), vec(1.0)
    close(m.smoothed(vec(1.0, 0.0, 0.5, 0.8), 0.25), 0.75, 0.25, 0.5, 0.65)
    close(m.unbiased(vec(1.0, 0.0, 0.5), 0.1), 1.125, -0.125, 0.5)
    close(m.dpo(none, none, sure, none, 0.1), LN2)
    lead2 = (vec(15.0), vec(-5.0))  # times 0.1: rewards 1.5 and -0.5, z = 2
    close(m.dpo(*lead2, sure, none, 0.1), 0.12692801104297252)  # ln(1 + e^-2)
    close(m.dpo(*lead2, none, none, 0.1), 2.1269280110429725)
    close(m.dpo(*lead2, vec(0.75), none, 0.1), 0.6269280110429725)
    close(m.dpo(*lead2, sure, vec(2.0), 0.1), LN2)  # the lead is just the margin
    close(m.dpo(*lead2, none, vec(1.0), 0.1), 3.048587351573742)  # ln(1 + e^3)
    # z = 0.5: 1 - 0.5 and 1 + 0.5; z = 2: 0 and 3; a margin of 2 at z = 2: 1 and 5
    close(m.hinge(vec(0.0, 3.0, 3.0), vec(-1.0, -1.0, -1.0), vec(1.0, 1.0, 1.0), vec(0.0, 0.0, 2.0), 0.5), 0.5, 0.0, 1.0)
    close(m.hinge(vec(0.0, 3.0, 3.0), vec(-1.0, -1.0, -1.0), vec(0.0, 0.0, 0.0), vec(0.0, 0.0, 2.0), 0.5), 1.5, 3.0, 5.0)
    # tau 0.25: a lead of 2 is asked for; 5 - 2 = 3 and -5 - 2 = -7; a margin of 0.5 asks for 2 more
    close(m.ipo(vec(4.0, 4.0, 4.0), vec(-1.0, -1.0, -1.0), vec(1.0, 0.0, 0.5), vec(0.0, 0.0, 0.0), 0.25), 9.0, 49.0, 29.0)
    close(m.ipo(vec(4.0), vec(-1.0), sure, vec(0.5), 0.25), 1.0)
    # z = ln 3, q = 3/4: 3/4 ln(3/4 / y) + 1/4 ln(1/4 / (1 - y))
    ln3 = (vec(math.log(3.0)), vec(-math.log(3.0)))
    close(m.exo(*ln3, vec(0.5), 0.5), 0.13081203594113694)
    close(m.exo(*ln3, vec(0.75), 0.5), 0.0)
    close(m.exo(*ln3, vec(0.9), 0.5), 0.75 * math.log(0.75 / 0.9) + 0.25 * math.log(0.25 / 0.1))
    # the winner lost 2 nats: 0.5 (-2 + 4 - 0.25 * 2) = 0.75; the loser lost 4: 0.5 (-4 + 2 - 0.25 * 4) = -1.5
    close(m.dpop(vec(-2.0), vec(-4.0), sure, none, 0.5, 0.25), math.log1p(math.exp(-0.75)))
    close(m.dpop(vec(-2.0), vec(-4.0), none, none, 0.5, 0.25), math.log1p(math.exp(1.5)))
    close(m.dpop(vec(-2.0), vec(-4.0), sure, vec(0.5), 0.5, 0.25), math.log1p(math.exp(-0.25)))
    close(m.dpop(vec(-2.0), vec(-4.0), none, vec(0.5), 0.5, 0.25), math.log1p(math.exp(2.0)))
    close(m.dpop(vec(2.0), vec(4.0), vec(0.5), none, 0.5, 9.0), 0.5 * math.log1p(math.exp(1.0)) + 0.5 * math.log1p(math.exp(-1.0)))
    # P = 1/2 and 1/5: odds 1 and 1/4, log odds ln 4 apart
    odds = (vec(math.log(0.5)), vec(math.log(0.2)))
    close(m.orpo(*odds, sure, 2.0), 2 * math.log(1.25))
    close(m.orpo(*odds, none, 2.0), 2 * math.log(5.0))
    assert math.isclose(float(m.orpo(none, vec(-1e-300), sure, 1.0)), LN2)  # certain answers have the same, largest odds
    eps = 2.220446049250313e-16
    close(m.orpo(none, vec(math.log(0.5)), none, 1.0), -math.log(eps))  # ln(1 + 1 / eps) is ln(1 / eps) to 1e-16
    # z = 1; KLs 3 and 1: 1 - 0.5 * 0.5 * (1 - 3) = 1.5; the other way -1 - 0.25 * (3 - 1) = -1.5
    sides = (vec(1.0), vec(-1.0), vec(3.0), vec(1.0))
    close(m.tdpo(*sides, sure, 0.5, 0.5), math.log1p(math.exp(-1.5)))
    close(m.tdpo(*sides, none, 0.5, 0.5), math.log1p(math.exp(1.5)))
    close(m.tdpo(*sides, vec(0.5), 0.5, 0.0), 0.5 * math.log1p(math.exp(-1.0)) + 0.5 * math.log1p(math.exp(1.0)))
    # 6, -1 and 3 have the ranks 2, 0 and 1; the references' order is 10, 20, 30
    close(m.matched(vec(6.0, -1.0, 3.0), vec(20.0, 10.0, 30.0)), 30.0, 10.0, 20.0)
    close(
        m.matched(torch.zeros(40, dtype=torch.float64), torch.arange(40.0, dtype=torch.float64)), *map(float, range(40))
    )  # ties keep order
    two = vec(0.0, 0.0)
    for pair_loss in (m.dpo, m.hinge, m.ipo):
        refuses(pair_loss, two, none, sure, none, 0.1)
    refuses(m.exo, two, none, sure, 0.1)
    refuses(m.dpop, two, none, sure, none, 0.1, 1.0)
    refuses(m.orpo, vec(-1.0, -1.0), vec(-1.0), sure, 0.1)
    refuses(m.tdpo, two, none, none, none, sure, 0.1, 0.5)
    refuses(m.matched, two, none)


def answers(m: ModuleType) -> None:
    ratio, wanted = vec(5.0, 5.0, 5.0, 1.0), vec(1.0, 0.0, 0.75, 1.0)
    # beta 0.5, point 1: 2, 2, 2, 0; sigma(2) = 0.8807970779778823
    close(m.kto(ratio, wanted, 0.5, 1.0), 0.1192029220221177, 0.8807970779778823, 0.3096014610110588, 0.5)
    close(m.kto(ratio, wanted, 0.5, 1.0, (2.0, 3.0)), 0.2384058440442354, 2.642391233933647, 0.8394021915165883, 1.0)
    close(m.bco(ratio, wanted, 0.5, 1.0), 0.12692801104297252, 2.1269280110429725, 0.6269280110429725, LN2)
    close(m.bco(ratio, vec(1.0, 0.0, 0.5, 0.0), 0.5, 1.0, (2.0, 3.0)), 0.25385602208594504, 6.380784033128918, 3.317320027607431, 3 * LN2)
    assert m.kl_point(vec(1.0, 2.0)) == 1.5
    assert m.kl_point(vec(1.0, -2.0)) == 0.0
    assert m.kl_point(vec()) == 0.0
    assert m.midpoint(vec(4.0, 2.0, -2.0), vec(1.0, 1.0, 0.0)) == 0.5  # (3 - 2) / 2
    assert m.midpoint(vec(4.0, -1.0), vec(0.75, 0.25)) == 1.5  # 2.75 and 0.25
    assert m.midpoint(vec(4.0, 2.0), vec(1.0, 1.0)) == 3.0
    assert m.midpoint(vec(4.0, 1.0), vec(0.0, 0.0)) == 2.5
    assert m.midpoint(vec(), vec()) == 0.0
    for loss in (m.kto, m.bco):
        refuses(loss, vec(0.0, 0.0), vec(1.0), 0.1, 0.0)
    refuses(m.midpoint, vec(0.0, 0.0), vec(1.0))


def divergence(m: ModuleType) -> None:
    ratio = vec(math.log(4.0), 0.0, -math.log(2.0))
    close(m.reverse_kl(ratio, 0.5), *ratio.tolist())
    close(m.forward_kl(ratio, 0.5), 0.75, 0.0, -1.0)
    close(m.js(ratio, 0.5), math.log(1.6), 0.0, math.log(2 / 3))
    close(m.alpha_divergence(ratio, 0.5), 1.0, 0.0, 2 - 2 * math.sqrt(2.0))
    assert math.isclose(float(m.forward_kl(vec(-90.0), 0.5)), 1 - math.exp(80.0), rel_tol=1e-12)
    assert math.isclose(float(m.alpha_divergence(vec(-180.0), 0.5)), 2 - 2 * math.exp(80.0), rel_tol=1e-12)
    names = {"reverse_kl": m.reverse_kl, "forward_kl": m.forward_kl, "js": m.js, "alpha": m.alpha_divergence}
    assert names == m.DIVERGENCES
    for measure in names.values():
        refuses(measure, torch.zeros(1, 1, dtype=torch.float64), 0.5)


def whole(m: ModuleType) -> None:
    """p = 1/2, 1/4, 1/4 and q = 1/8, 1/4, 5/8; with beta 1/3 the mixture is 3/8, 1/4, 3/8. In the second row p is q."""
    p, q = (vec(*row).log().expand(2, 3).clone() for row in ((1 / 2, 1 / 4, 1 / 4), (1 / 8, 1 / 4, 5 / 8)))
    q[1] = p[1]
    forward, reverse, jsd = Divergence("forward_kl"), Divergence("reverse_kl"), Divergence("jsd", 1 / 3)
    reverse_kl = 0.5 * math.log(4.0) + 0.25 * math.log(0.4)
    of_q, of_p = math.log(1 / 3) / 8 + 5 / 8 * math.log(5 / 3), math.log(4 / 3) / 2 + math.log(2 / 3) / 4
    close(m.divergence(p, q, forward), math.log(1 / 4) / 8 + 5 / 8 * math.log(5 / 2), 0.0)
    close(m.divergence(p, q, reverse), reverse_kl, 0.0)
    close(m.divergence(p, q, jsd), of_q / 3 + of_p * 2 / 3, 0.0)
    gains = ((math.log(4.0), 0.0, math.log(0.4)), (math.log(4 / 3) * 2 / 3, 0.0, math.log(2 / 3) * 2 / 3))
    slopes = [[w * (g - mean) for w, g in zip((0.5, 0.25, 0.25), row)] for row, mean in zip(gains, (reverse_kl, of_p * 2 / 3))]
    for by, slope in ((forward, [3 / 8, 0.0, -3 / 8]), (reverse, slopes[0]), (jsd, slopes[1])):
        (first, second), probabilities = m.logit_gradient(p, q, by)
        close(probabilities[1], 0.5, 0.25, 0.25)
        close(first, *slope)
        close(second, 0.0, 0.0, 0.0)
        refuses(m.divergence, p, q[:1], by)
        refuses(m.divergence, p[0], q[0], by)
        refuses(m.logit_gradient, p, q[:1], by)
    assert math.isclose(float(m.probabilities(vec(-1e30))), math.exp(-60.0), rel_tol=1e-12)


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


def logged(m: ModuleType) -> None:
    """exp(A / 0.5) of half the logarithms of 2, 4 and 1/2, at most 3; at the bound itself nothing is cut off."""
    advantages = vec(LN2 / 2, LN2, -LN2 / 2).requires_grad_()
    weights, capped = m.awr_weights(advantages, 0.5, 3.0)
    close(weights, 2.0, 3.0, 0.5)
    assert capped.tolist() == [False, True, False]
    assert not weights.requires_grad
    weights, capped = m.awr_weights(vec(0.0), 2.0, 1.0)
    close(weights, 1.0)
    assert not capped.any()
    refuses(m.awr_weights, vec(1.0), 0.0, 1.0)
    refuses(m.awr_weights, vec(1.0), 1.0, 0.0)


def together(*cases: Any) -> Any:
    """The cases of several functions of one module."""

    def run(m: ModuleType) -> None:
        for case in cases:
            case(m)

    return run


CASES = {
    "checks": checks,
    "divergence": whole,
    "imitation": together(sft, logged),
    "kl": together(kl, divergence),
    "policy": together(policy, policy_parts, correction),
    "preference": together(preference, answers),
    "reduce": reduce,
    "reward": together(reward, ratings),
    "value": value,
}
