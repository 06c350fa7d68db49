"""Every algorithm of the table trains a tiny model for a few steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.methods import ALGORITHMS

MORE = {  # what a row does not run without
    "gdpo": ("composition.normalise=group",),
    "distill": ("rewards=[]", "teacher=tiny:llama?seed=2"),
    "gkd": ("rewards=[]", "teacher=tiny:llama?seed=2"),
}
NEW = sorted(set(ALGORITHMS) - {"grpo", "ppo"})  # those two have recipes of their own, run by other tests


@pytest.mark.parametrize("name", NEW)
def test_it_trains(name: str, stage: Callable[..., dict[str, Any]], tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]) -> None:
    summary = stage("grpo", tmp_path, f"algorithm.name={name}", "loop.steps=2", "loop.eval_every=0", "loop.probes=0", *MORE.get(name, ()))
    assert (summary["algorithm"], summary["steps"]) == (name, 2)
    steps = rows(tmp_path / "metrics.jsonl")[1:]
    assert all(math.isfinite(value) for row in steps for value in row.values() if isinstance(value, float))
    assert all(row["grad_norm"] > 0 for row in steps), "nothing was learned from"
    assert json.loads((tmp_path / "manifest.json").read_text())["config"]["algorithm"]["name"] == name


def test_a_stop_on_the_kl_leaves_the_schedule_and_the_first_update_alone(
    stage: Callable[..., dict[str, Any]], tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]
) -> None:
    """Any update that follows a step's first one is stopped."""
    settings = ("algorithm.epochs=4", "algorithm.clip.kl_stop=1e-12", "optim={lr: 1e-3, schedule: linear, warmup_steps: 0}")
    stage("ppo", tmp_path, *settings, "loop={steps: 3, eval_every: 0, probes: 0}")
    steps = [row for row in rows(tmp_path / "metrics.jsonl") if "policy/updates" in row]
    assert [row["policy/updates"] for row in steps] == [1.0] * 3
    assert [row["lr"] for row in steps] == pytest.approx([1e-3, 1e-3 * 8 / 12, 1e-3 * 4 / 12])


def test_it_explores_and_follows(
    stage: Callable[..., dict[str, Any]], tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]
) -> None:
    """Several temperatures, a share of a hotter distribution, adapters with a reference that follows them: what was sampled from is told
    apart from the policy, and only there."""
    short = ("loop.steps=3", "loop.eval_every=0", "loop.probes=0", "lora={r: 2}", "optim.lr=1e-2")
    explore = ("exploration={temperatures: [0.7, 1.3], share: 0.1, hot: 3.0}", "algorithm.correction.kind=truncate")
    stage("grpo", tmp_path / "a", *short, *explore, "algorithm.kl.reference={kind: refresh, every: 2}")
    steps = rows(tmp_path / "a" / "metrics.jsonl")[1:]
    name = "sampling/importance_sampling_ratio"
    assert all(row[f"{name}/min"] < 0.9 and 1.0 < row[f"{name}/max"] <= 3.0 for row in steps)
    kl = [row["kl"] for row in steps]
    assert kl[0] == 0.0 < kl[1]
    assert kl[2] == 0.0, "after two steps the reference is the policy"
    stage("grpo", tmp_path / "b", *short)
    plain = rows(tmp_path / "b" / "metrics.jsonl")[1:]
    assert all(abs(row[f"{name}/max"] - 1.0) < 1e-3 for row in plain)
    assert plain[2]["kl"] > 0.0
