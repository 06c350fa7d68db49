"""Direct preference optimisation of single answers that are wanted or not: KTO and BCO, on labels of answers or on pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from keel.errors import DataError
from keel.losses.answers import kl_point, kto, midpoint
from keel.losses.reduce import sequence_sums
from keel.objectives.common import ScoreUnits, WholeAnswers, branch_sums, divisor, edges, to_metrics
from keel.types import Batch, Counts, LossOutput, Outputs, PairTarget, Unit, UnpairedTarget

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
