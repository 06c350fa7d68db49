"""A conversation as it grows, token by token: what a policy is given before each of its turns, without tokenising anything twice.

What was sampled stays as it was sampled. What the template writes between an answer and the next one is found by rendering with marks in
place of the answers, tokenised by itself, and put behind. Where the template shows earlier answers in another way once the conversation
goes on (Qwen3 and DeepSeek-R1 take thoughts out), the next turn stands behind the conversation as it is shown then: a fork.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from keel.render.renderer import Renderer
from keel.render.said import is_in, loose, refuse_controls
from keel.render.template import MARK, RefusedError
from keel.types import Encoded, Message, Prompt

_THOUGHT = re.compile(r"\A\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)
_KEYS = ("reasoning_content", "reasoning", "thinking")  # under which templates read the thoughts of a turn
RESULT = "<tool_response>\n{}\n</tool_response>"  # a tool's result as a user's turn, where a template has no other


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in parts: its thoughts (None: none) and the rest, tool calls as they were written."""

    content: str
    thought: str | None = None

    @classmethod
    def of(cls, text: str) -> Said:
        """``text`` is the answer as it was written; the prompt may have opened the thought."""
        found = _THOUGHT.match(text)
        return cls(text) if found is None else cls(text[found.end() :], found[1].strip("\n"))


class Next(NamedTuple):
    """What stands before the next answer: ``ids`` behind the tokens so far, or ``prompt`` in place of all of them."""

    ids: tuple[int, ...]
    prompt: Encoded | None
    state: State


@dataclass(frozen=True, slots=True)
class State:
    """Where a conversation stands. ``marked`` are its messages with marks in place of what was sampled, ``head`` is what they render to:
    the text that the policy saw before its next answer."""

    messages: tuple[Message, ...]
    marked: tuple[Message, ...]
    head: str
    turns: int = 0


class Turns:
    """The template's side of conversations."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.template = renderer.prompts.need_template()
        self.key = next((k for k in _KEYS if k in self.template.source), None)
        asked = [Message("user", f"{MARK}u"), Message("assistant", f"{MARK}a")]
        shown = self.template.shown([*asked, Message("tool", f"{MARK}t", {"name": "f"})], True) or ""
        self.tool_role = f"{MARK}t" in shown  # else results are a user's turn
        tool = {
            "type": "function",
            "function": {"name": f"{MARK}f", "description": "d", "parameters": {"type": "object", "properties": {}}},
        }
        self.shows_tools = f"{MARK}f" in (self.template.shown(asked[:1], True, [tool]) or "")

    def begin(self, prompt: Prompt) -> State:
        """Before the first answer to ``prompt``. Raises RefusedError."""
        messages = self.renderer.prompts.messages(prompt)
        if messages is None:
            raise RefusedError("a raw prompt cannot hold turns", "use a model with a chat template")
        return State(messages, messages, self.template.render(messages, True, prompt.tools))

    def next(self, prompt: Prompt, state: State, said: Said, replies: Sequence[Message], last: int | None) -> Next:
        """After an answer, and what the world said to it. ``last`` is the drawn end token, which is not doubled; None where the answer
        ended without one. Raises RefusedError for replies that the template does not show, or that hold tokens which steer the model."""
        replies = self.worded(replies)
        for message in replies:
            refuse_controls(self.template, (message.text,), f"the world's {message.role} turn")
        mark = f"{MARK}{state.turns}x"
        thought = None if said.thought is None else mark + "r"
        marked = (*state.marked, self._answer(Said(mark + "c", thought)))
        before = self.template.render(marked, False, prompt.tools)
        after = self.template.render((*marked, *replies), True, prompt.tools)
        messages = (*state.messages, self._answer(self._clean(said)), *replies)
        moved = State(messages, (*marked, *replies), after, state.turns + 1)
        cut = _end_of(before, state.head, mark + "c", thought)
        if cut is not None and after[:cut] == before[:cut]:
            more = after[cut:]
            self._prove_shown(replies, more)
            ids = self.renderer.codec.continuation(more)
            return Next(tuple(ids[1:] if ids and ids[0] == last else ids), None, moved)
        whole = self.template.render(messages, True, prompt.tools)
        self._prove_shown(replies, whole)
        encoded = self.renderer.prompts.encode(replace(prompt, messages=messages), messages)[0]
        return Next((), encoded, moved)

    def written(self, tokens_T: Tensor) -> tuple[str, int | None]:
        """A sampled answer, int64 [T], as text with its special tokens, and the end token that was drawn, which the text is without."""
        tokens = [int(t) for t in tokens_T.tolist()]
        end = tokens[-1] if tokens and tokens[-1] in self.renderer.stop_tokens else None
        return self.renderer.tokenizer.decode(tokens if end is None else tokens[:-1], skip_special_tokens=False), end

    def worded(self, replies: Sequence[Message]) -> tuple[Message, ...]:
        """The world's messages as this template takes them: results of tools as one user's turn where it has no other."""
        if self.tool_role:
            return tuple(replies)
        found: list[Message] = []
        for message in replies:
            if message.role == "tool":
                message = Message("user", RESULT.format(message.text))
            if found and found[-1].role == message.role == "user":
                found[-1] = Message("user", f"{found[-1].text}\n{message.text}")
            else:
                found.append(message)
        return tuple(found)

    def _answer(self, said: Said) -> Message:
        if said.thought is None:
            return Message("assistant", said.content)
        if self.key is not None:
            return Message("assistant", said.content, {self.key: said.thought})
        return Message("assistant", f"<think>\n{said.thought}\n</think>\n\n{said.content}")

    def _clean(self, said: Said) -> Said:
        """Without tokens that steer the model: shown again they would be read as what they steer."""

        def clean(text: str) -> str:
            for token in self.template.controls:
                text = text.replace(token, "")
            return text

        return Said(clean(said.content), None if said.thought is None else clean(said.thought))

    def _prove_shown(self, replies: Sequence[Message], text: str) -> None:
        shown = loose(text)
        for message in replies:
            if not isinstance(message.content, str):
                raise RefusedError(f"the world's {message.role} turn holds an image", "images belong to the prompt")
            if not is_in(message.text, shown):
                raise RefusedError(f"the chat template leaves the world's {message.role} turn out", "answer with a user's turn")


def _end_of(before: str, head: str, content: str, thought: str | None) -> int | None:
    """Where the newest answer ends in ``before``, None where the template shows it in another way than it was written behind ``head``."""
    start = len(head)
    if not before.startswith(head) or (thought is not None and thought not in before[start:]):
        return None
    at = before.find(content, start)
    return None if at < 0 else at + len(content)


def extended(prompt: Encoded, tokens_T: Tensor) -> Encoded:
    """``prompt`` with more tokens of text behind it. int64 [T]."""
    if not len(tokens_T):
        return prompt
    positions_PT = prompt.positions_PT
    if positions_PT is not None:
        more_T = torch.arange(prompt.next_position, prompt.next_position + len(tokens_T))
        positions_PT = torch.cat([positions_PT, more_T.expand(positions_PT.shape[0], -1)], 1)
    return replace(prompt, tokens_T=torch.cat([prompt.tokens_T, tokens_T]), positions_PT=positions_PT)
