"""What preference labels say: how decided they are, how often they contradict each other, and whether length alone explains them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from keel.data.config import ConversionConfig
from keel.data.conversion import answer_key, to_pairs
from keel.data.findings import find
from keel.data.identity import Item, content_key
from keel.data.text import word_count
from keel.evaluate.statistics import Interval, cluster_bootstrap, wilson
from keel.feedback.agreement import agreement
from keel.types import Comparison, Message, Pair, Ranking, Rating

Votes = dict[tuple[str, str, str], list[float]]  # (prompt, one answer, the other) -> P(one is better) by each row or annotator
DRAWS = 1000
MOST_FOR_BOOTSTRAP = 5000  # prompts; with more the bounds hardly differ from Wilson's
SINGLE = 0.2  # weight of a pair that was judged once, as one on which judges would agree
CERTAIN = 0.95  # a label from here on is meant to be sure


def preferences(records: Sequence[Item], source: str) -> dict[str, Any]:
    """Measures of pairs, comparisons, rankings and ratings; {} for records that hold none.

    ``strength`` is the mean of |2 P - 1| over pairs of answers, P the share of votes for the preferred one; ``deterministic`` the share of
    pairs with P of at least 0.95; ``margin`` the mean of the stated margins and ``margin_max`` the largest; ``noise`` the estimated share
    of wrong labels (:func:`flip_rate`), None where no two answers were judged twice.
    """
    kept = [r for r in records if isinstance(r, Pair | Comparison | Ranking | Rating)]
    if not kept:
        return {}
    pairs = to_pairs(kept, ConversionConfig(to="pairs", ties="keep"), source)
    if not pairs:
        return {}
    votes = votes_of(kept, pairs)
    shares = [sum(v) / len(v) for v in votes.values()]
    repeated = [v for v in votes.values() if len(v) > 1]
    margins = [p.margin for p in pairs if p.margin > 0]
    found = find(kept)
    soft = [] if any(isinstance(r, Comparison) for r in kept) else soft_votes(pairs)
    flips = flip_rate([*repeated, *soft], len(votes) - len(repeated) - len(soft))
    return {
        "pairs": len(votes),
        "votes_per_pair": sum(len(v) for v in votes.values()) / len(votes),
        "judged_twice": len(repeated),
        "ties": sum(s == 0.5 for s in shares) / len(shares),
        "soft": sum(CERTAIN > max(s, 1 - s) > 0.5 for s in shares) / len(shares),
        "strength": sum(abs(2 * s - 1) for s in shares) / len(shares),
        "deterministic": sum(max(s, 1 - s) >= CERTAIN for s in shares) / len(shares),
        "with_margin": len(margins) / len(pairs),
        "margin": sum(margins) / len(margins) if margins else None,
        "margin_max": max(margins, default=None),
        "noise": flips,
        "contradictions": found.contradictions,
        "duplicates": found.duplicates,
        "length": length_bias(pairs),
    }


def votes_of(records: Sequence[Item], pairs: Sequence[Pair]) -> Votes:
    """All judgements by the two answers that they are about. Of comparisons each annotator's own vote counts, of other labels each pair
    that was made of them; a soft label stands as it is."""
    votes: Votes = defaultdict(list)
    for r in records:
        if isinstance(r, Comparison):
            one, two = r.candidates
            _add(votes, r.prompt, one.text, two.text, {"first": 1.0, "tie": 0.5, "second": 0.0}[r.outcome])
    if not votes:
        for p in pairs:
            _add(votes, p.prompt, answer_key(p.chosen), answer_key(p.rejected), p.label)
    return dict(votes)


def _add(votes: Votes, prompt: Any, one: str, two: str, share: float) -> None:
    key = (content_key(prompt), *sorted((one, two)))
    votes[key].append(share if one <= two else 1.0 - share)  # type: ignore[index]


def soft_votes(pairs: Sequence[Pair]) -> list[list[float]]:
    """What soft labels of single rows say of votes: a label of 0.8 is four votes of five (ties aside, which are no mistakes)."""
    return [[1.0] * round(10 * p.label) + [0.0] * round(10 * (1 - p.label)) for p in pairs if 0.5 < p.label < 1.0 and not p.tie]


def flip_rate(units: Sequence[Sequence[float]], judged_once: int = 0) -> float | None:
    """The share ``e`` of wrong labels that the disagreement of repeated ones tells of, 0 to 0.5; None when nothing was judged twice.

    Two judges that are wrong independently with probability e agree with ``A = (1 - e)^2 + e^2``, so ``e = (1 - sqrt(2 A - 1)) / 2``. Ties
    are left out. A pair that is truly a matter of taste counts as wrong labels too: for training it is the same. Each pair that was judged
    once counts as a fifth of one on which judges agree, so that a few rows that stand twice do not speak for all.
    """
    agreeing = total = 0.0
    for votes in units:
        for_one, against = sum(v > 0.5 for v in votes), sum(v < 0.5 for v in votes)
        n = for_one + against
        if n > 1:
            agreeing += (for_one * (for_one - 1) + against * (against - 1)) / (n * (n - 1))
            total += 1
    if not total:
        return None
    agreement_rate = (agreeing + SINGLE * max(0, judged_once)) / (total + SINGLE * max(0, judged_once))
    return (1.0 - math.sqrt(max(0.0, 2.0 * agreement_rate - 1.0))) / 2.0


def length_bias(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """How often the longer answer (in words, a Chinese character counts as one) is the preferred one, of decided pairs whose lengths
    differ, with a 95% interval over prompts; ``ratio`` is the geometric mean of preferred over other length. None without such pairs."""
    wins: Mapping[str, list[float]] = defaultdict(list)
    ratios: list[float] = []
    for p in pairs:
        if p.label == 0.5:
            continue
        better, worse = (p.chosen, p.rejected) if p.label > 0.5 else (p.rejected, p.chosen)
        a, b = n_words(better), n_words(worse)
        ratios.append(math.log((a + 1) / (b + 1)))
        if a != b:
            wins[content_key(p.prompt)].append(float(a > b))
    if not wins:
        return None
    interval = _interval(list(wins.values()))
    return {"longer_wins": interval.to_json(), "ratio": math.exp(sum(ratios) / len(ratios))}


def _interval(groups: Sequence[Sequence[float]]) -> Interval:
    flat = [v for g in groups for v in g]
    if min(flat) == max(flat) or len(groups) > MOST_FOR_BOOTSTRAP:
        share = sum(flat) / len(flat)
        return wilson(share * len(groups), len(groups))
    return cluster_bootstrap([sum(g) for g in groups], [len(g) for g in groups], draws=DRAWS)


def n_words(answer: Sequence[Message]) -> int:
    """Words of an answer's turns."""
    return sum(word_count(m.text) for m in answer)


def annotators(records: Sequence[Item]) -> dict[str, Any] | None:
    """Agreement of the annotators of comparisons; None when nobody's vote can be compared with another's."""
    votes = [r for r in records if isinstance(r, Comparison)]
    if not votes:
        return None
    found = asdict(agreement(votes))
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.items()}
