"""kill -9 at random moments: the run is started again until it is finished, and its weights are bit for bit those of a run that nobody
disturbed. Real processes, real signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

VERBS = {"sft": "sft", "reward": "reward", "dpo": "prefer", "ppo": "rl", "grpo": "rl"}
KILLS = 7  # of each kind of run: 35 in all
OVERRIDES = (
    "loop={steps: 12, batch_size: 4, eval_every: 4, probes: 1}",
    "settings={threads: 1, checkpoint: {every: 2, keep: 2}}",
)
RL = ("samples=4", "sampling.max_tokens=8")


class Process:
    """One start of a command in its own process group."""

    def __init__(self, root: Path, name: str, run: Path) -> None:
        overrides = [*OVERRIDES, *(RL if VERBS[name] == "rl" else ()), f"run_dir={run}"]
        command = [sys.executable, "-m", "keel.cli", VERBS[name], f"recipes/tiny_{name}.yaml", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        self.log = (run.parent / f"{run.name}.log").open("ab")
        self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=self.log, stderr=self.log, start_new_session=True)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, or None when it still runs after ``seconds``."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def undisturbed(root: Path, name: str, run: Path) -> tuple[float, float]:
    """Run to the end; seconds until the run directory was there, and in all."""
    started = time.perf_counter()
    process = Process(root, name, run)
    while not (run / "manifest.json").exists():
        assert process.wait(0.05) is None, (run.parent / f"{run.name}.log").read_text()
    opened = time.perf_counter() - started
    assert process.wait() == 0, (run.parent / f"{run.name}.log").read_text()
    return opened, time.perf_counter() - started


def attempts(folder: Path) -> Iterator[Path]:
    """Fresh run directories: a run may finish before it was killed often enough."""
    n = 0
    while True:
        yield folder / f"run-{n}"
        n += 1


def disturbed(root: Path, name: str, folder: Path, moment: Callable[[], float], check: Callable[[Path], None]) -> list[int]:
    """Kill ``KILLS`` times, let the last run finish, ``check`` every run that finishes. The steps that were saved when it was killed."""
    saved: list[int] = []
    for run in attempts(folder):
        code: int | None = None
        while code is None:
            process = Process(root, name, run)
            code = process.wait(moment() if len(saved) < KILLS else None)
            if code is None:
                process.kill()
                latest = run / "checkpoints" / "latest"
                saved.append(json.loads(latest.read_text())["step"] if latest.exists() else 0)
        assert code == 0, (folder / f"{run.name}.log").read_text()
        check(run)
        if len(saved) >= KILLS:
            break
    return saved


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_kill_9_leaves_no_trace_in_the_result(
    name: str, root: Path, tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    opened, total = undisturbed(root, name, tmp_path / "whole")
    seed = int(os.environ.get("KEEL_KILL_SEED", "0"))
    draw = random.Random(f"{name} {seed}")

    def check(run: Path) -> None:
        for weights in sorted((tmp_path / "whole").glob("*/*.safetensors")):
            found = run / weights.relative_to(tmp_path / "whole")
            assert found.read_bytes() == weights.read_bytes(), f"{found} differs from the undisturbed run"
        assert [row["step"] for row in rows(run / "metrics.jsonl")] == list(range(13)), "each step stands once"
        assert json.loads((run / "summary.json").read_text())["steps"] == 12
        assert not list(run.rglob(".tmp*")), "something half-written was left"

    saved = disturbed(root, name, tmp_path, lambda: draw.uniform(0.9 * opened, total), check)
    with capsys.disabled():
        print(f"\n{name}: {len(saved)} kills, with the checkpoint of step {', '.join(map(str, saved))} there; bit-identical")
    assert len(saved) >= KILLS
