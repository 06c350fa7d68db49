"""Whatever stands in a row, reading it ends with a record or with the field and the reason, never with another exception."""

from __future__ import annotations

import copy
import gzip
import json

import pytest

from keel.core.errors import DataError, UserError
from keel.data.config import DataConfig
from keel.data.dataset import read
from keel.data.fields import FieldError, Fields
from keel.data.layouts import LAYOUTS, match
from keel.data.sources import RawRow
from keel.models import tiny
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer

ASKED = [{"role": "user", "content": "q"}]
ODD = [None, "", " ", "x", 0, 1.5, 10**400, float("nan"), True, [], {}, [1], ["x"], [None], [[]], [{}], {"a": 1}, {"role": "user"}]
ODD += [[{"role": r, "content": c}] for r, c in (("user", "q"), ("assistant", "a"), ("system", "s"), (["user"], "q"), ("user", None))]
ODD += [[{"role": "user", "content": [part]}] for part in ({"type": "text"}, {"type": "image"}, {"type": "text", "text": "q"})]
ODD += [[{"role": "assistant", "content": "", "tool_calls": calls}] for calls in (["x"], {"name": "f"}, [{"function": "f"}], [{}])]
COLUMNS = ("tools", "image", "meta", "id", "prompt_id", "system", "history", "input", "margin", "label", "tie", "weight", "display_order")
PARTS = [{"messages": ASKED, name: value} for name in ("meta", "tools", "text", "image") for value in ODD]
PARTS += [[{"role": "user", "content": "q", "extra": value}] for value in ODD]
ORIGINS = [[{"text": "a", "origin": value}, {"text": "b"}] for value in ODD]


@pytest.fixture(scope="module")
def renderers() -> list[Renderer]:
    tokenizer = tiny.make_tokenizer(512, [])
    return [Renderer(tokenizer, None, RenderConfig(**c)) for c in ({}, {"loss_on": "last"}, {"answers": "raw"}, {"as_chat": False})]


def places(value, path=()):
    """Paths of everything inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def put(row, path, value):
    row = copy.deepcopy(row)
    here = row
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return row


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.name)
def test_odd_values_are_refused_by_name(layout, renderers):
    example = json.loads(json.dumps(dict(layout.example)))
    rows = [put(example, path, value) for path in places(example) for value in ODD]
    rows += [{**example, column: value} for column in COLUMNS for value in ODD]
    rows += [{**example, name: value} for name in ("prompt", "chosen", "messages") if name in example for value in PARTS]
    rows += [{**example, "candidates": value} for value in ORIGINS if "candidates" in example]
    for row in rows:
        try:
            record = layout(Fields(RawRow(row, "rows.jsonl", 1), {}))
        except FieldError:
            continue
        for renderer in renderers:
            try:
                renderer.unit(record)
            except UserError:
                continue


LIST, NUMBER, HALF = "[" * 100_000, "1" * 5_000, "\\ud83d"
GOOD = '{"prompt": "a", "completion": "b"}'


@pytest.mark.parametrize("odd", [LIST, NUMBER, f'"{HALF}"', f'{{"k{HALF}": 1}}'], ids=["deep", "digits", "half", "half key"])
def test_json_that_is_no_data(tmp_path, odd):
    row = f'{{"prompt": "a", "completion": "b", "x": {odd}}}'
    (tmp_path / "a.jsonl").write_text("\n".join([GOOD, row, GOOD]))
    dataset = read(str(tmp_path / "a.jsonl"))
    assert [b.line for b in dataset.bad] == [2]
    json.dumps([b.values for b in dataset.bad], ensure_ascii=False).encode()  # bad rows are written to a file
    (tmp_path / "a.json").write_text(f"[{GOOD},\n {row}]")
    if HALF in odd:
        assert [b.line for b in read(str(tmp_path / "a.json")).bad] == [2]
    else:
        with pytest.raises(DataError, match=r"a\.json:\d: broken JSON"):
            read(str(tmp_path / "a.json"))


def test_a_character_in_two_escapes_is_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "\\ud83d\\ude00", "completion": "\\\\ud83d"}\n')
    record = read(str(tmp_path / "a.jsonl")).records[0]
    assert (record.prompt.text, record.completion[0].text) == ("\U0001f600", "\\ud83d")


def test_csv_cells_that_are_no_data(tmp_path):
    (tmp_path / "a.csv").write_text(f"prompt,completion\na,{LIST}\nb,{NUMBER}\n")
    assert [r.completion[0].text for r in read(str(tmp_path / "a.csv")).records] == [LIST, NUMBER]


def test_csv_quotes_and_rows_that_do_not_fit(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion\r\n"a\nb",c\r\n\r\nd\r\ne,f,g\r\n"h"i,j\r\nk,l\r\nm,"n\no,p\n')
    dataset = read(str(tmp_path / "a.csv"))
    assert [(r.prompt.text, r.completion[0].text) for r in dataset.records] == [("a\nb", "c"), ("k", "l")]
    assert [(b.line, b.reason.split(" (")[0]) for b in dataset.bad[:2]] == [
        (5, "this row has 1 columns, the header 2"),
        (6, "this row has 3 columns, the header 2"),
    ]
    assert dataset.bad[2].line == 7
    assert "broken CSV" in dataset.bad[2].reason
    assert (dataset.bad[3].line, dataset.bad[3].reason) == (9, "a quote is opened here and never closed")


def test_csv_column_names_are_different(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,prompt\na,b\n")
    with pytest.raises(DataError, match=r"a\.csv:1: two columns are named 'prompt'"):
        read(str(tmp_path / "a.csv"))


def test_a_damaged_gzip_file(tmp_path):
    raw = bytearray(gzip.compress((GOOD + "\n").encode() * 50))
    raw[20:40] = b"\x00\xff" * 10
    (tmp_path / "a.jsonl.gz").write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read"):
        read(str(tmp_path / "a.jsonl.gz"))


@pytest.mark.parametrize(("header", "hint"), [("prompt;completion", "separated by ';'"), ("a,b", "data.keys={prompt: YOUR_COLUMN")])
def test_unknown_columns_say_what_to_do(tmp_path, header, hint):
    (tmp_path / "a.csv").write_text(f"{header}\n{header}\n")
    with pytest.raises(DataError) as error:
        read(str(tmp_path / "a.csv"), DataConfig(path="a.csv"))
    assert hint in error.value.hint


def test_ultrafeedback_is_a_preference():
    """Its rows hold the chosen conversation a second time, as ``messages``."""
    good, poor = ({"role": "assistant", "content": c} for c in ("4", "5"))
    row = {"prompt": "2 + 2?", "messages": [{"role": "user", "content": "2 + 2?"}, good], "score_chosen": 8.0, "prompt_id": "x"}
    row |= {name: [{"role": "user", "content": "2 + 2?"}, a] for name, a in (("chosen", good), ("rejected", poor))}
    layout = match(row)
    assert layout is not None
    assert layout.name == "preference"
    pair = layout(Fields(RawRow(row, "a", 1), {}))
    assert [pair.prompt.text, pair.chosen[0].text, pair.rejected[0].text] == ["2 + 2?", "4", "5"]
    del row["prompt"]
    assert match(row).name == "preference_implicit"
