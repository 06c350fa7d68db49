from __future__ import annotations

import json

import pytest

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import read
from keel.data.layouts import LAYOUTS, match
from keel.types import Comparison, Demonstration, ImagePart, Message, Pair, Prompt, Ranking, Rating, Steps, TextPart, Unpaired

USER, GOOD, POOR = (
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "assistant", "content": "5"},
)
KINDS = {
    "povid": Pair,
    "llava": Demonstration,
    "rlhf_v": Pair,
    "question_preference": Pair,
    "mmbench": Prompt,
    "a_okvqa": Demonstration,
    "a_okvqa_prompt": Prompt,
    "image_objects": Prompt,
    "image_region": Demonstration,
    "image_caption": Demonstration,
    "comparison": Comparison,
    "hh_rlhf": Pair,
    "rewardbench2": Ranking,
    "sharegpt_preference": Pair,
    "sharegpt_unpaired": Unpaired,
    "sharegpt": Demonstration,
    "alpaca_preference": Pair,
    "alpaca_unpaired": Unpaired,
    "alpaca": Demonstration,
    "alpaca_prompt": Prompt,
    "swift_preference": Pair,
    "swift_unpaired": Unpaired,
    "messages_prompt": Prompt,
    "messages": Demonstration,
    "preference": Pair,
    "messages_preference": Pair,
    "preference_implicit": Pair,
    "stepwise": Steps,
    "nemo_ranking": Ranking,
    "ranking": Ranking,
    "verl": Prompt,
    "rating": Rating,
    "rating_one": Rating,
    "helpsteer": Rating,
    "unpaired": Unpaired,
    "logged": Rating,
    "prompt_completion": Demonstration,
    "question_answer": Demonstration,
    "prompt": Prompt,
    "text": Demonstration,
}


def rows(tmp_path, *values, name="rows.jsonl", **config):
    file = tmp_path / name
    file.write_text("".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values), encoding="utf-8")
    return read(str(file), DataConfig(path=str(file), **config))


def one(tmp_path, value, **config):
    dataset = rows(tmp_path, value, **config)
    assert len(dataset) == 1, dataset.bad
    return dataset.records[0]


def reason(tmp_path, value, **config):
    """Why a row is bad, beside a good row."""
    with pytest.raises(DataError) as error:
        rows(tmp_path, value, strict=True, **config)
    return error.value.message


def text(turns):
    return [(m.role, m.text) for m in turns]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.name)
def test_every_example_is_detected_as_its_layout_and_converts(tmp_path, layout):
    assert match(layout.example) is layout
    dataset = rows(tmp_path, layout.example)
    assert dataset.layout == layout.name
    assert type(dataset.records[0]) is KINDS[layout.name]
    assert dataset.counts["records"] == 1


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x.name)
def test_every_needed_column_is_missed(tmp_path, layout):
    for column in layout.needs:
        broken = {k: v for k, v in layout.example.items() if k != column}
        with pytest.raises(DataError, match=rf"{column}: is missing"):
            rows(tmp_path, broken, layout=layout.name)


def test_pairs_in_all_their_forms_are_the_same_pair(tmp_path):
    forms = [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [POOR]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, POOR]},
        {"chosen": [USER, GOOD], "rejected": [USER, POOR]},
        {"messages": [USER, GOOD], "rejected_response": "5"},
        {"instruction": "2 + 2?", "chosen": "4", "rejected": "5"},
        {
            "conversations": [{"from": "human", "value": "2 + 2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"},
    ]
    pairs = [one(tmp_path, form, name=f"{i}.jsonl") for i, form in enumerate(forms)]
    for pair in pairs:
        assert text(pair.prompt.messages) == [("user", "2 + 2?")]
        assert (text(pair.chosen), text(pair.rejected)) == ([("assistant", "4")], [("assistant", "5")])
    bare = one(tmp_path, {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})
    assert bare.prompt.text == "2 + 2?"
    assert {p.prompt.prompt_id for p in [*pairs, bare]} == {bare.prompt.prompt_id}  # one prompt, however it is written


def test_optional_columns_of_pairs(tmp_path):
    base = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert one(tmp_path, base).margin == 0.0
    assert one(tmp_path, {**base, "margin": 1.5}).margin == 1.5
    assert one(tmp_path, {**base, "strength": 0.25}).margin == 0.25
    assert one(tmp_path, {**base, "confidence": 0.5}).weight == 0.5
    assert one(tmp_path, {**base, "label": 0.75}).label == 0.75
    assert one(tmp_path, {**base, "tie": True}).label == 0.5
    assert "ties are not accepted" in reason(tmp_path, {**base, "tie": True}, ties=False)
    assert "label" in reason(tmp_path, {**base, "label": 2})


def test_implicit_prompt_of_strings_ends_at_a_word(tmp_path):
    pair = one(tmp_path, {"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert pair.prompt.text == "The sky is"
    assert (pair.prompt.joint, pair.chosen[0].text, pair.rejected[0].text) == (" ", "blue.", "black.")


def test_implicit_prompt_keeps_shared_answers_out_of_the_completion(tmp_path):
    talk = [USER, GOOD, {"role": "user", "content": "And 3?"}]
    pair = one(tmp_path, {"chosen": [*talk, GOOD], "rejected": [*talk, POOR]})
    assert text(pair.prompt.messages) == [("user", "2 + 2?"), ("assistant", "4"), ("user", "And 3?")]


def test_implicit_prompt_when_one_dialogue_is_the_others_beginning(tmp_path):
    more = [GOOD, {"role": "user", "content": "Sure?"}, GOOD]
    for chosen, rejected in ((more, [GOOD]), ([GOOD], more)):
        pair = one(tmp_path, {"chosen": [USER, *chosen], "rejected": [USER, *rejected]})
        assert text(pair.prompt.messages) == [("user", "2 + 2?")]
        assert (len(pair.chosen), len(pair.rejected)) == (len(chosen), len(rejected))


def test_hh_dialogue_with_the_same_speaker_twice(tmp_path):
    head = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nHuman: d\n\nAssistant:"
    pair = one(tmp_path, {"chosen": head + " e", "rejected": head + " f\n\ng"})
    assert text(pair.prompt.messages) == [("user", "a\n\nb"), ("assistant", "c"), ("user", "d")]
    assert pair.rejected[0].text == "f\n\ng"
    assert "the answer is empty" in reason(tmp_path, {"chosen": head, "rejected": head + " f"})


def test_alpaca_system_history_and_input(tmp_path):
    demo = one(
        tmp_path,
        {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief.", "history": [["Hi", "Hello"], ["Sum?", "Yes"]]},
    )
    assert text(demo.prompt.messages) == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Sum?"),
        ("assistant", "Yes"),
        ("user", "Add.\n1, 2"),
    ]
    assert text(demo.completion) == [("assistant", "3")]


def test_sharegpt_tools(tmp_path):
    demo = one(
        tmp_path,
        {
            "conversations": [
                {"from": "human", "value": "Time?"},
                {"from": "function_call", "value": '{"name": "clock", "arguments": {"zone": "UTC"}}'},
                {"from": "observation", "value": "12:00"},
                {"from": "gpt", "value": "Noon."},
            ],
            "system": "S.",
            "tools": '[{"name": "clock"}]',
        },
    )
    assert text(demo.prompt.messages) == [("system", "S."), ("user", "Time?")]
    assert demo.prompt.tools == ({"type": "function", "function": {"name": "clock"}},)
    assert [m.role for m in demo.completion] == ["assistant", "tool", "assistant"]
    assert demo.completion[0].extra["tool_calls"][0]["function"] == {"name": "clock", "arguments": {"zone": "UTC"}}


def test_messages_keep_reasoning_and_multi_turn(tmp_path):
    turns = [USER, {**GOOD, "reasoning_content": "two and two"}, {"role": "user", "content": "sure?"}, GOOD]
    demo = one(tmp_path, {"messages": turns, "topic": "sums"})
    assert text(demo.prompt.messages) == [("user", "2 + 2?")]
    assert len(demo.completion) == 3
    assert demo.completion[0].extra == {"reasoning_content": "two and two"}
    assert demo.prompt.meta == {"topic": "sums"}


def test_verl_nemo_gsm8k(tmp_path):
    prompt = one(tmp_path, next(x for x in LAYOUTS if x.name == "verl").example)
    assert prompt.meta["ground_truth"] == "4"
    assert prompt.meta["data_source"] == "sums"
    entries = [{"rank": 2, "completion": "c"}, {"rank": 0, "completion": "a"}, {"rank": 2, "completion": "d"}]
    ranking = one(tmp_path, {"context": [USER], "completions": entries})
    assert ranking.ranks == (2, 1, 2)  # dense, ties stay ties
    demo = one(tmp_path, {"question": "q", "answer": "so\n#### 1,234"})
    assert demo.prompt.meta["ground_truth"] == "1234"
    assert one(tmp_path, {"prompt": "q", "solution": "7"}).meta["ground_truth"] == "7"


def test_openrlhf_key_flags(tmp_path):
    row = {"context_messages": [USER], "good": "4", "bad": "5"}
    pair = one(tmp_path, row, keys={"prompt_key": "context_messages", "chosen_key": "good", "rejected_key": "bad"})
    assert text(pair.chosen) == [("assistant", "4")]
    demo = one(tmp_path, {"question": "2 + 2?", "response": "4"}, keys={"input_key": "question", "output_key": "response"})
    assert (demo.prompt.text, demo.completion[0].text) == ("2 + 2?", "4")


def test_images_in_all_their_forms(tmp_path):
    picture = ImagePart(str(tmp_path / "cat.png"))
    forms = [
        {"messages": [{"role": "user", "content": "<image>What?"}, GOOD], "images": ["cat.png"]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}, GOOD], "images": ["cat.png"]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "cat.png"}}, {"type": "text", "text": "What?"}]},
                GOOD,
            ]
        },
        {"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "4"}], "images": ["cat.png"]},
        {"prompt": "What?", "completion": "4", "image": "cat.png"},
        {"instruction": "<image>What?", "output": "4", "images": ["cat.png"]},
        {"messages": [{"role": "user", "content": "What?"}, GOOD], "images": [{"path": "cat.png", "bytes": None}]},
    ]
    for i, form in enumerate(forms):
        demo = one(tmp_path, form, name=f"{i}.jsonl")
        assert demo.prompt.messages[0].content == (picture, TextPart("What?")), form
    swift = {"messages": [{"role": "user", "content": "<image>?"}, GOOD], "rejected_response": "5", "images": ["cat.png"]}
    assert one(tmp_path, swift).prompt.messages[0].content == (picture, TextPart("?"))
    embedded = one(tmp_path, {"prompt": "What?", "images": ["data:image/png;base64,AAAA"]})
    assert embedded.messages[0].content[0] == ImagePart("data:image/png;base64,AAAA")


def test_images_that_do_not_fit_are_bad_rows(tmp_path):
    message = {"role": "user", "content": "<image> or <image>?"}
    assert "1 images for 2 <image> places" in reason(tmp_path, {"messages": [message, GOOD], "images": ["cat.png"]})
    assert "not fetched" in reason(tmp_path, {"prompt": "?", "images": ["https://example.org/cat.png"]})
    spoken = one(tmp_path, {"messages": [{"role": "user", "content": "What does <image> mean?"}, GOOD]})
    assert spoken.prompt.messages[0].content == "What does <image> mean?"  # no images: the mark is only text


def test_prompt_id_does_not_depend_on_where_the_folder_is(tmp_path):
    ids = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ids.add(one(tmp_path / name, {"prompt": "?", "images": ["cat.png"]}).prompt_id)
    assert len(ids) == 1


def test_keels_own_comparison_row(tmp_path):
    row = {
        "record_id": "c1",
        "prompt": {
            "prompt_id": "p1",
            "messages": [{"role": "user", "content": "2 + 2?", "extra": {}}],
            "text": None,
            "meta": {"topic": "sums"},
        },
        "candidates": [{"candidate_id": "x", "text": "4", "origin": {"temperature": 0.7}}, {"candidate_id": "y", "text": "5"}],
        "outcome": "second",
        "strength": 0.5,
        "annotator_id": "ann",
        "protocol": "pairwise-v1",
        "display_order": [1, 0],
        "source_id": "web",
    }
    c = one(tmp_path, row)
    assert (c.record_id, c.prompt.prompt_id, c.prompt.meta, c.outcome, c.display_order) == ("c1", "p1", {"topic": "sums"}, "second", (1, 0))
    assert c.candidates[0].origin == {"temperature": 0.7}
    assert c.source_id == "web"
    assert c.prompt.messages == (Message("user", "2 + 2?"),)
    for field, value in {"outcome": "left", "strength": 2, "display_order": [0, 0], "candidates": ["4", "4"]}.items():
        assert field in reason(tmp_path, {**row, field: value})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "completion": " \n"}, "completion: the answer is empty"),
        ({"prompt": " ", "completion": "b"}, "prompt: is empty"),
        ({"prompt": "a", "completion": 7}, "completion: must be text or messages, is a number"),
        ({"prompt": 7, "completion": "b"}, "prompt: must be text, messages or a prompt object, is a number"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen: is the same as rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "rejected: the answer is empty"),
        ({"messages": [{"role": "robot", "content": "x"}, GOOD]}, "messages.0.role: unknown role 'robot'"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages.1: has no content"),
        ({"messages": [{"content": "x"}, GOOD]}, "messages.0: has no role"),
        ({"messages": [GOOD]}, "messages: begins with the assistant's turn"),
        ({"messages": [USER, GOOD, {"role": "tool", "content": "x"}]}, "ends with a tool turn"),
        ({"prompt": [USER, GOOD], "completion": "b"}, "prompt: ends with an assistant turn"),
        ({"prompt": "a", "completions": ["b"], "labels": [True, False]}, "labels: 2 labels for 1 steps"),
        ({"prompt": "a", "completions": ["b", " "], "labels": [True, False]}, "completions.1: the step is empty"),
        ({"prompt": "a", "answers": ["b", "c"], "ranks": [1]}, "ranks: 1 ranks for 2 answers"),
        ({"prompt": "a", "answers": ["b"], "ranks": [1]}, "at least two"),
        ({"prompt": "a", "answer": "b", "rating": "high"}, "rating: must be a number"),
        ({"prompt": "a", "answer": "b", "scores": {"x": None}}, "scores: must be an object"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "history.0"),
        ({"prompt": "a", "completion": "b", "tools": "{"}, "tools: broken JSON"),
        ({"data_source": "x", "prompt": [USER], "reward_model": {"style": "rule"}}, "reward_model"),
    ],
)
def test_bad_rows_name_field_and_reason(tmp_path, row, why):
    assert why in reason(tmp_path, row)


def test_preference_store_rows_are_read_as_written(tmp_path):
    from keel.feedback.store import append
    from keel.types import Candidate

    prompt = Prompt(
        "p1", (Message("user", (ImagePart("/cat.png"), TextPart("?")), {"name": "ann"}),), source_id="f:1", meta={"topic": "cats"}
    )
    two = (Candidate("x", "a cat", {"temperature": 0.7}), Candidate("y", "a dog"))
    written = Comparison("c1", prompt, two, "tie", 0.0, "ann", "pairwise-v1", (1, 0), "round 1")
    append(tmp_path / "store.jsonl", [written])
    (found,) = read(str(tmp_path / "store.jsonl")).records
    assert (found.prompt.messages, found.prompt.prompt_id, found.prompt.meta) == (prompt.messages, "p1", {"topic": "cats"})
    assert (found.candidates, found.outcome, found.display_order, found.source_id) == (two, "tie", (1, 0), "round 1")
