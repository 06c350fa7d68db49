r"""Is a mathematical answer equal to the right one? Plain numbers and fractions are compared exactly here; everything else by the library
``math-verify`` (the extra ``math``), where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import unicodedata
from fractions import Fraction
from typing import Any

from keel.rewards.score import Score, TextReward, failure
from keel.rewards.verifier import final_number, with_truth
from keel.rewards.verifier_config import MathReward

_ANNOUNCED = re.compile(r"(?:answer is|answer[:：]|答案是|答案为|答案[:：]|####)\s*[:：]?\s*([^\n]+)", re.IGNORECASE)
_PLAIN = re.compile(r"([-+]?)((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?)(?:/(\d+(?:\.\d*)?))?(%?)")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([-+]?[\d.]+)\}\{([-+]?[\d.]+)\}")
_MIXED = re.compile(r"([-+]?)(\d+) (\d+)/(\d+)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")  # a command of LaTeX is none
_LONGEST = 2000  # characters of an expression: longer ones are no final answers, and parsers take forever


def maths(config: MathReward) -> TextReward:
    r"""1 when the text's final expression equals the truth's; else 0. What only the library could decide is a failure without it.

    Of a text with ``\boxed{}`` the last box counts, else what follows the last "answer is" or ``####``, else the last number where the
    truth is a plain number and the text has no LaTeX, else what the library finds.
    """
    _library()  # its import takes seconds, more on a busy machine: not out of the first answer's time

    def judge(text: str, truth: str) -> Score:
        wanted = final_expression(truth) or _last_number(truth) or truth.strip()
        found = final_expression(text) or (_last_number(text) if plain_number(wanted) is not None else None)
        if not wanted:
            return failure("the right answer is empty")
        exact_wanted, exact_found = plain_number(wanted), plain_number(found or "")
        if exact_wanted is not None and exact_found is not None:
            right = _near(exact_wanted, exact_found, config.precision)
            return Score(float(right), f"{found} " + ("equals" if right else "is not") + f" {wanted}")
        if found is not None and _tidy(found) == _tidy(wanted):
            return Score(1.0, f"{found} is written as the right answer")
        if max(len(found or text), len(wanted)) > _LONGEST:
            return Score(0.0, "no final expression was found") if found is None else Score(0.0, "the answer is too long for an expression")
        return _by_library(found if found is not None else text, wanted, config.precision)

    return with_truth(config.truth, judge)


def final_expression(text: str) -> str | None:
    r"""What stands in the last ``\boxed{}`` (braces inside it balanced), else after the last "answer is" or ``####``; None without either,
    unless the whole text is one short line without words."""
    text = unicodedata.normalize("NFKC", text).replace("−", "-")
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start >= 0:
        inside = _braced(text, text.index("{", start))
        if inside is not None:
            return inside.strip()
    announced = _ANNOUNCED.findall(text)
    if announced:
        return announced[-1].strip().rstrip(".。").strip("$* ")
    plain = text.strip().strip("$")
    return plain if plain and "\n" not in plain and len(plain) <= 200 and not _WORD.search(plain) else None


def _last_number(text: str) -> str | None:
    """Of a text without LaTeX, where what a dollar sign or a brace means is clear."""
    number = final_number(text) if "\\" not in text else None
    return None if number is None else f"{number:.15g}"


def _braced(text: str, start: int) -> str | None:
    depth = 0
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 1 : i]
    return None


def plain_number(text: str) -> Fraction | None:
    r"""The exact value of a plain number: ``1,234.5``, ``3/4``, ``\frac{3}{4}``, ``1 1/2``, ``40%`` (0.4), ``$5``; None otherwise."""
    text = _tidy(text, keep_spaces=True)
    if len(text) > 100:
        return None
    fraction = _LATEX_FRACTION.fullmatch(text.lstrip("-"))
    if fraction:
        text = ("-" if text.startswith("-") else "") + f"{fraction[1]}/{fraction[2]}"
    mixed = _MIXED.fullmatch(text)
    if mixed and int(mixed[4]):
        value = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
        return -value if mixed[1] == "-" else value
    match = _PLAIN.fullmatch(text.replace(" ", ""))
    if not match or (match[3] and float(match[3]) == 0.0):
        return None
    value = Fraction(match[2]) / (Fraction(match[3]) if match[3] else 1) / (100 if match[4] else 1)
    return -value if match[1] == "-" else value


def _tidy(text: str, keep_spaces: bool = False) -> str:
    """Marks of layout and currency taken off, thousands separators out."""
    text = unicodedata.normalize("NFKC", text).strip().strip("$").strip()
    text = re.sub(r"\\(?:left|right|displaystyle|,|;|!|:| )", "", text).replace("\\$", "").replace("\\%", "%").replace("\\cdot", "*")
    text = re.sub(r"^\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}$", r"\1", text).lstrip("$").rstrip(".。 ")
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text)
    return " ".join(text.split()) if keep_spaces else re.sub(r"\s+", "", text)


def _near(a: Fraction, b: Fraction, precision: int) -> bool:
    """Equal, or equal when rounded to ``precision`` decimals where either is a decimal that was cut off (1/3 and 0.333333)."""
    return a == b or round(a, precision) == round(b, precision)


def _by_library(found: str, wanted: str, precision: int) -> Score:
    math_verify = _library()
    if math_verify is None:
        return failure(f"only the library math-verify can compare with {wanted[:60]!r}: pip install 'keel-align[math]'")
    # no time limits of its own: they are alarms, and the worker that this runs in has one
    gold = _parsed(math_verify, wanted)
    if not gold:
        return failure(f"the right answer is no expression: {wanted[:60]!r}")
    answer = _parsed(math_verify, found)
    if not answer:
        return Score(0.0, "no expression was found in the answer")
    right = math_verify.verify(gold, answer, float_rounding=precision, timeout_seconds=None)
    return Score(float(right), f"{answer[-1]} " + ("equals" if right else "is not") + f" {wanted[:60]}")


def _library() -> Any:
    """``math_verify``, None where it is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        return None
    for name in ("math_verify", "latex2sympy2_extended"):  # they would write a line for every answer they cannot read
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return importlib.import_module("math_verify")


def _parsed(library: Any, text: str) -> list:
    """The library's reading: of a bare expression in a LaTeX environment (which it wants), else as it stands."""
    wrapped = text if "$" in text or "\\boxed" in text or "\\[" in text else f"${text}$"
    return library.parse(wrapped, parsing_timeout=None) or library.parse(text, parsing_timeout=None)
