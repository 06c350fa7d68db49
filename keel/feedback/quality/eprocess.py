"""Evidence against a person that may be looked at after every vote: e-processes (Ville 1939; Ramdas et al. 2023).

An e-process starts at 1 and under the null has mean at most 1 at any time one stops to look. So P(it ever reaches 1 / alpha) <= alpha,
however often one looks, and a weighted mean of e-processes is one again: alternatives and starting times are mixed, never chosen.

Letters: P people (or one), N votes in order, M alternatives, S starts. All evidence is the natural log.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keel.feedback.reliability.votes import Floats, Ints

EVERY = 15  # a fault may start at vote 0, 15, 30 ...
FIRST = 0.4  # weight of a fault that was there from the first vote; the rest is shared, 1 / (j (j + 1))


def start_weights(starts: int) -> Floats:
    """Weights of starting times, float [S], sum at most 1: `FIRST` for the first, the rest falls off as 1 / (j (j + 1)), which never ends,
    so that nothing depends on how many votes will come."""
    later = np.arange(1, starts)
    return np.concatenate([[FIRST], (1.0 - FIRST) / (later * (later + 1.0))]) if starts else np.zeros(0)


def starts_of(n: int, every: int = EVERY) -> Ints:
    """The votes at which a fault may begin, int [S]."""
    return np.arange(0, max(n, 1), every, dtype=np.int64)


def mixed_over_starts(running_PSN: Floats) -> Floats:
    """log of the weighted mean over starts, [P, N]; ``running_PSN`` is the log evidence collected since each start, 0 before it."""
    logs_S = np.log(start_weights(running_PSN.shape[1]))
    rest = 1.0 - start_weights(running_PSN.shape[1]).sum()  # starts beyond the data: still worth exactly 1
    total_PN = log_sum(running_PSN + logs_S[:, None], axis=1)
    return np.logaddexp(total_PN, np.log(rest)) if rest > 1e-12 else total_PN


def since_starts(steps_PN: Floats, every: int = EVERY) -> Floats:
    """Sums of steps since each start, [P, S, N]; 0 before it."""
    n = steps_PN.shape[-1]
    starts_S = starts_of(n, every)
    total_PN = np.cumsum(steps_PN, axis=-1)
    before_PS = np.concatenate([np.zeros((len(total_PN), 1)), total_PN], axis=1)[:, starts_S]
    return np.where(np.arange(n) >= starts_S[:, None], total_PN[:, None, :] - before_PS[:, :, None], 0.0)


def bernoulli(
    hit_PN: NDArray[np.bool_], counts_PN: NDArray[np.bool_], most: float, alternatives: Sequence[float], every: int = EVERY
) -> Floats:
    """Evidence that an event is more frequent than ``most``, log [P, N]. Null: given the past, each vote's chance is at most ``most``;
    alternatives (all above it) are mixed with equal weights. Votes that do not count add nothing."""
    if not all(most < p < 1.0 for p in alternatives):
        raise ValueError(f"alternatives lie between {most} and 1: {list(alternatives)}")
    found = []
    for p in alternatives:
        steps_PN = np.where(hit_PN, np.log(p / most), np.log((1.0 - p) / (1.0 - most))) * counts_PN
        found.append(mixed_over_starts(since_starts(steps_PN, every)))
    return log_mean(np.stack(found), axis=0)


def rare(
    miss_PN: NDArray[np.bool_], counts_PN: NDArray[np.bool_], least: float, alternatives: Sequence[float], every: int = EVERY
) -> Floats:
    """Evidence that an event is rarer than ``least``: the mirror of `bernoulli`, from ``miss_PN``, where the event did not happen."""
    return bernoulli(miss_PN, counts_PN, 1.0 - least, [1.0 - p for p in alternatives], every)


def combined(families: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """log of the weighted mean of e-processes, [P, N]. Raises ValueError where the weights do not sum to 1."""
    if abs(sum(weights) - 1.0) > 1e-9 or min(weights) < 0:
        raise ValueError(f"weights of e-processes sum to 1: {list(weights)}")
    logs = np.stack([f + np.log(w) for f, w in zip(families, weights) if w > 0])
    return log_sum(logs, axis=0)


def first_alarm(log_e_PN: Floats, alpha: float) -> Ints:
    """The vote (from 0) at which the evidence first reaches 1 / alpha, int [P]; -1 where it never does."""
    over_PN = log_e_PN >= -np.log(alpha)
    return np.where(over_PN.any(1), over_PN.argmax(1), -1).astype(np.int64)


def log_sum(logs: Floats, axis: int) -> Floats:
    """log of the sum of exponentials."""
    top = logs.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(logs - top).sum(axis=axis))


def log_mean(logs: Floats, axis: int) -> Floats:
    """log of the mean of exponentials."""
    return log_sum(logs, axis) - np.log(logs.shape[axis])
