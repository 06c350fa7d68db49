from __future__ import annotations

import json
import math
import random

import pytest

from keel.watch.config import Rule, WatchConfig
from keel.watch.engine import Finding, Watch
from keel.watch.expressions.parser import parse
from keel.watch.names import ANSWER, TOKEN, UNITS
from keel.watch.rule_files import read_rules, resolve


def watch(**settings: object) -> tuple[Watch, list[Finding]]:
    """The watch, and what begins to speak."""
    told: list[Finding] = []
    return Watch(WatchConfig.model_validate(settings), lambda f: told.append(f) if f.state == "firing" else None), told


@pytest.mark.parametrize(
    ("metrics", "steps", "rule"),
    [
        ({"grad_norm": 101.0}, 1, "gradient"),
        ({"entropy": 0.09}, 3, "entropy"),
        ({"frac_reward_zero_std": 1.0}, 5, "no-signal"),
        ({"clip_ratio/region_mean": 0.31}, 3, "clip"),
        ({"policy/clipfrac_avg": 0.31}, 3, "clip-ppo"),
        ({"loss": math.nan}, 1, "loss-non-finite"),
        ({"reward": math.inf}, 1, "reward-non-finite"),
    ],
)
def test_default_warnings_speak_once_and_in_time(metrics: dict[str, float], steps: int, rule: str):
    guard, told = watch()
    for step in range(1, steps):
        assert guard.check(step, metrics).action == "continue"
    assert told == []
    for step in range(steps, steps + 4):
        assert guard.check(step, metrics).action == "continue"
    assert [(f.rule, f.step, f.level) for f in told] == [(rule, steps, "warning")]


LIMITS = [  # rule, its metric, the last value that is in order, one that is not, steps until it speaks
    ("kl", "kl", 2.0, 2.01, 3),
    ("kl-ppo", "objective/kl", 100.0, 100.1, 3),
    ("kl-point", "kl_point", 100.0, 100.1, 3),
    ("reward-failed", "completions/failed_ratio", 0.99, 1.0, 3),
    ("gradient", "grad_norm", 100.0, 100.1, 1),
    ("gradient-non-finite", "skipped_steps", 0.0, 0.1, 1),
    ("no-update", "lr", 1e-9, 0.0, 3),
    ("imbalance", "trend/grad_norm/imbalance", 200.0, 200.1, 5),
    ("entropy", "entropy", 0.1, 0.09, 3),
    ("no-signal", "frac_reward_zero_std", 0.89, 0.91, 5),
    ("clip", "clip_ratio/region_mean", 0.3, 0.31, 3),
    ("clip-ppo", "policy/clipfrac_avg", 0.3, 0.31, 3),
    ("loss-non-finite", "loss", -1e9, -math.inf, 1),
    ("reward-non-finite", "reward", 0.0, math.nan, 1),
    ("red-team", "red_team/win_rate", 0.5, 0.51, 2),
]


@pytest.mark.parametrize(("name", "metric", "fine", "not_fine", "steps"), LIMITS, ids=[row[0] for row in LIMITS])
def test_each_default_limit_is_where_it_is_said_to_be(name: str, metric: str, fine: float, not_fine: float, steps: int):
    quiet, nothing = watch()
    for step in range(20):
        quiet.check(step, {metric: fine})
    assert (nothing, quiet.alarmed) == ([], False)
    guard, told = watch()
    for step in range(1, 9):
        guard.check(step, {metric: not_fine})
    assert [(f.rule, f.step) for f in told] == [(name, steps)]


def test_every_default_rule_has_its_limit_above_or_is_tested_in_its_file():
    """Those that are relative to a run's own beginning need a run."""
    in_file = {expected.rule for test in read_rules("default").tests for expected in test.expect}
    assert {rule.name for rule in resolve(WatchConfig())} == {row[0] for row in LIMITS} | in_file


def test_a_rule_that_acts_alarms_from_its_first_step_on_and_no_longer_than_it_holds():
    guard, _ = watch(rules=(ACTS,))
    assert not guard.alarmed, "before the first step"
    seen = []
    for step, kl in enumerate([1.0, 3.0, 1.0, 3.0, 3.0, 3.0, 1.0]):
        guard.check(step, {"kl": kl})
        seen.append(guard.alarmed)
    assert seen == [False, True, False, True, True, True, False]


def test_the_harder_of_two_verdicts_is_given():
    rules = (ACTS.model_copy(update={"for_steps": 1}), Rule(name="end", metric="z", compare=">", threshold=0.0, level="stop"))
    guard, _ = watch(rules=rules)
    assert guard.check(0, {"kl": 3.0, "z": 1.0}).action == "stop"
    assert guard.check(1, {"kl": 3.0, "z": 0.0}).action == "rollback"


def test_what_is_told_has_the_steps_it_took():
    twice = Rule(name="twice", metric="x", compare="<=", threshold=0.0, for_steps=2, message="look")
    guard, told = watch(rules=(ACTS, twice, Rule(name="once", metric="y", compare="non-finite")))
    for step in range(2):
        guard.check(step, {"x": 0.0})
    assert told.pop().text == "x = 0 (<= 0 for 2 steps): look"
    guard.load_state({})
    for step in range(3):
        guard.check(step, {"kl": 3.0, "y": math.inf})
    assert [f.text for f in told] == ["y = inf (not finite(y))", "kl = 3 (> 2 for 3 steps)"]


def test_what_is_told_shows_the_limit_as_a_number():
    guard, told = watch(max_kl_per_token=1.5)
    for step in range(3):
        guard.check(step, {"kl": 3.0})
    assert told[0].text.startswith("kl = 3 (kl > 1.5 and (absent(reward) or ")
    assert "for 3 steps): the policy runs away from its reference" in told[0].text


def test_healthy_metrics_are_silent():
    guard, told = watch()
    healthy = {
        "loss": 0.4,
        "reward": 0.0,
        "kl": 0.05,
        "grad_norm": 1.0,
        "entropy": 1.5,
        "completions/mean_length": 40.0,
        "frac_reward_zero_std": 0.5,
    }
    assert {guard.check(step, healthy).action for step in range(20)} == {"continue"}
    assert told == []


ACTS = Rule(name="kl", metric="kl", compare=">", threshold=2.0, for_steps=3, level="rollback")


def test_a_default_rule_changes_no_run_but_one_whose_samples_all_fail():
    """Each rule on metrics with which it speaks, for a hundred steps; then the same with `act: true`."""
    for act in (False, True):
        acting: dict[str, set[str]] = {}
        for rule in resolve(WatchConfig()):
            guard, told = watch(act=act)
            for step, row in enumerate(BEYOND.get(rule.name) or beyond(rule)):
                action = guard.check(step, row).action
                if action != "continue":
                    acting.setdefault(rule.name, set()).add(action)
            assert rule.name in [f.rule for f in told], rule.name
            assert all(f.would == ("" if f.act else guard.rules[f.rule].act) for f in told)
        more = {"runaway-held-out": {"rollback"}, "runaway-entropy": {"rollback"}} if act else {}
        assert acting == {"reward-failed": {"stop"}, **more}


def beyond(rule: Rule) -> list[dict[str, float]]:
    """A hundred steps with the rule's own metric beyond its limit."""
    ((metric, value),) = [(metric, not_fine) for name, metric, _, not_fine, _ in LIMITS if name == rule.name]
    return [{metric: value}] * 100


BEYOND = {
    "no-update": [{"lr": 0.0}] * 100,
    "gradient-non-finite": [{"grad_norm": math.nan}] * 100,
    "kl-jump": [{"kl": 0.1 if step < 20 else 9.0} for step in range(100)],
    "entropy-jump": [{"entropy": 2.0 if step < 20 else 0.1} for step in range(100)],
    "entropy-fall": [{"entropy": 2.0 * 0.9**step, "reward": 0.5, "reward_std": 0.3} for step in range(100)],
    "gradient-jump": [{"grad_norm": 1.0 if step < 60 else 90.0} for step in range(100)],
    "length": [{"completions/mean_length": 50.0 if step < 20 else 1.0} for step in range(100)],
    "length-up": [{"completions/mean_length": 50.0 + 9 * step, "completions/reward_length_corr": 0.9} for step in range(100)],
    "gold-gap": [
        {"reward": 0.1 * step, "reward_std": 0.3, "eval/rewards/gold/mean": -0.1 * step, "eval/rewards/gold/std": 0.5}
        for step in range(100)
    ],
    "train-test-gap": [{"reward": 0.1 * step, "reward_std": 0.3, "eval/reward": 0.0} for step in range(100)],
    "stale": [{"sampling/staleness/mean": max(0.0, step - 20.0)} for step in range(100)],
    "sampler-apart": [{"sampling/sampling_logp_difference/mean": 1e-6 if step < 30 else 0.5} for step in range(100)],
    "prompts-drift": [{"prompts/surprise": 2.0 if step < 30 else 5.0, "prompts/mean_length": 9.0} for step in range(100)],
    "critic": [{"loss/value_avg": 0.1 if step < 40 else 9.0} for step in range(100)],
    "collapse": [{"reward": 1.0 if step < 20 else 0.0, "reward_std": 0.1} for step in range(100)],
    "reward-plunge": [{"reward": 1.0 if step < 20 else 0.0, "reward_std": 0.1} for step in range(100)],
    "entropy-pushed": [
        {"entropy": 2.0 * 0.95**step, "reward": 1.0, "reward_max": 1.0, "reward_min": 0.0, "frac_reward_zero_std": 0.9}
        for step in range(100)
    ],
    "held-out-gap": [{"reward": 0.1 * step, "eval/reward": -0.1 * step} for step in range(100)],
    "runaway-held-out": [{"kl": 9.0, "eval/reward": 0.5} for _ in range(100)],
    "runaway-entropy": [{"kl": 9.0 if step > 9 else 0.0, "entropy": 0.01, "reward": 0.1} for step in range(100)],
}


def noisy(seed: int, steps: int, prompts: int) -> list[dict[str, float]]:
    """A policy that stands still on few prompts, most of which it either masters or not: the mean reward of a step is mostly chance."""
    rng, rows = random.Random(seed), list[dict[str, float]]()
    for _ in range(steps):
        shares = [sum(rng.random() < p for _ in range(8)) / 8 for p in (rng.betavariate(0.3, 0.3) for _ in range(prompts))]
        spread = sum(math.sqrt(s * (1 - s) * 8 / 7) for s in shares) / prompts
        rows.append({"reward": sum(shares) / prompts, "reward_std": spread, "entropy": 0.4 + rng.gauss(0, 0.02), "kl": 0.05})
    return rows


def test_few_and_unlike_prompts_are_no_collapse():
    """4,000 steps in which nothing happens, of 8 prompts: rules on falls of the reward allow for the noise of a batch. Then one comes."""
    spoke = 0
    for seed in range(4):
        guard, told = watch()
        for step, row in enumerate(noisy(seed, 1000, 8)):
            guard.check(step, row)
        spoke += sum(f.state == "firing" for f in told)
    assert spoke <= 4, "at most 1 in 1,000 steps"
    guard, told = watch()
    rows = noisy(0, 40, 16)
    for step, row in enumerate([*rows, *({**row, "reward": 0.0, "reward_std": 0.0} for row in rows[:8])]):
        guard.check(step, row)
    assert next((f.rule, f.step) for f in told if f.state == "firing") in [("reward-plunge", 41), ("reward-plunge", 42)]


def test_kl_rolls_back_after_three_steps_in_a_row():
    guard, told = watch(rules=(ACTS,))
    values = [3.0, 3.0, 1.0, 3.0, 3.0, 3.0]
    verdicts = [guard.check(step, {"kl": kl}) for step, kl in enumerate(values)]
    assert [v.action for v in verdicts] == ["continue"] * 5 + ["rollback"]
    assert verdicts[-1].reason.startswith("kl = 3 (> 2 for 3 steps)")
    assert len(told) == 1


@pytest.mark.parametrize(("metric", "fires", "silent"), [("kl", 2.5, 1.5), ("objective/kl", 120.0, 60.0), ("kl_point", 120.0, 60.0)])
def test_each_kl_has_a_limit_in_its_own_unit(metric: str, fires: float, silent: float):
    """60 nats are a lot for a token and little for an answer of a few hundred tokens."""

    def speaks(value: float, **settings: float) -> bool:
        guard, told = watch(**settings)
        for step in range(3):
            guard.check(step, {metric: value})
        return bool(told)

    assert speaks(fires)
    assert not speaks(silent)
    for setting, unit in (("max_kl_per_token", TOKEN), ("max_kl_per_sequence", ANSWER)):
        assert speaks(1.2, **{setting: 1.0}) == (UNITS[metric] == unit)


def test_limits_in_nats_are_about_metrics_of_that_unit():
    """A limit that a setting gives moves the threshold of rules on metrics of its own unit, and of no other."""
    for setting, unit in (("max_kl_per_token", TOKEN), ("max_kl_per_sequence", ANSWER)):
        reads = [parse(r.condition) for r in resolve(WatchConfig())]
        moved = {n for e in reads if f"watch.{setting}" in e.settings for n in e.names if n in UNITS and n != "entropy"}
        assert moved
        assert {UNITS[metric] for metric in moved} == {unit}


def test_steps_without_any_reward_stop_the_run():
    guard, told = watch()
    ratios = [1.0, 1.0, 0.9, 1.0, 1.0, 1.0]
    assert [guard.check(i, {"completions/failed_ratio": r}).action for i, r in enumerate(ratios)] == ["continue"] * 5 + ["stop"]
    assert [(f.rule, f.level, f.act) for f in told] == [("reward-failed", "critical", "stop")]


def test_alarmed_as_long_as_a_warning_holds():
    guard, told = watch(rules=(Rule(name="hint", metric="x", compare=">", threshold=0, level="info"),))
    seen = []
    for step, loss in enumerate([1.0, 1.0, math.nan, math.nan, 1.0]):
        guard.check(step, {"loss": loss, "x": 1.0})
        seen.append(guard.alarmed)
    assert seen == [False, False, True, True, False]
    assert [f.rule for f in told] == ["hint", "loss-non-finite"]


def test_a_rule_speaks_again_after_it_was_over():
    guard, told = watch()
    for step, norm in enumerate([200.0, 200.0, 1.0, 200.0]):
        guard.check(step, {"grad_norm": norm})
    assert [f.step for f in told] == [0, 3]


def test_a_missing_metric_neither_breaks_nor_lengthens_a_streak():
    guard, _ = watch(rules=(ACTS,))
    assert [guard.check(i, m).action for i, m in enumerate([{"kl": 3.0}, {}, {"kl": 3.0}, {}, {"kl": 3.0}])][-1] == "rollback"


def test_own_rules_replace_defaults_by_name_and_take_patterns():
    own = (
        Rule(name="gradient", metric="grad_norm", compare=">", threshold=5.0, level="stop"),
        Rule(name="flat", metric="rewards/*/std", compare="==", threshold=0.0, message="says nothing"),
    )
    rules = resolve(WatchConfig(rules=own))
    assert [r.threshold for r in rules if r.name == "gradient"] == [5.0]
    assert rules[-1].name == "flat"
    assert [r.name for r in resolve(WatchConfig(defaults=False, rules=own))] == ["gradient", "flat"]
    guard, told = watch(rules=own)
    verdict = guard.check(1, {"grad_norm": 6.0, "rewards/a/std": 0.0, "rewards/b/std": 0.0, "rewards/b/mean": 0.0})
    assert verdict.action == "stop"
    assert sorted((f.rule, f.metric) for f in told) == [("flat", "rewards/a/std"), ("flat", "rewards/b/std"), ("gradient", "grad_norm")]
    assert next(f.text for f in told if f.metric == "rewards/b/std") == "rewards/b/std = 0 (== 0): says nothing"


def test_watch_goes_on_from_its_state():
    metrics = [{"kl": 20.0}] * 3
    undisturbed, _ = watch(rules=(ACTS,))
    wanted = [undisturbed.check(i, m) for i, m in enumerate(metrics)]
    first, _ = watch(rules=(ACTS,))
    head = [first.check(0, metrics[0]), first.check(1, metrics[1])]
    second, _ = watch(rules=(ACTS,))
    second.load_state(json.loads(json.dumps(first.state())))
    assert [*head, second.check(2, metrics[2])] == wanted
    assert wanted[-1].action == "rollback"


@pytest.mark.parametrize(("metric", "near"), [("kll", "kl"), ("rewrad", "reward"), ("grad_nrom", "grad_norm"), ("los", "loss")])
def test_a_rule_on_a_misspelt_metric_is_refused_with_a_suggestion(metric: str, near: str):
    with pytest.raises(ValueError, match=f"there is no metric '{metric}'; did you mean '{near}'"):
        Rule(name="mine", metric=metric, compare=">")
    Rule(name="mine", metric=near, compare=">")


def test_a_rule_whose_metric_never_came_is_told():
    own = [Rule(name=n, metric=m, compare=">", threshold=9.0) for n, m in (("a", "eval/rewrad"), ("b", "eval/reward"), ("c", "critic/*"))]
    guard, _ = watch(rules=own)
    guard.check(1, {"reward": 0.0, "eval/reward": 0.0})
    assert guard.unheard() == [
        "rule 'a' never spoke: no step or evaluation reported a metric 'eval/rewrad'; did you mean eval/reward?",
        "rule 'c' never spoke: no step or evaluation reported a metric 'critic/*'",
    ]
