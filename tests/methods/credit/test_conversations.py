"""Credit of conversations, by hand: turns have rewards, streams fork, advantages go to sampled tokens alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keel.methods import rollout_units
from keel.methods.credit.assign import CreditRule, assign
from keel.methods.credit.conversations import conversation_metrics
from keel.methods.credit.measures import group_metrics
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.sources.world import WorldSource
from keel.types import Asking, Conversation, Encoded, Fork, Message, Prompt, Rollout, empty_group

PROMPT = Encoded(torch.tensor([5, 6]))
SAID = (Message("assistant", "a"), Message("user", "b"), Message("assistant", "c"))


def rollout(sample: int, rewards, whole, forks=(), finish="stop", **more) -> Rollout:
    """Two turns: tokens 0 and 1 are sampled, 2 and 3 the world's, 4 is sampled."""
    sampled_T = torch.tensor([True, True, False, False, True])
    return Rollout(
        "p",
        0,
        sample,
        torch.arange(10, 15),
        sampled_T,
        torch.tensor([-1.0, -2.0, 0.0, 0.0, -3.0]) * sampled_T,
        torch.zeros(5, dtype=torch.int64),
        finish,
        text="c",
        turn_T=torch.tensor([0, 0, 0, 0, 1]),
        forks=forks,
        conversation=Conversation(SAID, rewards, whole, **more),
    )


def rewarded(*rollouts, weight=1.0):
    group = empty_group(Prompt("p"), PROMPT, rollouts)
    return apply_rewards([group], [Reward(WorldSource(), weight)])


def test_turns_are_paid_at_their_last_sampled_token():
    (group,) = rewarded(rollout(0, (1.0, None), 0.5), rollout(1, (None, 0.25), None), weight=2.0)
    assert group.rewards_G.tolist() == [3.0, 0.5]
    assert group.moved[0].tolist() == [0.0, 2.0, 0.0, 0.0, 1.0 - 3.0]  # what is due at turns, less the whole at the end
    assert group.moved[1].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0]
    units = assign([group], rollout_units([group]), CreditRule("reward_to_go"))
    first, second = (b.signals["advantages"].tolist() for b in units[0].branches)
    assert first == [3.0, 3.0, 0.0, 0.0, 1.0]
    assert second == [0.5, 0.5, 0.0, 0.0, 0.5]
    discounted = assign([group], rollout_units([group]), CreditRule("reward_to_go", gamma=0.5))
    assert discounted[0].branches[0].signals["advantages"].tolist() == [1.25, 2.5, 0.0, 0.0, 1.0]  # 2 + 1/2, half of it a token earlier


def test_group_rules_see_the_whole():
    (group,) = rewarded(rollout(0, (1.0, None), 0.5), rollout(1, (None, 0.5), None))
    units = assign([group], rollout_units([group]), CreditRule("group_centred"))
    assert [b.signals["advantages"].tolist() for b in units[0].branches] == [[0.5, 0.5, 0, 0, 0.5], [-0.5, -0.5, 0, 0, -0.5]]


@pytest.mark.parametrize("estimator", ["group_centred", "group_normalised", "leave_one_out", "reward_to_go", "batch_baseline"])
def test_a_fork_changes_where_tokens_stand_and_not_what_they_are_credited(estimator):
    other = Encoded(torch.tensor([5, 6, 7, 8, 9]))
    plain = rewarded(rollout(0, (1.0, None), 0.5), rollout(1, (None, 0.25), 1.0))
    forked = rewarded(rollout(0, (1.0, None), 0.5, forks=(Fork(4, other),)), rollout(1, (None, 0.25), 1.0))
    rule = CreditRule(estimator, kl_coef=0.1)

    def with_reference(groups):
        units = rollout_units(groups)
        made = []
        for unit in units:
            branches = tuple(replace(b, signals={**b.signals, "ref_logprobs": 0.5 * b.signals["sampler_logprobs"]}) for b in unit.branches)
            made.append(replace(unit, branches=branches))
        return made

    whole = assign(plain, with_reference(plain), rule)
    parts = assign(forked, with_reference(forked), rule)
    assert [len(u.branches) for u in parts] == [2, 1]
    assert parts[1].prompt is other
    assert parts[1].branches[0].tokens_T.tolist() == [14]
    joined = torch.cat([parts[0].branches[0].signals["advantages"], parts[1].branches[0].signals["advantages"]])
    assert torch.equal(joined, whole[0].branches[0].signals["advantages"])
    assert torch.equal(parts[0].branches[1].signals["advantages"], whole[0].branches[1].signals["advantages"])


def test_forks_of_several_groups_find_their_rollouts():
    fork = (Fork(4, Encoded(torch.tensor([1]))),)
    a = empty_group(Prompt("a"), PROMPT, [rollout(0, (1.0, None), 0.0, fork), rollout(1, (0.0, None), 0.0, fork, finish="error")])
    b = empty_group(Prompt("b"), PROMPT, [rollout(0, (0.0, 2.0), 0.0), rollout(1, (0.0, 4.0), 0.0, fork)])
    lost = empty_group(Prompt("c"), PROMPT, [rollout(0, (0.0, 2.0), 0.0, fork, finish="error")])
    groups = apply_rewards([a, lost, b], [Reward(WorldSource())])
    units = rollout_units(groups)
    assert [u.unit_id for u in units] == ["a/0", "a/0/0/1", "b/0", "b/0/1/1"]
    credited = assign(groups, units, CreditRule("no_baseline"))
    assert [[float(b.signals["advantages"].max()) for b in u.branches] for u in credited] == [[1.0], [1.0], [2.0, 4.0], [4.0]]


def test_what_begins_elsewhere_has_no_branch_behind_the_groups_prompt():
    """An agent's own prompts: rollout 0 stands behind the group's, 1 behind another from its first token on, 2 behind two others."""
    one, two = Encoded(torch.tensor([1])), Encoded(torch.tensor([2]))
    rollouts = [rollout(0, (), 1.0), rollout(1, (), 2.0, (Fork(0, one),)), rollout(2, (), 6.0, (Fork(0, one), Fork(4, two)))]
    elsewhere = rewarded(*(replace(r, prompt_id="q") for r in rollouts[1:]))
    groups = (*rewarded(*rollouts), *elsewhere)
    units = rollout_units(groups)
    assert [(u.prompt, len(u.branches)) for u in units] == [(PROMPT, 1), (one, 1), (one, 1), (two, 1), (one, 1), (one, 1), (two, 1)]
    credited = assign(groups, units, CreditRule("group_centred"))
    assert [float(u.branches[0].signals["advantages"][-1]) for u in credited] == [-2.0, -1.0, 0.0, 3.0, -2.0, 0.0, 2.0]
    assert sum(int(b.trained_T.sum()) for u in units for b in u.branches) == 5 * 3


def test_what_the_world_does_not_say_is_no_zero():
    (group,) = rewarded(rollout(0, (None, None), None), rollout(1, (0.0, None), None))
    assert group.valid_G.tolist() == [False, True]
    assert bool(group.parts["environment"][0].isnan())
    assert Conversation(SAID[:1], (None,), ended="answer").total == 0.0  # the world was never asked
    assert Conversation(SAID, (None, None), ended="answer").total is None
    assert Conversation(SAID[:1], (None,), ended="answer", asking=Asking()).total is None  # an agent was asked, and said so


def test_parts_by_name_are_measured():
    (group,) = rewarded(rollout(0, (1.0, None), 0.0, parts={"form": 1.0}), rollout(1, (0.0, None), 0.0))
    assert group.parts["environment/form"][0] == 1.0
    assert bool(group.parts["environment/form"][1].isnan())
    assert group_metrics([group])["rewards/environment/form/mean"] == 1.0


def test_conversations_are_counted():
    rollouts = [
        rollout(0, (1.0, None), 0.0, calls=3, bad_calls=1),
        rollout(1, (1.0, None, None), 0.0, finish="length", ended="turns"),
        rollout(2, (1.0,), 0.0, finish="length", ended="answer", forks=(Fork(4, PROMPT),)),
        rollout(3, (1.0,) * 9, 0.0, finish="error", ended="tokens", bad_calls=7),
    ]
    found = conversation_metrics([empty_group(Prompt("p"), PROMPT, rollouts)])
    assert found == {
        "environment/turns/mean": 2.0,
        "environment/turns/max": 3.0,
        "environment/failed": 1.0,
        "environment/truncated": 2.0,
        "environment/truncated_by/turns": 1.0,
        "environment/truncated_by/tokens": 0.0,
        "environment/truncated_by/answer": 1.0,
        "environment/calls": 3.0,
        "environment/bad_calls": 1.0,
        "environment/forks": 1.0,
    }
    assert conversation_metrics([empty_group(Prompt("p"), PROMPT, [replace(rollouts[0], conversation=None)])]) == {}


def test_agents_are_counted():
    rollouts = [
        rollout(0, (), 1.0, asking=Asking(branches=3, refused=2, timed=True)),
        rollout(1, (), 1.0, asking=Asking()),
        rollout(2, (), None, finish="error", asking=Asking(branches=9, refused=4, timed=True)),
    ]
    found = conversation_metrics([empty_group(Prompt("p"), PROMPT, rollouts)])
    assert {name: value for name, value in found.items() if "/agent/" in name} == {
        "environment/agent/branches/mean": 2.0,
        "environment/agent/refused": 6.0,
        "environment/agent/timed": 1.0,
    }


def test_turns_are_told_with_their_rewards():
    said = (Message("assistant", "a", {"reasoning_content": "hm"}), Message("tool", "4", {"name": "add"}), Message("assistant", "c"))
    assert Conversation(said, (0.5, None)).told() == [
        {"role": "assistant", "text": "a", "reasoning_content": "hm", "reward": 0.5},
        {"role": "tool", "text": "4", "name": "add"},
        {"role": "assistant", "text": "c", "reward": None},
    ]


def test_units_of_other_groups_are_refused():
    (group,) = rewarded(rollout(0, (1.0, None), 0.5), rollout(1, (None, 0.5), None))
    units = rollout_units([group])
    for wrong in ((), (*units, *units)):
        with pytest.raises(AssertionError, match="do not belong to these groups"):
            assign([group], wrong, CreditRule("reward_to_go"))
    forked = replace(rollout(1, (None, 0.5), None), forks=(Fork(2, PROMPT),))
    (group,) = rewarded(rollout(0, (1.0, None), 0.5), forked)
    units = rollout_units([group])
    assert assign([group], units, CreditRule("reward_to_go"))
    with pytest.raises(AssertionError, match="do not belong to these groups"):
        assign([group], units[:-1], CreditRule("reward_to_go"))
