"""Dawid and Skene (1979): the true class of each task and each annotator's confusion matrix, by EM with priors.

The prior does two things. Its diagonal says that annotators are more often right than wrong, so the classes cannot change their names; and
an annotator with few votes stays near to it, which plain EM calls perfect.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from keel.feedback.reliability.majority import vote_share, weighed
from keel.feedback.reliability.votes import Floats, Ints, Votes

ALPHA, DIAGONAL, STEPS = 0.1, 0.5, 10


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """``posterior_TK``: P(true class | votes); ``prior_K``: how frequent the classes are; ``confusion_AKK[a, k, l]``: P(a says l | k)."""

    posterior_TK: Floats
    prior_K: Floats
    confusion_AKK: Floats
    log_likelihood: float  # of the votes, of the last E step
    iterations: int
    converged: bool

    def accuracy(self) -> Floats:
        """How often each annotator is right by the model: sum over k of P(k) P(a says k | k), float [A]."""
        return np.einsum("k,akk->a", self.prior_K, self.confusion_AKK)


def dawid_skene(
    votes: Votes, *, alpha: float = ALPHA, diagonal: float = DIAGONAL, iterations: int = STEPS, tolerance: float = 1e-6
) -> DawidSkene:
    """EM from the vote shares, to the mean of the posterior of the parameters: rows of a confusion matrix have pseudo-counts ``alpha``
    everywhere and ``diagonal`` more on the diagonal. Ends when no probability moves by ``tolerance``, or after
    ``iterations``: the likelihood goes on rising, the accuracy does not (on public crowds it falls as often; docs/feedback_quality.md).

    Each vote counts, so hand over `Votes.first_votes`. A function of the votes alone: no seed.
    """
    posterior_TK = vote_share(votes)
    prior_K, confusion_AKK, likelihood, step = _empty(votes)
    if not len(votes):
        return DawidSkene(posterior_TK, prior_K, confusion_AKK, likelihood, 0, True)
    moved = np.inf
    while step < iterations and moved > tolerance:
        prior_K, confusion_AKK = m_step(votes, posterior_TK, alpha, diagonal)
        new_TK, likelihood = e_step(votes, prior_K, confusion_AKK)
        moved = float(np.abs(new_TK - posterior_TK).max())
        posterior_TK, step = new_TK, step + 1
    order_K = names_by_votes(posterior_TK, vote_share(votes))
    return DawidSkene(posterior_TK[:, order_K], prior_K[order_K], confusion_AKK[:, order_K], likelihood, step, moved <= tolerance)


def names_by_votes(posterior_TK: Floats, share_TK: Floats) -> Ints:
    """Which column of the posterior is which class, [K]: the naming with the most votes on its side. The likelihood is the same under
    every naming, so nothing but the votes can say it. Two names are exchanged while that gains votes."""
    overlap_KK = share_TK.T @ posterior_TK  # [class, column]
    order_K = np.arange(posterior_TK.shape[1])
    changed = True
    while changed:
        changed = False
        for i, j in itertools.combinations(range(len(order_K)), 2):
            a, b = order_K[i], order_K[j]
            if overlap_KK[i, b] + overlap_KK[j, a] > overlap_KK[i, a] + overlap_KK[j, b] + 1e-9:
                order_K[i], order_K[j], changed = b, a, True
    return order_K


def m_step(votes: Votes, posterior_TK: Floats, alpha: float, diagonal: float) -> tuple[Floats, Floats]:
    """Parameters from what the tasks are believed to be: class frequencies [K] over tasks with votes, confusion [A, K, K] (equations 2.3
    and 2.4 with pseudo-counts added)."""
    A, K = len(votes.annotators), len(votes.classes)
    voted_T = np.bincount(votes.task_V, minlength=len(votes.tasks)) > 0
    counts_AKK = confusion_counts(votes, posterior_TK)
    prior_KK = alpha + diagonal * np.eye(K)
    total_AK1 = (counts_AKK + prior_KK).sum(2, keepdims=True)
    uniform_AKK = np.full((A, K, K), 1.0 / K)
    confusion_AKK = np.divide(counts_AKK + prior_KK, total_AK1, out=uniform_AKK, where=total_AK1 > 0)
    sums_K = posterior_TK[voted_T].sum(0) + alpha
    return sums_K / sums_K.sum(), confusion_AKK


def e_step(votes: Votes, prior_K: Floats, confusion_AKK: Floats) -> tuple[Floats, float]:
    """What the tasks are, from the parameters (equation 2.5), [T, K], and the log-likelihood of all votes. A task without votes gets the
    prior."""
    tiny = np.finfo(np.float64).tiny
    logs_VK = np.log(np.maximum(confusion_AKK, tiny))[votes.annotator_V, :, votes.label_V]
    joint_TK = np.log(np.maximum(prior_K, tiny)) + sum_by_task(votes, logs_VK)
    top_T1 = joint_TK.max(1, keepdims=True)
    exp_TK = np.exp(joint_TK - top_T1)
    total_T1 = exp_TK.sum(1, keepdims=True)
    return exp_TK / total_T1, float((top_T1 + np.log(total_T1)).sum())


def confusion_counts(votes: Votes, posterior_TK: Floats) -> Floats:
    """Expected number of times that a said l where the truth is k, float [A, K, K]."""
    A, K = len(votes.annotators), len(votes.classes)
    flat_V = votes.annotator_V * K + votes.label_V
    weight_VK = posterior_TK[votes.task_V]
    counts = [weighed(flat_V, weight_VK[:, k], A * K).reshape(A, K) for k in range(K)]
    return np.stack(counts, axis=1)


def sum_by_task(votes: Votes, values_VK: Floats) -> Floats:
    """Sums of rows of votes by task, float [T, K]."""
    T = len(votes.tasks)
    return np.stack([weighed(votes.task_V, values_VK[:, k], T) for k in range(values_VK.shape[1])], axis=1)


def _empty(votes: Votes) -> tuple[Floats, Floats, float, int]:
    A, K = len(votes.annotators), len(votes.classes)
    return np.full(K, 1.0 / K), np.full((A, K, K), 1.0 / K), 0.0, 0
