"""The chat template, looked at from outside: what it writes around turns is found by rendering, never by knowing its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from keel.core.errors import DataError
from keel.core.hashing import digest_bytes
from keel.render.codec import Codec
from keel.render.config import RenderConfig
from keel.render.template_source import arguments, dated
from keel.types import ImagePart, Message

MARK = "KeelMark7f3a9"  # stands for a content that no text has
_GENERATION = re.compile(r"\{%-?\s*generation\b")
_ANOTHER = "mend it, or give another one with render.chat_template"
_FAILURES = (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)  # what a template may raise
Tools = Sequence[Mapping[str, Any]]


class RefusedError(DataError):
    """One record cannot be rendered. ``Renderer.unit`` makes a Refusal of it."""

    @property
    def reason(self) -> str:
        """What is wrong and what to do, in one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ChatTemplate:
    """The model's chat template with its arguments. ``closing`` is what stands between an answer and the end of its turn, ``end_token``
    included (None when the template writes no such token)."""

    def __init__(self, codec: Codec, source: str, config: RenderConfig, image_token: str = "") -> None:
        self.codec = codec
        self.source = source
        self.hash = digest_bytes(source.encode())
        self.marks_answers = bool(_GENERATION.search(source))
        self._arguments = arguments(source, config)
        self._written = dated(source, config)
        self._prove_syntax()
        self._image_token = image_token
        self._text_as_parts = MARK not in self._try([{"role": "user", "content": MARK}])
        blocks = [{"type": "image"}, {"type": "text", "text": MARK}]
        self._calls_as_text = self._wants_text()
        self._image_as_part = bool(image_token) and self._holds_image(self._try([{"role": "user", "content": blocks}]))
        self.closing, self.end_token = self._closing()
        self.controls = self._controls()
        self.injected_system = self._injected_system()

    def render(self, messages: Sequence[Message], generation: bool, tools: Tools = ()) -> str:
        """The conversation as text; ``generation`` adds the beginning of an assistant turn. Raises RefusedError with its reason."""
        try:
            return self._apply([self.as_dict(m) for m in messages], generation, tools)
        except _FAILURES as error:
            hint = "mend the row, or give another template with render.chat_template=FILE"
            raise RefusedError(f"the chat template refuses this conversation: {error}", hint) from None

    def shown(self, messages: Sequence[Message], generation: bool, tools: Tools = ()) -> str | None:
        """As ``render``, for conversations that are made up to learn about the template: None where it refuses them."""
        try:
            return self.render(messages, generation, tools)
        except RefusedError:
            return None

    def marked(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[list[int], list[bool]]:
        """Ids of the conversation and, for each, whether the template's own generation marks say that the assistant wrote it."""
        turns = [self.as_dict(m) for m in messages]
        out = self.codec.tokenizer.apply_chat_template(
            turns,
            tools=list(tools) or None,
            chat_template=self._written,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **self._arguments,
        )
        marks = [bool(m) for m in out["assistant_masks"]]
        places = self.codec.places(self._apply(turns, False, tools))
        if len(places) == len(marks):  # the library marks the first token alone of a last character that is written in several
            for i in range(1, len(marks)):
                marks[i] = marks[i] or (marks[i - 1] and places[i][0] < places[i - 1][1])
        return list(out["input_ids"]), marks

    def as_dict(self, message: Message) -> dict[str, Any]:
        """A message as templates take it: content as text or as blocks, whichever this template understands."""
        content: Any = message.content
        if isinstance(content, str):
            content = [{"type": "text", "text": content}] if self._text_as_parts else content
        elif self._image_as_part or self._text_as_parts:
            content = [{"type": "image"} if isinstance(p, ImagePart) else {"type": "text", "text": p.text} for p in content]
        else:
            content = "".join(self._image_token if isinstance(p, ImagePart) else p.text for p in content)
        calls = message.extra.get("tool_calls")
        more = {"tool_calls": [self._call(c) for c in calls]} if isinstance(calls, list) else {}
        return {"role": message.role, "content": content, **message.extra, **more}

    def _call(self, call: Any) -> Any:
        """A tool call with its arguments in the form that this template writes out as JSON: an object, or JSON text."""
        function = call.get("function", call)
        arguments = function.get("arguments")
        if self._calls_as_text and isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not self._calls_as_text and isinstance(arguments, str):
            arguments = _parsed(arguments)
        else:
            return call
        function = {**function, "arguments": arguments}
        return {**call, "function": function} if "function" in call else function

    def _wants_text(self) -> bool:
        """Does the template write arguments as they are? An object would then come out as Python writes it, or not at all."""

        def written(arguments: Any) -> str:
            call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": arguments}}
            turn = {"role": "assistant", "content": "", "tool_calls": [call]}
            return self._try([{"role": "user", "content": MARK}, turn]).partition(MARK)[2]

        as_object, as_text = written({"a": MARK}), written(json.dumps({"a": MARK}))
        return f'{{"a": "{MARK}"}}' in as_text and (MARK not in as_object or f"'{MARK}'" in as_object)

    def _apply(self, messages: list[dict[str, Any]], generation: bool, tools: Tools = ()) -> str:
        return self.codec.tokenizer.apply_chat_template(
            messages,
            tools=list(tools) or None,
            chat_template=self._written,
            add_generation_prompt=generation,
            tokenize=False,
            **self._arguments,
        )

    def _prove_syntax(self) -> None:
        try:
            self._apply([{"role": "user", "content": MARK}], True)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"the chat template is broken at its line {error.lineno}: {error.message}", _ANOTHER) from None
        except _FAILURES:
            return  # it may want another conversation; the records will show

    def _try(self, messages: list[dict[str, Any]], generation: bool = False) -> str:
        try:
            return self._apply(messages, generation)
        except _FAILURES:
            return ""

    def _holds_image(self, text: str) -> bool:
        return MARK in text and self._image_token in text and "'type'" not in text

    def _probe(self, *roles: str) -> str:
        """A conversation whose contents are ``MARK`` + a number."""
        return self._try([self.as_dict(Message(role, f"{MARK}{i}")) for i, role in enumerate(roles)])

    def _closing(self) -> tuple[str, int | None]:
        suffix = self._probe("user", "assistant").rpartition(f"{MARK}1")[2]
        tokenizer = self.codec.tokenizer
        special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        for token in self.codec.encode(suffix):
            text = tokenizer.convert_ids_to_tokens(token)
            if (token in special or token == tokenizer.eos_token_id or token in tokenizer.added_tokens_decoder) and text in suffix:
                return suffix[: suffix.index(text) + len(text)], token
        return "", None

    def _controls(self) -> tuple[str, ...]:
        """Tokens that steer the model. Text that holds one would be read as a turn's border, the end, a tool's call ..."""
        tokenizer = self.codec.tokenizer
        known = {*tokenizer.all_special_tokens, *(t.content for t in tokenizer.added_tokens_decoder.values() if t.special)}
        return tuple(sorted(t for t in known if t and t != self._image_token))

    def _injected_system(self) -> str:
        """Text that the template puts in front of the first user turn by itself (a default system prompt, a date)."""
        plain = self._probe("user").partition(f"{MARK}0")[0]
        given = self._probe("system", "user")
        before, _, rest = given.partition(f"{MARK}0")
        between = rest.partition(f"{MARK}1")[0]
        own = self._visible(before, "system") if given else ""
        if given and plain.startswith(before) and plain.endswith(between):
            return f"{own}{plain[len(before) : len(plain) - len(between)]}".strip()
        return "" if given else self._visible(plain, "user")

    def _visible(self, text: str, role: str) -> str:
        """What people would read of it: no special tokens, no name of the role."""
        shown = self.codec.tokenizer.decode(self.codec.encode(text), skip_special_tokens=True).strip()
        return re.sub(rf"^{role}\b:?\s*", "", shown, flags=re.IGNORECASE).strip()


def _parsed(arguments: str) -> Any:
    """The object that JSON text stands for; the text itself where it is no object."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    return found if isinstance(found, dict) else arguments
