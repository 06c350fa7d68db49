r"""Numbers as people write them, exactly: ``1,000,000``, ``1.5 \times 10^{6}``, ``-3 1/2``, ``\frac{1}{2}``, ``40%``, ``$5``, ``12 cm``.

A value is a ``Fraction``, so large integers are no floats and nothing is rounded on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from keel.rewards.reading.notation import plain
from keel.rewards.reading.numerals import HAN, SCALE_WORDS, chinese_number, english_number, tenths
from keel.rewards.reading.units import CURRENCY, unit_of

_LONGEST = 120  # characters of a number
_GREATEST_EXPONENT = 400
_DECIMAL = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?(?!\d)"  # 1,000.5; 12,34,567
    r"|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?![\d.])|\d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)"  # 1.000.000; 1.234,56
    r"|\d{1,3}(?:[ '\u00a0\u202f]\d{3})+(?:\.\d+)?(?![\d'])|\d{1,3}(?:_\d{3})+(?!\d)"  # 1 000 000; 1'000; 1_000
    r"|\d+\.\\overline\{\d+\}|\d+\.\d+\\overline\{\d+\}|\d+(?:\.\d+)?\.?(?!\d)|\d+|\.\d+)"
)
_POWER = r"(?:\s?(?:\*|\\times|\\cdot|x|X)\s?10\s?\^\s?(?:\{\s*[-+]?\d{1,4}\s*\}|\(\s*[-+]?\d{1,4}\s*\)|[-+]?\d{1,4}))"
_TEN = r"10\s?\^\s?(?:\{\s*[-+]?\d{1,4}\s*\}|[-+]?\d{1,4})"
_LATEX = rf"\\frac\s?\{{\s*[-+]?\s*{_DECIMAL}\s*\}}\s?\{{\s*[-+]?\s*{_DECIMAL}\s*\}}"
_MIXED = rf"\d+(?:\s?(?={_LATEX})|\s(?:and\s)?(?=\d+\s?/\s?\d))"
_OVER = rf"{_DECIMAL}\s?/\s?{_DECIMAL}(?!\s?/)"
_SCALES = "|".join(sorted(map(re.escape, SCALE_WORDS), key=len, reverse=True))
_NUMBER = re.compile(
    rf"(?P<sign>[-+])?\s?(?:(?P<money>US\$|[{CURRENCY}])\s?(?P<sign2>[-+])?\s?)?"
    rf"(?:(?P<whole>{_MIXED})?(?:(?P<latex>{_LATEX})|(?P<over>{_OVER}))|(?P<ten>{_TEN})"
    rf"|(?P<decimal>{_DECIMAL})(?:(?P<e>[eE][-+]?\d{{1,4}})(?![\w.])|(?P<power>{_POWER}))?)"
    rf"(?:\s?(?P<scale>(?:{_SCALES})(?![A-Za-z])|[百千万亿]+(?![克米瓦焦])))?"
    r"(?:\s?(?P<percent>%|percent(?!age)(?![a-z])|per cent(?![a-z])|pct(?![a-z])))?"
)
_SHORTS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_SHORT = re.compile(r"([kKMB])(?![A-Za-z0-9])")
_SIGNED_WORD = re.compile(r"^(?:minus|negative|负)\s*(?=[\d\\.$])", re.IGNORECASE)
_HAN_NUMBER = re.compile(rf"负?(?:百分之)?[{HAN}0-9半][{HAN}0-9分之又点半.,]*")
_HAN_WORD = r"\u4e00-\u9fff"
# Behind a number: a unit of the table, or words that count things. A letter that touches the number is a variable, not a unit.
_UNIT = re.compile(
    r"\s?\^\\circ(?:\s?[CF](?![A-Za-z]))?|\s?[℃℉¢]|\s?(?:sq|square|cubic)\s[A-Za-z]+|\s?[A-Za-z]{1,12}(?:/(?:[a-z]+))?(?:\s?\^\s?\{?[23]\}?)?"
    rf"|\s?[{_HAN_WORD}]{{1,5}}(?:/[{_HAN_WORD}]+)?|\s?[{CURRENCY}]"
)
_COUNTED = re.compile(rf"\s*(?:[A-Za-z][A-Za-z'-]+(?:\s[A-Za-z][A-Za-z'-]+){{0,3}}|[{_HAN_WORD}]{{1,5}})")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what stands around it. ``value`` of a percentage is the number before the sign. ``unit`` is (dimension, size), or
    None."""

    value: Fraction
    percent: bool = False
    unit: tuple[str, Fraction] | None = None
    fraction: bool = field(default=False, compare=False)  # written as one, so that no percent sign can be left out

    def __str__(self) -> str:
        return number_text(self.value) + ("%" if self.percent else "")


def number_text(value: Fraction) -> str:
    """For reasons in words: exact where it is short."""
    if value.denominator == 1:
        return str(value.numerator) if abs(value) < 10**30 else f"{float(value):.6g}"
    short = f"{float(value):.12g}"
    return short if Fraction(short) == value else f"{value.numerator}/{value.denominator}" if value.denominator < 10**6 else short


def read_quantity(text: str) -> Quantity | None:
    """The quantity that ``text`` is, with nothing else in it; None where it is none. Reads what ``notation.plain`` gives."""
    text = plain(text).strip().strip("$" if text.count("$") > 1 else "").strip().rstrip("。").strip()
    text = text.rstrip(".").strip() if not re.fullmatch(r"\d+\.", text) else text[:-1]
    if not text or len(text) > _LONGEST:
        return None
    text = _SIGNED_WORD.sub("-", text)
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and _wrapped(text):
        text = text[1:-1].strip()
    text = re.sub(r"^-\s?\((.*)\)$", r"-\1", text)
    if (share := tenths(text)) is not None:
        return Quantity(share, percent=True)
    found = quantity_at(text, 0)
    if found is not None and text[found[1] :].strip() in ("", "$"):
        return found[0]
    if found is not None and found[0].unit is None and _COUNTED.fullmatch(text[found[1] :]) and not _variable(text, found[1]):
        return found[0]
    if found is None:
        return words_quantity(text)
    return _counted_han(text)


def _wrapped(text: str) -> bool:
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "({") - (c in ")}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _variable(text: str, at: int) -> bool:
    return bool(re.match(r"\s?[A-Za-z](?![A-Za-z])|[A-Za-z]", text[at:]))


def quantity_at(text: str, start: int) -> tuple[Quantity, int] | None:
    """The quantity in digits that begins at ``start``, and where it ends; None where none begins there. A percentage in Chinese
    (百分之20) is one."""
    text_from = text[start:]
    han = re.match(rf"(负?)(百|千|万)分之\s?({_DECIMAL}|[{HAN}点]+)", text_from)
    if han:
        top = chinese_number(han[3])
        if top is not None:
            sign, over = (-1 if han[1] else 1), {"百": 100, "千": 1000, "万": 10000}[han[2]]
            return Quantity(sign * top if over == 100 else sign * top / over, over == 100), start + han.end()
    match = _NUMBER.match(text, start)
    if match is None:
        return None
    value = _value(match)
    if value is None:
        return None
    end = match.end()
    unit = unit_of(match["money"]) if match["money"] else None
    if match["money"] and (short := _SHORT.match(text, end)):  # $2k, $1.5M
        value, end = value * _SHORTS[short[1]], short.end()
    if unit is None and not match["percent"]:
        unit, end = _unit_behind(text, end)
    elif match["money"]:  # $5 dollars
        behind, after = _unit_behind(text, end)
        end = after if behind is not None and behind[0] == unit[0] else end  # type: ignore[index]
    if unit is not None and not match["money"] and (joined := _and_smaller(text, end, unit)) is not None:
        more, end = joined
        value += -more if value < 0 else more
    return Quantity(value, bool(match["percent"]), unit, bool(match["latex"] or match["over"])), end


def _and_smaller(text: str, at: int, unit: tuple[str, Fraction]) -> tuple[Fraction, int] | None:
    """Behind a quantity one in a smaller unit of its kind: 1 hour 30 minutes, 3 dollars and 50 cents, 3元5角. In the larger unit."""
    joint = re.compile(r"\s*(?:and\s+)?(?=\d)").match(text, at)
    found = quantity_at(text, joint.end()) if joint else None
    if found is None or found[0].unit is None or found[0].unit[0] != unit[0] or found[0].unit[1] >= unit[1] or found[0].percent:
        return None
    return found[0].value * found[0].unit[1] / unit[1], found[1]


def _unit_behind(text: str, at: int) -> tuple[tuple[str, Fraction] | None, int]:
    match = _UNIT.match(text, at)
    if match is None:
        return None, at
    word = match.group()
    if re.match(r"[A-Za-z](?![A-Za-z/])", word) and not re.match(r"[A-Za-z]\s?\^", word):
        return None, at  # 5m: a variable, in mathematics
    for length in range(len(word), 0, -1):  # the longest that is one: of 12元因为, 元
        cut = word[:length]
        rest = text[at + length : at + length + 1]
        if re.search(r"[A-Za-z]$", cut) and re.match(r"[A-Za-z]", rest):
            continue
        unit = unit_of(cut)
        if unit is not None:
            return unit, at + length
    return None, at


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > _LONGEST:
        return None
    if match["ten"]:
        value = _ten_to(match["ten"].partition("^")[2])
    elif match["latex"] or match["over"]:
        value = _fraction(match)
    else:
        value = decimal(match["decimal"])
        exponent = match["e"][1:] if match["e"] else match["power"].rpartition("^")[2] if match["power"] else "0"
        value = _times(value, _ten_to(exponent))
    if value is None:
        return None
    if match["scale"]:
        scale = SCALE_WORDS.get(match["scale"])
        han = chinese_number("一" + match["scale"]) if scale is None else None
        value = value * scale if scale is not None else value * han if han is not None else None
    signs = [s for s in (match["sign"], match["sign2"]) if s]
    return None if value is None else -value if signs.count("-") % 2 else value


def _fraction(match: re.Match[str]) -> Fraction | None:
    if match["latex"]:
        tops = re.findall(r"\{\s*([-+]?)\s*([^{}]*?)\s*\}", match["latex"])
        parts = [(-1 if sign == "-" else 1) * (decimal(body) or Fraction(0)) for sign, body in tops]
    else:
        parts = [decimal(p.strip()) or Fraction(0) for p in match["over"].split("/")]
    if len(parts) != 2 or parts[1] == 0:
        return None
    whole = Fraction(re.match(r"\d+", match["whole"]).group()) if match["whole"] else Fraction(0)  # type: ignore[union-attr]
    return whole + parts[0] / parts[1]


def _ten_to(text: str) -> Fraction | None:
    exponent = int(re.sub(r"[^\d-]", "", text))
    return Fraction(10) ** exponent if abs(exponent) <= _GREATEST_EXPONENT else None


def _times(a: Fraction | None, b: Fraction | None) -> Fraction | None:
    return None if a is None or b is None else a * b


def decimal(text: str) -> Fraction | None:
    r"""Digits with separators of any kind: ``1,000.5``, ``1.234,56``, ``1 000``, ``0.\overline{3}``."""
    repeating = re.fullmatch(r"(\d+)\.(\d*)\\overline\{(\d+)\}", text)
    if repeating:
        whole, fixed, loop = repeating.groups()
        top = int(whole + fixed + loop) - int(whole + fixed)
        return Fraction(top, (10 ** len(loop) - 1) * 10 ** len(fixed))
    text = re.sub(r"[ '_\u00a0\u202f]", "", text).rstrip(".")
    if re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}(?:\.\d{3})+,\d{1,2}", text):
        text = text.replace(".", "").replace(",", ".")
    text = text.replace(",", "")
    return Fraction(text) if re.fullmatch(r"\d*\.?\d+|\d+\.", text) else None


def words_quantity(text: str) -> Quantity | None:
    """Numbers in words, Chinese or English, with at most what is counted behind them: 三百五十个, forty-two apples."""
    han = _counted_han(text)
    if han is not None:
        return han
    words = text.replace("-", " ").split()
    for n in range(min(len(words), 10), 0, -1):
        value = english_number(" ".join(words[:n]))
        if value is not None:
            rest = " ".join(words[n:])
            percent = rest.lower() in ("percent", "per cent")
            ok = not rest or percent or unit_of(rest) or re.fullmatch(r"(?:[A-Za-z]+ ?){1,3}", rest)
            return Quantity(value, percent, None if percent or not rest else unit_of(rest)) if ok else None
    return None


def _counted_han(text: str) -> Quantity | None:
    match = _HAN_NUMBER.match(text)
    if match is None or not re.search(f"[{_HAN_WORD}〇]", text):
        return None
    for end in range(match.end(), 0, -1):
        body, rest = text[:end], text[end:].strip()
        percent = body.startswith(("百分之", "负百分之"))
        value = chinese_number(body.replace("百分之", "", 1)) if percent else chinese_number(body)
        if value is not None:
            unit = unit_of(rest) if rest else None
            return Quantity(value, percent, unit) if not rest or unit or re.fullmatch(rf"[{_HAN_WORD}]{{1,4}}", rest) else None
    return None


def same(found: Quantity, wanted: Quantity, near: Fraction | None = None, close: bool = True) -> bool:
    """Are two quantities the same?

    Whole numbers are compared exactly; where the right one is none, ``close`` allows what is lost when it is written with about six
    digits (1/3 and 0.333333). ``near`` allows that difference, absolute, whatever they are. Units of one dimension are converted, of two
    dimensions are different; a number without a unit has the other's. 40% is 0.4, and is 40 where the right answer is a number of 1 or
    more that is no fraction; 50 is 50%: people leave the sign out.
    """
    if found.unit is not None and wanted.unit is not None:
        if found.unit[0] != wanted.unit[0]:
            return False
        ratio = found.unit[1] / wanted.unit[1]
    else:
        ratio = Fraction(1)
    return any(_equal(a * ratio, b, near, close) for a, b in _readings(found, wanted))


def _readings(found: Quantity, wanted: Quantity) -> list[tuple[Fraction, Fraction]]:
    a, b = found.value, wanted.value
    if found.percent == wanted.percent:
        return [(a, b)]
    if found.percent:
        return [(a / 100, b), *([(a, b)] if abs(b) >= 1 and not wanted.fraction else [])]
    return [(a, b / 100), (a, b)]


def _equal(found: Fraction, wanted: Fraction, near: Fraction | None, close: bool) -> bool:
    if found == wanted:
        return True
    if near is not None:
        return abs(found - wanted) <= near
    if not close or wanted.denominator == 1:
        return False
    greater = max(abs(found), abs(wanted))
    return abs(found - wanted) <= min(Fraction(1, 10**6), greater / 10**5)
