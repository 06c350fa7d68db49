"""Rewards from several sources: one weighted sum, each part kept, failures never mistaken for a low score. ``RunRewards`` applies those of
a run and keeps why a sample has none."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.rewards.composition.composer import Composer
from keel.rewards.settings import OnFailure
from keel.types import Group, RewardSource

Combine = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # (scores [G] by source, valid_G) -> reward [G]


@dataclass(frozen=True, slots=True)
class Reward:
    """A source and its weight in the sum."""

    source: RewardSource
    weight: float = 1.0
    on_failure: OnFailure | None = None  # None: what the run says
    retries: int = 2  # read with on_failure="retry"

    @property
    def name(self) -> str:
        return self.source.name


def apply_rewards(
    groups: Sequence[Group], rewards: Sequence[Reward], on_failure: OnFailure = "drop_sample", combine: Combine | None = None
) -> tuple[Group, ...]:
    """Groups with ``rewards_G`` = sum of weight * score (float32 [G]), or what ``combine`` makes of the scores, ``parts`` (each source's
    unweighted scores, and what else it tells of them under ``name/detail``), ``valid_G``, and ``moved`` where sources score parts of an
    answer (``placed``: what is due at each token, by the id of a rollout).

    A sample whose rollout failed stays invalid, whatever a source says of it. A score that is not finite is a failure: with ``drop_sample``
    the sample becomes invalid, with ``retry`` that is so after it failed again, with ``stop`` a UserError names source, prompt and sample.
    Invalid samples have reward 0; their part keeps NaN where it failed. ``on_failure`` is for rewards that say nothing of their own.
    """
    check_names(rewards)
    for reward in rewards:
        getattr(reward.source, "placed", {}).clear()
    said = _said(groups, rewards, on_failure)
    result: list[Group] = []
    for i, group in enumerate(groups):
        parts = {reward.name: found.scores[i] for reward, found in zip(rewards, said, strict=True)}
        details = {f"{r.name}/{k}": v[i] for r, found in zip(rewards, said, strict=True) for k, v in found.details.items()}
        valid_G = group.valid_G & torch.stack([torch.isfinite(p) for p in parts.values()]).all(0) if parts else group.valid_G
        if combine is not None:
            total_G = combine(parts, valid_G)
        else:
            total_G = sum((r.weight * parts[r.name] for r in rewards), torch.zeros_like(group.rewards_G))
        result.append(
            replace(
                group,
                rewards_G=torch.where(valid_G, total_G, 0.0),
                parts=parts | details,
                valid_G=valid_G,
                moved=_moved(group, rewards, parts),
            )
        )
    return tuple(result)


def _said(groups: Sequence[Group], rewards: Sequence[Reward], on_failure: OnFailure) -> list[_Said]:
    """What each source says. Those that look at others' scores (``among``) are asked after them, with their scores in the groups' parts."""
    found: dict[str, _Said] = {}
    for reward in sorted(rewards, key=lambda r: bool(_among(r))):
        read = {name: found[name].scores for name in _among(reward)}
        seen = [replace(g, parts={name: scores[i] for name, scores in read.items()}) for i, g in enumerate(groups)] if read else groups
        found[reward.name] = _scores(reward, seen, reward.on_failure or on_failure)
    return [found[reward.name] for reward in rewards]


def _among(reward: Reward) -> tuple[str, ...]:
    """The rewards whose scores this one looks at."""
    names: str | tuple[str, ...] = getattr(reward.source, "among", ())
    return (names,) if isinstance(names, str) else names


def _moved(group: Group, rewards: Sequence[Reward], parts: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What is due at each token rather than at the end, by the rewards' own weights; () where no source scores parts of an answer."""
    by_token = [r for r in rewards if hasattr(r.source, "placed")]
    if not by_token:
        return ()
    found = tuple(torch.zeros(len(r)) for r in group.rollouts)
    for reward in by_token:
        placed: dict[int, Tensor] = getattr(reward.source, "placed", {})
        for i, (rollout, moved_T) in enumerate(zip(group.rollouts, found, strict=True)):
            due_T = placed.pop(id(rollout), None)  # taken once: a later rollout may get the id of one that is gone
            if due_T is not None:
                moved_T += reward.weight * due_T
                moved_T[rollout.sampled_T.nonzero()[-1]] -= reward.weight * parts[reward.name][i]
    return found


def check_names(rewards: Sequence[Reward]) -> None:
    """Raise UserError when two rewards share a name: one part would hide the other; and when one looks at the scores of a reward that is
    not there, or that looks at others itself."""
    double = [name for name, n in Counter(r.name for r in rewards).items() if n > 1]
    if double:
        raise UserError(f"several rewards are named {', '.join(map(repr, double))}", "give each its own name")
    for reward in rewards:
        plain = [r.name for r in rewards if not _among(r)]
        for missing in sorted(set(_among(reward)) - set(plain)):
            raise UserError(
                f"reward {reward.name!r}: among={missing!r} is no reward that it could look at",
                f"name one of: {', '.join(plain)}" if plain else "add the reward that says which answers are good",
            )


@dataclass(frozen=True, slots=True)
class _Said:
    """What a source said of groups, [G] for each: scores, NaN where they failed, and its ``details`` by name."""

    scores: list[Tensor]
    details: dict[str, list[Tensor]]

    def renewed(self, places: Sequence[int], failed: Sequence[Tensor], new: _Said) -> _Said:
        """With what was said of the ``failed`` samples when the groups at ``places`` were asked for again; the others keep theirs."""

        def of(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
            found = list(before)
            for i, after_G in zip(places, after, strict=True):
                found[i] = torch.where(failed[i], after_G, before[i])
            return found

        known = {name: of(values, new.details[name]) for name, values in self.details.items() if name in new.details}
        return _Said(of(self.scores, new.scores), {**self.details, **known})


def _scores(reward: Reward, groups: Sequence[Group], on_failure: OnFailure) -> _Said:
    """What the source says, after the tries that the reward has. A source whose answer to the same question is always the same
    (``repeats``: a model in this process) is asked once."""
    said = _asked(reward.source, groups)
    again_helps = on_failure == "retry" and not getattr(reward.source, "repeats", False)
    for _ in range(reward.retries if again_helps else 0):
        failed = [group.valid_G & scores_G.isnan() for group, scores_G in zip(groups, said.scores, strict=True)]
        again = [i for i, failed_G in enumerate(failed) if bool(failed_G.any())]
        if not again:
            break
        said = said.renewed(again, failed, _asked(reward.source, [replace(groups[i], valid_G=failed[i]) for i in again]))
    if on_failure == "stop":
        for group, scores_G in zip(groups, said.scores, strict=True):
            _stop_at_failure(reward.name, group, scores_G)
    return said


def _stop_at_failure(name: str, group: Group, scores_G: Tensor) -> None:
    failed = (group.valid_G & scores_G.isnan()).nonzero()
    if len(failed):
        raise UserError(
            f"reward {name!r} failed for prompt {group.prompt.prompt_id}, sample {int(failed[0])}",
            "mend the reward (the log has its message), or set on_reward_failure=drop_sample to go on without such samples",
        )


def _asked(source: RewardSource, groups: Sequence[Group]) -> _Said:
    scores = [torch.as_tensor(s, dtype=torch.float32) for s in source.score(groups)]
    expected = [(len(g.rollouts),) for g in groups]
    found = [tuple(s.shape) for s in scores]
    assert found == expected, f"source {source.name!r} must return one score a rollout: shapes {found} for groups of {expected}"
    details = {name: list(v) for name, v in getattr(source, "details", {}).items() if len(v) == len(groups)}
    return _Said([torch.where(torch.isfinite(s), s, torch.nan) for s in scores], details)


@dataclass(slots=True)
class RunRewards:
    """``apply_rewards`` with the rewards of a run.

    ``failure`` is the reason of the first failure since this process started, empty when there was none. ``all_failed`` says that no
    sample of the newest groups has a reward.
    """

    rewards: Sequence[Reward]
    on_failure: OnFailure = "drop_sample"
    composer: Composer | None = None  # None: the weighted sum
    ask: Callable[[Sequence[Group]], None] | None = None  # told of the answers that are trained on, with all that was said of them
    failure: str = field(default="", init=False)
    all_failed: bool = field(default=False, init=False)

    def __call__(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        judged = self._judge(groups, self.composer.combine if self.composer is not None else None)
        self.all_failed = not any(bool(g.valid_G.any()) for g in judged)
        if self.ask is not None:
            self.ask(judged)
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
