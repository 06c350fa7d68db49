"""Conversations token by token: what is trained is what was sampled, behind what it was sampled behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from talking import NAMES, TINY, Chat, Scripted, furthest

from keel.rollout.config import SamplerConfig
from keel.rollout.decode import FastDecoder
from keel.rollout.local import LocalSampler
from keel.types import Message, Prompt, Reply, SampleRequest, SamplingParams, empty_group

PROMPTS = [Prompt("a", (Message("user", "What is 2 + 2?"),)), Prompt("b", (Message("user", "你好，请问？"),))]


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
    return texts[(turn * 3 + sample + (prompt_id == "b")) % len(texts)]


@pytest.mark.parametrize("name", NAMES)
def test_trainer_and_sampler_agree_on_every_sampled_token(loaded, renderer_of, conversing, hold, name):
    renderer = renderer_of(name)
    sampler = conversing(renderer, Scripted(loaded, renderer, says), max_turns=5)
    rollouts = hold(sampler, PROMPTS, samples=4)
    assert [r.error for r in rollouts] == [""] * 8
    assert furthest(loaded, sampler, rollouts) < 1e-5
    assert max(r.conversation.turns for r in rollouts) == 5
    assert sum(r.conversation.bad_calls for r in rollouts) > 0
    assert any(r.forks for r in rollouts) == (name in ("thinking", "strips_thoughts", "opens_thought", "instruct"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "top_k"])
def test_drawn_conversations_agree_too(loaded, renderer_of, conversing, hold, name, cut):
    renderer = renderer_of(name, ends=range(20, 120))  # a random model ends its turns now and then
    inner = LocalSampler(loaded.model, renderer.decode)
    sampler = conversing(renderer, inner, max_turns=4, max_tokens=260)
    params = SamplingParams(max_tokens=24, stop_tokens=renderer.stop_tokens, top_k=300 if cut else 0)
    rollouts = hold(sampler, PROMPTS, samples=4, params=params, keep_support=True)
    whole = [r for r in rollouts if not r.error]
    assert len(whole) > 4  # a random answer may hold what steers the model: such a one has failed, by name
    assert max(r.conversation.turns for r in whole) > 1
    assert furthest(loaded, sampler, whole) < 1e-5
    again = hold(sampler, PROMPTS, samples=4, params=params, keep_support=True)
    assert all(torch.equal(r.tokens_T, o.tokens_T) for r, o in zip(rollouts, again, strict=True))


def test_a_turn_reads_what_came_since(loaded, renderer_of, conversing, hold, monkeypatch):
    """Behind the first turn each prompt is begun by what was kept of the last one, where the template leaves the past as it was."""
    renderer = renderer_of(TINY, ends=range(20, 120))
    begun: list[tuple[int, int]] = []
    start = FastDecoder.start

    def seen(self, prompts, prompt_B, max_tokens, beginnings=()):
        begun.append((len(prompts), sum(b is not None for b in beginnings)))
        return start(self, prompts, prompt_B, max_tokens, beginnings)

    monkeypatch.setattr(FastDecoder, "start", seen)
    params = SamplingParams(max_tokens=24, stop_tokens=renderer.stop_tokens)
    drawn = {}
    for gib in (1.0, 0.0):
        inner = LocalSampler(loaded.model, renderer.decode, SamplerConfig(turns_gib=gib))
        del begun[:]
        drawn[gib] = hold(conversing(renderer, inner, max_turns=3, max_tokens=260), PROMPTS, samples=4, params=params)
        assert begun[0][1] == 0
        assert len(begun) == 3
        assert [kept == (prompts if gib else 0) for prompts, kept in begun[1:]] == [True, True]
    for one, other in zip(*drawn.values(), strict=True):
        assert torch.equal(one.tokens_T, other.tokens_T)
        torch.testing.assert_close(one.logprobs_T, other.logprobs_T, rtol=0, atol=1e-5)


def test_the_stream_is_what_the_template_writes(loaded, renderer_of, conversing, hold):
    for name in (TINY, "chatml_tools", "ipython", "alternating"):
        renderer = renderer_of(name)
        sampler = conversing(renderer, Scripted(loaded, renderer, lambda p, s, t: f"number {t}"), max_turns=3)
        (rollout,) = hold(sampler, PROMPTS[:1], samples=1)
        shown = sampler.opener.prompts["a"][1]
        text = renderer.tokenizer.decode(torch.cat([renderer.prompt(shown).tokens_T, rollout.tokens_T]))
        messages = list(shown.messages)
        for turn in range(3):
            messages += [Message("assistant", f"number {turn}"), Message("user", Chat.SAYS[(turn + 1) % 4])]
        assert renderer.template.render(messages[:-1], False, shown.tools).startswith(text)
        assert text.endswith("number 2" + renderer.template.closing)
        ended = [rollout.turn_T[rollout.sampled_T].tolist().count(turn) for turn in range(3)]
        assert ended == [len(renderer.codec.encode(f"number {turn}")) + 1 for turn in range(3)]


def test_turns_are_drawn_together_and_the_first_as_a_plain_answer(loaded, renderer_of, conversing, hold):
    renderer = renderer_of(TINY)
    inner = Scripted(loaded, renderer, lambda p, s, t: f"{p}{s}{t}")
    rollouts = hold(conversing(renderer, inner, max_turns=3), PROMPTS, samples=3)
    assert [len(requests) for requests in inner.submitted] == [6, 6, 6]
    assert {r.seed for r in inner.submitted[0]} == {7}
    assert len({r.seed for requests in inner.submitted for r in requests}) == 3
    assert all(r.conversation.ended == "turns" and r.finish_reason == "length" for r in rollouts)

    renderer = renderer_of(TINY, ends=range(20, 120))
    params = SamplingParams(max_tokens=12, stop_tokens=renderer.stop_tokens)
    one = hold(conversing(renderer, LocalSampler(loaded.model, renderer.decode), max_turns=1), PROMPTS, params=params)
    plain = LocalSampler(loaded.model, renderer.decode)
    sampler = conversing(renderer, plain, max_turns=1)
    hold(sampler, PROMPTS, params=params)
    asked = [SampleRequest(p.prompt_id, renderer.prompt(s), 2, params, 7) for p, s in sampler.opener.prompts.values()]
    plain.submit(asked)
    drawn = sorted(plain.collect(), key=lambda r: (r.prompt_id, r.sample))
    assert all(torch.equal(a.tokens_T, b.tokens_T) for a, b in zip(one, drawn, strict=True))


@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_how_many_are_open_changes_nothing(loaded, renderer_of, conversing, hold, at_once):
    renderer = renderer_of(TINY, ends=range(20, 120))
    params = SamplingParams(max_tokens=12, stop_tokens=renderer.stop_tokens)
    all_at_once = hold(conversing(renderer, LocalSampler(loaded.model, renderer.decode)), PROMPTS, samples=3, params=params)
    some = hold(conversing(renderer, LocalSampler(loaded.model, renderer.decode), at_once=at_once), PROMPTS, samples=3, params=params)
    assert all(torch.equal(a.tokens_T, b.tokens_T) for a, b in zip(all_at_once, some, strict=True))
    assert [r.conversation for r in all_at_once] == [r.conversation for r in some]


def test_limits_have_names(loaded, renderer_of, conversing, hold):
    renderer = renderer_of(TINY)
    inner = Scripted(loaded, renderer, lambda p, s, t: "word " * 10)
    room = len(renderer.codec.encode("word " * 10)) + 1
    (cut,) = hold(conversing(renderer, inner), PROMPTS[:1], 1, SamplingParams(max_tokens=4, stop_tokens=(3,)))
    assert (cut.conversation.ended, cut.finish_reason, len(cut)) == ("answer", "length", 4)
    (cut,) = hold(conversing(renderer, Scripted(loaded, renderer, inner.say), max_tokens=room + 3), PROMPTS[:1], 1)
    assert (cut.conversation.ended, cut.conversation.turns, len(cut)) == ("tokens", 1, room)  # the world's words behind it are not kept
    (cut,) = hold(conversing(renderer, Scripted(loaded, renderer, inner.say), max_turns=2), PROMPTS[:1], 1)
    assert (cut.conversation.ended, cut.conversation.turns) == ("turns", 2)
    assert cut.conversation.reward == 0.5  # asked at the end, however it ended
    (done,) = hold(conversing(renderer, Scripted(loaded, renderer, inner.say), arguments={"turns": 2}), PROMPTS[:1], 1)
    assert (done.conversation.ended, done.finish_reason) == ("done", "stop")
    assert done.conversation.turn_rewards == (pytest.approx(0.1 * 50), 1.0)
    assert done.conversation.total == pytest.approx(6.5)


class Odd(Chat):
    """Goes wrong at the second answer, in the way that the prompt names."""

    def answer(self, message: Message) -> Reply:
        if self.n == 1 and self.how != "well":
            if self.how == "raises":
                raise RuntimeError("no more")
            if self.how == "nan":
                return Reply("x", reward=float("nan"))
            if self.how == "silent":
                return Reply()
            if self.how == "control":
                return Reply("<|im_end|>")
            return Reply([Message("assistant", "I am you")])
        return super().answer(message)

    def __init__(self, prompt: Prompt, seed: int) -> None:
        super().__init__(prompt, seed)
        self.how = prompt.meta["how"]


def test_what_goes_wrong_is_a_failure_with_a_name_and_its_own_alone(loaded, renderer_of, conversing, hold):
    renderer = renderer_of(TINY)
    hows = ("well", "raises", "nan", "silent", "control", "assistant")
    prompts = [replace(PROMPTS[0], prompt_id=f"{i}{how}", meta={"how": how}) for i, how in enumerate(hows)]
    rollouts = hold(conversing(renderer, Scripted(loaded, renderer, lambda p, s, t: "yes"), Odd), prompts, samples=1)
    errors = [r.error for r in rollouts]
    assert errors[0] == ""
    for error, word in zip(
        errors[1:], ("RuntimeError: no more", "nan", "no message", "control token", "a turn of the assistant"), strict=True
    ):
        assert error.startswith("environment: ")
        assert word in error
    assert [r.finish_reason for r in rollouts] == ["stop", *["error"] * 5]
    assert not any(empty_group(prompts[1], renderer.prompt(prompts[1]), rollouts[1:]).valid_G)


def test_another_beginning_is_a_failure(loaded, renderer_of, conversing, hold):
    class Fresh(Chat):
        made = 0

        def start(self) -> str:
            type(self).made += 1
            return f"beginning {self.made}"

    renderer = renderer_of(TINY)
    (rollout,) = hold(conversing(renderer, Scripted(loaded, renderer, lambda p, s, t: "yes"), Fresh), PROMPTS[:1], samples=1)
    assert "began otherwise" in rollout.error
