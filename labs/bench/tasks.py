"""Small verifiable tasks, made from a seed: symbols in, symbols out, right or wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labs.bench.workload import BOS, EOS, FIRST_WORD

SYMBOLS = range(FIRST_WORD, FIRST_WORD + 6)
VOCAB = FIRST_WORD + len(SYMBOLS)
MARK = SYMBOLS[0]
_NEEDLE, _NEEDLE_LENGTH = 5, 8  # the mark's place in the answer of `needle`, and the answer's length without the end token


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
    symbols = [rng.choice(SYMBOLS[1:]) for _ in range(_NEEDLE_LENGTH)]
    symbols[_NEEDLE] = MARK
    return symbols


def _last(prompt: Sequence[int], rng: random.Random) -> list[int]:
    return [prompt[-1]]


def _reverse(prompt: Sequence[int], rng: random.Random) -> list[int]:
    return list(prompt[::-1])


def _found(prompt: Sequence[int], given: Sequence[int]) -> bool:
    return [i for i, symbol in enumerate(given) if symbol == MARK] == [_NEEDLE]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("last", "say the last of three symbols, then stop", 3, 4, 0.8, _last, lambda i: True, _exactly(_last)),
        Task("reverse", "say two symbols backwards, then stop", 2, 5, 0.5, _reverse, lambda i: True, _exactly(_reverse)),
        Task(
            "needle",
            "token-level credit: of eight symbols the sixth must be the mark, and no other may be; the rest is free",
            1,
            _NEEDLE_LENGTH + 2,
            0.7,
            _needle,
            lambda i: i == _NEEDLE,
            _found,
        ),
    )
}
