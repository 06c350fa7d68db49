"""Whole stages over ranks of a Ray cluster that the command starts: the very weights of local ranks, and runs that go on after a kill.
All of it in a network of its own that has the loopback interface alone, where the system grants one."""

from __future__ import annotations

import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.slow
SETTINGS = ["settings={threads: 2, checkpoint: {every: 2}}", "cluster.ranks=2"]
STAGES = {
    "sft": ["sft", "recipes/tiny_sft.yaml", "loop={steps: 8, batch_size: 4, eval_every: 0, probes: 0}"],
    "rl": [
        "rl",
        "recipes/tiny_grpo.yaml",
        "loop={steps: 8, batch_size: 4, eval_every: 0, probes: 0}",
        "samples=4",
        "sampling.max_tokens=6",
    ],
}
STAGES["rl"] += ["rewards.0.worker={processes: 1}", "model_options.precision=fp32"]
COMPARED = ("loss", "grad_norm", "reward", "lr", "eval/loss")
LOOPBACK = ("unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
Start = Callable[..., subprocess.Popen[bytes]]


def isolated() -> bool:
    """May this user make a network with the loopback interface alone?"""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*LOOPBACK, "true"], check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def start(root: Path) -> Start:
    """Starts a command; what it says goes to RUN.log."""
    around = LOOPBACK if isolated() else ()

    def started(stage: str, run: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [*around, sys.executable, "-m", "keel.cli", *STAGES[stage], *SETTINGS, f"run_dir={run}", *more]
        with Path(f"{run}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stderr=log, stdout=subprocess.DEVNULL)

    return started


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a stage over two local ranks."""
    runs: dict[str, Path] = {}

    def made(stage: str) -> Path:
        if stage not in runs:
            runs[stage] = tmp_path_factory.mktemp("local") / stage
            assert start(stage, runs[stage]).wait() == 0
        return runs[stage]

    return made


def course(run: Path) -> list[dict[str, float]]:
    """What training made of each step, without times and memory."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k in COMPARED} for row in found]


def wait_for_step(step: int, run: Path, command: subprocess.Popen[bytes]) -> None:
    """Until the run has done so many steps."""
    metrics = run / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= step):
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(0.01)


def ranks(run: Path) -> list[int]:
    """The processes of the ranks that the command started last, as it told of them."""
    told = re.findall(r"2 ranks on .*", Path(f"{run}.log").read_text(encoding="utf-8"))
    return [int(pid) for pid in re.findall(r"\((\d+)\)", told[-1])]


def assert_equal(run: Path, other: Path) -> None:
    """The same course, and the same bytes at its end."""
    assert course(run) == course(other)
    assert (run / "final" / "model.safetensors").read_bytes() == (other / "final" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize("who", ["nobody", "rank", "driver"])
def test_the_course_is_that_of_local_ranks(who: str, stage: str, start: Start, undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    """kill -9 at a step that the run's own name draws. A rank that is lost costs a restart within the command."""
    run = tmp_path / f"{stage}_{who}"
    first = start(stage, run, "cluster.ray=auto")
    if who != "nobody":
        wait_for_step(random.Random(run.name).randint(1, 6), run, first)
        pids = ranks(run)
        ends = [os.pidfd_open(pid) for pid in pids]
        os.kill(first.pid if who == "driver" else pids[1], signal.SIGKILL)
        for end in ends:
            assert select.select([end], [], [], 60)[0], "the ranks end with the driver, and with each other"
            os.close(end)
    assert first.wait() == (-9 if who == "driver" else 0)
    if who == "driver":
        assert start(stage, run, "cluster.ray=auto").wait() == 0
    assert ("restart 1 of 3" in Path(f"{run}.log").read_text(encoding="utf-8")) is (who == "rank")
    assert_equal(run, undisturbed(stage))
