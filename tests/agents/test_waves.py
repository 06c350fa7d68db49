"""What happens while a wave is drawn: agents that end, answers that fail, requests that come beside others, clients that leave."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from talking import TINY, Scripted

from keel.agents import sampler as agents
from keel.agents.endpoint import Ask
from keel.types import Message, Prompt, Rollout

PROMPTS = [Prompt(name, (Message("user", "What is 2 + 2?"),)) for name in "ab"]


def yes(prompt_id: str, sample: int, turn: int) -> str:
    return "yes"


class Slow(Scripted):
    """Between the first answer of a wave and the second the first one's agent ends, and time goes by."""

    sampler: Any
    later: Any

    def collect(self) -> Iterator[Rollout]:
        for i, rollout in enumerate(super().collect()):
            yield rollout
            if i == 0:
                line = self.sampler.host.processes.lines[0]
                assert select.select([line], [], [], 60)[0], "it has sent its end"
                self.later(1000.0)


def test_who_ended_while_others_were_drawn_has_not_hung(loaded, renderer_of, asking, hold, monkeypatch):
    past = [0.0]
    monkeypatch.setattr(agents.time, "monotonic", lambda now=time.monotonic: now() + past[0])
    renderer = renderer_of(TINY)
    inner = Slow(loaded, renderer, yes)
    inner.sampler = asking(renderer, inner, "plain", {"turns": 1}, timeout_s=20.0)
    inner.later = lambda seconds: past.__setitem__(0, past[0] + seconds)
    rollouts = hold(inner.sampler, PROMPTS, samples=1)
    assert [r.error for r in rollouts] == ["", ""]
    assert [r.conversation.total for r in rollouts] == [0.25, 0.25]


class Broken(Scripted):
    """Every answer fails."""

    def collect(self) -> Iterator[Rollout]:
        for rollout in super().collect():
            yield replace(rollout, finish_reason="error", error="the logits are not finite")


def test_two_answers_of_one_agent_that_fail_in_one_wave(loaded, renderer_of, asking, hold):
    renderer = renderer_of(TINY)
    (rollout,) = hold(asking(renderer, Broken(loaded, renderer, yes), "tree"), PROMPTS[:1], samples=1)
    assert rollout.error == "environment: the logits are not finite"
    assert rollout.finish_reason == "error"


def test_a_client_that_left_is_seen_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair()
    ask = Ask(0, None, here)  # type: ignore[arg-type]
    monkeypatch.setattr(select, "select", lambda *_: (_ for _ in ()).throw(ValueError("filedescriptor out of range in select()")))
    assert not ask.gone
    there.close()
    assert ask.gone
    here.close()


def test_words_of_other_branches_say_so(loaded, renderer_of, asking, hold):
    """What did not stand behind the prompt is told apart where people read conversations."""
    renderer = renderer_of(TINY)
    (tree,) = hold(asking(renderer, Scripted(loaded, renderer, yes), "tree"), PROMPTS[:1], samples=1)
    told = tree.conversation.told()
    assert {bool(turn.get("branch")) for turn in told} == {True, False}
    assert all(turn.get("branch") for turn in told if turn["text"] == "You are a critic.")
    (line,) = hold(asking(renderer, Scripted(loaded, renderer, yes), "plain"), PROMPTS[:1], samples=1)
    assert not any("branch" in turn for turn in line.conversation.told())


def test_such_conversations_are_no_cases_of_failure(tmp_path: Path) -> None:
    from collections import Counter

    from keel.evaluate.compare import Answer
    from keel.verbs.cases.read import APART, _behind_the_prompt

    turns = ({"role": "assistant", "text": "a"}, {"role": "assistant", "text": "b", "branch": "x.0"})
    lost = Counter[str]()
    plain = Answer("a", turns=turns[:1])
    assert _behind_the_prompt([plain, Answer("b", turns=turns)], lost) == (plain,)
    assert lost == {APART: 1}
