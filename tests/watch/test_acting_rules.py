"""What may act: a hard fact, or two witnesses. Properties of every shipped rule file, whatever its thresholds are."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

import keel.watch.rules as shipped
from keel.watch.config import Rule, WatchConfig
from keel.watch.engine import Finding, Watch
from keel.watch.expressions.parser import parse
from keel.watch.names import direction
from keel.watch.rule_files import read_rules

FILES = sorted(Path(p).stem for p in Path(next(iter(shipped.__path__))).glob("*.yaml"))
HARD = {"completions/failed_ratio"}  # that nothing was rewarded is a fact, not a limit somebody chose
FACTS = [(file, rule) for file in FILES for rule in read_rules(file).rules]
ACTING = [(file, rule) for file, rule in FACTS if rule.act]
SETTINGS = {"algorithm.kl.control.target": 0.1, "algorithm.kl.coef": 0.1}


def healthy(name: str, step: int) -> float:
    """A metric of a run that learns: near its reference, diverse, and better with every step."""
    if name.endswith(("failed_ratio", "refused_ratio", "frac_reward_zero_std")) or name.startswith("red_team/"):
        return 0.0
    if "kl" in name.split("/")[-1]:
        return 0.02
    if "entropy" in name:
        return 2.0
    if direction(name) == "max":
        return 0.1 + 0.01 * step
    return {"completions/mean_length": 60.0, "reward_std": 0.3, "grad_norm": 1.0, "loss": 0.5}.get(name, 0.01)


def wild(draw: random.Random) -> float:
    return draw.choice([math.nan, math.inf, -math.inf, 0.0, 1e9, -1e9, draw.gauss(0, 1000), draw.gauss(0, 1), abs(draw.gauss(0, 50))])


def findings(rules: tuple[Rule, ...], series: Mapping[int, Mapping[str, float]], act: bool) -> tuple[list[Finding], set[str]]:
    told: list[Finding] = []
    watch = Watch(WatchConfig(defaults=False, rules=rules, act=act), told.append, SETTINGS)
    verdicts = {watch.check(step, metrics).action for step, metrics in series.items()}
    return told, verdicts


def test_there_are_rules_that_act() -> None:
    assert {"default"} <= {file for file, _ in ACTING}


@pytest.mark.parametrize(("file", "rule"), ACTING, ids=lambda x: x if isinstance(x, str) else x.name)
def test_one_witness_alone_never_makes_a_rule_act(file: str, rule: Rule) -> None:
    """Each of its metrics in turn goes wild, the others are those of a run that learns."""
    names = sorted(parse(rule.condition).names)
    if set(names) <= HARD:
        return
    assert len(names) >= 2, f"{file}: {rule.name} acts on {names} alone"
    for alone in names:
        for seed in range(25):
            draw = random.Random(f"{rule.name} {alone} {seed}")
            evaluated = draw.randint(1, 4)
            series = {
                step: {
                    name: wild(draw) if name == alone and step > 12 else healthy(name, step)
                    for name in names
                    if not name.startswith("eval/") or step % evaluated == 0
                }
                for step in range(1, 60)
            }
            told, _ = findings((rule,), series, act=True)
            assert not told, f"{file}: {rule.name} acts on {alone} alone: {told[0].text}"


@pytest.mark.parametrize(("file", "rule"), [x for x in ACTING if x[1].always], ids=lambda x: x if isinstance(x, str) else x.name)
def test_only_hard_facts_act_without_being_asked(file: str, rule: Rule) -> None:
    assert set(parse(rule.condition).names) <= HARD, f"{file}: {rule.name}"
    assert rule.for_steps >= 3, "once may be chance"


@pytest.mark.parametrize("file", FILES)
def test_by_default_nothing_is_done_whatever_metrics_say(file: str) -> None:
    """Every metric of every shipped rule goes wild at once, but for the hard facts."""
    names = sorted({name for _, rule in FACTS for name in parse(rule.condition).names} - HARD)
    for seed in range(10):
        draw = random.Random(seed)
        told: list[Finding] = []
        watch = Watch(WatchConfig(files=() if file == "default" else (file,)), told.append, SETTINGS)
        for step in range(1, 80):
            metrics = {name: wild(draw) for name in names if draw.random() < 0.9}
            assert watch.check(step, metrics | {"completions/failed_ratio": 0.0}).action == "continue"
        assert told, "nothing spoke: the test shows nothing"


def test_two_witnesses_do_act_where_they_are_let() -> None:
    """The other side of it: the shipped rules are not silent for ever."""
    spoke: set[str] = set()
    for _, rule in ACTING:
        for kl, entropy, reward, failed in ((9.0, 0.01, -1.0, 0.0), (9.0, 2.0, -1.0, 0.0), (0.0, 2.0, 0.5, 1.0)):
            series = {
                step: {
                    "kl": kl if step > 12 else 0.02,
                    "objective/kl": 100 * kl if step > 12 else 0.02,
                    "entropy": entropy if step > 12 else 2.0,
                    "reward": reward if step > 12 else 0.5,
                    "reward_std": 0.3,
                    "completions/failed_ratio": failed if step > 12 else 0.0,
                    **({"eval/reward": reward if step > 12 else 0.5} if step % 4 == 0 else {}),
                }
                for step in range(1, 60)
            }
            spoke |= {f.rule for f in findings((rule,), series, act=True)[0]}
    assert spoke == {rule.name for _, rule in ACTING}
