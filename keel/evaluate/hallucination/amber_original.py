"""AMBER as its published script counts (Wang et al. 2023, arXiv 2311.07397, ``inference.py``): counters start at 0.001, numbers are rounded
to 0.1 before F1, only the exact answers "Yes" and "No", and a noun that may be a hallucination and right at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import eq

from keel.evaluate.hallucination.amber_files import Description, Question, Vocabulary
from keel.evaluate.hallucination.amber_words import Language

_START = 0.001
_ATTRIBUTES = ("state", "number", "action")


@dataclass(frozen=True, slots=True)
class Found:
    """Of one description: nouns that count, how many of them nothing excuses, objects that were named, targets that were hit."""

    nouns: tuple[str, ...]
    wrong: tuple[str, ...]
    covered: frozenset[int]
    hit: frozenset[int]


def describe(description: Description, vocabulary: Vocabulary, language: Language) -> Found:
    """The nouns of a description against what is there.

    A noun is taken as: safe; or a word for an object that is there; else it hits the target that it is a word for, then the first target
    that is similar to it, and is wrong unless it is similar to a word for something that is there.
    """
    nouns = tuple(n for n in language.nouns(description.answer or "") if n in vocabulary.words)
    there, targets = _words(description.there, vocabulary), _words(description.targets, vocabulary)
    wrong: list[str] = []
    covered: set[int] = set()
    hit: set[int] = set()
    for noun in nouns:
        if noun in vocabulary.safe:
            continue
        own = _first(noun, there, eq)
        if own is not None:
            covered.add(own)
            continue
        hit |= {i for i in (_first(noun, targets, eq), _first(noun, targets, language.same)) if i is not None}
        like = _first(noun, there, language.same)
        if like is not None:
            covered.add(like)
        else:
            wrong.append(noun)
    return Found(nouns, tuple(wrong), frozenset(covered), frozenset(hit))


def _words(objects: Sequence[str], vocabulary: Vocabulary) -> list[tuple[str, int]]:
    """(word, index of its object): the words that stand for the objects, then the objects themselves."""
    return [(w, i) for i, o in enumerate(objects) for w in vocabulary.associations[o]] + [(o, i) for i, o in enumerate(objects)]


def _first(noun: str, words: Sequence[tuple[str, int]], same: Callable[[str, str], bool]) -> int | None:
    return next((i for word, i in words if same(noun, word)), None)


def generative(descriptions: Sequence[Description], found: Sequence[Found]) -> dict[str, float]:
    """CHAIR, Cover, Hal and Cog as the script prints them, in per cent. Cog is over targets, not over nouns as in the paper."""
    n = len(found) + _START
    clean = sum(not f.wrong for f in found)
    return {
        "CHAIR": _share(sum(len(f.wrong) for f in found), sum(len(f.nouns) for f in found)),
        "Cover": _share(sum(len(f.covered) for f in found), sum(len(d.there) for d in descriptions)),
        "Hal": round(100 - clean / n * 100, 1),
        "Cog": _share(sum(len(f.hit) for f in found), sum(len(d.targets) for d in descriptions)),
    }


def _share(above: float, below: float) -> float:
    return round(above / (below + _START) * 100, 1)


def discriminative(questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Accuracy, precision, recall and F1 by dimension as the script prints them, in per cent; positive is No. Only dimensions with
    questions; ``all`` where existence, attribute and relation are there."""
    groups: dict[str, list[Question]] = {}
    for q in questions:
        if q.answer is not None:
            groups.setdefault(q.dimension, []).append(q)
    attribute = [q for d in _ATTRIBUTES for q in groups.get(d, ())]
    found: dict[str, dict[str, float]] = {}
    if "existence" in groups and attribute and "relation" in groups:
        found["all"] = _numbers([q for of in groups.values() for q in of], 0.0001)
    if "existence" in groups:
        found["existence"] = _numbers(groups["existence"], 0.001)
    if attribute:
        found["attribute"] = _numbers(attribute, 0.0001, len(_ATTRIBUTES))
        found |= {d: _numbers(groups[d], 0.0001) for d in _ATTRIBUTES if d in groups}
    if "relation" in groups:
        found["relation"] = _numbers(groups["relation"], 0.0001)
    return found


def _numbers(questions: Sequence[Question], epsilon: float, starts: int = 1) -> dict[str, float]:
    """``starts``: how many counters the script sums, each of which starts at 0.001."""
    right = sum(q.answer == ("Yes" if q.label else "No") for q in questions)
    no = [q for q in questions if not q.label]
    said_no = [q for q in questions if q.answer == "No"]
    precision = _ratio(sum(not q.label for q in said_no), len(said_no), starts)
    recall = _ratio(sum(q.answer == "No" for q in no), len(no), starts)
    f1 = round(2 * (precision / 100) * (recall / 100) / ((precision / 100) + (recall / 100) + epsilon) * 100, 1)
    return {"Accuracy": _ratio(right, len(questions), starts), "Precision": precision, "Recall": recall, "F1": f1}


def _ratio(above: int, below: int, starts: int) -> float:
    return round(above / (below + starts * _START) * 100, 1)


def amber_score(generative_part: Mapping[str, float], discriminative_part: Mapping[str, Mapping[str, float]]) -> float | None:
    """(100 - CHAIR + F1) / 2 of the paper; the script does not print it. None unless both parts are there."""
    if not generative_part or "all" not in discriminative_part:
        return None
    return (100 - generative_part["CHAIR"] + discriminative_part["all"]["F1"]) / 2
