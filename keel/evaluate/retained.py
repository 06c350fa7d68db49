"""What of earlier abilities is left: likelihood of unrelated text and tasks by log-probability, before and after, and a verdict on each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from keel.evaluate import statistics
from keel.evaluate.choices import Chosen, gained
from keel.evaluate.statistics import LEVEL

State = Literal["forgotten", "kept", "cannot_tell"]


def state(loss: Mapping[str, Any], tolerance: float) -> State:
    """forgotten: the whole interval of the loss lies above ``tolerance``; kept: none of it does."""
    if loss["low"] > tolerance:
        return "forgotten"
    return "kept" if loss["high"] <= tolerance else "cannot_tell"


def text_loss(
    before: Mapping[str, float], after: Mapping[str, float], tokens: Mapping[str, int], *, tolerance: float, level: float = LEVEL
) -> dict[str, Any]:
    """Loss on text: nats a token after less before, paired by passage, interval over passages. ``before`` and ``after`` are negative
    log-likelihoods of each passage, summed over its ``tokens``."""
    shared = sorted(before.keys() & after.keys())
    counts = [float(tokens[k]) for k in shared]
    loss = statistics.clustered([after[k] - before[k] for k in shared], counts).interval(level).to_json()
    total = math.fsum(counts)
    mean = [math.fsum(side[k] for k in shared) / total for side in (before, after)]
    told = {"kind": "text", "nll": mean, "perplexity": [math.exp(m) for m in mean], "tokens": int(total), "loss": loss}
    return told | {"state": state(loss, tolerance)}


def task_loss(before: Iterable[Chosen], after: Iterable[Chosen], *, tolerance: float, level: float = LEVEL) -> dict[str, Any]:
    """Loss on a task: accuracy before less after, paired by item."""
    found = gained(before, after, level=level)
    gain = found["gain"]
    loss = {"mean": -gain["mean"] or 0.0, "low": -gain["high"], "high": -gain["low"], "n": gain["n"]}
    return {"kind": "task", "accuracy": found["accuracy"], "loss": loss, "lost": found["lost"], "state": state(loss, tolerance)}


def report(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All parts, what was forgotten first and the largest loss first among these; and the names by verdict."""
    order: Sequence[State] = ("forgotten", "cannot_tell", "kept")
    ranked = sorted(found, key=lambda name: (order.index(found[name]["state"]), -found[name]["loss"]["mean"], name))
    return {"parts": {name: dict(found[name]) for name in ranked}, **{s: [n for n in ranked if found[n]["state"] == s] for s in order}}
