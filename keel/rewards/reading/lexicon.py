"""The objects that CHAIR knows: their names, and words that count as one. Both are files of the user's, in any language."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from keel.core.errors import DataError
from keel.data.rows import utf8
from keel.rewards.reading.words import Words, token_places

_PUBLISHED = re.compile(r"^\s*(\w+)\s*=\s*(\[.*?\])\s*$", re.MULTILINE | re.DOTALL)
_PUBLISHED_PAIR = re.compile(r"double_word_dict\[(['\"])(.+?)\1\]\s*=\s*(['\"])(.+?)\3")
_QUALIFIERS = frozenset({"baby", "adult", "passenger"})


@dataclass(frozen=True)
class Lexicon:
    """``node_of``: the object of each name, as the file spells it; ``pairs``: two or more words with what they count as."""

    node_of: Mapping[str, str]
    pairs: Mapping[str, str]

    @cached_property
    def nodes(self) -> frozenset[str]:
        return frozenset(self.node_of.values())


@dataclass(frozen=True, slots=True)
class Mention:
    """An object that a caption names: the word, its object, and the position of its first token."""

    word: str
    node: str
    position: int


def read_lines(path: str) -> list[str]:
    """The lines of a text file as they are, without their ends. Raises DataError."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{path}: no such file", "give the path of a text file")
    return utf8(file.read_bytes(), file).splitlines()


def read_objects(path: str, original: bool) -> dict[str, str]:
    """Name -> object from lines ``object, name, name``. ``original`` splits at comma and one space only and keeps what else stands around
    a name, as the published script does (such names are then never found). Raises DataError for a file without names, and for a name of
    two objects unless ``original`` (there the last line wins)."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or (not original and line.lstrip().startswith("#")):
            continue
        names = line.strip().split(", ") if original else [n.strip() for n in re.split("[,，、]", line) if n.strip()]
        for name in names:
            if not original and found.get(name, names[0]) != names[0]:
                raise DataError(f"{path}:{number}: {name!r} is a name of {found[name]!r} already", "a name can stand for one object only")
            found[name] = names[0]
    if not found:
        raise DataError(f"{path}: no object in this file", "write an object a line: dog, puppy, hound")
    return found


def read_pairs(path: str) -> dict[str, str]:
    """Words -> what they count as, from lines ``words -> word`` (``words`` alone: they stay one name), or from the lists of the published
    ``chair.py``. Raises DataError."""
    if not path:
        return {}
    if Path(path).suffix == ".py":
        return _published_pairs(path)
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words, _, target = (part.strip() for part in line.partition("->"))
        if not words or ("->" in line and not target):
            raise DataError(f"{path}:{number}: must be `words -> word`, is {line.strip()!r}", "for example: toilet seat -> toilet")
        found[words] = target or words
    return found


def _published_pairs(path: str) -> dict[str, str]:
    text = "\n".join(read_lines(path))
    lists = {
        m[1]: ast.literal_eval(m[2]) for m in _PUBLISHED.finditer(text) if m[1] in ("coco_double_words", "animal_words", "vehicle_words")
    }
    if len(lists) != 3:
        raise DataError(
            f"{path}: not the published chair.py: it holds no coco_double_words, animal_words and vehicle_words", "give a text file"
        )
    found = {words: words for words in lists["coco_double_words"]}
    found |= {f"{which} {animal}": animal for animal in lists["animal_words"] for which in ("baby", "adult")}
    found |= {f"passenger {vehicle}": vehicle for vehicle in lists["vehicle_words"]}
    return found | {m[2]: m[4] for m in _PUBLISHED_PAIR.finditer(text)}


def original_mentions(caption: str, lexicon: Lexicon, words: Words) -> tuple[Mention, ...]:
    """Objects that a caption names, counted as the published script does (Rohrbach et al. 2018, ``utils/chair.py``).

    Pairs of two neighbouring words are merged where the list has them; "seat" goes where "toilet" is. The positions behind a "seat" that
    went are then those of other words: so it is there.
    """
    ones = [words.singular(w) for w in words.tokens(caption.lower())]
    merged: list[str] = []
    starts: list[int] = []
    i = 0
    while i < len(ones):
        pair = " ".join(ones[i : i + 2])
        starts.append(i)
        merged.append(lexicon.pairs.get(pair, ones[i]))
        i += 2 if pair in lexicon.pairs else 1
    if "toilet" in merged and "seat" in merged:
        merged = [w for w in merged if w != "seat"]
    return tuple(Mention(w, lexicon.node_of[w], starts[i]) for i, w in enumerate(merged) if w in lexicon.node_of)


class Finder:
    """Finds the objects of captions in mode ``fixed``: the longest name that fits, of any number of words, in any spelling of plural,
    capital or hyphen. "baby", "adult" and "passenger" before another object are no person."""

    def __init__(self, lexicon: Lexicon, words: Words) -> None:
        self._words = words
        self._nodes: dict[tuple[str, ...], str | None] = {}
        for name, node in lexicon.node_of.items():
            self._nodes[self._key(name)] = node
        for name, target in lexicon.pairs.items():
            self._nodes[self._key(name)] = lexicon.node_of.get(target)
        self._longest = max(len(key) for key in self._nodes)

    def _key(self, name: str) -> tuple[str, ...]:
        return tuple(self._words.singular(t) for t in self._words.tokens(name.lower().replace("-", " ")))

    def __call__(self, caption: str) -> tuple[Mention, ...]:
        """The objects that are named, in their order. Positions count the words of the caption, hyphens as spaces where a name has none."""
        return self._mentions([one for token in self._words.tokens(caption.lower()) for one in self._parts(token)])

    def spans(self, text: str) -> list[tuple[Mention, int, int]]:
        """The same, each with its first and past-last character in ``text``."""
        ones: list[str] = []
        places: list[tuple[int, int]] = []
        for start, end in token_places(text):
            parts = self._parts(text[start:end].lower())
            ones += parts
            places += [(start, end)] * len(parts)
        found = self._mentions(ones)
        return [(m, places[m.position][0], places[m.position + len(m.word.split(" ")) - 1][1]) for m in found]

    def _mentions(self, ones: list[str]) -> tuple[Mention, ...]:
        found: list[Mention] = []
        i = 0
        while i < len(ones):
            n = next((n for n in range(min(self._longest, len(ones) - i), 0, -1) if tuple(ones[i : i + n]) in self._nodes), 0)
            node = self._nodes[tuple(ones[i : i + n])] if n else None
            if node is not None and not (n == 1 and ones[i] in _QUALIFIERS and self._qualifies(ones, i, node)):
                found.append(Mention(" ".join(ones[i : i + n]), node, i))
            i += max(n, 1)
        if any(m.word == "toilet" for m in found):
            found = [m for m in found if m.word != "seat"]
        return tuple(found)

    def _parts(self, token: str) -> list[str]:
        """A token as words: one, or several where it is a name with hyphens that the list writes with spaces."""
        parts = [self._words.singular(p) for p in token.split("-")]
        return parts if len(parts) > 1 and tuple(parts) in self._nodes else [self._words.singular(token)]

    def _qualifies(self, ones: list[str], i: int, node: str) -> bool:
        after = next((self._nodes[k] for n in range(self._longest, 0, -1) if (k := tuple(ones[i + 1 : i + 1 + n])) in self._nodes), None)
        return after is not None and after != node
