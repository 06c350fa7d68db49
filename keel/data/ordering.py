"""Which rows a step may take, and which of them come again: a curriculum and draws by weight, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keel.core.hashing import permutation, stable_hash, uniform


def released(step: int, total: int, start: float, until: float, stages: int) -> tuple[float, int]:
    """The share of the rows, the easiest first, that ``step`` (0-based) of ``total`` draws from, and the step from which on it is so.

    The share begins with ``start`` and grows in ``stages`` equal steps; all rows are in from ``until * total`` on.
    """
    assert stages > 0, "a curriculum has stages"
    whole = round(until * total)
    for stage in range(stages, 0, -1):
        first = round(whole * stage / stages)
        if step >= first:
            return (1.0 if stage == stages else start + (1.0 - start) * stage / stages), first
    return start, 0


def easiest_first(difficulty: Sequence[float], seed: int) -> list[int]:
    """Indices from the least difficulty to the greatest; equal ones in an order of the seed."""
    shuffled = permutation(len(difficulty), "curriculum", seed)
    return sorted(shuffled, key=lambda i: difficulty[i])


def percentiles(values: Sequence[float]) -> list[float]:
    """Where each value stands among all, from 0 to 1; equal values stand at their middle."""
    if len(values) < 2:
        return [0.5] * len(values)
    sorted_n = np.sort(np.asarray(values, dtype=np.float64))
    low_n, high_n = np.searchsorted(sorted_n, values, "left"), np.searchsorted(sorted_n, values, "right") - 1
    return [float(x) for x in (low_n + high_n) / (2.0 * (len(values) - 1))]


def row_weights(losses: NDArray[np.float64], wrong: NDArray[np.bool_], by: str, cap: float, noise: float) -> NDArray[np.float64]:
    """How much more often a row is to come than a row of weight 1; none weighs more than ``cap``.

    ``by="wrong"``: ``cap`` for rows that the model gets wrong, 1 for the others. ``by="loss"``: the loss in units of the median loss,
    between 1/cap and cap. Of the measured rows the share ``noise`` with the greatest losses weighs 1 at the most: that is where flipped
    labels are (Northcutt et al. 2021, "Confident learning", arXiv:1911.00068, ranks label errors in the same way). Rows that were not
    measured (NaN) weigh 1.

    Args:
        losses: float64 [N], NaN where not measured.
        wrong: bool [N].
        by: ``wrong`` or ``loss``.
        cap: 1 or more.
        noise: from 0 to 1.

    Returns:
        float64 [N].
    """
    assert cap >= 1.0, "a cap below 1 would draw hard rows less often"
    weights = np.ones(len(losses))
    measured = np.flatnonzero(~np.isnan(losses))
    if len(measured) == 0:
        return weights
    if by == "wrong":
        weights[measured] = np.where(wrong[measured], cap, 1.0)
    else:
        weights[measured] = np.clip(losses[measured] / max(float(np.median(losses[measured])), 1e-12), 1.0 / cap, cap)
    suspects = measured[np.argsort(-losses[measured], kind="stable")[: round(noise * len(measured))]]
    weights[suspects] = np.minimum(weights[suspects], 1.0)
    return weights


def draws(weights: Sequence[float], n: int, *parts: str | int) -> list[int]:
    """``n`` indices, each as often as its share of the weights says, to within one (systematic sampling), in an order decided by
    ``parts``. Equal weights and ``n`` of so many give every index once."""
    if n == 0:
        return []
    shuffled = permutation(len(weights), "draws", *parts)
    ends = np.cumsum(np.asarray(weights, dtype=np.float64)[shuffled])
    first = float(uniform(np.array([stable_hash("draws", *parts)], dtype=np.uint64), 0)[0])
    points = (np.arange(n) + first) * (ends[-1] / n)
    found = np.minimum(np.searchsorted(ends, points, "right"), len(weights) - 1)
    return [shuffled[int(found[i])] for i in permutation(n, "places", *parts)]
