"""Who shares the work of a learner: one process alone, or several ranks. Every rank gets all units; what is dealt are the micro-batches of
one process, so that nothing depends on how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sum:
    """The checksum of a whole weight, in the precision that it is kept in."""

    name: str
    dtype: torch.dtype
    checksum: int


class Team(Protocol):
    """What a learner asks of those it works with. All of them call it alike, in the same order."""

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    @property
    def lockstep(self) -> bool:
        """Must all of them make as many passes as each other, through the same layers?"""
        ...

    @property
    def balance(self) -> float:
        """Work of the rank with the most over the mean, when it was last dealt; 1 is even."""
        ...

    def deal(self, parts: Sequence[T], sizes: Sequence[int]) -> list[T | None]:
        """This process's share. None: a pass that keeps step with the others and counts for nothing."""
        ...

    def gather(self, mine: Sequence[T]) -> list[T]:
        """What all found, rank by rank."""
        ...

    def adding_up(self, trained: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        """The gradients of the passes within are summed over all, beside what was accumulated before."""
        ...

    def rest(self) -> None:
        """The passes are over: whole weights that were put together for them go."""
        ...

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The global norm of these gradients, a plain number on the device."""
        ...

    def clip(self, parameters: Sequence[nn.Parameter], most: float, norm: Tensor) -> None:
        """Scale gradients down to the norm ``most``; ``norm`` is the one they have."""
        ...


class Alone:
    """One process that does everything by itself."""

    world = 1
    lockstep = False
    balance = 1.0

    def deal(self, parts: Sequence[T], sizes: Sequence[int]) -> list[T | None]:
        return list(parts)

    def gather(self, mine: Sequence[T]) -> list[T]:
        return list(mine)

    def adding_up(self, trained: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        return nullcontext()

    def rest(self) -> None:
        return

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return nn.utils.get_total_norm(gradients)

    def clip(self, parameters: Sequence[nn.Parameter], most: float, norm: Tensor) -> None:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)


def dealt(sizes: Sequence[int], world: int) -> list[list[int]]:
    """Places of parts by rank: the largest first, each to the rank with the least work so far. Deterministic."""
    load, places = [0] * world, [list[int]() for _ in range(world)]
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        rank = min(range(world), key=lambda r: (load[r], r))
        load[rank] += sizes[place]
        places[rank].append(place)
    return places


def balance_of(sizes: Sequence[int], places: Sequence[Sequence[int]]) -> float:
    """Work of the rank with the most over the mean of all."""
    work = [sum(sizes[i] for i in of_rank) for of_rank in places]
    return max(work) * len(work) / max(1, sum(work))
