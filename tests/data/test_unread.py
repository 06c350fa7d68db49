"""What stands beside a layout or beside a turn's text and would be lost: it is told, or its row is set aside with the reason."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset, load
from keel.data.thoughts import is_thought, thoughts_in
from keel.data.unread import judged_columns, unread_columns

PAIR = {"prompt": "Q?", "chosen": "a", "rejected": "b"}
CHAT = [{"role": "user", "content": "q"}]


def read(tmp_path: Path, *rows: Mapping[str, Any], **config: Any) -> Dataset:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return load(DataConfig(path=str(tmp_path / "a.jsonl"), **config))


@pytest.mark.parametrize(
    ("row", "column", "keys"),
    [
        ({"instruction": "Sum up.", "context": "A cat sat.", "response": "Cat."}, "context", {"output": "response"}),
        ({"prompt": "Q?", "completion": "A", "history": [["hi", "hello"]]}, "history", {}),
        ({"prompt": "Q?", "completion": "A", "cot": "since it is"}, "cot", {}),
        ({"prompt": "Q?", "completion": "A", "reasoning_steps": ["first", "then"]}, "reasoning_steps", {}),
        ({"question": "Which?", "answer": "A", "choices": ["cat", "dog"]}, "choices", {}),
        ({"question": "Which?", "answer": "A", "options": {"A": "cat", "B": "dog"}}, "options", {}),
        ({"messages": CHAT, "passage": "A cat sat."}, "passage", {}),
        ({**PAIR, "context": "A cat sat."}, "context", {}),
        ({"prompt": "问？", "completion": "答", "背景": "一只猫"}, "背景", {}),
    ],
)
def test_a_column_that_speaks_to_the_model_and_is_not_shown_is_told(tmp_path, caplog, row, column, keys):
    with caplog.at_level(logging.WARNING, "keel"):
        found = read(tmp_path, row, {**row, column: None}, keys=keys)
        assert f"{column!r} (1 rows)" in caplog.text
        assert unread_columns(found.records) == {column: 1}
        ways = [f"data.keys={{unused: {column}}}"]
        assert ways[0] in caplog.text
        caplog.clear()
        assert not unread_columns(read(tmp_path, row, keys={**keys, "unused": column}).records), "the way out that is named works"
        if found.layout == "alpaca":
            other = read(tmp_path, row, keys={**keys, "input": column})
            assert "A cat sat." in str(other.prompts()[0])
        assert not caplog.text


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which? A) Cat B) dog", "answer": "A", "choices": ["cat", "dog"]},
        {"prompt": "A cat sat. Q?", "completion": "A", "context": "A cat sat."},
        {"prompt": "Q?", "completion": "<think>since it is</think>A", "cot": "since it is"},
        {**PAIR, "messages": [*CHAT[:0], {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "Q?", "ground_truth": "A", "reasoning": "how a person got it"},  # a prompt alone has no answer to think for
        {"prompt": "Q?", "completion": "A", "source": "a file", "category": "open", "context": ""},
        {"context": "Q?", "completions": [{"rank": 0, "completion": "4"}, {"rank": 1, "completion": "5"}]},
    ],
)
def test_what_the_model_is_shown_or_need_not_see_is_not_told(tmp_path, caplog, row):
    with caplog.at_level(logging.WARNING, "keel"):
        assert not unread_columns(read(tmp_path, row).records)
    assert not caplog.text


@pytest.mark.parametrize("key", ["margin", "strength"])
def test_a_margin_below_0_is_refused(tmp_path, key):
    with pytest.raises(DataError, match=f"{key}: must not be below 0"):
        read(tmp_path, {**PAIR, key: -0.5})
    assert read(tmp_path, {**PAIR, key: 0}).records[0].margin == 0  # type: ignore[union-attr]


def test_an_answer_without_weight_is_refused(tmp_path):
    with pytest.raises(DataError, match="weight: must be above 0"):
        read(tmp_path, {"prompt": "Q?", "completion": "b", "label": True, "weight": 0})


THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thinking_content", "thought", "thoughts", "cot", "CoT", "model_cot", "rationale")
THOUGHTS += (
    "reasoning_details",
    "reasoningContent",
    "chain_of_thought",
    "inner_monologue",
    "scratchpad",
    "think",
    "reasoning_text",
    "思考过程",
)
NONE = (
    "finish_reason",
    "stop_reason",
    "reason",
    "reasoning_effort",
    "thinking_budget",
    "thought_signature",
    "thinking_tokens",
    "is_thinking",
)
NONE += (
    "enable_thinking",
    "name",
    "scotland",
    "tool_calls",
    "tool_call_id",
    "reasoning_model",
    "thinking_time",
    "id",
    "refusal",
    "annotations",
)


def test_names_of_thoughts_and_of_what_is_about_them():
    assert [k for k in THOUGHTS if not is_thought(k)] == []
    assert [k for k in NONE if is_thought(k)] == []


def test_texts_of_thoughts_are_found_however_they_are_kept():
    details = [{"type": "reasoning.text", "text": "hm", "format": "v1", "index": 0}, {"type": "reasoning.encrypted", "data": "Zz"}]
    turn = {"cot": "so", "reasoning_details": details, "thinking": {"content": ["a", " "]}, "reasoning": None, "name": "x", "thought": 3}
    assert list(thoughts_in(turn)) == [("cot", "so"), ("reasoning_details", "hm"), ("thinking", "a")]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "hm", "signature": "Zz"},
        {"type": "redacted_thinking", "data": "Zz"},
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "a", "reasoning": "hm"},
    ],
)
def test_a_content_block_with_a_thought_sets_its_row_aside_with_the_ways_out(tmp_path, block):
    answer = {"role": "assistant", "content": [block, {"type": "text", "text": "a"}]}
    with pytest.raises(DataError, match=r"content\.0: holds reasoning.*reasoning_content"):
        read(tmp_path, {"messages": [*CHAT, answer]})
    harmless = {"type": "text", "text": "a", "reasoning": "", "cache_control": {"type": "ephemeral"}}
    assert len(read(tmp_path, {"messages": [*CHAT, {**answer, "content": [harmless]}]})) == 1


def test_calls_that_are_an_empty_list_as_text_are_none(tmp_path):
    answer = {"role": "assistant", "content": "a", "tool_calls": "[]"}
    assert not read(tmp_path, {"messages": [*CHAT, answer]}).records[0].completion[0].extra  # type: ignore[union-attr]
    with pytest.raises(DataError, match="the answer is empty"):
        read(tmp_path, {"messages": [*CHAT, {**answer, "content": ""}]})


@pytest.mark.parametrize("side", [0, 1])
def test_an_answer_that_goes_on_where_the_other_ends_begins_at_its_first_turn(tmp_path, side):
    """All of the shorter side is common; it is an answer all the same, not the prompt."""
    short = [*CHAT, {"role": "assistant", "content": "a"}]
    sides = [short, [*short, {"role": "assistant", "content": "b"}]]
    pair = read(tmp_path, {"chosen": sides[side], "rejected": sides[1 - side]}).records[0]
    assert [m.text for m in pair.prompt.messages] == ["q"]  # type: ignore[union-attr]
    texts = [[m.text for m in answer] for answer in (pair.chosen, pair.rejected)]  # type: ignore[union-attr]
    assert texts[side] == ["a"]
    assert texts[1 - side] == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("thumbs_up", [True, False], True),
        ("score", [1, 5], True),
        ("feedback", ["good", "bad"], True),
        ("评分", [1, 2], True),
        ("score", [3, 3], False),  # one value alone tells nothing
        ("feedback", ["I like the second sentence.", "Nothing to say."], False),  # a text, no judgement of kinds
        ("length", [1, 2], False),
    ],
)
def test_judgements_beside_answers_that_are_imitated(
    column: str, values: list[object], told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"q{i}", "completion": f"a{i}", column: value} for i, value in enumerate(values)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    caplog.clear()
    data = load(DataConfig(path=str(path)))
    assert len(judged_columns(data.records)) == told
    assert ("look like judgements of the answers" in caplog.text) == told
    aside = load(DataConfig(path=str(path), keys={"unused": column}))
    assert not judged_columns(aside.records)
