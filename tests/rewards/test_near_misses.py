"""Answers that nearly say the right thing, and one right answer in many ways of writing, made by rule for many right answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product

import pytest
from pydantic import TypeAdapter

from keel.rewards.score import TextReward
from keel.rewards.table import RewardConfig, text_reward

FRAMES = ("\\boxed{%s}", "The answer is %s.", "#### %s", "<answer>%s</answer>", "答案是%s。", "So we get\n\n**Answer:** %s")


@cache
def reward(kind: str) -> TextReward:
    return text_reward(TypeAdapter(RewardConfig).validate_python({"type": kind, "name": kind}))


@pytest.fixture(scope="module")
def right(prompt: Callable) -> Callable[[str, str, str], bool]:
    def judge(kind: str, completion: str, truth: str) -> bool:
        found = reward(kind)(prompt(ground_truth=truth), completion)
        assert found in (0.0, 1.0), (kind, completion, truth, getattr(found, "error", ""))
        return found == 1.0

    return judge


def _misses() -> Iterator[tuple[str, str, str]]:
    """(verifier, right answer, what nearly says it)."""
    for t in (2, 8, 37, 105, 4096, 1_000_001, 10**17 + 3):
        changed = (
            -t,
            t + 1,
            t - 1,
            t * 10,
            t * 100,
            t * 1000,
            f"1/{t}",
            f"{t}.5",
            f"{t}/2",
            f"{t} or {t + 1}",
            f"{t},{t + 1}",
            f"({t},{t})",
        )
        formulas = (f"{t}x", f"{t}^2", f"\\sqrt{{{t}}}", f"{t}\\pi", f"x > {t}", f"{t} \\pm 1", f"\\{{{t},0\\}}", f"{t}i")
        for miss in changed:
            yield "numeric", str(t), str(miss)
            yield "math", str(t), str(miss)
        yield from (("math", str(t), miss) for miss in formulas)
    for a, b in ((1, 3), (3, 7), (22, 7), (13, 40)):
        for miss in (
            f"-\\frac{{{a}}}{{{b}}}",
            f"\\frac{{{b}}}{{{a}}}",
            f"{a + 1}/{b}",
            f"{a / b:.2f}",
            f"{a / b * 100:.9g}",
            f"{a / b:.9g}%",
        ):
            yield "math", f"\\frac{{{a}}}{{{b}}}", miss
            yield "numeric", f"{a}/{b}", miss
        yield "math", f"{a}/{b}", f"{a}:{b}:1"
    for opened, closed in product("([", ")]"):
        for other, end in product("([", ")]"):
            if (other, end) != (opened, closed):
                yield "math", f"{opened}-1,4{closed}", f"{other}-1,4{end}"
        for miss in (f"{opened}4,-1{closed}", f"{opened}-1,5{closed}", "x > -1", "(-\\infty,-1)\\cup(4,\\infty)"):
            yield "math", f"{opened}-1,4{closed}", miss
    for miss in ("\\{1,2\\}", "\\{1,2,3,4\\}", "\\{1,2,4\\}", "1", "\\{-1,2,3\\}"):
        yield "math", "\\{1,2,3\\}", miss
    for a, b in (
        ("\\sin x", "\\cos x"),
        ("\\log_2 3", "\\log_3 2"),
        ("2\\sqrt{3}", "3\\sqrt{2}"),
        ("1+2\\sqrt{3}", "1-2\\sqrt{3}"),
        ("1+2i", "1-2i"),
        ("y=2x+1", "y=2x-1"),
        ("2^{10}", "2^{11}"),
        ("3:4", "4:3"),
        ("1:2:3", "1:3:2"),
        ("11_2", "11_3"),
        ("\\pi", "3.14"),
        ("\\infty", "-\\infty"),
        ("2024-03-05", "2024-05-03"),
        ("March 5", "May 3"),
        ("3:30 PM", "3:30 AM"),
        ("\\emptyset", "0"),
        ("x<1", "x>1"),
        ("Yes", "No"),
        ("3 cm", "3 m"),
        ("3 dollars", "3 euros"),
        ("1 hour 30 minutes", "1.3 hours"),
        ("30^\\circ", "\\frac{\\pi}{3}"),
        ("even", "odd"),
    ):
        yield "math", a, b
        yield "math", b, a
    yield from (("choice", t, x) for t in "ABCD" for x in "ABCD" if x != t)


def test_no_near_miss_is_right(right: Callable[[str, str, str], bool]) -> None:
    pytest.importorskip("math_verify")
    misses = list(_misses())
    assert len(misses) > 300
    wrong = []
    for i, (kind, truth, miss) in enumerate(misses):
        completion = (("%s", *FRAMES)[i % 7]) % miss
        if right(kind, completion, truth):
            wrong.append((kind, truth, completion))
    assert not wrong


WAYS = {
    ("numeric", "1250"): (
        "1250",
        "1,250",
        "1 250",
        "1250.0",
        "$1,250",
        "1.25e3",
        "1.25 \\times 10^3",
        "1250 dollars",
        "+1250",
        "1{,}250",
        "1'250",
        "1\\,250",
        "2500/2",
        "一千二百五十",
        "1.25 thousand",
        "one thousand two hundred fifty",
        "１２５０",
        "**1250**",
        "`1250`",
    ),
    ("numeric", "-7"): ("-7", "−7", "- 7", "-7.0", "minus 7", "negative seven", "负七", "-7^\\circ", "(-7)"),
    ("numeric", "50%"): ("50%", "50\\%", "50 percent", "0.5", "1/2", "百分之五十", "50", "half", "one half", "50 per cent"),
    ("math", "\\frac{3}{4}"): (
        "\\frac{3}{4}",
        "\\dfrac34",
        "\\tfrac{3}{4}",
        "3/4",
        "0.75",
        "75%",
        ".75",
        "\\frac{6}{8}",
        "四分之三",
        "$\\frac34$",
        "¾",
        "x = \\frac{3}{4}",
        "\\frac{-3}{-4}",
        "three quarters",
        "\\left(\\frac{3}{4}\\right)",
    ),
    ("math", "(1,\\infty)"): (
        "(1,\\infty)",
        "x > 1",
        "1 < x",
        "x \\in (1, \\infty)",
        "\\{x \\mid x > 1\\}",
        "(1, +\\infty)",
        "x>1",
        "(1,∞)",
        "\\left(1,\\infty\\right)",
    ),
    ("math", "\\{1,2\\}"): (
        "\\{1,2\\}",
        "\\{2, 1\\}",
        "1, 2",
        "1 and 2",
        "x=1 \\text{ or } x=2",
        "x = 1, x = 2",
        "\\left\\{1,2\\right\\}",
        "{1, 2}",
        "2, 1",
    ),
    ("math", "2\\sqrt{3}"): (
        "2\\sqrt{3}",
        "\\sqrt{12}",
        "2√3",
        "\\frac{6}{\\sqrt{3}}",
        "2 \\cdot \\sqrt{3}",
        "2\\sqrt3",
        "2*sqrt(3)",
        "2 \\sqrt{3} \\text{ units}",
    ),
    ("math", "2024-03-05"): (
        "2024-03-05",
        "March 5, 2024",
        "5 March 2024",
        "2024/3/5",
        "2024年3月5日",
        "Mar 5, 2024",
        "the 5th of March 2024",
        "03/05/2024",
    ),
    ("math", "(3,-1)"): ("(3,-1)", "(3, -1)", "\\left(3,-1\\right)", "x=3, y=-1", "(x,y)=(3,-1)", "\\begin{pmatrix}3\\\\-1\\end{pmatrix}"),
    ("choice", "C"): ("C", "(C)", "C.", "\\text{C}", "**C**", "option C", "C)", "选项C", "Ｃ", "$C$"),
}


@pytest.mark.parametrize(("kind", "truth"), WAYS)
def test_every_way_of_writing_is_right(kind: str, truth: str, right: Callable[[str, str, str], bool]) -> None:
    pytest.importorskip("math_verify")
    frames = ("\\boxed{%s}", "The answer is %s.", "<think>Maybe 5 or D?</think>\nTherefore the final answer is: %s")
    wrong = [frame % way for way in WAYS[kind, truth] for frame in frames if not right(kind, frame % way, truth)]
    assert not wrong
