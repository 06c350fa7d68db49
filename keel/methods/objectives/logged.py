"""Offline reinforcement learning: answers with logged rewards, weighed by how good they were. Nothing is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.methods.credit.logged import Baseline, logged_advantages
from keel.methods.math.imitation import awr_weights
from keel.methods.math.policy import Correction, importance_weights
from keel.methods.objectives.common import divisor, lengths, to_metrics, token_mean
from keel.types import Batch, Branch, Counts, LossOutput, Need, Outputs, RatingTarget, Unit

LoggedName = Literal["awr", "reinforce", "topr"]
VALUE = "value"  # of a prompt's extra columns: what reward was expected


@dataclass(frozen=True, slots=True)
class LoggedObjective:
    """Mean over answers of ``sum_t (-coef w_t log pi(y_t) + kl_coef KL_t)``, KL_t that of the whole distributions, from the reference to
    the policy, at each of the answer's tokens.

    ``awr``: coef = ``min(exp(A / beta), max_weight)``, w = 1 (Peng et al. 2019, arXiv:1910.00177). ``reinforce``: coef = A, w the
    importance weight of the policy against the reference, which stands for whoever wrote the answers, at most ``max_weight``, constant
    in the gradient (``methods.math.policy``); 1 without ``importance``. With it, an answer below its baseline is not pushed away for ever.
    ``topr``: the same, but answers at or above their baseline have w = 1 (Le Roux et al. 2025, arXiv:2503.14286, section 3).

    The advantages A are those of the whole optimizer batch, given to its answers before the first forward pass (``credited``), so that it
    does not matter how the batch is cut. With ``baseline="group"`` an answer without another one to its prompt is compared with nothing: it
    has advantage 0 and, with ``awr`` too, weight 0 (``exp(0)`` would imitate it whatever its reward). ``per_token`` takes the mean over an
    answer's tokens in place of the sum.

    Metrics: ``answers/alone`` (share of the answers compared with nothing); ``logged_reward``; ``advantages/above`` (share of the answers
    above their baseline); ``logps/above`` and ``logps/below`` (mean log-probability per token of those above and of the others);
    ``weights/mean``, ``weights/max``, ``weights/capped`` (share at the bound)
    and ``weights/ess``, the effective number of answers (Kish: ``(sum w)^2 / sum w^2``), of exp(A / beta) or of the importance weights;
    ``kl`` where it has a price.
    """

    name: LoggedName = "awr"
    baseline: Baseline = "group"
    scale: bool = True
    beta: float = 1.0
    max_weight: float = 20.0
    importance: Literal["token", "sequence"] | None = None
    per_token: bool = False
    kl_coef: float = 0.0
    dimension: str = "reward"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs", "ref_kl"} if self.kl_coef else {"logprobs"})

    @property
    def token_local(self) -> bool:
        return not self.kl_coef and self.importance != "sequence"

    @property
    def couples_branches(self) -> bool:
        return False

    @property
    def needs_reference(self) -> bool:
        """Units must carry the signal ``ref_logprobs``."""
        return self.importance is not None

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {"answers": float(sum(len(u.branches) for u in units))}

    def credited(self, units: Sequence[Unit]) -> tuple[Unit, ...]:
        """The optimizer batch with the signals ``rewards`` and ``advantages``, each the same at all tokens of an answer."""
        rewards_A = torch.tensor([r for u in units for r in self.rewards(u)], dtype=torch.float64)
        unit_A = torch.tensor([i for i, u in enumerate(units) for _ in u.branches])
        values_A = None
        if self.baseline == "value":
            values_A = torch.tensor([self.value(u) for u in units], dtype=torch.float64)[unit_A]
        advantages_A = logged_advantages(rewards_A, unit_A, self.baseline, values_A, scale=self.scale)
        numbers = iter(zip(rewards_A.tolist(), advantages_A.tolist(), strict=True))
        known = [0.0 if self.baseline == "group" and len(u.branches) < 2 else 1.0 for u in units]
        return tuple(
            replace(u, branches=tuple(_with_numbers(b, *next(numbers), k) for b in u.branches)) for u, k in zip(units, known, strict=True)
        )

    def rewards(self, unit: Unit) -> list[float]:
        """The logged rewards of a unit's answers. Raises DataError for a unit that has none."""
        scores = unit.target.scores if isinstance(unit.target, RatingTarget) else ()
        if not scores or any(self.dimension not in s for s in scores):
            named = ", ".join(sorted({name for s in scores for name in s})) or "none"
            raise DataError(
                f"unit '{unit.unit_id}' has no logged reward '{self.dimension}' (there are: {named})",
                "give rows of prompt, completion, reward, or name the rating with objective.dimension",
            )
        return [s[self.dimension] for s in scores]

    def value(self, unit: Unit) -> float:
        """What was expected of answers to this prompt. Raises DataError where the data do not say."""
        value = unit.meta.get(VALUE)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(
                f"objective.baseline=value, and prompt '{unit.unit_id}' has no number in the column '{VALUE}'",
                "add the column, or take objective.baseline=group or batch",
            )
        return float(value)

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        logprobs_S = outputs.logprobs_S
        advantages_S = batch.signals["advantages"]
        weights_S, capped_S = self._weights(batch, logprobs_S)
        coefs_S = weights_S if self.name == "awr" else weights_S * advantages_S
        shares_S = (1.0 / lengths(batch))[batch.branch_S]  # of a token in its answer
        losses_S = -coefs_S * logprobs_S
        if self.kl_coef:
            assert outputs.ref_kl_S is not None
            losses_S = losses_S + self.kl_coef * outputs.ref_kl_S
        loss = (losses_S * (shares_S if self.per_token else 1.0)).sum() / divisor(counts, "answers")
        with torch.no_grad():
            metrics = _metrics(batch, logprobs_S, weights_S, shares_S)
            metrics["weights/capped"] = (capped_S * shares_S).sum(), shares_S.sum()
            if outputs.ref_kl_S is not None:
                metrics["kl"] = token_mean(outputs.ref_kl_S)
            return LossOutput(loss, to_metrics(metrics))

    def _weights(self, batch: Batch, logprobs_S: Tensor) -> tuple[Tensor, Tensor]:
        """Constants per token, and where the bound held."""
        advantages_S = batch.signals["advantages"]
        if self.name == "awr":
            weights_S, capped_S = awr_weights(advantages_S, self.beta, self.max_weight)
            return weights_S * batch.signals["compared"], capped_S
        if self.importance is None:
            return torch.ones_like(logprobs_S), torch.zeros_like(logprobs_S, dtype=torch.bool)
        rule = Correction("truncate", self.importance, self.max_weight)
        weights_S, capped_S = importance_weights(logprobs_S, batch.signals["ref_logprobs"], batch.branch_S, batch.n_branches, rule)
        if self.name == "topr":
            free_S = advantages_S >= 0
            weights_S, capped_S = weights_S.masked_fill(free_S, 1.0), capped_S & ~free_S
        return weights_S, capped_S


def _with_numbers(branch: Branch, reward: float, advantage: float, compared: float) -> Branch:
    numbers = {"rewards": reward, "advantages": advantage, "compared": compared}
    signals = {name: torch.full((len(branch),), number) for name, number in numbers.items()}
    return replace(branch, signals={**branch.signals, **signals})


def _metrics(batch: Batch, logprobs_S: Tensor, weights_S: Tensor, shares_S: Tensor) -> dict[str, tuple[Tensor, Tensor | float]]:
    """Means over answers: a token counts with its share of its answer, so that tiles of tokens add up."""
    above_S = batch.signals["advantages"] > 0
    mean: dict[str, tuple[Tensor, Tensor | float]] = {
        "logged_reward": ((batch.signals["rewards"] * shares_S).sum(), shares_S.sum()),
        "answers/alone": (((1.0 - batch.signals["compared"]) * shares_S).sum(), shares_S.sum()),
        "advantages/above": ((above_S * shares_S).sum(), shares_S.sum()),
        "weights/mean": ((weights_S * shares_S).sum(), shares_S.sum()),
        "weights/ess": ((weights_S * shares_S).sum(), (weights_S.square() * shares_S).sum()),
    }
    for side, of_S in (("above", above_S), ("below", ~above_S)):
        mean[f"logps/{side}"] = logprobs_S[of_S].sum(), of_S.sum()
    if len(weights_S):
        mean["weights/max"] = weights_S.max(), 1.0
    return mean
