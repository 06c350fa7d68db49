"""Messages of judges and critics as a model in this process is shown them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keel.core.errors import DataError
from keel.judges.ask import digest
from keel.judges.pictures import Content, content_of, images_of, known_by
from keel.types import Encoded, Message, Prompt, TextPart

if TYPE_CHECKING:
    from keel.render.renderer import Renderer  # torch

Messages = Sequence[tuple[str, Content]]  # (role, content)


def sees_images(renderer: Renderer) -> bool:
    """Does the renderer's model read images?"""
    return renderer.images is not None and not renderer.images.reading.refused


def controls_of(tokenizer: Any) -> tuple[str, ...]:
    """Special tokens of a tokenizer, the longest first: what `templates.broken` breaks in somebody else's text."""
    special = {t.content for t in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    return tuple(sorted(special, key=len, reverse=True))


def name_of(messages: Messages) -> str:
    """A name that follows from what is shown, images by their bytes."""
    return digest([[role, known_by(content)] for role, content in messages])


def encoded(renderer: Renderer, messages: Messages, reserve: int) -> Encoded:
    """The messages as a prompt, behind which ``reserve`` tokens are to be written. Where the chat template knows no system turn all of it
    is one turn of the user, without a template one raw text. Raises DataError for what the model cannot be shown: too long, unreadable."""
    name = name_of(messages)
    if renderer.template is None:
        if any(images_of(content) for _, content in messages):
            raise DataError("a model without a chat template is shown no images", "take another model")
        return renderer.prompt(Prompt(name, text=_whole(messages) + "\n"), reserve)
    try:
        return renderer.prompt(Prompt(name, tuple(Message(role, content) for role, content in messages)), reserve)
    except DataError:  # some templates know no system turn
        return renderer.prompt(Prompt(name, (Message("user", _whole(messages)),)), reserve)


def _whole(messages: Messages) -> Any:
    """All contents as one, an empty line between them."""
    parts = [part for _, c in messages for part in (TextPart("\n\n"), *([TextPart(c)] if isinstance(c, str) else c))]
    return content_of(parts)
