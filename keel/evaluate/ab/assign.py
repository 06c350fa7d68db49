"""Who gets which arm: a hash of experiment and key decides, so that the same key gets the same arm on every machine and every day."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keel.core.hashing import stable_hash
from keel.evaluate.statistics.distributions import chi_squared_tail

CONTROL, TREATMENT = "control", "treatment"


def place(experiment: str, key: str) -> float:
    """Where a key falls in [0, 1), in this experiment; another experiment is another, independent draw."""
    return stable_hash("ab", experiment, key) / 2**64


def assign(experiment: str, key: str, share: float = 0.5) -> str:
    """``treatment`` for this share of all keys. Sticky: a key that has the treatment keeps it when the share grows."""
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not {share}")
    return TREATMENT if place(experiment, key) < share else CONTROL


@dataclass(frozen=True, slots=True)
class Balance:
    """Are the arms as large as they were meant to be? ``p_value`` of one look (chi-squared), ``evidence`` the largest likelihood ratio that
    ever was against the planned share, valid at all looks together."""

    control: int
    treatment: int
    expected: float
    p_value: float
    evidence: float


def balance(treated: list[bool], share: float) -> Balance:
    """Sample ratio of units in the order in which they came. The evidence mixes over all other shares (Lindon & Malek 2020, arXiv
    2011.03567, a Dirichlet prior worth 100 units around the plan)."""
    if not 0 < share < 1:
        raise ValueError(f"two arms need a share between 0 and 1, not {share}")
    n, t = len(treated), sum(treated)
    chi = (t - n * share) ** 2 / (n * share * (1 - share)) if n else 0.0
    a, b = 100 * share, 100 * (1 - share)
    log_ratio = highest = 0.0
    seen_t = seen_c = 0
    for is_treated in treated:
        if is_treated:
            log_ratio += math.log((a + seen_t) / (a + b + seen_t + seen_c) / share)
            seen_t += 1
        else:
            log_ratio += math.log((b + seen_c) / (a + b + seen_t + seen_c) / (1 - share))
            seen_c += 1
        highest = max(highest, log_ratio)
    return Balance(n - t, t, share, chi_squared_tail(chi), math.exp(min(highest, 700)))
