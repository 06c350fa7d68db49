"""The offline loop's trainer by itself: how many steps, which rate, what it tells, what it evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from keel.loops.config import LoopConfig
from keel.loops.offline import OfflineTrainer, Sides, total_steps
from keel.types import Branch, Encoded, StepReport, Unit

NO_OBJECTIVE: Any = object()


class Noting:
    """A learner that notes what it is asked. Every third step of it is left out, as steps with gradients that are not finite are."""

    def __init__(self) -> None:
        self.progress, self.lr_now, self.lr_scale, self.lr = 0, None, 1.0, 0.5
        self.planned: list[int] = []
        self.rates: list[float | None] = []
        self.parts: list[tuple[str, ...]] = []
        self.trained: list[list[str]] = []
        self.evaluated: list[list[str]] = []

    def train_only(self, parts: tuple[str, ...]) -> None:
        self.parts.append(parts)

    def forward_backward(self, units: Sequence[Unit], objective: Any) -> StepReport:
        self.trained.append([u.unit_id for u in units])
        return StepReport({"loss": 1.0}, 7)

    def step(self) -> StepReport:
        self.planned.append(self.progress)
        self.rates.append(self.lr_now)
        self.progress += len(self.planned) % 3 != 0
        return StepReport({"lr": self.lr}, 0)

    def evaluate(self, units: Sequence[Unit], objective: Any) -> StepReport:
        self.evaluated.append([u.unit_id for u in units])
        return StepReport({"loss": 2.0}, 0)

    def logprobs(self, units: Sequence[Unit]) -> Any:
        raise AssertionError("nobody asked for them")


def units(n: int, side: str = "t") -> tuple[Unit, ...]:
    token = torch.tensor([1])
    return tuple(Unit(f"{side}{i}", Encoded(token), (Branch(token, torch.tensor([True])),)) for i in range(n))


def trainer(learner: Any, n: int = 5, **loop: Any) -> OfflineTrainer:
    sides = Sides(units(n), units(2, "e"), units(1, "x"))
    return OfflineTrainer(learner, NO_OBJECTIVE, sides, LoopConfig(**loop), seed=0)


@pytest.mark.parametrize(
    ("n", "loop", "steps"),
    [
        (10, {"batch_size": 4}, 3),  # 4, 4 and a batch of 2
        (10, {"batch_size": 4, "last_batch": "drop"}, 2),
        (10, {"batch_size": 4, "epochs": 1.5}, 5),  # 4.5 steps: half an epoch is not cut short
        (10, {"batch_size": 5, "epochs": 3}, 6),
        (10, {"batch_size": 16, "epochs": 0.1}, 1),
        (10, {"batch_size": 4, "steps": 9, "epochs": 2}, 9),
    ],
)
def test_steps_of_a_training(n: int, loop: dict[str, Any], steps: int) -> None:
    assert total_steps(LoopConfig(**loop), n) == steps
    assert trainer(Noting(), n, **loop).total_steps == steps


def test_every_unit_once_an_epoch_and_the_rest_of_it_in_the_last_batch() -> None:
    learner = Noting()
    run = trainer(learner, batch_size=2, epochs=2)
    told = [run.step(k)["epoch"] for k in range(run.total_steps)]
    assert [len(part) for part in learner.trained] == [2, 2, 1] * 2
    for epoch in (learner.trained[:3], learner.trained[3:]):
        assert sorted(name for part in epoch for name in part) == ["t0", "t1", "t2", "t3", "t4"]
    assert told == pytest.approx([1 / 3, 2 / 3, 1.0, 4 / 3, 5 / 3, 2.0])


def test_the_schedule_goes_by_the_step_and_not_by_what_was_made_of_it() -> None:
    learner = Noting()
    run = trainer(learner, batch_size=2, steps=6)
    for step in range(6):
        run.step(step)
    assert learner.planned == [0, 1, 2, 3, 4, 5]
    assert learner.rates == [None] * 6


def test_a_phase_sets_the_rate_of_its_own_steps() -> None:
    learner = Noting()
    phases = [{"name": "a", "until": 0.5, "lr": 1.0, "lr_end": 0.5, "train": ["x"]}, {"name": "b", "until": 1.0}]
    run = trainer(learner, batch_size=2, steps=4, phases=phases)
    assert [run.step(step)["phase"] for step in range(4)] == [1.0, 1.0, 2.0, 2.0]
    assert learner.rates == [1.0, 0.5, None, None]
    assert learner.parts == [("x",), ("x",), (), ()]


def test_held_out_and_test_units_are_measured_each_under_its_own_name() -> None:
    learner = Noting()
    run = trainer(learner)
    assert run.evaluate(0) == {"eval/loss": 2.0}
    assert run.test() == {"test/loss": 2.0}
    assert learner.evaluated == [["e0", "e1"], ["x0"]]
    assert learner.trained == []
    alone = OfflineTrainer(learner, NO_OBJECTIVE, Sides(units(1)), LoopConfig(), seed=0)
    assert (alone.evaluate(0), alone.test()) == ({}, {})
    assert run.adjust(0.1, 2.0) == {"lr": 0.5}
    assert learner.lr_scale == 0.1
