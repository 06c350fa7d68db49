"""Which samples to show: the same prompts at every evaluation, so that change can be seen, and the best, the worst and some at random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from keel.core.hashing import stable_hash

Why = Literal["fixed", "worst", "best", "random"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt to show, and why."""

    prompt_id: str
    why: Why


def choose(
    scores: Mapping[str, float | None], *, fixed: int, extremes: int, random: int, seed: int = 0, step: int = 0
) -> tuple[Choice, ...]:
    """Choose prompts to show; each at most once, in the order fixed, worst, best, random.

    ``scores`` holds one number a prompt (mean score, or gain over the baseline); None and NaN are never worst or best. The fixed ones
    depend on ``seed`` and the prompt ids alone, the random ones on ``step`` too.
    """
    taken: dict[str, Why] = {}

    def take(ordered: list[str], count: int, why: Why) -> None:
        free = [prompt_id for prompt_id in ordered if prompt_id not in taken]
        taken.update(dict.fromkeys(free[:count], why))

    take(sorted(scores, key=lambda p: stable_hash("samples-fixed", seed, p)), fixed, "fixed")
    known = {p: value for p, value in scores.items() if value is not None and math.isfinite(value)}
    ordered = sorted(known, key=lambda p: (known[p], p))
    take(ordered, extremes, "worst")
    take(ordered[::-1], extremes, "best")
    take(sorted(scores, key=lambda p: stable_hash("samples-random", seed, step, p)), random, "random")
    return tuple(Choice(prompt_id, why) for prompt_id, why in taken.items())
