"""Rows in the forms that other tools write: read as they are meant, or refused with the reason; nothing of them is lost silently."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset, read
from keel.data.layouts import LAYOUTS, Layout
from keel.feedback.store import append
from keel.types import Candidate, Comparison

ASK, SAY = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
ROW = {"prompt": "a?", "completion": "b"}


def rows(folder: Path, *values: Any, name: str = "rows.jsonl", **config: Any) -> Dataset:
    """Read a file: bytes and texts as they stand, other values as lines of JSON."""
    (folder / name).write_bytes(
        values[0]
        if isinstance(values[0], bytes)
        else values[0].encode()
        if isinstance(values[0], str)
        else "".join(json.dumps(v) + "\n" for v in values).encode()
    )
    return read(str(folder / name), DataConfig(path=str(folder / name), **config))


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a", "prompt": "b", "completion": "c"}',
        '{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "c"}]}',
        '{"prompt": "a", "completion": "c", "meta": {"k": 1, "k": 1}}',
    ],
)
def test_a_name_that_stands_twice_would_lose_a_value(tmp_path, line):
    with pytest.raises(DataError, match="stands twice in one object"):
        rows(tmp_path, line)
    with pytest.raises(DataError, match="stands twice in one object"):
        rows(tmp_path, f"[{line}]", name="rows.json")


LINES = json.dumps(ROW) + "\n" + json.dumps({**ROW, "prompt": "c?"}) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        LINES.replace("\n", "\r\n").encode(),
        LINES.replace("\n", "\r").encode(),
        ("\n" + LINES.replace("\n", "\n\n")).encode(),
        b"\xef\xbb\xbf" + LINES.encode(),
        b"".join(b"\xef\xbb\xbf" + line.encode() + b"\n" for line in LINES.splitlines()),
        json.dumps([json.loads(x) for x in LINES.splitlines()]).encode(),
        json.dumps([json.loads(x) for x in LINES.splitlines()], indent=2).encode(),
        ("[" + LINES.strip().replace("\n", ",\n") + "]").encode(),
    ],
)
def test_lines_are_read_whatever_stands_between_them(tmp_path, content):
    found = rows(tmp_path, content)
    assert [p.text for p in found.prompts()] == ["a?", "c?"]
    assert not found.bad


def test_an_object_over_several_lines_is_one_row(tmp_path):
    assert len(rows(tmp_path, json.dumps(ROW, indent=1))) == 1


def test_other_encodings_are_named(tmp_path):
    with pytest.raises(DataError, match="UTF-16") as refused:
        rows(tmp_path, LINES.encode("utf-16"))
    assert "iconv -f utf-16" in refused.value.hint


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": ["a", "b"], "completion": ["c", "d"]},
        {"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}},
        {"messages": {"0": [ASK, SAY]}, "source": {"0": "x"}},
    ],
)
def test_files_written_by_columns_are_named(tmp_path, data):
    with pytest.raises(DataError, match="holds columns") as refused:
        rows(tmp_path, json.dumps(data), name="rows.json")
    assert "orient='records'" in refused.value.hint


def test_one_object_is_one_row_and_several_lists_are_not_guessed(tmp_path):
    for row in ({"prompt": "a?", "completion": "b", "tools": [{"name": "f"}]}, {"prompt": [ASK], "completion": "4"}):
        assert len(rows(tmp_path, json.dumps(row), name="rows.json")) == 1
    assert len(rows(tmp_path, json.dumps({"version": "1", "data": [ROW]}), name="rows.json")) == 1
    with pytest.raises(DataError, match=r"several lists of rows \(train, test\)"):
        rows(tmp_path, json.dumps({"train": [ROW], "test": [ROW]}), name="rows.json")


def test_lists_as_json_text_are_lists(tmp_path):
    """A column of a table can hold no other; a Python list written as text is named as such."""
    call = {**SAY, "content": "", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}
    plain = rows(tmp_path, {"messages": [ASK, call]}).records
    as_text = rows(tmp_path, {"messages": json.dumps([ASK, {**call, "tool_calls": json.dumps(call["tool_calls"])}])}).records
    assert [r.completion for r in as_text] == [r.completion for r in plain]
    with pytest.raises(DataError, match="as Python writes it; write JSON"):
        rows(tmp_path, {"messages": repr([ASK, SAY])})


@pytest.mark.parametrize("role", ["User", "HUMAN", " user ", "prompter"])
@pytest.mark.parametrize("answer", ["Assistant", "GPT", "chatgpt", "bing", "bard", "ai"])
def test_roles_are_known_in_any_writing(tmp_path, role, answer):
    (record,) = rows(tmp_path, {"conversations": [{"from": role, "value": "a?"}, {"from": answer, "value": "b"}]}).records
    assert [m.role for m in (*record.prompt.messages, *record.completion)] == ["user", "assistant"]


@pytest.mark.parametrize("turn", [{"from": "human", "value": "hi", "content": "other"}, {"from": "gpt", "role": "user", "content": "hi"}])
def test_two_keys_of_a_turn_that_differ_are_refused(tmp_path, turn):
    with pytest.raises(DataError, match="say different things"):
        rows(tmp_path, {"conversations": [turn, {"from": "gpt", "value": "b"}]})
    same = {"from": "human", "role": "user", "value": "hi", "content": "hi"}
    (record,) = rows(tmp_path, {"conversations": [same, {"from": "gpt", "value": "b"}]}).records
    assert not record.prompt.messages[0].extra


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x.name != "text"], ids=lambda x: x.name)
def test_a_system_prompt_in_a_column_is_the_models_in_every_layout(tmp_path, layout: Layout, name):
    found = rows(tmp_path, {**layout.example, name: "Be brief."}, layout=layout.name)
    (prompt,) = found.prompts()
    assert [m.text for m in prompt.messages if m.role == "system"] == ["Be brief."]
    assert name not in prompt.meta
    bare = rows(tmp_path, {**layout.example, name: "Be brief."}, layout=layout.name, keys={"unused": name})
    assert not [m for m in bare.prompts()[0].messages if m.role == "system"], "the way out"


def test_system_prompts_that_cannot_be_followed_are_refused(tmp_path):
    for row in ({"text": "a b", "system": "s"}, {**ROW, "system": "s", "system_prompt": "t"}):
        with pytest.raises(DataError, match=r"data.keys=\{unused: system\}"):
            rows(tmp_path, row)


def test_numbers_as_prompts_are_named(tmp_path):
    with pytest.raises(DataError, match="must be text, messages or a prompt object, is a number"):
        rows(tmp_path, {**ROW, "prompt": 42})


def test_values_that_json_cannot_hold_are_written_as_text(tmp_path):
    import pyarrow
    import pyarrow.parquet

    columns = {"when": [datetime.datetime(2020, 1, 2)], "cost": [decimal.Decimal("1.5")], "score": [float("nan")]}
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a?"], "completion": ["b"], **columns}), tmp_path / "t.parquet")
    (prompt,) = read(str(tmp_path / "t.parquet")).prompts()
    assert prompt.meta == {"when": "2020-01-02 00:00:00", "cost": "1.5", "score": "NaN"}
    pair = Candidate("a", "x"), Candidate("b", "y")
    append(tmp_path / "c.jsonl", [Comparison("c", prompt, pair, "first", 1.0, "ann", "pairwise-v1", (0, 1), "s")])
    twice = pyarrow.array([[("a", 1), ("a", 2)]], type=pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a?"], "completion": ["b"], "m": twice}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="one key twice"):
        read(str(tmp_path / "m.parquet"))
