"""One model in this process, read only: log-probabilities, values, scores, losses without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from keel.core.errors import ModelError
from keel.kernels.logprobs import FORWARD_KL, fused_token_loss, token_logprobs, token_logprobs_and_divergence
from keel.kernels.pooling import single, spans
from keel.kernels.tiles import Head
from keel.learner.config import BatchConfig
from keel.learner.packing import Piece, narrow, pack, plan_microbatches, plan_pieces, to_device, with_contrasts
from keel.models.heads import ScoreHead
from keel.models.model import Model
from keel.types import (
    Batch,
    BranchTensors,
    Comparing,
    Counts,
    Divergence,
    HeadScores,
    LossOutput,
    Objective,
    Outputs,
    StepReport,
    StepsTarget,
    Unit,
)

EXTREMES: Mapping[str, Callable[[Sequence[float]], float]] = {"min": min, "max": max}  # for metrics named .../min and .../max
REVERSE_KL = Divergence("reverse_kl")


class MetricSums:
    """Metrics as sums and counts, so that how a batch was cut does not show; of those named ``.../min`` and ``.../max`` the least and the
    greatest; of those named ``.../ess`` the sums of weights and of their squares, which make an effective sample size."""

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
        means = {name: (total**2 if name.endswith("/ess") else total) / count for name, (total, count) in self.pairs.items() if count}
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
        return self._per_token(units, lambda batch, hidden_NH, _: self._logprobs(batch, hidden_NH, False)[0])

    def values(self, units: Sequence[Unit]) -> BranchTensors:
        """The value head before each trained token, laid out like ``logprobs``."""
        return self._per_token(units, lambda batch, hidden_NH, _: self._values(batch, hidden_NH))

    def scores(self, units: Sequence[Unit]) -> list[Tensor]:
        """The score head's one score of each branch: float32 [G] per unit."""
        return [members_GM.mean(1) for members_GM, _ in self.judgements(units)]

    @torch.no_grad()
    def judgements(self, units: Sequence[Unit]) -> list[tuple[Tensor, Tensor]]:
        """Each ensemble member's one score of each branch, and the variance that it expects of the label: float32 [G, M] twice per
        unit, on the CPU. M is 1 without an ensemble."""
        if self.model.members:
            found = [(m.offset, LocalInference(m, self.batch).judgements(units)) for m in self.model.members]
            shifted = [[(scores_GM - offset, variance_GM) for scores_GM, variance_GM in of_units] for offset, of_units in found]
            return [(torch.cat([s for s, _ in each], 1), torch.cat([v for _, v in each], 1)) for each in zip(*shifted, strict=True)]
        members = self._score_head().spec.members
        out = [(torch.zeros(len(u.branches), members), torch.zeros(len(u.branches), members)) for u in units]
        for pieces in plan_pieces(units, self.batch.inference_tokens, False):
            batch = pack([p.unit for p in pieces])
            judged = self._judge(batch, self.model.hidden(batch))
            sizes = [len(p.unit.branches) for p in pieces]
            for piece, *found in zip(pieces, judged.members_RM.cpu().split(sizes), judged.variance_RM.cpu().split(sizes), strict=True):
                for whole, part in zip(out[piece.index], found, strict=True):
                    whole[piece.first : piece.first + len(part)] = part
        return out

    @torch.no_grad()
    def dimensions(self, units: Sequence[Unit]) -> list[Tensor]:
        """The mean over members of each dimension's score: float32 [G, D] per unit, on the CPU."""
        if self.model.members:
            each = zip(*(LocalInference(m, self.batch).dimensions(units) for m in self.model.members), strict=True)
            return [torch.stack(of_unit).mean(0) for of_unit in each]
        out: list[Tensor] = [torch.zeros(len(u.branches), len(self._score_head().spec.dimensions)) for u in units]
        for pieces in plan_pieces(units, self.batch.inference_tokens, False):
            batch = pack([p.unit for p in pieces])
            scores_RD = self._judge(batch, self.model.hidden(batch)).scores_RMD.mean(1).cpu()
            for piece, part in zip(pieces, scores_RD.split([len(p.unit.branches) for p in pieces]), strict=True):
                out[piece.index][piece.first : piece.first + len(part)] = part
        return out

    @torch.no_grad()
    def steps(self, units: Sequence[Unit]) -> list[tuple[Tensor, ...]]:
        """The score at the end of each step: per unit and branch float32 [steps], on the CPU. Units carry a StepsTarget."""
        if self.model.members:
            each = zip(*(LocalInference(m, self.batch).steps(units) for m in self.model.members), strict=True)
            return [tuple(torch.stack(b).mean(0) for b in zip(*of_unit, strict=True)) for of_unit in each]
        out: list[tuple[Tensor, ...]] = [()] * len(units)
        for pieces in plan_pieces(units, self.batch.inference_tokens, True):
            batch = pack([p.unit for p in pieces])
            judged = self._judge_steps(batch, self.model.hidden(batch))
            assert judged is not None, "units without steps were asked for the scores of steps"
            ends = [_steps_of(p.unit).ends for p in pieces]
            parts = iter(judged.scores_R.cpu().split([len(e) for of_unit in ends for e in of_unit]))
            for piece, of_unit in zip(pieces, ends, strict=True):
                out[piece.index] = tuple(next(parts) for _ in of_unit)
        return out

    @torch.no_grad()
    def _per_token(self, units: Sequence[Unit], scored: Callable[[Batch, Tensor, Sequence[Piece]], Tensor]) -> BranchTensors:
        out = [[torch.zeros(len(b)) for b in u.branches] for u in units]
        for pieces in plan_pieces(units, self.batch.inference_tokens, False):
            batch = pack([p.unit for p in pieces])
            if batch.n_scored == 0:
                continue
            branches = [(p.index, p.first + i, b) for p in pieces for i, b in enumerate(p.unit.branches)]
            values = scored(to_device(batch, self.model.device), self.model.hidden(batch), pieces).cpu()
            for (u, i, branch), value in zip(branches, values.split([int(b.trained_T.sum()) for _, _, b in branches]), strict=True):
                out[u][i][branch.trained_T] = value
        return [tuple(u) for u in out]

    def divergences(self, units: Sequence[Unit], others: Sequence[Unit]) -> BranchTensors:
        """``KL(here || there)`` of the whole distributions of each trained token, in nats: behind the prompts of ``units`` and behind those
        of ``others``, which have the same answers and prompts of the same lengths. Laid out like ``logprobs``."""

        def apart(batch: Batch, hidden_NH: Tensor, pieces: Sequence[Piece]) -> Tensor:
            there = pack([replace(p.unit, prompt=others[p.index].prompt) for p in pieces])
            assert torch.equal(there.source_S, batch.source_S.cpu()), "prompts of the same lengths"
            head, other_SH = self._head(), self.model.hidden(there)[batch.source_S]
            with self.model.compute():
                inputs = hidden_NH[batch.source_S], head, batch.target_S, other_SH, head
                return token_logprobs_and_divergence(*inputs, REVERSE_KL, support=batch.support).divergence_S

        return self._per_token(units, apart)

    def information(self, units: Sequence[Unit]) -> float:
        """How far the distributions of the trained tokens are from knowing nothing, in nats a token: the log of the number of tokens less
        the entropy, a mean. 0 without trained tokens."""
        most = math.log(len(self.model.head_weight_VH) - len(self.model.transform.banned))

        def known(batch: Batch, hidden_NH: Tensor, _: Sequence[Piece]) -> Tensor:
            entropy_S = self._logprobs(batch, hidden_NH, True)[1]
            assert entropy_S is not None
            return most - entropy_S

        rows = self._per_token(units, known)
        n = sum(int(b.trained_T.sum()) for u in units for b in u.branches)
        return math.fsum(float(t.double().sum()) for row in rows for t in row) / max(1, n)

    @torch.no_grad()
    def evaluate(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """The objective's loss and metrics on ``units``, without gradients and dropout."""
        sums = MetricSums()
        counts = objective.counts(units)
        for part in plan_microbatches(units, self.batch.inference_tokens, objective.couples_branches):
            batch = pack(with_contrasts(part))
            if batch.n_scored or "scores" in objective.needs:
                self._account(sums, batch, self._loss(batch, self.model.hidden(batch), objective, counts))
        return sums.report()

    def _loss(self, batch: Batch, hidden_NH: Tensor, objective: Objective, counts: Counts) -> LossOutput:
        batch = to_device(batch, self.model.device)
        if objective.token_local and "logprobs" in objective.needs and "scores" not in objective.needs and torch.is_grad_enabled():
            return self._fused_loss(batch, hidden_NH, objective, counts)
        needs = objective.needs
        if needs & {"ref_kl", "divergence"}:
            return objective.loss(batch, self._compared(batch, hidden_NH, objective), counts)
        logprobs_S, entropy_S = self._logprobs(batch, hidden_NH, "entropy" in needs) if needs & {"logprobs", "entropy"} else (None, None)
        values_S = self._values(batch, hidden_NH) if "values" in needs else None
        if "scores" not in needs:
            return objective.loss(batch, Outputs(logprobs_S, entropy_S, values_S), counts)
        judged = self._judge(batch, hidden_NH)
        steps = self._judge_steps(batch, hidden_NH)
        return objective.loss(batch, Outputs(logprobs_S, entropy_S, values_S, judged.scores_R, judged, steps), counts)

    def _fused_loss(self, batch: Batch, hidden_NH: Tensor, objective: Objective, counts: Counts) -> LossOutput:
        """The loss tile by tile, the gradient of the logits formed in the same pass."""
        sums = MetricSums()

        def tile(part: slice, logprobs_n: Tensor, entropy_n: Tensor | None, values_n: Tensor | None) -> Tensor:
            output = objective.loss(narrow(batch, part), Outputs(logprobs_n, entropy_n, values_n), counts)
            sums.add(output.metrics)
            return output.loss

        values_S = self._values(batch, hidden_NH) if "values" in objective.needs else None
        with self.model.compute():
            asked = "entropy" in objective.needs, values_S, batch.support
            loss = fused_token_loss(hidden_NH[batch.source_S], self._head(), batch.target_S, tile, *asked)
        return LossOutput(loss, sums.pairs)

    def _account(self, sums: MetricSums, batch: Batch, output: LossOutput) -> None:
        sums.loss += float(output.loss.detach())
        sums.n_tokens += batch.tokens_N.shape[0]
        sums.add(output.metrics)

    def _head(self, model: Model | None = None) -> Head:
        model = model or self.model
        return Head(model.head_weight_VH, model.head_bias_V, model.transform, self.temperature)

    def _compared(self, batch: Batch, hidden_NH: Tensor, objective: Objective) -> Outputs:
        """What an objective reads that compares whole distributions with the reference's."""
        by = objective.divergence if isinstance(objective, Comparing) else None
        head = self._head()
        with torch.no_grad(), self.model.as_reference() if self.reference is None else nullcontext(self.reference) as reference:
            ref_hidden_SH, ref_head = reference.hidden(batch)[batch.source_S], _over_the_tokens_of(head, self._head(reference))
            if reference is self.model and reference.start_rows:  # rows of its head that are trained are put back when this block ends
                ref_head = replace(ref_head, weight_VH=ref_head.weight_VH.clone())
        with self.model.compute():
            inputs = hidden_NH[batch.source_S], head, batch.target_S, ref_hidden_SH, ref_head
            asked = by or FORWARD_KL, "entropy" in objective.needs, batch.support
            found = token_logprobs_and_divergence(*inputs, *asked)
        outputs = Outputs(found.logprobs_S, found.entropy_S, ref_logprobs_S=found.ref_logprobs_S)
        return replace(outputs, ref_kl_S=found.divergence_S) if by is None else replace(outputs, divergence_S=found.divergence_S)

    def _logprobs(self, batch: Batch, hidden_NH: Tensor, want_entropy: bool) -> tuple[Tensor, Tensor | None]:
        with self.model.compute():
            return token_logprobs(hidden_NH[batch.source_S], self._head(), batch.target_S, want_entropy, batch.support)

    def _values(self, batch: Batch, hidden_NH: Tensor) -> Tensor:
        if self.model.value_head is None:
            raise ModelError("values were asked for, but the model has no value head", "load the critic with heads={'value'}")
        return self.model.value_head(hidden_NH[batch.source_S].float())[:, 0]

    def _score_head(self) -> ScoreHead:
        if self.model.score_head is None:
            raise ModelError("scores were asked for, but the model has no score head", "load the reward model with heads={'score'}")
        return self.model.score_head

    def _judge(self, batch: Batch, hidden_NH: Tensor) -> HeadScores:
        return self._score_head()(hidden_NH, spans(batch, hidden_NH.device))

    def _judge_steps(self, batch: Batch, hidden_NH: Tensor) -> HeadScores | None:
        """The score head at the end of each step, in the order of branches and steps; None without steps."""
        if not any(isinstance(u.target, StepsTarget) for u in batch.units):
            return None
        at: list[int] = []
        start = 0
        for unit, group in zip(batch.units, batch.groups, strict=True):
            start += group.prompt
            ends = unit.target.ends if isinstance(unit.target, StepsTarget) else ((),) * len(group.branches)
            for length, of_branch in zip(group.branches, ends, strict=True):
                at += [start + end for end in of_branch]
                start += length
        return self._score_head()(hidden_NH, single(torch.tensor(at, device=hidden_NH.device)))


def _over_the_tokens_of(own: Head, other: Head) -> Head:
    """``other`` over the tokens of ``own``: models of one tokenizer may pad their heads to different sizes and ban different tokens."""
    size = len(own.weight_VH)
    bias_V = None if other.bias_V is None else other.bias_V[:size]
    return replace(other, weight_VH=other.weight_VH[:size], bias_V=bias_V, transform=replace(other.transform, banned=own.transform.banned))


def _steps_of(unit: Unit) -> StepsTarget:
    assert isinstance(unit.target, StepsTarget), f"unit '{unit.unit_id}' has no steps"
    return unit.target
