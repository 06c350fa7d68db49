"""Nulls that Arrow puts into objects, because another row's object has the key."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from keel.data.arrow_nulls import without_nulls
from keel.data.dataset import read


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


ROWS = [
    {
        "messages": [
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": None, "tool_calls": [call("weather", city="Oslo", days=[1, None])]},
        ],
        "tools": [tool("weather", city={"type": "string", "description": "Where."}, days={"type": "array", "enum": [None, 3]})],
    },
    {
        "messages": [
            {"role": "user", "content": "Time in Rome?"},
            {"role": "assistant", "content": "", "tool_calls": [call("clock", zone="Rome", options={"short": True})]},
        ],
        "tools": [tool("clock", zone={"type": "string"}, default={"type": "boolean"})],
    },
]


def test_rows_read_from_parquet_are_those_that_were_written(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert "null" in json.dumps(pa.parquet.read_table(tmp_path / "a.parquet").to_pylist()[1]["tools"]), "Arrow fills up"
    parquet, lines = (read(str(tmp_path / name)) for name in ("a.parquet", "a.jsonl"))
    for one, other in zip(parquet.records, lines.records, strict=True):
        assert one.completion == other.completion
        assert one.prompt.tools == other.prompt.tools
        assert one.prompt.prompt_id == other.prompt.prompt_id


def test_a_hugging_face_data_set_is_read_the_same_way(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    theirs, lines = read("some/rows"), read(str(tmp_path / "a.jsonl"))
    assert [r.completion for r in theirs.records] == [r.completion for r in lines.records]
    assert [r.prompt.tools for r in theirs.records] == [r.prompt.tools for r in lines.records]


@pytest.mark.parametrize("key", ["default", "const"])
def test_a_null_that_a_schema_means_stays(key):
    schema = {"type": "string", key: None, "description": None}
    row = {"tools": [tool("f", a=schema, b={"enum": [None, "x"]}, c={"enum": None}, d={key: {"e": None}})], "other": None}
    found = without_nulls(row)
    properties = found["tools"][0]["function"]["parameters"]["properties"]
    assert properties == {"a": {"type": "string", key: None}, "b": {"enum": [None, "x"]}, "c": {}, "d": {key: {"e": None}}}
    assert found["other"] is None, "columns keep theirs"


def test_an_argument_of_a_keywords_name_is_an_argument():
    row = {"tools": [tool("f", default=None, a={"type": "string"})], "messages": [{"tool_calls": [call("f", default=None, a="x")]}]}
    found = without_nulls(row)
    assert list(found["tools"][0]["function"]["parameters"]["properties"]) == ["a"]
    assert found["messages"][0]["tool_calls"][0]["function"]["arguments"] == {"a": "x"}


def test_json_text_keeps_its_own_nulls():
    text = '{"city": "Oslo", "zone": null}'
    assert without_nulls({"messages": [{"tool_calls": [{"arguments": text, "id": None}]}], "tools": text}) == {
        "messages": [{"tool_calls": [{"arguments": text}]}],
        "tools": text,
    }
