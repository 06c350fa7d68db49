"""The order of an offline training: which units a step takes, with a curriculum and with rows that come again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keel.core.errors import ConfigError
from keel.core.hashing import permutation
from keel.data.batching import units_for_step
from keel.data.ordering import draws, easiest_first, percentiles, released, row_weights
from keel.loops.config import LoopConfig, OrderConfig
from keel.types import Unit

Measure = Callable[[Sequence[Unit]], Sequence[tuple[float, bool]]]  # units -> (loss, is it wrong); NaN for what cannot be measured


@dataclass(frozen=True, slots=True)
class Judges:
    """What an order asks: how hard each unit is before training (a curriculum), what the model makes of units now (rows that come
    again)."""

    difficulty: Sequence[float] = ()
    measure: Measure | None = None


class Order:
    """Units by step. The base is a function of (seed, step); rows that come again depend on measures, which are part of the state."""

    def __init__(
        self, units: Sequence[Unit], loop: LoopConfig, config: OrderConfig, seed: int, total_steps: int, judges: Judges = Judges()
    ) -> None:
        self.all, self.loop, self.config, self.seed, self.total_steps = units, loop, config, seed, total_steps
        self.measure = judges.measure
        self.places = 0 if config.again is None else min(loop.batch_size, max(1, round(config.again.share * loop.batch_size)))
        self.hardness = percentiles(judges.difficulty)
        self.ranked = easiest_first(judges.difficulty, seed) if config.curriculum is not None else list(range(len(units)))
        assert len(self.ranked) == len(units), "every unit has its difficulty"
        self.losses = np.full(len(units), np.nan)
        self.wrong = np.zeros(len(units), dtype=np.bool_)
        self.window = 0  # the last one whose measures were taken
        self._drawn: dict[int, list[int]] = {}  # places of the windows of this attempt
        if config.again is not None and self.places == loop.batch_size and loop.balance_by is not None:
            raise ConfigError(
                "loop.balance_by would have no effect: order.again.share draws whole batches by weight", "set a smaller share"
            )

    def units(self, step: int) -> list[Unit]:
        """The units of step ``step`` (0-based)."""
        rows, first = self._pool(step)
        base = self._base(rows, step - first)
        return base + [self.all[i] for i in self._again(step)]

    def metrics(self, step: int) -> dict[str, float]:
        """What the order did in this step; {} without one."""
        found: dict[str, float] = {}
        if self.config.curriculum is not None:
            rows, first = self._pool(step)
            place = {id(self.all[i]): i for i in rows}
            taken = [self.hardness[place[id(u)]] for u in self._base(rows, step - first)]
            found["order/released"] = len(rows) / len(self.all)
            if taken:
                found["order/difficulty"] = sum(taken) / len(taken)
        if self.config.again is not None and (measured := int((~np.isnan(self.losses)).sum())):
            again = self._again(step)
            heavy = float((self._weights() > 1.0).sum())
            found["order/wrong"] = float(self.wrong.sum()) / measured
            found["order/heavier"] = heavy / measured
            found["order/again_wrong"] = float(self.wrong[again].mean()) if again else 0.0
        return found

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Measures and the window that they are of; nothing where no row comes again."""
        if self.config.again is None:
            return {}, {}
        return {"losses": torch.from_numpy(self.losses), "wrong": torch.from_numpy(self.wrong)}, {"window": self.window}

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Back to a state."""
        if self.config.again is None:
            return
        self.losses, self.wrong = (tensors[name].cpu().numpy().copy() for name in ("losses", "wrong"))
        self.window = int(state["window"])
        self._drawn.clear()

    def _pool(self, step: int) -> tuple[list[int], int]:
        """The rows that there are at this step, and since which step."""
        c = self.config.curriculum
        if c is None:
            return self.ranked, 0
        share, first = released(step, self.total_steps, c.start, c.until, c.stages)
        return self.ranked[: max(min(self.loop.batch_size, len(self.all)), round(share * len(self.all)))], first

    def _base(self, rows: Sequence[int], step: int) -> list[Unit]:
        """All rows in turn, in the places that are not drawn by weight."""
        size = self.loop.batch_size - self.places
        if size == 0:
            return []
        units = self.all if len(rows) == len(self.all) else [self.all[i] for i in rows]
        return units_for_step(
            units,
            step,
            size,
            self.seed,
            drop_last=self.loop.last_batch == "drop",
            by_length=self.loop.group_by_length,
            balance_by=self.loop.balance_by,
        )

    def _again(self, step: int) -> list[int]:
        """The rows of the places that are drawn by weight."""
        again = self.config.again
        if again is None:
            return []
        window, i = divmod(step, again.every)
        if window not in self._drawn:
            if window > self.window:
                self._look(window)
            rows, _ = self._pool(window * again.every)
            weights = self._weights()
            chosen = draws([float(weights[r]) for r in rows], self.places * again.every, "again", self.seed, window)
            self._drawn[window] = [rows[j] for j in chosen]
        return self._drawn[window][i * self.places : (i + 1) * self.places]

    def _look(self, window: int) -> None:
        """Measure the rows whose turn it is, with the model as it is now."""
        again = self.config.again
        assert again is not None, "nothing is to come again"
        assert self.measure is not None, "rows that come again are measured"
        n = len(self.all)
        turn = permutation(n, "pool", self.seed)
        rows = [turn[(window * again.pool + k) % n] for k in range(min(again.pool, n))]
        for row, (loss, wrong) in zip(rows, self.measure([self.all[r] for r in rows]), strict=True):
            self.losses[row], self.wrong[row] = loss, wrong
        self.window = window

    def _weights(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        again = self.config.again
        assert again is not None, "nothing is to come again"
        return row_weights(self.losses, self.wrong, again.by, again.cap, again.noise)
