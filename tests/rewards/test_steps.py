"""The arithmetic of a chain of thought, equation by equation."""

from __future__ import annotations

import pytest

from keel.rewards.verifiers.steps import equation_right, equations, evaluate
from keel.types import Prompt

PROMPT = Prompt("p", text="?")


def judged(text: str) -> list[tuple[str, float]]:
    return [(text[a:b].strip(), float(equation_right(PROMPT, text[a:b]))) for a, b in equations(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7", [1]),
        ("2 + 2 = 5", [0]),
        ("12 x 5 = 60 and 12 × 5 = 61", [1, 0]),
        ("48/2 = <<48/2=24>>24", [1]),
        ("$5 * 3 = $15.00", [1]),
        ("所以３＋４＝７，然后 12－2=11。", [1, 0]),
        ("10 / 3 = 3.33, 10 / 3 = 3.34", [1, 0]),
        ("1,000 - 1 = 999", [1]),
        ("50 * 20% = 10", [1]),
        ("(2+3)*4=20", [1]),
        ("-3 + 5 = 2", [1]),
        ("20/0=3", [0]),
        ("2+3=5+1=6", [1]),
        ("x = 5", []),
        ("11x+15=301", []),
        ("a2+3=5", []),
        ("5 = 2 + 3", []),
        ("50+100)=150", []),
        ("the answer is 42", []),
    ],
)
def test_equations(text: str, expected: list[int]) -> None:
    assert [score for _, score in judged(text)] == expected


def test_where_they_are() -> None:
    assert [part for part, _ in judged("First 2*3=6. Then 6-1 = 4.")] == ["2*3=6", "6-1 = 4"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", 14.0),
        ("2-3-4", -5.0),
        ("8/4/2", 1.0),
        ("-(2+1)*2", -6.0),
        ("50%", 0.5),
        ("1,200.5", 1200.5),
        (".5*2", 1.0),
        ("10/50%", 20.0),
        ("(1+1)%*3", 0.06),
        ("50%%", 0.005),
        ("-2%", -0.02),
        ("2--3", 5.0),
        ("007+1", 8.0),
        ("2\n+ 3", 5.0),
    ],
)
def test_values(expression: str, value: float) -> None:
    assert evaluate(expression) == pytest.approx(value)


# What Python's grammar would read, and arithmetic has not.
NO_ARITHMETIC = (
    *(
        "2**3",
        "7//2",
        "7%3",
        "5(2)",
        "(2,3)",
        "2,3",
        "()",
        "2)+(3",
        "2 # 3",
        "1e5",
        "1_0",
        "0x1",
        "1j",
        "2[0]",
        "2.",
        "1..2",
        "a",
        "'2'",
        "-",
    ),
    *("~2", "2<3", "2|3", "2 if 1 else 3", "[2]", "{2}", "2=2", "2;3", "lambda: 2", "9" * 400, "1" + "+1" * 100, "-" * 200 + "1"),
)


@pytest.mark.parametrize("expression", ["", "2+", "(2", "2)", "1/0", "2 3", "two", "(" * 300 + "1" + ")" * 300, *NO_ARITHMETIC])
def test_no_values(expression: str) -> None:
    assert evaluate(expression) is None


def test_at_most_so_many_terms() -> None:
    assert evaluate("1" + "+1" * 99) == 100.0
    assert evaluate("-" * 199 + "1") == -1.0


def test_a_reason_is_told() -> None:
    assert equation_right(PROMPT, "2 + 2 = 5").reason == "2 + 2 is 4, not 5"
