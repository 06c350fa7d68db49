"""The same records under the names of other trainers, with what each of them reports and nothing else: what is left of the alarms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keel.watch.config import WatchConfig
from keel.watch.foreign import form_of, steps_of
from keel.watch.replay import replay
from labs.watchbench.judge import EXPECTED
from labs.watchbench.plan import HEALTHY
from labs.watchbench.truth import took

Row = Mapping[str, float]
SEEN = ("explosion", "nan", "dead", "entropy", "length", "format", "keyword", "proxy")  # what their names can show

# Keel's name -> the trainer's
_TRL = {
    **{name: name for name in ("loss", "grad_norm", "reward", "reward_std", "frac_reward_zero_std", "entropy", "kl")},
    **{name: name for name in ("clip_ratio/region_mean", "completions/mean_length", "completions/clipped_ratio")},
    "lr": "learning_rate",
    **{f"eval/{name}": f"eval_{name}" for name in ("reward", "reward_std", "completions/mean_length")},
    **{f"eval/rewards/gold/{name}": f"eval_rewards/gold/{name}" for name in ("mean", "std")},
}
_VERL = {
    "loss": "actor/pg_loss",
    "grad_norm": "actor/grad_norm",
    "lr": "actor/lr",
    "reward": "critic/rewards/mean",
    "reward_max": "critic/rewards/max",
    "reward_min": "critic/rewards/min",
    "entropy": "actor/entropy",
    "kl": "actor/kl_loss",
    "clip_ratio/region_mean": "actor/pg_clipfrac",
    "completions/mean_length": "response_length/mean",
    "eval/reward": "val-core/data/reward/mean@1",
}
_OPENRLHF = {
    "loss": "policy_loss",
    "lr": "actor_lr",
    "reward": "reward",
    "entropy": "entropy_loss",
    "kl": "kl",
    "clip_ratio/region_mean": "ppo_clip_ratio",
    "completions/mean_length": "response_length",
}
_TINKER = {
    "lr": "optim/lr",
    "reward": "env/all/reward/total",
    "entropy": "optim/entropy",
    "kl": "kl_policy_base",
    "completions/mean_length": "env/all/ac_tokens_per_turn",
    "eval/reward": "test/env/all/reward/total",
}
_FACTORY = {"loss": "loss", "lr": "lr", "reward": "reward"}


def _renamed(names: Mapping[str, str], row: Row) -> dict[str, Any]:
    return {theirs: row[own] for own, theirs in names.items() if own in row}


def _tinker(row: Row) -> dict[str, Any]:
    mixed = {"env/all/by_group/frac_mixed": 1.0 - row["frac_reward_zero_std"]} if "frac_reward_zero_std" in row else {}
    return {"progress/batch": row["step"], "step": row["step"], **_renamed(_TINKER, row), **mixed}


TRAINERS: Mapping[str, Callable[[Row], dict[str, Any]]] = {
    "TRL": lambda row: {"step": row["step"], **_renamed(_TRL, row)},
    "verl": lambda row: {"step": row["step"], "data": _renamed(_VERL, row)},
    "OpenRLHF": lambda row: {f"train/{k}": v for k, v in {"global_step": row["step"], **_renamed(_OPENRLHF, row)}.items()},
    "tinker": _tinker,
    "LLaMA-Factory": lambda row: {"current_steps": row["step"], **_renamed(_FACTORY, row)},
}


def told(rows: Sequence[Row], trainer: str) -> list[tuple[int, str]]:
    """(step, rule) of the alarms above info on a run as this trainer would have logged it. Raises ValueError where its log is not known
    for one of it."""
    raw = [TRAINERS[trainer](row) for row in rows]
    form = form_of(raw)
    if form.name != trainer:
        raise ValueError(f"a log of {trainer} is taken for one of {form.name}")
    findings = replay(steps_of(raw, form), WatchConfig()).findings
    return [(f.step, f.rule) for f in findings if f.state == "firing" and f.level != "info"]


def ask(stored: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each trainer: healthy steps and alarms in them; of each sickness the runs in which it is named, and in which it took."""
    found: dict[str, dict[str, Any]] = {}
    for trainer in TRAINERS:
        healthy, named = {"steps": 0, "alarms": 0, "rules": {}}, {family: [0, 0] for family in SEEN}
        for one in stored:
            run, rows = one["run"], one["rows"]
            ill = took(run, rows, one["final"])
            if ill != (run.family in SEEN) or run.family not in (HEALTHY, *SEEN):
                continue
            alarms = told(rows, trainer)
            if run.family == HEALTHY:
                healthy["steps"] += len(rows)
                healthy["alarms"] += len(alarms)
                for _, rule in alarms:
                    healthy["rules"][rule] = healthy["rules"].get(rule, 0) + 1
            else:
                named[run.family][0] += any(rule in EXPECTED[run.family].rules for step, rule in alarms if step > run.onset)
                named[run.family][1] += 1
        found[trainer] = {"healthy": healthy, "named": named}
    return found
