"""Direct preference losses: functions of the policy's and the reference's summed log-probabilities of two answers."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.losses.checks import same_vectors


def dpo(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """``-y log sigma(z) - (1 - y) log sigma(-z)`` with ``z = beta (winner - loser)`` (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

    ``label_smoothing`` is the conservative variant: a share of the labels is taken to be flipped (Mitchell 2023, "A note on DPO with
    noisy preferences"), ``y = p (1 - smoothing) + (1 - p) smoothing``. At the reference itself the loss is ln 2.

    Args:
        winner_E: float [E], ``log pi(y) - log pi_ref(y)`` of the preferred answer, summed over its tokens.
        loser_E: float [E], the same of the other answer.
        label_E: float [E] in [0, 1], probability p that the winner is better.
        beta: strength of the tie to the reference.
        label_smoothing: in [0, 0.5).

    Returns:
        float [E], nats per pair.
    """
    same_vectors(winner_E, loser_E, label_E)
    z_E = beta * (winner_E - loser_E)
    right_E = label_E * (1.0 - label_smoothing) + (1.0 - label_E) * label_smoothing
    return -(right_E * logsigmoid(z_E) + (1.0 - right_E) * logsigmoid(-z_E))
