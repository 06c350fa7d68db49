"""The texts of the quickstart: counts, layout, and nothing of the held-out prompts in training."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from keel.data.dataset import prompt_of, read
from keel.types import Demonstration, Prompt

FOLDER = Path(__file__).parents[2] / "recipes" / "quickstart"
CATEGORIES = {
    "order_status", "returns", "refunds", "shipping", "sizing", "advice", "repairs", "payment", "account", "complaints", "stock",
    "gift_cards", "hours", "safety", "out_of_scope",
}  # fmt: skip


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def user_text(row: dict) -> str:
    return next(m["content"] for m in row.get("messages") or row["prompt"] if m["role"] == "user")


def tokens(text: str) -> set[str]:
    lowered = text.lower()
    return set(re.findall(r"[a-z0-9]+", lowered)) | set(re.findall(r"(?=([\u4e00-\u9fff]{2}))", lowered))


def similarity(left: str, right: str) -> float:
    a, b = tokens(left), tokens(right)
    return len(a & b) / len(a | b)


def languages(name: str) -> Counter:
    return Counter(row["language"] for row in rows(name))


def test_counts_and_languages() -> None:
    demos, train, heldout = (languages(n) for n in ("demonstrations.jsonl", "prompts_train.jsonl", "prompts_heldout.jsonl"))
    assert demos.total() >= 150
    assert 0.15 <= demos["zh"] / demos.total() <= 0.25
    assert train.total() >= 200
    assert 0.12 <= train["zh"] / train.total() <= 0.25
    assert heldout["en"] >= 120
    assert heldout["zh"] >= 20
    assert languages("unrelated_text.jsonl").total() >= 40


def test_every_category_is_trained_and_held_out() -> None:
    for name in ("demonstrations.jsonl", "prompts_train.jsonl", "prompts_heldout.jsonl"):
        assert {row["category"] for row in rows(name)} == CATEGORIES, name


def test_demonstrations_are_a_user_turn_and_a_finished_answer() -> None:
    for row in rows("demonstrations.jsonl"):
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
        answer = row["messages"][1]["content"]
        assert answer == answer.strip()
        assert answer[-1] in ".!?。！？", answer


def test_prompts_have_their_own_ids() -> None:
    ids = [row["prompt_id"] for name in ("prompts_train.jsonl", "prompts_heldout.jsonl") for row in rows(name)]
    assert len(ids) == len(set(ids))


def test_no_answer_or_opening_dominates() -> None:
    answers = [row["messages"][1]["content"] for row in rows("demonstrations.jsonl") if row["language"] == "en"]
    assert len(set(answers)) == len(answers)
    opening, n = Counter(tuple(a.split()[:2]) for a in answers).most_common(1)[0]
    assert n / len(answers) < 0.05, opening
    courteous = sum(bool(re.search(r"sorry|apolog|thank", a, re.IGNORECASE)) for a in answers) / len(answers)
    assert 0.1 < courteous < 0.5  # a spread of manners: something for preferences to shift


@pytest.mark.parametrize("other", ["demonstrations.jsonl", "prompts_train.jsonl", "prompts_heldout.jsonl"])
def test_held_out_prompts_have_no_near_duplicate(other: str) -> None:
    heldout = [user_text(row) for row in rows("prompts_heldout.jsonl")]
    for i, text in enumerate(heldout):
        for j, seen in enumerate(user_text(row) for row in rows(other)):
            if other != "prompts_heldout.jsonl" or i < j:
                assert similarity(text, seen) < 0.7, (text, seen)  # the bound for a duplicate is 0.9; these stay well away from it


def test_similarity_finds_duplicates_in_both_languages() -> None:
    assert similarity("Where is my order?", "where is my ORDER") == 1.0
    assert similarity("退货要多久", "退货要多久？") == 1.0


@pytest.mark.parametrize(
    ("name", "kind"), [("demonstrations.jsonl", Demonstration), ("prompts_train.jsonl", Prompt), ("prompts_heldout.jsonl", Prompt)]
)
def test_the_files_read_as_they_are(name: str, kind: type) -> None:
    dataset = read(str(FOLDER / name))
    assert dataset.bad == ()
    assert len(dataset.of(kind)) == len(rows(name))
    assert {prompt_of(r).meta["language"] for r in dataset.records} == {"en", "zh"}
