"""Values that other tools would train on, or leave out, without a word: each row of them is set aside with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset, read
from keel.data.turns import as_message
from keel.models.tiny import make_tokenizer
from keel.render.renderer import Renderer

ASK, SAY = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def table(folder: Path, text: str, **keys: str) -> Dataset:
    file = folder / "rows.csv"
    file.write_text(text)
    return read(str(file), DataConfig(path=str(file), keys=keys))


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "NULL", "null", "<NA>"])
def test_cells_that_stand_for_nothing_are_no_text(tmp_path, cell):
    found = table(tmp_path, f"instruction,input,output\nAdd.,2,4\nAdd.,{cell},4\nAdd.,2,{cell}\n{cell},2,4\n")
    assert len(found) == 1
    assert found.counts["rows"] == 4
    assert [(b.line, b.field) for b in found.bad] == [(3, "input"), (4, "output"), (5, "instruction")]
    assert all(f"is {cell!r}" in b.reason for b in found.bad)


def test_a_right_answer_that_stands_for_nothing_is_none(tmp_path):
    found = table(tmp_path, "prompt,answer\na?,1\nb?,nan\n")
    assert [b.field for b in found.bad] == ["answer"]
    assert len(found) == 1


def test_the_same_words_in_json_lines_are_meant(tmp_path):
    """The way out that the reason names."""
    path = write(tmp_path, {"prompt": "Which?", "completion": "None"}, {"prompt": "Which?", "completion": "nan"})
    assert len(read(path)) == 2
    assert not read(path).bad
    path = write(tmp_path, {"instruction": "Add.", "input": "nan", "output": "4"}, {"instruction": "Add.", "input": "", "output": "4"})
    assert [b.field for b in read(path).bad] == ["input"]  # no input is ever "nan"


@pytest.mark.parametrize(
    ("row", "field", "way_out"),
    [
        ({"messages": [ASK, SAY], "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs", "chat_template_kwargs"),
        ({"messages": [ASK, SAY], "documents": [{"title": "t", "text": "d"}]}, "documents", "documents"),
        ({"messages": [{"role": "system", "content": "A."}, ASK, SAY], "system": "B."}, "system", "system"),
    ],
)
def test_columns_that_would_be_left_out(tmp_path, row, field, way_out):
    path = write(tmp_path, row, {"messages": [ASK, SAY]})
    (bad,) = read(path).bad
    assert bad.field == field
    assert f"data.keys={{unused: {way_out}}}" in bad.reason
    assert len(read(path, DataConfig(path=path, keys={"unused": way_out}))) == 2  # the way out works


def test_a_system_prompt_that_stands_twice_is_one(tmp_path):
    path = write(tmp_path, {"messages": [{"role": "system", "content": "A."}, ASK, SAY], "system": "A."})
    assert [m.text for m in read(path).prompts()[0].messages] == ["A.", "a?"]


@pytest.mark.parametrize("name", ["messages", "conversations"])
def test_preferences_behind_an_answer_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: ends with an assistant turn"):
        read(write(tmp_path, {name: [ASK, SAY], "chosen": SAY, "rejected": {**SAY, "content": "c"}}))


def test_a_conversation_that_begins_with_an_answer_says_so_and_its_way_out_works(tmp_path):
    with pytest.raises(DataError, match="begins with the assistant's turn"):
        read(write(tmp_path, {"messages": [SAY, ASK, SAY]}))
    assert len(read(write(tmp_path, {"messages": [{**SAY, "role": "system"}, ASK, SAY]}))) == 1


def test_text_in_front_of_a_dialogue_is_not_lost(tmp_path):
    row = {"chosen": "Be kind.\n\nHuman: a?\n\nAssistant: b", "rejected": "Be kind.\n\nHuman: a?\n\nAssistant: c"}
    path = write(tmp_path, row)
    with pytest.raises(DataError, match="must begin with Human"):
        read(path, DataConfig(path=path, layout="hh_rlhf"))


@pytest.mark.parametrize("arguments", [{"x": 1}, '{"x": 1}', None])
@pytest.mark.parametrize("name", ["arguments", "parameters"])
def test_arguments_of_calls_under_either_name(name, arguments):
    wanted = {"name": "f", "arguments": {} if arguments is None else arguments}
    function = {"name": "f", name: arguments}
    assert as_message("m", {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}).extra["tool_calls"] == [
        {"id": "1", "function": wanted}
    ]
    assert as_message("m", {"role": "assistant", "tool_calls": [function]}).extra["tool_calls"] == [wanted]
    for value in (function, [function], {"type": "function", "function": function}):
        found = as_message("m", {"from": "function_call", "value": json.dumps(value)}).extra["tool_calls"]
        assert found == [{"type": "function", "function": wanted}]


def test_tools_have_one_form_for_templates(tmp_path):
    schema = {"name": "f", "parameters": {"type": "object"}}
    wrapped = {"type": "function", "function": schema}
    rows = [
        {"prompt": f"{k}", "completion": "b", "tools": [tool]} for k, tool in enumerate((schema, wrapped, {"type": "function", **schema}))
    ]
    assert [p.tools for p in read(write(tmp_path, *rows)).prompts()] == [(wrapped,)] * 3


def test_setting_the_tools_aside_is_a_way_out(tmp_path):
    """What the refusal of tools that a template does not show names."""
    path = write(tmp_path, {"messages": [ASK, SAY], "tools": [{"name": "clock"}]})
    renderer = Renderer(make_tokenizer(400, []))
    (refused,) = renderer.units(read(path).records)[1]
    assert "data.keys={unused: tools}" in refused.reason
    units, refusals = renderer.units(read(path, DataConfig(path=path, keys={"unused": "tools"})).records)
    assert (len(units), refusals) == (1, [])
