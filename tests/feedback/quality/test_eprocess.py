"""The e-process: by hand, by its defining property, and on planted faults."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from keel.feedback.quality import eprocess
from keel.feedback.quality.others import Crowd, gold_says, honest, ignores_task, others_counts
from keel.feedback.reliability.votes import from_arrays


def test_one_alternative_by_hand() -> None:
    hit = np.array([[True, False, True]])
    counts = np.array([[True, True, False]])
    found = np.exp(eprocess.bernoulli(hit, counts, 0.5, [0.8]))
    w = eprocess.start_weights(1)[0]  # three votes hold one start; what is left of the weight stays 1
    assert found[0] == pytest.approx([w * 1.6 + 1 - w, w * 1.6 * 0.4 + 1 - w, w * 1.6 * 0.4 + 1 - w])
    with pytest.raises(ValueError, match="alternatives"):
        eprocess.bernoulli(hit, counts, 0.5, [0.4])


def test_a_later_start_sees_what_comes_after_it_only() -> None:
    steps = np.arange(1.0, 6.0)[None]
    since = eprocess.since_starts(steps, every=2)
    assert since[0, 0].tolist() == [1, 3, 6, 10, 15]
    assert since[0, 1].tolist() == [0, 0, 3, 7, 12]
    assert since[0, 2].tolist() == [0, 0, 0, 0, 5]


def test_weights_do_not_hang_on_how_many_votes_will_come() -> None:
    hit = np.random.default_rng(0).random((1, 200)) < 0.7
    counts = np.ones_like(hit)
    long = eprocess.bernoulli(hit, counts, 0.5, [0.7, 0.9])
    short = eprocess.bernoulli(hit[:, :70], counts[:, :70], 0.5, [0.7, 0.9])
    assert short == pytest.approx(long[:, :70], abs=1e-9)
    assert eprocess.start_weights(10_000).sum() < 1.0


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_the_mean_is_at_most_one_over_every_course(p: float) -> None:
    """All 2^10 courses, weighed by their chance: the sum is 1 at the edge of the null, less inside it."""
    every = np.array(list(itertools.product([False, True], repeat=10)))
    chance = np.prod(np.where(every, p, 1 - p), axis=1)
    e = np.exp(eprocess.bernoulli(every, np.ones_like(every), 0.5, [0.7, 0.9], every=3))
    means = chance @ e
    assert means == pytest.approx(np.ones(10), abs=1e-9) if p == 0.5 else (means < 1.0).all()


CROWD = Crowd(np.array([0.4, 0.3, 0.3]), np.array([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]), np.array([0.35, 0.3, 0.35]))


def test_what_the_honest_say_by_hand() -> None:
    found = honest(CROWD, np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]), np.array([-1, -1, 1]))
    truth = np.array([0.4 * 0.7, 0.3 * 0.1, 0.3 * 0.2])
    assert found[0] == pytest.approx(truth / truth.sum() @ CROWD.says_KK)
    assert found[1] == pytest.approx(CROWD.prior_K @ CROWD.says_KK)
    assert found[2] == pytest.approx(CROWD.says_KK[1])  # a gold task needs no others


def test_gold_tasks_have_frequencies_of_their_own() -> None:
    """By hand: 20 votes seen before at 0.7, 0.1, 0.2, and four right ones on gold of the first class; none of the others."""
    said = gold_says(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 0, -1]), CROWD.says_KK)
    assert said[0] == pytest.approx(np.array([18.0, 2.0, 4.0]) / 24.0)
    assert said[1:] == pytest.approx(CROWD.says_KK[1:])
    clear = replace(CROWD, gold_KK=said)
    counts = np.array([[0.0, 0, 0], [0, 0, 0]])
    assert honest(clear, counts, np.array([0, -1]))[0] == pytest.approx(said[0])
    assert honest(clear, counts, np.array([0, -1]))[1] == pytest.approx(CROWD.prior_K @ CROWD.says_KK)  # work is as it was


def test_labels_that_ignore_the_task_have_mean_at_most_one_under_each_honest_person() -> None:
    """All 3^6 courses of six votes on six tasks, under members of the null of every corner."""
    tasks = honest(CROWD, np.array([[2, 0, 0], [0, 1, 1], [0, 0, 3], [1, 0, 0], [0, 2, 0], [0, 0, 0]], np.float64))
    every = np.array(list(itertools.product(range(3), repeat=6)))
    e = np.exp(ignores_task(CROWD, every, np.broadcast_to(tasks, (len(every), 6, 3)), tie=2, every=2))
    for loose, tilt in ((0.0, 1.0), (0.25, 1.0), (0.0, 3.0), (0.25, 1 / 3)):
        p = ((1 - loose) * tasks + loose * CROWD.label_K) * np.array([1, 1, tilt])
        p /= p.sum(1, keepdims=True)
        chance = np.prod(p[np.arange(6), every], axis=1)
        assert chance.sum() == pytest.approx(1.0)
        assert (chance @ e <= 1.0 + 1e-9).all()
    assert (e > 1.0).any()


def test_mixing_is_a_mean_and_alarms_are_first_passages() -> None:
    a, b = np.log(np.array([[1.0, 4.0]])), np.log(np.array([[2.0, 400.0]]))
    mixed = eprocess.combined([a, b], [0.25, 0.75])
    assert np.exp(mixed)[0] == pytest.approx([1.75, 301.0])
    assert eprocess.first_alarm(mixed, 0.01).tolist() == [1]
    assert eprocess.first_alarm(mixed, 0.001).tolist() == [-1]
    with pytest.raises(ValueError, match="sum to 1"):
        eprocess.combined([a, b], [0.5, 0.75])


def test_rare_is_the_mirror() -> None:
    hit = np.random.default_rng(1).random((2, 40)) < 0.2
    always = np.ones_like(hit)
    assert eprocess.rare(~hit, always, 0.6, [0.3]) == pytest.approx(eprocess.bernoulli(~hit, always, 0.4, [0.7]))
    assert eprocess.rare(~hit, always, 0.6, [0.3])[:, -1].min() > math.log(100)


def test_others_are_others() -> None:
    votes = from_arrays([0, 0, 0, 1, 0], [0, 1, 2, 0, 0], [0, 1, 1, 2, 2], 3, repeat_V=[0, 0, 0, 0, 1])
    assert others_counts(votes).tolist() == [[0, 2, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 2, 0]]
