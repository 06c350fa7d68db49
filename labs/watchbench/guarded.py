"""What an acting guard costs a run that is well: the same run with and without it, from the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from keel.evaluate.statistics import Interval

DRAWS = 10_000


def cost(without: Sequence[float], guarded: Sequence[float], starts: Sequence[float], seed: int = 0) -> Interval:
    """How much less of what was learned the guarded runs have, as a share: ``sum(without - guarded) / sum(without - start)`` over pairs,
    with a percentile bootstrap over them. Raises ValueError where nothing was learned without the guard."""
    lost = [a - b for a, b in zip(without, guarded, strict=True)]
    learned = [a - s for a, s in zip(without, starts, strict=True)]
    if sum(learned) <= 0:
        raise ValueError("nothing was learned without the guard: there is nothing that it could cost")
    rng = random.Random(seed)
    shares: list[float] = []
    for _ in range(DRAWS):
        drawn = rng.choices(range(len(lost)), k=len(lost))
        whole = sum(learned[i] for i in drawn)
        shares.append(sum(lost[i] for i in drawn) / whole if whole > 0 else 1.0)
    shares.sort()
    return Interval(sum(lost) / sum(learned), shares[round(0.025 * DRAWS)], shares[round(0.975 * DRAWS) - 1], len(lost))


def pairs(plain: Sequence[Mapping[str, Any]], acting: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs that are there with and without a guard, by name: the final held-out reward of both, the first evaluation, what it did."""
    by_name = {row["run"].name: row for row in plain}
    found: list[dict[str, Any]] = []
    for row in acting:
        twin = by_name.get(row["run"].name)
        if twin is None or "reward" not in row["final"] or "reward" not in twin["final"]:
            continue
        start = next(r["eval/reward"] for r in twin["rows"] if "eval/reward" in r)
        same = [_metrics(r) for r in row["rows"]] == [_metrics(r) for r in twin["rows"]]
        ends = {"without": twin["final"]["reward"], "guarded": row["final"]["reward"]}
        found.append({"name": row["run"].name, **ends, "start": start, "actions": len(row["actions"]), "same": same})
    return found


def _metrics(row: Mapping[str, float]) -> dict[str, str]:
    return {name: repr(value) for name, value in row.items()}
