"""Labels of one kind -> labels of another. Pure functions of records; nothing is drawn at random."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from keel.core.errors import DataError
from keel.data.config import ConversionConfig
from keel.types import Candidate, Comparison, Demonstration, Message, Pair, Prompt, Ranking, Rating, Record, Steps, Unpaired
from keel.types.identity import ItemId, answer_key, item_of

Turns = tuple[Message, ...]
Ties = Literal["drop", "keep"]


def to_pairs(records: Sequence[Record | Comparison], config: ConversionConfig, source: str = "data") -> list[Pair]:
    """Pairs from pairs, ratings, rankings or comparisons. Raises DataError for records that hold no preference."""
    refused = next((r for r in records if isinstance(r, Prompt | Demonstration | Unpaired | Steps)), None)
    if refused is not None:
        raise DataError(
            f"{source}: {type(refused).__name__.lower()} records cannot become pairs", "pairs come from ratings, rankings or comparisons"
        )
    pairs = [r for r in records if isinstance(r, Pair)]
    pairs += ratings_to_pairs((r for r in records if isinstance(r, Rating)), config.dimension, config.min_gap, config.balance, config.ties)
    pairs += rankings_to_pairs((r for r in records if isinstance(r, Ranking)), config.weight, config.balance, config.ties)
    pairs += comparisons_to_pairs([r for r in records if isinstance(r, Comparison)], ties=config.ties)
    return pairs


def ratings_to_pairs(
    ratings: Iterable[Rating], dimension: str = "", min_gap: float = 0.0, balance: int = 0, ties: Ties = "drop"
) -> list[Pair]:
    """Every two answers to one prompt whose scores differ by more than ``min_gap`` make a pair; the margin is the difference.

    ``dimension`` names the score that decides, empty takes the mean of all. ``balance`` = at most so many worse answers a better one,
    the largest differences first; 0 = all. ``ties="keep"``: equal scores make a pair with label 0.5.
    """
    by_prompt: dict[str, list[tuple[Rating, float]]] = defaultdict(list)
    for rating in ratings:
        by_prompt[rating.prompt.prompt_id].append((rating, _score(rating, dimension)))
    pairs: list[Pair] = []
    for group in by_prompt.values():
        edges = _edges([s for _, s in group], balance, ties, min_gap)
        for i, j, gap in edges:
            better, worse = group[i][0], group[j][0]
            if better.answer == worse.answer:
                continue
            name = f"{better.record_id}>{worse.record_id}"
            pairs.append(
                Pair(name, better.prompt, better.answer, worse.answer, margin=gap, label=1.0 if gap else 0.5, tie=0.0 if gap else 1.0)
            )
    return pairs


def rankings_to_pairs(
    rankings: Iterable[Ranking], weight: Literal["equal", "distance"] = "distance", balance: int = 0, ties: Ties = "drop"
) -> list[Pair]:
    """Every two answers of different rank make a pair.

    ``weight="distance"``: the weight is the distance of the ranks over the mean distance of the ranking's pairs, so that it is 1 on
    average. ``balance`` and ``ties`` as in ``ratings_to_pairs``.
    """
    pairs: list[Pair] = []
    for ranking in rankings:
        edges = _edges([-float(r) for r in ranking.ranks], balance, ties)
        distances = [gap for _, _, gap in edges if gap]
        mean = sum(distances) / len(distances) if distances else 1.0
        for i, j, gap in edges:
            if ranking.answers[i] == ranking.answers[j]:
                continue
            name, label = f"{ranking.record_id}:{i}>{j}", 1.0 if gap else 0.5
            of = gap / mean if weight == "distance" and gap else 1.0
            pairs.append(
                Pair(name, ranking.prompt, ranking.answers[i], ranking.answers[j], label=label, weight=of, tie=0.0 if gap else 1.0)
            )
    return pairs


@dataclass(frozen=True, slots=True)
class Tally:
    """What all votes on two answers of one prompt add up to. ``share`` >= 0.5."""

    name: str  # of the pair: prompt:winner>loser, by the candidates' ids
    winner: Candidate
    loser: Candidate
    votes: tuple[Comparison, ...]
    weight: float  # of the votes: their number, or the sum of their annotators' reliabilities
    share: float  # of the weight, for the winner; ties half. 0.5 without weight
    tie: float  # share of the weight that said tie
    margin: float  # mean strength of the votes for the winner

    def pair(self) -> Pair:
        """The training pair."""
        chosen, rejected = self.winner.messages, self.loser.messages
        return Pair(self.name, self.votes[0].prompt, chosen, rejected, self.margin, self.share, tie=self.tie)


def tallies(comparisons: Sequence[Comparison], reliability: Mapping[str, float] | None = None, unknown: float | None = None) -> list[Tally]:
    """One tally for each two candidates (by id and content) that were compared.

    Each vote counts by its annotator's ``reliability`` (1 without); an annotator who is not in it counts ``unknown``. Raises DataError
    when several protocols are mixed, or an annotator's reliability is not known and there is no ``unknown``.
    """
    groups = by_item(comparisons)
    return [_tally(prompt_id, first, votes, reliability, unknown) for (prompt_id, (first, _), _), votes in groups.items()]


def by_item(comparisons: Iterable[Comparison]) -> dict[ItemId, list[Comparison]]:
    """The votes on each two candidates, in the order in which these appear. Raises DataError when several protocols are mixed."""
    groups: dict[ItemId, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        groups[item_of(c)].append(c)
    protocols = sorted({c.protocol for votes in groups.values() for c in votes})
    if len(protocols) > 1:
        raise DataError(
            f"comparisons of several protocols are mixed: {', '.join(protocols)}", "labels mean different things; take one at a time"
        )
    return groups


def _tally(
    prompt_id: str, first: str, votes: Sequence[Comparison], reliability: Mapping[str, float] | None, unknown: float | None
) -> Tally:
    trust = [_trust(v.annotator_id, reliability, unknown) for v in votes]
    total = sum(trust)
    # votes by candidate id: the same two may stand in either order in different records
    share = sum(t * _vote(v, first) for t, v in zip(trust, votes)) / total if total else 0.5
    named = {x.candidate_id: x for x in votes[0].candidates}
    other = next((i for i in named if i != first), first)
    winner, loser = (named[first], named[other]) if share >= 0.5 else (named[other], named[first])
    strengths = [v.strength for v in votes if _vote(v, winner.candidate_id) == 1.0]
    margin = sum(strengths) / len(strengths) if strengths else 0.0
    tie = sum(t for t, v in zip(trust, votes) if v.outcome == "tie") / total if total else 0.0
    name = pair_name(prompt_id, winner.candidate_id, loser.candidate_id)
    return Tally(name, winner, loser, tuple(votes), total, max(share, 1.0 - share), tie, margin)


def pair_name(prompt_id: str, winner: str, loser: str) -> str:
    """The id of the pair that votes on two candidates make."""
    return f"{prompt_id}:{winner}>{loser}"


def _trust(annotator_id: str, reliability: Mapping[str, float] | None, unknown: float | None) -> float:
    if reliability is None:
        return 1.0
    found = reliability.get(annotator_id, unknown)
    if found is None:
        raise DataError(f"the reliability of annotator {annotator_id!r} is not known", "rate them too, or say what unknown ones count")
    return found


def comparisons_to_pairs(
    comparisons: Sequence[Comparison], reliability: Mapping[str, float] | None = None, ties: Ties = "drop", unknown: float | None = None
) -> list[Pair]:
    """Several annotators' judgements of the same two candidates -> one pair with a soft label.

    label = (votes for the chosen + half the ties) / votes, weighted as `tallies` says; the margin is the mean strength of the votes for
    the chosen. An even vote makes no pair, or with ``ties="keep"`` one with label 0.5. Raises DataError as `tallies` does.
    """
    return [t.pair() for t in tallies(comparisons, reliability, unknown) if t.share != 0.5 or ties == "keep"]


def pairs_to_unpaired(pairs: Iterable[Pair]) -> list[Unpaired]:
    """Each answer once: wanted when it was chosen more often than rejected (by weight and label), unwanted the other way round.

    The weight is the size of the mean vote. Answers that are even (ties, contradictions) say nothing and are left out.
    """
    votes: dict[tuple[str, str], list[float]] = defaultdict(list)
    found: dict[tuple[str, str], tuple[Prompt, Turns]] = {}
    for pair in pairs:
        vote = pair.weight * (2.0 * pair.label - 1.0)
        for answer, signed in ((pair.chosen, vote), (pair.rejected, -vote)):
            key = (pair.prompt.prompt_id, answer_key(answer))
            votes[key].append(signed)
            found[key] = (pair.prompt, answer)
    means = {key: sum(v) / len(v) for key, v in votes.items()}
    return [Unpaired(f"{key[0]}:{key[1]}", *found[key], desirable=mean > 0, weight=abs(mean)) for key, mean in means.items() if mean]


def to_demonstrations(records: Sequence[Record | Comparison], config: ConversionConfig, source: str = "data") -> list[Demonstration]:
    """Answers to imitate, each once: demonstrations as they are; of unpaired labels the wanted ones; of preferences (ratings, rankings,
    comparisons) those that are better than another answer and worse than none. Raises DataError for records without such answers."""
    found = [r for r in records if isinstance(r, Demonstration)]
    found += [Demonstration(r.record_id, r.prompt, r.answer) for r in records if isinstance(r, Unpaired) and r.desirable]
    rest = [r for r in records if not isinstance(r, Demonstration | Unpaired)]
    refused = next((r for r in rest if isinstance(r, Prompt | Steps)), None)
    if refused is not None:
        what = f"{source}: {type(refused).__name__.lower()} records hold no answers to imitate"
        raise DataError(what, "demonstrations come from pairs, ratings, rankings, comparisons or unpaired labels")
    won: dict[tuple[str, str], Demonstration] = {}
    lost: set[tuple[str, str]] = set()
    for pair in to_pairs(rest, config, source):
        if pair.label == 0.5:
            continue
        better, worse = (pair.chosen, pair.rejected) if pair.label > 0.5 else (pair.rejected, pair.chosen)
        key = (pair.prompt.prompt_id, answer_key(better))
        won.setdefault(key, Demonstration(":".join(key), pair.prompt, better))
        lost.add((pair.prompt.prompt_id, answer_key(worse)))
    return found + [demonstration for key, demonstration in won.items() if key not in lost]


def _edges(scores: Sequence[float], balance: int, ties: Ties, min_gap: float = 0.0) -> list[tuple[int, int, float]]:
    """(better, worse, gap) of all pairs of scores; gap 0 is a tie. At most ``balance`` worse ones a better one, clearest first."""
    found: list[tuple[int, int, float]] = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        better, worse = (i, j) if scores[i] >= scores[j] else (j, i)
        gap = scores[better] - scores[worse]
        if gap > min_gap or (gap == 0 and ties == "keep"):
            found.append((better, worse, gap))
    if not balance:
        return found
    kept: Counter[int] = Counter()
    result: list[tuple[int, int, float]] = []
    for edge in sorted(found, key=lambda e: (-e[2], e[0], e[1])):
        kept[edge[0]] += 1
        if kept[edge[0]] <= balance:
            result.append(edge)
    return result


def _score(rating: Rating, dimension: str) -> float:
    if not dimension:
        return sum(rating.scores.values()) / len(rating.scores)
    if dimension not in rating.scores:
        raise DataError(f"{rating.prompt.source_id}: this rating has no dimension {dimension!r}", f"it has: {', '.join(rating.scores)}")
    return rating.scores[dimension]


def _vote(comparison: Comparison, candidate_id: str) -> float:
    """1 when the annotator preferred that candidate, 0 when the other, 0.5 for a tie."""
    if comparison.outcome == "tie":
        return 0.5
    preferred = comparison.candidates[0 if comparison.outcome == "first" else 1]
    return float(preferred.candidate_id == candidate_id)
