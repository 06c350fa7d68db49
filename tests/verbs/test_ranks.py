"""Whole stages over two ranks: the course of one process up to the order of sums, and runs that go on after a kill."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TWO = "cluster.ranks=2"
COMPARED = ("loss", "grad_norm", "reward", "lr", "eval/loss", "critic/grad_norm")


def course(run: Path) -> list[dict[str, float]]:
    """What training made of each step, without times and memory."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k in COMPARED} for row in found]


@pytest.mark.parametrize(
    ("name", "more"), [("sft", ()), ("dpo", ("cluster.shard=1",)), ("reward", ()), ("ppo", ()), ("grpo", ("algorithm.kl.coef=0.1",))]
)
def test_two_ranks_take_the_course_of_one_process(name: str, more: tuple[str, ...], stage, tmp_path: Path) -> None:
    stage(name, tmp_path / "one", *(x for x in more if "cluster" not in x))
    summary = stage(name, tmp_path / "two", TWO, *more)
    one, two = course(tmp_path / "one"), course(tmp_path / "two")
    assert len(one) == len(two)
    assert any("grad_norm" in row for row in two)
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)
    assert (tmp_path / "two" / "final" / "model.safetensors").is_file()
    assert summary["steps"] == 4
    tests = [row for row in map(json.loads, (tmp_path / "two" / "events.jsonl").open(encoding="utf-8")) if row["kind"] == "self_test"]
    assert any("ranks" in row["checks"] for row in tests)


def test_a_run_goes_on_over_another_number_of_ranks_and_says_so(stage, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage("sft", run, "cluster.ranks=3", "loop.pause_at=2")
    stage("sft", run, TWO)
    stage("sft", tmp_path / "one")
    for a, b in zip(course(tmp_path / "one"), course(run), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)
    starts = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["starts"]
    assert "the setting cluster.ranks: 3 -> 2" in starts[-1]["changed"]


@pytest.mark.parametrize("who", ["driver", "rank"])
def test_a_killed_run_takes_the_undisturbed_course(who: str, stage, tmp_path: Path, root: Path) -> None:
    """kill -9 behind step 2, where a checkpoint stands: the ranks end too, and the weights are bit for bit those of the other run. For a
    rank that is lost the command goes on by itself; a driver is started again."""
    overrides = [TWO, "loop={steps: 6, batch_size: 4, eval_every: 0, probes: 0}", "settings={threads: 1, checkpoint: {every: 2}}"]
    overrides += ["samples=4", "sampling.max_tokens=6", "rewards.0.worker={processes: 1}", "model_options.precision=fp32"]
    command = [sys.executable, "-m", "keel.cli", "rl", "recipes/tiny_grpo.yaml", *overrides]

    def start(run: Path) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.Popen([*command, f"run_dir={run}"], cwd=root, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    run = tmp_path / "killed"
    first = start(run)
    while not (run / "checkpoints" / "2" / "complete.json").is_file():
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(0.01)
    ranks = ranks_of(first.pid)
    assert len(ranks) == 2
    ends = [os.pidfd_open(pid) for pid in ranks]
    os.kill(first.pid if who == "driver" else ranks[1], signal.SIGKILL)
    for end in ends:
        assert select.select([end], [], [], 60)[0], "the ranks end with the driver, and with each other"
        os.close(end)
    told = first.communicate()[1].decode()
    if who == "rank":
        assert "rank 1 of 2 was killed by signal 9; the others were ended. Going on from step" in told
        assert first.returncode == 0
    else:
        assert start(run).wait() == 0
    assert course(run) == course(tmp_path / "whole")
    whole, other = ((path / "final" / "model.safetensors").read_bytes() for path in (tmp_path / "whole", run))
    assert whole == other


def ranks_of(driver: int) -> list[int]:
    """Process ids of the ranks that a driver started, in order."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command, parent = (entry / "cmdline").read_bytes(), (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # no process, or one that is gone
            continue
        if int(parent) == driver and b"keel.learner.rank" in command:
            found.append(int(entry.name))
    return sorted(found)
