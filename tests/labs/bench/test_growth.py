"""Growth curves: what is measured at each value, the table and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from labs.bench import growth
from labs.bench.compare import Plan
from labs.bench.workload import ModelShape, Workload

pytestmark = pytest.mark.stages

BASE = Workload("rl", ModelShape())


def measured(plan: Plan) -> dict[str, Any]:
    """As long as the completions, a megabyte a word of the vocabulary."""
    side = {"step_s": float(plan.work.completion), "peak_mb": float(plan.work.model.vocab)}
    return {"keel": side, "trl": {name: 4 * x for name, x in side.items()}, "machine": {"cores": 2}}


def test_one_size_changes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Workload] = []
    monkeypatch.setattr(growth, "compare", lambda plan: asked.append(plan.work) or measured(plan))
    found = growth.grow(Plan(BASE), list(growth.AXES))
    assert [(p["axis"], p["value"]) for p in found["points"]] == [(name, v) for name, axis in growth.AXES.items() for v in axis.values]
    assert [w.group for w in asked] == [2, 4, 8, 16] + [BASE.group] * 13
    assert [(w.prompt_min, w.prompt_max) for w in asked[8:11]] == [(32, 32), (128, 128), (512, 512)]
    assert [(w.model.vocab, w.model.hidden) for w in asked[-4:]] == [(128000, 256), (32000, 128), (32000, 256), (32000, 512)]


def test_the_table_and_the_picture_hold_every_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(growth, "compare", measured)
    files = "--json", str(tmp_path / "g.json"), "--plot", str(tmp_path / "p" / "g.png")
    assert main(["bench", "growth", "--axes", "completion", "vocab", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| axis | value | keel s | trl s | keel MB | trl MB |"
    assert "| completion | 64 | 64.00 | 256.00 | 32000 | 128000 |" in lines
    assert len(json.loads((tmp_path / "g.json").read_text())["points"]) == 7
    assert (tmp_path / "p" / "g.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_axis_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "growth", "--axes", "depth"]) == 2
    assert "depth" in capsys.readouterr().err


def test_keel_is_measured_at_a_value(monkeypatch: pytest.MonkeyPatch, in_process: None, proofs: None) -> None:
    monkeypatch.setitem(growth.AXES, "group", growth.Axis("samples", (2,), growth.AXES["group"].at))
    small = ModelShape("llama", vocab=64, hidden=16, layers=1, intermediate=16)
    work = Workload("rl", small, prompts=1, completion=4, prompt_min=3, prompt_max=4, threads=1, steps=1)
    found = growth.grow(Plan(work, "none", 1), ["group"])
    assert found["points"][0]["keel"]["step_s"] > 0
