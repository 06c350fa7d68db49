"""The vote share of a task, plain and weighted, and its most voted class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keel.feedback.reliability.votes import Floats, Ints, Votes


def weighed(index_V: Ints, weight_V: Floats, n: int) -> Floats:
    """Sums of weights by index, float [n]."""
    return np.asarray(np.bincount(index_V, weight_V, minlength=n), np.float64)


def vote_counts(votes: Votes, weight_A: Floats | Sequence[float] | None = None) -> Floats:
    """Votes by task and class, float [T, K]; each counted by its annotator's weight. Raises ValueError for weights below 0 or not A."""
    T, K = len(votes.tasks), len(votes.classes)
    if weight_A is None:
        weight_V = None
    else:
        given_A = np.asarray(weight_A, np.float64)
        if given_A.shape != (len(votes.annotators),) or not (given_A >= 0).all():
            raise ValueError(f"one weight >= 0 for each of {len(votes.annotators)} annotators, not {given_A.shape}")
        weight_V = given_A[votes.annotator_V]
    flat_V = votes.task_V * K + votes.label_V
    return np.bincount(flat_V, weight_V, minlength=T * K).reshape(T, K).astype(np.float64)


def vote_share(votes: Votes, smoothing: float = 0.0, weight_A: Floats | Sequence[float] | None = None) -> Floats:
    """(votes for the class + s) / (votes + K s), float [T, K]; the same for all classes where a task has no vote. With weights, they count
    on the scale on which the mean voter has weight 1, so that ``smoothing`` means so many votes whatever the weights' scale is."""
    if weight_A is not None and len(votes):
        mean = float(np.asarray(weight_A, np.float64)[votes.annotator_V].mean())
        weight_A = np.asarray(weight_A, np.float64) / mean if mean > 0 else weight_A
    counts_TK = vote_counts(votes, weight_A)
    top_TK = counts_TK + smoothing
    total_T1 = top_TK.sum(1, keepdims=True)
    K = counts_TK.shape[1]
    return np.where(total_T1 > 0, top_TK / np.where(total_T1 > 0, total_T1, 1.0), 1.0 / max(K, 1))


def most_likely(posterior_TK: Floats) -> Ints:
    """The likeliest class of each task, int [T]; of equal ones the first. Which task is even is for `even` to say."""
    return np.argmax(posterior_TK, axis=1).astype(np.int64)


def even(posterior_TK: Floats, tolerance: float = 1e-9) -> np.ndarray:
    """Where two classes or more are equally likely, bool [T]."""
    return (posterior_TK >= posterior_TK.max(1, keepdims=True) - tolerance).sum(1) > 1
