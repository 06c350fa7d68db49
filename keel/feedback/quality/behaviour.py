"""How a person works: speed against others, habits of choice, change over time and between sessions. Descriptions, not verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keel.feedback.quality.gold import Rate, rate
from keel.feedback.reliability.votes import Floats, Ints, Votes

FAST = 0.25  # of the time that others need for a text of this length
PAUSE = 30 * 60.0  # seconds without a vote that end a session


def expected_seconds(votes: Votes, length_T: Floats) -> Floats:
    """The median time of others for each vote's task, [V]: log time against log length, by a Theil-Sen line through binned medians, fitted
    over all; then the person's own votes leave the residual's median. NaN where fewer than five votes have a time."""
    known_V = np.isfinite(votes.seconds_V) & (votes.seconds_V > 0)
    if known_V.sum() < 5:
        return np.full(len(votes), math.nan)
    x_V, y_V = np.log1p(np.asarray(length_T, np.float64)[votes.task_V]), np.log(np.where(known_V, votes.seconds_V, 1.0))
    slope = _slope(x_V[known_V], y_V[known_V])
    rest_V = y_V - slope * x_V
    expected_V = np.full(len(votes), math.nan)
    for a in range(len(votes.annotators)):
        others = known_V & (votes.annotator_V != a)
        mine = votes.annotator_V == a
        if others.any():
            expected_V[mine] = np.exp(np.median(rest_V[others]) + slope * x_V[mine])
    return expected_V


def _slope(x: Floats, y: Floats, bins: int = 12) -> float:
    """Median of the slopes between medians of equally filled bins of x; 0 where x says nothing. Never below 0: longer texts take longer."""
    order = np.argsort(x, kind="stable")
    cuts = [c for c in np.array_split(order, bins) if len(c)]
    points = np.array([(np.median(x[c]), np.median(y[c])) for c in cuts])
    i, j = np.triu_indices(len(points), 1)
    apart = points[j, 0] - points[i, 0]
    far = apart > 1e-9
    return max(0.0, float(np.median((points[j, 1] - points[i, 1])[far] / apart[far]))) if far.any() else 0.0


def too_fast(votes: Votes, length_T: Floats, share: float = FAST) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which votes took less than ``share`` of the expected time, and which have a time at all, bool [V] each."""
    expected_V = expected_seconds(votes, length_T)
    known_V = np.isfinite(expected_V) & np.isfinite(votes.seconds_V)
    return known_V & (votes.seconds_V < share * np.where(known_V, expected_V, 1.0)), known_V


def chose_left(votes: Votes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which votes chose the side on the left (or top), and which chose a side that is known, bool [V] each."""
    place = {name: i for i, name in enumerate(votes.classes)}
    first_V, second_V = votes.label_V == place.get("first", -1), votes.label_V == place.get("second", -1)
    decided_V = (first_V | second_V) & (votes.side_V >= 0)
    return decided_V & (first_V == (votes.side_V == 0)), decided_V


@dataclass(frozen=True, slots=True)
class Pattern:
    """``entropy``: of the labels, in bits; ``longest_run``: of the same label; ``run_p``: how often so long a run, or a longer one, would
    come by chance from these labels in random order, by permutation; ``left``: share of the decided that chose the left side."""

    entropy: float
    longest_run: int
    run_p: float
    left: Rate


def pattern(label_N: Ints, left_N: NDArray[np.bool_], decided_N: NDArray[np.bool_], draws: int = 199, seed: int = 0) -> Pattern:
    """Habits of one person's labels in the order in which they were given."""
    if not len(label_N):
        return Pattern(math.nan, 0, math.nan, rate(0, 0))
    share = np.bincount(label_N) / len(label_N)
    entropy = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
    longest, rng = longest_run(label_N), np.random.default_rng(seed)
    above = sum(longest_run(rng.permutation(label_N)) >= longest for _ in range(draws))
    return Pattern(entropy, longest, (1 + above) / (1 + draws), rate(int(left_N[decided_N].sum()), int(decided_N.sum())))


def longest_run(label_N: Ints) -> int:
    """The length of the longest stretch of equal labels."""
    if not len(label_N):
        return 0
    edges = np.flatnonzero(np.diff(label_N)) + 1
    return int(np.diff(np.concatenate([[0], edges, [len(label_N)]])).max())


def sessions(at_N: Floats, pause: float = PAUSE) -> Ints:
    """The number of the session of each vote, int [N]: a new one begins after ``pause`` seconds without a vote. ``at_N`` is sorted."""
    return np.concatenate([[0], np.cumsum(np.diff(at_N) > pause)]).astype(np.int64) if len(at_N) else np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Change:
    """The split of a person's sessions at which behaviour differs most, and how unusual that is: ``p`` by permuting whole sessions.
    ``before`` and ``after`` are means of the measure. NaN and -1 with fewer than four sessions."""

    session: int
    before: float
    after: float
    p: float


def change(value_N: Floats, session_N: Ints, draws: int = 499, seed: int = 0) -> Change:
    """Whether a measure (log time over expected, agreement with others, hour of the day) changed between sessions: another person at the
    same account changes several at once. Sessions are exchanged as wholes, so that what is alike within one is not taken for change."""
    used = np.isfinite(value_N)
    names = np.unique(session_N[used])
    if len(names) < 4:
        return Change(-1, math.nan, math.nan, math.nan)
    sums = np.array([value_N[used & (session_N == s)].sum() for s in names])
    counts = np.array([(used & (session_N == s)).sum() for s in names], np.float64)
    sizes, at = _split(sums[None], counts[None])
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(names)) for _ in range(draws)])
    drawn, _ = _split(sums[orders], counts[orders])
    cut = int(at[0])
    before, after = sums[:cut].sum() / counts[:cut].sum(), sums[cut:].sum() / counts[cut:].sum()
    return Change(int(names[cut]), float(before), float(after), float((1 + (drawn >= sizes[0] - 1e-12).sum()) / (1 + draws)))


def _split(sums_DS: Floats, counts_DS: Floats) -> tuple[Floats, Ints]:
    """The largest difference of means before and after a cut, in units of 1 / sqrt(1 / n + 1 / m), and the cut."""
    before, n = np.cumsum(sums_DS, 1)[:, :-1], np.cumsum(counts_DS, 1)[:, :-1]
    after, m = sums_DS.sum(1, keepdims=True) - before, counts_DS.sum(1, keepdims=True) - n
    size = np.abs(before / n - after / m) / np.sqrt(1.0 / n + 1.0 / m)
    return size.max(1), size.argmax(1) + 1


@dataclass(frozen=True, slots=True)
class Drift:
    """The slope of a measure over a person's votes, first to last: ``slope`` is the change over all of them, with a bootstrap interval."""

    slope: float
    low: float
    high: float


def drift(value_N: Floats, draws: int = 499, level: float = 0.95, seed: int = 0) -> Drift:
    """A least-squares line through the measure against place 0..1; votes are resampled. NaN with fewer than ten values."""
    used = np.isfinite(value_N)
    n = int(used.sum())
    if n < 10:
        return Drift(math.nan, math.nan, math.nan)
    x, y = np.linspace(0.0, 1.0, len(value_N))[used], value_N[used]
    pick = np.concatenate([np.arange(n)[None], np.random.default_rng(seed).integers(0, n, (draws, n))])
    dx, dy = x[pick] - x[pick].mean(1, keepdims=True), y[pick] - y[pick].mean(1, keepdims=True)
    slopes = (dx * dy).sum(1) / np.maximum((dx * dx).sum(1), 1e-12)
    low, high = np.quantile(slopes[1:], [(1 - level) / 2, (1 + level) / 2])
    return Drift(float(slopes[0]), float(low), float(high))
