"""The texts of a record, one by one, and what of them is compared."""

from __future__ import annotations

import re

from keel.data.identity import Item, image_digest, prompt_of
from keel.data.text import ngrams, words
from keel.types import Comparison, Demonstration, ImagePart, Message, Pair, Prompt, Ranking, Rating, Steps, Unpaired

Gram = tuple[str, ...]
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def prompt_text(prompt: Prompt) -> str:
    """All that a prompt says."""
    return "\n".join([*(m.text for m in prompt.messages), prompt.text or ""]).strip()


def answers_of(record: Item) -> tuple[str, ...]:
    """The answers of a record, in its order."""

    def joined(turns: tuple[Message, ...]) -> str:
        return "\n".join(m.text for m in turns)

    match record:
        case Prompt():
            return ()
        case Demonstration():
            return (joined(record.completion),)
        case Pair():
            return (joined(record.chosen), joined(record.rejected))
        case Comparison():
            return tuple(c.text for c in record.candidates)
        case Ranking():
            return tuple(map(joined, record.answers))
        case Rating() | Unpaired():
            return (joined(record.answer),)
        case Steps():
            return ("\n".join(record.steps),)


def texts_of(record: Item) -> tuple[str, ...]:
    """The prompt, then the answers."""
    return (prompt_text(prompt_of(record)), *answers_of(record))


def images_of(record: Item) -> tuple[str, ...]:
    """Digests of the images that a prompt shows."""
    turns = [m.content for m in prompt_of(record).messages if not isinstance(m.content, str)]
    return tuple(image_digest(p.source) for content in turns for p in content if isinstance(p, ImagePart))


def grams(text: str) -> frozenset[Gram]:
    """Words and word pairs."""
    found = words(text)
    return frozenset(ngrams(found, 1)) | frozenset(ngrams(found, 2))


def numbers(text: str) -> tuple[str, ...]:
    """The numbers in a text, sorted: two sums that differ in one are two questions."""
    return tuple(sorted(_NUMBER.findall(text)))
