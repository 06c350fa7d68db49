"""Several rewards as one: hand-computed numbers, identities, state."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

from keel.core.errors import ConfigError
from keel.methods.credit.estimators import batch_normalised, group_normalised
from keel.rewards.composition import combine
from keel.rewards.composition.combine import Relations
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.config import CompositionConfig
from keel.rewards.composition.rewards import Reward, RunRewards, apply_rewards
from keel.rewards.text import TextSource
from keel.types import Group

Groups = Callable[..., Group]


def composer(weights: Mapping[str, float] | None = None, **settings: object) -> Composer:
    return Composer(CompositionConfig.model_validate(settings), weights or {"a": 1.0, "b": 2.0})


def combined(one: Composer, valid: tuple[bool, ...] = (True, True), **parts: tuple[float, ...]) -> list[float]:
    return one.combine({k: torch.tensor(v) for k, v in parts.items()}, torch.tensor(valid)).tolist()


A, B = (0.5, 1.0), (0.25, -1.0)


def test_sum_product_and_worst_by_hand() -> None:
    assert combined(composer(), a=A, b=B) == [1.0, -1.0]
    assert combined(composer(how="min"), a=A, b=B) == [0.5, -2.0]  # 2 * 0.25 = 0.5
    assert combined(composer({"a": 1.0, "b": 0.0}, how="min"), a=A, b=B) == [0.5, 1.0]  # weight 0: not there
    assert combined(composer(how="product"), a=(0.5, 1.0), b=(0.25, 0.5)) == pytest.approx([0.5 * 0.25**2, 0.25])
    assert combined(composer(how="product", floor=0.1), a=(0.0, 1.0), b=(1.0, 0.0)) == pytest.approx([0.1, 0.01])


def test_the_default_is_the_weighted_sum_that_stands_without_a_composer(group: Groups) -> None:
    rewards = [Reward(TextSource("n", lambda p, t: float(len(t))), 0.5), Reward(TextSource("m", lambda p, t: -1.0 if t == "bb" else 1.0))]
    groups = [group("a", "bb", "ccc", failed=(2,))]
    with_composer = apply_rewards(groups, rewards, combine=composer({"n": 0.5, "m": 1.0}).combine)[0]
    plain = apply_rewards(groups, rewards)[0]
    assert with_composer.rewards_G.tolist() == plain.rewards_G.tolist() == [1.5, 0.0, 0.0]


def test_invalid_samples_have_no_part_in_it() -> None:
    nan = math.nan
    assert combined(composer(), (True, False), a=(1.0, nan), b=(1.0, 5.0)) == [3.0, 0.0]
    three = combined(composer(normalise="group"), (True, True, False), a=(0.0, 1.0, nan), b=(3.0, 3.0, 9.0))
    two = combined(composer(normalise="group"), a=(0.0, 1.0), b=(3.0, 3.0))
    assert three[:2] == two
    assert three[2] == 0.0


# --- GDPO -------------------------------------------------------------------------------------------------------------------------


def test_gdpo_tells_apart_what_a_normalised_sum_does_not() -> None:
    """Two rewards of 0 and 1 (the paper's example): one of two sources right, and both, give different advantages; the sum's do not."""
    one_right = combined(composer({"a": 1.0, "b": 1.0}, normalise="group"), a=(0.0, 1.0), b=(0.0, 0.0))
    both_right = combined(composer({"a": 1.0, "b": 1.0}, normalise="group"), a=(0.0, 1.0), b=(0.0, 1.0))
    z = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert one_right == pytest.approx([-z, z])
    assert both_right == pytest.approx([-2 * z, 2 * z])
    sums = torch.tensor([0.0, 1.0, 0.0, 2.0])
    assert group_normalised(sums, torch.tensor([0, 0, 1, 1])).tolist() == pytest.approx([-z, z, -z, z], abs=2e-4)
    over_all = batch_normalised(torch.tensor([*one_right, *both_right]), torch.tensor([0, 0, 1, 1]))
    assert (over_all / over_all[1]).tolist() == pytest.approx([-1, 1, -2, 2])
    assert float(over_all.std()) == pytest.approx(1.0, abs=1e-3)


def test_gdpo_belongs_with_its_normalisation() -> None:
    from keel.verbs.rl.recipe import RLRecipe

    base = {"model": "tiny:llama", "data": {"path": "x"}, "rewards": [{"type": "finished", "name": "a"}]}
    RLRecipe.model_validate({**base, "algorithm": {"name": "gdpo"}, "composition": {"normalise": "group"}})
    with pytest.raises(ValueError, match=r"gdpo normalises each reward[\s\S]*composition.normalise=group"):
        RLRecipe.model_validate({**base, "algorithm": {"name": "gdpo"}})
    with pytest.raises(ValueError, match="'group_normalised' would undo it"):
        RLRecipe.model_validate({**base, "algorithm": {"name": "grpo"}, "composition": {"normalise": "group"}})
    with pytest.raises(ValueError, match="samples is 1"):
        RLRecipe.model_validate({**base, "algorithm": {"name": "gdpo"}, "composition": {"normalise": "group"}, "samples": 1})


# --- weights ----------------------------------------------------------------------------------------------------------------------


def test_weights_may_depend_on_a_score() -> None:
    gate = {"source": "a", "threshold": 0.5, "below": {"a": 0.6, "b": 0.2}, "above": {"a": 0.3, "b": 0.4}}
    assert combined(composer(gate=gate), a=(0.4, 0.5), b=(1.0, 1.0)) == pytest.approx([0.6 * 0.4 + 0.2, 0.3 * 0.5 + 0.4])


def test_weights_may_depend_on_the_run() -> None:
    one = composer(phases=[{"until": 0.5, "weights": {"a": 9.0}}, {"until": 0.8, "weights": {"b": 7.0}}])
    found = []
    for progress in (0.0, 0.49, 0.5, 0.8, 1.0):
        one.begin(progress)
        found.append(one.weights())
    assert found == [{"a": 9, "b": 2}, {"a": 9, "b": 2}, {"a": 1, "b": 7}, {"a": 1, "b": 2}, {"a": 1, "b": 2}]


def scored(group: Groups, **parts: tuple[float, ...]) -> Group:
    n = len(next(iter(parts.values())))
    tensors = {k: torch.tensor(v) for k, v in parts.items()}
    return replace(group(*["x"] * n), parts=tensors, rewards_G=sum(tensors.values()))  # type: ignore[arg-type]


def test_learned_weights_follow_what_lacks(group: Groups) -> None:
    one = composer({"a": 1.0, "b": 1.0}, learned={"levels": {"a": 0.5}, "window": 2, "factor": 2.0, "entropy": 0.0})
    low, high = scored(group, a=(0.2, 0.4), b=(0.0, 0.0)), scored(group, a=(1.0, 1.0), b=(0.0, 0.0))
    assert one.learn([low])["composition/weight/a"] == pytest.approx(1.0)  # what held in this step
    assert one.weights()["a"] == pytest.approx(1.0)  # the window is not whole yet
    one.learn([low])
    assert one.weights() == pytest.approx({"a": 4 / 3, "b": 2 / 3})  # 2 : 1 of a whole of 2
    one.learn([high])  # mean of the last two: 0.65
    assert one.weights() == pytest.approx({"a": 4 / 3, "b": 2 / 3})


def test_entropy_draws_weights_together() -> None:
    moved = combine.next_log_weights(torch.tensor([0.0, 2.0]), torch.tensor([False, False]), 1.1, 0.5)
    assert moved.tolist() == [0.5, 1.5]


# --- constraints ------------------------------------------------------------------------------------------------------------------


def test_a_constraint_rises_until_it_holds(group: Groups) -> None:
    one = composer({"a": 1.0, "b": 0.0}, constraints=[{"source": "b", "at_least": 0.5, "lr": 1.0, "start": 1.0, "high": 1.5}])
    assert combined(one, a=(1.0, 1.0), b=(0.5, 1.0)) == pytest.approx([(1 + 0) / 2, (1 + 0.5) / 2])
    assert one.learn([scored(group, a=(1.0, 1.0), b=(0.2, 0.0))])["composition/multiplier/b"] == 1.0
    assert one.multipliers == pytest.approx([1.4])  # 1 + (0.5 - 0.1)
    one.learn([scored(group, a=(1.0, 1.0), b=(0.0, 0.0))])
    assert one.multipliers == [1.5]  # the ceiling
    one.learn([scored(group, a=(1.0, 1.0), b=(3.0, 3.0))])
    assert one.multipliers == [0.0]  # never below 0
    assert combined(one, a=(1.0, 2.0), b=(0.0, 0.0)) == [1.0, 2.0]
    one.learn([replace(group("x"), parts={"a": torch.tensor([math.nan]), "b": torch.tensor([math.nan])}, valid_G=torch.tensor([False]))])
    assert one.multipliers == [0.0]  # nothing was measured


def test_among_normalised_scores_a_constraint_weighs_what_is_above_the_mean() -> None:
    """Their mean is 0 whatever the level; what failed gets nothing."""
    one = composer({"a": 1.0, "b": 0.0}, normalise="group", constraints=[{"source": "b", "at_least": 5.0, "start": 1.0}])
    z = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert combined(one, a=(0.0, 1.0), b=(1.0, 0.0)) == pytest.approx([(-z + z) / 2, (z - z) / 2])
    found = combined(one, (True, True, False), a=(0.0, 1.0, 9.0), b=(0.0, 1.0, 9.0))
    assert found == pytest.approx([-z, z, 0.0])


def test_what_was_not_measured_moves_nothing() -> None:
    one = composer({"a": 1.0, "b": 1.0}, constraints=[{"source": "b", "at_least": 0.5, "start": 1.0}])
    one.learn([])
    assert one.multipliers == [1.0]


def test_only_valid_samples_are_followed(group: Groups) -> None:
    """What another source could not judge is no sample, whatever this one says of it. A mean over samples, not over groups."""
    one = composer({"a": 1.0, "b": 1.0}, constraints=[{"source": "b", "at_least": 1.0, "start": 0.0, "lr": 1.0}])
    half = replace(scored(group, a=(1.0, math.nan), b=(0.3, 9.0)), valid_G=torch.tensor([True, False]))
    one.learn([half, scored(group, a=(0.0, 0.0), b=(0.6, 0.6))])
    assert one.multipliers == [pytest.approx(1.0 - (0.3 + 0.6 + 0.6) / 3)]


def test_a_run_that_goes_back_forgets_what_it_saw_since(group: Groups) -> None:
    settings = {"learned": {"levels": {"a": 0.5}, "window": 3}, "constraints": [{"source": "b", "at_least": 0.7}]}
    one, step = composer({"a": 1.0, "b": 1.0}, **settings), [scored(group, a=(0.1, 0.3), b=(0.2, 0.1))]
    one.learn(step)
    there = json.loads(json.dumps(one.state()))
    one.learn(step)
    one.load_state(there)
    assert one.state() == there


def test_a_source_on_its_level_lacks_nothing(group: Groups) -> None:
    one = composer({"a": 1.0, "b": 1.0}, learned={"levels": {"a": 0.5}, "window": 1, "factor": 2.0, "entropy": 0.0})
    one.learn([scored(group, a=(0.25, 0.75), b=(0.0, 0.0))])
    assert one.weights() == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_run_begins_with_its_first_phase_and_weights_of_any_sign_can_be_kept() -> None:
    one = composer({"a": 1.0, "b": 0.0, "c": -1.0}, phases=[{"until": 1, "weights": {"a": 3.0}}])
    assert one.weights() == {"a": 3.0, "b": 0.0, "c": -1.0}
    small = composer({"a": 0.25, "b": 0.5}, learned={"levels": {"a": 1.0}})
    assert small.weights() == pytest.approx({"a": 0.25, "b": 0.5})
    assert all(map(math.isfinite, one.state()["log_weights"]))
    assert (one.recent[0].maxlen, one.state()["recent"]) == (1, [[], [], []])


def test_evaluations_do_not_move_with_what_was_learned(group: Groups) -> None:
    rewards = (Reward(TextSource("a", lambda p, t: float(len(t)))), Reward(TextSource("b", lambda p, t: 0.0), 0.0))
    one = composer({"a": 1.0, "b": 0.0}, constraints=[{"source": "b", "at_least": 1.0, "start": 1.0}])
    judge = RunRewards(rewards, "drop_sample", one)
    assert judge((group("xx"),))[0].rewards_G.tolist() == [0.5]  # (2 + 1 * (0 - 1)) / 2
    assert judge.evaluate((group("xx"),))[0].rewards_G.tolist() == [2.0]
    by_group = RunRewards(rewards, "drop_sample", composer({"a": 1.0, "b": 0.0}, normalise="group"))
    assert by_group.evaluate((group("xx"),))[0].rewards_G.tolist() == [2.0]  # one sample has no group
    assert by_group.evaluate((group("xx", "x", failed=(1,)),))[0].rewards_G.tolist() == [2.0, 0.0]
    failed = {"a": torch.tensor([1.0, math.nan]), "b": torch.tensor([1.0, 1.0])}
    assert one.plain(failed, torch.tensor([True, False])).tolist() == [1.0, 0.0]


# --- relations and state ----------------------------------------------------------------------------------------------------------


def test_sources_in_conflict_are_named(group: Groups) -> None:
    one = composer({"a": 1.0, "b": 1.0, "c": 0.0})
    metrics = one.learn(
        [scored(group, a=(1.0, 2.0, 3.0), b=(3.0, 2.0, 1.0), c=(5.0, 5.0, 5.0)), scored(group, a=(9.0,), b=(9.0,), c=(0.0,))]
    )
    assert metrics == {"composition/correlation/a~b": pytest.approx(-1.0)}  # c says nothing within a group
    found = one.summary()
    assert found["correlations"] == {"a~b": pytest.approx(-1.0)}
    assert found["conflicts"] == ["a~b"]
    assert found["pareto_share"] == 1.0


def test_levels_of_prompts_are_no_agreement(group: Groups) -> None:
    """Both sources like the second prompt better: between answers to one prompt they have nothing to do with each other."""
    one = composer({"a": 1.0, "b": 1.0})
    one.learn(
        [
            scored(group, a=(0.0, 1.0, 0.0, 1.0), b=(0.0, 0.0, 1.0, 1.0)),
            scored(group, a=(10.0, 11.0, 10.0, 11.0), b=(10.0, 10.0, 11.0, 11.0)),
        ]
    )
    assert one.summary()["correlations"]["a~b"] == pytest.approx(0.0)


def test_relations_by_hand(group: Groups) -> None:
    """The third group's best answer is one that failed, the fourth has one valid answer, the fifth no scores by b: these two say nothing.

    Sums of products of distances from the groups' means. a with b: 0 - 1/2 + 3/2; a with a: 2 + 1/2 + 1/2; b with b: 6 + 1/2 + 9/2.
    """
    relations = Relations(["a", "b"])
    first = replace(scored(group, a=(-1.0, 0.0, 1.0), b=(1.0, -2.0, 1.0)), rewards_G=torch.tensor([0.0, 5.0, 1.0]))
    second = replace(scored(group, a=(0.0, 1.0), b=(1.0, 0.0)), rewards_G=torch.tensor([1.0, 0.0]))
    third = scored(group, a=(0.0, 9.0, 1.0), b=(0.0, 9.0, 3.0))
    third = replace(third, rewards_G=torch.tensor([-2.0, 9.0, -1.0]), valid_G=torch.tensor([True, False, True]))
    fourth = replace(scored(group, a=(5.0, 9.0), b=(5.0, 9.0)), valid_G=torch.tensor([True, False]))
    relations.add([first, second, third, fourth, scored(group, a=(1.0, 2.0))])
    found = relations.summary()
    assert found["correlations"] == {"a~b": pytest.approx(1 / math.sqrt(3 * 11))}
    # on the front: sample 2 of the first (0 is beaten, 1 too), both of the second, sample 2 of the third; of 3 + 2 + 2 that are valid
    assert found["pareto_share"] == pytest.approx(4 / 7)
    assert found["best_on_front"] == pytest.approx(2 / 3)  # the first's best is sample 1
    assert found["conflicts"] == []


@pytest.mark.parametrize(("b", "conflict"), [((1.0, 0.9), True), ((0.0, 1.0, 1.0, 0.0), False), ((1.0, 1.0, 0.9, 1.0), True)])
def test_a_conflict_is_a_clear_one(group: Groups, b: tuple[float, ...], conflict: bool) -> None:
    relations = Relations(["a", "b"])
    relations.add([scored(group, a=tuple(map(float, range(len(b)))), b=b)])
    assert bool(relations.summary()["conflicts"]) is conflict


def test_relations_need_two_sources_and_something_seen(group: Groups) -> None:
    alone = Relations(["a"])
    alone.add([scored(group, a=(1.0, 2.0))])
    assert alone.summary() == {}
    both = Relations(["a", "b"])
    assert both.summary() == {}
    assert (both.samples, both.on_front, both.best, both.best_on_front) == (0, 0, 0, 0)
    assert both.add([scored(group, a=(2.0, 2.0), b=(0.0, 1.0))]) == {}, "no correlation where one says the same of all"


def test_combinations_at_their_edges() -> None:
    parts_KG = torch.tensor([[2.0, -1.0], [3.0, 4.0]], dtype=torch.float64)
    nothing_KG = torch.zeros_like(parts_KG)
    assert combine.worst(parts_KG, nothing_KG).tolist() == [0.0, 0.0], "no source has a weight"
    half = combine.normalised(parts_KG, torch.tensor([True, False]))
    assert half.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert combine.next_multiplier(0.05, 2.0, 1.0, 0.1, 5.0) == 0.0, "never below 0"
    assert combine.next_multiplier(4.99, 0.0, 1.0, 0.1, 5.0) == 5.0
    assert combine.next_multiplier(1.0, 0.5, 1.0, 0.1, 5.0) == pytest.approx(1.05)


def test_the_pareto_front_by_hand() -> None:
    parts_KG = torch.tensor([[1.0, 2.0, 2.0, 0.0, 9.0], [3.0, 1.0, 1.0, 0.0, 9.0]])
    valid_G = torch.tensor([True, True, True, True, False])
    assert combine.pareto_front(parts_KG, valid_G).tolist() == [True, True, True, False, False]  # equals beat nobody


def test_state_goes_on_exactly(group: Groups) -> None:
    settings = {
        "learned": {"levels": {"a": 0.5}, "window": 3},
        "constraints": [{"source": "b", "at_least": 0.7}],
    }
    steps = [[scored(group, a=(0.1 * k, 0.3), b=(0.2, 0.1 * k))] for k in range(8)]
    whole, first, second = (composer({"a": 1.0, "b": 1.0}, **settings) for _ in range(3))
    metrics = [whole.learn(step) for step in steps]
    for step in steps[:4]:
        first.learn(step)
    second.load_state(json.loads(json.dumps(first.state())))
    assert [second.learn(step) for step in steps[4:]] == metrics[4:]
    assert second.summary() == whole.summary()
    assert second.state() == whole.state()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": {"source": "c", "below": {"a": 1.0}, "above": {"a": 1.0}}}, "composition names 'c', and no reward is called that"),
        ({"constraints": [{"source": "safety", "at_least": 1}]}, "'safety'"),
        ({"phases": [{"until": 0.5, "weights": {"a": 1}}, {"until": 0.5, "weights": {"a": 1}}]}, "phases must stand in order"),
        ({"normalise": "group", "how": "min"}, "how=min would mean nothing"),
        ({"floor": 0.1}, "only how=product reads it"),
        ({"learned": {"levels": {"a": 1}}, "phases": [{"until": 1, "weights": {"a": 1}}]}, "learned weights would be overwritten"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composer(None, **settings)
    with pytest.raises(ConfigError, match="every reward needs a weight above 0"):
        composer({"a": 0.0, "b": 1.0}, learned={"levels": {"a": 1}})
