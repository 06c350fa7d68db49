"""Rules as data: when they begin, when they are over, what they say of themselves, what a checkpoint keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from keel.core.config import checked
from keel.core.errors import ConfigError
from keel.runs.checkpoints import _from_json, _to_json
from keel.watch.config import Rule, WatchConfig
from keel.watch.engine import Finding, Watch

Rows = Sequence[Mapping[str, float]]


class Judge:
    """A watch with these rules alone, and all that it says."""

    def __init__(self, *rules: Mapping[str, Any], settings: Mapping[str, Any] | None = None, **config: Any) -> None:
        self.told: list[Finding] = []
        self.said: list[str] = []
        given = {"defaults": False, "rules": rules, **config}
        self.watch = Watch(WatchConfig.model_validate(given), self.told.append, settings, self.said.append)
        self.watch.begin()

    def see(self, rows: Rows, first: int = 1) -> list[tuple[int, str]]:
        """Step and state of what is told of the rows."""
        for step, row in enumerate(rows, first):
            self.watch.check(step, row)
        return [(f.step, f.state) for f in self.told]


def kl(*values: float) -> list[dict[str, float]]:
    return [{"kl": value} for value in values]


HIGH = {"name": "high", "expr": "kl > 2"}


def test_it_begins_after_for_steps_and_is_over_with_the_condition():
    assert Judge({**HIGH, "for": 2}).see(kl(3, 1, 3, 3, 3, 1, 3)) == [(4, "firing"), (6, "resolved")]


def test_keep_for_bridges_a_short_pause():
    rows = kl(3, 1, 1, 3, 1, 1, 1, 3)
    assert Judge(HIGH).see(rows) == [(1, "firing"), (2, "resolved"), (4, "firing"), (5, "resolved"), (8, "firing")]
    assert Judge({**HIGH, "keep_for": 2}).see(rows) == [(1, "firing"), (7, "resolved"), (8, "firing")]


def test_an_evaluation_of_the_same_step_does_not_count_twice():
    judge = Judge({"name": "both", "expr": "kl > 2 and eval/reward < 1", "for": 2})
    judge.watch.check(1, {"kl": 3.0})
    judge.watch.check(1, {"eval/reward": 0.5})
    assert judge.told == [], "absent at the step, one step with its evaluation"
    judge.watch.check(2, {"kl": 3.0})
    assert [f.step for f in judge.told] == [2]
    assert judge.told[0].text == "kl = 3, eval/reward = 0.5 (kl > 2 and eval/reward < 1 for 2 steps)"
    judge.watch.check(2, {"eval/reward": 1.5})
    assert [(f.step, f.state) for f in judge.told] == [(2, "firing"), (2, "resolved")]


def test_what_became_false_and_true_again_within_a_step_speaks_again():
    judge = Judge({"name": "both", "expr": "kl > 2 and eval/reward < 1"})
    for row in ({"kl": 3.0, "eval/reward": 0.5}, {"eval/reward": 2.0}, {"eval/reward": 0.5}):
        judge.watch.check(0, row)
    assert [f.state for f in judge.told] == ["firing", "resolved", "firing"]


def test_only_rules_of_level_critical_are_critical_and_only_above_info_alarms():
    judge = Judge(HIGH, {"name": "grave", "expr": "x/a > 0", "level": "critical"}, {"name": "hint", "expr": "x/b > 0", "level": "info"})
    assert (judge.watch.critical, judge.watch.alarmed) == ([], False)
    judge.watch.check(1, {"x/b": 1.0})
    assert (judge.watch.critical, judge.watch.alarmed) == ([], False)
    judge.watch.check(2, {"kl": 3.0})
    assert (judge.watch.critical, judge.watch.alarmed) == ([], True)
    judge.watch.check(3, {"x/a": 3.0, "kl": 1.0})
    assert (judge.watch.critical, judge.watch.alarmed) == (["grave"], True)


def test_what_is_not_there_is_not_shown_beside_what_is():
    judge = Judge({"name": "either", "expr": "kl > 2 or kl_point > 2"}, {"name": "range", "expr": "kl < 1 or kl > 2"})
    judge.see(kl(3))
    assert [f.text for f in judge.told] == ["kl = 3 (kl > 2 or kl_point > 2)", "kl = 3 (kl < 1 or kl > 2)"]


def test_a_rule_is_judged_only_where_one_of_its_metrics_is_there():
    assert Judge({**HIGH, "for": 2}).see([{"kl": 3.0}, {}, {"x": 1.0}, {"kl": 3.0}]) == [(4, "firing")]


def test_what_asks_for_what_is_not_there_is_judged_always():
    judge = Judge({"name": "no-evaluation", "expr": "age(eval/reward) > 2"}, {"name": "none", "expr": "absent(reward)", "for": 2})
    judge.see([{"eval/reward": 1.0}, {"x": 1.0}, {"reward": 1.0}, {"x": 1.0}])
    assert [(f.rule, f.step, f.state) for f in judge.told] == [
        ("none", 2, "firing"),
        ("none", 3, "resolved"),
        ("no-evaluation", 4, "firing"),
    ]


def test_a_rule_with_a_pattern_is_one_for_each_metric():
    judge = Judge({"name": "flat", "expr": "max(`rewards/*/std`, 2) == 0"})
    judge.see([{"rewards/a/std": 0.0, "rewards/b/std": 1.0}, {"rewards/a/std": 0.0, "rewards/b/std": 0.0}, {"rewards/b/std": 0.0}])
    assert [(f.key, f.metric, f.step) for f in judge.told] == [
        ("flat|rewards/a/std", "rewards/a/std", 2),
        ("flat|rewards/b/std", "rewards/b/std", 3),
    ]
    assert judge.told[0].text == "rewards/a/std = 0 (max(`rewards/*/std`, 2) == 0)"


def test_what_does_not_act_says_what_it_would_have_done(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  - {name: high, expr: kl > 2, act: rollback, level: critical, page: docs/x.md}\n")
    for act in (False, True):
        judge = Judge(files=(str(file),), act=act)
        assert judge.watch.check(1, {"kl": 3.0}).action == ("rollback" if act else "continue")
        assert [(f.act, f.would, f.page) for f in judge.told] == [("rollback", "", "docs/x.md") if act else ("", "rollback", "docs/x.md")]
        assert judge.watch.critical == ["high"]
    own = Judge({**HIGH, "act": "rollback"}, files=(str(file),))
    assert own.watch.check(1, {"kl": 3.0}).action == "rollback", "a recipe's own rule acts"


def test_verdicts_of_several_rules():
    acts = [{"name": act, "expr": f"x/{act} > 0", "act": act} for act in ("lower_lr", "raise_kl", "pause", "rollback", "stop")]
    for names, action, changes in (
        (["lower_lr"], "adjust", ("lower_lr",)),
        (["raise_kl", "lower_lr"], "adjust", ("lower_lr", "raise_kl")),
        (["lower_lr", "pause"], "pause", ("lower_lr",)),
        (["lower_lr", "raise_kl", "pause"], "pause", ("lower_lr", "raise_kl")),
        (["lower_lr", "rollback"], "rollback", ()),  # which makes changes of its own
        (["pause", "rollback"], "rollback", ()),
        (["rollback", "stop"], "stop", ()),
        ([], "continue", ()),
    ):
        verdict = Judge(*acts).watch.check(1, {f"x/{n}": 1.0 for n in names})
        assert (verdict.action, verdict.changes) == (action, changes)
        assert all(f"x/{n} = 1 (> 0)" in verdict.reason for n in names if action in (n, "adjust"))
        assert all((f"x/{n} = 1 (> 0)" in verdict.why_changed) == (n in changes) for n in names)


def test_a_change_of_settings_is_made_once_as_long_as_the_rule_speaks():
    judge = Judge({**HIGH, "act": "lower_lr"})
    assert [judge.watch.check(i, row).action for i, row in enumerate(kl(3, 3, 1, 3), 1)] == ["adjust", "continue", "continue", "adjust"]
    judge = Judge({**HIGH, "act": "rollback"})
    assert [judge.watch.check(i, row).action for i, row in enumerate(kl(3, 3), 1)] == ["rollback", "rollback"]


def test_a_setting_is_found_by_the_end_of_its_path_and_a_missing_one_is_told_at_the_start():
    recipe = {"algorithm.kl.control.target": 0.5, "algorithm.name": "ppo", "optim.lr": 1.0, "critic_optim.lr": 2.0, "data.path": "x"}
    rules = [{"name": n, "expr": f"kl > {e}"} for n, e in (("a", "4 * $kl.target"), ("b", "$kl.tarket"), ("c", "$lr"), ("d", "$optim.lr"))]
    judge = Judge(*rules, settings=recipe)
    assert judge.said == [
        "rule 'b' is silent: the recipe has no number kl.tarket; did you mean $target?",
        "rule 'c' is silent: $lr may be optim.lr or critic_optim.lr: write more of the path",
    ]
    judge.see(kl(3))
    assert [f.rule for f in judge.told] == ["a", "d"]
    assert Judge({"name": "own", "expr": "kl > $watch.max_kl_per_token"}, max_kl_per_token=5.0).see(kl(4, 6)) == [(2, "firing")]


def test_a_pattern_that_was_found_is_not_missed_and_settings_are_shown_as_numbers():
    judge = Judge({"name": "flat", "expr": "`r/*` > $a.b * $a"}, settings={"a": 2, "a.b": 3})
    judge.see([{"r/x": 7.0}])
    assert (judge.said, judge.watch.unheard()) == ([], [])
    assert judge.told[0].text == "r/x = 7 (> 3 * 2)"


def test_a_metric_that_no_step_reports_is_told_after_the_first_one_and_of_evaluations_after_the_first_evaluation():
    rules = [{"name": n, "expr": f"{m} > 0"} for n, m in (("a", "objective/kll"), ("b", "eval/rewrad"), ("c", "`x/*`"), ("d", "kl"))]
    judge = Judge(*rules)
    judge.see([{"kl": -1.0, "objective/kl": 1.0}] * 3)
    nothing = "has nothing to look at so far: no step or evaluation reported a metric"
    told = [f"rule 'a' {nothing} 'objective/kll'; did you mean objective/kl?", f"rule 'c' {nothing} 'x/*'"]
    assert judge.said == told
    judge.watch.check(3, {"eval/reward": 1.0})
    assert judge.said == [*told, f"rule 'b' {nothing} 'eval/rewrad'; did you mean eval/reward?"]
    assert len(judge.watch.unheard()) == 3


def test_the_watch_goes_on_from_its_state_wherever_it_is_cut():
    rules = [
        {"name": "fall", "expr": "(max(mean(kl, 2)) - mean(kl, 2)) > 1", "for": 2, "keep_for": 1},
        {"name": "flat", "expr": "std(`r/*`, 2) == 0"},
        {"name": "old", "expr": "age(eval/x) > 1 and kl > first(kl, 1)"},
        {"name": "nan", "expr": "not finite(kl)"},
    ]
    rows = [
        {"kl": v, "r/a": float(i // 3)} | ({"eval/x": 1.0} if i % 4 == 0 else {})
        for i, v in enumerate([5, 7, 2, 1, math.nan, 0, 9, 9, 1, 0.5])
    ]
    whole = Judge(*rules)
    whole.see(rows)
    assert {f.rule for f in whole.told} == {"fall", "flat", "old", "nan"}
    for cut in range(len(rows) + 1):
        first, second = Judge(*rules), Judge(*rules)
        first.see(rows[:cut])
        second.watch.load_state(_from_json(json.loads(json.dumps(_to_json(first.watch.state(), "watch"), allow_nan=False))))
        second.see(rows[cut:], cut + 1)
        assert repr([*first.told, *second.told]) == repr(whole.told), cut


def test_a_rule_that_was_changed_meanwhile_begins_anew_and_old_states_are_read():
    first, second = Judge({**HIGH, "for": 2}), Judge({"name": "high", "expr": "kl > 1", "for": 2}, HIGH | {"name": "new"})
    first.see(kl(3))
    second.watch.load_state(first.watch.state())
    second.see(kl(3), 2)
    assert [f.rule for f in second.told] == ["new"]
    second.watch.load_state({"high|kl": 2})
    assert not second.watch.alarmed


def test_the_short_form_and_the_old_levels_mean_the_same():
    old = Rule.model_validate({"name": "a", "metric": "kl", "compare": ">", "threshold": 2, "for_steps": 3, "level": "rollback"})
    new = Rule.model_validate({"name": "a", "expr": "kl > 2", "for": 3, "level": "critical", "act": "rollback"})
    assert (old.condition, old.for_steps, old.level, old.act) == (new.condition, new.for_steps, new.level, new.act)
    assert (
        Rule.model_validate({"name": "a", "metric": "rewards/*/std", "compare": "==", "threshold": -0.1}).condition
        == "`rewards/*/std` == -0.1"
    )
    assert Rule.model_validate({"name": "a", "metric": "loss", "compare": "non-finite"}).condition == "not finite(loss)"
    assert Rule.model_validate(new.model_dump()) == new


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"name": "a"}, "rule 'a' needs a condition"),
        ({"name": "a", "expr": "kl > 2", "metric": "kl"}, "rule 'a' needs a condition: expr, or metric with compare"),
        ({"name": "a", "metric": "kl"}, "metric kl needs compare"),
        ({"name": "a", "expr": "kl > 2", "threshold": 3}, "compare and threshold belong to metric"),
        ({"name": "a", "expr": "kl > 2", "for": 1, "for_steps": 2}, "are one setting"),
        ({"name": "a", "expr": "kl > 2", "level": "stop", "act": "pause"}, "are at odds: write level: critical, act: pause"),
        ({"name": "a", "expr": "kl > 2", "always": True}, "`always` is about `act`"),
        ({"name": "a", "expr": "kl >> 2"}, "rule 'a': expected a metric, a number or a bracket, got '>' (position 5)"),
        ({"name": "a", "expr": "`a/*` > `b/*`"}, "one pattern in a rule, not 2"),
        ({"name": "a", "expr": "mean(kll, 3) > 2"}, "there is no metric 'kll'; did you mean 'kl'?"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as caught:
        checked(WatchConfig, {"rules": [rule]})
    assert words in str(caught.value)


def test_two_rules_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two rules have the name 'high'"):
        WatchConfig.model_validate({"rules": [HIGH, HIGH]})


def test_a_rule_that_spoke_is_not_called_silent():
    """One of two metrics is enough for an `or`; that the other one never came is told at the start, and not as silence at the end."""
    either = {"name": "either", "expr": "kl > 2 or objective/kl > 9"}
    judge = Judge(either, {"name": "both", "expr": "kl > 2 and objective/kl > 9"})
    judge.see(kl(1, 3))
    assert [f.rule for f in judge.told] == ["either"]
    missing = "no step or evaluation reported a metric 'objective/kl'"
    assert judge.said == [f"rule '{n}' is without a part of its condition so far: {missing}" for n in ("either", "both")]
    assert judge.watch.unheard() == [f"rule 'both' never spoke: {missing}"]
    resumed = Judge(either)
    resumed.watch.load_state(json.loads(json.dumps(judge.watch.state())))
    resumed.see(kl(1), 3)
    assert resumed.watch.unheard() == []
    early = Judge(either)
    before = early.watch.state()
    early.see(kl(3))
    early.watch.load_state(before)  # the run goes back: what was told was told
    assert early.watch.unheard() == []
    old = {name: value for name, value in judge.watch.state().items() if name != "spoke"}
    resumed = Judge(either)
    resumed.watch.load_state(old)
    assert resumed.watch.unheard() == [], "it speaks still"


def test_names_in_any_script():
    """In an expression, as a metric, in a pattern; with what is no sign of a name in backticks."""
    name = "rewards/正确/mean"
    rules = [
        {"name": "a", "expr": f"{name} < 0.5 and 长度 > 3"},
        {"name": "b", "metric": name, "compare": "<", "threshold": 0.5},
        {"name": "c", "metric": "rewards/*/mean", "compare": "<", "threshold": 0.5},
        {"name": "d", "metric": "rewards/正确（严格）/mean", "compare": "<", "threshold": 0.5},
        {"name": "e", "metric": "récompense", "compare": "<", "threshold": 0.5},
    ]
    judge = Judge(*rules)
    judge.see([{name: 0.25, "长度": 4.0, "rewards/正确（严格）/mean": 0.25, "récompense": 0.25}])
    assert [(f.rule, f.metric) for f in judge.told][:2] == [("a", name), ("b", name)]
    assert sorted(f.rule for f in judge.told) == ["a", "b", "c", "c", "d", "e"]
    assert judge.said == []
    assert next(f.text for f in judge.told if f.rule == "b") == f"{name} = 0.25 (< 0.5)"
