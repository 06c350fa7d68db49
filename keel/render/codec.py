"""Text -> token ids, and where a text may be cut so that the pieces' tokens are exactly those that a model meets when it generates."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

_ANCHORS = ("\n", "=", ";", "0", "a")  # characters in front of a text that must not look like a beginning


class Codec:
    """A tokenizer, seen as a function without hidden additions: nothing is put in front or behind unless asked."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._encode = lru_cache(maxsize=64)(self._encode_once)  # the answers to one prompt share its text
        self._writes: dict[str, bool] = {}  # characters that were tried
        plain = self.encode("a")
        whole = list(tokenizer("a")["input_ids"])
        start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        self.bos: tuple[int, ...] = tuple(whole[:start])  # what this tokenizer puts in front of a text by itself
        # SentencePiece writes a space in front of any text it starts: a continuation must not have it
        self._adds_space = tokenizer.convert_ids_to_tokens(plain)[0].startswith("▁")

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, nothing added; special tokens written in it become themselves."""
        return list(self._encode(text))

    def _encode_once(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def places(self, text: str) -> list[tuple[int, int]]:
        """(first, behind the last) character of each token of ``text``. Tokens that are bytes of one character share its place."""
        return list(self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"])

    def start(self, text: str) -> list[int]:
        """Ids of a raw text with the tokenizer's own beginning; one that is written out in the text is not doubled."""
        ids = self.encode(text)
        return ids if tuple(ids[: len(self.bos)]) == self.bos else [*self.bos, *ids]

    def continuation(self, text: str) -> list[int]:
        """Ids of ``text`` as it follows other tokens."""
        if not self._adds_space or not text:
            return self.encode(text)
        for anchor in _ANCHORS:
            before, both = self.encode(anchor), self.encode(anchor + text)
            if both[: len(before)] == before:
                return both[len(before) :]
        return self.encode(text)

    def lost(self, text: str) -> str:
        """The characters of ``text`` that do not come back when its tokens are decoded, each once: letters, numbers, marks, line breaks and
        tabs. Another form of the same character (full width, capital) counts as the same."""
        return "".join(c for c in dict.fromkeys(text) if not self._writes_it(c))

    def _writes_it(self, c: str) -> bool:
        if c not in self._writes:
            seen = c in "\n\t" or unicodedata.category(c)[0] in "LNPS"
            back = self.tokenizer.decode(self.encode(f"a{c}a"), clean_up_tokenization_spaces=False) if seen else ""
            self._writes[c] = not seen or _form(c) in _form(back.strip(" ")[1:-1])
        return self._writes[c]

    def split(self, text: str, cuts: Sequence[int]) -> list[list[int]]:
        """Ids of the pieces of ``text`` between ``cuts`` (character positions, rising; the ends are implied).

        When the ids up to each cut are a prefix of the ids of the whole, the pieces are slices of the whole. Otherwise a token would
        straddle a cut, which cannot happen when the model generates from there: the pieces are then encoded one by one.
        """
        whole = self.encode(text)
        if self.splits(text, cuts):
            return [whole[a:b] for a, b in pairwise([0, *(len(self.encode(text[:cut])) for cut in cuts), len(whole)])]
        pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        return [self.encode(pieces[0]), *(self.continuation(piece) for piece in pieces[1:])]

    def splits(self, text: str, cuts: Sequence[int]) -> bool:
        """Are the ids of ``text`` up to each of the ``cuts`` (rising) the first ids of the whole? No token straddles a cut then."""
        whole = self.encode(text)
        heads = [self.encode(text[:cut]) for cut in cuts]
        lengths = [len(h) for h in heads]
        return all(whole[: len(h)] == h for h in heads) and lengths == sorted(lengths)


def _form(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
