"""Why samples have no reward is known to whoever stops the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from keel.rewards.composition.rewards import Reward, RunRewards
from keel.rewards.text import OnceLog, TextSource
from keel.types import Group, Prompt

Groups = Callable[..., Group]


def picky(prompt: Prompt, text: str) -> float:
    if text == "bad":
        warn("kind", "reward failed: %s", "no price")
        return math.nan
    return math.nan if text == "silent" else 1.0


warn = OnceLog()


def test_the_first_failure_is_kept(group: Groups) -> None:
    judge = RunRewards((Reward(TextSource("picky", picky)),))
    assert judge((group("ok", "fine"),))[0].rewards_G.tolist() == [1.0, 1.0]
    assert (judge.failure, judge.all_failed) == ("", False)
    judge((group("ok", "bad"), group("silent")))
    assert judge.failure == "reward failed: no price (said once)"
    assert not judge.all_failed
    judge((group("bad", "silent"),))
    assert judge.all_failed
    assert judge.failure == "reward failed: no price (said once)"
    judge((group("ok", "bad"),))
    assert not judge.all_failed


def test_a_score_that_is_not_finite_and_a_rollout_that_failed(group: Groups) -> None:
    judge = RunRewards((Reward(TextSource("picky", picky)),))
    judge((group("silent", prompt_id="q"),))
    assert judge.failure == "reward picky failed for prompt q (file.jsonl:3): the score is nan (said once)"
    judge = RunRewards((Reward(TextSource("picky", picky)),))
    failed = group("x", prompt_id="q", failed=(0,))
    judge((replace(failed, rollouts=tuple(replace(r, finish_reason="error", error="too long") for r in failed.rollouts)),))
    assert judge.failure == "sampling failed for prompt q: too long"


@dataclass(frozen=True)
class Mute:
    """No score, and not a word about it."""

    name: str

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        return [torch.full((len(g.rollouts),), math.nan) for g in groups]


def test_of_sources_that_say_nothing_the_first_is_named(group: Groups) -> None:
    judge = RunRewards((Reward(Mute("a")), Reward(Mute("b"))))
    assert (judge.failure, judge.all_failed) == ("", False)
    judge((group("ok", prompt_id="q"),))
    assert judge.failure == "reward 'a' gave no finite score for prompt q"
    for kept in ({"failure": "x"}, {"all_failed": True}):
        with pytest.raises(TypeError):
            RunRewards((), **kept)  # type: ignore[arg-type]
