"""Where the assistant's answers stand in a rendered conversation: proven by rendering, for any template.

An answer is trained as the model writes it: behind the conversation so far with the generation prompt, when nothing follows yet. Templates
may show the same turn in another way once the conversation goes on (Qwen3 and DeepSeek-R1 take the thoughts out). Such a turn is never
trained as it is shown then, because the model is never asked to write it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from keel.render.codec import Codec
from keel.render.raw import way_out
from keel.render.said import ANOTHER, check_answer
from keel.render.template import MARK, ChatTemplate, RefusedError, Tools
from keel.types import Message


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant's turn as the model writes it. ``text`` is the conversation up to and with the turn's end token, the turn starts at
    character ``start``.

    ``open_end``: the template closes the turn with no token; the tokenizer's end token is to be added.
    """

    text: str
    start: int
    open_end: bool

    @property
    def head(self) -> str:
        """What the model is given before it writes the turn."""
        return self.text[: self.start]


def written_turn(template: ChatTemplate, messages: Sequence[Message], tools: Tools = ()) -> Turn:
    """The last of ``messages``, an assistant's. Raises RefusedError with the reason when where it stands cannot be established, or when not
    all of it is there."""
    head = template.render(messages[:-1], True, tools)
    text = template.render(messages, False, tools)
    hint = way_out(messages[-1], head)
    if not text.startswith(head):
        text = head + _found_by_mark(template, messages, head, text, tools)
    if text == head:
        what = "the chat template renders this answer in another way than it is generated: the generation prompt is not its beginning"
        raise RefusedError(what, hint)
    end, open_end = _end(template, messages, len(head), text, tools)
    check_answer(messages[-1], text[len(head) : end], hint)
    return Turn(text[:end], len(head), open_end)


def joins(codec: Codec, turns: Sequence[Turn]) -> bool:
    """Can these turns be trained in one sequence? Each must stand there behind the very tokens that the model is given before it writes
    it."""
    if any(before.open_end or not after.head.startswith(before.text) for before, after in pairwise(turns)):
        return False
    return len(turns) == 1 or codec.splits(turns[-1].text, [cut for t in turns for cut in (t.start, len(t.text))])


def ids_behind(codec: Codec, head: str, turns: Sequence[Turn], eos: int) -> tuple[list[int], list[bool]]:
    """Token ids of what follows ``head`` up to the end of the last turn, and which of them the turns are. ``turns`` are such as ``joins``
    accepts, ``head`` is the beginning of the first one's."""
    cuts = [len(head), *(cut for t in turns for cut in (t.start, len(t.text)))]
    pieces = codec.split(turns[-1].text, cuts)[1:-1]  # between, turn, between, turn ...: in front stands the head, behind is nothing
    if turns[-1].open_end:
        pieces[-1] = [*pieces[-1], eos]
    return [t for piece in pieces for t in piece], [k % 2 == 1 for k, piece in enumerate(pieces) for _ in piece]


def _found_by_mark(template: ChatTemplate, messages: Sequence[Message], head: str, text: str, tools: Tools) -> str:
    """What follows the generation prompt in ``text``, whose earlier turns are shown in another way than in ``head``: the template keeps
    the thoughts of the newest answer only, say. Empty when it cannot be found."""
    before = template.render(messages[:-1], False, tools)
    marked = template.shown([*messages[:-1], replace(messages[-1], content=MARK)], False, tools) or ""
    opening, content, _ = marked.partition(MARK)
    prompt = head[len(before) :]
    if not prompt or not head.startswith(before) or not content or not text.startswith(opening):
        return ""
    at = opening.rfind(prompt)
    return text[at + len(prompt) :] if at >= 0 else ""


def _end(template: ChatTemplate, messages: Sequence[Message], start: int, text: str, tools: Tools) -> tuple[int, bool]:
    """After the first end token behind ``start``, or after the special token that the text ends with (a tool's call may have one of its
    own); without any, where the content ends, which is then an open end."""
    tokenizer = template.codec.tokenizer
    if template.end_token is not None:
        token = tokenizer.convert_ids_to_tokens(template.end_token)
        if (found := text.find(token, start)) >= 0:
            return found + len(token), False
    body = text.rstrip()
    if any(len(body) - len(token) > start and body.endswith(token) for token in template.controls):
        return len(body), False
    if template.end_token is not None:
        raise RefusedError("the chat template does not close the assistant's turn", ANOTHER)
    suffix = template.render([*messages[:-1], replace(messages[-1], content=MARK, extra={})], False, tools).partition(MARK)[2]
    return (len(text) - len(suffix) if text.endswith(suffix) else len(text)), True
