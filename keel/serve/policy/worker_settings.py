"""What a worker is told at its start: one place for all who start workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keel.core.config import dump
from keel.models.config import ModelOptions
from keel.render.config import RenderConfig
from keel.serve.policy.config import RowsConfig


def worker_settings(
    model: str,
    queue: RowsConfig,
    model_options: ModelOptions,
    render: RenderConfig,
    *,
    tools: str = "off",
    threads: int | None = None,
    count_words: bool = False,
    reference: Sequence[str] = (),
    system: str = "",
) -> dict[str, Any]:
    """JSON. ``reference``: texts whose tokens the worker tells; ``system``: a system prompt over that of ``render``, "" for none."""
    words: Mapping[str, Any] = dump(render)
    return {
        "model": model,
        "tools": tools,
        "threads": threads,
        "rows": queue.rows,
        "prefill_tokens": queue.prefill_tokens,
        "waiting_tokens": queue.waiting_tokens,
        "model_options": dump(model_options),
        "render": {**words, "system": system} if system else words,
        "count_words": count_words,
        "reference": list(reference),
    }
