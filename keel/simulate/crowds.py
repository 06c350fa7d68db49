"""Crowds whose truth is known, for tests and studies. Only `Generator.random` is drawn from, whose stream numpy keeps."""

from __future__ import annotations

import numpy as np

from keel.feedback.reliability.votes import Ints, Votes, from_arrays


def crowd(seed: int, tasks: int = 200, people: int = 20, classes: int = 3, per_task: int = 5, skew: float = 0.0) -> tuple[Votes, Ints]:
    """Votes and truth. A person is right with a probability of their own in 0.35 .. 0.95, a wrong vote falls on any other class; class 0
    has ``skew`` more of the tasks than its share."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum([1 / classes + skew] + [(1 - 1 / classes - skew) / (classes - 1)] * (classes - 1))
    truth_T = np.minimum((rng.random(tasks)[:, None] > edges).sum(1), classes - 1)
    right_A = 0.35 + 0.6 * rng.random(people)
    rows: list[tuple[int, int, int]] = []
    for t in range(tasks):
        for a in np.argsort(rng.random(people))[:per_task]:
            wrong = (truth_T[t] + 1 + int(rng.random() * (classes - 1))) % classes
            rows.append((t, int(a), int(truth_T[t] if rng.random() < right_A[a] else wrong)))
    task_V, annotator_V, label_V = np.array(rows).T
    return from_arrays(task_V, annotator_V, label_V, classes, tasks=tasks, annotators=people), truth_T
