"""The checks behind the items of the lists. Each is a function of facts and limits, and says pass, fail or cannot tell, and by what. The
evidence is names and numbers, so that it needs no translation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from keel.evaluate.checklists.facts import Facts, read_json
from keel.evaluate.run_diagnosis import diagnose
from keel.runs import audits
from keel.runs.columns import Floats, load

Status = Literal["pass", "fail", "cannot tell", "for a person"]
Limits = Mapping[str, float]
FEW = 10  # steps; of fewer nothing is said
RL = ("rl",)


@dataclass(frozen=True, slots=True)
class Found:
    status: Status
    evidence: str = ""


Check = Callable[[Facts, Limits], Found]
NOT_RL = Found("cannot tell", "no RL")


def _found(ok: bool, evidence: str) -> Found:
    return Found("pass" if ok else "fail", evidence)


def _unknown(why: str) -> Found:
    return Found("cannot tell", why)


def _within(value: float | None, limits: Limits, name: str) -> Found:
    """Between ``least`` and ``most``, where there are such limits."""
    if value is None or math.isnan(value):
        return _unknown(f"{name}: -")
    low, high = limits.get("least", -math.inf), limits.get("most", math.inf)
    bounds = " ".join([*([f">= {low:g}"] if low > -math.inf else []), *([f"<= {high:g}"] if high < math.inf else [])])
    return _found(low <= value <= high, f"{name} = {value:.4g} ({bounds})")


def _last(values: Floats, least: int = FEW) -> float | None:
    """Mean of the finite ones of the last tenth; None where there are too few."""
    finite = values[np.isfinite(values)]
    return float(np.mean(finite[-max(1, len(finite) // 10) :])) if len(finite) >= least else None


def _first(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.mean(finite[: max(1, len(finite) // 10)])) if len(finite) >= FEW else None


def _reward_models(facts: Facts) -> list[Path]:
    return [Path(str(r["path"])) for r in facts.rewards if r.get("type") == "model" and r.get("path")]


# -- before -----------------------------------------------------------------------------------------------------------------------


def start_converged(facts: Facts, limits: Limits) -> Found:
    """By the metrics of the run that the model came from: the last two evaluations against the first one."""
    model = Path(str(facts.config.get("model", "")))
    run = model.parent
    losses = load(run / "metrics.jsonl").points("eval/loss")[1] if (run / "metrics.jsonl").is_file() else np.empty(0)
    if len(losses) < 3 or not np.isfinite(losses[[0, -2, -1]]).all():
        return _unknown(f"{model}: eval/loss -")
    fell, whole = float(losses[-2] - losses[-1]), float(losses[0] - min(losses[-1], losses[-2]))
    share = fell / whole if whole > 0 else 0.0
    return _found(share <= limits["change"], f"eval/loss {losses[0]:.4g} ... {losses[-2]:.4g}, {losses[-1]:.4g}")


def annotators_agree(facts: Facts, limits: Limits) -> Found:
    for path in ("agreement.krippendorff_alpha", "agreement.alpha_ordinal"):
        if (value := facts.told(path)) is not None:
            return _within(value, limits, path)
    return _unknown("agreement: -")


def reward_model_accuracy(facts: Facts, limits: Limits) -> Found:
    if facts.verb == "reward":
        return _within(facts.told("reward_model.accuracy"), limits, "reward_model.accuracy")
    models = _reward_models(facts)
    told = [(p, read_json(p / "keel_reward.json").get("accuracy")) for p in models]
    known = [(p, float(a)) for p, a in told if isinstance(a, int | float)]
    if not known or len(known) < len(models):
        return _unknown("; ".join(f"{p}: accuracy -" for p in models) or "rewards: no model")
    worst, accuracy = min(known, key=lambda x: x[1])
    return _within(accuracy, limits, f"{worst}: accuracy")


def pairs(facts: Facts, limits: Limits) -> Found:
    if facts.verb in ("reward", "prefer"):
        found = facts.told("labels.pairs") or facts.told("pairs") or facts.told("data.train.records")
        return _within(found, limits, "pairs")
    counts = [read_json(p.parent / "summary.json").get("pairs") for p in _reward_models(facts)]
    known = [float(n) for n in counts if isinstance(n, int | float)]
    return _within(min(known), limits, "pairs") if known else _unknown("pairs: -")


def held_out(facts: Facts, limits: Limits) -> Found:
    share, every, tokens = facts.config.get("held_out"), facts.setting("loop.eval_every"), facts.setting("loop.eval_tokens")
    there = isinstance(share, Mapping) or (isinstance(share, int | float) and share > 0)
    said = "file" if isinstance(share, Mapping) else share
    return _found(
        there and bool(every or tokens), f"held_out = {said}, loop.eval_every = {every or 0:g}, loop.eval_tokens = {tokens or 0:g}"
    )


def hidden_measure(facts: Facts, limits: Limits) -> Found:
    if facts.verb not in RL:
        return NOT_RL
    names = [str(r.get("name") or r.get("type")) for r in facts.rewards if r.get("weight", 1) == 0]
    return _found(bool(names), f"weight 0: {', '.join(names) or '-'}")


def gaming_detectors(facts: Facts, limits: Limits) -> Found:
    if facts.verb not in RL:
        return NOT_RL
    priced = [str(r["type"]) for r in facts.rewards if r.get("type") in ("gaming", "diversity", "rules")]
    audit, red = facts.setting("settings.tracking.audit.every") or 0, facts.setting("settings.tracking.red_team.every") or 0
    said = f"rewards: {', '.join(priced) or '-'}; settings.tracking.audit.every = {audit:g}; settings.tracking.red_team.every = {red:g}"
    return _found(bool(priced or audit or red), said)


def hallucination_priced(facts: Facts, limits: Limits) -> Found:
    pictures = facts.told("data.train.images")
    if not pictures:
        return _unknown("data.train.images: -")
    priced = [r for r in facts.rewards if r.get("type") == "hallucination" and r.get("weight", 1) != 0]
    return _found(bool(priced), f"data.train.images = {pictures:g}; rewards: {'hallucination' if priced else '-'}")


def alarms_on(facts: Facts, limits: Limits) -> Found:
    watch = facts.config.get("settings", {}).get("watch", {})
    defaults, files, rules = watch.get("defaults", True), watch.get("files") or (), watch.get("rules") or ()
    said = f"settings.watch: defaults = {str(defaults).lower()}, files {len(files)}, rules {len(rules)}"
    return _found(bool(defaults or files or rules), said)


def way_back(facts: Facts, limits: Limits) -> Found:
    every, steps = facts.setting("settings.checkpoint.every"), facts.setting("loop.steps") or facts.told("steps")
    if every is None or steps is None:
        return _unknown("settings.checkpoint.every, loop.steps: -")
    return _found(every < steps, f"settings.checkpoint.every = {every:g}, loop.steps = {steps:g}")


def learning_rate(facts: Facts, limits: Limits) -> Found:
    return _within(facts.setting("optim.lr"), limits, "optim.lr") if facts.verb in RL else NOT_RL


def kl_price(facts: Facts, limits: Limits) -> Found:
    return _of_algorithm(facts, limits, "kl_coef")


def clip(facts: Facts, limits: Limits) -> Found:
    bounds = facts.algorithm.get("clip")
    if not bounds:
        return _unknown(f"algorithm {facts.algorithm.get('name', '')}: clip -")
    ok = all(limits["least"] <= float(b) <= limits["most"] for b in bounds)
    return _found(ok, f"{facts.algorithm['name']}: clip {bounds} ({limits['least']:g} ... {limits['most']:g})")


def critic_rate(facts: Facts, limits: Limits) -> Found:
    actor, critic = facts.setting("optim.lr"), facts.setting("critic_optim.lr")
    if not facts.algorithm.get("critic") or not actor or critic is None:
        return _unknown("critic: -")
    return _within(critic / actor, limits, "critic_optim.lr / optim.lr")


def epochs(facts: Facts, limits: Limits) -> Found:
    return _of_algorithm(facts, limits, "epochs")


def _of_algorithm(facts: Facts, limits: Limits, name: str) -> Found:
    value = facts.algorithm.get(name)
    return _within(None if value is None else float(value), limits, f"algorithm: {name}")


# -- during -----------------------------------------------------------------------------------------------------------------------

REWARD, KL, GRAD = ("reward", "objective/rlhf_reward"), ("objective/kl",), ("grad_norm",)


def reward_rises(facts: Facts, limits: Limits) -> Found:
    values = facts.of(*REWARD)
    before, now = _first(values), _last(values)
    return _unknown("reward: -") if before is None or now is None else _found(now > before, f"reward {before:.4g} ... {now:.4g}")


def reward_regular(facts: Facts, limits: Limits) -> Found:
    """A peak is a step that is so many times the usual change away from the one before."""
    values = facts.of(*REWARD)
    if len(values) < FEW:
        return _unknown("reward: -")
    if not np.isfinite(values).all():
        return _found(False, f"reward: {int((~np.isfinite(values)).sum())} not finite")
    changes = np.diff(values)
    usual = float(np.median(np.abs(changes))) * 1.4826  # the deviation of normal noise by its median
    far = float(np.max(np.abs(changes))) / usual if usual > 0 else 0.0
    return _found(far <= limits["spreads"], f"reward: |change| <= {far:.3g} x ({limits['spreads']:g} x)")


def kl_range(facts: Facts, limits: Limits) -> Found:
    whole = _last(facts.of(*KL))
    if whole is None:
        token, length = _last(facts.of("kl")), _last(facts.of("completions/mean_length"))
        whole = None if token is None or length is None else token * length
    return _within(whole, limits, "KL per answer")


def length_range(facts: Facts, limits: Limits) -> Found:
    return _within(_last(facts.of("completions/mean_length")), limits, "completions/mean_length")


def gradient_steady(facts: Facts, limits: Limits) -> Found:
    values = facts.of(*GRAD)
    if len(values) < FEW:
        return _unknown("grad_norm: -")
    return _within(float(np.max(np.where(np.isfinite(values), values, np.inf))), limits, "max(grad_norm)")


def variety(facts: Facts, limits: Limits) -> Found:
    values = facts.of("completions/distinct_2", "completions/unique_token_ratio")
    before, now, entropy = _first(values), _last(values), _last(facts.of("entropy", "objective/entropy"))
    if before is None or now is None or before <= 0:
        return _unknown("completions/distinct_2: -")
    said = f"completions/distinct_2 {before:.3g} ... {now:.3g}" + (f", entropy {entropy:.3g}" if entropy is not None else "")
    return _found(now >= limits["least"] * before and (entropy is None or entropy >= limits["entropy"]), said)


def not_gamed(facts: Facts, limits: Limits) -> Found:
    if len(facts.of("eval/gold", "eval/reward")) < 3 or len(facts.of(*REWARD)) < FEW:
        return _unknown("eval/reward: < 3")
    found = [s for s in diagnose(facts.metrics) if s.name == "reward up, held-out down"]
    return _found(not found, found[0].evidence if found else "eval/reward")


def no_alarm(facts: Facts, limits: Limits) -> Found:
    if facts.folder is None or alarms_on(facts, limits).status == "fail":
        return _unknown(alarms_on(facts, limits).evidence)
    grave = sorted({str(e.get("rule")) for e in facts.events if e.get("level") == "critical" and e.get("rule")})
    return _found(not grave, f"critical: {', '.join(grave) or 0}")


def device_use(facts: Facts, limits: Limits) -> Found:
    return _unknown("use of the device is not measured")


def people_look(facts: Facts, limits: Limits) -> Found:
    tasks = sum(1 for _ in audits.rows(facts.folder)) if facts.folder is not None else 0
    return Found("for a person", f"audit/: {tasks} tasks" if tasks else "")


# -- after ------------------------------------------------------------------------------------------------------------------------


def came_to_its_end(facts: Facts, limits: Limits) -> Found:
    if facts.folder is None or "steps" not in facts.summary:
        return _unknown("summary.json: -")
    lost = facts.summary.get("never_recovered")
    return _found(not lost, str(lost) if lost else f"steps = {facts.summary['steps']}")


def what_is_saved(facts: Facts, limits: Limits) -> Found:
    """``saved``: of ``final/`` read again, beside the model that was trained."""
    return _within(facts.told("saved.kl"), {"most": limits["most"]}, "saved.kl")


def best_checkpoint(facts: Facts, limits: Limits) -> Found:
    best = facts.config.get("loop", {}).get("best")
    return _found(bool(best), f"loop.best = {best.get('metric') or 'on' if isinstance(best, Mapping) else '-'}")


def beats_the_start(facts: Facts, limits: Limits) -> Found:
    rate = facts.summary.get("win_rate")
    if not isinstance(rate, Mapping) or not isinstance(rate.get("low"), int | float):
        return _unknown("win_rate: -")
    said = f"win_rate {rate['mean']:.3g} [{rate['low']:.3g}, {rate['high']:.3g}]"
    if rate["low"] <= limits["least"] <= rate["high"]:
        return _unknown(said)
    return _found(rate["low"] > limits["least"], said)


def ability_kept(facts: Facts, limits: Limits) -> Found:
    return _within(facts.told("retention.ratio"), limits, "retention.ratio")


CHECKS: Mapping[str, Check] = {
    f.__name__: f
    for f in (
        start_converged,
        annotators_agree,
        reward_model_accuracy,
        pairs,
        held_out,
        hidden_measure,
        gaming_detectors,
        hallucination_priced,
        alarms_on,
        way_back,
        learning_rate,
        kl_price,
        clip,
        critic_rate,
        epochs,
        reward_rises,
        reward_regular,
        kl_range,
        length_range,
        gradient_steady,
        variety,
        not_gamed,
        no_alarm,
        device_use,
        people_look,
        came_to_its_end,
        what_is_saved,
        best_checkpoint,
        beats_the_start,
        ability_kept,
    )
}
