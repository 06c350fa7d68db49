"""Exact resume: a run that crashed, was told to stop and lost a checkpoint ends bit for bit where the undisturbed one ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.loops.offline import OfflineTrainer
from keel.loops.online import OnlineTrainer
from keel.loops.online_preference import OnlinePreferenceTrainer

NAMES = ("sft", "reward", "dpo", "online_dpo", "offline", "grpo", "ppo")
MEASURED = ("time/", "mem/", "tokens_per_s")  # of the machine, not of the training

Stage = Callable[..., dict[str, Any]]
Finished = Callable[[str], Path]
Rows = Callable[[Path], list[dict[str, Any]]]
AtStep = Callable[[int, Callable[[], None]], None]


class Crash(BaseException):
    """Ends the program where it is, as far as one process can stage it."""


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> AtStep:
    """``at_step(k, act)``: call ``act`` once the work of step k (0-based) is done and before anything is known of it."""

    def arrange(k: int, act: Callable[[], None]) -> None:
        for trainer in (OfflineTrainer, OnlineTrainer, OnlinePreferenceTrainer):
            original = trainer.step

            def step(self: Any, step: int, original: Callable[..., Mapping[str, float]] = original) -> Mapping[str, float]:
                metrics = original(self, step)
                if step == k:
                    act()
                return metrics

            monkeypatch.setattr(trainer, "step", step)

    return arrange


def crash() -> None:
    raise Crash


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def trained(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without what the clock says."""
    return [{key: value for key, value in row.items() if not key.startswith(MEASURED)} for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_a_disturbed_run_ends_bit_for_bit_like_an_undisturbed_one(
    name: str,
    stage: Stage,
    finished: Finished,
    rows: Rows,
    tmp_path: Path,
    at_step: AtStep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Crash in step 2 of 4 (before the first checkpoint counts it), SIGTERM in step 3, then to the end."""
    run = tmp_path / name
    with monkeypatch.context() as patch:
        at_step(1, crash)
        with pytest.raises(Crash):
            stage(name, run)
        patch.undo()
    monkeypatch.undo()
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [0, 1], "the crashed step left nothing"
    at_step(2, sigterm)
    summary = stage(name, run)
    monkeypatch.undo()
    assert (summary["interrupted"], summary["step"]) == (True, 3)
    assert not (run / "summary.json").exists()
    assert not (run / "final").exists()
    assert stage(name, run)["steps"] == 4

    undisturbed = finished(name)
    assert trained(rows(run / "metrics.jsonl")) == trained(rows(undisturbed / "metrics.jsonl"))
    for weights in sorted(undisturbed.glob("*/*.safetensors")):
        other = run / weights.relative_to(undisturbed)
        assert other.read_bytes() == weights.read_bytes(), f"{other} differs"
    kept, expected = ({p.name: p.read_bytes() for p in sorted((d / "rollouts").glob("*"))} for d in (run, undisturbed))
    assert kept == expected, "answers that are kept whole"
    kinds = [(row["kind"], row["step"]) for row in rows(run / "events.jsonl")]
    assert ("resumed", 3) in kinds
    assert ("interrupted", 3) in kinds


def test_a_crash_after_a_checkpoint_repeats_the_steps_after_it(
    stage: Stage,
    finished: Finished,
    rows: Rows,
    tmp_path: Path,
    at_step: AtStep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps 3 and 4 had been logged, the checkpoint is of step 2: both stand once in the end."""
    run = tmp_path / "sft"
    at_step(3, crash)
    with pytest.raises(Crash):
        stage("sft", run)
    monkeypatch.undo()
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [0, 1, 2, 3]
    stage("sft", run)
    assert trained(rows(run / "metrics.jsonl")) == trained(rows(finished("sft") / "metrics.jsonl"))
    assert same_model(run, finished("sft"))
    samples = [(row["step"], row["prompt"]) for row in rows(run / "samples" / "training.jsonl")]
    assert len(samples) == len(set(samples)), "a sample stands twice"


def test_a_broken_checkpoint_is_passed_over(
    stage: Stage,
    finished: Finished,
    tmp_path: Path,
    at_step: AtStep,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    run = tmp_path / "dpo"
    at_step(3, crash)
    with pytest.raises(Crash):
        stage("dpo", run, "settings.checkpoint.every=1")
    monkeypatch.undo()
    newest = run / "checkpoints" / "3" / "policy.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    stage("dpo", run, "settings.checkpoint.every=1")
    assert "checkpoint of step 3" in caplog.text
    assert "going back to the one of step 2" in caplog.text
    assert same_model(run, finished("dpo"))


def test_an_interrupted_command_exits_with_130(
    root: Path,
    finished: Finished,
    tmp_path: Path,
    at_step: AtStep,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    monkeypatch.chdir(root)
    at_step(0, sigterm)
    command = ["reward", "recipes/tiny_reward.yaml", "loop.steps=4", f"run_dir={tmp_path}", "--json"]
    assert main(command) == 130
    assert '"interrupted": true' in capfd.readouterr().out.splitlines()[-1]


def same_model(run: Path, other: Path) -> bool:
    return (run / "final" / "model.safetensors").read_bytes() == (other / "final" / "model.safetensors").read_bytes()


WITH_STATE = {
    "ppo_kl": (
        "algorithm={name: ppo_kl, epochs: 2, clip: {kl_target: 1e-4}, kl: {control: {kind: proportional, target: 1e-3, horizon: 16}}}",
        ("kl_coef", "policy/old_kl_coef"),
    ),
    "all that follows": (
        "algorithm={name: rloo, entropy: {coef: 0.01, target: 9}, credit: {rewards: {normalise: quantile, decay: 0.5, clip: 0.4}}, "
        "kl: {reference: {kind: ema, decay: 0.5}}, correction: {kind: mask, level: sequence}}",
        ("entropy_coef",),
    ),
    "dapo": ("algorithm={name: dapo, credit: {refill_rounds: 4}}", ("train/num_gen_batches",)),
}


@pytest.mark.parametrize("name", WITH_STATE)
def test_what_moves_during_a_run_is_resumed_too(
    name: str, stage: Stage, rows: Rows, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crash in step 4 of 4, after the checkpoint of step 2: coefficients go on where they were, bit for bit."""
    algorithm, moving = WITH_STATE[name]
    overrides = (algorithm, "loop.eval_every=0", "loop.probes=0", "settings.checkpoint.every=2")
    stage("grpo", tmp_path / "undisturbed", *overrides)
    at_step(3, crash)
    with pytest.raises(Crash):
        stage("grpo", tmp_path / "run", *overrides)
    monkeypatch.undo()
    stage("grpo", tmp_path / "run", *overrides)
    steps = trained(rows(tmp_path / "run" / "metrics.jsonl"))
    assert steps == trained(rows(tmp_path / "undisturbed" / "metrics.jsonl"))
    for metric in moving:
        assert len({row[metric] for row in steps[1:]}) > 1, f"{metric} did not move, so nothing was shown"
    assert same_model(tmp_path / "run", tmp_path / "undisturbed")


AHEAD = ("algorithm.correction.kind=truncate", "loop.eval_every=0", "loop.probes=0", "settings.checkpoint.every=1")


@pytest.mark.stages
@pytest.mark.parametrize("lag", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_at_any_step_it_ends_bit_for_bit_like_the_undisturbed_run(
    lag: int, stage: Stage, rows: Rows, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*AHEAD, f"rollouts.lag={lag}", "loop.steps=5")
    stage("grpo", tmp_path / "undisturbed", *overrides)
    for step in range(5):
        at_step(step, crash)
        with pytest.raises(Crash):
            stage("grpo", tmp_path / "run", *overrides)
        monkeypatch.undo()
    stage("grpo", tmp_path / "run", *overrides)
    steps = trained(rows(tmp_path / "run" / "metrics.jsonl"))
    assert steps == trained(rows(tmp_path / "undisturbed" / "metrics.jsonl"))
    assert same_model(tmp_path / "run", tmp_path / "undisturbed")
    assert [row["sampling/staleness/max"] for row in steps if row["step"]] == [min(k, lag) for k in range(5)]
