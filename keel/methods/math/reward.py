"""Losses of reward models: preferences between two scores, ties among them, rankings of several; ratings: a number, a number
with its own uncertainty, one of several ordered levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from keel.methods.math.checks import same_vectors


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


def hinge(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, margin_E: Tensor) -> Tensor:
    """``y max(0, m - d) + (1 - y) max(0, m + d)`` with ``d = s_winner - s_loser``: nothing is paid for a lead of m or more (Cortes &
    Vapnik 1995, on differences: Herbrich et al. 2000, eq. 6). Arguments as of ``bradley_terry``; m above 0, or nothing is learned.

    Returns:
        float [E], in units of the score.
    """
    same_vectors(winner_E, loser_E, label_E, margin_E)
    lead_E = winner_E - loser_E
    return label_E * torch.relu(margin_E - lead_E) + (1.0 - label_E) * torch.relu(margin_E + lead_E)


def davidson(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, tie_E: Tensor, log_weight_E: Tensor) -> Tensor:
    """Three outcomes: ``P(win) : P(tie) : P(loss) = e^(d/2) : v : e^(-d/2)`` with ``d = s_winner - s_loser`` (Davidson 1970, "On
    extending the Bradley-Terry model to accommodate ties", eq. 2.1; v = nu). The loss is the cross-entropy to the votes; without ties and
    with v = 0 it is Bradley-Terry's.

    Args:
        winner_E: float [E], scores of the preferred answers.
        loser_E: float [E], scores of the others.
        label_E: float [E], share of votes for the winner, ties half.
        tie_E: float [E], share of votes that were ties.
        log_weight_E: float [E], log v.

    Returns:
        float [E], nats per pair.
    """
    same_vectors(winner_E, loser_E, label_E, tie_E, log_weight_E)
    half_E = (winner_E - loser_E) / 2.0
    logits_E3 = torch.stack([half_E, log_weight_E, -half_E], 1)
    votes_E3 = torch.stack([label_E - tie_E / 2.0, tie_E, 1.0 - label_E - tie_E / 2.0], 1)
    return -(votes_E3 * torch.log_softmax(logits_E3, 1)).sum(1)


def rao_kupper(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, tie_E: Tensor, log_weight_E: Tensor) -> Tensor:
    """``P(win) = sigma(d - h)``, ``P(loss) = sigma(-d - h)``, the rest is a tie: differences below a threshold h are not seen (Rao &
    Kupper 1967, "Ties in paired-comparison experiments", eq. 2.1; their theta = e^h). With ``v = e^(2h) - 1`` that is
    ``P(tie) = v P(win) P(loss)``, so v plays the part of Davidson's. Arguments and result as of ``davidson``.
    """
    same_vectors(winner_E, loser_E, label_E, tie_E, log_weight_E)
    lead_E, threshold_E = winner_E - loser_E, softplus(log_weight_E) / 2.0
    win_E, loss_E = logsigmoid(lead_E - threshold_E), logsigmoid(-lead_E - threshold_E)
    draw_E = log_weight_E + win_E + loss_E
    return -((label_E - tie_E / 2.0) * win_E + tie_E * draw_E + (1.0 - label_E - tie_E / 2.0) * loss_E)


def plackett_luce(scores_K: Tensor, ranks_K: Tensor) -> Tensor:
    """Negative log-likelihood of a ranking as a row of choices, the best of what is left each time: ``-sum_k s_k - log sum_(j not yet
    chosen) e^(s_j)`` (Plackett 1975; Luce 1959), divided by the number of choices, so that a ranking of two is one Bradley-Terry pair.
    Answers of equal rank are chosen one after the other from the same set (Breslow 1974); the last rank leaves no choice.

    Args:
        scores_K: float [K].
        ranks_K: float [K], 1 is the best, equal ranks are ties.

    Returns:
        float scalar, nats per choice; 0 when all ranks are equal.
    """
    same_vectors(scores_K, ranks_K)
    chosen_K = ranks_K < ranks_K.max()
    left_KK = ranks_K[None, :] >= ranks_K[:, None]  # row k: what answer k was chosen from
    among_K = torch.logsumexp(torch.where(left_KK, scores_K[None, :], -math.inf), 1)
    return torch.where(chosen_K, among_K - scores_K, 0.0).sum() / chosen_K.sum().clamp(min=1)


def uncertain(lead_E: Tensor, variance_E: Tensor) -> Tensor:
    """``d / sqrt(1 + pi v / 8)``: the lead whose sigmoid is, nearly, the expected sigmoid of a normal lead with mean d and variance v
    (MacKay 1992, "The evidence framework applied to classification networks", eq. 23).

    Args:
        lead_E: float [E].
        variance_E: float [E] >= 0, the sum of the two answers' variances.

    Returns:
        float [E].
    """
    same_vectors(lead_E, variance_E)
    return lead_E / torch.sqrt(1.0 + math.pi / 8.0 * variance_E)


def self_trusting(label_E: Tensor, lead_E: Tensor, share: float) -> Tensor:
    """``(1 - a) y + a 1[d > 0]``: a label that partly is what the model itself prefers, for a strong model that learns from the labels of a
    weak one (Burns et al. 2023, arXiv:2312.09390, eq. 1; their threshold is 0 for pairs, of which either order is as likely).

    Args:
        label_E: float [E], the weak labels.
        lead_E: float [E], the model's own lead; no gradient flows through it.
        share: a in [0, 1].

    Returns:
        float [E], labels.
    """
    same_vectors(label_E, lead_E)
    return (1.0 - share) * label_E + share * (lead_E.detach() > 0.0).to(label_E.dtype)


def squared_error(score_N: Tensor, rating_N: Tensor) -> Tensor:
    """``(s - r)^2``.

    Args:
        score_N: float [N].
        rating_N: float [N], in the units of the score.

    Returns:
        float [N].
    """
    same_vectors(score_N, rating_N)
    return torch.square(score_N - rating_N)


def gaussian(score_N: Tensor, variance_N: Tensor, rating_N: Tensor) -> Tensor:
    """``(log v + (s - r)^2 / v) / 2``: the negative log-likelihood of a normal rating without its constant (Nix & Weigend 1994; Kendall &
    Gal 2017, arXiv:1703.04977, eq. 5). The variance is what the raters differ by (aleatoric).

    Args:
        score_N: float [N], the mean.
        variance_N: float [N] > 0.
        rating_N: float [N].

    Returns:
        float [N], nats.
    """
    same_vectors(score_N, variance_N, rating_N)
    return (torch.log(variance_N) + torch.square(score_N - rating_N) / variance_N) / 2.0


def cumulative_link(score_X: Tensor, cuts_XK: Tensor) -> Tensor:
    """Log-probabilities of ordered levels, ``P(level <= k) = sigma(c_k - s)`` (McCullagh 1980, "Regression models for ordinal data", eq.
    2.3: proportional odds). Differences of sigmoids are taken as ``sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - e^(b - a))``, which loses
    nothing far out.

    Args:
        score_X: float [...], the latent score.
        cuts_XK: float [..., K - 1], rising; K levels.

    Returns:
        float [..., K].
    """
    below_XK, above_XK = logsigmoid(cuts_XK - score_X[..., None]), logsigmoid(score_X[..., None] - cuts_XK)
    gap_XK = torch.log(-torch.expm1(cuts_XK[..., :-1] - cuts_XK[..., 1:])).expand_as(below_XK[..., 1:])
    return torch.cat([below_XK[..., :1], below_XK[..., 1:] + above_XK[..., :-1] + gap_XK, above_XK[..., -1:]], -1)


def level(logprobs_NK: Tensor, level_N: Tensor) -> Tensor:
    """The negative log-probability of the level that was given.

    Args:
        logprobs_NK: float [N, K].
        level_N: int64 [N], from 0.

    Returns:
        float [N], nats.
    """
    return -logprobs_NK.gather(1, level_N[:, None])[:, 0]
