"""Agents token by token: what is trained is what was sampled, behind what it was sampled behind; and as the trainer would drive it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from talking import NAMES, TINY, Chat, Scripted, furthest

from keel.environments.adapters import environment_of
from keel.environments.config import EnvironmentConfig
from keel.environments.host import LocalHost
from keel.environments.opening import Opener
from keel.environments.parse import Parser
from keel.environments.sampler import ConversationSampler
from keel.methods import rollout_units
from keel.methods.credit.assign import CreditRule, assign
from keel.render.conversation import Turns
from keel.rollout.local import LocalSampler
from keel.types import Message, Prompt, Reply, SamplingParams, empty_group

PROMPTS = [Prompt("a", (Message("user", "What is 2 + 2?"),)), Prompt("b", (Message("user", "你好，请问？"),))]
TOOLED = ("thinking", "chatml_tools", "ipython", "instruct")  # the first writes calls between tags, the others as the whole answer


def says(prompt_id: str, sample: int, turn: int) -> str:
    """Thoughts, a tool call, a bad one, Chinese, emoji."""
    texts = [
        "<think>\nhm, two\n</think>\n\nThe answer is 4.",
        '<tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>',
        "答案是四 🙂",
        "<tool_call>{broken</tool_call>",
        "<think>\n再想想\n</think>\n\nfour",
        "plain  text ",
        "",
    ]
    return texts[(turn * 3 + sample + (prompt_id[0] == "b")) % len(texts)]


class Plain:
    """The world whose agent is `programs.plain`."""

    def __init__(self, prompt, seed):
        self.made = 0

    def answer(self, message):
        self.made += 1
        return Reply(Chat.SAYS[self.made - 1], done=self.made == 3)

    def reward(self):
        return 0.25 * self.made


@pytest.mark.parametrize("name", NAMES)
def test_one_conversation_is_that_of_the_trainer(loaded, renderer_of, asking, hold, name):
    """Not a token, not a bit of a log-probability differs, thoughts that templates take out again included."""
    renderer = renderer_of(name)
    host = LocalHost(environment_of(Plain, "world", {}))
    settings = EnvironmentConfig(path="world.py:World", processes=0, max_turns=3)
    trainer = ConversationSampler(Scripted(loaded, renderer, says), Opener(host, Turns(renderer), settings, 5), Parser(renderer.tokenizer))
    expected = hold(trainer, PROMPTS, samples=3)
    sampler = asking(renderer, Scripted(loaded, renderer, says), "plain", max_turns=3)
    found = hold(sampler, PROMPTS, samples=3)
    for own, other in zip(found, expected, strict=True):
        assert own.error == ""
        for field in ("tokens_T", "sampled_T", "logprobs_T", "turn_T"):
            assert torch.equal(getattr(own, field), getattr(other, field)), field
        assert [f.start for f in own.forks] == [f.start for f in other.forks]
        assert all(torch.equal(f.prompt.tokens_T, g.prompt.tokens_T) for f, g in zip(own.forks, other.forks, strict=True))
        assert own.conversation.total == other.conversation.total == 0.75
        assert (own.finish_reason, own.conversation.ended) == ("stop", "done")
        assert own.conversation.asking.branches == 1
        assert not own.conversation.asking.timed


def test_drawn_too_with_the_same_numbers(loaded, renderer_of, asking, hold):
    """Over the real sampler: waves, seeds and limits are those of conversations that the trainer drives."""
    renderer = renderer_of(TINY, ends=range(20, 120))
    params = SamplingParams(max_tokens=12, stop_tokens=renderer.stop_tokens)
    host = LocalHost(environment_of(Plain, "world", {}))
    settings = EnvironmentConfig(path="world.py:World", processes=0, max_turns=3)
    inner = LocalSampler(loaded.model, renderer.decode)
    trainer = ConversationSampler(inner, Opener(host, Turns(renderer), settings, 5), Parser(renderer.tokenizer))
    expected = hold(trainer, PROMPTS, samples=4, params=params)
    for at_once in (256, 3):
        found = hold(asking(renderer, inner, "plain", max_turns=3, at_once=at_once), PROMPTS, samples=4, params=params)
        whole = [(a, b) for a, b in zip(found, expected, strict=True) if not a.error and not b.error]
        assert len(whole) > 4
        for own, other in whole:
            assert torch.equal(own.tokens_T, other.tokens_T)
            assert (own.logprobs_T - other.logprobs_T).abs().max() < 1e-5
            assert at_once == 3 or torch.equal(own.logprobs_T, other.logprobs_T)  # the same waves, the same bits
            assert own.conversation.ended == other.conversation.ended
            assert not own.conversation.asking.timed


@pytest.mark.parametrize("name", NAMES)
def test_trainer_and_sampler_agree_on_every_sampled_token(loaded, renderer_of, asking, hold, name):
    """Agents that write their own prompts: nothing stands behind the data's prompt then."""
    renderer = renderer_of(name)
    sampler = asking(renderer, Scripted(loaded, renderer, says), "chat")
    rollouts = hold(sampler, PROMPTS, samples=4)
    assert [r.error for r in rollouts] == [""] * 8
    assert furthest(loaded, sampler, rollouts) < 1e-5
    for rollout in rollouts:
        assert rollout.forks[0].start == 0
        assert rollout.conversation.turns == 4
        assert rollout.conversation.parts.keys() == {"length", "end"}
        assert rollout.conversation.messages[0].text.endswith(("red.", "blue."))


@pytest.mark.parametrize("name", TOOLED)
def test_with_tools(loaded, renderer_of, asking, hold, name):
    renderer = renderer_of(name)

    def calls(prompt_id: str, sample: int, turn: int) -> str:
        texts = [says(prompt_id, sample, turn), '{"name": "add", "arguments": {"a": 3}}']
        return texts[turn == 1 and name != "thinking"]

    sampler = asking(renderer, Scripted(loaded, renderer, calls), "tools")
    rollouts = hold(sampler, PROMPTS, samples=4)
    assert [r.error for r in rollouts] == [""] * 8
    assert furthest(loaded, sampler, rollouts) < 1e-5
    assert sum(r.conversation.calls for r in rollouts) > 0
    assert sum(r.conversation.bad_calls for r in rollouts) > 0
    assert {r.conversation.asking.branches for r in rollouts} == {1}
    told = [row for r in rollouts for row in r.conversation.told()]
    assert {len(call["id"]) for row in told for call in row.get("tool_calls", ())} == {9}
    assert any(row["role"] == "tool" and row["text"] == "5" for row in told)


def test_a_template_without_tools_says_so(loaded, renderer_of, asking, hold):
    renderer = renderer_of("alternating")
    sampler = asking(renderer, Scripted(loaded, renderer, says), "tools")
    assert sampler.host.tool_form is None
    (rollout,) = hold(sampler, PROMPTS[:1], samples=1)
    assert "knows no tools" in rollout.error
    assert rollout.conversation.asking.refused == 1


@pytest.mark.parametrize("at_once", [True, False], ids=["at_once", "in_order"])
def test_a_tree_of_requests_is_trained_once(loaded, renderer_of, asking, hold, at_once):
    """Best of three, critics, two revisions of one draft, a talk that goes on: eight answers, six ways, no token twice."""
    renderer = renderer_of(TINY, ends=range(20, 120))
    params = SamplingParams(max_tokens=10, stop_tokens=renderer.stop_tokens)
    sampler = asking(renderer, LocalSampler(loaded.model, renderer.decode), "tree", {"at_once": at_once}, max_turns=9)
    rollouts = [r for r in hold(sampler, PROMPTS, samples=3, params=params) if not r.error]
    assert len(rollouts) > 3  # a random answer may hold what steers the model, and so be refused in a prompt
    assert furthest(loaded, sampler, rollouts) < 1e-5
    for rollout in rollouts:
        assert rollout.conversation.turns == 9
        assert rollout.conversation.asking.branches == 7  # 3 drafts, 3 critics, the second revision; the first and the talk go on
        assert rollout.conversation.asking.timed is at_once
        streams = [rollout.tokens_T[s] for s in rollout.streams]
        assert len({tuple(s.tolist()) for s in streams[:3]}) == 3  # the same request drawn again is another draw
        assert sorted(set(rollout.turn_T.tolist())) == list(range(9))


def test_what_is_drawn_hangs_on_the_branch_and_not_on_the_order(loaded, renderer_of, asking, hold):
    """Three drafts of one request and their critics, asked at once and one after the other. Which draft is called the first is the order of
    arrival, so what stands behind it may differ."""
    renderer = renderer_of(TINY, ends=range(20, 120))
    params = SamplingParams(max_tokens=10, stop_tokens=renderer.stop_tokens)
    inner = LocalSampler(loaded.model, renderer.decode)
    drawn = []
    for at_once in (True, False):
        rollouts = hold(asking(renderer, inner, "tree", {"at_once": at_once}, max_turns=9), PROMPTS, samples=3, params=params)
        drawn.append([sorted(r.tokens_T[r.sampled_T & (r.turn_T == turn)].tolist() for turn in range(6)) for r in rollouts if not r.error])
    assert drawn[0] == drawn[1]


def test_credit_reaches_every_stream(loaded, renderer_of, asking, hold):
    renderer = renderer_of(TINY)
    sampler = asking(renderer, Scripted(loaded, renderer, lambda p, s, t: f"{p[0]}{s}{t}"), "chat")
    rollouts = hold(sampler, PROMPTS[:1], samples=2)
    group = empty_group(PROMPTS[0], renderer.prompt(PROMPTS[0]), rollouts)
    group = replace(group, rewards_G=torch.tensor([1.0, 3.0]))
    units = rollout_units([group])
    assert [len(u.branches) for u in units] == [1, 1]  # none behind the data's prompt, which no agent asked
    credited = assign([group], units, CreditRule("group_centred"))
    for unit, advantage in zip(credited, (-1.0, 1.0), strict=True):
        (branch,) = unit.branches
        assert set(branch.signals["advantages"][branch.trained_T].tolist()) == {advantage}
        assert int(branch.trained_T.sum()) > 4
