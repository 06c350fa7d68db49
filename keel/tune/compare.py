"""The best settings against the recipe's own, on seeds that chose neither."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from keel.evaluate.statistics import Interval, paired_difference, student

Verdict = Literal["better", "worse", "cannot tell", "own"]
ByPrompt = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run was found to be at a halt: the measure, and the same by prompt where that is known. ``ended``: why it got no further."""

    value: float
    by_prompt: ByPrompt
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``difference``: of the measure, the best less the recipe's own, so that above 0 is better; None where nothing can be computed."""

    verdict: Verdict
    why: str
    difference: Interval | None
    seeds: int
    prompts: int  # that all runs judged; 0 where the measure is not known by prompt

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return asdict(self)


def compare(own: Sequence[Outcome], best: Sequence[Outcome], higher: bool) -> Comparison:
    """Runs of the same seeds, in their order. The interval holds both what another draw of prompts and what other seeds would give: at each
    end the further of two, Student's t over prompts (their means over these seeds) and over seeds. "cannot tell" where 0 is in
    it. A run that did not come to its end decides by itself."""
    n = len(own)
    if len(best) != n or n < 2:
        raise ValueError(f"{n} runs and {len(best)}: as many of both, two or more")
    fell = sum(bool(o.ended) for o in own), sum(bool(o.ended) for o in best)
    if any(fell):
        said = f"of {n} runs {fell[0]} with the recipe's own settings and {fell[1]} with the best did not come to their end"
        verdict: Verdict = "worse" if not fell[0] else "better" if not fell[1] else "cannot tell"
        return Comparison(verdict, said, None, n, 0)
    sign = 1.0 if higher else -1.0
    gaps = [sign * (b.value - a.value) for a, b in zip(own, best, strict=True)]
    if not all(map(math.isfinite, gaps)):
        return Comparison("cannot tell", "the measure is not a finite number in every run", None, n, 0)
    mean = statistics.fmean(gaps)
    half = student(n - 1) * statistics.stdev(gaps) / math.sqrt(n)
    low, high = mean - half, mean + half
    shared = sorted(set.intersection(*(set(o.by_prompt) for o in (*own, *best))))
    if shared:
        before, after = ({p: [sign * o.by_prompt[p] for o in side] for p in shared} for side in (own, best))
        over_prompts = paired_difference(before, after)
        low, high = min(low, over_prompts.low), max(high, over_prompts.high)
        mean = over_prompts.mean
    difference = Interval(mean, low, high, len(shared) or n)
    if low > 0:
        return Comparison("better", "the whole interval is above 0", difference, n, len(shared))
    if high < 0:
        return Comparison("worse", "the whole interval is below 0", difference, n, len(shared))
    return Comparison("cannot tell", "0 is in the interval", difference, n, len(shared))
