"""`keel rl` with an environment: every algorithm, failures, resume, wrong settings; the worlds of the recipes are learned."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from keel.core import config
from keel.core.errors import SelfTestError, UserError
from keel.core.events import EventBus
from keel.environments.stream import Stream
from keel.methods import ALGORITHMS
from keel.runs import rollouts
from keel.types import Rollout
from keel.verbs.rl.recipe import RLRecipe

Stage = Callable[..., dict[str, Any]]
Rows = Callable[[Path], list[dict[str, Any]]]
ENV = "environment={path: 'tests/environments/worlds.py:Letters', max_turns: 3, max_tokens: 200, processes: 0"
WORLD = (f"{ENV}}}", "rewards=[]", "sampling={max_tokens: 30, stop: [e, a, i]}")
QUICK = ("loop.steps=2", "loop.eval_every=0", "loop.probes=0")
MORE = {"gdpo": ("composition.normalise=group",)}
OFF = {"distill", "gkd"}  # a teacher is followed
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - OFF))
def test_every_algorithm_learns_from_conversations(
    name: str, stage: Stage, tmp_path: Path, rows: Callable[[Path], list[dict[str, Any]]]
) -> None:
    recipe = "ppo" if name == "ppo" else "grpo"
    summary = stage(recipe, tmp_path, *WORLD[:1], "rewards=[]", *WORLD[2:], f"algorithm.name={name}", *QUICK, *MORE.get(name, ()))
    assert summary["steps"] == 2
    for row in rows(tmp_path / "metrics.jsonl")[1:]:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        assert row["grad_norm"] > 0
        assert row["environment/turns/mean"] > 1
        assert row["sampling/sampling_logp_difference/max"] < 1e-4
        assert row["rewards/environment/short/mean"] > 0


def test_later_turns_are_proved_before_training(parts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a policy that has yet to learn how an answer ends. What only a later turn gets wrong stops the run, by the check's name."""
    made = parts("grpo", *WORLD[:2], "sampling.max_tokens=30", *QUICK)
    made.self_test(EventBus())
    answer = Stream.answer

    def sloppy(stream: Stream, drawn: Rollout, turn: int) -> None:
        answer(stream, replace(drawn, logprobs_T=drawn.logprobs_T + 0.1 * (turn > 0)), turn)

    monkeypatch.setattr(Stream, "answer", sloppy)
    with pytest.raises(SelfTestError, match=r"'turns'.*conversation of up to [23] turns"):
        made.self_test(EventBus(), ["sampler"])


@pytest.mark.parametrize("name", sorted(OFF))
def test_a_teacher_is_followed_over_conversations(name: str, stage: Stage, tmp_path: Path, rows: Rows) -> None:
    """At the sampled tokens of every turn; the world's own reward is measured beside it."""
    env, told = f"{ENV}, weight: 0}}", {"distill": "objective/kl_per_token", "gkd": "objective/divergence"}[name]
    teacher = (f"algorithm.name={name}", "teacher=tiny:llama?seed=2&std=0.1", "optim.lr=1e-2")
    stage("grpo", tmp_path, env, *WORLD[1:], *QUICK, *teacher, "loop.steps=4")
    found = rows(tmp_path / "metrics.jsonl")
    first, last = (row["eval/teacher/kl"] for row in found if "eval/teacher/kl" in row)
    assert last < 0.9 * first
    taught = [row for row in found if told in row]
    assert len(taught) == 4
    assert min(row["environment/turns/mean"] for row in taught) > 1
    assert taught[-1]["rewards/environment/mean"] > 0


def test_what_goes_wrong_is_left_out_with_a_count(stage: Stage, tmp_path: Path, rows: Rows) -> None:
    for wrong, processes in (("raises", 0), ("dies", 4), ("hangs", 16)):
        world = f"environment={{path: 'tests/environments/worlds.py:Letters', max_turns: 3, max_tokens: 200, processes: {processes}"
        world += f", arguments: {{wrong: {wrong}}}{', timeout_s: 1.0' if wrong == 'hangs' else ''}}}"
        stage("grpo", tmp_path / wrong, world, *WORLD[1:], *QUICK, "loop.steps=1")
        row = rows(tmp_path / wrong / "metrics.jsonl")[-1]
        assert 0 < row["environment/failed"] < 16
        assert row["completions/failed_ratio"] == row["environment/failed"] / 16
        assert row["rewards/environment/mean"] > 0


def test_conversations_are_kept_as_turns(stage: Stage, tmp_path: Path) -> None:
    stage("grpo", tmp_path, *WORLD, "loop.steps=1", "loop.probes=1", "settings.tracking.rollouts.every=1")
    sample = json.loads((tmp_path / "samples/training.jsonl").read_text("utf-8").strip("\n").split("\n")[-1])
    assert [t["role"] for t in sample["turns"]][:2] == ["assistant", "user"]
    kept = [row for file in rollouts.files(tmp_path) for row in rollouts.read(file)]
    assert kept
    for row in kept:
        assert row.turns
        assert not all(row.sampled)
        assert len(row.sampled) == len(row.tokens)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert any("environment.path" in key for key in manifest["data"])


def test_a_world_without_reward_lets_other_rewards_count(stage: Stage, tmp_path: Path) -> None:
    silent = "environment={path: 'tests/environments/worlds.py:Silent', processes: 0"
    stage("grpo", tmp_path / "a", f"{silent}, weight: null}}", *WORLD[2:], *QUICK)
    with pytest.raises(UserError, match="no reward"):
        stage("grpo", tmp_path / "b", f"{silent}}}", *WORLD[1:], *QUICK)


def test_the_worst_group_counts_most_and_needs_groups(stage: Stage, tmp_path: Path, rows: Rows) -> None:
    data = tmp_path / "d.jsonl"
    lines = [json.dumps({"prompt": f"Say {i}.", "kind": "ab"[i % 2]}) for i in range(12)]
    data.write_text("\n".join(lines))
    stage("grpo", tmp_path / "run", f"data.path={data}", "robust={by: kind, step: 1.0}", *QUICK)
    last = rows(tmp_path / "run/metrics.jsonl")[-1]
    assert last["robust/weight/a"] + last["robust/weight/b"] == pytest.approx(1.0)
    assert last["robust/weight/a"] != 0.5
    for by, word in (("none", "no column"), ("same", "one group")):
        data.write_text("\n".join(line.replace('"kind"', '"same": 1, "kind"') for line in lines))
        with pytest.raises(UserError, match=word):
            stage("grpo", tmp_path / by, f"data.path={data}", f"robust={{by: {by}}}", *QUICK)


def started(run: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """`keel rl` in a process of its own."""
    short = ["loop={steps: 6, batch_size: 4, eval_every: 3, probes: 1}", "settings={threads: 1, checkpoint: {every: 1}}", "samples=4"]
    command = [sys.executable, "-m", "keel.cli", "rl", "recipes/tiny_grpo.yaml", *short, "model_options.precision=fp32", *WORLD, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*command, f"run_dir={run}"], cwd=ROOT, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


@pytest.mark.slow
def test_killed_and_started_again_it_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    processes = WORLD[0].replace("processes: 0", "processes: 4")
    assert started(tmp_path / "whole", processes).wait(400) == 0
    run = started(tmp_path / "killed", processes)
    latest = tmp_path / "killed/checkpoints/latest"
    for _ in range(6000):
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(0.1)
        if run.poll() is not None or (latest.exists() and json.loads(latest.read_text())["step"] >= 2):
            break
    assert run.poll() is None, "it was done before it could be killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert started(tmp_path / "killed", processes).wait(400) == 0
    whole, again = (load_file(tmp_path / name / "final/model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("setting", "field", "word"),
    [
        ("{}", "environment.path", "required"),
        ("{path: worlds.py}", "environment.path", "pattern"),
        ("{path: 'w.py:W', max_turn: 3}", "environment.max_turn", "max_turns"),
        ("{path: 'w.py:W', max_turns: 0}", "environment.max_turns", "greater"),
        ("{path: 'w.py:W', processes: 0, timeout_s: 3}", "environment", "timeout_s"),
        ("{path: 'w.py:W', max_tokens: 3}", "environment.max_tokens", "one answer"),
    ],
)
def test_wrong_settings_are_told_with_file_line_and_field(tmp_path: Path, setting: str, field: str, word: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: tiny:llama\ndata: {{path: x.jsonl}}\nenvironment: {setting}\n")
    with pytest.raises(UserError) as raised:
        config.load(RLRecipe, recipe, ["rewards=[]"])
    message = str(raised.value)
    assert all(part in message for part in (str(recipe), field, word)), message


def test_a_wrong_world_ends_with_2_and_a_message(tmp_path: Path) -> None:
    """Other mistakes: ``tests/environments/test_workers.py``."""
    world = "environment={path: 'tests/environments/worlds.py:Letters', arguments: {turn: 2}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "keel.cli", "rl", "recipes/tiny_grpo.yaml", world, "rewards=[]", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "environment.arguments may hold: turns, wrong" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.fixture
def pipeline(tmp_path: Path, proofs: None) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """``pipeline("tiny_env", ...)``: the whole recipe, and the rows of its RL."""
    from keel.pipeline import run_pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        logging.getLogger("keel").setLevel(logging.WARNING)

        def run(name: str, *overrides: str) -> list[dict[str, Any]]:
            run_pipeline(ROOT / f"recipes/{name}.yaml", [*overrides, f"run_dir={tmp_path}"])
            return [json.loads(line) for line in (tmp_path / "stages/rl/metrics.jsonl").read_text().splitlines()]

        yield run


def test_the_recipes_name_worlds_that_are_there() -> None:
    for name in ("tiny_env", "tools_chain_sum"):
        recipe = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text())
        assert (ROOT / recipe["stages"]["rl"]["environment"]["path"].partition(":")[0]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps", "gain"), [("tiny_env", 40, 0.08), ("tools_chain_sum", 40, 0.08)])
def test_the_worlds_of_the_recipes_are_learned(name: str, steps: int, gain: float, pipeline: Callable[..., list[dict[str, Any]]]) -> None:
    """Mean reward of the last five steps over that of the first five. Half of what was measured, for other processors."""
    rewards = [row["reward"] for row in pipeline(name, f"stages.rl.loop.steps={steps}", "stages.rl.loop.eval_every=0") if "reward" in row]
    assert len(rewards) == steps
    assert sum(rewards[-5:]) / 5 - sum(rewards[:5]) / 5 > gain
