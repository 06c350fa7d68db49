r"""Is a mathematical answer equal to the right one? Plain numbers and fractions are compared exactly here; everything else by the library
``math-verify`` (the extra ``math``), where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from fractions import Fraction
from typing import Any, ClassVar, Literal

from pydantic import Field

from keel.rewards.reading import final
from keel.rewards.reading.equality import Comparison
from keel.rewards.reading.final import right_shape
from keel.rewards.reading.quantity import Quantity, read_quantity, same
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import IsolatedConfig, TruthConfig
from keel.rewards.verifiers.truth import with_truth


class MathReward(IsolatedConfig, TruthConfig):
    """1 when the final expression of the answer equals the right one: 1/2 is 0.5 is \\frac{1}{2}; else 0."""

    libraries: ClassVar[tuple[str, ...]] = ("math-verify", "latex2sympy2_extended", "sympy")

    type: Literal["math"] = Field(default="math", description="Mathematical expressions are compared.")
    precision: int | None = Field(
        default=None,
        ge=1,
        le=15,
        description="Decimals that numbers are compared to; empty = whole numbers are compared exactly, others to about six digits.",
    )


_LONGEST = 2000  # characters of an expression: longer ones are no final answers, and parsers take forever
_DECIMALS = 6
_HUGE = re.compile(
    r"\^\s*\{?\s*[-+]?\d{4,}|\^\s*\{?[^{}^]*\^\s*\{?[^{}^]*\^|\d{4,}\s*!|!\s*!|\d\s*\^\s*\{?\s*\d+\s*\^"
)  # would fill the memory


@of_answers
def maths(config: MathReward) -> TextReward:
    r"""1 when every answer that the text settles on equals the truth; else 0. What only the library could decide is a failure without it.

    Of a text with ``\boxed{}``, ``####``, ``<answer>`` or "answer is" these count, else its last formula or number.
    """
    _library()  # its import takes seconds, more on a busy machine: not out of the first answer's time
    near = None if config.precision is None else Fraction(1, 2 * 10**config.precision)

    def judge(text: str, truth: str) -> Score:
        wanted = right_shape(truth)
        if not wanted.text.strip():
            return failure("the right answer is empty")
        leaf = Leaf(config.precision or _DECIMALS)
        comparison = Comparison(leaf, near)
        try:
            return final.judge(text, wanted, lambda found: comparison.same(found, wanted), read_quantity(wanted.text) is not None)
        except _CannotSayError as error:
            return failure(str(error))

    return with_truth(config.truth, judge)


class _CannotSayError(Exception):
    """Neither right nor wrong: the library is missing, or cannot read the right answer."""


class Leaf:
    """Decides by the library whether two expressions without structure (roots, symbols, powers) are equal."""

    def __init__(self, precision: int) -> None:
        self.precision = precision

    def __call__(self, found: str, wanted: str) -> bool:
        """Raises _CannotSayError."""
        if max(len(found), len(wanted)) > _LONGEST or _HUGE.search(found) or not _like_a_formula(found):
            return False
        if _letters(found) != _letters(wanted) and not (_letters(found) and _letters(wanted)):
            return False  # a number is no formula with a symbol
        math_verify = _library()
        if math_verify is None:
            raise _CannotSayError(f"only the library math-verify can compare with {wanted[:60]!r}: pip install 'keel-align[math]'")
        # no time limits of its own: they are alarms, and the worker that this runs in has one
        gold = _parsed(math_verify, wanted)
        if not gold:
            raise _CannotSayError(f"the right answer is no expression: {wanted[:60]!r}")
        answer = _parsed(math_verify, found)
        if not answer:
            return False
        if math_verify.verify(gold, answer, float_rounding=self.precision, timeout_seconds=None):
            return True
        return _near_in_digits(answer[0], gold[0], found, wanted)


def _near_in_digits(found: Any, wanted: Any, found_text: str, wanted_text: str) -> bool:
    """A constant and its decimals, about six of them: the square root of 2 and 1.414214."""
    if all(read_quantity(t) is None for t in (found_text, wanted_text)) or _letters(found_text) or _letters(wanted_text):
        return False
    try:
        (a, a_imaginary), (b, b_imaginary) = _digits(found), _digits(wanted)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError):
        return False
    return same(Quantity(a), Quantity(b)) and same(Quantity(a_imaginary), Quantity(b_imaginary))


def _digits(expression: Any) -> tuple[Fraction, Fraction]:
    """Real and imaginary part, with 30 digits; ``i`` and ``e`` are the constants. Raises ValueError where there is no such value."""
    sympy = importlib.import_module("sympy")
    constants = {s: sympy.I if s.name == "i" else sympy.E for s in expression.free_symbols if s.name in ("i", "e")}
    parts = expression.subs(constants).evalf(30, chop=True).as_real_imag()
    return Fraction(str(parts[0])), Fraction(str(parts[1]))


def _letters(text: str) -> frozenset[str]:
    """The symbols of an expression: single letters that are no part of a command, i and e aside."""
    bare = re.sub(
        r"\\[A-Za-z]+|(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|mod|min|max|gcd|lcm|arcsin|arccos|arctan)(?![A-Za-z])",
        " ",
        text,
    )
    greek = re.findall(r"\\(?:alpha|beta|gamma|theta|lambda|phi|omega|mu|sigma|rho|tau)(?![a-z])", text)
    return frozenset([*re.findall(r"[A-Za-df-hj-z]", bare), *greek])


def _like_a_formula(text: str) -> bool:
    return bool(re.search(r"[\dA-Za-z\\]", text)) and not re.search(r"[\u4e00-\u9fff]", text)


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


ROW = TextRow(MathReward, maths)
