"""`keel data clean`: rows stay as they stood, what goes is written beside, nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keel.cli import main
from keel.data.config import DataConfig
from keel.data.dataset import load


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_rows_are_cleaned_and_none_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [
        {"instruction": "请写一句话", "output": "今天天气很好", "extra": [1, {"k": "v"}]},
        {"instruction": "请写一句话", "output": "今天天气很好", "extra": "other"},
        {"instruction": "Look at it", "output": "a red dog", "image": "a.png"},
        {"instruction": "What is the name of the tallest hill", "output": "no idea"},
        {"instruction": "Empty", "output": ""},
        {"instruction": "Symbols", "output": "### $$$ ***"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "what is the name of the tallest hill?"}))
    (tmp_path / "to").mkdir()
    out = tmp_path / "to" / "out.jsonl"
    given = [
        "data",
        "clean",
        str(tmp_path / "in.jsonl"),
        "--out",
        str(out),
        f"clean.decontaminate.path=[{tmp_path / 'eval.jsonl'}]",
        "--json",
    ]
    assert main(given) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {k: summary[k] for k in ("rows", "bad_rows", "kept", "removed", "exact_duplicate", "evaluation", "quality")} == {
        "rows": 6,
        "bad_rows": 1,
        "kept": 2,
        "removed": 3,
        "exact_duplicate": 1,
        "evaluation": 1,
        "quality": 1,
    }
    kept, gone = lines(out), lines(tmp_path / "to" / "out.removed.jsonl")
    assert kept == [rows[0], {**rows[2], "image": str(tmp_path / "a.png")}]
    assert [g["rule"] for g in gone] == ["exact_duplicate", "evaluation", "quality", "bad_row"]
    assert [g["row"] for g in gone] == [rows[1], rows[3], rows[5], rows[4]]
    assert len(load(DataConfig(path=str(out)))) == 2
    assert main(given) == 2
    assert "is there already" in capsys.readouterr().err


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "q"}))
    for given, part in (
        (["data", "clean", str(tmp_path / "in.jsonl")], "needs --out"),
        (["data", "show", str(tmp_path / "in.jsonl"), "--out", "x"], "belongs to keel data clean"),
        (["data", "clean", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "no" / "x.jsonl")], "no such folder"),
        (["data", "clean", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "x.jsonl"), "clean.similarity=2"], "similarity"),
    ):
        assert main(given) == 2
        assert part in capsys.readouterr().err
