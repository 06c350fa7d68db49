"""Pixels by content hash, and what the model makes of them. Prompts hold hashes (``MediaRef``); only the vision tower asks for what is
behind them.

An image is rows: what the model's own ``get_image_features`` makes of it, one row for each of its tokens. So images of any sizes, with or
without tiles, in any number and order, come together as a list of rows, whatever the family keeps its pixels in.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from keel.core.errors import ModelError
from keel.models.features import FeatureStore
from keel.types import MediaRef

Pixels = Mapping[str, Tensor]
Maker = Callable[[], Pixels]


class MediaStore:
    """Processor outputs of images (``pixel_values`` and what goes with them) under the digest of ``MediaRef``, and beside them what frozen
    towers made of them: ``features``, shared by all models that share the store."""

    def __init__(self, max_bytes: int | None = None, features: FeatureStore | None = None) -> None:
        """``max_bytes`` bounds what is held: the least recently used image goes first, and is made again where it is asked for once more.
        None keeps all. Without ``features`` none are kept."""
        self.features = features or FeatureStore(0)
        self.held = 0  # bytes
        self.remade = 0  # images that had gone and were made again
        self._items: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._makers: dict[str, Maker] = {}
        self.max_bytes = max_bytes

    def put(self, digest: str, pixels: Pixels, make: Maker | None = None) -> None:
        """Hold an image's ``pixels``. ``make`` gives them again; without it they stay whatever the bound."""
        if make is not None:
            self._makers[digest] = make
        self._hold(digest, dict(pixels))

    def get(self, digest: str) -> dict[str, Tensor]:
        """The processor's output for an image. Raises ModelError when it was never stored."""
        if digest in self._items:
            self._items.move_to_end(digest)
            return self._items[digest]
        if digest not in self._makers:
            raise ModelError(
                f"image {digest[:12]} is not in the media store", "render the prompt in this process before running the model on it"
            )
        self.remade += 1
        found = dict(self._makers[digest]())
        self._hold(digest, found)
        return found

    def drop(self, digest: str) -> None:
        """Forget an image that nobody will ask for again, and how it is made."""
        self._makers.pop(digest, None)
        self.held -= media_bytes(self._items.pop(digest, {}))

    def __contains__(self, digest: str) -> bool:
        return digest in self._items or digest in self._makers

    def __len__(self) -> int:
        """Images that are held now."""
        return len(self._items)

    def _hold(self, digest: str, pixels: dict[str, Tensor]) -> None:
        self.held += media_bytes(pixels) - media_bytes(self._items.pop(digest, {}))
        self._items[digest] = pixels
        if self.max_bytes is None:
            return
        for old in list(self._items):
            if self.held <= self.max_bytes:
                return
            if old in self._makers and old != digest:
                self.held -= media_bytes(self._items.pop(old))


def media_bytes(pixels: Pixels) -> int:
    """Of an image as the processor leaves it."""
    return sum(tensor.numel() * tensor.element_size() for tensor in pixels.values())


_ROWS, _LISTED, _LAYER, _NESTED = "rows", "listed_rows", "layer", "nested_layer"


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What stands in place of the tokens of images, in order, and the form that this version of the model gives it."""

    rows_NH: Tensor
    layers: tuple[Tensor, ...] = ()  # [N, H] each: what some models add in their first layers as well
    listed: bool = False  # the model keeps the rows of its images in a list
    nested: bool = False  # and those of each layer too
    block: int = 0  # the model keeps rows in blocks of so many; 0 = one after the other

    def tensors(self) -> dict[str, Tensor]:
        """By name, as ``of`` takes them."""
        rows_NH = self.rows_NH.view(-1, self.block, self.rows_NH.shape[-1]) if self.block else self.rows_NH
        layer = _NESTED if self.nested else _LAYER
        return {_LISTED if self.listed else _ROWS: rows_NH, **{f"{layer}.{i}": layer_NH for i, layer_NH in enumerate(self.layers)}}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> ImageFeatures:
        """What ``tensors`` gave."""
        listed, nested = _LISTED in tensors, f"{_NESTED}.0" in tensors
        layers = tuple(tensors[f"{_NESTED if nested else _LAYER}.{i}"] for i in range(len(tensors) - 1))
        rows = tensors[_LISTED if listed else _ROWS]
        return ImageFeatures(_flat(rows), layers, listed, nested, rows.shape[1] if rows.dim() == 3 else 0)

    @staticmethod
    def join(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Several images, one after the other."""
        layers = tuple(torch.cat(of_layer) for of_layer in zip(*(p.layers for p in parts), strict=True))
        block = parts[0].block if len({p.block for p in parts}) == 1 else 0
        return ImageFeatures(torch.cat([p.rows_NH for p in parts]), layers, parts[0].listed, parts[0].nested, block)

    @property
    def rows(self) -> Tensor | list[Tensor]:
        """The rows in the model's own form."""
        return [self.rows_NH] if self.listed else self.tensors()[_ROWS]


def image_features(base: Any, pixels: Mapping[str, Tensor], ref: MediaRef) -> ImageFeatures:
    """One image through tower and projector of ``base``, a model's body. ``pixels`` are the processor's output for this image alone.

    Raises ModelError when the rows are not as many as the image's tokens.
    """
    out = base.get_image_features(**pixels, return_dict=True)
    rows, layers = out.pooler_output, getattr(out, "deepstack_features", None) or ()
    listed, nested = isinstance(rows, list | tuple), any(isinstance(layer, list | tuple) for layer in layers)
    block = 0 if listed or rows.dim() != 3 else rows.shape[1]
    found = ImageFeatures(_flat(rows), tuple(map(_flat, layers)), listed, nested, block)
    if len(found.rows_NH) != ref.n_tokens:
        raise ModelError(
            f"an image stands for {ref.n_tokens} tokens in the prompt and the model makes {len(found.rows_NH)} rows of it",
            "the processor's settings (processor_config.json, preprocessor_config.json) do not belong to this model",
        )
    return found


@contextlib.contextmanager
def in_place(base: Any, found: ImageFeatures) -> Iterator[dict[str, Tensor]]:
    """Within this context ``base`` takes these rows where it would ask its vision tower. Yields the inputs that make it ask.

    Newer versions of transformers take finished features as an argument, older ones do not; asking is what all of them do.
    """
    out = BaseModelOutputWithPooling(pooler_output=found.rows)  # pyright: ignore[reportArgumentType]
    if found.layers:
        out.deepstack_features = [[layer] if found.nested else layer for layer in found.layers]  # pyright: ignore[reportAttributeAccessIssue]
    base.__dict__["get_image_features"] = lambda *_, **__: out
    try:
        yield {"pixel_values": torch.zeros(1, device=found.rows_NH.device)}
    finally:
        del base.__dict__["get_image_features"]


def _flat(rows: Tensor | Sequence[Tensor]) -> Tensor:
    """[N, H] of [..., H], or of a list of such."""
    parts = [rows] if isinstance(rows, Tensor) else rows
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
