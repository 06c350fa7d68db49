"""Is the final number of an answer the right one?"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from pydantic import Field

from keel.rewards.reading import final
from keel.rewards.reading.equality import Comparison, Shape
from keel.rewards.reading.final import right_number
from keel.rewards.reading.quantity import read_quantity
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import TruthConfig
from keel.rewards.verifiers.truth import short, with_truth


class NumericReward(TruthConfig):
    """1 when the final number of the answer is the right one; else 0. GSM8K is of this kind: its truth ends in #### and the number."""

    type: Literal["numeric", "gsm8k"] = Field(default="numeric", description="The final number is compared.")
    tolerance: float | None = Field(
        default=None,
        ge=0,
        description="Allowed difference, relative to the right number where that is above 1; empty = whole numbers are compared exactly, "
        "others to about six digits (0.333333 is 1/3).",
    )


@of_answers
def numeric(config: NumericReward) -> TextReward:
    """1 when the final number of the text equals that of the truth within the tolerance; a text without a number is wrong: 0, a truth
    without one is a failure."""

    def judge(text: str, truth: str) -> Score:
        wanted = right_number(truth)
        if wanted is None:
            return failure(f"no number in the right answer: {short(truth)}")
        comparison = Comparison(_never, _near(config.tolerance, wanted))
        return final.judge(text, wanted, lambda found: comparison.same(found, wanted), numbers=True)

    return with_truth(config.truth, judge)


def _never(found: str, wanted: str) -> bool:
    """What is no number equals none."""
    return False


def _near(tolerance: float | None, wanted: Shape) -> Fraction | None:
    """The difference that the user allows, relative to the right number where that is above 1; None where nothing was asked for."""
    if tolerance is None:
        return None
    number = read_quantity(wanted.text)
    return Fraction(tolerance) * max(Fraction(1), abs(number.value) if number is not None else Fraction(1))


ROW = TextRow(NumericReward, numeric)
