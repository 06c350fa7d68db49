"""Losses of reward models: preferences between two scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.losses.checks import same_vectors


def bradley_terry(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, margin_E: Tensor) -> Tensor:
    """``-y log sigma(d - m) - (1 - y) log sigma(-d - m)`` with ``d = s_winner - s_loser``.

    ``m = 0, y = 1`` is the Bradley-Terry likelihood (Ouyang et al. 2022, arXiv:2203.02155, eq. 1), ``m > 0`` Llama 2's margin (Touvron et
    al. 2023, arXiv:2307.09288, eq. 2), ``y < 1`` the cross-entropy to annotators who disagree. Swapping winner and loser together with
    ``y -> 1 - y`` leaves it as it is.

    Args:
        winner_E: float [E], scores of the preferred answers.
        loser_E: float [E], scores of the others.
        label_E: float [E] in [0, 1], probability that the winner is better; 0.5 is a tie.
        margin_E: float [E] >= 0, by how much the better answer should lead.

    Returns:
        float [E], nats per pair.
    """
    same_vectors(winner_E, loser_E, label_E, margin_E)
    lead_E = winner_E - loser_E
    return -(label_E * logsigmoid(lead_E - margin_E) + (1.0 - label_E) * logsigmoid(-lead_E - margin_E))


def centring(winner_E: Tensor, loser_E: Tensor) -> Tensor:
    """``(s_winner + s_loser)^2``: preferences leave the level of scores free, this holds it near 0 (Eisenstein et al. 2023,
    arXiv:2312.09244, eq. 2).

    Args:
        winner_E: float [E].
        loser_E: float [E].

    Returns:
        float [E].
    """
    same_vectors(winner_E, loser_E)
    return torch.square(winner_E + loser_E)
