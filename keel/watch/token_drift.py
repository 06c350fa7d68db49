"""Are these texts like those? Two samples of texts, each a bag of the model's own tokens: so it works in every language it writes.

The distance is the Jensen-Shannon divergence of the two samples' token shares. How often it would be as large by chance is counted:
texts are dealt out anew between the samples (whole texts, since the tokens of one text belong together), and the distance is taken again.
So the rate of false alarms is ``alpha`` whatever the texts are like. Numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keel.core.hashing import permutation

LEAST = 20  # texts of a sample


@dataclass(frozen=True, slots=True)
class Drift:
    """``distance`` in nats (0 to ln 2); ``p``: share of the deals at least as far apart, the data's own among them. ``moved``: the tokens
    whose share changed most, (id, before, now)."""

    distance: float
    p: float
    before: int
    now: int
    moved: tuple[tuple[int, float, float], ...] = ()


def token_drift(before: Sequence[Sequence[int]], now: Sequence[Sequence[int]], deals: int = 999, seed: int = 0, tell: int = 8) -> Drift:
    """How far ``now`` is from ``before``; token ids of whole texts. The same texts give the same numbers on every machine.

    A text counts once, however long: its tokens share a weight of 1, or a few long texts would decide. Texts without tokens are left out.
    ``p`` <= alpha happens with probability <= alpha where both samples come from one source (Phipson and Smyth 2010, equation 2).

    Raises ValueError for fewer than ``LEAST`` texts on a side.
    """
    first, second = ([t for t in texts if len(t)] for texts in (before, now))
    if min(len(first), len(second)) < LEAST:
        raise ValueError(f"{len(first)} and {len(second)} texts: at least {LEAST} are needed on each side")
    texts = [*first, *second]
    ids, column = np.unique(np.concatenate([np.asarray(t, dtype=np.int64) for t in texts]), return_inverse=True)
    row = np.repeat(np.arange(len(texts)), [len(t) for t in texts])
    weight = 1.0 / np.array([len(t) for t in texts], dtype=np.float64)[row]
    total_V = np.bincount(column, weight, len(ids))
    n, m = len(first), len(second)

    def shares(chosen: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        is_now = np.zeros(len(texts), dtype=bool)
        is_now[chosen] = True
        now_V = np.bincount(column, weight * is_now[row], len(ids))
        return (total_V - now_V) / n, now_V / m

    before_V, now_V = shares(np.arange(n, n + m))
    found = _divergence(before_V, now_V)
    far = 1
    for deal in range(deals):
        chosen = np.array(permutation(n + m, "drift", seed, deal)[:m], dtype=np.int64)
        far += _divergence(*shares(chosen)) >= found - 1e-12
    order = np.argsort(-np.abs(now_V - before_V), kind="stable")[:tell]
    moved = tuple((int(ids[i]), float(before_V[i]), float(now_V[i])) for i in order)
    return Drift(found, far / (deals + 1), n, m, moved)


def _divergence(p_V: NDArray[np.float64], q_V: NDArray[np.float64]) -> float:
    """Jensen-Shannon, in nats."""
    mean_V = (p_V + q_V) / 2
    return float(sum((x * np.log(np.where(x > 0, x / mean_V, 1.0))).sum() for x in (p_V, q_V)) / 2) if len(p_V) else 0.0
