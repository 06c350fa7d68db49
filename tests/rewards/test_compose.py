"""Weighted sums by hand; a failure is never a low score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.segments import SegmentedModel
from keel.rewards.sources.ensemble import EnsembleSource
from keel.rewards.sources.model import ModelReward, ModelSource
from keel.rewards.text import TextSource
from keel.types import Group

NAN = float("nan")


@dataclass(frozen=True)
class Given:
    """A source that returns what it was given: [G] for each group."""

    name: str
    values: Sequence[Sequence[float]]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        return [torch.tensor(v) for v in self.values]


def test_weighted_sum_and_unweighted_parts(group: Callable) -> None:
    rewards = [Reward(Given("model", [[1.0, -2.0], [0.5]]), 2.0), Reward(Given("rules", [[0.25, 1.0], [0.0]]), -1.0)]
    first, second = apply_rewards([group("a", "b"), group("c", prompt_id="q")], rewards)
    assert first.rewards_G.tolist() == [1.75, -5.0]
    assert second.rewards_G.tolist() == [1.0]
    assert first.parts["rules"].tolist() == [0.25, 1.0]
    assert first.rewards_G.dtype == torch.float32
    assert first.valid_G.tolist() == [True, True]


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
def test_a_failed_score_makes_the_sample_invalid(bad: float, group: Callable) -> None:
    rewards = [Reward(Given("a", [[1.0, bad, 3.0]])), Reward(Given("b", [[1.0, 1.0, 1.0]]))]
    (found,) = apply_rewards([group("x", "y", "z")], rewards)
    assert found.valid_G.tolist() == [True, False, True]
    assert found.rewards_G.tolist() == [2.0, 0.0, 4.0]
    assert found.parts["a"].isnan().tolist() == [False, True, False]


def test_stop_names_reward_prompt_and_sample(group: Callable) -> None:
    with pytest.raises(UserError, match="reward 'judge' failed for prompt q, sample 1"):
        apply_rewards([group("x", "y", prompt_id="q")], [Reward(Given("judge", [[1.0, NAN]]))], "stop")


def test_a_failed_rollout_stays_invalid_and_does_not_stop(group: Callable) -> None:
    for on_failure in ("drop_sample", "stop"):
        (found,) = apply_rewards([group("x", "y", failed=(0,))], [Reward(Given("a", [[NAN, 1.0]]))], on_failure)
        assert found.valid_G.tolist() == [False, True]
    (found,) = apply_rewards([group("x", "y", failed=(0,))], [Reward(Given("a", [[7.0, 1.0]]))])
    assert found.rewards_G.tolist() == [0.0, 1.0]


def test_the_input_is_left_as_it_was(group: Callable) -> None:
    given = group("x", "y")
    apply_rewards([given], [Reward(Given("a", [[NAN, 1.0]]))])
    assert given.valid_G.tolist() == [True, True]
    assert given.parts == {}


def test_names_stand_once(group: Callable) -> None:
    with pytest.raises(UserError, match="several rewards are named 'a'"):
        apply_rewards([group("x")], [Reward(Given("a", [[1.0]])), Reward(Given("a", [[1.0]]))])


def test_one_score_a_rollout(group: Callable) -> None:
    with pytest.raises(AssertionError, match="one score a rollout"):
        apply_rewards([group("x", "y")], [Reward(Given("a", [[1.0]]))])


def test_a_text_source_reads_prompt_and_text_and_no_failed_rollout(group: Callable) -> None:
    seen: list[str] = []

    def length(prompt: object, text: str) -> float:
        seen.append(text)
        return len(text)

    (found,) = TextSource("length", length).score([group("one", "three", "failed", failed=(2,))])
    assert found.tolist()[:2] == [3.0, 5.0]
    assert found[2].isnan()
    assert seen == ["one", "three"]


class Mended:
    """Fails for its first sample until it was asked often enough; a sample that is asked for again gets a score of that call."""

    name = "mended"

    def __init__(self, failures: int):
        self.failures, self.asked = failures, []

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        self.asked.append([g.valid_G.tolist() for g in groups])
        first = NAN if len(self.asked) <= self.failures else 5.0
        return [torch.tensor([first, float(len(self.asked))]) for _ in groups]


def test_only_what_failed_is_asked_again(group: Callable) -> None:
    """Samples that did not fail keep their first score; a failed rollout is not asked again; the default is two more tries."""
    groups = [group("a", "b"), group("c", "d", failed=(0,), prompt_id="q")]
    source = Mended(1)
    first, second = apply_rewards(groups, [Reward(source)], "retry")
    assert source.asked == [[[True, True], [False, True]], [[True, False]]]
    assert (first.rewards_G.tolist(), second.rewards_G.tolist()) == ([5.0, 1.0], [0.0, 1.0])
    for failures, tries, valid in ((2, 3, True), (3, 3, False)):
        source = Mended(failures)
        (found,) = apply_rewards([group("a", "b")], [Reward(source)], "retry")
        assert (len(source.asked), found.valid_G.tolist()) == (tries, [valid, True])
    source = Mended(9)
    (found,) = apply_rewards([group("a", "b")], [Reward(source)])
    assert (len(source.asked), found.valid_G.tolist()) == (1, [False, True])


def test_details_of_a_source_stand_beside_its_part(group: Callable) -> None:
    class Told(Mended):
        details: Mapping[str, Sequence[Tensor]] = MappingProxyType({"length": (torch.tensor([7.0, 8.0]),), "of_others": ()})

    (found,) = apply_rewards([group("a", "b")], [Reward(Told(0))])
    assert {name: part.tolist() for name, part in found.parts.items()} == {"mended": [5.0, 1.0], "mended/length": [7.0, 8.0]}


class Telling:
    """Fails for sample 1 at first, and tells how often it was asked when it judged a sample; of what it is not asked, nothing."""

    name = "telling"

    def __init__(self) -> None:
        self.calls = 0
        self.details: dict[str, list[Tensor]] = {}

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        self.calls += 1
        self.details = {"call": [torch.where(g.valid_G, float(self.calls), NAN) for g in groups]}
        scores = [torch.where(g.valid_G, 1.0, NAN) for g in groups]
        if self.calls == 1:
            scores[-1][1] = NAN
        return scores


def test_what_was_told_of_the_others_stands_when_one_is_asked_again(group: Callable) -> None:
    groups = [group("a", "b"), group("c", "d", "e", prompt_id="q")]
    first, second = apply_rewards(groups, [Reward(Telling())], "retry")
    assert first.parts["telling/call"].tolist() == [1.0, 1.0]
    assert second.parts["telling/call"].tolist() == [1.0, 2.0, 1.0]
    assert second.rewards_G.tolist() == [1.0, 1.0, 1.0]


def test_a_source_that_says_the_same_again_is_asked_once(group: Callable) -> None:
    class Sure(Mended):
        repeats = True

    source = Sure(1)
    (found,) = apply_rewards([group("a", "b")], [Reward(source)], "retry")
    assert (len(source.asked), found.valid_G.tolist()) == (1, [False, True])
    assert all(kind.repeats for kind in (ModelSource, EnsembleSource, SegmentedModel))
    with pytest.raises(ValueError, match="on_failure=retry would have no effect"):
        ModelReward(name="rm", path="x", on_failure="retry")
    assert [ModelReward(name="rm", path="x", on_failure=way).on_failure for way in ("drop_sample", "stop", None)] == [
        "drop_sample",
        "stop",
        None,
    ]
