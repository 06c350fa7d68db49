"""Training of reward models: any kind of label, one term a kind, each a mean over its own labels of the whole optimizer batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.methods.math import reward
from keel.methods.math import reward as ratings
from keel.methods.math.preference import smoothed
from keel.methods.objectives.common import WholeAnswers, edges, to_metrics, total_weight
from keel.types import (
    Batch,
    Counts,
    HeadScores,
    LossOutput,
    Need,
    Outputs,
    PairTarget,
    RankingTarget,
    RatingTarget,
    StepsTarget,
    Unit,
)

PairLoss = Literal["bradley_terry", "hinge", "davidson", "rao_kupper"]
Metrics = dict[str, tuple[Tensor, Tensor | float]]
BOOTSTRAP = "keel/bootstrap"  # in a unit's meta: how often each member of an ensemble sees it
KINDS = ("pairs", "rankings", "ratings", "steps")


@dataclass(frozen=True, slots=True)
class RewardObjective(WholeAnswers):
    """The sum over kinds of labels of the weighted mean of their losses; of an ensemble, the mean over its members.

    ``pairs``: the loss of preferences; ``margin``: the lead asked for per unit of the data's margin; ``least_margin``: the least lead asked
    for (hinge); ``centring``: coefficient of a pair's squared sum of scores; ``smoothing``: share of labels taken to be flipped;
    ``self_trust``: share of a label that is the model's own view (weak-to-strong); ``weights`` of the
    dimensions in the one score; ``units``: (mean, standard deviation) of ratings by dimension, which scores are in; ``levels``: the ratings
    there are, in these units. Rankings are Plackett-Luce's, ratings what the head's output says.

    Metrics: ``accuracy`` over preferences that are no ties (of pairs, rankings, ratings of one prompt, steps), ``margin`` (score of the
    better answer minus the other's), ``mean_reward`` over answers, ``std/members`` (of the members' scores), ``loss/<kind>`` where there
    are several kinds.
    """

    centring: float = 0.0
    margin: float = 0.0
    pairs: PairLoss = "bradley_terry"
    least_margin: float = 0.0
    smoothing: float = 0.0
    self_trust: float = 0.0
    dimensions: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    units: tuple[tuple[float, float], ...] = ()
    levels: tuple[float, ...] = ()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"scores"})

    def counts(self, units: Sequence[Unit]) -> Counts:
        of = by_kind(units)
        return {
            "pairs": total_weight([units[i] for i, _ in of["pairs"]]),
            "rankings": float(len(of["rankings"])),
            "ratings": float(sum(len(s) for i, _ in of["ratings"] for s in _ratings(units[i]).scores)),
            "steps": float(sum(len(labels) for i, _ in of["steps"] for labels in _steps(units[i]).labels)),
        }

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.scores_R is not None
        assert any(counts[kind] for kind in KINDS), "the optimizer batch has no label to train on"
        judged = outputs.judgement or HeadScores(outputs.scores_R[:, None, None], torch.ones(1, device=outputs.scores_R.device))
        of = by_kind(batch.units)
        weights_UM = _bootstrap(batch.units, judged.scores_RMD.shape[1]).to(outputs.scores_R.device)
        losses: dict[str, Tensor] = {}
        metrics: Metrics = {"mean_reward": (outputs.scores_R.detach().sum(), float(batch.n_branches))}
        if of["pairs"]:
            losses["pairs"] = self._pairs(batch, judged, weights_UM, metrics)
        if of["rankings"]:
            losses["rankings"] = self._rankings(batch, judged, weights_UM, of["rankings"])
        if of["ratings"]:
            losses["ratings"] = self._ratings(batch, judged, weights_UM, of["ratings"])
        if of["steps"]:
            assert outputs.steps is not None
            losses["steps"] = _step_losses(batch, outputs.steps, weights_UM, of["steps"], metrics)
        self._orders(batch, of, judged.scores_R.detach(), metrics)
        if judged.scores_RMD.shape[1] > 1:
            metrics["std/members"] = (judged.members_RM.detach().std(1, correction=0).sum(), float(batch.n_branches))
        if sum(counts[kind] > 0 for kind in KINDS) > 1:
            metrics |= {f"loss/{kind}": (loss, counts[kind]) for kind, loss in losses.items()}
        total = sum((loss / counts[kind] for kind, loss in losses.items()), judged.scores_RMD.sum() * 0.0)
        return LossOutput(total, to_metrics(metrics))

    def _pairs(self, batch: Batch, judged: HeadScores, weights_UM: Tensor, metrics: Metrics) -> Tensor:
        """The weighted sum over preferences, the mean over members."""
        pairs = edges(
            [u if isinstance(u.target, PairTarget) else replace(u, target=PairTarget(())) for u in batch.units], weights_UM.device
        )
        unit_E = batch.unit_R.to(weights_UM.device)[pairs.winner_E]
        total = judged.scores_RMD.sum() * 0.0
        members_RM, variance_RM = judged.members_RM, judged.variance_RM
        members = members_RM.shape[1]
        for m in range(members):
            winner_E, loser_E = members_RM[pairs.winner_E, m], members_RM[pairs.loser_E, m]
            lead_E = reward.uncertain(winner_E - loser_E, variance_RM[pairs.winner_E, m] + variance_RM[pairs.loser_E, m])
            label_E = smoothed(reward.self_trusting(pairs.label_E, lead_E, self.self_trust), self.smoothing)
            margin_E = (self.margin * pairs.margin_E).clamp(min=self.least_margin)
            log_weight = judged.tie_M[m] if judged.tie_M is not None else lead_E.new_full((), -torch.inf)
            losses_E = self._pair_loss(lead_E, label_E, margin_E, (1.0 - self.self_trust) * pairs.tie_E, log_weight)
            if self.centring:
                losses_E = losses_E + self.centring * reward.centring(winner_E, loser_E)
            total = total + (weights_UM[unit_E, m] * pairs.weight_E * losses_E).sum() / members
        lead_E = judged.scores_R[pairs.winner_E] - judged.scores_R[pairs.loser_E]
        metrics["accuracy"] = pairs.agree(lead_E.detach())
        metrics["margin"] = (lead_E.detach().sum(), float(len(lead_E)))
        return total

    def _pair_loss(self, lead_E: Tensor, label_E: Tensor, margin_E: Tensor, tie_E: Tensor, log_weight: Tensor) -> Tensor:
        zero_E = torch.zeros_like(lead_E)
        match self.pairs:
            case "bradley_terry":
                return reward.bradley_terry(lead_E, zero_E, label_E, margin_E)
            case "hinge":
                return reward.hinge(lead_E, zero_E, label_E, margin_E)
            case "davidson" | "rao_kupper":
                loss = reward.davidson if self.pairs == "davidson" else reward.rao_kupper
                return loss(lead_E, zero_E, label_E, tie_E, log_weight.expand_as(lead_E))

    def _rankings(self, batch: Batch, judged: HeadScores, weights_UM: Tensor, of: Sequence[tuple[int, slice]]) -> Tensor:
        members_RM = judged.members_RM
        total = judged.scores_RMD.sum() * 0.0
        for u, part in of:
            ranks_K = torch.tensor(_ranking(batch.units[u]).ranks, dtype=members_RM.dtype, device=members_RM.device)
            losses_M = torch.stack([reward.plackett_luce(members_RM[part, m], ranks_K) for m in range(members_RM.shape[1])])
            total = total + (weights_UM[u] * losses_M).mean()
        return total

    def _ratings(self, batch: Batch, judged: HeadScores, weights_UM: Tensor, of: Sequence[tuple[int, slice]]) -> Tensor:
        """The sum over single ratings (answer and dimension), the mean over members."""
        found = [
            (part.start + k, u, self.dimensions.index(name), value)
            for u, part in of
            for k, scores in enumerate(_ratings(batch.units[u]).scores)
            for name, value in scores.items()
        ]
        device, members = judged.scores_RMD.device, judged.scores_RMD.shape[1]
        row_N, unit_N, dim_N = (torch.tensor([f[i] for f in found], device=device) for i in range(3))
        rating_N = torch.tensor([(value - self.units[d][0]) / self.units[d][1] for _, _, d, value in found], device=device)
        total = judged.scores_RMD.sum() * 0.0
        for m in range(members):
            losses_N = self._rating_losses(judged, m, row_N, dim_N, rating_N)
            total = total + (weights_UM[unit_N, m] * losses_N).sum() / members
        return total

    def _rating_losses(self, judged: HeadScores, m: int, row_N: Tensor, dim_N: Tensor, rating_N: Tensor) -> Tensor:
        """Losses of member ``m``, by what the head gives: levels, a mean with a variance, or a number."""
        score_N = judged.scores_RMD[row_N, m, dim_N]
        if judged.levels_RMDK is not None:
            levels_K = torch.tensor(self.levels, device=rating_N.device)
            nearest_N = (rating_N[:, None] - levels_K[None, :]).abs().argmin(1)
            return ratings.level(judged.levels_RMDK[row_N, m, dim_N], nearest_N)
        if judged.variance_RMD is not None:
            return ratings.gaussian(score_N, judged.variance_RMD[row_N, m, dim_N], rating_N)
        return ratings.squared_error(score_N, rating_N)

    @property
    def scales(self) -> dict[str, tuple[float, float, float]]:
        """(weight, mean, standard deviation) by dimension."""
        return {name: (w, *unit) for name, w, unit in zip(self.dimensions, self.weights, self.units)}

    def _orders(self, batch: Batch, of: Mapping[str, Sequence[tuple[int, slice]]], scores_R: Tensor, metrics: Metrics) -> None:
        """Accuracy over all ordered answers of rankings and of ratings, added to that of the pairs."""
        right, judged = metrics.get("accuracy", (torch.zeros((), device=scores_R.device), 0.0))
        for kind in ("rankings", "ratings"):
            for u, part in of[kind]:
                values_K = torch.tensor(order_of(batch.units[u], self.scales), device=scores_R.device)
                gap_KK = torch.sign(values_K[:, None] - values_K[None, :])
                agree_KK = 0.5 * (1.0 + gap_KK * torch.sign(scores_R[part][:, None] - scores_R[part][None, :]))
                ordered_KK = gap_KK > 0
                right, judged = right + agree_KK[ordered_KK].sum(), judged + ordered_KK.sum()
        if of["pairs"] or of["rankings"] or of["ratings"]:
            metrics["accuracy"] = (right, judged)


def _step_losses(batch: Batch, judged: HeadScores, weights_UM: Tensor, of: Sequence[tuple[int, slice]], metrics: Metrics) -> Tensor:
    """Each step's score is the log-odds that it is right (Lightman et al. 2023, arXiv:2305.20050): its cross-entropy."""
    found = [(u, float(right)) for u, _ in of for labels in _steps(batch.units[u]).labels for right in labels]
    members_NM = judged.members_RM
    unit_N = torch.tensor([u for u, _ in found], device=members_NM.device)
    label_N = torch.tensor([right for _, right in found], device=members_NM.device)
    zero_N = torch.zeros_like(label_N)
    each = [reward.bradley_terry(members_NM[:, m], zero_N, label_N, zero_N) * weights_UM[unit_N, m] for m in range(members_NM.shape[1])]
    right_N = ((judged.scores_R.detach() > 0) == (label_N > 0.5)).float()
    metrics["accuracy/steps"] = (right_N.sum(), float(len(right_N)))
    return torch.stack(each).mean(0).sum()


def order_of(unit: Unit, scales: Mapping[str, tuple[float, float, float]]) -> list[float]:
    """What the labels of a ranking or of ratings say of each answer, the higher the better: of ratings the weighted sum of the dimensions,
    in standard units. ``scales`` are (weight, mean, standard deviation) by dimension; without any, the mean of the ratings."""
    if isinstance(unit.target, RankingTarget):
        return [-float(r) for r in unit.target.ranks]
    plain = {name: (1.0, 0.0, 1.0) for scores in _ratings(unit).scores for name in scores}
    of = scales if any(name in scales for name in plain) else plain
    return [
        math.fsum(of[name][0] * (value - of[name][1]) / of[name][2] for name, value in sorted(scores.items()) if name in of)
        for scores in _ratings(unit).scores
    ]


def by_kind(units: Sequence[Unit]) -> dict[str, list[tuple[int, slice]]]:
    """(index of the unit, its branches) by kind of label. Raises DataError for a unit that a reward model cannot learn from."""
    kinds: dict[type, str] = {PairTarget: "pairs", RankingTarget: "rankings", RatingTarget: "ratings", StepsTarget: "steps"}
    found: dict[str, list[tuple[int, slice]]] = {kind: [] for kind in KINDS}
    first = 0
    for i, unit in enumerate(units):
        kind = kinds.get(type(unit.target))
        if kind is None:
            raise DataError(
                f"unit '{unit.unit_id}' has no preference between its answers",
                "a reward model learns from pairs, rankings, ratings or stepwise labels",
            )
        found[kind].append((i, slice(first, first + len(unit.branches))))
        first += len(unit.branches)
    return found


def bootstrap(units: Sequence[Unit], members: int, draw: Callable[[str, int], float]) -> list[Unit]:
    """Units that say how often each member of an ensemble sees them: a Poisson(1) number, the same for all units of one prompt (Oza 2005,
    "Online bagging and boosting": what drawing prompts with replacement tends to). ``draw(prompt, member)`` is uniform in [0, 1)."""

    def weights(unit: Unit) -> tuple[float, ...]:
        prompt = str(unit.meta.get("prompt_id", unit.unit_id))
        return tuple(float(_poisson(draw(prompt, m))) for m in range(members))

    return [replace(u, meta={**u.meta, BOOTSTRAP: weights(u)}) for u in units]


def _poisson(uniform: float) -> int:
    """The quantile function of Poisson(1)."""
    count, term = 0, math.exp(-1.0)
    total = term
    while uniform >= total and count < 20:
        count += 1
        term /= count
        total += term
    return count


def _bootstrap(units: Sequence[Unit], members: int) -> Tensor:
    """Weights float32 [U, M]; 1 where nothing was drawn, as on held-out units."""
    ones = (1.0,) * members
    return torch.tensor([u.meta.get(BOOTSTRAP, ones) for u in units], dtype=torch.float32).reshape(-1, members)


def _ranking(unit: Unit) -> RankingTarget:
    assert isinstance(unit.target, RankingTarget)
    return unit.target


def _ratings(unit: Unit) -> RatingTarget:
    assert isinstance(unit.target, RatingTarget)
    return unit.target


def _steps(unit: Unit) -> StepsTarget:
    assert isinstance(unit.target, StepsTarget)
    return unit.target
