"""GSPO's ratio of a sequence, by hand."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace


def check(m: ModuleType, h: SimpleNamespace) -> None:
    # log-ratios 0.5, 0.1 and -0.4: sequence ratios e^0.3 and e^-0.4, in a band of 0.2 to each side
    new, old = h.vec(-0.5, -0.9, -1.4), h.vec(-1.0, -1.0, -1.0)
    terms = m.gspo(h.tokens(m, new, old, h.vec(2.0, -1.0, -3.0), branch=[0, 0, 1]))
    h.close(terms.loss_S, -2.0 * 1.2, math.exp(0.3), 3.0 * 0.8)
    assert terms.high_S.tolist() == [True, False, False]
    assert terms.low_S.tolist() == [False, False, True]
    h.close(
        m.gspo(h.tokens(m, new, old, h.vec(2.0, -1.0, -3.0), 1.0, 9.0, [0, 0, 1])).loss_S,
        -2.0 * math.exp(0.3),
        math.exp(0.3),
        3.0 * math.exp(-0.4),
    )
    leaf = new.clone().requires_grad_()
    m.gspo(h.tokens(m, leaf, old, h.vec(2.0, -4.0, -3.0), 1.0, 9.0, [0, 0, 1])).loss_S.sum().backward()
    h.close(leaf.grad, math.exp(0.3), math.exp(0.3), 3.0 * math.exp(-0.4))  # the mean advantage of the first sequence is -1
    row = m.PolicyLoss("gspo", m.gspo, clips=True, ratio=True, explodes=True, local=False, by_sequence=True)
    assert m.POLICY_LOSSES["gspo"] == row
