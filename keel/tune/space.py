"""Points of a search, spread evenly: the same for the same seed on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from keel.core.hashing import stable_hash
from keel.tune.config import RangeConfig

Point = Mapping[str, Any]  # by key path
DIGITS = 4  # significant ones: what is printed is what ran
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def halton(index: int, base: int) -> float:
    """The ``index``-th point (from 1) of van der Corput's sequence, in (0, 1): the digits of ``index`` behind the point, reversed
    (Halton 1960)."""
    share, found = 1.0, 0.0
    while index:
        index, digit = divmod(index, base)
        share /= base
        found += share * digit
    return found


def value_at(where: RangeConfig, u: float) -> Any:
    """What stands at share ``u``, in [0, 1), of a range."""
    if where.values:
        return where.values[min(int(u * len(where.values)), len(where.values) - 1)]
    low, high = where.ends
    if where.scale == "linear":
        return rounded(low + u * (high - low))
    if where.scale == "whole":  # each number has its own stretch
        return min(math.floor(low * ((high + 1) / low) ** u), high)
    return rounded(low * (high / low) ** u)


def rounded(value: float) -> float:
    """To ``DIGITS`` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def points(search: Mapping[str, RangeConfig], n: int, seed: int, known: Sequence[Point] = ()) -> list[Point]:
    """``n`` different points, none of ``known``; fewer where there are not so many. Halton's sequence, shifted by ``seed`` (Cranley and
    Patterson 1976), so that any beginning of it covers the whole space."""
    if len(search) > len(_PRIMES):
        raise ValueError(f"{len(search)} settings are searched at once: at most {len(_PRIMES)}")
    found: list[Point] = []
    seen = [dict(p) for p in known]
    for point in _endless(search, seed):
        if len(found) == n or len(seen) > 50 * (n + 1):
            return found
        if point not in seen:
            found.append(point)
        seen.append(dict(point))
    return found


def _endless(search: Mapping[str, RangeConfig], seed: int) -> Iterator[dict[str, Any]]:
    shifts = [stable_hash("tune", seed, key) / 2**64 for key in search]
    for i in count(1):
        yield {key: value_at(where, (halton(i, base) + shift) % 1.0) for (key, where), base, shift in zip(search.items(), _PRIMES, shifts)}
