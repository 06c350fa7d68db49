"""The language of rules: numbers by hand for each function, errors with their place, and random expressions beside a slow evaluator that
keeps all rows and looks at them anew each time."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from keel.watch.expressions.parser import Scope, parse, patterns
from keel.watch.expressions.tokens import ExpressionError

Rows = Sequence[Mapping[str, float]]


def values(text: str, rows: Rows, settings: Mapping[str, float | None] | None = None) -> list[float | None]:
    """What a condition says after each row."""
    expression, scope = parse(text), Scope(settings=settings or {})
    found = []
    for step, row in enumerate(rows, 1):
        scope.take(step, row)
        found.append(expression.value(scope))
    return found


def number(text: str, rows: Rows) -> float | None:
    """A number after the last row, found by halving: the language only answers questions. None where it is absent."""
    if values(f"{text} > 0", rows)[-1] is None:
        return None
    low, high = -1e6, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if values(f"{text} > {middle!r}", rows)[-1] else (low, middle)
    return high


def x(*numbers: float) -> list[dict[str, float]]:
    return [{"x": value} for value in numbers]


@pytest.mark.parametrize(
    ("text", "numbers", "wanted"),
    [
        ("mean(x, 3)", (9.0, 1.0, 2.0, 6.0), 3.0),
        ("mean(x)", (9.0, 1.0, 2.0, 6.0), 4.5),
        ("mean(x, 3)", (1.0, 2.0), None),
        ("mean(x, 2)", (1.0, math.nan, 3.0), 2.0),  # what is not finite is left out
        ("std(x, 4)", (99.0, 2.0, 4.0, 4.0, 6.0), math.sqrt(8 / 3)),  # over n - 1
        ("min(x, 2)", (1.0, 5.0, 3.0), 3.0),
        ("min(x)", (1.0, 5.0, 3.0), 1.0),
        ("max(x, 2)", (7.0, 5.0, 3.0), 5.0),
        ("max(x)", (7.0, 5.0, 3.0), 7.0),
        ("change(x, 2)", (9.0, 1.0, 3.0, 4.0, 8.0), 2.0),  # (6 - 2) / 2
        ("change(x, 2)", (-1.0, -3.0, -4.0, -8.0), -2.0),  # (-6 + 2) / |-2|
        ("change(x, 2)", (1.0, 3.0, 4.0), None),
        ("slope(x, 3)", (50.0, 1.0, 2.0, 6.0), 2.5),  # (-1 * -2 + 1 * 3) / 2
        ("first(x, 2)", (1.0, 2.0, 30.0), 1.5),
        ("first(x, 2)", (1.0,), None),
        ("best(reward)", (1.0, 3.0, 2.0), 3.0),
        ("best(eval/loss)", (4.0, 3.0, 5.0), 3.0),
        ("count(x > 1, 3)", (5.0, 1.0, 2.0, 3.0), 2.0),
        ("count(x > 1)", (5.0, 1.0, 2.0, 3.0), 3.0),
        ("count(x > 1, 3)", (5.0,), 1.0),  # of those that there are
        ("count(not finite(x), 3)", (math.inf, 1.0, math.nan, 2.0), 1.0),
        ("max(mean(x, 2))", (1.0, 3.0, 5.0, 1.0), 4.0),
        ("1 + 2 * 3 - 4 / 8", (0.0,), 6.5),
        ("-(2 - x) * -3", (4.0,), -6.0),
        ("2 - 1 - 1", (0.0,), 0.0),
        ("8 / 4 / 2", (0.0,), 1.0),
    ],
)
def test_numbers_by_hand(text: str, numbers: Sequence[float], wanted: float | None):
    name = text[text.find("(") + 1 : -1] if text.startswith("best") else "x"
    rows = [{name: value} for value in numbers]
    if "x" in text or name != "x":
        found = number(text, rows)
        assert found == (None if wanted is None else pytest.approx(wanted, abs=1e-9)), text
    else:
        assert values(f"{text} == {wanted!r}", rows)[-1] == 1.0


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("1 > 2 or 2 > 1 and 1 > 2", False),
        ("(1 > 2 or 2 > 1) and 2 > 1", True),
        ("not 1 > 2 and 2 > 1", True),
        ("not (1 > 2 or 2 > 1)", False),
        ("not not 2 > 1", True),
        ("1 + 1 == 2", True),
        ("1 <= 1", True),
        ("1 < 1", False),
        ("1 >= 2", False),
        ("1 != 1", False),
        ("1 / 0 > 1e300", True),
        ("-1 / 0 < -1e300", True),
        ("finite(1 / 0)", False),
        ("finite(0 / 0)", False),
        ("finite(1)", True),
        ("1e3 == 1000 and .5 == 0.5 and 5. == 5", True),
    ],
)
def test_conditions_by_hand(text: str, yes: bool):
    assert values(text, [{}]) == [float(yes)]


def test_a_slash_inside_a_name_is_the_name_and_beside_blanks_a_division():
    rows = [{"a/b": 3.0, "a": 8.0, "b": 2.0}]
    assert values("a/b == 3", rows) == [1.0]
    assert values("a / b == 4", rows) == [1.0]
    assert values("a /b == 4", rows) == [1.0]
    assert parse("completions/mean_length < 2").names == {"completions/mean_length"}
    assert parse("`a-b/c d` > 0").names == {"a-b/c d"}
    assert values("`a-b` > 1", [{"a-b": 2.0}]) == [1.0]


def test_absent_values_are_absent_and_three_values_join():
    rows = [{"x": 1.0}]
    for text, wanted in (
        ("y > 0", None), ("y + 1 > 0", None), ("not y > 0", None), ("x > 0 and y > 0", None), ("x < 0 and y > 0", 0.0),
        ("y > 0 and x < 0", 0.0), ("x > 0 or y > 0", 1.0), ("y > 0 or x > 0", 1.0), ("x < 0 or y > 0", None), ("y > 0 or x < 0", None),
        ("absent(y)", 1.0), ("absent(x)", 0.0), ("finite(y)", None), ("count(y > 0, 3) == 0", 1.0), ("age(y) > 0", None),
        ("x > $none", None),
    ):  # fmt: skip
        assert values(text, rows) == [wanted], text


def test_nan_compares_as_floating_point_does():
    rows = x(math.nan)
    assert [values(f"x {sign} 1", rows)[0] for sign in (">", ">=", "<", "<=", "==", "!=")] == [0, 0, 0, 0, 0, 1]
    assert values("not x > 1", rows) == [1.0]
    assert values("x + 1 != x + 1", rows) == [1.0]
    assert values("finite(x)", rows) == [0.0]


def test_the_age_of_a_metric_is_in_steps():
    rows = [{"x": 1.0, "e": 1.0}, {"x": 1.0}, {"x": 1.0}, {"e": 1.0}]
    assert values("age(e) >= 2", rows) == [0.0, 0.0, 1.0, 0.0]


def test_a_window_counts_reports_and_not_steps():
    rows = [{"x": 1.0, "e": 1.0}, {"x": 9.0}, {"x": 9.0, "e": 3.0}, {"x": 9.0}]
    assert values("mean(e, 2) == 2", rows) == [None, None, 1.0, 1.0]
    assert values("count(e > 0) == 2", rows)[-1] == 1.0


def test_settings_are_numbers():
    rows = [{"kl": 3.0}]
    assert values("kl > 10 * $kl.target", rows, {"kl.target": 0.2}) == [1.0]
    assert values("kl > $kl.target", rows, {"kl.target": None}) == [None]
    assert parse("kl > $kl.target + $b").settings == {"kl.target", "b"}


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("kl >> 2", 5, "expected a metric"),
        ("kl > 2 &", 8, "write `and`"),
        ("kl = 2", 4, "write == to compare"),
        ("!(kl > 2)", 1, "write `not`"),
        ("kl ^ 2 > 1", 4, "multiply"),
        ("kl ** 2 > 1", 5, "multiply"),
        ("kl > 'a'", 6, "no texts"),
        ("maen(kl, 10) > 2", 1, "did you mean 'mean'?"),
        ("foo(kl, 10) > 2", 1, "there is no function 'foo': mean, min"),
        ("mean(kl, 0) > 2", 10, "1 or more"),
        ("mean(kl, 1.5) > 2", 10, "whole number"),
        ("std(kl) > 2", 1, "std needs a number of reports: std(x, 10)"),
        ("std(kl, 1) > 2", 1, "two values or more"),
        ("change(kl) > 2", 1, "needs a number of reports"),
        ("best(kl, 3) > 2", 1, "takes one argument"),
        ("best(completions/mean_length) > 2", 1, "write max(x) or min(x)"),
        ("count(kl, 3) > 2", 7, "takes a condition"),
        ("mean(kl > 1, 3) > 2", 6, "a number, not a condition"),
        ("absent(kl + 1)", 8, "takes the name of a metric"),
        ("mean(3, 2) > 1", 6, "there is none in it"),
        ("kl", 1, "a rule needs a condition"),
        ("", 1, "empty"),
        ("1 < kl < 3", 8, "write a < b and b < c"),
        ("kl > 2 3", 8, "expected the end"),
        ("(kl > 2", 8, "to close the bracket"),
        ("kl > 2 and 3", 12, "`and`, `or` join conditions"),
        ("not kl", 5, "`not` is about a condition"),
        ("(kl > 2) + 1 > 0", 2, "needs numbers on both sides"),
        ("-(kl > 2) > 0", 3, "a sign stands before a number"),
        ("kl > $", 6, "path of a setting"),
        ("mean(kl 3) > 2", 9, "at the end of mean(...)"),
        ("`kl > 2", 1, "needs the second one"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_shown_with_its_place(text: str, position: int, words: str):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert caught.value.position == position
    assert words in str(caught.value)
    if text:
        assert str(caught.value).splitlines()[-1] == " " * (4 + position - 1) + "^"


def test_a_pattern_is_replaced_by_a_metric():
    assert patterns("`rewards/*/std` == 0 and kl > `x`") == ("rewards/*/std",)
    expression = parse("`rewards/*/std` == 0", {"rewards/*/std": "rewards/a/std"})
    assert expression.names == {"rewards/a/std"}


def test_huge_numbers_break_nothing():
    rows = x(*[1e308, -1e308, 1e308, 1.7e308] * 3)
    for text in ("mean(x, 4)", "std(x, 4)", "change(x, 2)", "slope(x, 4)", "mean(x)", "x * x", "x + x", "first(x, 3)"):
        assert values(f"{text} > 0", rows)[-1] in (0.0, 1.0)


# Beside a slow evaluator ------------------------------------------------------------------------------------------------------------------

NAMES = ("a", "b/c", "eval/d")
Tree = tuple[Any, ...]


def tree(draw: random.Random, depth: int, truth: bool) -> Tree:
    """A random expression: ("op", parts ...)."""
    if truth:
        kind = draw.choice(["compare", "and", "or", "not", "finite", "absent"] if depth else ["compare", "absent"])
        if kind == "compare":
            return (draw.choice([">", ">=", "<", "<=", "==", "!="]), tree(draw, depth - 1, False), tree(draw, depth - 1, False))
        if kind in ("and", "or"):
            return (kind, tree(draw, depth - 1, True), tree(draw, depth - 1, True))
        if kind == "not":
            return ("not", tree(draw, depth - 1, True))
        return ("absent", draw.choice(NAMES)) if kind == "absent" else ("finite", tree(draw, depth - 1, False))
    if depth <= 0:
        return ("name", draw.choice(NAMES)) if draw.random() < 0.7 else ("number", draw.choice([0.0, 1.0, 2.5, 10.0]))
    kind = draw.choice(["+", "-", "*", "/", "either", "sign", "window", "window", "count", "age", "leaf"])
    if kind in ("+", "-", "*", "/", "either"):
        return (kind, tree(draw, depth - 1, False), tree(draw, depth - 1, False))
    if kind == "sign":
        return ("sign", tree(draw, depth - 1, False))
    if kind == "window":
        name = draw.choice(["mean", "min", "max", "std", "change", "slope", "first"])
        n = draw.choice([None, 1, 2, 3]) if name in ("mean", "min", "max") else draw.choice([2, 3])
        return ("window", name, n, ("+", ("name", draw.choice(NAMES)), tree(draw, depth - 2, False)))
    if kind == "count":
        return ("count", draw.choice([None, 1, 3]), (">", ("name", draw.choice(NAMES)), tree(draw, depth - 2, False)))
    return ("age", draw.choice(NAMES)) if kind == "age" else tree(draw, 0, False)


def text_of(t: Tree) -> str:
    """The expression as text, with brackets everywhere they could matter and nowhere else on purpose at random."""
    match t[0]:
        case "name":
            return t[1]
        case "number":
            return f"{t[1]:g}"
        case "sign":
            return f"-({text_of(t[1])})"
        case "not":
            return f"not ({text_of(t[1])})"
        case "absent" | "age":
            return f"{t[0]}({t[1]})"
        case "finite":
            return f"finite({text_of(t[1])})"
        case "window":
            return f"{t[1]}({text_of(t[3])}" + (f", {t[2]})" if t[2] else ")")
        case "count":
            return f"count({text_of(t[2])}" + (f", {t[1]})" if t[1] else ")")
        case "either":
            return f"either({text_of(t[1])}, {text_of(t[2])})"
    return f"({text_of(t[1])} {t[0]} {text_of(t[2])})"


def names_of(t: Tree) -> set[str]:
    if t[0] in ("name", "absent", "age"):
        return {t[1]}
    return set().union(*(names_of(part) for part in t if isinstance(part, tuple))) if t[0] != "number" else set()


def slow(t: Tree, rows: Rows, at: int) -> float | None:
    """What ``t`` says after row ``at`` (0-based), from all rows up to it."""

    def known(name: str) -> list[int]:
        return [i for i in range(at + 1) if name in rows[i]]

    match t[0]:
        case "number":
            return t[1]
        case "name":
            return rows[known(t[1])[-1]][t[1]] if known(t[1]) else None
        case "absent":
            return float(not known(t[1]))
        case "age":
            return float(at - known(t[1])[-1]) if known(t[1]) else None
        case "not" | "sign" | "finite":
            v = slow(t[1], rows, at)
            return None if v is None else {"not": 1 - v, "sign": -v, "finite": float(math.isfinite(v))}[t[0]]
        case "and" | "or":
            parts = {slow(t[1], rows, at), slow(t[2], rows, at)}
            decides = 0.0 if t[0] == "and" else 1.0
            return decides if decides in parts else None if None in parts else 1.0 - decides
        case "window" | "count":
            inner = t[-1]
            told = [slow(inner, rows, i) for i in range(at + 1) if names_of(inner) & rows[i].keys()]
            return windowed(t, [v for v in told if v is not None])
    a, b = slow(t[1], rows, at), slow(t[2], rows, at)
    if t[0] == "either":
        return b if a is None else a
    if a is None or b is None:
        return None
    if t[0] == "/":
        return a / b if b else math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    if t[0] in "+-*":
        return {"+": a + b, "-": a - b, "*": a * b}[t[0]]
    return float({">": a > b, ">=": a >= b, "<": a < b, "<=": a <= b, "==": a == b, "!=": a != b}[t[0]])


def windowed(t: Tree, told: list[float]) -> float | None:
    if t[0] == "count":
        return float(sum(told[-t[1] :] if t[1] else told))
    _, name, n, _ = t
    told = [v for v in told if math.isfinite(v)]
    size = {"change": 2 * n}.get(name, n) if n else 1
    if len(told) < size:
        return None
    last = told if n is None else told[:n] if name == "first" else told[-size:]
    match name:
        case "mean" | "first":
            return statistics.fmean(last)
        case "min" | "max":
            return min(last) if name == "min" else max(last)
        case "std":
            return statistics.stdev(last)
        case "change":
            before, after = statistics.fmean(last[:n]), statistics.fmean(last[n:])
            return slow(("/", ("number", after - before), ("number", abs(before))), [{}], 0)
    return statistics.linear_regression(range(len(last)), last).slope


def random_rows(draw: random.Random) -> list[dict[str, float]]:
    """Whole numbers, so that sums are exact; some not finite; names come and go."""
    some = [-2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0]
    rows = []
    for _ in range(12):
        row = {n: draw.choice([math.nan, math.inf, -math.inf]) if draw.random() < 0.08 else draw.choice(some) for n in NAMES}
        rows.append({n: v for n, v in row.items() if draw.random() < (0.3 if n.startswith("eval") else 0.85)})
    return rows


def close_calls(t: Tree, rows: Rows) -> bool:
    """Does a comparison hang on the last bits?"""
    if t[0] in (">", ">=", "<", "<=", "==", "!="):
        for at in range(len(rows)):
            a, b = slow(t[1], rows, at), slow(t[2], rows, at)
            if a is not None and b is not None and a != b and abs(a - b) <= 1e-9 * max(abs(a), abs(b)):
                return True
            if a == b and t[1][0] != t[2][0]:  # equal in one way of summing, perhaps not in the other
                return True
    return any(close_calls(part, rows) for part in t if isinstance(part, tuple))


@pytest.mark.parametrize("seed", range(8))
def test_random_expressions_say_what_a_slow_evaluator_says(seed: int):
    draw, compared, seen = random.Random(seed), 0, set()
    for _ in range(150):
        t, rows = tree(draw, 4, True), random_rows(draw)
        if close_calls(t, rows):
            continue
        found = values(text_of(t), rows)
        assert found == [slow(t, rows, at) for at in range(len(rows))], text_of(t)
        compared += 1
        seen |= set(found)
    assert compared > 60
    assert seen == {None, 0.0, 1.0}


WINDOWED = ("mean(x, 3)", "mean(x)", "min(x)", "max(x)", "std(x, 3)", "change(x, 2)", "slope(x, 3)", "first(x, 4)")
COUNTED = ("count(x > 2, 3)", "count(x > 2)")


@pytest.mark.parametrize("text", [*WINDOWED, *COUNTED])
def test_each_window_goes_on_from_its_state(text: str):
    """Cut anywhere, also over a memory that holds something else."""
    rows = x(5.0, 1.0, 2.0, 7.0, -3.0, 9.0, 4.0, 3.0)

    def seen(cut: int | None) -> list[float | None]:
        first, second, scope, other = parse(f"{text} > 0"), parse(f"{text} > 0"), Scope(), Scope()
        for step, row in enumerate(x(50.0, -60.0, 70.0, 80.0, 1.0, 2.0)):
            other.take(step, row)
            second.value(other)
        found = []
        for step, row in enumerate(rows):
            if step == cut:
                second.load_state(json.loads(json.dumps(first.state())))
                first = second
            scope.take(step, row)
            first.value(scope)
            found.append(first.memories[0].value())
        return found

    assert len(set(seen(None))) > 1
    assert all(seen(cut) == seen(None) for cut in range(8))


@pytest.mark.parametrize("seed", range(4))
def test_an_expression_goes_on_from_its_state(seed: int):
    """Cut anywhere: state through JSON, a new expression, the same answers."""
    draw = random.Random(f"state {seed}")
    for _ in range(40):
        text, rows, cut = text_of(tree(draw, 4, True)), random_rows(draw), draw.randrange(12)
        first, scope = parse(text), Scope()
        found = []
        for step, row in enumerate(rows, 1):
            if step == cut:
                state = json.loads(json.dumps(first.state()))
                first = parse(text)
                first.load_state(state)
            scope.take(step, row)
            found.append(first.value(scope))
        assert found == values(text, rows), text
