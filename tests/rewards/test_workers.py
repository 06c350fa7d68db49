"""Rewards in processes of their own: what hangs or dies is a failure on record, what works keeps its place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keel.core.errors import UserError
from keel.rewards.build import comparing_source, text_source
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.settings import WorkerConfig
from keel.rewards.sources.python import REFUSED, CompareConfig, PythonReward
from keel.rewards.sources.workers import WorkerSource
from keel.rewards.text import TextSource
from keel.rewards.verifiers.regex import RegexReward
from keel.rewards.verifiers.rules import RulesReward
from keel.types import Group, Prompt

BODY = """
import os, signal, sys, time
def fn(prompt, completion):
    print("noise on standard output")
    if completion == "hang": time.sleep(600)
    if completion == "die": os.kill(os.getpid(), signal.SIGKILL)
    if completion == "exit": os._exit(0)
    if completion == "raise": raise ValueError("no such price")
    if completion == "text": return "1"
    if completion == "pid": return os.getpid()
    if completion == "why": return 0.5, "half of it"
    return len(completion) + prompt.meta.get("bonus", 0)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> WorkerSource:
    file = tmp_path_factory.mktemp("user") / "mine.py"
    file.write_text(BODY, encoding="utf-8")
    config = PythonReward(name="mine", function=f"{file}:fn", worker=WorkerConfig(processes=2, timeout_s=1.5))
    found = text_source(config)
    assert isinstance(found, WorkerSource)
    return found


def test_after_a_mistake_no_answer_of_an_earlier_question_comes_back(source: WorkerSource, prompt: Callable[..., Prompt]) -> None:
    """One worker hangs while the other's mistake ends the call: what is asked next gets its own scores, from workers of its own."""
    with pytest.raises(UserError):
        source.judge([(prompt(), "hang"), (prompt(), "text")])
    assert [float(s) for s in source.judge([(prompt(), "a"), (prompt(), "bb")])] == [1.0, 2.0]


def test_order_is_kept_and_failures_are_told_apart(source: WorkerSource, prompt: Callable[..., Prompt]) -> None:
    texts = ["a", "hang", "bb", "die", "raise", "ccc", "exit", "why", "dddd"]
    scores = source.judge([(prompt(bonus=10), t) for t in texts])
    assert [s if math.isfinite(s) else None for s in scores] == [11, None, 12, None, None, 13, None, 0.5, 14]
    assert {t: s.error for t, s in zip(texts, scores, strict=True) if s.error} == {
        "hang": "worker hung: no score after 1.5 s",
        "die": "worker died: it was ended by SIGKILL",
        "raise": "ValueError: no such price",
        "exit": "worker died: it exited with code 0",
    }
    assert scores[7].reason == "half of it"


def test_it_is_another_process_and_stays(source: WorkerSource, prompt: Callable[..., Prompt]) -> None:
    first, second = (source.judge([(prompt(), "pid")])[0] for _ in range(2))
    assert first == second != os.getpid()


def test_a_mistake_of_the_users_is_said(source: WorkerSource, prompt: Callable[..., Prompt], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.py:fn returned str for prompt p"):
        source.judge([(prompt(), "a"), (prompt(), "text"), (prompt(), "b")])
    assert [float(s) for s in source.judge([(prompt(), "xy")])] == [2.0]  # and the workers are in step again
    with pytest.raises(UserError, match="no such file"):
        text_source(PythonReward(name="mine", function=f"{tmp_path}/none.py:fn"))
    (tmp_path / "exits.py").write_text("import os\nos._exit(3)\n", encoding="utf-8")
    with pytest.raises(UserError, match="worker process cannot start: it exited with code 3"):
        text_source(PythonReward(name="mine", function=f"{tmp_path}/exits.py:fn"))


def test_a_failure_is_never_a_zero_and_leaves_its_groups_statistics(source: WorkerSource, group: Callable[..., Group]) -> None:
    (found,) = apply_rewards([group("aa", "die", "cccc")], [Reward(source)])
    assert found.valid_G.tolist() == [True, False, True]
    assert found.rewards_G[found.valid_G].tolist() == [2.0, 4.0]
    assert found.parts["mine"][1].isnan()
    with pytest.raises(UserError, match="reward 'mine' failed for prompt p, sample 1"):
        apply_rewards([group("aa", "die")], [Reward(source, on_failure="stop")])


def test_what_can_hang_is_isolated_and_what_cannot_is_not() -> None:
    assert isinstance(
        text_source(RulesReward.model_validate({"name": "r", "rules": {"forbidden": [{"name": "x", "words": ["x"]}]}})), TextSource
    )
    patterns = RulesReward.model_validate({"name": "r", "rules": {"forbidden": [{"name": "x", "patterns": ["x+"]}]}})
    assert isinstance(text_source(patterns), WorkerSource)


def test_a_pattern_that_backtracks_for_ever_is_a_failure(prompt: Callable[..., Prompt]) -> None:
    source = text_source(RegexReward(name="r", pattern=r"(a+)+$", worker=WorkerConfig(processes=1, timeout_s=1.0)))
    bad, good = source.judge([(prompt(), "a" * 40 + "b"), (prompt(), "aaa")])
    assert math.isnan(bad)
    assert bad.error == "worker hung: no score after 1 s"
    assert good == 1.0


def test_workers_end_with_their_source(prompt: Callable[..., Prompt], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BODY, encoding="utf-8")
    source = text_source(PythonReward(name="mine", function=f"{tmp_path}/mine.py:fn"))
    assert isinstance(source, WorkerSource)
    pid = int(source.judge([(prompt(), "pid")])[0])
    del source
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


class Flaky:
    """Fails a sample's first ``n`` times."""

    name = "flaky"

    def __init__(self, n: int) -> None:
        self.n, self.asked = n, []

    def score(self, groups: list[Group]) -> list:
        self.asked.append([g.valid_G.tolist() for g in groups])
        bad = len(self.asked) <= self.n
        return [[math.nan if r.text == "bad" and bad else 1.0 for r in g.rollouts] for g in groups]


def test_retry_asks_for_what_failed_alone(group: Callable[..., Group]) -> None:
    groups = [group("ok", "bad"), group("ok")]
    once = Flaky(1)
    found = apply_rewards(groups, [Reward(once, on_failure="retry", retries=2)])  # type: ignore[arg-type]
    assert [g.valid_G.tolist() for g in found] == [[True, True], [True]]
    assert once.asked == [[[True, True], [True]], [[False, True]]]
    always = Flaky(9)
    found = apply_rewards(groups, [Reward(always)], "retry")  # type: ignore[arg-type]
    assert [g.valid_G.tolist() for g in found] == [[True, False], [True]]
    assert len(always.asked) == 3


COMPARE = """
import time
def fn(prompt, first, second):
    if first == "hang": time.sleep(600)
    if first == "raise": raise ValueError("no such taste")
    if first == "none": return None
    if first in ("first", "second", "tie"): return first
    if first == "number": return 1.5
    return len(first) / (len(first) + len(second))
"""


def test_comparisons_keep_their_contract(tmp_path: Path, prompt: Callable[..., Prompt]) -> None:
    (tmp_path / "mine.py").write_text(COMPARE, encoding="utf-8")
    worker = WorkerConfig(processes=2, timeout_s=1.5, cache=str(tmp_path / "cache"))
    compare = comparing_source(CompareConfig(function=f"{tmp_path / 'mine.py'}:fn", worker=worker))
    said = compare.judge([(prompt(), (first, "b")) for first in ("aaa", "first", "second", "tie", "none", "raise", "hang")])
    assert [float(s) for s in said[:4]] == [0.75, 1.0, 0.0, 0.5]
    assert [s.reason for s in said] == ["", "", "", "", REFUSED, "", ""]
    assert [s.error for s in said[4:]] == ["the function returned None", "ValueError: no such taste", "worker hung: no score after 1.5 s"]
    with pytest.raises(UserError, match=r"returned 1\.5 for prompt"):
        compare.judge([(prompt(), ("number", "b"))])
    (tmp_path / "mine.py").write_text("def fn(prompt, first, second): return 0.25\n", encoding="utf-8")
    assert compare.judge([(prompt(), ("aaa", "b")), (prompt(), ("b", "aaa"))]) == [0.75, 0.25]  # kept; the other order is another question
    other = comparing_source(CompareConfig(function=f"{tmp_path / 'mine.py'}:fn", worker=worker))
    assert other.judge([(prompt(), ("aaa", "b"))]) == [0.25]  # another function, other scores
