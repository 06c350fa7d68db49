"""The learner in this process: log-probabilities, gradients and optimizer steps of one model."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keel.errors import DivergedError, ModelError
from keel.hashing import stable_hash
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.optim import learning_rate, make_optimizer
from keel.learner.packing import narrow, pack, plan_microbatches, plan_pieces, to_device
from keel.models.logprobs import Head, fused_token_loss, token_logprobs
from keel.models.model import Model
from keel.types import Batch, Counts, LossOutput, Objective, Outputs, StepReport, Unit

log = logging.getLogger("keel")
MAX_SKIPS = 3  # non-finite steps in a row that end a run

BranchTensors = list[tuple[Tensor, ...]]


class _Sums:
    """Metrics as sums and counts, so that how a batch was cut does not show."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.n_tokens = 0
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, float] = defaultdict(float)

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        for name, (total, count) in metrics.items():
            self._sums[name] += float(total)
            self._counts[name] += float(count)

    def report(self) -> StepReport:
        means = {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}
        return StepReport({"loss": self.loss, **means}, self.n_tokens)


class LocalLearner:
    """One model with its optimizer. ``temperature`` is that of the distribution sampled from: log-probabilities are of it."""

    def __init__(
        self, model: Model, config: OptimConfig, batch: BatchConfig, total_steps: int, seed: int, temperature: float = 1.0
    ) -> None:
        self.model, self.config, self.batch = model, config, batch
        self.total_steps, self.seed, self.temperature = total_steps, seed, temperature
        self._trained = model.trainable()
        if not self._trained:
            raise ModelError("nothing to train: every parameter of the model is frozen")
        embeddings = {id(model.module.get_input_embeddings().weight), id(model.head_weight_VH)}
        self._optimizer = make_optimizer(self._trained, embeddings, config)
        self._peak = config.lr * (config.lora_lr_factor if model.peft_model is not None else 1.0)
        self._step = 0  # optimizer steps tried, skipped ones included: what the schedule and the seeds count
        self._skips = 0  # non-finite steps in a row
        self._passes = 0  # micro-batches since the last step

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self._step, self.total_steps, self.config, self._peak)

    # ------------------------------------------------------------------------------------------------------------ inference

    def logprobs(self, units: Sequence[Unit]) -> BranchTensors:
        """Log-probabilities per unit and branch: float32 [T], 0 at tokens that are not trained. No gradient, no dropout."""

        def scored(batch: Batch, hidden_NH: Tensor) -> Tensor:
            return self._logprobs(batch, hidden_NH, False)[0]

        return self._per_token(units, scored)

    def values(self, units: Sequence[Unit]) -> BranchTensors:
        """The value head before each trained token, laid out like ``logprobs``."""
        return self._per_token(units, lambda batch, hidden_NH: self._values(batch, hidden_NH))

    @torch.no_grad()
    def scores(self, units: Sequence[Unit]) -> list[Tensor]:
        """The score head at each branch's last token: float32 [G] per unit."""
        out = [torch.zeros(len(u.branches)) for u in units]
        for pieces in plan_pieces(units, self.batch.inference_tokens, False):
            batch = pack([p.unit for p in pieces])
            scores = iter(self._scores(batch, self.model.hidden(batch)).cpu().split([len(p.unit.branches) for p in pieces]))
            for piece in pieces:
                out[piece.index][piece.first : piece.first + len(piece.unit.branches)] = next(scores)
        return out

    @torch.no_grad()
    def _per_token(self, units: Sequence[Unit], scored: Callable[[Batch, Tensor], Tensor]) -> BranchTensors:
        out = [[torch.zeros(len(b)) for b in u.branches] for u in units]
        for pieces in plan_pieces(units, self.batch.inference_tokens, False):
            batch = pack([p.unit for p in pieces])
            if batch.n_scored == 0:
                continue
            branches = [(p.index, p.first + i, b) for p in pieces for i, b in enumerate(p.unit.branches)]
            values = scored(to_device(batch, self.model.device), self.model.hidden(batch)).cpu()
            for (u, i, branch), value in zip(branches, values.split([int(b.trained_T.sum()) for _, _, b in branches]), strict=True):
                out[u][i][branch.trained_T] = value
        return [tuple(u) for u in out]

    @torch.no_grad()
    def evaluate(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """The objective's loss and metrics on ``units``, without gradients and dropout."""
        sums = _Sums()
        counts = objective.counts(units)
        for part in plan_microbatches(units, self.batch.inference_tokens, objective.couples_branches):
            batch = pack(part)
            if batch.n_scored or "scores" in objective.needs:
                self._account(sums, batch, self._loss(batch, objective, counts))
        return sums.report()

    # ------------------------------------------------------------------------------------------------------------- training

    def forward_backward(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """Add the gradient of ``objective`` over ``units`` to what is accumulated. Counts are taken over all units before the first
        forward, so the result does not depend on how they are cut into micro-batches."""
        sums = _Sums()
        counts = objective.counts(units)
        for part in plan_microbatches(units, self.batch.microbatch_tokens, objective.couples_branches):
            batch = pack(part)
            if batch.n_scored or "scores" in objective.needs:
                with self._dropout():
                    output = self._loss(batch, objective, counts)
                    if output.loss.requires_grad:
                        output.loss.backward()
                self._account(sums, batch, output)
            self._passes += 1
        return sums.report()

    def step(self) -> StepReport:
        """Clip, update, zero the gradients. A step whose gradients are not finite changes nothing and is counted; three in a row raise
        DivergedError. Metrics: ``grad_norm`` (before clipping), ``lr``, ``skipped_steps`` (1 when skipped)."""
        lr = self.lr
        parameters = [p for _, p in self._trained]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        finite = bool(torch.isfinite(norm))
        if finite:
            if self.config.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._skips = 0 if finite else self._skips + 1
        self._step += 1
        self._passes = 0
        if not finite:
            log.warning("step %d: the gradient is not finite, the step is skipped (%d in a row)", self._step, self._skips)
        if self._skips >= MAX_SKIPS:
            raise DivergedError(
                f"{MAX_SKIPS} steps in a row had gradients that are not finite", "lower the learning rate, or look at the data"
            )
        return StepReport({"grad_norm": float(norm), "lr": lr, "skipped_steps": float(not finite)}, 0, skipped=not finite)

    def _loss(self, batch: Batch, objective: Objective, counts: Counts) -> LossOutput:
        hidden_NH = self.model.hidden(batch)
        batch = to_device(batch, self.model.device)
        if objective.token_local and "logprobs" in objective.needs and "scores" not in objective.needs and torch.is_grad_enabled():
            return self._fused_loss(batch, hidden_NH, objective, counts)
        needs = objective.needs
        logprobs_S, entropy_S = self._logprobs(batch, hidden_NH, "entropy" in needs) if needs & {"logprobs", "entropy"} else (None, None)
        values_S = self._values(batch, hidden_NH) if "values" in needs else None
        scores_R = self._scores(batch, hidden_NH) if "scores" in needs else None
        return objective.loss(batch, Outputs(logprobs_S, entropy_S, values_S, scores_R), counts)

    def _fused_loss(self, batch: Batch, hidden_NH: Tensor, objective: Objective, counts: Counts) -> LossOutput:
        """The loss tile by tile, the gradient of the logits formed in the same pass."""
        sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

        def tile(part: slice, logprobs_n: Tensor, entropy_n: Tensor | None, values_n: Tensor | None) -> Tensor:
            output = objective.loss(narrow(batch, part), Outputs(logprobs_n, entropy_n, values_n), counts)
            for name, (total, count) in output.metrics.items():
                sums[name][0] += float(total)
                sums[name][1] += float(count)
            return output.loss

        values_S = self._values(batch, hidden_NH) if "values" in objective.needs else None
        with self.model.compute():
            loss = fused_token_loss(hidden_NH[batch.source_S], self._head(), batch.target_S, tile, "entropy" in objective.needs, values_S)
        return LossOutput(loss, {name: (total, count) for name, (total, count) in sums.items()})

    def _account(self, sums: _Sums, batch: Batch, output: LossOutput) -> None:
        sums.loss += float(output.loss.detach())
        sums.n_tokens += batch.tokens_N.shape[0]
        sums.add(output.metrics)

    # ------------------------------------------------------------------------------------------------------------------ parts

    def _head(self) -> Head:
        return Head(self.model.head_weight_VH, self.model.head_bias_V, self.model.transform, self.temperature)

    def _logprobs(self, batch: Batch, hidden_NH: Tensor, want_entropy: bool) -> tuple[Tensor, Tensor | None]:
        head = self._head()
        with self.model.compute():
            return token_logprobs(
                hidden_NH[batch.source_S], head.weight_VH, head.bias_V, batch.target_S, head.transform, head.temperature, want_entropy
            )

    def _values(self, batch: Batch, hidden_NH: Tensor) -> Tensor:
        if self.model.value_head is None:
            raise ModelError("values were asked for, but the model has no value head", "load the critic with heads={'value'}")
        return self.model.value_head(hidden_NH[batch.source_S].float())[:, 0]

    def _scores(self, batch: Batch, hidden_NH: Tensor) -> Tensor:
        if self.model.score_head is None:
            raise ModelError("scores were asked for, but the model has no score head", "load the reward model with heads={'score'}")
        return self.model.score_head(hidden_NH[batch.last_R].float())[:, 0]

    @contextlib.contextmanager
    def _dropout(self) -> Iterator[None]:
        """The adapters' dropout, drawn from (seed, step, micro-batch) alone."""
        if self.model.peft_model is None or not self.model.has_lora_dropout:
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
        return tensors, {"step": self._step, "skips": self._skips, "optim": scalars}

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
