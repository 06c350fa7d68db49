"""Small data sets whose best way is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # makes the helpers of this folder importable
Row = dict[str, Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Sequence[Row]], str]:
    """Rows to a file; its path."""

    def to_file(rows: Sequence[Row], name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return to_file


@pytest.fixture
def advise(tmp_path: Path, write: Callable[[Sequence[Row]], str], monkeypatch: pytest.MonkeyPatch, proofs: None) -> Callable[..., Row]:
    """``advise(rows, "--race", "race.steps=1")``: through the command line, on a tiny model; the JSON that it writes."""
    from keel.cli import main

    def run(rows: Sequence[Row], *more: str, model: str = "tiny:llama?seed=1") -> Row:
        out = tmp_path / "advice.json"
        monkeypatch.chdir(tmp_path)
        given = ["advise", write(rows), "--json", str(out), "--model", model, *more]
        assert main(given) == 0
        return json.loads(out.read_text(encoding="utf-8"))

    return run
