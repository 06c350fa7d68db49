"""Lengths of a data set in tokens, told from bytes: of each record its prompt and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keel.data.identity import Item
from keel.types import Comparison, Demonstration, ImagePart, Message, Pair, Prompt, Ranking, Rating, Steps, Unpaired

TEMPLATE = 8  # tokens around a turn


def answers_of(record: Item) -> tuple[tuple[Message, ...], ...]:
    """All answers of a record."""
    match record:
        case Prompt():
            return ()
        case Demonstration():
            return (record.completion,)
        case Pair():
            return (record.chosen, record.rejected)
        case Comparison():
            return tuple((Message("assistant", c.text),) for c in record.candidates)
        case Ranking():
            return record.answers
        case Rating() | Unpaired():
            return (record.answer,)
        case Steps():
            return ((Message("assistant", "\n".join(record.steps)),),)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the records: ``prompts`` one each, ``answers`` those of each; ``distinct`` of each different prompt once; ``images`` of
    each record's prompt."""

    prompts: tuple[float, ...]
    answers: tuple[tuple[float, ...], ...]
    distinct: tuple[float, ...]
    images: tuple[int, ...] = ()

    @property
    def units(self) -> list[float]:
        """Tokens of each record, its prompt counted once."""
        return [p + sum(a) for p, a in zip(self.prompts, self.answers, strict=True)]

    @property
    def scored(self) -> float:
        """Share of all tokens that are of answers."""
        total = sum(self.units)
        return (total - sum(self.prompts)) / total if total else 0.0


def lengths_of(records: Sequence[Item], prompts: Sequence[Prompt], bytes_per_token: float) -> Lengths:
    """From bytes in UTF-8 (in Chinese a character is three) and the tokens of the template around turns."""

    def tokens(texts: Sequence[str]) -> float:
        return sum(len(t.encode("utf-8", "replace")) / bytes_per_token + TEMPLATE for t in texts)

    def asked(p: Prompt) -> float:
        return tokens([m.text for m in p.messages] or [p.text or ""])

    owners = [r if isinstance(r, Prompt) else r.prompt for r in records]
    return Lengths(
        prompts=tuple(asked(p) for p in owners),
        answers=tuple(tuple(tokens([m.text for m in a]) for a in answers_of(r)) for r in records),
        distinct=tuple(asked(p) for p in prompts),
        images=tuple(
            sum(isinstance(c, ImagePart) for m in p.messages for c in m.content if not isinstance(m.content, str)) for p in owners
        ),
    )
