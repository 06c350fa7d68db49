"""What a step learns from is drawn ``lag`` steps before: rollouts of the steps ahead are under way, or wait, while the policy is updated.

First in, first out; nothing is thrown away. Step k learns from what the weights of step ``max(0, k - lag)`` drew, so no token is older than
``lag`` versions, and with ``lag`` 0 it is the plain loop. What waits is part of the checkpoint: a run that goes on learns from the very
rollouts that the undisturbed one would have learnt from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from keel.rollout.records import packed, unpacked
from keel.types import Rollout, Sampler, SampleRequest
from keel.types.seams import Drawing, draws_beside

Asking = Callable[[int], Sequence[SampleRequest]]  # step -> what it samples first


@dataclass(slots=True)
class _Ahead:
    """The rollouts of one step: drawn, or under way."""

    step: int
    requests: Sequence[SampleRequest]
    drawing: Drawing | None
    rollouts: tuple[Rollout, ...] = ()

    def settle(self) -> tuple[Rollout, ...]:
        if self.drawing is not None:
            self.rollouts, self.drawing = tuple(self.drawing.rollouts()), None
        return self.rollouts


class Feed:
    """The rollouts of the steps ahead, in order."""

    def __init__(self, lag: int, last: int) -> None:
        """``last``: the number of the last step; nothing is drawn ahead beyond it."""
        self.lag, self.last = lag, last
        self._ahead: deque[_Ahead] = deque()

    def take(self, step: int, sampler: Sampler, asking: Asking) -> tuple[Sequence[SampleRequest], tuple[Rollout, ...]]:
        """The requests of step ``step`` and their rollouts. Asks for the steps up to ``lag`` ahead first, with the weights that the sampler
        has now; waits for this step's."""
        first = self._ahead[-1].step + 1 if self._ahead else step
        for k in range(first, min(step + self.lag, max(step, self.last)) + 1):
            self._ahead.append(_begun(k, asking(k), sampler))
        now = self._ahead.popleft()
        assert now.step == step, f"step {step} was asked for, and the next is {now.step}"
        return now.requests, now.settle()

    def state(self) -> tuple[Mapping[str, Tensor], list[dict[str, Any]]]:
        """What waits. Waits for what is under way."""
        tensors: dict[str, Tensor] = {}
        steps: list[dict[str, Any]] = []
        for one in self._ahead:
            found, plain = packed(one.settle())
            tensors |= {f"{one.step}/{name}": tensor for name, tensor in found.items()}
            steps.append({"step": one.step, "rollouts": plain})
        return tensors, steps

    def load_state(self, tensors: Mapping[str, Tensor], steps: Sequence[Mapping[str, Any]], asking: Asking) -> None:
        """Wait with these in place of what waits and is under way."""
        self._ahead.clear()
        for one in steps:
            k = int(one["step"])
            own = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.partition("/")[0] == str(k)}
            self._ahead.append(_Ahead(k, asking(k), None, unpacked(own, one["rollouts"])))


def _begun(step: int, requests: Sequence[SampleRequest], sampler: Sampler) -> _Ahead:
    """A sampler that draws beside the training is not waited for; another draws now, while it has these weights."""
    if draws_beside(sampler):
        return _Ahead(step, requests, sampler.begin(requests))
    sampler.submit(requests)
    return _Ahead(step, requests, None, tuple(sampler.collect()))
