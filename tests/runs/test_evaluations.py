"""What each held-out prompt got: written, read, and cut where a run goes back."""

from __future__ import annotations

import math
from pathlib import Path

from keel.core.config import Section
from keel.runs import evaluations
from keel.runs.directory import RunDir


def test_what_was_judged_is_read_back_by_the_names_of_metrics(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "a", "answers": 2, "reward": 0.5, "parts": {"gold": 1.0}},
        {"prompt_id": "b", "answers": 0, "reward": math.nan, "parts": {"gold": math.nan}},
    ]
    evaluations.write(tmp_path, "eval", 3, rows)
    assert evaluations.read(tmp_path, "eval", 3) == {"a": {"reward": 0.5, "rewards/gold/mean": 1.0}, "b": {}}
    assert evaluations.read(tmp_path, "eval", 4) == {}


def test_a_run_that_goes_back_has_those_of_the_path_that_stands(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "run", Section(), "rl", 0) as run:
        for step in (2, 4, 6):
            evaluations.write(run.path, "eval", step, [])
            evaluations.write(run.path, "redteam", step, [])
        (run.path / evaluations.FOLDER / "notes.jsonl").write_text("mine\n")
        run.give_up(4, 1)
        left = sorted(p.name for p in (run.path / evaluations.FOLDER).iterdir())
        assert left == ["eval-000000002.jsonl", "eval-000000004.jsonl", "notes.jsonl", "redteam-000000002.jsonl", "redteam-000000004.jsonl"]
        run.cut_metrics(-1)
        assert [p.name for p in (run.path / evaluations.FOLDER).iterdir()] == ["notes.jsonl"]
