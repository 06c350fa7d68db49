"""Texts about scenes -> claims. It reads what ``speak`` says, and nearby ways in which models say it: other articles, digits, "there is",
relations within a sentence. What it does not understand claims nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from keel.simulate.scenes.claims import Claims, Mention, Relation
from keel.simulate.scenes.scene import Look
from keel.simulate.scenes.words import COLOURS, MATERIALS, NUMBERS, NUMBERS_ZH, PLACES, SHAPES, SIZES, plural


def _either(words: Mapping[str, str] | list[str]) -> str:
    return "|".join(sorted((re.escape(w) for w in words), key=len, reverse=True))


_SHAPES_EN = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
_COUNTS_EN = {"a": 1, "an": 1, "another": 1} | {word: i for i, word in enumerate(NUMBERS)} | {str(i): i for i in range(10)}
_LOOK_EN = (
    rf"(?:(?P<size{{0}}>{_either(SIZES)})\s+)?(?:(?P<material{{0}}>{_either(MATERIALS)})\s+)?"
    rf"(?:(?P<colour{{0}}>{_either(COLOURS)})\s+)?(?P<shape{{0}}>{_either(_SHAPES_EN)})\b"
)
_RELATION_EN = re.compile(
    rf"\b(?:the|a|an)\s+{_LOOK_EN.format('a')}\s+(?:is|are)\s+(?:to the\s+)?(?P<where>{_either(PLACES)})\s+"
    rf"(?:the|a|an)\s+{_LOOK_EN.format('b')}",
    re.IGNORECASE,
)
_MENTION_EN = re.compile(rf"\b(?P<count>{_either(list(_COUNTS_EN))})\s+{_LOOK_EN.format('')}", re.IGNORECASE)
_TOTAL_EN = re.compile(rf"\b(?P<count>{_either(list(_COUNTS_EN))})\s+(?:objects?|shapes?|things?)\b", re.IGNORECASE)

_COUNTS_ZH = {word: i for i, word in enumerate(NUMBERS_ZH)} | {"二": 2} | {str(i): i for i in range(10)}
_LOOK_ZH = (
    rf"(?:(?P<size{{0}}>{_either(list(SIZES.values()))})的?)?(?:(?P<material{{0}}>{_either(list(MATERIALS.values()))})的?)?"
    rf"(?:(?P<colour{{0}}>{_either(list(COLOURS.values()))})的?)?(?P<shape{{0}}>{_either(list(SHAPES.values()))})"
)
_RELATION_ZH = re.compile(rf"{_LOOK_ZH.format('a')}在{_LOOK_ZH.format('b')}的?(?P<where>{_either(list(PLACES.values()))})")
_MENTION_ZH = re.compile(rf"(?P<count>{_either(list(_COUNTS_ZH))})个{_LOOK_ZH.format('')}")
_SENTENCE_END = re.compile(r"[.!?。！？]")
_TOTAL_ZH = re.compile(rf"(?P<count>{_either(list(_COUNTS_ZH))})个(?:物体|图形|东西)")


def read(text: str) -> Claims:
    """What ``text`` claims, in the order of the text; each claim with the characters that make it."""
    chinese = bool(re.search(r"[\u4e00-\u9fff]", text))
    relation, mention, total = (_RELATION_ZH, _MENTION_ZH, _TOTAL_ZH) if chinese else (_RELATION_EN, _MENTION_EN, _TOTAL_EN)
    counts = _COUNTS_ZH if chinese else _COUNTS_EN
    relations: list[Relation] = []
    taken: list[tuple[int, int]] = []
    for found in relation.finditer(text):
        where = _key(PLACES, found["where"]) if chinese else found["where"].lower()
        relations.append(Relation(_look(found, "a", chinese), where, _look(found, "b", chinese), found.span()))
        taken.append(found.span())
    mentions = [
        Mention(_look(found, "", chinese), counts[found["count"].lower()], found.span())
        for found in mention.finditer(text)
        if not any(start < found.end() and found.start() < end for start, end in taken)
    ]
    mentions = _added_up(mentions, text)
    said = total.search(text)
    number = counts[said["count"].lower()] if said else None
    return Claims(tuple(mentions), tuple(relations), number, said.span() if said else (0, 0))


def _added_up(mentions: list[Mention], text: str) -> list[Mention]:
    """ "A red circle and a red circle" of one sentence are two red circles: one mention, at the words of the last."""
    found: dict[tuple[int, Look], Mention] = {}
    for mention in mentions:
        key = (len(_SENTENCE_END.findall(text, 0, mention.span[0])), mention.look)
        before = found.pop(key, None)
        found[key] = mention if before is None else replace(mention, count=before.count + mention.count)
    return sorted(found.values(), key=lambda m: m.span)


def _look(found: re.Match[str], which: str, chinese: bool) -> Look:
    parts = {name: found[name + which] for name in ("shape", "colour", "size", "material")}
    if chinese:
        tables = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "material": MATERIALS}
        parts = {name: None if word is None else _key(tables[name], word) for name, word in parts.items()}
    else:
        parts = {name: None if word is None else word.lower() for name, word in parts.items()}
        parts["shape"] = _SHAPES_EN[str(parts["shape"])]
    return Look(str(parts["shape"]), parts["colour"], parts["size"], parts["material"])


def _key(table: Mapping[str, str], word: str) -> str:
    return next(key for key, value in table.items() if value == word)
