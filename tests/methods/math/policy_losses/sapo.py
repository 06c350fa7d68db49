"""SAPO's soft gate by hand."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace


def check(m: ModuleType, h: SimpleNamespace) -> None:
    # a ratio of 1 + ln 3 / tau is a sigma of 3/4: a gate of 3 / tau, whose slope is 4 * 3/4 * 1/4 = 3/4 of the ratio
    good, bad = 1.0 + math.log(3.0), 1.0 + math.log(3.0) / 1.05
    old, advantages = h.vec(-1.0, -1.0, -1.0, -1.0), h.vec(0.5, -2.0, 2.0, -0.5)
    leaf = (old + h.vec(good, bad, 1.0, 1.0).log()).requires_grad_()
    terms = m.sapo(h.tokens(m, leaf, old, advantages))
    h.close(terms.loss_S.detach(), -1.5, 2.0 * 3.0 / 1.05, -4.0, 0.5 * 2.0 / 1.05)
    assert not (terms.low_S | terms.high_S).any()
    terms.loss_S.sum().backward()
    h.close(leaf.grad, -0.5 * 0.75 * good, 2.0 * 0.75 * bad, -2.0, 0.5)  # at a ratio of 1: -A, as every policy gradient
    h.close(m.sapo(h.tokens(m, h.vec(800.0), h.vec(0.0), h.vec(1.0))).loss_S, -4.0)  # the most that a gate lets through
    row = m.PolicyLoss("sapo", m.sapo, clips=False, ratio=True, explodes=False, local=True, by_sequence=False)
    assert m.POLICY_LOSSES["sapo"] == row
