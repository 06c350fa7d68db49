"""What an honest person would say of a task, from what the others said of it; and the evidence that a person's labels ignore the task.

Honest people disagree: on real preferences two of three agree at best. So the null is no accuracy. It is a family of people who
follow the crowd's own conditional frequencies, given the other votes on the same task, less or more: a share ``loose`` of their votes may
be anything, and they may call ties more or less often than others do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keel.feedback.quality.eprocess import EVERY, log_sum, mixed_over_starts, starts_of
from keel.feedback.reliability.dawid_skene import confusion_counts, dawid_skene
from keel.feedback.reliability.votes import Floats, Ints, Votes

LOOSE = (0.0, 0.12, 0.25)  # the null: up to so much of an honest person's votes has nothing to do with the task
TILTS = (1 / 3, 1 / 1.7, 1.0, 1.7, 3.0)  # how much oftener or rarer than others an honest person calls ties
GOLD_PRIOR = 20.0
CONCENTRATIONS = (5.0, 40.0)  # the alternative: labels of a person's own frequencies, Dirichlet around the crowd's


@dataclass(frozen=True, slots=True)
class Crowd:
    """The crowd as one annotator: class frequencies [K], P(says l | true k) [K, K], how often each label is given at all [K], and
    P(says l | true k) of gold tasks [K, K], which are clearer than work: a wrong answer there says more. None: as of work."""

    prior_K: Floats
    says_KK: Floats
    label_K: Floats
    gold_KK: Floats | None = None


def crowd_of(votes: Votes, gold_V: Ints | None = None) -> Crowd:
    """The pooled confusion matrix of all annotators, by Dawid-Skene. One person's share of it is small where there are many. ``gold_V``:
    the known class of each vote's task, -1 where there is none."""
    found = dawid_skene(votes)
    K = len(votes.classes)
    pooled_KK = confusion_counts(votes, found.posterior_TK).sum(0) + 0.5 + np.eye(K)
    says_KK = pooled_KK / pooled_KK.sum(1, keepdims=True)
    label_K = np.bincount(votes.label_V, minlength=K) + 1.0
    gold_KK = None if gold_V is None else gold_says(votes.label_V, gold_V, says_KK)
    return Crowd(found.prior_K, says_KK, label_K / label_K.sum(), gold_KK)


def gold_says(label_V: Ints, gold_V: Ints, says_KK: Floats) -> Floats:
    """P(says l | true k) of gold tasks, [K, K]: counts, with `says_KK` as so many votes that were seen before (`GOLD_PRIOR` a class)."""
    known = gold_V >= 0
    counts_KK = np.zeros_like(says_KK)
    np.add.at(counts_KK, (gold_V[known], label_V[known]), 1.0)
    counts_KK += GOLD_PRIOR * says_KK
    return counts_KK / counts_KK.sum(1, keepdims=True)


def honest(crowd: Crowd, others_NK: Floats, gold_N: Ints | None = None) -> Floats:
    """P(label | the others' votes on the task) of a typical member of the crowd, [..., N, K]. ``others_NK`` counts the others' votes;
    ``gold_N`` is the known class of a task, -1 where there is none, and needs no others."""
    logs = np.log(crowd.prior_K) + others_NK @ np.log(crowd.says_KK).T
    said = np.exp(logs - log_sum(logs, -1)[..., None]) @ crowd.says_KK
    if gold_N is None:
        return said
    gold_KK = crowd.says_KK if crowd.gold_KK is None else crowd.gold_KK
    return np.where((gold_N >= 0)[..., None], gold_KK[np.maximum(gold_N, 0)], said)


def others_counts(votes: Votes) -> Floats:
    """Of each vote, the votes of other people on its task by class, [V, K]. A person's repeats are nobody's other vote, and of another
    person the first vote counts."""
    K, first = len(votes.classes), votes.first_votes()
    all_TK = np.bincount(first.task_V * K + first.label_V, minlength=len(votes.tasks) * K).reshape(-1, K).astype(np.float64)
    own: dict[tuple[int, int], int] = {(int(t), int(a)): int(k) for t, a, k in zip(first.task_V, first.annotator_V, first.label_V)}
    counts_VK = all_TK[votes.task_V]
    for i, (t, a) in enumerate(zip(votes.task_V, votes.annotator_V)):
        if (k := own.get((int(t), int(a)))) is not None:
            counts_VK[i, k] -= 1.0
    return counts_VK


def ignores_task(crowd: Crowd, label_PN: Ints, honest_PNK: Floats, tie: int | None = None, every: int = EVERY) -> Floats:
    """Evidence that labels have nothing to do with their tasks, from some vote on, log [P, N].

    Null: one member of the family for the person's whole time. Alternative for each start: any member before it (mixed), after it
    frequencies of the person's own without regard to the task. Below the alternative stands the best fitting member's likelihood of all
    votes so far, so the mean is at most 1 under every member (universal inference, Wasserman, Ramdas, Balakrishnan 2020). ``tie`` is the
    class whose frequency is an honest person's own.
    """
    null_QPN = np.stack([_likelihood(crowd, label_PN, honest_PNK, loose, tilt, tie) for loose, tilt in _nulls(tie)])
    total_QPN = np.cumsum(null_QPN, axis=2)
    best_PN = total_QPN.max(axis=0)
    mixed_PN = log_sum(total_QPN, 0) - np.log(len(total_QPN))
    starts_S = starts_of(label_PN.shape[1], every)
    running = np.zeros((len(label_PN), len(starts_S), label_PN.shape[1]))
    for s, start in enumerate(starts_S):
        before_P1 = mixed_PN[:, start - 1 : start] if start else np.zeros((len(label_PN), 1))
        running[:, s] = mixed_PN - best_PN  # before its start an alternative is the mixture of the honest: at most 1 too
        running[:, s, start:] = before_P1 + _own_frequencies(crowd.label_K, label_PN[:, start:]) - best_PN[:, start:]
    return mixed_over_starts(running)


def _nulls(tie: int | None) -> list[tuple[float, float]]:
    return list(itertools.product(LOOSE, TILTS if tie is not None else (1.0,)))


def _likelihood(crowd: Crowd, label_PN: Ints, honest_PNK: Floats, loose: float, tilt: float, tie: int | None) -> Floats:
    p_PNK = (1.0 - loose) * honest_PNK + loose * crowd.label_K
    if tie is not None and tilt != 1.0:
        p_PNK = p_PNK * np.where(np.arange(p_PNK.shape[-1]) == tie, tilt, 1.0)
        p_PNK = p_PNK / p_PNK.sum(-1, keepdims=True)
    return np.log(np.take_along_axis(p_PNK, label_PN[..., None], -1)[..., 0])


def _own_frequencies(label_K: Floats, label_PN: Ints) -> Floats:
    """log of the probability of the labels so far, [P, N], by Dirichlet-multinomials around the crowd's frequencies, mixed."""
    is_PNK = np.eye(len(label_K))[label_PN]
    before_PN = (np.cumsum(is_PNK, axis=1) - is_PNK)[is_PNK > 0].reshape(label_PN.shape)
    n = np.arange(label_PN.shape[1])
    found = [np.cumsum(np.log((before_PN + c * label_K[label_PN]) / (n + c)), axis=1) for c in CONCENTRATIONS]
    return log_sum(np.stack(found), 0) - np.log(len(CONCENTRATIONS))


def gold_of(votes: Votes, gold: Mapping[str, str]) -> Ints:
    """The known class of each vote's task, int [V]; -1 where none is known. Classes outside the votes' classes are not known."""
    place = {name: i for i, name in enumerate(votes.classes)}
    known_T = np.array([place.get(gold.get(t, ""), -1) for t in votes.tasks], np.int64)
    return known_T[votes.task_V] if len(votes) else np.zeros(0, np.int64)
