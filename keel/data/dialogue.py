"""Whole dialogues as text, as in HH-RLHF: ``\\n\\nHuman: ...\\n\\nAssistant: ...``."""

from __future__ import annotations

import re

from keel.data.errors import FieldError
from keel.types import Message

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")


def dialogue(name: str, text: str) -> tuple[Message, ...]:
    """The turns of a dialogue. Raises FieldError (of ``name``) for text outside of turns, or without an answer at the end."""
    pieces = _TURN.split(text.lstrip())
    if pieces[0].strip():
        raise FieldError(name, "must begin with Human: or Assistant:, or the text in front would be lost")
    turns = [Message("user" if who == "Human" else "assistant", said.strip()) for who, said in zip(pieces[1::2], pieces[2::2])]
    merged: list[Message] = []
    for turn in turns:  # the real files hold the same speaker twice in a row
        if merged and merged[-1].role == turn.role:
            merged[-1] = Message(turn.role, f"{merged[-1].text}\n\n{turn.text}".strip())
        else:
            merged.append(turn)
    if not merged or merged[-1].role != "assistant":
        raise FieldError(name, "must end with an Assistant turn")
    return tuple(merged)
