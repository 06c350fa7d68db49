"""Turns of a conversation that a template does not keep apart."""

from __future__ import annotations

from dataclasses import replace

from keel.render.branches import next_turns
from keel.render.spans import joins
from keel.types import Message


def test_turns_that_overlap_are_not_one_sequence(render) -> None:
    """Were one answer to reach into the next, a part of the conversation would be trained twice."""
    template = render("chatml").template
    said = [Message(role, text) for role, text in (("user", "a"), ("assistant", "Red."), ("user", "b"), ("assistant", "Blue."))]
    first, second = next_turns(template, said, [1, 3], ())
    assert joins(template.codec, [first, second])
    assert not joins(template.codec, [replace(first, text=second.text), second])
    assert not joins(template.codec, [replace(first, open_end=True), second])
