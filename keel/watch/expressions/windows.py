"""What the functions over windows remember of a run, and what they make of it. A window counts what was reported, not steps: the last ten
values of ``eval/reward`` are ten evaluations. Values that are not finite are left out, except by ``count``."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Memory(Protocol):
    """A part of an expression that remembers: it takes each new value, says what it makes of them (None: not yet), and can be saved."""

    def add(self, value: float) -> None: ...

    def value(self) -> float | None: ...

    def state(self) -> Any: ...

    def load_state(self, state: Any) -> None: ...


class Window:
    """A function of the last ``n`` finite values; None until there are ``needs`` of them."""

    def __init__(self, n: int, needs: int, what: Callable[[Sequence[float]], float]) -> None:
        self._values: deque[float] = deque(maxlen=n)
        self._needs, self._what = needs, what

    def add(self, value: float) -> None:
        if math.isfinite(value):
            self._values.append(value)

    def value(self) -> float | None:
        return self._what(list(self._values)) if len(self._values) >= self._needs else None

    def state(self) -> list[float]:
        return list(self._values)

    def load_state(self, state: Sequence[float]) -> None:
        self._values.clear()
        self._values.extend(state)


class Beginning:
    """The mean of the first ``n`` finite values; None until there are so many."""

    def __init__(self, n: int) -> None:
        self._values: list[float] = []
        self._n = n

    def add(self, value: float) -> None:
        if math.isfinite(value) and len(self._values) < self._n:
            self._values.append(value)

    def value(self) -> float | None:
        return mean(self._values) if len(self._values) == self._n else None

    def state(self) -> list[float]:
        return list(self._values)

    def load_state(self, state: Sequence[float]) -> None:
        self._values = list(state)


class Whole:
    """The mean, the least or the greatest of all finite values since the beginning; None without one."""

    def __init__(self, kind: str) -> None:
        self._kind, self._n, self._sum, self._least, self._most = kind, 0, 0.0, math.inf, -math.inf

    def add(self, value: float) -> None:
        if math.isfinite(value):
            self._n, self._sum = self._n + 1, self._sum + value
            self._least, self._most = min(self._least, value), max(self._most, value)

    def value(self) -> float | None:
        if not self._n:
            return None
        return {"mean": self._sum / self._n, "min": self._least, "max": self._most}[self._kind]

    def state(self) -> list[float]:
        return [self._n, self._sum, self._least, self._most]

    def load_state(self, state: Sequence[float]) -> None:
        self._n, (self._sum, self._least, self._most) = int(state[0]), map(float, state[1:])


class Count:
    """How many of the last ``n`` answers (1 yes, 0 no) were yes, over all where ``n`` is None."""

    def __init__(self, n: int | None) -> None:
        self._n, self._answers, self._all = n, deque[float](maxlen=n or 1), 0

    def add(self, value: float) -> None:
        self._answers.append(value)
        self._all += int(value)

    def value(self) -> float:
        return float(self._all) if self._n is None else float(sum(self._answers))

    def state(self) -> list[float]:
        return [self._all, *self._answers]

    def load_state(self, state: Sequence[float]) -> None:
        self._answers.clear()
        self._all = int(state[0])
        self._answers.extend(state[1:])


def total(values: Sequence[float]) -> float:
    """The sum, rounded once; infinite or NaN where it leaves the range of floating point."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return sum(values)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return total(values) / len(values)


def std(values: Sequence[float]) -> float:
    """The standard deviation of a sample: over ``n - 1``."""
    middle = mean(values)
    return math.sqrt(total([(v - middle) * (v - middle) for v in values]) / (len(values) - 1))  # ** raises where this is infinite


def change(values: Sequence[float]) -> float:
    """``(later half - earlier half) / |earlier half|`` of their means; infinite or NaN where the earlier is 0."""
    half = len(values) // 2
    before, after = mean(values[:half]), mean(values[half:])
    return divided(after - before, abs(before))


def slope(values: Sequence[float]) -> float:
    """The least-squares line's rise per report."""
    middle, height = (len(values) - 1) / 2, mean(values)
    places = [i - middle for i in range(len(values))]
    return total([p * (v - height) for p, v in zip(places, values, strict=True)]) / sum(p * p for p in places)


def divided(a: float, b: float) -> float:
    """``a / b``: by 0 infinite with the sign of ``a``, NaN for 0 / 0."""
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


WINDOWS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": mean,
    "min": min,
    "max": max,
    "std": std,
    "change": change,
    "slope": slope,
}


def window(name: str, n: int | None) -> Memory:
    """The memory of ``name(x, n)``; without ``n`` over the whole run, which mean, min and max know."""
    if n is None:
        return Whole(name)
    if name == "first":
        return Beginning(n)
    size = 2 * n if name == "change" else n
    return Window(size, size, WINDOWS[name])
