"""How scores are spread: what a file of scores looks like at a glance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from keel.rewards.score import Score

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def distribution(scores: Sequence[Score]) -> dict[str, Any]:
    """``count`` rows, ``scored`` and ``failed`` ones, mean, standard deviation (of the population), least, greatest and quantiles of the
    scored, and ``failures`` by kind (what stands before the first colon)."""
    values = np.array([float(s) for s in scores if math.isfinite(s)])
    kinds = Counter(s.error.partition(":")[0] for s in scores if not math.isfinite(s))
    whole: dict[str, Any] = {"count": len(scores), "scored": len(values), "failed": len(scores) - len(values)}
    if len(values):
        whole |= {"mean": float(values.mean()), "std": float(values.std()), "min": float(values.min()), "max": float(values.max())}
        whole["quantiles"] = {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
    return whole | {"failures": dict(kinds.most_common())}


def describe(found: dict[str, Any]) -> list[str]:
    """The same in lines for people."""
    lines = [f"{found['count']} rows, {found['scored']} scored, {found['failed']} failed"]
    if found["scored"]:
        lines.append(f"mean {found['mean']:.4g}, std {found['std']:.4g}, from {found['min']:.4g} to {found['max']:.4g}")
        lines.append("quantiles: " + ", ".join(f"{q}: {v:.4g}" for q, v in found["quantiles"].items()))
    lines += [f"failed {n}x: {kind}" for kind, n in found["failures"].items()]
    return lines
