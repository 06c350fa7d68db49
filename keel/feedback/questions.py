"""What two answers are asked about, conversations included, and when two questions are the same. Pure functions of records. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from keel.types.records import Message, Prompt

Asked = tuple[str, frozenset[str]]  # what was said before, both answers


def shared_turns(one: Sequence[Message], two: Sequence[Message]) -> int:
    """How many turns of two conversations are the question: those up to the last one that both were asked in the same words after the same
    replies. 0 where they do not begin with the same question."""
    same = next((i for i, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))
    ends = [
        i for i in range(1, same + 1) if one[i - 1].role != "assistant" and all(i >= len(x) or x[i].role == "assistant" for x in (one, two))
    ]
    whole = [i for i in ends if i < len(one) and i < len(two)]
    return max(whole or ends, default=0)


def asked_words(prompt: Prompt) -> str:
    """The words of a prompt: its only user's turn, else all turns with their roles. What the system was told is no part of it."""
    turns = [m for m in prompt.messages if m.role != "system"]
    return prompt.last_user_text if len(turns) <= 1 else "\n".join(map(_said, turns))


def answer_words(answer: Sequence[Message]) -> str:
    """The words of an answer: the text of its only turn, else all turns with their roles and calls of tools."""
    if len(answer) == 1 and not answer[0].extra.get("tool_calls"):
        return answer[0].text.strip()
    return "\n".join(map(_said, answer))


def asked(prompt: Prompt, answers: Iterable[Sequence[Message]]) -> Asked:
    """What makes two questions the same, wherever they come from: equal words before, equal answers in any order."""
    return asked_words(prompt), frozenset(map(answer_words, answers))


def _said(message: Message) -> str:
    calls = message.extra.get("tool_calls")
    return f"{message.role}: {message.text.strip()}" + (f" {json.dumps(calls, sort_keys=True, default=str)}" if calls else "")
