"""Data sets of images with text, row by row: what becomes the prompt, the answer and the truth, and which rows are refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset, read
from keel.data.unread import unread_columns
from keel.render.pixels import image_bytes
from keel.rewards.verifiers.choice import ChoiceReward, choice
from keel.types import Demonstration, ImagePart, Pair, Prompt, TextPart


def picture(colour: str = "red", form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, form)
    return out.getvalue()


def write(tmp_path: Path, *rows: Any, name: str = "rows.jsonl") -> str:
    (tmp_path / name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return str(tmp_path / name)


def rows(tmp_path: Path, *values: Any, **config: Any) -> Dataset:
    path = write(tmp_path, *values)
    return read(path, DataConfig(path=path, **config))


def reason(tmp_path: Path, value: Any, **config: Any) -> str:
    with pytest.raises(DataError) as error:
        rows(tmp_path, value, strict=True, **config)
    return error.value.message


def parts(record: Any) -> list[str]:
    """What the first turn shows: texts, and names of images in angle brackets."""
    content: Any = (record if isinstance(record, Prompt) else record.prompt).messages[0].content
    return [p.text if isinstance(p, TextPart) else f"<{Path(p.source).name}>" for p in content]


def gpt(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]


# --- LLaVA ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "images", "want"),
    [
        ("<image>\nWhat is this?", "a.png", ["<a.png>", "What is this?"]),
        ("What is this?\n<image>", "a.png", ["What is this?", "<a.png>"]),
        ("What is this?", "a.png", ["<a.png>", "What is this?"]),  # no mark: in front
        ("<image>\n<image>\n两张图有什么不同？", ["a.png", "b.png"], ["<a.png>", "<b.png>", "两张图有什么不同？"]),
        ("First\n<image>\nthen <image>?", ["a.png", "b.png"], ["First\n", "<a.png>", "\nthen ", "<b.png>", "?"]),
        ("<image>", "a.png", ["<a.png>"]),
    ],
)
def test_llava_puts_images_where_the_marks_are(tmp_path, asked, images, want):
    name = "images" if isinstance(images, list) else "image"
    found = rows(tmp_path, {"id": "x", name: images, "conversations": gpt(asked, "A cat.")})
    assert found.layout == "llava"
    assert parts(found.records[0]) == want
    assert found.counts["images"] == (len(images) if isinstance(images, list) else 1)


def test_llava_of_several_turns_with_rows_without_images(tmp_path):
    """Text alone stands among rows with images, whichever are more; a conversation ends with an answer."""
    many = {"id": "1", "image": "a.png", "conversations": gpt("<image>\nWhat?", "A cat.", "And here <image>?", "A dog.")}
    many["images"] = ["a.png", "b.png"]
    del many["image"]
    text = {"id": "2", "conversations": gpt("What does <image> mean in HTML?", "Nothing.")}
    shown = {"id": "3", "image": "c.png", "conversations": gpt("<image>\nWhat?", "A hen.", "Why?", "因为有羽毛。")}
    for data in ((many, shown, text), (text, {**text, "id": "4"}, shown, {**text, "id": "5"})):
        found = rows(tmp_path, *data)
        assert not found.bad
        assert {parts(r)[0] for r in found.of(Demonstration) if r.record_id == "3"} == {"<c.png>"}
        assert {parts(r)[1] for r in found.of(Demonstration) if r.record_id == "3"} == {"What?"}
        (alone,) = [r for r in found.of(Demonstration) if r.record_id == "2"]
        assert alone.prompt.messages[0].content == "What does <image> mean in HTML?"
    first = rows(tmp_path, many, shown).of(Demonstration)[0]
    assert [m.role for m in first.completion] == ["assistant", "user", "assistant"]
    assert first.completion[1].content[1] == ImagePart(str(tmp_path / "b.png"))


def test_llava_rows_that_cannot_be_used(tmp_path):
    good = {"image": "a.png", "conversations": gpt("<image>\nWhat?", "A cat.")}
    found = rows(
        tmp_path,
        good,
        {"conversations": gpt("<image>\nWhat?", "A cat.")},
        {"image": "a.png", "conversations": gpt("<image>\n<image>\nWhat?", "A cat.")},
        {"image": "a.png", "conversations": gpt("<image>\nWhat?", " ")},
        {"image": "a.png", "conversations": gpt("<image>\nWhat?")},
    )
    assert [(b.line, b.field) for b in found.bad] == [(2, "image"), (3, "images"), (4, "conversations"), (5, "conversations")]
    assert "1 images for 2 <image> places" in found.bad[1].reason


# --- preferences ----------------------------------------------------------------------------------------------------------------


def test_rlhf_v_rlaif_v_and_povid_are_the_same_pair(tmp_path):
    said = {"question": "What is this?", "chosen": "A cat.", "rejected": "一只狗。"}
    asked = "<image>\nWhat is this?"
    forms = {
        "rlhf_v": {"ds_name": "x", "image": "cat.png", "text": json.dumps(said), "idx": 3},
        "question_preference": {"image": "cat.png", **said, "origin_split": '{"type": "question answering"}'},
        "povid": {"image": "cat.png", "conversations": gpt(asked, "A cat."), "rejected_conversations": gpt(asked, "一只狗。")},
    }
    pairs = []
    for layout, form in forms.items():
        found = rows(tmp_path, form)
        assert found.layout == layout
        pairs += found.of(Pair)
    for pair in pairs:
        assert parts(pair) == ["<cat.png>", "What is this?"]
        assert (pair.chosen[0].text, pair.rejected[0].text, pair.label) == ("A cat.", "一只狗。", 1.0)
    assert len({p.prompt.prompt_id for p in pairs}) == 1
    assert pairs[0].prompt.meta == {"ds_name": "x", "idx": 3}


def test_images_by_bytes_or_by_their_path(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    row = {"question": "What?", "chosen": "a", "rejected": "b", "image": {"bytes": picture(), "path": "x.png"}, "image_path": "y.png"}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    (pair,) = read(str(tmp_path / "a.parquet")).of(Pair)
    (image,) = [p for p in pair.prompt.messages[0].content if isinstance(p, ImagePart)]
    assert image_bytes(image) == picture()
    assert parts(rows(tmp_path, {**row, "image": None}).records[0])[0] == "<y.png>"
    alone = rows(tmp_path, {**row, "image": None, "image_path": None}).of(Pair)[0]
    assert alone.prompt.text == "What?"  # preferences of text alone, with a question's column


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"text": '{"question": "", "chosen": "a", "rejected": "b"}'}, "text.question: is empty"),
        ({"text": '{"question": "q", "chosen": "a", "rejected": "a"}'}, "text.chosen: is the same as rejected"),
        ({"text": '{"question": "q", "chosen": "a", "rejected": 3}'}, "text.rejected: must be text, is a number"),
        ({"question": "q", "chosen": " ", "rejected": "b"}, "chosen: is empty"),
        ({"question": "<image> or <image>?", "image": "a", "chosen": "c", "rejected": "b"}, "images: 1 images for 2"),
        (
            {"image": "a", "conversations": gpt("q", "a"), "rejected_conversations": gpt("other", "b")},
            "conversations: has no turns in common with rejected_conversations",
        ),
        ({"image": "a", "conversations": gpt("q", "a"), "rejected_conversations": gpt("q", "a")}, "is the same as rejected_conversations"),
        (
            {"image": "a", "conversations": gpt("q", "a"), "rejected_conversations": gpt("q", "")},
            "rejected_conversations: the answer is empty",
        ),
    ],
)
def test_pairs_that_cannot_be_used(tmp_path, row, why):
    assert why in reason(tmp_path, row)


def test_a_row_of_rlhf_v_with_broken_json_is_named(tmp_path):
    good = {"text": '{"question": "q", "chosen": "a", "rejected": "b"}'}
    found = rows(tmp_path, good, {"text": '{"question": "q", '}, {"text": "plain"}, good)
    assert found.layout == "rlhf_v"
    assert [(b.line, b.field) for b in found.bad] == [(2, "text"), (3, "text")]


# --- questions with choices -----------------------------------------------------------------------------------------------------


def judged(prompt: Prompt, text: str) -> float:
    return float(choice(ChoiceReward(name="c"))(prompt, text))


OKVQA = {
    "split": "train",
    "image_id": 299207,
    "question_id": "q1",
    "question": "What is the man by the bags waiting for?",
    "choices": ["skateboarder", "train", "delivery", "cab"],
    "correct_choice_idx": 3,
    "direct_answers": ["ride", "ride", "bus"],
    "difficult_direct_answer": False,
    "rationales": ["", "He waits at the kerb. A train would not stop there.", "He has bags."],
}


def test_a_okvqa(tmp_path):
    found = rows(tmp_path, OKVQA)
    (demo,) = found.of(Demonstration)
    assert found.layout == "a_okvqa"
    assert parts(demo)[0] == "<000000299207.jpg>"
    assert "\nC. delivery\nD. cab\nGive the reason" in parts(demo)[1]
    assert demo.completion[0].text == "He waits at the kerb. A train would not stop there.\nAnswer: D"
    meta = demo.prompt.meta
    assert (meta["ground_truth"], meta["choices"]["B"], meta["direct_answers"]) == ("D", "train", ["ride", "ride", "bus"])
    assert meta["reasons"] == OKVQA["rationales"][1:]
    assert not unread_columns(found.records)
    assert [judged(demo.prompt, t) for t in ("D", "the cab", "B", demo.completion[0].text)] == [1.0, 1.0, 0.0, 1.0]
    plain = rows(tmp_path, {**OKVQA, "rationales": [], "correct_choice_idx": 0}).of(Demonstration)[0]
    assert plain.completion[0].text == "A"
    chinese = {**OKVQA, "question": "他在等什么？", "choices": ["火车", "出租车"], "correct_choice_idx": 1, "rationales": ["他站在路边。"]}
    asked = rows(tmp_path, chinese).of(Demonstration)[0]
    assert asked.completion[0].text == "他站在路边。\n答案：B"
    assert [judged(asked.prompt, t) for t in ("选B", "火车")] == [1.0, 0.0]
    for bad in (4, -1, 1.5, "x"):
        assert "correct_choice_idx" in reason(tmp_path, {**OKVQA, "correct_choice_idx": bad})


def test_a_okvqas_test_set_has_questions_alone(tmp_path):
    test = {k: v for k, v in OKVQA.items() if k in ("image_id", "question", "choices")}
    found = rows(tmp_path, test)
    (prompt,) = found.of(Prompt)
    assert found.layout == "a_okvqa_prompt"
    assert "ground_truth" not in prompt.meta
    assert parts(prompt)[1].endswith("Answer with the letter of the right option.")


def table(tmp_path: Path, *lines: dict[str, str]) -> str:
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
    text = "\n".join("\t".join(line.get(c, "") for c in columns) for line in lines)
    (tmp_path / "bench.tsv").write_text("\t".join(columns) + "\n" + text + "\n", encoding="utf-8")
    return str(tmp_path / "bench.tsv")


def test_mmbench(tmp_path):
    """Images in base64 (JPEG begins like a path), by path, by the index of another row; two options or four; Chinese."""
    first = {"index": "7", "question": "What is it?", "hint": "It purrs.", "A": "dog", "B": "cat", "answer": "B", "category": "animals"}
    jpeg = base64.b64encode(picture(form="JPEG")).decode()
    assert jpeg.startswith("/9j/")
    lines = [
        {**first, "image": jpeg},
        {**first, "index": "1000007", "A": "cat", "B": "dog", "answer": "A", "image": "7"},
        {
            "index": "8",
            "question": "图中是什么建筑？",
            "A": "天坛",
            "B": "故宫",
            "C": "长城",
            "D": "少林寺",
            "answer": "C",
            "image": "pics/8.jpg",
        },
        {**first, "index": "9", "answer": "", "image": base64.b64encode(picture()).decode()},
    ]
    path = table(tmp_path, *lines)
    found = read(path, DataConfig(path=path, images=str(tmp_path)))
    assert (found.layout, found.bad, found.counts["images"]) == ("mmbench", (), 3)
    prompts = found.of(Prompt)
    sources: list[Any] = [p.messages[0].content[0] for p in prompts]
    assert [image_bytes(s) for s in (sources[0], sources[1], sources[3])] == [picture(form="JPEG")] * 2 + [picture()]
    assert sources[2] == ImagePart(str(tmp_path / "pics/8.jpg"))
    assert parts(prompts[0])[1] == "It purrs.\nWhat is it?\nA. dog\nB. cat\nAnswer with the letter of the right option."
    assert [p.meta.get("ground_truth") for p in prompts] == ["B", "A", "C", None]
    assert parts(prompts[2])[1].endswith("D. 少林寺\n请用正确选项的字母回答。")
    assert [judged(p, "cat") for p in prompts[:2]] == [1.0, 1.0]
    assert [judged(prompts[2], t) for t in ("C", "答案是长城", "A")] == [1.0, 1.0, 0.0]
    assert prompts[0].meta["category"] == "animals"


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        ({"answer": "D"}, "answer", "'D' is none of the options A, B"),
        ({"A": ""}, "A", "is missing"),
        ({"C": "", "D": "cow"}, "C", "is empty, but option D is not"),
        ({"B": "dog"}, "B", "is the same as option A"),
        ({"question": " "}, "question", "is empty"),
        ({"image": "3"}, "image", "3 is the index of no row that holds an image"),
        ({"image": "A" * 80}, "image", "is base64, but of no image"),
        ({"image": "/9j/" + "!" * 80}, "image", "neither a path nor base64"),
        ({"hint": "nan"}, "hint", "is 'nan'"),
    ],
)
def test_rows_of_mmbench_that_cannot_be_used(tmp_path, change, field, why):
    good = {"index": "7", "question": "What is it?", "A": "dog", "B": "cat", "answer": "B", "image": "7.jpg"}
    found = read(table(tmp_path, good, {**good, "index": "8", **change}))
    (bad,) = found.bad
    assert (bad.line, bad.field) == (3, field)
    assert why in bad.reason


# --- captions -------------------------------------------------------------------------------------------------------------------


def test_captions_boxes_and_objects_from_rows_of_ones_own(tmp_path):
    assert parts(rows(tmp_path, {"image": "a.png", "caption": "一只猫。"}).records[0]) == ["<a.png>", "用一句话描述这张图片。"]
    assert "caption: is empty" in reason(tmp_path, {"image": "a.png", "caption": " "})
    box = {"image": "a.png", "phrase": "a tail", "box": [1, 2, 3]}
    assert "box: must be x, y, width, height, has 3 numbers" in reason(tmp_path, box)
    assert "box.1: must be a number" in reason(tmp_path, {**box, "box": [1, "x", 3, 4]})
    assert "image_size: must be width, height" in reason(tmp_path, {**box, "box": [1, 2, 3, 4], "image_size": [5]})
    assert "instances: must be a list of objects" in reason(tmp_path, {"image": "a.png", "instances": [1]})
    assert rows(tmp_path, {"prompt": "q", "completion": "a", "image": "a.png", "caption": "c"}).layout == "prompt_completion"
