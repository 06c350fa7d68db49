"""A run's memory by phase, role and kind. In each phase stands what is there then; the peak of the run is that of its largest phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from keel.plan import formulas as f
from keel.plan.size import Size
from keel.plan.work import Factors, Work

Phase = Literal["loading", "sampling", "scoring", "training", "critic", "saving", "evaluation"]
Role = Literal["process", "policy", "reference", "reward", "critic", "sampler"]
What = Literal[
    "libraries", "weights", "gradients", "moments", "rounded", "activations", "head", "images", "gathered", "cache", "pass", "copies"
]

PHASES: tuple[Phase, ...] = ("loading", "sampling", "scoring", "training", "critic", "saving", "evaluation")


@dataclass(frozen=True, slots=True)
class Part:
    """``bytes`` of one kind, of one role, in one phase."""

    phase: Phase
    role: Role
    what: What
    bytes: float


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All parts of all phases of one process (of a rank, where there are several)."""

    parts: tuple[Part, ...]

    def of(self, phase: Phase) -> float:
        """Bytes of a phase."""
        return sum(p.bytes for p in self.parts if p.phase == phase)

    @property
    def phases(self) -> dict[Phase, float]:
        """Bytes of every phase that the run has."""
        return {phase: self.of(phase) for phase in PHASES if any(p.phase == phase for p in self.parts)}

    @property
    def worst(self) -> Phase:
        """The phase that decides."""
        return max(self.phases, key=lambda phase: self.of(phase))

    @property
    def peak(self) -> float:
        """Bytes of the worst phase."""
        return self.of(self.worst)

    def of_role(self, role: Role) -> float:
        """The most that a role has in any phase."""
        return max((sum(p.bytes for p in self.parts if p.phase == phase and p.role == role) for phase in PHASES), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Bytes by phase, role and kind."""
        table: dict[str, dict[str, dict[str, int]]] = {}
        for p in self.parts:
            kinds = table.setdefault(p.phase, {}).setdefault(p.role, {})
            kinds[p.what] = kinds.get(p.what, 0) + round(p.bytes)
        phases = {phase: round(total) for phase, total in self.phases.items()}
        return {"peak": round(self.peak), "worst": self.worst, "phases": phases, "parts": table}


def memory(work: Work, factors: Factors | None = None) -> MemoryPlan:
    """What ``work`` takes, by the formulas and ``factors``. Gradients stand while their model is trained: policy and critic take turns."""
    factors = factors or Factors()
    parts: list[Part] = []
    for phase in _phases(work):
        parts.append(Part(phase, "process", "libraries", factors.process))
        parts += _standing(work, phase)
        parts += [p for p in _passing(work, phase, factors) if p.bytes]
    return MemoryPlan(tuple(p for p in parts if p.bytes))


def _phases(work: Work) -> Iterator[Phase]:
    has: Mapping[Phase, bool] = {
        "sampling": work.rows > 0,
        "scoring": work.inference > 0,
        "critic": work.critic,
        "evaluation": work.evaluated > 0 or work.eval_rows > 0,
    }
    return (phase for phase in PHASES if has.get(phase, True))


def standing(work: Work) -> float:
    """Bytes of all models before the first step, without moments."""
    return sum(p.bytes for p in _standing(work, "loading"))


def policy_weights(work: Work) -> float:
    """Of the model that is trained; with adapters its frozen base and these. A rank's share, where they are shared out."""
    base = f.frozen_weights(work.size.parameters, work.size.rounded, work.value, work.shards) if work.rank else 0.0
    return base + f.trained_weights(work.trained, work.shards)


def beside_the_gpu(work: Work) -> float:
    """Bytes that each rank keeps in the machine's memory in place of its GPU's: weights, gradients and moments of what it trains."""
    if not work.offloaded:
        return 0.0
    each = policy_weights(work) + f.gradients(work.trained, work.shards)
    return (2 if work.critic else 1) * (each + f.moments(work.trained, work.optimizer, _sides(work), work.shards))


def frozen_model(size: Size, value: int) -> float:
    """Of a reference or a reward model."""
    return f.frozen_weights(size.parameters, size.rounded, value)


def _standing(work: Work, phase: Phase) -> Iterator[Part]:
    """What stands through a run from loading on; moments are made by the first step."""
    trained: Iterable[Role] = ("policy", "critic") if work.critic else ("policy",)
    for role in trained if not work.offloaded else ():
        yield Part(phase, role, "weights", policy_weights(work))
        if phase != "loading":
            yield Part(phase, role, "moments", f.moments(work.trained, work.optimizer, _sides(work), work.shards))
    if work.reference:
        yield Part(phase, "reference", "weights", frozen_model(work.size, work.value))
    for size in work.rewards:
        yield Part(phase, "reward", "weights", frozen_model(size, work.value))
    if work.ranks > 1 and work.rows:  # what draws is a whole copy, beside the ranks
        yield Part(phase, "sampler", "weights", f.trained_weights(work.size.parameters))


def _passing(work: Work, phase: Phase, factors: Factors) -> Iterator[Part]:
    """What a phase alone has."""
    size = work.size
    if phase == "loading":
        rest = f.FP32 * size.parameters - frozen_model(size, work.value) if (work.rank or work.reference or work.rewards) else 0.0
        yield Part(phase, "policy", "copies", max(rest, factors.loading))  # read as float32 before it is rounded
    elif phase in ("training", "critic"):
        yield from _training(work, phase, "policy" if phase == "training" else "critic", factors)
    elif phase == "sampling":
        yield from _sampling(work, phase, work.rows, factors)
    elif phase == "scoring":
        yield Part(phase, "policy", "pass", factors.forward * f.forward(work.inference, size.hidden, size.intermediate, work.value))
        yield Part(phase, "policy", "head", f.head_tile(work.inference, size.vocab, size.hidden, work.value, work.device, trained=False))
    elif phase == "evaluation":
        if work.evaluated:
            yield Part(phase, "policy", "pass", factors.forward * f.forward(work.evaluated, size.hidden, size.intermediate, work.value))
        if work.eval_rows:
            yield from _sampling(work, phase, work.eval_rows, factors)
    else:
        copies = f.saved_copies(size.parameters, size.matrices, bool(work.rank)), f.read_again(size.parameters, bool(work.rank))
        yield Part(phase, "policy", "copies", max(copies))


def _training(work: Work, phase: Phase, role: Role, factors: Factors) -> Iterator[Part]:
    size, full = work.size, not work.rank
    kept = f.activations(work.microbatch, size.layers, size.hidden, size.intermediate, work.value, work.checkpointing)
    yield Part(phase, role, "gradients", 0.0 if work.offloaded else f.gradients(work.trained, work.shards))
    yield Part(phase, role, "activations", factors.activations * kept)
    yield Part(phase, role, "images", f.pictures(work.images, size.pixels, work.images * size.image_tokens, size.hidden))
    yield Part(phase, role, "rounded", f.rounded_copies(size.matrices, work.value) if full and work.gathered == f.FP32 else 0.0)
    if work.shards > 1:
        layer, root = max(0.0, size.layer - size.tower / size.layers), size.root + size.tower
        yield Part(phase, role, "gathered", f.gathers(layer, root, work.shards, work.gathered))
    if role == "policy" and work.scored:
        yield Part(phase, role, "head", f.head_tile(work.scored, size.vocab, size.hidden, work.value, work.device, trained=full))


def _sampling(work: Work, phase: Phase, rows: int, factors: Factors) -> Iterator[Part]:
    size, kept = work.size, f.FP32 if work.device == "cpu" else work.value
    prompts = min(work.prompts, rows)
    held = f.cache(rows, work.answer, prompts, work.prompt, size.layers, size.cache, kept)
    yield Part(phase, "sampler", "cache", factors.sampling * held)
    yield Part(phase, "sampler", "head", factors.sampling * f.sampled_logits(rows, size.vocab))
    yield Part(phase, "sampler", "copies", f.decode_copies(size.matrices + size.head, size.largest, rows, work.answer, work.device))


def _sides(work: Work) -> float:
    return work.trained if work.rank else float(work.size.sides)
