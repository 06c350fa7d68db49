"""Which evaluation was the best, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keel.core.errors import ConfigError
from keel.watch.config import EarlyStopConfig
from keel.watch.names import direction


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far."""

    step: int
    value: float


def settled(asked: EarlyStopConfig | None, own: EarlyStopConfig) -> EarlyStopConfig:
    """What is followed: as the recipe asks; what it leaves empty is the stage's ``own`` metric, and the direction that belongs to it."""
    if asked is None:
        asked = own
    if not asked.metric:
        asked = asked.model_copy(update={"metric": own.metric or "eval/loss", "mode": asked.mode or own.mode})
    return asked.model_copy(update={"mode": asked.mode or direction(asked.metric)})


class EarlyStop:
    """Follows one validation metric. An improvement is a change of more than ``min_change`` in the right direction against the best."""

    def __init__(self, config: EarlyStopConfig) -> None:
        self._config = settled(config, EarlyStopConfig(metric="eval/loss", mode="min"))
        self._best: Best | None = None
        self._waited = 0

    @property
    def metric(self) -> str:
        """The metric that is followed."""
        return self._config.metric

    @property
    def best(self) -> Best | None:
        """The best evaluation so far; None before the first finite one."""
        return self._best

    @property
    def should_stop(self) -> bool:
        """True once ``patience`` evaluations in a row brought no improvement."""
        return 0 < self._config.patience <= self._waited

    def update(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take one evaluation's metrics; True when it is the new best. A value that is not finite is no improvement.

        Raises ConfigError when the metric is not among them: waiting for it would silently never stop.
        """
        config = self._config
        if config.metric not in metrics:
            known = ", ".join(sorted(metrics))
            raise ConfigError(f"early stop watches {config.metric!r}, the evaluation reports: {known}", "set its metric to one of these")
        value = float(metrics[config.metric])
        sign = 1.0 if config.mode == "max" else -1.0
        if math.isfinite(value) and (self._best is None or sign * (value - self._best.value) > config.min_change):
            self._best, self._waited = Best(step, value), 0
            return True
        self._waited += 1
        return False

    def state(self) -> dict[str, Any]:
        """For a checkpoint (JSON)."""
        best = self._best
        return {"best": None if best is None else {"step": best.step, "value": best.value}, "waited": self._waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``."""
        best = state["best"]
        self._best = None if best is None else Best(int(best["step"]), float(best["value"]))
        self._waited = int(state["waited"])
