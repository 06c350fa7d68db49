"""Files of rules: those that come with Keel pass their own tests and have a page each, in two languages; how tests are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from keel.core.errors import ConfigError
from keel.watch.config import WatchConfig
from keel.watch.expressions.parser import parse
from keel.watch.replay import alarms, replay, run_test, series, steps_of
from keel.watch.rule_files import SHIPPED, RuleFile, RuleTest, read_rules, resolve

ROOT = Path(__file__).parents[2]
PAGES = ("docs/alarms.md", "docs/alarms.zh.md")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_rules_that_come_with_keel_pass_their_own_tests(name: str):
    file = read_rules(name)
    assert {test.name: run_test(file, test) for test in file.tests} == {test.name: [] for test in file.tests}
    assert len(file.tests) > 4


@pytest.mark.parametrize("name", SHIPPED)
def test_each_limit_of_a_shipped_rule_is_tested(name: str):
    """Every rule speaks in some test of its file, but for the two that are tested beside it."""
    file = read_rules(name)
    silent = {rule.name for rule in file.rules} - {e.rule for test in file.tests for e in test.expect}
    assert silent <= {"kl-point", "imbalance", "length", "clip", "clip-ppo", "runaway-entropy"}  # tests/watch/test_watch.py


@pytest.mark.parametrize("page", PAGES)
def test_each_shipped_rule_has_a_page(page: str):
    """``page`` of a rule is an anchor in the English page; the Chinese one has the same."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {heading.lower().replace("`", "").replace(" ", "-") for heading in headings}
    for name in SHIPPED:
        for rule in read_rules(name).rules:
            file, _, anchor = rule.page.partition("#")
            assert (file, anchor) == ("docs/alarms.md", rule.name), rule.name
            assert anchor in anchors, f"{page} has no section {anchor}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_rule_that_acts_has_two_witnesses_or_a_hard_fact(name: str):
    for rule in read_rules(name).rules:
        if rule.act:
            assert rule.level == "critical"
            assert rule.always == (rule.name == "reward-failed"), "a hard fact: nothing can be trained"
            assert rule.always or len(parse(rule.condition).names) > 1, f"{rule.name} acts on one metric alone"


def test_every_limit_of_the_settings_is_one_of_a_default_rule():
    asked = {setting for rule in read_rules("default").rules for setting in parse(rule.condition).settings}
    assert asked == {f"watch.{name}" for name in WatchConfig.model_fields if name.startswith("max_")}


@pytest.mark.parametrize("page", ["docs/alarms.md", "docs/alarms.zh.md", "docs/runs.md"])
def test_what_the_pages_show_can_be_written(page: str):
    """YAML with settings is valid, and rule files pass their own tests."""
    shown = re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    seen = 0
    for content in map(yaml.safe_load, shown):
        if "settings" in content:
            WatchConfig.model_validate(content["settings"]["watch"])
            seen += 1
        elif "rules" in content:
            file = RuleFile.model_validate(content)
            assert [run_test(file, test) for test in file.tests] == [[]] * len(file.tests)
            seen += 1
    assert seen


def test_series_by_hand():
    assert series("1 -2.5 _ 1e2") == [1.0, -2.5, None, 100.0]
    assert series("1x2") == [1.0] * 3, "one, and two more of it"
    assert series("1+2x3 5-0.5x2") == [1.0, 3.0, 5.0, 7.0, 5.0, 4.5, 4.0]
    assert series("_x2 7") == [None, None, None, 7.0]
    assert [repr(v) for v in series("NaN Inf -inf")] == ["nan", "inf", "-inf"]
    for wrong in ("1xx2", "a", "_+1x2", "1+x2", "1,2", "1x99999999"):
        with pytest.raises(ConfigError, match="a series of a test"):
            series(wrong)


def test_rows_of_a_test_end_with_the_longest_series():
    test = RuleTest(name="t", series={"a": "1 2", "b": "_ _ 3"})
    assert steps_of(test) == [(1, {"a": 1.0}), (2, {"a": 2.0}), (3, {"b": 3.0})]


RULES = """
rules:
  - {name: high, expr: kl > 2, for: 2}
tests:
  - name: mine
    series: {kl: 1 3 3 3 1}
    expect: [{rule: high, step: STEP, resolved: 5}]
"""


def test_a_test_that_fails_says_what_came_instead(tmp_path: Path):
    file = tmp_path / "rules.yaml"
    for step, problems in (
        (3, []),
        (2, ["expected, and not there: high at step 2, over at step 5", "not expected: high at step 3, over at step 5"]),
    ):
        file.write_text(RULES.replace("STEP", str(step)))
        read = read_rules(str(file))
        assert run_test(read, read.tests[0]) == problems


def test_mistakes_in_a_file_are_told_with_their_place(tmp_path: Path):
    file = tmp_path / "rules.yaml"
    for text, words in (
        (RULES.replace("STEP", "3").replace("kl > 2", "kl >> 2"), "position 5"),
        (RULES.replace("STEP", "3").replace("rule: high", "rule: hihg"), "no rule 'hihg'; did you mean 'high'?"),
        (RULES.replace("STEP", "3").replace("for: 2", "fro: 2"), "fro"),
        ("rules:\n  - {name: a, expr: kl > 1}\n  - {name: a, expr: kl > 2}\n", "two rules have the name 'a'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(words)) as caught:
            read_rules(str(file))
        assert "rules.yaml" in str(caught.value)
    with pytest.raises(ConfigError, match="there is no rule file"):
        read_rules(str(tmp_path / "none.yaml"))


def test_an_alarm_that_is_over_belongs_to_the_one_that_began():
    config = WatchConfig(defaults=False, rules=RuleFile.model_validate({"rules": [{"name": "h", "expr": "kl > 2"}]}).rules)
    rows = [(i, {"kl": v}) for i, v in enumerate([3.0, 1.0, 3.0], 1)]
    assert [(a.step, a.resolved) for a in alarms(replay(rows, config).findings)] == [(1, 2), (3, None)]


def test_files_and_own_rules_replace_by_name(tmp_path: Path):
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  - {name: gradient, expr: grad_norm > 7, act: stop}\n  - {name: more, expr: kl > 1}\n")
    rules = {r.name: r for r in resolve(WatchConfig(files=(str(file), "documents")))}
    assert rules["gradient"].condition == "grad_norm > 7"
    assert not rules["gradient"].always, "the rule of a file does not act by itself"
    assert {"more", "kl", "documents-kl"} <= rules.keys()
    own = WatchConfig.model_validate({"files": [str(file)], "rules": [{"name": "gradient", "expr": "grad_norm > 9", "act": "pause"}]})
    found = next(r for r in resolve(own) if r.name == "gradient")
    assert (found.condition, found.act, found.always) == ("grad_norm > 9", "pause", True)
