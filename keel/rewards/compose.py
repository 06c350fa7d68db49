"""Rewards from several sources: one weighted sum, each part kept, failures never mistaken for a low score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from keel.errors import UserError
from keel.rewards.config import OnFailure
from keel.types import Group, RewardSource


@dataclass(frozen=True, slots=True)
class Reward:
    """A source and its weight in the sum."""

    source: RewardSource
    weight: float = 1.0

    @property
    def name(self) -> str:
        return self.source.name


def apply_rewards(groups: Sequence[Group], rewards: Sequence[Reward], on_failure: OnFailure = "drop_sample") -> tuple[Group, ...]:
    """Groups with ``rewards_G`` = sum of weight * score (float32 [G]), ``parts`` (each source's unweighted scores) and ``valid_G``.

    A sample whose rollout failed stays invalid, whatever a source says of it. A score that is not finite is a failure: with ``drop_sample``
    the sample becomes invalid, with ``stop`` a UserError names source, prompt and sample. Invalid samples have reward 0; their part keeps
    NaN where it failed.
    """
    check_names(rewards)
    scores = [_scores(reward.source, groups) for reward in rewards]
    result: list[Group] = []
    for i, group in enumerate(groups):
        total_G, valid_G = torch.zeros(len(group.rollouts)), group.valid_G.clone()
        parts: dict[str, Tensor] = {}
        for reward, of_groups in zip(rewards, scores, strict=True):
            part_G = of_groups[i]
            failed_G = ~torch.isfinite(part_G)
            if on_failure == "stop" and bool((failed_G & group.valid_G).any()):
                sample = int((failed_G & group.valid_G).nonzero()[0])
                raise UserError(
                    f"reward {reward.name!r} failed for prompt {group.prompt.prompt_id}, sample {sample}",
                    "mend the reward (the log has its message), or set on_reward_failure=drop_sample to go on without such samples",
                )
            parts[reward.name] = torch.where(failed_G, torch.nan, part_G)
            valid_G &= ~failed_G
            total_G += reward.weight * torch.where(failed_G, 0.0, part_G)
        result.append(replace(group, rewards_G=torch.where(valid_G, total_G, 0.0), parts=parts, valid_G=valid_G))
    return tuple(result)


def check_names(rewards: Sequence[Reward]) -> None:
    """Raise UserError when two rewards share a name: one part would hide the other."""
    double = [name for name, n in Counter(r.name for r in rewards).items() if n > 1]
    if double:
        raise UserError(f"several rewards are named {', '.join(map(repr, double))}", "give each its own name")


def _scores(source: RewardSource, groups: Sequence[Group]) -> list[Tensor]:
    scores = [torch.as_tensor(s, dtype=torch.float32) for s in source.score(groups)]
    expected = [(len(g.rollouts),) for g in groups]
    found = [tuple(s.shape) for s in scores]
    assert found == expected, f"source {source.name!r} must return one score a rollout: shapes {found} for groups of {expected}"
    return scores
