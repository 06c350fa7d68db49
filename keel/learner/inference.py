"""One model in this process, read only: log-probabilities, values, scores, losses without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from keel.core.errors import ModelError
from keel.kernels.logprobs import FORWARD_KL, fused_token_loss, token_logprobs, token_logprobs_and_divergence
from keel.kernels.pooling import single, spans
from keel.kernels.tiles import Head
from keel.learner.config import BatchConfig
from keel.learner.packing import Piece, narrow, pack, plan_microbatches, plan_pieces, to_device, with_contrasts
from keel.learner.team import Alone, Team
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
T = TypeVar("T")


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

    @staticmethod
    def of(parts: Sequence[MetricSums]) -> MetricSums:
        """Those of all parts."""
        whole = MetricSums()
        for part in parts:
            whole.loss += part.loss
            whole.n_tokens += part.n_tokens
            whole.add(part.pairs)
        return whole

    def report(self) -> StepReport:
        means = {name: (total**2 if name.endswith("/ess") else total) / count for name, (total, count) in self.pairs.items() if count}
        return StepReport({"loss": self.loss, **means}, self.n_tokens)


class LocalInference:
    """Forward passes over units. ``temperature`` is that of the distribution sampled from: log-probabilities are of it.

    ``reference`` is a frozen model, for objectives that compare whole distributions with it; an adapted model without one is its own
    reference, adapters off.
    """

    def __init__(self, model: Model, batch: BatchConfig, temperature: float = 1.0, team: Team | None = None) -> None:
        self.model, self.batch, self.temperature = model, batch, temperature
        self.reference: Model | None = None
        self.team: Team = team or Alone()

    def whole(self) -> LocalInference:
        """The model in this process with all its weights as they are now, for what reads it beside training."""
        return self

    def logprobs(self, units: Sequence[Unit]) -> BranchTensors:
        """Log-probabilities per unit and branch: float32 [T], 0 at tokens that are not trained. No gradient, no dropout."""
        return self._per_token(units, lambda batch, hidden_NH, _: self._logprobs(batch, hidden_NH, False)[0])

    def values(self, units: Sequence[Unit]) -> BranchTensors:
        """The value head before each trained token, laid out like ``logprobs``."""
        return self._per_token(units, lambda batch, hidden_NH, _: self._values(batch, hidden_NH))

    def scores(self, units: Sequence[Unit]) -> list[Tensor]:
        """The score head's one score of each branch: float32 [G] per unit."""
        return [members_GM.mean(1) for members_GM, _ in self.judgements(units)]

    def judgements(self, units: Sequence[Unit]) -> list[tuple[Tensor, Tensor]]:
        """Each ensemble member's one score of each branch, and the variance that it expects of the label: float32 [G, M] twice per
        unit, on the CPU. M is 1 without an ensemble."""
        if self.model.members:
            found = [(m.offset, LocalInference(m, self.batch).judgements(units)) for m in self.model.members]
            shifted = [[(scores_GM - offset, variance_GM) for scores_GM, variance_GM in of_units] for offset, of_units in found]
            return [(torch.cat([s for s, _ in each], 1), torch.cat([v for _, v in each], 1)) for each in zip(*shifted, strict=True)]
        members = self._score_head().spec.members
        out = [(torch.zeros(len(u.branches), members), torch.zeros(len(u.branches), members)) for u in units]

        def judged(batch: Batch, hidden_NH: Tensor, pieces: Sequence[Piece]) -> Iterable[tuple[Tensor, ...]]:
            found, sizes = self._judge(batch, hidden_NH), [len(p.unit.branches) for p in pieces]
            return zip(found.members_RM.cpu().split(sizes), found.variance_RM.cpu().split(sizes), strict=True)

        for index, first, found in self._looked_at(units, False, judged):
            for whole, part in zip(out[index], found, strict=True):
                whole[first : first + len(part)] = part
        return out

    def dimensions(self, units: Sequence[Unit]) -> list[Tensor]:
        """The mean over members of each dimension's score: float32 [G, D] per unit, on the CPU."""
        if self.model.members:
            each = zip(*(LocalInference(m, self.batch).dimensions(units) for m in self.model.members), strict=True)
            return [torch.stack(of_unit).mean(0) for of_unit in each]
        out: list[Tensor] = [torch.zeros(len(u.branches), len(self._score_head().spec.dimensions)) for u in units]

        def judged(batch: Batch, hidden_NH: Tensor, pieces: Sequence[Piece]) -> Iterable[Tensor]:
            return self._judge(batch, hidden_NH).scores_RMD.mean(1).cpu().split([len(p.unit.branches) for p in pieces])

        for index, first, part in self._looked_at(units, False, judged):
            out[index][first : first + len(part)] = part
        return out

    def steps(self, units: Sequence[Unit]) -> list[tuple[Tensor, ...]]:
        """The score at the end of each step: per unit and branch float32 [steps], on the CPU. Units carry a StepsTarget."""
        if self.model.members:
            each = zip(*(LocalInference(m, self.batch).steps(units) for m in self.model.members), strict=True)
            return [tuple(torch.stack(b).mean(0) for b in zip(*of_unit, strict=True)) for of_unit in each]
        out: list[tuple[Tensor, ...]] = [()] * len(units)

        def judged(batch: Batch, hidden_NH: Tensor, pieces: Sequence[Piece]) -> Iterable[tuple[Tensor, ...]]:
            found = self._judge_steps(batch, hidden_NH)
            assert found is not None, "units without steps were asked for the scores of steps"
            ends = [_steps_of(p.unit).ends for p in pieces]
            parts = iter(found.scores_R.cpu().split([len(e) for of_unit in ends for e in of_unit]))
            return [tuple(next(parts) for _ in of_unit) for of_unit in ends]

        for index, _, found in self._looked_at(units, True, judged):
            out[index] = found
        return out

    @torch.no_grad()
    def _looked_at(
        self, units: Sequence[Unit], whole: bool, look: Callable[[Batch, Tensor, Sequence[Piece]], Iterable[T]], scored: bool = False
    ) -> list[tuple[int, int, T]]:
        """What ``look`` says of each piece of the units, in passes without gradients: (unit, its first branch there, what). The team's
        passes are shared out. With ``scored`` those without a trained token are left out."""
        planned = [p for p in plan_pieces(units, self.batch.inference_tokens, whole) if not scored or any(_has_scored(x.unit) for x in p)]
        found: list[tuple[int, int, T]] = []
        for pieces in self.team.deal(planned, [sum(p.unit.n_tokens for p in pieces) for pieces in planned]):
            if pieces is None:
                self.model.hidden(pack(smallest(units)))
                continue
            batch = pack([p.unit for p in pieces])
            said = look(batch, self.model.hidden(batch), pieces)
            found += [(p.index, p.first, of_piece) for p, of_piece in zip(pieces, said, strict=True)]
        self.team.rest()
        return self.team.gather(found)

    def _per_token(self, units: Sequence[Unit], scored: Callable[[Batch, Tensor, Sequence[Piece]], Tensor]) -> BranchTensors:
        out = [[torch.zeros(len(b)) for b in u.branches] for u in units]

        def look(batch: Batch, hidden_NH: Tensor, pieces: Sequence[Piece]) -> Iterable[tuple[Tensor, ...]]:
            values = scored(to_device(batch, self.model.device), hidden_NH, pieces).cpu()
            sizes = [[int(b.trained_T.sum()) for b in p.unit.branches] for p in pieces]
            parts = iter(values.split([n for of_piece in sizes for n in of_piece]))
            return [tuple(next(parts) for _ in of_piece) for of_piece in sizes]

        for u, first, values in self._looked_at(units, False, look, scored=True):
            for i, value in enumerate(values, first):
                out[u][i][units[u].branches[i].trained_T] = value
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

    def evaluate(self, units: Sequence[Unit], objective: Objective) -> StepReport:
        """The objective's loss and metrics on ``units``, without gradients and dropout."""
        return self.losses(units, objective, objective.counts(units)).report()

    @torch.no_grad()
    def losses(self, units: Sequence[Unit], objective: Objective, counts: Counts) -> MetricSums:
        """What ``evaluate`` reports, as sums, which may be added up with those of other units; ``counts`` are those of all."""
        sums = MetricSums()
        for item in self._dealt(plan_microbatches(units, self.batch.inference_tokens, objective.couples_branches), objective):
            if item is None:
                self._keep_step(units, objective)
                continue
            batch = pack(with_contrasts(item[1]))
            self._account(sums, batch, self._loss(batch, self.model.hidden(batch), objective, counts))
        self.team.rest()
        return self._joined(sums)

    def _dealt(self, planned: Sequence[Sequence[Unit]], objective: Objective) -> list[tuple[int, Sequence[Unit]] | None]:
        """This process's micro-batches with their places among all; those with nothing to look at are left out. None: one for nothing."""
        kept = [(i, part) for i, part in enumerate(planned) if "scores" in objective.needs or any(map(_has_scored, with_contrasts(part)))]
        return self.team.deal(kept, [sum(u.n_tokens for u in part) for _, part in kept])

    def _keep_step(self, units: Sequence[Unit], objective: Objective) -> Tensor:
        """A pass through all layers that a micro-batch goes through. Returns its hidden states [N, H]."""
        batch = pack(smallest(units))
        hidden_NH = self.model.hidden(batch)
        if objective.needs & {"ref_kl", "divergence"}:  # as ``_compared``: behind the model's own
            with torch.no_grad(), self._reference_or_itself() as reference:
                reference.hidden(batch)
        return hidden_NH

    def _joined(self, sums: MetricSums) -> MetricSums:
        """Those of all ranks."""
        return sums if self.team.world == 1 else MetricSums.of(self.team.gather([sums]))

    def _reference_or_itself(self) -> AbstractContextManager[Model]:
        return self.model.as_reference() if self.reference is None else nullcontext(self.reference)

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
        with torch.no_grad(), self._reference_or_itself() as reference:
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


def smallest(units: Sequence[Unit]) -> list[Unit]:
    """The shortest prompt with its first branch, for a pass that counts for nothing."""
    unit = min(units, key=lambda u: len(u.prompt) + len(u.branches[0]))
    return [replace(unit, branches=unit.branches[:1], target=None, contrast=None)]


def _has_scored(unit: Unit) -> bool:
    """Is there a trained token? Units that are not right count: whoever packs them says what is wrong."""
    return not len(unit.prompt) or any(not len(b) or bool(b.trained_T.any()) for b in unit.branches)
