"""Whole stages of vision-language models over two ranks: the course of one process, and runs that go on bit for bit after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import ConfigError
from keel.verbs.run import run_verb

VERBS = {"sft": "sft", "reward": "reward", "dpo": "prefer", "grpo": "rl", "ppo": "rl"}
COMPARED = ("loss", "grad_norm", "reward", "lr", "eval/loss", "critic/grad_norm")
TWO = "cluster.ranks=2"
SHORT = ("loop={steps: 3, batch_size: 4, eval_every: 0, probes: 0}", "settings={threads: 1, checkpoint: {every: 2}}")
SHORT_RL = ("samples=4", "sampling.max_tokens=6")
FP32, BF16 = "model_options.precision=fp32", "model_options.precision=bf16"
Rows = Callable[[Path], list[dict[str, Any]]]


def run(name: str, path: Path, *more: str) -> dict[str, Any]:
    short = SHORT + (SHORT_RL if VERBS[name] == "rl" else ())
    return run_verb(VERBS[name], Path(f"recipes/tiny_vlm_{name}.yaml"), [*short, FP32, *more, f"run_dir={path}"])


def course(rows: Rows, path: Path) -> list[dict[str, float]]:
    """What training made of each step, without times and memory."""
    return [{k: v for k, v in row.items() if k in COMPARED} for row in rows(path / "metrics.jsonl")]


def same_course(name: str, rows: Rows, path: Path, *more: str, ranks: tuple[str, ...] = (TWO,)) -> None:
    run(name, path / "one", *more)
    run(name, path / "two", *more, *ranks)
    one, two = course(rows, path / "one"), course(rows, path / "two")
    assert len(one) == len(two)
    assert any("grad_norm" in row for row in two)
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)
    tests = [row for row in rows(path / "two" / "events.jsonl") if row["kind"] == "self_test"]
    assert any("ranks" in row["checks"] for row in tests)


def test_two_ranks_take_the_course_of_one_process(proofs: None, rows: Rows, tmp_path: Path) -> None:
    same_course("sft", rows, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "ranks"),
    [
        ("grpo", (), (TWO,)),
        ("grpo", ("model_options.train=[language, projector]", "algorithm.kl.coef=0.1"), (TWO,)),
        ("dpo", ("augment={share: 0.8, crop: 0.7}", "lora={r: 4}", "model_options.train=[projector]"), (TWO,)),
        ("dpo", ("objective.name=tdpo",), (TWO, "cluster.shard=1")),
        ("reward", ("model=tiny:qwen2_5_vl?seed=1",), (TWO,)),
        ("ppo", (), (TWO,)),
        ("sft", ("model_options={train: [projector], features: {pixels_gib: 0.00001}}",), (TWO, "cluster.offload=true")),
    ],
)
def test_other_stages_too(name: str, more: tuple[str, ...], ranks: tuple[str, ...], proofs: None, rows: Rows, tmp_path: Path) -> None:
    same_course(name, rows, tmp_path, *more, ranks=ranks)


def test_rounded_weights_need_a_model_that_is_computed_so(proofs: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.gather=bf16 rounds weights"):
        run("sft", tmp_path, TWO, "cluster.gather=bf16")


@pytest.mark.slow
def test_a_run_on_rounded_weights_learns(proofs: None, rows: Rows, tmp_path: Path) -> None:
    """The course of autocast, as far as bfloat16 tells."""
    run("sft", tmp_path / "one", BF16)
    run("sft", tmp_path / "two", BF16, TWO, "cluster.gather=bf16")
    for a, b in zip(course(rows, tmp_path / "one"), course(rows, tmp_path / "two"), strict=True):
        assert b == pytest.approx(a, rel=0.05, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_killed_run_takes_the_undisturbed_course(name: str, rows: Rows, tmp_path: Path, root: Path) -> None:
    """kill -9 of the driver behind step 2, where a checkpoint stands; started again, it ends with the very bytes."""
    short = [*SHORT, *(SHORT_RL if VERBS[name] == "rl" else ()), FP32, TWO, "loop.steps=5"]
    command = [sys.executable, "-m", "keel.cli", VERBS[name], f"recipes/tiny_vlm_{name}.yaml", *short]

    def start(path: Path) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.Popen([*command, f"run_dir={path}"], cwd=root, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    killed = tmp_path / "killed"
    first = start(killed)
    while not (killed / "checkpoints" / "2" / "complete.json").is_file():
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert start(killed).wait() == 0
    assert course(rows, killed) == course(rows, tmp_path / "whole")
    ends = [{p.name: p.read_bytes() for p in (path / "final").glob("*.safetensors")} for path in (tmp_path / "whole", killed)]
    assert ends[0] == ends[1]
    assert json.loads((killed / "manifest.json").read_text(encoding="utf-8"))["starts"]
