"""Emergencies: the harness around a trainer that explodes when its steps are too large, and a tiny model that is made to explode."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.config import Section
from keel.core.errors import DivergedError
from keel.core.events import EventBus
from keel.loops.config import LoopConfig
from keel.loops.harness import Harness, TensorFiles
from keel.loops.online import OnlineTrainer
from keel.runs.checkpoints import Checkpoints
from keel.runs.directory import RunDir
from keel.runs.sinks import JsonlSink
from keel.watch.config import EarlyStopConfig, EmergencyConfig, Rule, WatchConfig
from keel.watch.engine import Watch

Rows = Callable[[Path], list[dict[str, Any]]]
Stage = Callable[..., dict[str, Any]]


class Nothing(Section):
    """A recipe without settings."""


class Explosive:
    """Its weight grows by the learning rate's scale in every step, its KL is the weight, times a hundred from ``bad`` on while steps are
    large."""

    may_run_away = True
    total_steps = 8

    def __init__(self, bad: int = 5, calm: float = 0.1, raises: bool = False) -> None:
        self.bad, self.calm, self.raises, self.weight, self.scales = bad, calm, raises, 0.0, (1.0, 1.0)
        self.asked: list[tuple[int, int]] = []

    def step(self, step: int) -> Mapping[str, float]:
        self.weight += self.scales[0]
        wild = step >= self.bad and self.scales[0] > self.calm
        if wild and self.raises:
            raise DivergedError("3 steps in a row had gradients that are not finite")
        return {"tokens": 1.0, "kl": self.weight * (10.0 if wild else 0.1)}

    def evaluate(self, step: int) -> Mapping[str, float]:
        return {"eval/loss": float(step)}

    def test(self) -> Mapping[str, float]:
        return {}

    def adjust(self, lr_scale: float, kl_scale: float) -> Mapping[str, float]:
        self.scales = (lr_scale, kl_scale)
        return {"lr": lr_scale, "kl_coef": kl_scale}

    def drift(self, first: int, last: int) -> Mapping[str, float]:
        self.asked.append((first, last))
        return {"texts": 1.0, "length_z": 0.0, "surprise_z": 0.0}

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        return {"policy": {"w": torch.tensor([self.weight], dtype=torch.float64)}}, {}

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        self.weight = tensors["policy"]["w"].item()


def harness(path: Path, trainer: Any, every: int = 2, for_steps: int = 2, **emergency: Any) -> Harness:
    run = RunDir.open(path, Nothing(), "rl", 0)
    run.close()
    rule = Rule(name="kl", metric="kl", compare=">", threshold=5.0, for_steps=for_steps, level="rollback")
    watch = WatchConfig(defaults=False, rules=(rule,), emergency=EmergencyConfig.model_validate(emergency))
    bus = EventBus([JsonlSink(run)])
    return Harness(trainer, run, Checkpoints(path / "checkpoints", 3), bus, LoopConfig(), watch, every, EarlyStopConfig())


def emergencies(rows: Rows, path: Path) -> list[dict[str, Any]]:
    return [row for row in rows(path / "events.jsonl") if row["kind"] == "emergency" and "undone" not in row]


def test_back_to_the_last_good_checkpoint_with_smaller_steps(tmp_path: Path, rows: Rows) -> None:
    """Steps 6 and 7 cross the limit. Step 6 has a checkpoint, which is not good: the rule had begun to hold."""
    trainer = Explosive()
    result = harness(tmp_path, trainer, kl_factor=3.0).train()
    assert result.step == 8
    assert trainer.scales == (0.1, 3.0)
    assert trainer.weight == pytest.approx(4 + 4 * 0.1)
    assert trainer.asked == [(4, 6)]
    (told,) = emergencies(rows, tmp_path)
    assert (told["step"], told["back_to"], told["rollback"], told["lr_scale"], told["kl_scale"]) == (7, 4, 1, 0.1, 3.0)
    assert told["settings"] == {"lr": 0.1, "kl_coef": 3.0}
    assert told["drift"] == {"texts": 1.0, "length_z": 0.0, "surprise_z": 0.0}
    assert told["message"].startswith("kl = 70 (> 5 for 2 steps). Back to step 4 (rollback 1); lr is now 0.1, kl_coef is now 3.")
    assert "data: the 1 texts of these steps are like the rest" in told["message"]
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == list(range(9)), "each step stands once"
    left = rows(tmp_path / "abandoned.jsonl")
    assert [(row["rollback"], row["step"], row["kl"]) for row in left] == [(1, 5, 0.5), (1, 6, 60.0), (1, 7, 70.0)]


def test_the_alarm_of_steps_that_were_given_up_stays(tmp_path: Path, rows: Rows) -> None:
    harness(tmp_path, Explosive()).train()
    (alarm,) = (row for row in rows(tmp_path / "events.jsonl") if row["kind"] == "verdict")
    assert (alarm["step"], alarm["rule"], alarm["undone"]) == (7, "kl", 4)
    assert all("at" in row for row in rows(tmp_path / "events.jsonl"))
    assert all("at" not in row for row in rows(tmp_path / "metrics.jsonl"))


def watched(path: Path, trainer: Any, *rules: Rule, **loop: Any) -> Harness:
    run = harness(path, trainer)
    run.watch = Watch(WatchConfig(defaults=False, rules=rules), run._tell, None, run._say)
    run.config = LoopConfig(**loop)
    return run


class Measured(Explosive):
    """Its held-out loss is 9 from step 4 on until steps are small."""

    def evaluate(self, step: int) -> Mapping[str, float]:
        return {"eval/loss": 9.0 if step >= 4 and self.scales[0] == 1.0 else 1.0}


def test_a_rule_on_an_evaluation_acts(tmp_path: Path, rows: Rows) -> None:
    back = Rule(name="held-out", metric="eval/loss", compare=">", threshold=5.0, level="rollback")
    trainer = Measured(bad=99)
    assert watched(tmp_path / "back", trainer, back, eval_every=2).train().step == 8
    (told,) = emergencies(rows, tmp_path / "back")
    assert (told["step"], told["back_to"]) == (4, 2)
    assert told["reason"].startswith("eval/loss = 9 (> 5)")
    metrics = rows(tmp_path / "back" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(9))
    assert all(row.get("eval/loss", 1.0) == 1.0 for row in metrics)
    stop = back.model_copy(update={"act": "stop"})
    with pytest.raises(DivergedError, match="stopped at step 4: eval/loss = 9"):
        watched(tmp_path / "stop", Measured(bad=99), stop, eval_every=2).train()
    last = back.model_copy(update={"for_steps": 2, "level": "warning", "act": ""})
    watched(tmp_path / "warn", Measured(bad=99), last, eval_every=2).train()
    (warned,) = (row for row in rows(tmp_path / "warn" / "events.jsonl") if row["kind"] == "warning")
    assert warned["step"] == 6, "the second evaluation in a row"


def test_a_rule_that_could_never_speak_is_told_at_the_end(tmp_path: Path, rows: Rows) -> None:
    rule = Rule(name="typo", metric="eval/los", compare=">", threshold=5.0, level="stop")
    watched(tmp_path, Explosive(bad=99), rule).train()
    early, late = (row for row in rows(tmp_path / "events.jsonl") if row["kind"] == "warning")
    assert early["step"] == 0, "after the first evaluation, which is of the start"
    assert early["message"].startswith("rule 'typo' has nothing to look at so far: no step or evaluation reported a metric 'eval/los'")
    assert "rule 'typo' never spoke" in late["message"]
    assert "did you mean eval/loss?" in late["message"]


def test_gradients_that_are_not_finite_are_an_emergency_too(tmp_path: Path, rows: Rows) -> None:
    assert harness(tmp_path, Explosive(raises=True)).train().step == 8
    (told,) = emergencies(rows, tmp_path)
    assert (told["step"], told["back_to"]) == (6, 4)
    assert told["reason"] == "3 steps in a row had gradients that are not finite"


def test_the_hard_limit_stops(tmp_path: Path, rows: Rows) -> None:
    """Never calm: the second time it goes back further, to a checkpoint from before trouble can have begun, then it gives up."""
    trainer = Explosive(calm=0.0)
    with pytest.raises(DivergedError, match=r"stopped at step 6: kl = 20\.4") as caught:
        harness(tmp_path, trainer, rollbacks=2, for_steps=1, every=2).train()
    assert "the run has gone back 2 times already" in caught.value.hint
    assert [(e["rollback"], e["back_to"]) for e in emergencies(rows, tmp_path)] == [(1, 4), (2, 2)]
    assert trainer.scales == (pytest.approx(0.01), 4.0)


@pytest.mark.parametrize(("rollbacks", "bad", "hint"), [(0, 5, "the last good checkpoint is that of step 4"), (3, 0, "")])
def test_without_the_guard_it_stops_and_the_start_is_a_way_back(tmp_path: Path, rows: Rows, rollbacks: int, bad: int, hint: str) -> None:
    if rollbacks:
        assert harness(tmp_path, Explosive(bad=bad), every=4, rollbacks=rollbacks).train().step == 8
        assert [e["back_to"] for e in emergencies(rows, tmp_path)] == [0]
        return
    with pytest.raises(DivergedError) as caught:
        harness(tmp_path, Explosive(bad=bad), rollbacks=rollbacks).train()
    assert hint in caught.value.hint
    assert emergencies(rows, tmp_path) == []


def test_who_cannot_run_away_has_no_checkpoint_of_the_start(tmp_path: Path) -> None:
    trainer = Explosive(bad=0)
    trainer.may_run_away = False
    with pytest.raises(DivergedError) as caught:
        harness(tmp_path, trainer, every=4).train()
    assert "there is no good checkpoint" in caught.value.hint


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["give_up", "_save", "step"])
def test_a_kill_in_or_after_an_emergency_changes_nothing(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    undisturbed, trainer, resumed = Explosive(), Explosive(), Explosive()
    harness(tmp_path / "undisturbed", undisturbed).train()
    run = harness(tmp_path / "run", trainer)

    def die(*args: Any) -> None:
        raise Killed

    go_back = run._go_back

    def going_back(*args: Any) -> int:
        if at == "step":
            step = go_back(*args)
            trainer.step = die
            return step
        monkeypatch.setattr(run.run if at == "give_up" else run, at, die)
        return go_back(*args)

    monkeypatch.setattr(run, "_go_back", going_back)
    with pytest.raises(Killed):
        run.train()
    harness(tmp_path / "run", resumed).train()
    assert (resumed.weight, resumed.scales) == (undisturbed.weight, (0.1, 2.0))
    steps = ["step", "kl", "eval/loss", "rollback"]
    for file in ("metrics.jsonl", "abandoned.jsonl"):
        ours, theirs = ([[row.get(k) for k in steps] for row in rows(tmp_path / d / file)] for d in ("run", "undisturbed"))
        assert ours == theirs, file
    assert len(emergencies(rows, tmp_path / "run")) == 1


EXPLODES = (
    "optim.lr=0.1",
    "loop={steps: 10, batch_size: 4, probes: 0}",
    "settings={threads: 1, checkpoint: {every: 2}}",
    "settings.watch.rules=[{name: kl, metric: kl, compare: '>', threshold: 2, for_steps: 3, level: rollback}]",
)


@pytest.fixture(scope="module")
def saved(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a learning rate thirty times too large."""
    path = tmp_path_factory.mktemp("emergency") / "saved"
    stage("grpo", path, *EXPLODES)
    return path


def test_a_model_that_is_made_to_explode_goes_on_and_says_what_it_did(saved: Path, stage: Stage, rows: Rows, tmp_path: Path) -> None:
    stage("grpo", tmp_path / "lost", *EXPLODES, "settings.watch.rules=[]")
    guarded, lost = (rows(path / "metrics.jsonl") for path in (saved, tmp_path / "lost"))
    limit = 2.0  # of the rule
    assert all(row["kl"] > limit for row in lost[-4:]), "without the guard it stays out there"
    assert all(row["kl"] < limit for row in guarded[-4:])
    assert json.loads((saved / "summary.json").read_text())["steps"] == 10
    (told,) = emergencies(rows, saved)
    before, after = ([row[k] for row in guarded[told["back_to"] :]][:2] for k in ("lr", "kl_coef"))
    assert before == pytest.approx([0.1, 0.01])
    assert after == pytest.approx([0.04, 0.08])
    assert set(told["drift"]) == {"texts", "length_z", "surprise_z"}
    assert [row["kl"] for row in rows(saved / "abandoned.jsonl")][-1] > limit


def test_a_resumed_run_goes_on_with_what_the_emergency_left(
    saved: Path, stage: Stage, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the last step, long after the emergency: bit for bit the undisturbed run."""
    done, step = [], OnlineTrainer.step

    def dying(self: OnlineTrainer, number: int) -> Mapping[str, float]:
        if number == 9:
            raise Killed
        done.append(number)
        return step(self, number)

    monkeypatch.setattr(OnlineTrainer, "step", dying)
    with pytest.raises(Killed):
        stage("grpo", tmp_path / "run", *EXPLODES)
    assert len(done) > len(set(done)), "it had gone back before it was killed"
    monkeypatch.undo()
    stage("grpo", tmp_path / "run", *EXPLODES)
    untimed = [
        {k: v for k, v in row.items() if not k.startswith(("time/", "tokens_per_s", "mem/"))} for row in rows(saved / "metrics.jsonl")
    ]
    again = [{k: row[k] for k in known} for row, known in zip(rows(tmp_path / "run" / "metrics.jsonl"), untimed, strict=True)]
    assert again == untimed
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == (saved / "final" / "model.safetensors").read_bytes()
    assert len(emergencies(rows, tmp_path / "run")) == 1


@pytest.mark.parametrize("at", ["give_up", "_save", "step"])
def test_no_event_is_ever_lost(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Every event that was told is in the file in the end, under the number and id that it had."""
    told: list[tuple[str, int, int, str]] = []
    emit = EventBus.emit

    def spy(bus: EventBus, kind: str, step: int, message: str = "", **data: Any) -> Any:
        event = emit(bus, kind, step, message, **data)
        told.extend([(kind, step, event.number, event.id)] if event.number else [])
        return event

    monkeypatch.setattr(EventBus, "emit", spy)
    test_a_kill_in_or_after_an_emergency_changes_nothing(tmp_path, rows, monkeypatch, at)
    every = [row for d in ("undisturbed", "run") for row in rows(tmp_path / d / "events.jsonl")]
    found = [(row["kind"], row["step"], row["number"], row["id"]) for row in every]
    assert found == told
