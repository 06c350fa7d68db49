"""Images in another form each epoch: the loop's hook, and the reference that must see the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keel.core.errors import ConfigError
from keel.loops.offline import Shown
from keel.loops.online import with_signal
from keel.render.augment import Augment, AugmentConfig
from keel.render.renderer import Renderer
from keel.types import BranchTensors, Unit


def shown(config: AugmentConfig | None, renderer: Renderer, seed: int, units: Sequence[Unit]) -> Shown | None:
    """What a step sees of its units; None where they are seen as they are. Raises ConfigError where no unit has an image."""
    if config is None:
        return None
    if renderer.images is None or not any(unit.prompt.media for unit in units):
        raise ConfigError("augment would have no effect: no training row holds an image", "leave it out")
    return Augment(renderer.images, config, seed)


def with_reference(change: Shown, logprobs: Callable[[Sequence[Unit]], BranchTensors]) -> Shown:
    """``change``, and of units that it changed the reference's log-probabilities anew: what was recorded is of the image as it was."""

    def looked(units: Sequence[Unit], epoch: int) -> Sequence[Unit]:
        found = list(change(units, epoch))
        new = [i for i, (before, after) in enumerate(zip(units, found, strict=True)) if after is not before]
        if new:
            again = [found[i] for i in new]
            for i, unit in zip(new, with_signal(again, "ref_logprobs", logprobs(again)), strict=True):
                found[i] = unit
        return found

    return looked
