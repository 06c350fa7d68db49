"""Every algorithm of the table trains a tiny model for a few steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.algorithms import ALGORITHMS

NEW = sorted(set(ALGORITHMS) - {"grpo", "ppo"})  # those two have recipes of their own, run by other tests


@pytest.mark.parametrize("name", NEW)
def test_it_trains(name: str, stage: Callable[..., dict[str, Any]], tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]) -> None:
    summary = stage("grpo", tmp_path, f"algorithm.name={name}", "loop.steps=2", "loop.eval_every=0", "loop.probes=0")
    assert (summary["algorithm"], summary["steps"]) == (name, 2)
    steps = rows(tmp_path / "metrics.jsonl")[1:]
    assert all(math.isfinite(value) for row in steps for value in row.values() if isinstance(value, float))
    assert all(row["grad_norm"] > 0 for row in steps), "nothing was learned from"
    assert json.loads((tmp_path / "manifest.json").read_text())["config"]["algorithm"]["name"] == name
