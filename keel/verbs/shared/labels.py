"""What labels a reward model's data hold, and which losses and head follow from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from keel.data.conversion import comparisons_to_pairs
from keel.data.dataset import Dataset
from keel.data.identity import Item, content_key
from keel.render.renderer import Refusal, Renderer
from keel.render.targets import labels_to_units, pairs_to_units
from keel.types import Comparison, Pair, Prompt, Ranking, Rating, RatingTarget, Steps, Unit

LEARNT = (Pair, Comparison, Ranking, Rating, Steps)


def of_reward(dataset: Dataset) -> tuple[Item, ...]:
    """The records, all of kinds that a reward model learns from. Raises DataError."""
    if not all(isinstance(r, LEARNT) for r in dataset.records):
        dataset.of(Pair)  # says what is there and what would help
    return dataset.records


def pairs_of(records: Iterable[Item]) -> list[Pair]:
    """Pairs as they stand, and those that several annotators' comparisons add up to, ties kept."""
    records = list(records)
    return [r for r in records if isinstance(r, Pair)] + comparisons_to_pairs(
        [r for r in records if isinstance(r, Comparison)], ties="keep"
    )


# ------------------------------------------------------------------------------------------------------------------------- units


def reward_units(renderer: Renderer, dataset: Dataset, dimensions: Sequence[str] = ()) -> tuple[list[Unit], list[Refusal]]:
    """All labels of one kind and one prompt in one unit, the prompt computed once. Of ratings only ``dimensions`` are kept (all, when
    empty)."""
    records = of_reward(dataset)
    units, lost_pairs = pairs_to_units(renderer, pairs_of(records))
    refused = by_vote(lost_pairs, [r for r in records if isinstance(r, Comparison)])
    rated: list[Rating] = []
    for record in records:
        if isinstance(record, Rating) and dimensions:
            scores = {name: value for name, value in record.scores.items() if name in dimensions}
            if not scores:
                refused.append(Refusal(record.record_id, record.prompt.source_id, f"is rated by none of {', '.join(dimensions)}"))
                continue
            record = replace(record, scores=scores)
        if isinstance(record, Rating):
            rated.append(record)
        elif isinstance(record, Ranking) and len(set(record.ranks)) == 1:
            refused.append(Refusal(record.record_id, record.prompt.source_id, "all its answers share one rank: it prefers none"))
        elif isinstance(record, Ranking | Steps):
            made = renderer.unit(record)
            refused += [made] if isinstance(made, Refusal) else []
            units += [made] if isinstance(made, Unit) else []
    of_ratings, lost = labels_to_units(renderer, rated)
    prompts = {rating.record_id: rating.prompt for rating in rated}
    units += [_with_key(unit, prompts[unit.unit_id]) for unit in of_ratings]
    refused += lost
    return _merge_ratings(units), refused


def by_vote(refused: Sequence[Refusal], comparisons: Sequence[Comparison]) -> list[Refusal]:
    """Refused pairs that several votes add up to, as one refusal a vote: each row of the file is named and counted."""
    votes: dict[str, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        for one, other in (c.candidates, c.candidates[::-1]):
            votes[f"{c.prompt.prompt_id}:{one.candidate_id}>{other.candidate_id}"].append(c)
    return [
        replace(r, record_id=c.record_id, source_id=c.source_id or c.prompt.source_id) if c is not None else r
        for r in refused
        for c in (votes.get(r.record_id) or [None])
    ]


_KEY = "keel/prompt"


def _with_key(unit: Unit, prompt: Prompt) -> Unit:
    return replace(unit, meta={**unit.meta, _KEY: content_key(prompt)})


def _merge_ratings(units: Sequence[Unit]) -> list[Unit]:
    """Rated answers to one prompt stand in one unit."""
    by_prompt: dict[str, Unit] = {}
    others: list[Unit] = []
    for unit in units:
        if not isinstance(unit.target, RatingTarget):
            others.append(unit)
            continue
        first = by_prompt.get(str(unit.meta[_KEY]))
        if first is not None:
            assert isinstance(first.target, RatingTarget)
            unit = replace(first, branches=first.branches + unit.branches, target=RatingTarget(first.target.scores + unit.target.scores))
        by_prompt[str(unit.meta[_KEY])] = unit
    return others + list(by_prompt.values())
