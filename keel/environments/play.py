"""One conversation from the world's side: an episode asked in order, its tools called, its rewards added up. No torch here: it runs in
processes of its own."""

from __future__ import annotations

import math
import numbers
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.environments.tools import Call, Tool, run, tool_of
from keel.types import Environment, Message, Points, Prompt, Reply


class EpisodeError(Exception):
    """An episode broke its contract; the text says how."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What stands before the first answer beside the prompt: the world's messages, and the schemas of its tools."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What came of an answer."""

    messages: tuple[Message, ...] = ()
    reward: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    done: bool = False
    calls: int = 0
    bad_calls: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """What an episode is begun with. ``chance`` seeds Python's and numpy's generators behind its beginning: what the world throws dice for
    differs between the conversations of a prompt, its beginning does not."""

    prompt: Prompt
    seed: int
    chance: int


class Play:
    """An episode on its way."""

    def __init__(self, environment: Environment, start: Start) -> None:
        seed_all(start.seed)
        self.episode = environment.episode(start.prompt, start.seed)
        self.start = start

    def open(self) -> Opening:
        """Begin. Raises whatever the user's code raises, and EpisodeError."""
        messages = _messages(self.episode.start())
        self.tools = {tool.name: tool for tool in map(_tool, getattr(self.episode, "tools", ()))}
        seed_all(self.start.chance)
        return Opening(messages, tuple(tool.schema for tool in self.tools.values()))

    def answer(self, message: Message, calls: Sequence[Call]) -> Step:
        """Tools are called where the answer calls any, in order; else the episode is asked."""
        if not calls:
            return _step(self.episode.answer(message))
        results = [run(self.tools, call) for call in calls]
        replies = [r.reply for r in results if r.reply is not None]
        points = [points_of(reply.reward) for reply in replies]
        known = [reward for reward, _ in points if reward is not None]
        return Step(
            tuple(r.message for r in results),
            sum(known) if known else None,
            added([parts for _, parts in points]),
            any(reply.done for reply in replies),
            len(calls),
            sum(r.bad for r in results),
        )

    def end(self) -> tuple[float | None, dict[str, float]]:
        """(the reward of the whole, by part), and the episode is closed."""
        try:
            return points_of(self.episode.reward())
        finally:
            self.episode.close()

    def close(self) -> None:
        """Give it up."""
        self.episode.close()


def added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sums by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _tool(function: Any) -> Tool:
    return function if isinstance(function, Tool) else tool_of(function)


def seed_all(seed: int) -> None:
    """Seed Python's generator, and numpy's where it is loaded."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def _step(reply: object) -> Step:
    if not isinstance(reply, Reply):
        raise EpisodeError(f"answer() returned {type(reply).__name__}, it must return keel.types.Reply")
    messages = (Message("user", reply.messages),) if isinstance(reply.messages, str) else reply.messages
    reward, parts = points_of(reply.reward)
    if not reply.done and not messages:
        raise EpisodeError("answer() returned no message, and the conversation is not done: there is nothing to answer")
    return Step(_messages(messages), reward, parts, bool(reply.done))


def _messages(found: object) -> tuple[Message, ...]:
    if isinstance(found, str) or not isinstance(found, Sequence) or not all(isinstance(m, Message) for m in found):
        raise EpisodeError(f"messages are a list of keel.types.Message, not {type(found).__name__}")
    wrong = [m.role for m in found if m.role == "assistant" or not isinstance(m.content, str)]
    if wrong:
        raise EpisodeError("the world says a turn of the assistant's" if "assistant" in wrong else "the world's messages are text")
    return tuple(found)


def points_of(found: Points) -> tuple[float | None, dict[str, float]]:
    """A reward as (the sum, by name). Raises EpisodeError for what is no finite number: that is a failure, and no 0."""
    if found is None:
        return None, {}
    parts: dict[str, Any] = {str(k): v for k, v in found.items()} if isinstance(found, Mapping) else {"": found}
    for name, value in parts.items():
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise EpisodeError(f"the reward{f' {name!r}' if name else ''} is {value!r}, it must be a finite number")
    numbers_of = {name: float(value) for name, value in parts.items()}
    return sum(numbers_of.values()), {name: value for name, value in numbers_of.items() if name}
