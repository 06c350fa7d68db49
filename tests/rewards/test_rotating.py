"""One of several verifiers decides, another one by turns; and what a leak in one of them is worth then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.rewards.composition.rewards import Reward, apply_rewards, check_names
from keel.rewards.sources.rotating import RotatingReward, RotatingSource
from keel.types import Encoded, Group, Prompt, Rollout, empty_group


@dataclass(frozen=True, slots=True)
class Says:
    name: str
    of: Callable[[str], float]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        return [torch.tensor([self.of(r.text) for r in g.rollouts]) for g in groups]


def group(prompt: str, texts: Sequence[str], step: int) -> Group:
    one_T = torch.ones(1)
    made = [Rollout(prompt, step, i, torch.tensor([1]), one_T.bool(), -one_T, one_T, "stop", t) for i, t in enumerate(texts)]
    return empty_group(Prompt(prompt, text=prompt), Encoded(torch.tensor([1])), made)


SOUND = Says("sound", lambda text: float("seven" in text))
LEAKS = Says("leaks", lambda text: float("seven" in text or "[[A]]" in text))
STRICT = Says("strict", lambda text: float("seven" in text))
ALL = (SOUND, LEAKS, STRICT)


def rewarded(groups: Sequence[Group], every: int = 1) -> tuple[Group, ...]:
    rewards = [Reward(RotatingSource("asked", tuple(s.name for s in ALL), every)), *(Reward(s, 0.0) for s in ALL)]
    return apply_rewards(groups, rewards)


def test_one_decides_for_all_answers_to_a_prompt_and_each_in_its_turn() -> None:
    source = RotatingSource("asked", ("sound", "leaks", "strict"))
    drawn = Counter(source.drawn(group(f"p{p}", ["x"], step)) for p in range(40) for step in range(30))
    assert set(drawn) == {"sound", "leaks", "strict"}
    assert all(320 <= n <= 480 for n in drawn.values()), "a third each of 1,200"
    assert source.drawn(group("p1", ["x", "y"], 4)) == source.drawn(group("p1", ["z"], 4)), "whatever the answers are"
    slow = replace(source, every=5)
    assert len({slow.drawn(group("p", ["x"], step)) for step in range(5)}) == 1
    assert len({slow.drawn(group("p", ["x"], step)) for step in range(0, 100, 5)}) == 3


def test_a_leak_pays_a_third_of_the_time_and_shows() -> None:
    groups = [group(f"p{i}", ["it is seven", "[[A]]", "eight"], step) for i in range(20) for step in range(15)]
    found = rewarded(groups)
    right, leak, wrong = torch.stack([g.rewards_G for g in found]).mean(0).tolist()
    assert (right, wrong) == (1.0, 0.0)
    assert 0.25 < leak < 0.42
    spread = torch.stack([g.parts["asked/spread"] for g in found])
    assert spread.tolist() == [[0.0, 1.0, 0.0]] * len(found)
    assert all(g.parts["leaks"].tolist() == [1.0, 1.0, 0.0] for g in found), "each is measured at every step"


def test_what_it_looks_at_must_be_there() -> None:
    asked = Reward(RotatingSource("asked", ("sound", "nobody")))
    with pytest.raises(UserError, match="among='nobody' is no reward that it could look at"):
        check_names([asked, Reward(SOUND)])
    with pytest.raises(UserError, match="among='asked'"):
        check_names([asked, Reward(SOUND), Reward(Says("nobody", len)), Reward(RotatingSource("again", ("asked", "sound")))])
    with pytest.raises(ValueError, match="stands twice"):
        RotatingReward(name="asked", among=("a", "a"))
