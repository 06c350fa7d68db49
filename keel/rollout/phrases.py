"""A bias on tokens for one prompt: phrases that it should not say are made less likely where their last word is about to be said.

Whoever samples knows no more than this: after these tokens, those logits are lowered. What the phrases are (objects that a detector did not
see in an image, names that a text does not hold) is the caller's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_FAR_EAST = 0x2E80  # from here on, scripts whose words need no space before them
_LETTERS = 2  # of the last word, before its phrase is recognised; a shorter word whole


@dataclass(frozen=True, slots=True)
class Spelling:
    """The ids of one way to write a phrase. ``tells``: places of tokens with which it may be recognised. ``bare``: it has no space of its
    own, so it is a word only where no letter stands before it."""

    ids: tuple[int, ...]
    tells: frozenset[int]
    bare: bool


class Speller:
    """How a tokenizer writes phrases: with a space and without, plural, with a capital. Chinese names as they are."""

    def __init__(self, tokenizer: Any) -> None:
        """``tokenizer`` has ``encode(text, add_special_tokens=False)`` and ``decode(ids)``."""
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[Spelling, ...]] = {}
        self._ends: dict[int, bool] = {}

    def __call__(self, phrase: str) -> tuple[Spelling, ...]:
        """All spellings of ``phrase``, each id sequence once."""
        if phrase not in self._known:
            found: dict[tuple[int, ...], Spelling] = {}
            for form in forms(phrase):
                for spelling in self._spellings(form):
                    if spelling.ids not in found or not spelling.bare:
                        found[spelling.ids] = spelling
            self._known[phrase] = tuple(found.values())
        return self._known[phrase]

    def ends_word(self, token: int) -> bool:
        """Does a letter that is written with spaces end this token? Then what follows without a space goes on with that word."""
        if token not in self._ends:
            last = self._tokenizer.decode([token])[-1:]
            self._ends[token] = last.isalnum() and ord(last) < _FAR_EAST
        return self._ends[token]

    def _spellings(self, form: str) -> Iterable[Spelling]:
        if ord(form[0]) >= _FAR_EAST:
            starts = (("，", False), ("的", False), ("", False))
        else:
            starts = (("x ", False), ("(", True), ("\n", True), ("", True))
        for before, bare in starts:
            ids = self._after(before.rstrip(" "), before[len(before.rstrip(" ")) :] + form)
            if ids:
                yield Spelling(ids, self._tells(ids, form), bare)

    def _after(self, before: str, text: str) -> tuple[int, ...]:
        """Ids of ``text`` behind ``before``; () where the two share a token."""
        head, whole = self._ids(before) if before else [], self._ids(before + text)
        return tuple(whole[len(head) :]) if whole[: len(head)] == head else ()

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _tells(self, ids: tuple[int, ...], form: str) -> frozenset[int]:
        """Tokens with which enough of the last word is written, each character whole: a piece of one may begin a thousand others."""
        last = form.split()[-1]
        need = len("".join(form.split())) - len(last) + min(_LETTERS, len(last))
        texts = [self._tokenizer.decode(list(ids[: i + 1])) for i in range(len(ids))]
        return frozenset(i for i, text in enumerate(texts) if "�" not in text and len("".join(text.split())) >= need)


def forms(phrase: str) -> tuple[str, ...]:
    """How a phrase is written: as it is, as a plural, and both with a capital."""
    phrase = " ".join(unicodedata.normalize("NFC", phrase).split())
    if not phrase or ord(phrase[-1]) >= _FAR_EAST:
        return (phrase,) if phrase else ()
    if phrase.endswith("y") and phrase[-2:-1] not in "aeiou":
        plural = phrase[:-1] + "ies"
    else:
        plural = phrase + ("es" if phrase.endswith(("s", "x", "z", "ch", "sh")) else "s")
    return tuple(dict.fromkeys((phrase, plural, phrase[0].upper() + phrase[1:], plural[0].upper() + plural[1:])))


@dataclass(slots=True)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict[int, Any])
    free: bool = False  # a phrase that may be said goes through here
    lowered: bool = False  # the token that leads here is made less likely

    def at(self, token: int) -> _Node:
        return self.children.setdefault(token, _Node())


class PhraseBias:
    """A ``types.TokenBias``. A phrase costs ``amount`` once: at the first token of its last word with which it is recognised and that no
    phrase of ``free`` shares. Where two phrases end in the same word the longer one decides: with "teddy bear" free and "bear" not, "bear"
    is lowered except after "teddy". A name that is the beginning of a free one ("fire", "fire hydrant") is not lowered; such names are
    ``missed``."""

    def __init__(self, speller: Speller, lowered: Collection[str], free: Collection[str], amount: float) -> None:
        self.amount = amount
        self._speller = speller
        self._roots = {False: _Node(), True: _Node()}
        self._longest = 0
        spared = set(free)
        for spelling in (s for phrase in sorted(spared) for s in speller(phrase)):
            node = self._roots[spelling.bare]
            for token in spelling.ids:
                node = node.at(token)
                node.free = True
            self._longest = max(self._longest, len(spelling.ids))
        self.missed = tuple(phrase for phrase in dict.fromkeys(lowered) if phrase not in spared and not self._lower(speller(phrase)))

    def _lower(self, spellings: Sequence[Spelling]) -> bool:
        reached = [self._charge(spelling) for spelling in spellings]
        return all(reached)

    def _charge(self, spelling: Spelling) -> bool:
        node, path = self._roots[spelling.bare], list[int]()
        for i, token in enumerate(spelling.ids):
            node, path = node.at(token), [*path, token]
            if i in spelling.tells and not node.free:
                node.lowered = True
                self._longest = max(self._longest, len(path))
                return True
        return False

    def lowered(self, tokens: Sequence[int]) -> list[int]:
        """Ids whose logit is lowered after ``tokens``, what the row has said so far; sorted."""
        verdict: dict[int, bool] = {}
        for start in range(max(0, len(tokens) - self._longest + 1), len(tokens) + 1):  # the longest beginning first: it decides
            inside = start > 0 and self._speller.ends_word(tokens[start - 1])
            for bare, root in self._roots.items():
                node = None if bare and inside else _walk(root, tokens[start:])
                for token, child in node.children.items() if node is not None else ():
                    if child.lowered or child.free:
                        verdict.setdefault(token, child.lowered)
        return sorted(token for token, is_lowered in verdict.items() if is_lowered)


def _walk(node: _Node, tokens: Sequence[int]) -> _Node | None:
    for token in tokens:
        found = node.children.get(token)
        if found is None:
            return None
        node = found
    return node


def names_of(objects: Mapping[str, str], seen: Collection[str]) -> tuple[list[str], list[str]]:
    """(names of objects that were not seen, names of those that were). ``objects``: name -> object; ``seen`` holds names or objects; one
    that ``objects`` does not know may be said, as every other word."""
    there = {objects.get(name, name) for name in seen}
    return [n for n, o in objects.items() if o not in there], [*(n for n, o in objects.items() if o in there), *seen]
