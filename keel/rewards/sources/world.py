"""The reward that an environment gives for a conversation: by turn, and for the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from keel.rewards.text import OnceLog
from keel.types import Conversation, Group, Rollout

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch

NAME = "environment"


@dataclass(slots=True)
class WorldSource:
    """A ``RewardSource``: the sum of what the world gave. Each turn's is due at the turn's last sampled token, that of the whole at the
    last one; credit by token sees them there. A world that gave nothing at all has failed to say what the conversation is worth: that is no
    0."""

    repeats: ClassVar[bool] = True  # asked again it would say the same

    name: str = NAME
    warn: OnceLog = field(default_factory=OnceLog, repr=False)
    placed: dict[int, Tensor] = field(default_factory=dict[int, "Tensor"], init=False, repr=False)  # by the id of a rollout
    details: dict[str, list[Tensor]] = field(default_factory=dict[str, "list[Tensor]"], init=False, repr=False)

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN for rollouts that failed, or that the world gave nothing for."""
        import torch

        result = [torch.full((len(group.rollouts),), torch.nan) for group in groups]
        names = sorted({name for g in groups for r in g.rollouts if r.conversation is not None for name in r.conversation.parts})
        self.details = {name: [torch.full((len(group.rollouts),), torch.nan) for group in groups] for name in names}
        for g, group in enumerate(groups):
            for i, (rollout, valid) in enumerate(zip(group.rollouts, group.valid_G.tolist(), strict=True)):
                said = rollout.conversation
                if not valid or said is None:
                    continue
                if said.total is None:
                    self.warn("none", "the environment gave no reward for prompt %s: set environment.weight=null", group.prompt.prompt_id)
                    continue
                result[g][i] = said.total
                self.placed[id(rollout)] = _due(rollout, said)
                for name, value in said.parts.items():
                    self.details[name][g][i] = value
        return result


def _due(rollout: Rollout, said: Conversation) -> Tensor:
    """What is due at each token, float32 [T]."""
    import torch

    assert rollout.turn_T is not None, "a conversation knows the turns of its tokens"
    due_T = torch.zeros(len(rollout))
    for turn, reward in enumerate(said.turn_rewards):
        if reward is not None:
            due_T[((rollout.turn_T == turn) & rollout.sampled_T).nonzero()[-1]] += reward
    if said.reward is not None:
        due_T[rollout.sampled_T.nonzero()[-1]] += said.reward
    return due_T
