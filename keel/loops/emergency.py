"""What a run does when a limit is crossed: back to the last good checkpoint, smaller steps, a dearer KL, a look at the data; and when it
gives up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from keel.runs.checkpoints import Checkpoint, Checkpoints
from keel.watch.config import EmergencyConfig
from keel.watch.drift import in_words


@dataclass(frozen=True, slots=True)
class Emergency:
    """What emergencies have made of a run so far; part of every checkpoint."""

    rollbacks: int = 0
    lr_scale: float = 1.0  # of the recipe's learning rates
    kl_scale: float = 1.0  # of the price of the KL to the reference
    back_to: int | None = None  # the step that the last one went back to

    def next(self, config: EmergencyConfig, back_to: int) -> Emergency:
        """After one more."""
        return Emergency(self.rollbacks + 1, self.lr_scale * config.lr_factor, self.kl_scale * config.kl_factor, back_to)

    def state(self) -> dict[str, Any]:
        """For a checkpoint (JSON)."""
        return asdict(self)


def place_to_go_back_to(checkpoints: Checkpoints, good: int, before: Emergency) -> Checkpoint:
    """The last good checkpoint; where the run was there already and came to grief again, an older good one, if there is any: trouble may
    have begun before it showed."""
    if good == before.back_to:
        for step in (s for s in reversed(checkpoints.steps()) if s < good):
            older = checkpoints.load(step)
            if older.state["good"] == step:
                return older
    return checkpoints.load(good)


def refusal(config: EmergencyConfig, before: Emergency, good: int | None) -> str:
    """Why a run cannot go back once more; empty when it can."""
    if good is None:
        return "there is no good checkpoint"
    stands = f"the last good checkpoint is that of step {good}"
    if before.rollbacks < config.rollbacks:
        return ""
    return f"{stands}; the run has gone back {before.rollbacks} times already" if before.rollbacks else stands


def in_short(reason: str, now: Emergency, settings: Mapping[str, float], drift: Mapping[str, float]) -> str:
    """What was done, in a sentence each."""
    changed = ", ".join(f"{name} is now {value:.3g}" for name, value in settings.items())
    return f"{reason}. Back to step {now.back_to} (rollback {now.rollbacks}); {changed}. {in_words(drift)}"
