"""Calibration where labels have ties and several annotators, on votes of known probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from keel.evaluate.measures import fit_temperature, pair_calibration
from keel.evaluate.reward_measures import ScoredLabel, Ties, measure
from keel.methods.math.reward import davidson, rao_kupper

WEIGHT = 1.5  # of a tie


def chances(lead: float) -> tuple[float, float, float]:
    """Davidson's win, tie, loss."""
    parts = math.exp(lead / 2), WEIGHT, math.exp(-lead / 2)
    return tuple(p / sum(parts) for p in parts)  # type: ignore[return-value]


def voted(n: int = 4000, annotators: int = 5) -> list[tuple[float, float, float]]:
    """(true lead, share of votes with ties half, majority's label) of pairs that annotators voted on by these chances."""
    draw = np.random.default_rng(0)
    rows = []
    for lead in draw.normal(0.0, 2.0, n):
        votes = draw.choice([1.0, 0.5, 0.0], size=annotators, p=chances(float(lead)))
        wins, losses = int((votes == 1).sum()), int((votes == 0).sum())
        rows.append((float(lead), float(votes.mean()), 1.0 if wins > losses else 0.0 if losses > wins else 0.5))
    return rows


@pytest.mark.parametrize(("model", "loss"), [("davidson", davidson), ("rao_kupper", rao_kupper)])
@pytest.mark.parametrize("lead", [-30.0, -2.0, 0.0, 0.3, 4.0, 30.0])
@pytest.mark.parametrize("log_weight", [-3.0, 0.4, 2.0])
def test_the_margin_is_the_log_odds_of_what_the_loss_believes(model: str, loss, lead: float, log_weight: float) -> None:
    def minus_log_chance(win: float, tie: float) -> float:
        args = (torch.tensor([x], dtype=torch.float64) for x in (lead, 0.0, win + tie / 2, tie, log_weight))
        return float(loss(*args))

    win, tie, lost = (math.exp(-minus_log_chance(*votes)) for votes in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)))
    assert win + tie + lost == pytest.approx(1.0)
    assert Ties(log_weight, model).margin(lead) == pytest.approx(math.log((win + tie / 2) / (lost + tie / 2)), rel=1e-9, abs=1e-12)


def test_a_true_model_is_calibrated_only_when_its_ties_count() -> None:
    rows, ties = voted(), Ties(math.log(WEIGHT))
    labels = [y for _, y, _ in rows]
    assert pair_calibration([ties.margin(d) for d, _, _ in rows], labels).ece < 0.01
    assert pair_calibration([d for d, _, _ in rows], labels).ece > 0.06


def test_soft_labels_keep_the_scale_and_majorities_stretch_it() -> None:
    rows, ties = voted(), Ties(math.log(WEIGHT))
    margins = [ties.margin(d) for d, _, _ in rows]
    assert fit_temperature(margins, [y for _, y, _ in rows]) == pytest.approx(1.0, abs=0.05)
    assert fit_temperature(margins, [m for _, _, m in rows]) < 0.6


def test_measures_follow_the_ties_of_the_model() -> None:
    judged = [ScoredLabel(f"p{i}", (d, 0.0), ((0, 1, y),)) for i, (d, y, _) in enumerate(voted(400))]
    from dataclasses import replace

    told = [replace(j, ties=Ties(math.log(WEIGHT))) for j in judged]
    plain, with_ties = measure(judged, draws=50), measure(told, draws=50)
    assert with_ties["accuracy"]["mean"] == plain["accuracy"]["mean"], "the order is the same"
    assert with_ties["calibration"]["ece"] < 0.5 * plain["calibration"]["ece"]
    assert with_ties["temperature"] == pytest.approx(1.0, abs=0.15)
