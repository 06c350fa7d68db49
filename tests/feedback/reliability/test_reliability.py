"""Aggregation of votes: by hand, by identities, and on crowds whose truth is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from keel.core.errors import DataError
from keel.feedback.reliability import calibrate
from keel.feedback.reliability.dawid_skene import dawid_skene, e_step, m_step, names_by_votes
from keel.feedback.reliability.mace import class_posterior, digamma, mace, vote_odds
from keel.feedback.reliability.majority import even, most_likely, vote_counts, vote_share
from keel.feedback.reliability.votes import Votes, from_arrays, from_comparisons, from_judgements
from keel.simulate.crowds import crowd
from keel.types import Candidate, Comparison, Message, Prompt
from keel.types.judgements import Choice, Judgement, Scores

SMALL = from_arrays([0, 0, 0, 1, 1], [0, 1, 2, 0, 1], [0, 0, 1, 1, 1], 2, tasks=3)


def accuracy(posterior_TK: np.ndarray, truth_T: np.ndarray) -> float:
    return calibrate.scores(posterior_TK, np.arange(len(truth_T)), truth_T)["accuracy"]


def test_counts_and_shares_by_hand() -> None:
    assert vote_counts(SMALL).tolist() == [[2, 1], [0, 2], [0, 0]]
    assert vote_share(SMALL)[0] == pytest.approx([2 / 3, 1 / 3])
    assert vote_share(SMALL)[2].tolist() == [0.5, 0.5]  # nobody voted
    assert vote_share(SMALL, 0.5)[1] == pytest.approx([0.5 / 3, 2.5 / 3])
    # weights 3, 1, 2 of five votes by 0, 1, 2, 0, 1: their mean is 2, so the votes count 1.5, 0.5, 1
    assert vote_share(SMALL, 0.5, [3, 1, 2])[0] == pytest.approx([2.5 / 4, 1.5 / 4])
    assert vote_share(SMALL, 0.5, [300, 100, 200]) == pytest.approx(vote_share(SMALL, 0.5, [3, 1, 2]))
    assert most_likely(vote_share(SMALL)).tolist() == [0, 1, 0]
    assert even(vote_share(SMALL)).tolist() == [False, False, True]
    with pytest.raises(ValueError, match="one weight"):
        vote_counts(SMALL, [1.0, -1.0, 1.0])


def test_one_step_of_em_by_hand() -> None:
    posterior = np.array([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]])
    prior, confusion = m_step(SMALL, posterior, alpha=0.1, diagonal=0.5)
    # annotator 0 said class 0 of task 0 and class 1 of task 1; true class 0 has mass 0.75 and 0.25 there
    assert confusion[0, 0] == pytest.approx([(0.75 + 0.6) / 1.7, (0.25 + 0.1) / 1.7])
    assert confusion[0, 1] == pytest.approx([(0.25 + 0.1) / 1.7, (0.75 + 0.6) / 1.7])
    assert confusion[2, 0] == pytest.approx([0.6 / 1.45, (0.75 + 0.1) / 1.45])
    assert prior == pytest.approx([0.5, 0.5])  # the task without votes is not counted
    new, likelihood = e_step(SMALL, prior, confusion)
    p0 = 0.5 * confusion[0, 0, 0] * confusion[1, 0, 0] * confusion[2, 0, 1]
    p1 = 0.5 * confusion[0, 1, 0] * confusion[1, 1, 0] * confusion[2, 1, 1]
    q0 = 0.5 * confusion[0, 0, 1] * confusion[1, 0, 1]
    q1 = 0.5 * confusion[0, 1, 1] * confusion[1, 1, 1]
    assert new[0] == pytest.approx([p0 / (p0 + p1), p1 / (p0 + p1)])
    assert new[2] == pytest.approx([0.5, 0.5])
    assert likelihood == pytest.approx(math.log(p0 + p1) + math.log(q0 + q1))


def test_em_without_priors_never_lowers_the_likelihood() -> None:
    votes, _ = crowd(7)
    found = [dawid_skene(votes, alpha=0.0, diagonal=0.0, iterations=n).log_likelihood for n in range(1, 25)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(found))
    assert found[-1] > found[0] + 1.0


def test_digamma_by_known_values() -> None:
    gamma = 0.5772156649015329
    assert digamma(np.array([1.0, 2.0, 0.5])) == pytest.approx([-gamma, 1 - gamma, -gamma - 2 * math.log(2)], abs=1e-10)
    x = np.linspace(0.05, 40, 200)
    assert digamma(x + 1) - digamma(x) == pytest.approx(1 / x, rel=1e-9)


def test_one_step_of_mace_by_hand() -> None:
    votes = from_arrays([0, 0], [0, 1], [0, 1], 2)
    is_truth, is_spam = vote_odds(votes, np.array([1.0, 0.0]), np.array([[0.0, 0.0], [0.0, 1.0]]), truth=1.0, spam=1.0, habit=1.0)
    psi = lambda v: float(digamma(np.array([v]))[0])  # noqa: E731
    assert is_truth == pytest.approx([math.exp(psi(2) - psi(3)), math.exp(psi(1) - psi(3))])
    assert is_spam == pytest.approx([math.exp(psi(1) - psi(3) + psi(1) - psi(2)), math.exp(psi(2) - psi(3) + psi(2) - psi(3))])
    odds = (1 + is_truth[0] / is_spam[0]) / (1 + is_truth[1] / is_spam[1])
    assert class_posterior(votes, is_truth, is_spam, np.zeros(2))[0] == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])


def permuted(votes: Votes, what: str, order: np.ndarray) -> Votes:
    place = np.argsort(order)
    field = {"tasks": "task_V", "annotators": "annotator_V", "classes": "label_V"}[what]
    names = tuple(getattr(votes, what)[i] for i in order)
    return replace(votes, **{field: place[getattr(votes, field)], what: names})


@pytest.mark.parametrize("method", [dawid_skene, mace])
def test_names_and_order_decide_nothing(method: object) -> None:
    votes, _ = crowd(11, classes=3)
    fit = lambda v: method(v).posterior_TK  # noqa: E731  # type: ignore[operator]
    base, rng = fit(votes), np.random.default_rng(0)
    assert fit(votes.where(rng.permutation(len(votes)))) == pytest.approx(base, abs=1e-9)
    assert fit(permuted(votes, "annotators", rng.permutation(20))) == pytest.approx(base, abs=1e-9)
    tasks = rng.permutation(200)
    assert fit(permuted(votes, "tasks", tasks)) == pytest.approx(base[tasks], abs=1e-9)
    assert fit(permuted(votes, "classes", np.array([2, 0, 1]))) == pytest.approx(base[:, [2, 0, 1]], abs=1e-9)


@pytest.mark.parametrize("method", [dawid_skene, mace])
def test_classes_keep_their_names_and_majority_is_not_far_above(method: object) -> None:
    gains = []
    for seed in range(30):
        votes, truth = crowd(seed, tasks=60, people=12, classes=2 + seed % 4, per_task=4)
        posterior = method(votes).posterior_TK  # type: ignore[operator]
        guarded = calibrate.guarded(posterior, vote_share(votes))
        gains.append(accuracy(guarded, truth) - accuracy(vote_share(votes), truth))
    assert min(gains) > -0.1
    assert np.mean(gains) > 0.0


def test_a_class_that_nobody_names_and_no_votes_at_all() -> None:
    votes = from_arrays([0, 0, 1], [0, 1, 0], [0, 0, 1], 3)
    for posterior in (dawid_skene(votes).posterior_TK, mace(votes).posterior_TK):
        assert np.isfinite(posterior).all()
        assert posterior.sum(1) == pytest.approx([1.0, 1.0])
        assert most_likely(posterior).tolist() == [0, 1]
    nothing = from_arrays([], [], [], 2, tasks=2, annotators=1)
    assert dawid_skene(nothing).posterior_TK.tolist() == [[0.5, 0.5]] * 2
    assert mace(nothing).posterior_TK.tolist() == [[0.5, 0.5]] * 2


def test_a_wrong_way_round_annotator_is_used_not_lost() -> None:
    votes, truth = crowd(5, classes=3, per_task=6, people=12)
    turned = replace(votes, label_V=np.where(votes.annotator_V < 2, (truth[votes.task_V] + 1) % 3, votes.label_V))
    found = dawid_skene(turned)
    assert found.accuracy()[:2].max() < 0.1
    assert accuracy(found.posterior_TK, truth) > accuracy(vote_share(turned), truth) + 0.05


def test_names_of_classes_are_those_of_the_votes() -> None:
    share = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.2, 0.8]])
    turned = np.eye(3)[[2, 0, 1]]  # what column 2 calls is class 0, column 0 is class 1, column 1 is class 2
    assert names_by_votes(turned, share).tolist() == [2, 0, 1]
    assert names_by_votes(np.eye(3), share).tolist() == [0, 1, 2]


SETS = {
    "three": {"seed": 1},
    "two": {"seed": 2, "classes": 2, "per_task": 3},
    "skewed": {"seed": 3, "classes": 4, "skew": 0.4, "tasks": 300, "people": 40},
}
# crowd-kit 1.4.2, `DawidSkene(n_iter=100)`, `MACE(n_restarts=10, random_state=0)` on the same votes: accuracy, Brier
CROWD_KIT = {
    "three": {"ds": (0.835, 0.2703), "mace": (0.835, 0.2023)},
    "two": {"ds": (0.725, 0.4014), "mace": (0.745, 0.3414)},
    "skewed": {"ds": (0.8267, 0.3354), "mace": (0.8933, 0.1523)},
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_as_right_as_crowd_kit(name: str) -> None:
    votes, truth = crowd(**SETS[name])  # type: ignore[arg-type]
    stored = CROWD_KIT[name]
    tasks = np.arange(len(truth))
    ours = calibrate.scores(dawid_skene(votes).posterior_TK, tasks, truth)
    assert ours["accuracy"] >= stored["ds"][0] - 0.01
    assert ours["brier"] <= stored["ds"][1] + 0.01
    assert accuracy(mace(votes).posterior_TK, truth) >= stored["mace"][0] - 0.035  # 7 of 200 tasks: theirs is the best of ten starts


@pytest.mark.parametrize("name", sorted(SETS))
def test_the_plain_form_is_crowd_kits(name: str) -> None:
    votes, truth = crowd(**SETS[name])  # type: ignore[arg-type]
    plain = calibrate.scores(dawid_skene(votes, alpha=0.0, diagonal=0.0, iterations=100).posterior_TK, np.arange(len(truth)), truth)
    assert (plain["accuracy"], plain["brier"]) == pytest.approx(CROWD_KIT[name]["ds"], abs=0.012)


def dependent(seed: int) -> tuple[Votes, np.ndarray]:
    """Two classes, nine votes a task; on a third of the tasks nearly everybody is led to the same answer, right or wrong by a coin."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(400) < 0.5).astype(np.int64)
    hard = rng.random(400) < 0.33
    said = np.where(rng.random(400) < 0.5, truth, 1 - truth)
    chance = rng.random((400, 9))
    labels = np.where(chance < 0.85, np.where(hard, said, truth)[:, None], 1 - np.where(hard, said, truth)[:, None])
    people = np.argsort(rng.random((400, 15)), axis=1)[:, :9]
    return from_arrays(np.repeat(np.arange(400), 9), people.ravel(), labels.ravel(), 2, annotators=15), truth


def test_calibration_takes_back_what_dependence_made_too_sure() -> None:
    for seed in range(3):
        votes, truth = dependent(seed)
        posterior, share = dawid_skene(votes).posterior_TK, vote_share(votes, calibrate.MASS / 2)
        gold = {t: int(truth[t]) for t in range(80)}
        found = calibrate.fit(posterior, share, gold)
        rest = np.arange(80, 400)
        soft, raw = (calibrate.scores(p, rest, truth[rest]) for p in (found.apply(posterior, share), posterior))
        plain = calibrate.scores(vote_share(votes), rest, truth[rest])
        assert soft["log_loss"] < raw["log_loss"] - 0.1
        assert soft["brier"] <= plain["brier"] + 0.01
        assert found.log_loss <= found.log_loss_share


def test_calibration_is_the_best_of_its_grid_and_needs_gold() -> None:
    votes, truth = dependent(0)
    posterior, share = dawid_skene(votes).posterior_TK, vote_share(votes, 0.1)
    found = calibrate.fit(posterior, share, {t: int(truth[t]) for t in range(400)})
    right = lambda p: calibrate.log_loss_of(p[np.arange(400), truth])  # noqa: E731
    assert found.log_loss == pytest.approx(right(found.apply(posterior, share)))
    best = min(right(m * share + (1 - m) * calibrate.tempered(posterior, t)) for t in calibrate.TEMPERATURES for m in calibrate.MIXES)
    assert found.log_loss <= best + 0.1 * calibrate.PRIOR_GOLD / 400 + 1e-12
    few = calibrate.fit(posterior, share, {t: int(truth[t]) for t in range(19)})
    assert (few.mix, few.gold) == (1.0, 19)
    assert few.apply(posterior, share) == pytest.approx(share)


def test_tempered_by_hand() -> None:
    assert calibrate.tempered(np.array([[0.8, 0.2]]), 2.0)[0] == pytest.approx([2 / 3, 1 / 3])
    assert calibrate.tempered(np.array([[1.0, 0.0]]), 1.0)[0, 1] == pytest.approx(1e-6, rel=1e-3)
    with pytest.raises(ValueError, match="above 0"):
        calibrate.tempered(np.array([[1.0, 0.0]]), 0.0)
    wrong = np.array([[0.0, 1.0]])
    assert calibrate.guarded(wrong, np.array([[0.8, 0.2]]))[0] == pytest.approx([0.48, 0.52])  # four to one: overturned
    assert calibrate.guarded(wrong, np.array([[0.9, 0.1]]))[0] == pytest.approx([0.54, 0.46])  # nine to one: not


def test_scores_by_hand() -> None:
    soft = np.array([[0.5, 0.5], [0.9, 0.1]])
    found = calibrate.scores(soft, np.array([0, 1]), np.array([0, 1]))
    assert found["accuracy"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["brier"] == pytest.approx((0.5 + 2 * 0.81) / 2)
    assert found["log_loss"] == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)


A, B = Candidate("a", "one"), Candidate("b", "two")
PROMPT = Prompt("p", (Message("user", "q"),))


def test_comparisons_in_either_order_are_one_task() -> None:
    rows = [
        Comparison("1", PROMPT, (A, B), "first", 0.5, "ann", "pairwise-v1", (1, 0)),
        Comparison("2", PROMPT, (B, A), "first", 0.5, "bob", "pairwise-v1", (0, 1)),
        Comparison("3", PROMPT, (B, A), "tie", 0.0, "ann", "pairwise-v1", (1, 0)),
    ]
    votes = from_comparisons(rows)
    assert len(votes.tasks) == 1
    assert [votes.classes[i] for i in votes.label_V] == ["first", "second", "tie"]
    assert votes.side_V.tolist() == [1, 1, 0]  # A stood right, right, left
    assert votes.repeat_V.tolist() == [0, 0, 1]
    assert len(votes.first_votes()) == 2


def judgement(event_id: str, chosen: str, **changes: object) -> Judgement:
    base = Judgement(event_id, "t", "ann", "work", Choice(chosen), (1, 0), "pairwise-v1", "2026-01-01T00:00:10Z", active_ms=2500)  # type: ignore[arg-type]
    return replace(base, **changes)  # type: ignore[arg-type]


def test_judgements_become_votes_or_are_counted() -> None:
    rows = [
        judgement("late", "second", at="2026-01-01T00:01:00Z"),
        judgement("early", "first"),
        judgement("other", "tie", by="bob", replaces="gone"),
        judgement("gone", "first", by="bob"),
        judgement("dunno", "cannot", by="eve"),
        judgement("drill", "first", purpose="training"),
        judgement("rated", "first", answer=Scores(0, {"accuracy": 3.0})),
    ]
    votes = from_judgements(rows)
    assert [(votes.annotators[a], votes.classes[k]) for a, k in zip(votes.annotator_V, votes.label_V)] == [
        ("ann", "first"),
        ("bob", "tie"),
        ("ann", "second"),
    ]
    assert votes.repeat_V.tolist() == [0, 0, 1]  # by time, not by place in the file
    assert votes.side_V.tolist() == [1, 1, 1]
    assert votes.seconds_V.tolist() == [2.5] * 3
    assert votes.at_V[2] - votes.at_V[0] == 50.0
    assert votes.skipped == {"taken back": 1, "chosen cannot": 1, "purpose training": 1, "answers of kind scores": 1}
    with pytest.raises(DataError, match="several protocols"):
        from_judgements([judgement("a", "first"), judgement("b", "first", protocol="v2")])


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="label 2, but there are 2"):
        from_arrays([0], [0], [2], 2)
    with pytest.raises(DataError, match="differ in length"):
        from_arrays([0, 0], [0], [1], 2)
    with pytest.raises(TypeError, match="no such array"):
        from_arrays([0], [0], [1], 2, weight_V=[1.0])
