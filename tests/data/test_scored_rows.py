"""What of an answer is scored: all of it, or the row is refused with a way out that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.verbs.score.rows import read_rows

ASK = {"role": "user", "content": "a?"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
THOUGHT = {"role": "assistant", "content": "b", "reasoning_content": "must think"}
SAY = {"role": "assistant", "content": "b"}


def write(folder: Path, row: dict[str, Any]) -> str:
    file = folder / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    return str(file)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a?", "completion": [CALL, {"role": "tool", "content": "x"}, SAY]}, "put the others into the prompt"),
        ({"prompt": "a?", "completion": []}, "ends with no assistant turn"),
        ({"prompt": "a?", "completion": [CALL]}, "is a tool call"),
        ({"messages": [ASK, CALL]}, "is a tool call"),
        ({"prompt": "a?", "completion": THOUGHT}, "reasoning_content beside the text"),
        ({"messages": [ASK, THOUGHT]}, "reasoning_content beside the text"),
    ],
)
def test_parts_of_an_answer_that_would_not_be_scored(tmp_path, row, why):
    with pytest.raises(DataError, match=why):
        read_rows(write(tmp_path, row))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": [ASK, CALL, {"role": "tool", "content": "x"}], "completion": [SAY]}, "b"),
        ({"messages": [ASK, CALL, {"role": "tool", "content": "x"}, SAY]}, "b"),
        ({"prompt": "a?", "completion": "<think>must think</think>b"}, "<think>must think</think>b"),
    ],
)
def test_the_ways_out_are_scored(tmp_path, row, text):
    assert read_rows(write(tmp_path, row))[1][0][1] == text


def test_empty_cells_are_not_scored(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("prompt,completion\na?,nan\n")
    with pytest.raises(DataError, match=r"rows.csv:2: completion: is 'nan'"):
        read_rows(str(file))
