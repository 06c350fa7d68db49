"""The choice of decoding: never one that is shown to be worse, else the nearest to what is used."""

from __future__ import annotations

import math
import random

import pytest

from keel.evaluate.sweep import Cell, least_surprising, rank


def cells(draw: random.Random, means: dict[tuple[float, float], float], n: int = 40, noise: float = 0.3) -> list[Cell]:
    hard = [draw.gauss(0, 1) for _ in range(n)]
    return [Cell(t, p, tuple(h + m + draw.gauss(0, noise) for h in hard)) for (t, p), m in means.items()]


def test_a_clear_winner_is_taken_and_the_losers_are_named() -> None:
    ranked = rank(cells(random.Random(0), {(0.0, 1.0): 0.0, (0.7, 1.0): 2.0, (1.0, 1.0): 0.0}), draws=400)
    assert [r.kept for r in ranked] == [True, False, False]
    assert ranked[0].to_best is None
    assert least_surprising(ranked, 1.0, 1.0).cell.temperature == 0.7


def test_of_equals_the_one_in_use_is_kept() -> None:
    picked = 0
    for seed in range(20):
        found = rank(cells(random.Random(seed), {(t, p): 0.0 for t in (0.5, 0.7, 1.0) for p in (0.9, 1.0)}), draws=400, seed=seed)
        chosen = least_surprising(found, 1.0, 1.0).cell
        picked += (chosen.temperature, chosen.top_p) == (1.0, 1.0)
    assert picked >= 18, "six equal settings: rarely is the one in use shown to be worse"


def test_pairs_share_what_is_the_same_prompt() -> None:
    """Prompts differ by more than the settings do: only paired differences see it."""
    ranked = rank(cells(random.Random(3), {(0.0, 1.0): 0.0, (1.0, 1.0): 0.5}, noise=0.1), draws=400)
    assert not ranked[1].kept
    assert ranked[0].mean.low < ranked[1].mean.high, "unpaired intervals overlap"


def test_what_could_not_be_scored_is_left_out_in_pairs() -> None:
    a = Cell(0.0, 1.0, (1.0, math.nan, 1.0, 1.0))
    b = Cell(1.0, 1.0, (0.0, 0.0, math.nan, 0.0))
    ranked = rank([a, b], draws=200)
    assert (ranked[0].mean.n, ranked[1].to_best.n) == (3, 2)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="no values"):
        rank([Cell(0.0, 1.0, (math.nan,))])
    with pytest.raises(ValueError, match="nothing to rank"):
        rank([])
