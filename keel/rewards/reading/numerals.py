"""Numbers in words: Chinese numerals (三百五十, 两千, 3.5亿, 百分之二十, 三分之一) and English ones (forty-two, three quarters)."""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = {c: i for i, row in enumerate(("零〇", "一壹", "二贰两貳", "三叁", "四肆", "五伍", "六陆", "七柒", "八捌", "九玖")) for c in row}
_UNITS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_GROUPS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_WHOLES = {"百": 100, "千": 1000, "万": 10**4}  # before 分之
HAN = "".join([*_DIGITS, *_UNITS, *_GROUPS])  # every character that a numeral may have
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_MIXED = re.compile(rf"({_DECIMAL})([十百千万亿].*)?")
_LONGEST = 40

_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_WORDS = {word: i for i, word in enumerate(_SMALL.split())}
_WORDS |= {word: 10 * i for i, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
SCALE_WORDS = {**_SCALES, "thousands": 10**3, "millions": 10**6, "billions": 10**9}


def chinese_number(text: str) -> Fraction | None:
    """The value of a Chinese numeral, alone; None for anything else. Fractions (三分之一), mixed ones (二又三分之一), decimals (三点一四),
    digits with a unit (3.5亿, 1万2千) and short forms (三百五 = 350) are numerals; 百分之 is a hundredth."""
    text = text.strip().replace(" ", "")
    if not text or len(text) > _LONGEST:
        return None
    if text[0] in "负-":
        value = chinese_number(text[1:]) if text[1:2] not in ("负", "-") else None
        return None if value is None else -value
    if "又" in text and "分之" in text:
        whole, _, rest = text.partition("又")
        a, b = chinese_number(whole), chinese_number(rest)
        return None if a is None or b is None else a + b
    if "分之" in text:
        bottom, _, top = text.partition("分之")
        a, b = Fraction(_WHOLES[bottom]) if bottom in _WHOLES else chinese_number(bottom), _part(top)
        return None if not a or b is None else b / a
    return _part(text)


def _part(text: str) -> Fraction | None:
    if text == "半":
        return Fraction(1, 2)
    if re.fullmatch(_DECIMAL, text):
        return Fraction(text.replace(",", ""))
    whole, point, rest = text.partition("点")
    if point:
        a = _whole(whole)
        ok = bool(rest) and all(c in _DIGITS for c in rest)
        return a + Fraction(int("".join(str(_DIGITS[c]) for c in rest)), 10 ** len(rest)) if a is not None and ok else None
    return _whole(text)


def _whole(text: str) -> Fraction | None:
    """三百五十万, 二〇二四, 1万2千."""
    if text and all(c in _DIGITS for c in text):
        return Fraction(int("".join(str(_DIGITS[c]) for c in text))) if len(text) > 1 or text not in "两" else Fraction(2)
    for group in ("亿億", "万萬"):
        at = max((text.rfind(c) for c in group), default=-1)
        if at >= 0:
            head, tail = _factor(text[:at]), text[at + 1 :]
            scale = _GROUPS[text[at]]
            rest = Fraction(0) if not tail else _factor(tail.lstrip("零〇")) if tail[0] in "零〇" else _short(tail, scale)
            return None if head is None or rest is None or rest >= scale else head * scale + rest
    return _under_ten_thousand(text)


def _factor(text: str) -> Fraction | None:
    return Fraction(text.replace(",", "")) if re.fullmatch(_DECIMAL, text) else _whole(text) if text else None


def _short(tail: str, scale: int) -> Fraction | None:
    """What follows 万: a digit alone is the next place (一万二 = 12 000)."""
    if len(tail) == 1 and tail in _DIGITS:
        return Fraction(_DIGITS[tail] * scale, 10)
    return _factor(tail)


def _under_ten_thousand(text: str) -> Fraction | None:
    total, digit, last, seen = Fraction(0), None, 10**4, False
    at = 0
    while at < len(text):
        number = re.match(r"\d+(?:\.\d+)?", text[at:])
        if number and digit is None:
            digit, at = Fraction(number.group()), at + number.end()
            continue
        c = text[at]
        at += 1
        if c in _UNITS:
            if _UNITS[c] >= last or (digit is None and c not in "十拾"):
                return None
            total, last, digit, seen = total + (1 if digit is None else digit) * _UNITS[c], _UNITS[c], None, True
        elif c in "零〇" and digit is None:
            last = min(last, 100) if last > 10 else last
            seen = seen or at == 1
        elif c in _DIGITS and digit is None:
            digit = Fraction(_DIGITS[c])
        else:
            return None
    if digit is None:
        return total if seen else None
    short = len(text) >= 2 and text[-2] in _UNITS and last > 10 and text[-1] in _DIGITS
    return total + digit * (last // 10 if short else 1)


_TENTHS = re.compile(r"打?([0-9一二两三四五六七八九])([0-9一二三四五六七八九半])?(?:成|折)")


def tenths(text: str) -> Fraction | None:
    """Percent of 三成 (30%), 八折 and 八五折 (80% and 85% of a price), 三成半; None for anything else."""
    match = _TENTHS.fullmatch(text.strip().replace("成半", "半成"))
    if match is None:
        return None
    tens, ones = (5 if d == "半" else _DIGITS.get(d, d) if d else 0 for d in match.groups())
    return Fraction(10 * int(tens) + int(ones))


def english_number(text: str) -> Fraction | None:
    """``forty-two``, ``one hundred and five``, ``two and a half``, ``three quarters``; None for anything else."""
    words = text.lower().replace("-", " ").split()
    if not words or len(words) > 12:
        return None
    if len(words) == 3 and words[:2] == ["half", "a"] and words[2] in _SCALES:
        return Fraction(_SCALES[words[2]], 2)
    if words[0] in ("minus", "negative"):
        value = english_number(" ".join(words[1:]))
        return None if value is None else -value
    if words[-1].rstrip("s") in _PARTS or words[-1] == "halves":
        return _english_fraction(words)
    return _english_whole(words)


def _english_fraction(words: list[str]) -> Fraction | None:
    bottom = 2 if words[-1] == "halves" else _PARTS[words[-1].rstrip("s")]
    head = words[:-1]
    whole = Fraction(0)
    if "and" in head:
        at = len(head) - 1 - head[::-1].index("and")
        found = _english_whole(head[:at])
        if found is None:
            return None
        whole, head = found, head[at + 1 :]
    top = Fraction(1) if head in ([], ["a"], ["an"]) else _english_whole(head)
    return None if top is None or (not head and bottom != 2) else whole + top / bottom


def _english_whole(words: list[str]) -> Fraction | None:
    total, current, seen = 0, 0, False
    last = 0
    for word in words:
        if word == "and" and seen:
            continue
        if word in ("a", "an") and not seen and len(words) > 1:
            current, seen = 1, True
            continue
        if word in _WORDS:
            value = _WORDS[word]
            if last and not (last >= 20 and value < 10 and last % 10 == 0):
                return None  # five six
            current, last, seen = current + value, value, True
        elif word == "hundred" and seen and current < 100:
            current, last = max(1, current) * 100, 0
        elif word in _SCALES and seen:
            total, current, last = total + max(1, current) * _SCALES[word], 0, 0
        else:
            return None
    return Fraction(total + current) if seen else None
