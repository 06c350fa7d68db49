"""Which pictures a run has: those that tell the story first, all other metrics after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

MOST_LINES = 6  # metrics in one picture


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture. ``key`` names its title in the catalogue of texts, ``metrics`` are patterns."""

    key: str
    metrics: tuple[str, ...]
    but: tuple[str, ...] = ()  # metrics that a pattern would take too


@dataclass(frozen=True, slots=True)
class Fan:
    """A distribution over time, as far as metrics tell it: its mean, least and greatest value and standard deviation."""

    key: str
    mean: str
    low: str
    high: str
    std: str = ""


MAIN = (
    Chart("reward", ("reward", "eval/reward")),
    Chart("kl", ("kl", "objective/kl_per_token")),
    Chart("kl_kinds", ("kl/*",), but=("kl/max",)),
    Chart("kl_max", ("kl/max",)),
    Chart("kl_answer", ("objective/kl", "kl_point")),
    Chart("length", ("completions/mean_length", "eval/completions/mean_length", "length")),
    Chart("entropy", ("entropy", "objective/entropy", "policy/entropy_avg", "entropy/*")),
    Chart("loss", ("loss", "eval/loss", "loss/policy_avg", "loss/value_avg")),
    Chart("grad_norm", ("grad_norm", "grad_norm/*")),
    Chart("accuracy", ("accuracy", "rewards/accuracies", "eval/accuracy", "eval/rewards/accuracies")),
    Chart("margin", ("margin", "rewards/margins", "rewards/chosen", "rewards/rejected")),
    Chart("sources", ("rewards/*/mean",)),
    Chart("token_accuracy", ("mean_token_accuracy", "eval/mean_token_accuracy")),
    Chart("variety", ("completions/distinct_1", "completions/distinct_2", "completions/unique_token_ratio")),
)
FANS = (
    Fan("fan_reward", "reward", "reward_min", "reward_max", "reward_std"),
    Fan("fan_eval_reward", "eval/reward", "eval/reward_min", "eval/reward_max", "eval/reward_std"),
    Fan("fan_length", "completions/mean_length", "completions/min_length", "completions/max_length"),
    Fan("fan_eval_length", "eval/completions/mean_length", "eval/completions/min_length", "eval/completions/max_length"),
)
FAN_OF: Mapping[str, Fan] = {fan.key: fan for fan in FANS}
_LAST = ("trend/", "time/", "mem/", "tokens_per_s")  # of the machine, or told by others


def chosen(names: Sequence[str], several: bool) -> tuple[list[tuple[str, list[str]]], list[str], list[str]]:
    """(pictures as (key, metrics), keys of distributions, metrics in no picture). ``several`` runs share a picture: one metric each."""
    known, used = set(names), set[str]()
    charts: list[tuple[str, list[str]]] = []
    for chart in MAIN:
        found = list(dict.fromkeys(n for pattern in chart.metrics for n in names if fnmatchcase(n, pattern)))
        found = [n for n in found if n not in used and n not in chart.but]
        if several:
            charts += [(chart.key if i == 0 else "", [n]) for i, n in enumerate(found[:2])]
            used |= set(found[:2])
        elif found:
            charts.append((chart.key, found[:MOST_LINES]))
            used |= set(found[:MOST_LINES])
    fans = [] if several else [fan.key for fan in FANS if {fan.mean, fan.low, fan.high} <= known]
    rest = sorted(known - used, key=lambda n: (n.startswith(_LAST), n))
    return charts, fans, rest
