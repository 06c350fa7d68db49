"""Worlds that a policy talks with: what an episode must offer, and what is known of a conversation when it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from keel.types.records import Message, Prompt
from keel.types.units import Encoded

Points = float | Mapping[str, float] | None
"""A reward: a number; numbers by name, which are added up; None for none at all, which is no 0."""

Ending = Literal["done", "turns", "tokens", "answer"]
"""How a conversation ended: the world said so; at the limit of turns, or of tokens; in an answer that was cut at its own limit."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the world says to an answer. Text alone is a user's turn."""

    messages: Sequence[Message] | str = ()
    reward: Points = None  # for this turn
    done: bool = False


class Episode(Protocol):
    """One conversation's world. It knows messages only, no tokens."""

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """Typed and described functions. They are called by name, and what they return is told to the model; one that returns a ``Reply``
        gives a reward for the turn, or ends the conversation."""
        ...

    def start(self) -> Sequence[Message]:
        """What the world says before the first answer, behind the prompt's own messages. The same for the same prompt and seed."""
        ...

    def answer(self, message: Message) -> Reply:
        """Called with each answer that calls no tool. ``message.extra`` may hold ``reasoning_content``."""
        ...

    def reward(self) -> Points:
        """For the conversation as a whole; asked once at the end, however it ended."""
        ...

    def close(self) -> None: ...


class Environment(Protocol):
    """Makes the world of a conversation."""

    def episode(self, prompt: Prompt, seed: int) -> Episode:
        """``seed`` is the same for all conversations of one prompt: what is hidden in it may be drawn from it."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an agent asks for the policy's answers, in OpenAI's protocol. ``api_key`` names the one conversation that it holds."""

    base_url: str
    api_key: str
    model: str


@dataclass(frozen=True, slots=True)
class Fork:
    """From token ``start`` of a rollout on, the tokens stand behind ``prompt``, and not behind the tokens before them: the chat template
    shows the conversation so far in another way than it was written (without its thoughts, say), or an agent asked something else."""

    start: int
    prompt: Encoded


@dataclass(frozen=True, slots=True)
class Asking:
    """How an agent asked for its answers."""

    branches: int = 1  # streams of answers, each behind what the agent made of it: one where it holds a single conversation
    refused: int = 0  # requests that got an error
    timed: bool = False  # was an answer drawn beside others that only time decided on? It asked several at once, or was not waited for


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said behind the prompt, and what it was worth."""

    messages: tuple[Message, ...]  # the policy's answers and what the world said to them, in order
    turn_rewards: tuple[float | None, ...]  # one an answer; None: the world gave none
    reward: float | None = None  # of the whole; None: none
    parts: Mapping[str, float] = field(default_factory=dict[str, float])  # by name, over turns and the whole
    ended: Ending = "done"
    calls: int = 0  # of tools, those that went wrong included
    bad_calls: int = 0  # that could not be read, or that no tool takes so
    asking: Asking | None = None  # of an agent; None: the trainer drove

    @property
    def turns(self) -> int:
        """Answers of the policy."""
        return len(self.turn_rewards)

    @property
    def total(self) -> float | None:
        """All rewards of the world together; None where it gave none. Cut in the very first answer, so that the world was never asked, the
        conversation is worth 0; an agent was asked."""
        known = [r for r in (*self.turn_rewards, self.reward) if r is not None]
        if not known and self.asking is None and self.turns == 1 and self.ended in ("answer", "tokens"):
            return 0.0
        return sum(known) if known else None

    def told(self) -> list[dict[str, Any]]:
        """The turns for people and files: role, text, and what there is of thought, tool calls, the tool's name, the answer's reward, and
        the branch where an agent asked behind something else than the prompt."""
        rewards = iter(self.turn_rewards)
        rows: list[dict[str, Any]] = []
        for message in self.messages:
            row: dict[str, Any] = {"role": message.role, "text": message.text}
            row |= {key: message.extra[key] for key in ("name", "reasoning_content", "tool_calls", "branch") if message.extra.get(key)}
            if message.role == "assistant":
                row["reward"] = next(rewards, None)
            rows.append(row)
        return rows


def messages_told(rows: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The messages of rows that ``Conversation.told`` made; rewards are no part of them."""
    kept = ("name", "reasoning_content", "tool_calls")
    return tuple(Message(str(r["role"]), str(r.get("text", "")), {key: r[key] for key in kept if r.get(key)}) for r in rows)
