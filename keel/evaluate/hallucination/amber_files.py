"""What AMBER reads: annotations, answers, the words that stand for objects, and words that are never counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keel.core.errors import DataError
from keel.data.rows import RawRow
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.files import by_id, missing, read_object, read_rows, setting, text_of, texts_of
from keel.rewards.reading.lexicon import read_lines
from keel.rewards.reading.thoughts import answer_of

_IDS = ("id", "question_id")
_ANSWERS = ("response", "answer", "completion", "text")
GENERATIVE = "generative"
DIMENSIONS: Mapping[str, str] = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}


@dataclass(frozen=True, slots=True)
class Description:
    """An answer that describes an image (None: none was given), the objects that are there and those that models tend to add."""

    name: str
    answer: str | None
    there: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a dimension (existence, state, number, action, relation) whose right answer is yes (``label``) or no."""

    name: str
    answer: str | None
    dimension: str
    label: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``associations``: for each object, the words that stand for it; ``safe``: words that are never counted."""

    associations: Mapping[str, tuple[str, ...]]
    safe: frozenset[str]

    @property
    def words(self) -> frozenset[str]:
        """Every word that can be counted."""
        return frozenset(self.associations) | {w for of in self.associations.values() for w in of}


@dataclass(frozen=True, slots=True)
class Asked:
    """All that was asked and answered. Dimensions without a single answer are left out and named."""

    descriptions: tuple[Description, ...]
    questions: tuple[Question, ...]
    vocabulary: Vocabulary
    left_out: tuple[str, ...]


def read(config: HallucinationConfig) -> Asked:
    """Annotations (``truth``) with the answers of ``file``. Raises DataError."""
    path = setting(config.truth, "truth", "the benchmark's annotations.json, or rows {id, type, truth, hallu}")
    truth, answers = by_id(read_rows(path), ("id",)), by_id(read_rows(config.file), _IDS)
    absent = set(missing(answers, truth, path))
    descriptions: list[Description] = []
    questions: list[Question] = []
    for name, row in truth.items():
        answer = None if name in absent else text_of(answers[name], _ANSWERS)
        kind = row.values.get("type")
        if kind == GENERATIVE:
            if answer is not None and config.mode == "fixed":
                answer = answer_of(answer) or ""  # what a model thinks aloud describes nothing
            descriptions.append(Description(name, answer, texts_of(row, "truth"), texts_of(row, "hallu")))
        elif kind in DIMENSIONS:
            questions.append(Question(name, answer, DIMENSIONS[str(kind)], _label(row)))
        else:
            raise DataError(f"{row.place}: type: {kind!r} is no type of the benchmark", f"one of {', '.join([GENERATIVE, *DIMENSIONS])}")
    asked = {q.dimension for q in questions if q.answer is not None}
    left_out = [d for d in dict.fromkeys(DIMENSIONS.values()) if d not in asked and any(q.dimension == d for q in questions)]
    if all(d.answer is None for d in descriptions):
        left_out += [GENERATIVE] if descriptions else []
        descriptions = []
    vocabulary = _vocabulary(config, descriptions) if descriptions else Vocabulary({}, frozenset())
    return Asked(tuple(descriptions), tuple(q for q in questions if q.dimension in asked), vocabulary, tuple(left_out))


def _label(row: RawRow) -> bool:
    label = text_of(row, ("truth",))
    if label not in ("yes", "no"):
        raise DataError(f"{row.place}: truth: must be yes or no, is {label!r}", "see the benchmark's annotations.json")
    return label == "yes"


def _vocabulary(config: HallucinationConfig, descriptions: Sequence[Description]) -> Vocabulary:
    path = setting(config.associations, "associations", "the benchmark's relation.json, or an object {object: [words for it]}")
    data = read_object(path)
    for word, of in data.items():
        if not isinstance(of, list) or not all(isinstance(w, str) for w in of):
            raise DataError(f"{path}: {word}: must be a list of words", f'write {word!r}: ["...", "..."]')
    for d in descriptions:
        unknown = next((w for w in (*d.there, *d.targets) if w not in data), None)
        if unknown is not None:
            raise DataError(f"{config.truth}: id {d.name}: {unknown!r} is not in {path}", f"add {unknown!r}: [] to the associations")
    safe = frozenset(read_lines(config.safe_words)) if config.safe_words else frozenset[str]()
    return Vocabulary({word: tuple(of) for word, of in data.items()}, safe)
