"""Reward models of `keel reward` as judges of files: `keel score --reward model:DIR`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.core.errors import ConfigError
from keel.verbs.score.run import run_score


def test_two_models_are_an_ensemble_and_one_alone_has_no_use_for_its_settings(finished, tmp_path: Path) -> None:
    final = finished("reward") / "final"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Write about a red tent.", "completion": "tent"}) + "\n")
    with pytest.raises(ConfigError, match="one model with one head"):
        run_score(str(rows), f"model:{final}", str(tmp_path / "out.jsonl"), ["ensemble.aggregate=min"])
    found = run_score(str(rows), f"model:{final}", str(tmp_path / "out.jsonl"), [f"ensemble.members=[{final}]"])
    assert found["scored"] == 1
