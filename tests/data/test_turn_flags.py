"""Marks on turns: what files write, what is trained; and that a mark that cannot be honoured is an error of its row."""

from __future__ import annotations

import json

import pytest

from keel.data.converters import identity
from keel.data.dataset import read
from keel.data.errors import FieldError
from keel.data.fields import Fields
from keel.data.findings import untrained_turns
from keel.data.layouts import named
from keel.data.sources import RawRow
from keel.data.turn_flags import NO, YES
from keel.feedback.store import pair_row
from keel.types import Demonstration, Pair


def chat(**marks):
    """A question, an answer with these marks, a question, an answer without."""
    return [
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "bad", **marks},
        {"role": "user", "content": "B?"},
        {"role": "assistant", "content": "good"},
    ]


def record(tmp_path, row, layout="auto"):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row) + "\n")
    data = read(str(file))
    assert len(data) + len(data.bad) == 1
    return data.records[0] if data.records else data.bad[0]


def convert(layout, row):
    return named(layout)(Fields(RawRow(row, "a.jsonl", 1), {}))


def trained(demonstration):
    return [m.text for m in demonstration.completion if m.role == "assistant" and m.trained]


@pytest.mark.parametrize("key", YES)
@pytest.mark.parametrize(("no", "yes"), [(0, 1), (False, True), (0.0, 1.0), ("false", "true"), ("0", "1")])
def test_a_mark_that_says_no_takes_the_turn_out_of_the_training(key, no, yes):
    for layout, who in (("messages", ("messages", "role", "content")), ("sharegpt", ("conversations", "from", "value"))):
        column, role, text = who
        for value, left in ((no, ["good"]), (yes, ["bad", "good"]), (None, ["bad", "good"])):
            turns = [{role: m["role"], text: m["content"], **({key: m[key]} if key in m else {})} for m in chat(**{key: value})]
            found = convert(layout, {column: turns})
            assert trained(found) == left
            assert key not in found.completion[0].extra, "templates do not see marks"


@pytest.mark.parametrize("key", NO)
def test_a_mark_that_says_masked_means_the_opposite(key):
    assert trained(convert("messages", {"messages": chat(**{key: True})})) == ["good"]
    assert trained(convert("messages", {"messages": chat(**{key: False})})) == ["bad", "good"]


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"weight": 0.5}, "messages.1.weight: must be 0 or 1"),
        ({"weight": 2}, "must be 0 or 1"),
        ({"weight": "much"}, "must be 0 or 1"),
        ({"loss": [1, 0]}, "must be 0 or 1"),
        ({"mask": True}, "does not say clearly"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}, "does not say clearly"),
        ({"weight": 1, "train": False}, "contradict one another"),
    ],
)
def test_marks_that_cannot_be_honoured_are_errors_of_the_row(marks, said):
    with pytest.raises(FieldError, match=said):
        convert("messages", {"messages": chat(**marks)})


def test_marks_on_other_turns():
    turns = chat()
    turns[0]["train"], turns[2]["masked"] = False, True
    assert trained(convert("messages", {"messages": turns})) == ["bad", "good"], "as it is anyway"
    turns[0]["train"] = True
    with pytest.raises(FieldError, match="asks to train a user turn"):
        convert("messages", {"messages": turns})
    block = {"role": "assistant", "content": [{"type": "text", "text": "a", "train": False}, {"type": "text", "text": "b"}]}
    with pytest.raises(FieldError, match="part of a turn"):
        convert("messages", {"messages": [*chat()[:1], block]})


def test_marks_beside_the_turns():
    rows = {
        "weight": [(1, ["bad", "good"]), ([0, 1], ["good"]), ([0, 1, 0, 0], ["bad"])],
        "train": [(True, ["bad", "good"]), ("train", ["bad", "good"])],
        "loss": [(2.31, ["bad", "good"]), ([False, True], ["good"])],
    }
    for key, cases in rows.items():
        for value, left in cases:
            assert trained(convert("messages", {"messages": chat(), key: value})) == left
    for layout, row in (
        ("messages", {"messages": chat()}),
        ("prompt_completion", {"prompt": "A?", "completion": "bad"}),
        ("alpaca", {"instruction": "A?", "output": "bad"}),
        ("question_answer", {"question": "A?", "answer": "bad"}),
        ("text", {"text": "bad"}),
    ):
        for mark in ({"weight": 0}, {"train": False}, {"loss": 0}):
            with pytest.raises(FieldError, match="not to be trained"):
                convert(layout, {**row, **mark})
    with pytest.raises(FieldError, match=r"must be 0 or 1.*data.keys={unused: weight}"):
        convert("messages", {"messages": chat(), "weight": 0.3})
    with pytest.raises(FieldError, match="3 marks for 4 turns, 2 of them answers"):
        convert("messages", {"messages": chat(), "weight": [1, 0, 1]})


def test_the_way_out_for_a_column_that_is_no_mark_works(tmp_path):
    from keel.data.config import DataConfig

    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": chat(), "weight": 71.5}) + "\n")
    config = DataConfig(path=str(file), keys={"unused": "weight"})
    assert isinstance(read(str(file), config).records[0], Demonstration)


def test_rows_of_other_marks_are_other_rows(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"messages": chat(**m)}) + "\n" for m in ({}, {"weight": 0})))
    one, two = read(str(file)).records
    assert one.record_id != two.record_id
    assert "#" not in two.record_id
    assert untrained_turns((one, two)) == 1
    assert identity(Fields(RawRow({}, "f", 1), {}), one.prompt, one.completion) == one.record_id


def test_marks_in_pairs_survive_writing(tmp_path):
    question, bad, other, good = chat(weight=0)
    row = {"prompt": [question], "chosen": [bad, other, good], "rejected": [bad, other, {**good, "content": "worse"}]}
    pair = record(tmp_path, row)
    assert isinstance(pair, Pair)
    assert [m.trained for m in pair.chosen] == [False, True, True]
    assert record(tmp_path, pair_row(pair)) == pair


def test_marks_in_a_prompt_change_nothing_of_it(tmp_path):
    plain, marked = (
        convert("messages_prompt", {"messages": [*turns, {"role": "user", "content": "C?"}]}) for turns in (chat(), chat(weight=0))
    )
    assert plain.prompt_id == marked.prompt_id
    assert plain.messages == marked.messages
