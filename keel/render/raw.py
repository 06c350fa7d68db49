"""Answers as they are sampled (``render.answers=raw``): the text of the message behind the generation prompt, unchanged."""

from __future__ import annotations

import re

from keel.render.said import ANOTHER, calls, reasoning
from keel.render.template import RefusedError
from keel.types import Message

_NAME = r"(\w*(?:think|thought|reason)\w*)"
_OPENS = re.compile(rf"<{_NAME}>(\s*)\Z")
_CLOSES = re.compile(rf"</{_NAME}>\s*\Z")
_LEAVE_ON = "leave thinking on in render.template_args, or take the thought out"


def raw_text(message: Message, head: str = "") -> str:
    """What the model writes behind ``head``, the conversation so far with the generation prompt, so that both together are the answer.

    Where the generation prompt has opened the thought already, the answer's own opening is left out. Raises RefusedError where the text
    alone is not all of the message (tool calls, reasoning in a field of its own), or does not fit behind the generation prompt.
    """
    lost = [f"the tool call {name!r}" for name, _ in calls(message)] + [f"its {name}" for name, _ in reasoning(message)]
    if lost:
        what = f"a raw answer is the content alone: it would lose {', '.join(lost)}"
        raise RefusedError(what, f"set render.answers=template with a template that shows them, or {_inline(message)}")
    text = message.text
    if (closed := _CLOSES.search(head)) and f"</{closed[1]}>" in text:
        raise RefusedError("the generation prompt says that there is no thought, and the answer has one", _LEAVE_ON)
    opened = _OPENS.search(head)
    if opened is None:
        return text
    name, gap = opened.groups()
    if f"</{name}>" not in text:
        what = f"the generation prompt opens <{name}>, and the answer never closes it"
        raise RefusedError(what, f"write the answer as <{name}>...</{name}> and what follows, or {ANOTHER}")
    own = text.lstrip()
    return own.removeprefix(f"<{name}>").removeprefix(gap) if own.startswith(f"<{name}>") else text


def way_out(message: Message, head: str) -> str:
    """What helps where the chat template changes or drops a part of an answer behind ``head``: raw answers, if they keep all of it."""
    if _CLOSES.search(head) and any(True for _ in reasoning(message)):
        return _LEAVE_ON
    try:
        raw_text(message, head)
    except RefusedError as refused:
        in_fields = any(True for _ in calls(message)) or any(True for _ in reasoning(message))
        return ANOTHER if in_fields else refused.hint or ANOTHER
    return f"set render.answers=raw to put answers behind the generation prompt as they are, or {ANOTHER}"


def _inline(message: Message) -> str:
    if any(True for _ in calls(message)):
        return "write the calls into content as the model should write them"
    return "put it into content, as <think>...</think> in front of the answer"
