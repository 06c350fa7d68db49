"""kill -9 at random moments: the run is started again until it is finished, and its weights are bit for bit those of a run that nobody
disturbed. Real processes, real signals."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VERBS = {"sft": "sft", "reward": "reward", "dpo": "prefer", "ppo": "rl", "grpo": "rl"}
PRECISIONS = ("fp32", "bf16")
KILLS = 4  # of each kind of run in each precision: 40 in all
STEPS = 12
OVERRIDES = (
    f"loop={{steps: {STEPS}, batch_size: 4, eval_every: 4, probes: 1}}",
    "settings={threads: 1, checkpoint: {every: 2, keep: 2}}",
)
RL = ("samples=4", "sampling.max_tokens=8")


class Process:
    """One start of a command in its own process group."""

    def __init__(self, root: Path, name: str, run: Path, precision: str) -> None:
        overrides = [*OVERRIDES, f"model_options.precision={precision}", *(RL if VERBS[name] == "rl" else ()), f"run_dir={run}"]
        command = [sys.executable, "-m", "keel.cli", VERBS[name], f"recipes/tiny_{name}.yaml", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        self.log = run.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, or None when it still runs after ``seconds``."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")


def saved_step(run: Path) -> int:
    """The step of the newest checkpoint, 0 when there is none."""
    latest = run / "checkpoints" / "latest"
    return json.loads(latest.read_text())["step"] if latest.exists() else 0


def logged_step(run: Path) -> int:
    """The newest step in the metrics, -1 when there is none yet."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines() if metrics.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith(b"}") else -1


def wait_for_the_moment(process: Process, run: Path, draw: random.Random) -> bool:
    """Let the process come to a random moment: some in the start, most in the steps, some in the end. False when it ended before."""
    if draw.random() < 0.2:
        return process.wait(draw.uniform(0.0, 6.0)) is None
    step = min(STEPS, saved_step(run) + draw.randint(0, 3))
    while logged_step(run) < step:
        if process.wait(0.005) is not None:
            return False
    return process.wait(draw.uniform(0.0, 0.3)) is None


def disturbed(root: Path, name: str, precision: str, folder: Path, draw: random.Random, check: Callable[[Path], None]) -> list[int]:
    """Kill ``KILLS`` times, let the last run finish, ``check`` every run that finishes: one may before it was killed often enough, then
    another begins. Returns the steps that were saved when it was killed."""
    saved: list[int] = []
    for n in itertools.count():
        run = folder / f"run-{n}"
        while True:
            process = Process(root, name, run, precision)
            if len(saved) == KILLS or not wait_for_the_moment(process, run, draw):
                break
            process.kill()
            saved.append(saved_step(run))
        assert process.wait() == 0, process.output()
        check(run)
        if len(saved) == KILLS:
            return saved
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", VERBS)
def test_kill_9_leaves_no_trace_in_the_result(
    name: str, precision: str, root: Path, tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Process(root, name, tmp_path / "whole", precision)
    assert whole.wait() == 0, whole.output()
    seed = int(os.environ.get("KEEL_KILL_SEED", "0"))
    draw = random.Random(f"{name} {precision} {seed}")

    def check(run: Path) -> None:
        for weights in sorted((tmp_path / "whole").glob("*/*.safetensors")):
            found = run / weights.relative_to(tmp_path / "whole")
            assert found.read_bytes() == weights.read_bytes(), f"{found} differs from the undisturbed run"
        assert [row["step"] for row in rows(run / "metrics.jsonl")] == list(range(STEPS + 1)), "each step stands once"
        assert json.loads((run / "summary.json").read_text())["steps"] == STEPS
        assert not list(run.rglob(".tmp*")), "something half-written was left"

    saved = disturbed(root, name, precision, tmp_path, draw, check)
    with capsys.disabled():
        print(f"\n{name}, {precision}: {len(saved)} kills, with the checkpoint of step {', '.join(map(str, saved))} there; bit-identical")
