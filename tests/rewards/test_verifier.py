"""Verifiers by hand, in both languages."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from fractions import Fraction

import pytest

from keel.rewards.reading.equality import shape_of
from keel.rewards.reading.final import readings_of
from keel.rewards.reading.quantity import read_quantity
from keel.rewards.text import TextSource
from keel.rewards.verifiers.contains import ContainsReward, contains
from keel.rewards.verifiers.exact import ExactReward, exact
from keel.rewards.verifiers.numeric import NumericReward, numeric
from keel.rewards.verifiers.regex import RegexReward, regex


@pytest.mark.parametrize(
    ("text", "score"), [("Paris", 1.0), ("  paris \n", 1.0), ("Ｐaris", 1.0), ("Paris.", 0.0), ("Paris France", 0.0), ("", 0.0)]
)
def test_exact(text: str, score: float, prompt: Callable) -> None:
    assert exact(ExactReward(name="e"))(prompt(ground_truth="Paris"), text) == score


def test_exact_may_mind_the_case_and_reads_chinese_and_other_keys(prompt: Callable) -> None:
    strict = exact(ExactReward(name="e", ignore_case=False, truth="extra.answer"))
    assert strict(prompt(extra={"answer": "Paris"}), "paris") == 0.0
    assert strict(prompt(extra={"answer": "巴黎"}), "巴黎 ") == 1.0
    assert strict(prompt(extra={"answer": 7}), "7") == 1.0


def settled_on(text: str) -> Fraction | None:
    """The one number that an answer's readings come to; None where there is none, or several that differ."""
    found = readings_of(text, numbers=True)
    if isinstance(found, str) or any(r.bound for r in found):
        return None
    values = [_number(e) for r in found for e in (r.expressions or (r.words,))]
    return values[-1] if values and len(set(values)) == 1 else None


def _number(expression: str) -> Fraction | None:
    shape = shape_of(expression)
    while shape.kind == "relation" and set(shape.marks.split()) == {"="}:
        shape = shape.parts[-1]
    number = read_quantity(shape.text) if shape.kind == "leaf" else None
    return None if number is None else number.value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 apples.", 7.0),
        ("So it is 1,234.50", 1234.5),
        ("#### 72", 72.0),
        ("First 5, the answer is 6. Check: 7 days.", 6.0),
        (r"\boxed{-3} and 9", -3.0),
        (r"\boxed{1} no, \boxed{2}", 2.0),
        ("答案是42个", 42.0),
        ("一共买了１２个", 12.0),
        ("about 2.5e3", 2500.0),
        ("5-3=2", 2.0),
        ("it grows by 40%", 40.0),
        ("−8", -8.0),
        ("x2 and none", None),
        ("no number", None),
        ("the answer is unknown, 4 at most", None),
        (r"\boxed{\frac{1}{2}}", 0.5),
        (r"It is -\dfrac{3}{4}.", -0.75),
        (r"\boxed{1{,}234 \text{ m}} of 9", 1234.0),
        ("3 1/2 hours", 3.5),
        (r"2\frac{1}{2} cups", 2.5),
        ("1½ km", 1.5),
        ("1/2", 0.5),
        ("48/2 = 24", 24.0),
        ("on 12/25/2023", 2023.0),
        ("10 of 1/0", None),
    ],
)
def test_the_number_that_an_answer_settles_on(text: str, number: float | None) -> None:
    assert settled_on(text) == number


def test_numeric_with_tolerance(prompt: Callable) -> None:
    judge = numeric(NumericReward(name="n", tolerance=0.01))
    asked = prompt(ground_truth="He pays 200.\n#### 200")
    assert [judge(asked, t) for t in ("201.9", "202.1", "none")] == [1.0, 0.0, 0.0]  # relative: 2 of 200
    assert judge(prompt(ground_truth=0.5), "0.509") == 1.0  # absolute below 1
    assert numeric(NumericReward(name="n"))(asked, "200.001") == 0.0


def test_contains_counts_words_once(prompt: Callable) -> None:
    assert contains(ContainsReward(name="c", words=["order number", "订单号", "sorry"]))(prompt(), "Sorry! 订单号, sorry") == 2 / 3
    assert contains(ContainsReward(name="c", words=["a", "b"], need="any"))(prompt(), "only b") == 1.0
    assert contains(ContainsReward(name="c", words=["ant"]))(prompt(), "pants") == 0.0


def test_regex_alone_and_with_a_truth(prompt: Callable) -> None:
    assert regex(RegexReward(name="r", pattern=r"^\{.*\}$"))(prompt(), '{"a": 1}') == 1.0
    assert regex(RegexReward(name="r", pattern=r"^\{.*\}$"))(prompt(), "a") == 0.0
    judge = regex(RegexReward(name="r", pattern=r"选([A-D])|\(([A-D])\)", truth="ground_truth"))
    assert judge(prompt(ground_truth="B"), "先看选A，再看选B") == 1.0  # the last match counts
    assert judge(prompt(ground_truth="A"), "先看选A，再看选B") == 0.0
    assert judge(prompt(ground_truth="A"), "没有") == 0.0


def test_no_truth_is_a_failure_said_once_and_not_a_wrong_answer(caplog: pytest.LogCaptureFixture, group: Callable) -> None:
    judge = exact(ExactReward(name="check"))
    with caplog.at_level(logging.WARNING, "keel"):
        (found_G,) = TextSource("check", judge).score([group("x", "y")])
    assert found_G.isnan().all()
    assert [r.getMessage() for r in caplog.records] == [
        "reward check failed for prompt p (file.jsonl:3): no 'ground_truth': the row has no right answer to compare with (said once)"
    ]


@pytest.mark.parametrize("truth", [{"a": 1}, [None], [], [["x"]], True, float("nan"), None])
def test_a_truth_that_cannot_be_compared_with_is_a_failure(truth: object, prompt: Callable) -> None:
    for judge in (exact(ExactReward(name="check")), numeric(NumericReward(name="n"))):
        found = judge(prompt(ground_truth=truth), "x")
        assert math.isnan(found)
        assert "'ground_truth'" in found.error
    assert math.isnan(numeric(NumericReward(name="n"))(prompt(ground_truth="many"), "3"))


def test_of_several_accepted_answers_any_one_will_do(prompt: Callable) -> None:
    words, number = exact(ExactReward(name="e")), numeric(NumericReward(name="n"))
    assert [words(prompt(ground_truth=["Paris", "City of Light"]), t) for t in ("paris", "City of light", "Rome")] == [1.0, 1.0, 0.0]
    assert [number(prompt(ground_truth=[3, "4.5", 7.0]), t) for t in ("3", "4.5", "7", "5")] == [1.0, 1.0, 1.0, 0.0]
    mixed = prompt(ground_truth=["many", "3"])  # what could not be compared may have been right
    assert number(mixed, "3") == 1.0
    assert math.isnan(number(mixed, "4"))
    pattern = regex(RegexReward(name="r", pattern=r"\d+", truth="ground_truth"))
    assert [pattern(prompt(ground_truth=["1", 2]), t) for t in ("1", "2", "3")] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("truth", [7, 7.0, "7", "7.0", "#### 7", r"\boxed{7}", [7], "7 apples"])
def test_the_right_number_may_be_a_number_or_text(truth: object, prompt: Callable) -> None:
    judge = numeric(NumericReward(name="n"))
    assert [judge(prompt(ground_truth=truth), t) for t in ("The answer is 7.", "The answer is 8.")] == [1.0, 0.0]


def test_a_broken_pattern_is_refused_with_the_config() -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        RegexReward(name="r", pattern="(")
