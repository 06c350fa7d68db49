"""What to change so that a run fits: each change alone, and the fewest of them that are enough."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from keel.plan.memory import memory
from keel.plan.work import Factors, Work

MARGIN = 0.9  # of the memory: what a plan may take
_RANK = 16
_MOST_RANKS = 1024

Name = Literal["rows", "inference", "microbatch", "checkpointing", "bf16", "adamw_8bit", "gather", "offload", "lora", "ranks"]


@dataclass(frozen=True, slots=True)
class Change:
    """``settings`` are overrides of the recipe; ``saves`` bytes of the peak, alone; ``value`` is the number in words."""

    name: Name
    settings: tuple[str, ...]
    value: str
    saves: float
    peak: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in the plan."""
        return {"name": self.name, "settings": list(self.settings), "saves": round(self.saves), "peak": round(self.peak)}


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a plan fits ``limit`` bytes as it is; every change with its effect, in the order in which to think of them; the fewest that
    are enough together (None: no set of them is) and the peak with them."""

    fits: bool
    limit: float
    changes: tuple[Change, ...]
    enough: tuple[Change, ...] | None
    peak: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in the plan."""
        enough = None if self.enough is None else [c.name for c in self.enough]
        settings = [] if self.enough is None else [s for c in self.enough for s in c.settings]
        changes = [c.to_json() for c in self.changes]
        return {
            "as_it_is": self.fits,
            "limit": round(self.limit),
            "changes": changes,
            "enough": enough,
            "settings": settings,
            "peak": round(self.peak),
        }


def fit(work: Work, factors: Factors, available: float) -> Fit:
    """Of ``available`` bytes a tenth stays free. A change that saves nothing alone may be needed beside others: two phases may be large."""
    limit, now = MARGIN * available, memory(work, factors).peak
    made = list(_changes(work, factors, limit))
    changes = tuple(_judged(c, now, memory(_with(work, [c]), factors).peak) for c in made)
    if now <= limit:
        return Fit(True, limit, changes, (), now)
    for n in range(1, len(changes) + 1):
        for some in itertools.combinations(changes, n):
            peak = memory(_with(work, some), factors).peak
            if peak <= limit:
                return Fit(False, limit, changes, some, peak)
    return Fit(False, limit, changes, None, min((memory(_with(work, changes), factors).peak, now)))


def _judged(change: Change, now: float, peak: float) -> Change:
    return replace(change, saves=now - peak, peak=peak)


def _changes(work: Work, factors: Factors, limit: float) -> Iterator[Change]:
    """The gentlest first: what changes no result, then what costs time, then what trains another thing, then more machines."""

    def change(name: Name, value: str, *settings: str) -> Change:
        return Change(name, settings, value, 0.0, 0.0)

    if work.rows > 8:
        rows = max(8, work.rows // 4)
        yield change("rows", str(rows), f"{work.sampler}.max_rows={rows}")
    tokens = math.ceil(max(work.smallest, work.microbatch / 4))
    if max(work.inference, work.evaluated) > tokens:
        yield change("inference", str(tokens), f"batch.inference_tokens={tokens}")
    if work.microbatch > 1.1 * tokens:
        yield change("microbatch", str(tokens), f"batch.microbatch_tokens={tokens}")
    if not work.checkpointing:
        yield change("checkpointing", "", "model_options.gradient_checkpointing=true")
    if work.value == 4:
        yield change("bf16", "", "model_options.precision=bf16")
    if work.optimizer == "adamw" and work.device == "cuda":
        yield change("adamw_8bit", "", "optim.name=adamw_8bit")
    if work.shards > 1 and work.value == 2 and not work.rounded:
        yield change("gather", "", "cluster.gather=bf16")
    if work.shards > 1 and work.device == "cuda" and not work.offload:
        yield change("offload", "", "cluster.offload=true")
    if not work.rank:
        yield change("lora", str(_RANK), f"lora.r={_RANK}")
    ranks = _ranks(work, factors, limit) if work.shareable else 1
    if ranks > work.ranks:
        yield change("ranks", str(ranks), f"cluster.ranks={ranks}", "cluster.shard=full")


def _ranks(work: Work, factors: Factors, limit: float) -> int:
    """The fewest ranks, a power of two, with which one rank fits; 2 where no number is enough alone."""
    ranks = 2
    while ranks <= _MOST_RANKS:
        if memory(replace(work, ranks=ranks, share=True), factors).peak <= limit:
            return ranks
        ranks *= 2
    return 2


def _with(work: Work, changes: Sequence[Change]) -> Work:
    """``work`` after these changes."""
    for c in changes:
        number = int(c.value) if c.value else 0
        match c.name:
            case "rows":
                work = replace(work, rows=number, eval_rows=min(work.eval_rows, number))
            case "inference":
                work = replace(work, inference=min(work.inference, number), evaluated=min(work.evaluated, number))
            case "microbatch":
                share = work.scored / work.microbatch if work.microbatch else 0.0
                work = replace(work, microbatch=float(number), scored=share * number)
            case "checkpointing":
                work = replace(work, checkpointing=True)
            case "bf16":
                work = replace(work, value=2)
            case "adamw_8bit":
                work = replace(work, optimizer="adamw_8bit")
            case "gather":
                work = replace(work, rounded=True)
            case "offload":
                work = replace(work, offload=True)
            case "lora":
                work = replace(work, rank=number, counted=0.0, reference=work.reference and work.named)
            case "ranks":
                work = replace(work, ranks=number, share=True)
    return work
