"""What is known of metrics by their names: which there are, in which unit, and which way is better."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Literal

TOKEN, ANSWER = "nats per token", "nats per answer"

# Metrics that a limit is about. A limit per token is compared with those per token, one per answer with those per answer.
UNITS: Mapping[str, str] = {
    "kl": TOKEN,
    "kl/max": TOKEN,
    "kl/grounded": TOKEN,
    "kl/ungrounded": TOKEN,
    "entropy": TOKEN,
    "entropy/grounded": TOKEN,
    "entropy/ungrounded": TOKEN,
    "nll": TOKEN,
    "objective/kl_per_token": TOKEN,
    "objective/divergence": TOKEN,
    "policy/old_kl_avg": TOKEN,
    "policy/approxkl_avg": TOKEN,
    "objective/kl": ANSWER,
    "kl_point": ANSWER,
}

# Every metric whose name has no slash. Others may hold names that a recipe gives (rewards, judges).
_PLAIN = """
accuracy aux_loss entropy entropy_coef epoch frac_reward_zero_std grad_norm kl kl_coef kl_point logged_reward loss lr margin mean_reward nll
pairs phase reward reward_greedy reward_max reward_min reward_shift reward_std skipped_steps tokens_per_s
"""
PLAIN = frozenset(_PLAIN.split())

_LOWER = ("loss", "nll", "perplexity", "kl", "divergence", "ece", "failed_ratio", "refused_ratio", "clipped_ratio", "error", "errors")
_HIGHER = (
    "reward",
    "accuracy",
    "accuracies",
    "margin",
    "margins",
    "win_rate",
    "mean_reward",
    "logged_reward",
    "chosen",
    "scores",
    "rlhf_reward",
)


def direction(metric: str) -> Literal["min", "max"] | None:
    """Whether less or more of a metric is better, by its name; None where the name does not say: ``eval/loss`` is at its best at the
    lowest, ``eval/reward`` and ``eval/rewards/accuracies`` at the highest."""
    parts = metric.split("/")
    if "rewards" in parts and parts[-1] == "mean":
        return "max"
    last = next(
        iter(difflib.get_close_matches(parts[-1], (*_LOWER, *_HIGHER), 1, 0.85)), ""
    )  # a misspelt one is refused where it is missed
    return "min" if last in _LOWER else "max" if last in _HIGHER else None


def nearest(name: str, known: Iterable[str], least: float = 0.6) -> str:
    """The known name that is most like ``name``; empty where none is (``least``: how alike, 0 to 1)."""
    return next(iter(difflib.get_close_matches(name, sorted(known), 1, least)), "")
