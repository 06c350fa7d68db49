"""The harness by itself, around a trainer of one number: which checkpoint is good, which is the best, what an evaluation without a
judgement means."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import Section
from keel.core.errors import ConfigError, DivergedError, RunError
from keel.core.events import Event, EventBus
from keel.loops.config import LoopConfig
from keel.loops.harness import Harness, TensorFiles
from keel.runs.checkpoints import Checkpoints
from keel.runs.directory import RunDir
from keel.watch.config import EarlyStopConfig, Rule, WatchConfig

Rows = Sequence[Mapping[str, float]]


class Scripted:
    """Reports what it is told to; its weight is the number of steps done."""

    def __init__(self, steps: Rows, evaluations: Mapping[int, Mapping[str, float]] | None = None) -> None:
        self.steps, self.evaluations, self.weight = steps, evaluations or {}, 0.0

    @property
    def total_steps(self) -> int:
        return len(self.steps)

    def step(self, step: int) -> Mapping[str, float]:
        self.weight += 1
        return {"tokens": 1.0, **self.steps[step]}

    def evaluate(self, step: int) -> Mapping[str, float]:
        return self.evaluations.get(step, {})

    def test(self) -> Mapping[str, float]:
        return {"test/weight": self.weight}

    may_run_away = False

    def adjust(self, lr_scale: float, kl_scale: float) -> Mapping[str, float]:
        self.scales = (lr_scale, kl_scale)
        return {"lr": lr_scale}

    def drift(self, first: int, last: int) -> Mapping[str, float]:
        return {"texts": last - first + 1.0, "length_z": 0.5, "surprise_z": 0.0}

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        return {"policy": {"w": torch.tensor([self.weight])}}, {}

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        self.weight = tensors["policy"]["w"].item()


class Events:
    def __init__(self) -> None:
        self.all: list[Event] = []

    def handle(self, event: Event) -> None:
        self.all.append(event)

    def close(self) -> None:
        return


class Nothing(Section):
    """A recipe without settings."""


WATCH = WatchConfig(
    defaults=False,
    rules=(
        Rule(name="low", metric="x", compare="<", threshold=0, for_steps=2),
        Rule(name="note", metric="y", compare=">", threshold=0, level="info"),
        Rule(name="end", metric="z", compare=">", threshold=0, level="stop"),
    ),
)


def harness(path: Path, trainer: Scripted, events: Events | None = None, every: int = 1, keep: int = 9, **loop: Any) -> Harness:
    run = RunDir.open(path, Nothing(), "sft", 0)
    run.close()
    checkpoints = Checkpoints(path / "checkpoints", keep, tell=lambda _: None)
    config = LoopConfig.model_validate({"eval_every": 1, **loop})
    return Harness(trainer, run, checkpoints, EventBus([events or Events()]), config, WATCH, every, EarlyStopConfig())


def good_steps(events: Events) -> list[int]:
    return [e.step for e in events.all if e.kind == "checkpoint" and e.data["good"]]


def test_good_means_no_alarm_and_finite_metrics_since_the_one_before(tmp_path: Path) -> None:
    x = [1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    rows = [{"x": v, "y": 1.0, "loss": math.inf if i == 5 else 1.0} for i, v in enumerate(x)]
    evaluations = {step: {"eval/loss": math.nan if step == 8 else 1.0} for step in range(9)}
    events = Events()
    run = harness(tmp_path / "run", Scripted(rows, evaluations), events)
    run.train()
    assert good_steps(events) == [1, 2, 5, 7], "3 and 4: the warning began and held; 6: an infinite loss; 8: an evaluation that is NaN"
    assert run.checkpoints.step_of("good") == 7
    events = Events()
    harness(tmp_path / "sparse", Scripted(rows, evaluations), events, every=2).train()
    assert good_steps(events) == [1, 2], "1 is there because it is the best; each other one has an alarm behind it"


def test_trends_go_on_where_they_were(tmp_path: Path) -> None:
    """The mean over the last steps is the same whether the run was taken up again in between or not."""
    rows = [{"x": 1.0, "reward": float(i), "reward_std": 1.0} for i in range(14)]
    found = []
    for name, attempts in (("whole", (14,)), ("in two", (6, 14))):
        for steps in attempts:
            events = Events()
            harness(tmp_path / name, Scripted(rows[:steps]), events).train()
        last = [e for e in events.all if e.kind == "step"][-1]
        found.append({name: value for name, value in last.data["metrics"].items() if name.startswith("trend/")})
    assert found[0] == found[1]
    assert found[0]["trend/reward/mean_10"] == 8.5


def test_a_phase_evaluates_after_its_own_steps(tmp_path: Path) -> None:
    """Steps 1 to 4 belong to the first phase, which evaluates every second one; 5 to 8 to the other, which does after each."""
    phases = [{"name": "a", "until": 0.5, "eval_every": 2}, {"name": "b", "until": 1.0, "eval_every": 1}]
    events, evaluations = Events(), {step: {"eval/loss": 1.0} for step in range(9)}
    harness(tmp_path / "run", Scripted([{"x": 1.0}] * 8, evaluations), events, phases=phases, eval_at_start=False).train()
    assert [e.step for e in events.all if e.kind == "eval"] == [2, 4, 5, 6, 7, 8, 8], "the last is the test"
    phases = [{"name": "a", "until": 0.5, "eval_every": 4}, {"name": "b", "until": 1.0, "eval_every": 0}]
    events = Events()
    harness(tmp_path / "other", Scripted([{"x": 1.0}] * 8, evaluations), events, phases=phases, eval_at_start=False).train()
    assert [e.step for e in events.all if e.kind == "eval"] == [4, 8, 8]


def test_a_run_that_is_stopped_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    rows = [{"x": 1.0}, {"x": -1.0}, {"x": -1.0}, {"z": 1.0}]
    with pytest.raises(DivergedError, match="stopped at step 4: z = 1") as caught:
        harness(tmp_path / "run", Scripted(rows)).train()
    assert "the last good checkpoint is that of step 2" in caught.value.hint
    with pytest.raises(DivergedError) as caught:
        harness(tmp_path / "run", Scripted(rows)).train()
    assert "of step 2" in caught.value.hint, "also after a restart"
    with pytest.raises(DivergedError) as caught:
        harness(tmp_path / "other", Scripted([{"z": 1.0}])).train()
    assert "there is no good checkpoint" in caught.value.hint


def test_the_best_weights_come_back_or_nothing_does(tmp_path: Path) -> None:
    evaluations = {step: {"eval/loss": abs(step - 2.0)} for step in range(5)}
    trainer = Scripted([{}] * 4, evaluations)
    run = harness(tmp_path / "run", trainer, keep=1)
    run.train()
    run.restore_best()
    assert trainer.weight == 2.0
    (tmp_path / "run" / "checkpoints" / "best").unlink()
    again = Scripted([{}] * 4, evaluations)
    resumed = harness(tmp_path / "run", again, keep=1)
    resumed.train()
    assert resumed.checkpoints.step_of("best") == 2, "the state says which one it is"
    resumed.restore_best()
    assert again.weight == 2.0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    lost = harness(tmp_path / "run", Scripted([{}] * 4, evaluations))
    lost.train()
    with pytest.raises(RunError, match="there is no checkpoint '2'"):
        lost.restore_best()


def test_the_test_is_of_the_best_weights_and_chooses_nothing(tmp_path: Path) -> None:
    evaluations = {step: {"eval/loss": abs(step - 2.0)} for step in range(5)}
    events = Events()
    trainer = Scripted([{}] * 4, evaluations)
    result = harness(tmp_path / "run", trainer, events, best={"metric": "eval/loss"}).train()
    assert trainer.weight == 2.0
    assert result.test == {"test/weight": 2.0}
    assert result.last_eval["eval/loss"] == 0.0, "the evaluation of the weights that are the result"
    assert [e.data["metrics"] for e in events.all if e.kind == "eval"][-1] == {"test/weight": 2.0}
    assert harness(tmp_path / "plain", Scripted([{}] * 4, evaluations)).train().test == {"test/weight": 4.0}


def test_evaluation_by_tokens(tmp_path: Path) -> None:
    rows = [{"tokens": n} for n in (30.0, 30.0, 50.0, 10.0, 230.0, 10.0, 5.0)]
    evaluations = {step: {"eval/loss": 1.0} for step in range(8)}
    events = Events()
    harness(tmp_path / "run", Scripted(rows, evaluations), events, eval_every=0, eval_tokens=100, eval_at_start=False).train()
    evaluated = [e.step for e in events.all if e.kind == "eval" and "eval/loss" in e.data["metrics"]]
    assert evaluated == [3, 5, 7], "110 tokens, 350 (three hundreds at once), and the end"
    first = harness(tmp_path / "cut", Scripted(rows[:2], evaluations), eval_every=0, eval_tokens=100, eval_at_start=False)
    first.train()
    events = Events()
    harness(tmp_path / "cut", Scripted(rows, evaluations), events, eval_every=0, eval_tokens=100, eval_at_start=False).train()
    assert [e.step for e in events.all if e.kind == "eval" and "eval/loss" in e.data["metrics"]] == [3, 5, 7], "tokens are counted on"


def test_without_a_finite_evaluation_the_last_weights_stay(tmp_path: Path) -> None:
    trainer = Scripted([{}] * 2, {step: {"eval/loss": math.nan} for step in range(3)})
    run = harness(tmp_path / "run", trainer)
    run.train()
    run.restore_best()
    assert trainer.weight == 2.0


def test_an_evaluation_that_judged_nothing_is_no_improvement(tmp_path: Path) -> None:
    nothing = {"eval/completions/failed_ratio": 1.0}
    trainer = Scripted([{}] * 3, {0: nothing, 1: {"eval/loss": 1.0}, 2: nothing, 3: nothing})
    result = harness(tmp_path / "run", trainer, best={"patience": 2}).train()
    assert result.stopped_early
    with pytest.raises(ConfigError, match="early stop watches 'eval/loss'"):
        harness(tmp_path / "other", Scripted([{}], {1: {"eval/accuracy": 1.0}})).train()


def test_time_of_training_is_told_by_every_stage(tmp_path: Path) -> None:
    events = Events()
    harness(tmp_path / "run", Scripted([{}, {"time/train_s": 0.25}]), events).train()
    first, second = (e.data["metrics"] for e in events.all if e.kind == "step")
    assert first["time/train_s"] == first["time/step_s"]
    assert second["time/train_s"] == 0.25
