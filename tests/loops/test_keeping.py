"""Which answers are kept, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from keel.core.events import EventBus
from keel.loops.keeping import Keeper, picked
from keel.methods import rollout_units
from keel.runs.rollouts import Rollouts, files, read
from keel.types import BranchTensors, Encoded, Group, Prompt, Rollout, Unit


def rollout(prompt: str, sample: int, tokens: list[int]) -> Rollout:
    n = len(tokens)
    logprobs_T = torch.full((n,), -1.0)
    sampled_T = torch.ones(n, dtype=torch.bool)
    return Rollout(prompt, 0, sample, torch.tensor(tokens), sampled_T, logprobs_T, torch.zeros(n), "stop", f"t{tokens}")


def group(name: str, rewards: list[float], valid: list[bool]) -> Group:
    made = tuple(rollout(name, i, [i + 1, 9]) for i in range(len(rewards)))
    rewards_G = torch.tensor(rewards)
    prompt = Prompt(name, text=f"ask {name}")
    return Group(prompt, Encoded(torch.tensor([1, 2, 3])), made, rewards_G, {"rule": rewards_G * 2}, torch.tensor(valid))


GROUPS = (group("a", [1.0, 5.0], [True, False]), group("b", [0.5, 3.0], [True, True]))


def test_the_best_the_worst_and_one_of_the_others() -> None:
    """The answer with 5.0 failed. Of three that are left one is neither best nor worst."""
    assert picked(GROUPS, 3) == {(0, 0): "random", (1, 0): "worst", (1, 1): "best"}
    assert picked((group("a", [1.0], [True]),), 3) == {(0, 0): "best"}
    assert picked((group("a", [1.0], [False]),), 3) == {}


class Asked:
    """Log-probabilities: minus the token's number times ``factor``."""

    def __init__(self, factor: float) -> None:
        self.factor, self.asked = factor, 0

    def __call__(self, units: Sequence[Unit]) -> BranchTensors:
        self.asked += sum(len(u.branches) for u in units)
        return [tuple(-self.factor * b.tokens_T.float() for b in u.branches) for u in units]


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(Rollouts(tmp_path, 2, 10**6), lambda tokens: [f"<{t}>" for t in tokens], Asked(0.5), Asked(1.0))


def having(units: Sequence[Unit], *signals: Mapping[str, Tensor], keep: bool = True) -> tuple[Unit, ...]:
    """Units whose branches carry the signals of their turn (the last ones where there are no more)."""
    made: list[Unit] = []
    for k, unit in enumerate(units):
        more = signals[min(k, len(signals) - 1)]
        made.append(replace(unit, branches=tuple(replace(b, signals={**(b.signals if keep else {}), **more}) for b in unit.branches)))
    return tuple(made)


ADVANTAGES = {"advantages": torch.tensor([0.5, 2.25])}


def test_every_second_step_is_kept_with_what_each_token_was_worth(tmp_path: Path, keeper: Keeper) -> None:
    units = rollout_units(GROUPS)
    keeper.take(1, GROUPS, units, having(units, ADVANTAGES))
    assert files(tmp_path) == []
    keeper.take(2, GROUPS, units, having(units, ADVANTAGES))
    (file,) = files(tmp_path)
    rows = {row.why: row for row in read(file)}
    best = rows["best"]
    assert (best.step, best.prompt_id, best.sample, best.prompt, best.prompt_tokens) == (2, "b", 1, "ask b", 3)
    assert (best.tokens, best.pieces, best.reward, best.parts) == ([2, 9], ["<2>", "<9>"], 3.0, {"rule": 6.0})
    assert best.logprobs == {"sampler": [-1.0, -1.0], "policy": [-1.0, -4.5], "reference": [-2.0, -9.0]}
    assert best.kl == [1.0, 4.5]
    assert best.signals == {"advantages": [0.5, 2.25]}
    assert isinstance(keeper.policy, Asked)
    assert keeper.policy.asked == 3, "of the answers that are kept, no more"


def test_log_probabilities_that_training_has_are_not_asked_for(keeper: Keeper) -> None:
    told = {"old_logprobs": torch.tensor([-1.0, -2.0]), "ref_logprobs": torch.tensor([-1.0, -2.0])}
    units = having(rollout_units(GROUPS), told, keep=False)
    keeper.take(2, GROUPS, units)
    assert isinstance(keeper.policy, Asked)
    assert keeper.policy.asked == 0


def test_an_alarm_keeps_its_step(tmp_path: Path, keeper: Keeper) -> None:
    """The farthest from the reference is neither the best nor the worst: its second token is 2 nats away."""
    units = rollout_units(GROUPS)
    signals = [{"ref_logprobs": torch.tensor([-1.0, -3.0])}, {"ref_logprobs": torch.tensor([-1.0, -1.5])}]
    told = having(units, *signals)
    bus = EventBus([])
    bus.add(keeper)
    keeper.take(3, GROUPS, told)
    bus.emit("warning", 3, "stopped early", level="critical")
    bus.emit("warning", 3, "for information", rule="length", level="info")
    bus.emit("warning", 2, "of another step", rule="kl", level="warning")
    assert files(tmp_path) == [], "no rule above info spoke of this step"
    bus.emit("verdict", 3, "kl is high", rule="kl", level="critical", state="firing")
    (file,) = files(tmp_path)
    assert file.kind == "alarm"
    rows = read(file)
    assert {(row.prompt_id, row.sample) for row in rows} == {("a", 0), ("b", 0), ("b", 1)}
    assert {(row.why, row.rule) for row in rows} == {("alarmed", "kl")}
    assert [row.kl for row in rows if row.prompt_id == "a"] == [[0.0, 2.0]]


def test_an_evaluation_keeps_what_is_shown_of_it(tmp_path: Path, keeper: Keeper) -> None:
    keeper.measured(5, GROUPS, {(0, 0): "fixed", (0, 1): "worst"}, rollout_units(GROUPS))
    (file,) = files(tmp_path)
    fixed, failed = read(file)
    assert (file.kind, fixed.why, fixed.step) == ("eval", "fixed", 5)
    assert (failed.reward, "policy" in failed.logprobs, "policy" in fixed.logprobs) == (None, False, True)
