"""The studies' pure parts, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from labs.study.curves import area, at_kl, best_of_n, best_of_n_kl, cross_peaks, envelope, fit_form, pareto, peak, spread


def test_best_of_n_is_the_mean_over_all_draws() -> None:
    scores, values = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([10.0, 20.0, 40.0, 0.0])
    for n in (1, 2, 3, 4):
        draws = list(itertools.combinations(range(4), n))
        by_hand = sum(float(values[max(d, key=lambda i: float(scores[i]))]) for d in draws) / len(draws)
        assert best_of_n(scores, values, n) == pytest.approx(by_hand, abs=1e-12)
    assert best_of_n(scores, values, 2) == pytest.approx((40 + 10 + 0 + 10 + 0 + 0) / 6)


def test_equal_scores_share_their_values() -> None:
    scores, values = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 6.0, 12.0])
    assert best_of_n(scores, values, 2) == pytest.approx(9.0)
    assert best_of_n(scores.flip(0), values.flip(0), 3) == pytest.approx(9.0)


def test_best_of_many_does_not_overflow_and_refuses_what_cannot_be() -> None:
    scores = torch.arange(4096.0)
    assert best_of_n(scores, scores, 1) == pytest.approx(2047.5)
    assert best_of_n(scores, scores, 1024) == pytest.approx(1024 * 4097 / 1025 - 1)  # n (N + 1) / (n + 1), counted from 1
    for n in (0, 4097):
        with pytest.raises(ValueError, match="best of"):
            best_of_n(scores, scores, n)


def test_the_kl_of_best_of_n() -> None:
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    chances = [0.2, 0.3, 0.5]  # three answers in rising order: best of 2 has P(max = i), its KL cannot be above the formula's
    below = [sum(chances[: i + 1]) for i in range(3)]
    best = [below[0] ** 2, below[1] ** 2 - below[0] ** 2, 1 - below[1] ** 2]
    assert sum(q * math.log(q / p) for q, p in zip(best, chances, strict=True)) < best_of_n_kl(2)


def test_the_peak_is_chosen_by_the_other_seeds() -> None:
    assert peak([1.0, 3.0, 3.0, 2.0]) == 1
    curves = [[0.0, 9.0, 2.0], [0.0, 1.0, 5.0], [0.0, 2.0, 3.0]]
    assert cross_peaks(curves) == [2, 1, 1]  # sums of the others: [0, 3, 8], [0, 11, 5], [0, 10, 7]
    assert cross_peaks(curves[:1]) == [1]


def test_intervals_are_students() -> None:
    assert spread([2.0]) == (2.0, None, None)
    mean, low, high = spread([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))


def test_a_value_between_two_points() -> None:
    assert at_kl([0.0, 2.0, 4.0], [0.0, 1.0, 5.0], 3.0) == pytest.approx(3.0)
    assert at_kl([0.0, 2.0], [1.0, 3.0], 0.0) == 1.0
    with pytest.raises(ValueError, match="no point"):
        at_kl([0.0, 2.0], [0.0, 1.0], 2.5)


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_the_forms_give_back_what_they_were_made_of(form: str) -> None:
    kls = [0.0, 0.5, 1.0, 4.0, 9.0, 16.0]
    roots = [math.sqrt(kl) for kl in kls]
    values = [0.2 + d * (1.5 - 0.3 * (d if form == "bon" else math.log(max(d, 1e-9)))) for d in roots]
    fit = fit_form(kls, values, form)
    assert fit is not None
    assert fit == pytest.approx((1.5, 0.3, 0.2, 1.0), abs=1e-9)
    assert fit_form(kls[:4], values[:4], form) is None  # three points above 0 for three unknowns prove nothing


def test_the_front_and_what_a_kl_buys() -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (2.0, 2.0), (3.0, 2.5), (4.0, 3.0), (5.0, 4.0), (5.0, 4.0)]
    assert pareto(points) == [True, True, False, False, False, True, True]
    assert envelope(points, 3.5) == 3.0
    with pytest.raises(ValueError, match=r"at a KL of 0\.5"):
        envelope(points, 0.5)
    assert area([(0.0, 0.0), *points], 4.0) == pytest.approx(0 * 1 + 1 * 1 + 3 * 2)
    assert area([(1e-7, 1.0)], 2.0) == pytest.approx(2.0)
    assert area([(-0.1, 0.5), (1.0, 0.2), (3.0, 2.0)], 4.0) == pytest.approx(0.5 * 3 + 2.0)
