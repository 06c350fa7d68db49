"""Process checks: is each step of a chain of thought right? Here the arithmetic of every equation that a text writes down."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field

from keel.rewards.score import PartsRow, Score
from keel.rewards.settings import Aggregate, SourceConfig
from keel.types import Prompt


class StepsReward(SourceConfig):
    """Is each step of a chain of thought right? Every equation ``expression = number`` that the answer writes down is computed."""

    type: Literal["steps"] = Field(default="steps", description="The arithmetic of each step is checked.")
    aggregate: Aggregate = Field(
        default="mean", description="The answer's score, of 1 and 0 for each equation: mean, sum, the least, the last one's."
    )
    none: float = Field(default=0.0, description="Score of an answer that has no equation.")


_SAME_LENGTH = str.maketrans("０１２３４５６７８９＋－×÷＝（）．−–·∗＊／％", "0123456789+-*/=().--***/%")
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/()%]")
_ARITHMETIC = re.compile(r"[-+*/()%.,\d ]+")
_TERM = rf"[-+( \t$¥￥€£]*(?:{_NUMBER})[ \t]*%?[) \t]*"
_TIMES = r"x(?=[ \t$(]*[\d.])"  # else an unknown
_LEFT = rf"(?<![A-Za-z0-9_.])(?P<left>{_TERM}(?:(?:[-+*/]|{_TIMES}){_TERM})+)"
_RIGHT = rf"(?P<right>-?[ \t]*[$¥￥€£]?[ \t]*(?:{_NUMBER})%?)"
_EQUATION = re.compile(rf"{_LEFT}=[ \t]*{_RIGHT}(?![A-Za-z0-9_*/(]|[ \t]*[*/+x(][ \t]*\d)")
_MONEY = re.compile(r"[$¥￥€£]")
MAX_TERMS = 200
_OPERATIONS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def equations(text: str) -> list[tuple[int, int]]:
    """Where a text computes something: ``expression = number`` with at least one operation. Of ``a + b = c + d = e`` the last equation
    alone is one; what has a bracket too many is none."""
    found = _EQUATION.finditer(text.translate(_SAME_LENGTH))
    return [match.span() for match in found if match["left"].count("(") == match["left"].count(")")]


def equation_right(prompt: Prompt, text: str) -> Score:
    """1 when the one equation of ``text`` holds, 0 when not. The right side may be rounded: it may be off by half of its last digit."""
    del prompt
    match = _EQUATION.search(text.translate(_SAME_LENGTH))
    assert match is not None, "an equation is judged"
    left, right = _MONEY.sub("", match["left"]).replace("x", "*"), _MONEY.sub("", match["right"]).replace(" ", "")
    value = evaluate(left)
    if value is None:
        return Score(0.0, f"cannot be computed: {left.strip()}")
    wanted, unit = _number(right)
    slack = unit / 2 if "." in right else 1e-9 * max(1.0, abs(value))
    holds = abs(value - wanted) <= slack * (1 + 1e-9) + 1e-12 * abs(value)
    return Score(float(holds), f"{left.strip()} is {value:.10g}" + ("" if holds else f", not {right}"))


def _number(text: str) -> tuple[float, float]:
    """A number and the unit of its last digit."""
    bare = text.rstrip("%").replace(",", "")
    unit = 10.0 ** -len(bare.partition(".")[2])
    percent = 0.01 if text.endswith("%") else 1.0
    return float(bare) * percent, unit * percent


def evaluate(expression: str) -> float | None:
    """The value of numbers, ``+ - * /``, brackets and ``%`` (a hundredth); None for what is no such expression or divides by 0. Python's
    own grammar reads it; nothing but arithmetic is computed."""
    bare = " ".join(expression.split())
    if not _ARITHMETIC.fullmatch(bare) or len(_TOKEN.findall(bare)) > MAX_TERMS:
        return None
    plain = re.sub(_NUMBER, lambda number: f" {float(number[0].replace(',', ''))} ", bare)
    try:  # a percent sign binds as tightly as an index, and is read as one
        value = _value(ast.parse(plain.replace("%", "[0]").strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return value if math.isfinite(value) else None


def _value(node: ast.expr) -> float:
    """Raises ValueError for anything but arithmetic."""
    match node:
        case ast.Constant(value=float(number)):
            return number
        case ast.BinOp(left, op, right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(ast.UAdd(), operand):
            return _value(operand)
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
        case ast.Subscript(value):
            return _value(value) / 100.0
        case _:
            raise ValueError("no arithmetic")


ROW = PartsRow(StepsReward, equation_right, equations)
