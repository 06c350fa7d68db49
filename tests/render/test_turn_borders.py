"""Turns of a conversation that a template does not keep apart."""

from __future__ import annotations

import pytest

from keel.render import spans
from keel.render.template import RefusedError
from keel.types import Message


def test_turns_that_overlap_are_refused(render, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were one answer to reach into the next, a part of the conversation would be trained twice."""
    template = render("chatml").template
    said = [Message(role, text) for role, text in (("user", "a"), ("assistant", "Red."), ("user", "b"), ("assistant", "Blue."))]
    assert len(spans.answer_spans(template, said, 1).turns) == 2
    monkeypatch.setattr(spans, "_end", lambda template, messages, i, start, text, tools: len(text))
    monkeypatch.setattr(spans, "_check", lambda *_, **__: None)
    with pytest.raises(RefusedError, match="turns cannot be told apart"):
        spans.answer_spans(template, said, 1)
