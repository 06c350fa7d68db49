"""How long prompts and answers may be: the limits of the recipe, and the model's context, which nothing may exceed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keel.render.config import RenderConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """``context``: positions the model was made for; None = unknown or without end."""

    config: RenderConfig
    context: int | None = None

    def prompt(self, reserve: int = 0) -> tuple[int | None, str]:
        """The longest prompt, and what says so. ``reserve`` tokens will be sampled behind it."""
        asked = f", {reserve} of them for the answer" if reserve else ""
        found = [(self.config.max_prompt, f"render.max_prompt is {self.config.max_prompt}")]
        if self.config.max_total is not None and reserve:
            found.append((self.config.max_total - reserve, f"render.max_total is {self.config.max_total}{asked}"))
        if self.context is not None:
            found.append((self.context - reserve, f"the model's context is {self.context}{asked}"))
        return _least(found)

    def completion(self, n_prompt: int) -> tuple[int | None, str]:
        """The longest completion behind ``n_prompt`` tokens, and what says so."""
        c = self.config
        found = [(c.max_completion, f"render.max_completion is {c.max_completion}")]
        if c.max_total is not None:
            found.append((c.max_total - n_prompt, f"render.max_total is {c.max_total}"))
        if self.context is not None:
            found.append((self.context - n_prompt, f"the model's context is {self.context}"))
        return _least(found)


def context_length(config: Any) -> int | None:
    """The context of a Transformers model, in tokens; None where its configuration names none (state-space models, ALiBi)."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = getattr(text, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def _least(found: list[tuple[int | None, str]]) -> tuple[int | None, str]:
    known = [(n, why) for n, why in found if n is not None]
    return min(known, key=lambda x: x[0]) if known else (None, "")
