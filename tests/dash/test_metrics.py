"""Columns in memory are what stands in the file, however it is read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash_tools import make_run, steps

from keel.dash import metrics as metrics_module
from keel.dash.metrics import Metrics
from keel.runs import columns, logs


def _points(found: Any, name: str) -> list[tuple[float, float]]:
    return [(float(s), float(v)) for s, v in zip(*found.points(name), strict=True)]


def test_sparse_and_late_columns(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r", [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0, "b": 5.0}, {"step": 3, "b": 6.0}, {"step": 4, "a": 4.0, "b": 7.0}]
    )
    found = Metrics(run / "metrics.jsonl")
    assert found.advance()
    assert _points(found, "a") == [(1, 1), (2, 2), (4, 4)]
    assert _points(found, "b") == [(2, 5), (3, 6), (4, 7)]
    assert _points(found, "c") == []


def test_what_is_not_finite_stays_so(tmp_path: Path) -> None:
    rows = [{"step": i, "a": v} for i, v in enumerate((1.0, float("nan"), float("inf"), float("-inf"), 1e300))]
    found = Metrics(make_run(tmp_path / "r", rows) / "metrics.jsonl")
    found.advance()
    values = found.points("a")[1]
    assert np.isnan(values[1])
    assert values[2] == np.inf == values[4]
    assert values[3] == -np.inf


def test_lines_that_are_no_row_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "a": 1}\nnonsense\n[1]\n\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    found = Metrics(path)
    assert found.advance()
    assert (_points(found, "a"), found.left_out, found.share) == ([(1, 1), (2, 2)], 2, 1.0)


def test_the_side_file_gives_the_same_as_the_log(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(columns, "BLOCK", 16)
    run = make_run(tmp_path / "r", steps(100, b=lambda i: i / 7 if i % 5 == 0 else "NaN"))
    plain = Metrics(run / "metrics.jsonl")
    plain.advance()
    columns.load(run / "metrics.jsonl")  # makes it
    asked = list[int]()
    was = columns.stored
    monkeypatch.setattr(columns, "stored", lambda path, first, start: asked.append(first) or was(path, first, start))
    sealed = Metrics(run / "metrics.jsonl")
    sealed.advance()
    assert asked[:3] == [0, 16, 32]
    assert sealed.cursor == plain.cursor
    for name in ("reward", "b"):
        assert np.array_equal(sealed.points(name)[1], plain.points(name)[1], equal_nan=True)
        assert np.array_equal(sealed.points(name)[0], plain.points(name)[0])


def test_a_run_that_went_back_is_read_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps(20))
    found = Metrics(run / "metrics.jsonl")
    found.advance()
    logs.cut_end(run / "metrics.jsonl", lambda row: row["step"] > 5)
    logs.append(run / "metrics.jsonl", [{"step": 6, "reward": -1.0}])
    found.advance()
    assert found.generation == 1
    assert _points(found, "reward") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, -1)]


def test_a_preview_has_the_ends_and_something_between(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps(5000))
    shown = Metrics.preview(run / "metrics.jsonl", 50)
    at = shown.points("reward")[0]
    assert (at[0], at[-1]) == (1, 5000)
    assert 40 <= len(at) <= 51
    assert (np.diff(at) > 0).all()


@pytest.mark.parametrize("seed", range(40))
def test_reading_in_pieces_gives_all_rows(tmp_path: Path, monkeypatch: Any, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(metrics_module, "_READ", rng.randrange(8, 400))
    monkeypatch.setattr(metrics_module, "_FIRST", 3)
    monkeypatch.setattr(metrics_module, "_PIECE", 4)
    kinds = (0.5, -1.25, float("nan"), float("inf"), 3e30)
    rows = [{name: rng.choice(kinds) for name in "abc" if rng.random() < 0.6} for _ in range(rng.randrange(60))]
    found = Metrics(make_run(tmp_path / "r", [{"step": i, **row} for i, row in enumerate(rows)]) / "metrics.jsonl")
    found.advance()
    for name in "abc":
        wanted = [(i, row[name]) for i, row in enumerate(rows) if name in row]
        at, values = found.points(name)
        assert at.tolist() == [i for i, _ in wanted]
        assert np.array_equal(values, np.array([v for _, v in wanted], np.float32), equal_nan=True)


def test_json_of_a_row_is_what_a_run_writes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", [{"step": 1, "a": float("nan")}])
    assert json.loads((run / "metrics.jsonl").read_text()) == {"step": 1, "a": "NaN"}
