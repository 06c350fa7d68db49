"""Words of a caption: tokens and singulars, by small rules of our own or by the libraries that the published scripts use.

Chinese needs no library: each of its characters is a token, and names are found as the longest run of tokens.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|n't\b|'\w+|(?:(?![{_CJK}])\w)+(?:[-/](?:(?![{_CJK}])\w)+)*|[^\w\s]")
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))\b")

_IRREGULAR = {
    "children": "child", "people": "person", "men": "man", "women": "woman", "feet": "foot", "teeth": "tooth", "geese": "goose",
    "mice": "mouse", "oxen": "ox", "knives": "knife", "wives": "wife", "lives": "life", "leaves": "leaf", "loaves": "loaf",
    "shelves": "shelf", "wolves": "wolf", "calves": "calf", "halves": "half", "scarves": "scarf", "elves": "elf", "thieves": "thief",
    "buses": "bus", "gases": "gas", "lenses": "lens", "quizzes": "quiz", "movies": "movie", "cookies": "cookie", "pies": "pie",
    "ties": "tie", "brownies": "brownie", "selfies": "selfie", "hoodies": "hoodie", "zombies": "zombie", "veggies": "veggie",
    "shoes": "shoe", "toes": "toe", "canoes": "canoe", "horseshoes": "horseshoe", "axes": "axe", "caches": "cache",
    "skis": "ski",
    "taxis": "taxi",
    "kiwis": "kiwi",
    "bikinis": "bikini",
    "menus": "menu",
    "mustaches": "mustache", "headaches": "headache",
}  # fmt: skip
_UNCHANGED = frozenset(  # most other words in -us and -is are left alone by the rule below
    """scissors pants jeans shorts trousers series species news tennis bus gas lens christmas always this his its was is has as us thus yes
    chess across towards perhaps canvas atlas iris basis specimen abdomen omen semen regimen acumen stamen ramen""".split()  # noqa: SIM905
)
_UNCHANGED_TOO = frozenset({"scissors", "series", "species", "news", "christmas", "allows"})
_STRANGE = {"ties": "ty", "pies": "py", "canoes": "cano", "shelves": "shelve", "cookies": "cookies"}


@dataclass(frozen=True, slots=True)
class Words:
    """How captions become words: ``tokens`` of a text, ``singular`` of a word, and where they come from."""

    tokens: Callable[[str], list[str]]
    singular: Callable[[str], str]
    name: str


def tokens(text: str) -> list[str]:
    """Words, marks and single Chinese characters, in order. What hangs on a word ("'s", "n't") is a token of its own; hyphens stay."""
    return _TOKEN.findall(_CLITIC.sub(r" \1", text.replace("’", "'")))


def token_places(text: str) -> list[tuple[int, int]]:
    """Where the tokens of ``text`` stand: first and past-last character. Negations such as "isn't" are cut elsewhere than by ``tokens``."""
    return [m.span() for m in _TOKEN.finditer(text.replace("’", "'"))]


def singular(word: str) -> str:
    """The singular of an English noun in small letters; "glass" and "bus" stay. Other words may change: they are only compared with
    names that went the same way."""
    if word in _UNCHANGED or len(word) < 3:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("buses"):  # minibuses
        return word[:-2]
    if word.endswith("men"):  # policemen, snowmen
        return word[:-2] + "an"
    if word.endswith("children"):
        return word[:-3]
    if not word.endswith("s") or word.endswith(("ss", "us", "is", "'s")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "oes", "zzes")):
        return word[:-2]
    return word[:-1]


def original_singular(word: str) -> str:
    """A singular as the library of the published CHAIR script forms it: every last s goes ("glas", "bu", "tenni"), so that a single bus is
    never found."""
    if len(word) < 3:
        return word
    if word in _STRANGE:
        return _STRANGE[word]
    if word in _IRREGULAR or word in _UNCHANGED_TOO or not word.endswith("s") or singular(word) != word:
        return singular(word)
    return word[:-1]


def own() -> Words:
    """The rules of this file."""
    return Words(tokens, singular, "own rules")


def of_original() -> Words:
    """What the published CHAIR script uses: nltk's tokens and pattern's singulars where they are installed, our rules in their place."""
    split, split_name = _nltk_tokens()
    one, one_name = _pattern_singular()
    return Words(split, one, f"tokens: {split_name}, singulars: {one_name}")


def _nltk_tokens() -> tuple[Callable[[str], list[str]], str]:
    try:
        tokenize = importlib.import_module("nltk").word_tokenize
        tokenize("a word.")
    except (ImportError, LookupError):  # not installed, or without its data
        return tokens, "own rules"
    return tokenize, "nltk"


def _pattern_singular() -> tuple[Callable[[str], str], str]:
    try:
        return importlib.import_module("pattern.en").singularize, "pattern"
    except ImportError:
        return original_singular, "own rules"
