"""Processors of vision-language models without torchvision: images only, no video."""

from __future__ import annotations

import inspect
from typing import Any


def image_only(cls: type[Any]) -> type[Any]:
    """A processor class without its video part.

    transformers finds a processor's parts by the names in its constructor, so a subclass whose constructor takes no
    ``video_processor`` needs none. The class keeps its name: a saved folder says so and loads in plain transformers.
    """
    base_init: Any = cls.__init__
    if "video_processor" not in inspect.signature(base_init).parameters:
        return cls

    def init(self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **settings: Any) -> None:
        settings.pop("video_processor", None)
        base_init(self, image_processor=image_processor, tokenizer=tokenizer, video_processor=None, chat_template=chat_template, **settings)

    return type(cls.__name__, (cls,), {"__init__": init, "__module__": cls.__module__})
