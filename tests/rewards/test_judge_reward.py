"""A judge as reward."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import ConfigError
from keel.evaluate.judge_labels import labelled
from keel.evaluate.judge_report import JudgeReportConfig, judge_report
from keel.judges.build import make_judge, read_judges
from keel.rewards.build import build_rewards
from keel.rewards.sources.judge import JudgeReward, JudgeSource
from keel.types import Message, Pair, Prompt

JUDGES = """judges:
  plain: {type: scripted}
  placed: {type: scripted, position: 5.0, hard: false}
  broken: {type: scripted, fails: 1.0}
"""


@pytest.fixture
def judges(tmp_path: Path) -> str:
    (tmp_path / "judges.yaml").write_text(JUDGES, encoding="utf-8")
    return str(tmp_path / "judges.yaml")


def source(judges: str, judge: str = "plain", **more: Any) -> JudgeSource:
    config = JudgeReward(name="j", judges=judges, judge=judge, **{"override": judge, **more})
    (reward,) = build_rewards([config], lambda _: pytest.fail("no model is loaded"))
    assert isinstance(reward.source, JudgeSource)
    return reward.source


def test_scores(judges: str, group: Any):
    made = source(judges)
    scores = made.score([group("one two three", "one", ":", failed=(1,)), group("a b")])
    assert scores[0].tolist()[0] == pytest.approx(5.5 + 0.3)  # three different words
    assert math.isnan(scores[0][1])
    assert scores[0][2] == 1.0  # hollow
    assert scores[1].tolist() == pytest.approx([5.5 + 0.2])


def test_thoughts_are_not_shown(judges: str, group: Any):
    made = source(judges)
    told, thought, unfinished = made.score([group("one two", "<think>many other words here</think>one two", "<think>one two three")])[
        0
    ].tolist()
    assert told == thought
    assert unfinished == 1.0  # there is no answer


def test_pairs_within_a_prompt(judges: str, group: Any):
    made = source(judges, how="pairwise")
    scores = made.score([group("a b c", "a b", "a", "a", failed=(3,)), group("same", "same")])
    assert scores[0].tolist()[:3] == [1.0, 0.5, 0.0]
    assert math.isnan(scores[0][3])
    assert scores[1].tolist() == [0.5, 0.5]  # nobody is asked
    placed = source(judges, "placed", how="pairwise")
    assert placed.score([group("a b c d e f", "a")])[0].tolist() == pytest.approx([0.5, 0.5], abs=0.01)  # both orders: the place cancels
    assert placed.score([group("a b c d e f", "a")])[0][0] > 0.5
    with pytest.raises(ConfigError, match="stands alone"):
        made.judge([])


def test_a_failure_is_no_score(judges: str, group: Any):
    for how in ("pointwise", "pairwise"):
        scores = source(judges, "broken", how=how).score([group("a b", "c")])[0]
        assert all(math.isnan(s) for s in scores)


def test_the_gate_stands_before_it(tmp_path: Path, judges: str):
    with pytest.raises(ConfigError, match="reward 'j': judge plain may not be a reward: it has no report"):
        source(judges, override="")
    judge = make_judge("plain", read_judges(judges))
    good, bad = (" ".join(f"word{i}" for i in range(30)), "word")
    pairs = [Pair(str(k), Prompt(str(k), text=f"q{k}"), (Message("assistant", good),), (Message("assistant", bad),)) for k in range(60)]
    settings = JudgeReportConfig(draws=100, injected_pairs=5, hollow_prompts=5)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(judge_report(judge, labelled(pairs, "f"), settings, "f")), encoding="utf-8")
    assert source(judges, override="", report=str(path)).admitted["passed"] is True
    assert source(judges).admitted["override"] is True
    assert [f.key for f in source(judges, report=str(path)).config.files()] == ["judges", "report"]


def test_what_decides_is_named(tmp_path: Path):
    (tmp_path / "j.yaml").write_text("judges: {a: {type: local, model: m}, b: {type: panel, members: [a], quorum: 1}}", encoding="utf-8")
    files = list(JudgeReward(name="j", judges=str(tmp_path / "j.yaml"), judge="b").files())
    assert [(f.key, f.path, f.is_model) for f in files] == [("judges", str(tmp_path / "j.yaml"), False), ("judges.a", "m", True)]
