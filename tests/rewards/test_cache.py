"""Scores on disk: used again by the very same reward, by no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keel.core.errors import UserError
from keel.rewards.build import build_rewards
from keel.rewards.cache import CachedTexts, ScoreCache, identity
from keel.rewards.score import Score, failure
from keel.rewards.sources.model import ModelReward
from keel.rewards.sources.python import PythonReward
from keel.rewards.text import Item, TextSource
from keel.rewards.verifiers.exact import ExactReward
from keel.rewards.verifiers.maths import MathReward
from keel.rewards.verifiers.numeric import NumericReward
from keel.rewards.verifiers.rules import RulesReward
from keel.types import Group, Prompt


class Counted:
    name = "counted"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def judge(self, items: Sequence[Item]) -> list[Score]:
        self.seen += [text for _, text in items]
        return [failure("no") if text == "bad" else Score(len(text), f"{len(text)} letters") for _, text in items]


def test_what_was_scored_is_not_scored_again(tmp_path: Path, prompt: Callable[..., Prompt]) -> None:
    inner = Counted()
    items = [(prompt(), "aa"), (prompt(), "bad"), (prompt("another"), "aa"), (prompt(ground_truth=1), "aa")]
    first = CachedTexts(inner, ScoreCache(tmp_path, "v1")).judge(items)
    again = CachedTexts(inner, ScoreCache(tmp_path, "v1")).judge(items)  # opened anew
    assert inner.seen == ["aa", "bad", "aa", "aa", "bad"]  # a failure is no score
    for a, b in zip(first, again, strict=True):
        assert a == b or (math.isnan(a) and math.isnan(b))
        assert (a.reason, a.error) == (b.reason, b.error)
    CachedTexts(inner, ScoreCache(tmp_path, "v2")).judge(items[:1])
    assert inner.seen[5:] == ["aa"]


def test_a_change_is_another_identity(tmp_path: Path) -> None:
    file, rules, model = tmp_path / "mine.py", tmp_path / "rules.yaml", tmp_path / "model"
    model.mkdir()

    def all_of() -> list[str]:
        configs = [
            PythonReward(name="a", function=f"{file}:fn"),
            RulesReward(name="b", path=str(rules)),
            ModelReward(name="c", path=str(model)),
        ]
        return [identity(c) for c in configs]

    file.write_text("def fn(p, c): return 1\n", encoding="utf-8")
    rules.write_text("length: {bands: [{score: 1}]}\n", encoding="utf-8")
    (model / "config.json").write_text("{}", encoding="utf-8")
    before = all_of()
    assert before == all_of()
    file.write_text("def fn(p, c): return 2\n", encoding="utf-8")
    rules.write_text("length: {bands: [{score: 0.5}]}\n", encoding="utf-8")
    (model / "model.safetensors").write_bytes(b"x")
    assert all(a != b for a, b in zip(before, all_of(), strict=True))


def test_settings_and_libraries_count_and_names_and_weights_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity(NumericReward(name="a", weight=2.0, on_failure="stop")) == identity(NumericReward(name="b"))
    assert identity(NumericReward(name="a", tolerance=0.1)) != identity(NumericReward(name="a"))
    assert identity(NumericReward(name="a")) != identity(ExactReward(name="a"))
    before = identity(MathReward(name="m"))
    monkeypatch.setattr("keel.rewards.cache._version", lambda name: "another")
    assert identity(MathReward(name="m")) != before


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "scores.sqlite").write_text("this is no database " * 100, encoding="utf-8")
    with pytest.raises(UserError, match="the score cache cannot be used"):
        ScoreCache(tmp_path, "v1")


def test_a_cached_source_scores_groups(tmp_path: Path, group: Callable[..., Group]) -> None:
    source = CachedTexts(TextSource("n", lambda prompt, text: float(len(text))), ScoreCache(tmp_path, "v"))
    assert source.name == "n"
    assert [s.tolist() for s in source.score([group("a", "bb"), group("ccc")])] == [[1.0, 2.0], [3.0]]


def test_a_recipe_may_keep_scores(tmp_path: Path, group: Callable[..., Group]) -> None:
    body = f"def fn(prompt, completion):\n    open({str(tmp_path / 'calls')!r}, 'a').write('.')\n    return len(completion)\n"
    (tmp_path / "mine.py").write_text(body, encoding="utf-8")
    config = {"name": "mine", "function": f"{tmp_path}/mine.py:fn", "worker": {"cache": str(tmp_path / "kept")}}
    for weight in (1.0, 2.0):
        (reward,) = build_rewards([PythonReward.model_validate({**config, "weight": weight})], lambda _: pytest.fail("no model here"))
        assert reward.source.score([group("aa", "b", "aa")])[0].tolist() == [2.0, 1.0, 2.0]
    assert (tmp_path / "calls").read_text(encoding="utf-8") == "..."  # by the first alone
