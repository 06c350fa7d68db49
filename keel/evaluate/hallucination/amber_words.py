"""How AMBER finds the nouns of a description, and when two words mean the same: functions that are handed in."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from keel.core.errors import UserError
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.rewards.reading.words import singular, tokens

_SPACY_MODEL = "en_core_web_lg"


@dataclass(frozen=True, slots=True)
class Language:
    """``nouns`` of a text, in order; ``same``: do two words mean the same? ``names`` says what both are."""

    nouns: Callable[[str], list[str]]
    same: Callable[[str, str], bool]
    names: dict[str, str]


def exact(one: str, other: str) -> bool:
    """Are two words the same, plural aside?"""
    return one == other or singular(one) == singular(other)


def vocabulary_nouns(words: frozenset[str]) -> Callable[[str], list[str]]:
    """Words of a text that stand in the vocabulary, in the singular or as they are there. Capitals are kept: "Trees" is not "tree"."""

    def nouns(text: str) -> list[str]:
        ones = tokens(text)
        return [one if one in words else single for one in ones if (single := singular(one)) in words or one in words]

    return nouns


def language(config: HallucinationConfig, words: frozenset[str]) -> Language:
    """What ``config`` asks for. The published script's way (nltk and spaCy) is taken by itself in mode ``original`` only, where it is
    installed: the numbers of mode ``fixed`` do not depend on what is installed. Raises UserError for libraries that are not there."""
    original = config.mode == "original"
    nouns, how = None, "words of the associations"
    if config.nouns == "nltk" or (config.nouns == "auto" and original):
        nouns = _nltk_nouns()
        how = "nltk" if nouns else how
    if nouns is None and config.nouns == "nltk":
        raise UserError(
            "nouns=nltk: nltk or its data is not installed", "pip install nltk, and its punkt, tagger and wordnet; or nouns=vocabulary"
        )
    same, similarity = exact, "exact"
    if config.similarity == "spacy" or (config.similarity == "auto" and original):
        found = _spacy_same(config.threshold)
        if found is not None:
            same, similarity = found, f"spaCy {_SPACY_MODEL} above {config.threshold:g}"
        elif config.similarity == "spacy":
            raise UserError(f"similarity=spacy: spaCy or its model {_SPACY_MODEL} is not installed", "install both, or similarity=exact")
    return Language(nouns or vocabulary_nouns(words), same, {"nouns": how, "similarity": similarity})


def _nltk_nouns() -> Callable[[str], list[str]] | None:
    try:
        nltk = importlib.import_module("nltk")
        lemmatize = importlib.import_module("nltk.stem").WordNetLemmatizer().lemmatize
        nltk.pos_tag(nltk.word_tokenize("a dog."))
        lemmatize("dogs")
    except (ImportError, LookupError):
        return None
    return lambda text: [lemmatize(w) for w, tag in nltk.pos_tag(nltk.word_tokenize(text)) if tag.startswith("NN")]


def _spacy_same(threshold: float) -> Callable[[str, str], bool] | None:
    try:
        parse = cache(importlib.import_module("spacy").load(_SPACY_MODEL))
    except (ImportError, OSError):
        return None
    return cache(lambda one, other: parse(one).similarity(parse(other)) > threshold)
