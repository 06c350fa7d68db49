"""A learner whose work is done by ranks. The driver keeps a whole copy of the model for what needs one (drawing, saving, looking), without
gradients and moments; it is brought up to date when it is asked for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from keel.core.errors import ConfigError, RankError
from keel.learner.config import BatchConfig, ClusterConfig, OptimConfig
from keel.learner.held import RankReference, RankTensors, RankWeights
from keel.learner.host import Host
from keel.learner.inference import LocalInference, MetricSums
from keel.learner.local import LocalLearner, image_tokens
from keel.learner.optim import factor_of, rate_now, warmup_steps
from keel.learner.packing import longest_microbatch
from keel.learner.served import LearnerAsk, ModelAsk, Pace
from keel.learner.team import Sum
from keel.methods.rl_parts import ReferenceRule
from keel.models.checksum import checksum
from keel.models.frame import shelf_of
from keel.models.loading import folder_of
from keel.models.model import Model
from keel.runs.pieces import Pieces
from keel.types import (
    BranchTensors,
    GradientGap,
    GradientReport,
    Objective,
    StepReport,
    Unit,
    UpdatePlan,
    Weights,
)

_MEMORY = ("OutOfMemoryError", "MemoryError", "alloc")


class RankLearner:
    """A ``types.Learner`` over the ranks of ``host``, where it plays the role ``role``. ``model`` is the driver's copy."""

    def __init__(
        self,
        host: Host,
        role: str,
        model: Model,
        config: OptimConfig,
        batch: BatchConfig,
        total_steps: int,
        seed: int,
        temperature: float = 1.0,
    ) -> None:
        """Raises ConfigError for what ranks cannot do, RankError where they did not load the driver's very weights."""
        check_remote(model, config, host.cluster)
        self.host, self.role, self.config, self.batch = host, role, config, batch
        self.total_steps, self.seed, self.temperature = total_steps, seed, temperature
        self._whole = LocalInference(model, batch, temperature)
        self._current = True  # is the driver's copy what the ranks have?
        self._factor = factor_of(config, model)
        self.lr_scale, self.lr_now, self.progress = 1.0, None, 0
        self._updates = 0
        self._holds: Model | None = None  # whose distributions the losses compare with
        self._start = ask_of(model)
        ask = LearnerAsk(self._start, config, batch, total_steps, seed, temperature)
        _refuse_others(host.call("make", role, ask), model, role)

    lr_scale: float
    lr_now: float | None
    progress: int

    @property
    def plan(self) -> UpdatePlan:
        """What it is set to do."""
        return UpdatePlan(self.total_steps, warmup_steps(self.config, self.total_steps), self.batch.microbatch_tokens)

    @property
    def updates(self) -> int:
        """Optimizer steps tried so far."""
        return self._updates

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr_scale * rate_now(self.lr_now, self.progress, self.total_steps, self.config, self._factor)

    @property
    def trained_bytes(self) -> int:
        """Of the trained weights, all together."""
        return sum(p.numel() * p.element_size() for _, p in self._whole.model.trainable())

    @property
    def ranks(self) -> int:
        """Processes that share its work."""
        return self.host.world

    @property
    def precision(self) -> str:
        """``float32`` or ``bfloat16``."""
        return self._whole.model.precision

    def ask(self, command: str, *args: Any) -> Any:
        """Let the ranks do a command in this learner's role; returns what rank 0 says."""
        return self.host.call(command, self.role, *args)

    def read(self, command: str, units: Sequence[Unit]) -> list[Any]:
        """What a command says of each unit; the ranks have their images by then, as many at a time as there is room for."""
        return [said for part in self.host.shown.parts(units, self._whole.model.media) for said in self.ask(command, part)]

    def _shown(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """``units``, whose images the ranks have now."""
        self.host.shown.bring(units, self._whole.model.media)
        return units

    # -------------------------------------------------------------------------------------------------------- without gradients

    def logprobs(self, units: Sequence[Unit]) -> BranchTensors:
        """As ``LocalInference``'s."""
        return self.read("logprobs", units)

    def values(self, units: Sequence[Unit]) -> BranchTensors:
        """As ``LocalInference``'s."""
        return self.read("values", units)

    def scores(self, units: Sequence[Unit]) -> list[Tensor]:
        """As ``LocalInference``'s."""
        return self.read("scores", units)

    def information(self, units: Sequence[Unit]) -> float:
        """As ``LocalInference``'s."""
        return self.ask("information", self._shown(units))

    def divergences(self, units: Sequence[Unit], others: Sequence[Unit]) -> BranchTensors:
        """As ``LocalInference``'s, of the driver's copy: it is asked for prompts with images alone."""
        return self.whole().divergences(units, others)

    def evaluate(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """As ``LocalInference``'s."""
        counts, media = objective.counts(units), self._whole.model.media
        return MetricSums.of([self.ask("losses", part, objective, counts) for part in self.host.shown.parts(units, media)]).report()

    # ---------------------------------------------------------------------------------------------------------------- training

    def forward_backward(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """As ``LocalLearner``'s; ``balance`` among the metrics is the work of the rank with the most over the mean."""
        return self.ask("forward_backward", self._shown(units), objective)

    def step(self) -> StepReport:
        """As ``LocalLearner``'s."""
        self._current = False
        report = self.ask("step", Pace(self.lr_scale, self.lr_now, self.progress))
        self._updates += 1
        self.progress += 1
        return report

    def train_only(self, parts: Sequence[str]) -> None:
        """As ``LocalLearner``'s."""
        self.ask("train_only", parts)

    def discard_gradients(self) -> None:
        """Forget what was accumulated since the last step."""
        self.ask("discard_gradients")

    # --------------------------------------------------------------------------------------------------------------- reference

    def refer(self, other: Model | None, rule: ReferenceRule | None, *, whole: bool) -> RankReference:
        """Keep the starting weights, or ``other``, on the ranks as a reference that ``rule`` moves. With ``whole`` the losses compare whole
        distributions with it."""
        model = self._whole.model
        if whole and other is None and rule is None and model.start_rows and self.host.cluster.shard == "full":
            what = "cluster.shard=full: losses that compare whole distributions cannot have a part's start as their reference"
            raise ConfigError(what, "leave model_options.train out beside lora, or set cluster.shard=1")
        self._holds = other or (None if model.peft_model is not None and rule is None else model)
        if other is not None:
            _refuse_others(self.ask("refer", ask_of(other), rule, whole), other, "reference")
        elif rule is not None or model.peft_model is None:
            sums = self.ask("refer", self._start, rule, whole)
            if self._updates == 0 and self._current:  # the driver's copy is the start
                _refuse_others(sums, model, "reference")
        return RankReference(self)

    # ----------------------------------------------------------------------------------------------------------------- weights

    def whole(self) -> LocalInference:
        """The driver's copy, with the weights that the ranks have now."""
        if not self._current:
            model = self._whole.model
            for name, tensor in self.host.stream("weights", self.role):
                model.set_weights({name: tensor})
            self._current = True
        return self._whole

    def weights(self) -> Weights:
        """What a sampler takes over."""
        return RankWeights(self)

    def digest(self) -> str:
        """Of the weights on the ranks."""
        return self.ask("digest")

    def save(self, folder: Path, tokenizer: Any, processor: Any = None) -> None:
        """Write a folder that plain transformers loads."""
        self.whole().model.save(folder, tokenizer, processor)

    def state(self) -> tuple[RankTensors, dict[str, Any]]:
        """Everything that the next step depends on; the tensors stay where they are until they are written."""
        return RankTensors(self, "learner"), self.ask("state")

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what was written, by however many processes: in the same number bit for bit, in another to rounding."""
        self._current = False
        self.ask("read", "learner", tensors.files if isinstance(tensors, Pieces) else dict(tensors), dict(state))
        self._updates = int(state["step"])
        self.progress = int(state.get("progress", self._updates))

    # -------------------------------------------------------------------------------------------------- what the self-test asks

    def image_tokens(self, unit: Unit) -> int | None:
        """Placeholder tokens of images in the prompt of ``unit``; None for a model that has none."""
        return image_tokens(self._whole.model, unit)

    @contextlib.contextmanager
    def plain_passes(self, tokens: int) -> Iterator[None]:
        """As ``LocalLearner``'s."""
        self.ask("enter", "plain_passes", tokens)
        try:
            yield
        finally:
            self.ask("leave")

    def longest(self, units: Sequence[Unit], objective: Objective) -> tuple[Unit, ...]:
        """The micro-batch with the most tokens that ``units`` are cut into."""
        return longest_microbatch(units, self.batch.microbatch_tokens, objective.couples_branches)

    def fits(self, units: Sequence[Unit], objective: Objective) -> str:
        """As ``LocalLearner``'s. Where memory does not suffice the ranks have ended."""
        try:
            return self.ask("fits", self._shown(units), objective)
        except RankError as error:
            if any(word in error.message for word in _MEMORY):
                return error.message.splitlines()[-1]
            raise

    def gradients(self) -> GradientReport:
        """What the passes since the last step left behind."""
        return self.ask("gradients")

    def negate_gradients(self) -> None:
        """So that what is left after a second pass is the difference of the two."""
        self.ask("negate_gradients")

    def idle(self, unit: Unit) -> frozenset[str]:
        """Trained parameters that the model itself has no use for in a pass over ``unit``."""
        return self.ask("idle", *self._shown([unit]))

    @contextlib.contextmanager
    def altered(self) -> Iterator[None]:
        """With one trained parameter changed, as by a fault."""
        self.ask("enter", "altered")
        self._current = False
        try:
            yield
        finally:
            self._current = False
            self.ask("leave")

    def apart(self, units: Sequence[Unit], objective: Objective) -> GradientGap:
        """The gradient over the ranks against that of the driver's copy, which one process takes by itself: of the batch
        cut as small as can be, and of it whole, added up. Leaves no gradients."""
        alone = LocalLearner(self.whole().model, self.config, self.batch, self.total_steps, self.seed, self.temperature)
        alone.reference = self._holds
        self.discard_gradients()
        try:
            for tokens in (1, 1 << 30):  # a part for each rank, and all of it on one: the others have nothing then
                with alone.plain_passes(tokens), self.plain_passes(tokens):
                    alone.forward_backward(units, objective)
                    self.forward_backward(units, objective)
            own = {name: p.grad for name, p in alone.model.trainable()}
            norm, norm_alone, apart = self.gradients().norm, alone.gradients().norm, 0.0
            for name, theirs in self.host.stream("send_gradients", self.role):
                mine = own[name]
                if (mine is None) != (theirs is None):
                    apart = math.inf
                elif mine is not None:
                    apart += float((theirs.to(mine.device) - mine).double().square().sum())
        finally:
            alone.discard_gradients()
            self.discard_gradients()
        return GradientGap(norm, norm_alone, apart**0.5, self.host.cluster.gather == "bf16")


def check_remote(model: Model, config: OptimConfig, cluster: ClusterConfig) -> None:
    """Raise ConfigError for what ranks cannot do."""
    if cluster.gather == "bf16" and model.precision != "bfloat16":
        what = "cluster.gather=bf16 rounds weights before they are computed with, and this model is computed in float32"
        raise ConfigError(what, "set model_options.precision=bf16, or cluster.gather=fp32")
    if config.name != "adamw" and cluster.shard == "full":
        what = f"optim.name={config.name} cannot update weights that are shared out over ranks"
        raise ConfigError(what, "set optim.name=adamw, or cluster.shard=1")


def ask_of(model: Model) -> ModelAsk:
    """What ranks need to load the same model."""
    origin = model.origin
    assert origin is not None, "a model that was put together by hand cannot be loaded by other processes"
    shelf = shelf_of(model, folder_of(origin.spec, origin.options))
    return ModelAsk(origin, model.transform, model.packed, model.lm_head, shelf)


def _refuse_others(sums: Sequence[Sum], model: Model, role: str) -> None:
    """Raise RankError where the ranks have other weights than ``model``, those that nothing trains too; a twin may keep them rounded."""
    own = model.proven()
    wrong = [s.name for s in sums if s.name not in own or checksum(own[s.name].to(s.dtype)) != s.checksum]
    wrong += sorted(own.keys() - {s.name for s in sums})
    if wrong:
        what = f"the ranks loaded other weights for the {role} than the driver: {', '.join(wrong[:3])} ({len(wrong)} in all)"
        raise RankError(what, "the files changed while they were read, or are not the same on all machines")
