"""Keys and values of conversations between two of their turns: the next turn reads only what came since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keel.kernels.positions import prompt_positions
from keel.types import Encoded


@dataclass(frozen=True, slots=True)
class Beginning:
    """What was read and drawn so far, but for the newest token, which no pass has seen yet. ``layers``: keys and values [K, T, D] each."""

    text: Encoded
    layers: Mapping[int, tuple[Tensor, Tensor]]

    @property
    def size(self) -> int:
        """Bytes of keys and values."""
        return sum(x.numel() * x.element_size() for pair in self.layers.values() for x in pair)

    def begins(self, prompt: Encoded) -> bool:
        """Does ``prompt`` go on from here, token by token, at the same positions, behind the same images?"""
        n = len(self.text)
        return (
            n < len(prompt)
            and torch.equal(prompt.tokens_T[:n], self.text.tokens_T)
            and [ref.digest for ref in prompt.media] == [ref.digest for ref in self.text.media]
            and prompt.spans == self.text.spans
            and torch.equal(prompt_positions(prompt)[:, :n], prompt_positions(self.text))
        )


@dataclass(slots=True)
class Kept:
    """Beginnings by the key of their row, ``most`` bytes of them: what was not asked for longest goes first."""

    most: int
    _found: OrderedDict[int, Beginning] = field(default_factory=OrderedDict[int, Beginning], init=False)
    _size: int = field(default=0, init=False)

    def put(self, key: int, beginning: Beginning) -> None:
        """Keep it, in place of what ``key`` had."""
        self.take(key)
        self._found[key] = beginning
        self._size += beginning.size
        while self._size > self.most:
            self._size -= self._found.popitem(last=False)[1].size

    def take(self, key: int) -> Beginning | None:
        """What ``key`` has; it is then no longer kept."""
        found = self._found.pop(key, None)
        self._size -= found.size if found is not None else 0
        return found

    def clear(self) -> None:
        """Other weights: nothing of it holds any more."""
        self._found.clear()
        self._size = 0
