"""Classes written for other trainers, as they are, and what a recipe may name."""

from __future__ import annotations

from typing import Any

import pytest
from talking import TINY, Chat, Scripted

from keel.core.errors import UserError
from keel.environments.adapters import environment_of
from keel.types import Message, Prompt, Reply


class Counter:
    """In the style of TRL's ``environment_factory``."""

    def reset(self, target: int = 0, **row: Any) -> str | None:
        self.total, self.target = 0, target
        return f"Reach {target}."

    def add(self, n: int) -> str:
        """Add to the counter.

        Args:
            n: How much.
        """
        self.total += n
        return f"total {self.total}"

    def get_reward(self) -> float:
        return float(self.total >= self.target)

    def _hidden(self) -> None: ...


class Base:
    """In the style of skyrl-gym's ``BaseTextEnv``."""

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        self.truth = (extras or {})["truth"]
        self.turns = 0
        self.closed = 0

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        return [*prompt, {"role": "user", "content": "Begin."}], {}

    def step(self, action: str) -> dict[str, Any]:
        self.turns += 1
        done = action == self.truth or self.turns == 3
        said = [] if done else [{"role": "user", "content": f"not {action}"}]
        return {"observations": said, "reward": float(action == self.truth), "done": done, "metadata": {}}

    def close(self) -> None:
        self.closed += 1


def test_a_class_for_trl_runs_unchanged(loaded, renderer_of, conversing, hold):
    renderer = renderer_of("chatml_tools")
    script = ['<tool_call>{"name": "add", "arguments": {"n": 3}}</tool_call>', "<tool_call>{}</tool_call>", "I am done."]
    sampler = conversing(renderer, Scripted(loaded, renderer, lambda p, s, t: script[t]), Counter)
    prompts = [Prompt(f"p{n}", (Message("user", "Count."),), meta={"target": n, "other": 1}) for n in (3, 9)]
    first, second = hold(sampler, prompts, samples=1)
    shown = sampler.opener.prompts["p3"][1]
    assert shown.messages == (Message("user", "Count.\nReach 3."),)
    assert [t["function"]["name"] for t in shown.tools] == ["add"]
    said = first.conversation
    assert [m.text for m in said.messages][1:4:2] == ["total 3", 'error: a tool call is an object with "name" and "arguments"']
    assert (said.reward, second.conversation.reward) == (1.0, 0.0)
    assert (said.turns, said.calls, said.bad_calls, said.ended) == (3, 2, 1, "done")
    assert first.text == "I am done."


def test_a_class_for_skyrl_gym_runs_unchanged(loaded, renderer_of, conversing, hold):
    renderer = renderer_of(TINY)
    sampler = conversing(renderer, Scripted(loaded, renderer, lambda p, s, t: str(t)), Base)
    prompts = [
        Prompt("a", (Message("user", "Say it."),), meta={"truth": "1"}),
        Prompt("b", (Message("user", "Say it."),), meta={"truth": "x"}),
    ]
    found, lost = hold(sampler, prompts, samples=1)
    assert found.conversation.turn_rewards == (0.0, 1.0)
    assert lost.conversation.turn_rewards == (0.0, 0.0, 0.0)
    assert sampler.opener.prompts["a"][1].messages == (Message("user", "Say it.\nBegin."),)


def test_a_function_may_make_either():
    def make(prompt: Prompt, seed: int, kind: str = "chat") -> Any:
        return Chat(prompt, seed) if kind == "chat" else Counter() if kind == "trl" else Base(extras={"truth": "1"})

    for kind, tools in (("chat", ["add"]), ("trl", ["add"]), ("skyrl", [])):
        episode = environment_of(make, "f.py:make", {"kind": kind}).episode(Prompt("p", (Message("user", "a"),)), 1)
        assert [t.__name__ for t in episode.tools] == tools
        episode.start()
        episode.close()


def test_an_environment_of_ones_own():
    class World:
        def __init__(self, size: int = 1) -> None:
            self.size = size

        def episode(self, prompt: Prompt, seed: int) -> Chat:
            return Chat(prompt, seed, turns=self.size)

    assert environment_of(World, "f.py:World", {"size": 3}).episode(Prompt("p"), 1).turns == 3
    assert environment_of(World(5), "f.py:world", {}).episode(Prompt("p"), 1).turns == 5
    with pytest.raises(UserError, match="takes no arguments"):
        environment_of(World(5), "f.py:world", {"size": 3})


@pytest.mark.parametrize(
    ("found", "arguments", "word"),
    [
        (Chat, {"trns": 2}, "turns"),
        (Counter, {"target": 2}, "none"),
        (Base, {"extra": 2}, "env_config"),
        (Message, {}, "no answer"),
    ],
)
def test_wrong_arguments_and_classes_are_told(found, arguments, word):
    with pytest.raises(UserError) as raised:
        environment_of(found, "f.py:X", arguments)
    assert word in str(raised.value)


def test_a_function_that_makes_no_episode_is_told():
    environment = environment_of(lambda prompt, seed: 3, "f.py:make", {})
    with pytest.raises(UserError, match="made int"):
        environment.episode(Prompt("p"), 1)


def test_plain_classes_may_leave_out_all_but_answer():
    class Bare:
        def __init__(self, prompt: Prompt, seed: int) -> None: ...

        def answer(self, message: Message) -> Reply:
            return Reply(done=True)

    episode = environment_of(Bare, "f.py:Bare", {}).episode(Prompt("p"), 1)
    assert (list(episode.start()), list(episode.tools), episode.reward()) == ([], [], None)
    episode.close()
