"""Records that a conversion of labels leaves out: each by name, with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from keel.data.config import ConversionConfig
from keel.data.conversion import answer_key
from keel.data.identity import Item, prompt_of
from keel.types import Comparison, Demonstration, Message, Pair, Prompt, Ranking, Rating, Steps, Unpaired

Key = tuple[str, str]  # prompt, answer


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record that made no record of the kind asked for. ``source_id``: where it stands (``file.jsonl:12``)."""

    record_id: str
    source_id: str
    reason: str


def left_out(records: Iterable[Item], made: Sequence[Item], config: ConversionConfig) -> tuple[LeftOut, ...]:
    """Those of ``records`` of which nothing stands in ``made``, what ``data.convert`` made of them all. A comparison or a
    ranking must be there as a pair of two of its answers, any other record with one of its answers. Prompts are only asked once."""
    if config.to in ("none", "prompts"):
        return ()
    answers = {key for record in made for key in _answers(record)}
    pairs = {frozenset(_answers(record)) for record in made if isinstance(record, Pair)}
    found: list[LeftOut] = []
    for record in records:
        keys = _answers(record)
        if isinstance(record, Comparison | Ranking) and config.to == "pairs":
            there = any(frozenset(two) in pairs for two in combinations(keys, 2))
        else:
            there = any(k in answers for k in keys)
        if not there and not isinstance(record, Prompt):
            found.append(LeftOut(record.record_id, prompt_of(record).source_id, _why(record, config)))
    return tuple(found)


def _answers(record: Item) -> tuple[Key, ...]:
    prompt_id = prompt_of(record).prompt_id
    match record:
        case Pair():
            turns: tuple[tuple[Message, ...], ...] = (record.chosen, record.rejected)
        case Comparison():
            turns = tuple(c.messages for c in record.candidates)
        case Ranking():
            turns = record.answers
        case Rating() | Unpaired():
            turns = (record.answer,)
        case Demonstration():
            turns = (record.completion,)
        case Prompt() | Steps():
            turns = ()
    return tuple((prompt_id, answer_key(t)) for t in turns)


def _why(record: Item, config: ConversionConfig) -> str:
    """What about this record makes nothing of the kind asked for."""
    if config.to == "demonstrations":
        return "it has no answer that is wanted, or better than another one and worse than none: none to imitate"
    even = (
        "the votes are even" if isinstance(record, Comparison | Pair) else "no answer to its prompt has a score or rank that differs enough"
    )
    if config.to == "unpaired":
        return f"{even}, so its answers are neither wanted nor unwanted"
    apart = " or data.convert.min_gap" if isinstance(record, Rating) and config.min_gap else ""
    chosen = ", or data.convert.balance took clearer ones" if config.balance else ""
    return f"{even}{chosen} (data.convert.ties=keep{apart} decides)"
