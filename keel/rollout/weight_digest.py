"""What arrived where weights were sent: a digest over names, shapes and checksums that both ends take."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from torch import Tensor

from keel.core.hashing import digest_bytes
from keel.models.checksum import checksum

Named = tuple[str, Tensor]


class Tally:
    """Keeps count of named tensors that pass through it. What was never taken out of it is not in its digest."""

    def __init__(self) -> None:
        self._sums: list[tuple[str, list[int], int]] = []

    def over(self, weights: Iterable[Named]) -> Iterator[Named]:
        """Hand the weights on, each counted once it is taken."""
        for name, tensor in weights:
            self._sums.append((name, list(tensor.shape), checksum(tensor)))
            yield name, tensor

    def digest(self) -> str:
        """Of all that passed, in whatever order."""
        return digest_bytes(json.dumps(sorted(self._sums)).encode())


def digest_of(weights: Iterable[Named]) -> str:
    """The digest of all of them."""
    tally = Tally()
    for _ in tally.over(weights):
        pass
    return tally.digest()
