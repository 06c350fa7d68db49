"""MACE (Hovy, Berg-Kirkpatrick, Vaswani, Hovy 2013), the variational form: each vote is the truth, or a spam answer drawn from the
annotator's habit. Plain EM can end far below the majority; the variational one with its priors does not give an annotator up on few votes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keel.feedback.reliability.dawid_skene import sum_by_task
from keel.feedback.reliability.majority import vote_share, weighed
from keel.feedback.reliability.votes import Floats, Votes

TRUTH, SPAM, HABIT, CLASSES = 2.0, 1.0, 1.0, 1.0


@dataclass(frozen=True, slots=True)
class Mace:
    """``posterior_TK``: P(true class | votes); ``competence_A``: mean share of an annotator's votes that are not spam; ``habit_AK``: what
    the annotator says when it is spam."""

    posterior_TK: Floats
    competence_A: Floats
    habit_AK: Floats
    iterations: int
    converged: bool


def mace(
    votes: Votes,
    *,
    truth: float = TRUTH,
    spam: float = SPAM,
    habit: float = HABIT,
    classes: float | None = CLASSES,
    iterations: int = 50,
    tolerance: float = 1e-6,
) -> Mace:
    """Mean-field variational Bayes from the vote shares: Beta(truth, spam) on the share of votes that are the truth, Dirichlet(habit) on
    the spam answers, and, beyond the paper, Dirichlet(classes) on how frequent the classes are; None takes
    all as equally likely. Deterministic: no restarts, no seed. Each vote counts, so hand over `Votes.first_votes`."""
    posterior_TK = vote_share(votes)
    A, K = len(votes.annotators), len(votes.classes)
    right_A, spam_AK = np.zeros(A), np.zeros((A, K))
    moved, step = np.inf, 0
    right_V = posterior_TK[votes.task_V, votes.label_V]  # first belief: a vote is the truth as often as others say the same
    while len(votes) and step < iterations and moved > tolerance:
        right_A = weighed(votes.annotator_V, right_V, A)
        spam_AK = weighed(votes.annotator_V * K + votes.label_V, 1.0 - right_V, A * K).reshape(A, K)
        is_truth_V, is_spam_V = vote_odds(votes, right_A, spam_AK, truth, spam, habit)
        new_TK = class_posterior(votes, is_truth_V, is_spam_V, _class_logs(votes, posterior_TK, classes))
        share_V = is_truth_V / (is_truth_V + is_spam_V)
        right_V = new_TK[votes.task_V, votes.label_V] * share_V
        moved = float(np.abs(new_TK - posterior_TK).max())
        posterior_TK, step = new_TK, step + 1
    total_A = right_A + spam_AK.sum(1)
    habit_AK = (spam_AK + habit) / (spam_AK + habit).sum(1, keepdims=True) if K else spam_AK
    return Mace(posterior_TK, (right_A + truth) / (total_A + truth + spam), habit_AK, step, moved <= tolerance or not len(votes))


def vote_odds(votes: Votes, right_A: Floats, spam_AK: Floats, truth: float, spam: float, habit: float) -> tuple[Floats, Floats]:
    """exp of the expected logs, of each vote: that it is the truth, and that it is spam and this class, float [V] each (the E step of
    variational Bayes: exp(digamma) in place of the parameters)."""
    missed_A = spam_AK.sum(1)
    total_A = digamma(right_A + missed_A + truth + spam)
    log_truth_A, log_spam_A = digamma(right_A + truth) - total_A, digamma(missed_A + spam) - total_A
    log_habit_AK = digamma(spam_AK + habit) - digamma((spam_AK + habit).sum(1))[:, None]
    who_V = votes.annotator_V
    return np.exp(log_truth_A)[who_V], np.exp(log_spam_A[who_V] + log_habit_AK[who_V, votes.label_V])


def _class_logs(votes: Votes, posterior_TK: Floats, classes: float | None) -> Floats:
    if classes is None:
        return np.zeros(posterior_TK.shape[1])
    voted_T = np.bincount(votes.task_V, minlength=len(votes.tasks)) > 0
    sums_K = posterior_TK[voted_T].sum(0) + classes
    return digamma(sums_K) - digamma(sums_K.sum())


def class_posterior(votes: Votes, is_truth_V: Floats, is_spam_V: Floats, class_K: Floats) -> Floats:
    """P(class) of each task, [T, K]: a vote multiplies its own class by (truth + spam) / spam, the classes start at exp(``class_K``)."""
    K = len(votes.classes)
    gain_VK = np.zeros((len(votes), K))
    gain_VK[np.arange(len(votes)), votes.label_V] = np.log1p(is_truth_V / is_spam_V)
    logs_TK = class_K + sum_by_task(votes, gain_VK)
    exp_TK = np.exp(logs_TK - logs_TK.max(1, keepdims=True))
    return exp_TK / exp_TK.sum(1, keepdims=True)


def digamma(x: Floats) -> Floats:
    """psi(x) for x > 0: lifted above 6 by psi(x) = psi(x + 1) - 1 / x, then the asymptotic series; error below 1e-11."""
    x = np.array(x, np.float64)
    low = np.zeros_like(x)
    while (small := x < 8.0).any():
        low[small] -= 1.0 / x[small]
        x[small] += 1.0
    y = 1.0 / (x * x)
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132)))))
    return low + np.log(x) - 0.5 / x - series
