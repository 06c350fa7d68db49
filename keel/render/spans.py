"""Where the assistant's answers stand in a rendered conversation: proven by rendering, for any template.

The conversation rendered up to an answer (with the generation prompt) must be the beginning of the whole: the answer then starts exactly
where the model would start to write. Templates that rewrite earlier turns as the conversation grows are caught here; their answers are
found by putting a mark in place of the content. What cannot be established is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keel.render.template import MARK, ChatTemplate, RefusedError, Tools
from keel.types import Message


@dataclass(frozen=True, slots=True)
class Spans:
    """``text`` is the whole conversation; ``turns`` are the (start, end) characters of the answers, end tokens included.

    ``open_end``: the template closes the last answer with no token; the tokenizer's end token is to be added.
    """

    text: str
    turns: tuple[tuple[int, int], ...]
    open_end: bool


def answer_spans(template: ChatTemplate, messages: Sequence[Message], first: int, tools: Tools = ()) -> Spans:
    """Spans of the assistant turns from message ``first`` on. Raises RefusedError with the reason when one cannot be established."""
    text = template.render(messages, False, tools)
    answers = [i for i in range(first, len(messages)) if messages[i].role == "assistant"]
    turns: list[tuple[int, int]] = []
    for i in answers:
        head = template.render(messages[:i], True, tools)
        if i == first and not text.startswith(head):
            raise RefusedError(
                "the chat template renders this answer in another way than it is generated: the generation prompt is not its beginning",
                "set render.answers=raw to put answers after the generation prompt as they are, or give another render.chat_template",
            )
        start = len(head) if text.startswith(head) else _marked_start(template, messages, i, text, tools)
        end = _end(template, messages, i, start, text, tools)
        _check(messages[i], text[start:end], last=i == answers[-1])
        if turns and start < turns[-1][1]:
            raise RefusedError("the chat template's turns cannot be told apart", "give another render.chat_template")
        turns.append((start, end))
    return Spans(text, tuple(turns), template.end_token is None)


def _marked_start(template: ChatTemplate, messages: Sequence[Message], i: int, text: str, tools: Tools) -> int:
    """Where the content of turn ``i`` starts, found by a mark in its place."""
    marked = [replace(m, content=MARK, extra={}) if j == i else m for j, m in enumerate(messages)]
    before, found, after = template.render(marked, False, tools).partition(MARK)
    opening = messages[i].text.strip()[:40]
    if not found or MARK in after or not text.startswith(before) or not text[len(before) :].lstrip().startswith(opening):
        raise RefusedError(
            f"where the assistant's turn {i} starts cannot be established: the chat template rewrites turns as the conversation goes on",
            "train the last turn only (render.loss_on=last), or give another render.chat_template",
        )
    return len(before)


def _end(template: ChatTemplate, messages: Sequence[Message], i: int, start: int, text: str, tools: Tools) -> int:
    """After the first end token behind ``start``; without such a token, where the content ends (only the last turn has a known end)."""
    if template.end_token is not None:
        token = template.codec.tokenizer.convert_ids_to_tokens(template.end_token)
        end = text.find(token, start)
        if end < 0:
            raise RefusedError(f"the chat template does not close the assistant's turn {i}", "give another render.chat_template")
        return end + len(token)
    if i != len(messages) - 1:
        raise RefusedError("this chat template closes turns with no token, so only a last turn has an end", "set render.loss_on=last")
    marked = [*messages[:i], replace(messages[i], content=MARK, extra={})]
    suffix = template.render(marked, False, tools).partition(MARK)[2]
    return len(text) - len(suffix) if text.endswith(suffix) else len(text)


def _check(message: Message, shown: str, last: bool) -> None:
    """The span must hold what the message says. Reasoning may be gone from earlier turns (many templates leave it out), not from the
    last one."""
    span, content = _squash(shown), message.text
    wanted = content if last else content.rpartition("</think>")[2]
    if _squash(wanted) not in span:
        raise RefusedError(
            "the chat template changes or drops the text of an answer", "set render.answers=raw, or give another render.chat_template"
        )
    reasoning = message.extra.get("reasoning_content")
    if last and isinstance(reasoning, str) and _squash(reasoning) not in span:
        raise RefusedError(
            "the chat template drops the reasoning_content of the trained answer", "move it into content, or give another chat template"
        )
    for call in message.extra.get("tool_calls") or ():
        name = str((call.get("function") or call).get("name", ""))
        if name not in span:
            raise RefusedError(
                f"the chat template drops the tool call {name!r} of the trained answer", "use a template that renders tool_calls"
            )


def _squash(text: str) -> str:
    return "".join(text.split())
