"""What a person should know of labels before training on them: rows that say the same twice, and rows that contradict one another.
Counted and told, never dropped: a vote that was cast twice may be meant."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from keel.data.conversion import answer_key
from keel.data.identity import Item, claim_key, content_key, prompt_of, truth_of
from keel.types import Comparison, Demonstration, Pair, Prompt, Ranking, Rating, Steps, Unpaired

Said = tuple[Hashable, Hashable]  # what is judged, and the judgement: another judgement of the same contradicts it


@dataclass(frozen=True, slots=True)
class Findings:
    """``duplicates`` are rows that say exactly what an earlier one says (prompt, right answer, answers, label's direction).
    ``contradictions`` are rows that judge what an earlier one judges in another way: a pair the other way round, an answer wanted and not,
    rated or ranked otherwise, another right answer to the same question. The texts name the first of each."""

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
    seen: dict[Hashable, dict[Hashable, Item]] = {}
    duplicates, contradictions, duplicate, contradiction = 0, 0, "", ""
    for record in records:
        head = (type(record).__name__, content_key(prompt_of(record)))
        about, said = judged(record)
        truth = truth_key(record)
        whole = seen.setdefault((head, "row"), {})
        same = whole.setdefault((about, said, truth if not isinstance(record, Prompt) else claim_key(record)), record)
        if same is not record:
            duplicates += 1
            duplicate = duplicate or _between(record, "repeats", same)
            continue
        other = _other(seen.setdefault((head, about), {}), said, record) if said is not None else None
        contrary = _other(seen.setdefault((head, "truth"), {}), truth, record) if truth else None
        if other is not None or contrary is not None:
            contradictions += 1
            between = _between(record, "contradicts", other or contrary or record)
            contradiction = contradiction or between + (_values(record, contrary) if contrary is not None else "")
    return Findings(duplicates, contradictions, duplicate, contradiction)


def untrained_turns(records: Iterable[Item]) -> int:
    """Turns of demonstrations that their file marks as not to be trained."""
    return sum(not m.trained for r in records if isinstance(r, Demonstration) for m in r.completion)


def _other(judged: dict[Hashable, Item], judgement: Hashable, record: Item) -> Item | None:
    """The first record with another judgement; ``record`` is noted with its own."""
    other = next((found for known, found in judged.items() if known != judgement), None)
    judged.setdefault(judgement, record)
    return other


def truth_key(record: Item) -> str:
    """Equal for records whose prompts name the same right answer; "" without any."""
    found = truth_of(prompt_of(record))
    return json.dumps(found, sort_keys=True, default=repr) if found else ""


def _values(record: Item, other: Item) -> str:
    """The two right answers, for people."""
    mine, theirs = truth_of(prompt_of(record)), truth_of(prompt_of(other))
    name = next(k for k in (*mine, *theirs) if mine.get(k) != theirs.get(k))
    return f": {name} is {str(mine.get(name))[:40]!r} here and {str(theirs.get(name))[:40]!r} there"


def _between(record: Item, what: str, other: Item) -> str:
    """Places in files; where records only know that their prompts came from one place, their ids."""
    here, there = prompt_of(record).source_id, prompt_of(other).source_id
    if here == there and not isinstance(record, Prompt) and not isinstance(other, Prompt):
        return f"{here}: {record.record_id} {what} {other.record_id}"
    return f"{here} {what} {there}"


def judged(record: Item) -> Said:
    """What a record judges, and how; None where it judges nothing that another could contradict."""
    match record:
        case Prompt():
            return "prompt", None
        case Demonstration():
            return ("answer", answer_key(record.completion)), None
        case Pair():
            return _preferred(answer_key(record.chosen), answer_key(record.rejected), record.label)
        case Comparison():
            first, second = (c.text for c in record.candidates)
            label = {"first": 1.0, "tie": 0.5, "second": 0.0}[record.outcome]
            about, said = _preferred(first, second, label)
            return (record.annotator_id, record.protocol, about), said
        case Unpaired():
            return answer_key(record.answer), record.desirable
        case Rating():
            return (answer_key(record.answer), tuple(sorted(record.scores))), tuple(sorted(record.scores.items()))
        case Ranking():
            ranked = tuple(sorted(zip((answer_key(a) for a in record.answers), record.ranks)))
            return tuple(answer for answer, _ in ranked), ranked
        case Steps():
            return record.steps, record.labels


def _preferred(first: str, second: str, label: float) -> Said:
    """A tie contradicts nothing: it is judged by itself."""
    pair = tuple(sorted((first, second)))
    if label == 0.5:
        return ("tie", *pair), "tie"
    return pair, first if label > 0.5 else second
