"""The learner in this process: log-probabilities, gradients and optimizer steps of one model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import DivergedError, ModelError
from keel.core.hashing import stable_hash
from keel.learner.anchor import Anchor
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.inference import LocalInference, MetricSums
from keel.learner.optim import factor_of, make_optimizer, rate_now, warmup_steps
from keel.learner.packing import longest_microbatch, pack, plan_microbatches, with_contrasts
from keel.learner.team import Team
from keel.models.model import Model
from keel.models.parts import trained_parts
from keel.models.weights import ModelWeights
from keel.types import Batch, Counts, GradientReport, LossOutput, MediaRef, Objective, StepReport, Unit, UpdatePlan, Weights

log = logging.getLogger("keel")
MAX_SKIPS = 3  # non-finite steps in a row that end a run


class LocalLearner(LocalInference):
    """One model with its optimizer. ``temperature`` is that of the distribution sampled from: log-probabilities are of it."""

    def __init__(
        self,
        model: Model,
        config: OptimConfig,
        batch: BatchConfig,
        total_steps: int,
        seed: int,
        temperature: float = 1.0,
        team: Team | None = None,
    ) -> None:
        super().__init__(model, batch, temperature, team)
        model.refuse_quantised("trained")
        self.config, self.total_steps, self.seed = config, total_steps, seed
        self._dropped, self._balanced = True, True  # adapters' dropout and the balance of experts; off for comparing passes
        self._trained = model.trainable()
        if not self._trained:
            raise ModelError("nothing to train: every parameter of the model is frozen")
        embeddings = {id(model.module.get_input_embeddings().weight), id(model.head_weight_VH)}
        parts = model.parts()
        self._sees = any(parts.get(name) in ("projector", "vision") for name, _ in self._trained)  # does what makes features change?
        self._parts = trained_parts(model)
        self._factor = factor_of(config, model)
        self._part_paces = self._paces_of_parts()
        self._optimizer = make_optimizer(self._trained, embeddings, config, self._paces())
        self.anchor: Anchor | None = None  # a term of the loss that holds the weights near where they were
        self._resting: list[Tensor] = []  # trained parameters that have no part in the updates now
        self.lr_scale = 1.0  # of the recipe's rate; whoever sets it keeps it
        self.lr_now: float | None = None  # in place of the schedule (before lora_lr_factor); whoever sets it keeps it
        self.progress = 0  # planned updates before the next one: what the schedule goes by. A step adds one; a loop that leaves updates
        # out sets it, so that the schedule ends where the training does
        self._step = 0  # optimizer steps tried, skipped ones included: what the seeds count
        self._skips = 0  # non-finite steps in a row
        self._passes = 0  # micro-batches since the last step

    @property
    def plan(self) -> UpdatePlan:
        """What it is set to do."""
        return UpdatePlan(self.total_steps, warmup_steps(self.config, self.total_steps), self.batch.microbatch_tokens)

    @property
    def trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        """What is trained, by name."""
        return list(self._trained)

    @property
    def ranks(self) -> int:
        """Processes that share its work."""
        return self.team.world

    @property
    def updates(self) -> int:
        """Optimizer steps tried so far."""
        return self._step

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr_scale * rate_now(self.lr_now, self.progress, self.total_steps, self.config, self._factor)

    def _paces(self) -> dict[str, float]:
        """Factors on the rate, by parameter: of parts with a rate of their own, and of what is trained in full beside adapters."""
        whole = {id(s.weight_VH) for s in self.model.start_rows if s.rows_K is ...}
        paces = {name: 1.0 / self._factor for name, p in self._trained if id(p) in whole}
        parts = self.model.parts()
        return paces | {name: self._part_paces[part] for name, _ in self._trained if (part := parts.get(name)) in self._part_paces}

    def _paces_of_parts(self) -> dict[str, float]:
        """Factors on the rate that make it ``lr_parts``. Raises ModelError for a part that the model does not have or does not train."""
        self._check_trained(tuple(self.config.lr_parts), "optim.lr_parts")
        return {part: rate / (self._factor * self.config.lr) for part, rate in self.config.lr_parts.items()}

    def _check_trained(self, names: Sequence[str], setting: str) -> None:
        """Raise ModelError for names that the model does not have or of which nothing is trained."""
        if not names:
            return
        parts = self.model.parts()
        trained = {name for name, _ in self._trained if name in parts}
        for name in names:
            if not trained & self.model.belonging((name,), setting):
                there = ", ".join(sorted({parts[key] for key in trained})) or "heads alone"
                what = f"{setting} names '{name}', of which nothing is trained (trained: {there})"
                raise ModelError(what, "leave it out, or let model_options.train or lora.parts name it")

    # ------------------------------------------------------------------------------------------------------------- training

    def train_only(self, parts: Sequence[str]) -> None:
        """From now on only these parts of what is trained are updated, or their last layers (``NAME:last2``); none named: all. The others
        get no gradient, and the optimizer leaves them and its moments of them as they are; a part's moments begin with its first update.
        Heads are always trained. Raises ModelError for a name that the model does not have or of which nothing is trained."""
        self._check_trained(parts, "train of a phase")
        chosen = self.model.belonging(parts, "train of a phase") if parts else None
        self._resting = [p for name, p in self._trained if chosen is not None and name not in chosen]

    @contextlib.contextmanager
    def _at_rest(self) -> Iterator[None]:
        """What has no part in the updates gets no gradient in here. In lockstep the passes are those of all weights, and gradients go."""
        if self.team.lockstep:
            yield
            for p in self._resting:
                p.grad = None
            return
        for p in self._resting:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in self._resting:
                p.requires_grad_(True)

    def forward_backward(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """Add the gradient of ``objective`` over ``units`` to what is accumulated. Counts are taken over all units before the first
        forward, so the result does not depend on how they are cut into micro-batches."""
        sums = MetricSums()
        counts = self.counts(units, objective)
        planned = plan_microbatches(units, self.batch.microbatch_tokens, objective.couples_branches)
        before, answers = self._passes, max(1, _answer_tokens(units))
        with self.team.adding_up([p for _, p in self._trained]), self._looking(units):
            for item in self._dealt(planned, objective):
                if item is None:
                    with self._at_rest():
                        self._learn_nothing(units, objective)
                    continue
                self._passes, part = before + item[0], item[1]
                batch = pack(with_contrasts(part))
                with self._dropout(units), self._at_rest():
                    output = self._training_loss(batch, objective, counts, _answer_tokens(part) / answers)
                    if output.loss.requires_grad:
                        output.loss.backward()
                self._account(sums, batch, output)
            self.team.rest()
        self._passes = before + len(planned)
        report = self._joined(sums).report()
        return report if self.team.world == 1 else replace(report, metrics={**report.metrics, "balance": self.team.balance})

    @contextlib.contextmanager
    def _looking(self, units: Sequence[Unit]) -> Iterator[None]:
        """In lockstep passes without an image look at the smallest one of all units for nothing, where what makes features is trained."""
        self.model.for_nothing = self.to_look_at(units) if self.team.lockstep and self._sees else None
        try:
            yield
        finally:
            self.model.for_nothing = None

    def to_look_at(self, units: Sequence[Unit]) -> MediaRef | None:
        """The smallest image of these units, which are all that the ranks share; None without one."""
        media = (ref for unit in with_contrasts(units) for ref in unit.prompt.media)
        return min(media, key=lambda ref: (ref.n_tokens, ref.digest), default=None)

    def _learn_nothing(self, units: Sequence[Unit], objective: Objective) -> None:
        """A pass and its backward that add 0 to every gradient that a micro-batch adds to."""
        nothing = self._nothing(self._keep_step(units, objective), objective)
        if nothing.requires_grad:
            nothing.backward()

    def _nothing(self, hidden_NH: Tensor, objective: Objective) -> Tensor:
        """0, with the gradient 0 for all shared weights that a loss of this objective has one for. In lockstep every micro-batch has it, so
        that all ranks send gradients of the same weights, whatever their micro-batches hold."""
        nothing = (hidden_NH * 0.0).sum()
        for weight in (self.model.head_weight_VH, self.model.head_bias_V):
            if weight is not None and weight.requires_grad and objective.needs & {"logprobs", "entropy", "ref_kl", "divergence"}:
                nothing = nothing + (weight.flatten()[:1] * 0.0).sum()
        return nothing

    def counts(self, units: Sequence[Unit], objective: Objective) -> Counts:
        """The divisors of a loss over the whole optimizer batch. All of it is on every rank."""
        return objective.counts(units)

    def _training_loss(self, batch: Batch, objective: Objective, counts: Counts, share: float) -> LossOutput:
        """The objective's loss; that of a mixture of experts with its routers' balance, taken in each micro-batch by itself and weighted by
        its ``share`` of the answers' tokens: unlike all others it depends on how a batch is cut."""
        if self.model.router is None or not self._balanced:
            hidden_NH, balance = self.model.hidden(batch), None
        else:
            hidden_NH, balance = self.model.hidden_and_balance(batch)
        output = self._loss(batch, hidden_NH, objective, counts)
        if self.team.lockstep:
            output = replace(output, loss=output.loss + self._nothing(hidden_NH, objective))
        if self.model.router is None or balance is None:
            return output
        loss = output.loss + self.model.router.coefficient * share * balance if self.model.router.coefficient else output.loss
        return LossOutput(loss, {**output.metrics, "aux_loss": (share * float(balance.detach()), share)})

    def step(self) -> StepReport:
        """Clip, update, zero the gradients. A step whose gradients are not finite changes nothing and is counted; three in a row raise
        DivergedError. Metrics: ``grad_norm`` (before clipping), where a model has several trained parts also each one's as
        ``grad_norm/<part>``, ``lr``, ``skipped_steps`` (1 when skipped)."""
        lr = self.lr
        pulled = self._pull()
        parameters = [p for _, p in self._trained]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = self.team.norm(gradients) if gradients else torch.zeros(())
        finite = bool(torch.isfinite(norm))
        norms = {f"grad_norm/{part}": self._norm(of) for part, of in self._parts.items()}
        if finite:
            if self.config.clip_norm is not None:
                self.team.clip(parameters, self.config.clip_norm, norm)
            for group in self._optimizer.param_groups:
                group["lr"] = lr * group["pace"]
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._skips = 0 if finite else self._skips + 1
        self._step += 1
        self.progress += 1
        self._passes = 0
        if not finite:
            log.warning("step %d: the gradient is not finite, the step is skipped (%d in a row)", self._step, self._skips)
        if self._skips >= MAX_SKIPS:
            raise DivergedError(
                f"{MAX_SKIPS} steps in a row had gradients that are not finite", "lower the learning rate, or look at the data"
            )
        of_parts = {f"lr/{part}": lr * pace for part, pace in self._part_paces.items()}
        return StepReport({"grad_norm": float(norm), **norms, "lr": lr, **of_parts, **pulled, "skipped_steps": float(not finite)}, 0)

    def _pull(self) -> dict[str, float]:
        """The anchor's gradient, added to what has a part in this update; its value, before the update, as ``ewc``."""
        if self.anchor is None:
            return {}
        resting = {id(p) for p in self._resting}
        named = [(name, p) for name, p in self._trained if id(p) not in resting]
        self.anchor.add_gradient(named)
        return {"ewc": self.anchor.penalty(named)}

    def _norm(self, parameters: Sequence[torch.nn.Parameter]) -> float:
        """Of their gradients; 0 where they have none."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        return float(self.team.norm(gradients)) if gradients else 0.0

    def discard_gradients(self) -> None:
        """Forget what was accumulated since the last step."""
        self._optimizer.zero_grad(set_to_none=True)
        self._passes = 0

    def apart(self, units: Sequence[Unit], objective: Objective) -> None:
        """There is one process."""

    def weights(self) -> Weights:
        """What a sampler takes over."""
        return ModelWeights(self.model)

    def save(self, folder: Path, tokenizer: Any, processor: Any = None) -> None:
        """Write a folder that plain transformers loads."""
        self.model.save(folder, tokenizer, processor)

    # -------------------------------------------------------------------------------------------- what the self-test asks

    @property
    def precision(self) -> str:
        """``float32`` or ``bfloat16``: what products are computed in."""
        return self.model.precision

    def image_tokens(self, unit: Unit) -> int | None:
        """Placeholder tokens of images in the prompt of ``unit``; None for a model that has none."""
        return image_tokens(self.model, unit)

    @contextlib.contextmanager
    def plain_passes(self, tokens: int) -> Iterator[None]:
        """Micro-batches of at most ``tokens`` tokens, in training and without gradients; no dropout, no balance of experts."""
        before, self._dropped, self._balanced = self.batch, False, False
        self.batch = before.model_copy(update={"microbatch_tokens": tokens, "inference_tokens": tokens})
        try:
            yield
        finally:
            self.batch, self._dropped, self._balanced = before, True, True

    def longest(self, units: Sequence[Unit], objective: Objective) -> tuple[Unit, ...]:
        """The micro-batch with the most tokens that ``units`` are cut into."""
        return longest_microbatch(units, self.batch.microbatch_tokens, objective.couples_branches)

    def fits(self, units: Sequence[Unit], objective: Objective) -> str:
        """Forward and backward of ``units`` beside the memory that the optimizer will take: "", or the first line of what memory says."""
        try:
            moments = self._moments()
            self.forward_backward(units, objective)
            del moments
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in str(error):
                return str(error).splitlines()[0]
            raise
        return ""

    def gradients(self) -> GradientReport:
        """What the passes since the last step left behind."""
        trained = dict(self._trained)
        found = {name: p.grad for name, p in trained.items() if p.grad is not None}
        return GradientReport(
            norm=float(self.team.norm(list(found.values()))) if found else 0.0,
            missing=tuple(name for name in trained if name not in found),
            frozen=tuple(name for name, p in self.model.module.named_parameters() if not p.requires_grad and p.grad is not None),
            broken=tuple(name for name, gradient in found.items() if not bool(torch.isfinite(gradient).all())),
        )

    def negate_gradients(self) -> None:
        """So that what is left after a second pass is the difference of the two: no copy of the gradients is needed."""
        for _, p in self._trained:
            if p.grad is not None:
                p.grad.neg_()

    def idle(self, unit: Unit) -> frozenset[str]:
        """Trained parameters that the model itself has no use for in a pass over ``unit``: a vision tower where no image is, its layers
        above the one whose features are taken."""
        self.discard_gradients()
        model = self.model
        tokens_BL = torch.cat([unit.prompt.tokens_T, unit.branches[0].tokens_T])[None]
        model.logits(model.run_plain(tokens_BL, torch.ones_like(tokens_BL), unit.prompt.media)[0]).sum().backward()
        self.team.rest()
        heads = {id(p) for head in model.heads.values() for p in head.parameters()}
        return frozenset(name for name, p in self._trained if p.grad is None and id(p) not in heads)

    @contextlib.contextmanager
    @torch.no_grad()
    def altered(self) -> Iterator[None]:
        """With one trained parameter changed, as by a fault."""
        _, parameter = self._trained[-1]
        kept = parameter.detach().clone()
        parameter.add_(1.0)
        try:
            yield
        finally:
            parameter.copy_(kept)

    def _moments(self) -> list[Tensor]:
        """As much memory as the optimizer takes at its first step, if it has yet to take it."""
        kind = {"adamw": torch.float32, "adamw_8bit": torch.uint8}.get(self.config.name)
        if kind is None or self._optimizer.state:
            return []
        return [torch.empty_like(p, dtype=kind) for _, p in self._trained for _ in range(2)]

    @contextlib.contextmanager
    def _dropout(self, units: Sequence[Unit]) -> Iterator[None]:
        """The adapters' dropout, drawn from (seed, step, micro-batch) alone. Units that carry recorded log-probabilities get none: what a
        loss compares with those must be of the same distribution."""
        recorded = any(name.endswith("logprobs") for unit in units for branch in unit.branches for name in branch.signals)
        if recorded or not self._dropped or not self.model.has_lora_dropout:
            yield
            return
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self.model.lora_dropout():
            torch.manual_seed(stable_hash("dropout", self.seed, self._step, self._passes) & 0x7FFF_FFFF_FFFF_FFFF)
            yield

    # ------------------------------------------------------------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the next step depends on: trained weights and optimizer moments as tensors, counters as JSON. Taken between steps."""
        if self._passes:
            raise ValueError("the learner's state is taken between optimizer steps, not with gradients accumulated")
        tensors = {f"model/{name}": t for name, t in self.model.state_tensors().items()}
        scalars: dict[str, dict[str, Any]] = {}
        for name, p in self._trained:
            for key, value in self._optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optim/{name}/{key}"] = value
                else:
                    scalars.setdefault(name, {})[key] = value
        return tensors, {"step": self._step, "progress": self.progress, "skips": self._skips, "optim": scalars}

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned: the next step is bit-identical to the one that would have been."""
        self.model.load_state_tensors({name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")})
        self._optimizer.state.clear()
        fused = bool(self._optimizer.defaults.get("fused"))  # only then the step counter lives on the parameter's device
        for name, p in self._trained:
            prefix = f"optim/{name}/"
            kept = {key.removeprefix(prefix): t.clone() for key, t in tensors.items() if key.startswith(prefix)}
            kept = {key: t.to(p.device) if t.dim() or fused else t for key, t in kept.items()} | dict(state["optim"].get(name, {}))
            if kept:
                self._optimizer.state[p] = kept
        self._optimizer.zero_grad(set_to_none=True)
        self._step, self._skips, self._passes = int(state["step"]), int(state["skips"]), 0
        self.progress = int(state.get("progress", self._step))


def image_tokens(model: Model, unit: Unit) -> int | None:
    """Placeholder tokens of images in the prompt of ``unit``; None for a model that has none."""
    placeholder = getattr(model.config, "image_token_id", None)
    return None if placeholder is None else int((unit.prompt.tokens_T == placeholder).sum())


def _answer_tokens(units: Sequence[Unit]) -> int:
    return sum(len(branch) for unit in units for branch in unit.branches)
