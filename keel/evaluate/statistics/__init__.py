"""Estimates with honest intervals, tests and ratings: pure functions of plain numbers, no torch. What a resampling draws is a hash of
what is asked: the same data give the same numbers on every machine."""

from keel.evaluate.statistics.bootstrap import DRAWS, Array, cluster_bootstrap, cluster_totals, mean_interval, relative_change
from keel.evaluate.statistics.convergence import Convergence, convergence
from keel.evaluate.statistics.correlation import correlation_interval, kendall, ranks, spearman
from keel.evaluate.statistics.distributions import student
from keel.evaluate.statistics.holm import holm
from keel.evaluate.statistics.intervals import (
    LEVEL,
    Estimate,
    Interval,
    change_of_shares,
    clustered,
    difference,
    independent_difference,
    pair_score,
    paired_difference,
    pooled_win_rate,
    share_interval,
    wilson,
    win_rate,
)
from keel.evaluate.statistics.length_control import CONSTANT, LengthControlled, constant_share, length_controlled, own_difficulty
from keel.evaluate.statistics.ratings import Ratings, all_pairs, bradley_terry, ratings

__all__ = [
    "CONSTANT",
    "DRAWS",
    "LEVEL",
    "Array",
    "Convergence",
    "Estimate",
    "Interval",
    "LengthControlled",
    "Ratings",
    "all_pairs",
    "bradley_terry",
    "change_of_shares",
    "cluster_bootstrap",
    "cluster_totals",
    "clustered",
    "constant_share",
    "convergence",
    "correlation_interval",
    "difference",
    "holm",
    "independent_difference",
    "kendall",
    "length_controlled",
    "mean_interval",
    "own_difficulty",
    "pair_score",
    "paired_difference",
    "pooled_win_rate",
    "ranks",
    "ratings",
    "relative_change",
    "share_interval",
    "spearman",
    "student",
    "wilson",
    "win_rate",
]
