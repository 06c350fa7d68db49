"""The win rate behind a judge's errors."""

from __future__ import annotations

import random

import pytest

from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.judge_scorer import behind_errors, judge_answers, summary, with_judge
from keel.evaluate.statistics import win_rate
from keel.judges.config import ScriptedConfig
from keel.judges.scripted import ScriptedJudge
from keel.types import Message, Prompt

HOW = {"draws": 1000, "level": 0.95, "seed": 0}


def agreement(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def test_by_hand():
    """A judge that is right in 80% sees 0.62 where the truth is 0.7: 0.8 * 0.7 + 0.2 * 0.3."""
    shares = {str(k): float(k < 62) for k in range(100)}
    found = behind_errors(shares, agreement(0.8, 0.0), 0.95, **HOW)
    assert found.mean == pytest.approx(0.7)
    seen = win_rate(shares, level=0.95)
    assert found.high - found.low == pytest.approx((seen.high - seen.low) / 0.6, rel=0.1)  # stretched by 1 / (2 a - 1)
    assert behind_errors({str(k): 0.5 for k in range(50)}, agreement(0.8, 0.05), 0.95, **HOW).mean == 0.5


def test_what_is_not_known_of_the_judge_widens_the_interval():
    shares = {str(k): float(k % 10 < 7) for k in range(200)}
    sure, unsure = (behind_errors(shares, agreement(0.85, half), 0.95, **HOW) for half in (0.001, 0.1))
    assert unsure.high - unsure.low > 1.3 * (sure.high - sure.low)
    all_won = behind_errors({str(k): 1.0 for k in range(8)}, agreement(0.9, 0.02), 0.95, **HOW)
    assert all_won.high == 1.0
    assert all_won.low < 0.75  # eight prompts are no certainty


def test_coverage():
    """Truth 0.65, a judge right in 80%, which a report of 300 pairs measured: 95% intervals hold the truth in 9 of 10 at least."""
    rng = random.Random(1)
    held = 0
    for seed in range(60):
        right = [rng.random() < 0.8 for _ in range(300)]
        a = sum(right) / 300
        half = 1.96 * (a * (1 - a) / 300) ** 0.5
        shares = {str(k): float((rng.random() < 0.65) == (rng.random() < 0.8)) for k in range(150)}
        found = behind_errors(shares, agreement(a, half), 0.95, draws=400, level=0.95, seed=seed)
        held += found.low <= 0.65 <= found.high
    assert held >= 51  # of 60; a coin of 0.95 stays below once in 1,000


def test_answers_are_compared_in_both_orders():
    judge = ScriptedJudge("fake", ScriptedConfig(position=0.05, price=0.5))
    prompts = [Prompt(str(k), (Message("user", f"q{k}"),)) for k in range(4)]
    rows = [
        (prompts[0], ["a"], ["a b c"]),
        (prompts[1], ["a b c", "a"], ["a", "a b c"]),
        (prompts[2], [None], ["x"]),
        (prompts[3], ["a"], ["b"]),
    ]
    judged = judge_answers(judge, rows)
    assert judged.shares == {"0": 1.0, "1": 0.5, "3": 0.5}  # equal ones are a tie: the place cancels
    assert (judged.pairs, judged.failures, judged.cost) == (4, 0, 4.0)


def test_each_answer_keeps_what_the_judge_said_of_it():
    """By its number among the answers: one whose pair failed has no score, and takes nobody else's."""
    before, after = ("one", None, "three", "four"), ("one", "two", "x", "four five six seven")
    wins = judge_answers(ScriptedJudge("j", ScriptedConfig(noise=0.0)), [(Prompt("p", (Message("user", "q"),)), before, after)])
    shares = wins.by_number["p"]
    assert set(shares) == {0, 2, 3}
    assert wins.shares["p"] == sum(shares.values()) / 3
    sides = [tuple(Answer(text or "", rules={"r": 1.0}) for text in side) for side in (before, after)]
    (row,) = with_judge([PromptAnswers("p", "p", *sides)], wins)
    assert [a.score("judge") for a in row.after] == [shares[0], None, shares[2], shares[3]]
    assert [a.score("judge") for a in row.before] == [1 - shares[0], None, 1 - shares[2], 1 - shares[3]]
    assert row.after[0].score("r") == 1.0
    other = PromptAnswers("q", "q", *sides)
    assert with_judge([other], wins) == [other] == with_judge([other], None)


def test_summary_says_what_it_carries():
    judge = ScriptedJudge("fake", ScriptedConfig())
    rows = [(Prompt(str(k), text="q"), ["a"], ["a b c" if k % 4 else ""]) for k in range(40)]
    judged = judge_answers(judge, rows)
    bare = summary(judged, None, **HOW)
    assert bare["error_carried"] is False
    assert bare["mean"] == 0.75
    report = {"measures": {"agreement_decided": agreement(0.9, 0.03)}, "settings": {"level": 0.95}}
    whole = summary(judged, report, **HOW)
    assert whole["error_carried"] is True
    assert whole["mean"] == pytest.approx(0.5 + 0.25 / 0.8)
    assert whole["as_judged"]["mean"] == 0.75
    assert whole["high"] - whole["low"] > bare["high"] - bare["low"]
    coin = {"measures": {"agreement_decided": agreement(0.51, 0.03)}, "settings": {"level": 0.95}}
    assert summary(judged, coin, **HOW)["error_carried"] is False  # nothing can be told behind a coin
    broken = judge_answers(ScriptedJudge("fake", ScriptedConfig(fails=1.0)), rows)
    assert summary(broken, None, **HOW) == {"pairs": 40, "failures": 40, "cost": 0.0, "error_carried": False}
