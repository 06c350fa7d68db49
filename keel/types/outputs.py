"""What comes of a pass through the model: its outputs, the loss, the report of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor  # a worker that reads text alone starts without torch


@dataclass(frozen=True, slots=True)
class HeadScores:
    """What a reward head says of R sequences: M members of an ensemble (1 without), D named dimensions, K levels of a rating. float32."""

    scores_RMD: Tensor  # each member's score of each dimension
    weights_D: Tensor  # of the dimensions in the one score
    variance_RMD: Tensor | None = None  # of the label around the score, as each member expects it (aleatoric)
    levels_RMDK: Tensor | None = None  # log-probabilities of the levels of a rating
    tie_M: Tensor | None = None  # log of the weight of a tie

    @property
    def members_RM(self) -> Tensor:
        """Each member's one score."""
        return self.scores_RMD @ self.weights_D

    @property
    def scores_R(self) -> Tensor:
        """The one score: the mean of the members."""
        return self.members_RM.mean(1)

    @property
    def variance_RM(self) -> Tensor:
        """Aleatoric variance of each member's one score; 0 for heads that have none."""
        if self.variance_RMD is None:
            return self.members_RM.new_zeros(self.members_RM.shape)
        return self.variance_RMD @ self.weights_D.square()


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a policy p is from a reference q, of whole distributions: ``KL(q || p)``, ``KL(p || q)``, or the generalised Jensen-Shannon
    divergence with ``beta`` in (0, 1); the equations are in ``methods.math.divergence``."""

    kind: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    beta: float = 0.5  # of jsd: the reference's share of the mixture


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward pass gives to an objective. What was not asked for is None."""

    logprobs_S: Tensor | None = None  # float32: log-probability of target_S, of the distribution sampled from (temperature)
    entropy_S: Tensor | None = None  # float32
    values_S: Tensor | None = None  # float32: V(state before target_S)
    scores_R: Tensor | None = None  # float32: the reward head's one score of each branch
    judgement: HeadScores | None = None  # all that the reward head says of the branches, asked for with the scores
    steps: HeadScores | None = None  # the same at the end of each step of a ``StepsTarget``, branch after branch
    ref_kl_S: Tensor | None = None  # float32: KL(reference || policy) of the whole distributions that target_S is of, in nats
    divergence_S: Tensor | None = None  # float32: the same by the divergence that the objective names
    ref_logprobs_S: Tensor | None = None  # float32: the reference's log-probability of target_S, given with the two above; a constant


@dataclass(frozen=True, slots=True)
class LossOutput:
    """``loss`` is already divided by the counts of the whole optimizer batch; ``metrics`` are (sum, count), reduced by the learner; of
    those whose name ends in ``/min`` or ``/max`` the least and the greatest; those that end in ``/ess`` are (sum of weights, sum of their
    squares) and make an effective sample size."""

    loss: Tensor
    metrics: Mapping[str, tuple[float, float]]


Counts = Mapping[str, float]
Need = Literal["logprobs", "entropy", "values", "scores", "ref_kl", "divergence"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. Metric names are the field's."""

    metrics: Mapping[str, float]
    n_tokens: int  # tokens through the body, forward
