"""The ratio without a clip, by hand."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace


def check(m: ModuleType, h: SimpleNamespace) -> None:
    new, old = h.vec(1.5, 1.5, 0.5, 0.5, 1.1).log(), h.vec(0.0, 0.0, 0.0, 0.0, 0.0)
    terms = m.surrogate(h.tokens(m, new, old, h.vec(2.0, -2.0, 2.0, -2.0, 2.0)))
    h.close(terms.loss_S, -3.0, 3.0, -1.0, 1.0, -2.2)
    assert not (terms.low_S | terms.high_S).any()
    h.close(m.surrogate(h.tokens(m, h.vec(0.0), h.vec(-0.5), h.vec(1.0))).loss_S, -math.exp(0.5))
    h.close(m.surrogate(h.tokens(m, h.vec(800.0), h.vec(0.0), h.vec(-2.0))).loss_S, 2.0 * math.exp(20.0))
    row = m.PolicyLoss("surrogate", m.surrogate, clips=False, ratio=True, explodes=True, local=True, by_sequence=False)
    assert m.POLICY_LOSSES["surrogate"] == row
