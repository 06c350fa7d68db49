"""The seams: what an objective, a sampler, a reward and a guard must offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from keel.types.outputs import Counts, LossOutput, Need, Outputs
from keel.types.sampling import Group, PolicyVersion, Rollout, SampleRequest
from keel.types.units import Batch, Unit

if TYPE_CHECKING:
    from torch import Tensor  # a worker that reads text alone starts without torch


class Objective(Protocol):
    """A loss over units: what it needs from the model, how its terms are counted, and the loss of one micro-batch."""

    @property
    def needs(self) -> frozenset[Need]: ...

    @property
    def token_local(self) -> bool:
        """True when the loss is a sum of functions of single tokens' log-probabilities: the head's gradient is then formed in the
        same pass (three matrix products instead of four)."""
        ...

    @property
    def couples_branches(self) -> bool:
        """True when the branches of a unit must stay in one micro-batch (pairs, rankings)."""
        ...

    def counts(self, units: Sequence[Unit]) -> Counts:
        """Divisors of the terms over the whole optimizer batch (all ranks), taken before the first forward pass."""
        ...

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        """The part of the loss that this micro-batch contributes. For a token-local objective ``outputs`` may hold a slice of the
        scored tokens and ``batch`` is narrowed to the same slice."""
        ...


class Sampler(Protocol):
    """Where rollouts come from. Work in flight may be thrown away and drawn again: randomness is a hash, never a generator."""

    def submit(self, requests: Sequence[SampleRequest]) -> None: ...

    def collect(self) -> Iterator[Rollout]:
        """Yield the rollouts of all submitted requests, in any order, until none is outstanding."""
        ...

    def load(self, version: PolicyVersion) -> None: ...


class RewardSource(Protocol):
    """A reward: a model, rules, a verifier, a Python function."""

    @property
    def name(self) -> str: ...

    def score(self, groups: Sequence[Group]) -> Sequence[Tensor]:
        """Rewards [G] (float32, NaN = failed) for each group's rollouts; ``groups`` carry no rewards yet."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard wants done after a step."""

    action: Literal["continue", "rollback", "stop"]
    reason: str = ""


class Guard(Protocol):
    """Looks at a step's metrics and says what should happen."""

    def check(self, step: int, metrics: Mapping[str, float]) -> Verdict: ...
