"""The seams: what an objective, a learner, its weights, a sampler, a reward and a guard must offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, runtime_checkable

from keel.types.outputs import Counts, Divergence, LossOutput, Need, Outputs, StepReport
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


@runtime_checkable
class Comparing(Protocol):
    """What an objective has beside the rest that asks for ``divergence``."""

    @property
    def divergence(self) -> Divergence | None:
        """Which one is taken of the whole distributions of policy and reference."""
        ...


BranchTensors = list[tuple["Tensor", ...]]  # per unit, per branch: float32 [T], on the CPU


class Inference(Protocol):
    """A model that is read: passes without gradients."""

    def logprobs(self, units: Sequence[Unit]) -> BranchTensors:
        """Log-probabilities of the tokens of each branch, 0 at those that are not trained."""
        ...

    def values(self, units: Sequence[Unit]) -> BranchTensors:
        """The value head before each trained token."""
        ...

    def divergences(self, units: Sequence[Unit], others: Sequence[Unit]) -> BranchTensors:
        """``KL(behind the prompts of units || behind those of others)`` at each trained token, of whole distributions, in nats. The answers
        are the same, the prompts of the same lengths."""
        ...

    def information(self, units: Sequence[Unit]) -> float:
        """Nats a token that the distributions of trained tokens are from knowing nothing."""
        ...

    def evaluate(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """Loss and metrics without gradients."""
        ...


class Weights(Protocol):
    """A policy's weights as a sampler takes them over. Nothing is copied before it is asked for."""

    def digest(self) -> str:
        """What proves that they arrived; that of the ``PolicyVersion``."""
        ...

    def arrive(self) -> None:
        """Bring a copy in this process that follows them up to date; nothing to do where the weights themselves are here."""
        ...

    def merged(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        """The weights under the names of the saved model, adapters merged; each is made when it is taken."""
        ...

    def probe(self, tokens_T: Tensor) -> Tensor:
        """Log-probabilities of ``tokens_T`` [T] but the first, each after those before it: float32 [T - 1]. For a proof of a copy."""
        ...


@dataclass(frozen=True, slots=True)
class GradientReport:
    """What a backward pass left behind, by parameter's name."""

    norm: float  # of all trained parameters' gradients
    missing: tuple[str, ...] = ()  # trained, and no gradient
    frozen: tuple[str, ...] = ()  # not trained, and a gradient
    broken: tuple[str, ...] = ()  # not finite


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """What a learner is set to do."""

    updates: int  # optimizer steps of the whole training
    warmup: int  # of them with a rising learning rate
    microbatch_tokens: int  # at most so many tokens go through the model at once


@dataclass(frozen=True, slots=True)
class GradientGap:
    """The gradient of one batch as several processes took it, beside that of one."""

    norm: float
    norm_alone: float
    apart: float  # norm of their difference
    rounded: bool = False  # the processes round weights that one alone does not


class Learner(Inference, Protocol):
    """A model that learns, in this process or behind others. Loops, self-tests and samplers know no more of it than this."""

    lr_scale: float  # factor on the recipe's rate; whoever sets it keeps it
    lr_now: float | None  # in place of the schedule; whoever sets it keeps it
    progress: int  # planned updates before the next one: what the schedule goes by

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        ...

    @property
    def plan(self) -> UpdatePlan: ...

    @property
    def ranks(self) -> int:
        """Processes that share its work."""
        ...

    @property
    def updates(self) -> int:
        """Optimizer steps tried so far."""
        ...

    def train_only(self, parts: Sequence[str]) -> None:
        """From now on update only these parts of what is trained; none named: all. Whoever sets it keeps it."""
        ...

    def forward_backward(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """Add the gradient of ``objective`` over ``units`` to what is accumulated."""
        ...

    def step(self) -> StepReport:
        """Clip, update, zero the gradients."""
        ...

    def discard_gradients(self) -> None: ...

    def apart(self, units: Sequence[Unit], objective: Objective) -> GradientGap | None:
        """How far the gradient over several processes is from that of one, shared out and not; None where there is only one process.
        Leaves no gradients."""
        ...

    def weights(self) -> Weights: ...

    def save(self, folder: Path, tokenizer: Any, processor: Any = None) -> None:
        """Write a folder that plain transformers loads."""
        ...

    def state(self) -> tuple[Any, dict[str, Any]]:
        """Everything that the next step depends on: tensors by name (or what writes them, ``runs.pieces.Written``), and numbers as JSON."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None: ...

    # What the self-test asks of it before training.

    @property
    def precision(self) -> str:
        """``float32`` or ``bfloat16``: what products are computed in."""
        ...

    def image_tokens(self, unit: Unit) -> int | None:
        """Placeholder tokens of images in the prompt of ``unit``; None for a model that has none."""
        ...

    def plain_passes(self, tokens: int) -> AbstractContextManager[None]:
        """For comparing passes: micro-batches of at most ``tokens`` tokens, no dropout, no balance of experts."""
        ...

    def longest(self, units: Sequence[Unit], objective: Objective) -> tuple[Unit, ...]:
        """The micro-batch with the most tokens that ``units`` are cut into."""
        ...

    def fits(self, units: Sequence[Unit], objective: Objective) -> str:
        """Forward and backward of ``units`` beside the memory that the optimizer will take: "", or what memory says."""
        ...

    def gradients(self) -> GradientReport: ...

    def negate_gradients(self) -> None:
        """So that what is left after a second pass is the difference of the two."""
        ...

    def idle(self, unit: Unit) -> frozenset[str]:
        """Trained parameters that the model itself has no use for in a pass over ``unit``."""
        ...

    def altered(self) -> AbstractContextManager[None]:
        """With one trained parameter changed, as by a fault."""
        ...


class Moving(Protocol):
    """A reference that follows the policy."""

    def follow(self, step: int) -> None:
        """After ``step`` steps (1 is the first)."""
        ...

    def state(self) -> Any:
        """For a checkpoint: tensors by name, or what writes them."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None: ...


class Sampler(Protocol):
    """Where rollouts come from. Work in flight may be thrown away and drawn again: randomness is a hash, never a generator."""

    def submit(self, requests: Sequence[SampleRequest]) -> None: ...

    def collect(self) -> Iterator[Rollout]:
        """Yield the rollouts of all submitted requests, in any order, until none is outstanding."""
        ...

    def load(self, version: PolicyVersion, weights: Weights) -> None:
        """Draw from these weights from now on. Raises SelfTestError where they are not those of ``version``, or did not arrive."""
        ...


class Drawing(Protocol):
    """Rollouts that are under way."""

    def rollouts(self) -> Sequence[Rollout]:
        """All of them; waits until the last is there."""
        ...


Arrived = Callable[[Sequence[Rollout]], None]


class BesideSampler(Sampler, Protocol):
    """A sampler that draws in other processes while this one trains."""

    in_flight: bool  # does ``load`` change the weights of what is under way? If not it waits, and each rollout is of one version

    def begin(self, requests: Sequence[SampleRequest], arrived: Arrived | None = None) -> Drawing:
        """Ask for these, and do not wait. ``arrived`` is called, maybe in another thread, with rollouts once they are there."""
        ...


def draws_beside(sampler: Sampler) -> TypeGuard[BesideSampler]:
    """Does it draw beside the training?"""
    return hasattr(sampler, "begin")


class RewardSource(Protocol):
    """A reward: a model, rules, a verifier, a Python function."""

    @property
    def name(self) -> str: ...

    def score(self, groups: Sequence[Group]) -> Sequence[Tensor]:
        """Rewards [G] (float32, NaN = failed) for each group's rollouts; ``groups`` carry no rewards yet."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard wants done after a step. ``adjust``: the run goes on with what ``changes`` names; ``pause``: it is saved and left, with
    these changes, if there are any. Going back changes all settings by itself."""

    action: Literal["continue", "adjust", "pause", "rollback", "stop"]
    reason: str = ""
    changes: tuple[Literal["lower_lr", "raise_kl"], ...] = ()
    why_changed: str = ""


class Guard(Protocol):
    """Looks at a step's metrics and says what should happen."""

    def check(self, step: int, metrics: Mapping[str, float]) -> Verdict: ...
