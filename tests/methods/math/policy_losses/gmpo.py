"""GMPO by hand: the geometric mean of token ratios that are clipped in log space."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace


def check(m: ModuleType, h: SimpleNamespace) -> None:
    # A > 0: 0.9 counts as 0.4, -0.6 and 0.1 as they are: a mean of -0.1 / 3. A < 0: -0.7 counts as -0.3, 0.5 as it is: 0.1
    new, old = h.vec(-0.1, -1.6, -0.9, -1.7, -0.5), h.vec(-1.0, -1.0, -1.0, -1.0, -1.0)
    advantages, branch = h.vec(2.0, 2.0, 2.0, -3.0, -3.0), [0, 0, 0, 1, 1]
    terms = m.gmpo(h.tokens(m, new, old, advantages, 0.3, 0.4, branch))
    up, down = math.exp(-0.1 / 3), math.exp(0.1)
    h.close(terms.loss_S, -2.0 * up, -2.0 * up, -2.0 * up, 3.0 * down, 3.0 * down)
    assert terms.high_S.tolist() == [True, False, False, False, False]
    assert terms.low_S.tolist() == [False, False, False, True, False]
    leaf = new.clone().requires_grad_()
    (m.gmpo(h.tokens(m, leaf, old, advantages, 0.3, 0.4, branch)).loss_S / h.vec(3.0, 3.0, 3.0, 2.0, 2.0)).sum().backward()
    h.close(leaf.grad, 0.0, -2.0 * up / 3, -2.0 * up / 3, 0.0, 3.0 * down / 2)  # what is clipped has none, the others an equal share
    # advantages of tokens: each is clipped by its own sign, one of 0 as a good one
    mixed = m.gmpo(h.tokens(m, h.vec(0.0, -2.0, -2.0, 0.0), h.vec(-1.0, -1.0, -1.0, -1.0), h.vec(0.5, -0.5, 0.0, 0.0), 0.3, 0.4))
    h.close(mixed.loss_S, -0.5 * math.exp((0.4 - 0.3 - 1.0 + 0.4) / 4), 0.5 * math.exp(-0.5 / 4), 0.0, 0.0)
    assert (mixed.low_S.tolist(), mixed.high_S.tolist()) == ([False, True, False, False], [True, False, False, False])
    inside = m.gmpo(h.tokens(m, h.vec(-1.1, -0.9), h.vec(-1.0, -1.0), h.vec(-1.0, 1.0), 0.3, 0.4))
    assert not (inside.low_S | inside.high_S).any()
    edge = m.gmpo(h.tokens(m, h.vec(0.0, 0.0), h.vec(0.0, 0.0), h.vec(1.0, -1.0), 0.0, 0.0))
    assert not (edge.low_S | edge.high_S).any()
    h.close(m.gmpo(h.tokens(m, h.vec(800.0), h.vec(0.0), h.vec(-2.0))).loss_S, 2.0 * math.exp(20.0))
    row = m.PolicyLoss("gmpo", m.gmpo, clips=True, ratio=True, explodes=True, local=False, by_sequence=True)
    assert m.POLICY_LOSSES["gmpo"] == row
