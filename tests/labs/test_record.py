"""The benchmark of reading runs makes a run that Keel reads, and measures its commands."""

from __future__ import annotations

from pathlib import Path

from keel.runs import columns, logs
from keel.runs.listing import list_runs
from labs.bench.record import make_run, measure


def test_the_run_that_is_made_up_is_a_run(tmp_path: Path) -> None:
    size = make_run(tmp_path / "runs" / "long", 100, 66)
    path = tmp_path / "runs" / "long" / "metrics.jsonl"
    assert size == path.stat().st_size
    assert len(logs.last_row(path)) == 67, "step and all metrics: step 100 has an evaluation"
    found = columns.load(path)
    assert (len(found), len(found.names), len(found.points("eval/part0")[0])) == (100, 66, 2)
    (row,) = list_runs(tmp_path / "runs")
    assert (row.status, row.step) == ("stopped", 100)


def test_a_command_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "long", 3, 5)
    cost = measure("keel runs", ["runs", "--root", str(tmp_path / "runs")])
    assert cost.cpu_s > 0
    assert 5 < cost.peak_mb < 2000
