"""Calls that cost something, on their way: a bar with what it has cost and the time left."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Heard = Callable[[Sequence[Any]], None]  # told of calls that ended, each with its `cost`


@dataclass(slots=True)
class Phases:
    """One bar a phase, and what all of them have cost so far."""

    bar: Progress
    cost: float | None = 0.0
    made: int = 0  # calls that were made, and not found in a journal

    def __call__(self, name: str, total: int) -> Heard:
        """Begin a phase of ``total`` calls."""
        task = self.bar.add_task(name, total=total, cost=money(self.cost))

        def heard(ended: Sequence[Any]) -> None:
            costs = [x.cost for x in ended]
            self.made += sum(x.made for x in ended)
            unknown = self.cost is None or any(c is None for c in costs)
            self.cost = None if unknown else (self.cost or 0.0) + math.fsum(costs)
            self.bar.update(task, advance=len(ended), cost=money(self.cost))

        return heard


@contextmanager
def phases() -> Iterator[Phases]:
    """Bars with cost and time left, where somebody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("cost {task.fields[cost]}"))
    with Progress(*columns, TimeRemainingColumn(), transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        yield Phases(bar)


@contextmanager
def progress(total: int, name: str) -> Iterator[Heard]:
    """One bar."""
    with phases() as begin:
        yield begin(name, total)


def money(value: float | None) -> str:
    """A price in words."""
    return "unknown" if value is None else f"{value:.4g}"
