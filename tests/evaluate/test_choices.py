"""Multiple choice by log-probability: layouts, ties, rates, what was lost; the verdicts on what was forgotten. By hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from keel.core.errors import DataError
from keel.evaluate.choices import Chosen, Item, gained, read_items, table
from keel.evaluate.retained import report, state, task_loss, text_loss
from keel.evaluate.statistics import wilson
from keel.types import Message


def chosen(name: str, *logprobs: float, lengths: tuple[int, ...] = (), best: int = 0, category: str = "a") -> Chosen:
    item = Item(name, (Message("user", f"{name}?"),), tuple("x" * len(logprobs)), frozenset({best}), category)
    return Chosen(item, logprobs, lengths or (1,) * len(logprobs))


def test_the_greater_log_probability_is_preferred_and_a_tie_is_a_share() -> None:
    assert chosen("a", -1.0, -2.0).right() == 1.0
    assert chosen("a", -2.0, -1.0).right() == 0.0
    assert chosen("a", -1.0, -1.0, -1.0).right() == pytest.approx(1 / 3)
    longer = chosen("a", -4.0, -3.0, lengths=(8, 2))
    assert (longer.right(), longer.right(by_length=True)) == (0.0, 1.0)
    assert longer.margin == -1.0


def test_rates_by_category() -> None:
    found = table([chosen("a", -1, -2), chosen("b", -2, -1), chosen("c", -1, -2, category="b")])
    assert found["accuracy"] == wilson(2, 3).to_json()
    assert found["by_category"]["a"]["accuracy"]["mean"] == 0.5
    assert found["by_category"]["b"]["accuracy"]["n"] == 1
    assert "by_language" not in found


def test_every_layout_reads_the_same(tmp_path: Path) -> None:
    own = {"prompt": "Q?", "choices": ["good", "bad"], "best": 0, "category": "honest"}
    hub = {"input": "Q?", "targets": {"choices": ["good", "bad"], "labels": [1, 0]}}
    task = {"name": "honest", "examples": [{"input": "Q?", "target_scores": {"good": 1, "bad": 0}}]}
    bench = {"inputs": "Q?", "multiple_choice_targets": ["good", "bad"], "multiple_choice_scores": [1, 0]}
    for name, row in (("own.jsonl", own), ("honest/test.jsonl", hub), ("honest/task.json", task), ("honest.jsonl", bench)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps([row] if name.endswith(".json") else row))
        (item,) = read_items([str(tmp_path / name)])
        assert (item.turns[-1].text, item.choices, item.best, item.category) == ("Q?", ("good", "bad"), frozenset({0}), "honest")


def test_a_dialogue_is_turns(tmp_path: Path) -> None:
    row = {"input": "Hi\n\nAssistant: Hello.\n\nHuman: Bye?", "targets": {"choices": ["a", "b"], "labels": [0, 1]}}
    (tmp_path / "harmless.jsonl").write_text(json.dumps(row))
    (item,) = read_items([str(tmp_path / "harmless.jsonl")])
    assert [(m.role, m.text) for m in item.turns] == [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye?")]
    assert item.best == frozenset({1})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "Q?", "choices": ["a"], "best": 0}, "one of the choices must be better"),
        ({"prompt": "Q?", "choices": ["a", "b"], "best": 2}, "one of the choices must be better"),
        ({"prompt": "Q?", "choices": ["a", "b"]}, "no question with choices"),
        ({"question": "Q?"}, "no question with choices"),
    ],
)
def test_a_row_that_is_no_item_is_named(tmp_path: Path, row: object, why: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=rf"x\.jsonl:1: {why}"):
        read_items([str(tmp_path / "x.jsonl")])


def test_the_own_set_is_balanced_in_both_languages() -> None:
    items = read_items(["package:keel/evaluate/hhh/en.jsonl", "package:keel/evaluate/hhh/zh.jsonl"])
    for language in ("en", "zh"):
        of = [i for i in items if i.language == language]
        assert {c: sum(i.category == c for i in of) for c in ("helpful", "honest", "harmless")} == dict.fromkeys(
            ("helpful", "honest", "harmless"), 8
        )
        assert sum(0 in i.best for i in of) == len(of) // 2  # the place tells nothing


def test_what_was_lost_is_paired_by_item_and_named() -> None:
    before = [chosen("a", -1, -2), chosen("b", -1, -2), chosen("c", -2, -1), chosen("gone", -1, -2)]
    after = [chosen("a", -1, -2), chosen("b", -3, -2), chosen("c", -2, -1)]
    found = gained(before, after)
    assert found["accuracy"] == [2 / 3, 1 / 3]
    assert found["gain"]["mean"] == pytest.approx(-1 / 3)
    assert [(q["id"], q["question"], q["margin"]) for q in found["lost"]] == [("b", "b?", [1, -1])]


def test_nothing_changed_in_three_items_is_no_certainty() -> None:
    same = [chosen(n, -1, -2) for n in "abc"]
    gain = gained(same, same)["gain"]
    assert gain["mean"] == 0.0
    assert gain["high"] == -gain["low"] == pytest.approx(wilson(0, 3).high)
    assert task_loss(same, same, tolerance=0.02)["state"] == "cannot_tell"


def test_a_loss_on_text_by_hand() -> None:
    """Two passages of 10 and 30 tokens that lost 1 and 3 nats: 0.1 a token, without spread."""
    found = text_loss({"a": 20.0, "b": 60.0, "x": 1.0}, {"a": 21.0, "b": 63.0}, {"a": 10, "b": 30}, tolerance=0.05)
    assert found["nll"] == [2.0, 2.1]
    assert found["perplexity"] == [math.exp(2.0), math.exp(2.1)]
    assert found["loss"] == {"mean": 0.1, "low": 0.1, "high": 0.1, "n": 2}
    assert (found["state"], found["tokens"]) == ("forgotten", 40)
    assert state({"low": 0.0, "high": 0.04}, 0.05) == "kept"
    assert state({"low": 0.0, "high": 0.06}, 0.05) == "cannot_tell"


def test_the_report_tells_what_was_forgotten_first() -> None:
    def part(mean: float, verdict: str) -> dict[str, object]:
        return {"loss": {"mean": mean}, "state": verdict}

    parts = {"k": part(0.0, "kept"), "f": part(0.2, "forgotten"), "g": part(0.5, "forgotten"), "c": part(0.1, "cannot_tell")}
    found = report(parts)
    assert list(found["parts"]) == ["g", "f", "c", "k"]
    assert (found["forgotten"], found["cannot_tell"], found["kept"]) == (["g", "f"], ["c"], ["k"])
