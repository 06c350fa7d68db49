"""What changes in the course of a run: the phase that a step belongs to, and the coefficients of KL and entropy, which controllers set
from what was measured (the trainer's only state beside its learners'). A controller's ``target`` and ``kl`` have the same unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keel.loops.config import PhaseConfig
from keel.methods.rl_parts import Algorithm
from keel.types import Learner


class Coefficients:
    """Starts from the algorithm's own coefficients and follows what each step measured."""

    def __init__(self, algorithm: Algorithm, total_steps: int) -> None:
        self._algorithm, self._total_steps = algorithm, total_steps
        self._kl = algorithm.kl.coef if algorithm.kl is not None else 0.0
        self._old_kl = algorithm.old_kl.coef
        self._entropy = algorithm.entropy.coef
        self.fixed: Mapping[str, float] = {}  # "kl" and "entropy" as the phase sets them; their controllers rest meanwhile
        self.scale = 1.0  # factor on the coefficient of the KL to the reference; not part of the state, whoever sets it keeps it

    def algorithm(self, step: int) -> Algorithm:
        """The algorithm with the coefficients of step ``step`` (0-based)."""
        a = self._algorithm
        entropy = replace(a.entropy, coef=self.fixed.get("entropy", self._entropy))
        kl = None
        if a.kl is not None:
            coef, control = self._kl, a.kl.control
            if control is not None and control.kind == "scheduled":
                coef = scheduled(a.kl.coef, control.end, step / max(1, self._total_steps - 1))
            kl = replace(a.kl, coef=self.scale * self.fixed.get("kl", coef))
        return replace(a, kl=kl, old_kl=replace(a.old_kl, coef=self._old_kl), entropy=entropy)

    def update(self, metrics: Mapping[str, float], samples: int, old_kl: float | None) -> None:
        """Follow a step: ``objective/kl``, ``objective/kl_per_token``, ``prompts/complexity`` and ``entropy`` among its metrics, the number
        of its samples, and the KL to the old policy in its last pass (None: there was no update)."""
        kl, old = self._algorithm.kl, self._algorithm.old_kl
        if kl is not None and kl.control is not None and "objective/kl" in metrics and "kl" not in self.fixed:
            control = kl.control
            measured = metrics["objective/kl" if control.unit == "sequence" else "objective/kl_per_token"]
            target = control.target * (1.0 + control.target_slope * metrics.get("prompts/complexity", 0.0))
            if control.kind == "proportional":
                self._kl = proportional(self._kl, measured, target, samples, control.horizon, control.low)
            elif control.kind == "multiplicative":
                self._kl = multiplicative(self._kl, measured, target, control.low, control.high)
        if old.target is not None and old_kl is not None:
            self._old_kl = doubled_or_halved(self._old_kl, old_kl, old.target)
        entropy = self._algorithm.entropy
        if entropy.target is not None and "entropy" in metrics and "entropy" not in self.fixed:
            self._entropy = stepped(self._entropy, metrics["entropy"], entropy.target, entropy.step, entropy.high)

    def metrics(self, step: int) -> dict[str, float]:
        """The coefficients of a step: ``kl_coef`` (reference), ``policy/old_kl_coef`` (policy that sampled) and ``entropy_coef``, where
        there are any."""
        a = self.algorithm(step)
        named = {
            "kl_coef": a.kl.coef if a.kl is not None else None,
            "policy/old_kl_coef": a.old_kl.coef or None,
            "entropy_coef": a.entropy.coef if a.entropy.target is not None else a.entropy.coef or None,
        }
        return {name: value for name, value in named.items() if value is not None}

    def state(self) -> dict[str, float]:
        return {"kl": self._kl, "old_kl": self._old_kl, "entropy": self._entropy}

    def load_state(self, state: Mapping[str, float]) -> None:
        self._kl, self._old_kl, self._entropy = float(state["kl"]), float(state["old_kl"]), float(state["entropy"])


SWING = 1.5  # how far from the target, as a factor, before a step-wise controller moves


def proportional(coef: float, kl: float, target: float, samples: int, horizon: float, floor: float) -> float:
    """``beta (1 + clip(kl / target - 1, -0.2, 0.2) * samples / horizon)``, never below ``floor`` (Ziegler et al. 2019, arXiv:1909.08593,
    section 2.2; ``horizon`` as in their code: the samples over which a full error moves the coefficient by a fifth).

    Args:
        coef: beta so far.
        kl: measured on this step's samples.
        target: what it should be.
        samples: how many samples that were.
        horizon: in samples.
        floor: so that a coefficient that only falls can rise again.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return max(floor, coef * (1.0 + error * samples / horizon))


def multiplicative(coef: float, kl: float, target: float, low: float, high: float) -> float:
    """1.5 times as much above 1.5 times the target, 0.75 times below half of it, unchanged in between; always within [low, high]."""
    if kl > SWING * target:
        coef *= 1.5
    elif kl < 0.5 * target:
        coef *= 0.75
    return min(max(coef, low), high)


def stepped(coef: float, measured: float, target: float, step: float, high: float) -> float:
    """``step`` more below the target, ``step`` less above it, always within [0, high]: an entropy bonus that is there as long as it is
    needed (after He et al. 2025, arXiv:2505.22312, whose steps are 0.005)."""
    return min(max(coef + (step if measured < target else -step), 0.0), high)


def scheduled(start: float, end: float, progress: float) -> float:
    """A straight line from ``start`` to ``end``; ``progress`` from 0 (first step) to 1 (last)."""
    return start + (end - start) * progress


def doubled_or_halved(coef: float, kl: float, target: float) -> float:
    """Twice as much above 1.5 times the target, half below 1 / 1.5 of it (Schulman et al. 2017, arXiv:1707.06347, section 4)."""
    if kl > SWING * target:
        return coef * 2.0
    return coef / 2.0 if kl < target / SWING else coef


def check_phases(learner: Learner, phases: Sequence[PhaseConfig]) -> None:
    """Raise ModelError for a phase that trains what the learner does not have or does not train."""
    for phase in phases:
        learner.train_only(phase.train)
    learner.train_only(())


@dataclass(frozen=True, slots=True)
class PhaseSettings:
    """What the phase of a step sets; None where it leaves things as they are."""

    number: int  # of the phase, from 1
    name: str
    begins: bool  # with this step
    lr: float | None
    kl_coef: float | None
    entropy_coef: float | None
    eval_every: int | None
    train: tuple[str, ...]  # empty: all that is trained


def phase_at(phases: Sequence[PhaseConfig], step: int, total_steps: int) -> PhaseSettings | None:
    """The phase of step ``step`` (0-based) of so many; None where there are no phases. A phase ends with step ``round(until * total)``; one
    that is shorter than a step is passed over."""
    first = 0
    for number, phase in enumerate(phases, 1):
        end = round(phase.until * total_steps)
        if step < end:
            lr = phase.lr
            if lr is not None and phase.lr_end is not None:
                lr += (phase.lr_end - lr) * (step - first) / max(1, end - first - 1)
            return PhaseSettings(number, phase.name, step == first, lr, phase.kl_coef, phase.entropy_coef, phase.eval_every, phase.train)
        first = end
    return None
