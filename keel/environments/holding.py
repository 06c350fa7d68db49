"""What samplers of conversations have in common, whoever drives them: requests wait, and so many are held at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

from keel.types import PolicyVersion, Rollout, Sampler, SampleRequest, Weights


class Holding(ABC):
    """A ``types.Sampler`` over another one: a request for a prompt that was opened is answered by a conversation, others are passed on."""

    def __init__(self, inner: Sampler, opened: Collection[str], at_once: int) -> None:
        """``opened``: ids of the prompts that have a world, now or later."""
        self.inner = inner
        self._opened, self._at_once = opened, at_once
        self._queue: list[tuple[SampleRequest, int]] = []
        self._plain: list[SampleRequest] = []

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Queue conversations. Raises ValueError for a bias on tokens, which is for plain answers."""
        for request in requests:
            if request.prompt_id not in self._opened:
                self._plain.append(request)
                continue
            if request.bias is not None:
                raise ValueError(f"request for prompt '{request.prompt_id}': conversations are drawn without a bias on tokens")
            self._queue += [(request, request.first_sample + i) for i in range(request.n)]

    def collect(self) -> Iterator[Rollout]:
        """Hold all conversations, ``at_once`` of them at a time."""
        plain, self._plain = self._plain, []
        if plain:
            self.inner.submit(plain)
            yield from self.inner.collect()
        while self._queue:
            batch, self._queue = self._queue[: self._at_once], self._queue[self._at_once :]
            yield from self._hold(batch)

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        """As the other sampler's."""
        self.inner.load(version, weights)

    @abstractmethod
    def _hold(self, batch: Sequence[tuple[SampleRequest, int]]) -> list[Rollout]:
        """Hold these conversations (a request, and which of its samples), to their end."""
