"""Settings of rendering: how messages become tokens, and which of them are trained."""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import Field

from keel.core.config import Section


class RenderConfig(Section):
    """How messages become tokens and which tokens are trained."""

    system: str | None = Field(
        default=None, description="System prompt of every conversation, over the data's own; empty text removes the template's."
    )
    template_args: dict[str, Any] = Field(default={}, description="Arguments handed to the chat template, e.g. {enable_thinking: false}.")
    date: datetime.date | None = Field(
        default=None, description="The day (YYYY-MM-DD) that a chat template which asks for today's date is told; empty = today."
    )
    chat_template: str = Field(
        default="", description="File with a Jinja chat template to use in place of the model's own, or the name of one of its several."
    )
    as_chat: bool | Literal["auto"] = Field(
        default="auto", description="Make a bare string prompt a user turn: auto = when there is a chat template; false = raw text."
    )
    answers: Literal["template", "raw"] = Field(
        default="template",
        description="How answers are written: template = as it renders them; raw = their text after the generation prompt, unchanged.",
    )
    loss_on: Literal["all", "last"] = Field(
        default="all", description="Assistant turns of a demonstration that are trained, where the file marks none."
    )
    max_prompt: int | None = Field(default=None, ge=1, description="Longest prompt in tokens.")
    max_completion: int | None = Field(default=None, ge=1, description="Longest completion in tokens, the end token included.")
    max_total: int | None = Field(default=None, ge=2, description="Longest prompt and completion together, in tokens.")
    over_long: Literal["refuse", "drop_turns", "cut_completion"] = Field(
        default="refuse",
        description="What is too long: refuse and count; drop the prompt's oldest turns; cut the completion (no end token is trained).",
    )
