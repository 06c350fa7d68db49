"""GSPO-token by hand: the sequence's ratio, each token's own gradient."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace

HELD_CONSTANT = True  # the ratio of the sequence


def check(m: ModuleType, h: SimpleNamespace) -> None:
    new, old = h.vec(-0.5, -0.9, -1.4), h.vec(-1.0, -1.0, -1.0)
    terms = m.gspo_token(h.tokens(m, new, old, h.vec(2.0, -1.0, -3.0), branch=[0, 0, 1]))
    h.close(terms.loss_S, -2.0 * 1.2, math.exp(0.3), 3.0 * 0.8)
    assert (terms.high_S.tolist(), terms.low_S.tolist()) == ([True, False, False], [False, False, True])
    leaf = new.clone().requires_grad_()
    m.gspo_token(h.tokens(m, leaf, old, h.vec(2.0, -4.0, -3.0), 1.0, 9.0, [0, 0, 1])).loss_S.sum().backward()
    h.close(leaf.grad, -2.0 * math.exp(0.3), 4.0 * math.exp(0.3), 3.0 * math.exp(-0.4))
    row = m.PolicyLoss("gspo_token", m.gspo_token, clips=True, ratio=True, explodes=True, local=False, by_sequence=False)
    assert m.POLICY_LOSSES["gspo_token"] == row
