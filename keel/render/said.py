"""What a conversation says, and the proof that the chat template shows it: nothing of a record may be left out silently."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from keel.data.thoughts import thoughts_in
from keel.render.codec import Codec
from keel.render.template import MARK, ChatTemplate, RefusedError, Tools
from keel.types import ImagePart, Message, TextPart

ANOTHER = "give another template with render.chat_template=FILE"
_SLACK = re.compile(r"[\s\\\"']+")  # what templates and JSON put around and between the words
_THOUGHT = re.compile(r"</?\w*(?:think|thought|reason)\w*>")
_BESIDE = ("tools", "functions")  # some templates read them in a turn
_LEAVES = {
    "system": "put its text into the first user turn",
    "tool": "put the tools' results into user turns",
    "user": "put its text into another turn",
    "assistant": "put its text into another turn",
}


def loose(text: str) -> str:
    """``text`` without white space, quotes and backslashes, for comparing what is said however it is set."""
    return _SLACK.sub("", text)


def strings(value: Any) -> Iterator[str]:
    """Every text in nested lists and objects, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


def calls(message: Message) -> Iterator[tuple[str, Any]]:
    """(name, arguments) of each tool call of a message."""
    for call in message.extra.get("tool_calls") or ():
        function = call.get("function") or call
        yield str(function.get("name", "")), function.get("arguments")


def reasoning(message: Message) -> Iterator[tuple[str, str]]:
    """(field, text) of the reasoning that a message holds outside of its content, under whatever key."""
    return thoughts_in(message.extra)


def is_in(text: str, shown: str) -> bool:
    """Is ``text`` in ``shown``, which is ``loose``, as it stands or as JSON or Python write it?"""
    forms = (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1], repr(text)[1:-1])
    return any(loose(form) in shown for form in forms)


def refuse_controls(template: ChatTemplate | None, texts: Iterable[str], where: str) -> None:
    """Raises RefusedError where one of the texts holds a token that steers the model: it would be encoded as that very token."""
    known = template.controls if template is not None else ()
    found = next((token for text in texts for token in known if token in text), None)
    if found is not None:
        what = f"{where} holds the control token {found!r}, which would end or open a turn in the middle of it"
        raise RefusedError(what, "write it in another way, for instance with a space inside")


def refuse_lost(codec: Codec, text: str) -> None:
    """Raises RefusedError where an answer has a character that the tokenizer cannot write: another token, or none, would be trained."""
    if lost := codec.lost(text):
        named = ", ".join(repr(c) for c in lost[:5])
        raise RefusedError(f"this tokenizer cannot write {named} of an answer", "take it out of the answer, or train another model")


def missing_call(message: Message, shown: str) -> str | None:
    """The name of the first tool call that is not wholly in ``shown``, which is ``loose``; None when all are. Calls of one name must be
    there as often as they are made."""
    made: Counter[str] = Counter()
    for name, arguments in calls(message):
        made[name] += 1
        written = isinstance(arguments, str) and is_in(arguments, shown)
        if shown.count(loose(name)) < made[name] or not (written or all(is_in(text, shown) for text in _values(_object(arguments)))):
            return name
    return None


def check_answer(message: Message, span: str, hint: str) -> None:
    """The trained ``span`` of a rendered conversation must hold all that the message says. Raises RefusedError with the reason; ``hint``
    is the way out for a text that is changed."""
    shown = loose(span)
    pieces = [piece.strip() for piece in _THOUGHT.split(message.text)]
    if loose(message.text) not in shown or any(piece not in span for piece in pieces):
        raise RefusedError("the chat template changes or drops the text of an answer", hint)
    for name, text in reasoning(message):
        if loose(text) not in shown:
            what = f"the chat template drops the {name} of the trained answer"
            raise RefusedError(what, f"put it into content, as <think>...</think> in front of the answer, or {ANOTHER}")
    if (name := missing_call(message, shown)) is not None:
        raise RefusedError(f"the chat template drops or changes the tool call {name!r} of the trained answer", ANOTHER)


class Showing:
    """Proofs that a template shows what it is given: by marks in place of contents, once for each shape of a conversation."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self._hidden: dict[tuple[Any, ...], tuple[int, ...] | None] = {}

    def check(self, messages: Sequence[Message], generation: bool, tools: Tools, text: str) -> None:
        """Raises RefusedError when a content, a tool call or a tool is not in ``text``, the rendered conversation. Reasoning of turns that
        are only read may be gone: the template leaves it out when the model is asked, too."""
        shown = loose(text)
        for i in self._hidden_of(messages, generation, tools, shown):
            role = messages[i].role
            raise RefusedError(f"the chat template leaves the {role} turn out (turn {i + 1})", f"{_LEAVES.get(role, '')}, or {ANOTHER}")
        for i, message in enumerate(messages):
            if (name := missing_call(message, shown)) is not None:
                raise RefusedError(f"the chat template leaves the tool call {name!r} of turn {i + 1} out", ANOTHER)
            for key in _BESIDE:
                if any(not is_in(text, shown) for text in strings(message.extra.get(key))):
                    what = f"the chat template does not show the {key} that stand in turn {i + 1}"
                    raise RefusedError(what, f"put them into the column {key!r} of the row, or {ANOTHER}")
        for tool in tools:
            function = tool.get("function") or tool
            if (lost := next((t for t in _described(function) if not is_in(t, shown)), None)) is not None:
                what = f"the chat template leaves the tool {function.get('name', '')!r} out, or a part of it ({lost[:40]!r})"
                raise RefusedError(what, f"{ANOTHER}, or set the column aside with data.keys={{unused: tools}}")

    def _hidden_of(self, messages: Sequence[Message], generation: bool, tools: Tools, shown: str) -> Sequence[int]:
        shape = (generation, bool(tools), *((m.role, *sorted(m.extra), tuple(bool(t.strip()) for t in _texts(m))) for m in messages))
        if shape not in self._hidden:
            marked = self.template.shown([_marked(m, i) for i, m in enumerate(messages)], generation, tools)
            lost = (
                i for i, m in enumerate(messages) if any(t.strip() for t in _texts(m)) and _mark(i).lower() not in (marked or "").lower()
            )
            self._hidden[shape] = None if marked is None else tuple(lost)
        hidden = self._hidden[shape]
        if hidden is not None:
            return hidden
        # the template wants other contents than marks: the texts themselves must be there
        return [i for i, m in enumerate(messages) if any(not is_in(_THOUGHT.split(t)[-1], shown) for t in _texts(m))]


def _texts(message: Message) -> list[str]:
    """Texts of a message's content, images left out."""
    if isinstance(message.content, str):
        return [message.content]
    return [p.text for p in message.content if isinstance(p, TextPart)]


def _mark(i: int) -> str:
    return f"{MARK}{i}x"


def _marked(message: Message, i: int) -> Message:
    """The message with a mark in place of each text that is not empty."""
    if isinstance(message.content, str):
        return replace(message, content=_mark(i) if message.content.strip() else message.content)
    parts = (p if isinstance(p, ImagePart) or not p.text.strip() else TextPart(_mark(i)) for p in message.content)
    return replace(message, content=tuple(parts))


def _values(arguments: Any) -> Iterator[str]:
    """Names and values of a call's arguments, numbers as JSON writes them."""
    if isinstance(arguments, dict):
        for key, inner in arguments.items():
            yield str(key)
            yield from _values(inner)
    elif isinstance(arguments, list | tuple):
        for inner in arguments:
            yield from _values(inner)
    elif isinstance(arguments, str):
        yield arguments
    elif isinstance(arguments, int | float) and not isinstance(arguments, bool):
        yield json.dumps(arguments)


def _object(arguments: Any) -> Any:
    """Arguments given as JSON text, as the object that they stand for."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _described(schema: Any, names: bool = False) -> Iterator[str]:
    """What a tool's schema tells the model: its name, the names of its arguments, descriptions. ``names``: the keys are arguments."""
    if isinstance(schema, list | tuple):
        for inner in schema:
            yield from _described(inner)
    if not isinstance(schema, dict):
        return
    for key, inner in schema.items():
        if names:
            yield str(key)
        elif key in ("name", "description") and isinstance(inner, str):
            yield inner
        yield from _described(inner, names=not names and key == "properties")
