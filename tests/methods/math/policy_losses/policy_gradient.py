"""REINFORCE by hand."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace


def check(m: ModuleType, h: SimpleNamespace) -> None:
    terms = m.policy_gradient(h.tokens(m, h.vec(-0.5, -2.0), h.vec(-1.0, -1.0), h.vec(3.0, -1.0)))
    h.close(terms.loss_S, 1.5, -2.0)
    assert terms.low_S.tolist() == terms.high_S.tolist() == [False, False]
    row = m.PolicyLoss("policy_gradient", m.policy_gradient, clips=False, ratio=False, explodes=False, local=True, by_sequence=False)
    assert m.POLICY_LOSSES["policy_gradient"] == row
