"""What stands for what in the logs of other trainers. Sources of the names: docs/alarms.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import fmean

# What stands for what, by trainer. Only metrics that mean the same in the same unit; all others keep their own names.
TRL: Mapping[str, str] = {
    "learning_rate": "lr",
}
VERL: Mapping[str, str] = {
    "critic/rewards/mean": "reward",
    "critic/rewards/max": "reward_max",
    "critic/rewards/min": "reward_min",
    "actor/kl_loss": "kl",
    "actor/reward_kl_penalty": "kl",
    "actor/reward_kl_penalty_coeff": "kl_coef",
    "critic/kl": "kl",
    "critic/kl_coeff": "kl_coef",
    "actor/entropy": "entropy",
    "actor/entropy_loss": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "lr",
    "actor/pg_loss": "loss",
    "actor/pg_clipfrac": "clip_ratio/region_mean",
    "actor/ppo_kl": "policy/old_kl_avg",
    "response_length/mean": "completions/mean_length",
    "response_length/clip_ratio": "completions/clipped_ratio",
}
OPENRLHF: Mapping[str, str] = {
    "reward": "reward",
    "kl": "kl",
    "policy_loss": "loss",
    "actor_lr": "lr",
    "ppo_clip_ratio": "clip_ratio/region_mean",
    "ppo_kl": "policy/old_kl_avg",
    "entropy_loss": "entropy",
    "response_length": "completions/mean_length",
}
TINKER: Mapping[str, str] = {
    "env/all/reward/total": "reward",
    "optim/entropy": "entropy",
    "optim/lr": "lr",
    "kl_policy_base": "kl",
    "optim/kl_sample_train_v1": "policy/old_kl_avg",
    "optim/kl_sample_train_v2": "policy/approxkl_avg",
    "env/all/ac_tokens_per_turn": "completions/mean_length",
    "test/env/all/reward/total": "eval/reward",
}
LLAMA_FACTORY: Mapping[str, str] = {"eval_loss": "eval/loss", "accuracy": "rewards/accuracies"}

_VERL_HELD_OUT = re.compile(r"val-(?:core|aux)/(?P<source>.+)/reward/mean@(?P<n>[0-9]+)$|val/test_score/(?P<old>.+)$")


def held_out_of_verl(numbers: Mapping[str, float]) -> dict[str, float]:
    """The reward of held-out prompts: the mean over data sources, of each the mean over most answers."""
    found: dict[str, tuple[int, float]] = {}
    for name, value in numbers.items():
        if match := _VERL_HELD_OUT.match(name):
            source, n = match["source"] or match["old"], int(match["n"] or 1)
            found[source] = max(found.get(source, (0, value)), (n, value), key=lambda one: one[0])
    return {"eval/reward": fmean(value for _, value in found.values())} if found else {}


def groups_of_tinker(numbers: Mapping[str, float]) -> dict[str, float]:
    """The share of groups whose rewards do not differ."""
    mixed = numbers.get("env/all/by_group/frac_mixed")
    return {} if mixed is None else {"frac_reward_zero_std": 1.0 - mixed}
