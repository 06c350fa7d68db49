"""`keel data show` on data sets of images with text, as they are found in the field: what was read is counted, and rows are shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keel.verbs.data_show import data_show

ASKED, TOLD, WRONG = (
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "gpt", "value": "A dog."},
)
PAIR = {"question": "What is it?", "chosen": "A cat.", "rejected": "A dog."}
REGION = {"region_id": 1, "image_id": 1, "phrase": "a tail", "x": 1, "y": 2, "width": 3, "height": 4}
COCO: dict[str, Any] = {"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 3, "name": "cat"}]}
FILES: dict[str, tuple[str, Any]] = {  # name of the file -> layout, content
    "captions_val.json": ("image_caption", COCO | {"annotations": [{"id": 1, "image_id": 1, "caption": "一只猫。"}]}),
    "instances_val.json": ("image_objects", COCO | {"annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}]}),
    "region_descriptions.json": ("image_region", [{"id": 1, "regions": [REGION]}]),
    "question_answers.json": ("question_answer", [{"id": 1, "qas": [{"qa_id": 1, "image_id": 1, "question": "Who?", "answer": "A cat."}]}]),
    "aokvqa_val.json": ("a_okvqa", [{"image": "1.jpg", "question": "What?", "choices": ["dog", "cat"], "correct_choice_idx": 1}]),
    "llava.json": ("llava", [{"id": "1", "image": "1.jpg", "conversations": [ASKED, TOLD]}]),
    "rlhf_v.jsonl": ("rlhf_v", {"image": "1.jpg", "text": json.dumps(PAIR)}),
    "rlaif_v.jsonl": ("question_preference", {"image_path": "1.jpg", **PAIR}),
    "povid.json": ("povid", [{"image": "1.jpg", "conversations": [ASKED, TOLD], "rejected_conversations": [ASKED, WRONG]}]),
    "mmbench.tsv": ("mmbench", "index\tquestion\timage\tA\tB\tanswer\n0\tWhat is it?\tIMAGE\ta dog\ta cat\tB\n"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_row_is_shown_as_it_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    layout, content = FILES[name]
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (24, 24), "red").save(tmp_path / "pictures" / "1.jpg")
    image = base64.b64encode((tmp_path / "pictures" / "1.jpg").read_bytes()).decode()
    text = content.replace("IMAGE", image) if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = data_show(str(tmp_path / name), "tiny:llava", 1, [f"data.images={tmp_path / 'pictures'}"])
    assert found["layout"] == layout
    assert (found["counts"]["rows"], found["counts"]["records"], found["counts"]["images"], found["bad"]) == (1, 1, 1, [])
    shown = capsys.readouterr().out
    assert "1 images" in shown
    assert "refused" not in shown
    assert "cat" in shown or "猫" in shown or "tail" in shown or layout == "image_objects"
