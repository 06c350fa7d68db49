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
