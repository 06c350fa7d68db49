"""Direct preference losses of pairs: functions of two answers' scores, which are log-ratios to the reference or log-probabilities.

A label is the probability p that the first answer is the better one. Unless said otherwise a loss is the expectation over that label,
``p cost(winner, loser) + (1 - p) cost(loser, winner)``, so that swapping the answers together with the label changes nothing; a margin m
is a lead that is asked for beyond the preference itself, in rewards, whichever answer is the better one. Losses of single answers that are
wanted or not need no pair: ``kto``, ``bco``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.methods.math.checks import same_vectors


def smoothed(label_E: Tensor, share: float) -> Tensor:
    """``p (1 - e) + (1 - p) e``: the label when a share e of all labels is taken to be flipped (Mitchell 2023, "A note on DPO with noisy
    preferences and relationship to IPO"; cDPO)."""
    return label_E * (1.0 - share) + (1.0 - label_E) * share


def unbiased(label_E: Tensor, share: float) -> Tensor:
    """``(p - e) / (1 - 2 e)``: the label whose expected loss under flips with probability e is the loss of the clean label (Chowdhury et
    al. 2024, arXiv:2403.00409; robust DPO). It may lie outside [0, 1]."""
    return (label_E - share) / (1.0 - 2.0 * share)


def _expected(cost: Callable[[Tensor], Tensor], lead_E: Tensor, label_E: Tensor, margin_E: Tensor) -> Tensor:
    return label_E * cost(lead_E - margin_E) + (1.0 - label_E) * cost(-lead_E - margin_E)


def _logistic(lead_E: Tensor) -> Tensor:
    return -logsigmoid(lead_E)


def _hinge(lead_E: Tensor) -> Tensor:
    return torch.relu(1.0 - lead_E)


def dpo(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, margin_E: Tensor, beta: float) -> Tensor:
    """``-log sigma(z - m)`` with ``z = beta (winner - loser)`` (Rafailov et al. 2023, arXiv:2305.18290, eq. 7; with a margin: Amini et al.
    2024, arXiv:2402.10571). At the reference itself, without margin, the loss is ln 2.

    Of summed log-probabilities in place of log-ratios it is CPO's preference term (Xu et al. 2024, arXiv:2401.08417); of mean ones
    with a constant margin it is SimPO (Meng et al. 2024, arXiv:2405.14734, eq. 6).

    Args:
        winner_E: float [E], score of the preferred answer in nats.
        loser_E: float [E], score of the other answer.
        label_E: float [E], probability that the winner is better.
        margin_E: float [E], in rewards (beta times nats).
        beta: strength of the tie to the reference, reward of a nat.

    Returns:
        float [E], nats per pair.
    """
    same_vectors(winner_E, loser_E, label_E, margin_E)
    return _expected(_logistic, beta * (winner_E - loser_E), label_E, margin_E)


def hinge(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, margin_E: Tensor, beta: float) -> Tensor:
    """``max(0, 1 - z + m)`` with ``z = beta (winner - loser)``: SLiC's hinge (Zhao et al. 2023, arXiv:2305.10425) on log-ratios to
    the reference (Liu et al. 2023, arXiv:2309.06657, hinge-norm). Arguments as ``dpo``."""
    same_vectors(winner_E, loser_E, label_E, margin_E)
    return _expected(_hinge, beta * (winner_E - loser_E), label_E, margin_E)


def ipo(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, margin_E: Tensor, tau: float) -> Tensor:
    """``(winner - loser - m / tau - 1 / (2 tau))^2`` (Azar et al. 2023, arXiv:2310.12036, eq. 17): the lead is to reach a set size and no
    more. Arguments as ``dpo``; ``tau`` is the strength of the tie to the reference.

    Returns:
        float [E], squared nats (per token, for means over tokens) per pair.
    """
    same_vectors(winner_E, loser_E, label_E, margin_E)
    return _expected(lambda lead_E: (lead_E - 0.5 / tau) ** 2, winner_E - loser_E, label_E, margin_E / tau)


def exo(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, beta: float) -> Tensor:
    """``KL(q || p)`` between the policy's own preference ``q = sigma(z)``, ``z = beta (winner - loser)``, and the label (Ji et al. 2024,
    arXiv:2402.00856, eq. 16). ``label_E`` must lie inside (0, 1): smooth it first. It is 0 where the policy agrees with the label."""
    same_vectors(winner_E, loser_E, label_E)
    z_E = beta * (winner_E - loser_E)
    right_E = torch.sigmoid(z_E) * (logsigmoid(z_E) - label_E.log())
    wrong_E = torch.sigmoid(-z_E) * (logsigmoid(-z_E) - torch.log1p(-label_E))
    return right_E + wrong_E


def dpop(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, margin_E: Tensor, beta: float, penalty: float) -> Tensor:
    """``-log sigma(beta (winner - loser - penalty max(0, -winner)) - m)``: DPO that also pays for a preferred answer that became less
    likely than under the reference (Pal et al. 2024, arXiv:2402.13228). Arguments as ``dpo``, of summed log-ratios."""
    same_vectors(winner_E, loser_E, label_E, margin_E)
    right_E = _logistic(beta * (winner_E - loser_E - penalty * torch.relu(-winner_E)) - margin_E)
    wrong_E = _logistic(beta * (loser_E - winner_E - penalty * torch.relu(-loser_E)) - margin_E)
    return label_E * right_E + (1.0 - label_E) * wrong_E


def orpo(winner_E: Tensor, loser_E: Tensor, label_E: Tensor, weight: float) -> Tensor:
    """``-weight log sigma(log odds(winner) - log odds(loser))``, ``odds = P / (1 - P)`` (Hong et al. 2024, arXiv:2403.07691, eq. 7; the
    likelihood of the preferred answer, the other part of its eq. 6, is a term of its own).

    Args:
        winner_E: float [E], below 0: the preferred answer's mean log-probability over its tokens (P is its geometric mean).
        loser_E: float [E], the same of the other answer.
        label_E: float [E], probability that the winner is better.
        weight: the paper's lambda.
    """
    same_vectors(winner_E, loser_E, label_E)
    lead_E = _log_odds(winner_E) - _log_odds(loser_E)
    return weight * _expected(_logistic, lead_E, label_E, torch.zeros_like(lead_E))


def _log_odds(logprob_E: Tensor) -> Tensor:
    """``log(P / (1 - P))``. A probability of exactly 1 has no odds: it counts as that of the last float below it."""
    below_E = logprob_E.clamp(max=-torch.finfo(logprob_E.dtype).eps)
    return below_E - torch.log(-torch.expm1(below_E))


def tdpo(winner_E: Tensor, loser_E: Tensor, winner_kl_E: Tensor, loser_kl_E: Tensor, label_E: Tensor, beta: float, alpha: float) -> Tensor:
    """``-log sigma(z - alpha beta (KL(loser) - stop_gradient(KL(winner))))`` with ``z = beta (winner - loser)``: token-level DPO (Zeng et
    al. 2024, arXiv:2404.11999, its second variant).

    Args:
        winner_E: float [E], summed log-ratio of the preferred answer to the reference.
        loser_E: float [E], the same of the other answer.
        winner_kl_E: float [E], sum over the preferred answer's positions of ``KL(reference || policy)``, in nats.
        loser_kl_E: float [E], the same of the other answer.
        label_E: float [E], probability that the winner is better.
        beta: strength of the tie to the reference.
        alpha: price of the difference of the KLs.
    """
    same_vectors(winner_E, loser_E, winner_kl_E, loser_kl_E, label_E)
    z_E = beta * (winner_E - loser_E)
    right_E = _logistic(z_E - alpha * beta * (loser_kl_E - winner_kl_E.detach()))
    wrong_E = _logistic(-z_E - alpha * beta * (winner_kl_E - loser_kl_E.detach()))
    return label_E * right_E + (1.0 - label_E) * wrong_E


def matched(leads_K: Tensor, references_K: Tensor) -> Tensor:
    """For each pair the reference's lead of the same rank: alignment by optimal transport compares the sorted leads of the policy, ``log
    pi(winner) - log pi(loser)``, with the sorted ones of the reference (Melnyk et al. 2024, arXiv:2406.05882, paired). The loss is then
    ``dpo`` of a pair's lead against what this returns for it. Equal leads keep their order, so that no reference lead is taken twice.

    Args:
        leads_K: float [K], the policy's leads of all pairs of the optimizer batch, in any order.
        references_K: float [K], the reference's leads of those pairs.

    Returns:
        float [K], constant, in the order of the pairs.
    """
    same_vectors(leads_K, references_K)
    matches_K = torch.empty_like(references_K)
    matches_K[leads_K.argsort(stable=True)] = references_K.sort().values
    return matches_K.detach()


def kto(ratio_A: Tensor, wanted_A: Tensor, beta: float, point: float, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """``w_D (1 - sigma(beta (ratio - z0)))`` of a wanted answer, ``w_U (1 - sigma(beta (z0 - ratio)))`` of an unwanted one (Ethayarajh et
    al. 2024, arXiv:2402.01306, eq. 8: lambda_y minus the value).

    Args:
        ratio_A: float [A], summed log-ratio of each answer to the reference.
        wanted_A: float [A] in [0, 1], probability that the answer is wanted.
        beta: strength of the tie to the reference.
        point: the reference point z0, an estimate of KL(policy || reference) in nats; a constant.
        weights: w_D and w_U.

    Returns:
        float [A].
    """
    same_vectors(ratio_A, wanted_A)
    value_A = beta * (ratio_A - point)
    return wanted_A * weights[0] * torch.sigmoid(-value_A) + (1.0 - wanted_A) * weights[1] * torch.sigmoid(value_A)


def bco(ratio_A: Tensor, wanted_A: Tensor, beta: float, point: float, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """``-log sigma(beta ratio - d)`` of a wanted answer, ``-log sigma(d - beta ratio)`` of an unwanted one: a classifier of answers whose
    logit is the reward, shifted by ``d = beta point`` (Jung et al. 2024, arXiv:2404.04656).

    Arguments as ``kto``; ``point`` is midway between the mean log-ratios of wanted and unwanted answers, or 0.
    """
    same_vectors(ratio_A, wanted_A)
    logit_A = beta * (ratio_A - point)
    return -wanted_A * weights[0] * logsigmoid(logit_A) - (1.0 - wanted_A) * weights[1] * logsigmoid(-logit_A)


def kl_point(ratio_K: Tensor) -> float:
    """KTO's reference point: ``max(0, mean)`` of the log-ratios of answers to other prompts (arXiv:2402.01306, section 4). 0 for none."""
    return max(0.0, float(ratio_K.mean())) if len(ratio_K) else 0.0


def midpoint(ratio_A: Tensor, wanted_A: Tensor) -> float:
    """BCO's reward shift over beta: the mean of (mean log-ratio of wanted answers, mean log-ratio of unwanted ones), each answer counted by
    its probability of being so; with answers of one kind only, their mean. 0 for none (arXiv:2404.04656; its moving average over steps is
    left out, so that a step depends on its batch alone)."""
    same_vectors(ratio_A, wanted_A)
    shares = [share_A for share_A in (wanted_A, 1.0 - wanted_A) if float(share_A.sum()) > 0.0]
    means = [float((share_A * ratio_A).sum() / share_A.sum()) for share_A in shares]
    return sum(means) / len(means) if means else 0.0
