"""Where the tokens of a prompt stand: their positions, and which of them see each other both ways. What a family does there is asked of the
loaded model or stands in the table below; the proofs (``prove_images``) hold both to the model's own forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from keel.core.errors import ModelError

Spans = tuple[tuple[int, int], ...]


def image_token(module: PreTrainedModel) -> int | None:
    """The id that image features are put in place of; None for a model without one."""
    return getattr(module.config, "image_token_id", None)


def positions_of(module: PreTrainedModel, tokens_T: Tensor, images: Sequence[Mapping[str, Tensor]]) -> Tensor | None:
    """Positions [3, T] (time, height, width) of a prompt with images for a model that counts in three rows, by the model's own rule; None
    for others, and without images: there all rows count 0, 1, 2 ... ``images`` are the processor's outputs in order.

    Raises ModelError for a family whose rule needs more than the images' grids.
    """
    rule = getattr(module.base_model, "get_rope_index", None)
    if rule is None or not images:
        return None
    inputs = {"image_grid_thw": torch.cat([image["image_grid_thw"] for image in images])} if "image_grid_thw" in images[0] else {}
    known = inspect.signature(rule).parameters
    if "mm_token_type_ids" in known:
        inputs["mm_token_type_ids"] = (tokens_T == image_token(module)).int()[None]
    try:
        positions_P1T, _ = rule(tokens_T[None], **inputs)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ModelError(f"the positions of '{module.config.model_type}' are made in a way that Keel does not know: {error}") from error
    return positions_P1T[:, 0].long()


def spans_of(module: PreTrainedModel, tokens_T: Tensor) -> Spans:
    """The stretches of a prompt whose tokens see each other both ways: [first, end) each."""
    rule = _SPANS.get(module.config.model_type)
    return () if rule is None else rule(tokens_T, image_token(module))


def type_ids(module: PreTrainedModel, span_BL: Tensor) -> dict[str, Tensor]:
    """How the model's own forward pass is told of two-way spans. ``span_BL`` bool: inside one."""
    rule = _TYPES.get(module.config.model_type)
    return {"token_type_ids": rule(span_BL)} if rule is not None and bool(span_BL.any()) else {}


def _runs_of_images(tokens_T: Tensor, image: int | None) -> Spans:
    edges = torch.diff(F.pad((tokens_T == image).int(), (1, 1)))
    return tuple(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))


def _all(tokens_T: Tensor, image: int | None) -> Spans:
    return ((0, len(tokens_T)),)


_SPANS: Mapping[str, Callable[[Tensor, int | None], Spans]] = {"gemma3": _runs_of_images, "paligemma": _all}
_TYPES: Mapping[str, Callable[[Tensor], Tensor]] = {"gemma3": lambda span: span.long(), "paligemma": lambda span: (~span).long()}
ANSWER_TYPE: Mapping[str, int] = {"paligemma": 1}  # the type of an answer's tokens where it is not 0


def counts_in_rows(text_config: Any) -> bool:
    """Does the decoder rotate by positions of several rows?"""
    rope = getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
    return isinstance(rope, dict) and "mrope_section" in rope
