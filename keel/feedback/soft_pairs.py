"""Posteriors over (first, second, tie) -> training pairs whose label carries the doubt, and what became of each task.

The reward model's loss reads ``Pair.label`` and ``Pair.tie``: an annotators' model that says 0.7 pulls two scores apart less than one that
says 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keel.data.conversion import by_item, pair_name
from keel.feedback.config import AggregateConfig
from keel.feedback.reliability.calibrate import fit, guarded
from keel.feedback.reliability.dawid_skene import dawid_skene
from keel.feedback.reliability.mace import mace
from keel.feedback.reliability.majority import vote_counts
from keel.feedback.reliability.votes import CLASSES, Floats, Votes, from_comparisons, without_repeats
from keel.types import Comparison, Pair
from keel.types.identity import AnswerId, ItemId, answer_id

NEAR, SURE = 0.1, 0.95
EVEN = 1e-9


@dataclass(frozen=True, slots=True)
class SoftPairs:
    """``even``: tasks that made no pair because neither answer is likelier; ``near_half`` and ``sure``: pairs whose label is below 0.6 or
    at least 0.95; ``overturned``: pairs whose chosen answer had fewer votes than the other. ``mean_label`` is NaN without pairs."""

    pairs: tuple[Pair, ...]
    tasks: int
    even: int
    near_half: int
    sure: int
    overturned: int
    mean_label: float


def soft_pairs(
    comparisons: Sequence[Comparison],
    soft_TK: Floats,
    *,
    ties: Literal["drop", "keep"] = "drop",
    hard: bool = False,
    weight: Literal["equal", "votes"] = "equal",
) -> SoftPairs:
    """One pair a task. ``soft_TK`` are probabilities of `CLASSES` for the tasks of ``from_comparisons(comparisons)``, in their order;
    label = P(chosen) + P(tie) / 2. ``hard`` rounds the label to 1 (a kept even one is a tie). The margin is the mean strength of the votes
    for the chosen answer. Raises DataError for mixed protocols, ValueError for rows that do not sum to 1."""
    groups = by_item(comparisons)
    if soft_TK.shape != (len(groups), len(CLASSES)) or not np.allclose(soft_TK.sum(1), 1.0):
        raise ValueError(f"{len(groups)} tasks need a row each of {len(CLASSES)} probabilities, not {soft_TK.shape}")
    mean_votes = len(comparisons) / len(groups) if groups else 1.0
    pairs: list[Pair] = []
    overturned = 0
    for (key, votes), (first, _, tie) in zip(groups.items(), soft_TK.tolist()):
        one = first + tie / 2.0
        if abs(one - 0.5) < EVEN and ties == "drop":
            continue
        pair, against = _pair(
            key, votes, one if abs(one - 0.5) >= EVEN else 0.5, tie, hard, len(votes) / mean_votes if weight == "votes" else 1.0
        )
        pairs.append(pair)
        overturned += against
    near_half, sure, mean_label = doubt(pairs)
    return SoftPairs(tuple(pairs), len(groups), len(groups) - len(pairs), near_half, sure, overturned, mean_label)


def doubt(pairs: Sequence[Pair]) -> tuple[int, int, float]:
    """How many labels are below 0.6, how many at least 0.95, and their mean (NaN without pairs)."""
    labels = np.array([p.label for p in pairs])
    mean = float(labels.mean()) if len(labels) else float("nan")
    return int((labels < 0.5 + NEAR).sum()), int((labels >= SURE).sum()), mean


def _pair(key: ItemId, votes: Sequence[Comparison], one: float, tie: float, hard: bool, weight: float) -> tuple[Pair, bool]:
    winner, loser = (key[1], key[2]) if one >= 0.5 else (key[2], key[1])
    answers = {answer_id(x): x for x in votes[0].candidates}
    of = [_chosen(v) for v in votes]
    strengths = [v.strength for v, chosen in zip(votes, of) if chosen == winner]
    label = max(one, 1.0 - one)
    if hard:
        label, tie = (1.0, 0.0) if label > 0.5 else (0.5, 1.0)
    pair = Pair(
        record_id=pair_name(key[0], winner[0], loser[0]),
        prompt=votes[0].prompt,
        chosen=answers[winner].messages,
        rejected=answers[loser].messages,
        margin=sum(strengths) / len(strengths) if strengths else 0.0,
        label=label,
        weight=weight,
        tie=tie,
    )
    return pair, sum(c == winner for c in of) < sum(c == loser for c in of)


def _chosen(c: Comparison) -> AnswerId | None:
    return None if c.outcome == "tie" else answer_id(c.candidates[0 if c.outcome == "first" else 1])


def aggregated(
    comparisons: Sequence[Comparison],
    config: AggregateConfig,
    reliability: Mapping[str, float] | None = None,
    gold: Mapping[int, int] | None = None,
) -> SoftPairs:
    """Pairs by ``config.method``; ``gold`` (task's number -> class's number) fits temperature and mix where the method is a model of
    annotators. Without gold it is mixed with the vote share (`guarded`). An annotator's repeats are left out of all: labels, margins,
    weights, what counts as overturned."""
    comparisons, _ = without_repeats(comparisons)
    votes = from_comparisons(comparisons)
    soft_TK = probabilities(votes, config, reliability, gold)
    hard = config.label == "majority" or config.method == "majority"
    return soft_pairs(comparisons, soft_TK, ties=config.ties, hard=hard, weight=config.weight)


def probabilities(
    votes: Votes, config: AggregateConfig, reliability: Mapping[str, float] | None = None, gold: Mapping[int, int] | None = None
) -> Floats:
    """P(first), P(second), P(tie) of each task, [T, 3], by ``config.method``."""
    if config.method == "weighted":
        weight_A = reliability_weights(votes) if reliability is None else _given(votes, reliability)
        return _share(votes, config.smoothing, weight_A)
    share_TK = _share(votes, config.smoothing, None if reliability is None else _given(votes, reliability))
    if config.method in ("votes", "majority"):
        return share_TK
    posterior_TK = (dawid_skene(votes) if config.method == "dawid_skene" else mace(votes)).posterior_TK
    return fit(posterior_TK, share_TK, gold).apply(posterior_TK, share_TK) if gold else guarded(posterior_TK, share_TK)


def reliability_weights(votes: Votes) -> Floats:
    """log((K - 1) p / (1 - p)), at least 0, of each annotator's accuracy p by Dawid-Skene: the best weights of independent voters (Nitzan,
    Paroush 1982). Who is no better than chance counts nothing; all the same where nobody is."""
    p_A = np.clip(dawid_skene(votes).accuracy(), 0.01, 0.99)
    weight_A = np.maximum(np.log((len(votes.classes) - 1) * p_A / (1.0 - p_A)), 0.0)
    return weight_A if weight_A.any() else np.ones_like(weight_A)


def _given(votes: Votes, reliability: Mapping[str, float]) -> Floats:
    """Those who have no reliability yet count as the mean of those who have one: unknown is no distinction."""
    known = [reliability[a] for a in votes.annotators if a in reliability]
    mean = sum(known) / len(known) if known else 1.0
    return np.array([reliability.get(a, mean) for a in votes.annotators])


def _share(votes: Votes, smoothing: float, weight_A: Floats | None) -> Floats:
    """Vote shares with ``smoothing`` made-up votes for each side; weights on the scale on which the mean vote has weight 1."""
    if weight_A is not None and len(votes) and (mean := float(weight_A[votes.annotator_V].mean())) > 0:
        weight_A = weight_A / mean
    counts_TK = vote_counts(votes, weight_A) + smoothing * np.array([1.0, 1.0, 0.0])
    total_T1 = counts_TK.sum(1, keepdims=True)
    even = np.array([0.0, 0.0, 1.0])  # all of a task's votes weigh nothing
    return np.where(total_T1 > 0, counts_TK / np.where(total_T1 > 0, total_T1, 1.0), even)
