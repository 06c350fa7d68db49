"""What is sampled: the distribution, requests, rollouts, and the rewarded group of one prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from keel.types.episodes import Conversation, Fork
from keel.types.records import Prompt
from keel.types.units import Encoded

if TYPE_CHECKING:
    from torch import Tensor  # a worker that reads text alone starts without torch

    from keel.types.support import Support

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The distribution that is sampled from. The model's own generation config never applies silently."""

    max_tokens: int = 128
    min_tokens: int = 0  # end tokens are masked before this many
    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    stop: tuple[str, ...] = ()  # stop strings; the text up to and with the string is kept in tokens
    stop_tokens: tuple[int, ...] = ()  # union of generation config, tokenizer and end of turn; from the renderer
    banned_tokens: tuple[int, ...] = ()  # never sampled, and out of the support of the log-probabilities (image placeholders)
    explore: float = 0.0  # share of a hotter distribution in the one that is sampled from; not of a greedy one
    explore_temperature: float = 1.0  # of that one

    @property
    def cut(self) -> bool:
        """Are there tokens of the model's distribution that may not be drawn?"""
        return self.top_p < 1 or self.top_k > 0 or self.min_tokens > 0


class TokenBias(Protocol):
    """What one prompt's answers are made less likely to say."""

    @property
    def amount(self) -> float:
        """What is taken from the logits, in nats, before the temperature."""
        ...

    def lowered(self, tokens: Sequence[int]) -> Sequence[int]:
        """Ids whose logit is lowered at the next token, each once; ``tokens`` were sampled so far. The same for the same tokens."""
        ...


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """``n`` samples of one prompt. Token t of sample i is drawn with u = hash(seed, prompt_id, attempt, first_sample + i, t)."""

    prompt_id: str
    prompt: Encoded
    n: int
    params: SamplingParams
    seed: int
    attempt: int = 0
    first_sample: int = 0
    keep_support: bool = False  # tell what could have been drawn, where ``params`` cut the distribution
    goes_on: bool = False  # the answer will be the beginning of another prompt: what was made of it may be kept
    bias: TokenBias | None = None  # the distribution is then not the model's own: nothing is trained on it as on the policy's


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled token stream. Ids are kept as sampled, never decoded and tokenised again. A failed rollout is a value."""

    prompt_id: str
    attempt: int
    sample: int
    tokens_T: Tensor  # int64 [T]
    sampled_T: Tensor  # bool [T]: sampled by the policy (False: tool output, other turns)
    logprobs_T: Tensor  # float32 [T]: of exactly the distribution sampled from; 0 where not sampled
    version_T: Tensor  # int64 [T]: PolicyVersion that sampled the token
    finish_reason: FinishReason
    text: str = ""  # decoded, special tokens left out: for rewards and people
    error: str = ""
    support: Support | None = None  # of each token [T], where it was asked for and something was cut
    biased: bool = False  # drawn under a ``TokenBias``
    turn_T: Tensor | None = None  # int64 [T]: the turn that the token is of, the world's reply with the answer before it; None: all of one
    forks: tuple[Fork, ...] = ()  # where another past begins, rising; empty: the tokens are one stream behind their prompt
    conversation: Conversation | None = None  # with an environment: what was said, and what the world gave for it

    def __len__(self) -> int:
        return self.tokens_T.shape[0]

    @property
    def streams(self) -> tuple[slice, ...]:
        """The tokens behind each prompt: the group's, then those of the forks. Together they are all tokens, each once."""
        starts = [0, *(fork.start for fork in self.forks)]
        return tuple(slice(a, b) for a, b in zip(starts, [*starts[1:], len(self)]))


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """Weights that a sampler is to use: ``digest`` proves that they arrived."""

    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one prompt with their rewards. ``valid_G`` is False for a sample whose rollout or reward failed: it takes part in
    no statistic and no loss."""

    prompt: Prompt
    encoded: Encoded
    rollouts: tuple[Rollout, ...]
    rewards_G: Tensor  # float32 [G]
    parts: Mapping[str, Tensor]  # reward by source, float32 [G] each, unweighted
    valid_G: Tensor  # bool [G]
    greedy_reward: float = math.nan  # of the greedy answer to the same prompt, where the credit rule takes it as its baseline
    # Where parts of an answer are scored: by rollout float32 [T], the rewards of the parts at the tokens where they are due, and minus
    # their sum at the last sampled token, so that the whole sums to 0. Credit by token adds it. Empty: the reward is all at the end.
    moved: tuple[Tensor, ...] = ()


def empty_group(prompt: Prompt, encoded: Encoded, rollouts: Sequence[Rollout]) -> Group:
    """A group before it is rewarded: rewards 0, failed rollouts already invalid."""
    import torch

    n = len(rollouts)
    valid = torch.tensor([r.finish_reason != "error" and len(r) > 0 for r in rollouts], dtype=torch.bool)
    return Group(prompt, encoded, tuple(rollouts), torch.zeros(n), {}, valid)
