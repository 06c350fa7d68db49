"""Pictures of runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.cli import main
from keel.core.errors import RunError, UserError
from keel.evaluate.run_plots import plot_runs


def run(path: Path, values: list[float], emergency: int | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step": i + 1, "kl": v}) + "\n" for i, v in enumerate(values)))
    if emergency is not None:
        (path / "events.jsonl").write_text(json.dumps({"kind": "emergency", "step": emergency}) + "\n")
        (path / "abandoned.jsonl").write_text(json.dumps({"step": emergency, "kl": 99.0}) + "\n")
    return path


def test_curves_of_two_runs(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", [0.1, 0.2]), run(tmp_path / "b", [0.1, float("nan"), 50.0], 2)]
    plot_runs(runs, ["kl"], tmp_path / "out" / "p.svg")
    svg = (tmp_path / "out" / "p.svg").read_text()
    plot_runs(runs[:1], ["kl"], tmp_path / "one.svg")
    assert len(svg) > len((tmp_path / "one.svg").read_text()), "another curve, dots and a line"


def test_what_cannot_be_drawn_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = run(tmp_path / "a", [1.0])
    with pytest.raises(RunError, match="no run has the metric 'reward'") as caught:
        plot_runs([known], ["reward"], tmp_path / "p.png")
    assert "there are: kl, step" in caught.value.hint
    with pytest.raises(RunError, match="there are no metrics"):
        plot_runs([tmp_path], ["kl"], tmp_path / "p.png")
    with pytest.raises(UserError, match="cannot be written"):
        plot_runs([known], ["kl"], tmp_path / "p.unknown")
    assert main(["runs", "--compare", str(known), "--plot", "p.png"]) == 2
    assert "go together" in capsys.readouterr().err
