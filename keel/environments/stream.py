"""The tokens of a conversation as they come: the policy's, what the template and the world put between, and where another past begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from keel.render.conversation import extended
from keel.types import Encoded, Fork, Rollout
from keel.types.support import Support


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens of one turn, all sampled or none. Shapes as in ``Rollout``."""

    turn: int
    sampled: bool
    tokens_T: Tensor
    logprobs_T: Tensor
    version_T: Tensor
    support: Support | None = None


class Stream:
    """Grows turn by turn; nothing in it is cut or changed."""

    def __init__(self, prompt: Encoded, max_tokens: int) -> None:
        """``max_tokens``: of a conversation behind ``prompt``."""
        self.context = prompt  # all that stands before the next token
        self._limit = len(prompt) + max_tokens
        self._parts: list[_Part] = []
        self._forks: list[Fork] = []

    @property
    def room(self) -> int:
        """How many tokens there is room for; 0 or less: none."""
        return self._limit - len(self.context)

    def answer(self, drawn: Rollout, turn: int) -> None:
        """Put an answer behind."""
        self._add(_Part(turn, True, drawn.tokens_T, drawn.logprobs_T, drawn.version_T, drawn.support))

    def world(self, ids: Sequence[int]) -> None:
        """Put what the template writes behind, the world's words in it. It belongs to the turn of the answer before it."""
        n = len(ids)
        self._add(_Part(self._parts[-1].turn, False, torch.tensor(list(ids)), torch.zeros(n), torch.full((n,), -1)))

    def fork(self, prompt: Encoded) -> None:
        """What follows stands behind ``prompt``."""
        self._forks.append(Fork(sum(len(p.tokens_T) for p in self._parts), prompt))
        self.context = prompt

    def _add(self, part: _Part) -> None:
        self._parts.append(part)
        self.context = extended(self.context, part.tokens_T)

    def rollout(self, prompt_id: str, attempt: int, sample: int) -> Rollout:
        """All up to the last sampled token. How it ended, and what was said, is another's to tell."""
        end = next((i for i in range(len(self._parts), 0, -1) if self._parts[i - 1].sampled), 0)
        parts = self._parts[:end]
        lengths = [len(p.tokens_T) for p in parts]
        if not parts:
            none_T = torch.zeros(0, dtype=torch.int64)
            return Rollout(prompt_id, attempt, sample, none_T, none_T.bool(), none_T.float(), none_T, "stop", turn_T=none_T)
        return Rollout(
            prompt_id,
            attempt,
            sample,
            torch.cat([p.tokens_T for p in parts]),
            torch.cat([torch.full((n,), p.sampled) for p, n in zip(parts, lengths, strict=True)]),
            torch.cat([p.logprobs_T for p in parts]),
            torch.cat([p.version_T for p in parts]),
            "stop",
            support=Support.join([p.support for p in parts], lengths),
            turn_T=torch.cat([torch.full((n,), p.turn) for p, n in zip(parts, lengths, strict=True)]),
            forks=tuple(fork for fork in self._forks if fork.start < sum(lengths)),
        )


def joined(streams: Sequence[tuple[Encoded | None, Rollout]]) -> Rollout:
    """Streams of one conversation as one rollout, in order. Beside each: the prompt that it stands behind; None for the group's own, which
    is the first one's or no one's. Streams without tokens are left out; the rest is the first one's."""
    parts = [(prompt, rollout) for prompt, rollout in streams if len(rollout)] or [(None, streams[0][1])]
    assert all(prompt is not None for prompt, _ in parts[1:]), "what stands behind the group's prompt comes first"
    forks: list[Fork] = []
    start = 0
    for prompt, rollout in parts:
        forks += [Fork(start, prompt)] if prompt is not None else []
        forks += [replace(fork, start=start + fork.start) for fork in rollout.forks]
        start += len(rollout)
    rollouts = [rollout for _, rollout in parts]
    return replace(
        rollouts[0],
        tokens_T=torch.cat([r.tokens_T for r in rollouts]),
        sampled_T=torch.cat([r.sampled_T for r in rollouts]),
        logprobs_T=torch.cat([r.logprobs_T for r in rollouts]),
        version_T=torch.cat([r.version_T for r in rollouts]),
        turn_T=torch.cat([r.turn_T for r in rollouts if r.turn_T is not None]),
        support=Support.join([r.support for r in rollouts], [len(r) for r in rollouts]),
        forks=tuple(forks),
    )
