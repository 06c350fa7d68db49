"""Measures of text that hold for Chinese and for English: Han characters count one by one, other words as wholes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

# Ideographs without the punctuation; kana and hangul too have no spaces between words (hangul has: its words stay whole).
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = r"\u3040-\u30ff"
_WORD = re.compile(rf"[{_HAN}{_KANA}]|[^\W_{_HAN}{_KANA}]+(?:['’\-][^\W_{_HAN}{_KANA}]+)*", re.UNICODE)
_HAN_CHAR = re.compile(rf"[{_HAN}]")
_KANA_CHAR = re.compile(rf"[{_KANA}]")
_HANGUL = re.compile(r"[\uac00-\ud7af]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
# A full stop ends a sentence before white space or the end (not in 3.14), Chinese marks always do; closing quotes belong to it.
_SENTENCE_END = re.compile(r"(?:[。！？；…]+|[.!?]+(?=[\"'”’)\]]*(?:\s|$)))[\"'”’」』）)\]]*|\n+")
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "no", "fig", "al", "approx", "inc", "ltd"})


def words(text: str) -> list[str]:
    """Words in lower case; each Han or kana character is one. ``"Don't 3.5 你好"`` -> ``["don't", "3", "5", "你", "好"]``."""
    return [w.lower() for w in _WORD.findall(text)]


def word_count(text: str) -> int:
    """Number of ``words``."""
    return sum(1 for _ in _WORD.finditer(text))


def char_count(text: str) -> int:
    """Characters without white space."""
    return sum(not c.isspace() for c in text)


def sentences(text: str) -> list[str]:
    """Sentences, ends included, white space around them not. Abbreviations and decimal points end none; line breaks do."""
    return [text[start:end] for start, end in spans(text, "sentence")]


def spans(text: str, by: str) -> list[tuple[int, int]]:
    """Where the parts of a text are, without the white space around them: ``sentence``, ``line``, or ``paragraph`` (between empty
    lines)."""
    assert by in ("sentence", "line", "paragraph"), f"no such part: {by}"
    if by == "sentence":
        cuts = _sentence_ends(text)
    else:
        cuts = [match.end() for match in re.finditer(r"\n[ \t\r]*\n" if by == "paragraph" else r"\n", text)]
    found: list[tuple[int, int]] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)]):
        part = text[start:end]
        if part.strip():
            found.append((start + len(part) - len(part.lstrip()), start + len(part.rstrip())))
    return found


def _sentence_ends(text: str) -> list[int]:
    ends: list[int] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        before = text[start : match.start()].rsplit(maxsplit=1)
        if match.group().startswith(".") and before and before[-1].lower().lstrip("(\"'") in _ABBREVIATIONS:
            continue
        start = match.end()
        ends.append(start)
    return ends


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of ``n`` items in order."""
    assert n >= 1
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def distinct(texts: Iterable[str], n: int) -> float:
    """Distinct-n (Li et al. 2016, arXiv:1510.03055): different n-grams over all n-grams of all texts; 0 when there are none."""
    grams = [g for text in texts for g in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, n: int = 4) -> float:
    """Share of n-grams that have occurred before in the same text: 0 = never, towards 1 = a loop."""
    grams = ngrams(words(text), n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def language(text: str) -> str:
    """A guess by script: ``zh``, ``ja``, ``ko``, ``en`` (any Latin script), ``other``, or ``""`` for text without letters.

    Characters are weighted by how much they say: a Han character or a hangul syllable is worth about three Latin letters.
    """
    counts = Counter(zh=3 * len(_HAN_CHAR.findall(text)), ja=3 * len(_KANA_CHAR.findall(text)), ko=3 * len(_HANGUL.findall(text)))
    counts["en"] = len(_LATIN.findall(text))
    letters = sum(c.isalpha() for c in text)
    known = sum(len(p.findall(text)) for p in (_HAN_CHAR, _KANA_CHAR, _HANGUL, _LATIN))
    if counts["ja"] and counts["ja"] * 5 >= counts["zh"]:  # Japanese is written with both; a kana in Chinese text is a quotation
        counts["ja"] += counts.pop("zh", 0)
    counts["other"] = letters - known
    best, n = max(counts.items(), key=lambda item: item[1])
    return best if n > 0 else ""


def count_keywords(text: str, keywords: Iterable[str]) -> Counter[str]:
    """How often each keyword stands in the text, in any case. Words of letters match whole words only, Chinese ones anywhere."""
    found: Counter[str] = Counter()
    for keyword in keywords:
        escaped = re.escape(keyword)
        before = r"(?<!\w)" if keyword[:1].isalnum() and not _unspaced(keyword[0]) else ""
        after = r"(?!\w)" if keyword[-1:].isalnum() and not _unspaced(keyword[-1]) else ""
        # a Latin word beside a Han character is a word of its own: 用VIP卡
        pattern = (
            (before.replace(r"\w", rf"[^\W{_HAN}{_KANA}]") + escaped + after.replace(r"\w", rf"[^\W{_HAN}{_KANA}]")) if keyword else r"(?!)"
        )
        n = len(re.findall(pattern, text, re.IGNORECASE))
        if n:
            found[keyword] = n
    return found


def _unspaced(char: str) -> bool:
    return bool(_HAN_CHAR.match(char) or _KANA_CHAR.match(char))
