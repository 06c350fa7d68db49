"""Messages as a model in this process reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keel.core.errors import DataError
from keel.judges.ask import digest
from keel.types import Encoded, Message, Prompt

if TYPE_CHECKING:
    from keel.render.renderer import Renderer  # who uses this has loaded it


def tokens_of(renderer: Renderer, messages: Sequence[tuple[str, str]], reserve: int) -> Encoded:
    """(role, content) of each message as tokens, with room for ``reserve`` more. Raises DataError for what the model cannot be shown: too
    long, or a template that refuses it."""
    whole = "\n\n".join(text for _, text in messages)
    name = digest(list(messages))
    if renderer.template is None:
        return renderer.prompt(Prompt(name, text=whole + "\n"), reserve)
    try:
        return renderer.prompt(Prompt(name, tuple(Message(role, text) for role, text in messages)), reserve)
    except DataError:  # some templates know no system turn
        return renderer.prompt(Prompt(name, (Message("user", whole),)), reserve)


def controls_of(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens of a tokenizer, the longest first: what no text of others may hold whole."""
    special = {t.content for t in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    return tuple(sorted(special, key=len, reverse=True))
