"""easy-VQA's files: a list of [question, answer, image]."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from keel.data.config import DataConfig
from keel.data.dataset import load


def test_each_triple_is_a_demonstration_with_its_picture_and_a_broken_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{i}.png")
    rows = [["what color is it?", "blue", 0], ["is there a circle?", "yes", 1], ["no image", "yes"], ["is it?", True, 1], ["x", "y", -1]]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    data = load(DataConfig(path=str(tmp_path / "questions.json")), 0)
    found = [(r.prompt.last_user_text, r.completion[0].text) for r in data.records]
    assert found == [("what color is it?", "blue"), ("is there a circle?", "yes")]
    sources = [
        part.source
        for r in data.records
        for m in r.prompt.messages
        for part in m.content
        if not isinstance(part, str) and hasattr(part, "source")
    ]
    assert [Path(s).name for s in sources] == ["0.png", "1.png"]
    assert [(bad.line, bad.reason[:9]) for bad in data.bad] == [(3, "must be ["), (4, "must be ["), (5, "must be [")]
