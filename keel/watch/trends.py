"""Moving averages and trends of the numbers that tell how a run is going, as metrics of their own: rules can be about them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

PARTS = "grad_norm/"  # what the norms of a model's parts begin with
FOLLOWED = ("reward", "loss", "kl", "entropy", "completions/mean_length")
SHORT, LONG = 10, 100
_SMALL = 1e-8


class Trends:
    """Follows the last 100 values of each metric in ``FOLLOWED`` that a run reports; values that are not finite are left out.

    ``trend/NAME/mean_10`` and ``mean_100`` are means over the last so many steps (over all, where there were fewer);
    ``trend/NAME/change`` is ``(last 50 - the 50 before) / |the 50 before|`` of their means, from the 100th step on;
    ``trend/reward/fall`` is how far the mean over 10 steps is below the highest there has been, in units of ``reward_std``, the spread of
    the answers to a prompt (the largest mean of it over 10 steps), from the 10th step on.
    ``trend/grad_norm/imbalance``, where the gradient's norm is reported by part (``grad_norm/<part>``): the largest part's mean over 10
    steps over the smallest's, from the 10th step on.
    """

    def __init__(self) -> None:
        self._values: dict[str, deque[float]] = {}
        self._highest = -math.inf  # mean reward of 10 steps
        self._unit = 0.0  # mean reward_std of 10 steps

    def update(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Take a step's metrics; the trends with it."""
        parts = [name for name in metrics if name.startswith(PARTS)]
        for name in (*FOLLOWED, "reward_std", *parts):
            if name in metrics and math.isfinite(metrics[name]):
                self._values.setdefault(name, deque(maxlen=LONG)).append(float(metrics[name]))
        found: dict[str, float] = {}
        for name in (n for n in FOLLOWED if n in metrics and n in self._values):
            values = list(self._values[name])
            found[f"trend/{name}/mean_{SHORT}"] = _mean(values[-SHORT:])
            found[f"trend/{name}/mean_{LONG}"] = _mean(values)
            if len(values) == LONG:
                before, last = _mean(values[: LONG // 2]), _mean(values[LONG // 2 :])
                found[f"trend/{name}/change"] = (last - before) / max(abs(before), _SMALL)
        return found | self._fall(metrics) | self._imbalance(parts)

    def _imbalance(self, parts: Sequence[str]) -> dict[str, float]:
        means = [_mean(values[-SHORT:]) for name in parts if len(values := list(self._values.get(name, ()))) >= SHORT]
        if len(means) < max(2, len(parts)):
            return {}
        return {"trend/grad_norm/imbalance": max(means) / max(min(means), _SMALL)}

    def _fall(self, metrics: Mapping[str, float]) -> dict[str, float]:
        rewards, spreads = (self._values.get(name, ()) for name in ("reward", "reward_std"))
        if "reward" not in metrics or min(len(rewards), len(spreads)) < SHORT:
            return {}
        mean = _mean(list(rewards)[-SHORT:])
        self._highest = max(self._highest, mean)
        self._unit = max(self._unit, _mean(list(spreads)[-SHORT:]))
        return {"trend/reward/fall": (self._highest - mean) / max(self._unit, _SMALL)}

    def state(self) -> dict[str, Any]:
        """For a checkpoint (JSON)."""
        return {"values": {name: list(v) for name, v in self._values.items()}, "highest": self._highest, "unit": self._unit}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``."""
        self._values = {name: deque(values, maxlen=LONG) for name, values in state["values"].items()}
        self._highest, self._unit = float(state["highest"]), float(state["unit"])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
