"""CISPO's clipped weights by hand."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace

HELD_CONSTANT = True  # the weight


def check(m: ModuleType, h: SimpleNamespace) -> None:
    # ratios 1.5, 1.5, 0.5, 0.5, 1.1: weights 1.3, 1.3, 0.8, 0.8, 1.1, held constant, times log pi
    new, old = h.vec(1.5, 1.5, 0.5, 0.5, 1.1).log(), h.vec(0.0, 0.0, 0.0, 0.0, 0.0)
    terms = m.cispo(h.tokens(m, new, old, h.vec(2.0, -2.0, 2.0, -2.0, 2.0), 0.2, 0.3))
    log15, log05, log11 = 0.4054651081081644, -0.6931471805599453, 0.0953101798043249
    h.close(terms.loss_S, -2.6 * log15, 2.6 * log15, -1.6 * log05, 1.6 * log05, -2.2 * log11)
    assert terms.low_S.tolist() == [False, False, True, True, False]
    assert terms.high_S.tolist() == [True, True, False, False, False]
    free = m.cispo(h.tokens(m, h.vec(-9.0, 0.0), h.vec(-1.0, -2.0), h.vec(1.0, 1.0), 1.0, 4.0))  # no lower bound, and at most 5
    h.close(free.loss_S, 9.0 * math.exp(-8.0), 0.0)
    assert (free.low_S.tolist(), free.high_S.tolist()) == ([False, False], [False, True])
    h.close(m.cispo(h.tokens(m, h.vec(-1.0), h.vec(-3.0), h.vec(1.0), 1.0, 4.0)).loss_S, 5.0)
    kept = m.cispo(h.tokens(m, h.vec(-0.5, -0.5), h.vec(-0.5, -0.5), h.vec(1.0, -1.0), 0.0, 0.0))
    assert not (kept.low_S | kept.high_S).any()
    row = m.PolicyLoss("cispo", m.cispo, clips=True, ratio=True, explodes=False, local=True, by_sequence=False)
    assert m.POLICY_LOSSES["cispo"] == row
