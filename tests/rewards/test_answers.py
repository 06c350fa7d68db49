"""What is the answer, and is it right? A table of answers with the verdict of a careful person, and properties over generated ones."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from keel.rewards.score import Score, TextReward
from keel.rewards.table import RewardConfig, text_reward

TABLE = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
LIBRARY = {"math"}


@cache
def reward(kind: str) -> TextReward:
    return text_reward(TypeAdapter(RewardConfig).validate_python({"type": kind, "name": kind}))


def columns(row: dict) -> dict:
    """What a row has beside its right answer: its options."""
    return {k: row[k] for k in ("choices",) if k in row}


@pytest.fixture(scope="module")
def verdict(prompt: Callable) -> Callable[..., Score]:
    def made(kind: str, completion: str, truth: object, **columns: object) -> Score:
        return reward(kind)(prompt(ground_truth=truth, **columns), completion)  # type: ignore[return-value]

    return made


def test_the_table_is_one() -> None:
    assert len(TABLE) >= 400
    assert {row["verifier"] for row in TABLE} == {"numeric", "math", "choice", "exact"}
    for kind, n in Counter(row["kind"] for row in TABLE).items():
        assert n >= 9, kind
    assert len({(r["verifier"], r["completion"], r["truth"]) for r in TABLE}) == len(TABLE)


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in TABLE}))
def test_answers_get_the_verdict_of_a_careful_reader(kind: str, verdict: Callable[..., Score]) -> None:
    pytest.importorskip("math_verify")
    wrong = []
    for row in TABLE:
        if row["kind"] == kind:
            found = verdict(row["verifier"], row["completion"], row["truth"], **columns(row))
            if found != row["verdict"]:
                wrong.append((row["verifier"], row["completion"], row["truth"], float(found), found.reason or found.error))
    assert not wrong


def test_no_verdict_depends_on_thoughts_space_or_bold_type(verdict: Callable[..., Score]) -> None:
    """Thoughts in front, white space around, and for numbers bold type and a full stop, change no verdict of the table."""
    pytest.importorskip("math_verify")
    thoughts = (
        "<think>The answer is 7 or B? \\boxed{9}</think>\n",
        "<reasoning>#### 3</reasoning>",
        "[THINK]B[/THINK]",
        "so A\n</think>\n\n",
    )
    for i, row in enumerate(TABLE):
        if "think" in row["kind"] or (row["verifier"] == "math" and i % 4):  # the library takes its time
            continue
        text = row["completion"]
        variants = [thoughts[i // 4 % 4] + text, f"\n\n  {text} \n"]
        if text and len(text) < 12 and row["verifier"] != "exact" and text[-1:].isalnum() and "\n" not in text:
            variants += [f"**{text}**", f"{text}."]
        for variant in variants:
            found = verdict(row["verifier"], variant, row["truth"], **columns(row))
            assert found == row["verdict"], (variant, row, found.reason, found.error)


# --- ways to write a value -----------------------------------------------------------------------------------------------------------

WHOLE = (0, 3, -7, 12, 105, 350, 1000, 2024, -45600, 1_000_000, 9_007_199_254_740_993, 10**21)


def chinese(n: int) -> str:
    """A numeral below 10^12 by the rules of the language, written for the tests alone."""
    digits, units, groups = "零一二三四五六七八九", ["", "十", "百", "千"], ["", "万", "亿", "万亿"]
    if n < 0:
        return "负" + chinese(-n)
    if n == 0:
        return "零"
    said, before = "", False
    for g in range(3, -1, -1):
        part = n // 10 ** (4 * g) % 10_000
        if part:
            inner, gap = "", bool(said) and (part < 1000 or before)
            for u in range(3, -1, -1):
                d = part // 10**u % 10
                if d:
                    inner += ("零" if gap else "") + digits[d] + units[u]
                    gap = False
                elif inner:
                    gap = True
            said += inner + groups[g]
            before = part % 10 == 0
    return said


def whole_ways(n: int) -> Iterator[str]:
    yield from (f"{n}", f"{n:,}", f"{n:,}".replace(",", "{,}"), f"{n:,}".replace(",", r"\,"), f"{n:,}".replace(",", " "), f"{n}.0")
    yield f"{n}".translate(str.maketrans("0123456789-", "０１２３４５６７８９－"))
    yield from (rf"\text{{{n}}}", rf"{n} \text{{ apples}}", f"{n}个", rf"\frac{{{2 * n}}}{{2}}", f"{3 * n}/3", f"x = {n}", f"({n})")
    if n and n % 1000 == 0:
        yield from (f"{n // 1000}e3", rf"{n // 1000} \times 10^{{3}}", f"{n // 1000}×10³", f"{n // 1000} thousand")
    if 0 < n < 10**12:
        yield chinese(n)


def part_ways(value: Fraction) -> Iterator[str]:
    top, bottom = value.numerator, value.denominator
    yield from (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{top * 3}}}{{{bottom * 3}}}", f"{float(value)!r}")
    yield from (
        f"{float(value * 100)!r}%",
        rf"{float(value * 100)!r}\%",
        f"{float(value)!r}".translate(str.maketrans("0123456789.", "０１２３４５６７８９．")),
    )
    if value > 1:
        yield from (f"{top // bottom} {top % bottom}/{bottom}", rf"{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}")
    if 0 < value < 1:
        yield f"{chinese(bottom)}分之{chinese(top)}"


PARTS = tuple(Fraction(*f) for f in ((1, 2), (3, 4), (-5, 8), (7, 2), (13, 5), (9, 40)))
SENTENCES = (
    r"\boxed{{{}}}",
    "The answer is {}.",
    "So we get 17 of 19.\n**Answer:** {}",
    "#### {}",
    "<answer>{}</answer>",
    "答案是{}。",
    "<think>\\boxed{{5}}</think>\n{}",
)


def test_a_value_is_right_in_whatever_way_it_is_written_and_no_other_is(verdict: Callable[..., Score]) -> None:
    values = [(Fraction(n), list(whole_ways(n))) for n in WHOLE] + [(f, list(part_ways(f))) for f in PARTS]
    for k, (value, ways) in enumerate(values):
        other_value, other_ways = values[(k + 1) % len(values)]
        truth = str(value)
        for i, way in enumerate(ways):
            sentence = SENTENCES[i % len(SENTENCES)]
            for kind in ("numeric", "math"):
                found = verdict(kind, sentence.format(way), truth)
                assert found == 1.0, (kind, sentence.format(way), truth, found.reason, found.error)
        for i, way in enumerate(other_ways):
            assert verdict("numeric", SENTENCES[i % len(SENTENCES)].format(way), truth) == 0.0, (way, truth, str(other_value))


def test_neighbours_are_never_the_same(verdict: Callable[..., Score]) -> None:
    for n in (*WHOLE, 12345678, 2**63):
        for near in (n - 1, n + 1, -n or 2, 10 * n or 2):
            for way in itertools.islice(whole_ways(near), 6):
                for kind in ("numeric", "math"):
                    assert verdict(kind, rf"\boxed{{{way}}}", n) == 0.0, (n, way)
                    assert verdict(kind, f"The answer is {way}", str(n)) == 0.0, (n, way)


HEDGES = (
    "The answer is {a} or {b}.",
    "{a} or {b}",
    "The answer is either {a} or {b}.",
    "The answer is {a} (or maybe {b}).",
    "The answer is {a}. Or maybe {b}.",
    r"\boxed{{{a}}} \boxed{{{b}}}",
    r"\boxed{{{a}}} or {b}",
    r"\boxed{{{a}, {b}}}",
    r"\boxed{{{a} \text{{ or }} {b}}}",
    "The answer is {a}. The answer is {b}.",
    "#### {a}\n#### {b}",
    "The answer is {a}, perhaps {b}.",
    "答案是{a}或{b}。",
    "答案是{a}，也可能是{b}。",
    "要么{a}，要么{b}",
    "The answer is {a}/{b} or {b}",
    "<answer>{a}</answer><answer>{b}</answer>",
    "The answer is {a}, {b}.",
    "The answer is {a} and {b}.",
    "The answer is {a}, but {b} is also possible.",
)


@pytest.mark.parametrize("hedge", HEDGES)
def test_a_right_answer_in_a_hedge_is_wrong(hedge: str, verdict: Callable[..., Score]) -> None:
    for a, b in ((42, 43), (7, 12), (-3, 3), ("1/2", "1/3")):
        for kind, truth in itertools.product(("numeric", "math"), (a, b)):
            found = verdict(kind, hedge.format(a=a, b=b), str(truth))
            assert found == 0.0, (kind, hedge.format(a=a, b=b), truth, found.reason)


OPTION_HEDGES = (
    "{a} or {b}",
    "The answer is {a} or {b}.",
    "The answer is ({a}) or ({b})",
    "{a}, {b}",
    "Answer: {a} or maybe {b}",
    "答案是{a}或{b}",
    "The answer is {a}. The answer is {b}.",
    r"\boxed{{{a}}}, \boxed{{{b}}}",
    "选{a}，也可能选{b}",
    "{a}/{b}",
)


@pytest.mark.parametrize("hedge", OPTION_HEDGES)
def test_a_right_option_in_a_hedge_is_wrong(hedge: str, verdict: Callable[..., Score]) -> None:
    for a, b in itertools.permutations("ABCD", 2):
        assert verdict("choice", hedge.format(a=a, b=b), a, choices=["red", "green", "dark green", "blue"]) == 0.0
        assert verdict("choice", hedge.format(a=a, b=b), b) == 0.0


NAMED = (
    "{}",
    "({})",
    "{}.",
    "**{}**",
    "Answer: {}",
    "The answer is ({}).",
    "答案是{}",
    "选{}",
    r"\boxed{{{}}}",
    "{}) because the others fail",
    "The correct answer is option {}, since it fits.",
    "I choose {}.",
    "故选{}。",
    "It isn't Z but {}",
    "Final answer: {}",
)


@pytest.mark.parametrize("said", NAMED)
def test_an_option_is_right_however_it_is_named(said: str, verdict: Callable[..., Score]) -> None:
    for a, b in itertools.permutations("ABCD", 2):
        assert verdict("choice", said.format(a), a) == 1.0
        assert verdict("choice", said.format(a), b) == 0.0


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1,",
        "12 ",
        "or ",
        "5 or ",
        "1/",
        "$5 ",
        "(",
        "A, ",
        "B or ",
        "the answer is 5. ",
        "**a",
        "一",
        "<answer>5",
        "x=",
        "answer (",
        "A and ",
        "the answer is 5. no, ",
        "A. wait, no, ",
        "1.1",
        "]1,",
        "|A",
    ],
)
def test_long_texts_are_read_in_a_moment(piece: str, verdict: Callable[..., Score]) -> None:
    """Patterns that go back and forth would take minutes over these."""
    for kind, truth in (("numeric", "42"), ("choice", "D")):
        assert verdict(kind, piece * (20_000 // len(piece)), truth) == 0.0


def test_an_answer_stands_at_the_end_of_however_long_a_text(verdict: Callable[..., Score]) -> None:
    long = "We add 3 and 4 and think on.\n" * 2000
    for kind, truth in (("numeric", "42"), ("math", "42"), ("choice", "B")):
        assert verdict(kind, f"{long}The answer is{' ' * 300}{truth}.{' ' * 300}", truth) == 1.0
