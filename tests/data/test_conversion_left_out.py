"""Every record is in what a conversion makes, or is named with a reason."""

from __future__ import annotations

import json

import pytest

from keel.data.config import ConversionConfig, DataConfig
from keel.data.dataset import load
from keel.verbs.shared.account import Account

RATINGS = [{"prompt": "a?", "answer": x, "rating": n} for x, n in (("one", 3), ("two", 3), ("three", 1))] + [
    {"prompt": "b?", "answer": x, "rating": 2} for x in ("four", "five")
]
VOTES = [
    {"prompt": "a?", "candidates": ["x", "y"], "outcome": "first", "annotator_id": "1"},
    {"prompt": "a?", "candidates": ["x", "y"], "outcome": "second", "annotator_id": "2"},
    {"prompt": "a?", "candidates": ["x", "z"], "outcome": "first", "annotator_id": "1"},
]
RANKING = [{"prompt": "a?", "answers": ["x", "y"], "ranks": [1, 1]}, {"prompt": "a?", "answers": ["x", "z"], "ranks": [1, 2]}]
PAIRS = [
    {"prompt": "a?", "chosen": "x", "rejected": "y"},
    {"prompt": "b?", "chosen": "v", "rejected": "w"},
    {"prompt": "b?", "chosen": "w", "rejected": "v"},
]
LABELS = [{"prompt": "a?", "completion": "x", "label": True}, {"prompt": "a?", "completion": "y", "label": False}]


@pytest.mark.parametrize(
    ("rows", "settings", "lines"),
    [
        (RATINGS, {"to": "pairs"}, [4, 5]),
        (RATINGS, {"to": "pairs", "min_gap": 2}, [1, 2, 3, 4, 5]),
        (RATINGS, {"to": "pairs", "ties": "keep"}, []),
        (RATINGS, {"to": "unpaired"}, [4, 5]),
        (RATINGS, {"to": "demonstrations"}, [3, 4, 5]),
        (VOTES, {"to": "pairs"}, [1, 2]),
        (VOTES, {"to": "pairs", "ties": "keep"}, []),
        (RANKING, {"to": "pairs"}, [1]),
        (PAIRS, {"to": "unpaired"}, [2, 3]),
        (PAIRS, {"to": "demonstrations"}, [2, 3]),
        (LABELS, {"to": "demonstrations"}, [2]),
        (VOTES, {"to": "prompts"}, []),
    ],
)
def test_what_a_conversion_leaves_out_is_named(tmp_path, rows, settings, lines):
    file = tmp_path / "rows.jsonl"
    extra = [{"prompt": "z?", "answer": "yes", "rating": 9}, {"prompt": "z?", "answer": "no", "rating": 0}] if rows is RATINGS else []
    file.write_text("".join(json.dumps(row) + "\n" for row in rows + extra))
    data = load(DataConfig(path=str(file), convert=ConversionConfig(**settings)))
    lines = [*lines, len(rows) + 2] if extra and settings["to"] == "demonstrations" else lines
    assert [int(r.source_id.rpartition(":")[2]) for r in data.left_out] == lines
    account = Account(tmp_path, train=data)
    assert account.summary()["train"].get("left_out", 0) == len(lines)
    named = [json.loads(line) for line in (tmp_path / "left_out.jsonl").read_text().splitlines()] if lines else []
    assert [r["record_id"] for r in named] == [r.record_id for r in data.left_out]
    assert all(r["reason"] and r["side"] == "train" for r in named)


def test_the_rest_of_a_split_keeps_the_names(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [*VOTES, {**VOTES[2], "prompt": "b?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rest, held_out = load(DataConfig(path=str(file), convert=ConversionConfig(to="pairs"))).split_by_prompt(0.5)
    assert (len(rest.left_out), len(held_out.left_out)) == (2, 0)
