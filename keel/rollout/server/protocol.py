"""What the trainer asks of an engine, whichever it is: take weights, draw, and say what a fixed sequence is worth to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from keel.types import Rollout, SampleRequest


class EngineError(Exception):
    """The engine is gone, silent, or failed."""


class RefusedError(Exception):
    """The engine is there and says no: asking again changes nothing."""


@dataclass(frozen=True, slots=True)
class Handed:
    """Weights that lie in a folder as a saved model. ``digest`` is over what lies there, ``version`` the trainer's number of them."""

    folder: str
    digest: str
    version: int


class RolloutEngine(Protocol):
    """One engine. Every method raises EngineError or RefusedError."""

    url: str

    def health(self) -> dict[str, Any]:
        """What it says of itself; answers at once."""
        ...

    def load(self, handed: Handed) -> str:
        """Take over these weights; returns the digest of what arrived. Requests under way go on, under the new weights from then on."""
        ...

    def draw(self, requests: Sequence[SampleRequest], handed: Handed, in_flight: bool) -> Iterator[Sequence[Rollout]]:
        """All rollouts of the requests, some at a time, as they are done. ``version_T`` names for each token the weights that drew it:
        those of ``handed``, or where ``in_flight`` is set those that came in between too."""
        ...

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """Of a fixed sequence at temperature 1, but its first token."""
        ...


def missing(requests: Sequence[SampleRequest], have: set[tuple[str, int, int]]) -> list[SampleRequest]:
    """What is left to draw of the requests, where these rollouts (prompt, attempt, sample) are there: requests for runs of samples."""
    left: list[SampleRequest] = []
    for r in requests:
        wanted = [s for s in range(r.first_sample, r.first_sample + r.n) if (r.prompt_id, r.attempt, s) not in have]
        first = 0
        for i in range(1, len(wanted) + 1):
            if i == len(wanted) or wanted[i] != wanted[i - 1] + 1:
                left.append(_part(r, wanted[first], i - first))
                first = i
    return left


def _part(request: SampleRequest, first: int, n: int) -> SampleRequest:
    return request if n == request.n else replace(request, first_sample=first, n=n)
