"""Which tasks people should see first (J6) and which of a machine's labels they should check (J7). Pure functions; randomness by hash.

Each plan holds a random share, marked on the task: without it nobody can say whether choosing helped, and a model that is sure and wrong
is never shown to anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keel.core.errors import ConfigError
from keel.core.hashing import permutation, stable_hash, uniform
from keel.feedback.reliability.votes import Floats, Ints

Arm = Literal["chosen", "random"]


@dataclass(frozen=True, slots=True)
class Planned:
    """A task in the order in which people should get it; ``arm`` says whether it was chosen or drawn at random."""

    task: str
    arm: Arm
    priority: float


def doubt(mean_MT: Floats, std_MT: Floats | None = None) -> Floats:
    """How little an ensemble knows which answer wins, in [0, 1] for each task: four times p (1 - p) of the mean probability, plus twice
    the standard deviation of the members' probabilities, halved. ``mean_MT`` are differences of scores (first less second) of M members,
    ``std_MT`` each member's own standard deviation, which makes its probability milder (MacKay 1992: slope 1 / sqrt(1 + pi s^2 / 8))."""
    slope_MT = 1.0 if std_MT is None else 1.0 / np.sqrt(1.0 + np.pi * np.asarray(std_MT) ** 2 / 8.0)
    p_MT = 1.0 / (1.0 + np.exp(-np.clip(np.asarray(mean_MT) * slope_MT, -50, 50)))
    p_T = p_MT.mean(0)
    return 0.5 * (4.0 * p_T * (1.0 - p_T) + 2.0 * p_MT.std(0))


def dispute(share_TK: Floats, voted_T: Ints) -> Floats:
    """How even the votes of a task are, in [0, 1]: its entropy over log K, 0 where fewer than two have voted."""
    p_TK = np.where(share_TK > 0, share_TK, 1.0)
    entropy_T = -(share_TK * np.log(p_TK)).sum(1) / np.log(max(share_TK.shape[1], 2))
    return np.where(voted_T >= 2, entropy_T, 0.0)


def plan(
    tasks: Sequence[str],
    doubt_T: Floats,
    features_TD: Floats,
    n: int,
    *,
    dispute_T: Floats | None = None,
    control: float = 0.2,
    pool: int = 5,
    seed: int = 0,
) -> tuple[Planned, ...]:
    """``n`` tasks: a share ``control`` drawn at random, the rest chosen. Of the ``pool`` times as many tasks with the highest priority
    (the larger of doubt and dispute) those are taken that lie apart: each next one has the largest priority times distance to what is
    taken already, so that the boundary is covered and not one corner of it. Random tasks stand evenly among the chosen ones.

    Raises ConfigError unless 0 < ``control`` < 1: without random tasks nothing can be measured.
    """
    if not 0.0 < control < 1.0:
        raise ConfigError(
            f"the random share is {control}, but must lie between 0 and 1", "it is what shows whether choosing saves labels: 0.1 to 0.3"
        )
    n = min(n, len(tasks))
    order = permutation(len(tasks), "active", seed)
    control_n = max(1, round(control * n)) if n else 0
    drawn = order[:control_n]
    left_L = np.array([i for i in range(len(tasks)) if i not in set(drawn)], np.int64)
    priority_T = np.asarray(doubt_T) if dispute_T is None else np.maximum(doubt_T, dispute_T)
    chosen = _apart(left_L, priority_T, np.asarray(features_TD, np.float64), n - control_n, pool)
    return _among(
        [Planned(tasks[i], "chosen", float(priority_T[i])) for i in chosen],
        [Planned(tasks[i], "random", float(priority_T[i])) for i in drawn],
    )


def _apart(left_L: Ints, priority_T: Floats, features_TD: Floats, n: int, pool: int) -> list[int]:
    best_L = left_L[np.argsort(-priority_T[left_L], kind="stable")][: max(n * pool, n)]
    scale_D = features_TD[best_L].std(0) if len(best_L) else np.ones(features_TD.shape[1])
    x_LD = features_TD[best_L] / np.where(scale_D > 0, scale_D, 1.0)
    taken: list[int] = []
    distance_L = np.ones(len(best_L))
    for _ in range(n):
        score_L = priority_T[best_L] * distance_L
        score_L[taken] = -1.0
        i = int(score_L.argmax())
        to_i_L = np.sqrt(((x_LD - x_LD[i]) ** 2).sum(1))
        distance_L = np.minimum(distance_L, to_i_L) if taken else to_i_L
        taken.append(i)
    return [int(best_L[i]) for i in taken]


def _among(chosen: list[Planned], drawn: list[Planned]) -> tuple[Planned, ...]:
    places = [((i + 0.5) / len(chosen), 0, p) for i, p in enumerate(chosen)] + [((i + 0.5) / len(drawn), 1, p) for i, p in enumerate(drawn)]
    return tuple(p for _, _, p in sorted(places, key=lambda x: x[:2]))


@dataclass(frozen=True, slots=True)
class Saved:
    """Labels saved: 1 - (labels that the chosen arm needs) / (labels of the random arm) for the accuracy that the random arm has at its
    end. ``better`` says that the whole interval is above 0. NaN where the chosen arm never gets there in most of the resamples."""

    share: float
    low: float
    high: float
    better: bool
    accuracy: float


def labels_saved(labels_B: Ints, chosen_RB: Floats, random_RB: Floats, *, draws: int = 2000, level: float = 0.95, seed: int = 0) -> Saved:
    """From learning curves of R repetitions (the same worlds in both arms) at B budgets of labels. Curves are averaged over repetitions and
    made rising (the best so far); repetitions are resampled as pairs. Where the chosen arm ends below the random arm's end, the saving is
    counted as the loss of the mirrored question (labels that the random arm needs for the chosen arm's end), so that failure shows.

    Raises ValueError for curves of other shapes or fewer than three repetitions.
    """
    if chosen_RB.shape != random_RB.shape or chosen_RB.shape[1] != len(labels_B) or len(chosen_RB) < 3:
        raise ValueError(f"two sets of at least three curves over {len(labels_B)} budgets, not {chosen_RB.shape} and {random_RB.shape}")
    rng, R = np.random.default_rng(seed), len(chosen_RB)
    value = _saving(labels_B, chosen_RB.mean(0), random_RB.mean(0))
    pick = rng.integers(0, R, (draws, R))
    drawn = np.array([_saving(labels_B, chosen_RB[i].mean(0), random_RB[i].mean(0)) for i in pick])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Saved(float(value), float(low), float(high), bool(low > 0), float(np.maximum.accumulate(random_RB.mean(0))[-1]))


def _saving(labels_B: Ints, chosen_B: Floats, random_B: Floats) -> float:
    chosen_B, random_B = np.maximum.accumulate(chosen_B), np.maximum.accumulate(random_B)
    if chosen_B[-1] >= random_B[-1]:
        return 1.0 - _reached(labels_B, chosen_B, random_B[-1]) / _reached(labels_B, random_B, random_B[-1])
    return -(1.0 - _reached(labels_B, random_B, chosen_B[-1]) / _reached(labels_B, chosen_B, chosen_B[-1]))


def _reached(labels_B: Ints, curve_B: Floats, accuracy: float) -> float:
    """The labels at which a rising curve first has ``accuracy``, on straight lines between budgets."""
    i = int(np.argmax(curve_B >= accuracy - 1e-12))
    if i == 0:
        return float(labels_B[0])
    rise = curve_B[i] - curve_B[i - 1]
    return float(labels_B[i - 1] + (labels_B[i] - labels_B[i - 1]) * (accuracy - curve_B[i - 1]) / rise) if rise > 0 else float(labels_B[i])


@dataclass(frozen=True, slots=True)
class Check:
    """A machine's label that a person should verify: ``unsure`` because its confidence is low, ``audit`` drawn from the sure ones."""

    task: str
    why: Literal["unsure", "audit"]
    confidence: float


@dataclass(frozen=True, slots=True)
class Checks:
    """``people``: what goes to people, the least sure first; ``accepted``: what is taken as the machine says; ``audit_rate``: the share
    of the sure ones that is audited, by which an estimate of the errors among them divides; a short budget lowers it."""

    people: tuple[Check, ...]
    accepted: tuple[str, ...]
    audit_rate: float


def to_verify(tasks: Sequence[str], confidence_T: Floats, budget: int, *, audit: float = 0.1, least: float = 0.9, seed: int = 0) -> Checks:
    """People verify the machine's least sure labels, and each sure one with chance ``audit`` (by hash of its task: asked again, the same
    ones). Labels below ``least`` are never accepted unseen, so where the budget is short they are neither accepted nor given out: they
    wait. Audits come first in the budget. Raises ConfigError unless 0 < ``audit`` <= 1."""
    if not 0.0 < audit <= 1.0:
        raise ConfigError(f"the audit share is {audit}, but must be above 0 and at most 1", "without audits nobody would see sure mistakes")
    confidence_T = np.asarray(confidence_T, np.float64)
    keys = np.array([stable_hash("audit", seed, t) for t in tasks], np.uint64)
    drawn_T = uniform(keys, 0) < audit if len(tasks) else np.zeros(0, np.bool_)
    sure_T = confidence_T >= least
    audits = [int(i) for i in np.argsort(keys, kind="stable") if sure_T[i] and drawn_T[i]][:budget]
    unsure = [int(i) for i in np.argsort(confidence_T, kind="stable") if not sure_T[i]][: budget - len(audits)]
    people = [Check(tasks[i], "unsure", float(confidence_T[i])) for i in unsure] + [
        Check(tasks[i], "audit", float(confidence_T[i])) for i in audits
    ]
    seen = {c.task for c in people}
    return Checks(tuple(people), tuple(t for t, s in zip(tasks, sure_T) if s and t not in seen), len(audits) / max(int(sure_T.sum()), 1))
