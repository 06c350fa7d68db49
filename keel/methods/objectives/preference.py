"""Direct preference optimisation of pairs: one objective for every loss of two answers' scores, one for a batch's sorted leads, one with
the divergence of whole distributions. For single answers that are wanted or not KTO and BCO, on labels or on pairs. Sums of losses are in
``mixture``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.methods.math.preference import dpo, kl_point, kto, matched, midpoint, tdpo
from keel.methods.math.reduce import sequence_sums
from keel.methods.objectives.common import (
    Edges,
    ScoreUnits,
    WholeAnswers,
    branch_sums,
    divisor,
    edges,
    edges_of,
    lengths,
    to_metrics,
    total_weight,
)
from keel.types import Batch, Counts, LossOutput, Need, Outputs, PairTarget, Unit, UnpairedTarget

PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""(winner_E, loser_E, label_E, margin_E, beta) -> loss_E, of two answers' scores."""
Score = Literal["ratio", "logprob"]


@dataclass(frozen=True, slots=True)
class PairObjective(WholeAnswers):
    """What objectives of pairs share: what they need, how they count, which metrics they tell.

    Metrics, means over preferences: ``rewards/chosen`` and ``rewards/rejected`` (beta times the score that the loss compares),
    ``rewards/margins``, ``rewards/accuracies`` (ties left out), ``logps/chosen`` and ``logps/rejected`` (summed over tokens).
    """

    beta: float = 0.1

    @property
    def needs_reference(self) -> bool:
        """Units must carry the signal ``ref_logprobs``."""
        return True

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {"pairs": total_weight(units)}

    def output(self, pairs: Edges, losses_E: Tensor, score_R: Tensor, logps_R: Tensor, counts: Counts) -> LossOutput:
        """The weighted mean of ``losses_E`` and the metrics."""
        return LossOutput((pairs.weight_E * losses_E).sum() / divisor(counts, "pairs"), self.metrics(pairs, score_R, logps_R))

    def metrics(self, pairs: Edges, score_R: Tensor, logps_R: Tensor) -> dict[str, tuple[float, float]]:
        """What is told of the answers' scores."""
        winner_E, loser_E = score_R[pairs.winner_E].detach(), score_R[pairs.loser_E].detach()
        n = float(len(winner_E))
        lead_E = self.beta * (winner_E - loser_E)
        found = {
            "rewards/chosen": (self.beta * winner_E.sum(), n),
            "rewards/rejected": (self.beta * loser_E.sum(), n),
            "rewards/margins": (lead_E.sum(), n),
            "rewards/accuracies": pairs.agree(lead_E),
            "logps/chosen": (logps_R[pairs.winner_E].sum(), n),
            "logps/rejected": (logps_R[pairs.loser_E].sum(), n),
        }
        return to_metrics(found)


@dataclass(frozen=True, slots=True)
class PreferenceObjective(PairObjective):
    """Weighted mean over preferences of ``pair_loss`` of the answers' scores.

    The score is the log-ratio to the reference through ``divergence`` (signal ``ref_logprobs``), or with ``score="logprob"`` the
    log-probability; summed over an answer's tokens, or their mean with ``per_token``. ``relabel`` turns the data's label into the one that
    is trained on; the margin is ``gamma + margin_coef`` times the data's.
    """

    pair_loss: PairLoss = dpo
    score: Score = "ratio"
    per_token: bool = False
    relabel: Callable[[Tensor], Tensor] | None = None
    gamma: float = 0.0
    margin_coef: float = 0.0
    divergence: Callable[[Tensor], Tensor] | None = None  # None: the reverse KL, of which the log-ratio itself is the score

    @property
    def needs_reference(self) -> bool:
        return self.score == "ratio"

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        pairs = edges(batch.units, outputs.logprobs_S.device)
        logps_R = sequence_sums(outputs.logprobs_S, batch.branch_S, batch.n_branches)
        score_R = logps_R
        if self.score == "ratio":
            score_R = logps_R - sequence_sums(batch.signals["ref_logprobs"], batch.branch_S, batch.n_branches)
            score_R = score_R if self.divergence is None else self.divergence(score_R)
        if self.per_token:
            score_R = score_R / lengths(batch).to(score_R)
        winner_E, loser_E = score_R[pairs.winner_E], score_R[pairs.loser_E]
        margin_E = self.gamma + self.margin_coef * pairs.margin_E.to(winner_E)
        losses_E = self.pair_loss(winner_E, loser_E, _labels(pairs, self.relabel, winner_E), margin_E, self.beta)
        return self.output(pairs, losses_E, score_R, logps_R, counts)


@dataclass(frozen=True, slots=True)
class TransportObjective(PairObjective):
    """Alignment by optimal transport: ``dpo`` of the policy's lead of each pair against the reference's lead of the same rank among the
    pairs of the optimizer batch. Ranks are those under the weights before the step (``measured``), and each
    pair keeps its own, whatever the forward pass rounds; without them, as before the first step,
    where policy and reference are the same, each pair meets its own reference."""

    relabel: Callable[[Tensor], Tensor] | None = None
    matches: Mapping[str, Tensor] | None = None  # by unit id float [E]: the reference's lead of the rank of each of its pairs

    def counts(self, units: Sequence[Unit]) -> Counts:
        tie = next((u for u in units if any(e.label == 0.5 for e in edges_of(u))), None)
        if tie is not None:
            raise DataError(
                f"unit '{tie.unit_id}' holds a tie, which has no place in an order of leads",
                "leave ties out (data.ties=false), or take another loss",
            )
        return {"pairs": total_weight(units)}

    def measured(self, units: Sequence[Unit], logprobs: ScoreUnits) -> TransportObjective:
        """With the ranks of the leads of ``units`` under the present weights."""
        policy_R, reference_R = branch_sums(units, logprobs(units)), branch_sums(units)
        pairs = edges(units, policy_R.device)
        leads_K, references_K = (x_R[pairs.winner_E] - x_R[pairs.loser_E] for x_R in (policy_R, reference_R))
        found = matched(leads_K, references_K).split([len(edges_of(u)) for u in units])
        return replace(self, matches={u.unit_id: match_E for u, match_E in zip(units, found, strict=True)})

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        pairs = edges(batch.units, outputs.logprobs_S.device)
        logps_R = sequence_sums(outputs.logprobs_S, batch.branch_S, batch.n_branches)
        reference_R = sequence_sums(batch.signals["ref_logprobs"], batch.branch_S, batch.n_branches)
        lead_E = logps_R[pairs.winner_E] - logps_R[pairs.loser_E]
        match_E = reference_R[pairs.winner_E] - reference_R[pairs.loser_E]
        if self.matches is not None:
            match_E = torch.cat([self.matches[u.unit_id] for u in batch.units if edges_of(u)])
        losses_E = dpo(lead_E, match_E.to(lead_E), _labels(pairs, self.relabel, lead_E), torch.zeros_like(lead_E), self.beta)
        return self.output(pairs, losses_E, logps_R - reference_R, logps_R, counts)


@dataclass(frozen=True, slots=True)
class TokenPreferenceObjective(PairObjective):
    """Token-level DPO: ``tdpo`` with the KL of whole distributions at each position. One metric more: ``kl``, nats per token from the
    reference to the policy over all answers."""

    relabel: Callable[[Tensor], Tensor] | None = None
    alpha: float = 0.5

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs", "ref_kl"})

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        assert outputs.ref_kl_S is not None
        pairs = edges(batch.units, outputs.logprobs_S.device)
        logps_R = sequence_sums(outputs.logprobs_S, batch.branch_S, batch.n_branches)
        ratio_R = logps_R - sequence_sums(batch.signals["ref_logprobs"], batch.branch_S, batch.n_branches)
        kl_R = sequence_sums(outputs.ref_kl_S, batch.branch_S, batch.n_branches)
        winner_E, loser_E = ratio_R[pairs.winner_E], ratio_R[pairs.loser_E]
        label_E = _labels(pairs, self.relabel, winner_E)
        losses_E = tdpo(winner_E, loser_E, kl_R[pairs.winner_E], kl_R[pairs.loser_E], label_E, self.beta, self.alpha)
        output = self.output(pairs, losses_E, ratio_R, logps_R, counts)
        return replace(output, metrics={**output.metrics, **to_metrics({"kl": (outputs.ref_kl_S.sum(), float(batch.n_scored))})})


def _labels(pairs: Edges, relabel: Callable[[Tensor], Tensor] | None, like: Tensor) -> Tensor:
    label_E = pairs.label_E.to(like)
    return label_E if relabel is None else relabel(label_E)


AnswerLoss = Callable[[Tensor, Tensor, float, float, tuple[float, float]], Tensor]
"""(ratio_A, wanted_A, beta, point, weights) -> loss_A, of summed log-ratios to the reference."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a batch's labels say of single answers: indices into its branches R, one entry a label. A pair makes two: its winner is wanted
    with the probability that it is better, its loser with the other."""

    branch_A: Tensor  # int64 [A]
    wanted_A: Tensor  # float32 [A]
    weight_A: Tensor  # float32 [A]
    paired: bool  # all of them come from pairs, entry by entry: the winners, then the losers


def answers(units: Sequence[Unit], device: torch.device) -> Answers:
    """The labels of the units' answers. Raises DataError for units that have none, or where pairs and labels of answers are mixed."""
    kinds = {type(u.target) for u in units}
    if kinds == {PairTarget}:
        pairs = edges(units, device)
        branch_A = torch.cat([pairs.winner_E, pairs.loser_E])
        return Answers(branch_A, torch.cat([pairs.label_E, 1.0 - pairs.label_E]), pairs.weight_E.repeat(2), paired=True)
    wanted: list[float] = []
    weights: list[float] = []
    for unit in units:
        if not isinstance(unit.target, UnpairedTarget):
            raise DataError(
                f"unit '{unit.unit_id}' has no label that says whether its answer is wanted",
                "give labelled answers (prompt, completion, label) or pairs (prompt, chosen, rejected), not both at once",
            )
        wanted += [float(flag) for flag in unit.target.desirable]
        weights += unit.target.weights or [1.0] * len(unit.branches)
    wanted_A, weight_A = (torch.tensor(x, dtype=torch.float32, device=device) for x in (wanted, weights))
    return Answers(torch.arange(len(wanted), device=device), wanted_A, weight_A, paired=False)


@dataclass(frozen=True, slots=True)
class AnswerObjective(WholeAnswers):
    """Weighted mean over labelled answers of ``answer_loss``. Needs the signal ``ref_logprobs``. On pairs it is a mean over pairs: of the
    mean of both answers' losses with ``pair_mean``, else of their sum.

    ``point`` is taken from the whole optimizer batch before its first forward pass (``measured``) and is a constant of the step, however
    the batch is cut: ``"kl"`` is KTO's z0, from answers to other prompts (``meta["stranger"]`` of each unit); ``"midpoint"`` BCO's shift;
    ``"zero"`` none. Before the first step, where policy and reference are the same, each is exactly 0.

    Metrics: ``rewards/chosen`` and ``rewards/rejected`` (mean rewards of wanted and unwanted answers, beta times log-ratio), on pairs
    ``rewards/margins`` and ``rewards/accuracies``; ``logps/chosen``, ``logps/rejected``; ``kl_point`` (z0, an estimated KL, nats per
    answer) or ``reward_shift``.
    """

    answer_loss: AnswerLoss = kto
    beta: float = 0.1
    weights: tuple[float, float] = (1.0, 1.0)
    source: Literal["kl", "midpoint", "zero"] = "kl"
    pair_mean: bool = True
    point: float = 0.0

    @property
    def needs_reference(self) -> bool:
        """Units must carry the signal ``ref_logprobs``."""
        return True

    @property
    def needs_strangers(self) -> bool:
        """Units must carry answers to other prompts in ``meta["stranger"]``."""
        return self.source == "kl"

    @property
    def takes_answers(self) -> bool:
        """Learns from single answers with labels too."""
        return True

    def counts(self, units: Sequence[Unit]) -> Counts:
        found = answers(units, torch.device("cpu"))
        return {"answers": float(found.weight_A.double().sum()) / (2.0 if found.paired and not self.pair_mean else 1.0)}

    def measured(self, units: Sequence[Unit], logprobs: ScoreUnits) -> AnswerObjective:
        """With the point of ``units`` under the present weights."""
        if self.source == "zero":
            return self
        if self.source == "kl":
            strangers = [u.meta["stranger"] for u in units]
            return replace(self, point=kl_point(branch_sums(strangers, logprobs(strangers)) - branch_sums(strangers)))
        ratio_R = branch_sums(units, logprobs(units)) - branch_sums(units)
        found = answers(units, ratio_R.device)
        return replace(self, point=midpoint(ratio_R[found.branch_A], found.wanted_A.to(ratio_R)))

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        found = answers(batch.units, outputs.logprobs_S.device)
        logps_R = sequence_sums(outputs.logprobs_S, batch.branch_S, batch.n_branches)
        ratio_R = logps_R - sequence_sums(batch.signals["ref_logprobs"], batch.branch_S, batch.n_branches)
        ratio_A = ratio_R[found.branch_A]
        losses_A = self.answer_loss(ratio_A, found.wanted_A.to(ratio_A), self.beta, self.point, self.weights)
        loss = (found.weight_A * losses_A).sum() / divisor(counts, "answers")
        with torch.no_grad():
            return LossOutput(loss, self._metrics(found, self.beta * ratio_A, logps_R[found.branch_A], batch))

    def _metrics(self, found: Answers, reward_A: Tensor, logps_A: Tensor, batch: Batch) -> dict[str, tuple[float, float]]:
        n = float(len(batch.units))
        metrics: dict[str, tuple[Tensor, Tensor | float]] = {}
        if found.paired:
            pairs = edges(batch.units, reward_A.device)
            chosen_A = torch.arange(len(reward_A), device=reward_A.device) < len(reward_A) // 2
            lead_E = reward_A[chosen_A] - reward_A[~chosen_A]
            metrics |= {"rewards/margins": (lead_E.sum(), float(len(lead_E))), "rewards/accuracies": pairs.agree(lead_E)}
        else:
            chosen_A = found.wanted_A > 0.5
        for name, side_A in (("chosen", chosen_A), ("rejected", ~chosen_A)):
            metrics |= {f"rewards/{name}": (reward_A[side_A].sum(), side_A.sum()), f"logps/{name}": (logps_A[side_A].sum(), side_A.sum())}
        point = reward_A.new_tensor(self.point)
        if self.source == "kl":
            metrics["kl_point"] = (point * n, n)
        elif self.source == "midpoint":
            metrics["reward_shift"] = (self.beta * point * n, n)
        return to_metrics(metrics)
