"""Pixels by content hash. Prompts hold hashes (``MediaRef``); only the vision tower asks for what is behind them.
And the processors that make pixels, without torchvision: images only, no video."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keel.core.errors import ModelError
from keel.types import MediaRef


class MediaStore:
    """Processor outputs of images (``pixel_values`` and what goes with them) under the sha256 of the image's bytes."""

    def __init__(self, max_items: int | None = None) -> None:
        """``max_items`` bounds the store: the least recently used image goes first. None keeps all."""
        self._items: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._max_items = max_items

    def put(self, digest: str, features: Mapping[str, Tensor]) -> None:
        self._items[digest] = dict(features)
        self._items.move_to_end(digest)
        while self._max_items is not None and len(self._items) > self._max_items:
            self._items.popitem(last=False)

    def get(self, digest: str) -> dict[str, Tensor]:
        """The features of an image. Raises ModelError when it was never stored."""
        if digest not in self._items:
            raise ModelError(
                f"image {digest[:12]} is not in the media store", "render the prompt in this process before running the model on it"
            )
        self._items.move_to_end(digest)
        return self._items[digest]

    def __contains__(self, digest: str) -> bool:
        return digest in self._items

    def __len__(self) -> int:
        return len(self._items)

    def gather(self, refs: Sequence[MediaRef]) -> dict[str, Tensor]:
        """Model inputs for these images, in order: [n, C, H, W] tensors joined along images, [1, n, C, H, W] ones along their second axis.

        Smaller images are padded with zeros at the right and the bottom (their ``pixel_attention_mask`` says what is real).
        """
        if not refs:
            return {}
        items = [self.get(ref.digest) for ref in refs]
        axis = 1 if items[0]["pixel_values"].dim() == 5 else 0
        return {name: _join([item[name] for item in items], axis) for name in items[0]}


def _join(tensors: list[Tensor], axis: int) -> Tensor:
    height, width = (max(t.shape[d] for t in tensors) for d in (-2, -1))
    return torch.cat([F.pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2])) for t in tensors], dim=axis)


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
