"""Conversations among a run's answers: as turns, as the question that two of them make, as what a task asks. Pure functions of records."""

from __future__ import annotations

from dataclasses import replace

from keel.data.fields import prompt_key
from keel.evaluate.compare import Answer
from keel.feedback.questions import answer_words, shared_turns
from keel.types import Message, Prompt, messages_told

Turns = tuple[Message, ...]


def turns_of(answer: Answer) -> Turns:
    """The answer as turns, up to the last one that is the model's own: what the world says behind it tells who won."""
    turns = messages_told(answer.turns)
    own = max((i for i, m in enumerate(turns) if m.role == "assistant"), default=-1)
    return turns[: own + 1] or (Message("assistant", answer.text),)


def same_words(answer: Answer) -> str:
    """What makes two answers to one prompt the same one."""
    return answer_words(turns_of(answer))


def is_empty(answer: Answer) -> bool:
    """Was nothing said, and no tool called, in any turn?"""
    own = [m for m in turns_of(answer) if m.role == "assistant"]
    return not any(m.text.strip() or m.extra.get("tool_calls") for m in own)


def last_asked(text: str, answer: Answer) -> str:
    """What the answer's last turn is an answer to; ``text`` is the prompt's."""
    return next((m.text for m in reversed(turns_of(answer)[:-1]) if m.role == "user"), text)


def question(prompt: Prompt, one: Answer, two: Answer) -> tuple[Prompt, Turns, Turns]:
    """What is asked of two answers. Where both conversations begin with the same turns, these belong to the prompt: what is compared
    follows the last user's turn that they share."""
    ways = [(*prompt.messages, *turns_of(answer)) for answer in (one, two)]
    own = len(prompt.messages)
    shared = shared_turns(*ways) if own and (one.turns or two.turns) else own
    if shared <= own:
        return prompt, turns_of(one), turns_of(two)
    messages = ways[0][:shared]
    longer = replace(prompt, prompt_id=prompt_key(messages, None, prompt.tools), messages=messages)
    return longer, ways[0][shared:], ways[1][shared:]
