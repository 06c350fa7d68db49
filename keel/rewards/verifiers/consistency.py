"""Does an answer tell what its reference tells? The cosine of their words, and the objects that both name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from keel.core.errors import DataError
from keel.core.python_file import file_of, load_object, names_a_file
from keel.rewards.detectors.words import WordsConfig
from keel.rewards.reading.lexicon import Finder, Lexicon, read_objects, read_pairs
from keel.rewards.reading.words import own, tokens
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import InputFile, SourceConfig
from keel.types import Prompt

_SAY_NOTHING = (
    "a an the this that these those it its there here is are was were be been being has have had do does and or but of in on at to from",
    "with by for as into onto over 的 了 在 有 是 和 与 着 个 这 那",
)
_FUNCTION_WORDS = frozenset(word for words in _SAY_NOTHING for word in words.split())


class ConsistencyReward(SourceConfig):
    """A weighted mean of the similarity to a reference description and of the F-measure of objects named."""

    type: Literal["consistency"] = Field(default="consistency", description="An answer held against a reference.")
    truth: str = Field(
        default="reference",
        min_length=1,
        description="Field of the row with the reference: a text, or several, of which the nearest counts.",
    )
    words: WordsConfig = Field(description="The words of objects; `words.field` names those that are in the picture.")
    cosine: float = Field(default=0.6, ge=0, description="Weight of the similarity.")
    entities: float = Field(default=0.4, ge=0, description="Weight of the objects: F-measure of those named and those that are there.")
    similarity: str = Field(
        default="words",
        pattern=r"^(words|.+\.py:\w+)$",
        description="words: the cosine of word counts; or FILE.py:NAME of fn(prompt, answer) -> a number in [-1, 1], such as the cosine of "
        "a picture's and a text's embeddings of a model that was trained to compare them. Then `truth` is not read.",
    )

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.cosine + self.entities == 0:
            raise ValueError("cosine and entities are both 0: nothing would be scored")
        if not self.words.objects:
            raise ValueError("words.objects is needed: a line an object, its names")
        if self.similarity != "words" and "truth" in self.changed:
            raise ValueError("truth would have no effect: similarity is a function of yours")
        return self

    def files(self) -> Iterator[InputFile]:
        yield InputFile("words.objects", self.words.objects)
        if self.words.pairs:
            yield InputFile("words.pairs", self.words.pairs)
        if names_a_file(self.similarity):
            yield InputFile("similarity", file_of(self.similarity))


def cosine(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Of two counts, in [0, 1]; 0 where one is empty."""
    norm = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return sum(n * b.get(word, 0) for word, n in a.items()) / norm if norm else 0.0


def f_measure(named: Collection[str], there: Collection[str]) -> float:
    """2 |both| / (|named| + |there|), in [0, 1]; 1 where both are empty. Precision alone would be best for naming one sure object."""
    named, there = set(named), set(there)
    return 2 * len(named & there) / (len(named) + len(there)) if named or there else 1.0


def content_words(text: str) -> Counter[str]:
    """Words in small letters and in the singular, without marks and function words; Chinese characters one by one."""
    singular = own().singular
    return Counter(singular(t) for t in tokens(text.lower()) if t not in _FUNCTION_WORDS and any(c.isalnum() for c in t))


@of_answers
def consistency(config: ConsistencyReward) -> TextReward:
    """``(cosine * similarity + entities * F) / (cosine + entities)``. A row without reference or objects is a failure, and so is a
    similarity that is no number in [-1, 1]. Raises UserError for files and functions that are not there."""
    lexicon = Lexicon(read_objects(config.words.objects, original=False), read_pairs(config.words.pairs))
    finder = Finder(lexicon, own())
    similar = _by_words(config.truth) if config.similarity == "words" else load_object(config.similarity, "similarity")

    def judge(prompt: Prompt, text: str) -> Score:
        there = _texts(prompt, config.words.field)
        if there is None:
            return failure(f"the row has no list of objects in '{config.words.field}'")
        try:
            alike = float(similar(prompt, text)) if config.cosine else 0.0
        except Exception as error:  # of the user's function too: one bad sample must not end a run
            return failure(f"similarity: {error}" if isinstance(error, DataError) else f"similarity: {type(error).__name__}: {error}")
        if not -1 <= alike <= 1 + 1e-6:
            return failure(f"similarity is {alike}, not in [-1, 1]")
        named = {m.node for m in finder(text)}
        f = f_measure(named, {lexicon.node_of.get(name, name) for name in there})
        value = (config.cosine * alike + config.entities * f) / (config.cosine + config.entities)
        return Score(value, f"similarity {alike:.2f}, objects {f:.2f}")

    return judge


def _by_words(truth: str) -> Callable[[Prompt, str], float]:
    def similar(prompt: Prompt, text: str) -> float:
        references = _texts(prompt, truth)
        if not references:
            raise DataError(f"the row has no reference in '{truth}'")
        said = content_words(text)
        return max(cosine(said, content_words(reference)) for reference in references)

    return similar


def _texts(prompt: Prompt, field: str) -> list[str] | None:
    value = prompt.meta.get(field)
    value = [value] if isinstance(value, str) else value
    return list(value) if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value) else None


ROW = TextRow(ConsistencyReward, consistency)
