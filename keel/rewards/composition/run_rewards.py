"""The rewards of a run at work: what failed, and why, is kept for whoever has to stop it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from keel.rewards.composition.composer import Composer
from keel.rewards.composition.rewards import Combine, Reward, apply_rewards
from keel.rewards.settings import OnFailure
from keel.types import Group


@dataclass(slots=True)
class RunRewards:
    """``apply_rewards`` with these rewards. ``failure``: why the first sample of this process that has no reward has none, empty when all
    have one; ``all_failed``: no sample of the newest groups has one."""

    rewards: Sequence[Reward]
    on_failure: OnFailure = "drop_sample"
    composer: Composer | None = None  # None: the weighted sum
    failure: str = field(default="", init=False)
    all_failed: bool = field(default=False, init=False)

    def __call__(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        judged = self._judge(groups, self.composer.combine if self.composer is not None else None)
        self.all_failed = not any(bool(g.valid_G.any()) for g in judged)
        return judged

    def evaluate(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """The same by the rewards' own weights throughout: what a run is measured by must not move with what it learned."""
        return self._judge(groups, self.composer.plain if self.composer is not None else None)

    def _judge(self, groups: tuple[Group, ...], combine: Combine | None) -> tuple[Group, ...]:
        with _warnings() as said:
            judged = apply_rewards(groups, self.rewards, self.on_failure, combine)
        self.failure = self.failure or _why(judged, said)  # also an evaluation's: a warning is said once
        return judged


def _why(groups: Sequence[Group], said: Sequence[str]) -> str:
    """The first failure among judged groups in words: what the sampler or the reward said of it; empty when there is none."""
    for group in groups:
        for i, rollout in enumerate(group.rollouts):
            if bool(group.valid_G[i]):
                continue
            if rollout.finish_reason == "error":
                return f"sampling failed for prompt {group.prompt.prompt_id}: {rollout.error}"
            failed = [name for name, part_G in group.parts.items() if bool(part_G[i].isnan())]
            if failed:
                return said[0] if said else f"reward {failed[0]!r} gave no finite score for prompt {group.prompt.prompt_id}"
            return f"the answer to prompt {group.prompt.prompt_id} is empty"
    return ""


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What is logged as a warning inside the block: rewards tell there why a sample failed."""
    listener, logger = _Listener(), logging.getLogger("keel")
    logger.addHandler(listener)
    try:
        yield listener.said
    finally:
        logger.removeHandler(listener)
