"""What the world puts before the first answer: once for each prompt, the same for all its conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keel.core.hashing import stable_hash
from keel.environments.config import EnvironmentConfig
from keel.environments.host import Failure, Host
from keel.environments.play import Opening, Start
from keel.environments.tools import tools_text
from keel.render.conversation import Turns
from keel.render.template import RefusedError
from keel.types import Message, Prompt, SampleRequest


def world_seed(seed: int, prompt: Prompt) -> int:
    """Of what is hidden in a prompt's world: the same in all its conversations, so that they can be compared."""
    return stable_hash("world", seed, prompt.prompt_id) >> 1


def chance_of(request: SampleRequest, sample: int) -> int:
    """Of what is thrown on the way: each conversation's own."""
    return stable_hash("chance", request.seed, request.prompt_id, request.attempt, sample)


class Opener:
    """Begins each prompt's episode once, and keeps what it says. A conversation that begins otherwise later on has failed."""

    def __init__(self, host: Host, turns: Turns, config: EnvironmentConfig, seed: int) -> None:
        self.host, self.turns, self.config, self.seed = host, turns, config, seed
        self.opened: dict[str, Opening] = {}  # by prompt id
        self.prompts: dict[str, tuple[Prompt, Prompt]] = {}  # as the data has it, as the policy is given it

    def __call__(self, prompts: Sequence[Prompt]) -> list[Prompt | RefusedError]:
        """The prompts as the policy is given them, or why one has no world."""
        found: list[Prompt | RefusedError] = []
        for first in range(0, len(prompts), self.config.at_once):
            part = prompts[first : first + self.config.at_once]
            openings = self.host.open([(i, Start(prompt, world_seed(self.seed, prompt), 0)) for i, prompt in enumerate(part)])
            self.host.drop(range(len(part)))
            found += [self._opened(prompt, opening) for prompt, opening in zip(part, openings, strict=True)]
        return found

    def _opened(self, prompt: Prompt, opening: Opening | Failure) -> Prompt | RefusedError:
        if isinstance(opening, Failure):
            return RefusedError(f"its environment fails at the start: {opening.error}", "mend the environment or the row")
        own = prompt.messages or ((Message("user", prompt.text),) if prompt.text else ())
        messages, tools = joined((*own, *self.turns.worded(opening.messages))), (*prompt.tools, *opening.tools)
        if opening.tools and not self.turns.shows_tools:
            messages = with_text(messages, tools_text(opening.tools)) if self.config.describe_tools else messages
            tools = prompt.tools
        shown = replace(prompt, messages=messages, text=None, tools=tools)
        try:
            self.turns.begin(shown)
        except RefusedError as refused:
            return refused
        self.opened[prompt.prompt_id] = opening
        self.prompts[prompt.prompt_id] = (prompt, shown)
        return shown


def joined(messages: Sequence[Message]) -> tuple[Message, ...]:
    """User's turns that follow each other as one, on lines of their own."""
    found: list[Message] = []
    for message in messages:
        last = found[-1] if found else None
        if last is not None and last.role == message.role == "user" and isinstance(last.content, str):
            parted = not last.content or last.content[-1].isspace() or message.text[:1].isspace()
            found[-1] = replace(last, content=f"{last.content}{'' if parted else chr(10)}{message.text}")
        else:
            found.append(message)
    return tuple(found)


def with_text(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """``text`` at the end of the system's turn, else before the first user's."""
    for i, message in enumerate(messages):
        if message.role in ("system", "user") and isinstance(message.content, str):
            order = (message.content, text) if message.role == "system" else (text, message.content)
            return (*messages[:i], replace(message, content="\n\n".join(order)), *messages[i + 1 :])
    return (Message("user", text), *messages)
