"""Measures of data against hand-computed numbers, and of the machine."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from advice_rows import pair, question, votes

from keel.advise.checkable import checkable, kind_of
from keel.advise.coverage import coverage, near_duplicates, topics
from keel.advise.labels import flip_rate, length_bias, preferences
from keel.advise.measure import measure
from keel.data.dataset import read
from keel.models.config import ModelOptions
from keel.plan.machine import free_memory, matmul_rate, measure_machine
from keel.types import Message, Pair, Prompt


def prompt(text: str) -> Prompt:
    return Prompt(text, (Message("user", text),))


@pytest.mark.parametrize("e", [0.0, 0.1, 0.25])
def test_flip_rate_is_what_made_the_disagreement(e: float) -> None:
    agree = (1 - e) ** 2 + e**2
    n = 800
    units = [[1.0, 1.0]] * round(n * agree) + [[1.0, 0.0]] * round(n * (1 - agree))
    assert flip_rate(units) == pytest.approx(e, abs=1e-9)


def test_flip_rate_of_votes_and_ties() -> None:
    assert flip_rate([[1.0], [0.5, 0.5]]) is None
    assert flip_rate([[1.0, 0.0]]) == 0.5
    # three votes, two against one: one of three pairs of votes agrees
    assert flip_rate([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]) == pytest.approx((1 - math.sqrt(2 * (4 / 3) / 2 - 1)) / 2)
    # one pair that contradicts itself among 99 judged once: (0 + 19.8) / 20.8 agree
    assert flip_rate([[1.0, 0.0]], 99) == pytest.approx((1 - math.sqrt(2 * 19.8 / 20.8 - 1)) / 2)


def test_preferences_by_hand(write: Callable[..., str]) -> None:
    rows = [*votes(0, ["first", "first"]), *votes(1, ["first", "second"]), *votes(2, ["tie", "tie"]), *votes(3, ["second", "second"])]
    found = preferences(read(write(rows)).records, "x")
    assert (found["pairs"], found["votes_per_pair"], found["judged_twice"]) == (4, 2.0, 4)
    assert found["ties"] == 0.5  # an even vote is none the better
    assert found["strength"] == 0.5
    assert found["deterministic"] == 0.5
    assert found["noise"] == pytest.approx((1 - math.sqrt(2 * 2 / 3 - 1)) / 2)


def test_rows_that_contradict_each_other_are_votes(write: Callable[..., str]) -> None:
    row = pair(0)
    turned = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    found = preferences(read(write([row, turned, pair(1)])).records, "x")
    assert (found["pairs"], found["judged_twice"], found["contradictions"]) == (2, 1, 1)
    assert found["strength"] == 0.5


def test_length_bias_by_hand() -> None:
    def made(i: int, better: str, worse: str, label: float = 1.0) -> Pair:
        return Pair(str(i), prompt(str(i)), (Message("assistant", better),), (Message("assistant", worse),), label=label)

    found = length_bias([made(0, "a b c", "a"), made(1, "a b c", "b"), made(2, "a", "b c d"), made(3, "a", "b"), made(4, "a b", "a", 0.5)])
    assert found is not None
    assert found["longer_wins"]["mean"] == pytest.approx(2 / 3)
    assert found["longer_wins"]["n"] == 3
    assert found["ratio"] == pytest.approx(math.exp((math.log(4 / 2) * 2 + math.log(2 / 4) + 0) / 4))
    assert length_bias([made(0, "a", "b")]) is None


def test_coverage() -> None:
    texts = [
        "How do I wash a down jacket at home?",
        "how do I wash a down jacket at home",
        "How do I wash a down jacket at home now?",
        "帐篷防水吗",
    ]
    found = coverage([prompt(t) for t in texts])
    assert (found["prompts"], found["distinct"], found["distinct_wording"]) == (4, 4, 3)
    assert found["near_duplicates"] == 1
    assert found["languages"] == {"en": 2, "zh": 1}


def test_near_duplicates_are_near() -> None:
    base = "the quick brown fox jumps over the lazy dog and runs away into the deep dark forest"
    assert near_duplicates([base, base + "!"]) == 1
    assert near_duplicates([base, "an entirely different question about the price of tea in some other place"]) == 0
    assert near_duplicates(["", ""]) == 0


def test_topics_leave_out_what_stands_everywhere() -> None:
    found = topics([f"please tell me about {w}" for w in ("tents", "tents", "ropes", "ropes", "ropes", "stoves")] + ["hello there"] * 2)
    assert found == {"ropes": 3, "hello": 2, "tents": 2, "there": 2}


@pytest.mark.parametrize(
    ("meta", "kind"),
    [
        ({"ground_truth": "1,234.5"}, "numeric"),
        ({"ground_truth": 7}, "numeric"),
        ({"ground_truth": "(C)"}, "choice"),
        ({"ground_truth": "x^2 + 1"}, "math"),
        ({"ground_truth": "a long text that nobody could compare word by word with another"}, ""),
        ({"tests": ["assert f(1) == 2"]}, "code"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "ifeval"),
        ({"schema": {"type": "object"}}, "json_schema"),
        ({}, ""),
    ],
)
def test_which_verifier(meta: dict, kind: str) -> None:
    assert kind_of(meta) == kind


@pytest.mark.parametrize(
    ("truths", "kind"),
    [(["7", 8], "numeric"), (["1/2", "0.5"], "math"), (["A", "B"], "choice"), (["7", "a cat"], ""), ([], ""), ([["7"]], ""), ([None], "")],
)
def test_accepted_answers_are_checkable_by_one_verifier(truths: list, kind: str) -> None:
    assert kind_of({"ground_truth": truths}) == kind


def test_half_of_the_prompts_must_be_checkable() -> None:
    some = [Prompt(str(i), (Message("user", "?"),), meta={"ground_truth": "1"} if i < 3 else {}) for i in range(8)]
    assert checkable(some) is None
    found = checkable(some[:6])
    assert found is not None
    assert (found.verifier, found.share) == ("numeric", 0.5)


def test_measures_of_a_file(write: Callable[..., str]) -> None:
    m = measure(read(write([pair(i) for i in range(10)] + [pair(0)])))
    assert m.kinds == {"pair": 11}
    assert m.other["duplicates"] == 1
    assert m.preferences["pairs"] == 10
    assert m.coverage["distinct"] == 10
    assert question(0) == read(write([pair(0)])).prompts()[0].last_user_text


def test_machine() -> None:
    m = measure_machine(ModelOptions(device="cpu", precision="fp32"))
    assert m.compute == "float32"
    assert m.bytes_per_value == 4
    assert m.memory == pytest.approx(free_memory(), rel=0.5)
    assert min(m.wide, m.narrow) > 0


def test_matmul_rate_counts_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("keel.plan.machine.time.perf_counter", lambda: float(next(ticks)))  # every product takes a second
    assert matmul_rate(3, 5, torch.float32, torch.device("cpu")) == 2 * 3 * 5 * 5
