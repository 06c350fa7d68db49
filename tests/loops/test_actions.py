"""Every action of a rule, shown on a trainer of one number: what is done, what is told, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import Section
from keel.core.errors import DivergedError
from keel.core.events import EventBus
from keel.loops.config import LoopConfig
from keel.loops.emergency import Emergency, never_recovered
from keel.loops.harness import Harness, TensorFiles
from keel.runs.checkpoints import Checkpoints
from keel.runs.directory import RunDir
from keel.runs.sinks import JsonlSink
from keel.watch.config import EarlyStopConfig, EmergencyConfig, WatchConfig

Rows = Callable[[Path], list[dict[str, Any]]]


class Nothing(Section):
    """A recipe without settings."""


class Learner:
    """Its KL is what the script says of a step; its weight grows by the scale of the learning rate."""

    may_run_away = True

    def __init__(self, *kls: float) -> None:
        self.kls, self.weight, self.scales = kls, 0.0, (1.0, 1.0)
        self.seen: list[tuple[float, float]] = []  # the scales that each step was made with

    @property
    def total_steps(self) -> int:
        return len(self.kls)

    def step(self, step: int) -> Mapping[str, float]:
        self.weight += self.scales[0]
        self.seen.append(self.scales)
        return {"tokens": 1.0, "kl": self.kls[step], "reward": self.weight}

    def evaluate(self, step: int) -> Mapping[str, float]:
        return {"eval/loss": 10.0 - self.weight}

    def test(self) -> Mapping[str, float]:
        return {}

    def adjust(self, lr_scale: float, kl_scale: float) -> Mapping[str, float]:
        self.scales = (lr_scale, kl_scale)
        return {"lr": lr_scale, "kl_coef": kl_scale}

    def drift(self, first: int, last: int) -> Mapping[str, float]:
        return {}

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        return {"policy": {"w": torch.tensor([self.weight], dtype=torch.float64)}}, {}

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        self.weight = tensors["policy"]["w"].item()


def harness(path: Path, trainer: Learner, *rules: Mapping[str, Any], **watch: Any) -> Harness:
    run = RunDir.open(path, Nothing(), "rl", 0)
    run.close()
    config = WatchConfig.model_validate({"defaults": False, "rules": rules, **watch})
    bus = EventBus([JsonlSink(run)], run.identity, run.last_event())
    loop = LoopConfig(eval_every=2)
    settings = {"algorithm.kl.control.target": 0.1}
    return Harness(trainer, run, Checkpoints(path / "checkpoints", 9), bus, loop, config, 1, EarlyStopConfig(), settings=settings)


def events(rows: Rows, path: Path, *kinds: str) -> list[dict[str, Any]]:
    return [row for row in rows(path / "events.jsonl") if row["kind"] in kinds]


def high(act: str, **more: Any) -> dict[str, Any]:
    return {"name": "high", "expr": "kl > 2", "act": act, "page": "docs/x.md#high", **more}


def test_drill_lower_lr(tmp_path: Path, rows: Rows) -> None:
    trainer = Learner(1, 3, 3, 1)
    harness(tmp_path, trainer, high("lower_lr"), emergency={"lr_factor": 0.5}).train()
    assert trainer.seen == [(1, 1), (1, 1), (0.5, 1), (0.5, 1)], "from the next step on, once for the whole alarm"
    (told,) = events(rows, tmp_path, "adjusted")
    assert (told["step"], told["changes"], told["lr_scale"], told["settings"]) == (2, ["lower_lr"], 0.5, {"lr": 0.5, "kl_coef": 1.0})
    assert told["message"] == "kl = 3 (> 2). lr is now 0.5, kl_coef is now 1"


def test_drill_raise_kl(tmp_path: Path, rows: Rows) -> None:
    trainer = Learner(1, 3, 1, 3, 1)
    harness(tmp_path, trainer, high("raise_kl"), emergency={"kl_factor": 3.0}).train()
    assert [kl for _, kl in trainer.seen] == [1, 1, 3, 3, 9]
    assert [row["step"] for row in events(rows, tmp_path, "adjusted")] == [2, 4]


def test_drill_pause_and_go_on(tmp_path: Path, rows: Rows) -> None:
    """It is saved though no checkpoint is due."""
    paused = harness(tmp_path, Learner(1, 3, 3, 1), high("pause"))
    paused.checkpoint_every, paused.config = 99, LoopConfig()
    result = paused.train()
    assert (result.step, result.interrupted) == (2, True)
    (told,) = events(rows, tmp_path, "paused")
    assert told["message"].startswith("paused at step 2: kl = 3 (> 2). The run is saved; start the same command again")
    resumed = Learner(1, 3, 3, 1)
    result = harness(tmp_path, resumed, high("pause")).train()
    assert (result.step, result.interrupted, resumed.weight) == (4, False, 4.0), "the same alarm does not pause it again"
    assert len(resumed.seen) == 2


def test_drill_rollback(tmp_path: Path, rows: Rows) -> None:
    class Tamed(Learner):
        def step(self, step: int) -> Mapping[str, float]:
            return {**super().step(step), "kl": self.kls[step] if self.scales[0] == 1 else 0.5}

    trainer = Tamed(1, 3, 3, 1)
    assert harness(tmp_path, trainer, high("rollback")).train().step == 4
    assert trainer.seen == [(1, 1)] * 2 + [(0.1, 2)] * 3
    (told,) = events(rows, tmp_path, "emergency")
    assert (told["step"], told["back_to"]) == (2, 1)


def test_drill_stop(tmp_path: Path, rows: Rows) -> None:
    with pytest.raises(DivergedError, match=r"stopped at step 2: kl = 3 \(> 2\)"):
        harness(tmp_path, Learner(1, 3, 3, 1), high("stop")).train()
    assert [row.get("action", row.get("act")) for row in events(rows, tmp_path, "verdict")] == ["stop", "stop"]


def test_by_default_shipped_rules_observe_and_say_what_they_would_have_done(tmp_path: Path, rows: Rows) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  - {name: high, expr: kl > 2 * $kl.target, act: rollback, level: critical}\n")
    trainer = Learner(0.1, 3, 3, 0.1)
    assert harness(tmp_path / "observes", trainer, files=[str(file)]).train().step == 4
    assert trainer.seen == [(1, 1)] * 4
    assert events(rows, tmp_path / "observes", "emergency", "adjusted", "verdict") == []
    (told,) = events(rows, tmp_path / "observes", "warning")
    assert (told["level"], told["would"], told["step"]) == ("critical", "rollback", 2)
    assert "settings.watch.act is off; on, the answer would be: rollback" in told["message"]
    with pytest.raises(DivergedError):
        harness(tmp_path / "acts", Learner(0.1, 3, 3, 3), files=[str(file)], act=True, emergency={"rollbacks": 1}).train()
    assert len(events(rows, tmp_path / "acts", "emergency")) == 1


def test_an_alarm_has_number_id_and_time_and_its_end_names_it(tmp_path: Path, rows: Rows) -> None:
    harness(tmp_path, Learner(1, 3, 3, 1), high("", level="critical")).train()
    began, over = events(rows, tmp_path, "warning", "resolved")
    assert (began["step"], began["state"], began["page"]) == (2, "firing", "docs/x.md#high")
    assert (over["step"], over["state"], over["began"]) == (4, "resolved", began["id"])
    assert over["message"] == "high is over: kl = 1"
    every = rows(tmp_path / "events.jsonl")
    assert [row["number"] for row in every] == list(range(1, len(every) + 1))
    assert len({row["id"] for row in every}) == len(every)
    assert all(row["at"].endswith("+00:00") for row in every)


class Killed(BaseException):
    pass


def test_numbers_go_on_after_a_kill_and_the_end_still_names_the_beginning(tmp_path: Path, rows: Rows) -> None:
    class Dying(Learner):
        def step(self, step: int) -> Mapping[str, float]:
            if step == 3:
                raise Killed
            return super().step(step)

    rule = high("", level="critical")
    with pytest.raises(Killed):
        harness(tmp_path, Dying(1, 3, 3, 1), rule).train()
    harness(tmp_path, Learner(1, 3, 3, 1), rule).train()
    every = rows(tmp_path / "events.jsonl")
    numbers = [row["number"] for row in every]
    assert numbers == sorted(set(numbers))
    (began,) = events(rows, tmp_path, "warning")
    (over,) = events(rows, tmp_path, "resolved")
    assert over["began"] == began["id"]


def test_alarms_and_actions_of_a_stretch_that_was_taken_back_stay_and_are_marked(tmp_path: Path, rows: Rows) -> None:
    class Tamed(Learner):
        def step(self, step: int) -> Mapping[str, float]:
            return {**super().step(step), "kl": self.kls[step] if self.scales[0] > 0.1 else 0.5}

    rules = (high("lower_lr", name="early"), {"name": "late", "expr": "kl > 2", "for": 2, "act": "rollback"})
    harness(tmp_path, Tamed(1, 1, 3, 3, 1, 1), *rules, emergency={"lr_factor": 0.3}).train()
    marked = [(row["kind"], row["step"], row.get("undone")) for row in events(rows, tmp_path, "verdict", "adjusted", "emergency")]
    assert marked == [("verdict", 3, 2), ("adjusted", 3, 2), ("verdict", 4, 2), ("emergency", 4, None)]


# The way back ----------------------------------------------------------------------------------------------------------------------------


def test_what_was_changed_comes_back_step_by_step_by_hand() -> None:
    """A tenth and twice; two calm steps, then two steps for a factor: sqrt(10) and 1 / sqrt(2) each."""
    config = EmergencyConfig(recover_after=2, recover_steps=2)
    state, seen = Emergency().next(config, 4), []
    for _ in range(5):
        state = state.after_step(config, True)
        seen.append((state.lr_scale, state.kl_scale))
    assert seen == [
        (0.1, 2.0),
        (0.1, 2.0),
        (pytest.approx(10**-0.5), pytest.approx(2**0.5)),
        (1.0, 1.0),
        (1.0, 1.0),
    ]


def test_an_alarm_on_the_way_begins_the_waiting_anew() -> None:
    config = EmergencyConfig(recover_after=2, recover_steps=1)
    state, seen = Emergency().next(config, 4), []
    for calm in (True, True, False, True, True, True):
        state = state.after_step(config, calm)
        seen.append(state.lr_scale)
    assert seen == [0.1] * 5 + [1.0]


def test_where_trouble_came_again_settings_do_not_come_back_to() -> None:
    config = EmergencyConfig(recover_after=1, recover_steps=1)
    state = Emergency().next(config, 4)
    for _ in range(2):
        state = state.after_step(config, True)
    assert (state.lr_scale, state.kl_scale) == (1.0, 1.0)
    state = state.next(config, 6)
    assert (state.lr_scale, state.lr_most) == (0.1, pytest.approx(10**-0.5))
    for _ in range(9):
        state = state.after_step(config, True)
    assert (state.lr_scale, state.kl_scale) == (pytest.approx(10**-0.5), pytest.approx(2**0.5))
    assert not state.away


def test_a_run_without_an_emergency_is_left_alone_and_0_means_never() -> None:
    assert Emergency().after_step(EmergencyConfig(), True) == Emergency()
    state = Emergency().next(EmergencyConfig(), 1)
    assert state.after_step(EmergencyConfig(recover_after=0), True) == state


def test_the_way_back_is_told_and_part_of_the_state(tmp_path: Path, rows: Rows) -> None:
    """Cut in the middle of it, a run goes on as if nothing had been."""
    rule, more = high("lower_lr"), {"emergency": {"recover_after": 2, "recover_steps": 2}}
    kls = (1, 3, 1, 1, 1, 1, 1)
    whole = Learner(*kls)
    harness(tmp_path / "whole", whole, rule, **more).train()
    scales = [lr for lr, _ in whole.seen]
    assert scales == [1, 1, 0.1, 0.1, 0.1, pytest.approx(10**-0.5), 1]
    told = events(rows, tmp_path / "whole", "recovery")
    assert [(row["step"], row["lr_scale"]) for row in told] == [(5, pytest.approx(10**-0.5)), (6, 1.0)]
    assert "begin to come back" in told[0]["message"]
    assert "are back at the recipe's" in told[1]["message"]
    for cut in (3, 4, 5, 6):

        class Dying(Learner):
            def step(self, step: int, cut: int = cut) -> Mapping[str, float]:
                if step == cut:
                    raise Killed
                return super().step(step)

        with pytest.raises(Killed):
            harness(tmp_path / str(cut), Dying(*kls), rule, **more).train()
        resumed = Learner(*kls)
        harness(tmp_path / str(cut), resumed, rule, **more).train()
        assert resumed.seen == whole.seen[cut:]
        assert resumed.weight == whole.weight


def test_the_end_says_that_a_run_never_recovered(tmp_path: Path, rows: Rows) -> None:
    result = harness(tmp_path / "lost", Learner(1, 3, 1), high("lower_lr")).train()
    assert result.never_recovered == "the run never recovered: learning rates are 0.1 of the recipe's"
    told = events(rows, tmp_path / "lost", "warning")[-1]
    assert (told["never_recovered"], told["level"]) == (True, "critical")
    quick = {"recover_after": 1, "recover_steps": 1}
    result = harness(tmp_path / "back", Learner(1, 3, 1, 1, 1), high("lower_lr"), emergency=quick).train()
    assert result.never_recovered == ""
    assert harness(tmp_path / "calm", Learner(1, 1), high("lower_lr")).train().never_recovered == ""


def test_in_which_ways_a_run_can_fail_to_recover() -> None:
    healed = Emergency(rollbacks=1, back_to=4)
    assert never_recovered(Emergency(), ["kl"], 0) == ""
    assert never_recovered(healed, [], 5) == ""
    assert never_recovered(healed, [], 4) == "the run never recovered: no evaluation was better than that of step 4, before the emergency"
    assert never_recovered(healed, ["a", "b"], None) == "the run never recovered: a, b still speak"
    more = never_recovered(Emergency(rollbacks=1, kl_scale=2.0, back_to=4), ["a"], 9)
    assert more == "the run never recovered: the price of the KL is 2 times the recipe's; a still speaks"


def test_a_change_beside_a_pause_is_made_before_the_run_is_saved(tmp_path: Path, rows: Rows) -> None:
    """It is asked for only once, when the alarm begins: left for later it would never come."""
    rules = [high("pause"), {"name": "slow", "expr": "kl > 2", "act": "lower_lr"}, {"name": "dear", "expr": "kl > 2", "act": "raise_kl"}]
    limits = {"lr_factor": 0.5, "kl_factor": 3.0}
    assert harness(tmp_path, Learner(1, 3, 3, 1), *rules, emergency=limits).train().interrupted
    assert [row["kind"] for row in events(rows, tmp_path, "adjusted", "paused")] == ["adjusted", "paused"]
    resumed = Learner(1, 3, 3, 1)
    assert not harness(tmp_path, resumed, *rules, emergency=limits).train().interrupted
    assert resumed.seen == [(0.5, 3.0)] * 2
    (told,) = events(rows, tmp_path, "adjusted")
    assert (told["changes"], told["lr_scale"], told["kl_scale"]) == (["lower_lr", "raise_kl"], 0.5, 3.0)


def test_alarms_of_a_pattern_say_of_which_metric_they_are(tmp_path: Path, rows: Rows) -> None:
    class Parts(Learner):
        def step(self, step: int) -> Mapping[str, float]:
            return {**super().step(step), "rewards/a/std": 0.0, "rewards/b/std": 0.0}

    flat = {"name": "flat", "expr": "kl > 0 and `rewards/*/std` == 0"}
    harness(tmp_path, Parts(1, 1), flat, {"name": "some", "expr": "kl > 0"}).train()
    assert [row.get("series") for row in events(rows, tmp_path, "warning")] == [None, "rewards/a/std", "rewards/b/std"]
