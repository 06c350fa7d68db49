"""The gold reward: a fixed taste in sequences of symbols. It stands for the people whose votes a reward model learns from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from keel.types import Group
from labs.bench.workload import BOS, EOS, FIRST_WORD

COMMON = range(FIRST_WORD, FIRST_WORD + 12)
RARE = range(COMMON.stop, COMMON.stop + 12)  # what the start says now and then: votes on it are few
SYMBOLS = range(COMMON.start, RARE.stop)
VOCAB = FIRST_WORD + len(SYMBOLS)
PROMPT = 3  # symbols of a prompt
SHORT, LONG = 8, 12  # symbols of a demonstration
MAX_TOKENS = 16
_RARITY = 0.03  # of a demonstration's symbols
_UNLIKED = -4.0  # by rare ones


@dataclass(frozen=True, slots=True)
class Taste:
    """Liked and disliked symbols, liked and disliked neighbours, some liking for the prompt's symbols, and too much of a good thing: what
    a symbol stands more than ``dose`` times is disliked by the square of the excess. Such answers are rare in the start's samples, so that
    votes on these say little about them. ``mean`` and ``std`` are those of the start's answers: rewards are in its deviations."""

    likes: tuple[float, ...]  # by symbol
    neighbours: tuple[tuple[float, ...], ...]  # by symbol and the next one
    dose: int = 3
    excess: float = 0.5
    echo: float = 0.5  # for each different symbol of the prompt that the answer has
    mean: float = 0.0
    std: float = 1.0

    def of(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """The reward of one answer; ids that are no symbols do not count."""
        words = [i - FIRST_WORD for i in answer if i in SYMBOLS]
        asked = {i - FIRST_WORD for i in prompt if i in SYMBOLS}
        value = sum(self.likes[w] for w in words) + sum(self.neighbours[a][b] for a, b in pairwise(words))
        value += self.echo * len(asked & set(words))
        value -= self.excess * sum(max(0, words.count(w) - self.dose) ** 2 for w in set(words))
        return (value - self.mean) / self.std

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """As a reward source: [G] for each group, NaN for samples that failed."""
        found: list[Tensor] = []
        for group in groups:
            prompt = group.encoded.tokens_T.tolist()
            rewards_G = torch.tensor([self.of(prompt, r.tokens_T.tolist()) for r in group.rollouts])
            found.append(torch.where(group.valid_G, rewards_G, torch.nan))
        return found

    def scaled(self, rewards: Tensor) -> Taste:
        """With 0 and 1 at the mean and the deviation of these rewards."""
        mean, std = self.mean + self.std * float(rewards.mean()), self.std * float(rewards.std())
        return replace(self, mean=mean, std=std)


def make_taste(seed: int) -> Taste:
    """A taste by chance: normal, neighbours at half the weight of symbols."""
    rng = random.Random(f"taste {seed}")
    likes = (*(rng.gauss(0, 1) for _ in COMMON), *(_UNLIKED for _ in RARE))
    return Taste(likes, tuple(tuple(rng.gauss(0, 0.5) for _ in SYMBOLS) for _ in SYMBOLS))


def make_prompt(rng: random.Random) -> list[int]:
    """The first token and some symbols."""
    return [BOS, *(rng.choice(COMMON) for _ in range(PROMPT))]


def make_answer(rng: random.Random) -> list[int]:
    """Symbols by chance, and the end."""
    return [*(rng.choice(RARE if rng.random() < _RARITY else COMMON) for _ in range(rng.randint(SHORT, LONG))), EOS]
