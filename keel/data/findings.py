"""What a person should know of labels before training on them: rows that say the same twice, and rows that contradict one another.
Counted and told, never dropped: a vote that was cast twice may be meant."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from keel.data.conversion import answer_key
from keel.data.identity import Item, content_key, prompt_of
from keel.types import Comparison, Demonstration, Pair, Prompt, Ranking, Rating, Steps, Unpaired

Said = tuple[Hashable, Hashable]  # what a record says, and what would contradict it (None: nothing could)


@dataclass(frozen=True, slots=True)
class Findings:
    """``duplicates`` are rows that say exactly what an earlier one says (prompt, answers, label's direction), ``contradictions`` pairs of
    answers (or answers, for unpaired labels) that were labelled both ways by one annotator. The texts name the first of each."""

    duplicates: int = 0
    contradictions: int = 0
    duplicate: str = ""
    contradiction: str = ""

    def __str__(self) -> str:
        parts = [
            f"{n} {what} (first: {first})"
            for n, what, first in (
                (self.duplicates, "exact duplicates", self.duplicate),
                (self.contradictions, "contradictions", self.contradiction),
            )
            if n
        ]
        return "; ".join(parts)


def find(records: Iterable[Item]) -> Findings:
    """Look through records in their order. Equal prompts under different ids are one prompt."""
    seen: dict[Hashable, Item] = {}
    duplicates, contradictions, duplicate, contradiction = 0, 0, "", ""
    for record in records:
        prompt = prompt_of(record)
        said, opposite = _said(record)
        head = (type(record).__name__, content_key(prompt))
        if (head, said) in seen:
            duplicates += 1
            duplicate = duplicate or _between(record, "repeats", seen[head, said])
            continue
        seen[head, said] = record
        if opposite is not None and (head, opposite) in seen:
            contradictions += 1
            contradiction = contradiction or _between(record, "contradicts", seen[head, opposite])
    return Findings(duplicates, contradictions, duplicate, contradiction)


def _between(record: Item, what: str, other: Item) -> str:
    """Places in files; where records only know that their prompts came from one place, their ids."""
    here, there = prompt_of(record).source_id, prompt_of(other).source_id
    if here == there and not isinstance(record, Prompt) and not isinstance(other, Prompt):
        return f"{here}: {record.record_id} {what} {other.record_id}"
    return f"{here} {what} {there}"


def _said(record: Item) -> Said:
    match record:
        case Prompt():
            return (), None
        case Demonstration():
            return answer_key(record.completion), None
        case Pair():
            return _preferred(answer_key(record.chosen), answer_key(record.rejected), record.label)
        case Comparison():
            first, second = (c.text for c in record.candidates)
            label = {"first": 1.0, "tie": 0.5, "second": 0.0}[record.outcome]
            said, opposite = _preferred(first, second, label)
            who = (record.annotator_id, record.protocol)
            return (who, said), None if opposite is None else (who, opposite)
        case Unpaired():
            answer = answer_key(record.answer)
            return (answer, record.desirable), (answer, not record.desirable)
        case Rating():
            return (answer_key(record.answer), tuple(sorted(record.scores.items()))), None
        case Ranking():
            return tuple(sorted(zip((answer_key(a) for a in record.answers), record.ranks))), None
        case Steps():
            return (record.steps, record.labels), None


def _preferred(first: str, second: str, label: float) -> Said:
    if label == 0.5:
        return ("tie", *sorted((first, second))), None
    better, worse = (first, second) if label > 0.5 else (second, first)
    return (better, worse), (worse, better)
