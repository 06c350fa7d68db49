"""People's labels as questions for judges: comparisons by several people, or pairs with one label each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.errors import DataError
from keel.core.hashing import stable_hash
from keel.judges.ask import Question
from keel.types import Candidate, Comparison, Message, Pair, Prompt
from keel.types.identity import answer_key


@dataclass(frozen=True, slots=True)
class Labelled:
    """A pair and the votes on it, one a person, as sides of the question's canonical order."""

    question: Question
    votes: tuple[str, ...]


def labelled(records: Iterable[Any], source: str, reference: str = "") -> list[Labelled]:
    """Labelled pairs of records. Of several votes of one person the first counts. ``reference``: the column with a right answer.

    Raises DataError where nothing is a labelled pair.
    """
    found: dict[tuple[str, ...], tuple[Question, dict[str, str]]] = {}
    others = 0
    for k, record in enumerate(records):
        if isinstance(record, Comparison):
            prompt, pair, said, who = record.prompt, record.candidates, record.outcome, record.annotator_id
        elif isinstance(record, Pair):
            prompt, pair, who = record.prompt, (_candidate(record.chosen, "chosen"), _candidate(record.rejected, "rejected")), f"row {k}"
            said = "tie" if record.label == 0.5 else "first" if record.label > 0.5 else "second"
        else:
            others += 1
            continue
        flipped = stable_hash("canonical", prompt.prompt_id, *sorted(_key(c) for c in pair)) & 1
        low, high = sorted(pair, key=_key)
        first, second = (high, low) if flipped else (low, high)
        vote = said if said == "tie" else "first" if _key(pair[0 if said == "first" else 1]) == _key(first) else "second"
        key = (prompt.prompt_id, _key(first), _key(second))
        question = Question(prompt, (first, second), reference=reference_of(prompt, reference))
        found.setdefault(key, (question, {}))[1].setdefault(who, vote)
    if not found:
        raise DataError(
            f"{source}: no labelled pairs ({others} records of other kinds)", "give comparisons, or pairs with chosen and rejected"
        )
    return [Labelled(question, tuple(votes.values())) for question, votes in found.values()]


def reference_of(prompt: Prompt, column: str) -> str:
    """The right answer in the prompt's column; "" without a column. Raises DataError for a row that has none."""
    if not column:
        return ""
    value = prompt.meta.get(column)
    if not isinstance(value, str | int | float) or value == "":
        raise DataError(
            f"prompt {prompt.prompt_id} ({prompt.source_id}) has no {column!r}", "templates with a reference need it in each row"
        )
    return str(value)


def _candidate(turns: Sequence[Message], name: str) -> Candidate:
    text = "\n\n".join(m.text for m in turns if m.role == "assistant")
    return Candidate(f"{name}-{stable_hash(text):016x}", text)


def _key(candidate: Candidate) -> str:
    return f"{candidate.candidate_id}\0{candidate.text}" + (f"\0{answer_key(candidate.turns)}" if candidate.turns else "")
