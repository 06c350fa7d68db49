"""One model in this process, read only: log-probabilities, values, scores, losses without gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from keel.errors import ModelError
from keel.learner.config import BatchConfig
from keel.learner.packing import narrow, pack, plan_microbatches, plan_pieces, to_device
from keel.models.logprobs import Head, fused_token_loss, token_logprobs, token_logprobs_and_kl
from keel.models.model import Model
from keel.types import Batch, Counts, LossOutput, Objective, Outputs, StepReport, Unit

BranchTensors = list[tuple[Tensor, ...]]


EXTREMES: Mapping[str, Callable[[Sequence[float]], float]] = {"min": min, "max": max}  # how metrics of such a name come together
class MetricSums:
    """Metrics as sums and counts, so that how a batch was cut does not show; of those named ``.../min`` and ``.../max`` the least and the
    greatest."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.n_tokens = 0
        self.pairs: dict[str, tuple[float, float]] = {}

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        for name, (total, count) in metrics.items():
            before, seen = self.pairs.get(name, (0.0, 0.0))
            extreme = EXTREMES.get(name.rpartition("/")[2])
            if extreme is not None:
                self.pairs[name] = (extreme([before, float(total)]) if seen else float(total), 1.0)
            else:
                self.pairs[name] = (before + float(total), seen + float(count))

    def report(self) -> StepReport:
        means = {name: total / count for name, (total, count) in self.pairs.items() if count}
        return StepReport({"loss": self.loss, **means}, self.n_tokens)


class LocalInference:
    """Forward passes over units. ``temperature`` is that of the distribution sampled from: log-probabilities are of it.

    ``reference`` is a frozen model, for objectives that compare whole distributions with it; an adapted model without one is its own
    reference, adapters off.
    """

    def __init__(self, model: Model, batch: BatchConfig, temperature: float = 1.0) -> None:
        self.model, self.batch, self.temperature = model, batch, temperature
        self.reference: Model | None = None

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
        sums = MetricSums()
        counts = objective.counts(units)
        for part in plan_microbatches(units, self.batch.inference_tokens, objective.couples_branches):
            batch = pack(part)
            if batch.n_scored or "scores" in objective.needs:
                self._account(sums, batch, self._loss(batch, objective, counts))
        return sums.report()

    def _loss(self, batch: Batch, objective: Objective, counts: Counts) -> LossOutput:
        hidden_NH = self.model.hidden(batch)
        batch = to_device(batch, self.model.device)
        if objective.token_local and "logprobs" in objective.needs and "scores" not in objective.needs and torch.is_grad_enabled():
            return self._fused_loss(batch, hidden_NH, objective, counts)
        needs = objective.needs
        if "ref_kl" in needs:
            logprobs_S, ref_kl_S = self._logprobs_and_kl(batch, hidden_NH)
            return objective.loss(batch, Outputs(logprobs_S, ref_kl_S=ref_kl_S), counts)
        logprobs_S, entropy_S = self._logprobs(batch, hidden_NH, "entropy" in needs) if needs & {"logprobs", "entropy"} else (None, None)
        values_S = self._values(batch, hidden_NH) if "values" in needs else None
        scores_R = self._scores(batch, hidden_NH) if "scores" in needs else None
        return objective.loss(batch, Outputs(logprobs_S, entropy_S, values_S, scores_R), counts)

    def _fused_loss(self, batch: Batch, hidden_NH: Tensor, objective: Objective, counts: Counts) -> LossOutput:
        """The loss tile by tile, the gradient of the logits formed in the same pass."""
        sums = MetricSums()

        def tile(part: slice, logprobs_n: Tensor, entropy_n: Tensor | None, values_n: Tensor | None) -> Tensor:
            output = objective.loss(narrow(batch, part), Outputs(logprobs_n, entropy_n, values_n), counts)
            sums.add(output.metrics)
            return output.loss

        values_S = self._values(batch, hidden_NH) if "values" in objective.needs else None
        with self.model.compute():
            loss = fused_token_loss(hidden_NH[batch.source_S], self._head(), batch.target_S, tile, "entropy" in objective.needs, values_S)
        return LossOutput(loss, sums.pairs)

    def _account(self, sums: MetricSums, batch: Batch, output: LossOutput) -> None:
        sums.loss += float(output.loss.detach())
        sums.n_tokens += batch.tokens_N.shape[0]
        sums.add(output.metrics)

    def _head(self, model: Model | None = None) -> Head:
        model = model or self.model
        return Head(model.head_weight_VH, model.head_bias_V, model.transform, self.temperature)

    def _logprobs_and_kl(self, batch: Batch, hidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), self.model.as_reference() if self.reference is None else nullcontext(self.reference) as reference:
            ref_hidden_SH, ref_head = reference.hidden(batch)[batch.source_S], self._head(reference)
        with self.model.compute():
            return token_logprobs_and_kl(hidden_NH[batch.source_S], self._head(), batch.target_S, ref_hidden_SH, ref_head)

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
