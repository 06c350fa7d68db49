r"""Does a text settle on the right answer? What it claims (``claims``), read as expressions (``readings``), all of which must be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from keel.rewards.reading.claims import Claim, settled
from keel.rewards.reading.dates import Date, date_of, dates_in, same_date
from keel.rewards.reading.equality import WORDS, Shape, shape_of
from keel.rewards.reading.notation import bounded, folded, plain, without_markdown
from keel.rewards.reading.quantity import read_quantity, words_quantity
from keel.rewards.reading.readings import Reading, formulas_in, last_numbers, read_claim
from keel.rewards.score import Score

_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}|[\u4e00-\u9fff]{2}")
_OPTION = re.compile(r"\s*\\(?:text|textbf|mathrm|mathbf)\s*\{\s*\(?[A-H]\)?[.:]?\s*\}\s*\\?[ ,;]?\s*(?=[^\s}])|\s*\([A-H]\)\s+(?=[^\s}])")
_CALCULATED = re.compile(r"<<[^<>\n]*>>(?=\s?[-+$]?[\d.])")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\(?:text|mathrm)\s*\{[^{}]*\}")
_LONGEST_LINE = 200
_NUMBERED = re.compile(r"^\s*\d{1,2}[.)]\s+(?=\D)")  # a step of a list: "3. Done."


def readings_of(text: str, numbers: bool) -> list[Reading] | str:
    """What a text settles on, one reading for each claim; without any claim what its last line says, in numbers where ``numbers`` is set.
    A reason in words where it claims too much or nothing."""
    text = prepared(text)
    claims = settled(text)
    if claims is None:
        return "too many answers are claimed"
    if not claims:
        return [tail_reading(text, numbers)]
    found = [(claim, read_claim(claim)) for claim in claims]
    last = found[-1][1]
    if not last.expressions and not last.bound and not last.words and len(found) == 1:
        return [tail_reading(text, numbers)]
    kept = [r for claim, r in found[:-1] if _counts(claim, r, found[-1])]
    return [*kept, last]


def prepared(text: str) -> str:
    """What is read of a text: its end, in one notation, without markdown and without the notes of a calculator (<<28/7=4>>4)."""
    return _CALCULATED.sub("", folded(without_markdown(bounded(text))))


def _counts(claim: Claim, reading: Reading, last: tuple[Claim, Reading]) -> bool:
    """Does an earlier claim count beside the last one? One of another kind only where both are numbers: a formula before its result is no
    other answer."""
    if not reading.expressions:
        return False
    return claim.kind == last[0].kind != "said" or all(
        read_quantity(e) is not None for e in (*reading.expressions[:1], *last[1].expressions[:1])
    )


def tail_reading(text: str, numbers: bool) -> Reading:
    """Of a text that announces nothing: the whole of it, where it is one expression; else the last formula or number of its last line that
    has one."""
    whole = text.strip()
    lines = [line for line in whole.splitlines() if line.strip()]
    if len(lines) == 1 and len(whole) <= _LONGEST_LINE and not _PLAIN_WORD.search(whole):
        shape = plain(whole)
        if not numbers or read_quantity(shape) is not None or "=" not in shape:
            return Reading((whole,), shape) if read_quantity(shape) is not None or not numbers else last_numbers(whole)
    if len(lines) == 1 and words_quantity(plain(whole)) is not None and read_quantity(whole) is not None:
        return Reading((whole,), whole)
    numbered = sum(bool(_NUMBERED.match(line)) for line in lines) > 1
    for i in range(len(lines) - 1, -1, -1):
        line = _NUMBERED.sub("", lines[i]) if numbered else lines[i]
        if i and re.match(r"\s*(?:or|maybe|perhaps|或|也许)\b", line):
            line = lines[i - 1] + " " + line
        formulas = formulas_in(line)
        if formulas is not None:
            return formulas
        found = last_numbers(line)
        if found.expressions or found.bound:
            return found
    return Reading((), whole if len(lines) == 1 else lines[-1] if lines else "")


def judge(text: str, wanted: Shape, same: Callable[[Shape], bool], numbers: bool) -> Score:
    """1 when every claim of the text is the right answer; else 0, with the reason. ``same`` compares a shape with the right one."""
    found = readings_of(_decimal_comma(text, wanted.text), numbers)
    if isinstance(found, str):
        return Score(0.0, found)
    several = wanted.kind == "list"
    if several and len(found) > 1:  # one box for each of several answers
        parts = [e for r in found for e in r.expressions]
        if not any(r.bound for r in found) and same(_listed(parts)):
            return Score(1.0, f"{', '.join(parts)} equals {wanted.text}")
    told = ""
    for reading in found:
        right, told = _right(reading, same, wanted)
        if not right:
            return Score(0.0, told + (" beside another answer" if len(found) > 1 else ""))
    return Score(1.0, told)


def _decimal_comma(text: str, wanted: str) -> str:
    """Where the right answer is a decimal number, its own digits with a comma are that number: 3,5 is 3.5. (Three digits behind a comma
    are thousands.)"""
    whole, _, rest = plain(wanted).strip(" $€").partition(".")
    if not re.fullmatch(r"-?\d+", whole) or not (digits := re.match(r"\d+", rest)) or len(digits[0]) == 3:
        return text
    if len(set(re.findall(r"(?<![\d.,])\d+,\d{1,2}(?![\d,])", text))) > 1:  # several numbers with a comma: this one alone is no answer
        return text
    return re.sub(rf"(?<![\d.,]){whole.lstrip('-')},{digits[0].rstrip('0')}0*(?!\d|[.,]\d)", f"{whole.lstrip('-')}.{digits[0]}", text)


def _right(reading: Reading, same: Callable[[Shape], bool], wanted: Shape) -> tuple[bool, str]:
    said = " or ".join(_short(e).rstrip(".") for e in reading.expressions)
    if reading.bound:
        return False, f"no value: {_short(reading.words)}"
    if not reading.expressions:
        right = bool(reading.words) and same(Shape("leaf", words_of(reading.words)))
        return right, (f"{_short(reading.words)} is right" if right else "no answer was found")
    if len(reading.expressions) > 1 and wanted.kind == "list":
        right = same(_listed(reading.expressions))
    else:
        right = all(same(shape_of(e)) for e in reading.expressions)
    if not right and len(reading.expressions) == 1 and (option := _OPTION.match(reading.expressions[0])):  # "(D) 14"
        right = same(shape_of(reading.expressions[0][option.end() :]))
    words = words_of(reading.words)
    if not right and len(reading.expressions) == 1 and WORDS.search(words) and not re.search(r"\d", words):  # "A cat" begins like a formula
        right = same(Shape("leaf", words))
    if not right and not reading.bound and date_of(wanted.text) is not None:  # "It is on March 5, 2024": no expression begins there
        right = len(named := set(dates_in(reading.words))) == 1 and same_date(named.pop(), date_of(wanted.text) or Date(None, ()))
    return right, f"{said} is right" if right else f"{said} is not {_short(wanted.text)}"


def words_of(text: str) -> str:
    """Words without the reason that is given for them: "yes, because ..." is yes."""
    return re.split(r",|;|\(|\b(?:because|since|as it|which|for the)\b|因为|由于", text, maxsplit=1)[0].strip()


def _listed(expressions: Sequence[str]) -> Shape:
    """All of them as one list; one alone as itself."""
    if len(set(expressions)) == 1:
        return shape_of(expressions[0])
    shapes = [shape_of(e) for e in expressions]
    flat = [p for s in shapes for p in (s.parts if s.kind == "list" else (s,))]
    return Shape("list", ", ".join(s.text for s in flat), tuple(flat))


def right_shape(truth: str) -> Shape:
    """What a row's right answer is: of a worked solution what it settles on (its box or boxes, its ``####``, its last line), read as an
    answer is; of a value all of it."""
    found = settled(_CALCULATED.sub("", truth)) or []
    boxes = [c for c in found if c.kind == "box"]
    if len(boxes) > 1 and boxes[-1] is found[-1]:
        return _listed([c.text for c in boxes])
    if found and found[-1].kind != "said":
        return shape_of(found[-1].text)
    if found:
        reading = read_claim(found[-1])
    elif _worked(truth):
        reading = tail_reading(prepared(truth), numbers=False)
    else:
        return shape_of(truth)
    return _listed(reading.expressions) if reading.expressions else Shape("leaf", words_of(reading.words))


def _worked(truth: str) -> bool:
    """A worked solution: several lines with words among them. A matrix or a system of equations is a value, however many lines it has."""
    return len([line for line in truth.splitlines() if line.strip()]) > 1 and bool(_PLAIN_WORD.search(_ENVIRONMENT.sub("", truth)))


def right_number(truth: str) -> Shape | None:
    """The number (or list of numbers) that a right answer is, or ends in; None where it has none."""
    shape = right_shape(truth)
    if shape.kind == "list" and all(read_quantity(p.text) is not None for p in shape.parts):
        return shape
    while shape.kind == "relation":
        shape = shape.parts[-1]
    if read_quantity(shape.text) is not None:
        return shape
    lines = shape.text.splitlines()
    tail = last_numbers(lines[-1]) if lines else Reading((), "")
    return Shape("leaf", tail.expressions[-1]) if tail.expressions and read_quantity(tail.expressions[-1]) is not None else None


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
