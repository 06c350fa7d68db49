"""The offline loop's trainer: SFT, reward models and direct preference optimisation are the same loop with another objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keel.data.batching import steps_per_epoch
from keel.loops.config import LoopConfig, OrderConfig
from keel.loops.control import phase_at
from keel.loops.harness import TensorFiles
from keel.loops.ordering import Order
from keel.methods.objectives.common import credited, measured
from keel.types import Learner, Objective, Unit
from keel.watch.drift import drift

Probe = Callable[[int], None]
Measures = Callable[[Sequence[Unit]], Mapping[str, float]]
Shown = Callable[[Sequence[Unit], int], Sequence[Unit]]  # a step's units as this epoch (from 0) shows them


@dataclass(frozen=True, slots=True)
class Sides:
    """Units to train on, to evaluate on while training, and to report on at the end."""

    train: tuple[Unit, ...]
    held_out: tuple[Unit, ...] = ()
    test: tuple[Unit, ...] = ()


def total_steps(config: LoopConfig, n_units: int) -> int:
    """Optimizer steps of a loop over ``n_units`` units."""
    if config.steps is not None:
        return config.steps
    return max(1, math.ceil(config.epochs * steps_per_epoch(n_units, config.batch_size, config.last_batch == "drop")))


class OfflineTrainer:
    """Steps an objective over a fixed set of units. Without an ``order`` of its own the order is a function of (seed, epoch), so the state
    is the learner's alone."""

    def __init__(
        self,
        learner: Learner,
        objective: Objective,
        units: Sides,
        config: LoopConfig,
        seed: int,
        probe: Probe | None = None,
        order: Order | None = None,
    ) -> None:
        self.learner, self.objective, self.units = learner, objective, units
        self.config, self.seed, self.probe = config, seed, probe
        self.measures: Measures | None = None  # what else is told of the held-out units
        self.shown: Shown | None = None
        self.order = order or Order(units.train, config, OrderConfig(), seed, self.total_steps)

    @property
    def total_steps(self) -> int:
        return total_steps(self.config, len(self.units.train))

    @property
    def may_run_away(self) -> bool:
        return False

    def step(self, step: int) -> Mapping[str, float]:
        """One optimizer batch."""
        now = phase_at(self.config.phases, step, self.total_steps)
        self.learner.lr_now, self.learner.progress = now.lr if now is not None else None, step
        phase: dict[str, float] = {}
        if now is not None:
            self.learner.train_only(now.train)
            phase = {"phase": float(now.number)}
        per_epoch = steps_per_epoch(len(self.units.train), self.config.batch_size, self.config.last_batch == "drop")
        taken = self.order.units(step)
        units = credited(self.objective, taken if self.shown is None else self.shown(taken, step // per_epoch))
        report = self.learner.forward_backward(units, measured(self.objective, units, self.learner.logprobs))
        stepped = self.learner.step()
        metrics = {**report.metrics, **stepped.metrics, **self.order.metrics(step)}
        return {**metrics, "epoch": (step + 1) / per_epoch, **phase, "tokens": float(report.n_tokens)}

    def evaluate(self, step: int) -> Mapping[str, float]:
        """The objective's own metrics on the held-out units."""
        if self.probe is not None:
            self.probe(step)
        more = self.measures(self.units.held_out) if self.measures is not None else {}
        return self._measured("eval", self.units.held_out) | {f"eval/{name}": value for name, value in more.items()}

    def test(self) -> Mapping[str, float]:
        """The objective's own metrics on the test units."""
        return self._measured("test", self.units.test)

    def _measured(self, side: str, units: Sequence[Unit]) -> dict[str, float]:
        if not units:
            return {}
        units = credited(self.objective, units)
        objective = measured(self.objective, units, self.learner.logprobs)
        return {f"{side}/{name}": value for name, value in self.learner.evaluate(units, objective).metrics.items()}

    def adjust(self, lr_scale: float, kl_scale: float) -> Mapping[str, float]:
        """Scale the recipe's learning rate; there is no price of a KL to scale."""
        self.learner.lr_scale = lr_scale
        return {"lr": self.learner.lr}

    def drift(self, first: int, last: int) -> Mapping[str, float]:
        """Are the units of these steps like all units?"""

        def texts(units: Sequence[Unit]) -> list[Tensor]:
            return [torch.cat([u.prompt.tokens_T, *(b.tokens_T for b in u.branches)]) for u in units]

        return drift(texts([u for step in range(first, last + 1) for u in self.order.units(step)]), texts(self.units.train))

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        tensors, state = self.learner.state()
        measures, order = self.order.state()
        return {"policy": tensors, **({"order": measures} if measures else {})}, {"learner": state, "order": order}

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        self.learner.load_state(tensors["policy"], state["learner"])
        self.order.load_state(tensors.get("order", {}), state.get("order", {}))
