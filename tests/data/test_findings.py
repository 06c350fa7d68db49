"""Duplicates and contradictions, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.data.config import DataConfig
from keel.data.dataset import load
from keel.data.findings import Findings, find


def found(tmp_path: Path, *rows: dict[str, Any], **config: Any) -> Findings:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return find(load(DataConfig(path=str(path), **config)).records)


def pair(prompt: Any, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_pairs_in_both_orders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    as_chat = [{"role": "user", "content": "q"}]
    rows = [
        pair("q", "a", "b", prompt_id="1"),
        pair("other", "a", "b"),
        pair(as_chat, "b", "a", prompt_id="2"),  # contradicts the first, whatever the id
        pair("q", "b", "a"),  # a duplicate of the third: the contradiction counts once
        pair("q", "a", "b", label=0.2),  # says that b is better: a duplicate of the third too
        pair("q", "a", "b", label=0.5),
        pair("q", "b", "a", tie=True),  # a duplicate of the tie before
        pair("q", "a", "c"),
    ]
    with caplog.at_level("WARNING", logger="keel"):
        result = found(tmp_path, *rows)
    assert (result.duplicates, result.contradictions) == (3, 1)
    assert (result.duplicate.count("a.jsonl:4"), result.duplicate.count("a.jsonl:3")) == (1, 1)
    assert (result.contradiction.count("a.jsonl:3"), result.contradiction.count("a.jsonl:1")) == (1, 1)
    assert "3 exact duplicates (first: " in caplog.text
    assert "1 contradictions (first: " in caplog.text


def test_annotators_may_disagree_but_not_with_themselves(tmp_path: Path) -> None:
    def vote(who: str, outcome: str, candidates: tuple[str, str] = ("x", "y")) -> dict[str, Any]:
        return {"prompt": "q", "candidates": candidates, "outcome": outcome, "annotator_id": who}

    rows = [vote("ann", "first"), vote("bob", "second"), vote("ann", "second", ("y", "x")), vote("bob", "first"), vote("bob", "tie")]
    result = found(tmp_path, *rows)
    assert (result.duplicates, result.contradictions) == (1, 1)


def test_rows_that_only_know_where_their_prompt_came_from_are_named_by_id(tmp_path: Path) -> None:
    result = found(tmp_path, *(pair("q", *order, id=name, prompt_source_id="p.jsonl:7") for order, name in (("ab", "one"), ("ba", "two"))))
    assert result.contradiction == "p.jsonl:7: two contradicts one"


def test_other_labels(tmp_path: Path) -> None:
    answers = [{"prompt": "q", "completion": c, "label": label} for c, label in (("a", True), ("a", False), ("b", True), ("b", True))]
    assert (found(tmp_path, *answers).duplicates, found(tmp_path, *answers).contradictions) == (1, 1)
    shown = [{"prompt": "q", "completion": c} for c in "aab"]
    assert (found(tmp_path, *shown).duplicates, found(tmp_path, *shown).contradictions) == (1, 0)
    rated = [{"prompt": "q", "answer": "a", "rating": r} for r in (1, 2, 1)]
    assert found(tmp_path, *rated).duplicates == 1
    ranked = [{"prompt": "q", "answers": a, "ranks": r} for a, r in ((["a", "b"], [1, 2]), (["b", "a"], [2, 1]), (["a", "b"], [2, 1]))]
    assert found(tmp_path, *ranked).duplicates == 1
    steps = [{"prompt": "q", "completions": ["a", "b"], "labels": [True, x]} for x in (True, False, True)]
    assert found(tmp_path, *steps).duplicates == 1
    assert found(tmp_path, *({"prompt": p} for p in "pqp")).duplicates == 1
    assert str(found(tmp_path, *({"prompt": p} for p in "pq"))) == ""


def test_other_judgements_of_one_thing_are_contradictions(tmp_path: Path) -> None:
    def rated(rating: float, answer: str = "a") -> dict[str, Any]:
        return {"prompt": "q", "answer": answer, "rating": rating}

    assert found(tmp_path, rated(1), rated(2), rated(1), rated(5, "b")).contradictions == 1
    ranked = [{"prompt": "q", "answers": a, "ranks": r} for a, r in ((["a", "b"], [1, 2]), (["b", "a"], [1, 2]), (["a", "c"], [1, 2]))]
    assert found(tmp_path, *ranked).contradictions == 1
    steps = [{"prompt": "q", "completions": ["a", "b"], "labels": [True, x]} for x in (True, False)]
    assert found(tmp_path, *steps).contradictions == 1
    other = [{"prompt": "q", "answer": "a", "scores": {name: 1}} for name in ("kind", "clear")]
    assert found(tmp_path, *other).contradictions == 0, "of other things"


@pytest.mark.parametrize("column", ["answer", "ground_truth", "solution", "tests", "test_cases", "expected_output"])
def test_one_question_with_two_right_answers(tmp_path: Path, column: str) -> None:
    rows = [{"prompt": "How many?", column: value} for value in ("1", "2", "1")]
    result = found(tmp_path, *rows)
    assert (result.duplicates, result.contradictions) == (1, 1)
    assert "a.jsonl:2 contradicts" in result.contradiction
    assert "is '2' here and '1' there" in result.contradiction
    data = load(DataConfig(path=str(tmp_path / "a.jsonl")))
    prompts = data.prompts()
    assert len({p.prompt_id for p in prompts}) == len(prompts) == 2, "no right answer leaves the data"
    assert prompts[0].prompt_id == data.records[0].prompt_id  # type: ignore[union-attr]
    assert [p.meta[column] for p in prompts] == ["1", "2"]


def test_worked_answers_with_other_results_contradict_and_others_do_not(tmp_path: Path) -> None:
    def worked(answer: str) -> dict[str, Any]:
        return {"question": "How many?", "answer": answer}

    assert found(tmp_path, worked("1 + 1\n#### 2"), worked("so 2\n#### 2")).contradictions == 0
    assert len(load(DataConfig(path=str(tmp_path / "a.jsonl"))).prompts()) == 1
    assert found(tmp_path, worked("1 + 1\n#### 2"), worked("so 3\n#### 3")).contradictions == 1
    assert [p.meta["ground_truth"] for p in load(DataConfig(path=str(tmp_path / "a.jsonl"))).prompts()] == ["2", "3"]


def test_prompts_with_other_columns_are_no_contradiction_and_stay(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "answer": "1", "level": level} for level in ("easy", "hard")]
    assert str(found(tmp_path, *rows)) == ""
    assert len(load(DataConfig(path=str(tmp_path / "a.jsonl"))).prompts()) == 2
    pairs = [pair("q", "a", b, source=b) for b in "bc"]
    found(tmp_path, *pairs)
    assert len(load(DataConfig(path=str(tmp_path / "a.jsonl"))).prompts()) == 1, "columns of pairs are not the prompt's"


@pytest.mark.parametrize("cell", ["NaN", "Infinity"])
def test_an_empty_cell_is_no_right_answer(tmp_path: Path, cell: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"prompt": "q", "answer": "1"}}\n{{"prompt": "r", "answer": {cell}}}\n')
    data = load(DataConfig(path=str(tmp_path / "a.jsonl")))
    assert (len(data), len(data.bad)) == (1, 1)
    assert "an empty cell?" in str(data.bad[0])
