"""Prompts -> token ids: the conversation in front of an answer, rendered by the chat template, whole or refused."""

from __future__ import annotations

import logging

from keel.core.errors import DataError
from keel.render.branches import Turns, drop_oldest, ids_of
from keel.render.codec import Codec
from keel.render.config import RenderConfig
from keel.render.images import Images
from keel.render.limits import Limits
from keel.render.said import Showing, refuse_controls, strings
from keel.render.template import ChatTemplate, RefusedError
from keel.types import Encoded, Message, Prompt

log = logging.getLogger("keel")


class Prompts:
    """What a model is given before it answers. ``template`` None: plain text only; ``images`` None: a model that reads text only."""

    def __init__(
        self, config: RenderConfig, codec: Codec, limits: Limits, template: ChatTemplate | None, images: Images | None = None
    ) -> None:
        self.config, self.codec, self.limits, self.template, self.images = config, codec, limits, template, images
        self._showing = Showing(template) if template else None
        self._told_as_chat = False
        if config.system is not None:
            self._prove_system()

    def messages(self, prompt: Prompt) -> Turns | None:
        """The conversation in front of the answer, system prompt put in; None for raw text. Raises RefusedError for control tokens."""
        messages = prompt.messages
        if not messages:
            if not prompt.text or self.config.as_chat is False or (self.config.as_chat == "auto" and self.template is None):
                return None
            messages = (Message("user", prompt.text),)
            self._tell_as_chat()
        if self.config.system is not None:
            messages = (Message("system", self.config.system), *(m for m in messages if m.role != "system"))
        for message in messages:
            self.no_controls(message)
        refuse_controls(self.template, strings(prompt.tools), "a tool")
        return messages

    def encode(self, prompt: Prompt, messages: Turns | None, reserve: int = 0) -> tuple[Encoded, Turns | None]:
        """The encoded prompt, and its messages as far as they are left after ``drop_turns`` (the same object when all are).

        ``reserve`` tokens will be sampled behind it. Raises RefusedError when it is too long, or cannot be rendered.
        """
        limit, why = self.limits.prompt(reserve)
        encoded = self._encode(prompt, messages)
        while limit is not None and len(encoded) > limit:
            shorter = drop_oldest(messages) if messages is not None and self.config.over_long == "drop_turns" else None
            if shorter is None:
                raise RefusedError(f"the prompt has {len(encoded)} tokens, {why}")
            messages = shorter
            encoded = self._encode(prompt, messages)
        return encoded, messages

    def need_template(self) -> ChatTemplate:
        """The chat template. Raises DataError where the model has none."""
        if self.template is None:
            raise DataError(
                "the data holds conversations and this model has no chat template",
                "use an instruct model, give a template with render.chat_template=FILE, or train on plain prompt / completion strings",
            )
        return self.template

    def prove_shown(self, messages: Turns, generation: bool, prompt: Prompt, text: str) -> None:
        """Raises RefusedError when ``text``, the rendered ``messages``, leaves a part of them or of the prompt's tools out."""
        assert self._showing is not None
        self._showing.check(messages, generation, prompt.tools, text)

    def no_controls(self, message: Message) -> None:
        """Raises RefusedError for a message that holds a token that steers the model."""
        refuse_controls(self.template, (message.text, *strings(dict(message.extra))), f"the {message.role} turn")

    def _encode(self, prompt: Prompt, messages: Turns | None) -> Encoded:
        if messages is None:
            return self._placed(self.codec.start(prompt.text or ""))
        text = self.need_template().render(messages, True, prompt.tools)
        self.prove_shown(messages, True, prompt, text)
        if self.images is not None:
            return self.images.encode(text, messages)
        if any(not isinstance(m.content, str) for m in messages):
            raise RefusedError("the prompt holds images, this model reads text only", "use a vision-language model")
        return self._placed(self.codec.encode(text))

    def _placed(self, ids: list[int]) -> Encoded:
        return Encoded(ids_of(ids)) if self.images is None else self.images.placed(ids)

    def _tell_as_chat(self) -> None:
        if not self._told_as_chat:
            log.info("prompts that are plain strings are put into a user turn of the chat template (render.as_chat=false leaves them raw)")
            self._told_as_chat = True

    def _prove_system(self) -> None:
        try:
            self.need_template().render((Message("system", "a"), Message("user", "b")), True)
        except RefusedError as refused:
            raise DataError(
                f"render.system is set, but {refused.message}", "leave render.system empty, or put it into the prompts"
            ) from None
