"""Phases of a training: which one a step belongs to, and what it sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keel.loops.config import PhaseConfig


@dataclass(frozen=True, slots=True)
class Now:
    """What the phase of a step sets; None where it leaves things as they are."""

    number: int  # of the phase, from 1
    name: str
    begins: bool  # with this step
    lr: float | None
    kl_coef: float | None
    entropy_coef: float | None
    eval_every: int | None


def phase_at(phases: Sequence[PhaseConfig], step: int, total_steps: int) -> Now | None:
    """The phase of step ``step`` (0-based) of so many; None where there are no phases. A phase ends with step ``round(until * total)``; one
    that is shorter than a step is passed over."""
    first = 0
    for number, phase in enumerate(phases, 1):
        end = round(phase.until * total_steps)
        if step < end:
            lr = phase.lr
            if lr is not None and phase.lr_end is not None:
                lr += (phase.lr_end - lr) * (step - first) / max(1, end - first - 1)
            return Now(number, phase.name, step == first, lr, phase.kl_coef, phase.entropy_coef, phase.eval_every)
        first = end
    return None
