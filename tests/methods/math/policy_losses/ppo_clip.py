"""PPO's clip by hand."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace


def check(m: ModuleType, h: SimpleNamespace) -> None:
    # ratios 1.5, 1.5, 0.5, 0.5, 1.1; advantages 2, -2, 2, -2, 2: clipped up to 1.3 only for A > 0; down to 0.8 only for A < 0
    new, old = h.vec(1.5, 1.5, 0.5, 0.5, 1.1).log(), h.vec(0.0, 0.0, 0.0, 0.0, 0.0)
    terms = m.ppo_clip(h.tokens(m, new, old, h.vec(2.0, -2.0, 2.0, -2.0, 2.0), 0.2, 0.3))
    h.close(terms.loss_S, -2.6, 3.0, -1.0, 1.6, -2.2)
    assert terms.low_S.tolist() == [False, False, False, True, False]
    assert terms.high_S.tolist() == [True, False, False, False, False]
    h.close(m.ppo_clip(h.tokens(m, h.vec(0.0), h.vec(-0.1), h.vec(1.0))).loss_S, -math.exp(0.1))
    inside = m.ppo_clip(h.tokens(m, h.vec(0.9, 1.1, 1.1).log(), h.vec(0.0, 0.0, 0.0), h.vec(-2.0, -2.0, 2.0)))
    assert not (inside.low_S | inside.high_S).any()
    slight = m.ppo_clip(h.tokens(m, h.vec(0.5, 1.5).log(), h.vec(0.0, 0.0), h.vec(-0.5, 0.5)))
    assert (slight.low_S.tolist(), slight.high_S.tolist()) == ([True, False], [False, True])
    still = m.ppo_clip(h.tokens(m, h.vec(0.5, -0.5), h.vec(0.0, 0.0), h.vec(0.0, 0.0)))
    assert not (still.low_S | still.high_S).any()  # no advantage: nothing was held back
    edge = m.ppo_clip(h.tokens(m, h.vec(0.0, 0.0), h.vec(0.0, 0.0), h.vec(1.0, -1.0), 0.0, 0.0))
    assert not (edge.low_S | edge.high_S).any()  # on the edge of the band: the gradient still flows
    h.close(m.ppo_clip(h.tokens(m, h.vec(800.0), h.vec(0.0), h.vec(-2.0))).loss_S, 2.0 * math.exp(20.0))  # e^800 would overflow
    row = m.PolicyLoss("ppo_clip", m.ppo_clip, clips=True, ratio=True, explodes=True, local=True, by_sequence=False)
    assert m.POLICY_LOSSES["ppo_clip"] == row
