"""Bradley-Terry by hand and beside evalica's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from keel.evaluate import statistics as st
from keel.evaluate.statistics.ratings import ELO, connected


def test_two_models_are_their_odds():
    """3 wins to 1: log-strengths half of ln 3 apart from 0; 190.85 points of Elo."""
    found = st.bradley_terry(np.array([[0.0, 3.0], [1.0, 0.0]]))
    assert found == pytest.approx([np.log(3) / 2, -np.log(3) / 2])
    assert ELO * (found[0] - found[1]) == pytest.approx(190.8485, abs=1e-3)


def test_beside_another_implementation():
    """evalica 0.4.2, bradley_terry with tolerance 1e-12: logs of its scores, less their mean."""
    wins = np.array([[0, 7, 3, 2.5], [3, 0, 5, 6], [7, 5, 0, 1], [4, 4, 9, 0]])
    assert st.bradley_terry(wins) == pytest.approx([-0.1264207, -0.1031299, -0.2052817, 0.4348323], abs=2e-7)


def test_what_has_no_finite_rating_is_named():
    wins = {str(i): {("a", "b"): 1.0, ("b", "a"): 0.0, ("b", "c"): 0.5, ("c", "b"): 0.5} for i in range(9)}
    found = st.ratings(wins, draws=50)
    assert found.unbounded == ("a",)
    assert set(found.elo) == {"b", "c"}
    assert found.elo["b"].mean == found.elo["c"].mean == 1000.0
    assert connected(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])) == [[0, 1, 2]]
    with pytest.raises(ValueError, match="no comparison"):
        st.ratings({})


def test_intervals_refit_on_prompts_and_hold_the_truth():
    rng = np.random.default_rng(0)
    strength = {"a": 0.0, "b": 0.5, "c": 1.0}
    wins = {}
    for i in range(200):
        scores = {name: [s + float(rng.gumbel())] for name, s in strength.items()}  # Gumbel noise makes Bradley-Terry choices
        wins[str(i)] = st.all_pairs(scores)
    found = st.ratings(wins, draws=200)
    assert list(found.elo) == ["c", "b", "a"]
    for name, s in strength.items():
        assert found.elo[name].low <= 1000 + ELO * (s - 0.5) <= found.elo[name].high


def test_all_pairs_halves_ties():
    assert st.all_pairs({"a": [1.0, 2.0], "b": [1.0], "c": []}) == {("a", "b"): 0.75, ("b", "a"): 0.25}
