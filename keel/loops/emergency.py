"""What a run does when a limit is crossed: back to the last good checkpoint, smaller steps, a dearer KL, a look at the data; and when it
gives up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    adjustments: int = 0  # changes without going back
    quiet: int = 0  # steps without an alarm since the last one
    lr_most: float = 1.0  # how far the scales may come back
    kl_least: float = 1.0

    @property
    def touched(self) -> bool:
        """Did it ever change anything?"""
        return self.rollbacks + self.adjustments > 0

    @property
    def away(self) -> bool:
        """Are there settings that have not come back as far as they may?"""
        return self.lr_scale < self.lr_most or self.kl_scale > self.kl_least

    def next(self, config: EmergencyConfig, back_to: int) -> Emergency:
        """After one more rollback."""
        return replace(self._changed(config, True, True), rollbacks=self.rollbacks + 1, back_to=back_to)

    def adjusted(self, config: EmergencyConfig, changes: Sequence[str]) -> Emergency:
        """After a smaller learning rate or a dearer KL without going back."""
        return replace(self._changed(config, "lower_lr" in changes, "raise_kl" in changes), adjustments=self.adjustments + 1)

    def _changed(self, config: EmergencyConfig, lr: bool, kl: bool) -> Emergency:
        """Where trouble comes again, settings shall not come back to where it came: half of the way (as factors) below it."""
        again = self.touched
        return replace(
            self,
            lr_scale=self.lr_scale * config.lr_factor if lr else self.lr_scale,
            kl_scale=self.kl_scale * config.kl_factor if kl else self.kl_scale,
            lr_most=min(self.lr_most, self.lr_scale * config.lr_factor**0.5) if lr and again else self.lr_most,
            kl_least=max(self.kl_least, self.kl_scale * config.kl_factor**0.5) if kl and again else self.kl_least,
            quiet=0,
        )

    def after_step(self, config: EmergencyConfig, calm: bool) -> Emergency:
        """After a step, ``calm`` where nothing was wrong with it: behind ``recover_after`` of them in a row scales come back a little each
        step, ``recover_steps`` of them for one factor."""
        if not self.touched or not config.recover_after:
            return self
        quiet = self.quiet + 1 if calm else 0
        if quiet <= config.recover_after or not self.away:
            return replace(self, quiet=quiet)
        lr, kl = (factor ** (-1.0 / config.recover_steps) for factor in (config.lr_factor, config.kl_factor))
        back = replace(self, quiet=quiet, lr_scale=min(self.lr_most, self.lr_scale * lr), kl_scale=max(self.kl_least, self.kl_scale * kl))
        close = {
            name: most
            for name, most in (("lr_scale", self.lr_most), ("kl_scale", self.kl_least))
            if abs(getattr(back, name) / most - 1) < 1e-9
        }
        return replace(back, **close)

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


def never_recovered(emergency: Emergency, still: Sequence[str], best_step: int | None) -> str:
    """In which way a run that had an emergency is not what it was; empty where it is, or where there was none. ``still``: rules of level
    critical that speak at the end; ``best_step``: of the best evaluation."""
    if not emergency.touched:
        return ""
    why: list[str] = []
    if emergency.lr_scale < 1.0:
        why.append(f"learning rates are {emergency.lr_scale:.3g} of the recipe's")
    if emergency.kl_scale > 1.0:
        why.append(f"the price of the KL is {emergency.kl_scale:.3g} times the recipe's")
    if still:
        why.append(f"{', '.join(still)} still {'speaks' if len(still) == 1 else 'speak'}")
    if best_step is not None and emergency.back_to is not None and best_step <= emergency.back_to:
        why.append(f"no evaluation was better than that of step {best_step}, before the emergency")
    return f"the run never recovered: {'; '.join(why)}" if why else ""


def in_short(reason: str, now: Emergency, settings: Mapping[str, float], drift: Mapping[str, float]) -> str:
    """What was done, in a sentence each."""
    changed = ", ".join(f"{name} is now {value:.3g}" for name, value in settings.items())
    return f"{reason}. Back to step {now.back_to} (rollback {now.rollbacks}); {changed}. {in_words(drift)}"
