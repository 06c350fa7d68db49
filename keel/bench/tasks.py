"""Small verifiable tasks, made from a seed: symbols in, symbols out, right or wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keel.bench.workload import BOS, EOS, FIRST_WORD

SYMBOLS = range(FIRST_WORD, FIRST_WORD + 8)
VOCAB = FIRST_WORD + len(SYMBOLS)
_NEEDLE = 5  # the only place of the answer that counts in `needle`, and its length without the end token
_NEEDLE_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Task:
    """``right(prompt, answer)`` judges; ``answer(prompt, rng)`` is a right answer. In demonstrations each symbol that counts is wrong with
    probability ``noise``, so that what imitates them is right now and then."""

    name: str
    what: str
    length: int  # symbols of a prompt
    max_tokens: int
    noise: float
    answer: Callable[[Sequence[int], random.Random], list[int]]
    counts: Callable[[int], bool]  # does the symbol at this place of the answer count?
    right: Callable[[Sequence[int], Sequence[int]], bool]

    def prompt(self, rng: random.Random) -> list[int]:
        return [BOS, *(rng.choice(SYMBOLS) for _ in range(self.length))]

    def demonstration(self, prompt: Sequence[int], rng: random.Random) -> list[int]:
        """A right answer, spoiled by the noise, and the end token."""
        right = self.answer(prompt[1:], rng)
        return [rng.choice(SYMBOLS) if self.counts(i) and rng.random() < self.noise else s for i, s in enumerate(right)] + [EOS]

    def reward(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """1 for a right answer, else 0."""
        return float(self.right(prompt[1:], answer))


def _exactly(answer: Callable[[Sequence[int], random.Random], list[int]]) -> Callable[[Sequence[int], Sequence[int]], bool]:
    return lambda prompt, given: list(given) == [*answer(prompt, random.Random(0)), EOS]


def _needle(prompt: Sequence[int], rng: random.Random) -> list[int]:
    symbols = [rng.choice(SYMBOLS) for _ in range(_NEEDLE_LENGTH)]
    symbols[_NEEDLE] = prompt[0]
    return symbols


def _last(prompt: Sequence[int], rng: random.Random) -> list[int]:
    return [prompt[-1]]


def _reverse(prompt: Sequence[int], rng: random.Random) -> list[int]:
    return list(prompt[::-1])


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("last", "say the last of four symbols, then stop", 4, 4, 0.8, _last, lambda i: True, _exactly(_last)),
        Task("reverse", "say three symbols backwards, then stop", 3, 6, 0.4, _reverse, lambda i: True, _exactly(_reverse)),
        Task(
            "needle",
            "token-level credit: of eight symbols only the sixth counts, which must be the prompt's first; the rest is free",
            3,
            _NEEDLE_LENGTH + 2,
            0.8,
            _needle,
            lambda i: i == _NEEDLE,
            lambda prompt, given: len(given) > _NEEDLE and given[_NEEDLE] == prompt[0],
        ),
    )
}
