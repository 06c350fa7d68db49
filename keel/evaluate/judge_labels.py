"""People's labels as questions for judges: comparisons by several people, or pairs with one label each."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from keel.core.errors import DataError
from keel.core.hashing import stable_hash
from keel.evaluate.judge_measures import majority
from keel.judges.ask import Question
from keel.judges.pictures import holds_image
from keel.types import Candidate, Comparison, Message, Pair, Prompt
from keel.types.identity import answer_key

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A pair and the votes on it, one a person, as sides of the question's canonical order."""

    question: Question
    votes: tuple[str, ...]


def labelled(records: Iterable[Any], source: str, reference: str = "") -> list[Labelled]:
    """Labelled pairs of records. Of several votes of one person the first counts. ``reference``: the column with a right answer.

    Rows that do not say who labelled them are never several people, however often a pair stands there: nobody knows that they are. They
    are one vote together, the side of most of them, and none where somebody with a name voted on the pair. What does not count is told.

    Raises DataError where nothing is a labelled pair.
    """
    found: dict[tuple[str, ...], tuple[Question, dict[str, str], list[str]]] = {}
    others = again = 0
    for record in records:
        if isinstance(record, Comparison):
            prompt, pair, said, who = record.prompt, record.candidates, record.outcome, record.annotator_id.strip()
        elif isinstance(record, Pair):
            prompt, pair, who = record.prompt, _candidates(record), ""
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
        _, named, nameless = found.setdefault(key, (question, {}, []))
        again += who in named
        if who:
            named.setdefault(who, vote)
        else:
            nameless.append(vote)
    if not found:
        raise DataError(
            f"{source}: no labelled pairs ({others} records of other kinds)", "give comparisons, or pairs with chosen and rejected"
        )
    again += sum(len(nameless) - (not named) for _, named, nameless in found.values() if nameless)
    if again:
        log.info("%s: %d labels are further ones of the same person, or of nobody known, on the same pair: one vote each", source, again)
    return [Labelled(question, tuple(named.values()) or (majority(nameless),)) for question, named, nameless in found.values()]


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


def _candidates(pair: Pair) -> tuple[Candidate, Candidate]:
    """Named by their content alone: what one row chooses and another rejects is the same answer."""
    chosen, rejected = (_candidate(turns) for turns in (pair.chosen, pair.rejected))
    same = chosen.candidate_id == rejected.candidate_id
    return chosen, replace(rejected, candidate_id=rejected.candidate_id + "-2") if same else rejected


def _candidate(turns: tuple[Message, ...]) -> Candidate:
    """An answer by its content; with its turns where it holds an image, of which its text says nothing."""
    text = "\n\n".join(m.text for m in turns if m.role == "assistant")
    if holds_image(turns):
        return Candidate(f"{stable_hash(text, answer_key(turns)):016x}", text, turns=turns)
    return Candidate(f"{stable_hash(text):016x}", text)


def _key(candidate: Candidate) -> str:
    return f"{candidate.candidate_id}\0{candidate.text}" + (f"\0{answer_key(candidate.turns)}" if candidate.turns else "")
